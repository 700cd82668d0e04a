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
from transformers import BitImageProcessor, ViTImageProcessor

from ham_hf.cli.main import main
from ham_hf.data.crops import eval_crops, normalize
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
from ham_hf.models.mmbt.processing_mmbt import PatientProcessor
from ham_hf.system.errors import InputError, MachineError
from tests.helpers.small_data import make_rows, write_folder, write_image

FORK = multiprocessing.get_context("fork")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


def dataset_of(paths):
    features = datasets.Features({"image": datasets.Image(), "image_id": datasets.Value("string")})
    columns = {"image": [str(path) for path in paths], "image_id": [path.stem for path in paths]}
    return datasets.Dataset.from_dict(columns, features=features)


@pytest.fixture()
def dataset(tmp_path):
    """30 images of 80 x 60 pixels."""
    (tmp_path / "images").mkdir()
    paths = [tmp_path / "images" / f"i{seed:02d}.jpg" for seed in range(30)]
    for seed, path in enumerate(paths):
        write_image(path, seed)
    return dataset_of(paths)


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


def wait_for_a_build():
    """Until a builder has written something, and holds the lock."""
    deadline = time.time() + 60
    while not any(path.stat().st_blocks for path in cache_folder().glob("*.unfinished")):
        assert time.time() < deadline
        time.sleep(0.01)


def test_pixels_are_those_of_decoding_and_cannot_be_written(dataset):
    checks = check_images(dataset)
    cache = build_cache(dataset, checks)
    assert_same_pixels(dataset, checks, cache)
    pixels = cache[checks["i00"].sha256]
    assert pixels.shape == (60, 80, 3) and pixels.dtype == np.uint8
    with pytest.raises(ValueError, match="read-only"):
        pixels[0, 0, 0] = 1


def test_real_images_come_back_bit_for_bit(ham10000_dir):
    real = dataset_of(sorted((ham10000_dir / "HAM10000_images_part_1").glob("*.jpg"))[:24])
    checks = check_images(real)
    assert_same_pixels(real, checks, build_cache(real, checks))


def test_images_of_all_sizes_modes_and_orientations(tmp_path):
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


def test_the_same_contents_have_the_same_cache_wherever_they_lie(dataset, tmp_path):
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


def test_what_does_not_decode_is_left_out_and_what_is_there_twice_is_kept_once(dataset, tmp_path):
    images = tmp_path / "images"
    (images / "i01.jpg").write_bytes((images / "i00.jpg").read_bytes())
    (images / "i02.jpg").write_bytes(b"no image")
    checks = check_images(dataset)
    cache = build_cache(dataset, checks)
    assert len(cache) == 28 and checks["i02"].sha256 not in cache
    with pytest.raises(InputError, match="no images to cache"):
        build_cache(dataset.select([2]), checks)


def test_builders_at_once_end_with_one_cache(dataset):
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


def test_the_second_builder_says_that_it_waits_and_takes_what_the_first_made(dataset, caplog):
    checks = check_images(dataset)
    first = FORK.Process(target=build_slowly, args=(dataset, checks, 3))
    first.start()
    wait_for_a_build()
    cache = build_cache(dataset, checks)
    first.join(60)
    assert "another process is building" in caplog.text
    inverted = 255 - np.asarray(dataset[0]["image"].convert("RGB"))
    np.testing.assert_array_equal(cache[checks["i00"].sha256], inverted)


def test_a_killed_build_leaves_nothing_that_passes_for_a_cache(dataset):
    checks = check_images(dataset)
    victim = FORK.Process(target=build_slowly, args=(dataset, checks, 60))
    victim.start()
    wait_for_a_build()
    os.kill(victim.pid, signal.SIGKILL)
    victim.join(60)
    assert [name.split(".")[1] for name in files()] == ["unfinished"]
    assert PixelCache.open([checks["i00"].sha256]) is None
    assert list_caches()[0].state.startswith("unfinished")
    some = dataset.select(range(5))  # another build than that which died
    assert_same_pixels(some, checks, build_cache(some, checks))
    assert [name.split(".")[1] for name in files()] == ["json", "npy"]


def test_ctrl_c_leaves_nothing(dataset):
    victim = FORK.Process(target=build_slowly, args=(dataset, check_images(dataset), 3))
    victim.start()
    wait_for_a_build()
    os.kill(victim.pid, signal.SIGINT)
    victim.join(60)
    assert victim.exitcode == 1 and files() == []


def test_clear_removes_what_a_killed_build_left(dataset):
    victim = FORK.Process(target=build_slowly, args=(dataset, check_images(dataset), 60))
    victim.start()
    wait_for_a_build()
    victim.kill()
    victim.join(60)
    assert clear_caches() > 0
    assert files() == []


def test_a_cache_of_an_earlier_version_is_listed_and_cleared(dataset):
    cache_folder().mkdir(parents=True, exist_ok=True)
    (cache_folder() / "key.pixels").write_bytes(b"0" * 100)
    assert [(cache.nbytes, cache.state) for cache in list_caches()] == [(100, "outdated (made with ham_hf 0.1.0)")]
    assert clear_caches() == 100 and files() == []


@pytest.mark.parametrize(
    "damage", ["last byte", "pixels", "empty", "other pixels", "type", "index cut off", "no index", "another index"]
)
def test_a_damaged_cache_is_noticed_and_built_again(dataset, caplog, damage):
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


def test_an_image_that_changes_after_its_check_is_no_part_of_a_cache(dataset, tmp_path):
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


def test_a_disk_that_fills_up_meanwhile_is_an_error_and_leaves_nothing(dataset, small_disk):
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


def test_who_reads_a_cache_goes_on_reading_it_after_it_is_cleared(dataset):
    checks = check_images(dataset)
    cache = build_cache(dataset, checks)
    clear_caches()
    assert_same_pixels(dataset, checks, cache)


def test_another_pillow_has_another_cache(dataset, monkeypatch):
    checks = check_images(dataset)
    monkeypatch.setitem(PIXELS, "versions", {"pillow": "1.0"})
    old = build_cache(dataset, checks).path
    monkeypatch.undo()
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(old.parents[2]))
    assert PixelCache.open([checks["i00"].sha256]) is None
    assert list_caches()[0].state == "outdated (made with pillow 1.0)"


def processor(**values):
    settings = {
        "size": {"shortest_edge": 50},
        "crop_size": {"height": 44, "width": 44},
        "resample": 2,
        "image_mean": [0.5, 0.4, 0.3],
        "image_std": [0.2, 0.25, 0.3],
    }
    return BitImageProcessor(**(settings | values))


def finished(dataset, checks, processor):
    crops = eval_crops(dataset, checks, processor)
    shas = [checks[image_id].sha256 for image_id in dataset["image_id"]]
    pixels = torch.from_numpy(np.stack([crops[sha256] for sha256 in shas])).permute(0, 3, 1, 2)
    finished = normalize(processor, pixels)
    assert torch.equal(normalize(processor, pixels.contiguous()), finished)  # in the other memory format
    return finished


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"do_normalize": False},
        {"do_rescale": False},
        {"resample": 3},
        {"crop_size": {"height": 70, "width": 30}},  # taller than the resized image: padded
        {"image_mean": [62.4, 47.2, 34.1], "image_std": [10.2, 15.9, 22.9]},
    ],
)
def test_finished_crops_are_what_the_processor_gives_bit_for_bit(dataset, tmp_path, values):
    Image.open(tmp_path / "images" / "i03.jpg").resize((33, 90)).save(tmp_path / "images" / "i03.jpg")
    checks = check_images(dataset)
    prepare = processor(**values)
    images = [row["image"].convert("RGB") for row in dataset]
    pixels = finished(dataset, checks, prepare)
    assert torch.equal(pixels, prepare(images, return_tensors="pt")["pixel_values"])
    assert torch.equal(pixels[:1], prepare(images[0], return_tensors="pt")["pixel_values"])


def test_real_crops_of_224_pixels_are_bit_for_bit(ham10000_dir):
    real = dataset_of(sorted((ham10000_dir / "HAM10000_images_part_1").glob("*.jpg"))[:16])
    checks = check_images(real)
    prepare = processor(size={"shortest_edge": 256}, crop_size={"height": 224, "width": 224})
    images = [row["image"].convert("RGB") for row in real]
    assert torch.equal(finished(real, checks, prepare), prepare(images, return_tensors="pt")["pixel_values"])


def test_crops_depend_on_how_they_are_cut_and_not_on_what_follows(dataset):
    checks = check_images(dataset)
    crops = eval_crops(dataset, checks, processor())
    assert crops[checks["i00"].sha256].shape == (44, 44, 3)
    assert eval_crops(dataset, checks, processor(do_normalize=False)).path == crops.path
    assert eval_crops(dataset, checks, processor(size={"shortest_edge": 51})).path != crops.path
    assert PixelCache.open([checks["i00"].sha256]) is None  # crops are no decoded images


def test_other_processors_have_no_cached_crops(dataset):
    checks = check_images(dataset)
    for other in (
        processor(do_resize=False),
        processor(do_center_crop=False),
        ViTImageProcessor(),
        PatientProcessor(processor()),
    ):
        assert eval_crops(dataset, checks, other) is None


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
