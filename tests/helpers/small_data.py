"""Write a table and tiny images, each different, in the official layout."""

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ham_hf.data.dataset import load_ham10000
from ham_hf.data.sources.isic import ISIC_DIAGNOSES
from ham_hf.labels import LABELS
from ham_hf.system.errors import InputError

COLUMNS = ["lesion_id", "image_id", "dx", "dx_type", "age", "sex", "localization"]


def make_rows(lesions: int = 35, images: int = 2) -> list[dict[str, str]]:
    """Return rows of `lesions` lesions, cycling through the diagnoses, with `images` images each."""
    return [
        {
            "lesion_id": f"LES_{lesion:03d}",
            "image_id": f"IMG_{lesion:03d}_{image}",
            "dx": LABELS[lesion % len(LABELS)],
            "dx_type": "histo",
            "age": str(5.0 * (lesion % 18)),
            "sex": "female",
            "localization": "back",
        }
        for lesion in range(lesions)
        for image in range(images)
    ]


def ham10000_rows(lesions: int = 35, images: int = 2) -> list[dict[str, str]]:
    """Return the rows of `make_rows` with ids of HAM10000."""
    return [row | {"image_id": f"ISIC_{24306 + number:07d}"} for number, row in enumerate(make_rows(lesions, images))]


def write_table(
    path: Path, rows: list[dict[str, str]], delimiter: str = ",", quoting: int = csv.QUOTE_MINIMAL
) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter, quoting=quoting)
        writer.writeheader()
        writer.writerows(rows)


def write_split(path: Path, splits: dict[str, str]) -> str:
    """Write the split of each image_id, and return the path as an option."""
    write_table(path, [{"image_id": image_id, "split": split} for image_id, split in splits.items()])
    return str(path)


def read_rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write_image(path: Path, seed: int) -> None:
    blobs = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    Image.fromarray(blobs).resize((80, 60), Image.Resampling.BICUBIC).save(path)


def write_folder(folder: Path, rows: list[dict[str, str]], images: str = "images") -> Path:
    """Write the table of `rows` and, in `folder`/`images`, a JPEG for each."""
    (folder / images).mkdir(parents=True, exist_ok=True)
    write_table(folder / "HAM10000_metadata.csv", rows)
    for seed, row in enumerate(rows):
        write_image(folder / images / f"{row['image_id']}.jpg", seed)
    return folder


def load(folder: Path | str, **changes):
    return load_ham10000(folder, **{"split": "grouped"} | changes)


def noise(width: int = 90, height: int = 60, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def isic_rows(lesions: int = 35) -> list[dict[str, str]]:
    name = {"vasc": "", "akiec": "Squamous cell carcinoma, NOS"} | {
        code: next(name for name, other in ISIC_DIAGNOSES.items() if other == code)
        for code in LABELS
        if code not in ("vasc", "akiec")
    }
    return [
        {
            "isic_id": row["image_id"],
            "lesion_id": row["lesion_id"],
            "age_approx": "",
            "anatom_site_general": "head/neck",
            "diagnosis_1": "Benign",
            "diagnosis_2": "Benign soft tissue proliferations - Vascular",
            "diagnosis_3": name[row["dx"]],
            "diagnosis_confirm_type": "histopathology",
            "sex": "male",
        }
        for row in make_rows(lesions, images=1)
    ]


def refusal(folder: Path | str, **changes) -> str:
    """Return the message with which the data in `folder` is refused."""
    with pytest.raises(InputError) as caught:
        load(folder, **changes)
    return str(caught.value)
