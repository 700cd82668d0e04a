"""Measure whether a model does better on images whose lesion is in training under another lesion_id."""

from collections.abc import Mapping, Sequence

import numpy as np

from ham_hf.evaluation.predictions import Predictions

HIDDEN = "hidden_duplicates"  # in the results of a split


def hidden_images(run: Mapping, split: str) -> list[str]:
    """Return the evaluated images of `split` whose lesion is in the training split of the run under another id.

    There are none in older runs, which did not look for them, or if the model was trained elsewhere.
    """
    if run["training"] is None and "members" not in run["model"]:
        return []
    return run["data"].get("same_lesion", {"images": {}})["images"].get(split, [])


def hidden_results(predictions: Predictions, image_ids: Sequence[str]) -> dict[str, float | int | None]:
    """Compare the predictions for some images with those for all others of the same diagnoses.

    Args:
        predictions: of a split.
        image_ids: some of its images.

    Returns:
        The number of `images`, of those classified `correct`ly, and the `expected` number if the recall of their
        diagnoses were that of the other images; None if a diagnosis has no other image.
    """
    inside = np.isin(np.array(predictions.image_ids), list(image_ids))
    correct = predictions.probabilities.argmax(axis=1) == predictions.labels
    expected: float | None = 0.0
    for label in predictions.labels[inside]:
        others = correct[~inside & (predictions.labels == label)]
        expected = None if expected is None or not len(others) else expected + float(others.mean())
    return {"images": int(inside.sum()), "correct": int(correct[inside].sum()), "expected": expected}
