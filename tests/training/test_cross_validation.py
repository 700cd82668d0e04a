"""Cross-validation predicts every lesion once, by a model that never saw it, and resumes."""

import json
import shutil
from contextlib import nullcontext
from pathlib import Path

import pytest

from ham_hf.cli.main import main
from ham_hf.config.recipe import parse_recipe
from ham_hf.data.dataset import load_ham10000
from ham_hf.data.source import read_source
from ham_hf.evaluation.predictions import read_predictions
from ham_hf.evaluation.training_record import FILE, read_record
from ham_hf.hub.model_repo import stage
from ham_hf.system.errors import InputError
from ham_hf.training import child_run
from ham_hf.training.checkpointing import only_writer
from ham_hf.training.cross_validation import assign_folds, write_summary
from ham_hf.training.datasets import Data, read_data
from tests.helpers.fake_runs import change_facts
from tests.helpers.small_data import make_rows, read_rows, write_folder, write_split, write_table


def command(tiny: Path, data: Path, folder: Path, *more: str) -> list[str]:
    words = f"--folds 2 --output_dir {folder} --model_name_or_path {tiny} --data_dir {data} --split grouped"
    words += " --image_size 32 --max_steps 1 --report_to none --classes nevus_or_other"
    return ["cross-validate", *words.split(), *more]


@pytest.fixture(scope="module")
def done(tiny, synthetic_dir, tmp_path_factory, in_this_process):
    folder = tmp_path_factory.mktemp("runs") / "cv"
    assert main(command(tiny, synthetic_dir, folder)) == 0
    return folder


def test_every_lesion_is_predicted_once_by_a_model_that_never_saw_it(done):
    fold_of = {row["image_id"]: row["fold"] for row in read_rows(done / "folds.csv")}
    pooled = read_predictions(done / "predictions_validation.csv")
    assert sorted(pooled.image_ids) == sorted(image_id for image_id, fold in fold_of.items() if fold != "0")
    lesions: dict[str, set[str]] = {}
    for image_id, lesion_id in zip(pooled.image_ids, pooled.lesion_ids, strict=True):
        lesions.setdefault(lesion_id, set()).add(fold_of[image_id])
    assert all(len(folds) == 1 for folds in lesions.values())
    for fold in ("1", "2"):
        data = json.loads((done / f"fold_{fold}" / "run.json").read_text())["data"]["splits"]
        assert data["validation"]["images"] == sum(value == fold for value in fold_of.values())
        assert data["train"]["images"] == sum(value not in ("0", fold) for value in fold_of.values())
        assert data["test"]["images"] == 0 < sum(value == "0" for value in fold_of.values())
        assert not (done / f"fold_{fold}" / "predictions_test.csv").exists()
        assert json.loads((done / f"fold_{fold}" / "run.json").read_text())["training"]["best_step"] is None


def test_the_page_has_the_figures_of_the_folds_and_of_all_together(done):
    summary = json.loads((done / "cross_validation.json").read_text())
    page = (done / "cross_validation.md").read_text()
    low, high = summary["pooled"]["metrics"]["balanced_accuracy"]["interval"]
    assert low < high and f"{low:.3f}".lstrip("0") in page
    reports = [json.loads((done / f"fold_{fold}" / "report.json").read_text()) for fold in (1, 2)]
    values = [report["results"]["validation"]["metrics"]["accuracy"]["value"] for report in reports]
    assert [fold["accuracy"] for fold in summary["folds"]] == pytest.approx(values)
    assert not summary["synthetic"] and "synthetic" not in page  # a folder of images is what its owner says it is
    assert "always predicts nv" in page and "no diagnosis" in page


def test_an_ensemble_of_the_folds_is_evaluated_only_on_test_images(done, synthetic_dir, tmp_path, capsys):
    folder = tmp_path / "folds"
    words = ["ensemble", str(done), "--data_dir", str(synthetic_dir), "--output_dir", str(folder)]
    assert main(words) == 0
    report = json.loads((folder / "report.json").read_text())
    assert report["results"]["validation"] is None and report["results"]["test"]["images"] > 0
    assert [member["run"] for member in report["run"]["model"]["members"]] == ["fold_1", "fold_2"]
    trained = {row["image_id"] for row in read_rows(done / "folds.csv") if row["fold"] != "0"}
    assert {image.image_id for image in read_record(folder / FILE).images} == trained
    assert report["run"]["data"]["overlap"]["test"]["train"] == 0
    pooled = read_predictions(done / "predictions_validation.csv")
    assert report["run"]["model"]["calibration"] is None
    stage(folder, tmp_path / "staged", repo_id="you/folds")
    assert (tmp_path / "staged" / "split.csv").is_file()
    test_ids = {row["image_id"] for row in read_rows(folder / "predictions_test.csv")}
    assert not test_ids & set(pooled.image_ids)
    capsys.readouterr()
    assert main([*words[:-1], str(tmp_path / "again"), "--greedy", "accuracy"]) == 2
    assert "--greedy compares predictions for the same images, and each fold has its own" in capsys.readouterr().err


@pytest.fixture(scope="module")
def of_training(tiny, synthetic_dir, tmp_path_factory, in_this_process):
    """The folds of the training lesions only."""
    folder = tmp_path_factory.mktemp("runs") / "cv"
    assert main(command(tiny, synthetic_dir, folder, "--training_lesions_only")) == 0
    return folder


def test_folds_of_the_training_lesions_never_have_another_lesion(of_training, synthetic_dir):
    splits, _ = load_ham10000(synthetic_dir, "grouped", classes="nevus_or_other")
    expected = {name: set(splits[name]["image_id"][:]) for name in splits}
    lesions = {name: set(splits[name]["lesion_id"][:]) for name in splits}
    fold_of = {row["image_id"]: row["fold"] for row in read_rows(of_training / "folds.csv")}
    assert {image_id for image_id, fold in fold_of.items() if fold != "0"} == expected["train"]
    pooled = read_predictions(of_training / "predictions_train.csv")
    assert len(pooled.image_ids) == len(expected["train"]) and set(pooled.image_ids) == expected["train"]
    assert not (of_training / "predictions_validation.csv").exists()
    for fold in ("1", "2"):
        images = read_record(of_training / f"fold_{fold}" / FILE).images
        assert {image.image_id for image in images} == {name for name in expected["train"] if fold_of[name] != fold}
        assert not {image.lesion_id for image in images} & (lesions["validation"] | lesions["test"])
        own = read_predictions(of_training / f"fold_{fold}" / "predictions_validation.csv")
        assert set(own.image_ids) == {name for name, of in fold_of.items() if of == fold}
    split = {row["image_id"]: row["split"] for row in read_rows(of_training / "split.csv")}
    assert split == {image_id: name for name, ids in expected.items() for image_id in ids}


def test_the_page_says_that_the_lesions_are_those_of_training(of_training):
    page = " ".join((of_training / "cross_validation.md").read_text().split())
    assert page.startswith("# Cross-validation of the training lesions, 2 folds")
    assert "its validation and test images were used neither for training nor for evaluation" in page


def test_an_ensemble_of_folds_of_the_training_lesions_is_calibrated_and_evaluated_on_validation(
    of_training, synthetic_dir, tmp_path, capsys
):
    folder = tmp_path / "folds"
    words = ["ensemble", str(of_training), "--data_dir", str(synthetic_dir), "--output_dir", str(folder)]
    assert main(words) == 0
    report = json.loads((folder / "report.json").read_text())
    assert report["results"]["validation"]["images"] > 0 < report["results"]["test"]["images"]
    assert report["run"]["model"]["calibration"]["images"] == report["results"]["validation"]["images"]
    overlap = report["run"]["data"]["overlap"]["validation"]
    assert overlap["train"] == overlap["validation"] == overlap["siblings"] == 0
    card = (folder / "README.md").read_text()
    assert "The checkpoints of the members were chosen" not in card  # the last ones were taken
    assert "validation images, which makes their log loss and calibration error optimistic" in card
    assert main(["verify", str(folder), "--data_dir", str(synthetic_dir), "--split", str(folder / "split.csv")]) == 0
    capsys.readouterr()
    assert main([*words[:-1], str(tmp_path / "again"), "--greedy", "accuracy"]) == 2
    assert "--greedy compares predictions for the same images" in capsys.readouterr().err


def test_folds_teach_a_run_of_the_same_split_only_if_they_are_of_the_training_lesions(
    done, of_training, tiny, synthetic_dir, tmp_path
):
    def read(path: Path, *more: str) -> Data:
        words = ["--soft_labels", str(path), *more]
        return read_data(parse_recipe([*command(tiny, synthetic_dir, tmp_path / "run")[5:], *words]))

    data = read(of_training / "predictions_train.csv")
    assert data.soft_labels.facts["teachers"] == "cv" and len(data.soft_labels.targets) == len(data.splits["train"])
    with pytest.raises(InputError, match=r"fold_1 has seen .*, a validation image of this run \("):
        read(done / "predictions_validation.csv")
    with pytest.raises(InputError, match=r"fold_1 has seen .*, a validation image of this run \("):
        read(of_training / "predictions_train.csv", "--split_seed", "1")


def test_folds_of_the_training_lesions_refuse_hidden_duplicates_of_evaluated_lesions(tiny, tmp_path, capsys):
    rows = make_rows(35, 1)
    data = write_folder(tmp_path / "data", rows)
    split = {row["image_id"]: "train" for row in rows} | {rows[0]["image_id"]: "validation"}
    words = ["--split", write_split(tmp_path / "split.csv", split), "--training_lesions_only"]
    decisions = tmp_path / "decisions.csv"
    pair = f"{rows[0]['image_id']},{rows[7]['image_id']},same lesion"
    decisions.write_text(f"image_a,image_b,decision\n{pair}\n")
    words += ["--same_lesion", str(decisions)]
    assert main(command(tiny, data, tmp_path / "cv", *words)) == 2
    assert (
        "the lesions of 1 validation and test images are also in the training split, under other ids"
        in capsys.readouterr().err
    )
    recipe = parse_recipe([*command(tiny, data, tmp_path / "cv", *words[:2])[5:], *words[3:]])
    recipe.data.drop_hidden_duplicates = True
    folds = assign_folds(recipe, 2, training_lesions_only=True)[0].set_index("image_id")["fold"]
    assert folds[rows[7]["image_id"]] == folds[rows[0]["image_id"]] == 0 and (folds > 0).sum() == 33


def test_an_interrupted_cross_validation_of_the_training_lesions_resumes_only_as_such(
    of_training, tiny, synthetic_dir, tmp_path, capfd
):
    folder = shutil.copytree(of_training, tmp_path / "cv")
    for run in ("fold_1", "fold_2"):
        argv = json.loads((folder / run / "run.json").read_text())["argv"]
        change_facts(folder / run, argv=[word.replace(str(of_training), str(folder)) for word in argv])
    shutil.rmtree(folder / "fold_2")
    assert main(command(tiny, synthetic_dir, folder)) == 2
    assert "has the folds of another recipe, seed or data" in capfd.readouterr().err
    assert main(command(tiny, synthetic_dir, folder, "--training_lesions_only")) == 0
    for name in ("predictions_train.csv", "cross_validation.json"):
        assert (folder / name).read_bytes() == (of_training / name).read_bytes()


def test_the_page_says_that_the_images_are_synthetic(done, tmp_path):
    shutil.copytree(done, tmp_path / "cv")
    for run in ("fold_1", "fold_2"):
        change_facts(tmp_path / "cv" / run, data__synthetic=True)
    write_summary(tmp_path / "cv", 2)
    assert "MADE FROM SYNTHETIC IMAGES" in (tmp_path / "cv" / "cross_validation.md").read_text()


def test_folds_on_other_images_or_with_other_predictions_are_not_pooled(done, tmp_path):
    folder = shutil.copytree(done, tmp_path / "cv")
    of_first = folder / "fold_1" / "predictions_validation.csv"
    whole = of_first.read_text()
    of_first.write_text((folder / "fold_2" / "predictions_validation.csv").read_text())
    with pytest.raises(InputError, match="fold_1/predictions_validation.csv does not match the validation images"):
        write_summary(folder, 2)
    of_first.write_text(whole)
    change_facts(folder / "fold_2", data__images_sha256="0" * 64)
    with pytest.raises(
        InputError, match="fold_2 was trained on other images than .*fold_1: the data has changed since"
    ):
        write_summary(folder, 2)


def test_the_record_of_a_fold_lists_its_training_images(done):
    fold_of = {row["image_id"]: row["fold"] for row in read_rows(done / "folds.csv")}
    for fold in ("1", "2"):
        images = read_record(done / f"fold_{fold}" / FILE).images
        assert {image.image_id for image in images} == {name for name, of in fold_of.items() if of not in ("0", fold)}
        assert {image.split for image in images} == {"train"}  # nothing was chosen on the fold itself


def test_an_interrupted_cross_validation_resumes(done, tiny, synthetic_dir, tmp_path, capfd):
    folder = tmp_path / "cv"
    shutil.copytree(done, folder)
    # argv has the folder's name: as if fold 1 had been trained here
    for run in ("fold_1", "fold_2"):
        argv = json.loads((folder / run / "run.json").read_text())["argv"]
        change_facts(folder / run, argv=[word.replace(str(done), str(folder)) for word in argv])
    shutil.rmtree(folder / "fold_2")
    (folder / "cross_validation.md").unlink()
    (folder / "fold_1" / "training.json").write_text("{}")  # as after a kill just before it was removed
    before = (folder / "fold_1" / "run.json").stat().st_mtime_ns
    assert main(command(tiny, synthetic_dir, folder)) == 0
    assert (folder / "fold_1" / "run.json").stat().st_mtime_ns == before
    for name in ("predictions_validation.csv", "cross_validation.json", "cross_validation.md"):
        assert (folder / name).read_bytes() == (done / name).read_bytes()
    assert not list(folder.glob("fold_*/training.json"))


def test_unsuitable_settings_are_refused_before_training(done, tiny, synthetic_dir, tmp_path, capsys):
    for more, message in (
        (["--folds", "1"], "--folds is 1: expected at least 2"),
        (["--folds", "400"], "lesions: choose at most that many"),
        (["--early_stopping_patience", "1"], "watches the validation images, which are the fold to be evaluated"),
        (["--lr_scheduler_type", "greedy"], "lr_scheduler_type: greedy watches the validation images"),
        (["--stop_on_collapse", "true"], "stop_on_collapse watches the validation images"),
        (["--soft_labels", "x.csv"], "soft_labels come from models that have seen the fold to be evaluated"),
        (["--seed", "7"], "has the folds of another recipe, seed or data"),
        (["--learning_rate", "0.5"], "was trained with another recipe or other flags"),
        (["--same_lesion", "absent.csv"], "same_lesion is 'absent.csv': expected ham10000-2"),
    ):
        assert main(command(tiny, synthetic_dir, done, *more)) == 2
        assert message in capsys.readouterr().err


def test_folds_need_training_images_of_known_lesions(tiny, tmp_path, capsys):
    named = [{key: row[key] for key in row if key != "lesion_id"} for row in make_rows(14, 1)]
    data = write_folder(tmp_path / "data", named)
    write_table(tmp_path / "train.csv", [{"image_id": row["image_id"], "split": "train"} for row in named])
    for split, message in (
        ("grouped", "the lesions of 14 of 14 images are unknown"),
        ("all", "the split 'all' has no training or validation image"),
        (
            str(tmp_path / "train.csv"),
            "the lesions of 14 images are unknown, so a model could be evaluated on a lesion",
        ),
    ):
        assert main(command(tiny, data, tmp_path / "cv", "--split", split)) == 2
        assert message in capsys.readouterr().err


@pytest.mark.parametrize(("code", "ours"), [(4, 4), (3, 3), (2, 2), (1, 2), (-15, 3)])
def test_a_fold_that_fails_ends_the_command(code, ours, tiny, synthetic_dir, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(child_run, "run_child", lambda module, words: code)
    assert main(command(tiny, synthetic_dir, tmp_path / "cv")) == ours
    assert "fold_1" in capsys.readouterr().err
    assert not (tmp_path / "cv" / "fold_2").exists()


def test_a_second_cross_validation_is_refused_while_the_first_one_runs(tiny, synthetic_dir, tmp_path, capsys):
    with only_writer(tmp_path / "cv"):
        assert main(command(tiny, synthetic_dir, tmp_path / "cv")) == 3
        assert [path.name for path in (tmp_path / "cv").iterdir()] == [".lock"]
    assert "another process is writing in" in capsys.readouterr().err


def test_a_run_is_never_resumed_with_another_recipe(tmp_path, monkeypatch):
    run, recipe = tmp_path / "run", tmp_path / "recipe.yaml"

    def train(code, learning_rate, words, checkpoint=True):
        recipe.write_text(f"learning_rate: {learning_rate}\n")
        started = []
        monkeypatch.setattr(child_run, "run_child", lambda module, words: started.append(words) or code)
        with pytest.raises(InputError, match="run") if code else nullcontext():
            child_run.train_in_child(run, recipe, words)
        (run / "checkpoint-1").mkdir(exist_ok=True) if checkpoint else None
        return len(started)

    assert train(2, 1, [], checkpoint=False) == 1
    assert train(-9, 2, ["--seed", "3"]) == 1
    for learning_rate, words in ((1, ["--seed", "3"]), (2, [])):
        with pytest.raises(InputError, match="was trained with another recipe or other flags, or does not record"):
            train(0, learning_rate, words)
    assert train(0, 2, ["--seed", "3"]) == 1
    (run / "run.json").write_text("{}")
    with pytest.raises(InputError, match="run.json has no argv"):
        train(0, 2, ["--seed", "3"])


def test_duplicates_are_in_one_fold(tiny, synthetic_dir, tmp_path):
    """Twelve nevi are one lesion by the list: its images are in one fold, which without it they are not."""
    recipe = parse_recipe(["--model_name_or_path", str(tiny), "--data_dir", str(synthetic_dir), "--split", "grouped"])
    table = read_source(recipe.data).table
    nevi = table[table["dx"] == "nv"].drop_duplicates("lesion_id")["image_id"].tolist()[:12]
    decisions = tmp_path / "decisions.csv"
    pairs = [f"{nevi[0]},{other},same lesion" for other in nevi[1:]]
    decisions.write_text("\n".join(["image_a,image_b,decision", *pairs, ""]))
    found = []
    for same_lesion in ("none", str(decisions)):
        recipe.data.same_lesion = same_lesion
        folds = assign_folds(recipe, 2)[0].set_index("image_id")["fold"]
        found.append(len(set(folds[nevi]) - {0}))
    assert found[0] == 2 and found[1] <= 1
