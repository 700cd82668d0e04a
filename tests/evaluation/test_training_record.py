"""The images that a model was trained on: recorded with the run, and counted among those it is evaluated on."""

import json
import shutil
from pathlib import Path

import pytest
from datasets import Dataset
from PIL import Image

from ham_hf.config.arguments import DataArguments
from ham_hf.data.dataset import load_checked
from ham_hf.data.image_hashes import ImageCheck
from ham_hf.data.lesions import official_lesions
from ham_hf.evaluation.contamination import check_members, check_start, doubts_about, load_unseen
from ham_hf.evaluation.training_record import (
    FILE,
    TrainingImage,
    TrainingRecord,
    find_overlap,
    images_of,
    join_records,
    public_record,
    read_record,
    record_of,
    write_record,
)
from ham_hf.hub.model_repo import stage
from ham_hf.reporting.report import write_report
from ham_hf.system.errors import InputError
from tests.helpers.fake_runs import change_facts, make_run
from tests.helpers.small_data import ham10000_rows, make_rows, write_folder


def arguments(data: Path, split: str = "grouped", **changes) -> DataArguments:
    return DataArguments(str(data), split=split, **changes)


def make_trained(folder: Path, data: Path, split: str = "grouped", **changes) -> Path:
    """A run folder as a training on `data` leaves it, without the model."""
    run = make_run(folder)
    splits, facts, checks = load_checked(arguments(data, split, **changes))
    change_facts(run, data=facts)
    images = images_of(splits["train"], checks, "train") + images_of(splits["validation"], checks, "validation")
    write_record(run, TrainingRecord(images, True))
    return run


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("data") / "images", make_rows())


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    return make_trained(tmp_path_factory.mktemp("runs") / "run", data)


def copy_images(data: Path, folder: Path, rows: list[dict], names: list[str], suffix: str = ".jpg") -> Path:
    """A folder of the images called `names` in `data`, under the ids that `rows` give them."""
    write_folder(folder, rows)
    for row, name in zip(rows, names, strict=True):
        source, target = data / "images" / f"{name}.jpg", folder / "images" / f"{row['image_id']}.jpg"
        target.unlink()
        if suffix == ".jpg":
            shutil.copyfile(source, target)
        else:
            Image.open(source).save(target.with_suffix(suffix))
    return folder


def trained_ids(run: Path, split: str = "train") -> set[str]:
    return {image.image_id for image in read_record(run / FILE).images if image.split == split}


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_training_images_are_counted_under_other_names_and_in_other_files(trained, data, tmp_path, caplog, suffix):
    rows = [row for row in make_rows() if row["image_id"] != "IMG_000_0"]
    names = [row["image_id"] for row in rows]
    renamed = [row | {"image_id": f"c{row['image_id'][::-1]}", "lesion_id": f"c{row['lesion_id']}"} for row in rows]
    more = [row | {"image_id": f"m{row['image_id']}", "lesion_id": f"m{row['lesion_id']}"} for row in make_rows(7)]
    clinic = copy_images(data, tmp_path / "clinic", renamed, names, suffix)
    for number, row in enumerate(more):
        Image.effect_noise((80, 60), 10 + number).save(clinic / "images" / f"{row['image_id']}.png")
    table = clinic / "HAM10000_metadata.csv"
    table.write_text(table.read_text() + "".join(",".join(row.values()) + "\n" for row in more))

    _, facts = load_unseen(arguments(clinic, "all"), str(trained))
    train, chosen = (len(trained_ids(trained, split) & set(names)) for split in ("train", "validation"))
    left_out = "IMG_000_0" in trained_ids(trained)
    assert facts["overlap"]["test"] == {"images": 83, "train": train, "validation": chosen, "siblings": 0} and left_out
    assert facts["overlap"]["record"] == "complete" and facts["seen_before"] is None
    assert f"{train} of the 83 test images were training images of {trained}." in caplog.messages
    assert f"{chosen} of the 83 test images were validation images of {trained}, on which" in caplog.text


def test_the_own_split_of_a_folder_that_differs_by_one_image_is_refused_with_the_count(trained, data, tmp_path):
    rows = make_rows()[2:]
    other = copy_images(data, tmp_path / "other", rows, [row["image_id"] for row in rows])
    splits, _, _ = load_checked(arguments(other))
    both = trained_ids(trained) & set(splits["validation"]["image_id"][:])
    of = len(splits["validation"])
    said = rf"^{len(both)} of the {of} validation images were training images of .*: to evaluate it anyway"
    with pytest.raises(InputError, match=said):
        load_unseen(arguments(other, ""), str(trained))
    assert both


def test_the_models_own_split_is_evaluated_without_a_warning(trained, data, caplog):
    _, facts = load_unseen(arguments(data, ""), str(trained))
    images = len(trained_ids(trained, "validation"))
    assert facts["split"] == "grouped" and not caplog.messages
    nothing = {"train": 0, "validation": 0, "siblings": 0}
    assert facts["overlap"]["test"] == {"images": facts["splits"]["test"]["images"], **nothing}
    assert facts["overlap"]["validation"] == {"images": images, **nothing, "validation": images}


def test_other_images_of_lesions_that_were_trained_on_are_counted_apart(data, tmp_path, caplog):
    first = [row for row in make_rows() if row["image_id"].endswith("_0")]
    run = make_trained(tmp_path / "run", copy_images(data, tmp_path / "a", first, [row["image_id"] for row in first]))
    _, facts = load_unseen(arguments(data, "all"), str(run))
    counts = facts["overlap"]["test"]
    assert counts["train"] == counts["siblings"] == len(trained_ids(run)) > 0
    assert f"{counts['siblings']} more test images show lesions of which {run} was trained on another" in caplog.text
    # Images of unknown lesions have their own id in the lesion's place
    unknown = [row | {"lesion_id": row["image_id"]} for row in make_rows()]
    other = copy_images(data, tmp_path / "b", unknown, [row["image_id"] for row in unknown])
    assert load_unseen(arguments(other, "all"), str(run))[1]["overlap"]["test"]["siblings"] == 0


def test_an_image_in_both_tables_says_which_lesion_is_which(trained, data):
    splits, _, checks = load_checked(arguments(data, "all"))
    renamed = splits["test"].map(lambda row: {"lesion_id": f"IL_{row['lesion_id']}"}, remove_columns="lesion_id")
    record = read_record(trained / FILE)
    some = TrainingRecord([image for image in record.images if image.image_id.endswith("_0")], True)
    counts = find_overlap(some, {"validation": renamed.select([]), "test": renamed}, checks)["test"]
    assert counts["siblings"] == counts["train"] == len(trained_ids(trained)) / 2


def test_the_lesions_of_ham10000_are_the_same_under_the_names_of_the_archive(tmp_path):
    first, second = "ISIC_0027419", "ISIC_0025030"  # of HAM_0000118, which the ISIC Archive calls IL_…
    assert official_lesions()[first] == official_lesions()[second]
    image = TrainingImage(first, "HAM_0000118", "train", "0" * 64, "1" * 64)
    rows = [row | {"image_id": name, "lesion_id": "IL_1"} for name, row in zip([second], make_rows(1, 1), strict=True)]
    splits, _, checks = load_checked(arguments(write_folder(tmp_path, rows), "all"))
    assert find_overlap(TrainingRecord([image], True), splits, checks)["test"]["siblings"] == 1


def test_an_official_image_is_the_same_one_in_another_size(tmp_path):
    image = TrainingImage("ISIC_0024306", "HAM_0000550", "train", "0" * 64, "1" * 64)
    rows = ham10000_rows(7, 1)
    splits, _, checks = load_checked(arguments(write_folder(tmp_path, rows), "all"))
    assert find_overlap(TrainingRecord([image], True), splits, checks)["test"]["train"] == 1
    clinic = image._replace(image_id="IMG_1")
    assert find_overlap(TrainingRecord([clinic], True), splits, checks)["test"]["train"] == 0


def test_a_checkpoint_of_an_unfinished_run_has_the_record_of_its_run(trained, data, tmp_path, caplog):
    run = shutil.copytree(trained, tmp_path / "run")
    (run / "run.json").unlink()
    (run / "checkpoint-7").mkdir()
    _, facts = load_unseen(arguments(data, "all"), str(run / "checkpoint-7"))
    assert facts["overlap"]["test"]["train"] == len(trained_ids(trained)) and caplog.messages


def test_a_training_does_not_start_from_a_model_that_has_seen_its_validation_images(trained, data):
    splits, facts, checks = load_checked(arguments(data, split_seed=1))
    with pytest.raises(InputError, match=r"validation images were training images of .* Use the --split of its"):
        check_start(str(trained), None, splits, facts, checks)
    splits, facts, checks = load_checked(arguments(data))
    assert check_start(str(trained), None, splits, facts, checks) == read_record(trained / FILE)
    assert facts["overlap"]["test"]["train"] == 0 and facts["seen_before"] is None


def test_lesions_are_recorded_and_an_unknown_one_is_left_blank():
    rows = {"image_id": ["a", "b", "c", "d"], "lesion_id": ["a", "b", "b", "lesion d"]}
    checks = {name: ImageCheck(name * 64, None, f"{number}" * 64, None) for number, name in enumerate("abcd")}
    images = images_of(Dataset.from_dict(rows), checks, "train")
    assert [image.lesion_id for image in images] == ["", "b", "b", "lesion d"]
    assert images[3] == TrainingImage("d", "lesion d", "train", "d" * 64, "3" * 64)


def test_a_sibling_of_an_image_that_only_the_record_has_is_counted():
    record = TrainingRecord([TrainingImage("x", "lesion x", "train", "0" * 64, "1" * 64)], True)
    test = Dataset.from_dict({"image_id": ["y", "z"], "lesion_id": ["lesion x", "z"]})
    checks = {name: ImageCheck(name * 64, None, name * 64, None) for name in "yz"}
    overlap = find_overlap(record, {"validation": test.select([]), "test": test}, checks)
    assert overlap["test"] == {"images": 2, "train": 0, "validation": 0, "siblings": 1}


def test_a_record_has_what_came_before_and_training_counts_more_than_validation():
    image = TrainingImage("a", "", "validation", "0" * 64, "1" * 64)
    other = image._replace(image_id="b", split="train")
    before = TrainingRecord([image, other], False)
    joined = join_records([TrainingRecord([image._replace(split="train")], True), before])
    assert joined == TrainingRecord([image._replace(split="train"), other], False)
    # The other way around too, where the image that was trained on sorts after the one that was validated on
    validated = image._replace(lesion_id="")
    trained = image._replace(lesion_id="lesion", split="train")
    assert join_records([TrainingRecord([validated, trained], True)]).images == [trained]


def test_an_ensemble_has_the_images_of_its_members_and_of_what_these_began_with(trained, data, tmp_path):
    member = shutil.copytree(trained, tmp_path / "member")
    earlier = TrainingImage("x", "", "train", "0" * 64, "1" * 64)
    record = read_record(trained / FILE)
    write_record(member, join_records([record, TrainingRecord([earlier], True)]))
    splits, facts, checks = load_checked(arguments(data))
    assert set(check_members([trained, member], splits, facts, checks).images) == {*record.images, earlier}
    # One that began with a model that was trained on a test image
    row = images_of(splits["test"].select([0]), checks, "train")
    write_record(member, join_records([record, TrainingRecord(row, True)]))
    change_facts(member, data__splits__test__sha256="0" * 64)
    with pytest.raises(InputError, match="^1 of the .* test images was a training image of .*member"):
        check_members([trained, member], splits, facts, checks)
    (member / FILE).unlink()  # an older run: its training images are these
    assert len(check_members([member], splits, facts, checks).images) == len(splits["train"])


def test_a_claim_about_training_images_is_doubted_with_the_count(trained, data, tmp_path):
    splits, facts, checks = load_checked(arguments(data, "all"))
    [(split, doubt)] = doubts_about(str(trained), None, splits, facts, checks).items()
    assert split == "test" and doubt.startswith(f"{len(trained_ids(trained))} of the 70 test images were training")
    assert doubts_about(str(trained), None, *load_checked(arguments(data))) == {}
    # Other training images by name, but none of the evaluated ones among them
    rows = [row | {"image_id": f"n{row['image_id']}", "lesion_id": f"n{row['lesion_id']}"} for row in make_rows()]
    for number, row in enumerate(rows):
        (tmp_path / "images").mkdir(exist_ok=True)
        Image.effect_noise((80, 60), 10 + number).save(tmp_path / "images" / f"{row['image_id']}.png")
    (tmp_path / "HAM10000_metadata.csv").write_text(
        "\n".join([",".join(rows[0]), *(",".join(row.values()) for row in rows)]) + "\n"
    )
    assert doubts_about(str(trained), None, *load_checked(arguments(tmp_path))) == {}


# Without --split


def test_images_that_the_model_cannot_have_seen_are_all_evaluated(trained, data, tmp_path, caplog):
    rows = [row | {"image_id": f"ISIC_{36000 + number:07d}"} for number, row in enumerate(make_rows(9, 3))]
    write_folder(tmp_path / "new", rows)
    for path in (tmp_path / "new" / "images").iterdir():  # other images than those of `data`
        Image.open(path).transpose(Image.Transpose.ROTATE_180).save(path.with_suffix(".png"))
        path.unlink()
    args = arguments(tmp_path / "new", "")
    splits, facts = load_unseen(args, str(trained))
    assert facts["split"] == args.split == "all" and facts["split_by_default"] and len(splits["test"]) == 27
    assert f"no image is from HAM10000 or in the training record of {trained}: using split all" in caplog.messages
    assert load_unseen(arguments(tmp_path / "new", ""), str(tmp_path))[1]["split"] == "all"  # a model without a run
    assert "split_by_default" not in load_unseen(arguments(tmp_path / "new", "all"), str(trained))[1]
    # Where it may have seen them, as far as an older run says
    old = shutil.copytree(trained, tmp_path / "old", ignore=shutil.ignore_patterns(FILE))
    with pytest.raises(InputError, match="it may have seen the evaluated ones: if it has not, set --split"):
        load_unseen(arguments(tmp_path / "new", ""), str(old))
    change_facts(old, data__split="study")  # HAM10000's images alone
    assert load_unseen(arguments(tmp_path / "new", ""), str(old))[1]["split"] == "all"


def test_ham10000s_images_keep_the_study_split(trained, tmp_path):
    rows = ham10000_rows(7, 1)
    write_folder(tmp_path, rows)
    (tmp_path / "model").mkdir()
    assert load_unseen(arguments(tmp_path, ""), str(tmp_path / "model"))[1]["split"] == "study"


# The report, and what is published


def test_the_report_and_the_card_say_what_was_seen(tmp_path):
    run = make_run(tmp_path / "run")
    counts = {"images": 130, "train": 84, "validation": 1, "siblings": 3}
    of_validation = {"images": 150, "train": 0, "validation": 0, "siblings": 0}
    change_facts(run, data__overlap={"record": "complete", "validation": of_validation, "test": counts})
    write_report(run)
    model = "the checkpoint that this training started from"
    for name in ("report.html", "README.md"):
        text = (run / name).read_text()
        assert f"84 of the 130 test images were training images of {model}." in text
        assert f"3 more test images show lesions of which {model} was trained on another image." in text
        assert f"1 of the 130 test images was a validation image of {model}, on which" in text
    assert json.loads((run / "report.json").read_text())["run"]["data"]["overlap"]["test"] == counts
    change_facts(run, data__overlap={"record": "complete", "validation": of_validation, "test": of_validation})
    write_report(run)
    for name in ("report.html", "README.md"):
        assert f"None of the evaluated images was a training image of {model}" in (run / name).read_text()
        assert "⚠" not in (run / name).read_text()


def test_hashes_of_a_clinics_photographs_are_not_published(trained, data, tmp_path, caplog):
    run = shutil.copytree(trained, tmp_path / "run")
    shutil.rmtree(run / "plots", ignore_errors=True)
    for path in run.glob("predictions_*.csv"):
        path.unlink()
    change_facts(run, training__do_predict=False)
    record = read_record(run / FILE)
    official = record.images[0]._replace(image_id="ISIC_0024306")
    write_record(run, TrainingRecord([*record.images, official], True))
    (run / "README.md").write_text("# card\n")
    notes = stage(run, tmp_path / "staged", repo_id="you/model")
    assert notes[0].startswith(f"{FILE}: 1 of {len(record.images) + 1} images are from HAM10000 and are published")
    assert record_of(str(tmp_path / "staged")) == TrainingRecord([official], False)
    assert len(read_record(run / FILE).images) == len(record.images) + 1
    _, facts = load_unseen(arguments(data, "all"), str(tmp_path / "staged"))
    assert facts["overlap"]["record"] == "incomplete" and facts["seen_before"] == len(trained_ids(run)) - 1
    assert "it has seen some of the evaluated images" in caplog.text  # the same images are split otherwise

    write_record(run, record)  # a clinic's alone
    notes = stage(run, tmp_path / "clinic", repo_id="you/model")
    assert notes[0].startswith(f"{FILE}: 0 of ") and record_of(str(tmp_path / "clinic")) is None
    published = "".join(path.read_text() for path in (tmp_path / "clinic").rglob("*") if path.is_file())
    assert not any(image.sha256 in published or image.pixels_sha256 in published for image in record.images)
    write_record(run, TrainingRecord([official], True))
    assert not any(note.startswith(FILE) for note in stage(run, tmp_path / "public", repo_id="you/model"))
    assert record_of(str(tmp_path / "public")) == TrainingRecord([official], True)


def test_what_is_published_is_complete_where_all_of_it_is_ham10000s():
    image = TrainingImage("ISIC_0034320", "HAM_1", "train", "0" * 64, "1" * 64)
    assert public_record(TrainingRecord([image], True)) == TrainingRecord([image], True)
    assert public_record(TrainingRecord([image, image._replace(image_id="ISIC_0034321")], True)).complete is False


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("image_id,", "image,", "has the columns image,lesion_id,split"),
        (",train,", ",test,", "row 2: split is 'test': expected one of train, validation"),
        ("0000", "0", "row 2: sha256 is '0"),
        (",train,", ",", "row 2 has 4 values: expected 5"),
    ],
)
def test_a_record_that_no_training_wrote_is_refused(tmp_path, old, new, said):
    write_record(tmp_path, TrainingRecord([TrainingImage("a", "b", "train", "0" * 64, "1" * 64)], False))
    path = tmp_path / FILE
    assert read_record(path).complete is False
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(InputError, match=said):
        read_record(path)
