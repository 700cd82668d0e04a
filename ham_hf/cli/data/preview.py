"""`ham-hf data preview`: training images as a model sees them."""

from pathlib import Path

from ham_hf.cli.parser import Commands, RecipeParser
from ham_hf.system.outputs import check_output

DESCRIPTION = """Draw training images as the model of a recipe sees them: one of each diagnosis, in several epochs."""


def add_to(commands: Commands) -> None:
    """Add the command."""
    commands.add_parser("preview", help="draw training images as the model of a recipe sees them", add_help=False)


def run(words: list[str]) -> None:
    """Draw what `RECIPE [--output FILE] [--option value …]` describes."""
    parser = RecipeParser("ham-hf data preview", DESCRIPTION)
    parser.add_argument(
        "--output", metavar="FILE", type=Path, default=Path("preview.png"), help="(default: %(default)s)"
    )
    args, recipe_words = parser.parse_recipe_command(words)
    check_output("--output", args.output, ".png")
    from ham_hf.training.preview import write_preview

    write_preview(recipe_words, args.output)
    print(f"{args.output}: training images as the model sees them, in several epochs")
    print("It shows photographs of patients: keep it on this machine.")
