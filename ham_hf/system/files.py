"""Files and folders that appear whole or not at all, and are written by one process. No import here takes long."""

import errno
import hashlib
import logging
import os
import secrets
import shutil
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from ham_hf.system.errors import InputError, MachineError

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
        MachineError: another process holds it.
        OSError: the lock's folder is not there, or cannot be written.
    """
    lock = FileLock(lock_file)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise MachineError(
            f"another process is writing {what}: wait for it, end it, or choose another --output_dir"
        ) from None
    try:
        yield
    finally:
        lock_file.unlink(missing_ok=True)  # while it is still held: a process that opened it before gets nothing
        lock.release()


def refuse_special(path: Path) -> None:
    """Raise InputError if something other than a regular file is at `path`, which must not be replaced."""
    if what := special_kind(path):
        raise InputError(f"{path} is {what}: expected the name of a regular file, or a new one")


def special_kind(path: Path) -> str | None:
    """Return what is at `path`, links followed, if it is no regular file; None if it is one or nothing is there."""
    if descriptor_of(path) is not None:
        return "an open file of this process"
    try:
        mode = path.stat().st_mode
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return None
        raise
    kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
    kinds |= {stat.S_IFCHR: "a device", stat.S_IFBLK: "a disk device"}
    return None if stat.S_ISREG(mode) else kinds.get(stat.S_IFMT(mode), "no regular file")


def descriptor_of(path: Path) -> int | None:
    """Return N for /dev/fd/N, and so for /dev/stdout, which is a link to such a name; None for any other path."""
    for _ in range(10):  # links that lead to each other end here
        folder = path.parent.resolve()
        if folder in (Path("/dev/fd"), Path(f"/proc/{os.getpid()}/fd")) and path.name.isdecimal():
            return int(path.name)
        if not path.is_symlink():
            return None
        path = folder / path.readlink()
    return None


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a new empty file to write, which then replaces `path` at once: no reader ever sees half a file.

    Its permissions are those of any file that the user makes. A link at `path` is replaced, and what it pointed to
    stays as it is.

    Raises:
        InputError: a folder, device, pipe or socket is at `path`, or a link to one, none of which is ever replaced.
    """
    refuse_special(path)
    unfinished = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    unfinished.touch(exist_ok=False)  # tempfile's would have other permissions than the umask gives
    try:
        yield unfinished
        os.replace(unfinished, path)
    except BaseException as error:  # GeneratorExit and Ctrl-C as well
        unfinished.unlink()
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)  # of a full disk, which does not say where it is
        raise


def replace_file(path: str | Path, content: str | bytes) -> None:
    """Put `content` at `path`, as `replacing` does."""
    with replacing(Path(path)) as unfinished:
        _write(unfinished, content)


def replace_files(folder: Path, contents: Mapping[str, str | bytes]) -> None:
    """Put every content at its name below `folder`, once all of them are on the disk: the old files, or the new ones.

    A process that is killed in the instant of their taking their places, one after the other, leaves some of each.
    """
    with ExitStack() as stack:
        for name, content in contents.items():
            _write(stack.enter_context(replacing(folder / name)), content)


def _write(path: Path, content: str | bytes) -> None:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def check_new_folder(folder: Path) -> None:
    """Raise InputError if a command would mix its files with others, before the work is done."""
    what = special_kind(folder)
    if what not in (None, "a folder"):
        raise InputError(f"--output_dir {folder} is {what}: choose another folder")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} exists and is not empty: choose another --output_dir")
    if folder.resolve() == Path.cwd():  # a shell in the folder that is replaced would go on to see the old one, empty
        raise InputError(f"--output_dir {folder} is the current folder: choose another one")


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Yield a folder to write, which becomes `folder` at the end, or nothing if the process is killed.

    Raises:
        InputError: as `check_new_folder`; or another process is writing it.
    """
    folder = folder.resolve()  # a name such as x/.. would have no place beside it
    unfinished = folder.with_name(f".{folder.name}.unfinished")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with one_alone(unfinished.with_name(f"{unfinished.name}.lock"), str(folder)):
        check_new_folder(folder)
        shutil.rmtree(unfinished, ignore_errors=True)  # of a process that was killed
        unfinished.mkdir()
        try:
            yield unfinished
            if folder.exists():
                folder.rmdir()  # empty: Windows would not replace it
            unfinished.rename(folder)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)


def apply_umask(folder: Path) -> None:
    """Give the weights in `folder` the permissions of any new file: safetensors lets only their owner read them.

    Do nothing on Windows, which has no such permissions.
    """
    if os.name == "nt":
        return
    umask = os.umask(0)  # the only way to read it
    os.umask(umask)
    for path in folder.glob("*.safetensors"):
        path.chmod(path.stat().st_mode | (0o666 & ~umask))


def file_digest(path: Path, algorithm: str = "sha256") -> str:
    """Return the hash of a file's content in hexadecimal; `algorithm` is a name in hashlib."""
    digest = hashlib.new(algorithm, usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def lines_digest(lines: Iterable[str]) -> str:
    """Return the SHA-256 of these lines, in hexadecimal."""
    return hashlib.sha256("".join(f"{line}\n" for line in lines).encode()).hexdigest()
