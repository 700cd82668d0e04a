"""Evaluate a model on images with known diagnoses.

ham-hf evaluate you/your-model --data_dir path/to/HAM10000 --output_dir runs/evaluation
"""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ham_hf.config.arguments import DataArguments
from ham_hf.data.duplicates.search import require_search
from ham_hf.data.splits import EVALUATION_SPLITS
from ham_hf.evaluation.contamination import load_unseen
from ham_hf.evaluation.isic_submission import add_unscored, write_submission
from ham_hf.evaluation.model_facts import evaluation_facts
from ham_hf.evaluation.predict_splits import predict_rows, predict_splits
from ham_hf.evaluation.predictions import read_predictions
from ham_hf.evaluation.training_copies import find_training_copies
from ham_hf.inference.load import find_classifier, load_classifier
from ham_hf.labels import LABELS, classes_of
from ham_hf.reporting.report import split_results, strict, write_report
from ham_hf.system.errors import InputError
from ham_hf.system.files import check_new_folder, new_folder, replace_file

logger = logging.getLogger("ham_hf.evaluate")


def evaluate_model(
    name: str,
    data: DataArguments,
    folder: Path,
    *,
    revision: str | None = None,
    label_map: Mapping[str, str | None] | None = None,
    argv: list[str],
    training_data: DataArguments | None = None,
) -> dict:
    """Evaluate the model `name` on the validation and test images of `data` and write a report into the new `folder`.

    Args:
        name: a folder or a Hub id, of any image classifier with safetensors weights.
        data: which images; an empty `split` becomes that of the model's training (see `load_unseen`), and `classes`
            those of the model.
        folder: gets predictions, patients, report and figures, and for the seven diagnoses a submission to ISIC.
        revision: commit, branch or tag on the Hub.
        label_map: see `load_classifier`.
        argv: the command line, for the report.
        training_data: where the model's training images are: the evaluated ones are also compared with them by local
            features (see `find_training_copies`).

    Returns:
        The content of report.json.

    Raises:
        InputError: the folder is not empty, or the model or the data cannot be used.
    """
    check_new_folder(folder)
    if training_data is not None:
        require_search()
    location, commit = find_classifier(name, revision)
    classifier = load_classifier(location, commit, label_map)
    labels = classifier.labels
    data.classes = classes_of(labels)
    splits, facts = load_unseen(data, name, revision)
    if not any(len(splits[split]) for split in EVALUATION_SPLITS):
        raise InputError(f"{data.data_dir} has no validation and no test image under the split {data.split!r}")
    if training_data is not None:
        facts |= find_training_copies(name, revision, training_data, splits)
    with new_folder(folder) as unfinished:
        predict_splits(unfinished, classifier, splits)
        if labels == LABELS:
            for split in EVALUATION_SPLITS:
                if len(splits[split]):
                    predictions = read_predictions(unfinished / f"predictions_{split}.csv", LABELS)
                    if split == "test":
                        predictions, said = add_unscored(predictions, data, classifier)
                        facts |= said
                    write_submission(unfinished / f"submission_{split}.csv", predictions)
        run = evaluation_facts(name, commit, classifier, facts, argv)
        replace_file(unfinished / "run.json", json.dumps(run, indent=2) + "\n")
        return write_report(unfinished)


def evaluate_run(
    name: str | Path,
    data_dir: str | Path,
    *,
    part: str = "validation",
    revision: str | None = None,
    label_map: Mapping[str, str | None] | None = None,
    **data: Any,
) -> dict[str, dict]:
    """Evaluate a model on images with known diagnoses, like `evaluate_model`, without writing anything.

    Args:
        name: a run folder or a Hub id, of any image classifier with safetensors weights.
        data_dir: a folder, or a Hub dataset id; further keywords (`split`, …) are those of `load_ham10000`. `split`
            defaults to that of the model's training: see `load_unseen`.
        part: "validation" or "test".
        revision: commit, branch or tag on the Hub.
        label_map: see `load_classifier`.

    Returns:
        Each metric of report.json as {"value": …, "interval": [low, high]}, with 95 % intervals from a bootstrap over
        lesions; None for what is undefined.

    Raises:
        InputError: the model or the data cannot be used, or there are no such images.
    """
    if part not in EVALUATION_SPLITS:
        raise InputError(f"part is {part!r}: expected one of {', '.join(EVALUATION_SPLITS)}")
    classifier = load_classifier(str(name), revision, label_map)
    classes = classes_of(classifier.labels)
    given = {key: str(value) if isinstance(value, Path) else value for key, value in data.items()}
    values: dict[str, Any] = {"data_dir": str(data_dir), "split": "", **given, "classes": classes}
    arguments = DataArguments(**values)
    splits, facts = load_unseen(arguments, str(name), revision)
    if not len(splits[part]):
        raise InputError(
            f"{data_dir} has no {part} image under the split {facts['split']!r}: choose another part or split"
        )
    unknown = facts["splits"][part]["unknown_lesions"]
    predictions, patients = predict_rows(classifier, splits[part], part)
    results = split_results(predictions, patients, classifier.threshold, unknown_lesions=unknown)
    assert results is not None  # there are predictions
    return strict(results["metrics"])
