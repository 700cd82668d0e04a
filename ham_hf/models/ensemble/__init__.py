"""An ensemble of classifiers as one model; all files but this one are copied beside the published weights.

`ham-hf verify` accepts only code that equals these files byte by byte: a change makes it refuse published ensembles.
"""

from transformers import AutoConfig, AutoModelForImageClassification

from ham_hf.models.ensemble.configuration_ensemble import EnsembleConfig
from ham_hf.models.ensemble.modeling_ensemble import EnsembleForImageClassification

AutoConfig.register(EnsembleConfig.model_type, EnsembleConfig)
AutoModelForImageClassification.register(EnsembleConfig, EnsembleForImageClassification)
