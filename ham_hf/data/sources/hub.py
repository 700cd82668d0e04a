"""Read a dataset from the Hugging Face Hub with an image column and HAM10000's columns under their usual names."""

import hashlib
from pathlib import Path

import pandas as pd
from datasets import ClassLabel, Dataset, DatasetDict, Image, concatenate_datasets, load_dataset
from datasets.exceptions import DatasetNotFoundError
from huggingface_hub import constants
from huggingface_hub.errors import HTTPError

from ham_hf.data.diagnoses import DiagnosisMap, code_diagnoses
from ham_hf.data.image_hashes import hash_pixels
from ham_hf.data.image_io import read_image
from ham_hf.data.schema import Source, build_dataset, clean_table, require_columns
from ham_hf.system.errors import InputError
from ham_hf.system.hub_access import resolve_revision


def read_hub(name: str, revision: str | None = None, diagnosis_map: DiagnosisMap | None = None) -> Source:
    """Download all splits of a Hub dataset and read them as one source.

    Raises:
        InputError: it cannot be reached (said within seconds, before any download), or its columns do not fit.
    """
    # Offline, load_dataset uses what an earlier run downloaded, and is quick to say that there is nothing
    commit = revision if constants.HF_HUB_OFFLINE else resolve_revision(name, revision, "dataset")
    try:
        loaded = load_dataset(name, revision=commit)
    except (DatasetNotFoundError, ConnectionError, HTTPError) as error:
        raise InputError(f"cannot load dataset {name!r}: {error}; use a folder with the images instead") from error
    return convert(loaded, name, diagnosis_map)


def convert(loaded: DatasetDict, name: str, diagnosis_map: DiagnosisMap | None = None) -> Source:
    """Join all splits (a copy's own splits are not to be trusted), one row an image_id, sorted by it."""
    rows = concatenate_datasets(list(loaded.values()))
    image_columns = [column for column, feature in rows.features.items() if isinstance(feature, Image)]
    if len(image_columns) != 1:
        found = ", ".join(f"{column} ({type(feature).__name__})" for column, feature in rows.features.items())
        raise InputError(f"{name} has {len(image_columns)} image columns; expected one, found {found}")
    if image_columns != ["image"]:
        rows = rows.rename_column(image_columns[0], "image")
    raw = _columns(rows, name)
    coded, dropped = code_diagnoses(raw, raw["dx"], diagnosis_map or {}, {}, f"{name}, row")
    has_image = rows.data.column("image").is_valid().to_numpy()[coded.index]
    if dropped:
        rows = rows.select(coded.index)
    table = clean_table(coded, f"{name}, row")
    table["row"] = range(len(table))
    table["has_image"] = has_image
    first = table.drop_duplicates("image_id")
    torn = table.drop_duplicates(["image_id", "lesion_id", "dx"])["image_id"]
    if len(torn) > len(first):
        ids = ", ".join(sorted(set(torn[torn.duplicated()]))[:5])
        raise InputError(f"{name} has rows of one image_id with different lesions or diagnoses: {ids}")
    _check_repeated_images(rows, table, name)
    first = first.sort_values("image_id", ignore_index=True)
    images = rows.select_columns("image").cast_column("image", Image())
    dataset = build_dataset(table, images).select(first["row"])
    return Source("hub", first.drop(columns="row"), dataset, dropped)


def _check_repeated_images(rows: Dataset, table: pd.DataFrame, name: str) -> None:
    """Raise InputError where rows of one image_id have images with different pixels."""
    encoded = rows.select_columns("image").cast_column("image", Image(decode=False))
    again = table[table["has_image"] & table["image_id"].duplicated(keep=False)]
    for image_id, of_image in again.groupby("image_id")["row"]:
        files = {_bytes_of(encoded[row]["image"]) for row in of_image}
        if len(files) > 1 and len(set(map(_pixels, files))) > 1:
            raise InputError(f"{name} has different images of one image_id, {image_id}: expected one image for each")


def _bytes_of(cell: dict) -> bytes:
    return cell["bytes"] if cell["bytes"] is not None else Path(cell["path"]).read_bytes()


def _pixels(encoded: bytes) -> str:
    try:
        return hash_pixels(read_image(encoded))
    except InputError:  # broken, so not the same as any other; the check of all images reports it
        return hashlib.sha256(encoded).hexdigest()


def _columns(rows: Dataset, name: str) -> pd.DataFrame:
    """Return the columns beside the image, with the name of the diagnosis in `dx` (from `label` where it has none)."""
    column = "dx" if "dx" in rows.column_names or "label" not in rows.column_names else "label"
    table = rows.remove_columns("image").to_pandas()
    if column in table:
        if isinstance(rows.features[column], ClassLabel):
            table[column] = table[column].map(dict(enumerate(rows.features[column].names)))
        table["dx"] = table[column]
    require_columns(table, ("image_id", "dx"), name)
    return table
