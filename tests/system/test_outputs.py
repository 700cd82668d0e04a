"""Where output goes: a device or a pipe is written to or refused, and never replaced by a file."""

import csv
import io
import os
import socket
import stat
import threading
from pathlib import Path

import pytest
from PIL import Image

from ham_hf.cli.main import main
from ham_hf.labels import LABELS
from ham_hf.system.errors import InputError
from ham_hf.system.files import descriptor_of, new_folder, replace_file, special_kind
from ham_hf.system.outputs import check_table, writing_table
from tests.helpers.tiny_checkpoints import save_classifier

HEADER = ["file", "prediction", *LABELS]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("outputs")
    save_classifier(folder / "model", LABELS)
    Image.new("RGB", (40, 30)).save(folder / "photo.png")
    return folder


@pytest.fixture
def special(tmp_path):
    """Make what is no regular file, under a name."""
    held = []

    def make(kind: str, name: str) -> Path:
        path = tmp_path / name
        match kind:
            case "pipe":
                os.mkfifo(path)
            case "socket":
                held.append(socket.socket(socket.AF_UNIX))
                held[-1].bind(str(path))
            case "folder":
                path.mkdir()
            case "null device":  # a copy: should the code be wrong, the machine's own stays as it is
                try:
                    os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
                    path.open("w").close()
                except PermissionError:
                    pytest.skip("devices cannot be made here")
            case "link to a pipe":
                os.mkfifo(tmp_path / "pipe")
                path.symlink_to("pipe")
        return path

    yield make
    for one in held:
        one.close()


def predict(folder: Path, target: object) -> int:
    return main(["predict", str(folder / "model"), str(folder / "photo.png"), "--csv", str(target)])


def rows(text: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(text)))


@pytest.mark.parametrize("kind", ["pipe", "link to a pipe"])
def test_predictions_are_written_to_a_pipe(folder, special, kind):
    pipe = special(kind, "out.csv")
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()))
    reader.start()
    assert predict(folder, pipe) == 0
    reader.join(60)
    header, row = rows(read[0])
    assert header == HEADER and row[0] == str(folder / "photo.png")
    assert stat.S_ISFIFO(pipe.stat().st_mode) and pipe.is_symlink() == (kind == "link to a pipe")


def test_predictions_are_written_to_a_device(folder, special):
    device = special("null device", "null")
    assert predict(folder, device) == 0
    assert stat.S_ISCHR(device.stat().st_mode) and os.stat(device).st_rdev == os.makedev(1, 3)


@pytest.mark.parametrize("name", ["-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"])
def test_a_table_on_standard_output_is_alone_there(folder, name, capfd):
    assert predict(folder, name) == 0
    printed = capfd.readouterr()
    header, row = rows(printed.out)
    assert header == HEADER and row[0] == str(folder / "photo.png")
    assert "Melanoma" in printed.err and "no diagnosis" in printed.err


def test_a_table_goes_to_an_open_file_where_that_one_stands(tmp_path):
    with (tmp_path / "all.txt").open("w+") as file:
        file.write("before\n")
        file.flush()
        with writing_table(Path(f"/dev/fd/{file.fileno()}")) as table:
            table.write("a,b\n")
        file.write("after\n")
    assert (tmp_path / "all.txt").read_text() == "before\na,b\nafter\n"


def test_descriptors_that_cannot_be_written_are_refused(tmp_path):
    (tmp_path / "read.txt").touch()
    with (tmp_path / "read.txt").open() as file, pytest.raises(InputError, match="nothing can be written to it"):
        check_table("--csv", Path(f"/dev/fd/{file.fileno()}"))
    with pytest.raises(InputError, match="--csv /dev/fd/987: nothing can be written to it"):
        check_table("--csv", Path("/dev/fd/987"))


@pytest.mark.parametrize("kind", ["socket", "folder"])
def test_predictions_into_what_takes_no_table_are_refused(folder, special, kind, capsys):
    path = special(kind, "out.csv")
    assert predict(folder, path) == 2
    assert f"--csv {path} is a {kind}: expected the name of a file" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["pipe", "null device", "socket", "folder", "link to a pipe"])
@pytest.mark.parametrize(
    "words",
    [
        ["compare", "{model}", "--with", "{model}", "--picture", "{x}.png"],
        ["export", "onnx", "{model}", "--output", "{x}.onnx"],
        ["verify", "{model}", "--data_dir", "{model}", "--write", "{x}.md"],
        ["evaluate", "{model}", "--data_dir", "synthetic", "--output_dir", "{x}"],
        ["ensemble", "{model}", "{model}", "--data_dir", "synthetic", "--output_dir", "{x}"],
        ["explain", "{model}", "--data_dir", "synthetic", "--output_dir", "{x}"],
    ],
    ids=lambda words: words[0],
)
def test_no_other_output_replaces_what_is_no_file(folder, special, kind, words, capsys):
    name = words[-1].replace("{x}", "x")
    path = special(kind, name)
    if kind == "folder" and words[-2] == "--output_dir":
        (path / "mine").touch()
    before = path.lstat()
    asked = [word.format(model=folder / "model", x=path.with_suffix("")) for word in words]
    assert main(asked) == 2
    error = capsys.readouterr().err
    assert str(path) in error and error.count("\n") == 1
    assert (path.lstat().st_mode, path.lstat().st_ino) == (before.st_mode, before.st_ino)


@pytest.mark.parametrize("kind", ["pipe", "null device", "socket", "folder", "link to a pipe"])
def test_nothing_that_is_no_file_is_replaced_whoever_writes(special, kind):
    path = special(kind, "report.json")
    with pytest.raises(InputError, match="expected the name of a regular file"):
        replace_file(path, "x")
    assert special_kind(path) is not None and not list(path.parent.glob(".*"))
    if kind != "folder":
        with pytest.raises(InputError, match="choose another folder"), new_folder(path):
            pass


def test_only_names_of_open_files_are_taken_for_such(tmp_path):
    (tmp_path / "out").symlink_to("/dev/stdout")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "3").touch()
    assert [descriptor_of(path) for path in (tmp_path / "out", Path("/dev/stderr"))] == [1, 2]
    assert [descriptor_of(tmp_path / name) for name in ("loop", "3", "gone", "3/x")] == [None] * 4
