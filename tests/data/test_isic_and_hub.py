"""The ISIC Archive's export, and a dataset of the Hub."""

import csv
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Image, load_dataset

from ham_hf.config.arguments import DataArguments
from ham_hf.data.dataset import load_checked
from ham_hf.data.schema import canonical_features
from ham_hf.data.sources import hub
from ham_hf.labels import DIAGNOSES, LABELS
from ham_hf.reporting.rendering import render_section
from ham_hf.system.errors import InputError
from tests.helpers.small_data import isic_rows, load, write_folder, write_image, write_table

ROOT = Path(__file__).parents[2]


def write_export(folder: Path, rows: list[dict[str, str]]) -> Path:
    write_images(folder, [row["isic_id"] for row in rows])
    write_table(folder / "metadata.csv", rows)
    return folder


def write_images(folder: Path, image_ids: list[str]) -> Path:
    folder.mkdir(exist_ok=True)
    for seed, image_id in enumerate(image_ids):
        write_image(folder / f"{image_id}.jpg", seed)
    return folder


def test_an_isic_export_gives_the_same_lesions_as_the_official_table(isic_export_dir, ham10000_dir, tmp_path):
    shutil.copy(isic_export_dir / "metadata.csv", tmp_path)
    with (isic_export_dir / "metadata.csv").open(newline="", encoding="utf-8") as file:
        wanted = {row["isic_id"] for row in csv.DictReader(file)}
    (tmp_path / "images").mkdir()
    for path in ham10000_dir.glob("*/*.jpg"):
        if path.stem in wanted:
            (tmp_path / "images" / path.name).symlink_to(path)
    splits, facts = load(tmp_path, split="study")
    assert facts["kind"] == "isic" and sum(map(len, splits.values())) == 800
    seen = pd.concat(split.remove_columns("image").to_pandas() for split in splits.values()).set_index("image_id")
    official = pd.read_csv(ham10000_dir / "HAM10000_metadata.csv").set_index("image_id").loc[seen.index]
    assert [LABELS[label] for label in seen["label"]] == official["dx"].tolist()
    assert seen["dx_type"].tolist() == official["dx_type"].tolist()
    pairs = set(zip(seen["lesion_id"], official["lesion_id"], strict=True))
    assert len(pairs) == seen["lesion_id"].nunique() == official["lesion_id"].nunique()
    sites = seen["localization"]
    assert sites.nunique() == 7 and (sites[official["localization"] == "back"] == "posterior torso").all()


def test_an_isic_export_is_recognized_by_its_columns(tmp_path):
    folder = write_export(tmp_path, isic_rows())
    (folder / "metadata.csv").rename(folder / "ham10000_metadata_2024-05-01.csv")
    splits, facts = load(folder)
    assert facts["kind"] == "isic" and facts["splits"]["test"]["classes"] == dict.fromkeys(LABELS, 1)
    first = splits["train"].remove_columns("image")[0]
    assert (first["age"], first["sex"], first["localization"], first["dx_type"]) == (
        None,
        "male",
        "head/neck",
        "histo",
    )


def test_an_isic_diagnosis_that_ham10000_lacks_is_named(tmp_path):
    rows = isic_rows()
    rows[2]["diagnosis_3"] = "Merkel cell carcinoma"
    rows[5]["diagnosis_3"] = "Scar"
    folder = write_export(tmp_path, rows)
    with pytest.raises(
        InputError, match="line 4: the diagnosis is 'Merkel cell carcinoma', expected one of akiec, .*"
    ):
        load(folder)
    with pytest.raises(InputError, match=r"Of this kind: 'Scar' \(1 row\)\. .* --diagnosis_map '{\"Scar\": null}'"):
        load(folder, diagnosis_map={"Merkel cell carcinoma": None})


def test_a_diagnosis_map_names_or_drops_other_diagnoses(tmp_path):
    rows = isic_rows()
    rows[2]["diagnosis_3"], rows[5]["diagnosis_3"], rows[6]["diagnosis_3"] = "Scar", "Bowen disease", "SCAR "
    diagnosis_map = {"scar": None, "Bowen disease": "akiec"}
    splits, facts = load(write_export(tmp_path, rows), split="all", diagnosis_map=diagnosis_map)
    assert facts["dropped_rows"] == {"SCAR": 1, "Scar": 1}
    of_image = dict(zip(splits["test"]["image_id"], splits["test"]["label"], strict=True))
    assert len(of_image) == 33 and LABELS[of_image["IMG_005_0"]] == "akiec" and "IMG_002_0" not in of_image
    assert "2 rows of the table were dropped" in render_section("data", facts)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"Blue": None}, "diagnosis_map names 'Blue', which is not a diagnosis in metadata.csv: it has "),
        ({"Scar": "SCC"}, "diagnosis_map maps 'Scar' to 'SCC': expected one of akiec"),
        ("[1]", "diagnosis_map is .* expected a JSON object"),
    ],
)
def test_a_diagnosis_map_that_does_not_fit_is_refused(value, message, tmp_path):
    with pytest.raises(InputError, match=message):
        load_checked(
            DataArguments(data_dir=str(write_export(tmp_path, isic_rows())), split="all", diagnosis_map=value)
        )


def test_an_isic_image_without_a_lesion_has_an_unknown_lesion(tmp_path):
    rows = isic_rows()
    rows[0]["lesion_id"] = rows[7]["lesion_id"] = ""
    folder = write_export(tmp_path, rows)
    with pytest.raises(InputError, match="lesions of 2 of 35 images are unknown .IMG_000_0, IMG_007_0"):
        load(folder)
    assert load(folder, split="all")[1]["splits"]["test"]["unknown_lesions"] == 2


def test_an_isic_export_requires_only_an_id_and_a_diagnosis(tmp_path):
    rows = [{"isic_id": row["isic_id"], "diagnosis": DIAGNOSES[LABELS[i % 7]]} for i, row in enumerate(isic_rows())]
    splits, facts = load(write_export(tmp_path / "old", rows), split="all")
    assert facts["splits"]["test"]["unknown_lesions"] == 35
    assert set(splits["test"]["localization"]) == set(splits["test"]["sex"]) == {"unknown"}
    with pytest.raises(InputError, match="metadata.csv lacks the columns diagnosis_3: it has 'isic_id'"):
        load(write_export(tmp_path / "none", [{"isic_id": row["isic_id"]} for row in rows]))


def test_an_isic_export_may_have_the_tree_of_body_sites(tmp_path):
    rows = isic_rows()
    for row in rows:
        del row["anatom_site_general"]
        row |= {"anatom_site_1": "Trunk", "anatom_site_2": "Trunk, back", "anatom_site_3": "", "age_approx": "85+"}
    splits, _ = load(write_export(tmp_path, rows), split="all")
    assert set(splits["test"]["localization"]) == {"trunk"} and set(splits["test"]["age"]) == {85.0}


def test_the_ground_truth_of_2019_needs_a_map_for_its_other_diagnoses(tmp_path):
    columns = ["MEL", "NV", "BCC", "AK", "BKL", "DF", "VASC", "SCC", "UNK"]
    rows = [
        {"image": f"IMG_{i}", **{name: str(float(i == j)) for j, name in enumerate(columns)}, "score_weight": "1.0"}
        for i in range(9)
    ]
    folder = write_images(tmp_path, [row["image"] for row in rows])
    write_table(folder / "ISIC_2019_Training_GroundTruth.csv", rows)
    with pytest.raises(InputError, match=r"'SCC' \(1 row\), 'UNK' \(1 row\)"):
        load(folder, split="all")
    splits, facts = load(folder, split="all", diagnosis_map={"SCC": "akiec", "UNK": None, "AK": "akiec"})
    assert facts["dropped_rows"] == {"UNK": 1} and facts["splits"]["test"]["classes"]["akiec"] == 2


# The Hub: what load_dataset returns is the same from local parquet files


def as_parquet(folder: Path, rows: list[dict], tmp_path: Path, **casts) -> DatasetDict:
    """Two overlapping splits written as the Hub stores them, and loaded as users load them."""
    dataset = Dataset.from_list(
        [
            {"image": {"bytes": (folder / "images" / f"{row['image_id']}.jpg").read_bytes(), "path": None}, **row}
            for row in rows
        ]
    ).cast_column("image", Image())
    for column, feature in casts.items():
        dataset = dataset.cast_column(column, feature)
    (tmp_path / "parquet").mkdir()
    dataset.select(range(50)).to_parquet(tmp_path / "parquet" / "train-00000-of-00001.parquet")
    dataset.select(range(30, len(rows))).to_parquet(tmp_path / "parquet" / "test-00000-of-00001.parquet")
    return load_dataset(str(tmp_path / "parquet"))


def test_a_hub_dataset_is_joined_and_deduplicated(rows, tmp_path):
    loaded = as_parquet(write_folder(tmp_path / "data", rows), rows, tmp_path)
    assert sum(map(len, loaded.values())) == 90
    _, table, dataset, _ = hub.convert(loaded, "someone/skin")
    assert table["image_id"].tolist() == dataset["image_id"][:] == sorted(row["image_id"] for row in rows)
    assert dataset.features == canonical_features()
    labels = {row["image_id"]: row["dx"] for row in rows}
    assert [LABELS[label] for label in dataset["label"][:]] == [labels[name] for name in dataset["image_id"][:]]
    direct, _ = load(tmp_path / "data")
    images = dict(zip(dataset["image_id"][:], dataset.cast_column("image", Image(decode=False))["image"], strict=True))
    for name in direct["test"]["image_id"][:3]:
        assert images[name]["bytes"] == (tmp_path / "data" / "images" / f"{name}.jpg").read_bytes()


def test_a_hub_dataset_with_two_images_of_one_id_is_refused(rows, tmp_path):
    loaded = as_parquet(write_folder(tmp_path / "data", rows), rows, tmp_path)
    other = loaded["train"][3]["image"]
    swapped = loaded["test"].map(lambda row: {"image": other if row["image_id"] == "IMG_015_0" else row["image"]})
    with pytest.raises(InputError, match="different images of one image_id, IMG_015_0"):
        hub.convert(DatasetDict({"train": loaded["train"], "test": swapped}), "someone/skin")


def test_a_hub_dataset_may_have_class_labels_or_full_names(rows, tmp_path):
    names = {  # as marmal88/skin_cancer has them
        "akiec": "actinic_keratoses",
        "bcc": "basal_cell_carcinoma",
        "bkl": "benign_keratosis-like_lesions",
        "df": "dermatofibroma",
        "mel": "melanoma",
        "nv": "melanocytic_Nevi",
        "vasc": "vascular_lesions",
    }
    folder = write_folder(tmp_path / "data", rows)
    for row in rows:
        row["label"] = names[row.pop("dx")].title()
    loaded = as_parquet(folder, rows, tmp_path, label=ClassLabel(names=[names[code].title() for code in LABELS[::-1]]))
    table = hub.convert(loaded, "someone/skin").table
    assert table["dx"].tolist() == [LABELS[lesion // 2 % 7] for lesion in range(70)]


def test_a_hub_dataset_that_does_not_fit_is_refused(rows, tmp_path):
    folder = write_folder(tmp_path / "data", rows)
    loaded = as_parquet(folder, rows, tmp_path)
    with pytest.raises(InputError, match="someone/skin lacks the columns sex"):
        hub.convert(DatasetDict({name: part.remove_columns("sex") for name, part in loaded.items()}), "someone/skin")
    with pytest.raises(InputError, match="someone/skin has 0 image columns; expected one, found lesion_id"):
        hub.convert(DatasetDict({name: part.remove_columns("image") for name, part in loaded.items()}), "someone/skin")
    torn = loaded["test"].map(lambda row: {"lesion_id": row["lesion_id"] + "b"})
    with pytest.raises(InputError, match="rows of one image_id with different lesions or diagnoses: IMG_015_0"):
        hub.convert(DatasetDict({"train": loaded["train"], "test": torn}), "someone/skin")


def test_a_hub_dataset_passes_through_the_same_checks(rows, tmp_path, monkeypatch):
    loaded = as_parquet(write_folder(tmp_path / "data", rows), rows, tmp_path)
    monkeypatch.setattr(hub, "load_dataset", lambda name, revision: loaded)
    splits, facts = load("someone/skin")
    direct, direct_facts = load(tmp_path / "data")
    assert facts["kind"] == "hub"
    assert facts | {"kind": "folder", "source": str(tmp_path / "data")} == direct_facts
    assert all(splits[name]["image_id"][:] == direct[name]["image_id"][:] for name in splits)
    assert splits["test"][0]["image"].tobytes() == direct["test"][0]["image"].tobytes()


def test_a_hub_dataset_in_offline_mode_is_refused_at_once():
    with pytest.raises(InputError, match="cannot load dataset 'someone/skin'.*use a folder"):
        load("someone/skin")


def test_a_hub_dataset_without_a_network_is_refused_within_seconds(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]  # closed again below: nobody answers there
    code = "from tests.helpers.small_data import load; load('someone/skin')"
    environment = os.environ | {
        "HF_HUB_OFFLINE": "0",
        "HF_ENDPOINT": f"http://127.0.0.1:{port}",
        "HF_HOME": str(tmp_path),
    }
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert "HubUnreachable: dataset 'someone/skin'" in done.stderr and "the Hub cannot be reached" in done.stderr
    assert time.perf_counter() - started < 40  # imports included
