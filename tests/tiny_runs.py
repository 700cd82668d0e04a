"""The flags of a training of seconds that evaluates and saves in the middle of an epoch: hardest to resume."""

from pathlib import Path


def tiny_flags(checkpoint: Path, data: Path, output: Path, **changes) -> list[str]:
    """Of `checkpoint` (tests.tiny_checkpoints) on the synthetic images in `data`; 22 steps."""
    values = {
        "data_dir": data,
        "split": "grouped",
        "model_name_or_path": checkpoint,
        "normalization": "imagenet",
        "image_size": 32,
        "num_train_epochs": 2,
        "learning_rate": 1e-3,
        "per_device_train_batch_size": 8,
        "eval_strategy": "steps",
        "eval_steps": 7,
        "save_strategy": "steps",
        "save_steps": 7,
        "bf16": False,
        "output_dir": output,
    }
    return [str(part) for key, value in (values | changes).items() for part in (f"--{key}", value)]
