"""Is the model as good for everyone? Results by sex, age, body site, and how the diagnosis was made."""

from collections.abc import Sequence

import numpy as np

from ham_hf.evaluation.bootstrap import bootstrap_intervals, weighted_scores
from ham_hf.evaluation.patients import Patients
from ham_hf.evaluation.predictions import Predictions

AGE_BANDS = {"0-29": 0, "30-44": 30, "45-59": 45, "60-74": 60, "75+": 75}  # each from this age on, in years
# Below these, a figure would say more about chance than about the group
FEWEST_LESIONS = 30
FEWEST_MELANOMAS = 10  # lesions

# Fields of the report and the words for them; figures of a group and theirs
FIELDS = {"sex": "sex", "age": "age", "localization": "body site", "dx_type": "how the diagnosis was made"}
FIGURES = {"accuracy": "accuracy", "balanced_accuracy": "balanced accuracy", "recall_mel": "melanoma recall"}


def subgroup_results(
    predictions: Predictions, patients: Patients, lesions_known: bool = True
) -> dict[str, list[dict]]:
    """For each of FIELDS its groups, each with its images, lesions, diagnoses (how many there are) and `metrics`.

    `metrics` has, for each of FIGURES, its value and 95 % interval over the lesions of the group; a value that the
    group is too small for is None, and `too_few` says why. Balanced accuracy is the mean recall of the diagnoses
    present. Without melanoma among the diagnoses of the predictions there is no `recall_mel`. Unless `lesions_known`,
    `lesions` is None, and images are counted and drawn instead.
    """
    values = {
        "sex": patients.sexes,
        "age": [age_band(age) for age in patients.ages],
        "localization": patients.sites,
        "dx_type": patients.dx_types,
    }
    return {
        field: [
            {"group": group, **_results(predictions, np.array(values[field]) == group, lesions_known)}
            for group in _groups(names)
        ]
        for field, names in values.items()
    }


def age_band(age: float | None) -> str:
    """The one of AGE_BANDS that an age in years is in."""
    if age is None:
        return "unknown"
    return [band for band, youngest in AGE_BANDS.items() if age >= youngest][-1]


def _groups(values: Sequence[str]) -> list[str]:
    return sorted(set(values), key=lambda group: (group == "unknown", group))


def _results(predictions: Predictions, members: np.ndarray, lesions_known: bool) -> dict:
    labels, names = predictions.labels[members], predictions.names
    probabilities = predictions.probabilities[members]
    lesions = np.array(predictions.lesion_ids)[members]
    too_few = _too_few(labels, lesions, names, "lesion" if lesions_known else "image")
    values, intervals = {}, {}
    if not all(too_few.values()):
        once = np.ones((len(labels), 1))
        values = weighted_scores(probabilities, labels, once, names, decisions_only=True)
        intervals = bootstrap_intervals(probabilities, labels, lesions, names, decisions_only=True)
    metrics = {}
    for figure, reason in too_few.items():
        if reason:
            metrics[figure] = {"value": None, "interval": None, "too_few": reason}
        else:
            metrics[figure] = {"value": float(values[figure][0]), "interval": list(intervals[figure])}
    return {
        "images": len(labels),
        "lesions": len(set(lesions)) if lesions_known else None,
        "diagnoses": len(set(labels.tolist())),
        "metrics": metrics,
    }


def _too_few(labels: np.ndarray, lesions: np.ndarray, names: Sequence[str], unit: str) -> dict[str, str | None]:
    """Why each figure cannot be had, None where it can."""
    reasons = {figure: None for figure in FIGURES if figure != "recall_mel" or "mel" in names}
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
