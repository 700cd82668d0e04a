"""`ham-hf data download`: HAM10000 from Harvard Dataverse."""

import argparse
import shlex
import sys
from pathlib import Path

from ham_hf.cli.data.audit import print_audit
from ham_hf.cli.parser import Commands
from ham_hf.labels import LICENSE
from ham_hf.system.errors import InputError


def add_to(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "download",
        help="download HAM10000 and the ISIC 2018 test set from Harvard Dataverse",
        description="Download HAM10000 to FOLDER and the test set of ISIC 2018 (task 3) to FOLDER/ISIC2018_test, "
        "check every file, and audit both. If interrupted, run the same command again to resume. Exit code 1: the "
        "data leaks.",
    )
    parser.add_argument("data_dir", metavar="FOLDER", help="created if it does not exist; then use --data_dir FOLDER")
    parser.add_argument(
        "--accept_license",
        action="store_true",
        help="accept the license (CC BY-NC 4.0, non-commercial) without being asked",
    )
    parser.add_argument(
        "--server",
        metavar="URL",
        help="another Dataverse server with a copy (default: https://dataverse.harvard.edu)",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Download both data sets, print their audits and return the exit code."""
    if not (args.accept_license or sys.stdin.isatty()):
        raise InputError(
            f"nothing was downloaded. {LICENSE}. Add --accept_license to accept this; on a terminal you are asked"
        )
    from ham_hf.data import download

    folder = Path(args.data_dir).expanduser().absolute()
    server = args.server or download.SERVER
    try:
        with download.connect() as client:
            listing = download.read_listing(client, server)
            print(f"{LICENSE}. These are photographs of patients.")
            print(f"Terms of use at {server}: {listing.terms or 'none are stated'}")
            if not args.accept_license:
                _ask(f"Download {listing.size / 1e9:.1f} GB to {folder} under these terms? [y/N] ")
            download.download_files(client, listing, folder)
    except KeyboardInterrupt:
        print("interrupted: run the same command again to resume", file=sys.stderr)
        return 130
    print(f"{len(listing.files)} files are in {folder}, with the checksums of the server's listing\n")
    return _audit_download(folder, folder / download.TEST_SET)


def _audit_download(folder: Path, test_set: Path) -> int:
    from ham_hf.config.arguments import DataArguments

    codes = [print_audit(DataArguments(data_dir=str(folder), split=""))]
    print(f"\nNext: ham-hf train offline/efficientnet_lite0 --data_dir {shlex.quote(str(folder))}\n")
    codes.append(print_audit(DataArguments(data_dir=str(test_set), split="")))
    evaluate = "ham-hf evaluate MODEL --split all --output_dir runs/isic2018"
    print(f"\nThen: {evaluate} --data_dir {shlex.quote(str(test_set))}")
    return 1 if 1 in codes else max(codes)


def _ask(question: str) -> None:
    try:
        reply = input(question)
    except EOFError:
        reply = ""
    if reply.strip().lower() not in ("y", "yes"):
        raise InputError("nothing was downloaded: the license was not accepted")
