"""Differences between models on the same images: intervals, `ham-hf compare`, and the ablations in the report."""

import json
import re

import numpy as np
import pytest

from ham_hf.cli.main import main
from ham_hf.config.metric_names import COMPARED_METRICS
from ham_hf.evaluation.bootstrap import lesion_weights, paired_intervals
from ham_hf.evaluation.metrics import compute_scores
from ham_hf.evaluation.predictions import read_predictions, write_predictions
from ham_hf.reporting.compare import compare_runs, mcnemar, render_comparison
from ham_hf.reporting.formats import difference, number
from ham_hf.reporting.report import read_run, write_report
from ham_hf.system.errors import InputError
from ham_hf.train import main as train
from tests.helpers.fake_runs import blurred, cell, change_facts, make_other_run, make_run, some_predictions
from tests.helpers.tiny_runs import tiny_flags

ABLATIONS = ("age_hidden", "sex_hidden", "localization_hidden", "all_hidden", "shuffled")


# Intervals of differences


@pytest.mark.parametrize("decisions_only", [False, True])
def test_the_interval_of_a_difference_is_that_of_a_plain_loop(decisions_only):
    probabilities, labels, lesions = some_predictions(images=150)
    first, second = [probabilities, blurred(probabilities, 1)], [blurred(probabilities, seed) for seed in (2, 3, 4)]
    draws = []
    for weight in lesion_weights(lesions, draws=40, seed=7).T:
        resampled = np.repeat(np.arange(150), weight)
        means = []
        for side in (first, second):
            scores = [compute_scores(model[resampled], labels[resampled]) for model in side]
            means.append({name: np.mean([of_model[name] for of_model in scores]) for name in scores[0]})
        draws.append({name: means[1][name] - means[0][name] for name in means[0]})
    intervals = paired_intervals(first, second, labels, lesions, draws=40, seed=7, decisions_only=decisions_only)
    assert ("macro_auroc" in intervals) is not decisions_only
    assert {"balanced_accuracy", "macro_f1", "accuracy", "recall_mel"} <= set(intervals)
    for name, interval in intervals.items():
        values = [draw[name] for draw in draws if not np.isnan(draw[name])]
        assert interval == pytest.approx(np.percentile(values, [2.5, 97.5]), abs=1e-9), name


def test_the_difference_of_a_model_from_itself_is_zero():
    probabilities, labels, lesions = some_predictions(images=100)
    labels[labels == 3] = 5  # no dermatofibroma
    intervals = paired_intervals([probabilities], [probabilities, probabilities], labels, lesions)
    undefined = {name for name, interval in intervals.items() if np.isnan(interval).all()}
    assert undefined == {f"{figure}_df" for figure in ("precision", "recall", "f1", "auroc")}
    assert {interval for name, interval in intervals.items() if name not in undefined} == {(0.0, 0.0)}


def test_the_difference_of_two_accuracies_by_hand():
    # 4 lesions of one image each. B is right where A is, and about d besides: the difference is d's share of a draw
    labels = np.array([0, 0, 1, 1])
    first, second = np.eye(2)[[0, 1, 1, 0]], np.eye(2)[[0, 1, 1, 1]]
    low, high = paired_intervals([first], [second], labels, list("abcd"), ("nv", "other"), draws=4000)["accuracy"]
    # d is drawn 0 times in 4 with probability .316, and 3 times or more in .051: the 97.5 % point is three quarters
    assert (low, high) == (0, 0.75)


# ham-hf compare


@pytest.fixture
def runs(tmp_path):
    """Two groups of two runs: B is A with noise."""
    first = [make_other_run(tmp_path / f"a{seed}", seed, noise=0.1) for seed in (1, 2)]
    second = [make_other_run(tmp_path / f"b{seed}", seed, noise=2) for seed in (3, 4)]
    return first, second


def test_groups_are_compared_by_the_means_of_their_runs(runs):
    comparison = compare_runs(*runs, split="test")
    assert (comparison["images"], comparison["lesions"]) == (130, 97)
    assert list(comparison["metrics"]) == list(COMPARED_METRICS)
    own = [[read_predictions(run / "predictions_test.csv") for run in side] for side in runs]
    for name, entry in comparison["metrics"].items():
        expected = [[compute_scores(run.probabilities, run.labels)[name] for run in side] for side in own]
        assert entry["runs"] == expected
        assert entry["a"] == pytest.approx(np.mean(expected[0]))
        assert entry["difference"] == pytest.approx(np.mean(expected[1]) - np.mean(expected[0]))
        assert entry["interval"][0] < entry["difference"] < entry["interval"][1]
    assert comparison["metrics"]["accuracy"]["interval"][1] < 0 < comparison["metrics"]["log_loss"]["interval"][0]


def test_the_interval_of_a_group_of_one_run_is_that_of_its_report(runs):
    of_group = compare_runs(runs[0][:1], runs[1], split="test")["metrics"]
    reported = write_report(runs[0][0])["results"]["test"]["metrics"]
    for name, entry in of_group.items():
        assert entry["intervals"][0] == pytest.approx(reported[name]["interval"], abs=1e-9)


def test_the_command_prints_means_runs_and_a_verdict(runs, capsys):
    (a1, a2), (b3, b4) = runs
    assert main(["compare", str(a1), str(a2), "--with", str(b3), str(b4)]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("validation: 150 images of 112 lesions, 2 runs against 2\n")
    accuracy = compare_runs(*runs)["metrics"]["accuracy"]
    line = next(line for line in printed.splitlines() if line.startswith("accuracy"))
    a, b = (number(accuracy[key], of_mean) for key, of_mean in zip("ab", accuracy["intervals"], strict=True))
    change = difference(accuracy["difference"], accuracy["interval"])
    assert " ".join(line.split()) == f"accuracy {a} {b} {change} excludes zero: B is lower"
    assert "A, mean of 2 runs" in printed and "B, mean of 2 runs" in printed
    log_loss = next(line for line in printed.splitlines() if line.startswith("log loss"))
    assert log_loss.endswith("excludes zero: B is higher")
    assert sorted(re.findall(r"^[AB] \S*(\w\d)  ", printed, flags=re.MULTILINE)) == ["a1", "a2", "b3", "b4"]
    assert main(["compare", str(a1), "--with", str(a2), "--split", "test"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("test: 130 images") and "includes zero: no difference shown" in printed


def test_the_command_draws_a_picture(runs, tmp_path, capsys):
    words = ["compare", str(runs[0][0]), "--with", str(runs[1][0])]
    assert main([*words, "--picture", str(tmp_path / "differences.png")]) == 0
    assert (tmp_path / "differences.png").stat().st_size > 5000
    assert main([*words, "--picture", str(tmp_path / "differences.jpeg")]) == 2
    assert "expected the name of a file that ends in .png" in capsys.readouterr().err


def test_mcnemar_by_hand():
    labels = np.zeros(10, dtype=int)
    first = np.eye(2)[[0] * 8 + [1] * 2]
    second = np.eye(2)[[1] * 6 + [0] * 3 + [1]]
    # 6 images for A alone, 1 for B: 2 (1 + 7) / 2**7
    assert mcnemar(first, second, labels) == {"a_alone": 6, "b_alone": 1, "p": pytest.approx(16 / 128)}
    assert mcnemar(first, first, labels)["p"] == 1


def test_one_run_against_one_has_mcnemars_test_too(runs, capsys):
    (a1, a2), (b3, _) = runs
    assert compare_runs([a1, a2], [b3])["mcnemar"] is None
    assert main(["compare", str(a1), "--with", str(b3)]) == 0
    test = compare_runs([a1], [b3])["mcnemar"]
    assert (
        f"only A is correct on {test['a_alone']} images, only B on {test['b_alone']}, p = " in capsys.readouterr().out
    )


def test_the_order_of_the_images_does_not_matter(runs):
    expected = compare_runs(*runs)
    path = runs[1][0] / "predictions_validation.csv"
    header, *rows = path.read_text().splitlines()
    path.write_text("\n".join([header, *reversed(rows)]) + "\n")
    assert compare_runs(*runs) == expected


def test_a_diagnosis_without_an_image_is_undefined_and_not_an_error(tmp_path, capsys):
    folders = [make_other_run(tmp_path / name, seed, images=(40, 0)) for seed, name in enumerate("ab")]
    for folder in folders:  # nevi alone: no AUROC is defined
        path = folder / "predictions_validation.csv"
        path.write_text(re.sub(r",(akiec|bcc|bkl|df|mel|vasc),0", ",nv,0", path.read_text()))
    assert compare_runs(folders[:1], folders[1:])["metrics"]["macro_auroc"]["interval"] is None
    assert main(["compare", str(folders[0]), "--with", str(folders[1])]) == 0
    assert re.search(r"macro AUROC +– +– +– +undefined", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (cell(2, 0, "ISIC_x"), "have different images: 1 are only in the first and 1 only in the second"),
        (
            cell(2, 1, "HAM_x"),
            "lesion_id of ISIC_test00000 is 'HAM_test00000' in .*a1/predictions_test.csv and 'HAM_x'",
        ),
        (cell(2, 2, "vasc"), "label of ISIC_test00000 is 'nv' in .* and 'vasc' in .*b3/predictions_test.csv"),
    ],
)
def test_runs_with_different_images_or_labels_are_refused(runs, edit, message):
    path = runs[1][0] / "predictions_test.csv"
    path.write_text(edit(path.read_text()))
    with pytest.raises(InputError, match=message):
        compare_runs(*runs, split="test")


def test_different_images_under_the_same_ids_are_refused(runs, capsys):
    (a1, a2), (b3, b4) = runs
    assert "Warning" not in render_comparison(compare_runs(*runs), *runs, "validation")
    change_facts(b3, data__splits__validation__sha256="1" * 64)
    [warning] = compare_runs(*runs)["warnings"]  # an older run
    assert f"{a1} and {b3} have the same ids, but are different files" in warning and "cannot be checked" in warning
    assert f"Warning: {warning}" in render_comparison(compare_runs(*runs), *runs, "validation")
    assert compare_runs(*runs, split="test")["warnings"] == []
    for run in (a1, a2, b3, b4):
        change_facts(run, data__splits__validation__pixels_sha256="2" * 64)
    assert compare_runs(*runs)["warnings"] == []  # the same pixels in other files
    change_facts(b3, data__splits__validation__pixels_sha256="3" * 64)
    with pytest.raises(InputError, match="b3 have different validation images under the same ids: expected the same"):
        compare_runs(*runs)
    assert main(["compare", str(a1), "--with", str(b3)]) == 2


def test_a_model_that_was_trained_on_the_images_is_compared_with_a_warning(runs):
    _, (b3, _) = runs
    counts = {"images": 150, "train": 12, "validation": 0, "siblings": 0}
    change_facts(b3, data__overlap={"record": "complete", "validation": counts, "test": counts | {"train": 0}})
    said = f"12 of the 150 validation images were training images of the model of {b3}."
    assert compare_runs(*runs)["warnings"] == [said]
    assert compare_runs(*runs, split="test")["warnings"] == []


def test_runs_with_different_diagnoses_are_refused(runs, tmp_path):
    other = make_run(tmp_path / "two", names=("nv", "other"))
    with pytest.raises(InputError, match="two/.* has the diagnoses nv, other, .*a1/.* has akiec, .*expected the same"):
        compare_runs(runs[0], [other])


def test_unusable_and_repeated_runs_are_refused(runs, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="empty is not a run folder"):
        compare_runs(runs[0], [tmp_path / "empty"])
    with pytest.raises(InputError, match="a1 occurs twice"):
        compare_runs(runs[0], [runs[0][0] / ".." / "a1"])
    untested = make_run(tmp_path / "untested", images=(150, 0))
    with pytest.raises(InputError, match="untested has no test images: choose the other --split"):
        compare_runs([untested], runs[1], "test")


# ablation/


@pytest.fixture
def ablated(tmp_path):
    """A run whose model reads the patient: hiding the age changes nothing, the others more and more."""
    run = make_run(tmp_path / "run", images=(150, 0))
    intact = read_predictions(run / "predictions_validation.csv")
    (run / "ablation").mkdir()
    for at, name in enumerate(ABLATIONS):
        write_predictions(
            run / "ablation" / f"{name}.csv",
            intact._replace(probabilities=blurred(intact.probabilities, at, noise=at)),
        )
    return run


def test_the_report_has_paired_differences_for_ablations(ablated):
    write_report(ablated)
    report = json.loads((ablated / "report.json").read_text())
    assert tuple(report["ablation"]) == ABLATIONS
    zero = {"difference": 0.0, "interval": [0.0, 0.0]}
    intact = read_predictions(ablated / "predictions_validation.csv")
    for name, entries in report["ablation"].items():
        assert list(entries) == ["balanced_accuracy", "macro_f1", "accuracy"]
        path = ablated / "ablation" / f"{name}.csv"
        scores = compute_scores(read_predictions(path).probabilities, intact.labels)
        for metric, entry in entries.items():
            before = report["results"]["validation"]["metrics"][metric]["value"]
            assert entry["value"] == pytest.approx(scores[metric])
            if name == "age_hidden":
                assert entry == {"value": before} | zero
                continue
            assert entry["difference"] == pytest.approx(scores[metric] - before)
            assert entry["interval"][0] <= entry["difference"] <= entry["interval"][1]
    page = (ablated / "README.md").read_text(encoding="utf-8")
    assert re.search(r"^\| as they are \| \.\d{3} \|  \| \.\d{3} \|  \| \.\d{3} \|  \|$", page, flags=re.MULTILINE)
    assert re.search(r"^\| age hidden \|( \.\d{3} \| \+\.000 \[\+\.000, \+\.000\] \|){3}$", page, flags=re.MULTILINE)
    assert re.search(
        r"^\| another patient's \|( \.\d{3} \| -\.\d{3} \[-\.\d{3}, .*\] \|){3}$", page, flags=re.MULTILINE
    )


def test_training_with_patient_data_reports_ablations(tiny_checkpoint, synthetic_dir, tmp_path):
    flags = {"fusion": "mlp", "max_steps": 1, "eval_steps": 1, "save_steps": 1}
    train(tiny_flags(tiny_checkpoint("microsoft/resnet-50"), synthetic_dir, tmp_path / "run", **flags))
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert tuple(report["ablation"]) == ABLATIONS


def test_ablations_without_the_predictions_they_belong_to_are_refused(tmp_path):
    run = make_run(tmp_path / "run", images=(0, 130))
    (run / "ablation").mkdir()
    change_facts(run, training=None)  # else predictions_validation.csv is required anyway
    with pytest.raises(InputError, match="has an ablation folder but no predictions_validation.csv"):
        write_report(run)


def test_a_model_without_patient_data_has_no_ablation(tmp_path):
    run = make_run(tmp_path / "run", images=(40, 0))
    assert write_report(run)["ablation"] is None
    assert "patient data" not in (run / "README.md").read_text(encoding="utf-8")


def test_ablations_of_other_predictions_are_refused(ablated):
    path = ablated / "ablation" / "shuffled.csv"
    text = path.read_text()
    path.write_text(text.replace("ISIC_validation00003", "ISIC_x"))
    with pytest.raises(InputError, match="predictions_validation.csv and .*shuffled.csv have different images"):
        read_run(ablated)
    path.write_text(cell(3, 5, "x")(text))
    with pytest.raises(InputError, match="shuffled.csv, row 3: bkl is 'x'"):
        read_run(ablated)
    path.unlink()
    with pytest.raises(InputError, match="shuffled.csv does not exist: expected the file written by `ham-hf train`"):
        read_run(ablated)
