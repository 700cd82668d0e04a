"""Check that the published files give the same predictions in a pipeline of transformers as in ham-hf.

Fields of config.json and preprocessor_config.json such as `problem_type` or `dtype` change what `pipeline` returns and
nothing that ham-hf computes.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from ham_hf import __version__
from ham_hf.inference.classifier import Classifier
from ham_hf.inference.engine import probabilities
from ham_hf.inference.tta import set_test_time_augmentation
from ham_hf.system.errors import InputError
from ham_hf.system.serialization import read_json

TOLERANCE = 1e-5  # between the probabilities of a user's pipeline and ours, on the same machine

_AS_A_USER = """
import json, sys
sys.modules["ham_hf"] = None  # as on a machine that has never heard of it
from transformers import pipeline
folder, cases, trust = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3]
classify = pipeline("image-classification", model=folder, trust_remote_code=trust == "yes", device="cpu")
for case in cases:
    answers = classify(case, top_k=classify.model.config.num_labels)
    print(json.dumps({answer["label"]: answer["score"] for answer in answers}))
"""
_CODE = ("auto_map", "custom_pipelines")  # keys of a configuration that name code
_PATIENT: dict[str, Any] = {"age": 45, "sex": "female", "localization": "back"}


def check_pipeline(
    folder: Path,
    classifier: Classifier,
    labels: Mapping[int, str],
    images: Sequence[Image.Image],
    *,
    tolerance: float = TOLERANCE,
    own_process: bool,
) -> None:
    """Compare the probabilities of a transformers `pipeline` with those of ham-hf.

    Args:
        folder: the files as they are published.
        classifier: of these files, from `load_classifier`. It is moved to the CPU, and its test-time augmentation is
            switched off, since the pipeline has none.
        labels: what config.json in `folder` calls the model's outputs, by number.
        images: RGB.
        tolerance: between two probabilities.
        own_process: always load in a new process that cannot import ham_hf; otherwise only if the files contain code.

    Raises:
        InputError: the files require code that is not ours, do not load, or give other probabilities.
    """
    has_code = check_code(folder)
    model: Any = classifier.model  # load_classifier loads no ONNX file
    reads_patient = classifier.reads_patients
    with tempfile.TemporaryDirectory(prefix="ham_hf-pipeline-") as temporary:
        photos = [str(Path(temporary) / f"photo{number}.png") for number in range(len(images))]
        for image, photo in zip(images, photos, strict=True):
            image.save(photo)
        cases = [{"image": photo, **_PATIENT} if reads_patient else photo for photo in photos]
        if own_process or has_code or not type(model).__module__.startswith("transformers."):
            answers = _in_new_process(folder, cases, has_code, Path(temporary))
        else:
            answers = _here(folder, cases)
        set_test_time_augmentation(model, "none")
        patients = [tuple(_PATIENT.values())] * len(photos) if reads_patient else None
        model.cpu()
        rows = probabilities(classifier, photos, patients, read=Image.open)
    for answer, row in zip(answers, rows, strict=True):
        _compare(
            answer, dict(zip(classifier.labels, row.tolist(), strict=True)), labels, model.config.id2label, tolerance
        )


def _compare(
    answer: Mapping[str, float],
    expected: Mapping[str, float],
    labels: Mapping[int, str],
    codes: Mapping[int, str | None],
    tolerance: float,
) -> None:
    if answer.keys() != set(labels.values()):
        raise InputError(
            f"a pipeline has the labels {', '.join(answer)}, but config.json has {', '.join(labels.values())}"
        )
    code_of = {labels[number]: code for number, code in codes.items()}
    kept = {label: score for label, score in answer.items() if code_of[label] is not None}
    # The probability of dropped labels is distributed among the others in proportion
    total = sum(kept.values()) if len(kept) < len(answer) else 1.0
    found = {code: sum(kept[label] for label in kept if code_of[label] == code) / total for code in expected}
    differences = {code: abs(found[code] - expected[code]) for code in expected}
    if not all(difference <= tolerance for difference in differences.values()):  # false for NaN as well
        code = max(differences, key=lambda code: (differences[code] != differences[code], differences[code]))
        raise InputError(
            f"a pipeline of transformers gives {code} {found[code]:.4g}, but ham-hf computes {expected[code]:.4g}: "
            f"probabilities of an image differ by more than {tolerance:g}"
        )


def _here(folder: Path, cases: Sequence) -> list[dict[str, float]]:
    from transformers import pipeline

    try:
        classify = pipeline("image-classification", model=str(folder), trust_remote_code=False, device="cpu")
        rows = [classify(case, top_k=classify.model.config.num_labels) for case in cases]
    except Exception as error:  # transformers raises all kinds of exceptions for damaged files
        raise InputError(f"a pipeline of transformers cannot load it: {type(error).__name__}: {error}") from error
    return [{answer["label"]: answer["score"] for answer in answers} for answers in rows]


def _in_new_process(folder: Path, cases: Sequence, has_code: bool, temporary: Path) -> list[dict[str, float]]:
    """Label → probability for each case, from a process that has the folder, transformers and no network."""
    done = subprocess.run(
        [sys.executable, "-c", _AS_A_USER, str(folder.resolve()), json.dumps(cases), "yes" if has_code else "no"],
        cwd=temporary,
        env=os.environ | {"HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(temporary / "modules")},
        capture_output=True,
        text=True,
    )
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise InputError(f"a pipeline of transformers cannot load it: {last}")
    return [json.loads(line) for line in done.stdout.splitlines()[-len(cases) :]]


def check_code(folder: Path) -> bool:
    """Return whether the files contain code, which must be this version's own: no other code is run.

    Raises:
        InputError: a Python file is not ham_hf's file of that name, or a configuration names code from elsewhere.
    """
    import ham_hf.models

    own = {path.name: path.read_bytes() for path in Path(ham_hf.models.build.__file__).parent.rglob("*.py")}
    for path in sorted(folder.glob("*.py")):
        if own.get(path.name) != path.read_bytes():
            raise InputError(
                f"{path.name} is not the file of that name in ham_hf {__version__}, and other code is not run here"
            )
    beside = {path.stem for path in folder.glob("*.py")}
    configs = sorted(folder.glob("*.json"))
    references = [(path.name, reference) for path in configs for reference in _references(read_json(path))]
    for name, reference in references:
        if reference.partition(".")[0] not in beside:
            raise InputError(f"{name} refers to the code {reference!r}, which is not among its files")
    return bool(references)


def _references(values: Any) -> Iterator[str]:
    """Yield every reference to code in a configuration, at any depth."""
    waiting = [("", values)]
    while waiting:
        key, value = waiting.pop()
        match value:
            case dict():
                waiting += [(key if key in _CODE else inner, item) for inner, item in value.items()]
            case list():
                waiting += [(key, item) for item in value]
            case str() if key == "auto_map" or (key in _CODE and "." in value):
                yield value
