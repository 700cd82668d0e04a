"""Find images of one lesion under different lesion ids, and write a table and a page to review them.

ham-hf data duplicates path/to/HAM10000 --output_dir duplicates
"""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import PIL.Image

from ham_hf.config.arguments import DataArguments
from ham_hf.data.audit import check_ids, check_known
from ham_hf.data.duplicates.alignment import Alignment
from ham_hf.data.duplicates.local_features import image_by_id
from ham_hf.data.duplicates.search import Collection, Pair, require_search, search_duplicates
from ham_hf.data.duplicates.table import alignment_of, duplicates_table
from ham_hf.data.image_hashes import check_images
from ham_hf.data.lesions import look_alikes
from ham_hf.data.source import read_source
from ham_hf.data.splits import assign_splits
from ham_hf.reporting.duplicates_page import HEIGHT, render_duplicates
from ham_hf.system.files import check_new_folder, new_folder, replace_file

TABLE, PAGE = "duplicates.csv", "duplicates.html"


def write_duplicates(data: DataArguments, folder: Path, against: DataArguments | None = None) -> pd.DataFrame:
    """Search for duplicates, and write duplicates.csv and duplicates.html into the new `folder`.

    Args:
        data: the images; their `split` is shown, '' for none.
        folder: must not exist, or be empty.
        against: another collection: only pairs of an image of each are searched for.

    Returns:
        The rows of duplicates.csv, see `duplicates_table`.

    Raises:
        InputError: a source or the split cannot be read, OpenCV or faiss is not installed, or `folder` has files.
    """
    require_search()
    check_new_folder(folder)
    sources = [read_source(data)] if against is None else [read_source(data), read_source(against)]
    for source in sources:
        check_ids(source.table)
    if data.split == "grouped":
        check_known(sources[0].table)
    # Before the search, which takes minutes
    split = assign_splits(sources[0].table, data.split, data.split_seed) if data.split else None
    collections = [
        Collection(
            source.dataset, {k: check for k, check in check_images(source.dataset).items() if check.error is None}
        )
        for source in sources
    ]
    pairs = search_duplicates(*collections)
    if against is None:
        pairs += _look_alike_pairs(sources[0].table, collections[0], pairs)
    table = duplicates_table(pairs, [source.table for source in sources], split)
    readers = {"a": image_by_id(sources[0].dataset), "b": image_by_id(sources[-1].dataset)}

    def image_of(row: int, side: str) -> PIL.Image.Image:
        return readers[side](table.loc[row, f"image_{side}"])

    with new_folder(folder) as unfinished:
        table.to_csv(unfinished / TABLE, index=False)
        matrices = {row: _with_mirror(alignment_of(table.loc[row]), image_of(row, "b")) for row in table.index}
        replace_file(unfinished / PAGE, render_duplicates(table, image_of, matrices))
    return table


def _look_alike_pairs(table: pd.DataFrame, collection: Collection, found: Sequence[Pair]) -> list[Pair]:
    """Return a pair of images, not aligned, for lesion ids that probably name one lesion, unless one was found."""
    rows = table[table["lesion_known"] & table["image_id"].isin(collection.checks)].sort_values("image_id")
    lesion = dict(zip(rows["image_id"], rows["lesion_id"], strict=True))
    image_of = dict(zip(rows["lesion_id"][::-1], rows["image_id"][::-1], strict=True))  # the first one
    known = {frozenset((lesion.get(pair.image_a), lesion.get(pair.image_b))) for pair in found}
    unaligned = Alignment(0, 0, np.eye(2, 3), False)
    return [
        Pair(min(images), max(images), unaligned, 0.0)
        for names in look_alikes(image_of)
        for first, second in pairwise(names)
        if frozenset((first, second)) not in known
        for images in [(image_of[first], image_of[second])]
    ]


def _with_mirror(alignment: Alignment, image: PIL.Image.Image) -> np.ndarray:
    """Return the transform (2, 3) of the second image's own pixels, scaled to a shorter side of `HEIGHT`."""
    if not alignment.mirrored:
        return alignment.matrix
    width = round(image.width * HEIGHT / min(image.size))
    return alignment.matrix @ np.array([[-1, 0, width - 1], [0, 1, 0], [0, 0, 1]])
