"""`ham-hf recipes`: the recipes that come with ham_hf."""

import argparse

from ham_hf.cli.parser import Commands


def add_to(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "recipes",
        help="list the recipes that come with ham_hf",
        description="List the recipes that come with ham_hf: `ham-hf train NAME` trains one.",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Print the name of each recipe and what it trains."""
    from ham_hf.config.recipe_file import shipped_recipes, summary

    recipes = shipped_recipes()
    width = max(map(len, recipes))
    for name, path in recipes.items():
        print(f"{name:<{width}}  {summary(path)}")
