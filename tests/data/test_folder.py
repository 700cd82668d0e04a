"""Folders in the layouts that people have, and those that are refused."""

import csv
import re
import shutil
import zipfile
from functools import partial
from pathlib import Path

import pytest

from ham_hf.data.schema import canonical_features
from ham_hf.data.spreadsheet import read_column_names, read_table
from ham_hf.labels import FULL_NAMES, LABELS
from tests.helpers.small_data import load, refusal, write_folder, write_image, write_table


def all_ids(splits) -> list[str]:
    return sorted(image_id for split in splits.values() for image_id in split["image_id"][:])


def test_a_folder_becomes_three_splits_of_canonical_columns(folder, rows):
    splits, facts = load(folder)
    assert list(splits) == ["train", "validation", "test"]
    assert all(split.features == canonical_features() for split in splits.values())
    assert all_ids(splits) == sorted(row["image_id"] for row in rows)
    first = splits["train"][0]
    row = next(row for row in rows if row["image_id"] == first["image_id"])
    assert splits["train"].features["label"].int2str(first["label"]) == row["dx"]
    assert (first["age"], first["sex"], first["localization"]) == (float(row["age"]), "female", "back")
    assert first["image"].size == (80, 60)
    assert facts["kind"] == "folder" and facts["source"] == str(folder) and not facts["synthetic"]


def test_images_on_disk_stay_paths(folder):
    splits, _ = load(folder)
    cell = splits["train"].with_format("arrow")[0]["image"][0].as_py()
    assert cell["bytes"] is None and cell["path"].endswith(".jpg")


def test_the_order_of_rows_changes_nothing(folder, rows):
    splits, facts = load(folder)
    write_table(folder / "HAM10000_metadata.csv", rows[::-1])
    again, other_facts = load(folder)
    assert facts == other_facts
    assert all(again[name]["image_id"][:] == splits[name]["image_id"][:] for name in splits)


@pytest.mark.parametrize(
    ("name", "delimiter", "quoting"),
    [
        ("HAM10000_metadata", ",", csv.QUOTE_MINIMAL),
        ("HAM10000_metadata", "\t", csv.QUOTE_ALL),
        ("HAM10000_metadata.tab", "\t", csv.QUOTE_NONNUMERIC),
        ("ham10000_metadata.csv", ",", csv.QUOTE_ALL),
    ],
)
def test_the_table_may_be_as_dataverse_exports_it(name, delimiter, quoting, folder, rows):
    _, facts = load(folder)
    (folder / "HAM10000_metadata.csv").unlink()
    write_table(folder / name, rows, delimiter, quoting)
    assert load(folder)[1] == facts


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_the_table_may_be_saved_by_a_spreadsheet_program(delimiter, newline, encoding, tmp_path):
    text = delimiter.join(["image_id", "age", "note"]) + newline
    text += delimiter.join(["a", '"45,5"', '"left, upper; back"']) + newline + delimiter.join(["b", "", "é"]) + newline
    path = tmp_path / "table.csv"
    path.write_bytes(text.encode(encoding))
    table = read_table(path)
    assert table.to_dict("list") == {"image_id": ["a", "b"], "age": ["45.5", ""], "note": ["left, upper; back", "é"]}
    assert list(table.index) == [2, 3]
    assert read_column_names(path) == ["image_id", "age", "note"]


def test_excels_separator_line_is_read(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("sep=;\nimage_id;split\na,b;train\n")
    assert read_table(path).to_dict("index") == {3: {"image_id": "a,b", "split": "train"}}


@pytest.mark.parametrize("place", [".", "images", "HAM10000_IMAGES_PART_1", "archive/ham10000_images_part_1"])
def test_images_may_be_in_any_folder(place, tmp_path, rows):
    splits, _ = load(write_folder(tmp_path / "data", rows, images=place))
    assert len(all_ids(splits)) == len(rows)


@pytest.mark.parametrize("suffix", [".JPG", ".jpeg"])
def test_images_may_have_other_suffixes(suffix, folder, rows):
    for path in (folder / "images").iterdir():
        path.rename(path.with_suffix(suffix))
    assert len(all_ids(load(folder)[0])) == len(rows)


def write_zip(path: Path, name: str, content: bytes) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(name, content)


def zip_images(folder, rows):
    """Move the images into the two official zips, half each, with what macOS adds."""
    half = len(rows) // 2
    for part, members in enumerate((rows[:half], rows[half:]), start=1):
        with zipfile.ZipFile(folder / f"HAM10000_images_part_{part}.zip", "w") as archive:
            archive.writestr("__MACOSX/._readme.txt", "x")
            for row in members:
                archive.write(folder / "images" / f"{row['image_id']}.jpg", f"part/{row['image_id']}.jpg")
            archive.writestr("../../outside.jpg", "not asked for")
    shutil.rmtree(folder / "images")


def test_images_are_read_out_of_the_two_zips(folder, rows):
    _, facts = load(folder)
    zip_images(folder, rows)
    before = sorted(folder.parent.rglob("*"))
    splits, zipped = load(folder)
    assert zipped == facts
    assert splits["test"][0]["image"].size == (80, 60)
    assert sorted(folder.parent.rglob("*")) == before  # nothing is unpacked


def test_a_damaged_member_of_a_zip_is_named(folder, rows):
    zip_images(folder, rows)
    archive = folder / "HAM10000_images_part_1.zip"
    data = bytearray(archive.read_bytes())
    start = data.index(rows[3]["image_id"].encode()) + 200
    data[start : start + 20] = bytes(20)
    archive.write_bytes(data)
    assert rows[3]["image_id"] in refusal(folder)


def test_a_file_that_only_claims_to_be_a_zip_is_named(folder):
    (folder / "HAM10000_images_part_1.zip").write_bytes(b"<html>not found</html>")
    assert re.search("HAM10000_images_part_1.zip is not a readable zip file .*: download it again", refusal(folder))


def test_missing_values_have_one_spelling(tmp_path, rows):
    for row, age in zip(rows, ("", "nan", "NA", "0.0", "0"), strict=False):
        row.update(age=age, sex="", localization="NaN", dx_type="")
    splits, _ = load(write_folder(tmp_path / "data", rows))
    seen = {item["image_id"]: item for split in splits.values() for item in split.remove_columns("image")}
    items = [seen[row["image_id"]] for row in rows[:5]]
    assert [item["age"] for item in items] == [None, None, None, 0.0, 0.0]
    assert {(item["sex"], item["localization"], item["dx_type"]) for item in items} == {("unknown", "unknown", None)}


@pytest.mark.parametrize(
    ("column", "value", "expected"),
    [
        ("dx", "freckle", "the diagnosis is 'freckle', expected one of akiec, bcc, bkl, df, mel, nv, vasc"),
        ("dx", "", "the diagnosis is missing, expected one of akiec"),
        ("age", "abc", "age is 'abc', expected a number of years"),
        ("age", "-5", "age is '-5', expected 0 to 120"),
        ("age", "500", "age is '500', expected 0 to 120"),
        ("sex", "blue", "sex is 'blue', expected male, female or unknown"),
        ("image_id", "", "image_id is missing"),
    ],
)
def test_a_wrong_value_is_named_with_its_line(column, value, expected, folder, rows):
    rows[7][column] = value
    write_table(folder / "HAM10000_metadata.csv", rows)
    message = refusal(folder)
    assert "HAM10000_metadata.csv, line 9: " in message and expected in message


@pytest.mark.parametrize("column", ["image_id", "dx", "dx_type", "age", "sex", "localization"])
def test_a_missing_column_is_named_with_those_found(column, folder, rows):
    write_table(folder / "HAM10000_metadata.csv", [{k: v for k, v in row.items() if k != column} for row in rows])
    message = refusal(folder)
    assert f"lacks the columns {column}: it has " in message


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "is empty"),
        (b"lesion_id,image_id,dx,dx_type,age,sex,localization\n", "has a header and no rows"),
        (b"\xff\xfe\x00garbag", "is not a readable table"),
        ("lésion_id,image_id\n".encode("latin-1"), "line 1 is not UTF-8 text (byte 0xe9)"),
        (b"PK\x03\x04\x14\x00", "is a workbook of a spreadsheet program, not a text table: save it as CSV"),
        (b'a,b\n"1,2\n', "is not a readable table"),
    ],
)
def test_unreadable_tables_are_named(content, expected, folder):
    (folder / "HAM10000_metadata.csv").write_bytes(content)
    message = refusal(folder)
    assert "HAM10000_metadata.csv" in message and expected in message


def test_a_folder_without_a_table_says_what_was_looked_for(tmp_path):
    (tmp_path / "notes.txt").touch()
    message = refusal(tmp_path)
    assert "looked for HAM10000_metadata.csv" in message and "found notes.txt" in message


def test_diagnoses_and_ids_may_be_spelled_differently(folder, rows):
    _, facts = load(folder)
    for number, row in enumerate(rows):
        row["dx"] = row["dx"].upper() if number % 2 else FULL_NAMES[row["dx"]]
        row["image_id"] += (".jpg", ".JPG", ".png")[number % 3]
    write_table(folder / "HAM10000_metadata.csv", rows)
    assert load(folder)[1] == facts
    write_table(folder / "split.csv", [{"image_id": row["image_id"], "split": "test"} for row in rows])
    assert load(folder, split=str(folder / "split.csv"))[1]["splits"]["test"]["images"] == len(rows)


# Folders as the builder `imagefolder` of datasets reads them


@pytest.mark.parametrize("place", [".", "train"])
def test_one_folder_per_diagnosis_is_read(place, tmp_path, rows):
    folder = write_folder(tmp_path, rows)
    for number, row in enumerate(rows):
        name = row["dx"] if number % 2 else FULL_NAMES[row["dx"]].split(" /")[0]
        (folder / place / name).mkdir(parents=True, exist_ok=True)
        (folder / "images" / f"{row['image_id']}.jpg").rename(folder / place / name / f"{row['image_id']}.jpg")
    shutil.rmtree(folder / "images")
    (folder / "HAM10000_metadata.csv").unlink()
    splits, facts = load(folder, split="all")
    test = splits["test"]
    of_image = {row["image_id"]: row["dx"] for row in rows}
    labels = zip(test["image_id"], test["label"], strict=True)
    assert {image_id: LABELS[label] for image_id, label in labels} == of_image
    assert facts["kind"] == "imagefolder" and facts["splits"]["test"]["unknown_lesions"] == len(rows)
    assert "lesions of 70 of 70 images are unknown" in refusal(folder)


def test_files_with_the_same_name_in_two_class_folders_are_two_images(tmp_path):
    for seed, name in enumerate(["nv", "mel"]):
        (tmp_path / name).mkdir()
        write_image(tmp_path / name / "001.jpg", seed)
        write_image(tmp_path / name / f"ISIC_002430{6 + seed}.jpg", seed + 2)
    splits, _ = load(tmp_path, split="all")
    assert splits["test"]["image_id"][:] == ["ISIC_0024306", "ISIC_0024307", "mel/001", "nv/001"]
    assert [LABELS[label] for label in splits["test"]["label"]] == ["nv", "mel", "mel", "nv"]


def test_class_folders_that_are_not_diagnoses_require_a_map(tmp_path):
    for seed, name in enumerate(["nv", "mel", "scar"]):
        (tmp_path / name).mkdir()
        write_image(tmp_path / name / f"{name}.jpg", seed)
    assert "the diagnosis is 'scar'" in refusal(tmp_path, split="all")
    _, facts = load(tmp_path, split="all", diagnosis_map={"scar": None})
    assert facts["splits"]["test"]["images"] == 2 and facts["dropped_rows"] == {"scar": 1}


def test_imagefolder_metadata_names_files(tmp_path, rows):
    folder = write_folder(tmp_path, rows)
    (folder / "HAM10000_metadata.csv").unlink()
    table = [{"file_name": f"images/{row['image_id']}.jpg", "label": row["dx"], "age": row["age"]} for row in rows]
    write_table(folder / "metadata.csv", table)
    splits, facts = load(folder, split="all")
    assert splits["test"]["image_id"][:] == sorted(row["image_id"] for row in rows)
    assert facts["kind"] == "imagefolder" and splits["test"]["age"][2] == 5.0
    write_table(folder / "metadata.csv", [*table, {"file_name": "../secret.jpg", "label": "nv", "age": ""}])
    assert "file_name '../secret.jpg' leads out of" in refusal(folder, split="all")


@pytest.mark.parametrize("member", ["HAM10000_metadata.csv", "archive/HAM10000_images_part_1.zip"])
def test_a_zip_that_contains_the_table_must_be_unpacked(member, tmp_path):
    with zipfile.ZipFile(tmp_path / "archive.zip", "w") as archive:
        archive.writestr(member, "x")
    assert f"archive.zip contains {member}, which cannot be read inside a zip: unpack it" in refusal(tmp_path)
    assert "archive.zip': unpack it" in refusal(tmp_path / "archive.zip")


def test_several_tables_are_refused(folder):
    shutil.copy(folder / "HAM10000_metadata.csv", folder / "HAM10000_metadata.tab")
    assert "several tables" in refusal(folder)


def test_a_missing_folder_is_not_a_hub_id(tmp_path):
    assert f"{str(tmp_path / 'absent')!r}, which does not exist" in refusal(tmp_path / "absent")


def test_a_file_is_not_a_data_folder(tmp_path):
    (tmp_path / "table.csv").touch()
    assert "which is a file: expected a folder" in refusal(tmp_path / "table.csv")


def test_missing_images_are_counted_and_the_flag_named(folder, rows):
    for row in rows[:7]:
        (folder / "images" / f"{row['image_id']}.jpg").unlink()
    message = refusal(folder)
    assert "7 of 70 images are missing" in message and rows[0]["image_id"] in message
    assert "--allow_missing_images" in message
    splits, facts = load(folder, allow_missing_images=True)
    assert len(all_ids(splits)) == 63
    assert sum(split["absent_images"] for split in facts["splits"].values()) == 7


def test_the_flag_does_not_help_without_any_image(folder):
    shutil.rmtree(folder / "images")
    assert "70 images and none of them" in refusal(folder, allow_missing_images=True)


@pytest.mark.parametrize("spoil", ["truncated", "text", "empty"])
def test_a_broken_image_is_named_before_training(spoil, folder, rows):
    path = folder / "images" / f"{rows[11]['image_id']}.jpg"
    content = {"truncated": path.read_bytes()[:-400], "text": b"<html>", "empty": b""}[spoil]
    path.write_bytes(content)
    message = refusal(folder)
    assert f"1 of 70 images in {folder} are broken: {rows[11]['image_id']}: " in message
    assert "--allow_missing_images" in message
    splits, facts = load(folder, allow_missing_images=True)
    assert rows[11]["image_id"] not in all_ids(splits)
    assert facts["audit"]["broken_images"] == 1 and facts["broken_images"][0][0] == rows[11]["image_id"]
    assert sum(split["absent_images"] for split in facts["splits"].values()) == 1


def test_different_files_for_one_image_are_refused_and_copies_are_not(folder, rows):
    (folder / "copy").mkdir()
    shutil.copy(folder / "images" / f"{rows[0]['image_id']}.jpg", folder / "copy")
    assert len(all_ids(load(folder)[0])) == len(rows)
    write_image(folder / "copy" / f"{rows[0]['image_id']}.jpg", seed=999)
    assert f"two different files for image {rows[0]['image_id']}" in refusal(folder)


@pytest.mark.parametrize("place", ["copy/{}.jpg", "images/{}.JPG", "images/{}.jpeg", "images/{}.png", "zip"])
def test_files_of_the_same_size_for_one_image_are_compared(place, folder, rows):
    name = rows[0]["image_id"]
    first = folder / "images" / f"{name}.jpg"
    content = bytearray(first.read_bytes())
    if place == "zip":
        second = folder / "more.zip"
        write = partial(write_zip, second, f"{name}.jpg")
    else:
        second = folder / place.format(name)
        second.parent.mkdir(exist_ok=True)
        write = second.write_bytes
    write(bytes(content))
    assert len(all_ids(load(folder)[0])) == len(rows)
    content[-3] ^= 1
    write(bytes(content))
    message = refusal(folder)
    assert f"two different files for image {name}" in message and str(first) in message and str(second) in message


def test_zips_with_different_files_for_one_image_are_refused(folder, rows):
    name = rows[0]["image_id"]
    content = (folder / "images" / f"{name}.jpg").read_bytes()
    (folder / "images" / f"{name}.jpg").unlink()
    write_zip(folder / "a.zip", f"x/{name}.jpg", content)
    write_zip(folder / "b.zip", f"y/{name}.jpg", content)
    assert len(all_ids(load(folder)[0])) == len(rows)
    write_zip(folder / "b.zip", f"y/{name}.jpg", content[:-3] + b"\0" + content[-2:])
    message = refusal(folder)
    assert f"a.zip/x/{name}.jpg and " in message and f"b.zip/y/{name}.jpg; remove one" in message


@pytest.mark.parametrize("name", ["HAM10000_metadata.csv", "HAM10000_images_part_1.zip", "images/IMG_000_0.jpg"])
def test_git_lfs_pointers_are_recognized(name, folder):
    pointer = (
        "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32\nsize 12345\n"
    )
    (folder / name).write_text(pointer)
    message = refusal(folder)
    assert Path(name).stem in message and "Git LFS pointer" in message and "`git lfs pull`" in message
