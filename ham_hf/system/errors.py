"""Exceptions for what a user can fix; the commands print them without a traceback."""

import difflib
import errno
import os
from collections.abc import Iterable
from pathlib import Path

from ham_hf.system.terminal import printable

FULL_DISK = (errno.ENOSPC, errno.EDQUOT)
FULL = "No space left on device"
# A path that cannot be read or written, is no file or no folder, or is too long; and a failing disk
_OF_A_PATH = (
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.ENXIO, errno.EBADF),
    *(errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.EEXIST),
)
# Of torch on any device, NumPy, ONNX Runtime, and worker processes that the system killed
_NO_MEMORY = ("out of memory", "allocate memory", "not enough memory", "shared memory", "killed by signal: killed")


class InputError(ValueError):
    """A mistake of the user; the message says what was given, what was expected, and what to do."""

    exit_code = 2


class MachineError(InputError):
    """A problem of the machine, such as a full disk or another process at work. The same command works later."""

    exit_code = 3


class TrainingError(InputError):
    """The settings of a run do not work: its loss diverged, or they do not fit the model, the data or each other.

    Unlike after a missing file or a lost network connection, the same command would fail again.
    """

    exit_code = 4


def error_kind(error: OSError) -> type[InputError]:
    """Return MachineError if the disk is full, otherwise InputError."""
    return MachineError if error.errno in FULL_DISK else InputError


def cannot_write(folder: Path, error: OSError, remedy: str) -> InputError:
    """Return a MachineError if the disk is full, otherwise an InputError, for example for another user's folder."""
    return error_kind(error)(f"{folder} cannot be written ({error.strerror}): {remedy}")


def as_input_error(error: BaseException) -> InputError | None:
    """Return what to say about a full disk, too little memory or a path that cannot be used; None about other errors.

    Those are no bugs, whichever library met them.
    """
    os_error = error if isinstance(error, OSError) else None
    # safetensors' and torch's errors have no number
    if FULL in str(error) or (os_error is not None and os_error.errno in FULL_DISK):
        file = (os_error.filename2 or os_error.filename) if os_error is not None else None  # two of a copy
        where = f"{_shortened(file)}: " if file else ""
        return MachineError(
            f"{where}{FULL}: free some space, then run the same command again (to resume a run, with --resume)"
        )
    if is_out_of_memory(error):
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        return MachineError(
            f"out of memory ({_shortened(reason)}): close other programs, or lower per_device_train_batch_size, "
            "per_device_eval_batch_size, dataloader_num_workers or image_size, then run the same command again"
        )
    if (isinstance(error, ValueError) and "embedded null" in str(error)) or (
        isinstance(error, RuntimeError) and str(error).startswith("Symlink loop")
    ):
        return InputError(f"a path cannot be used: {_shortened(error)}")
    if os_error is not None:
        path, remedy = os_error.filename, _remedy(os_error.filename)
        # A home that does not exist cannot be made below /proc, or below a mount that is gone
        if os_error.errno in _OF_A_PATH or (os_error.errno == errno.ENOENT and remedy and not _cache().is_dir()):
            return InputError(f"{_shortened(path or 'the disk')}: {os_error.strerror}{remedy}")
    return None if error.__cause__ is None else as_input_error(error.__cause__)  # datasets wraps what it met


def _remedy(path: object) -> str:
    """Return what to do if a path that cannot be used is where the Hugging Face libraries keep their caches."""
    if not isinstance(path, str):
        return ""
    cache = _cache()
    in_question = Path(path) == cache or cache in Path(path).parents or Path(path) in cache.parents
    return ". Set HF_HOME to a folder that you can write to: models and data sets are cached there" * in_question


def _cache() -> Path:
    return Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether memory, of the machine or the GPU, was not enough."""
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    # torch.OutOfMemoryError is a RuntimeError too, and so is what its CPU allocator raises
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _NO_MEMORY)


def _shortened(text: object) -> str:
    return printable(str(text)[:200])


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ": did you mean …?" with the closest of the known names; "" if none is close."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f": did you mean {close[0]!r}?" if close else ""
