"""`ham-hf data cache`: decoded images on disk."""

import argparse

from ham_hf.cli.options import add_images, data_arguments
from ham_hf.cli.parser import Commands, add_group


def add_to(commands: Commands) -> None:
    """Add the command."""
    cache = add_group(commands, "cache", "keep decoded images on disk")
    build = cache.add_parser(
        "build",
        help="decode every image once and keep the pixels",
        description="Decode every image once and keep the pixels, at full resolution, in the datasets cache "
        "(HF_DATASETS_CACHE). The same images in another folder share the same cache.",
    )
    add_images(build, positional=True)
    build.set_defaults(run=_build, split="all", allow_missing_images=True)  # all images, whatever their split
    info = cache.add_parser("info", help="list the caches and whether they are complete")
    info.set_defaults(run=_info)
    clear = cache.add_parser("clear", help="remove all caches")
    clear.set_defaults(run=_clear)


def _build(args: argparse.Namespace) -> None:
    data = data_arguments(args)
    from ham_hf.data.image_hashes import check_images
    from ham_hf.data.pixel_cache import build_cache
    from ham_hf.data.source import read_source

    source = read_source(data)
    checks = check_images(source.dataset)
    cache = build_cache(source.dataset, checks)
    broken = sum(check.error is not None for check in checks.values())
    print(f"{cache.path}: {len(cache):,} images, {cache.path.stat().st_size:,} bytes")
    if absent := len(source.table) - len(checks) + broken:
        print(f"{absent:,} images are missing or broken: `ham-hf data audit` lists them")


def _info(args: argparse.Namespace) -> None:
    from ham_hf.data.pixel_cache import cache_folder, list_caches

    caches = list_caches()
    print(f"{cache_folder()}: {len(caches) or 'no'} pixel cache{'' if len(caches) == 1 else 's'}")
    for cache in caches:
        print(f"{cache.path.name}: {cache.nbytes:,} bytes, {cache.state}", end="")
        print(f", {cache.images:,} images, {cache.what}" if cache.what else "")


def _clear(args: argparse.Namespace) -> None:
    from ham_hf.data.pixel_cache import cache_folder, clear_caches

    print(f"{clear_caches():,} bytes freed in {cache_folder()}")
