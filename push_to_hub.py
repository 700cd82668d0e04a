"""Publish a run folder as a model repository on the Hugging Face Hub, in one commit.

python push_to_hub.py runs/quickstart you/your-model --dry_run
python push_to_hub.py runs/quickstart you/your-model --private

What goes is on a list; checkpoints, optimiser state, logs and images are not on it. Before anything is sent, the files
are loaded as their users will load them, in a new process without ham_hf, and must answer as the run's model does.
"""

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, NamedTuple

from ham_hf import __version__
from ham_hf.cli import run_command
from ham_hf.errors import InputError

if TYPE_CHECKING:  # half a second to import, and a misspelt folder should not
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

# What is published; nothing else of the run folder is
PUBLISHED = (
    "README.md",
    "config.json",
    "model.safetensors",
    "model-*-of-*.safetensors",
    "model.safetensors.index.json",
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "*_mmbt.py",
    "report.json",
    "report.md",
    "plots/*.png",
    "predictions_validation.csv",
    "predictions_test.csv",
    "ablation/*.csv",
    "recipe.yaml",
    "arguments.json",
    "run.json",
)
PATIENT_DATA = ("patients_validation.csv", "patients_test.csv")  # age, sex, body site: with --with_patient_data
# Where paths of this machine and tokens could stand
TEXTS = ("README.md", "report.md", "report.json", "run.json", "arguments.json", "recipe.yaml", "config.json")
TOKEN = r"\bhf_[A-Za-z0-9]{20,}"

TOLERANCE = 1e-5  # between the probabilities of a user's pipeline and ours

AS_A_USER = """
import json, sys
sys.modules["ham_hf"] = None  # as on a machine that has never heard of it
from transformers import pipeline
folder, photo, trust = sys.argv[1:]
classify = pipeline("image-classification", model=folder, trust_remote_code=trust == "yes", device="cpu")
answers = classify(photo, top_k=classify.model.config.num_labels)
print(json.dumps({answer["label"]: answer["score"] for answer in answers}))
"""


def main(argv: list[str] | None = None) -> None:
    """Publish what the command line names.

    Raises:
        InputError: the run folder, the Hub or the rights on it do not allow it; no commit was made.
    """
    args = _parser().parse_args(argv)
    _check_repo_id(args.repo_id)
    _check_run(args.run)
    with tempfile.TemporaryDirectory(prefix="ham_hf-push-") as temporary:
        staged = Path(temporary) / "staged"
        for line in stage(args.run, staged, repo_id=args.repo_id, with_patient_data=args.with_patient_data):
            print(line)
        if args.dry_run:
            print(_listing(staged), (staged / "README.md").read_text(encoding="utf-8"), sep="\n")
            print(f"Nothing was sent. Without --dry_run, this goes to {args.repo_id}.")
        else:
            publish(args, staged)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="push_to_hub.py",
        description=__doc__.splitlines()[0],
        allow_abbrev=False,
        epilog="--debug shows tracebacks.",
    )
    parser.add_argument("run", metavar="RUN", type=Path, help="a run folder of `ham-hf train`")
    parser.add_argument("repo_id", metavar="REPO_ID", help="owner/name; made where it is not there yet")
    parser.add_argument("--private", action="store_true", help="make the new repository private")
    parser.add_argument("--dry_run", action="store_true", help="show the files and the card, and send nothing")
    parser.add_argument(
        "--create_pr", action="store_true", help="propose it as a pull request, in a repository that is there"
    )
    parser.add_argument("--revision", metavar="BRANCH", help="a branch that is there; main when left out")
    parser.add_argument("--token", help="of the Hub; HF_TOKEN or that of `hf auth login` when left out")
    parser.add_argument(
        "--with_patient_data", action="store_true", help="publish patients_*.csv (age, sex, body site) as well"
    )
    return parser


def _check_repo_id(repo_id: str) -> None:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise InputError(f"REPO_ID is {repo_id!r}: expected owner/name. {error}") from None
    if "/" not in repo_id:
        raise InputError(f"REPO_ID is {repo_id!r}: expected owner/name, such as you/{repo_id}")


# The files


def _check_run(run: Path) -> None:
    from ham_hf.predict import find_classifier

    if not run.is_dir():
        raise InputError(f"{run} is no folder: expected a run folder of `ham-hf train`")
    find_classifier(str(run))
    for name in ("run.json", "predictions_validation.csv"):
        if not (run / name).is_file():
            raise InputError(f"{run} has no {name}: expected the run folder of a finished `ham-hf train`")
    for name, what in (("report.json", "report.json"), ("README.md", "card (README.md)")):
        if not (run / name).is_file():
            raise InputError(f"{run} has no {what}: `ham-hf report {run}` writes it")


def stage(run: Path, folder: Path, *, repo_id: str, with_patient_data: bool = False) -> list[str]:
    """Copy what is published of `run` into the new `folder`; returns what a user should know about the copies.

    Paths of this machine are replaced by their last part, and tokens of the Hub by <HUB_TOKEN>; the card's commands
    name the repository.
    """
    from ham_hf.card import REPO_ID
    from ham_hf.predict import is_trained_on_synthetic_images

    for pattern in PUBLISHED + (PATIENT_DATA if with_patient_data else ()):
        for path in sorted(run.glob(pattern)):
            copy = folder / path.relative_to(run)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
    card = folder / "README.md"
    card.write_text(card.read_text(encoding="utf-8").replace(REPO_ID, repo_id), encoding="utf-8")
    notes = _hide_paths(folder)
    if is_trained_on_synthetic_images(str(run)):
        notes.append("this model was trained on synthetic images: it has never seen a lesion")
    return notes


def _hide_paths(folder: Path) -> list[str]:
    """Take this machine's paths and tokens out of the texts in `folder`; returns what was replaced, and where."""
    texts = {name: (folder / name).read_text(encoding="utf-8") for name in TEXTS if (folder / name).is_file()}
    replacements = [(TOKEN, "<HUB_TOKEN>", "a token of the Hub → <HUB_TOKEN>")]
    for path in sorted(_paths_of_this_machine(texts), key=len, reverse=True):
        name = re.split(r"[/\\]", path)[-1]
        for spelt in {path, json.dumps(path)[1:-1]}:  # the second differs beyond ASCII
            start, end = map(_loose, re.fullmatch(r"(.*[/\\])(.+)", spelt).groups())
            replacements.append((rf"(?<![\w./~-]){start}({end})(?![\w-]|\.\w)", r"\1", f"{path} → {name}"))
    if len(Path.home().parts) > 1:
        replacements.append((rf"(?<![\w./~-]){_loose(str(Path.home()))}(?=\\?[/\\])", "~", f"{Path.home()} → ~"))
    notes = {}
    for name, text in texts.items():
        for pattern, replacement, note in replacements:
            text, count = re.subn(pattern, replacement, text)
            if count:
                notes.setdefault(note, []).append(name)
        if text != texts[name]:
            (folder / name).write_text(text, encoding="utf-8")
    return [f"replaced in the published copies: {note} ({', '.join(names)})" for note, names in notes.items()]


def _paths_of_this_machine(texts: dict[str, str]) -> set[str]:
    """The absolute paths among the values of run.json, arguments.json and recipe.yaml, also as --flag=/path."""
    import yaml

    found = set()
    for name in {"run.json", "arguments.json", "recipe.yaml"} & texts.keys():
        try:
            values = yaml.safe_load(texts[name]) if name == "recipe.yaml" else json.loads(texts[name])
        except (yaml.YAMLError, ValueError) as error:
            raise InputError(
                f"{name} is not readable: {error}; put back the file that `ham-hf train` wrote"
            ) from error
        for value in _strings(values):
            path = re.sub(r"^--\w+=", "", value).rstrip("/\\")
            if path.startswith(("/", "~/")) or PureWindowsPath(path).is_absolute():
                found.add(path)
    return found


def _strings(value) -> Iterator[str]:
    match value:
        case str():
            yield value
        case dict():
            for item in value.values():
                yield from _strings(item)
        case list():
            for item in value:
                yield from _strings(item)


def _loose(text: str) -> str:
    r"""A pattern for `text` as JSON and Markdown spell it: with a backslash before any character, or without."""
    return "".join(rf"\\?{re.escape(character)}" for character in text)


def _files(folder: Path) -> dict[str, Path]:
    return {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}


def _listing(staged: Path) -> str:
    sizes = {name: path.stat().st_size for name, path in _files(staged).items()}
    lines = [f"{size:>15,}  {name}" for name, size in sizes.items()]
    return "\n".join([*lines, f"{sum(sizes.values()):>15,}  bytes in {len(sizes)} files", "", "README.md:", ""])


# Does it load?


def check_that_it_loads(run: Path, staged: Path) -> None:
    """Load the staged files as a user of the Hub does, and compare with ours on one synthetic image.

    Raises:
        InputError: they do not load, or answer otherwise than the run's model.
    """
    import numpy as np
    from PIL import Image

    from ham_hf.data.synthetic import LOOKS, draw_image
    from ham_hf.predict import labels_of, load_classifier, probabilities

    photo = staged.parent / "photo.png"
    draw_image(LOOKS["nv"], np.random.default_rng(0), np.random.default_rng(1)).save(photo)
    published = _answers_to_a_user(staged, photo)
    model, processor = load_classifier(str(run))
    [row] = probabilities(model.cpu(), processor, [Image.open(photo)])
    expected = dict(zip(labels_of(model), row.tolist(), strict=True))
    if published.keys() != expected.keys():
        raise InputError(
            f"the files to publish answer {', '.join(published)}, where {run} answers {', '.join(expected)}. "
            "Nothing was sent"
        )
    differences = [abs(published[label] - expected[label]) for label in expected]
    if not all(difference <= TOLERANCE for difference in differences):  # false for NaN as well
        raise InputError(
            f"the files to publish answer otherwise than {run}: probabilities of a synthetic image differ by up to "
            f"{max(differences):.2g}, expected {TOLERANCE:g} at most. Nothing was sent"
        )


def _answers_to_a_user(staged: Path, photo: Path) -> dict[str, float]:
    """Label → probability, from a new process that has the staged folder, transformers and no network."""
    has_code = "auto_map" in json.loads((staged / "config.json").read_text(encoding="utf-8"))
    done = subprocess.run(
        [sys.executable, "-c", AS_A_USER, str(staged), str(photo), "yes" if has_code else "no"],
        cwd=staged.parent,
        env=os.environ | {"HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(staged.parent / "modules")},
        capture_output=True,
        text=True,
    )
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise InputError(f"the files to publish do not load as their users load them: {last}. Nothing was sent")
    return json.loads(done.stdout.splitlines()[-1])


# The Hub


class Remote(NamedTuple):
    """A repository at a revision: its commit, and for each file the SHA-256 (LFS) or git's blob id."""

    commit: str
    private: bool
    files: dict[str, str]


def publish(args: argparse.Namespace, staged: Path) -> None:
    """Bring the repository to what is staged: no commit where it is that already, one otherwise.

    Raises:
        InputError: with what to do, and how it stands on the Hub.
    """
    from huggingface_hub import HfApi, get_token

    if not (args.token or get_token()):
        raise InputError(
            "no token for the Hub: run `hf auth login`, or set HF_TOKEN; make one with write access at "
            "https://huggingface.co/settings/tokens"
        )
    api = HfApi(token=args.token, library_name="ham_hf", library_version=__version__)
    with _explained(args.repo_id):
        remote = look(api, args.repo_id, args.revision)
        user = api.whoami()
        _check_rights(args, remote, user)
        done = _already_there(api, args, staged, remote)
    if done is None:
        print("checking that the files load as their users will load them …")
        check_that_it_loads(args.run, staged)
        done = send(api, args, staged, remote)
    print(done)


def look(api: "HfApi", repo_id: str, revision: str | None) -> Remote | None:
    """The repository as it is now; None where there is none that we may see."""
    from huggingface_hub import RepoFile
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    from ham_hf.hub import TIMEOUT

    try:
        info = api.repo_info(repo_id, revision=revision, timeout=TIMEOUT)
        entries = list(api.list_repo_tree(repo_id, recursive=True, revision=info.sha))
    except GatedRepoError:
        raise
    except RepositoryNotFoundError:
        return None
    except RevisionNotFoundError:
        raise InputError(
            f"{repo_id} has no branch {revision!r}: `hf repos branch create {repo_id} {revision}` makes it"
        ) from None
    files = [entry for entry in entries if isinstance(entry, RepoFile)]
    return Remote(info.sha, info.private, {file.path: file.lfs.sha256 if file.lfs else file.blob_id for file in files})


def _check_rights(args: argparse.Namespace, remote: Remote | None, user: dict) -> None:
    """Raises InputError for what the Hub would refuse, or what nobody wants, before the work is done."""
    repo_id, owner = args.repo_id, args.repo_id.split("/")[0]
    role = user.get("auth", {}).get("accessToken", {}).get("role")  # of others than these two the Hub is the judge
    writable = [user["name"], *(org["name"] for org in user.get("orgs", []) if org.get("roleInOrg") != "read")]
    if role == "read":
        raise InputError(
            f"this token of {user['name']}'s may only read: make one with write access at "
            "https://huggingface.co/settings/tokens, then `hf auth login`"
        )
    if remote is None and (args.create_pr or args.revision):
        flag = "--create_pr" if args.create_pr else "--revision"
        raise InputError(f"there is no repository {repo_id} that this token may see: to make it, leave {flag} out")
    if args.create_pr:
        return
    if role == "write" and owner not in writable:
        raise InputError(
            f"{user['name']} may not write to {owner}'s repositories: expected {' or '.join(writable)} as the owner"
            + (", or --create_pr to propose it" if remote else "")
        )
    if remote and args.private and not remote.private:
        raise InputError(
            f"{repo_id} is there and public, and so would be what is pushed: make it private in its settings on the "
            "Hub, or choose another name"
        )
    if remote and "config.json" in remote.files and "run.json" not in remote.files:
        raise InputError(
            f"the name {repo_id} is taken, by a model that was not published from here: choose another name, or "
            "--create_pr to propose this one in its place"
        )


def _already_there(api: "HfApi", args: argparse.Namespace, staged: Path, remote: Remote | None) -> str | None:
    """What to say where the branch, or a pull request that is open, holds just these files."""
    if remote is None:
        return None
    if not changes(staged, remote):
        return f"{args.repo_id} holds just these files, at commit {remote.commit}: nothing to send"
    if args.create_pr:
        filters = {"discussion_type": "pull_request", "discussion_status": "open"}
        for pull in api.get_repo_discussions(args.repo_id, **filters):
            proposed = look(api, args.repo_id, pull.git_reference)
            if proposed and not changes(staged, proposed):
                return f"proposed already: {pull.url}"
    return None


def changes(staged: Path, remote: Remote | None) -> "list[CommitOperationAdd | CommitOperationDelete]":
    """What makes the remote what is staged: files that are new or others, and none left over from an earlier push."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    files, there = _files(staged), remote.files if remote else {}
    changed = [name for name, path in files.items() if there.get(name) not in _identities(path)]
    left_over = [name for name in there if name not in files and _is_published(name)]
    return [
        *(CommitOperationAdd(name, files[name]) for name in changed),
        *(CommitOperationDelete(name) for name in left_over),
    ]


def _is_published(name: str) -> bool:
    return any(PurePosixPath("/", name).match(f"/{pattern}") for pattern in PUBLISHED + PATIENT_DATA)


def _identities(path: Path) -> tuple[str, str]:
    """What the Hub calls a file with this content: its SHA-256 in LFS, git's blob id otherwise."""
    sha256, blob = hashlib.sha256(), hashlib.sha1(b"blob %d\0" % path.stat().st_size)
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            sha256.update(chunk)
            blob.update(chunk)
    return sha256.hexdigest(), blob.hexdigest()


def send(api: "HfApi", args: argparse.Namespace, staged: Path, remote: Remote | None) -> str:
    """Upload and commit; returns what to say.

    Raises:
        InputError: with what to do, and how it stands on the Hub.
    """
    from huggingface_hub import CommitOperationAdd

    operations = changes(staged, remote)
    where = {"repo_id": args.repo_id, "revision": args.revision, "create_pr": args.create_pr}
    state = "No commit was made"
    with _explained(args.repo_id, state):
        if remote is None:
            api.create_repo(args.repo_id, private=args.private or None)
            state += f"; the new repository {args.repo_id} is empty"
    additions = [operation for operation in operations if isinstance(operation, CommitOperationAdd)]
    left_over = len(operations) - len(additions)
    print(f"sending {len(additions)} files to {args.repo_id}" + (f", removing {left_over} …" if left_over else " …"))
    with _explained(args.repo_id, state):
        api.preupload_lfs_files(additions=additions, free_memory=False, **where)
    try:
        with _explained(args.repo_id, state):
            commit = api.create_commit(
                operations=operations,
                commit_message=f"Publish a run of ham_hf {__version__}",
                parent_commit=remote.commit if remote else None,  # refused where somebody else was quicker
                **where,
            )
    except _Interrupted as interrupted:
        return _was_committed(api, args, staged, interrupted)
    return f"proposed: {commit.pr_url}" if args.create_pr else f"published: {commit.commit_url}"


def _was_committed(api: "HfApi", args: argparse.Namespace, staged: Path, interrupted: "_Interrupted") -> str:
    """What to say where the commit was made, and only its answer was lost."""
    try:
        with _explained(args.repo_id):
            done = _already_there(api, args, staged, look(api, args.repo_id, args.revision))
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


if __name__ == "__main__":
    raise SystemExit(run_command(main))
