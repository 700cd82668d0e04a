"""HAM10000, and the test set of ISIC 2018 beside it, from Harvard Dataverse into a folder that `--data_dir` reads.

ham-hf data download path/to/HAM10000

It reads the dataset's listing (`/api/datasets/:persistentId/`) and loads what it needs of it
(`/api/access/datafile/{id}`, https://guides.dataverse.org/en/latest/api/). It was proven against a server on loopback
that speaks the same API (tests/helpers/dataverse_server.py), never against Harvard's own.

A table that Dataverse has "ingested" is listed as a .tab that it made; `format=original` gives the file that was
uploaded, and the checksum in the listing is that file's (https://github.com/IQSS/dataverse/issues/7275).
"""

import html
import logging
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import NamedTuple, TypeVar

import httpx2
from tqdm import tqdm

from ham_hf import __version__
from ham_hf.system.errors import InputError
from ham_hf.system.files import file_digest, one_at_a_time, refuse_special

logger = logging.getLogger("ham_hf.data.download")

SERVER = "https://dataverse.harvard.edu"
DATASET = "doi:10.7910/DVN/DBW86T"
PAGE = "https://doi.org/10.7910/DVN/DBW86T"
TEST_SET = "ISIC2018_test"
ATTEMPTS = 5  # without a single new byte; they take half a minute
LONGEST_WAIT = 300  # seconds, of those that a server may ask for

# Names of our own choice: whatever the listing says, nothing is written anywhere else. The metadata table beside its
# zips and the test set in a folder of its own are what ham_hf.data.sources.folder takes for two sources.
_FILES = (
    "HAM10000_metadata.csv",
    "HAM10000_images_part_1.zip",
    "HAM10000_images_part_2.zip",
    f"{TEST_SET}/ISIC2018_Task3_Test_GroundTruth.csv",
    f"{TEST_SET}/ISIC2018_Task3_Test_Images.zip",
)
_ALGORITHMS = {"MD5": ("md5", 32), "SHA-1": ("sha1", 40), "SHA-256": ("sha256", 64), "SHA-512": ("sha512", 128)}
_BUSY = (429, 500, 502, 503, 504)
_GO_ON = "run the same command again to resume"
_OTHER_WAYS = f"{PAGE} in a browser, or isic-cli, the ISIC Archive's own downloader, are other ways to the images"

T = TypeVar("T")


class RemoteFile(NamedTuple):
    """A file of the listing. `path`: in the folder; `size`: in bytes, None where an original's is not listed."""

    path: str
    label: str
    url: str
    size: int | None
    algorithm: str
    checksum: str
    original: bool


class Listing(NamedTuple):
    """Return the required files, and the terms of use in the server's own words ("" if it has none)."""

    files: list[RemoteFile]
    terms: str

    @property
    def size(self) -> int:
        """Bytes of all files together."""
        return sum(file.size or 0 for file in self.files)


class _Busy(Exception):
    """The server is unavailable; `wait` is the delay in seconds that it asks for, None if it asks for none."""

    def __init__(self, reason: str, wait: float | None):
        super().__init__(reason)
        self.wait = wait


def connect() -> httpx2.Client:
    """Return a client that reveals nothing about its user: no token, no netrc. It respects HTTPS_PROXY."""
    return httpx2.Client(
        # Harvard refuses the names of HTTP libraries (https://github.com/IQSS/dataverse.harvard.edu/issues/479).
        # Ranges count the bytes of the file, not of a compressed answer.
        headers={"User-Agent": f"ham_hf/{__version__}", "Accept-Encoding": "identity"},
        follow_redirects=True,  # to the storage, with an address that is signed for an hour at most
        timeout=httpx2.Timeout(60, connect=20),
    )


def read_listing(client: httpx2.Client, server: str) -> Listing:
    """Ask a Dataverse server what HAM10000 consists of; no file is asked for.

    Raises:
        InputError: no address, nobody there, no Dataverse, or a listing that lacks a file or its checksum.
    """
    if not _is_address(server):
        raise InputError(f"--server {server!r} is not the address of a server: expected one such as {SERVER}")
    server = server.rstrip("/")

    def ask() -> httpx2.Response:
        try:
            answer = client.get(f"{server}/api/datasets/:persistentId/", params={"persistentId": DATASET})
        except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.ProxyError) as error:
            raise InputError(  # at once: what was never there will not come back
                f"cannot reach {server} ({error}): check the network, and HTTPS_PROXY if there is a proxy. "
                f"{_OTHER_WAYS}"
            ) from error
        _check_status(answer, f"the dataset {DATASET}")
        return answer

    answer = _persistently(ask, lambda: 0, f"the listing of {DATASET}")
    try:
        listing = answer.json()
    except ValueError as error:
        kind = _plain(answer.headers.get("Content-Type", "something"))
        raise InputError(
            f"{answer.url.host} returned {kind} instead of JSON: is {server} a Dataverse server, and is there no "
            "page to log in to the network first?"
        ) from error
    try:
        version = listing["data"]["latestVersion"]
        return Listing([_find(path, version["files"], server) for path in _FILES], _terms(version))
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{server} returned JSON that is not a Dataverse listing ({type(error).__name__}: {error}): is it "
            "a Dataverse server?"
        ) from error


def download_files(client: httpx2.Client, listing: Listing, folder: Path) -> None:
    """Load the files of `listing` that `folder` lacks, each checked against the listing's checksum.

    A file is written as NAME.part and gets its name when it is complete and correct. An existing part is resumed.

    Raises:
        InputError: the folder cannot be written, is too full, or has another file under one of the names; or the
            server or the network say no for long.
    """
    with _writing(folder):
        for file in listing.files:
            (folder / file.path).parent.mkdir(parents=True, exist_ok=True)
        with one_at_a_time(folder / ".download.lock", f"downloading into {folder}"):
            missing = [file for file in listing.files if not _is_there(folder, file)]
            _check_room(folder, missing)
            for file in missing:
                _download(client, file, folder / file.path)


def _is_address(server: str) -> bool:
    try:
        url = httpx2.URL(server)
    except httpx2.InvalidURL:
        return False
    return url.scheme in ("http", "https") and url.host != ""


def _find(path: str, entries: list[dict], server: str) -> RemoteFile:
    """Return the listing's entry for one of `_FILES`."""
    labels = [entry["label"] for entry in entries]
    for label in labels:
        if "/" in label or "\\" in label or label in ("", ".", ".."):
            raise InputError(
                f"{server} lists a file {label!r}: expected names without folders. Nothing was downloaded"
            )
    name = Path(path)
    names = [name.name] if name.suffix == ".zip" else [name.stem + suffix for suffix in (".tab", ".csv", "")]
    found = [entry for entry in entries if entry["label"] in names]
    if len(found) != 1:
        raise InputError(
            f"{server} lists {len(found) or 'no'} files {' or '.join(names)} in {DATASET}: expected one. It lists "
            f"{', '.join(sorted(map(_plain, labels))) or 'nothing'}"
        )
    label, data = found[0]["label"], found[0]["dataFile"]
    if found[0].get("restricted", False):
        raise InputError(f"{server} restricts {label} to users with an account: see {PAGE} for how to request access")
    original = "originalFileFormat" in data
    size = data.get("originalFileSize") if original else data["filesize"]
    if type(data["id"]) is not int or not (size is None and original or type(size) is int and size >= 0):
        raise InputError(f"{server} lists {label} with id {data['id']!r} and size {size!r}: expected two numbers")
    url = f"{server}/api/access/datafile/{data['id']}" + ("?format=original" if original else "")
    return RemoteFile(path, label, url, size, *_checksum(label, data), original)


def _checksum(label: str, data: Mapping) -> tuple[str, str]:
    listed = data.get("checksum") or {"type": "MD5", "value": data.get("md5")}
    kind, value = listed["type"], listed["value"]
    if kind not in _ALGORITHMS or not re.fullmatch(rf"[0-9a-fA-F]{{{_ALGORITHMS[kind][1]}}}", value or ""):
        raise InputError(
            f"the listing has no checksum of {label} that could be checked: {kind!r} {value!r}; expected one of "
            f"{', '.join(_ALGORITHMS)} in hexadecimal. Nothing was downloaded"
        )
    return _ALGORITHMS[kind][0], value.lower()


def _terms(version: Mapping) -> str:
    license = version.get("license")
    if isinstance(license, dict):
        license = f"{license.get('name', '')} {license.get('uri', '')}"
    texts = [license, version.get("termsOfUse")]
    return _plain(" ".join(str(text) for text in texts if text and text != "NONE"), 2000)


def _plain(text: str, longest: int = 200) -> str:
    """Return a server's message on one line, without markup and control characters."""
    text = re.sub(r"<[^>]*>", " ", html.unescape(text))
    text = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    return text if len(text) <= longest else f"{text[:longest]} …"


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        where = error.filename or folder
        raise InputError(f"{where} cannot be written or read ({error.strerror}): fix that, and {_GO_ON}") from error


def _is_there(folder: Path, file: RemoteFile) -> bool:
    path = folder / file.path
    refuse_special(path)
    refuse_special(_part(path))
    if not path.exists():
        return False
    if file_digest(path, file.algorithm) != file.checksum:
        raise InputError(
            f"{path} exists, but is not the server's {file.label} (its {file.algorithm} differs): move it elsewhere"
        )
    return True


def _check_room(folder: Path, missing: list[RemoteFile]) -> None:
    needed = sum(max((file.size or 0) - _size(_part(folder / file.path)), 0) for file in missing)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise InputError(
            f"{needed:,} bytes must be downloaded, but only {free:,} are free in {folder}: free some "
            "space, or choose a folder on another disk"
        )


def _part(path: Path) -> Path:
    return path.with_name(f"{path.name}.part")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _download(client: httpx2.Client, file: RemoteFile, path: Path) -> None:
    """Load one file into its part, check it, and give it its name."""
    part = _part(path)
    if file.size is not None and _size(part) > file.size:
        part.unlink()
    show = {"desc": path.name, "unit": "B", "unit_scale": True, "disable": None}  # None: on a terminal alone
    with tqdm(total=file.size, initial=_size(part), **show) as bar:
        _persistently(lambda: _receive(client, file, part, bar), lambda: _size(part), file.label)
    digest = file_digest(part, file.algorithm)
    if digest != file.checksum:
        part.unlink()
        raise InputError(
            f"{file.label} has the {file.algorithm} {digest}, but the listing says {file.checksum}: the file was "
            "removed; run the same command again to download it again"
        )
    part.replace(path)


def _receive(client: httpx2.Client, file: RemoteFile, part: Path, bar: tqdm) -> None:
    """Append to `part` what it lacks, over one connection."""
    # Dataverse counts the ranges of an ingested table in the table that it made of it; the originals are small
    start = 0 if file.original else _size(part)
    bar.update(start - bar.n)
    if start and start == file.size:
        return
    with client.stream("GET", file.url, headers={"Range": f"bytes={start}-"} if start else {}) as answer:
        if start and answer.status_code == 416:
            part.unlink()
            raise _Busy(f"{answer.url.host} does not resume {file.label} where it stopped", wait=0)
        _check_status(answer, file.label)
        if answer.status_code == 200:
            start = 0  # all of it comes, whatever was asked for
            bar.update(-bar.n)
        size = _whole_size(answer, start)
        if size is not None and file.size is not None and size != file.size:
            raise _wrong_size(answer, file, size)
        with part.open("ab" if start else "wb") as out:
            for block in answer.iter_raw():
                out.write(block)
                bar.update(len(block))
                if file.size is not None and out.tell() > file.size:
                    raise _wrong_size(answer, file, out.tell())
            out.flush()
            os.fsync(out.fileno())


def _wrong_size(answer: httpx2.Response, file: RemoteFile, size: int) -> InputError:
    return InputError(
        f"{answer.url.host} sent {size:,} bytes for {file.label}, but the listing says {file.size:,}: try again "
        f"later, or see {PAGE}"
    )


def _whole_size(answer: httpx2.Response, start: int) -> int | None:
    """Bytes of the whole file, by the headers of an answer with all of it or with what follows `start`."""
    if answer.status_code == 206:
        given = answer.headers.get("Content-Range", "")
        match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", given)
        if match is None or int(match[1]) != start:
            raise InputError(f"{answer.url.host} was asked for bytes from {start}, but sent {_plain(given)!r}")
        return None if match[2] == "*" else int(match[2])
    length = answer.headers.get("Content-Length")
    return None if length is None else int(length)


def _check_status(answer: httpx2.Response, what: str) -> None:
    """Raise _Busy for a temporary failure, InputError for a permanent one."""
    status, host = answer.status_code, answer.url.host
    if status in (200, 206):
        return
    said = _said(answer)
    if status in _BUSY:
        raise _Busy(f"{host} returned {status} for {what}{said}", _retry_after(answer.headers.get("Retry-After")))
    match status:
        case 401 | 403:
            hint = f"it refuses us, or this network, or asks for a browser. {_OTHER_WAYS}"
        case 404:
            hint = f"it does not have it (any more): check --server, or look at {PAGE}"
        case _:
            hint = f"expected 200. Try again later; {_OTHER_WAYS}"
    raise InputError(f"{host} returned {status} for {what}{said}: {hint}")


def _said(answer: httpx2.Response) -> str:
    """Return the message of a Dataverse error in brackets, or "" for other pages."""
    try:
        answer.read()
        return f" ({_plain(answer.json()['message'])})"
    except (httpx2.RequestError, ValueError, KeyError, TypeError):
        return ""


def _retry_after(value: str | None) -> float | None:
    """Seconds; the header has them, or a date."""
    if value is None:
        return None
    if value.isascii() and value.isdigit():
        return float(value)
    try:
        return max(parsedate_to_datetime(value).timestamp() - time.time(), 0)
    except ValueError:
        return None


def _persistently(attempt: Callable[[], T], progress: Callable[[], int], what: str) -> T:
    """Call `attempt` until it answers; busy servers and cut connections are waited for, twice as long every time.

    Raises:
        InputError: ATTEMPTS in a row brought nothing, or the server asks for a longer wait than LONGEST_WAIT.
    """
    failures = 0
    while True:
        before = progress()
        try:
            return attempt()
        except (_Busy, httpx2.RequestError) as error:
            failures = 0 if progress() > before else failures + 1
            reason = str(error) or type(error).__name__
            wait = 2.0**failures
            if isinstance(error, _Busy) and error.wait is not None:
                wait = error.wait
            if wait > LONGEST_WAIT:
                raise InputError(f"{reason}, and asks to wait {wait:,.0f} seconds: after that, {_GO_ON}") from error
            if failures == ATTEMPTS:
                raise InputError(
                    f"{what} cannot be downloaded: {ATTEMPTS} attempts in a row failed, the last one: {reason}. "
                    f"Check the network; {_GO_ON}"
                ) from error
            logger.warning("%s: %s; retrying in %.0f s", what, reason, wait)
            time.sleep(wait)
