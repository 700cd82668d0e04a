"""A small folder of data that a test may change, and a dataset of images."""

from pathlib import Path

import datasets
import pytest

from tests.helpers.small_data import make_rows, write_folder, write_image


@pytest.fixture
def rows() -> list[dict[str, str]]:
    return make_rows()


@pytest.fixture
def folder(tmp_path, rows) -> Path:
    return write_folder(tmp_path / "data", rows)


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def dataset_of():
    """Return a function from the paths of images to a dataset of them."""

    def make(paths: list[Path]) -> datasets.Dataset:
        features = datasets.Features({"image": datasets.Image(), "image_id": datasets.Value("string")})
        columns = {"image": [str(path) for path in paths], "image_id": [path.stem for path in paths]}
        return datasets.Dataset.from_dict(columns, features=features)

    return make


@pytest.fixture
def dataset(dataset_of, tmp_path) -> datasets.Dataset:
    """Return 30 images of 80 x 60 pixels."""
    (tmp_path / "images").mkdir()
    paths = [tmp_path / "images" / f"i{seed:02d}.jpg" for seed in range(30)]
    for seed, path in enumerate(paths):
        write_image(path, seed)
    return dataset_of(paths)
