"""`ham-hf cross-validate`: evaluate a recipe on every lesion."""

from pathlib import Path

from ham_hf.cli.parser import Commands, RecipeParser
from ham_hf.system.errors import InputError
from ham_hf.system.terminal import show_log

DESCRIPTION = """Evaluate a recipe by cross-validation.

The lesions of the training and validation images are divided into folds, stratified by diagnosis, and each fold is
predicted by a model trained on the others. Test lesions are not used. With --training_lesions_only, validation lesions
are not used either. If interrupted, run the same command again to resume."""


def add_to(commands: Commands) -> None:
    """Add the command."""
    commands.add_parser("cross-validate", help="evaluate a recipe by cross-validation", add_help=False)


def run(words: list[str]) -> None:
    """Cross-validate what `RECIPE [--folds N] [--training_lesions_only] [--option value …]` describes."""
    parser = RecipeParser("ham-hf cross-validate", DESCRIPTION)
    parser.add_argument("--folds", type=int, default=5, help="number of folds (default: %(default)s)")
    parser.add_argument(
        "--training_lesions_only",
        action="store_true",
        help="divide only the lesions of the training split, and write predictions_train.csv for --soft_labels",
    )
    parser.add_argument(
        "--output_dir",
        metavar="FOLDER",
        type=Path,
        help="(default: runs/, the name of the recipe and -cross-validation)",
    )
    args, recipe_words = parser.parse_recipe_command(words)
    if args.folds < 2:
        raise InputError(f"--folds is {args.folds}: expected at least 2")
    from ham_hf.training.cross_validation import cross_validate

    show_log()
    cross_validate(recipe_words, args.folds, args.output_dir, training_lesions_only=args.training_lesions_only)
