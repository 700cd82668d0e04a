"""Turn errors of libraries about a recipe's options into one sentence that names the options."""

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

from transformers import TrainingArguments

from ham_hf.config.training_arguments import changed, spell
from ham_hf.system.errors import InputError, TrainingError, is_out_of_memory

# Paths, and options that only choose what to do: no value of these is wrong by itself
NEVER_NAMED = ("output_dir", "data_dir", "resume", "do_predict", "disable_tqdm", "report_to")
_IN_A_WORKER = "in DataLoader worker process"


def options_of(*parts: Any) -> dict[str, Any]:
    """Return the options in the parts of a recipe that differ from their defaults."""
    given: dict[str, Any] = {}
    for part in parts:
        # TrainingArguments derives some of its fields from others, so RunArguments keeps what was given
        given |= part.given if isinstance(part, TrainingArguments) else changed(part)
    return {name: value for name, value in given.items() if name not in NEVER_NAMED}


@contextmanager
def explained(
    failed: str, options: dict[str, Any], names: Collection[str] = (), until: Callable[[], bool] = lambda: False
) -> Iterator[None]:
    """Turn an exception into a TrainingError that names `options`, because one of them is the likely cause.

    InputError, OSError and running out of memory pass through. So does every exception if all options have their
    defaults, because the error is then in this program.

    Args:
        failed: what failed, such as "The optimizer could not be built".
        options: the options and their values, from `options_of`.
        names: the options that can be the cause; default: all.
        until: once this returns true, exceptions pass through.
    """
    try:
        yield
    except InputError as error:
        if _IN_A_WORKER not in str(error).partition("\n")[0]:
            raise
        # An exception of a worker process arrives here with a traceback as its message
        name = type(error).__name__
        raise type(error)(str(error).strip().rpartition(f"{name}: ")[2]) from error
    except Exception as error:
        involved = [f"{name} {spell(value)!r}" for name, value in options.items() if not names or name in names]
        if until() or not involved or isinstance(error, OSError) or is_out_of_memory(error):
            raise
        said = f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"
        raise TrainingError(
            f"{failed} ({said}). Change or remove one of these options: {', '.join(involved)}; --debug shows the "
            "traceback"
        ) from error
