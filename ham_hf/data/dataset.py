"""Data: any source → one canonical Dataset → splits by lesion → an audit that stops a run which would leak."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
from datasets import ClassLabel, Dataset, DatasetDict

from ham_hf.config.arguments import DataArguments
from ham_hf.data import audit
from ham_hf.data.duplicates.search import Collection, Pair, cached_duplicates
from ham_hf.data.image_files import near_miss
from ham_hf.data.image_hashes import ImageCheck, check_images
from ham_hf.data.same_lesion import (
    group_lesions,
    hidden_duplicates,
    merge_lesions,
    read_same_lesion,
    training_duplicates,
    with_lesions,
)
from ham_hf.data.schema import Source, some
from ham_hf.data.source import read_source
from ham_hf.data.splits import SPLITS, UNUSED, assign_splits
from ham_hf.labels import LABELS, NEVUS_OR_OTHER
from ham_hf.system.errors import InputError, as_input_error
from ham_hf.system.files import lines_digest

logger = logging.getLogger("ham_hf.data")

LISTED = 50  # of a kind of image in the facts, which the report prints


def load_ham10000(
    data_dir: str | Path,
    split: str = "study",
    *,
    data_revision: str | None = None,
    metadata_csv: str | Path | None = None,
    diagnosis_map: Mapping[str, str | None] | None = None,
    split_seed: int = 0,
    same_lesion: str | Path | None = None,
    drop_hidden_duplicates: bool = False,
    allow_missing_images: bool = False,
    classes: str = "diagnoses",
) -> tuple[DatasetDict, dict]:
    """Read, check, split and audit a copy of HAM10000, as a training does.

    Args:
        data_dir: a folder, a Hub dataset id, or "synthetic".
        split: "study", "grouped", "all" (every image is a test image), or the path of a CSV.
        data_revision: commit, branch or tag of a Hub dataset.
        metadata_csv: path of the metadata table, if it does not have the usual name.
        diagnosis_map: code of each diagnosis of the table that is not known; None for one whose rows are dropped.
        split_seed: of "grouped".
        same_lesion: a list of images that show one lesion under two lesion ids: see `DataArguments`.
        drop_hidden_duplicates: of a fixed split: drop training images whose lesion is evaluated under another id.
        allow_missing_images: drop images that are missing or broken, instead of raising an error.
        classes: "diagnoses" or "nevus_or_other".

    Returns:
        The splits and the facts about them, as `load_checked`.

    Raises:
        InputError: as `load_checked`.
    """
    args = DataArguments(
        data_dir=str(data_dir),
        data_revision=data_revision,
        split=str(split),
        metadata_csv=None if metadata_csv is None else str(metadata_csv),
        diagnosis_map=None if diagnosis_map is None else dict(diagnosis_map),
        split_seed=split_seed,
        same_lesion=None if same_lesion is None else str(same_lesion),
        drop_hidden_duplicates=drop_hidden_duplicates,
        allow_missing_images=allow_missing_images,
        classes=classes,  # type: ignore[arg-type]  # checked where it is used
    )
    try:
        splits, facts, _ = load_checked(args)
    except OSError as error:  # of a path that is too long, say: the commands do the same
        raise as_input_error(error) or error from error
    return splits, facts


def load_checked(args: DataArguments) -> tuple[DatasetDict, dict, dict[str, ImageCheck]]:
    """Read, check, split and audit the images that `args` names.

    Returns:
        The splits train, validation and test with `canonical_features()`, their label by `args.classes`, sorted by
        image_id, and the facts about them for the report (plain JSON): source, split and its hash, sizes, absent
        images, audit; and what `check_images` found in each image used, by image_id.

    Raises:
        InputError: anything about the source, the split or an image that would make the run fail or its report wrong.
    """
    if args.drop_hidden_duplicates and args.split == "grouped":
        raise InputError(
            "drop_hidden_duplicates has no effect on --split grouped, which keeps duplicates in the same split: "
            "remove it"
        )
    same_lesion = read_same_lesion(args.same_lesion)
    source = read_source(args)
    table = source.table
    audit.check_ids(table)
    groups = group_lesions(table, same_lesion.pairs)
    # What needs no pixels fails before they are read. With images that may be missing, the rows used are known later
    if args.split == "grouped":
        split = None
        audit.check_known(table)
    else:
        split = assign_splits(table, args.split)
        if not args.allow_missing_images:
            audit.check_split(table, split)
    present, broken = _usable_images(source, args)
    used = {name: check for name, check in present.items() if split is None or split[name] in SPLITS}
    identical = audit.identical_images(table, used)
    pairs = audit.near_duplicates(table, used)
    if split is None:
        split = assign_splits(table, args.split, args.split_seed, groups)
    used_rows = table[table["image_id"].isin(used)]
    audit.check_split(used_rows, split)
    if args.train_on_validation:
        split = _with_validation(split, args.split)
    dropped = training_duplicates(table, split, groups) if args.drop_hidden_duplicates else []
    split = split | dict.fromkeys(dropped, UNUSED)
    duplicates = {
        "list": same_lesion.name,
        "pairs": sum(set(pair) <= used.keys() for pair in same_lesion.pairs),
        "merged": args.split == "grouped" or args.same_lesion is not None,
        "dropped": args.drop_hidden_duplicates,
        "dropped_images": len(present.keys() & set(dropped)),
        "images": hidden_duplicates(used_rows, split, groups),
    }
    _warn_of_duplicates(duplicates)
    dataset = source.dataset
    if duplicates["merged"]:
        # Fixed splits keep their lesion ids, and so the hashes of figures published before, unless a list is given
        table = table.assign(lesion_id=merge_lesions(table, split, groups))
        dataset = with_lesions(dataset, table["lesion_id"])
    if unknown := int((~used_rows["lesion_known"]).sum()):
        logger.warning(
            "The lesions of %s of %s images are unknown: confidence intervals treat these images as independent, and "
            "are too narrow if several show the same lesion",
            f"{unknown:,}",
            f"{len(used_rows):,}",
        )
    table = table.assign(split=table["image_id"].map(split), present=table["image_id"].isin(present))
    split_sha256 = _split_sha256(table)  # of the seven diagnoses, whatever is told apart
    if args.classes == "nevus_or_other":
        dataset = _nevus_or_other(dataset)
        table = table.assign(dx=table["dx"].where(table["dx"] == "nv", "other"))
    splits = DatasetDict(
        {name: dataset.select(table.index[table["present"] & (table["split"] == name)]) for name in SPLITS}
    )
    labels = splits["train"].features["label"].names
    found = cached_duplicates(Collection(source.dataset, present))
    facts = {
        "source": args.data_dir,
        "kind": source.kind,
        "synthetic": source.kind == "synthetic",
        "split": args.split if args.split in ("study", "grouped", "all") else Path(args.split).name,
        "split_seed": args.split_seed if args.split == "grouped" else None,
        "split_sha256": split_sha256,
        "train_on_validation": args.train_on_validation,
        "images_sha256": lines_digest(f"{image_id} {present[image_id].sha256}" for image_id in sorted(present)),
        "splits": {name: _split_facts(table[table["split"] == name], present, labels) for name in SPLITS},
        "audit": audit.audit_facts(used_rows, split, identical, pairs) | {"broken_images": len(broken)},
        "same_lesion": duplicates,
        "local_features": None if found is None else _found_across(found, used_rows, split, groups),
        "dropped_rows": dict(source.dropped),
        "identical_images": identical[:LISTED],
        "broken_images": [[image_id, check.error] for image_id, check in broken.items()][:LISTED],
    }
    return splits, facts, present


def _with_validation(split: Mapping[str, str], name: str) -> dict[str, str]:
    """Return a split whose validation images are training images; of "all", every image is one."""
    moved = "test" if name == "all" else "validation"
    return {image_id: "train" if part == moved else part for image_id, part in split.items()}


def _usable_images(source: Source, args: DataArguments) -> tuple[dict[str, ImageCheck], dict[str, ImageCheck]]:
    """Return the checks of the images that decode, and of those that exist but do not, by image_id."""
    absent = source.table.loc[~source.table["has_image"], "image_id"].tolist()
    if absent and not args.allow_missing_images:  # known before a pixel is read
        assert args.data_dir is not None  # it has been read
        folder = Path(args.data_dir).expanduser()
        raise InputError(
            f"{len(absent)} of {len(source.table)} images are missing in {args.data_dir}: {some(absent)}; "
            "add them, or use --allow_missing_images to skip them"
            + (near_miss(folder, absent) if folder.is_dir() else "")
        )
    checks = check_images(source.dataset)
    present = {image_id: check for image_id, check in checks.items() if check.error is None}
    broken = {image_id: check for image_id, check in checks.items() if check.error is not None}
    if broken and not args.allow_missing_images:
        named = [f"{image_id}: {check.error}" for image_id, check in broken.items()]
        raise InputError(
            f"{len(broken)} of {len(checks)} images in {args.data_dir} are broken: {some(named)}; "
            "replace them, or use --allow_missing_images to skip them"
        )
    return present, broken


def _warn_of_duplicates(duplicates: Mapping) -> None:
    images = sum(map(len, duplicates["images"].values()))
    if images:
        logger.warning(
            "%s evaluated images show a lesion that is in training under another lesion_id (list %s): their figures "
            "may be too good; --drop_hidden_duplicates drops the training images",
            f"{images:,}",
            duplicates["list"],
        )


def _found_across(
    pairs: Sequence[Pair], rows: pd.DataFrame, split: Mapping[str, str], groups: Mapping[str, str]
) -> dict:
    """Return the pairs of different lesions in different splits that `ham-hf data duplicates` found before."""
    lesion = dict(zip(rows["image_id"], rows["lesion_id"].map(groups), strict=True))
    across = [
        [a, split[a], b, split[b], round(pair.score, 1)]
        for pair in pairs
        for a, b in [(pair.image_a, pair.image_b)]
        if a in lesion and b in lesion and lesion[a] != lesion[b] and len({split[a], split[b], UNUSED}) == 3
    ]
    return {"pairs_across_splits": len(across), "pairs": across[:LISTED]}


def _nevus_or_other(rows: Dataset) -> Dataset:
    """Return the same rows with two classes, without decoding images."""
    labels = [NEVUS_OR_OTHER.index("nv" if LABELS[label] == "nv" else "other") for label in rows["label"][:]]
    relabeled = rows.remove_columns("label").add_column("label", labels, feature=ClassLabel(names=NEVUS_OR_OTHER))
    return relabeled.select_columns(rows.column_names)


def _split_facts(table: pd.DataFrame, checks: dict[str, ImageCheck], labels: list[str]) -> dict:
    used = table[table["present"]]
    counts = used["dx"].value_counts()
    rows = sorted(zip(used["image_id"], used["lesion_id"], used["dx"], strict=True))
    return {
        "images": len(used),
        "lesions": used["lesion_id"].nunique() if used["lesion_known"].all() else None,
        "unknown_lesions": int((~used["lesion_known"]).sum()),
        "absent_images": len(table) - len(used),
        "classes": {label: int(counts.get(label, 0)) for label in labels},
        # What `ham-hf verify` knows the split by: its images to the byte, their lesions and diagnoses
        "sha256": lines_digest(sorted(f"{row[0]},{row[1]},{row[2]},{checks[row[0]].sha256}" for row in rows)),
        # And what tells a copy of the images that was saved again without loss from other images
        "pixels_sha256": lines_digest(f"{row[0]},{checks[row[0]].pixels_sha256}" for row in rows),
        "rows_sha256": lines_digest(map(",".join, rows)),  # as `predictions_*.csv` has them
    }


def _split_sha256(table: pd.DataFrame) -> str:
    used = table[table["present"]]
    return lines_digest(sorted(used["image_id"] + "," + used["lesion_id"] + "," + used["dx"] + "," + used["split"]))
