"""Splits: whole lesions, the same for everyone."""

import pandas as pd
import pytest
from sklearn.model_selection import train_test_split

from ham_hf.data.splits import SPLITS, assign_splits, grouped_split, study_split
from ham_hf.labels import LABELS
from ham_hf.system.errors import InputError
from tests.helpers.small_data import make_rows

HAM10000_IDS = pd.Series([f"ISIC_{number:07d}" for number in range(24306, 34321)])


@pytest.fixture
def table():
    return pd.DataFrame(make_rows())


def refusal(table, split) -> str:
    with pytest.raises(InputError) as caught:
        assign_splits(table, split)
    return str(caught.value)


def test_the_study_split_has_the_published_sizes():
    split = pd.Series(study_split(HAM10000_IDS))
    assert split.value_counts().to_dict() == {"train": 6022, "validation": 1992, "test": 2001}


def test_the_study_split_is_what_the_studys_code_draws(ham10000_dir):
    table = pd.read_csv(ham10000_dir / "HAM10000_metadata.csv")
    train, held_out = train_test_split(table["lesion_id"].drop_duplicates(), test_size=0.4, random_state=0)
    validation, test = train_test_split(held_out, test_size=0.5, random_state=0)
    drawn = {
        lesion: name for name, lesions in zip(SPLITS, (train, validation, test), strict=True) for lesion in lesions
    }
    assert study_split(table["image_id"]) == dict(zip(table["image_id"], table["lesion_id"].map(drawn), strict=True))


def test_the_study_split_does_not_depend_on_order_or_missing_rows():
    whole = study_split(HAM10000_IDS)
    part = study_split(HAM10000_IDS[::-7])
    assert part == {image_id: whole[image_id] for image_id in part}


def test_the_study_split_is_refused_for_other_images(table):
    message = refusal(table, "study")
    assert "70 images are not HAM10000's (IMG_000_0, " in message and "--split grouped" in message


def test_the_grouped_split_keeps_lesions_whole_and_has_every_diagnosis(table):
    split = table["image_id"].map(grouped_split(table, 0, {}))
    assert (split.groupby(table["lesion_id"]).nunique() == 1).all()
    assert (split.groupby(table["dx"]).nunique() == 3).all()
    assert split.value_counts(normalize=True).round(2).to_dict() == {"train": 0.6, "validation": 0.2, "test": 0.2}


def test_three_lesions_of_a_diagnosis_are_in_three_splits():
    table = pd.DataFrame(make_rows(lesions=21, images=1))
    for diagnoses in (table["dx"], ["mel"] * 3 + ["nv"] * 18):
        table = table.assign(dx=diagnoses)
        split = table["image_id"].map(grouped_split(table, 3, {}))
        assert (split.groupby(table["dx"]).nunique() == 3).all()


def test_a_diagnosis_with_one_lesion_is_for_training():
    table = pd.DataFrame(make_rows(lesions=len(LABELS), images=2))
    assert set(grouped_split(table, 0, {}).values()) == {"train"}


def test_the_grouped_split_follows_the_seed_and_not_the_order(table):
    shuffled = table.sample(frac=1, random_state=5)
    assert assign_splits(table, "grouped", 1) == assign_splits(shuffled, "grouped", 1)
    assert assign_splits(table, "grouped", 1) != assign_splits(table, "grouped", 2)
    assert assign_splits(table, "grouped") == assign_splits(table, "grouped", 0)


def test_grouped_lesions_stay_together(table):
    lesions = sorted(set(table["lesion_id"]))
    groups = {lesion: lesions[i // 5 * 5] for i, lesion in enumerate(lesions)}
    split = table["image_id"].map(grouped_split(table, 0, groups))
    assert (split.groupby(table["lesion_id"].map(groups)).nunique() == 1).all()


def write_split(path, table, change=lambda rows: rows, header="image_id,split"):
    rows = [[image_id, SPLITS[i // 2 % 3]] for i, image_id in enumerate(table["image_id"])]
    path.write_text(f"{header}\n" + "".join(",".join(row) + "\n" for row in change(rows)))
    return str(path)


def test_a_csv_gives_the_split_and_may_name_other_images(table, tmp_path):
    path = write_split(tmp_path / "mine.csv", table, lambda rows: [*rows[::-1], ["OTHER", "train"]], "Image ID,Split")
    split = assign_splits(table, path)
    assert list(split) == table["image_id"].tolist()
    assert list(split.values())[:6] == ["train", "train", "validation", "validation", "test", "test"]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            lambda rows: [*rows[:2], ["IMG_001_0", "val"], *rows[3:]],
            "line 4: split is 'val', expected one of train, val",
        ),
        (lambda rows: rows[2:], "lacks 2 images of the table (IMG_000_0, IMG_000_1)"),
        (lambda rows: [*rows, rows[0]], "has 1 image ids more than once (IMG_000_0)"),
    ],
)
def test_a_csv_that_does_not_fit_is_refused(change, expected, table, tmp_path):
    assert expected in refusal(table, write_split(tmp_path / "mine.csv", table, change))


def test_a_csv_without_the_columns_is_refused(table, tmp_path):
    (tmp_path / "mine.csv").write_text("id,fold\n1,2\n")
    assert "has columns id, fold; expected image_id and split" in refusal(table, str(tmp_path / "mine.csv"))
    (tmp_path / "empty.csv").touch()
    assert "empty.csv is not a readable table" in refusal(table, str(tmp_path / "empty.csv"))


def test_an_unknown_split_lists_the_choices(table):
    assert "split is 'studdy': expected 'study', 'grouped', 'all', or a CSV" in refusal(table, "studdy")
