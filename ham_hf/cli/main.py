"""The command `ham-hf` and the list of its commands. Each command imports what takes seconds when it runs."""

from collections.abc import Callable, Mapping

from ham_hf import __version__
from ham_hf.cli import (
    compare,
    cross_validate,
    demo,
    ensemble,
    env,
    evaluate,
    explain,
    export,
    predict,
    push,
    recipes,
    report,
    sweep,
    train,
    verify,
)
from ham_hf.cli.data import audit, cache, download, duplicates, preview, push_data
from ham_hf.cli.parser import Parser, add_group
from ham_hf.system.command import run_command

TRAINING = (train, cross_validate, sweep, ensemble, recipes)
MODELS = (predict, demo, evaluate, report, compare, explain, verify, export, push)
DATA = (download, audit, duplicates, preview, cache, push_data)
# They read a recipe, whose options come from transformers, and therefore parse their own arguments
WITH_RECIPE: Mapping[tuple[str, ...], Callable[[list[str]], int | None]] = {
    ("train",): train.run,
    ("cross-validate",): cross_validate.run,
    ("sweep",): sweep.run,
    ("data", "preview"): preview.run,
}


def main(argv: list[str] | None = None) -> int:
    """Run `ham-hf …` and return its exit code."""
    return run_command(_run, argv)


def _run(argv: list[str]) -> int | None:
    for words, run in WITH_RECIPE.items():
        if tuple(argv[: len(words)]) == words:
            return run(argv[len(words) :])
    parser = build_parser()
    if not argv:
        parser.print_help()
        return 0
    args = parser.parse_args(argv)
    args.argv = argv
    return args.run(args)


def build_parser() -> Parser:
    """Return the parser of all commands."""
    parser = Parser(
        prog="ham-hf",
        description="Fine-tune, evaluate and use skin lesion classifiers. Research software, not a medical device.",
        epilog="--debug shows the traceback of an error. To train with several processes: "
        "accelerate launch -m ham_hf.train RECIPE …",
    )
    parser.add_argument("--version", action="version", version=f"ham-hf {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in (*TRAINING, *MODELS):
        command.add_to(commands)
    data = add_group(commands, "data", "download, audit, preview, cache and publish HAM10000")
    for command in DATA:
        command.add_to(data)
    env.add_to(commands)
    return parser
