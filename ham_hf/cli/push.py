"""`ham-hf push`: a run as a model, or as a Space, on the Hugging Face Hub."""

import argparse
from pathlib import Path

from ham_hf.cli.parser import Commands
from ham_hf.hub.published_files import EVAL_RESULTS
from ham_hf.system.errors import InputError

DESCRIPTION = """Publish a run folder as a model repository on the Hub, in one commit.

Only the files on a fixed list are uploaded: no checkpoints, optimizer states, logs or photographs. Before the upload,
the files are loaded in a new process without ham_hf, as users will load them, and must give the predictions of the
run's model."""
EPILOG = """examples:
  ham-hf push runs/my_run you/your-model --dry_run
  ham-hf push runs/my_run you/your-model
  ham-hf push runs/my_run you/your-space --space --model you/your-model

With --space, the Space gets the page of `ham-hf demo` for a model that was published from the same run: a card,
app.py, requirements.txt, and ham_hf itself as files. Photographs leave the visitor's machine, and the page says so."""


def add_to(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "push",
        help="publish a run as a model, or as a Space, on the Hugging Face Hub",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run_folder", metavar="RUN", type=Path, help="a run folder of `ham-hf train`")
    parser.add_argument("repo_id", metavar="REPO_ID", help="owner/name; created if it does not exist")
    parser.add_argument("--dry_run", action="store_true", help="show the files and the card, and upload nothing")
    parser.add_argument("--private", action="store_true", help="make a new repository private")
    parser.add_argument(
        "--create_pr",
        action="store_true",
        help="open a new pull request in a repository that exists; to update one, use --revision refs/pr/NUMBER",
    )
    parser.add_argument("--revision", metavar="BRANCH", help="a branch or pull request that exists (default: main)")
    parser.add_argument("--token", help="Hub token (default: HF_TOKEN, or the token of `hf auth login`)")
    parser.add_argument(
        "--with_patient_data", action="store_true", help="also publish patients_*.csv (age, sex, body site)"
    )
    parser.add_argument(
        "--eval_results", action="store_true", help=f"also publish the metrics of the card as {EVAL_RESULTS}"
    )
    parser.add_argument(
        "--space", action="store_true", help="publish a Space with the page of `ham-hf demo` instead of a model"
    )
    parser.add_argument("--model", metavar="MODEL_ID", help="with --space: the model on the Hub that the page uses")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Publish the model or the Space."""
    from ham_hf.hub.model_repo import push_model
    from ham_hf.hub.space import push_space
    from ham_hf.hub.upload import Target

    if args.space == (args.model is None):
        raise InputError("--space and --model go together: --model names the published model that the Space uses")
    if args.space and (args.with_patient_data or args.eval_results):
        raise InputError("--with_patient_data and --eval_results apply to a model: remove them, or remove --space")
    target = Target(args.repo_id, args.private, args.revision, args.create_pr, args.token)
    if args.space:
        push_space(args.run_folder, args.model, target, dry_run=args.dry_run)
    else:
        push_model(
            args.run_folder,
            target,
            with_patient_data=args.with_patient_data,
            eval_results=args.eval_results,
            dry_run=args.dry_run,
        )
