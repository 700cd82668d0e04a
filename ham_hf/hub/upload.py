"""Bring a repository on the Hub to the contents of a folder, in one commit: the only code that uploads anything."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple

from ham_hf import __version__
from ham_hf.system.errors import InputError, as_input_error
from ham_hf.system.files import file_digest

if TYPE_CHECKING:  # half a second to import, and a misspelled folder should not take that long
    from huggingface_hub import CommitInfo, HfApi


class Repository(NamedTuple):
    """A kind of repository that ham_hf publishes.

    `published` are patterns of the files that may be deleted if they are left over from an earlier upload. `foreign`
    are two file names: a repository with the first file but not the second was not published by ham_hf.
    """

    repo_type: str  # model, dataset or space
    published: Sequence[str]
    foreign: tuple[str, str]
    message: str  # of the commit


class Target(NamedTuple):
    """Where to upload."""

    repo_id: str
    private: bool = False
    revision: str | None = None
    create_pr: bool = False
    token: str | None = None


class Remote(NamedTuple):
    """A repository as it is now."""

    commit: str
    private: bool
    files: Sequence[str]


def check_repo_id(repo_id: str, argument: str = "REPO_ID") -> None:
    """Raise InputError for a name that no repository can have; `argument` is where it was given."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise InputError(f"{argument} is {repo_id!r}: expected owner/name. {error}") from None
    if "/" not in repo_id:
        raise InputError(f"{argument} is {repo_id!r}: expected owner/name, such as you/{repo_id}")


def listing(staged: Path) -> str:
    """Return the files with their sizes, and the card."""
    sizes = {name: path.stat().st_size for name, path in _files(staged).items()}
    card = (staged / "README.md").read_text(encoding="utf-8")
    lines = [f"{size:>15,}  {name}" for name, size in sizes.items()]
    return "\n".join([*lines, f"{sum(sizes.values()):>15,}  bytes in {len(sizes)} files", "", "README.md:", "", card])


def publish(staged: Path, repository: Repository, target: Target, check: Callable[[], None] = lambda: None) -> str:
    """Bring a repository to the contents of `staged` in one commit, or none if nothing changed, and print the result.

    Args:
        staged: a folder with all files that the repository is to have.
        repository: what is published.
        target: where.
        check: called before anything is uploaded; raises InputError to prevent it.

    Returns:
        The commit that has these files.

    Raises:
        InputError: with what to do, and the state of the repository.
    """
    from huggingface_hub import get_token

    if not (target.token or get_token()):
        raise InputError(
            "no token for the Hub: run `hf auth login`, or set HF_TOKEN; create one with write access at "
            "https://huggingface.co/settings/tokens"
        )
    api = _api(target.token)
    with explained(target.repo_id):
        remote = _look(api, repository, target)
        _check_rights(repository, target, remote, api.whoami())
    check()
    commit = _send(api, staged, repository, target, remote)
    if remote and commit.oid == remote.commit:
        print(f"{target.repo_id} already has these files, at commit {remote.commit}: nothing to upload")
    else:
        print(f"proposed: {commit.pr_url}" if target.create_pr else f"published: {commit.commit_url}")
    return commit.oid


def check_is_published(model_id: str, weights: Sequence[Path], token: str | None) -> None:
    """Raise InputError if there is no such model on the Hub, or its weights are not these files."""
    from huggingface_hub import RepoFile
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        with explained(model_id):
            found = _api(token).get_paths_info(model_id, [path.name for path in weights])
    except InputError as error:
        if isinstance(error.__cause__, RepositoryNotFoundError):
            raise InputError(f"no model {model_id} that this token can read: push the run there first") from error
        raise
    hashes = {file.path: file.lfs.sha256 for file in found if isinstance(file, RepoFile) and file.lfs}
    others = [path.name for path in weights if hashes.get(path.name) != file_digest(path)]
    if others:
        raise InputError(
            f"the weights of {model_id} are not those of the run ({', '.join(others)}): push it there first"
        )


def _api(token: str | None) -> "HfApi":
    from huggingface_hub import HfApi

    return HfApi(token=token, library_name="ham_hf", library_version=__version__)


def _files(folder: Path) -> dict[str, Path]:
    return {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}


def _look(api: "HfApi", repository: Repository, target: Target) -> Remote | None:
    """Return the repository as it is now; None if there is none that we can read."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    from ham_hf.system.hub_access import TIMEOUT

    try:
        info: Any = api.repo_info(
            target.repo_id, repo_type=repository.repo_type, revision=target.revision, timeout=TIMEOUT
        )
    except GatedRepoError:
        raise
    except RepositoryNotFoundError:
        return None
    except RevisionNotFoundError:
        raise InputError(
            f"{target.repo_id} has no branch {target.revision!r}: `hf repos branch create {target.repo_id} "
            f"{target.revision}` creates it"
        ) from None
    return Remote(info.sha, info.private, [file.rfilename for file in info.siblings])


def _check_rights(repository: Repository, target: Target, remote: Remote | None, user: dict[str, Any]) -> None:
    """Raise InputError for what the Hub would refuse, or what nobody wants, before the work is done."""
    repo_id, owner = target.repo_id, target.repo_id.split("/")[0]
    role = user.get("auth", {}).get("accessToken", {}).get("role")  # the Hub itself decides about other roles
    writable = [user["name"], *(org["name"] for org in user.get("orgs", []) if org.get("roleInOrg") != "read")]
    can_propose = repository.repo_type != "dataset"
    if role == "read":
        raise InputError(
            f"this token of {user['name']} is read-only: create one with write access at "
            "https://huggingface.co/settings/tokens, then `hf auth login`"
        )
    if remote is None and (target.create_pr or target.revision):
        option = "--create_pr" if target.create_pr else "--revision"
        raise InputError(f"no repository {repo_id} that this token can read: to create it, remove {option}")
    if target.create_pr or (target.revision or "").startswith("refs/pr/"):
        return
    if role == "write" and owner not in writable:
        raise InputError(
            f"{user['name']} cannot write to repositories of {owner}: expected {' or '.join(writable)} as the owner"
            + (", or --create_pr to propose it" if remote and can_propose else "")
        )
    if remote and target.private and not remote.private:
        raise InputError(
            f"{repo_id} exists and is public, so the files would be public: make it private in its settings on the "
            "Hub, or choose another name"
        )
    if remote and repository.foreign[0] in remote.files and repository.foreign[1] not in remote.files:
        raise InputError(
            f"the name {repo_id} is taken by a {repository.repo_type} that ham_hf did not publish: choose another "
            "name" + (", or --create_pr to propose this one in its place" if can_propose else "")
        )


def _send(api: "HfApi", staged: Path, repository: Repository, target: Target, remote: Remote | None) -> "CommitInfo":
    """Upload and commit, after creating the repository if there is none."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    where: dict[str, Any] = {"repo_id": target.repo_id, "repo_type": repository.repo_type}
    state = "No commit was made"
    if remote is None:
        with explained(target.repo_id, state):
            sdk = "gradio" if repository.repo_type == "space" else None
            api.create_repo(**where, private=target.private or None, space_sdk=sdk)
        state += f"; the new repository {target.repo_id} is empty"
    files = _files(staged)
    left_over = [
        name for name in (remote.files if remote else ()) if name not in files and _matches(name, repository.published)
    ]
    print(f"uploading to {target.repo_id} …")
    with explained(target.repo_id, state):
        return api.create_commit(
            operations=[
                *(CommitOperationAdd(name, path) for name, path in files.items()),
                *(CommitOperationDelete(name) for name in left_over),
            ],
            commit_message=repository.message,
            parent_commit=remote.commit if remote else None,  # refused if anyone else has committed in between
            revision=target.revision,
            create_pr=target.create_pr,
            **where,
        )


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(PurePosixPath("/", name).match(f"/{pattern}") for pattern in patterns)


@contextmanager
def explained(repo_id: str, state: str = "No commit was made") -> Iterator[None]:
    """Turn exceptions of huggingface_hub into an InputError with what to do, and the state of the repository."""
    from huggingface_hub.errors import HfHubHTTPError, HTTPError, OfflineModeIsEnabled

    again = "Run the same command again: nothing is uploaded or committed twice"
    try:
        yield
    except InputError:
        raise
    except OfflineModeIsEnabled as error:
        raise InputError("offline mode is on: unset HF_HUB_OFFLINE to push") from error
    except (HTTPError, OSError, RuntimeError, ValueError) as error:
        if as_input_error(error):  # a full disk, for example
            raise
        cause = error.__cause__ if type(error) is RuntimeError and error.__cause__ else error  # of an upload
        if isinstance(cause, HfHubHTTPError):
            status, reply = cause.response.status_code, " ".join((cause.server_message or str(cause)).split())
            if status >= 500:
                raise InputError(f"the Hub has a problem ({status}: {reply}). {state}. {again}") from error
            raise InputError(f"{_remedy(status, repo_id)} (the Hub says {status}: {reply}). {state}") from error
        if isinstance(cause, HTTPError | OSError):
            # The commit itself may have been made, and only the reply have been lost
            raise InputError(f"the connection to the Hub broke ({type(cause).__name__}: {cause}). {again}") from error
        raise InputError(f"the Hub rejects it: {error}. {state}") from error


def _remedy(status: int, repo_id: str) -> str:
    match status:
        case 401:
            return "the Hub does not accept this token: `hf auth login` with another, or set HF_TOKEN"
        case 403:
            return f"this token cannot write to {repo_id}: create one with write access to it, or choose another name"
        case 404:
            return f"{repo_id} no longer exists: look at it on the Hub"
        case 409:
            return f"the name {repo_id} is taken: choose another"
        case 412:
            return f"someone else has just committed to {repo_id}: look at it on the Hub, then run this again"
        case 429:
            return "too many requests: wait some minutes, then run the same command again"
    return "the Hub rejects it"
