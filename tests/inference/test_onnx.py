"""`ham-hf export onnx`: one file that predicts as the model does, and describes itself."""

import json
import sys

import numpy as np
import pytest
from PIL import Image

from ham_hf.cli.main import main
from ham_hf.inference import export, onnx
from ham_hf.inference.engine import probabilities
from ham_hf.inference.load import load_classifier
from ham_hf.labels import DISCLAIMER, LABELS
from ham_hf.system.errors import InputError
from tests.helpers.small_data import noise, read_rows
from tests.helpers.tiny_checkpoints import make_run_folder

for _name in ("onnx", "onnxscript", "onnxruntime"):
    pytest.importorskip(_name, reason=f"{_name} is not installed: pip install -e '.[onnx]'")


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    folder = make_run_folder(tmp_path_factory.mktemp("runs") / "vit", labels=LABELS[::-1])
    (folder / "run.json").write_text(json.dumps({"data": {"synthetic": True}}))
    return folder


@pytest.fixture(scope="module")
def exported(run_folder):
    assert main(["export", "onnx", str(run_folder)]) == 0
    return run_folder / "model.onnx"


def predicted(model, photos, target, capsys) -> tuple[list[dict], str]:
    """The rows of the CSV, and what was printed."""
    assert main(["predict", str(model), str(photos), "--csv", str(target)]) == 0
    return read_rows(target), capsys.readouterr().out


def test_the_command_predicts_the_same_from_the_file(run_folder, exported, tmp_path, capsys):
    for number in range(3):
        noise(90 + 20 * number, 60, seed=number).save(tmp_path / f"{number}.png")
    ours, printed = predicted(run_folder, tmp_path, tmp_path / "ours.csv", capsys)
    theirs, printed_of_file = predicted(exported, tmp_path, tmp_path / "theirs.csv", capsys)
    for one, other in zip(ours, theirs, strict=True):
        assert list(one) == list(other) == ["file", "prediction", *LABELS]
        assert one["file"] == other["file"] and one["prediction"] == other["prediction"]
        assert [float(other[label]) for label in LABELS] == pytest.approx(
            [float(one[label]) for label in LABELS], abs=1e-5
        )
    assert np.ptp([float(ours[0][label]) for label in LABELS]) > 0.05
    for out in (printed, printed_of_file):
        assert "trained on synthetic images" in out and out.endswith(DISCLAIMER + "\n")


def test_the_file_says_what_it_is_and_needs_nothing_of_ours(run_folder, exported):
    onnxruntime = sys.modules["onnxruntime"]
    session = onnxruntime.InferenceSession(exported)
    said = {name: json.loads(value) for name, value in session.get_modelmeta().custom_metadata_map.items()}
    assert said["labels"] == list(LABELS[::-1]) and said["synthetic"] is True and said["disclaimer"] == DISCLAIMER
    processor = json.loads((run_folder / "preprocessor_config.json").read_text())
    assert said["processor"]["image_mean"] == processor["image_mean"]
    assert said["processor"]["crop_size"] == processor["crop_size"]
    model, own = load_classifier(str(run_folder))
    for count in (1, 5):
        pixels = own([noise(seed=i) for i in range(count)], return_tensors="pt")["pixel_values"]
        [logits] = session.run(["logits"], {"pixel_values": pixels.numpy()})
        np.testing.assert_allclose(logits, model(pixels).logits.detach().numpy(), atol=1e-5)
    assert not [file for file in exported.parent.iterdir() if file.name.startswith(".onnx")]


@pytest.mark.parametrize("name", ["timm/resnet18.tv_in1k", "microsoft/beit-base-patch16-224-pt22k"])
def test_other_families_are_exported_too(name, tmp_path, capsys):
    folder = make_run_folder(tmp_path / "run", name)
    path, difference = export.export_onnx(str(folder), tmp_path / "small.onnx")
    assert path == tmp_path / "small.onnx" and 0 <= difference < 1e-5
    images = [noise(seed=i) for i in range(3)]
    theirs = probabilities(onnx.load_onnx(*onnx.open_onnx(path)), images)
    assert theirs == pytest.approx(probabilities(load_classifier(str(folder)), images), abs=1e-5)


def test_an_onnx_file_with_other_predictions_is_not_written(run_folder, exported, tmp_path, monkeypatch):
    before, original = exported.read_bytes(), onnx.OnnxModel.__call__

    def shifted(self, pixel_values):
        output = original(self, pixel_values)
        output.logits[:, 0] += 1
        return output

    monkeypatch.setattr(onnx.OnnxModel, "__call__", shifted)
    monkeypatch.setattr(export, "_write", lambda *args: args[-1].write_bytes(before))
    with pytest.raises(
        InputError, match="other probabilities in ONNX: they differ by up to 0.*expected at most 0.0001"
    ):
        export.export_onnx(str(run_folder), tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


def test_models_that_torch_cannot_export_are_named(run_folder, tmp_path, monkeypatch):
    from torch.onnx import OnnxExporterError

    def refuse(*_args, **_kwargs):
        raise OnnxExporterError("no such operator")

    monkeypatch.setattr("torch.onnx.export", refuse)
    with pytest.raises(InputError, match="torch cannot write a vit model as ONNX: no such operator"):
        export.export_onnx(str(run_folder), tmp_path / "model.onnx")


def test_foreign_and_damaged_files_are_refused(tmp_path, capsys):
    noise().save(tmp_path / "photo.png")
    helper = sys.modules["onnx"].helper
    value = helper.make_tensor_value_info("x", 1, [1])
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [value], [
        helper.make_tensor_value_info("y", 1, [1])
    ])  # fmt: skip
    foreign = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    sys.modules["onnx"].save(foreign, tmp_path / "foreign.onnx")
    (tmp_path / "damaged.onnx").write_bytes(b"no model")
    for name, message in (
        ("foreign", "has no metadata ham_hf, labels"),
        ("damaged", "onnxruntime cannot read it"),
        ("gone", "no file at"),
    ):
        assert main(["predict", str(tmp_path / f"{name}.onnx"), str(tmp_path / "photo.png")]) == 2
        assert message in capsys.readouterr().err
    assert main(["predict", str(tmp_path / "foreign.onnx"), str(tmp_path / "photo.png"), "--revision", "x"]) == 2
    assert "does not apply: remove it" in capsys.readouterr().err


def test_invalid_flags_are_refused(run_folder, exported, tmp_path, capsys):
    Image.new("RGB", (40, 40)).save(tmp_path / "photo.png")
    for output in (tmp_path / "model.bin", tmp_path / "none" / "model.onnx"):
        assert main(["export", "onnx", str(run_folder), "--output", str(output)]) == 2
        assert "--output" in capsys.readouterr().err
    assert main(["predict", str(exported), str(tmp_path / "photo.png"), "--age", "40"]) == 2
    assert "uses only the photograph" in capsys.readouterr().err


def test_without_onnxruntime_the_extra_is_named(exported, tmp_path, monkeypatch, capsys):
    noise().save(tmp_path / "photo.png")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert main(["predict", str(exported), str(tmp_path / "photo.png")]) == 2
    assert "ONNX requires onnxruntime, which is not installed: pip install " in capsys.readouterr().err


def test_models_too_large_for_one_file_are_refused(run_folder, monkeypatch):
    monkeypatch.setattr(export, "LARGEST", 1000)
    with pytest.raises(InputError, match="an ONNX file holds at most 2 GB"):
        export.export_onnx(str(run_folder), None)
