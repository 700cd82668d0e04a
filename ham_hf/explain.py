"""Draw saliency maps of cases chosen by a fixed rule: correct and wrong predictions for each diagnosis.

ham-hf explain runs/my_run --data_dir path/to/HAM10000 --output_dir runs/cases

The sheets show photographs of patients: `ham-hf push` does not publish them.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from datasets import Dataset
from matplotlib import style
from matplotlib.figure import Figure
from tqdm import tqdm

from ham_hf.config.arguments import DataArguments
from ham_hf.evaluation.contamination import load_unseen
from ham_hf.evaluation.overlap import overlap_sentences
from ham_hf.evaluation.predict_splits import predict_rows
from ham_hf.inference.batches import image_reader
from ham_hf.inference.classifier import Classifier
from ham_hf.inference.load import load_classifier
from ham_hf.inference.saliency import CAVEAT, crop_of, saliency
from ham_hf.labels import DISCLAIMER, FULL_NAMES, classes_of
from ham_hf.reporting.formats import escape
from ham_hf.reporting.plots import STYLE, save_figure
from ham_hf.system.errors import InputError
from ham_hf.system.files import check_new_folder, new_folder, replace_file

KINDS = {
    "confident, correct": "the correct prediction with the highest probability",
    "uncertain, correct": "the correct prediction with the lowest probability",
    "confident, wrong": "the wrong prediction with the highest probability",
    "uncertain, wrong": "the wrong prediction with the lowest probability",
}


class Case(NamedTuple):
    """A row of the split with the predicted diagnosis and its probability."""

    row: int
    kind: str
    prediction: str
    probability: float


def explain(
    name: str,
    data: DataArguments,
    folder: Path,
    *,
    part: str,
    revision: str | None = None,
    label_map: Mapping[str, str | None] | None = None,
) -> list[Path]:
    """Draw a sheet of cases for each diagnosis in `part` of the data into the new `folder`; return the files.

    Args:
        name: a run folder or a Hub id, of a model of the image alone.
        data: which images; an empty `split` becomes that of the model's training (see `load_unseen`).
        part: "validation" or "test".
        label_map: see `load_classifier`.

    Raises:
        InputError: the folder holds something, or the model or the data cannot be used.
    """
    check_new_folder(folder)
    classifier = load_classifier(name, revision, label_map)
    if classifier.reads_patients:
        raise InputError(f"{name} also reads patient data: saliency requires a model that uses only the image")
    labels = classifier.labels
    data.classes = classes_of(labels)
    splits, facts = load_unseen(data, name, revision)
    split = splits[part]
    if not len(split):
        raise InputError(
            f"{data.data_dir} has no {part} image under the split {data.split!r}: choose another --part or --split"
        )
    truth = np.array(split["label"][:])
    drawn = [number for number in range(len(labels)) if (truth == number).any()]
    sheets = [folder / f"{labels[number]}.png" for number in drawn]
    with new_folder(folder) as unfinished:
        predicted = predict_rows(classifier, split, f"{part} images")[0].probabilities
        for number, path in zip(tqdm(drawn, desc="sheets", disable=None), sheets, strict=True):
            cases = choose_cases(predicted, truth, number, labels)
            _draw(unfinished / path.name, classifier, split, cases, labels[number])
        seen = overlap_sentences(facts, "this model", (part,))
        replace_file(unfinished / "README.md", _page(name, part, sheets, seen))
    return sheets


def choose_cases(probabilities: np.ndarray, truth: np.ndarray, number: int, labels: Sequence[str]) -> list[Case]:
    """Return up to one image of each of KINDS from the images of diagnosis `number`, none twice.

    Args:
        probabilities: (N, C).
        truth: (N,) indices.
        number: index of the diagnosis.
        labels: the C diagnoses.
    """
    of_it = np.flatnonzero(truth == number)
    predicted, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)
    groups = {"correct": of_it[predicted[of_it] == number], "wrong": of_it[predicted[of_it] != number]}
    cases, used = [], set()
    for kind in KINDS:
        group = groups[kind.rsplit(" ", 1)[-1]]
        ranked = group[np.argsort(confidence[group], kind="stable")]
        row = None if not len(ranked) else int(ranked[-1] if kind.startswith("confident") else ranked[0])
        if row is not None and row not in used:
            used.add(row)
            cases.append(Case(row, kind, labels[predicted[row]], float(confidence[row])))
    return cases


def _draw(path: Path, classifier: Classifier, split: Dataset, cases: list[Case], label: str) -> None:
    model, processor = classifier
    read = image_reader(split)
    code_of = {code: number for number, code in model.config.id2label.items()}
    with style.context(["default", STYLE]):
        figure = Figure(figsize=(2.4 * len(cases) + 0.2, 5.4))
        grid = figure.subplots(2, len(cases), squeeze=False)
        for (above, below), case in zip(grid.T, cases, strict=True):
            image = read(case.row)
            pixels = processor(image, return_tensors="pt")["pixel_values"].to(model.device)
            picture = crop_of(processor, image)
            above.imshow(picture)
            below.imshow(picture.mean(2), cmap="gray", vmin=0, vmax=1)
            below.imshow(saliency(model, pixels, code_of[case.prediction]), cmap="inferno", alpha=0.6)
            # A $ in the name of an image is not math
            above.set_title(f"{case.kind}\n{split['image_id'][case.row]}", fontsize=9, parse_math=False)
            below.set_title(f"{case.prediction}, {case.probability:.3f}", fontsize=9)
            for axes in (above, below):
                axes.set(xticks=[], yticks=[])
        figure.suptitle(FULL_NAMES.get(label, label), x=0.01, ha="left")
        save_figure(figure, path)


def _page(name: str, part: str, sheets: Sequence[Path], seen: Sequence[str]) -> str:
    rules = "\n".join(f"- **{kind}**: {rule}" for kind, rule in KINDS.items())
    pictures = "\n\n".join(f"![{path.stem}]({path.name})" for path in sheets)
    warning = f"**⚠ {' '.join(seen)}**\n\n" if seen else ""
    return (
        f"# Cases of {escape(Path(name).name)}, {part}\n\n*{DISCLAIMER}*\n\n{warning}"
        f"For each diagnosis, one image of each kind, if there is one:\n\n{rules}\n\n"
        "Top: the image as the model sees it. Bottom: the brighter, the more a pixel influences the prediction "
        "(SmoothGrad, captum). "
        f"{CAVEAT} **These are photographs of patients: they are not published with the model.**\n\n{pictures}\n"
    )
