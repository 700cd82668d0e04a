"""Ask the Hub once, quickly, before anything is downloaded: is it there, may we, and which commit is it?"""

import re

from huggingface_hub import HfApi, try_to_load_from_cache
from huggingface_hub.errors import (
    GatedRepoError,
    HTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from ham_hf.errors import InputError

TIMEOUT = 10  # seconds; transformers alone would retry for half a minute before its error


def looks_like_repo_id(name: str) -> bool:
    """Whether a name could be a Hub id (`owner/name` or `name`), rather than a path that does not exist."""
    return re.fullmatch(r"(\w[\w.-]*/)?\w[\w.-]*", name) is not None


def resolve_revision(repo_id: str, revision: str | None, repo_type: str = "model") -> str | None:
    """The commit that `revision` of a Hub repository stands for; the named revision itself if only the cache is there.

    Raises:
        InputError: the name cannot be a Hub id, or the Hub does not answer, does not know it or does not let us in.
    """
    what = f"{repo_type} {repo_id!r}" + (f" at revision {revision!r}" if revision else "")
    if not looks_like_repo_id(repo_id):
        raise InputError(f"no folder {repo_id!r}, and it is no Hub id either: expected a folder, or owner/name")
    try:
        return HfApi().repo_info(repo_id, revision=revision, repo_type=repo_type, timeout=TIMEOUT).sha
    except GatedRepoError as error:
        raise InputError(f"{what} is gated: accept its terms on the Hub, then `hf auth login`") from error
    except RevisionNotFoundError as error:
        raise InputError(f"{what} does not exist: look at its commits on the Hub") from error
    except RepositoryNotFoundError as error:
        raise InputError(
            f"{what} is no folder here and not on the Hub (or it is private: then `hf auth login` first)"
        ) from error
    except (HTTPError, OSError) as error:
        if repo_type == "model" and isinstance(try_to_load_from_cache(repo_id, "config.json", revision=revision), str):
            return revision
        reason = (
            "offline mode is on" if isinstance(error, OfflineModeIsEnabled) else f"{type(error).__name__}: {error}"
        )
        raise InputError(
            f"{what} is no folder here, and the Hub cannot be reached ({reason}): check the name and the network"
            + ("; pypi:efficientnet-lite0 needs no Hub" if repo_type == "model" else ", or give a folder")
        ) from error
