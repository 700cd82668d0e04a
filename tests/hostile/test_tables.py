"""Broken and hostile tables: metadata in every layout, splits, patients, and the files of a run folder."""

import csv
import io
import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ham_hf.cli.main import main
from ham_hf.data.audit import check_ids, check_lesions
from ham_hf.data.sources.folder import read_folder
from ham_hf.data.splits import assign_splits
from ham_hf.evaluation.patients import Patients, read_patients, write_patients
from ham_hf.evaluation.predictions import read_predictions
from ham_hf.hub.verify.consistency import check_results, read_report
from ham_hf.hub.verify.page_check import check_page, check_pages
from ham_hf.inference.predict import read_patients as read_patients_of_photos
from ham_hf.labels import LABELS
from ham_hf.reporting.report import write_report
from tests.helpers.fake_runs import make_run
from tests.helpers.small_data import isic_rows, make_rows, write_folder, write_table
from tests.hostile.cases import ESCAPES, blank_pictures, broken, cases, changed, ends_well, within

CELLS = (
    *("", "\x00", ESCAPES, "nan", "inf", "-1", "1e400", "9" * 500, "é\u202e", '"', "\n", "\r", "\t", ",", ",,,,,"),
    *("a" * 200_000, "=cmd|' /C calc'!A0", "mel", "../../x", "\ufeff", "True", "0x10", "1_0", "٣", "<b>x</b>|`"),
    *("IMG_000_0", "image_id", " dx "),
)


@st.composite
def spoiled(draw, original: str) -> bytes:
    """A table with cells, rows or columns changed, or broken as any file is."""
    if draw(st.booleans()):
        return draw(broken(original.encode()))
    rows = [line.split(",") for line in original.splitlines()]
    for _ in range(draw(st.integers(1, 4))):
        row = draw(st.sampled_from([rows[0], *rows]))
        if not row:
            continue
        at, cell = draw(st.integers(0, len(row) - 1)), draw(st.sampled_from(CELLS))
        match draw(st.sampled_from(["cell", "cell", "more", "less", "twice", "column", "columns", "append"])):
            case "cell":
                row[at] = cell
            case "append":
                row[at] += cell
            case "more":
                row.insert(at, cell)
            case "less":
                del row[at]
            case "twice":
                rows.append(list(draw(st.sampled_from(rows))))
            case "column":
                for other in rows:
                    other.insert(at, cell)
            case "columns":
                for other in rows:
                    other.insert(at, other[min(at, len(other) - 1)] if other else cell)
    text = "\n".join(map(",".join, rows))
    return text.encode(draw(st.sampled_from(["utf-8"] * 6 + ["utf-16", "latin-1", "utf-8-sig"])), "replace")


def as_text(rows: list[dict]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


ROWS = make_rows(7, 1)
CHALLENGE = ("MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC")
LAYOUTS = {
    "HAM10000_metadata.csv": as_text(ROWS),
    "HAM10000_metadata.tab": as_text(ROWS).replace(",", "\t"),
    "metadata.csv": as_text(isic_rows(7)),
    "ISIC2018_Task3_Test_GroundTruth.csv": as_text(
        [
            {"image": row["image_id"]} | {name: f"{float(name.lower() == row['dx'])}" for name in CHALLENGE}
            for row in ROWS
        ]
    ),
    "my.csv": as_text([{"image_id": row["image_id"], "dx": row["dx"], "sex": "male"} for row in ROWS]),
}
SPLIT = "image_id,split\n" + "".join(
    f"{row['image_id']},{('train', 'validation', 'test')[i % 3]}\n" for i, row in enumerate(ROWS)
)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = write_folder(tmp_path_factory.mktemp("tables") / "data", ROWS)
    (folder / "HAM10000_metadata.csv").unlink()
    return folder


@cases(240)
@given(st.data())
def test_a_table_of_images_is_read_or_refused_in_every_layout(data, draw):
    name = draw.draw(st.sampled_from(list(LAYOUTS)))
    path = data / name
    path.write_bytes(draw.draw(spoiled(LAYOUTS[name])))
    own = path if name == "my.csv" else None
    try:
        found = ends_well("metadata tables", lambda: read_folder(data, own))
        if found is not None:
            _, table, dataset, _ = found
            assert len(table) == len(dataset) and set(table["dx"]) <= set(LABELS)
            for column in ("image_id", "lesion_id", "sex", "localization"):
                assert table[column].map(lambda value: isinstance(value, str) and value.isprintable()).all()
            ends_well("metadata tables, their ids", lambda: check_ids(table))
            ends_well("metadata tables, their lesions", lambda: check_lesions(table))
    finally:
        path.unlink()


@cases(200)
@given(text=spoiled(SPLIT))
def test_a_split_is_read_or_refused(tmp_path_factory, text):
    path = tmp_path_factory.getbasetemp() / "split.csv"
    path.write_bytes(text)
    table = pd.DataFrame(ROWS)
    split = ends_well("splits", lambda: assign_splits(table, str(path)))
    assert split is None or (set(split) == set(table["image_id"]) and set(split.values()) <= {*SPLIT_NAMES})


SPLIT_NAMES = ("train", "validation", "test", "unused")


@cases(200)
@given(text=spoiled("file,age,sex,localization\na.jpg,45,female,back\nfolder/b.jpg,,male,\n"))
def test_patients_of_photographs_are_read_or_refused(tmp_path_factory, text):
    path = tmp_path_factory.getbasetemp() / "patients.csv"
    path.write_bytes(text)
    photos = [Path("a.jpg"), Path("folder/b.jpg")]
    patients = ends_well("patients of photographs", lambda: read_patients_of_photos(path, photos))
    assert patients is None or len(patients) == 2


# A run folder


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """With patients, an ensemble's members, a calibration, a threshold and a log of its evaluations."""
    folder = make_run(tmp_path_factory.mktemp("runs") / "run", images=(12, 12))
    for split in ("validation", "test"):
        ids = read_predictions(folder / f"predictions_{split}.csv").image_ids
        patients = Patients([30.0, None] * 6, ["male"] * 12, ["back", "face"] * 6, ["histo"] * 12)
        write_patients(folder / f"patients_{split}.csv", ids, patients)
    facts = json.loads((folder / "run.json").read_text())
    facts["model"] |= {
        "melanoma_threshold": 0.3,
        "calibration": {"temperature": 1.2, "prior_strength": 0.5, "images": 12},
        "test_time_augmentation": "flips",
        "fusion": "none",
        "weights_sha256": {"model.safetensors": "ab" * 32},
    }
    facts["training"]["hindrances"] = ["a kernel"]
    (folder / "run.json").write_text(json.dumps(facts))
    state = json.loads((folder / "trainer_state.json").read_text())
    spread = {"eval_top_class_share": 0.99, "eval_predicted_class_entropy": 0.1, "step": 50, "epoch": 1.0}
    state["log_history"] = state["log_history"][-5:] + [spread, spread | {"step": 100}]
    (folder / "trainer_state.json").write_text(json.dumps(state))
    return folder


@cases(150)
@given(st.data())
def test_predictions_are_read_or_refused(run, tmp_path_factory, draw):
    path = tmp_path_factory.getbasetemp() / "predictions.csv"
    path.write_bytes(draw.draw(spoiled((run / "predictions_test.csv").read_text())))
    found = ends_well("predictions", lambda: read_predictions(path))
    assert found is None or found.probabilities.shape == (len(found.image_ids), len(found.names))


@cases(150)
@given(st.data())
def test_patients_of_a_run_are_read_or_refused(run, tmp_path_factory, draw):
    path = tmp_path_factory.getbasetemp() / "patients_of_run.csv"
    path.write_bytes(draw.draw(spoiled((run / "patients_test.csv").read_text())))
    ids = read_predictions(run / "predictions_test.csv").image_ids
    found = ends_well("patients of a run", lambda: read_patients(path, ids))
    assert found is None or len(found.ages) == len(ids)


@pytest.fixture(scope="module")
def bare(run, tmp_path_factory) -> Path:
    """The same without pictures to draw, which take most of a report's time."""
    return Path(shutil.copytree(run, tmp_path_factory.mktemp("bare") / "run"))


@cases(200)
@given(st.data())
def test_facts_of_a_run_make_a_report_or_are_refused(bare, draw):
    facts = draw.draw(changed(json.loads((bare / "run.json").read_text())))
    report_of(bare, "run.json", json.dumps(facts).encode(), "run.json")


@cases(60)
@given(st.data())
def test_a_log_makes_a_report_or_is_refused(bare, draw):
    state = draw.draw(changed(json.loads((bare / "trainer_state.json").read_text())))
    report_of(bare, "trainer_state.json", json.dumps(state).encode(), "trainer_state.json")


@cases(40)
@given(st.data())
def test_broken_json_of_a_run_is_refused(bare, draw):
    name = draw.draw(st.sampled_from(["run.json", "trainer_state.json"]))
    report_of(bare, name, draw.draw(broken((bare / name).read_bytes())), "run.json, broken anywhere")


def report_of(folder: Path, name: str, content: bytes, kind: str) -> None:
    """Report, page and card of a run folder with one file in another's place; all of it can be written."""
    original = (folder / name).read_bytes()
    (folder / name).write_bytes(content)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("ham_hf.reporting.plots.draw_plots", blank_pictures)
            ends_well(kind, lambda: write_report(folder))
        for written in ("README.md",):
            if (folder / written).exists():
                assert ESCAPES[0] not in (folder / written).read_text(encoding="utf-8").split("\n---\n", 1)[-1]
    finally:
        (folder / name).write_bytes(original)
    beside = {path.name for path in folder.iterdir()}
    assert beside <= {path.name for path in folder.iterdir() if not path.name.startswith(".")}


@cases(8)
@given(st.data())
def test_pictures_of_changed_facts_are_drawn_or_refused(run, tmp_path_factory, draw):
    copy = Path(shutil.copytree(run, tmp_path_factory.mktemp("drawn") / "run"))
    name = draw.draw(st.sampled_from(["run.json", "trainer_state.json"]))
    (copy / name).write_text(json.dumps(draw.draw(changed(json.loads((copy / name).read_text())))))
    ends_well("reports with pictures", lambda: write_report(copy))
    shutil.rmtree(copy)


@cases(120)
@given(st.data())
def test_a_changed_report_is_compared_or_refused(reported, draw):
    text = json.dumps(draw.draw(changed(json.loads((reported / "report.json").read_text()))))
    copy = reported.parent / "changed"
    copy.mkdir(exist_ok=True)
    shutil.copy(reported / "README.md", copy)
    (copy / "report.json").write_text(text)

    def compare() -> None:
        report, _ = read_report(copy)
        if report is not None:
            measured = json.loads((reported / "report.json").read_text())["results"]
            parts = [part for part in ("validation", "test") if report["results"].get(part)]
            check_pages(copy, report)
            check_results(report, measured, dict.fromkeys(("train", "validation", "test"), "0" * 64), parts)

    ends_well("a foreign report.json", compare)


@pytest.fixture(scope="module")
def reported(run, tmp_path_factory) -> Path:
    copy = Path(shutil.copytree(run, tmp_path_factory.mktemp("reported") / "run"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ham_hf.reporting.plots.draw_plots", blank_pictures)
        write_report(copy)
    return copy


# As a user meets it


def test_control_characters_of_a_split_do_not_reach_the_terminal(data, tmp_path, capsys):
    (data / "HAM10000_metadata.csv").write_text(LAYOUTS["HAM10000_metadata.csv"])
    rows = [{"image_id": row["image_id"], "split": f"mine{ESCAPES}"} for row in ROWS]
    write_table(tmp_path / "split.csv", rows)
    assert main(["data", "audit", str(data), "--split", str(tmp_path / "split.csv")]) == 0
    shown = capsys.readouterr()
    assert "\x1b" not in shown.out + shown.err and r"7 mine\x1b[2J\x1b]0;owned\x07" in shown.out
    (data / "HAM10000_metadata.csv").unlink()


def test_deep_json_is_refused(run, tmp_path, capsys):
    copy = shutil.copytree(run, tmp_path / "deep")
    for text in ("[" * 100_000, '{"a":' * 100_000, '{"model": {"name": "\\ud800"}}', "1" * 5000):
        (copy / "run.json").write_text(text)
        with within(60):
            assert main(["report", str(copy)]) == 2
        assert f"error: {copy / 'run.json'} is not readable as JSON" in capsys.readouterr().err


def test_a_page_of_very_many_lines_does_not_hang(reported, tmp_path):
    copy = shutil.copytree(reported, tmp_path / "long")
    (copy / "README.md").write_text("---\na: 1\n---\n" + "| 1 |\n" * 200_000)
    with within(60):
        [finding] = check_page(copy, json.loads((copy / "report.json").read_text()))
    assert "more than 5,000 lines was not compared" in finding.words
