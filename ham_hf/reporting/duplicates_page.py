"""Suspected duplicates as one page for a browser, to compare them and mark what they are.

The page contains photographs of patients: it belongs beside the data, not in a repository.
"""

import base64
import hashlib
import json
from collections.abc import Callable, Mapping
from importlib import resources
from io import BytesIO

import numpy as np
import pandas as pd
import PIL.Image
from markupsafe import Markup

from ham_hf.reporting.rendering import render

DECISIONS = {"s": "same lesion", "p": "same patient", "d": "different", "u": "unsure"}  # by their keys
HEIGHT = 300  # shorter side of a picture; the transforms are in its pixels
_QUALITY = 85  # of its JPEG


def render_duplicates(
    table: pd.DataFrame, image_of: Callable[[int, str], PIL.Image.Image], matrices: Mapping[int, np.ndarray]
) -> str:
    """Return the whole page.

    Args:
        table: rows of duplicates.csv.
        image_of: (row, "a" or "b") → photograph.
        matrices: row → (2, 3), from pixels of b's picture to those of a's.
    """
    css, script = (
        resources.files("ham_hf.reporting").joinpath(f"templates/duplicates.{kind}").read_text("utf-8")
        for kind in ("css", "js")
    )
    pairs = [_pair(table.loc[row], row, image_of, matrices[row]) for row in table.index]
    return render(
        "duplicates.html.jinja",
        css=Markup(css),
        script=Markup(script),
        hashes={name: _sha256(text) for name, text in (("style", css), ("script", script))},
        pairs=Markup(json.dumps(pairs).replace("<", "\\u003c")),
        count=len(pairs),
        decisions=DECISIONS,
    )


def _pair(
    row: pd.Series, index: int, image_of: Callable[[int, str], PIL.Image.Image], matrix: np.ndarray
) -> dict[str, object]:
    sides = []
    for side in ("a", "b"):
        picture = _scaled(image_of(index, side))
        facts = [
            row[f"lesion_{side}"],
            row[f"dx_{side}"],
            "age unknown" if pd.isna(row[f"age_{side}"]) else f"{row[f'age_{side}']:.0f} years",
            row[f"sex_{side}"],
            row[f"localization_{side}"],
            row[f"split_{side}"],
        ]
        sides.append(
            {
                "id": row[f"image_{side}"],
                "width": picture.width,
                "height": picture.height,
                "facts": " · ".join(str(fact) for fact in facts if fact),
                "source": _data_url(picture),
            }
        )
    # CSS orders the entries by column
    transform = [round(float(value), 5) for value in matrix.T.ravel()]
    measured = f"score {row['score']}, {row['inliers']} inliers, similarity {row['similarity']}"
    measured += f", contradicting: {row['contradictions']}" if row["contradictions"] else ""
    return {"sides": sides, "transform": transform, "measured": measured}


def _scaled(image: PIL.Image.Image) -> PIL.Image.Image:
    scale = HEIGHT / min(image.size)
    return image.resize((round(image.width * scale), round(image.height * scale)))


def _data_url(picture: PIL.Image.Image) -> str:
    content = BytesIO()
    picture.save(content, "JPEG", quality=_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(content.getvalue()).decode()


def _sha256(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
