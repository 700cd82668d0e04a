"""Made-up dermatoscope-like images in HAM10000's official layout, for trying everything without any real image.

Figures from them show that the code works, nothing about skin.
"""

import csv
import math
import os
import shutil
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import datasets
import numpy as np
import PIL.Image
import PIL.ImageDraw

from ham_hf.data.schema import COLUMNS

VERSION = 1  # of what is drawn: the folder in the cache is made again when it changes
IMAGES = 700
WIDTH, HEIGHT = 600, 450  # pixels, as HAM10000's
_W, _H = 160, 120  # everything but hairs and grain is drawn small
_GRAIN = 5  # levels of 255


class Look(NamedTuple):
    """The look and patients of a diagnosis. Colors are RGB in 0 to 1; (mean, deviation) pairs are normal draws."""

    images: int  # of HAM10000's 10,015: the share drawn here
    color: tuple[float, float, float]
    second: tuple[float, float, float]  # color of the patches
    contrast: tuple[float, float]  # how far the lesion leaves the skin's color
    radius: tuple[float, float]  # of the lesion, as a share of the image's height
    irregular: tuple[float, float]  # of the border
    soft: tuple[float, float]  # width of the border, as a share of the radius
    patches: tuple[float, float]  # how much of the second color
    network: tuple[float, float]  # strength of the dark lattice
    dots: tuple[float, float]  # how many, dark or (milia-like) bright
    bright_dots: bool
    age: tuple[float, float]  # years
    male: float  # share
    sites: tuple[str, ...]
    methods: dict[str, float]  # dx_type → share


LOOKS = {
    "akiec": Look(
        327, (0.78, 0.42, 0.36), (0.90, 0.76, 0.62), (0.55, 0.15), (0.27, 0.07), (0.20, 0.06), (0.45, 0.12),
        (0.50, 0.15), (0.05, 0.04), (14, 6), True, (67, 11), 0.68, ("face", "lower extremity", "scalp", "hand"),
        {"histo": 1.0},
    ),
    "bcc": Look(
        514, (0.80, 0.50, 0.48), (0.42, 0.40, 0.50), (0.60, 0.15), (0.22, 0.07), (0.15, 0.05), (0.30, 0.10),
        (0.35, 0.14), (0.03, 0.03), (5, 3), False, (67, 13), 0.62, ("back", "face", "chest", "lower extremity"),
        {"histo": 1.0},
    ),
    "bkl": Look(
        1099, (0.58, 0.42, 0.30), (0.74, 0.60, 0.42), (0.65, 0.15), (0.26, 0.07), (0.12, 0.05), (0.12, 0.05),
        (0.40, 0.15), (0.12, 0.07), (16, 7), True, (64, 14), 0.57, ("back", "face", "trunk", "lower extremity"),
        {"histo": 0.70, "consensus": 0.24, "confocal": 0.06},
    ),
    "df": Look(
        115, (0.66, 0.44, 0.34), (0.92, 0.82, 0.76), (0.50, 0.12), (0.18, 0.04), (0.06, 0.03), (0.55, 0.12),
        (0.30, 0.10), (0.16, 0.07), (2, 2), False, (53, 13), 0.45, ("lower extremity", "upper extremity"),
        {"histo": 0.48, "consensus": 0.52},
    ),
    "mel": Look(
        1113, (0.36, 0.24, 0.20), (0.34, 0.35, 0.42), (0.85, 0.12), (0.29, 0.08), (0.22, 0.07), (0.22, 0.09),
        (0.45, 0.16), (0.22, 0.09), (8, 5), False, (61, 15), 0.62, ("back", "upper extremity", "lower extremity"),
        {"histo": 1.0},
    ),
    "nv": Look(
        6705, (0.48, 0.31, 0.22), (0.36, 0.22, 0.16), (0.75, 0.15), (0.21, 0.07), (0.08, 0.05), (0.26, 0.10),
        (0.22, 0.14), (0.24, 0.10), (4, 4), False, (46, 15), 0.52,
        ("trunk", "back", "lower extremity", "abdomen", "upper extremity"),
        {"follow_up": 0.55, "histo": 0.37, "consensus": 0.08},
    ),
    "vasc": Look(
        142, (0.66, 0.12, 0.18), (0.40, 0.06, 0.18), (0.85, 0.10), (0.19, 0.06), (0.07, 0.04), (0.16, 0.06),
        (0.40, 0.15), (0.0, 0.01), (2, 2), False, (51, 21), 0.50, ("trunk", "abdomen", "lower extremity"),
        {"histo": 0.47, "consensus": 0.53},
    ),
}  # fmt: skip


_TRAITS = ("contrast", "radius", "irregular", "soft", "patches", "network", "dots")


def synthetic_folder(images: int = IMAGES, seed: int = 0) -> Path:
    """Return the folder of `write_synthetic` in the datasets cache, drawing it atomically on first use."""
    cache = Path(datasets.config.HF_DATASETS_CACHE) / "ham_hf"
    folder = cache / f"synthetic-v{VERSION}-{images}-{seed}"
    if folder.is_dir():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=cache, prefix=f"{folder.name}-"))
    try:
        write_synthetic(temporary, images, seed)
        temporary.chmod(0o755)  # mkdtemp's folders are private
        temporary.rename(folder)
    except OSError:
        if not folder.is_dir():  # else another process was first: its folder is the same
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def write_synthetic(folder: Path, images: int = IMAGES, seed: int = 0) -> None:
    """Write HAM10000_metadata.csv and two folders of JPEGs, 600 x 450 pixels; the same for the same arguments.

    Diagnoses, several images a lesion and missing values come in HAM10000's proportions, but every diagnosis has at
    least five lesions, so that every split by lesion has all of them.
    """
    rows = _rows(images, np.random.default_rng(seed))
    parts = [folder / f"HAM10000_images_part_{part}" for part in (1, 2)]
    for part in parts:
        part.mkdir(parents=True, exist_ok=True)
    with (folder / "HAM10000_metadata.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)

    def draw(row: dict[str, str]) -> None:
        # Every image has its own generator: threads may finish in any order
        number, lesion = (int(row[name].split("_")[1]) for name in ("image_id", "lesion_id"))
        image = draw_image(
            LOOKS[row["dx"]], np.random.default_rng([seed, lesion]), np.random.default_rng([seed, number, 1])
        )
        image.save(parts[2 * number > images + 1] / f"{row['image_id']}.jpg", quality=85)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(draw, rows))


def _rows(images: int, rng: np.random.Generator) -> list[dict[str, str]]:
    sizes: list[tuple[str, int]] = []  # (diagnosis, number of images) of every lesion
    total = sum(look.images for look in LOOKS.values())
    wanted = {dx: max(round(images * look.images / total), 6) for dx, look in LOOKS.items()}
    wanted["nv"] += images - sum(wanted.values())
    if wanted["nv"] < 6:
        raise ValueError(f"images is {images}: expected at least 60, for several lesions of every diagnosis")
    for dx, left in wanted.items():
        lesions = 0
        while left:
            size = min(left, int(rng.choice([1, 2, 3], p=[0.74, 0.19, 0.07])))  # HAM10000's, up to 6 there
            size = 1 if lesions < 5 and left < 9 else size
            sizes.append((dx, size))
            left -= size
            lesions += 1
    rows: list[dict] = []
    for lesion, index in enumerate(rng.permutation(len(sizes)), start=1):
        dx, size = sizes[index]
        person = _person(LOOKS[dx], rng)
        for _ in range(size):
            names = {"lesion_id": f"SYN_{lesion:07d}", "image_id": f"SYN_{len(rows) + 1:07d}", "dx": dx}
            rows.append(names | person)
    return rows


def _person(look: Look, rng: np.random.Generator) -> dict[str, str]:
    age = 5.0 * np.clip(np.round(rng.normal(*look.age) / 5), 0, 17)  # 0 to 85, in steps of 5
    sites = ("back", "lower extremity", "trunk", "upper extremity", "abdomen", "face", "chest", "foot", "neck")
    person = {
        "dx_type": str(rng.choice(list(look.methods), p=list(look.methods.values()))),
        "age": str(age),
        "sex": "male" if rng.random() < look.male else "female",
        "localization": str(rng.choice(look.sites if rng.random() < 0.6 else sites)),
    }
    # HAM10000's shares: 57, 57 and 234 of 10,015
    for column, missing, share in (
        ("age", "", 0.0057),
        ("sex", "unknown", 0.0057),
        ("localization", "unknown", 0.0234),
    ):
        if rng.random() < share:
            person[column] = missing
    return person


def draw_image(look: Look, lesion: np.random.Generator, shot: np.random.Generator) -> PIL.Image.Image:
    """Draw a photograph of a lesion. `lesion` draws what its photographs share; `shot` light, position and hairs."""
    traits = {name: max(lesion.normal(*getattr(look, name)), 0.0) for name in _TRAITS}
    tint = lesion.normal(0, 0.035, 3)  # (RGB), so that colors of the diagnoses overlap
    skin = np.array([0.86, 0.67, 0.58]) + lesion.normal(0, 0.05) + lesion.normal(0, 0.025, 3)
    elongation, angle = lesion.uniform(0.72, 1.0), lesion.uniform(0, math.pi)
    waves = lesion.normal(0, 1, 6).tolist(), lesion.uniform(0, 2 * math.pi, 6).tolist()
    texture = _noise(lesion, 7), _noise(lesion, 24)

    # Polar coordinates about the lesion's center, in heights of the image
    turn = angle + shot.normal(0, 0.25)
    zoom = shot.normal(1, 0.08)
    y, x = np.mgrid[0:_H, 0:_W].astype(np.float32) / _H
    x, y = x - _W / _H / 2 - shot.normal(0, 0.05), y - 0.5 - shot.normal(0, 0.04)
    cosine, sine = math.cos(turn) / zoom, math.sin(turn) / zoom  # Python floats leave the arrays at 32 bits
    u, v = x * cosine + y * sine, (y * cosine - x * sine) / elongation
    radius, theta = np.hypot(u, v), np.arctan2(v, u)
    border = np.full_like(theta, 1.0)
    for order, (amplitude, phase) in enumerate(zip(*waves, strict=True), start=2):
        border += traits["irregular"] * amplitude * np.cos(order * theta + phase) / order
    border += traits["irregular"] * 0.35 * texture[1]
    distance = radius / (np.clip(border, 0.4, 1.8) * max(traits["radius"], 0.08))  # 1 on the border
    inside = 1 / (1 + np.exp(np.clip((distance - 1) / (0.3 * max(traits["soft"], 0.05)), -30, 30)))  # (H, W)

    image = skin.astype(np.float32) + (0.012 * _noise(shot, 40) + 0.015 * _noise(shot, 5))[..., None]
    patches = np.clip(traits["patches"] * 1.6 + 0.55 * texture[0] - 0.25, 0, 1)[..., None]
    if look is LOOKS["df"]:  # a pale scar in the middle
        patches = np.clip(1.3 - 2.2 * distance, 0, 0.9)[..., None]
    color = (1 - patches) * _rgb(look.color) + patches * _rgb(look.second) + _rgb(tint)
    color = color * (1 + 0.10 * texture[1][..., None])
    lattice = np.abs(np.sin(70 * u + 2 * texture[0])) * np.abs(np.sin(70 * v + 2 * texture[1]))
    color = color * (1 - traits["network"] * (1 - 2 * lattice).clip(0)[..., None])
    color = _add_dots(color, u, v, int(traits["dots"]), traits["radius"], look.bright_dots, lesion)
    alpha = inside[..., None] * min(traits["contrast"], 1.0)
    image = (1 - alpha) * image + alpha * color

    light = 1 + shot.normal(0, 0.05) + shot.normal(0, 0.06) * x + shot.normal(0, 0.06) * y
    image = image * light[..., None] * _rgb(1 + shot.normal(0, 0.025, 3))
    if shot.random() < 0.3:  # the dark rim of the dermatoscope's round view
        rim = np.hypot(x - shot.normal(0, 0.06), y - shot.normal(0, 0.06)) - shot.uniform(0.58, 0.78)
        image = image * (1 / (1 + np.exp(np.clip(rim / 0.012, -30, 30))))[..., None]
    # Room for the grain at both ends of a byte; bilinear interpolation does not overshoot
    small = PIL.Image.fromarray((image * 255).clip(_GRAIN, 255 - _GRAIN).astype(np.uint8))
    return _finish(small.resize((WIDTH, HEIGHT), PIL.Image.Resampling.BILINEAR), shot)


def _rgb(color: Sequence[float] | np.ndarray) -> np.ndarray:
    return np.asarray(color, np.float32)


def _noise(rng: np.random.Generator, cells: int) -> np.ndarray:
    """Smooth noise of about `cells` blobs a height: (H, W), mean 0, deviation about 1."""
    grid = rng.normal(0, 1.5, (cells, cells * _W // _H)).astype(np.float32)
    return np.asarray(PIL.Image.fromarray(grid).resize((_W, _H), PIL.Image.Resampling.BICUBIC))


def _add_dots(
    color: np.ndarray, u: np.ndarray, v: np.ndarray, count: int, radius: float, bright: bool, rng: np.random.Generator
) -> np.ndarray:
    """Globules: round dots in the lesion's own coordinates, so that they turn with it."""
    strength = np.zeros_like(u)
    for _ in range(count):
        where, direction, size = (
            radius * math.sqrt(rng.random()),
            rng.uniform(0, 2 * math.pi),
            rng.uniform(0.008, 0.018),
        )
        squares = (u - where * math.cos(direction)) ** 2 + (v - where * math.sin(direction)) ** 2
        strength += np.exp(-squares / size**2)
    target = _rgb((0.95, 0.88, 0.74) if bright else (0.20, 0.13, 0.11))
    alpha = 0.7 * strength.clip(0, 1)[..., None]
    return (1 - alpha) * color + alpha * target


def _finish(image: PIL.Image.Image, rng: np.random.Generator) -> PIL.Image.Image:
    """Hairs and the grain of the sensor, at full size."""
    draw = PIL.ImageDraw.Draw(image)
    for _ in range(rng.poisson(5) if rng.random() < 0.35 else 0):
        start = rng.uniform([0, 0], [WIDTH, HEIGHT])
        step, bend = rng.uniform(0, 2 * math.pi), rng.normal(0, 0.05)
        angles = step + bend * np.arange(24)
        path = start + 9 * np.cumsum(np.stack([np.cos(angles), np.sin(angles)], axis=1), axis=0)
        draw.line([tuple(point) for point in path.tolist()], fill=(52, 36, 30), width=int(rng.integers(1, 3)))
    grain = rng.integers(0, 2 * _GRAIN + 1, (HEIGHT, WIDTH, 1), dtype=np.uint8)
    return PIL.Image.fromarray(np.asarray(image) - np.uint8(_GRAIN) + grain)
