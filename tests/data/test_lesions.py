"""Which images show one lesion: what is known, from where, and what happens where it is not."""

import json
from pathlib import Path

import pandas as pd
import pytest

from ham_hf.data.lesions import compare_lesions, is_ham10000, look_alikes, official_lesions
from ham_hf.data.schema import clean_table
from ham_hf.data.sources.isic import CHALLENGE_COLUMNS
from tests.helpers.small_data import load, make_rows, refusal, write_folder, write_image, write_split, write_table

SIBLINGS = ("ISIC_0027419", "ISIC_0025030")  # of HAM_0000118
OTHER = ("ISIC_0026769", "ISIC_0025661")  # of HAM_0002730


def own_rows(ids, lesions=None) -> list[dict[str, str]]:
    """Rows of images with a diagnosis; without the column lesion_id where `lesions` is None."""
    named = [{}] * len(ids) if lesions is None else [{"lesion_id": lesion} for lesion in lesions]
    return [{"image_id": image_id, "dx": "bkl", **more} for image_id, more in zip(ids, named, strict=True)]


def ground_truth(ids) -> list[dict[str, str]]:
    zeros = dict.fromkeys(CHALLENGE_COLUMNS, "0.0")
    return [{"image": image_id} | zeros | {"BKL": "1.0"} for image_id in ids]


def write_data(folder: Path, table: str, rows: list[dict[str, str]]) -> Path:
    folder.mkdir(exist_ok=True)
    write_table(folder / table, rows)
    for seed, row in enumerate(rows):
        write_image(folder / f"{row.get('image') or row['image_id']}.jpg", seed)
    return folder


def lesions_of(folder: Path, **changes) -> dict[str, str]:
    splits, _ = load(folder, **changes)
    return {item["image_id"]: item["lesion_id"] for split in splits.values() for item in split.remove_columns("image")}


def test_the_shipped_lesions_are_those_of_the_published_table(ham10000_dir):
    table = pd.read_csv(ham10000_dir / "HAM10000_metadata.csv")
    assert official_lesions() == dict(zip(table["image_id"], table["lesion_id"], strict=True))
    assert all(map(is_ham10000, official_lesions())) and len(official_lesions()) == 10015


def test_ham10000s_images_have_known_lesions_in_a_ground_truth(tmp_path):
    folder = write_data(tmp_path, "ISIC2018_Task3_Training_GroundTruth.csv", ground_truth([*SIBLINGS, *OTHER]))
    known = lesions_of(folder)
    assert known == {image_id: official_lesions()[image_id] for image_id in (*SIBLINGS, *OTHER)}
    facts = load(folder)[1]
    assert sum(split["lesions"] for split in facts["splits"].values()) == 2
    assert sum(split["unknown_lesions"] for split in facts["splits"].values()) == 0
    torn = dict.fromkeys((SIBLINGS[0], *OTHER), "train") | {SIBLINGS[1]: "test"}
    assert "1 lesions in two splits: HAM_0000118" in refusal(folder, split=write_split(tmp_path / "torn.csv", torn))


@pytest.mark.parametrize("lesions", [None, ["", "", "", ""], ["unknown"] * 4, ["IL_1", "", "", "IL_2"]])
def test_ham10000s_images_have_known_lesions_in_a_custom_table(lesions, tmp_path):
    write_data(tmp_path, "mine.csv", own_rows([*SIBLINGS, *OTHER], lesions))
    known = lesions_of(tmp_path, metadata_csv=tmp_path / "mine.csv")
    assert len(set(known.values())) == 2 and known[SIBLINGS[0]] == known[SIBLINGS[1]]
    if lesions and lesions[0] == "IL_1":  # the names of the table stay
        assert set(known.values()) == {"IL_1", "IL_2"}


def test_a_table_that_separates_one_of_ham10000s_lesions_is_refused(tmp_path):
    write_data(tmp_path, "mine.csv", own_rows([*SIBLINGS, *OTHER], ["A", "B", "C", "C"]))
    message = refusal(tmp_path, metadata_csv=tmp_path / "mine.csv", split="all")
    assert "1 lesions of HAM10000 have several lesion_ids in this table: HAM_0000118 (A and B)" in message


def test_a_table_that_joins_lesions_of_ham10000_is_counted(tmp_path):
    ids = [*SIBLINGS, *OTHER]
    write_data(tmp_path, "mine.csv", own_rows(ids, ["A"] * 4))
    facts = load(tmp_path, metadata_csv=tmp_path / "mine.csv", split="all")[1]
    assert facts["audit"]["lesion_ids_that_join_several_of_ham10000"] == 1
    write_table(tmp_path / "mine.csv", own_rows(ids, ["A", "A", "B", "B"]))
    facts = load(tmp_path, metadata_csv=tmp_path / "mine.csv", split="all")[1]
    assert "lesion_ids_that_join_several_of_ham10000" not in facts["audit"]


def test_lesions_are_compared_by_their_images_and_not_their_names():
    table = clean_table(pd.DataFrame(make_rows(4, 2)), "table")
    renamed = {image_id: lesion[::-1] for image_id, lesion in zip(table["image_id"], table["lesion_id"], strict=True)}
    assert compare_lesions(table, renamed) == ([], [])
    assert compare_lesions(table, renamed | {"IMG_000_0": renamed["IMG_001_0"]}) == (
        ["100_SEL (LES_000 and LES_001)"],
        ["LES_000 (000_SEL and 100_SEL)"],
    )


BESIDE = {
    "ISIC2018_Task3_Test_LesionGroupings.csv": ("image", {"diagnosis_confirm_type": "histopathology"}),
    "metadata.csv": ("image_id", {"patient": "x"}),
}


@pytest.mark.parametrize("name", BESIDE)
def test_lesions_are_read_from_a_table_beside_a_ground_truth(name, tmp_path):
    ids = ["ISIC_0035001", "ISIC_0035002", "ISIC_0035003"]
    folder = write_data(tmp_path, "ISIC2018_Task3_Test_GroundTruth.csv", ground_truth(ids))
    assert "the lesions of 3 of 3 images are unknown (ISIC_0035001, " in refusal(folder)
    column, more = BESIDE[name]
    rows = [
        {column: image_id, "lesion_id": lesion, **more} for image_id, lesion in zip(ids, ("A", "A", "B"), strict=True)
    ]
    write_table(folder / name, rows)
    assert list(lesions_of(folder, split="all").values()) == ["A", "A", "B"]
    write_table(folder / name, rows[:2])
    assert "the lesions of 1 of 3 images are unknown (ISIC_0035003)" in refusal(folder)


def test_lesions_are_read_from_a_column_of_a_ground_truth(tmp_path):
    rows = [row | {"lesion_id": "A"} for row in ground_truth(["ISIC_0035001", "ISIC_0035002"])]
    folder = write_data(tmp_path, "ISIC2018_Task3_Test_GroundTruth.csv", rows)
    assert set(lesions_of(folder, split="all").values()) == {"A"}


def test_tables_that_contradict_each_other_are_refused(tmp_path):
    rows = [
        row | {"lesion_id": lesion}
        for row, lesion in zip(ground_truth(["ISIC_0035001", "ISIC_0035002"]), "AB", strict=True)
    ]
    folder = write_data(tmp_path, "ISIC2018_Task3_Test_GroundTruth.csv", rows)
    groupings = [{"image": row["image"], "lesion_id": "L"} for row in rows]
    write_table(folder / "X_LesionGroupings.csv", groupings)
    message = refusal(folder, split="all")
    assert "ISIC2018_Task3_Test_GroundTruth.csv has 1 lesions of " in message and "L (A and B)" in message
    write_table(folder / "X_LesionGroupings.csv", [*groupings, groupings[0] | {"lesion_id": "M"}])
    assert "has 1 images in several lesions: ISIC_0035001" in refusal(folder, split="all")
    write_table(folder / "X_LesionGroupings.csv", [{"picture": "ISIC_0035001"}])
    assert "X_LesionGroupings.csv lacks the columns image, lesion_id" in refusal(folder, split="all")


@pytest.fixture
def unknown(tmp_path) -> Path:
    """A folder with a table of 28 images that does not name their lesions."""
    folder = write_folder(tmp_path / "data", make_rows(14, 2))
    rows = [{key: row[key] for key in row if key != "lesion_id"} for row in make_rows(14, 2)]
    write_table(folder / "HAM10000_metadata.csv", rows)
    return folder


def test_a_split_of_images_with_unknown_lesions_is_refused(unknown, tmp_path):
    assert "the lesions of 28 of 28 images are unknown" in refusal(unknown)
    names = [row["image_id"] for row in make_rows(14, 2)]
    split = tmp_path / "split.csv"
    split.write_text(
        "image_id,split\n" + "".join(f"{name},{'train' if i else 'test'}\n" for i, name in enumerate(names))
    )
    assert "--split all evaluates on all images" in refusal(unknown, split=str(split))
    split.write_text(
        "image_id,split\n" + "".join(f"{name},{'test' if i else 'unused'}\n" for i, name in enumerate(names))
    )
    assert load(unknown, split=str(split))[1]["splits"]["test"]["unknown_lesions"] == 27


def test_data_of_unknown_lesions_has_no_lesion_counts(unknown, caplog):
    facts = load(unknown, split="all")[1]
    test = facts["splits"]["test"]
    assert (test["images"], test["lesions"], test["unknown_lesions"], test["absent_images"]) == (28, None, 28, 0)
    assert facts["audit"]["lesions_in_two_splits"] is facts["audit"]["lesions_with_two_diagnoses"] is None
    assert "The lesions of 28 of 28 images are unknown: confidence intervals" in caplog.text
    json.dumps(facts, allow_nan=False)


def test_the_ids_of_ham10000_are_consecutive():
    assert is_ham10000("ISIC_0024306") and is_ham10000("ISIC_0034320")
    for name in (
        "ISIC_0024305",
        "ISIC_0034321",
        "ISIC_24306",
        "isic_0024306",
        "ISIC_0024306.jpg",
        "ISIC_００２４３０６",
    ):
        assert not is_ham10000(name)


@pytest.mark.parametrize(
    "other",
    [
        "les_000",
        "LES 000",
        "LES-000",
        "LES_000_",
        "LES_000.0",
        "LÉS_000",
        "LES_000\N{COMBINING ENCLOSING CIRCLE}",
        "LES_\N{ZERO WIDTH SPACE}000",
        "L\N{CYRILLIC CAPITAL LETTER IE}S_000",
        "LES_\N{FULLWIDTH DIGIT ZERO}00",
    ],
)
def test_lesion_ids_that_look_alike_are_found(other):
    assert look_alikes(["LES_001", other, "LES_000", "LES_0"]) == [sorted(["LES_000", other])]
