"""Register our own models with transformers. Each is a folder here, whose code is published with the weights.

Our commands load these classes from this package, and never code that came with a checkpoint.
"""

from transformers import AutoConfig, AutoModelForImageClassification

import ham_hf.models.ensemble  # noqa: F401  registers itself
from ham_hf.models.mmbt.configuration_mmbt import FusionConfig, MMBTConfig
from ham_hf.models.mmbt.modeling_mmbt import ImagePatientFusionForImageClassification, MMBTForImageClassification

for _config, _model in (
    (MMBTConfig, MMBTForImageClassification),
    (FusionConfig, ImagePatientFusionForImageClassification),
):
    AutoConfig.register(_config.model_type, _config)
    AutoModelForImageClassification.register(_config, _model)
