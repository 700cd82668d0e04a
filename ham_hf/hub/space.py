"""A Space of the Hub around a published model: the page of `ham-hf demo`, with the package that serves it.

python push_to_hub.py runs/my_run you/your-space --space --model you/your-model

ham_hf is not on PyPI, so a Space carries it as files, as it is on this machine.
"""

import platform
import shutil
from importlib import metadata
from pathlib import Path

from ham_hf.inference.predict import SYNTHETIC_ALONE
from ham_hf.labels import DISCLAIMER
from ham_hf.system.errors import InputError

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

from ham_hf.cli import main

# A Space says where to listen. Started anywhere else, the page is for that machine alone
host = os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1")
port = os.environ.get("GRADIO_SERVER_PORT", "7860")
raise SystemExit(main(["demo", "{model_id}", "--host", host, "--port", port]))
'''

PAGE = """# {title}

> **{disclaimer}**
{synthetic}
A dermatoscopic photograph in, the probability of each diagnosis out, by
[{model_id}](https://huggingface.co/{model_id}), whose card says how good it is and on which images. Nothing is stored:
a photograph is removed from the disk as soon as it has been read. It does leave the sender's machine, for the one that
runs this Space: send nobody's without their consent.

`ham_hf/` is the package that serves the page, under the licence beside it; the model has its own.
"""


def stage_space(folder: Path, repo_id: str, model_id: str, *, synthetic: bool) -> None:
    """Write the files of a Space into `folder`.

    Args:
        repo_id: the Space; `model_id` the model on the Hub that it asks.
        synthetic: whether the model was trained on made-up images.

    Raises:
        InputError: gradio or ham-hf is not installed, whose versions the Space is to have.
    """
    from huggingface_hub import SpaceCardData

    try:
        gradio = metadata.version("gradio")
        requirements = [f"gradio=={gradio}", *_requirements()]
    except metadata.PackageNotFoundError as error:
        raise InputError(
            f"a Space gets the versions of this machine, where {error.name} is not installed: pip install -e '.[demo]'"
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
    shutil.copyfile(PACKAGE.parent / "LICENSE", folder / "LICENSE")
    (folder / "README.md").write_text(f"---\n{front.to_yaml(line_break=chr(10))}\n---\n\n{page}", encoding="utf-8")
    (folder / "app.py").write_text(APP.format(model_id=model_id, disclaimer=DISCLAIMER), encoding="utf-8")
    (folder / "requirements.txt").write_text("".join(f"{line}\n" for line in requirements), encoding="utf-8")


def _copy_package(folder: Path) -> None:
    for pattern in PACKAGE_FILES:
        for path in PACKAGE.rglob(pattern):
            copy = folder / path.relative_to(PACKAGE)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)


def _requirements() -> list[str]:
    """What ham-hf needs, with saliency, as pyproject.toml says it."""
    parts = [line.partition(";") for line in metadata.requires("ham-hf")]
    return [requirement.strip() for requirement, _, marker in parts if marker.strip() in ("", 'extra == "explain"')]
