"""Predictions for one's own photographs: what goes in, in any shape, and that the pipeline says the same."""

import itertools
import json
import os
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import BitImageProcessor, pipeline

from ham_hf.cli.main import main
from ham_hf.data.image_io import read_photo
from ham_hf.inference.batches import AHEAD, BATCH_SIZE, MOST_THREADS, prepared_batches
from ham_hf.inference.engine import iterate_probabilities, probabilities
from ham_hf.inference.load import load_classifier
from ham_hf.inference.predict import predict_photos
from ham_hf.labels import DIAGNOSES, DISCLAIMER, LABELS
from ham_hf.system.errors import InputError
from ham_hf.system.files import replace_file
from tests.helpers.hub_server import File, HubServer, Repo
from tests.helpers.small_data import noise, read_rows
from tests.helpers.tiny_checkpoints import make_run_folder


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory) -> Path:
    return make_run_folder(tmp_path_factory.mktemp("runs") / "vit")


@pytest.fixture(scope="module")
def classifier(run_folder):
    return load_classifier(str(run_folder))


@pytest.mark.parametrize("name", ["google/vit-base-patch16-224", "timm/resnet18.tv_in1k", "pypi:efficientnet-lite0"])
def test_the_pipeline_of_transformers_gives_the_same_probabilities(name, tmp_path):
    folder = make_run_folder(tmp_path / "run", name)
    noise(90, 60).save(tmp_path / "wide.png")
    noise(60, 90, seed=1).save(tmp_path / "high.jpg")
    photos = [tmp_path / "wide.png", tmp_path / "high.jpg"]
    classifier = load_classifier(str(folder))
    processor = classifier.processor
    ours = probabilities(classifier, map(read_photo, photos))
    classify = pipeline("image-classification", model=str(folder), top_k=7)

    assert isinstance(processor, BitImageProcessor) and isinstance(classify.image_processor, BitImageProcessor)
    assert list(processor.image_mean) == [0.485, 0.456, 0.406] and processor.crop_size["height"] == 32
    assert ours.shape == (2, 7) and np.ptp(ours) > 0.05
    for photo, row in zip(photos, ours, strict=True):
        theirs = {result["label"]: result["score"] for result in classify(str(photo))}
        assert [theirs[label] for label in LABELS] == pytest.approx(row, abs=1e-5)


def test_probabilities_follow_the_names_of_a_models_labels_and_not_their_places(run_folder, classifier, tmp_path):
    images = [noise(seed=i) for i in range(3)]
    expected = probabilities(classifier, images)
    shuffled = make_run_folder(tmp_path / "shuffled", labels=LABELS[::-1])
    other = load_classifier(str(shuffled)).model
    model = classifier.model
    other.load_state_dict(model.state_dict())
    with torch.no_grad():
        other.classifier.weight.copy_(model.classifier.weight.flip(0))
        other.classifier.bias.copy_(model.classifier.bias.flip(0))
    assert probabilities(classifier._replace(model=other), images) == pytest.approx(expected, abs=1e-6)


def test_probabilities_are_float64_and_sum_to_one_in_any_number_of_batches(classifier):
    images = [noise(seed=i) for i in range(BATCH_SIZE + 1)]
    together = probabilities(classifier, images)
    assert together.dtype == np.float64 and together.shape == (BATCH_SIZE + 1, 7)
    assert together.sum(axis=1) == pytest.approx(np.ones(BATCH_SIZE + 1), abs=1e-12)
    assert probabilities(classifier, images[-1:])[0] == pytest.approx(together[-1], abs=1e-6)
    assert probabilities(classifier, []).shape == (0, 7)


def test_a_bounded_number_of_images_is_held_however_many_there_are(classifier):
    lock, counts = threading.Lock(), {"read": 0, "answered": 0, "most": 0}

    def read(number: int) -> Image.Image:
        with lock:
            counts["read"] += 1
            counts["most"] = max(counts["most"], counts["read"] - counts["answered"])
        return noise(seed=number)

    for _ in iterate_probabilities(classifier, itertools.count(), read=read):
        counts["answered"] += 1
        if counts["answered"] == 6 * BATCH_SIZE:
            break
    assert BATCH_SIZE <= counts["most"] <= AHEAD + BATCH_SIZE


def test_full_size_images_are_held_by_the_threads_alone(classifier):
    dropped, most = [], []

    def read(number: int) -> Image.Image:
        image = noise(seed=number)
        weakref.finalize(image, dropped.append, number)
        most.append(len(most) + 1 - len(dropped))
        return image

    for _ in prepared_batches(classifier[1], range(4 * BATCH_SIZE), read):
        pass
    assert len(most) == 4 * BATCH_SIZE and max(most) <= 2 * MOST_THREADS


def test_images_are_read_in_threads_ahead_of_the_model_and_answered_in_order(classifier):
    readers = set()

    def read(number: int) -> Image.Image:
        readers.add(threading.current_thread().name)
        time.sleep(0.01 * (number % 3 == 0))  # some overtake others
        return noise(seed=number)

    rows = list(iterate_probabilities(classifier, range(40), read=read))
    assert all(name.startswith("prepare") for name in readers)
    np.testing.assert_array_equal(rows, probabilities(classifier, [noise(seed=i) for i in range(40)]))


def test_pixels_are_the_processors_own_in_channels_last(classifier):
    images = [noise(90 + i, 60, seed=i) for i in range(BATCH_SIZE + 3)]
    batches = list(prepared_batches(classifier[1], images, lambda image: image))
    assert [len(batch["pixel_values"]) for batch in batches] == [BATCH_SIZE, 3]
    assert all(batch["pixel_values"].is_contiguous(memory_format=torch.channels_last) for batch in batches)
    expected = [classifier[1](image, return_tensors="pt")["pixel_values"] for image in images]
    assert torch.equal(torch.cat([batch["pixel_values"] for batch in batches]), torch.cat(expected))


def test_reading_ahead_leaves_torchs_threads_as_they_were(classifier):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        rows = iterate_probabilities(classifier, [noise()] * 5)
        next(rows)
        assert torch.get_num_threads() == 3
        rows.close()
        seen = []
        thread = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
        thread.start()
        thread.join()
        assert seen == [3] and not [one for one in threading.enumerate() if one.name.startswith("prepare")]
    finally:
        torch.set_num_threads(before)


def test_an_image_that_cannot_be_read_stops_the_prediction_with_its_name(classifier, tmp_path):
    noise().save(tmp_path / "a.png")
    photos = [tmp_path / "a.png"] * 3 + [tmp_path / "gone.png"]
    with pytest.raises(InputError, match="gone.png: does not exist"):
        list(predict_photos(classifier, photos))


def test_the_command_prints_sorted_diagnoses_and_the_disclaimer_once(run_folder, tmp_path, capsys):
    noise().save(tmp_path / "a.jpg")
    noise(seed=1).save(tmp_path / "b.png")
    assert main(["predict", str(run_folder), str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == str(tmp_path / "a.jpg") and lines[9] == str(tmp_path / "b.png")
    for start in (1, 10):
        rows = [line.split() for line in lines[start : start + 7]]
        assert {row[0] for row in rows} == set(LABELS)
        scores = [float(row[-1]) for row in rows]
        assert scores == sorted(scores, reverse=True) and sum(scores) == pytest.approx(1, abs=1e-3)
        assert all(DIAGNOSES[line.split()[0]] in line for line in lines[start : start + 7])
        assert len({len(line) for line in lines[start : start + 7]}) == 1
    assert lines.count(DISCLAIMER) == 1 and lines[-1] == DISCLAIMER


def test_the_csv_has_one_row_per_photograph_and_every_digit(run_folder, classifier, tmp_path, capsys):
    noise().save(tmp_path / "a, b.jpg")
    noise(seed=1).save(tmp_path / "c.jpg")
    target = tmp_path / "out.csv"
    target.write_text("an older file")
    assert main(["predict", str(run_folder), str(tmp_path), "--csv", str(target)]) == 0
    rows = read_rows(target)
    assert list(rows[0]) == ["file", "prediction", *LABELS]
    photos = [tmp_path / "a, b.jpg", tmp_path / "c.jpg"]
    expected = probabilities(classifier, map(read_photo, photos))
    assert [row["file"] for row in rows] == list(map(str, photos))
    assert [[float(row[label]) for label in LABELS] for row in rows] == expected.tolist()
    assert [row["prediction"] for row in rows] == [LABELS[i] for i in expected.argmax(axis=1)]
    assert f"2 rows in {target}" in capsys.readouterr().out
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a, b.jpg", "c.jpg", "out.csv"]


def test_files_have_the_permissions_that_the_umask_gives(run_folder, classifier, tmp_path):
    noise().save(tmp_path / "a.jpg")
    before = os.umask(0o027)
    try:
        list(predict_photos(classifier, [tmp_path / "a.jpg"], tmp_path / "out.csv"))
        replace_file(tmp_path / "report.json", "{}")
    finally:
        os.umask(before)
    modes = {name: (tmp_path / name).stat().st_mode & 0o777 for name in ("out.csv", "report.json")}
    assert modes == {"out.csv": 0o640, "report.json": 0o640}


def test_an_interrupted_prediction_leaves_no_csv_file(run_folder, classifier, tmp_path):
    noise().save(tmp_path / "a.jpg")
    results = predict_photos(classifier, [tmp_path / "a.jpg"] * 3, tmp_path / "out.csv")
    next(results)
    results.close()
    assert [file.name for file in tmp_path.iterdir()] == ["a.jpg"]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_16_bit_type_changes_probabilities_a_little(classifier, dtype):
    images = [noise(seed=i) for i in range(20)]
    exact = probabilities(classifier, images)
    rough = probabilities(classifier, images, dtype=dtype)
    assert 1e-6 < abs(rough - exact).max() < 0.05
    # Nothing of it is left behind, nor seen by the caller between two batches
    assert torch.get_autocast_dtype("cpu") and not torch.is_autocast_enabled("cpu")
    rows = iterate_probabilities(classifier, images, dtype=dtype)
    next(rows)
    assert not torch.is_autocast_enabled("cpu")
    np.testing.assert_array_equal(probabilities(classifier, images), exact)


def test_predict_computes_in_the_dtype_that_is_asked_for(run_folder, classifier, tmp_path, capsys):
    (tmp_path / "photos").mkdir()
    noise().save(tmp_path / "photos" / "a.png")
    for dtype in ("float32", "bfloat16"):
        rows, _ = predicted(run_folder, tmp_path, capsys, "--dtype", dtype)
        np.testing.assert_allclose(rows, probabilities(classifier, [noise()], dtype=dtype), atol=1e-7)
    assert main(["predict", str(tmp_path / "model.onnx"), str(tmp_path / "photos"), "--dtype", "float16"]) == 2
    assert "--dtype float16 does not apply to an ONNX file: remove it" in capsys.readouterr().err


def predicted(folder, tmp_path, capsys, *flags) -> tuple[np.ndarray, str]:
    """The CSV's probabilities, and what was printed."""
    assert main(["predict", str(folder), str(tmp_path / "photos"), "--csv", str(tmp_path / "out.csv"), *flags]) == 0
    rows = [[float(row[label]) for label in LABELS] for row in read_rows(tmp_path / "out.csv")]
    return np.array(rows), capsys.readouterr().out


def test_a_model_of_synthetic_images_says_so(tmp_path, capsys):
    folder = make_run_folder(tmp_path / "run")
    noise().save(tmp_path / "a.jpg")
    for synthetic in (True, False):
        (folder / "run.json").write_text(json.dumps({"data": {"synthetic": synthetic}}))
        assert main(["predict", str(folder), str(tmp_path / "a.jpg")]) == 0
        assert ("trained on synthetic images" in capsys.readouterr().out) is synthetic


def test_a_synthetic_model_on_the_hub_says_so_and_errors_are_not_ignored(tmp_path):
    code = """
from ham_hf.inference.run_files import is_trained_on_synthetic_images
from ham_hf.system.errors import InputError
for name in ("ada/made-up", "ada/silent", "ada/broken"):
    try:
        print(is_trained_on_synthetic_images(name))
    except InputError as error:
        print(error)
"""
    facts = File(b'{"data": {"synthetic": true}}', False)
    with HubServer() as hub:
        for name, files in {"made-up": {"run.json": facts}, "silent": {}, "broken": {"run.json": facts}}.items():
            hub.repos["models", f"ada/{name}"] = Repo(private=False)
            hub.repos["models", f"ada/{name}"].add_commit("main", "a model", files, None)
        hub.fail(".*/ada/broken/resolve", 403, times=9)
        said = subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | hub.environment(tmp_path),
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        ).stdout.splitlines()
    assert said[:2] == ["True", "False"] and said[2].startswith("ada/broken: run.json, if it exists, cannot be")


def test_a_prediction_leaves_no_state_that_breaks_training(tmp_path):
    """BEiT keeps tensors between passes, for all its instances."""
    folder = make_run_folder(tmp_path / "beit", "microsoft/beit-base-patch16-224-pt22k")
    probabilities(load_classifier(str(folder)), [Image.new("RGB", (40, 30))])
    another = load_classifier(str(folder)).model
    another.train()(pixel_values=torch.zeros(1, 3, 32, 32)).logits.sum().backward()
    assert any(weight.grad.abs().max() > 0 for weight in another.parameters() if weight.grad is not None)
