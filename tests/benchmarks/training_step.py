"""Time a training step on this CPU: ours against the Trainer's defaults, and the Trainer against a bare loop.

python -m tests.benchmarks.training_step
"""

import argparse
import copy
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import Dataset
from transformers import (
    PreTrainedModel,
    ResNetConfig,
    ResNetForImageClassification,
    TimmWrapperConfig,
    TimmWrapperForImageClassification,
    ViTConfig,
    ViTForImageClassification,
)

from ham_hf.models.depthwise import use_fast_gradients
from ham_hf.system.hardware import keep_freed_memory, supports_bf16, use_all_cores
from ham_hf.training.transforms import Collator
from tests.benchmarks import compare, header
from tests.benchmarks.epoch import Noise, epoch

BATCH, SIZE, STEPS = 16, 224, 2


def timm_model(architecture: str) -> PreTrainedModel:
    return TimmWrapperForImageClassification(TimmWrapperConfig(architecture=architecture, num_labels=7))


MODELS: dict[str, Callable[[], PreTrainedModel]] = {
    "ResNet-18": lambda: timm_model("resnet18"),
    "ResNet-50": lambda: ResNetForImageClassification(ResNetConfig(num_labels=7)),
    "ViT-B/16": lambda: ViTForImageClassification(ViTConfig(num_labels=7)),
    "EfficientNet-Lite0": lambda: timm_model("tf_efficientnet_lite0"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    use_all_cores(1)
    header("torch", "transformers", "accelerate", "timm")
    print(f"bfloat16 in hardware: {supports_bf16(use_cpu=True)}")
    for name, build in MODELS.items():
        torch.manual_seed(0)
        model = build()
        fast = copy.deepcopy(model).to(memory_format=torch.channels_last)
        use_fast_gradients(fast)
        sides = {"the Trainer's defaults (fp32)": steps(model, False)}
        if name == "EfficientNet-Lite0":
            stock = copy.deepcopy(model).to(memory_format=torch.channels_last)
            sides["bf16 and channels_last, stock depthwise gradients"] = steps(stock, True)
        compare(f"{name}, {BATCH} images of {SIZE} pixels", steps(fast, True), sides, args.rounds)
    # Last, for all sides: a process cannot return the freed memory that it keeps
    keep_freed_memory()
    model = timm_model("resnet18").to(memory_format=torch.channels_last)
    own, images = copy.deepcopy(model), Noise(12 * 64)
    compare(
        "Trainer (ours), 12 steps of 64 images, ResNet-18",
        lambda: epoch(own, images, Collator(True), 64),
        {"a bare loop": bare_loop(copy.deepcopy(model), images)},
        args.rounds,
    )


def steps(model: nn.Module, fast: bool) -> Callable[[], None]:
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4)
    pixels = torch.randn(BATCH, 3, SIZE, SIZE)
    if fast:
        pixels = pixels.contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, 7, (BATCH,))

    def run() -> None:
        for _ in range(STEPS):
            step(model, optimizer, pixels, labels, fast)

    return run


def step(model, optimizer, pixels, labels, bf16: bool) -> None:
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        logits = model(pixels).logits
    F.cross_entropy(logits.float(), labels).backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()


def bare_loop(model: nn.Module, images: Dataset) -> Callable[[], None]:
    optimizer = torch.optim.AdamW(model.parameters(), 5e-5)

    def run() -> None:
        model.train()
        loader = torch.utils.data.DataLoader(images, 64, True, collate_fn=Collator(True))
        for batch in loader:
            step(model, optimizer, batch["pixel_values"], batch["labels"], supports_bf16(use_cpu=True))

    return run


if __name__ == "__main__":
    main()
