"""The audit stops a run that would leak, and counts what it finds."""

import io
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from ham_hf.data import image_hashes
from ham_hf.data.audit import METHOD
from tests.helpers.small_data import ham10000_rows, load, refusal, write_folder, write_split, write_table


def image_of(folder, row):
    return folder / "images" / f"{row['image_id']}.jpg"


def test_duplicate_image_ids_are_refused(folder, rows):
    write_table(folder / "HAM10000_metadata.csv", [*rows, rows[4]])
    assert f"1 image ids in several rows: {rows[4]['image_id']}" in refusal(folder)


def test_a_lesion_with_two_diagnoses_is_refused(folder, rows):
    rows[1]["dx"] = "nv"
    write_table(folder / "HAM10000_metadata.csv", rows)
    assert "1 lesions with two diagnoses: LES_000 (akiec and nv)" in refusal(folder)


def test_a_lesion_in_two_splits_is_refused(folder, rows, tmp_path):
    splits = {row["image_id"]: "train" for row in rows} | {rows[-1]["image_id"]: "test"}
    split = write_split(tmp_path / "split.csv", splits)
    assert "1 lesions in two splits: LES_034 (test and train)" in refusal(folder, split=split)


@pytest.mark.parametrize("change", ["copy", "metadata", "container"])
def test_the_same_picture_under_two_lesions_is_refused(change, folder, rows):
    shutil.copy(image_of(folder, rows[0]), image_of(folder, rows[9]))
    with Image.open(image_of(folder, rows[0])) as image:
        if change == "container":
            image.save(image_of(folder, rows[9]).with_suffix(".png"))
            image_of(folder, rows[9]).unlink()
    if change == "metadata":
        data = image_of(folder, rows[0]).read_bytes()
        image_of(folder, rows[9]).write_bytes(data[:2] + b"\xff\xfe\x00\x06note" + data[2:])  # a JPEG comment
    assert "identical pixels under several ids: IMG_000_0 (LES_000) = IMG_004_1 (LES_004)" in refusal(folder)


def test_the_same_picture_of_unknown_lesions_is_refused(folder, rows):
    for row in rows:
        del row["lesion_id"]
    write_table(folder / "HAM10000_metadata.csv", rows)
    shutil.copy(image_of(folder, rows[0]), image_of(folder, rows[9]))
    assert "IMG_000_0 (lesion unknown) = IMG_004_1 (lesion unknown)" in refusal(folder, split="all")


def test_unused_rows_do_not_leak(folder, rows, tmp_path):
    """One image of each lesion is used; the others are the same pictures, of other diagnoses and near-duplicates."""
    shutil.copy(image_of(folder, rows[0]), image_of(folder, rows[9]))  # LES_000 used, LES_004's unused
    save_brighter(folder, rows[2]["image_id"], rows[5]["image_id"])
    rows[7]["dx"] = "nv"
    write_table(folder / "HAM10000_metadata.csv", rows)
    names = [row["image_id"] for row in rows]
    splits = {
        name: ("train", "validation", "test")[number // 2 % 3] if name.endswith("_0") else "unused"
        for number, name in enumerate(names)
    }
    split = write_split(tmp_path / "split.csv", splits)
    splits, facts = load(folder, split=split)
    assert sum(map(len, splits.values())) == 35
    assert facts["audit"]["near_duplicates"]["pairs_across_splits"] == 0 and facts["identical_images"] == []
    rows[7]["dx"] = rows[6]["dx"]
    write_table(folder / "HAM10000_metadata.csv", rows)
    splits = {name: ("train", "unused", "test")[number % 3] for number, name in enumerate(names)}
    both = write_split(tmp_path / "both.csv", splits)
    assert "lesions in two splits" in refusal(folder, split=both)


def test_missing_and_broken_images_do_not_leak(folder, rows, tmp_path):
    splits = {row["image_id"]: "test" if number in (0, 2) else "train" for number, row in enumerate(rows)}
    split = write_split(tmp_path / "split.csv", splits)
    assert "2 lesions in two splits" in refusal(folder, split=split)
    image_of(folder, rows[1]).unlink()
    image_of(folder, rows[3]).write_bytes(b"no image")
    splits, _ = load(folder, split=split, allow_missing_images=True)
    assert splits["test"]["image_id"][:] == ["IMG_000_0", "IMG_001_0"]


def test_the_same_picture_twice_in_a_lesion_is_refused(folder, rows):
    shutil.copy(image_of(folder, rows[0]), image_of(folder, rows[1]))
    assert "identical pixels under several ids: IMG_000_0 (LES_000) = IMG_000_1 (LES_000)" in refusal(folder)


def test_the_same_picture_twice_in_a_lesion_of_ham10000_is_counted(tmp_path):
    rows = ham10000_rows()
    folder = write_folder(tmp_path, rows)
    shutil.copy(image_of(folder, rows[0]), image_of(folder, rows[1]))
    _, facts = load(folder)
    assert facts["audit"]["identical_images"] == 1
    assert facts["identical_images"] == [["ISIC_0024306", "ISIC_0024307"]]


def two_lesions_apart(folder) -> tuple[str, str]:
    """An image of training and one of test."""
    splits, _ = load(folder)
    return splits["train"]["image_id"][0], splits["test"]["image_id"][0]


def save_brighter(folder, source: str, target: str) -> None:
    with Image.open(folder / "images" / f"{source}.jpg") as image:
        brighter = Image.fromarray((np.asarray(image) * 0.9 + 12).astype(np.uint8))
    brighter.save(folder / "images" / f"{target}.jpg", quality=92)


def test_a_near_duplicate_in_another_split_is_listed(folder):
    train, test = two_lesions_apart(folder)
    save_brighter(folder, train, test)
    audit = load(folder)[1]["audit"]
    assert audit["lesions_in_two_splits"] == audit["lesions_with_two_diagnoses"] == audit["duplicate_image_ids"] == 0
    near = audit["near_duplicates"]
    assert near["method"] == METHOD and near["pairs_across_splits"] == 1
    first, first_split, second, second_split, distance = near["pairs"][0]
    assert {(first, first_split), (second, second_split)} == {(train, "train"), (test, "test")}
    assert 0 <= distance <= 38


def test_hashes_identify_the_data_and_the_split(folder, rows):
    facts = load(folder)[1]
    other_seed = load(folder, split_seed=1)[1]
    assert other_seed["split_sha256"] != facts["split_sha256"]
    assert other_seed["images_sha256"] == facts["images_sha256"]
    save_brighter(folder, rows[0]["image_id"], rows[0]["image_id"])
    changed = load(folder)[1]
    assert changed["images_sha256"] != facts["images_sha256"] and changed["split_sha256"] == facts["split_sha256"]


def test_pixel_checks_are_cached_by_content(folder, monkeypatch):
    facts = load(folder)[1]
    with monkeypatch.context() as patch:  # a second run decodes nothing
        patch.setattr(Image, "open", None)
        assert load(folder)[1] == facts
    cache = image_hashes._cache_file()
    known = json.loads(cache.read_text())
    wrong = [json.dumps(dict.fromkeys(known, value)) for value in (7, None, [], ["a", "b"])]
    for damaged in ("damaged", "[]", *wrong):
        cache.write_text(damaged)
        assert load(folder)[1] == facts


def test_progressive_and_gray_images_are_accepted(folder, rows):
    with Image.open(image_of(folder, rows[0])) as image:
        gray = image.convert("L")
    data = io.BytesIO()
    gray.save(data, "JPEG", progressive=True)
    image_of(folder, rows[0]).write_bytes(data.getvalue())
    assert load(folder)[1]["audit"]["broken_images"] == 0


def test_lesion_ids_that_look_alike_are_counted(folder, rows):
    rows[0]["lesion_id"] = rows[1]["lesion_id"] = "les 034"
    for row in rows[-2:]:
        row["dx"] = rows[0]["dx"]
    write_table(folder / "HAM10000_metadata.csv", rows)
    assert load(folder)[1]["audit"]["lesion_ids_that_look_alike"] == 1


def test_the_real_images_pass_and_their_known_duplicates_are_found(ham10000_dir):
    splits, facts = load(ham10000_dir, split="study", allow_missing_images=True)
    there = {name: (split["images"], split["absent_images"]) for name, split in facts["splits"].items()}
    assert there == {"train": (6022, 0), "validation": (1992, 0), "test": (0, 2001)}
    assert len(splits["test"]) == 0 and splits["test"].features == splits["train"].features
    assert facts["splits"]["validation"]["classes"]["nv"] == 1339
    assert facts["audit"]["broken_images"] == 0
    # One photograph twice, under two ids of one lesion
    assert facts["identical_images"] == [["ISIC_0024366", "ISIC_0029861"], ["ISIC_0024777", "ISIC_0029938"]]
    # One lesion under two lesion ids
    assert [pair[::2] for pair in facts["audit"]["near_duplicates"]["pairs"]] == [
        ["ISIC_0025226", "ISIC_0030074", 12],
        ["ISIC_0027027", "ISIC_0029036", 38],
    ]
