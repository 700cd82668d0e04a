"""Read photographs of any size and format as upright RGB images."""

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from PIL.TiffImagePlugin import TiffImageFile
from tqdm import tqdm

from ham_hf.data.color_profiles import to_srgb
from ham_hf.data.file_formats import RAW_CAMERA_FILE, is_heic, register_heic, unreadable_format
from ham_hf.system.errors import InputError, MachineError
from ham_hf.system.terminal import printable

# No EPS: Pillow hands it to Ghostscript. A phone's MPO opens as the JPEG that it begins with
FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "WEBP", "GIF", "JPEG2000", "AVIF")
# Of image files in folders, for training and prediction alike; what a file is, its content decides
SUFFIXES = (
    *(".jpg", ".jpeg", ".jfif", ".png", ".tif", ".tiff", ".bmp", ".webp", ".gif", ".jp2"),
    *(".avif", ".heic", ".heif"),
)
# Version of the decoding below, for caches of its pixels. 1 clipped 16 bits to white and dropped transparency, 2
# ignored color profiles, 3 took the first of several pages, and 10 or 12 bits for 16
DECODING = 4
# A 1 x 5000 strip would become 256 x 1,280,000 pixels when its shorter side is resized
MAX_ASPECT_RATIO = 20
# The TIFF tag NewSubfileType, whose first bit means a smaller copy: in DNG, NEF, ARW and PEF the first image is one
_SUBFILE_TYPE, _REDUCED = 254, 1
_DARKEST_WHITE = 4096  # cameras with 10 or 12 bits save these in 16, of which the upper ones are zero
MOST_PIXELS = 89_478_485  # Pillow's own limit; from there to twice as many it would warn, and decode them


def find_photos(paths: Sequence[str | Path]) -> tuple[list[Path], Counter]:
    """Return files as named, every image file in the folders named, and how many files of folders have each other
    suffix.

    Raises:
        InputError: a path does not exist, or there is no image file.
    """
    photos: list[Path] = []
    others: Counter[str] = Counter()
    for path in map(Path, paths):
        try:
            path.stat()
        except (OSError, ValueError) as error:  # of a name that is too long, a loop of links, a NUL
            reason = error.strerror if isinstance(error, OSError) else str(error)
            shown = printable(str(path)[:200])
            raise InputError(f"no photograph or folder at {shown} ({reason}): check the path") from error
        if path.is_dir():
            inside = [file for file in sorted(path.rglob("*")) if _is_visible_file(file, path)]
            photos += [file for file in inside if file.suffix.lower() in SUFFIXES]
            others.update(suffix for file in inside if (suffix := file.suffix.lower()) not in SUFFIXES)
        else:
            photos.append(path)
    if not photos:
        found = f" (only {list_suffixes(others)})" if others else ""
        raise InputError(
            f"no image in {', '.join(map(str, paths))}{found}: expected files ending in {', '.join(SUFFIXES)}"
        )
    return photos, others


def list_suffixes(counts: Mapping[str, int]) -> str:
    """Return "3 .dcm, 1 .txt" of how many files have each suffix."""
    return ", ".join(f"{count} {printable(suffix) or 'without a suffix'}" for suffix, count in counts.items())


def _is_visible_file(file: Path, folder: Path) -> bool:
    # macOS leaves ._photo.jpg beside photo.jpg on foreign disks, which is no image
    return file.is_file() and not any(part.startswith(".") for part in file.relative_to(folder).parts)


def check_photos(photos: Sequence[Path]) -> None:
    """Decode every photograph once, JPEGs at an eighth of their size, so that a broken one is found before the work.

    Raises:
        InputError: some cannot be used; the message names each.
    """
    # Decoding frees the interpreter lock: threads are enough
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = tqdm(pool.map(_error, photos), "checking", len(photos), unit="image", leave=False, disable=None)
        broken = [error for error in found if error is not None]
    if broken:
        raise InputError(
            f"{len(broken)} of {len(photos)} files cannot be used: fix or remove them\n  " + "\n  ".join(broken)
        )


def _error(photo: Path) -> str | None:
    try:
        read_photo(photo, preview=True)
    except InputError as error:
        return str(error)
    return None


def read_photo(path: Path, preview: bool = False) -> Image.Image:
    """Return an upright RGB image; with `preview`, a JPEG is decoded at an eighth of its size.

    Raises:
        InputError: the file is empty, not an image, truncated, too large or too long.
    """
    if not path.is_file() or path.stat().st_size == 0:
        raise InputError(f"{path}: " + ("the file is empty" if path.is_file() else "does not exist"))
    try:
        return read_image(path.read_bytes(), preview)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except OSError as error:
        raise InputError(f"{path}: it cannot be read: {error.strerror}") from error


def read_image(encoded: bytes, preview: bool = False) -> Image.Image:
    """Like `read_photo`, for the bytes of a file; its error messages do not name the file."""
    with _opened(encoded) as image:
        if preview:
            image.draft(None, (1, 1))
        return upright_rgb(image)


def image_size(encoded: bytes) -> tuple[int, int]:
    """Return (height, width) as the file's header has them, which may be those before the photograph is turned."""
    with _opened(encoded) as image:
        return image.height, image.width


def read_cell(cell: dict) -> Image.Image:
    """Return the image of a cell of a `datasets` image column that is not decoded, as `read_image` does.

    Raises:
        InputError: the image is broken.
        MachineError: its file cannot be read.
    """
    try:
        return read_image(encoded_bytes(cell))
    except MachineError:
        raise
    except InputError as error:
        raise InputError(f"{cell['path'] or 'an image'}: {error}") from error


def encoded_bytes(cell: dict) -> bytes:
    """Return what the file of such a cell holds.

    Raises:
        MachineError: it cannot be read.
    """
    if cell["bytes"] is not None:
        return cell["bytes"]
    try:
        return Path(cell["path"]).read_bytes()
    except OSError as error:
        raise MachineError(
            f"{cell['path']}: {error.strerror}, although it existed when the images were checked: restore it, then "
            "run the same command again (with --resume for training)"
        ) from error


@contextmanager
def _opened(encoded: bytes) -> Iterator[Image.Image]:
    """Open an image of which no pixel is decoded yet; whatever goes wrong with it is an InputError."""
    if unreadable := unreadable_format(encoded):
        raise InputError(unreadable)
    formats: tuple[str, ...] = FORMATS
    if is_heic(encoded):
        register_heic()
        formats = ("HEIF",)
    Image.init()  # Image.open(formats=…) does not load a format's plug-in itself
    try:
        # From memory: of a path, Pillow 13 maps an uncompressed TIFF that is to be turned in the wrong shape
        with Image.open(BytesIO(encoded), formats=formats) as image:
            _check_size(*image.size)
            if isinstance(image, TiffImageFile):
                _check_pages(image)
            yield image
    except (InputError, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise InputError(f"too many pixels ({error}): crop it around the lesion") from error
    except Image.UnidentifiedImageError as error:
        raise InputError(f"not an image in a supported format ({', '.join(FORMATS)}, HEIC)") from error
    except Exception as error:  # Pillow's decoders raise anything at all: SyntaxError is their word for a broken PNG
        raise InputError(str(error) or type(error).__name__) from error


def _check_pages(image: TiffImageFile) -> None:
    """Raise InputError unless the first page of a TIFF is its only picture; smaller copies of it may follow."""
    if image.tag_v2.get(_SUBFILE_TYPE, 0) & _REDUCED:
        raise InputError(RAW_CAMERA_FILE)
    pictures = 1
    for page in range(1, image.n_frames):
        image.seek(page)
        pictures += not image.tag_v2.get(_SUBFILE_TYPE, 0) & _REDUCED
    image.seek(0)
    if pictures > 1:
        raise InputError(f"a TIFF of {pictures} pages: save the page with the lesion as a separate file")


def _check_size(width: int, height: int) -> None:
    if min(width, height) < 1:
        raise InputError(f"{width} x {height} pixels: the image is empty")
    if width * height > MOST_PIXELS:
        raise InputError(
            f"too many pixels ({width} x {height}, expected {MOST_PIXELS:,} at most): crop it around the lesion"
        )
    if max(width, height) > MAX_ASPECT_RATIO * min(width, height):
        raise InputError(f"{width} x {height} pixels, a strip: crop it around the lesion")


def upright_rgb(image: Image.Image) -> Image.Image:
    """Return the image turned as its EXIF tag says, in sRGB with 8 bits, on white where it was transparent.

    Colors are converted by the embedded ICC profile; without one they are taken for sRGB. PNG's gAMA, cHRM and cICP
    chunks and EXIF's ColorSpace are not used.
    """
    image = ImageOps.exif_transpose(image)
    profile = image.info.get("icc_profile")
    if image.mode == "RGB" and not profile and not image.has_transparency_data:
        return image
    if image.mode in ("I", "F"):
        raise InputError("32 bits per pixel with an unknown range: save it with 8 or 16 bits")
    if image.mode.startswith("I;16"):
        # Pillow would clip all above 255 to white
        values = np.asarray(image)
        if values.size and values.max() < _DARKEST_WHITE:
            used = int(values.max()).bit_length()
            raise InputError(f"16 bits per pixel, of which only {used} are used, almost black: save it with 8 bits")
        image = Image.fromarray((values >> 8).astype(np.uint8))
    if profile:
        image = to_srgb(image, profile)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image if image.mode == "RGB" else image.convert("RGB")
