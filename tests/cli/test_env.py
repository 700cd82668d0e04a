"""`ham-hf env` and `ham-hf recipes`."""

from ham_hf import __version__
from ham_hf.cli.main import main
from ham_hf.config.recipe_file import shipped_recipes
from tests.test_recipes import RECIPES


def test_env_prints_versions_hardware_and_paths_but_no_token(monkeypatch, capsys):
    monkeypatch.setenv("HF_TOKEN", "hf_secretsecretsecretsecret")
    assert main(["env"]) == 0
    shown = capsys.readouterr().out
    for name in (
        "ham_hf",
        "Python",
        "torch",
        "transformers",
        "CPU",
        "memory",
        "GPU",
        "models cache",
        "HF_HUB_OFFLINE",
    ):
        assert f"\n- {name}: " in shown
    assert f"- ham_hf: {__version__} (clone in " in shown
    assert "with a token" in shown and "secret" not in shown


def test_recipes_lists_every_recipe_with_one_line(capsys):
    assert main(["recipes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(shipped_recipes())
    assert sorted(shipped_recipes().values()) == RECIPES
    assert all(len(line.split()) > 2 and line.isprintable() for line in lines)
    assert [line for line in lines if line.startswith("study/b7_vit_base ")][0].endswith(
        "B7: ViT-B/16, batches of 64: the study's chosen vision transformer"
    )
