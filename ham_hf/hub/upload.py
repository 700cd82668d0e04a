"""Bring a repository of the Hub to the files of a folder, in one commit or none: the only way anything goes there.

Used by push_to_hub.py for runs and Spaces, and by `ham-hf data push` for datasets.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, NamedTuple

from ham_hf import __version__
from ham_hf.system.errors import InputError

if TYPE_CHECKING:  # half a second to import, and a misspelt folder should not
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi


class Destination(NamedTuple):
    """Where to, and what there is ours.

    `published` are patterns of the files that a push may remove where they are left over from an earlier one;
    `foreign` are two names: a repository with a file of the first name and none of the second is somebody else's.
    """

    repo_id: str
    repo_type: str  # model, dataset or space
    published: Sequence[str]
    foreign: tuple[str, str]
    message: str  # of the commit
    private: bool = False
    revision: str | None = None
    create_pr: bool = False
    token: str | None = None


def check_repo_id(repo_id: str, argument: str = "REPO_ID") -> None:
    """Raises InputError for what cannot be a repository's name; `argument` is where it was given."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise InputError(f"{argument} is {repo_id!r}: expected owner/name. {error}") from None
    if "/" not in repo_id:
        raise InputError(f"{argument} is {repo_id!r}: expected owner/name, such as you/{repo_id}")


def _files(folder: Path) -> dict[str, Path]:
    return {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}


def listing(staged: Path) -> str:
    """The files with their sizes, and the card."""
    sizes = {name: path.stat().st_size for name, path in _files(staged).items()}
    card = (staged / "README.md").read_text(encoding="utf-8")
    lines = [f"{size:>15,}  {name}" for name, size in sizes.items()]
    return "\n".join([*lines, f"{sum(sizes.values()):>15,}  bytes in {len(sizes)} files", "", "README.md:", "", card])


class Remote(NamedTuple):
    """A repository at a revision: its commit, and for each file the SHA-256 (LFS) or git's blob id."""

    commit: str
    private: bool
    files: dict[str, str]


def publish(staged: Path, to: Destination, check: Callable[[], None]) -> None:
    """Bring the repository to what is staged: no commit where it is that already, one otherwise.

    Args:
        staged: a folder with all files that are to be there, and nothing else.
        to: the repository.
        check: called before anything is sent, where there is something to send; it raises InputError against it.

    Raises:
        InputError: with what to do, and how it stands on the Hub.
    """
    from huggingface_hub import HfApi, get_token

    if not (to.token or get_token()):
        raise InputError(
            "no token for the Hub: run `hf auth login`, or set HF_TOKEN; make one with write access at "
            "https://huggingface.co/settings/tokens"
        )
    api = HfApi(token=to.token, library_name="ham_hf", library_version=__version__)
    with _explained(to.repo_id):
        remote = _look(api, to, to.revision)
        user = api.whoami()
        _check_rights(to, remote, user)
        done = _already_there(api, to, staged, remote)
    if done is None:
        check()
        done = _send(api, to, staged, remote)
    print(done)


def check_is_published(model_id: str, weights: Sequence[Path], token: str | None) -> None:
    """Raises InputError where there is no such model on the Hub, or its weights are not these files."""
    from huggingface_hub import HfApi

    api = HfApi(token=token, library_name="ham_hf", library_version=__version__)
    with _explained(model_id):
        remote = _look(api, Destination(model_id, "model", (), ("", ""), ""), None)
    if remote is None:
        raise InputError(f"there is no model {model_id} that this token may see: push the run there first")
    others = [path.name for path in weights if remote.files.get(path.name) not in _identities(path)]
    if others:
        raise InputError(
            f"the weights of {model_id} are not those of the run ({', '.join(others)}): push it there first"
        )


def _look(api: "HfApi", to: Destination, revision: str | None) -> Remote | None:
    """The repository as it is now; None where there is none that we may see."""
    from huggingface_hub import RepoFile
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    from ham_hf.system.hub_access import TIMEOUT

    try:
        where = {"repo_id": to.repo_id, "repo_type": to.repo_type}
        info = api.repo_info(**where, revision=revision, timeout=TIMEOUT)
        entries = list(api.list_repo_tree(**where, recursive=True, revision=info.sha))
    except GatedRepoError:
        raise
    except RepositoryNotFoundError:
        return None
    except RevisionNotFoundError:
        raise InputError(
            f"{to.repo_id} has no branch {revision!r}: `hf repos branch create {to.repo_id} {revision}` makes it"
        ) from None
    files = [entry for entry in entries if isinstance(entry, RepoFile)]
    return Remote(info.sha, info.private, {file.path: file.lfs.sha256 if file.lfs else file.blob_id for file in files})


def _check_rights(to: Destination, remote: Remote | None, user: dict) -> None:
    """Raises InputError for what the Hub would refuse, or what nobody wants, before the work is done."""
    repo_id, owner = to.repo_id, to.repo_id.split("/")[0]
    role = user.get("auth", {}).get("accessToken", {}).get("role")  # of others than these two the Hub is the judge
    writable = [user["name"], *(org["name"] for org in user.get("orgs", []) if org.get("roleInOrg") != "read")]
    if role == "read":
        raise InputError(
            f"this token of {user['name']}'s may only read: make one with write access at "
            "https://huggingface.co/settings/tokens, then `hf auth login`"
        )
    if remote is None and (to.create_pr or to.revision):
        flag = "--create_pr" if to.create_pr else "--revision"
        raise InputError(f"there is no repository {repo_id} that this token may see: to make it, leave {flag} out")
    if to.create_pr:
        return
    if role == "write" and owner not in writable:
        raise InputError(
            f"{user['name']} may not write to {owner}'s repositories: expected {' or '.join(writable)} as the owner"
            + (", or --create_pr to propose it" if remote and to.repo_type != "dataset" else "")
        )
    if remote and to.private and not remote.private:
        raise InputError(
            f"{repo_id} is there and public, and so would be what is pushed: make it private in its settings on the "
            "Hub, or choose another name"
        )
    if remote and to.foreign[0] in remote.files and to.foreign[1] not in remote.files:
        raise InputError(
            f"the name {repo_id} is taken, by a {to.repo_type} that was not published from here: choose another name"
            + (", or --create_pr to propose this one in its place" if to.repo_type != "dataset" else "")
        )


def _already_there(api: "HfApi", to: Destination, staged: Path, remote: Remote | None) -> str | None:
    """What to say where the branch, or a pull request that is open, holds just these files."""
    if remote is None:
        return None
    if not _changes(staged, to, remote):
        return f"{to.repo_id} holds just these files, at commit {remote.commit}: nothing to send"
    if to.create_pr:
        filters = {"discussion_type": "pull_request", "discussion_status": "open"}
        for pull in api.get_repo_discussions(to.repo_id, repo_type=to.repo_type, **filters):
            proposed = _look(api, to, pull.git_reference)
            if proposed and not _changes(staged, to, proposed):
                return f"proposed already: {pull.url}"
    return None


def _changes(
    staged: Path, to: Destination, remote: Remote | None
) -> "list[CommitOperationAdd | CommitOperationDelete]":
    """What makes the remote what is staged: files that are new or others, and none left over from an earlier push."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    files, there = _files(staged), remote.files if remote else {}
    changed = [name for name, path in files.items() if there.get(name) not in _identities(path)]
    left_over = [name for name in there if name not in files and _matches(name, to.published)]
    return [
        *(CommitOperationAdd(name, files[name]) for name in changed),
        *(CommitOperationDelete(name) for name in left_over),
    ]


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(PurePosixPath("/", name).match(f"/{pattern}") for pattern in patterns)


def _identities(path: Path) -> tuple[str, str]:
    """What the Hub calls a file with this content: its SHA-256 in LFS, git's blob id otherwise."""
    sha256, blob = hashlib.sha256(), hashlib.sha1(b"blob %d\0" % path.stat().st_size)
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            sha256.update(chunk)
            blob.update(chunk)
    return sha256.hexdigest(), blob.hexdigest()


def _send(api: "HfApi", to: Destination, staged: Path, remote: Remote | None) -> str:
    """Upload and commit; returns what to say.

    Raises:
        InputError: with what to do, and how it stands on the Hub.
    """
    from huggingface_hub import CommitOperationAdd

    operations = _changes(staged, to, remote)
    where = {"repo_id": to.repo_id, "repo_type": to.repo_type}
    branch = {"revision": to.revision, "create_pr": to.create_pr}
    state = "No commit was made"
    with _explained(to.repo_id, state):
        if remote is None:
            api.create_repo(
                **where, private=to.private or None, space_sdk="gradio" if to.repo_type == "space" else None
            )
            state += f"; the new repository {to.repo_id} is empty"
    additions = [operation for operation in operations if isinstance(operation, CommitOperationAdd)]
    left_over = len(operations) - len(additions)
    print(f"sending {len(additions)} files to {to.repo_id}" + (f", removing {left_over} …" if left_over else " …"))
    with _explained(to.repo_id, state):
        api.preupload_lfs_files(additions=additions, free_memory=False, **where, **branch)
    try:
        with _explained(to.repo_id, state):
            commit = api.create_commit(
                operations=operations,
                commit_message=to.message,
                parent_commit=remote.commit if remote else None,  # refused where somebody else was quicker
                **where,
                **branch,
            )
    except _Interrupted as interrupted:
        return _was_committed(api, to, staged, interrupted)
    return f"proposed: {commit.pr_url}" if to.create_pr else f"published: {commit.commit_url}"


def _was_committed(api: "HfApi", to: Destination, staged: Path, interrupted: "_Interrupted") -> str:
    """What to say where the commit was made, and only its answer was lost."""
    try:
        with _explained(to.repo_id):
            done = _already_there(api, to, staged, _look(api, to, to.revision))
    except InputError as error:
        raise InputError(
            f"{interrupted.reason}, and the Hub cannot be asked whether the commit was made. Run the same command "
            "again later: it makes no second one"
        ) from error
    if done is None:
        raise interrupted
    return f"{interrupted.reason}, but the commit was made: {done}"


class _Interrupted(InputError):
    """The connection broke, or the Hub failed: perhaps after it did what was asked."""

    def __init__(self, reason: str, state: str):
        super().__init__(f"{reason}. {state}. Run the same command again: what has arrived is not sent twice")
        self.reason = reason


@contextmanager
def _explained(repo_id: str, state: str = "No commit was made") -> Iterator[None]:
    """Turns what huggingface_hub raises into an InputError that says what to do, and how it stands on the Hub."""
    from huggingface_hub.errors import HfHubHTTPError, HTTPError, OfflineModeIsEnabled

    try:
        yield
    except InputError:
        raise
    except OfflineModeIsEnabled as error:
        raise InputError("offline mode is on: unset HF_HUB_OFFLINE to push") from error
    except (HTTPError, OSError, RuntimeError, ValueError) as error:
        cause = error.__cause__ if type(error) is RuntimeError and error.__cause__ else error  # of an upload
        if isinstance(cause, HfHubHTTPError):
            status, said = cause.response.status_code, " ".join((cause.server_message or str(cause)).split())
            if status >= 500:
                raise _Interrupted(f"the Hub is in trouble ({status}: {said})", state) from error
            raise InputError(f"{_remedy(status, repo_id)} (the Hub says {status}: {said}). {state}") from error
        if isinstance(cause, HTTPError | OSError):
            raise _Interrupted(f"the connection to the Hub broke ({type(cause).__name__}: {cause})", state) from error
        raise InputError(f"the Hub does not take it: {error}. {state}") from error


def _remedy(status: int, repo_id: str) -> str:
    match status:
        case 401:
            return "the Hub does not accept this token: `hf auth login` with another, or set HF_TOKEN"
        case 403:
            return (
                f"this token may not write to {repo_id}: make one with write access to it, choose another name, or "
                "propose it with --create_pr"
            )
        case 404:
            return f"{repo_id} is not there any more: look at it on the Hub"
        case 409:
            return f"the name {repo_id} is taken: choose another"
        case 412:
            return f"somebody else has just committed to {repo_id}: look at it on the Hub, then run this again"
        case 429:
            return "too many requests: wait some minutes, then run the same command again"
    return "the Hub does not take it"
