"""Soft labels come only from models that have seen neither the lesion of the image nor a lesion that is evaluated."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from ham_hf.config.arguments import DataArguments
from ham_hf.data.dataset import load_checked
from ham_hf.data.same_lesion import read_same_lesion
from ham_hf.evaluation.predictions import read_predictions, write_predictions
from ham_hf.evaluation.training_record import FILE, TrainingImage, TrainingRecord, images_of, write_record
from ham_hf.labels import LABELS, NEVUS_OR_OTHER
from ham_hf.system.errors import InputError
from ham_hf.training.soft_labels import match
from ham_hf.training.teachers import read_teachers
from tests.helpers.fake_runs import replace
from tests.helpers.fake_teachers import add_seen, fold_of, make_teachers, pool
from tests.helpers.small_data import make_rows, write_folder


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_folder(tmp_path_factory.mktemp("data") / "images", make_rows())


@pytest.fixture(scope="module")
def loaded(data):
    return load_checked(DataArguments(str(data), split="grouped"))


@pytest.fixture(scope="module")
def made(data, tmp_path_factory) -> Path:
    return make_teachers(tmp_path_factory.mktemp("teachers") / "cv", data)


@pytest.fixture
def path(made, tmp_path) -> Path:
    """The predictions of a cross-validation that a test may change."""
    return shutil.copytree(made.parent, tmp_path / "cv") / made.name


def taught(path: Path, loaded, weight: float = 0.5, same_lesion: str | None = None):
    splits, _, checks = loaded
    return match(read_teachers(path, LABELS), splits, checks, read_same_lesion(same_lesion).pairs, weight)


def refusal(path: Path, loaded, same_lesion: str | None = None) -> str:
    with pytest.raises(InputError) as caught:
        taught(path, loaded, same_lesion=same_lesion)
    message = str(caught.value)
    assert "\n" not in message
    return message


def image_of(loaded, split: str, number: int = 0) -> TrainingImage:
    splits, _, checks = loaded
    return images_of(splits[split], checks, "train")[number]


def test_a_target_is_the_diagnosis_and_the_probabilities_in_their_shares(path, loaded):
    splits = loaded[0]
    predictions = read_predictions(path)
    for weight in (0.3, 1):
        soft = taught(path, loaded, weight)
        assert soft.targets.shape == (len(splits["train"]), 7)
        for row, (image_id, label) in enumerate(
            zip(splits["train"]["image_id"], splits["train"]["label"], strict=True)
        ):
            expected = weight * predictions.probabilities[predictions.image_ids.index(image_id)]
            expected[label] += 1 - weight
            np.testing.assert_allclose(soft.targets[row], expected, atol=1e-6)


def test_the_facts_name_the_teachers_and_the_record_has_all_that_they_have_seen(path, loaded):
    soft = taught(path, loaded)
    assert soft.facts["teachers"] == "cv" and soft.facts["weight"] == 0.5 and len(soft.facts["sha256"]) == 64
    assert {image.image_id for image in soft.record.images} == set(loaded[0]["train"]["image_id"][:])


# What the teachers have seen


def test_a_teacher_that_saw_the_image_is_refused(path, loaded):
    image = image_of(loaded, "train")
    run = fold_of(path, image.image_id)
    add_seen(run, image)
    assert f"{run} has seen {image.image_id}, whose soft label it predicted" in refusal(path, loaded)


def test_a_teacher_that_saw_a_copy_of_the_image_under_another_name_is_refused(path, loaded):
    image = image_of(loaded, "train")
    run = fold_of(path, image.image_id)
    add_seen(run, image._replace(image_id="copy", lesion_id="", sha256="0" * 64))
    assert f"{run} has seen copy, of the lesion of {image.image_id}, whose" in refusal(path, loaded)


def test_a_teacher_that_saw_a_sibling_is_refused(path, loaded):
    image = image_of(loaded, "train")
    run = fold_of(path, image.image_id)
    add_seen(run, TrainingImage("sibling", image.lesion_id, "train", "0" * 64, "1" * 64))
    message = refusal(path, loaded)
    assert f"{run} has seen sibling, of the lesion of " in message and "(2 such images)" in message


def test_a_teacher_that_chose_a_checkpoint_on_a_sibling_is_refused(path, loaded):
    image = image_of(loaded, "train")
    add_seen(
        fold_of(path, image.image_id), TrainingImage("sibling", image.lesion_id, "validation", "0" * 64, "1" * 64)
    )
    assert "has seen sibling, of the lesion of " in refusal(path, loaded)


def test_a_teacher_that_saw_a_known_duplicate_is_refused(path, loaded, tmp_path):
    """By the list of the run, an image of a fold shows the lesion of an image that the fold was trained on."""
    first = image_of(loaded, "train")
    run = fold_of(path, first.image_id)
    ids = loaded[0]["train"]["image_id"][:]
    other = next(image_id for image_id in ids if fold_of(path, image_id) != run)
    decisions = tmp_path / "decisions.csv"
    decisions.write_text(f"image_a,image_b,decision\n{first.image_id},{other},same lesion\n")
    assert "whose soft label it predicted" in refusal(path, loaded, str(decisions))


@pytest.mark.parametrize("split", ["validation", "test"])
def test_a_teacher_trained_on_an_evaluated_lesion_is_refused(split, path, loaded, tmp_path):
    image = image_of(loaded, split)
    unharmed = (path.parent / "fold_2" / FILE).read_bytes()
    add_seen(path.parent / "fold_2", image)
    message = refusal(path, loaded)
    assert f"fold_2 has seen {image.image_id}, a {split} image of this run" in message
    assert "expected the predictions_train.csv that `ham-hf cross-validate RECIPE --training_lesions_only`" in message
    (path.parent / "fold_2" / FILE).write_bytes(unharmed)
    sibling = TrainingImage("sibling", image.lesion_id, "train", "0" * 64, "1" * 64)
    add_seen(path.parent / "fold_1", sibling)
    assert "fold_1 has seen sibling, of the lesion of " in refusal(path, loaded)


def test_a_teacher_trained_on_a_known_duplicate_of_an_evaluated_lesion_is_refused(path, loaded, tmp_path):
    first, other = image_of(loaded, "train"), image_of(loaded, "validation")
    decisions = tmp_path / "decisions.csv"
    decisions.write_text(f"image_a,image_b,decision\n{first.image_id},{other.image_id},same lesion\n")
    message = refusal(path, loaded, str(decisions))
    assert f"of the lesion of {other.image_id}, a validation image of this run" in message


def test_teachers_of_another_split_are_refused(data, path):
    other = load_checked(DataArguments(str(data), split="grouped", split_seed=1))
    message = refusal(path, other)
    assert "has seen " in message and " image of this run (" in message


def test_a_lesion_that_two_tables_name_differently_is_known_by_an_image_in_both(path, loaded):
    image = image_of(loaded, "train")
    run = fold_of(path, image.image_id)
    [other] = {path.parent / "fold_1", path.parent / "fold_2"} - {run}
    add_seen(other, image._replace(image_id="copy", lesion_id="OTHER"))
    add_seen(run, TrainingImage("sibling", "OTHER", "train", "0" * 64, "1" * 64))
    assert f"{run} has seen sibling, of the lesion of " in refusal(path, loaded)


# Files that do not say what the teachers have seen


def test_a_file_without_records_beside_it_is_refused(path, loaded, tmp_path):
    alone = Path(shutil.copy(path, tmp_path / "alone.csv"))
    assert "nothing beside it says what the teachers have seen: expected the predictions_train.csv" in refusal(
        alone, loaded
    )


def test_predictions_of_a_single_run_are_refused(path, loaded, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    splits, _, checks = loaded
    write_record(run, TrainingRecord(images_of(splits["train"], checks, "train"), True))
    alone = Path(shutil.copy(path, run / "predictions_train.csv"))
    ids = sorted(splits["train"]["image_id"][:])
    expected = f"it was written by a model that has seen {ids[0]}, one of {len(ids)} such images"
    assert expected in refusal(alone, loaded)
    of_fold = path.parent / "fold_1" / "predictions_validation.csv"
    assert "it has the predictions of a single run: expected the predictions_train.csv" in refusal(of_fold, loaded)
    shutil.copy(path.parent / "fold_1" / "run.json", run)
    shutil.copy(path.parent / "split.csv", run)  # as that of an ensemble of folds
    assert "it was written by a model that has seen" in refusal(alone, loaded)


def test_a_fold_without_a_whole_record_is_refused(path, loaded):
    for name in ("run.json", FILE):
        file = path.parent / "fold_2" / name
        whole = file.read_bytes()
        file.unlink()
        assert "fold_2 does not record all images that its model has seen" in refusal(path, loaded)
        file.write_bytes(whole)
    add_seen(path.parent / "fold_2", complete=False)
    assert "fold_2 does not record all images that its model has seen" in refusal(path, loaded)


def test_probabilities_that_no_fold_predicted_are_refused(path, loaded):
    predictions = read_predictions(path)
    sharper = predictions.probabilities**2
    write_predictions(path, predictions._replace(probabilities=sharper / sharper.sum(axis=1, keepdims=True)))
    assert f"the probabilities of {predictions.image_ids[0]} are not those that a fold" in refusal(path, loaded)
    pool(path.parent)
    shutil.rmtree(path.parent / "fold_1")
    assert f"the probabilities of {predictions.image_ids[0]} are not those that a fold" in refusal(path, loaded)


# Files that do not fit


def edited(path: Path, edit) -> Path:
    path.write_text(edit(path.read_text()))
    return path


def without_last(text: str) -> str:
    return "".join(text.splitlines(keepends=True)[:-1])


def twice(text: str) -> str:
    return text + text.splitlines(keepends=True)[-1]


def probability(value: str):
    def edit(text: str) -> str:
        header, first, *rest = text.splitlines(keepends=True)
        cells = first.split(",")
        cells[3] = value
        return header + ",".join(cells) + "".join(rest)

    return edit


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        (without_last, "one of 1 such training images: expected a row for each of the"),
        (twice, "is already in row"),
        (probability("0.999"), "expected 1 (within 0.001)"),
        (probability("-0.2"), "akiec is '-0.2': expected a probability from 0 to 1"),
        (probability("nan"), "akiec is 'nan': expected a probability from 0 to 1"),
        (replace("akiec,bcc", "bcc,akiec"), "expected image_id,lesion_id,label, then akiec,bcc"),
        (lambda text: "", "columns are nothing: expected image_id,lesion_id,label"),
        (lambda text: "\0\x01PNG", "predictions_train.csv"),
        (lambda text: text.splitlines()[0] + "\n", "has a header and no row"),
    ],
    ids=["a row less", "a row twice", "sum", "negative", "nan", "order", "empty", "no CSV", "no row"],
)
def test_a_file_that_does_not_fit_is_refused(edit, expected, path, loaded):
    assert expected in refusal(edited(path, edit), loaded)


def test_a_missing_file_and_a_folder_are_refused(path, loaded):
    for name in (path.parent, path.parent / "absent.csv"):
        assert f"soft_labels is {str(name)!r}, which is not a file: expected" in refusal(name, loaded)


def test_teachers_of_two_classes_do_not_teach_seven_or_the_other_way_round(data, path, loaded, tmp_path):
    two = make_teachers(tmp_path / "two", data, "nevus_or_other")
    assert "columns are image_id,lesion_id,label,nv,other: expected image_id,lesion_id,label, then akiec" in refusal(
        two, loaded
    )
    with pytest.raises(InputError, match=r"label,akiec,.*: expected image_id,lesion_id,label, then nv,other"):
        read_teachers(path, NEVUS_OR_OTHER)
    assert read_teachers(two, NEVUS_OR_OTHER).predictions.names == NEVUS_OR_OTHER


def test_teachers_of_other_images_or_labels_are_refused(path, loaded, tmp_path):
    rows = [row | {"image_id": f"X{row['image_id']}", "lesion_id": f"X{row['lesion_id']}"} for row in make_rows(21, 1)]
    other = load_checked(DataArguments(str(write_folder(tmp_path / "other", rows)), split="grouped"))
    assert "is for other images: it has a row for none of the" in refusal(path, other)
    splits, facts, checks = loaded
    labels = splits["train"].features["label"]
    relabeled = splits["train"].map(lambda row: {"label": (row["label"] + 1) % 7}, features=splits["train"].features)
    changed = type(splits)({**splits, "train": relabeled})
    first = splits["train"][0]
    message = refusal(path, (changed, facts, checks))
    assert f"label of {first['image_id']} is {labels.int2str(first['label'])!r}, and in the data" in message
