"""`ham-hf completion`: bash itself completes commands, flags and files."""

import shlex
import shutil
import subprocess

import pytest

from ham_hf.cli.completion import completion_script
from ham_hf.cli.main import main
from ham_hf.config.recipe import recipe_parser
from tests.cli.test_main import ROOT

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    path = tmp_path_factory.mktemp("bash") / "ham-hf"
    path.write_text(completion_script("bash"), encoding="utf-8")
    return path


def complete(script, line: str) -> list[str]:
    """What bash offers for the last word of `line`, as at the press of TAB."""
    words = [*shlex.split(line), *([""] if line.endswith(" ") else [])]
    code = (
        f"source {shlex.quote(str(script))}; COMP_WORDS=({shlex.join(words)}); COMP_CWORD={len(words) - 1}; "
        'command=$(complete -p ham-hf); command=${command% *}; ${command##* }; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(["bash", "--norc", "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return sorted(done.stdout.split())


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("ham-hf do", ["doctor"]),
        ("ham-hf data pre", ["preview"]),
        ("ham-hf train recipes/q", ["recipes/quickstart.yaml"]),
        ("ham-hf train recipes/quickstart.yaml --layer", ["--layer_decay"]),
        ("ham-hf train recipes/quickstart.yaml --calibration temp", ["temperature", "temperature_and_prior"]),
        ("ham-hf train recipes/quickstart.yaml --crop_scale 0.5 1 --data_dir test", ["tests"]),
        ("ham-hf cross-validate recipes/quickstart.yaml --fold", ["--folds"]),
        ("ham-hf sweep recipes/quickstart.yaml recipes/sweeps/g", ["recipes/sweeps/greedy.yaml"]),
        ("ham-hf sweep recipes/quickstart.yaml recipes/sweeps/greedy.yaml --output", ["--output_dir"]),
        ("ham-hf data preview recipes/q", ["recipes/quickstart.yaml"]),
        ("ham-hf data preview recipes/quickstart.yaml --output", ["--output", "--output_dir"]),
        ("ham-hf predict tests README", ["README.md"]),
        ("ham-hf predict tests README.md --sex ", ["female", "male", "unknown"]),
        ("ham-hf compare tests --with recipes/README", ["recipes/README.md"]),
        ("ham-hf completion ", ["bash", "fish", "zsh"]),
    ],
)
def test_bash_completes(line, offered, script):
    assert complete(script, line) == offered


def test_every_flag_of_a_recipe_is_offered_once(script):
    flags = {option for option in recipe_parser()._option_string_actions if "-" not in option.lstrip("-")}
    offered = complete(script, "ham-hf train recipes/quickstart.yaml -")
    assert set(offered) == flags and len(offered) == len(flags) > 100


@pytest.mark.parametrize(("shell", "start"), [("zsh", "#compdef ham-hf"), ("fish", "complete -c ham-hf")])
def test_other_shells_have_a_script_too(shell, start, capsys):
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert start in script and "layer_decay" in script and "cross-validate" in script


def test_an_unknown_shell_is_refused(capsys):
    assert main(["completion", "cmd"]) == 2
    assert "choose from" in capsys.readouterr().err
