"""Write a table and tiny images, each different, in the official layout."""

import csv
from pathlib import Path

import numpy as np
from PIL import Image

from ham_hf.data.dataset import load_ham10000
from ham_hf.labels import LABELS

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


def ham10000_rows() -> list[dict[str, str]]:
    """Return the rows of `make_rows` with ids of HAM10000."""
    return [row | {"image_id": f"ISIC_{24306 + number:07d}"} for number, row in enumerate(make_rows())]


def write_table(
    path: Path, rows: list[dict[str, str]], delimiter: str = ",", quoting: int = csv.QUOTE_MINIMAL
) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter, quoting=quoting)
        writer.writeheader()
        writer.writerows(rows)


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
