"""Audit a copy of the data, and any assignment of its images to splits, for leaks.

ham-hf data audit path/to/HAM10000 --split my_split.csv
"""

from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from ham_hf.config.arguments import DataArguments
from ham_hf.data import audit
from ham_hf.data.duplicates.search import Collection, Pair, require_search, search_duplicates
from ham_hf.data.image_hashes import ImageCheck, check_images
from ham_hf.data.lesions import compare_lesions, look_alikes, official_lesions
from ham_hf.data.same_lesion import ImagePair, group_lesions, read_same_lesion
from ham_hf.data.schema import some
from ham_hf.data.source import read_source
from ham_hf.data.splits import UNUSED, assign_splits, read_split_csv
from ham_hf.system.terminal import printable_lines

LEAK, UNDECIDED = 1, 2  # exit codes


class Inspection(NamedTuple):
    """Results of an audit as lines of text; `absent` and `broken` are image ids.

    `lines` describe the data. `leaks` are certain; `suspected` may be leaks, or are leaks that HAM10000 itself has in
    the study's split; `not_compared` says which images or lesions could not be checked. `undecided` is true if
    leaks cannot be ruled out for that reason.
    """

    lines: list[str]
    absent: list[str]
    broken: list[str]
    leaks: list[str]
    suspected: list[str]
    not_compared: list[str]
    undecided: bool


def inspect_data(args: DataArguments, *, thorough: bool = False) -> Inspection:
    """Return all problems of the data, where training would stop at the first.

    With `thorough`, images are compared by local features as well, which takes minutes the first time.

    The split is 'study', 'grouped', or a CSV (image_id, split) with splits of any names, in which images may be
    missing; '' audits the copy alone. Images without a split, and those that a CSV calls "unused", are not compared
    with others.

    Raises:
        InputError: the source or the split cannot be read, or 'grouped' cannot be drawn since lesions are unknown.
    """
    if thorough:
        require_search()
    known = read_same_lesion(args.same_lesion).pairs
    source = read_source(args)
    table = source.table
    lines = [f"{args.data_dir}: {len(table):,} rows, {_lesions(table)}"]
    if source.dropped:
        lines.append(
            f"rows dropped because of their diagnosis: {_counted([f'{k} {n:,}' for k, n in source.dropped.items()])}"
        )
    leaks = [f"image ids in several rows: {_counted(twice)}"] if (twice := audit.repeated_ids(table)) else []
    table = table.drop_duplicates("image_id")
    checks = check_images(source.dataset)
    present = {image_id: check for image_id, check in checks.items() if check.error is None}
    broken = {image_id: checks[image_id] for image_id in sorted(checks.keys() - present.keys())}
    absent = table.loc[~table["has_image"], "image_id"].tolist()
    lines.append(f"missing images: {_counted(absent)}")
    lines.append(f"broken images: {_counted(list(broken))}")
    same_lesion, _ = audit.identical_groups(table, present)
    lines.append(f"identical images of a lesion under several ids: {_groups(same_lesion)}")
    pairs = audit.near_duplicates(table, present)
    lines.append(f"near-duplicate images of different lesions ({audit.METHOD}): {_pairs(pairs)}")
    found = search_duplicates(Collection(source.dataset, present)) if thorough else []
    methods = ["lesion ids", "pixels", f"perceptual hashes ({audit.METHOD})"] + ["local features"] * thorough
    lines.append(f"compared by {', '.join(methods)}")
    if joined := compare_lesions(table, official_lesions()).joined:
        lines.append(f"lesion ids that join several lesions of HAM10000: {_counted(joined)}")
    split = None
    if args.split:
        split = _assignment(args, table, known)
        unassigned = sorted(set(table["image_id"]) - set(split))
        counts = pd.Series(split.values()).value_counts().sort_index()
        sizes = ", ".join(f"{count:,} {name}" for name, count in counts.items())
        lines.append(f"split {args.split}: {sizes}; images without a split: {_counted(unassigned)}")
        split = {image_id: name for image_id, name in split.items() if name != UNUSED}
        table = table[table["image_id"].isin(split.keys())]
        present = {image_id: check for image_id, check in present.items() if image_id in split}
    leaks += _lesion_leaks(table, split)
    _, other_lesion = audit.identical_groups(table, present)
    if other_lesion:
        leaks.append(f"identical images of different or unknown lesions: {_groups(other_lesion)}")
    certain, suspected = _copies(table, present, pairs, split, known, args.split == "study")
    missing, undecided = _not_compared(table, checks, present, split)
    suspected += _aligned(table, found, split, known) + _look_alikes(table, split)
    return Inspection(lines, absent, list(broken), leaks + certain, suspected, missing, undecided)


def render_inspection(inspection: Inspection) -> str:
    """Return the text that `ham-hf data audit` prints."""
    parts = {verdict(inspection): inspection.leaks}
    parts |= {"Suspected:": inspection.suspected, "Could not be compared:": inspection.not_compared}
    blocks = [
        "\n".join([title, *(f"- {item}" for item in items)])
        for title, items in parts.items()
        if items or title == verdict(inspection)
    ]
    return printable_lines("\n".join([*inspection.lines, "", *blocks]))


def verdict(inspection: Inspection) -> str:
    """Return the result of the audit in a few words."""
    if inspection.leaks:
        return "Leaks found:"
    if inspection.undecided:
        return "Leaks cannot be ruled out."
    if inspection.suspected or inspection.not_compared:
        return "No certain leaks found; see below."
    return "No leaks found."


def exit_code(inspection: Inspection) -> int:
    """Return 1 if there are leaks, 2 if they cannot be ruled out, and 0 otherwise."""
    return LEAK if inspection.leaks else UNDECIDED if inspection.undecided else 0


def _assignment(args: DataArguments, table: pd.DataFrame, known: AbstractSet[ImagePair]) -> dict[str, str]:
    if args.split == "grouped":
        audit.check_known(table)
    if args.split in ("study", "grouped"):
        return assign_splits(table, args.split, args.split_seed, group_lesions(table, known))
    rows = read_split_csv(Path(args.split))
    rows = rows[rows["image_id"].isin(table["image_id"])]
    return dict(zip(rows["image_id"], rows["split"], strict=True))


def _lesions(table: pd.DataFrame) -> str:
    unknown = int((~table["lesion_known"]).sum())
    return f"{unknown:,} of them with an unknown lesion" if unknown else f"{table['lesion_id'].nunique():,} lesions"


def _lesion_leaks(table: pd.DataFrame, split: Mapping[str, str] | None) -> list[str]:
    leaks = []
    if torn := audit.torn_lesions(table, table["dx"]):
        leaks.append(f"lesions with two diagnoses: {_counted(torn)}")
    if separated := compare_lesions(table, official_lesions()).separated:
        leaks.append(f"lesions of HAM10000 under several lesion ids: {_counted(separated)}")
    if split is None:
        return leaks
    # Lesions by HAM10000's own table where the copy contradicts it
    rows = table.assign(lesion_id=table["image_id"].map(official_lesions()).fillna(table["lesion_id"]))
    names = rows["image_id"].map(split)
    for of in (table, rows):
        if torn := audit.torn_lesions(of, names):
            splits_of = names.groupby(of["lesion_id"]).agg(lambda found: len(set(found)))
            touched = of["lesion_id"].map(splits_of) > 1
            shares = ", ".join(f"{100 * touched[names == name].mean():.1f} % of {name}" for name in sorted(set(names)))
            return [*leaks, f"lesions in two splits: {_counted(torn)}; they include {shares}"]
    return leaks


def _copies(
    table: pd.DataFrame,
    present: Mapping[str, ImageCheck],
    pairs: list[audit.NearPair],
    split: Mapping[str, str] | None,
    known: AbstractSet[ImagePair],
    fixed: bool,
) -> tuple[list[str], list[str]]:
    """Return the leaks and the suspected leaks among near-duplicates and `known` duplicates.

    `fixed` is true for the study's split, in which the known duplicates cannot be moved. Identical images are
    reported apart.
    """
    is_apart = _separator(table, split)
    pixels = {image_id: check.pixels_sha256 for image_id, check in present.items()}
    listed = sorted(pair for pair in known if is_apart(*pair))
    near = [pair for pair in pairs if is_apart(*pair[:2]) and pixels[pair[0]] != pixels[pair[1]]]
    movable = [pair for pair in near if split is not None and not (fixed and pair[:2] in listed)]
    certain = [pair for pair in movable if pair[2] <= audit.CERTAIN_BITS]
    suspected = [pair for pair in near if pair not in certain and pair[:2] not in listed]
    apart = [(*pair, 0) for pair in listed if pair not in [pair[:2] for pair in certain]]
    where = "" if split is None else " across splits"
    leaks = [
        f"near-certain copies under different lesions{where}, distance <= {audit.CERTAIN_BITS}: {_pairs(certain)}"
    ]
    others = []
    if suspected:
        others.append(f"near-duplicates of different lesions{where}: {_pairs(suspected)}")
    if apart:
        others.append(f"known duplicates, one lesion under two lesion ids{where}: {_pairs(apart)}")
    return leaks if certain else [], others


def _separator(table: pd.DataFrame, split: Mapping[str, str] | None) -> Callable[[str, str], bool]:
    """Return a function that tells whether two images of the table differ in their lesions and in their splits."""
    lesion = dict(zip(table["image_id"], table["lesion_id"], strict=True))

    def is_apart(first: str, second: str) -> bool:
        if first not in lesion or second not in lesion or lesion[first] == lesion[second]:
            return False
        return split is None or split[first] != split[second]

    return is_apart


def _aligned(
    table: pd.DataFrame, pairs: list[Pair], split: Mapping[str, str] | None, known: AbstractSet[ImagePair]
) -> list[str]:
    """Return the suspected leaks among the pairs that the search found, without `known` ones."""
    is_apart = _separator(table, split)
    names = [
        f"{pair.image_a} ~ {pair.image_b}, score {pair.score:.0f}"
        for pair in pairs
        if is_apart(pair.image_a, pair.image_b) and (pair.image_a, pair.image_b) not in known
    ]
    where = "" if split is None else " across splits"
    return [
        f"images of different lesions{where} that show the same by their local features: {_counted(names)}"
    ] * bool(names)


def _look_alikes(table: pd.DataFrame, split: Mapping[str, str] | None) -> list[str]:
    known = table[table["lesion_known"]]
    groups = look_alikes(known["lesion_id"])
    if split is not None:
        splits_of = known["image_id"].map(split).groupby(known["lesion_id"]).agg(set)
        groups = [names for names in groups if len(set.union(*(splits_of[name] for name in names))) > 1]
    named = _counted([" ~ ".join(map(ascii, names)) for names in groups])
    where = "" if split is None else ", in several splits"
    return [f"lesion ids that probably name the same lesion{where}: {named}"] if groups else []


def _not_compared(
    table: pd.DataFrame,
    checks: Mapping[str, ImageCheck],
    present: Mapping[str, ImageCheck],
    split: Mapping[str, str] | None,
) -> tuple[list[str], bool]:
    """Return what could not be compared, and whether leaks cannot be ruled out for that reason."""
    missing = []
    if absent := table.loc[~table["has_image"], "image_id"].tolist():
        missing.append(f"missing images: {_counted(absent)}")
    broken = [name for name in table["image_id"] if name in checks and checks[name].error is not None]
    if broken:
        missing.append(f"broken images: {_counted(broken)}; the first one: {checks[broken[0]].error}")
    unknown = table.loc[~table["lesion_known"], "image_id"].tolist()
    if unknown:
        missing.append(f"images whose lesion is unknown: {_counted(unknown)}")
    several_parts = split is not None and table["image_id"].map(split).nunique() > 1
    return missing, not present or bool(unknown and several_parts)


def _counted(names: list[str]) -> str:
    return f"{len(names):,}" + (f" ({some(names)})" if names else "")


def _groups(groups: list[list[str]]) -> str:
    return _counted([" = ".join(ids) for ids in groups])


def _pairs(pairs: list[audit.NearPair]) -> str:
    return _counted([f"{first} ~ {second}" for first, second, _ in pairs])
