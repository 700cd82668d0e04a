"""The patients of a run, and results by sex, age, body site and how the diagnosis was made."""

import json
import re

import numpy as np
import pytest

from ham_hf.evaluation.bootstrap import bootstrap_intervals
from ham_hf.evaluation.patients import Patients, read_patients, write_patients
from ham_hf.evaluation.predictions import Predictions
from ham_hf.evaluation.subgroups import age_band, subgroup_results
from ham_hf.reporting.report import read_run, write_report
from ham_hf.system.errors import InputError
from tests.helpers.fake_runs import add_patients, cell, make_run, replace

IDS = ["ISIC_1", 'odd,"2"', "ISIC_3"]


@pytest.fixture
def run(tmp_path):
    run = make_run(tmp_path / "run", images=(90, 0))
    add_patients(run)
    return run


# patients_*.csv


def test_patients_are_read_in_the_requested_order(tmp_path):
    path = tmp_path / "patients.csv"
    float32 = float(np.float32(45.3))
    sexes, sites = ["unknown", "male", "female"], ["unknown", "back", "ear"]
    write_patients(path, IDS, Patients([None, 0.0, float32], sexes, sites, ["unknown", "histo", "x"]))
    assert path.read_text().splitlines()[:2] == [
        "image_id,age,sex,localization,dx_type",
        "ISIC_1,,unknown,unknown,unknown",
    ]
    back = read_patients(path, IDS[::-1])
    assert back == Patients(
        ages=[45.3, 0.0, None],
        sexes=["female", "male", "unknown"],
        sites=["ear", "back", "unknown"],
        dx_types=["x", "histo", "unknown"],
    )


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda text: "", "columns are nothing: expected image_id,age,sex,localization,dx_type"),
        (replace("localization", "site"), "columns are image_id,age,sex,site,dx_type: expected image_id,age"),
        (lambda text: text + "x,y\n", "row 92 has 2 values: expected 5, as in the header"),
        (cell(3, 1, "old"), "row 3: age is 'old': expected 0 to 120 years, or nothing"),
        (cell(3, 1, "121"), "row 3: age is '121'"),
        (cell(3, 1, "nan"), "row 3: age is 'nan'"),
        (cell(4, 2, "f"), "row 4: sex is 'f': expected one of female, male, unknown"),
        (cell(5, 3, ""), "row 5: localization is empty: expected 'unknown'"),
        (cell(5, 4, ""), "row 5: dx_type is empty: expected 'unknown'"),
        (cell(6, 0, "ISIC_validation00000"), "row 6: image_id 'ISIC_validation00000' occurs twice"),
        (cell(6, 0, "ISIC_x"), "row 6: image_id 'ISIC_x' is not among the predictions"),
        (lambda text: text.rsplit("\n", 3)[0], "no row for 2 of the predicted images, such as 'ISIC_validation00088'"),
        (lambda text: text + '"', "not readable as CSV"),
    ],
)
def test_malformed_patients_are_refused_by_row_and_value(run, edit, message):
    path = run / "patients_validation.csv"
    path.write_text(edit(path.read_text()))
    with pytest.raises(InputError, match=f"patients_validation.csv.*{message}"):
        read_run(run)


# Figures


@pytest.mark.parametrize(
    ("age", "band"),
    [
        (0, "0-29"),
        (29.9, "0-29"),
        (30, "30-44"),
        (44, "30-44"),
        (45, "45-59"),
        (60, "60-74"),
        (75, "75+"),
        (120, "75+"),
    ]
    + [(None, "unknown")],
)
def test_every_age_is_in_one_band(age, band):
    assert age_band(age) == band


def predictions_of(*counts):
    """Predictions of mel and nv: (truth, guess, images, images a lesion) in turn; 0 is mel."""
    labels, predicted, lesions = [], [], []
    for number, (truth, guess, images, together) in enumerate(counts):
        labels += [truth] * images
        predicted += [guess] * images
        lesions += [f"LES_{number}_{image // together}" for image in range(images)]
    ids = [f"ISIC_{number}" for number in range(len(labels))]
    return Predictions(ids, lesions, np.array(labels), np.eye(2)[predicted] * 0.8 + 0.1, ("mel", "nv"))


def by_sex(predictions, *groups):
    sexes = [sex for sex, images in groups for _ in range(images)]
    unknown = ["unknown"] * len(sexes)
    results = subgroup_results(predictions, Patients([None] * len(sexes), sexes, unknown, unknown))
    assert list(results) == ["sex", "age", "localization", "dx_type"]
    return {group["group"]: group for group in results["sex"]}


def test_subgroup_metrics_are_those_of_the_groups_images():
    # Women: 6 of 10 melanomas and 15 of 20 nevi are found. Men: nevi, all found
    women = [(0, 0, 6, 1), (0, 1, 4, 1), (1, 1, 15, 1), (1, 0, 5, 1)]
    predictions = predictions_of(*women, (1, 1, 40, 1))
    groups = by_sex(predictions, ("female", 30), ("male", 40))
    assert list(groups) == ["female", "male"]
    female, male = groups["female"], groups["male"]
    assert (female["images"], female["lesions"], female["diagnoses"]) == (30, 30, 2)
    values = {figure: entry["value"] for figure, entry in female["metrics"].items()}
    assert values == pytest.approx({"accuracy": 21 / 30, "balanced_accuracy": (0.6 + 0.75) / 2, "recall_mel": 0.6})
    assert male["metrics"]["accuracy"] == {"value": 1.0, "interval": [1.0, 1.0]}
    assert male["metrics"]["balanced_accuracy"]["value"] is None
    assert male["metrics"]["balanced_accuracy"]["too_few"] == "one diagnosis alone"
    assert male["metrics"]["recall_mel"]["too_few"] == "no melanoma"


def test_intervals_are_over_the_lesions_of_the_group():
    predictions = predictions_of((0, 0, 30, 3), (0, 1, 30, 3), (1, 1, 30, 1), (1, 0, 60, 3))
    group = by_sex(predictions, ("female", 120), ("male", 30))["female"]
    expected = bootstrap_intervals(
        predictions.probabilities[:120], predictions.labels[:120], predictions.lesion_ids[:120], predictions.names
    )
    for figure, entry in group["metrics"].items():
        assert entry["interval"] == pytest.approx(list(expected[figure]), abs=1e-12)


def test_a_group_is_as_large_as_its_lesions_not_its_images():
    # 60 images of 30 lesions, 20 of them of 10 melanomas; then 58 of 29
    enough = predictions_of((0, 0, 20, 2), (1, 1, 40, 2))
    [group] = by_sex(enough, ("female", 60)).values()
    assert (group["images"], group["lesions"]) == (60, 30)
    assert group["metrics"]["recall_mel"]["value"] == 1
    [group] = by_sex(predictions_of((0, 0, 20, 2), (1, 1, 38, 2)), ("female", 58)).values()
    too_few = {"value": None, "interval": None, "too_few": "too few: 29 lesions"}
    assert group["metrics"] == dict.fromkeys(("accuracy", "balanced_accuracy", "recall_mel"), too_few)
    [group] = by_sex(predictions_of((0, 0, 18, 2), (1, 1, 42, 2)), ("female", 60)).values()
    assert group["metrics"]["recall_mel"]["too_few"] == "too few: 9 melanoma lesions"
    assert group["metrics"]["balanced_accuracy"]["value"] == 1


def test_without_melanoma_among_the_diagnoses_there_is_no_recall_of_it():
    predictions = predictions_of((0, 0, 20, 1), (1, 1, 20, 1))._replace(names=("malignant", "nv"))
    [group] = by_sex(predictions, ("male", 40)).values()
    assert set(group["metrics"]) == {"accuracy", "balanced_accuracy"}


# In the report


def test_the_report_has_a_table_for_each_field_and_a_figure(run):
    report = write_report(run)
    assert report["results"]["test"] is None
    groups = json.loads((run / "report.json").read_text())["results"]["validation"]["subgroups"]
    assert [group["images"] for group in groups["sex"]] == [45, 45]
    assert [group["group"] for group in groups["age"]] == ["unknown"]
    page = (run / "README.md").read_text(encoding="utf-8")
    for field in ("sex", "age", "body site", "how the diagnosis was made"):
        assert f"| {field} | images | lesions | diagnoses |" in page
    women = groups["sex"][0]["metrics"]
    shown = re.search(r"^\| female \| 45 \| (\d+) \| \d \| (\S+) \[.*", page, flags=re.MULTILINE)
    assert shown[1] == str(groups["sex"][0]["lesions"])
    assert shown[2] == f"{women['accuracy']['value']:.3f}"[1:]
    assert re.search(r"\| too few: \d melanoma lesions? \|$", shown[0])
    assert "never a model input" in page[page.index("how the diagnosis was made") :]
    assert page.index("subgroups_validation.png") > page.index("## By subgroup: validation")
    assert (run / "plots" / "subgroups_validation.png").is_file()


def test_names_of_sites_cannot_break_the_page_or_the_picture(run):
    path = run / "patients_validation.csv"
    path.write_text(path.read_text().replace(",back,", r",$\\a|b$ <img>,"))
    write_report(run)
    assert r"| \$\\\\a\|b\$ \<img\> | 90 |" in (run / "README.md").read_text(encoding="utf-8")
    assert (run / "plots" / "subgroups_validation.png").is_file()


def test_groups_that_are_all_too_small_have_no_picture(tmp_path):
    run = make_run(tmp_path / "run", images=(25, 0))
    add_patients(run, age=50.0)
    (run / "plots").mkdir()
    (run / "plots" / "subgroups_validation.png").touch()  # of an earlier report
    write_report(run)
    page = (run / "README.md").read_text(encoding="utf-8")
    assert re.search(r"^\| 45-59 \| 25 \| 19 \| \d \|( too few: 19 lesions \|){3}$", page, flags=re.MULTILINE)
    assert "subgroups_validation.png" not in page
    assert not (run / "plots" / "subgroups_validation.png").exists()


def test_an_older_run_without_patients_has_a_report(run):
    (run / "patients_validation.csv").unlink()
    assert write_report(run)["results"]["validation"]["subgroups"] is None
    assert "subgroup" not in (run / "README.md").read_text(encoding="utf-8")
