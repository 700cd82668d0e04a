"""`ham-hf data audit`: all that is wrong with a copy or a split, at once."""

import shutil

import numpy as np
import pandas as pd
import pytest

from ham_hf.cli import main
from tests.small_data import make_rows, write_folder, write_table


def audit(*words) -> int:
    return main(["data", "audit", *map(str, words)])


@pytest.fixture()
def data(tmp_path):
    return write_folder(tmp_path / "data", make_rows())


def test_a_clean_copy_and_split_have_no_leak(data, capsys):
    assert audit(data, "--split", "grouped") == 0
    shown = capsys.readouterr().out
    assert "70 rows, 35 lesions" in shown and "No leak found." in shown
    assert "14 test, 42 train, 14 validation" in shown


def test_a_split_of_any_names_that_tears_lesions_apart_is_told(data, tmp_path, capsys):
    rows = make_rows()[:-2]
    write_table(
        tmp_path / "s.csv",
        [{"image_id": row["image_id"], "split": "fit" if i < 41 else "held out"} for i, row in enumerate(rows)],
    )
    assert audit(data, "--split", tmp_path / "s.csv") == 1
    shown = capsys.readouterr().out
    assert "lesions in two splits: 1 (LES_020 (fit and held out)); they have 2.4 % of fit, 3.7 % of held out" in shown
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
        "absent images: 1 (IMG_003_0)",
        "broken images: 1 (IMG_002_0)",
        "- image ids in several rows: 1 (IMG_010_0)",
        "- lesions with two diagnoses: 1 (LES_004 (mel and nv))",
        "- byte-identical images of different lesions: 1 (IMG_000_0 = IMG_001_0)",
    ):
        assert line in shown


def test_what_cannot_be_read_is_an_error(data, tmp_path, capsys):
    assert audit(tmp_path / "nowhere") == 2
    assert audit(data, "--split", tmp_path / "nowhere.csv") == 2
    assert "error: " in capsys.readouterr().err


def test_a_split_by_image_puts_most_test_lesions_into_training_too(ham10000_dir, tmp_path, capsys):
    """What copied notebooks do to HAM10000: 38.6 % of the test images are of lesions that were trained on."""
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
    share = float(shown.split("they have ")[1].split(" % of test")[0])
    assert 36 < share < 41
