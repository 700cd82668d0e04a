"""`ham-hf train`: fine-tune a model. `ham_hf.train` tells the story of a run."""

from ham_hf.cli.options import check_recipe_command
from ham_hf.cli.parser import Commands


def add_to(commands: Commands) -> None:
    """Add the command."""
    commands.add_parser("train", help="fine-tune a model with a recipe", add_help=False)


def run(words: list[str]) -> int | None:
    """Train what `RECIPE [--option value …]` describes."""
    if {"-h", "--help", "--help-all"} & set(words):
        from ham_hf.config.recipe_help import recipe_help

        print(recipe_help(everything="--help-all" in words), end="")
        return 0
    check_recipe_command(words)
    from ham_hf.train import main

    main(words)
    return 0
