"""Read the small files that training writes beside a model, from a run folder or the Hub."""

import re
from pathlib import Path

from ham_hf.inference.load import find_classifier
from ham_hf.system.errors import InputError
from ham_hf.system.serialization import read_json


def is_trained_on_synthetic_images(name: str, revision: str | None = None) -> bool:
    """Return what a model's run.json says about its images; False for a folder or Hub id without one.

    Raises:
        InputError: run.json is not as `ham-hf train` writes it, or the Hub does not deliver it.
    """
    path = find_run_file(name, "run.json", revision)
    if path is None:
        return False
    try:
        return read_json(path)["data"]["synthetic"]
    except (KeyError, TypeError) as error:
        raise InputError(f"{path} is not as `ham-hf train` writes it ({type(error).__name__}: {error})") from error


def training_data_of(name: str, revision: str | None = None) -> dict | None:
    """Return what a model's run.json says about its data, or None for a folder or Hub id without one.

    Raises:
        InputError: run.json is not as `ham-hf train` writes it, or the Hub does not deliver it.
    """
    from ham_hf.inference.run_record import check_facts

    path = find_run_file(name, "run.json", revision)
    if path is None:
        return None
    facts = read_json(path)
    check_facts(facts, path)
    return facts["data"]


def find_run_file(name: str, file: str, revision: str | None = None) -> Path | None:
    """Return the path of a small file that training writes beside the model, or None if there is none.

    Args:
        name: a run folder, a checkpoint in one (the file may be in the run folder), or a Hub id.
        file: such as "run.json"; downloaded from the Hub if it is not in the cache.
        revision: commit, branch or tag on the Hub.

    Raises:
        InputError: the Hub does not deliver it.
    """
    folder = Path(name if Path(name).exists() else _folder_with(file, name, revision)).resolve()
    path = folder / file
    if not path.is_file() and re.fullmatch(r"checkpoint-\d+", folder.name):
        path = folder.parent / file
    return path if path.is_file() else None


def _folder_with(file: str, name: str, revision: str | None) -> str:
    """Return the folder with the cached `file` of a Hub model; its id if it has no such file."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HTTPError, RemoteEntryNotFoundError

    location, commit = find_classifier(name, revision)
    if commit is None:  # the cached folder: there is no network
        return location
    try:
        return str(Path(hf_hub_download(location, file, revision=commit)).parent)
    except RemoteEntryNotFoundError:
        return name
    except (HTTPError, OSError) as error:  # a failed request does not mean that there is no file
        raise InputError(f"{name}: {file}, if it exists, cannot be downloaded: {error}") from error
