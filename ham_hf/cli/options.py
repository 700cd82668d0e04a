"""Options that several commands share: which images, which split, and which model."""

import argparse
import json
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from ham_hf.system.errors import InputError

if TYPE_CHECKING:
    from ham_hf.config.arguments import DataArguments

OWN_SPLIT = "the split of the model's training; study or all for images that it cannot have seen"
HUB_REVISION = "commit, branch or tag of a model on the Hub (default: its main branch)"


def add_images(parser: argparse.ArgumentParser, *, positional: bool = False, hub: bool = True) -> None:
    """Add the options that name the images and their table.

    Args:
        positional: whether the data is a positional argument, DATA, rather than the required option --data_dir.
        hub: whether the data may also be a dataset on the Hub.
    """
    where = "a folder with the images and their metadata table" + (", or a Hub dataset id" if hub else "")
    if positional:
        parser.add_argument("data_dir", metavar="DATA", help=where)
    else:
        parser.add_argument("--data_dir", metavar="DATA", required=True, help=where)
    if hub:
        parser.add_argument("--data_revision", help="commit, branch or tag of a Hub dataset")
    parser.add_argument(
        "--metadata_csv", metavar="FILE", help="path of the metadata table, if it does not have the usual name"
    )
    parser.add_argument(
        "--diagnosis_map",
        metavar="JSON",
        help='codes of other diagnoses in the table, such as \'{"SCC": "akiec", "Scar": null}\'; null drops the rows',
    )


def add_split(parser: argparse.ArgumentParser, *, default: str | None = None, default_help: str | None = None) -> None:
    """Add the options that assign the images to splits.

    Args:
        default: the default of --split; `default_help` describes it where None stands for something else.
    """
    parser.add_argument(
        "--split",
        default=default,
        help="study, grouped, all (every image is a test image), or a CSV file with the columns image_id and split "
        f"(default: {default_help or default})",
    )
    parser.add_argument(
        "--split_seed", type=int, default=0, help="random seed of --split grouped (default: %(default)s)"
    )
    parser.add_argument(
        "--same_lesion",
        metavar="LIST",
        help="images that show one lesion under two lesion ids: ham10000-2 (HAM10000's known ones, the default), "
        "none, or a CSV of decisions that the page of `ham-hf data duplicates` exports; --split grouped keeps them in "
        "the same split",
    )
    parser.add_argument(
        "--drop_hidden_duplicates",
        action="store_true",
        help="with a fixed split: drop training images whose lesion is evaluated under another lesion id",
    )


def add_allow_missing_images(parser: argparse.ArgumentParser) -> None:
    """Add the option that accepts a table with rows whose image is missing."""
    parser.add_argument(
        "--allow_missing_images",
        action="store_true",
        help="use the images that are present if some rows of the table have none",
    )


def add_labeled_images(
    parser: argparse.ArgumentParser, *, default: str | None = None, default_help: str | None = None
) -> None:
    """Add the options that name labeled images and their split; `default` and `default_help` are those of --split."""
    add_images(parser)
    add_split(parser, default=default, default_help=default_help)
    add_allow_missing_images(parser)


def add_model(parser: argparse.ArgumentParser, help_: str = "a run folder of `ham-hf train`, or a Hub id") -> None:
    """Add the model as a positional argument, with --revision and --label_map."""
    parser.add_argument("model", metavar="MODEL", help=help_)
    parser.add_argument("--revision", help=HUB_REVISION)
    parser.add_argument(
        "--label_map",
        metavar="JSON",
        type=parse_label_map,
        default={},
        help='meaning of the model\'s own labels, such as \'{"SCC": "akiec", "other": null}\'; null drops a label. '
        "Not needed for the seven codes and their full names",
    )


def add_output_dir(parser: argparse.ArgumentParser, contents: str) -> None:
    """Add the required option --output_dir, a new folder for `contents`."""
    parser.add_argument(
        "--output_dir", metavar="FOLDER", type=Path, required=True, help=f"a new folder for {contents}"
    )


def data_arguments(args: argparse.Namespace) -> "DataArguments":
    """Return which images the options of a command select.

    Raises:
        InputError: there are no such images, or there is no such split, as far as it can be told without reading them.
    """
    from ham_hf.config.arguments import DataArguments
    from ham_hf.data.source import source_kind
    from ham_hf.data.split_names import check_list_name, check_split_name

    names = {field.name for field in fields(DataArguments)}
    given = {name: value for name, value in vars(args).items() if name in names}
    data = DataArguments(**given | {"split": given.get("split") or ""})
    source_kind(args.data_dir, data.metadata_csv)
    if data.split:
        check_split_name(data.split)
    if data.same_lesion is not None:
        check_list_name(data.same_lesion)
    return data


def check_recipe_command(words: Sequence[str]) -> None:
    """Check a recipe, its options, its data and its model, before the imports that take seconds.

    Raises:
        InputError: a run could not use them.
    """
    from ham_hf.config.early_checks import check_words
    from ham_hf.data.source import source_kind
    from ham_hf.data.split_names import check_list_name, check_split_name
    from ham_hf.models.loading import locate
    from ham_hf.system.hub_access import looks_like_repo_id

    last = {name: texts[-1] for name, texts in check_words(words).items() if texts}
    source_kind(last.get("data_dir", ""), last.get("metadata_csv"))
    if "split" in last:
        check_split_name(last["split"])
    if "same_lesion" in last:
        check_list_name(last["same_lesion"])
    model = last.get("model_name_or_path", "")
    if not model.startswith("pypi:") and (Path(model).exists() or not looks_like_repo_id(model)):
        locate(model)


def require_run(folder: Path) -> None:
    """Raise InputError for a folder that is no run folder, before the imports that take seconds."""
    if not (folder / "run.json").is_file():
        raise InputError(f"{folder} is not a run folder: expected run.json, as `ham-hf train` writes it")


def require_model(args: argparse.Namespace) -> None:
    """Raise InputError for a model that does not exist, before the imports that take seconds."""
    from ham_hf.inference.load import find_classifier

    find_classifier(args.model, args.revision)


def parse_label_map(text: str) -> dict[str, str | None]:
    """Return label → code, or None for a label to drop.

    Raises:
        ArgumentTypeError: the text is not such a JSON object.
    """
    try:
        label_map = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a JSON object ({error})") from None
    if not isinstance(label_map, dict) or not all(isinstance(code, str | None) for code in label_map.values()):
        raise argparse.ArgumentTypeError(f"{text!r} is not a JSON object of label → code or null")
    return label_map
