"""The pixel cache: bit for bit what decoding gives, whatever happens while it is built."""

import multiprocessing
import os
import pickle
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from ham_hf.cli.main import main
from ham_hf.data.image_hashes import check_images
from ham_hf.data.image_io import image_size
from ham_hf.data.pixel_cache import (
    PIXELS,
    EncodedImages,
    PixelCache,
    build_cache,
    cache_folder,
    clear_caches,
    list_caches,
    open_or_build,
)
from ham_hf.system.errors import InputError, MachineError
from tests.helpers.small_data import make_rows, write_folder

FORK = multiprocessing.get_context("fork")
pytestmark = pytest.mark.usefixtures("own_cache")


def assert_same_pixels(dataset, checks, cache):
    for row in dataset:
        live = np.asarray(row["image"].convert("RGB"))
        np.testing.assert_array_equal(cache[checks[row["image_id"]].sha256], live)


def files():
    return sorted(path.name for path in cache_folder().iterdir() if path.name != "lock")


def build_slowly(dataset, checks, seconds):
    """Build a cache that is held up by its second image, when the first one is written."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where a shell started the tests with &
    by_sha = {checks[row["image_id"]].sha256: row["image"] for row in dataset}
    second = np.asarray(by_sha[sorted(by_sha)[1]].convert("RGB"))

    def convert(image):
        if np.array_equal(np.asarray(image), second):
            time.sleep(seconds)
        return 255 - np.asarray(image)  # inverted: a mark that this one built it

    open_or_build(PIXELS, EncodedImages(dataset, checks), image_size, convert, "slowly")


def start_a_build(dataset, seconds):
    """Return the process of `build_slowly`, which has written something and holds the lock."""
    builder = FORK.Process(target=build_slowly, args=(dataset, check_images(dataset), seconds))
    builder.start()
    deadline = time.time() + 60
    while not any(path.stat().st_blocks for path in cache_folder().glob("*.unfinished")):
        assert time.time() < deadline
        time.sleep(0.01)
    return builder


def stop_a_build(dataset, signum, seconds=60) -> int:
    """Send a signal to a process that builds a cache for some seconds, and return its exit code."""
    builder = start_a_build(dataset, seconds)
    os.kill(builder.pid, signum)
    builder.join(60)
    return builder.exitcode


def test_cached_pixels_equal_decoded_ones_and_are_read_only(dataset):
    checks = check_images(dataset)
    cache = build_cache(dataset, checks)
    assert_same_pixels(dataset, checks, cache)
    pixels = cache[checks["i00"].sha256]
    assert pixels.shape == (60, 80, 3) and pixels.dtype == np.uint8
    with pytest.raises(ValueError, match="read-only"):
        pixels[0, 0, 0] = 1


def test_cached_pixels_of_real_images_equal_decoded_ones(dataset_of, ham10000_dir):
    real = dataset_of(sorted((ham10000_dir / "HAM10000_images_part_1").glob("*.jpg"))[:24])
    checks = check_images(real)
    assert_same_pixels(real, checks, build_cache(real, checks))


def test_images_of_all_sizes_modes_and_orientations(dataset_of, tmp_path):
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8))
    turned = Image.Exif()
    turned[0x0112] = 6
    picture.save(tmp_path / "turned.jpg", exif=turned)
    picture.save(tmp_path / "turned_png.png", exif=turned)
    picture.resize((140, 7)).save(tmp_path / "long.jpg")
    picture.resize((1, 1)).save(tmp_path / "dot.png")
    for mode in ("L", "P", "RGBA", "1"):
        picture.convert(mode).save(tmp_path / f"{mode}.png")
    picture.convert("CMYK").save(tmp_path / "cmyk.jpg")
    dataset = dataset_of(sorted(path for path in tmp_path.iterdir() if path.is_file()))
    checks = check_images(dataset)
    cache = build_cache(dataset, checks)
    assert_same_pixels(dataset, checks, cache)
    assert cache[checks["turned"].sha256].shape == (64, 48, 3)


def test_the_same_contents_share_a_cache_in_any_folder(dataset_of, dataset, tmp_path):
    built = build_cache(dataset, check_images(dataset)).path.stat()
    (tmp_path / "moved").mkdir()
    paths = [tmp_path / "moved" / f"z{i:02d}.jpg" for i in range(30)]
    for i, path in enumerate(paths):
        path.write_bytes((tmp_path / "images" / f"i{29 - i:02d}.jpg").read_bytes())
    moved = dataset_of(paths)
    assert build_cache(moved, check_images(moved)).path.stat() == built


def test_a_cache_of_more_images_serves_some_of_them(dataset):
    checks = check_images(dataset)
    whole = build_cache(dataset, checks)
    some = dataset.select(range(3, 9))
    assert build_cache(some, checks).path == whole.path
    assert PixelCache.open([checks["i04"].sha256]).path == whole.path
    assert PixelCache.open([checks["i04"].sha256, "0" * 64]) is None


def test_broken_images_are_skipped_and_duplicates_are_kept_once(dataset, tmp_path):
    images = tmp_path / "images"
    (images / "i01.jpg").write_bytes((images / "i00.jpg").read_bytes())
    (images / "i02.jpg").write_bytes(b"no image")
    checks = check_images(dataset)
    cache = build_cache(dataset, checks)
    assert len(cache) == 28 and checks["i02"].sha256 not in cache
    with pytest.raises(InputError, match="no images to cache"):
        build_cache(dataset.select([2]), checks)


def test_concurrent_builds_end_with_one_cache(dataset):
    checks = check_images(dataset)
    start, found = FORK.Barrier(3), FORK.Queue()

    def build():
        start.wait()
        found.put(build_cache(dataset, checks).path.stat())

    builders = [FORK.Process(target=build) for _ in range(3)]
    for builder in builders:
        builder.start()
    assert len({found.get(timeout=60).st_ino for _ in builders}) == 1
    for builder in builders:
        builder.join(60)
        assert builder.exitcode == 0
    assert_same_pixels(dataset, checks, PixelCache.open([check.sha256 for check in checks.values()]))
    assert len(files()) == 2


def test_a_second_build_waits_for_the_first_and_uses_its_cache(dataset, caplog):
    checks = check_images(dataset)
    first = start_a_build(dataset, 3)
    cache = build_cache(dataset, checks)
    first.join(60)
    assert "another process is building" in caplog.text
    inverted = 255 - np.asarray(dataset[0]["image"].convert("RGB"))
    np.testing.assert_array_equal(cache[checks["i00"].sha256], inverted)


def test_a_killed_build_leaves_no_usable_cache(dataset):
    checks = check_images(dataset)
    assert stop_a_build(dataset, signal.SIGKILL) == -signal.SIGKILL
    assert [name.split(".")[1] for name in files()] == ["unfinished"]
    assert PixelCache.open([checks["i00"].sha256]) is None
    assert list_caches()[0].state.startswith("unfinished")
    some = dataset.select(range(5))  # another build than that which died
    assert_same_pixels(some, checks, build_cache(some, checks))
    assert [name.split(".")[1] for name in files()] == ["json", "npy"]


def test_clear_removes_what_a_killed_build_left(dataset):
    stop_a_build(dataset, signal.SIGKILL)
    assert clear_caches() > 0
    assert files() == []


def test_ctrl_c_leaves_nothing(dataset):
    assert stop_a_build(dataset, signal.SIGINT, seconds=3) == 1 and files() == []  # it waits for its threads


def test_a_cache_of_an_earlier_version_is_listed_and_cleared(dataset):
    cache_folder().mkdir(parents=True, exist_ok=True)
    (cache_folder() / "key.pixels").write_bytes(b"0" * 100)
    assert [(cache.nbytes, cache.state) for cache in list_caches()] == [(100, "outdated (made with ham_hf 0.1.0)")]
    assert clear_caches() == 100 and files() == []


@pytest.mark.parametrize(
    "damage", ["last byte", "pixels", "empty", "other pixels", "type", "index cut off", "no index", "another index"]
)
def test_a_damaged_cache_is_detected_and_rebuilt(dataset, caplog, damage):
    checks = check_images(dataset)
    path = build_cache(dataset, checks).path
    data, index = path.read_bytes(), path.with_suffix(".json")
    match damage:
        case "last byte":
            path.write_bytes(data[:-1])
        case "pixels":
            path.write_bytes(data[:1000] + data[2000:])
        case "empty":
            path.write_bytes(b"")
        case "other pixels":
            np.save(path, np.zeros(10, np.uint8))
        case "type":
            np.save(path, np.zeros(len(data) - 128, np.int8))
        case "index cut off":
            index.write_bytes(index.read_bytes()[:-10])
        case "no index":
            index.unlink()
        case "another index":
            index.write_text("[]")
    assert PixelCache.open([checks["i00"].sha256]) is None
    assert list_caches()[0].state.startswith("damaged")
    assert_same_pixels(dataset, checks, build_cache(dataset, checks))
    assert "is damaged: building it again" in caplog.text


def test_an_image_that_changed_after_its_check_is_not_cached(dataset, tmp_path):
    checks = check_images(dataset)

    def convert(image):
        return np.asarray(image.resize((40, 30)))  # as if other bytes had been read than those measured

    with pytest.raises(MachineError, match="has changed since it was checked"):
        open_or_build(PIXELS, EncodedImages(dataset, checks), image_size, convert, "")
    (tmp_path / "images" / "i07.jpg").unlink()
    with pytest.raises(MachineError, match=r"i07\.jpg: No such file"):
        build_cache(dataset, checks)
    assert files() == []


@pytest.fixture()
def small_disk(tmp_path, monkeypatch):
    """Mounts a disk of so many bytes under the datasets cache."""
    folder = tmp_path / "small"
    folder.mkdir()

    def mount(size):
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
        if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode != 0:
            pytest.skip("a small disk can only be mounted by root, where mounting is allowed")
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(folder))
        return folder

    yield mount
    if os.path.ismount(folder):
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_disk_that_is_too_small_is_refused_before_anything_is_decoded(dataset, small_disk):
    checks = check_images(dataset)
    path = build_cache(dataset, checks).path
    needed = path.stat().st_size + path.with_suffix(".json").stat().st_size
    small_disk(256 * 1024)

    def convert(image):
        raise AssertionError("decoded")

    with pytest.raises(
        MachineError, match=rf"needs {needed:,} bytes, but only 26\d,\d{{3}} are free in .*HF_DATASETS_CACHE"
    ):
        open_or_build(PIXELS, EncodedImages(dataset, checks), image_size, convert, "")
    assert files() == []


def test_a_disk_that_fills_up_during_a_build_is_an_error_and_leaves_nothing(dataset, small_disk):
    checks = check_images(dataset)
    folder = small_disk(1024 * 1024)

    def convert(image):
        with (folder / "other").open("ab", buffering=0) as other:
            try:
                other.write(b"0" * 200_000)
            except OSError:
                pass  # full
        return np.asarray(image)

    with pytest.raises(MachineError, match=r"could not be written .*No space left on device.*HF_DATASETS_CACHE"):
        open_or_build(PIXELS, EncodedImages(dataset, checks), image_size, convert, "")
    assert files() == []


class Sums(torch.utils.data.Dataset):
    def __init__(self, cache, sha256s):
        self.cache, self.sha256s = cache, sha256s

    def __len__(self):
        return len(self.sha256s)

    def __getitem__(self, i):
        return os.getpid(), int(self.cache[self.sha256s[i]].sum())


def test_worker_processes_and_pickled_copies_read_the_same_file(dataset):
    checks = check_images(dataset)
    cache = build_cache(dataset, checks)
    shas = [check.sha256 for check in checks.values()]
    expected = [int(cache[sha256].sum()) for sha256 in shas]
    pickled = pickle.dumps(cache)
    assert len(pickled) < 1000  # neither the pixels nor the index
    for copy in (cache, pickle.loads(pickled)):
        pids, sums = map(torch.cat, zip(*DataLoader(Sums(copy, shas), batch_size=5, num_workers=2), strict=True))
        assert sums.tolist() == expected
        assert len(set(pids.tolist())) == 2 and os.getpid() not in pids
    assert len(pickle.loads(pickled)) == 30 and shas[0] in pickle.loads(pickled)


def test_threads_share_a_copy_that_none_of_them_has_opened_yet(dataset):
    checks = check_images(dataset)
    copy = pickle.loads(pickle.dumps(build_cache(dataset, checks)))
    with ThreadPoolExecutor(8) as pool:
        read = list(pool.map(lambda row: copy[checks[row["image_id"]].sha256], dataset))
    for row, pixels in zip(dataset, read, strict=True):
        np.testing.assert_array_equal(pixels, np.asarray(row["image"]))


def test_an_open_cache_stays_readable_after_it_is_cleared(dataset):
    checks = check_images(dataset)
    cache = build_cache(dataset, checks)
    clear_caches()
    assert_same_pixels(dataset, checks, cache)


def test_another_version_of_pillow_has_its_own_cache(dataset, monkeypatch):
    checks = check_images(dataset)
    monkeypatch.setitem(PIXELS, "versions", {"pillow": "1.0"})
    old = build_cache(dataset, checks).path
    monkeypatch.undo()
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(old.parents[2]))
    assert PixelCache.open([checks["i00"].sha256]) is None
    assert list_caches()[0].state == "outdated (made with pillow 1.0)"


def cache_command(*words):
    return main(["data", "cache", *map(str, words)])


def test_build_info_and_clear(tmp_path, capsys):
    folder = write_folder(tmp_path / "data", make_rows(lesions=7))
    (folder / "images" / "IMG_000_0.jpg").unlink()
    (folder / "images" / "IMG_000_1.jpg").write_bytes(b"no image")
    assert cache_command("info") == 0
    assert "no pixel caches" in capsys.readouterr().out
    assert cache_command("build", folder) == 0
    shown = capsys.readouterr().out
    assert ": 12 images, 17" in shown and "2 images are missing or broken" in shown
    assert cache_command("info") == 0
    shown = capsys.readouterr().out
    assert str(Path(datasets.config.HF_DATASETS_CACHE)) in shown and ": 1 pixel cache\n" in shown
    assert " bytes, complete, 12 images, pixels\n" in shown
    assert cache_command("clear") == 0
    freed = int(capsys.readouterr().out.split(" bytes freed")[0].replace(",", ""))
    assert freed >= 12 * 80 * 60 * 3 and files() == []


def test_a_cache_of_nothing_is_an_error(tmp_path, capsys):
    assert cache_command("build", tmp_path / "nowhere") == 2
    assert "nowhere" in capsys.readouterr().err
