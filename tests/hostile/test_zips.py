"""Broken and hostile zips: members by odd paths, huge, overlapping, encrypted, or there twice."""

import io
import shutil
import struct
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ham_hf.data.image_files import ZipMember, find_images, read_member
from ham_hf.data.sources.folder import read_folder
from ham_hf.system.errors import InputError
from tests.helpers.small_data import make_rows, write_folder
from tests.hostile.cases import broken, cases, ends_well, within

ROWS = make_rows(7, 1)
IDS = {row["image_id"] for row in ROWS}


@pytest.fixture(scope="module")
def zipped(tmp_path_factory) -> Path:
    """A data folder whose images are in a zip."""
    folder = write_folder(tmp_path_factory.mktemp("zips") / "data", ROWS)
    with zipfile.ZipFile(folder / "images.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted((folder / "images").iterdir()):
            archive.write(path, f"part/{path.name}")
    shutil.rmtree(folder / "images")
    return folder


@pytest.fixture
def folder(zipped, tmp_path) -> Path:
    return Path(shutil.copytree(zipped, tmp_path / "in" / "data"))


def members_of(folder: Path) -> dict[str, bytes]:
    """As `read_folder` finds and reads them, before they become a Dataset."""
    found, contents = find_images(folder, IDS), {}
    for image_id, file in found.items():
        if isinstance(file, ZipMember):
            with zipfile.ZipFile(file.archive) as archive:
                contents[image_id] = read_member(archive, file.name)
    return contents


def tail_of(data: bytes) -> int:
    return data.index(b"PK\x01\x02")  # where the list of members begins


@cases(200)
@given(st.data())
def test_a_broken_zip_is_read_or_refused(zipped, tmp_path_factory, draw):
    folder = tmp_path_factory.getbasetemp() / "broken zip"
    folder.mkdir(exist_ok=True)
    original = (zipped / "images.zip").read_bytes()
    if draw.draw(st.booleans()):
        content = draw.draw(broken(original))
    else:  # in the list of members
        tail = tail_of(original)
        content = original[:tail] + draw.draw(broken(original[tail:]))
    (folder / "images.zip").write_bytes(content)
    found = ends_well("zips", lambda: members_of(folder))
    assert found is None or set(found) <= IDS
    assert [path.name for path in folder.iterdir()] == ["images.zip"]


def add(folder: Path, name: str, content: bytes, method: int = zipfile.ZIP_DEFLATED) -> Path:
    path = folder / "more.zip"
    with zipfile.ZipFile(path, "a", method) as archive:
        archive.writestr(name, content)
    return path


def test_members_that_would_leave_the_folder_are_read_and_never_unpacked(zipped, tmp_path):
    folder = tmp_path / "deep" / "data"
    folder.mkdir(parents=True)
    shutil.copy(zipped / "HAM10000_metadata.csv", folder)
    names = ["../../{}.jpg", "/tmp/{}.jpg", "..\\..\\{}.jpg", "C:\\{}.jpg", "./{}.jpg", "a/../../{}.jpg", "{}.jpg"]
    with zipfile.ZipFile(zipped / "images.zip") as source, zipfile.ZipFile(folder / "x.zip", "w") as target:
        for member, name in zip(source.infolist(), names, strict=True):
            image_id = member.filename.rpartition("/")[2].removesuffix(".jpg")
            target.writestr(name.format(image_id), source.read(member))
        target.writestr("../../outside.jpg", b"not asked for")
        link = zipfile.ZipInfo("link")
        link.external_attr = 0o120777 << 16  # a symbolic link
        target.writestr(link, "/etc/passwd")
    before = sorted(tmp_path.rglob("*"))
    kind, table, dataset, _ = read_folder(folder)
    # A name with backslashes is one name on Linux, and no image's
    assert kind == "folder" and table["has_image"].sum() == 5
    assert sorted(tmp_path.rglob("*")) == before
    assert not list(Path("/tmp").glob("IMG_0*.jpg"))


def test_a_member_that_unpacks_to_very_much_is_refused(folder):
    add(folder, "x/IMG_000_0.jpg", bytes(5_000_000))
    with (
        within(60),
        pytest.raises(InputError, match="unpacks from .* to 5,000,000: expected 100 times as many at most"),
    ):
        read_folder(folder)


def test_a_member_that_says_it_is_huge_is_refused(folder):
    path = add(folder, "x/IMG_000_0.jpg", b"small")
    data = bytearray(path.read_bytes())
    tail = tail_of(bytes(data))
    data[tail + 24 : tail + 28] = struct.pack("<I", 4_000_000_000)
    path.write_bytes(data)
    with within(60), pytest.raises(InputError, match="has 4,000,000,000 bytes: expected at most 100,000,000"):
        read_folder(folder)


def test_members_that_overlap_are_refused(folder):
    """One compressed stream that many members share: the best of zip bombs."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("IMG_000_0.jpg", b"x" * 5000)
    data = content.getvalue()
    tail, end = tail_of(data), data.index(b"PK\x05\x06")
    entries = b""
    for image_id in sorted(IDS):
        entry = data[tail:end].replace(b"IMG_000_0", image_id.encode())
        entries += entry
    counts = struct.pack("<HHII", len(IDS), len(IDS), len(entries), tail)
    (folder / "more.zip").write_bytes(data[:tail] + entries + data[end : end + 8] + counts + b"\0\0")
    (folder / "images.zip").unlink()
    with pytest.raises(InputError, match="has members that overlap, as no zip program makes them"):
        read_folder(folder)


def test_two_members_of_one_name_are_refused(folder):
    with pytest.warns(UserWarning, match="Duplicate name"):
        add(folder, "IMG_001_0.jpg", b"one")
        add(folder, "IMG_001_0.jpg", b"two")
    with pytest.raises(InputError, match="two different files for image IMG_001_0"):
        read_folder(folder)


@pytest.mark.parametrize(
    ("method", "flag", "said"),
    [
        (zipfile.ZIP_DEFLATED, 1, "is encrypted: unpack the zip"),
        (zipfile.ZIP_BZIP2, 0, "is compressed by method 12: expected stored or deflated"),
        (zipfile.ZIP_LZMA, 0, "is compressed by method 14: expected stored or deflated"),
    ],
)
def test_members_with_other_compression_are_refused(method, flag, said, folder):
    path = add(folder, "x/IMG_000_0.jpg", b"x" * 100, method)
    data = bytearray(path.read_bytes())
    data[tail_of(bytes(data)) + 8] |= flag
    path.write_bytes(data)
    with pytest.raises(InputError, match=f"more.zip/x/IMG_000_0.jpg {said}"):
        read_folder(folder)


def test_folders_and_broken_links_named_like_zips_are_skipped(folder):
    (folder / "folder.zip").mkdir()
    (folder / "link.zip").symlink_to(folder / "gone.zip")
    assert read_folder(folder).table["has_image"].all()
