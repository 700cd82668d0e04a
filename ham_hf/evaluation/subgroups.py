"""Results by sex, age, body site, and how the diagnosis was made."""

from collections.abc import Sequence

import numpy as np

from ham_hf.config.metric_names import SUBGROUP_METRICS
from ham_hf.evaluation.bootstrap import bootstrap_intervals
from ham_hf.evaluation.metrics import compute_scores
from ham_hf.evaluation.patients import Patients
from ham_hf.evaluation.predictions import Predictions

AGE_BANDS = {"0-29": 0, "30-44": 30, "45-59": 45, "60-74": 60, "75+": 75}  # each from this age on, in years
# Groups smaller than this have no figure: it would say more about chance than about the group
FEWEST_LESIONS = 30
FEWEST_MELANOMAS = 10  # lesions

# In words, in the order of the report
FIELDS = {"sex": "sex", "age": "age", "localization": "body site", "dx_type": "how the diagnosis was made"}


def subgroup_results(
    predictions: Predictions, patients: Patients, lesions_known: bool = True
) -> dict[str, list[dict]]:
    """Return the groups of each of FIELDS, each with its images, lesions, number of diagnoses and `metrics`.

    `metrics` has the value of each of SUBGROUP_METRICS and its 95 % interval over the lesions of the group. If the
    group is too small for a metric, its value is None and `too_few` says why. Balanced accuracy is the mean recall of
    the diagnoses present. Models that do not predict melanoma have no `recall_mel`. Unless `lesions_known`, `lesions`
    is None, and images are counted and drawn instead.
    """
    values = {
        "sex": patients.sexes,
        "age": [age_band(age) for age in patients.ages],
        "localization": patients.sites,
        "dx_type": patients.dx_types,
    }
    return {
        field: [
            {"group": group, **_results(predictions, np.array(names) == group, lesions_known)}
            for group in sorted(set(names), key=lambda group: (group == "unknown", group))
        ]
        for field, names in values.items()
    }


def age_band(age: float | None) -> str:
    """Return the one of AGE_BANDS that an age in years falls in."""
    if age is None:
        return "unknown"
    return [band for band, youngest in AGE_BANDS.items() if age >= youngest][-1]


def _results(predictions: Predictions, members: np.ndarray, lesions_known: bool) -> dict:
    labels, names = predictions.labels[members], predictions.names
    probabilities = predictions.probabilities[members]
    lesions = np.array(predictions.lesion_ids)[members]
    too_few = _too_few(labels, lesions, names, "lesion" if lesions_known else "image")
    values, intervals = {}, {}
    if not all(too_few.values()):
        values = compute_scores(probabilities, labels, names, decisions_only=True)
        intervals = bootstrap_intervals(probabilities, labels, lesions, names, decisions_only=True)
    metrics: dict[str, dict] = {}
    for figure, reason in too_few.items():
        if reason:
            metrics[figure] = {"value": None, "interval": None, "too_few": reason}
        else:
            metrics[figure] = {"value": values[figure], "interval": list(intervals[figure])}
    return {
        "images": len(labels),
        "lesions": len(set(lesions)) if lesions_known else None,
        "diagnoses": len(set(labels.tolist())),
        "metrics": metrics,
    }


def _too_few(labels: np.ndarray, lesions: np.ndarray, names: Sequence[str], unit: str) -> dict[str, str | None]:
    """Return why each metric is not available, None if it is."""
    reasons: dict[str, str | None] = {
        figure: None for figure in SUBGROUP_METRICS if figure != "recall_mel" or "mel" in names
    }
    count = len(set(lesions))
    if count < FEWEST_LESIONS:
        return dict.fromkeys(reasons, f"too few: {count} {unit}{'' if count == 1 else 's'}")
    if len(set(labels.tolist())) == 1:
        reasons["balanced_accuracy"] = "one diagnosis alone"
    if "mel" in names and (count := len(set(lesions[labels == names.index("mel")]))) < FEWEST_MELANOMAS:
        reasons["recall_mel"] = (
            f"too few: {count} melanoma {unit}{'' if count == 1 else 's'}" if count else "no melanoma"
        )
    return reasons
