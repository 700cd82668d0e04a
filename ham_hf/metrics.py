"""The metrics as an `evaluate.Metric` that needs no network: `evaluate.load` would ask the Hub for a script."""

from collections.abc import Sequence

import datasets
import evaluate

from ham_hf.intervals import bootstrap_intervals
from ham_hf.labels import LABELS
from ham_hf.scoring import compute_scores

__all__ = ["HamMetrics", "bootstrap_intervals"]


class HamMetrics(evaluate.Metric):
    """`HamMetrics().compute(predictions=probabilities, references=labels)`: see `ham_hf.scoring.compute_scores`.

    `names` are the diagnoses in the order of the probabilities' columns. Undefined values are NaN.
    """

    def __init__(self, names: Sequence[str] = LABELS):
        self.names = tuple(names)
        super().__init__(keep_in_memory=True)  # a few thousand rows: no file in a shared cache, no lock

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Accuracy, discrimination and calibration of a skin-lesion classifier.",
            citation="",
            inputs_description="predictions: (N, C) probabilities; references: (N,) label ids.",
            features=datasets.Features(
                {"predictions": datasets.List(datasets.Value("float64")), "references": datasets.Value("int64")}
            ),
        )

    def _compute(self, predictions, references) -> dict:
        return compute_scores(predictions, references, self.names)
