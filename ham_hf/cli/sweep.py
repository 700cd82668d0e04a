"""`ham-hf sweep`: search for better settings of a recipe."""

from pathlib import Path

from ham_hf.cli.parser import Commands, RecipeParser
from ham_hf.system.errors import InputError
from ham_hf.system.terminal import show_log

DESCRIPTION = """Search for better settings of a recipe, one variable after the other or with Optuna.

SWEEP is a YAML file with the keys `method` (greedy or optuna), `metric` (default: balanced_accuracy), `trials` (for
optuna) and `variables`: for greedy a list of values each, for optuna a list or {low, high, log}. If interrupted, run
the same command again to resume. The results are `best.yaml`, a recipe, and `sweep.png`."""


def add_to(commands: Commands) -> None:
    """Add the command."""
    commands.add_parser("sweep", help="search for better settings of a recipe", add_help=False)


def run(words: list[str]) -> None:
    """Search as `RECIPE SWEEP [--output_dir FOLDER] [--option value …]` describes."""
    parser = RecipeParser("ham-hf sweep", DESCRIPTION, {"sweep": "a YAML file that describes the search"})
    parser.add_argument(
        "--output_dir", metavar="FOLDER", type=Path, help="(default: runs/, the names of the recipe and the sweep)"
    )
    args, (recipe, *rest) = parser.parse_recipe_command(words, needs_recipe=True)
    if not rest or rest[0].startswith("-"):
        raise InputError("SWEEP is missing. See `ham-hf sweep --help`")
    from ham_hf.config.recipe_file import find_recipe

    sweep, *options = rest
    recipe_path, sweep_path = find_recipe(recipe), find_recipe(sweep, "sweep")
    from ham_hf.training.sweep import read_sweep

    read_sweep(sweep_path)
    from ham_hf.training.search import search

    show_log()
    search(recipe_path, sweep_path, options, args.output_dir)
