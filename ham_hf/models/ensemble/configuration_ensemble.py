"""Configuration of an ensemble of image classifiers."""

from transformers import PreTrainedConfig


class EnsembleConfig(PreTrainedConfig):
    """An ensemble of image classifiers that read the same `pixel_values` and tell the same labels apart.

    Args:
        members: each one's config, as its `to_dict` has it.
        weights: of each member's probabilities in the mean; they sum to 1.
    """

    model_type = "ham_ensemble"

    members: list[dict] | None = None
    weights: list[float] | None = None

    def __post_init__(self, **kwargs):
        self.members, self.weights = list(self.members or []), list(self.weights or [])
        if len(self.members) != len(self.weights):
            raise ValueError(f"{len(self.members)} members and {len(self.weights)} weights: expected as many")
        super().__post_init__(**kwargs)


EnsembleConfig.register_for_auto_class()
