"""The help of `ham-hf train`: the usual options in groups, or all of them."""

import argparse
from collections.abc import Mapping, Sequence
from itertools import chain

from ham_hf.config.option_rules import TRAINING_ARGUMENTS
from ham_hf.config.recipe import recipe_parser
from ham_hf.config.recipe_file import LISTS

DESCRIPTION = """Fine-tune a model: the options of a recipe, then those of the command line, and the last one wins.

If interrupted, run the same command with --resume."""
EPILOG = f"A recipe may use every option of transformers.TrainingArguments that applies. {LISTS}."
RECIPE = "a YAML file with options (option: value), or the name of a recipe that `ham-hf recipes` lists"
USUAL: Mapping[str, Sequence[str]] = {
    "data": ("data_dir", "split", "split_seed", "metadata_csv", "diagnosis_map", "max_train_samples"),
    "model": ("model_name_or_path", "freeze", "fusion", "test_time_augmentation", "calibration"),
    "images": ("image_size", "train_size", "crop_scale", "vertical_flip", "no_vertical_flip", "color_jitter"),
    "loss": ("loss", "class_weighting", "sampling", "logit_adjustment", "label_smoothing_factor"),
    "training": (
        *("output_dir", "resume", "num_train_epochs", "max_steps", "per_device_train_batch_size"),
        *("gradient_accumulation_steps", "learning_rate", "head_learning_rate", "lr_scheduler_type", "warmup_steps"),
        *("weight_decay", "optimizer", "ema_decay", "early_stopping_patience", "metric_for_best_model", "seed"),
        *("bf16", "dataloader_num_workers", "report_to"),
    ),
}


def recipe_help(everything: bool = False) -> str:
    """Return the help text, with the usual options or `everything`."""
    actions = {
        name.removeprefix("--"): action
        for action in recipe_parser()._actions
        for name in action.option_strings[:1]
        if name.removeprefix("--") not in ("-h", "help") and not _is_refused(name.removeprefix("--"))
    }
    for name, action in actions.items():
        # One spelling of each: the parser also accepts --data-dir for --data_dir
        action.option_strings = [f"--{name}"]
    parser = argparse.ArgumentParser(
        prog="ham-hf train",
        usage="%(prog)s [RECIPE] [--option value ...]",
        description=DESCRIPTION,
        epilog=None if everything else EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        add_help=False,
    )
    parser.add_argument("recipe", metavar="RECIPE", nargs="?", help=RECIPE)
    general = parser.add_argument_group("help")
    general.add_argument("-h", "--help", action="store_true", help="show the usual options")
    general.add_argument("--help-all", action="store_true", help="show all options")
    groups = dict(USUAL) | (
        {"all other options": sorted(actions.keys() - set(chain(*USUAL.values())))} if everything else {}
    )
    for title, names in groups.items():
        group = parser.add_argument_group(title)
        for name in names:
            group._add_action(actions[name])
    return parser.format_help()


def _is_refused(name: str) -> bool:
    return isinstance(TRAINING_ARGUMENTS.get(name.removeprefix("no_")), str)
