"""The table of suspected duplicates, `duplicates.csv`: each pair with what the patient data and diagnoses say."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from ham_hf.data.duplicates.alignment import Alignment
from ham_hf.data.duplicates.search import Pair

PATIENT = ("age", "sex", "localization")
COMPARED = ("dx", *PATIENT)
COLUMNS = (
    *("image_a", "image_b", "score", "inliers", "cells", "similarity", "scale", "rotation", "mirrored", "transform"),
    *("lesion_a", "lesion_b", "dx_a", "dx_b", "age_a", "age_b", "sex_a", "sex_b"),
    *("localization_a", "localization_b", "contradictions", "split_a", "split_b"),
)


def duplicates_table(
    pairs: Sequence[Pair], tables: Sequence[pd.DataFrame], split: Mapping[str, str] | None = None
) -> pd.DataFrame:
    """Return a row for every pair of images of different lesions, with the columns `COLUMNS`.

    `contradictions` names the fields that are known for both images and differ; a lesion has the same diagnosis, sex
    and site, and age rises with time. Splits are empty without `split`.

    Args:
        pairs: as found, highest score first.
        tables: one table, or that of the first and of the second collection: the canonical columns and lesion_known.
        split: image_id → split, of the first collection.
    """
    splits = [split or {}, (split or {}) if len(tables) == 1 else {}]
    first, second = (table.set_index("image_id") for table in (tables[0], tables[-1]))
    rows = []
    for pair in pairs:
        a, b = first.loc[pair.image_a], second.loc[pair.image_b]
        if len(tables) == 1 and a["lesion_id"] == b["lesion_id"]:
            continue
        differing = [name for name in COMPARED if _known(a[name]) and _known(b[name]) and a[name] != b[name]]
        rows.append(
            _measurements(pair)
            | {"lesion_a": a["lesion_id"], "lesion_b": b["lesion_id"]}
            | {f"{name}_{side}": row[name] for name in COMPARED for side, row in (("a", a), ("b", b))}
            | {"contradictions": " ".join(differing)}
            | {"split_a": splits[0].get(pair.image_a, ""), "split_b": splits[1].get(pair.image_b, "")}
        )
    return pd.DataFrame(rows, columns=list(COLUMNS))


def alignment_of(row: pd.Series) -> Alignment:
    """Return the alignment that a row of the table describes."""
    matrix = np.array(str(row["transform"]).split(), float).reshape(2, 3)
    return Alignment(int(row["inliers"]), int(row["cells"]), matrix, bool(row["mirrored"]))


def _measurements(pair: Pair) -> dict[str, object]:
    found = pair.alignment
    return {
        "image_a": pair.image_a,
        "image_b": pair.image_b,
        "score": round(pair.score, 1),
        "inliers": found.inliers,
        "cells": found.cells,
        "similarity": round(pair.similarity, 3),
        "scale": round(found.scale, 3),
        "rotation": round(found.rotation, 1),
        "mirrored": found.mirrored,
        "transform": " ".join(f"{value:.4f}" for value in found.matrix.ravel()),
    }


def _known(value: object) -> bool:
    return value is not None and value == value and value != "unknown"
