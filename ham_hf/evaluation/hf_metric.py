"""The metrics as an `evaluate.Metric` that needs no network, unlike `evaluate.load`."""

from collections.abc import Sequence

import datasets
import evaluate
import numpy as np

from ham_hf.evaluation.metrics import compute_scores
from ham_hf.labels import LABELS


class HamMetrics(evaluate.Metric):
    """`HamMetrics().compute(predictions=probabilities, references=labels)`: see `compute_scores`.

    `names` are the diagnoses in the order of the probabilities' columns. Undefined values are NaN. Predictions may
    also be label ids, as passed by `evaluate.evaluator`: only metrics of the confusion matrix are computed then.
    """

    def __init__(self, names: Sequence[str] = LABELS):
        self.names = tuple(names)
        super().__init__(keep_in_memory=True)  # a few thousand rows: no file in a shared cache, no lock

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Accuracy, discrimination and calibration of a skin-lesion classifier.",
            citation="",
            inputs_description="predictions: (N, C) probabilities or (N,) label ids; references: (N,) label ids.",
            features=[
                datasets.Features({"predictions": predictions, "references": datasets.Value("int64")})
                for predictions in (datasets.List(datasets.Value("float64")), datasets.Value("int64"))
            ],
        )

    def _compute(self, predictions, references) -> dict:
        if np.ndim(predictions) == 2:
            return compute_scores(predictions, references, self.names)
        return compute_scores(np.eye(len(self.names))[predictions], references, self.names, decisions_only=True)
