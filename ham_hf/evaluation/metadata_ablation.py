"""Predictions for the validation images with patient data hidden, to measure what these data are worth."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from tqdm import tqdm

from ham_hf.evaluation.predictions import Predictions, write_predictions
from ham_hf.inference.batches import PATIENT, image_reader, prepared_batches
from ham_hf.inference.classifier import Classifier

SHUFFLED = "shuffled"


def write_ablations(folder: Path, classifier: Classifier, split: Dataset) -> None:
    """Write `{age,sex,localization,all}_hidden.csv` and `shuffled.csv`, in the format of the predictions.

    In `shuffled`, the age, sex and site are permuted among the images.
    """
    folder.mkdir(exist_ok=True)
    patients = _ablated_patients({name: split[name][:] for name in PATIENT})
    rows: dict[str, list[np.ndarray]] = {name: [] for name in patients}
    for at, image_features in _features(classifier, split):
        for name, columns in patients.items():
            fields = [column[at : at + len(image_features)] for column in columns.values()]
            rows[name] += _probabilities(classifier, image_features, fields)
    truth = split["image_id"][:], split["lesion_id"][:], np.array(split["label"][:])
    for name, probabilities in rows.items():
        predictions = Predictions(*truth, np.array(probabilities), classifier.labels)
        write_predictions(folder / f"{name}.csv", predictions)


def _ablated_patients(patients: dict[str, list]) -> dict[str, dict[str, list]]:
    count = len(patients["age"])
    nothing = [None] * count
    ablated = {f"{name}_hidden": {**patients, name: nothing} for name in PATIENT}
    ablated["all_hidden"] = dict.fromkeys(PATIENT, nothing)
    order = np.random.default_rng(0).permutation(count)
    ablated[SHUFFLED] = {name: [column[i] for i in order] for name, column in patients.items()}
    return ablated


@torch.no_grad()
def _features(classifier: Classifier, split: Dataset) -> Iterator[tuple[int, torch.Tensor]]:
    """Yield the first row and the image features of each batch: images are encoded once for all ablations."""
    model: Any = classifier.model  # it reads patients
    batches = prepared_batches(classifier.processor.image_processor, range(len(split)), image_reader(split))
    at = 0
    with tqdm(total=len(split), desc="ablations", unit="image", leave=False, disable=None) as bar:
        for batch in batches:
            pixels = batch["pixel_values"]
            yield at, model.get_image_features(pixels.to(model.device)).last_hidden_state
            at += len(pixels)
            bar.update(len(pixels))


@torch.no_grad()
def _probabilities(classifier: Classifier, image_features: torch.Tensor, fields: list[list]) -> list[np.ndarray]:
    model: Any = classifier.model  # it reads patients
    encoded = {name: tensor.to(model.device) for name, tensor in classifier.processor.encode_patients(*fields).items()}
    logits = model(image_features=image_features, **encoded).logits
    probabilities = logits.cpu().double().softmax(dim=1)  # not on the device: Apple GPUs have no float64
    columns = [model.config.label2id[label] for label in classifier.labels]
    return list(probabilities[:, columns].numpy())
