"""The leak audit of any copy of the data, and of any assignment of its images to splits, as text.

ham-hf data audit path/to/HAM10000 --split my_split.csv
"""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from ham_hf.arguments import DataArguments
from ham_hf.data import audit, read_source
from ham_hf.data.images import check_images
from ham_hf.data.splits import assign_splits, read_split_csv
from ham_hf.data.table import some
from ham_hf.terminal import printable_lines


class Inspection(NamedTuple):
    """`lines` are all that was found but leaks; `absent` and `broken` are image ids."""

    lines: list[str]
    absent: list[str]
    broken: list[str]
    leaks: list[str]


def inspect_data(args: DataArguments) -> Inspection:
    """Everything that is wrong with the data `args` names, at once: unlike a training, it does not stop at the first.

    The split is 'study', 'grouped', or a CSV (image_id, split) with splits of any names, in which images may be
    missing; '' looks at the copy alone.

    Raises:
        InputError: the source or the split cannot be read.
    """
    source = read_source(args)
    table = source.table
    unknown = int((~table["lesion_known"]).sum())
    lesions = f"{unknown:,} of unknown lesions" if unknown else f"{table['lesion_id'].nunique():,} lesions"
    lines = [f"{args.data_dir}: {len(table):,} rows, {lesions}"]
    if source.dropped:
        lines.append(
            f"rows dropped for their diagnosis: {_counted([f'{k} {n:,}' for k, n in source.dropped.items()])}"
        )
    leaks = _table_leaks(table)
    table = table.drop_duplicates("image_id")
    checks = check_images(source.dataset)
    present = {image_id: check for image_id, check in checks.items() if check.error is None}
    broken = sorted(image_id for image_id, check in checks.items() if check.error is not None)
    absent = table.loc[~table["has_image"], "image_id"].tolist()
    lines.append(f"absent images: {_counted(absent)}")
    lines.append(f"broken images: {_counted(broken)}")
    same_lesion, other_lesion = audit.identical_groups(table, present)
    same, other = (_counted([" = ".join(ids) for ids in groups]) for groups in (same_lesion, other_lesion))
    lines.append(f"byte-identical images of one lesion under several ids: {same}")
    if other_lesion:
        leaks.append(f"byte-identical images of different lesions: {other}")
    pairs = audit.near_duplicates(table, present)
    lines.append(f"near-duplicate images of different lesions ({audit.METHOD}): {_pairs(pairs)}")
    if args.split:
        split = _assignment(args, table, pairs)
        unassigned = sorted(set(table["image_id"]) - set(split))
        lines.append(f"split {args.split}: {_sizes(split)}; images without a split: {_counted(unassigned)}")
        leaks += _split_leaks(table, split)
        across = [pair for pair in pairs if split.get(pair[0], "") != split.get(pair[1], "")]
        lines.append(f"near-duplicates across splits: {_pairs(across)}")
    return Inspection(lines, absent, broken, leaks)


def render_inspection(inspection: Inspection) -> str:
    """All of it, as `ham-hf data audit` prints it; a CSV's splits may have any name."""
    verdict = "It leaks:" if inspection.leaks else "No leak found."
    text = "\n".join([*inspection.lines, "", verdict, *(f"- {leak}" for leak in inspection.leaks)])
    return printable_lines(text)


def _assignment(args: DataArguments, table: pd.DataFrame, pairs: list[audit.NearPair]) -> dict[str, str]:
    if args.split in ("study", "grouped"):
        groups = audit.group_lesions(table, pairs) if args.group_near_duplicates else None
        return assign_splits(table, args.split, args.split_seed, groups)
    rows = read_split_csv(Path(args.split))
    rows = rows[rows["image_id"].isin(table["image_id"])]
    return dict(zip(rows["image_id"], rows["split"], strict=True))


def _table_leaks(table: pd.DataFrame) -> list[str]:
    twice, torn = audit.repeated_ids(table), audit.torn_lesions(table, table["dx"])
    leaks = [f"image ids in several rows: {_counted(twice)}"] if twice else []
    return leaks + ([f"lesions with two diagnoses: {_counted(torn)}"] if torn else [])


def _split_leaks(table: pd.DataFrame, split: Mapping[str, str]) -> list[str]:
    assigned = table[table["image_id"].isin(split.keys())]
    names = assigned["image_id"].map(split)
    torn = audit.torn_lesions(assigned, names)
    if not torn:
        return []
    splits_of = names.groupby(assigned["lesion_id"]).agg(lambda found: len(set(found)))
    touched = assigned["lesion_id"].map(splits_of) > 1
    shares = ", ".join(f"{100 * touched[names == name].mean():.1f} % of {name}" for name in sorted(set(names)))
    return [f"lesions in two splits: {_counted(torn)}; they have {shares}"]


def _counted(names: list[str]) -> str:
    return f"{len(names):,}" + (f" ({some(names)})" if names else "")


def _pairs(pairs: list[audit.NearPair]) -> str:
    return _counted([f"{first} ~ {second}" for first, second, _ in pairs])


def _sizes(split: Mapping[str, str]) -> str:
    counts = pd.Series(split.values()).value_counts().sort_index()
    return ", ".join(f"{count:,} {name}" for name, count in counts.items())
