"""Read train_size: the side of the training crops in pixels, or a schedule, which maps epochs to sides."""

import json
from collections.abc import Mapping
from typing import Any

from ham_hf.config.option_rules import PIXELS
from ham_hf.system.errors import InputError

_SIZE = f"a whole number of pixels from {PIXELS.low} to {PIXELS.high}"
_EXAMPLE = '\'{"1": 128, "10": 224}\''


def read_train_size(value: Any) -> int | dict[int, int]:
    """Return one side, or sides by the epoch from which they apply, in order.

    Args:
        value: a number or a mapping, as it is or as JSON, where epochs are text.

    Raises:
        InputError: it is neither, a side or an epoch is none, or epoch 1 has no side.
    """
    given = _parse(value) if isinstance(value, str) else value
    if not isinstance(given, dict):
        if not _is_size(given):
            raise InputError(f"train_size is {value!r:.80}: expected {_SIZE}, or sizes by epoch, such as {_EXAMPLE}")
        return given
    if not given:
        raise InputError(f"train_size is an empty schedule: expected sizes by epoch, such as {_EXAMPLE}")
    sizes = dict(sorted((_epoch(key), size) for key, size in given.items()))
    for epoch, size in sizes.items():
        if not _is_size(size):
            raise InputError(f"train_size is {size!r:.80} from epoch {epoch} on: expected {_SIZE}")
    if 1 not in sizes:
        raise InputError(f"train_size starts with epoch {min(sizes)}: expected a size for epoch 1, as in {_EXAMPLE}")
    return sizes


def sizes_by_epoch(value: Any) -> dict[int, int]:
    """Return the sides of the training crops by the first epoch that has them, also of one for all epochs."""
    sizes = read_train_size(value)
    return sizes if isinstance(sizes, dict) else {1: sizes}


def crops_in_words(sizes: Mapping[int, int]) -> str:
    """Return sides by epoch as a report states them."""
    later = (f", from epoch {epoch} of {size}" for epoch, size in sizes.items() if epoch > 1)
    return f"training crops of {sizes[1]} pixels{''.join(later)}"


def _parse(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _epoch(key: Any) -> int:
    text = str(key)
    if text.isascii() and text.isdecimal() and text[0] != "0" and len(text) < 9:
        return int(text)
    raise InputError(f"train_size has a size for epoch {text!r:.80}: expected whole numbers from 1, as in {_EXAMPLE}")


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and PIXELS.has(value)
