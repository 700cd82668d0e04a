"""The made-up images look like HAM10000 to everything that reads them."""

import csv
from collections import Counter

import pytest
from PIL import Image

from ham_hf.data.sources import synthetic
from ham_hf.labels import LABELS
from tests.helpers.small_data import load


def read_rows(folder):
    with (folder / "HAM10000_metadata.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_official_layout_is_written(synthetic_dir):
    rows = read_rows(synthetic_dir)
    assert list(rows[0]) == ["lesion_id", "image_id", "dx", "dx_type", "age", "sex", "localization"]
    parts = [{path.stem for path in (synthetic_dir / f"HAM10000_images_part_{part}").iterdir()} for part in (1, 2)]
    assert parts[0] | parts[1] == {row["image_id"] for row in rows} and len(parts[0]) == len(parts[1]) == 70
    assert all(row["image_id"].startswith("SYN_") for row in rows)
    with Image.open(next((synthetic_dir / "HAM10000_images_part_2").iterdir())) as image:
        assert (image.format, image.size, image.mode) == ("JPEG", (600, 450), "RGB")


def test_every_diagnosis_is_in_every_split_and_lesions_have_several_images(synthetic_dir):
    splits, facts = load(synthetic_dir)
    assert all(min(split["classes"].values()) > 0 for split in facts["splits"].values())
    lesions = Counter(row["lesion_id"] for row in read_rows(synthetic_dir))
    assert max(lesions.values()) > 1
    assert facts["audit"]["near_duplicates"]["pairs_across_splits"] == 0


def test_diagnoses_have_the_real_proportions():
    rows = synthetic._rows(700, synthetic.np.random.default_rng(0))
    counts = Counter(row["dx"] for row in rows)
    assert len(rows) == 700 and set(counts) == set(LABELS)
    assert 0.64 < counts["nv"] / 700 < 0.68 and 0.09 < counts["mel"] / 700 < 0.13
    assert any(row["age"] == "" for row in rows) and any(row["localization"] == "unknown" for row in rows)
    assert 0.55 < len({row["lesion_id"] for row in rows}) / 700 < 0.85  # HAM10000: .75
    assert {row["dx_type"] for row in rows if row["dx"] == "mel"} == {"histo"}


def test_the_same_seed_gives_the_same_bytes(tmp_path):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        synthetic.write_synthetic(tmp_path / name, images=60, seed=seed)

    def content(name):
        return {str(path.relative_to(tmp_path / name)): path.read_bytes() for path in (tmp_path / name).rglob("*.*")}

    assert content("a") == content("b") != content("c")


def test_synthetic_is_drawn_once_into_the_cache_and_says_what_it_is(monkeypatch):
    monkeypatch.setattr(synthetic.synthetic_folder, "__defaults__", (60, 0))
    _, facts = load("synthetic")
    assert facts["kind"] == "synthetic" and facts["synthetic"] and facts["source"] == "synthetic"
    folder = synthetic.synthetic_folder()
    drawn = (folder / "HAM10000_metadata.csv").stat().st_mtime_ns
    assert load("synthetic")[1] == facts
    assert (folder / "HAM10000_metadata.csv").stat().st_mtime_ns == drawn
    assert [path.name for path in folder.parent.glob("synthetic-*")] == [folder.name]


def test_too_few_images_are_refused(tmp_path):
    with pytest.raises(ValueError, match="images is 30: expected at least 60"):
        synthetic.write_synthetic(tmp_path, images=30)
