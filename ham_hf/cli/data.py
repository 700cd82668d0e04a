"""`ham-hf data …`: the commands about a copy of the data. Imports that take seconds are made by who needs them."""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ham_hf.labels import LICENCE
from ham_hf.system.errors import InputError

if TYPE_CHECKING:
    from ham_hf.config.arguments import DataArguments

GROUPING = "of --split grouped: keep lesions with near-duplicate images together, as in a training with this flag"


def add_data_commands(
    commands: argparse._SubParsersAction, preview_parents: Sequence[argparse.ArgumentParser] = ()
) -> None:
    """Add `data` and its own commands to those of `ham-hf`; `preview_parents` as for `build_parser`."""
    data = commands.add_parser(
        "data",
        help="download HAM10000, look at a copy of it, publish it, or keep it decoded on disk",
        allow_abbrev=False,
    )
    on_data = data.add_subparsers(title="commands", metavar="COMMAND", required=True)
    download = on_data.add_parser(
        "download",
        help="load HAM10000 and the ISIC 2018 test set from Harvard Dataverse",
        description="Load HAM10000 into DIR and the test set of ISIC 2018 (task 3) into DIR/ISIC2018_test, from "
        "Harvard Dataverse; check every file, and audit both. Broken off, the same command goes on. Exit code 1: it "
        "leaks.",
        allow_abbrev=False,
    )
    download.add_argument("data_dir", metavar="DIR", help="made where it is not there yet; then --data_dir DIR")
    download.add_argument(
        "--accept_license",
        action="store_true",
        help="say that the licence (CC BY-NC 4.0, not commercial) is accepted; without it you are asked",
    )
    download.add_argument(
        "--server",
        metavar="URL",
        help="another Dataverse server with a copy; https://dataverse.harvard.edu when left out",
    )
    download.set_defaults(run=_download)
    audit = on_data.add_parser(
        "audit",
        help="print the leak audit of a copy of the data, or of a split",
        description="Print all that is wrong with a copy of the data, or with a split. Exit code 1: lesions in two "
        "splits, identical images, or near-certain copies across splits. Exit code 2: lesions are unknown or no image "
        "can be read, so that leaks cannot be found. Suspected duplicates are listed with exit code 0.",
        allow_abbrev=False,
    )
    audit.add_argument("data_dir", metavar="DATA", help="a folder with images and their table, or a Hub dataset id")
    audit.add_argument("--data_revision", help="commit, branch or tag of a Hub dataset")
    audit.add_argument("--metadata_csv", help="the table, where it has a name of its own")
    add_diagnosis_map(audit)
    audit.add_argument("--split", help="study, grouped, or any CSV with image_id and split; when left out, no split")
    audit.add_argument("--split_seed", type=int, default=0, help="seed of --split grouped")
    audit.set_defaults(run=_audit, allow_missing_images=True, group_near_duplicates=False)
    on_data.add_parser(
        "preview",
        help="draw training images as a recipe's model sees them: ham-hf data preview RECIPE.yaml [--flag value …]",
        add_help=False,
        parents=preview_parents,
        conflict_handler="resolve",
    )
    _add_cache_commands(on_data.add_parser("cache", help="decoded images on disk", allow_abbrev=False))
    push = on_data.add_parser(
        "push",
        help="publish a copy of HAM10000 as a dataset on the Hub",
        description="Publish a copy of HAM10000 as a dataset on the Hub: Parquet with the images, splits, and a card.",
        allow_abbrev=False,
    )
    push.add_argument("data_dir", metavar="DIR", help="a folder with images and their table")
    push.add_argument("repo_id", metavar="REPO_ID", help="owner/name; made where it is not there yet")
    push.add_argument("--metadata_csv", help="the table, where it has a name of its own")
    add_diagnosis_map(push)
    push.add_argument("--split", default="study", help="study (when left out), grouped or a CSV, as in a training")
    push.add_argument("--split_seed", type=int, default=0, help="seed of --split grouped")
    push.add_argument("--group_near_duplicates", action="store_true", help=GROUPING)
    push.add_argument("--allow_missing_images", action="store_true", help="publish the images that are there")
    push.add_argument("--private", action="store_true", help="make the new repository private")
    push.add_argument("--token", help="of the Hub; HF_TOKEN or that of `hf auth login` when left out")
    push.add_argument("--dry_run", action="store_true", help="show the files and the card, and send nothing")
    push.add_argument(
        "--accept_license",
        action="store_true",
        help="say that HAM10000's licence (CC BY-NC 4.0, not commercial) is kept, and that its photographs of "
        "patients are to leave this machine; without it nothing is sent",
    )
    push.set_defaults(run=_push_data, data_revision=None)


def _add_cache_commands(cache: argparse.ArgumentParser) -> None:
    on_cache = cache.add_subparsers(title="commands", metavar="COMMAND", required=True)
    build = on_cache.add_parser(
        "build",
        help="decode every image once, and keep the pixels",
        description="Decode every image once and keep the pixels, at full resolution, in the datasets cache "
        "(HF_DATASETS_CACHE). The same images in another folder have the same cache.",
        allow_abbrev=False,
    )
    build.add_argument("data_dir", metavar="DATA", help="a folder with images and their table, or a Hub dataset id")
    build.add_argument("--data_revision", help="commit, branch or tag of a Hub dataset")
    build.add_argument("--metadata_csv", help="the table, where it has a name of its own")
    add_diagnosis_map(build)
    # Which images: all of them, whatever their lesions and splits
    build.set_defaults(
        run=_cache_build, split="all", split_seed=0, group_near_duplicates=False, allow_missing_images=True
    )
    info = on_cache.add_parser("info", help="which caches there are, and whether they are whole", allow_abbrev=False)
    info.set_defaults(run=_cache_info)
    clear = on_cache.add_parser("clear", help="remove them all", allow_abbrev=False)
    clear.set_defaults(run=_cache_clear)


def add_diagnosis_map(parser: argparse.ArgumentParser) -> None:
    """Add the option that says what other diagnoses of a table are, as a training has it."""
    parser.add_argument(
        "--diagnosis_map",
        metavar="JSON",
        help='codes of other diagnoses in the table, such as \'{"SCC": "akiec", "Scar": null}\'; null drops the rows',
    )


def data_arguments(args: argparse.Namespace) -> "DataArguments":
    """Which images the flags of a command name."""
    from ham_hf.config.arguments import DataArguments

    return DataArguments(
        data_dir=args.data_dir,
        data_revision=args.data_revision,
        metadata_csv=args.metadata_csv,
        diagnosis_map=args.diagnosis_map,
        split=args.split or "",
        split_seed=args.split_seed,
        group_near_duplicates=args.group_near_duplicates,
        allow_missing_images=args.allow_missing_images,
    )


def _download(args: argparse.Namespace) -> int:
    if not (args.accept_license or sys.stdin.isatty()):
        raise InputError(
            f"nothing was loaded. {LICENCE}. --accept_license says that this is accepted; on a terminal you are asked"
        )
    from ham_hf.data import download

    folder = Path(args.data_dir).expanduser().absolute()
    server = args.server or download.SERVER
    try:
        with download.connect() as client:
            listing = download.read_listing(client, server)
            print(f"{LICENCE}. These are photographs of patients.")
            print(f"Terms of use at {server}: {listing.terms or 'none are stated'}")
            if not args.accept_license:
                _ask(f"Load {listing.size / 1e9:.1f} GB into {folder} under these terms? [y/N] ")
            download.download_files(client, listing, folder)
    except KeyboardInterrupt:
        print("interrupted: the same command goes on where this one stopped", file=sys.stderr)
        return 130
    print(f"{len(listing.files)} files are in {folder}, with the checksums of the server's listing\n")
    return _audit_download(folder, folder / download.TEST_SET)


def _audit_download(folder: Path, test_set: Path) -> int:
    from ham_hf.config.arguments import DataArguments

    codes = [_print_audit(DataArguments(data_dir=str(folder), split=""))]
    train = "ham-hf train recipes/offline/efficientnet_lite0.yaml"
    print(f"\nNext: {train} --data_dir {shlex.quote(str(folder))}\n")
    codes.append(_print_audit(DataArguments(data_dir=str(test_set), split="")))
    evaluate = "ham-hf evaluate RUN_OR_HUB_ID --split all --output_dir runs/isic2018"
    print(f"\nThen: {evaluate} --data_dir {shlex.quote(str(test_set))}")
    return 1 if 1 in codes else max(codes)


def _ask(question: str) -> None:
    try:
        answer = input(question)
    except EOFError:
        answer = ""
    if answer.strip().lower() not in ("y", "yes"):
        raise InputError("nothing was loaded: the licence was not accepted")


def _audit(args: argparse.Namespace) -> int:
    return _print_audit(data_arguments(args))


def _print_audit(data: "DataArguments") -> int:
    """Print what is wrong with the data, and return the exit code."""
    from ham_hf.data.audit_report import exit_code, inspect_data, render_inspection

    inspection = inspect_data(data)
    print(render_inspection(inspection))
    return exit_code(inspection)


def _cache_build(args: argparse.Namespace) -> None:
    from ham_hf.data.dataset import read_source
    from ham_hf.data.image_hashes import check_images
    from ham_hf.data.pixel_cache import build_cache

    source = read_source(data_arguments(args))
    checks = check_images(source.dataset)
    cache = build_cache(source.dataset, checks)
    broken = sum(check.error is not None for check in checks.values())
    print(f"{cache.path}: {len(cache):,} images, {cache.path.stat().st_size:,} bytes")
    if absent := len(source.table) - len(checks) + broken:
        print(f"{absent:,} images are absent or broken: `ham-hf data audit` names them")


def _cache_info(args: argparse.Namespace) -> None:
    from ham_hf.data.pixel_cache import cache_folder, list_caches

    caches = list_caches()
    print(f"{cache_folder()}: {len(caches) or 'no'} pixel cache{'' if len(caches) == 1 else 's'}")
    for cache in caches:
        print(f"{cache.path.name}: {cache.nbytes:,} bytes, {cache.state}", end="")
        print(f", {cache.images:,} images, {cache.what}" if cache.what else "")


def _cache_clear(args: argparse.Namespace) -> None:
    from ham_hf.data.pixel_cache import cache_folder, clear_caches

    print(f"{clear_caches():,} bytes freed in {cache_folder()}")


def _push_data(args: argparse.Namespace) -> None:
    from ham_hf.hub.dataset import push_dataset

    push_dataset(
        data_arguments(args),
        args.repo_id,
        private=args.private,
        token=args.token,
        dry_run=args.dry_run,
        accept_license=args.accept_license,
    )
