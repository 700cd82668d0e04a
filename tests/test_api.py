"""The four functions that `ham_hf` exports, and the README's example of them."""

import pkgutil
import re
from pathlib import Path

import numpy as np
import pytest

import ham_hf
from ham_hf.data.image_io import read_photo
from ham_hf.evaluation.metrics import compute_scores
from ham_hf.inference.engine import probabilities
from ham_hf.inference.load import load_classifier
from ham_hf.inference.predict import SYNTHETIC_ALONE
from ham_hf.labels import DISCLAIMER, LABELS
from ham_hf.system.errors import InputError
from tests.cli.test_main import HEAVY, ROOT, run_python
from tests.helpers.small_data import ham10000_rows, write_folder, write_image
from tests.helpers.tiny_checkpoints import make_run_folder

SECTION = (ROOT / "README.md").read_text(encoding="utf-8").partition("## Python in ten lines")[2].partition("\n## ")[0]
[EXAMPLE] = re.findall(r"```python\n(.*?)```", SECTION, flags=re.DOTALL)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """Return a folder with what the README's examples name: images with HAM10000's ids, a run, photographs."""
    folder = tmp_path_factory.mktemp("notebook")
    write_folder(folder / "path" / "to" / "HAM10000", ham10000_rows(70, 1))
    make_run_folder(folder / "runs" / "my_run")
    (folder / "photos").mkdir()
    for seed, name in enumerate(("photo.jpg", "photos/a.jpg", "photos/b.png")):
        write_image(folder / name, seed)
    return folder


def test_the_example_of_the_readme_is_short_and_runs(place, monkeypatch):
    monkeypatch.chdir(place)
    assert sum(bool(line) for line in EXAMPLE.splitlines()) <= 10
    names = {}
    exec(EXAMPLE, names)
    assert sum(len(split) for split in names["splits"].values()) == 70 and names["facts"]["split"] == "study"
    assert list(names["model"].config.id2label.values()) == list(LABELS)
    assert list(names["predictions"]) == ["photo.jpg", "photos/a.jpg", "photos/b.png"]
    assert names["metrics"]["balanced_accuracy"]["interval"][0] <= names["metrics"]["balanced_accuracy"]["value"]


def test_the_readme_shows_every_name():
    shown = [name for line in re.findall("from ham_hf import (.*)", SECTION) for name in line.split(", ")]
    assert sorted(shown) == ham_hf.__all__ == sorted(set(ham_hf.__all__) & set(dir(ham_hf)))


def test_no_module_has_the_name_of_a_function():
    modules = {module.name for module in pkgutil.iter_modules(ham_hf.__path__)}
    assert not modules & set(ham_hf.__all__) and "labels" in modules
    assert all(callable(getattr(ham_hf, name)) for name in ham_hf.__all__)


def test_a_misspelled_name_is_an_import_error_and_importing_ham_hf_imports_nothing_heavy():
    code = f"import ham_hf, sys; print([name for name in {HEAVY} if name in sys.modules])\nfrom ham_hf import predcit"
    done = run_python("-c", code)
    assert done.stdout == "[]\n" and "ImportError: cannot import name 'predcit' from 'ham_hf'" in done.stderr


@pytest.mark.parametrize("part", ["validation", "test"])
def test_evaluate_run_scores_the_predictions_of_the_model(part, place):
    run, data = place / "runs" / "my_run", place / "path" / "to" / "HAM10000"
    rows = ham_hf.load_ham10000(data)[0][part]
    predicted = probabilities(load_classifier(str(run)), rows["image"])
    expected = compute_scores(predicted, np.array(rows["label"][:]))
    metrics = ham_hf.evaluate_run(run, data, part=part)
    for name in metrics:
        undefined = np.isnan(expected[name])
        assert metrics[name]["value"] == (None if undefined else pytest.approx(expected[name], abs=1e-6))
    low, high = metrics["log_loss"]["interval"]
    assert low < expected["log_loss"] < high


def test_evaluating_without_images_is_an_error(place):
    run, data = place / "runs" / "my_run", place / "path" / "to" / "HAM10000"
    with pytest.raises(InputError, match="has no validation image under the split 'all'"):
        ham_hf.evaluate_run(run, data, split="all")
    with pytest.raises(InputError, match="part is 'train': expected one of validation, test"):
        ham_hf.evaluate_run(run, data, part="train")


def test_predictions_are_those_of_the_command_with_the_disclaimer(place, caplog):
    run, photo = place / "runs" / "my_run", place / "photo.jpg"
    [(name, predicted)] = ham_hf.predict(run, photo).items()
    assert name == str(photo) and list(predicted) == list(LABELS)
    assert list(predicted.values()) == probabilities(load_classifier(str(run)), [read_photo(photo)])[0].tolist()
    assert caplog.messages == [DISCLAIMER]
    (run / "run.json").write_text('{"data": {"synthetic": true}}')
    caplog.clear()
    ham_hf.predict(run, photo)
    assert caplog.messages == [SYNTHETIC_ALONE, DISCLAIMER]
    (run / "run.json").unlink()


def test_there_must_be_one_patient_per_photograph(place):
    run = place / "runs" / "my_run"
    with pytest.raises(InputError, match="1 patients for 2 photographs"):
        ham_hf.predict(run, place / "photos", patients=[(45, "female", "back")])
    with pytest.raises(InputError, match="uses only the photograph"):
        ham_hf.predict(run, place / "photos", patients=[(45, "female", "back")] * 2)
