"""Draw training images as a recipe's model sees them: one of each diagnosis, in several epochs.

ham-hf data preview RECIPE.yaml [--output FILE.png] [--flag value …]
"""

from collections.abc import Sequence
from pathlib import Path

import datasets
import numpy as np
import torch
from matplotlib import style
from matplotlib.figure import Figure
from transformers import BitImageProcessor

from ham_hf.config.recipe import Recipe, parse_recipe
from ham_hf.data.dataset import load_checked
from ham_hf.models.build import build_processor, find_checkpoint
from ham_hf.reporting.plots import STYLE, save_figure
from ham_hf.system.errors import InputError
from ham_hf.training.transforms import Collator, EvalTransform, FinishBatch, TrainTransform

EPOCHS = 6  # and each later one that has a new size
INCHES = 1.6  # a picture's side


def write_preview(words: Sequence[str], path: Path) -> None:
    """Draw training images as the model of a recipe sees them into a .png file.

    `words` are the recipe and its options, as on a command line.

    Raises:
        InputError: the recipe or the data cannot be used.
    """
    recipe = parse_recipe(list(words))
    if not recipe.image.augment:
        raise InputError("augment is false: every training image is its evaluation crop, in every epoch")
    save_figure(draw_preview(recipe), path)


def draw_preview(recipe: Recipe) -> Figure:
    """Draw a row for the first training image of each diagnosis: the evaluation crop, then its crops by epoch."""
    assert recipe.model.model_name_or_path is not None  # checked by `parse_recipe`
    revision = find_checkpoint(recipe.model.model_name_or_path, recipe.model.model_revision).revision
    image = recipe.image
    processor = build_processor(
        recipe.model.model_name_or_path,
        revision=revision,
        image_size=image.image_size,
        eval_resize=image.eval_resize,
        normalization=image.normalization,
    )
    splits, _, _ = load_checked(recipe.data)
    labels = splits["train"]["label"][:]
    examples = splits["train"].select([labels.index(label) for label in sorted(set(labels))])
    rows = examples.cast_column("image", datasets.Image(decode=False))[:]
    names = examples.features["label"].names
    transform, collate = TrainTransform(image, processor, recipe.training.seed), Collator(channels_last=False)
    finish = FinishBatch(processor, image, len(names))
    columns = {"evaluation": visible(processor, EvalTransform(processor)(rows)["pixel_values"])}
    for epoch in sorted({*range(1, EPOCHS + 1), *image.train_sizes()}):
        transform.set_epoch(epoch - 1)
        values = transform(rows)
        batch = finish(collate([{name: of[i] for name, of in values.items()} for i in range(len(examples))]))
        columns[f"epoch {epoch}"] = visible(processor, batch["pixel_values"])
    return _sheet(columns, [f"{names[row['label']]}\n{row['image_id']}" for row in examples.remove_columns("image")])


def visible(processor: BitImageProcessor, pixels: torch.Tensor) -> np.ndarray:
    """Return normalized pixels (N, 3, H, W) as (N, H, W, 3) from 0 to 1."""
    if processor.do_normalize:
        mean, std = (torch.tensor(of)[:, None, None] for of in (processor.image_mean, processor.image_std))
        pixels = pixels * std + mean
    return pixels.clamp(0, 1).permute(0, 2, 3, 1).numpy()


def _sheet(columns: dict[str, np.ndarray], labels: list[str]) -> Figure:
    with style.context(["default", STYLE]):
        figure = Figure(figsize=(INCHES * (len(columns) + 0.7), INCHES * len(labels) + 0.4))
        grid = figure.subplots(len(labels), len(columns), squeeze=False)
        for at, (title, pictures) in enumerate(columns.items()):
            grid[0][at].set_title(title)
            for axes, picture in zip(grid[:, at], pictures, strict=True):
                axes.imshow(picture)
                axes.set(xticks=[], yticks=[])
        for axes, label in zip(grid[:, 0], labels, strict=True):
            axes.set_ylabel(label, rotation=0, ha="right", va="center")
        return figure
