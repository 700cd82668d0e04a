"""The report of a run: report.json, the card and the figures; and what a run folder must contain."""

import hashlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ham_hf.config.metric_names import HEADLINE
from ham_hf.evaluation.predictions import Predictions, read_predictions, rows_sha256, write_predictions
from ham_hf.labels import DIAGNOSES, DISCLAIMER, LABELS
from ham_hf.reporting.formats import headline_line
from ham_hf.reporting.report import read_run, write_report
from ham_hf.system.errors import InputError
from tests.helpers.fake_runs import cell, change_facts, make_run, replace


@pytest.fixture(scope="module")
def reported(tmp_path_factory):
    run = make_run(tmp_path_factory.mktemp("reported") / "run")
    write_report(run)
    return run


@pytest.fixture
def run(tmp_path):
    return make_run(tmp_path / "run", images=(40, 30))


def strict_json(path: Path) -> dict:
    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)


def test_report_json_holds_the_run_and_both_splits(reported):
    report = strict_json(reported / "report.json")
    assert report["schema"] == 1
    assert report["run"] == json.loads((reported / "run.json").read_text())
    assert report["disclaimer"] == DISCLAIMER
    for split, images, lesions in (("validation", 150, 112), ("test", 130, 97)):
        results = report["results"][split]
        assert (results["images"], results["lesions"]) == (images, lesions)
        assert set(HEADLINE) <= set(results["metrics"])
        low, high = results["metrics"]["accuracy"]["interval"]
        assert low < results["metrics"]["accuracy"]["value"] < high
        assert np.sum(results["confusion_matrix"]) == images
        nv = results["metrics"]["support_nv"]
        assert nv["interval"] is None
        assert results["always_nv"]["accuracy"] == pytest.approx(nv["value"] / images)
        assert results["always_nv"]["log_loss"] is None


def test_every_picture_is_drawn_and_shown(reported):
    shown = re.findall(r"!\[[^]]+\]\((plots/[a-z_]+\.png)\)", (reported / "README.md").read_text(encoding="utf-8"))
    there = {f"plots/{path.name}" for path in (reported / "plots").iterdir()}
    assert set(shown) == there and len(shown) == 10
    for name in shown:
        with Image.open(reported / name) as image:
            image.load()
            assert min(image.size) > 300 and len(set(image.convert("L").tobytes())) > 20


def test_the_card_contains_what_a_reader_needs(reported):
    page = (reported / "README.md").read_text(encoding="utf-8")
    report = strict_json(reported / "report.json")
    value = report["results"]["test"]["metrics"]["balanced_accuracy"]["value"]
    rows = re.findall(r"^\| (.+?) \|", page, flags=re.MULTILINE)
    assert rows[2] == "balanced accuracy"
    assert (
        f"{value:.3f}"[1:] in page.splitlines()[next(i for i, x in enumerate(page.splitlines()) if "| balanced" in x)]
    )
    assert all(f"{name} ({code})" in rows for code, name in DIAGNOSES.items())
    for text in (
        DISCLAIMER,
        "checkpoint after step 50 of 100, chosen by its validation balanced accuracy (.741)",
        "validation figures are optimistic",
        "3,380,000",
        "1 min 23 s",
        "| ISIC\\_1 | train | ISIC\\_2 | test | 2 |",
        "ham-hf train recipes/x.yaml --data_dir 'my images'",
        "ab" * 32,
    ):
        assert text in page, text
    assert "synthetic" not in page.lower()
    assert "nan" not in page.lower().split()


def test_the_same_run_gives_the_same_files(reported, tmp_path):
    copy = shutil.copytree(reported, tmp_path / "copy")
    shutil.rmtree(copy / "plots")
    write_report(copy)

    def digests(run):
        files = [path for path in run.rglob("*") if path.is_file()]
        return {str(path.relative_to(run)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}

    assert digests(copy) == digests(reported)


def test_the_headline_is_one_line(reported):
    line = headline_line(strict_json(reported / "report.json")["results"]["test"])
    figure = r"\.\d{3} \[\.\d{3}, \.\d{3}\]"
    assert re.fullmatch(rf"balanced accuracy {figure} · accuracy {figure} · always nv \.\d{{3}}", line)


def test_a_test_split_without_images_is_reported_as_missing(tmp_path):
    run = make_run(tmp_path / "run", images=(40, 0))
    (run / "plots").mkdir()
    (run / "plots" / "roc_test.png").touch()  # of an earlier report
    assert write_report(run)["results"]["test"] is None
    assert "test: 2,001 images missing, not evaluated" in (run / "README.md").read_text(encoding="utf-8")
    assert not list((run / "plots").glob("*_test.png"))


def test_an_absent_diagnosis_is_null_and_a_dash(tmp_path):
    run = make_run(tmp_path / "run", images=(40, 0))
    table = (run / "predictions_validation.csv").read_text().replace(",df,0", ",nv,0")
    (run / "predictions_validation.csv").write_text(table)
    metrics = write_report(run)["results"]["validation"]["metrics"]
    assert metrics["auroc_df"] == {"value": None, "interval": None}
    assert "| Dermatofibroma (df) | 0 | – | – | – | – |" in (run / "README.md").read_text(encoding="utf-8")


def test_undefined_facts_are_null(run):
    (run / "run.json").write_text((run / "run.json").read_text().replace("0.741", "NaN"))
    write_report(run)
    assert strict_json(run / "report.json")["run"]["training"]["best_value"] is None


def test_a_run_without_a_choice_of_checkpoint_or_a_log_has_a_report(run):
    change_facts(run, training__best_metric=None, training__best_value=None, training__best_step=None)
    (run / "trainer_state.json").write_text('{"log_history": []}')
    write_report(run)
    assert "the last checkpoint, after step 100" in (run / "README.md").read_text(encoding="utf-8")
    assert not (run / "plots" / "loss.png").exists()


def test_two_thousand_images_take_less_than_ten_seconds_and_no_torch(tmp_path):
    run = make_run(tmp_path / "run", images=(1992, 2001))
    code = (
        "import sys, time; from ham_hf.reporting.report import write_report; write_report(sys.argv[1]);"
        "print(time.process_time());"  # of this process alone: others may keep the machine busy
        "sys.exit(','.join({'torch', 'evaluate', 'transformers', 'matplotlib.pyplot'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(run)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert float(done.stdout) < 10


def test_predictions_come_back_as_they_were(tmp_path):
    probabilities = np.random.default_rng(0).dirichlet(np.ones(7), size=50)
    probabilities[0] = np.eye(7)[5]
    probabilities[1, :2] = [1e-30, probabilities[1, :2].sum()]
    ids = [f'odd,"{number}"' for number in range(50)]
    write_predictions(tmp_path / "p.csv", Predictions(ids, ids, np.arange(50) % 7, probabilities, LABELS))
    back = read_predictions(tmp_path / "p.csv")
    assert (back.image_ids, back.lesion_ids, back.names) == (ids, ids, LABELS)
    assert (back.labels == np.arange(50) % 7).all()
    assert (back.probabilities == probabilities).all()
    assert [path.name for path in tmp_path.iterdir()] == ["p.csv"]


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda text: "", "columns are nothing: expected image_id,lesion_id,label"),
        (lambda text: text.splitlines()[0], "a header and no row"),
        (replace("lesion_id", "lesion"), "columns are image_id,lesion,label.*expected image_id,lesion_id,label"),
        (replace(",vasc", ",vascular"), "columns are .*nv,vascular: expected .*,nv,vasc$"),
        (replace(",nv,vasc", ",nv,nv"), "columns are"),
        (cell(3, 4, "high"), "row 3: bcc is 'high': expected a probability from 0 to 1"),
        (cell(4, 9, "nan"), "row 4: vasc is 'nan'"),
        (cell(4, 9, "-0.1"), "row 4: vasc is '-0.1'"),
        (cell(5, 3, "0.9999999"), r"row 5: probabilities sum to 1\.\d+: expected 1"),
        (cell(6, 2, "melanoma"), "row 6: label 'melanoma' is unknown: expected one of akiec"),
        (cell(7, 0, "ISIC_validation00000"), "row 7: image_id 'ISIC_validation00000' is already in row 2"),
        (cell(8, 1, ""), "row 8: lesion_id is empty"),
        (lambda text: text + "x,y\n", "row 42 has 2 values: expected 10"),
        (lambda text: text.rsplit("\n", 3)[0], "has 38 images, run.json counts 40 in validation"),
        (lambda text: text + '"', "not readable as CSV"),
    ],
)
def test_malformed_predictions_are_refused_by_row_and_value(run, edit, message):
    path = run / "predictions_validation.csv"
    path.write_text(edit(path.read_text()))
    with pytest.raises(InputError, match=f"predictions_validation.csv.*{message}"):
        read_run(run)


def test_binary_predictions_are_refused(run):
    (run / "predictions_validation.csv").write_bytes(b"\xff\xd8\xff\xe0")
    with pytest.raises(InputError, match="is not a readable table: line 1 is not UTF-8 text"):
        read_run(run)


@pytest.mark.parametrize("name", ["run.json", "predictions_validation.csv", "trainer_state.json"])
def test_an_incomplete_folder_is_not_a_run_folder(run, name):
    (run / name).unlink()
    with pytest.raises(InputError, match=f"is not a run folder: expected run.json, .* and {name} is missing"):
        write_report(run)
    assert not (run / "report.json").exists()


def test_missing_test_predictions_are_reported(run):
    (run / "predictions_test.csv").unlink()
    with pytest.raises(InputError, match="predictions_test.csv does not exist"):
        read_run(run)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("run.json", "{", "run.json is not readable as JSON"),
        ("run.json", "[]", "run.json: expected a JSON object, found list"),
        ("run.json", "{}", "run.json has no recipe"),
        ("trainer_state.json", "{}", "trainer_state.json has no log_history"),
    ],
)
def test_malformed_facts_are_refused(run, name, text, message):
    (run / name).write_text(text)
    with pytest.raises(InputError, match=message):
        read_run(run)


def test_facts_of_the_wrong_type_are_refused(run):
    change_facts(run, model__parameters="many")
    with pytest.raises(InputError, match="run.json: model.parameters is 'many'"):
        read_run(run)


@pytest.mark.parametrize(
    ("size", "words"),
    [
        (None, "224 x 224 pixels |"),
        (224, "224 x 224 pixels |"),
        (192, "224 x 224 pixels; training crops of 192 pixels |"),
        ({"1": 128, "6": 160}, "224 x 224 pixels; training crops of 128 pixels, from epoch 6 of 160 |"),
    ],
)
def test_training_crops_are_stated_where_they_differ_from_those_of_evaluation(run, size, words):
    change_facts(run, training__train_size=size)
    write_report(run)
    assert f"| input | {words}" in (run / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("size", ["128", {"2": 128}, {"1": "<b>"}, {"1": True}, {"|": 128}, -1])
def test_sizes_that_no_training_has_are_refused(run, size):
    change_facts(run, training__train_size=size)
    with pytest.raises(InputError, match="run.json: training.train_size "):
        read_run(run)


def test_predictions_for_other_images_lesions_or_labels_are_refused(run):
    path = run / "predictions_validation.csv"
    change_facts(run, data__splits__validation__rows_sha256=rows_sha256(read_predictions(path)))
    assert read_run(run).predictions["validation"] is not None
    first = path.read_text()
    for old, new in (("ISIC_validation00000", "ISIC_x"), ("HAM_validation00000", "HAM_x")):
        path.write_text(first.replace(old, new))
        with pytest.raises(InputError, match="does not match the validation images, lesions and labels of run.json"):
            read_run(run)
    lines = first.splitlines()  # the labels of two rows exchanged: as many of each diagnosis as before
    one = next(i for i, line in enumerate(lines[1:], start=1) if ",nv," in line)
    two = next(i for i, line in enumerate(lines[1:], start=1) if ",mel," in line)
    lines[one], lines[two] = lines[one].replace(",nv,", ",mel,"), lines[two].replace(",mel,", ",nv,")
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(InputError, match="does not match the validation images, lesions and labels of run.json"):
        write_report(run)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("present", [["nv"], ["mel", "nv"]], ids=" and ".join)
def test_pictures_of_few_diagnoses_are_drawn_without_a_warning(tmp_path, present):
    run = make_run(tmp_path / "run", images=(40, 0))
    path = run / "predictions_validation.csv"
    predicted = read_predictions(path)
    labels = [present[number % len(present)] for number in range(40)]
    write_predictions(path, predicted._replace(labels=np.array([LABELS.index(label) for label in labels])))
    change_facts(run, data__splits__validation__classes={name: labels.count(name) for name in LABELS})
    report = write_report(run)
    assert (run / "plots" / "roc_validation.png").exists()
    assert report["results"]["validation"]["metrics"]["accuracy"]["value"] is not None
    assert "roc_validation.png" in (run / "README.md").read_text()
