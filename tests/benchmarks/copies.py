"""How many edited copies of real images does the search for duplicates find, and how many false pairs beside them?

python -m tests.benchmarks.copies ../shared/ham10000 [--images 500]

Each kind of copy is made of other images, so that an image has one copy. Copies are searched for among all images.
"""

import argparse
import io
import random
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance
from tqdm import tqdm

from ham_hf.config.arguments import DataArguments
from ham_hf.data.duplicates.alignment import align, similarity
from ham_hf.data.duplicates.candidates import candidate_pairs
from ham_hf.data.duplicates.local_features import (
    compute_local_features,
    extract_features,
    image_by_id,
    scaled_gray,
)
from ham_hf.data.duplicates.search import FEWEST_CELLS, LOWEST_SCORE, Pair
from ham_hf.data.image_hashes import check_images
from ham_hf.data.same_lesion import group_lesions, read_same_lesion
from ham_hf.data.source import read_source

Edit = Callable[[Image.Image, random.Random], Image.Image]


def encode(image: Image.Image, rng: random.Random) -> Image.Image:
    content = io.BytesIO()
    image.save(content, "JPEG", quality=rng.randint(40, 95))
    return Image.open(content).convert("RGB")


def resize(image: Image.Image, rng: random.Random) -> Image.Image:
    scale = 2 ** rng.uniform(-1, 1)
    return image.resize((round(image.width * scale), round(image.height * scale)))


def crop(image: Image.Image, rng: random.Random) -> Image.Image:
    share = rng.uniform(0.6, 0.95)  # of each side
    width, height = round(image.width * share), round(image.height * share)
    left, top = rng.randint(0, image.width - width), rng.randint(0, image.height - height)
    return image.crop((left, top, left + width, top + height))


def rotate(image: Image.Image, rng: random.Random) -> Image.Image:
    return image.rotate(rng.uniform(0, 360), resample=Image.Resampling.BICUBIC, expand=rng.random() < 0.5)


def mirror(image: Image.Image, rng: random.Random) -> Image.Image:
    flip = rng.choice([Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.FLIP_TOP_BOTTOM])
    return image.transpose(flip)


def brighten(image: Image.Image, rng: random.Random) -> Image.Image:
    return ImageEnhance.Brightness(image).enhance(rng.uniform(0.75, 1.25))


def contrast(image: Image.Image, rng: random.Random) -> Image.Image:
    return ImageEnhance.Contrast(image).enhance(rng.uniform(0.75, 1.25))


def hue(image: Image.Image, rng: random.Random) -> Image.Image:
    hsv = np.array(image.convert("HSV"))
    hsv[..., 0] += np.uint8(round(rng.uniform(-0.25, 0.25) * 256) % 256)  # wraps around
    return Image.fromarray(hsv, "HSV").convert("RGB")


def vignette(image: Image.Image, rng: random.Random) -> Image.Image:
    y, x = np.mgrid[-1 : 1 : image.height * 1j, -1 : 1 : image.width * 1j]
    light = 1 - rng.uniform(0.5, 0.9) * np.clip(np.hypot(x, y) - 0.4, 0, 1)
    return Image.fromarray((np.array(image) * light[..., None]).astype(np.uint8))


def hair(image: Image.Image, rng: random.Random) -> Image.Image:
    image = image.copy()
    draw = ImageDraw.Draw(image)
    for _ in range(rng.randint(5, 15)):
        places = [(rng.uniform(0, image.width), rng.uniform(0, image.height)) for _ in range(3)]
        draw.line(places, fill=(30, 20, 15), width=rng.randint(1, 4), joint="curve")
    return image


def ruler(image: Image.Image, rng: random.Random) -> Image.Image:
    image = image.copy()
    draw = ImageDraw.Draw(image)
    top, step = rng.uniform(0, 0.9) * image.height, rng.uniform(8, 20)
    draw.line([(0, top), (image.width, top)], fill="black", width=2)
    for mark in range(int(image.width / step)):
        draw.line([(mark * step, top), (mark * step, top + (20 if mark % 5 == 0 else 10))], fill="black", width=2)
    return image


ALONE: dict[str, Edit] = {
    "saved again, JPEG quality 40 to 95": encode,
    "resized, 50 to 200 %": resize,
    "cropped, to 60 to 95 % of each side": crop,
    "rotated by any angle": rotate,
    "mirrored": mirror,
    "brightness, ±25 %": brighten,
    "contrast, ±25 %": contrast,
    "hue, ±25 % of the circle": hue,
    "vignette": vignette,
    "5 to 15 hairs drawn on top": hair,
    "a ruler drawn on top": ruler,
}


def two(image: Image.Image, rng: random.Random) -> Image.Image:
    for edit in rng.sample(list(ALONE.values()), 2):
        image = edit(image, rng)
    return image


KINDS = ALONE | {"two of these": two}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data_dir")
    parser.add_argument("--images", type=int, default=500, help="of each kind (default: %(default)s)")
    args = parser.parse_args()
    rng = random.Random(0)
    source = read_source(DataArguments(data_dir=args.data_dir))
    dataset = source.dataset
    groups = group_lesions(source.table, read_same_lesion(None).pairs)
    lesion = dict(zip(source.table["image_id"], source.table["lesion_id"].map(groups), strict=True))
    checks = {name: check for name, check in check_images(dataset).items() if check.error is None}
    ids = sorted(checks)
    image_of = image_by_id(dataset)
    features = compute_local_features(dataset, checks, ids)
    drawn = rng.sample(range(len(ids)), args.images * len(KINDS))
    kinds = [kind for kind in KINDS for _ in range(args.images)]
    copied = []
    for original, kind in zip(tqdm(drawn, "copying"), kinds, strict=True):
        copied.append(scaled_gray(KINDS[kind](image_of(ids[original]).convert("RGB"), rng)))
    copies = [extract_features(gray) for gray in tqdm(copied, "features of the copies")]
    pairs = candidate_pairs(features, copies)
    found, others, false = set(), 0, {}
    for first, second, mirrored, _ in tqdm(pairs.itertuples(index=False, name=None), "aligning", len(pairs)):
        alignment = align(features[first], copies[second], mirrored)
        if alignment is None or alignment.cells < FEWEST_CELLS:
            continue
        names = ids[first], ids[drawn[second]]
        original = scaled_gray(image_of(ids[first]).convert("RGB"))
        score = Pair(*names, alignment, similarity(original, copied[second], alignment)).score
        if score < LOWEST_SCORE:
            continue
        if drawn[second] == first:
            found.add(second)
        elif lesion[names[0]] == lesion[names[1]]:
            others += 1
        else:
            false[(*names, kinds[second])] = round(score, 1)
    print(f"{len(ids):,} images, {len(copies):,} copies, {len(pairs):,} candidates")
    print("| copies | found of " + str(args.images) + " | recall |\n|---|---:|---:|")
    for kind in KINDS:
        count = sum(kinds[copy] == kind for copy in found)
        print(f"| {kind} | {count} | {count / args.images:.3f} |")
    print(f"{others:,} pairs of a copy and another image of its lesion, known duplicates included")
    print(f"{len(false)} pairs of a copy and an image of another lesion:")
    for pair, score in sorted(false.items(), key=lambda item: -item[1]):
        print(f"  {score} {' '.join(pair)}")


if __name__ == "__main__":
    main()
