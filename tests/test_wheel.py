"""The wheel is enough: installed without a clone, `ham-hf` finds the recipes that come with it. Needs no network."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from ham_hf import __version__
from ham_hf.config.recipe_file import shipped_recipes

ROOT = Path(__file__).parent.parent
RECIPES = Path("ham_hf", "recipes", "__init__.py")  # the folder recipes/ takes its place


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The scripts folder of a virtual environment with the wheel, and with the packages of this one."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    for name in ("ham_hf", "recipes"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", folder, source], check=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
    scripts = Path(sysconfig.get_path("scripts", "venv", {"base": str(folder / "venv")}))
    packages = Path(sysconfig.get_path("purelib", "venv", {"base": str(folder / "venv")}))
    (packages / "packages_of_this_environment.pth").write_text(sysconfig.get_path("purelib") + "\n")
    [wheel] = folder.glob("*.whl")
    python = scripts / "python"
    subprocess.run([*pip, "--python", python, "install", "--no-deps", "--no-index", wheel], check=True)
    return scripts


@pytest.fixture
def run(installed, tmp_path):
    """A function that runs a program of the environment, and returns its exit code and what it printed."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def run(program: str, *words: str) -> tuple[int, str]:
        done = subprocess.run(
            [installed / program, *words],
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        return done.returncode, done.stdout

    return run


def test_every_module_is_installed(installed):
    packages = Path(sysconfig.get_path("purelib", "venv", {"base": str(installed.parent)}))
    modules = {path.relative_to(packages) for path in (packages / "ham_hf").rglob("*.py")}
    assert modules == {path.relative_to(ROOT) for path in (ROOT / "ham_hf").rglob("*.py")} - {RECIPES}


def test_the_command_has_the_version_of_the_package(run):
    assert run("ham-hf", "--version") == (0, f"ham-hf {__version__}\n")


def test_the_recipes_are_installed_with_the_package(run):
    code, printed = run("ham-hf", "recipes")
    assert code == 0 and [line.split()[0] for line in printed.splitlines()] == list(shipped_recipes())


@pytest.mark.parametrize("name", ["quickstart", "study/a08_resnet50", "recipes/quickstart.yaml"])
def test_train_finds_a_recipe_by_name(name, run):
    code, printed = run("ham-hf", "train", name, "--lerning_rate", "1")
    assert (code, printed) == (2, "error: unknown argument '--lerning_rate': did you mean 'learning_rate'?\n")
    assert "did you mean 'quickstart'?" in run("ham-hf", "train", "quikstart")[1]


def test_push_and_the_templates_are_there(run):
    assert run("ham-hf", "push", "absent", "ada/model")[1].startswith("error: absent is not a folder")
    code = "from importlib import resources; print(resources.files('ham_hf') / 'reporting/templates/report.css')"
    path = Path(run("python", "-c", code)[1].strip())
    assert path.is_file() and not path.is_relative_to(ROOT)


def test_an_extra_is_installed_from_where_the_wheel_came_from(run):
    code = "from ham_hf.system.installation import install_command; print(install_command('demo'))"
    assert run("python", "-c", code)[1].startswith('pip install "ham-hf[demo] @ file://')
