"""Permissions of files, what cannot be written, and a stderr that is no terminal."""

import errno
import os
import sys
from pathlib import Path

import pytest
from safetensors.numpy import save_file

from ham_hf.models import safe_loading
from ham_hf.system.errors import InputError, as_input_error
from ham_hf.system.files import apply_umask
from ham_hf.system.installation import install_command, require
from ham_hf.system.terminal import keep_stderr_readable


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such permissions")
@pytest.mark.parametrize(("umask", "expected"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_weights_get_the_permissions_of_any_new_file(umask, expected, tmp_path):
    before = os.umask(umask)
    try:
        save_file({}, tmp_path / "model.safetensors")
        apply_umask(tmp_path)
    finally:
        os.umask(before)
    assert (tmp_path / "model.safetensors").stat().st_mode & 0o777 == expected


def test_weights_that_cannot_be_read_are_not_called_damaged(tmp_path, monkeypatch):
    save_file({}, tmp_path / "model.safetensors")
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(InputError, match="permission denied to read model.safetensors: ask its owner"):
        safe_loading._check_names("a run", tmp_path / "model.safetensors")


def test_a_cache_that_cannot_be_written_names_hf_home(tmp_path, monkeypatch):
    monkeypatch.delenv("HF_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for path in (tmp_path / "home", tmp_path / "home" / ".cache" / "huggingface" / "datasets"):
        said = str(as_input_error(PermissionError(errno.EACCES, "Permission denied", str(path))))
        assert said.startswith(f"{path}: Permission denied. Set HF_HOME to a folder that you can write to")
    absent = as_input_error(FileNotFoundError(errno.ENOENT, "No such file or directory", str(tmp_path / "home")))
    assert "Set HF_HOME to a folder" in str(absent)
    elsewhere = PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "data"))
    assert str(as_input_error(elsewhere)) == f"{tmp_path / 'data'}: Permission denied"


@pytest.mark.parametrize("is_terminal", [True, False])
def test_there_are_no_bars_where_stderr_is_not_a_terminal(is_terminal, monkeypatch):
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: is_terminal)
    keep_stderr_readable()
    assert ("TQDM_DISABLE" in os.environ) is not is_terminal
    os.environ.pop("TQDM_DISABLE", None)


def test_an_optional_package_that_is_missing_is_named_with_the_command_for_a_clone(monkeypatch):
    require("packaging", "demo", "anything")
    monkeypatch.chdir(Path(__file__).parents[2])
    with pytest.raises(
        InputError, match=r'^ham-hf x requires no-such, which is not installed: pip install -e "\.\[x\]"'
    ):
        require("no-such", "x", "ham-hf x")
    monkeypatch.chdir("/")
    assert install_command("x").startswith("cd ")
