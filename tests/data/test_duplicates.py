"""The search for duplicates finds edited copies of an image, aligns them, and leaves other images alone."""

import io

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageEnhance, ImageFilter

from ham_hf.cli.main import main
from ham_hf.config.arguments import DataArguments
from ham_hf.data.duplicates import search
from ham_hf.data.duplicates.alignment import Alignment, align, similarity, warp
from ham_hf.data.duplicates.candidates import candidate_pairs, same_patient_pairs
from ham_hf.data.duplicates.local_features import POINTS, extract_features, scaled_gray
from ham_hf.duplicates import write_duplicates
from ham_hf.evaluation.overlap import overlap_note, overlap_sentences
from ham_hf.evaluation.training_copies import find_training_copies
from ham_hf.reporting.duplicates_page import render_duplicates
from ham_hf.system import installation
from tests.helpers.small_data import load, make_rows, write_split, write_table


def picture(seed: int, size: tuple[int, int] = (400, 300)) -> Image.Image:
    """Return spots of random places, sizes and colors on a plain background, as different as two lesions."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: size[1], : size[0]]
    pixels = np.full((size[1], size[0], 3), 180.0)
    for _ in range(120):
        spot = np.exp(-((x - rng.uniform(0, size[0])) ** 2 + (y - rng.uniform(0, size[1])) ** 2) / rng.uniform(8, 200))
        pixels -= spot[..., None] * rng.uniform(-60, 120, 3)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def features(image: Image.Image):
    return extract_features(scaled_gray(image))


def saved_again(image: Image.Image) -> Image.Image:
    content = io.BytesIO()
    image.save(content, "JPEG", quality=40)
    return Image.open(content).convert("RGB")


EDITS = {
    "saved again": saved_again,
    "half the size": lambda image: image.resize((200, 150)),
    "cropped": lambda image: image.crop((80, 40, 360, 260)),
    "rotated": lambda image: image.rotate(33, Image.Resampling.BICUBIC),
    "upside down": lambda image: image.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
    "mirrored and rotated": lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).rotate(-70, expand=True),
    "darker": lambda image: ImageEnhance.Brightness(image).enhance(0.75),
    "less contrast": lambda image: ImageEnhance.Contrast(image).enhance(0.75),
    "blurred": lambda image: image.filter(ImageFilter.GaussianBlur(1)),
}


@pytest.fixture(scope="module")
def originals():
    return [features(picture(seed)) for seed in range(12)]


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_an_edited_copy_is_found_and_aligned(originals, edit):
    copy = edit(picture(3))
    pairs = candidate_pairs([*originals, features(copy)])
    best = pairs.loc[pairs["votes"].idxmax()]
    assert (best["first"], best["second"]) == (3, 12)
    found = align(originals[3], features(copy), bool(best["mirrored"]))
    assert found.cells >= 2 * search.FEWEST_CELLS
    assert similarity(scaled_gray(picture(3)), scaled_gray(copy), found) > 0.8


def test_different_images_are_no_pair(originals):
    pairs = candidate_pairs(originals)
    aligned = [
        align(originals[first], originals[second], mirrored)
        for first, second, mirrored, _ in pairs.itertuples(index=False, name=None)
    ]
    assert all(found is None or found.cells < search.FEWEST_CELLS for found in aligned)


def test_two_collections_are_compared_with_each_other_alone(originals):
    pairs = candidate_pairs([*originals, originals[3]], [originals[5], features(picture(99))])
    best = pairs.loc[pairs["votes"].idxmax()]
    assert (best["first"], best["second"]) == (5, 0)
    assert set(pairs["second"]) <= {0, 1}


def test_more_copies_than_neighbors_are_looked_up_are_all_found(originals):
    copies = [features(saved_again(picture(3).resize((396 + n, 300)))) for n in range(20)]
    pairs = candidate_pairs([originals[3], *copies])
    joined = {0}
    for _ in copies:
        joined |= {n for pair in pairs[["first", "second"]].to_numpy().tolist() for n in pair if joined & set(pair)}
    assert joined == set(range(21))


def test_features_of_the_mirrored_image_are_computed_without_it(originals):
    mirrored = features(picture(0).transpose(Image.Transpose.FLIP_LEFT_RIGHT))
    ours = originals[0].mirrored()
    distances = []
    for point, descriptor in zip(ours.points, ours.descriptors.astype(float), strict=True):
        here = np.abs(mirrored.points - point).sum(axis=1) < 1  # several, where a point has several directions
        if here.any():
            distances.append(np.linalg.norm(mirrored.descriptors[here] - descriptor, axis=1).min())
    assert len(distances) > 0.9 * len(ours.points)
    unrelated = np.linalg.norm(ours.descriptors[:-1].astype(float) - ours.descriptors[1:], axis=1)
    assert np.median(distances) < np.median(unrelated) / 3


def test_an_image_without_a_point_matches_nothing():
    blank = features(Image.new("RGB", (400, 300), "white"))
    assert len(blank.points) == 0
    assert len(candidate_pairs([blank, blank])) == 0
    assert (
        len(candidate_pairs([features(picture(0))], [blank])) == len(candidate_pairs([features(picture(0))], [])) == 0
    )
    assert align(blank, features(picture(0)), False) is None


def test_images_of_patients_who_may_be_the_same_are_candidates():
    patients = pd.DataFrame(
        {
            "age": [45, 45, np.nan, 45, 50, 45],
            "sex": ["male", "male", "male", "male", "male", np.nan],
            "localization": ["back", "back", "back", "face", "back", "back"],
        }
    )
    assert same_patient_pairs(patients).to_numpy().tolist() == [[0, 1, False]]
    others = pd.DataFrame({"age": [50, 45], "sex": ["male"] * 2, "localization": ["back"] * 2})
    assert same_patient_pairs(patients, others).to_numpy().tolist() == [[0, 1, False], [1, 1, False], [4, 0, False]]


def test_marks_in_one_line_count_as_few_cells():
    """A printed ruler matches at many points of two images that share nothing else."""
    points = np.stack([np.linspace(0, 15, 40), np.zeros(40)], axis=1).astype(np.float32)
    descriptors = np.random.default_rng(0).integers(0, 255, (40, 128), dtype=np.uint8)
    ruler = features(picture(0))._replace(points=points, descriptors=descriptors)
    found = align(ruler, ruler, False)
    assert found.inliers == 40 and found.cells == 2


def test_the_transform_draws_the_second_image_over_the_first():
    first = scaled_gray(picture(0))
    second = scaled_gray(picture(0).transpose(Image.Transpose.FLIP_LEFT_RIGHT))
    same = Alignment(9, 9, np.array([[1.0, 0, 0], [0, 1, 0]]), mirrored=True)
    assert np.array_equal(warp(second, same, first.shape), first)
    assert similarity(first, second, same) == pytest.approx(1)
    assert same.scale == 1 and same.rotation == 0
    away = same._replace(matrix=np.array([[1.0, 0, 399], [0, 1, 0]]))
    assert similarity(first, second, away) == 0  # one column overlaps
    assert similarity(first, np.zeros_like(second), same) == 0


# The command


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Eight lesions of one image; that of the last is a copy of the first, whose patient is another."""
    folder = tmp_path_factory.mktemp("duplicates") / "data"
    (folder / "images").mkdir(parents=True)
    rows = make_rows(8, 1)
    for seed, row in enumerate(rows):
        row["dx"] = "nv"
        image = picture(0).rotate(10) if seed == 7 else picture(seed)
        image.save(folder / "images" / f"{row['image_id']}.png")
    rows[7]["sex"] = "male"
    write_table(folder / "HAM10000_metadata.csv", rows)
    return folder


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    return tmp_path / "cache" / "ham_hf"


def test_a_lesion_with_few_features_is_found_by_its_patient(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("ham_hf.data.duplicates.candidates._FEWEST_VOTES", 10**6)
    rows = pd.read_csv(folder / "HAM10000_metadata.csv")
    for sex, found in (("male", 0), (rows.loc[0, "sex"], 1)):
        rows.loc[7, "sex"] = sex
        rows.loc[7, "age"], rows.loc[7, "localization"] = rows.loc[0, "age"], rows.loc[0, "localization"]
        rows.to_csv(tmp_path / "table.csv", index=False)
        data = DataArguments(data_dir=str(folder), metadata_csv=str(tmp_path / "table.csv"), split="")
        assert len(write_duplicates(data, tmp_path / sex)) == found


def duplicates(*words) -> int:
    return main(["data", "duplicates", *map(str, words)])


def test_the_command_writes_a_table_and_a_page(folder, tmp_path, capsys):
    assert duplicates(folder, "--split", "grouped", "--output_dir", tmp_path / "out") == 0
    assert "1 pairs of images of different lesions that may show one lesion" in capsys.readouterr().out
    [row] = pd.read_csv(tmp_path / "out" / "duplicates.csv").to_dict("records")
    assert (row["image_a"], row["image_b"]) == ("IMG_000_0", "IMG_007_0")
    assert row["rotation"] == pytest.approx(10, abs=0.5) and row["scale"] == pytest.approx(1, abs=0.01)
    assert row["contradictions"] == "age sex" and row["mirrored"] is False
    assert {row["split_a"], row["split_b"]} <= {"train", "validation", "test"}
    page = (tmp_path / "out" / "duplicates.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 2 and "http" not in page.replace("http-equiv", "")


def test_shading_does_not_make_images_differ():
    gray = scaled_gray(picture(3))
    y, x = np.mgrid[-1 : 1 : gray.shape[0] * 1j, -1 : 1 : gray.shape[1] * 1j]
    dark = (gray * (1 - np.clip(np.hypot(x, y) - 0.4, 0, 0.9))).astype(np.uint8)  # a vignette
    same_place = Alignment(9, 9, np.eye(2, 3), False)
    assert np.corrcoef(gray.ravel(), dark.ravel())[0, 1] < 0.3
    assert similarity(gray, dark, same_place) > 0.5
    assert similarity(gray, scaled_gray(picture(4)), same_place) < 0.3


def test_images_that_two_collections_share_are_found_under_equal_ids(folder, tmp_path, capsys):
    other = tmp_path / "other"
    (other / "images").mkdir(parents=True)
    rows = make_rows(3, 1)
    for seed, row in enumerate(rows):
        picture(2 if seed == 0 else 50 + seed).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(
            other / "images" / f"{row['image_id']}.png"
        )
    write_table(other / "HAM10000_metadata.csv", rows)
    assert duplicates(folder, "--against", other, "--split", "grouped", "--output_dir", tmp_path / "out") == 0
    shown = capsys.readouterr().out
    assert "1 pairs of images in both collections" in shown and "different splits" not in shown
    [row] = pd.read_csv(tmp_path / "out" / "duplicates.csv").to_dict("records")
    assert (row["image_a"], row["image_b"], row["mirrored"]) == ("IMG_002_0", "IMG_000_0", True)
    assert isinstance(row["split_a"], str) and np.isnan(row["split_b"])  # the second collection has no split


def test_a_split_that_does_not_fit_is_refused_before_the_search(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(search, "_search", lambda *_: pytest.fail("searched"))
    assert duplicates(folder, "--split", "study", "--output_dir", tmp_path / "out") == 2
    assert "8 images are not HAM10000's" in capsys.readouterr().err


def test_a_second_search_computes_nothing(folder, tmp_path, cache, monkeypatch):
    duplicates(folder, "--output_dir", tmp_path / "one")
    monkeypatch.setattr(search, "_search", lambda *_: pytest.fail("searched again"))
    duplicates(folder, "--output_dir", tmp_path / "two")
    tables = [(tmp_path / name / "duplicates.csv").read_text() for name in ("one", "two")]
    assert tables[0] == tables[1]


@pytest.mark.parametrize(
    "damage", ["[[0, 99, 50, 40, [1, 0, 0, 0, 1, 0], false, 0.9]]", "[[0, 7]]", "7", "[{", "[[]]"]
)
def test_a_damaged_result_is_searched_again(damage, folder, tmp_path, cache):
    duplicates(folder, "--output_dir", tmp_path / "one")
    [results] = cache.glob("duplicates-*/*.json")
    good = results.read_text()
    results.write_text(damage)
    duplicates(folder, "--output_dir", tmp_path / "two")
    assert results.read_text() == good
    assert (tmp_path / "one" / "duplicates.csv").read_text() == (tmp_path / "two" / "duplicates.csv").read_text()


def test_lesion_ids_that_look_alike_are_pairs_to_review(folder, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "images").symlink_to(folder / "images")
    rows = make_rows(8, 1)
    for row in rows:
        row["dx"] = "nv"
    rows[2]["lesion_id"] = "les 001"
    rows[7]["lesion_id"] = "Les-000"  # of the copy, which is found by its features already
    write_table(tmp_path / "data" / "HAM10000_metadata.csv", rows)
    assert duplicates(tmp_path / "data", "--output_dir", tmp_path / "out") == 0
    found = pd.read_csv(tmp_path / "out" / "duplicates.csv")
    assert found[["image_a", "image_b"]].to_numpy().tolist() == [
        ["IMG_000_0", "IMG_007_0"],
        ["IMG_001_0", "IMG_002_0"],
    ]
    assert found["score"].iloc[0] > 5 and found["score"].iloc[1] == 0


def test_a_training_run_reports_what_was_searched_before(folder, tmp_path):
    split = write_split(tmp_path / "split.csv", {f"IMG_00{n}_0": "test" if n == 7 else "train" for n in range(8)})
    assert load(folder, split=split)[1]["local_features"] is None
    duplicates(folder, "--output_dir", tmp_path / "out")
    found = load(folder, split=split)[1]["local_features"]
    assert found["pairs_across_splits"] == 1
    assert found["pairs"][0][:4] == ["IMG_000_0", "train", "IMG_007_0", "test"]
    unused = write_split(tmp_path / "unused.csv", {f"IMG_00{n}_0": "unused" if n == 7 else "train" for n in range(8)})
    assert load(folder, split=unused)[1]["local_features"] == {"pairs_across_splits": 0, "pairs": []}
    decisions = tmp_path / "decisions.csv"
    decisions.write_text("image_a,image_b,decision\nIMG_000_0,IMG_007_0,same lesion\n")
    facts = load(folder, split=split, same_lesion=str(decisions))[1]
    assert facts["local_features"]["pairs_across_splits"] == 0
    assert facts["same_lesion"]["images"]["test"] == ["IMG_007_0"]


def test_evaluated_images_are_compared_with_training_images(folder, tmp_path):
    training = DataArguments(data_dir=str(folder), split="")
    rows = make_rows(2, 1)
    (tmp_path / "new" / "images").mkdir(parents=True)
    for row, image in zip(rows, (picture(0).rotate(-40), picture(77)), strict=True):
        image.save(tmp_path / "new" / "images" / f"{row['image_id']}.png")
    write_table(tmp_path / "new" / "HAM10000_metadata.csv", rows)
    splits = load(tmp_path / "new", split="all")[0]
    (tmp_path / "model").mkdir()  # without a record: all images are compared
    facts = find_training_copies(str(tmp_path / "model"), None, training, splits)
    assert facts["training_copies"] == {"training_images": 8, "images": {"validation": [], "test": ["IMG_000_0"]}}
    said = "1 test images shows a lesion of a training image of it, compared by local features."
    assert overlap_sentences(facts, "it") == [said.replace("images shows", "image shows")]
    run = {"data": facts | {"overlap": {"record": "none"}}, "training": None, "model": {}}
    assert "None shows" not in overlap_note(run)
    facts["training_copies"]["images"]["test"] = []
    assert overlap_note(run).endswith("None shows a lesion of its 8 training images, compared by local features.")


def test_an_interrupted_search_keeps_the_features_it_has(folder, tmp_path, cache, monkeypatch):
    duplicates(folder, "--output_dir", tmp_path / "one")
    [results] = cache.glob("duplicates-*/*.json")
    results.unlink()
    files = sorted(cache.glob("local-features-*/*.npz"))
    assert len(files) == 8
    files[0].write_bytes(b"half a fi")
    made = []
    extract = search.compute_local_features.__globals__["extract_features"]
    monkeypatch.setattr(
        "ham_hf.data.duplicates.local_features.extract_features", lambda gray: made.append(1) or extract(gray)
    )
    duplicates(folder, "--output_dir", tmp_path / "two")
    assert len(made) == 1
    assert (tmp_path / "one" / "duplicates.csv").read_text() == (tmp_path / "two" / "duplicates.csv").read_text()


def test_a_thorough_audit_suspects_the_copy(folder, capsys):
    assert main(["data", "audit", str(folder)]) == 0
    shown = capsys.readouterr().out
    assert "IMG_007_0" not in shown and "local features" not in shown
    assert main(["data", "audit", str(folder), "--thorough"]) == 0
    shown = capsys.readouterr().out
    assert "distance <= 38), local features\n" in shown
    assert "show the same by their local features: 1 (IMG_000_0 ~ IMG_007_0, score " in shown
    assert "No certain leaks found; see below." in shown


def test_a_missing_package_is_named_before_any_work(folder, tmp_path, monkeypatch, capsys):
    found = installation.importlib.util.find_spec
    monkeypatch.setattr(
        installation.importlib.util, "find_spec", lambda name: None if name == "faiss" else found(name)
    )
    assert duplicates(folder, "--output_dir", tmp_path / "out") == 2
    assert "requires faiss, which is not installed: " in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_page_escapes_ids():
    sides = {f"{name}_{side}": "x" for name in ("lesion", "dx", "sex", "localization", "split") for side in "ab"}
    row = {"image_a": "</script><b>", "image_b": "b", "score": 1, "inliers": 9, "similarity": 0.5}
    row |= sides | {"age_a": 50.0, "age_b": None, "contradictions": ""}
    page = render_duplicates(pd.DataFrame([row]), lambda *_: picture(0, (40, 30)), {0: np.eye(3)[:2]})
    assert "</script><b>" not in page and "\\u003c/script>\\u003cb>" in page
    assert "age unknown" in page and "50 years" in page


def test_real_duplicates_are_found(ham10000_dir, tmp_path):
    """Published pairs of HAM10000 among 60 other images; one shares 16 points only."""
    published = [("ISIC_0024736", "ISIC_0029748"), ("ISIC_0027027", "ISIC_0029036"), ("ISIC_0024437", "ISIC_0031299")]
    files = {file.stem: file for file in ham10000_dir.glob("*/*.jpg")}
    ids = sorted(image_id for pair in published for image_id in pair) + sorted(files)[:60]
    found = {image_id: features(Image.open(files[image_id])) for image_id in ids}
    assert all(len(of_image.points) == POINTS for of_image in found.values())
    pairs = candidate_pairs(list(found.values()))
    names, good = list(found), set()
    for first, second, mirrored, _ in pairs.itertuples(index=False, name=None):
        alignment = align(found[names[first]], found[names[second]], mirrored)
        if alignment is not None and alignment.cells >= search.FEWEST_CELLS:
            good.add((names[first], names[second]))
    table = pd.read_csv(ham10000_dir / "HAM10000_metadata.csv", index_col="image_id")
    assert {pair for pair in good if table.lesion_id[pair[0]] != table.lesion_id[pair[1]]} == set(published)
