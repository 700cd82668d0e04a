"""A dataset of the Hugging Face Hub with an image column and HAM10000's columns under their usual names."""

import pandas as pd
from datasets import ClassLabel, Dataset, DatasetDict, Image, concatenate_datasets, load_dataset
from datasets.exceptions import DatasetNotFoundError
from huggingface_hub import constants
from huggingface_hub.errors import HTTPError

from ham_hf.data.table import build_dataset, clean_table
from ham_hf.errors import InputError
from ham_hf.hub import resolve_revision
from ham_hf.labels import diagnosis_code


def read_hub(name: str, revision: str | None = None) -> tuple[pd.DataFrame, Dataset]:
    """Download all splits of a Hub dataset and read them as one: the table and the canonical Dataset, in one order.

    Raises:
        InputError: it cannot be reached (said within seconds, before any download), or its columns do not fit.
    """
    # Offline, load_dataset uses what an earlier run downloaded, and is quick to say that there is nothing
    commit = revision if constants.HF_HUB_OFFLINE else resolve_revision(name, revision, "dataset")
    try:
        loaded = load_dataset(name, revision=commit)
    except (DatasetNotFoundError, ConnectionError, HTTPError) as error:
        raise InputError(f"cannot load dataset {name!r}: {error}; give a folder with the images instead") from error
    return convert(loaded, name)


def convert(loaded: DatasetDict, name: str) -> tuple[pd.DataFrame, Dataset]:
    """Join all splits (a copy's own splits are not to be trusted), one row an image_id, sorted by it."""
    rows = concatenate_datasets(list(loaded.values()))
    image_columns = [column for column, feature in rows.features.items() if isinstance(feature, Image)]
    if len(image_columns) != 1:
        found = ", ".join(f"{column} ({type(feature).__name__})" for column, feature in rows.features.items())
        raise InputError(f"{name} has {len(image_columns)} image columns; expected one, found {found}")
    if image_columns != ["image"]:
        rows = rows.rename_column(image_columns[0], "image")
    table = clean_table(_diagnoses(rows), f"{name}, row")
    table["row"] = range(len(table))
    table["has_image"] = rows.data.column("image").is_valid().to_numpy()
    first = table.drop_duplicates("image_id")
    torn = table.drop_duplicates(["image_id", "lesion_id", "dx"])["image_id"]
    if len(torn) > len(first):
        ids = ", ".join(sorted(set(torn[torn.duplicated()]))[:5])
        raise InputError(f"{name} has rows of one image_id with different lesions or diagnoses: {ids}")
    first = first.sort_values("image_id", ignore_index=True)
    images = rows.select_columns("image").cast_column("image", Image())
    dataset = build_dataset(table, images).select(first["row"])
    return first.drop(columns="row"), dataset


def _diagnoses(rows: Dataset) -> pd.DataFrame:
    """The columns beside the image, with `dx` (or `label`) as one of the seven codes where it is known."""
    column = "dx" if "dx" in rows.column_names or "label" not in rows.column_names else "label"
    table = rows.remove_columns("image").to_pandas()
    if column in table:
        if isinstance(rows.features[column], ClassLabel):
            table[column] = table[column].map(dict(enumerate(rows.features[column].names)))
        table["dx"] = [diagnosis_code(value) or value for value in table[column]]
    return table
