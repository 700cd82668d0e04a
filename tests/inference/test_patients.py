"""Predictions for patients: from the command line, from a CSV, and with fields hidden."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest

from ham_hf.cli.main import main
from ham_hf.data.schema import canonical_features
from ham_hf.evaluation.metadata_ablation import write_ablations
from ham_hf.evaluation.predictions import read_predictions
from ham_hf.inference import export
from ham_hf.inference.classifier import Classifier
from ham_hf.inference.engine import probabilities
from ham_hf.inference.load import load_classifier
from ham_hf.inference.predict import read_patients
from ham_hf.labels import LABELS
from ham_hf.system.errors import InputError
from tests.helpers.patient_models import KINDS, photos, save
from tests.helpers.tiny_checkpoints import make_run_folder


@pytest.mark.parametrize("kind", KINDS)
def test_ablations_are_predictions_with_fields_hidden(kind, patient_model, tmp_path):
    from datasets import Dataset

    classifier = Classifier(*patient_model(kind))
    rows = {
        "image": photos(4),
        "image_id": [f"ISIC_{i}" for i in range(4)],
        "lesion_id": [f"HAM_{i}" for i in range(4)],
        "label": [0, 1, 2, 3],
        "dx_type": ["histo"] * 4,
        "age": [45.0, 0.0, None, 80.0],
        "sex": ["female", "male", "unknown", "female"],
        "localization": ["back", "face", "unknown", "back"],
    }
    split = Dataset.from_dict(rows, features=canonical_features())
    write_ablations(tmp_path / "ablation", classifier, split)
    read = {path.stem: read_predictions(path, LABELS) for path in (tmp_path / "ablation").iterdir()}
    assert set(read) == {"age_hidden", "sex_hidden", "localization_hidden", "all_hidden", "shuffled"}
    images = [row["image"] for row in split]
    expected = {
        "age_hidden": [
            (None, "female", "back"),
            (None, "male", "face"),
            (None, "unknown", "unknown"),
            (None, "female", "back"),
        ],
        "all_hidden": [(None, None, None)] * 4,
    }
    for name, patients in expected.items():
        np.testing.assert_allclose(read[name].probabilities, probabilities(classifier, images, patients), atol=1e-6)
    assert read["shuffled"].image_ids == rows["image_id"]


# ham-hf predict


@pytest.fixture(scope="module")
def published(patient_model, tmp_path_factory):
    """Return a function from a kind of model to its folder, with photographs a.png and b.png beside it."""

    @cache
    def make(kind: str) -> Path:
        folder = save(patient_model(kind), tmp_path_factory.mktemp("published") / "model")
        for name, photo in zip("ab", photos(2), strict=True):
            photo.save(folder.with_name(f"{name}.png"))
        return folder

    return make


def printed(output: str) -> list[dict[str, float]]:
    """The probabilities by code, of each photograph."""
    tables = [block for block in output.split("\n\n") if ".png" in block.splitlines()[0]]
    return [{line.split()[0]: float(line.split()[-1]) for line in table.splitlines()[1:8]} for table in tables]


@pytest.mark.parametrize("kind", KINDS)
def test_predict_takes_a_patient_from_the_command_line(kind, published, capsys):
    folder = published(kind)
    photo = folder.with_name("a.png")
    assert main(["predict", str(folder), str(photo), "--age", "45", "--sex", "female", "--site", "Back"]) == 0
    [shown] = printed(capsys.readouterr().out)
    [expected] = probabilities(load_classifier(str(folder)), photos(1), [(45.0, "female", "back")])
    assert shown == pytest.approx(dict(zip(LABELS, expected.tolist(), strict=True)), abs=6e-5)


def test_predict_takes_patients_from_a_csv(published, tmp_path, capsys):
    folder = published("fields")
    table = tmp_path / "patients.csv"
    table.write_text(
        f"file,age,sex,localization\nb.png,,,\n{folder.with_name('a.png')},45,female,back\n", encoding="utf-8"
    )
    files = [str(folder.with_name(name)) for name in ("a.png", "b.png")]
    assert main(["predict", str(folder), *files, "--patients", str(table)]) == 0
    shown = printed(capsys.readouterr().out)
    patients = [(45.0, "female", "back"), (None, None, None)]
    expected = probabilities(load_classifier(str(folder)), photos(2), patients)
    for one, row in zip(shown, expected, strict=True):
        assert one == pytest.approx(dict(zip(LABELS, row.tolist(), strict=True)), abs=6e-5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot be read: No such file"),
        ("", "is not a readable table: it has no values"),
        ("file,age,sex\na.png,45,male\n", "has file, age, sex: expected the columns file, age, sex, localization"),
        ("file,age,sex,localization\na.png,abc,male,back\n", "line 2: age is 'abc': expected a number of years"),
        ("file,age,sex,localization\nb.png,45,male,back\n", "has no row for 1 photographs"),
        ("file,age,sex,localization\na.png,45,,\na.png,54,,\n", "line 3: there is a row for 'a.png' above"),
        ("file,age,sex,localization\na.png,45,male,knee\n", "site is 'knee': expected one of back, face"),
    ],
)
def test_invalid_patient_tables_are_errors(text, message, published, tmp_path, capsys):
    folder, table = published("fields"), tmp_path / "patients.csv"
    if text is not None:
        table.write_text(text, encoding="utf-8")
    assert main(["predict", str(folder), str(folder.with_name("a.png")), "--patients", str(table)]) == 2
    assert message in capsys.readouterr().err


def test_a_row_does_not_match_two_photographs_with_the_same_name(tmp_path):
    table, photographs = tmp_path / "patients.csv", [tmp_path / "one" / "a.png", tmp_path / "two" / "a.png"]
    table.write_text("file,age,sex,localization\na.png,45,female,back\n", encoding="utf-8")
    with pytest.raises(InputError, match="the row for 'a.png' matches both .*one/a.png and .*two/a.png"):
        read_patients(table, photographs)
    assert read_patients(table, [photographs[0]] * 2) == [(45.0, "female", "back")] * 2


def test_patients_from_two_places_are_an_error(published, capsys):
    folder = published("fields")
    words = [str(folder), str(folder.with_name("a.png")), "--patients", "x.csv", "--age", "45"]
    assert main(["predict", *words]) == 2
    assert "--patients replaces --age, --sex and --site" in capsys.readouterr().err


def test_an_image_model_refuses_a_patient(tmp_path, capsys):
    photos(1)[0].save(tmp_path / "a.png")
    words = [str(make_run_folder(tmp_path / "model")), str(tmp_path / "a.png"), "--age", "45"]
    assert main(["predict", *words]) == 2
    assert "uses only the photograph: remove --age" in capsys.readouterr().err


def test_a_model_that_reads_the_patient_is_not_exported(published, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(export, "require_packages", lambda *names: None)
    assert main(["export", "onnx", str(published("mlp")), "--output", str(tmp_path / "model.onnx")]) == 2
    assert "uses patient data in addition to the image" in capsys.readouterr().err
    assert not (tmp_path / "model.onnx").exists()
