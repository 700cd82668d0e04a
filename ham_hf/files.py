"""Files that several processes write, and the digest of one. No import here takes long."""

import hashlib
import logging
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from ham_hf.errors import InputError

logger = logging.getLogger(__name__)


@contextmanager
def one_at_a_time(lock_file: Path, what: str) -> Iterator[None]:
    """Hold a lock, which other processes wait for; `what` the one that is waited for does is for the log.

    Raises:
        OSError: the lock's folder is not there, or cannot be written.
    """
    lock = FileLock(lock_file)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        logger.warning("another process is %s: waiting for it", what)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def one_alone(lock_file: Path, what: str) -> Iterator[None]:
    """Hold a lock on writing `what`, which the message names. The lock of a process that was killed does not hold.

    Raises:
        InputError: another process holds it.
        OSError: the lock's folder is not there, or cannot be written.
    """
    lock = FileLock(lock_file)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise InputError(
            f"another process is writing {what}: wait for it, end it, or choose another --output_dir"
        ) from None
    try:
        yield
    finally:
        lock_file.unlink(missing_ok=True)  # while it is still held: whoever opened it before gets nothing
        lock.release()


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A new empty file beside `path`, to write, which then takes its place: no reader ever sees half a file.

    Its permissions are those of any file that the user makes. A link at `path` is replaced, and what it pointed to
    stays as it is.
    """
    unfinished = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    unfinished.touch(exist_ok=False)  # tempfile's would have other permissions than the umask gives
    try:
        yield unfinished
        os.replace(unfinished, path)
    except BaseException:  # GeneratorExit and Ctrl-C as well
        unfinished.unlink()
        raise


def file_digest(path: Path, algorithm: str = "sha256") -> str:
    """Of a file's content, in hexadecimal; `algorithm` is a name of hashlib's."""
    digest = hashlib.new(algorithm, usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
