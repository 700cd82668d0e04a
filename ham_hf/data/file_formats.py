"""Recognize files by their first bytes: those that are no image read here, and what to do about each."""

from functools import cache

from ham_hf.system.installation import require

EXPORT = "export it as JPEG, PNG or TIFF"
_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1")
_AVIF_BRANDS = (b"avif", b"avis")
_STILL_OR_MOVIE = (b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot")  # atoms that a QuickTime file may begin with
_RAW_STARTS = (b"FUJIFILMCCD-RAW", b"IIRO", b"IIRS", b"MMOR", b"IIU\0", b"FOVb", b"\0MRM")
# Suffixes of files that are recognized and never read: a file of that name is reported, not taken for missing
UNREADABLE_SUFFIXES = (
    *(".dcm", ".dicom", ".svg", ".pdf", ".psd", ".jxl", ".mov", ".mp4"),
    *(".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2", ".pef"),
)

RAW_CAMERA_FILE = f"a camera's raw file, and only its thumbnail can be read: {EXPORT} with the camera's software"
LFS_POINTER = "a Git LFS pointer, not the file itself: run `git lfs pull` in the folder it came from"


def is_lfs_pointer(data: bytes) -> bool:
    """Return whether a file is what git leaves in place of a file where Git LFS is not installed."""
    return data.startswith(b"version https://git-lfs.github.com/")


def is_heic(data: bytes) -> bool:
    """Return whether a file is HEIC or HEIF, such as a photograph of an iPhone, by its `ftyp` box."""
    brands = _brands(data)
    return bool(brands) and brands[0] in _HEIC_BRANDS and not set(brands) & set(_AVIF_BRANDS)


@cache
def register_heic() -> None:
    """Make Pillow open HEIC files.

    Raises:
        InputError: pillow-heif is not installed.
    """
    require("pillow-heif", "heic", "a HEIC file (export it as JPEG instead, or install the package)")
    from pillow_heif import register_heif_opener

    register_heif_opener()


def unreadable_format(data: bytes) -> str | None:
    """Return what a file is and what to do about it, in one sentence; None if it may be an image."""
    start = data[:1024].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    brands = _brands(data)
    if not data:
        return "an empty file: copy it again"
    if data[128:132] == b"DICM":
        return f"a DICOM file, which is not read here: {EXPORT} with your DICOM viewer, or dcmj2pnm of DCMTK"
    if data[8:10] == b"CR" and data[:4] == b"II*\0" or data.startswith(_RAW_STARTS) or brands[:1] == (b"crx ",):
        return RAW_CAMERA_FILE
    if data[4:8] in _STILL_OR_MOVIE or (brands and not set(brands) & {*_HEIC_BRANDS, *_AVIF_BRANDS}):
        return f"a video (or an image in a video's format): {EXPORT} from one frame of it"
    if data.startswith(b"%PDF"):
        return f"a PDF: {EXPORT} from the image in it"
    if start.startswith(b"<svg") or (start.startswith(b"<?xml") and b"<svg" in start):
        return f"an SVG drawing, which has no pixels: {EXPORT}"
    if start.startswith((b"<!doctype html", b"<html")):
        return "a web page, not an image: download the image again"
    if data.startswith(b"8BPS"):
        return f"a Photoshop file: {EXPORT}"
    if data.startswith((b"\xff\x0a", b"\0\0\0\x0cJXL ")):
        return f"a JPEG XL file, which is not read here: {EXPORT}"
    if is_lfs_pointer(data):
        return LFS_POINTER
    if data.startswith(b"PK\x03\x04"):
        return "a zip archive, not an image: unpack it"
    return None


def _brands(data: bytes) -> tuple[bytes, ...]:
    """Return the major and the compatible brands of an ISO media file, none of any other."""
    if data[4:8] != b"ftyp":
        return ()
    end = min(int.from_bytes(data[:4], "big"), 256)
    return (data[8:12], *(data[at : at + 4] for at in range(16, end - 3, 4)))
