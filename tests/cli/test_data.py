"""`ham-hf data audit`: all that is wrong with a copy or a split, at once."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from ham_hf.cli.main import main
from ham_hf.data.splits import study_split
from tests.helpers import small_data
from tests.helpers.small_data import make_rows, write_folder, write_table


def audit(*words) -> int:
    return main(["data", "audit", *map(str, words)])


@pytest.fixture()
def data(tmp_path):
    return write_folder(tmp_path / "data", make_rows())


def test_a_clean_copy_and_split_have_no_leak(data, capsys):
    assert audit(data, "--split", "grouped") == 0
    shown = capsys.readouterr().out
    assert "70 rows, 35 lesions" in shown and "No leaks found." in shown
    assert "14 test, 42 train, 14 validation" in shown
    assert audit(data, "--diagnosis_map", '{"df": null}') == 0
    shown = capsys.readouterr().out
    assert "60 rows, 30 lesions" in shown and "rows dropped because of their diagnosis: 1 (df 10)" in shown


def test_a_split_of_any_names_that_tears_lesions_apart_is_told(data, tmp_path, capsys):
    splits = {row["image_id"]: "fit" if i < 41 else "held out" for i, row in enumerate(make_rows()[:-2])}
    small_data.write_split(tmp_path / "s.csv", splits)
    assert audit(data, "--split", tmp_path / "s.csv") == 1
    shown = capsys.readouterr().out
    assert (
        "lesions in two splits: 1 (LES_020 (fit and held out)); they include 2.4 % of fit, 3.7 % of held out" in shown
    )
    assert "images without a split: 2 (IMG_034_0, IMG_034_1)" in shown


def test_all_that_is_wrong_is_listed_at_once(tmp_path, capsys):
    rows = make_rows()
    folder = write_folder(tmp_path / "data", rows)
    shutil.copy(folder / "images" / "IMG_000_0.jpg", folder / "images" / "IMG_001_0.jpg")
    (folder / "images" / "IMG_002_0.jpg").write_bytes(b"no image")
    (folder / "images" / "IMG_003_0.jpg").unlink()
    rows[8]["dx"] = "nv"
    write_table(folder / "HAM10000_metadata.csv", [*rows, rows[20]])
    assert audit(folder) == 1
    shown = capsys.readouterr().out
    for line in (
        "missing images: 1 (IMG_003_0)",
        "broken images: 1 (IMG_002_0)",
        "- image ids in several rows: 1 (IMG_010_0)",
        "- lesions with two diagnoses: 1 (LES_004 (mel and nv))",
        "- identical images of different or unknown lesions: 1 (IMG_000_0 = IMG_001_0)",
    ):
        assert line in shown


SPLITS = ("fit", "held out")


def write_split(path, split_of) -> str:
    """Split the rows of `make_rows` by the number of the lesion and the image_id."""
    names = [row["image_id"] for row in make_rows()]
    return small_data.write_split(path, {name: split_of(number // 2, name) for number, name in enumerate(names)})


def by_lesion(lesion: int, image_id: str) -> str:
    return SPLITS[lesion % 2]


def image(data, name: str) -> Path:
    return data / "images" / f"{name}.jpg"


def change_file(data, change: str, names=("IMG_000_0", "IMG_001_0")) -> None:
    """Draw the first image, and make the second an identical picture, a near-certain copy or a suspected one of it."""
    source, target = (image(data, name) for name in names)
    blobs = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    Image.fromarray(blobs).resize((160, 120), Image.Resampling.BICUBIC).save(source, quality=90)
    if change == "metadata":
        content = source.read_bytes()
        target.write_bytes(content[:2] + b"\xff\xfe\x00\x06note" + content[2:])  # a comment
        return
    with Image.open(source) as picture:
        if change == "container":
            target.unlink()
            picture.save(target.with_suffix(".png"))
        elif change == "encoded again":
            picture.resize((320, 240)).save(target, quality=60)
        else:  # a narrow border cut off
            picture.crop((2, 2, 158, 118)).save(target, quality=95)


@pytest.mark.parametrize(
    ("change", "code", "shown"),
    [
        ("metadata", 1, "- identical images of different or unknown lesions: 1 (IMG_000_0 = IMG_001_0)"),
        ("container", 1, "- identical images of different or unknown lesions: 1 (IMG_000_0 = IMG_001_0)"),
        (
            "encoded again",
            1,
            "- near-certain copies under different lesions across splits, distance <= 20: 1 (IMG_000",
        ),
        ("cut", 0, "- near-duplicates of different lesions across splits: 1 (IMG_000_0 ~ IMG_001_0)"),
    ],
)
def test_copies_across_splits_are_leaks_or_suspected(change, code, shown, data, tmp_path, capsys):
    change_file(data, change)
    assert audit(data, "--split", write_split(tmp_path / "s.csv", by_lesion)) == code
    out = capsys.readouterr().out
    assert shown in out and "No leaks found." not in out
    assert ("Leaks found:" in out) == (code == 1) and ("No certain leaks found; see below." in out) == (code == 0)
    assert ("Suspected:" in out) == (code == 0)  # each pair is named once


@pytest.mark.parametrize("change", ["encoded again", "cut"])
def test_copies_in_one_split_or_with_one_unused_are_no_leak(change, data, tmp_path, capsys):
    change_file(data, change)
    assert audit(data, "--split", write_split(tmp_path / "one.csv", lambda *of: SPLITS[of[0] > 1])) == 0
    assert "No leaks found." in capsys.readouterr().out
    rest = write_split(tmp_path / "rest.csv", lambda *of: "unused" if of[1] == "IMG_001_0" else by_lesion(*of))
    assert audit(data, "--split", rest) == 0
    assert "No leaks found." in capsys.readouterr().out


def test_rows_without_use_are_not_compared(data, tmp_path, capsys):
    """One image of each lesion is used: the others tear no lesion apart."""
    first = write_split(tmp_path / "s.csv", lambda *of: by_lesion(*of) if of[1].endswith("_0") else "unused")
    assert audit(data, "--split", first) == 0
    assert "No leaks found." in capsys.readouterr().out


def test_a_copy_without_a_split_lists_near_duplicates_and_does_not_deny_them(data, capsys):
    change_file(data, "encoded again")
    assert audit(data) == 0
    shown = capsys.readouterr().out
    assert "Suspected:\n- near-duplicates of different lesions: 1 (IMG_000_0 ~ IMG_001_0)" in shown
    assert "No leaks found." not in shown


LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32\nsize 12345\n"


def test_images_that_could_not_be_compared_are_no_proof(data, capsys):
    image(data, "IMG_000_0").write_text(LFS)
    image(data, "IMG_001_0").unlink()
    assert audit(data) == 0
    shown = capsys.readouterr().out
    assert "No certain leaks found; see below.\nCould not be compared:\n- missing images: 1 (IMG_001_0)\n" in shown
    assert "- broken images: 1 (IMG_000_0); the first one: a Git LFS pointer" in shown and "`git lfs pull`" in shown
    for path in (data / "images").iterdir():
        path.write_text(LFS)
    assert audit(data) == 2
    shown = capsys.readouterr().out
    assert "Leaks cannot be ruled out." in shown and "broken images: 69 (" in shown
    assert "No leaks found." not in shown


def test_unknown_lesions_leave_a_split_undecided(data, tmp_path, capsys):
    rows = [{key: row[key] for key in row if key != "lesion_id"} for row in make_rows()]
    write_table(data / "HAM10000_metadata.csv", rows)
    assert audit(data) == 0
    shown = capsys.readouterr().out
    assert "70 rows, 70 of them with an unknown lesion" in shown and "No certain leaks found; see below." in shown
    assert audit(data, "--split", write_split(tmp_path / "s.csv", by_lesion)) == 2
    shown = capsys.readouterr().out
    assert "Leaks cannot be ruled out." in shown and "images whose lesion is unknown: 70 (" in shown
    assert audit(data, "--split", "grouped") == 2
    assert "the lesions of 70 of 70 images are unknown" in capsys.readouterr().err


def test_lesions_of_a_list_are_grouped_as_in_training(data, tmp_path, capsys):
    pairs = [f"IMG_{lesion:03d}_0,IMG_{lesion + 7:03d}_0,same lesion" for lesion in range(7)]
    (tmp_path / "same.csv").write_text("\n".join(["image_a,image_b,decision", *pairs]))
    assert audit(data, "--split", "grouped", "--same_lesion", tmp_path / "same.csv") == 0
    assert "No leaks found." in capsys.readouterr().out


@pytest.mark.parametrize("name", ["les_000", "LES 000", "LЕS_000"])
def test_lesion_ids_that_look_alike_are_reported(name, data, tmp_path, capsys):
    rows = make_rows()
    rows[1]["lesion_id"] = name
    write_table(data / "HAM10000_metadata.csv", rows)
    torn = write_split(tmp_path / "s.csv", lambda *of: SPLITS[of[1] == "IMG_000_1"])
    assert audit(data, "--split", torn) == 0
    shown = capsys.readouterr().out
    assert "lesion ids that probably name the same lesion, in several splits: 1 ('LES_000' ~ " in shown or (
        f"1 ({ascii(name)} ~ 'LES_000')" in shown
    )
    assert "No leaks found." not in shown
    assert audit(data, "--split", write_split(tmp_path / "t.csv", by_lesion)) == 0
    assert "No leaks found." in capsys.readouterr().out


HAM = ("ISIC_0025226", "ISIC_0030074")  # a published duplicate; in training and in validation of the study


def write_ham10000(folder, first, second) -> Path:
    """A copy of these two images, with a picture and, encoded again, the same picture."""
    rows = [row | {"image_id": name} for row, name in zip(make_rows(2, 1), (first, second), strict=True)]
    write_folder(folder, [{key: row[key] for key in row if key != "lesion_id"} for row in rows])
    change_file(folder, "encoded again", (first, second))
    return folder


def test_ham10000s_known_duplicates_do_not_fail_the_studys_split(tmp_path, capsys):
    known = write_ham10000(tmp_path / "known", *HAM)
    assert audit(known, "--split", "study") == 0
    shown = capsys.readouterr().out
    assert f"known duplicates, one lesion under two lesion ids across splits: 1 ({HAM[0]} ~ {HAM[1]})" in shown
    assert "No leaks found." not in shown
    other = write_ham10000(tmp_path / "other", "ISIC_0025226", "ISIC_0024307")
    split = study_split(pd.Series(["ISIC_0025226", "ISIC_0024307"]))
    assert len(set(split.values())) == 2 and audit(other, "--split", "study") == 1
    assert "near-certain copies under different lesions across splits" in capsys.readouterr().out
    own = small_data.write_split(tmp_path / "own.csv", {HAM[0]: "train", HAM[1]: "test"})
    assert audit(known, "--split", own) == 1
    shown = capsys.readouterr().out
    assert "near-certain copies" in shown and "known duplicates" not in shown and "Suspected:" not in shown


def test_a_copy_that_contradicts_ham10000s_lesions_leaks(tmp_path, capsys):
    rows = make_rows(2, 2)
    for row, name in zip(rows, ("ISIC_0027419", "ISIC_0025030", "ISIC_0026769", "ISIC_0025661"), strict=True):
        row |= {"image_id": name, "dx": "bkl"}
    rows[0]["lesion_id"] = "alone"
    folder = write_folder(tmp_path / "data", rows)
    assert audit(folder) == 1
    shown = capsys.readouterr().out
    assert "lesions of HAM10000 under several lesion ids: 1 (HAM_0000118 (LES_000 and alone))" in shown
    splits = {row["image_id"]: "ab"[number > 0] for number, row in enumerate(rows)}
    split = small_data.write_split(tmp_path / "s.csv", splits)
    assert audit(folder, "--split", split) == 1
    assert "lesions in two splits: 1 (HAM_0000118 (a and b)); they include 100.0 % of a" in capsys.readouterr().out
    rows[0]["lesion_id"] = rows[2]["lesion_id"] = rows[3]["lesion_id"] = "LES_000"
    write_table(folder / "HAM10000_metadata.csv", rows)
    assert audit(folder) == 0
    shown = capsys.readouterr().out
    assert "lesion ids that join several lesions of HAM10000: 1 (LES_000 (HAM_0000118 and HAM_0002730))" in shown


def test_what_cannot_be_read_is_an_error(data, tmp_path, capsys):
    assert audit(tmp_path / "nowhere") == 2
    assert audit(data, "--split", tmp_path / "nowhere.csv") == 2
    assert "error: " in capsys.readouterr().err


def test_a_split_by_image_puts_most_test_lesions_into_training_too(ham10000_dir, tmp_path, capsys):
    """Split HAM10000 as copied notebooks do: 38.6 % of the test images are of lesions that were trained on."""
    table = pd.read_csv(ham10000_dir / "HAM10000_metadata.csv")
    is_test = np.random.default_rng(0).permutation(len(table)) < len(table) // 5
    table.assign(split=np.where(is_test, "test", "train"))[["image_id", "split"]].to_csv(
        tmp_path / "s.csv", index=False
    )
    (tmp_path / "copy").mkdir()
    shutil.copy(ham10000_dir / "HAM10000_metadata.csv", tmp_path / "copy")
    for path in sorted((ham10000_dir / "HAM10000_images_part_1").iterdir())[:5]:  # the table is what this is about
        shutil.copy(path, tmp_path / "copy")
    assert audit(tmp_path / "copy", "--split", tmp_path / "s.csv") == 1
    shown = capsys.readouterr().out
    share = float(shown.split("they include ")[1].split(" % of test")[0])
    assert 36 < share < 41
