"""`ham-hf data download`, from a server on loopback that speaks Dataverse's API."""

import hashlib
import io
import logging
import pty
import signal
import socket
import subprocess
import sys
import time
import zipfile
from email.utils import formatdate
from pathlib import Path

import pytest

from ham_hf.cli.main import main
from ham_hf.data import download
from tests.helpers.dataverse_server import DataverseServer
from tests.helpers.small_data import COLUMNS, load, make_rows, write_folder, write_image, write_table

ROOT = Path(__file__).parents[2]
PART_1, PART_2 = "HAM10000_images_part_1.zip", "HAM10000_images_part_2.zip"
TRUTH, TEST_IMAGES = "ISIC2018_Task3_Test_GroundTruth", "ISIC2018_Task3_Test_Images.zip"
LISTING, FILE = "/api/datasets/", "/storage/"
NAMES = ["HAM10000_metadata.csv", PART_1, PART_2, f"ISIC2018_test/{TRUTH}.csv", f"ISIC2018_test/{TEST_IMAGES}"]


def zipped(paths: list[Path]) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for path in paths:
            archive.write(path, path.name)
    return data.getvalue()


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, bytes]:
    """A small HAM10000 and its test set, as Dataverse has them: zips, and tables that were uploaded as CSV."""
    folder = write_folder(tmp_path_factory.mktemp("uploaded"), make_rows())
    images = sorted((folder / "images").iterdir())
    rows = [row | {"image_id": f"ISIC_{35000 + i:07d}", "dataset": "vidir"} for i, row in enumerate(make_rows(14, 1))]
    nothing = dict.fromkeys([*COLUMNS, "dataset"], "") | {"image_id": "ISIC_0035068", "dx": "nv"}
    write_table(folder / "truth.csv", [nothing, *rows])
    for i, row in enumerate(rows):
        write_image(folder / f"{row['image_id']}.jpg", seed=1000 + i)
    return {
        "HAM10000_metadata.tab": (folder / "HAM10000_metadata.csv").read_bytes(),
        PART_1: zipped(images[:35]),
        PART_2: zipped(images[35:]),
        f"{TRUTH}.tab": (folder / "truth.csv").read_bytes(),
        TEST_IMAGES: zipped(sorted(folder.glob("ISIC_*.jpg"))),
        "HAM10000_segmentations_lesion_tschandl.zip": b"not needed",
        "ISIC2018_Task3_Test_NatureMedicine_AI_Interaction_Benefit.tab": b"not needed\n",
    }


@pytest.fixture
def server(files):
    with DataverseServer() as dataverse:
        for label, data in files.items():
            dataverse.add(label, data, data.replace(b",", b"\t") if label.endswith(".tab") else None)
        yield dataverse


@pytest.fixture
def waits(monkeypatch) -> list[float]:
    """The seconds that would have been waited for."""
    waits = []
    monkeypatch.setattr(download.time, "sleep", waits.append)
    return waits


def run(server: DataverseServer | str, folder: Path, *words: str) -> int:
    url = server if isinstance(server, str) else server.url
    return main(["data", "download", str(folder), "--server", url, *(words or ["--accept_license"])])


def fetch(server: DataverseServer, folder: Path) -> None:
    """Do what the command does, without the audit."""
    with download.connect() as client:
        download.download_files(client, download.read_listing(client, server.url), folder)


def number(server: DataverseServer, label: str) -> int:
    return server.entry(label)["dataFile"]["id"]


def found(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def refusal(server: DataverseServer, folder: Path, capsys) -> str:
    assert run(server, folder) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ") and error.isprintable()
    return error


def test_the_folder_and_its_test_set_are_ready_to_use(server, files, tmp_path, capsys):
    folder = tmp_path / "a folder" / "HAM10000"
    assert run(server, folder) == 0
    shown = capsys.readouterr().out
    assert "CC BY-NC 4.0" in shown and "by-nc/4.0 Not for [2J commercial purposes & cite\n" in shown
    assert "70 rows, 35 lesions" in shown and "14 rows, 14 lesions" in shown
    assert shown.count("No leaks found.") == 2 and "missing images: 0" in shown and "missing images: 1" not in shown
    assert f"--data_dir '{folder}'\n" in shown and f"--data_dir '{folder}/ISIC2018_test'\n" in shown
    assert found(folder) == sorted([".download.lock", *NAMES])
    assert (folder / NAMES[0]).read_bytes() == files["HAM10000_metadata.tab"]
    splits, facts = load(folder)
    assert facts["kind"] == "folder" and sum(map(len, splits.values())) == 70
    splits, _ = load(folder / "ISIC2018_test", split="all")
    assert len(splits["test"]) == 14 and "ISIC_0035068" not in splits["test"]["image_id"][:]
    needed = [number(server, label) for label in files if "not needed" not in files[label].decode("latin-1")]
    assert len(needed) == 5 and all(sum(sent for _, sent in server.loaded(n)) for n in needed)
    assert sum(asked.sent for asked in server.asked) == sum(map(len, list(files.values())[:5]))
    # Nobody is told who asks
    for asked in server.asked:
        assert asked.headers["User-Agent"].startswith("ham_hf/")
        assert not {"Authorization", "Cookie", "X-Dataverse-key", "Referer"} & asked.headers.keys()


def test_files_downloaded_by_a_browser_are_read_too(server, files, tmp_path):
    (tmp_path / TEST_IMAGES).write_bytes(files[TEST_IMAGES])
    (tmp_path / f"{TRUTH}.tab").write_bytes(server.tables[number(server, f"{TRUTH}.tab")])
    splits, _ = load(tmp_path, split="all")
    assert len(splits["test"]) == 14 and "ISIC_0035068" not in splits["test"]["image_id"][:]


def test_existing_files_are_not_downloaded_again(server, files, tmp_path):
    (tmp_path / PART_1).write_bytes(files[PART_1])
    fetch(server, tmp_path)
    assert server.loaded(number(server, PART_1)) == []
    before = len(server.file_requests())
    fetch(server, tmp_path)
    assert len(server.file_requests()) == before == 6  # two tables, and two zips with a redirect each


def test_a_different_file_with_the_same_name_is_never_overwritten(server, tmp_path, capsys):
    (tmp_path / PART_2).write_bytes(b"mine")
    assert f"{PART_2} exists, but is not" in refusal(server, tmp_path, capsys)
    assert (tmp_path / PART_2).read_bytes() == b"mine" and server.file_requests() == []


def test_a_broken_connection_resumes_where_it_stopped(server, files, tmp_path, waits):
    half = len(files[PART_1]) // 2
    server.fault(f"{FILE}{number(server, PART_1)}", cut=half)
    fetch(server, tmp_path)
    assert server.loaded(number(server, PART_1)) == [(None, half), (f"bytes={half}-", len(files[PART_1]) - half)]
    assert (tmp_path / PART_1).read_bytes() == files[PART_1] and waits == [1]


def test_a_truncated_table_is_downloaded_again(server, files, tmp_path, waits):
    table = number(server, f"{TRUTH}.tab")
    server.fault(f"datafile/{table}", cut=100)
    fetch(server, tmp_path)
    assert server.loaded(table) == [(None, 100), (None, len(files[f"{TRUTH}.tab"]))] and waits == [1]
    assert (tmp_path / NAMES[3]).read_bytes() == files[f"{TRUTH}.tab"]


def test_a_server_that_ignores_ranges_does_no_harm(server, files, tmp_path, waits):
    server.fault(f"{FILE}{number(server, PART_1)}", cut=1000)
    server.fault(f"{FILE}{number(server, PART_1)}", ranges=False)
    fetch(server, tmp_path)
    assert (tmp_path / PART_1).read_bytes() == files[PART_1]


def test_a_server_that_refuses_a_range_is_asked_for_the_whole_file(server, files, tmp_path):
    (tmp_path / f"{PART_1}.part").write_bytes(files[PART_1][:1000])
    server.fault(f"{FILE}{number(server, PART_1)}", status=416)
    fetch(server, tmp_path)
    assert server.loaded(number(server, PART_1)) == [(None, len(files[PART_1]))]


def test_a_complete_partial_file_is_only_checked_and_a_longer_one_is_dropped(server, files, tmp_path):
    (tmp_path / f"{PART_1}.part").write_bytes(files[PART_1])
    (tmp_path / f"{PART_2}.part").write_bytes(files[PART_2] + b"more")
    fetch(server, tmp_path)
    assert server.loaded(number(server, PART_1)) == []
    assert server.loaded(number(server, PART_2)) == [(None, len(files[PART_2]))]
    assert not [name for name in found(tmp_path) if name.endswith(".part")]


def test_a_second_process_waits_and_resumes_after_the_first_is_killed(server, files, tmp_path):
    half = len(files[PART_2]) // 2
    server.fault(f"{FILE}{number(server, PART_2)}", stall=half)
    words = [sys.executable, "-m", "ham_hf", "data", "download", tmp_path, "--server", server.url, "--accept_license"]
    part = tmp_path / f"{PART_2}.part"
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as first:
        deadline = time.monotonic() + 60
        while not (part.exists() and part.stat().st_size > half - 8192) and time.monotonic() < deadline:
            time.sleep(0.02)
        kept = part.stat().st_size
        with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as second:
            assert "waiting for it" in second.stderr.readline()
            first.send_signal(signal.SIGKILL)
            shown, _ = second.communicate(timeout=120)
    assert second.returncode == 0 and shown.count("No leaks found.") == 2
    assert server.loaded(number(server, PART_2)) == [(None, half), (f"bytes={kept}-", len(files[PART_2]) - kept)]
    assert len(server.loaded(number(server, PART_1))) == 1
    assert (tmp_path / PART_2).read_bytes() == files[PART_2] and not part.exists()


# The license


def test_without_a_terminal_the_license_requires_a_flag(server, tmp_path, capsys):
    assert run(server, tmp_path / "data", "--server", server.url) == 2
    error = capsys.readouterr().err
    assert "CC BY-NC 4.0" in error and "--accept_license" in error
    assert server.asked == [] and not (tmp_path / "data").exists()


@pytest.mark.parametrize(("answer", "code"), [("y", 0), ("n", 2), ("", 2)])
def test_on_a_terminal_the_license_is_shown_and_confirmed(answer, code, server, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("ham_hf.cli.data.download._audit_download", lambda *_: 0)
    terminal, line = pty.openpty()
    with open(terminal, "w") as user, open(line) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        user.write(f"{answer}\n")
        user.flush()
        assert run(server, tmp_path / "data", "--server", server.url) == code
    shown = capsys.readouterr()
    assert "not for commercial purposes" in shown.out and "under these terms? [y/N]" in shown.out
    assert (tmp_path / "data" / PART_1).exists() == (code == 0) == (server.file_requests() != [])
    assert ("nothing was downloaded" in shown.err) == (code == 2)


# The server or the network say no


def test_an_unreachable_server_is_reported_at_once(tmp_path, waits, capsys):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
    assert run(url, tmp_path) == 2 and waits == []
    error = capsys.readouterr().err
    assert f"cannot reach {url}" in error and "check the network" in error and "isic-cli" in error
    assert run("dataverse.harvard.edu", tmp_path) == 2
    assert "expected one such as https://dataverse.harvard.edu" in capsys.readouterr().err


@pytest.mark.parametrize("where", [LISTING, FILE])
def test_a_refusal_names_the_other_ways(where, server, tmp_path, capsys):
    body = b'{"status": "ERROR", "message": "You may \\u001b[1mnot</b>"}'
    server.fault(where, status=403, body=body, headers={"Content-Type": "application/json"})
    error = refusal(server, tmp_path, capsys)
    assert "returned 403 for" in error and "(You may [1mnot)" in error and "isic-cli" in error


def test_files_missing_on_the_server_are_named(server, tmp_path, capsys):
    del server.data[number(server, PART_2)]
    assert f"404 for {PART_2} (Not found: /api/access" in refusal(server, tmp_path, capsys)
    assert (tmp_path / PART_1).exists()
    server.fault(LISTING, status=404)
    assert "404 for the dataset doi:10.7910/DVN/DBW86T" in refusal(server, tmp_path, capsys)


@pytest.mark.parametrize("where", [LISTING, FILE])
def test_retry_after_is_respected(where, server, files, tmp_path, waits, caplog):
    server.fault(where, status=429, headers={"Retry-After": "7"})
    server.fault(where, status=503, headers={"Retry-After": formatdate(time.time() + 100, usegmt=True)})
    server.fault(where, status=503, headers={"Retry-After": "soon"})
    with caplog.at_level(logging.WARNING, "ham_hf.data.download"):
        fetch(server, tmp_path)
    assert waits[0] == 7 and 95 < waits[1] <= 100 and waits[2:] == [8] and "retrying in 7 s" in caplog.text
    assert (tmp_path / PART_1).read_bytes() == files[PART_1]


def test_a_retry_after_of_hours_is_an_error(server, tmp_path, waits, capsys):
    server.fault(FILE, status=429, headers={"Retry-After": "7200"})
    said = "asks to wait 7,200 seconds: after that, run the same command again to resume"
    assert said in refusal(server, tmp_path, capsys)
    assert waits == []


def test_attempts_without_progress_are_counted(server, files, tmp_path, waits, capsys):
    server.fault(FILE, cut=1000)
    server.fault(FILE, times=3, cut=0)
    server.fault(FILE, times=2, status=500)
    error = refusal(server, tmp_path, capsys)
    assert f"{PART_1} cannot be downloaded: 5 attempts in a row failed" in error and "returned 500" in error
    assert "run the same command again to resume" in error and waits == [1, 2, 4, 8, 16]
    assert (tmp_path / f"{PART_1}.part").read_bytes() == files[PART_1][:1000]
    fetch(server, tmp_path)
    assert server.loaded(number(server, PART_1))[-1] == ("bytes=1000-", len(files[PART_1]) - 1000)


def test_files_with_a_wrong_checksum_are_removed(server, files, tmp_path, capsys):
    server.fault(f"{FILE}{number(server, PART_1)}", data=bytes(len(files[PART_1])))
    error = refusal(server, tmp_path, capsys)
    assert f"{PART_1} has the md5" in error and hashlib.md5(files[PART_1]).hexdigest() in error
    assert found(tmp_path) == [".download.lock", NAMES[0]]


@pytest.mark.parametrize("label", [PART_1, "HAM10000_metadata.tab"])  # sent with its length, and in chunks
def test_files_of_an_unexpected_size_are_refused(label, server, files, tmp_path, capsys):
    server.fault(rf"(storage|datafile)/{number(server, label)}(\?X|\?format|$)", times=2, data=files[label] * 2)
    size = len(files[label])
    said = f"sent {2 * size:,} bytes for {label}, but the listing says {size:,}"
    assert said in refusal(server, tmp_path, capsys)


# Listings


def test_a_response_that_is_not_json_is_refused(server, tmp_path, capsys):
    server.fault(LISTING, status=200, body=b"<html>Log in</html>", headers={"Content-Type": "text/html"})
    error = refusal(server, tmp_path, capsys)
    assert "returned text/html instead of JSON" in error and "page to log in" in error


@pytest.mark.parametrize("spoil", [lambda data: data.clear(), lambda data: data.update(latestVersion=[3])])
def test_json_of_another_kind_is_refused(spoil, server, tmp_path, capsys):
    spoil(server.listing["data"])
    assert "returned JSON that is not a Dataverse listing" in refusal(server, tmp_path, capsys)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"checksum": None, "md5": None}, f"no checksum of {PART_1}"),
        ({"checksum": {"type": "CRC", "value": "00"}}, "'CRC' '00'; expected one of MD5, SHA-1"),
        ({"checksum": {"type": "MD5", "value": "00"}}, "'MD5' '00'"),
        ({"filesize": -1}, "size -1: expected two numbers"),
        ({"id": "../../secret"}, "id '../../secret'"),
        ({"filesize": 10**18}, "1,000,000,000,"),  # with the others: more than any disk has
    ],
)
def test_files_that_could_not_be_verified_are_not_downloaded(changes, message, server, tmp_path, capsys):
    server.entry(PART_1)["dataFile"].update(changes)
    assert message in refusal(server, tmp_path, capsys) and server.file_requests() == []


def test_other_checksums_are_verified_too(server, files, tmp_path):
    checksum = {"type": "SHA-256", "value": hashlib.sha256(files[PART_1]).hexdigest().upper()}
    server.entry(PART_1)["dataFile"].update(checksum=checksum, md5="")
    fetch(server, tmp_path)
    assert (tmp_path / PART_1).exists()


def test_missing_and_restricted_files_of_a_listing_are_named(server, tmp_path, capsys):
    server.entry(PART_2)["restricted"] = True
    assert f"restricts {PART_2} to users with an account" in refusal(server, tmp_path, capsys)
    server.entry(PART_2)["label"] = "part two.zip"
    error = refusal(server, tmp_path, capsys)
    assert f"lists no files {PART_2} in doi:" in error and "It lists HAM10000_images_part_1.zip, " in error
    assert "part two.zip" in error and server.file_requests() == []


@pytest.mark.parametrize("label", [f"../{PART_1}", f"/tmp/{PART_1}", f"..\\{PART_1}", ".."])
def test_names_with_folders_are_refused_and_nothing_is_written(label, server, tmp_path, capsys):
    server.entry(PART_1)["label"] = label
    assert "expected names without folders" in refusal(server, tmp_path / "data", capsys)
    assert found(tmp_path) == []


def test_a_folder_that_cannot_be_written_is_named(server, tmp_path, capsys):
    (tmp_path / "file").touch()
    assert f"{tmp_path}/file" in refusal(server, tmp_path / "file", capsys)


def test_tables_that_dataverse_did_not_convert_are_downloaded(files, tmp_path):
    with DataverseServer() as server:
        for label, data in files.items():
            server.add(label.replace("metadata.tab", "metadata").replace("Truth.tab", "Truth.csv"), data)
        fetch(server, tmp_path)
    assert (tmp_path / NAMES[0]).read_bytes() == files["HAM10000_metadata.tab"]
