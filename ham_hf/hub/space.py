"""Publish a Space around a published model: the page of `ham-hf demo`, with the package that serves it.

ham-hf push runs/my_run you/your-space --space --model you/your-model

ham_hf is not on PyPI, so a Space contains a copy of the package, as it is on this machine.
"""

import platform
import shutil
import tempfile
from importlib import metadata
from pathlib import Path

from ham_hf import __version__
from ham_hf.hub.upload import Repository, Target, check_is_published, check_repo_id, listing, publish
from ham_hf.inference.predict import SYNTHETIC_ALONE
from ham_hf.labels import DISCLAIMER
from ham_hf.system.errors import InputError
from ham_hf.system.installation import DISTRIBUTION, install_command

PACKAGE = Path(__file__).parent.parent
PACKAGE_FILES = ("*.py", "py.typed", "*.jinja", "*.css", "*.js", "*.txt")
PUBLISHED = (
    "README.md",
    "LICENSE",
    "app.py",
    "requirements.txt",
    *(f"{folders}/{files}" for folders in ("ham_hf", "ham_hf/*", "ham_hf/*/*") for files in PACKAGE_FILES),
)

APP = '''"""The page of `ham-hf demo` for {model_id}. {disclaimer}"""

import os

from ham_hf.cli.main import main

# A Space sets the address. Anywhere else, only this machine can reach the page
host = os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1")
port = os.environ.get("GRADIO_SERVER_PORT", "7860")
raise SystemExit(main(["demo", "{model_id}", "--host", host, "--port", port]))
'''

PAGE = """# {title}

> **{disclaimer}**
{synthetic}
Upload a dermatoscopic photograph to see the probability of each diagnosis, predicted by
[{model_id}](https://huggingface.co/{model_id}). The model card says how good the model is, and on which images.
Nothing is stored: a photograph is deleted after ten minutes. It does leave your computer for the one that
runs this Space, so do not upload photographs of people without their consent.

`ham_hf/` is the package that serves the page, under the license next to it; the model has a license of its own.
"""


def push_space(run: Path, model_id: str, target: Target, *, dry_run: bool = False) -> None:
    """Publish a Space for a model that was published before.

    Args:
        run: the run folder that the model was published from.
        model_id: the model on the Hub.
        target: the repository of the Space.
        dry_run: print the files and the page, and upload nothing.

    Raises:
        InputError: the run, the model, the Hub or the rights on it do not allow it; no commit was made.
    """
    from ham_hf.hub.model_repo import check_run
    from ham_hf.inference.run_files import is_trained_on_synthetic_images

    check_repo_id(target.repo_id)
    check_repo_id(model_id, "--model")
    check_run(run)
    repository = Repository(
        "space",
        published=PUBLISHED,
        foreign=("app.py", "ham_hf/inference/demo.py"),
        message=f"The page of ham-hf demo {__version__} for {model_id}",
    )
    with tempfile.TemporaryDirectory(prefix="ham_hf-push-") as temporary:
        staged = Path(temporary)
        stage_space(staged, target.repo_id, model_id, synthetic=is_trained_on_synthetic_images(str(run)))
        if dry_run:
            print(listing(staged))
            print(f"Dry run: nothing was uploaded. Without --dry_run, this goes to the space {target.repo_id}.")
        else:
            weights = sorted(run.glob("model*.safetensors"))
            publish(staged, repository, target, lambda: check_is_published(model_id, weights, target.token))


def stage_space(folder: Path, repo_id: str, model_id: str, *, synthetic: bool) -> None:
    """Write the files of a Space into `folder`.

    Args:
        folder: an existing folder.
        repo_id: the Space.
        model_id: the model on the Hub that the page uses.
        synthetic: whether the model was trained on synthetic images.

    Raises:
        InputError: gradio or ham-hf is not installed; the Space uses the versions of this machine.
    """
    from huggingface_hub import SpaceCardData

    try:
        gradio = metadata.version("gradio")
        requirements = [f"gradio=={gradio}", *_requirements()]
    except metadata.PackageNotFoundError as error:
        raise InputError(
            f"a Space uses the versions of this machine, where {error.name} is not installed: "
            f"{install_command('demo')}"
        ) from error
    title = repo_id.split("/")[1]
    front = SpaceCardData(
        title=title,
        sdk="gradio",
        sdk_version=gradio,
        python_version=".".join(platform.python_version_tuple()[:2]),
        app_file="app.py",
        license="apache-2.0",
        models=[model_id],
        tags=["ham10000", "dermatology", "skin-lesion"],
    )
    page = PAGE.format(
        title=title,
        disclaimer=DISCLAIMER,
        synthetic=f">\n> **{SYNTHETIC_ALONE}**\n" if synthetic else "",
        model_id=model_id,
    )
    _copy_package(folder / PACKAGE.name)
    (folder / "LICENSE").write_text(_license(), encoding="utf-8")
    (folder / "README.md").write_text(f"---\n{front.to_yaml(line_break=chr(10))}\n---\n\n{page}", encoding="utf-8")
    (folder / "app.py").write_text(APP.format(model_id=model_id, disclaimer=DISCLAIMER), encoding="utf-8")
    (folder / "requirements.txt").write_text("".join(f"{line}\n" for line in requirements), encoding="utf-8")


def _copy_package(folder: Path) -> None:
    for pattern in PACKAGE_FILES:
        for path in PACKAGE.rglob(pattern):
            copy = folder / path.relative_to(PACKAGE)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)


def _license() -> str:
    """Return the license of the package, from a clone or an installed wheel."""
    in_clone = PACKAGE.parent / "LICENSE"
    if in_clone.is_file():
        return in_clone.read_text(encoding="utf-8")
    return metadata.distribution(DISTRIBUTION).read_text("licenses/LICENSE") or ""


def _requirements() -> list[str]:
    """Return the dependencies in pyproject.toml, with those of the extra for saliency."""
    parts = [line.partition(";") for line in metadata.requires(DISTRIBUTION) or []]
    return [requirement.strip() for requirement, _, marker in parts if marker.strip() in ("", 'extra == "explain"')]
