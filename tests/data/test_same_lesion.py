"""Images of one lesion under two lesion ids: in one split under grouped, reported or dropped under fixed splits."""

import pandas as pd
import pytest

from ham_hf.data.lesions import official_lesions
from ham_hf.data.same_lesion import group_lesions, hidden_duplicates, read_same_lesion, training_duplicates
from ham_hf.data.splits import study_split
from tests.helpers.small_data import load, refusal, write_split, write_table


def write_decisions(path, decisions: dict[tuple[str, str], str]) -> str:
    rows = [{"image_a": a, "image_b": b, "decision": decision} for (a, b), decision in decisions.items()]
    write_table(path, rows)
    return str(path)


@pytest.fixture
def across(folder, rows, tmp_path):
    """A split, and decisions: a test and a training lesion are one, and so are two test lesions."""
    splits = {row["image_id"]: ("train", "test", "test")[int(row["lesion_id"][-3:]) % 3] for row in rows}
    decisions = {
        ("IMG_001_0", "IMG_000_1"): "same lesion",
        ("IMG_002_0", "IMG_004_0"): "same lesion",
        ("IMG_003_0", "IMG_005_0"): "same patient",
    }
    return write_split(tmp_path / "split.csv", splits), write_decisions(tmp_path / "decisions.csv", decisions)


def test_the_shipped_list_has_pairs_of_two_lesions():
    lesions, pairs = official_lesions(), read_same_lesion(None).pairs
    assert len(pairs) == 90  # 20 published, 70 of our own
    assert len(read_same_lesion("ham10000-1").pairs) == 86 and read_same_lesion("ham10000-1").pairs < pairs
    assert all(first < second and lesions[first] != lesions[second] for first, second in pairs)
    assert read_same_lesion("ham10000-2") == read_same_lesion(None) and not read_same_lesion("none").pairs


def test_pairs_join_lesions_into_groups():
    table = pd.DataFrame({"image_id": list("abcdef"), "lesion_id": ["5", "4", "3", "2", "1", "1"]})
    groups = group_lesions(table, {("a", "b"), ("b", "d"), ("e", "f"), ("c", "absent")})
    assert groups == {"5": "2", "4": "2", "2": "2", "3": "3", "1": "1"}


def test_the_studys_split_has_41_training_images_whose_lesion_is_evaluated():
    lesions = official_lesions()
    table = pd.DataFrame({"image_id": list(lesions), "lesion_id": list(lesions.values())})
    split = study_split(table["image_id"])
    groups = group_lesions(table, read_same_lesion(None).pairs)
    assert len(training_duplicates(table, split, groups)) == 41
    assert {name: len(images) for name, images in hidden_duplicates(table, split, groups).items()} == {
        "validation": 29,
        "test": 11,
    }


def test_a_fixed_split_reports_them_and_keeps_its_lesions(folder, across, caplog):
    split, decisions = across
    plain = load(folder, split=split)[1]
    assert plain["same_lesion"] == {
        "list": "ham10000-2",
        "pairs": 0,
        "merged": False,
        "dropped": False,
        "dropped_images": 0,
        "images": {"validation": [], "test": []},
    }
    assert "too good" not in caplog.text
    splits, facts = load(folder, split=split, same_lesion=decisions)
    assert facts["same_lesion"] | {"images": None} == {
        "list": "decisions.csv",
        "pairs": 2,
        "merged": True,
        "dropped": False,
        "dropped_images": 0,
        "images": None,
    }
    assert facts["same_lesion"]["images"] == {"validation": [], "test": ["IMG_001_0", "IMG_001_1"]}
    assert "2 evaluated images show a lesion that is in training under another lesion_id" in caplog.text
    # Both test lesions count as one; the lesion that is in two splits keeps both ids
    assert facts["splits"]["test"]["lesions"] == plain["splits"]["test"]["lesions"] - 1
    lesion = dict(zip(splits["test"]["image_id"][:], splits["test"]["lesion_id"][:], strict=True))
    assert lesion["IMG_004_1"] == lesion["IMG_002_0"] == "LES_002" and lesion["IMG_001_0"] == "LES_001"
    assert facts["splits"]["train"]["sha256"] == plain["splits"]["train"]["sha256"]
    assert facts["splits"]["test"]["sha256"] != plain["splits"]["test"]["sha256"]


def test_training_images_of_evaluated_lesions_can_be_dropped(folder, across, caplog):
    split, decisions = across
    plain = load(folder, split=split)[1]["splits"]
    splits, facts = load(folder, split=split, same_lesion=decisions, drop_hidden_duplicates=True)
    assert not {"IMG_000_0", "IMG_000_1"} & set(splits["train"]["image_id"][:])
    assert facts["splits"]["train"]["images"] == plain["train"]["images"] - 2
    assert facts["splits"]["test"]["images"] == plain["test"]["images"]
    assert facts["same_lesion"]["dropped_images"] == 2
    assert facts["same_lesion"]["images"] == {"validation": [], "test": []} and "too good" not in caplog.text


def test_the_grouped_split_keeps_them_together(folder, rows, tmp_path):
    splits, _ = load(folder, same_lesion="none")
    split = {image_id: name for name, of in splits.items() for image_id in of["image_id"][:]}
    apart = next(name for name in split if name.endswith("_0") and split[name] == "test")
    other = next(name for name in split if name.endswith("_0") and split[name] == "train" and name > apart)
    decisions = write_decisions(tmp_path / "decisions.csv", {(f"{other}.jpg", apart): "same lesion"})
    splits, facts = load(folder, same_lesion=decisions)
    assert facts["same_lesion"]["merged"] and facts["same_lesion"]["images"] == {"validation": [], "test": []}
    [of] = [of for of in splits.values() if apart in of["image_id"][:]]
    lesion = dict(zip(of["image_id"][:], of["lesion_id"][:], strict=True))
    assert lesion[other] == lesion[apart]
    assert "drop_hidden_duplicates has no effect on --split grouped" in refusal(folder, drop_hidden_duplicates=True)


def test_wrong_lists_are_refused(folder, tmp_path):
    assert "same_lesion is 'ham10000-9': expected ham10000-2" in refusal(folder, same_lesion="ham10000-9")
    path = write_decisions(tmp_path / "decisions.csv", {("a", "b"): "same lesion", ("c", "d"): "maybe"})
    assert "decisions.csv, line 3: decision is 'maybe', expected one of same lesion" in refusal(
        folder, same_lesion=path
    )
    path = write_decisions(tmp_path / "decisions.csv", {("a", "a.jpg"): "same lesion"})
    assert "pairs 1 images with themselves (a)" in refusal(folder, same_lesion=path)
    write_table(tmp_path / "other.csv", [{"image_a": "a", "image_b": "b"}])
    assert "expected image_a, image_b, decision" in refusal(folder, same_lesion=str(tmp_path / "other.csv"))
