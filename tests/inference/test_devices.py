"""The same code on a GPU: what an Apple GPU cannot do is not asked of it."""

import json

import pytest
import torch
from PIL import Image
from transformers import Trainer

from ham_hf.cli.main import main as ham_hf
from ham_hf.system import hardware
from ham_hf.train import main
from ham_hf.training.ema import AveragedWeights
from tests.helpers.apple_gpu import apple_gpu
from tests.helpers.tiny_runs import tiny_flags

STEPS = [(Trainer, "training_step"), (AveragedWeights, "on_step_end")]
# All that touches tensors in a step, and after the training
EVERYTHING = {
    "loss": "ldam",
    "class_weighting": "balanced",
    "mixup": 0.2,
    "cutmix": 1.0,
    "rotation": 10,
    "shear": 5,
    "color_jitter": 0.2,
    "hue_jitter": 0.02,
    "sharpness_jitter": 0.2,
    "random_erasing": 0.5,
    "ema_decay": 0.9,
    "calibration": "temperature_and_prior",
    "melanoma_sensitivity": 0.9,
    "test_time_augmentation": "flips",
    "dx_type_weights": '{"histo": 1, "follow_up": 1, "consensus": 1, "confocal": 1}',
}
SHORT = {"max_steps": 3, "eval_steps": 3, "save_steps": 3}


def test_float64_stays_off_the_gpu_and_no_step_waits_for_it(tiny, synthetic_dir, tmp_path, monkeypatch):
    run = tmp_path / "run"
    Image.new("RGB", (60, 40), "brown").save(tmp_path / "photo.png")
    evaluate = ["evaluate", run, "--data_dir", synthetic_dir, "--output_dir", tmp_path / "evaluation"]
    with apple_gpu(monkeypatch, STEPS) as gpu:
        main(tiny_flags(tiny, synthetic_dir, run, **SHORT, **EVERYTHING))
        assert ham_hf(["predict", str(run), str(tmp_path / "photo.png")]) == 0
        assert ham_hf(list(map(str, evaluate))) == 0
    assert gpu.moved > 10
    assert json.loads((run / "run.json").read_text())["model"]["calibration"]


@pytest.mark.parametrize(
    "settings", [{"fusion": "mlp", "sampling": "balanced"}, {"freeze": "backbone", "augment": False, "loss": "focal"}]
)
def test_float64_stays_off_the_gpu_with_patients_and_with_features(
    settings, tiny, synthetic_dir, tmp_path, monkeypatch
):
    run = tmp_path / "run"
    with apple_gpu(monkeypatch, STEPS) as gpu:
        main(tiny_flags(tiny, synthetic_dir, run, **SHORT, **settings))
    assert gpu.moved > 2
    assert (run / "ablation" / "shuffled.csv").is_file() is ("fusion" in settings)


@pytest.mark.parametrize(("call", "error"), [("double", TypeError), ("item", RuntimeError), ("numpy", TypeError)])
def test_the_imposed_limits_are_limits(monkeypatch, call, error):
    monkeypatch.setitem(globals(), "__name__", "ham_hf.test")
    logits = torch.nn.Linear(2, 1)
    with apple_gpu(monkeypatch, []) as gpu, torch.no_grad():
        gpu.in_step = call == "item"
        with pytest.raises(error):
            getattr(logits(torch.ones(1, 2)), call)()
        gpu.in_step = False
        assert logits(torch.ones(1, 2)).cpu().double().numpy().shape == (1, 1)


def test_an_apple_gpu_gets_neither_channels_last_nor_the_cpu_s_bfloat16(monkeypatch):
    assert hardware.prefers_channels_last(torch.device("cpu"))
    assert not hardware.prefers_channels_last(torch.device("mps"))
    monkeypatch.setattr(hardware, "has_accelerator", lambda: True)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True})
    if not torch.cuda.is_available():
        assert not hardware.supports_bf16()
    assert hardware.supports_bf16(use_cpu=True)
