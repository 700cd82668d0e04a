"""Try hundreds of odd values and combinations of options, each in a run of one step: none may end in a traceback.

    python -m tests.helpers.try_options --output outcomes.csv
    python -m tests.helpers.try_options adam_beta1 optim

Each trial is a forked process with a tiny ViT on 35 tiny images. It may end with exit code 0, or with 2, 3 or 4 and a
sentence; this script ends with 1 if a trial ended in a traceback, by a signal, or after two minutes. The names of
options select the trials that have them.
"""

import argparse
import contextlib
import csv
import faulthandler
import io
import os
import random
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

from tests.helpers.small_data import make_rows, write_folder

# Values of every option, by its type; an option with choices gets each of them, and "banana"
BY_TYPE = {
    int: ("-1", "0", "1", "2.5", "1000000000"),
    float: ("-1", "0", "1e-30", "0.5", "0.9999999", "1", "1.5", "1e30", "nan", "inf", "x"),
    str: ("", "banana", "a/b", "/dev/null", "/absent", "true"),
}
SWITCHES = ("true", "false", "perhaps")
JSON = ("foo", "{", "[]", "1", "{}", '{"foo": 1}')
# More values of the options whose type does not say which are odd
VALUES: dict[str, tuple[str, ...]] = {
    "output_dir": ("/dev/null/run", "/proc/run", "a\tb"),
    "data_dir": ("someone/absent",),
    "split": ("all", "study"),
    "split_seed": ("4294967296",),
    "seed": ("4294967296",),
    "per_device_train_batch_size": ("2", "7", "20"),
    "gradient_accumulation_steps": ("2",),
    "max_train_samples": ("2", "9"),
    "max_steps": ("-5",),
    "num_train_epochs": ("0.01",),
    "image_size": ("2", "16", "33", "64", "5000"),
    "train_size": (
        *(*JSON, "16", "33", "64", "5000", '{"1": 32}', '{"1": 32, "2": 64}', '{"2": 32}', '{"1": 32, "9": 16}'),
        *('{"1": 0}', '{"1": "x"}', '{"1": [32]}', '{"1": 1e9}', '{"-1": 32}', '{"x": 32}'),
    ),
    "eval_resize": ("31", "32", "1000", "5000"),
    "rotation": ("180", "181"),
    "shear": ("89", "90"),
    "perspective": ("0.49",),
    "randaugment_magnitude": ("31",),
    "lr_scheduler_kwargs": (
        *JSON,
        *('{"min_lr": 1e-6}', '{"min_lr": "x"}', '{"min_lr": [1, 2]}', '{"min_lr_rate": 0.1}', '{"factor": 2}'),
        *('{"num_decay_steps": 1}', '{"num_decay_steps": 0}', '{"num_decay_steps": 1, "decay_type": "banana"}'),
        *('{"num_cycles": "x"}', '{"num_cycles": 0}', '{"num_cycles": 1e30}', '{"num_warmup_steps": 1}'),
        *('{"lr_end": 1}', '{"power": -1}', '{"timescale": 0}', '{"mode": "banana"}', '{"patience": -1}'),
        '{"window_size": 0}',
    ),
    "optim": ("sgdd",),
    "optim_args": (
        *("foo", "a=b", "lr=1", "betas=1", "x=1,y", "weight_decay=1", "momentum=0.9", "momentum=-1", "nesterov=true"),
        *("scale_parameter=True", "relative_step=True", "lr_decay=-1", "alpha=x"),
    ),
    "optim_target_modules": ("all-linear",),
    "gradient_checkpointing_kwargs": (*JSON, '{"use_reentrant": true}', '{"use_reentrant": false}'),
    "torch_compile_backend": ("eager",),
    "liger_kernel_config": (*JSON, '{"foo": true}'),
    "include_num_input_tokens_seen": ("all", "non_padding", "no"),
    "report_to": ("none", "all", "tensorboard", "wandb", "mlflow"),
    "eval_strategy": ("no", "steps", "epoch"),
    "eval_delay": ("100",),
    "include_for_metrics": ("inputs", "loss"),
    "save_strategy": ("no", "steps", "epoch", "best"),
    "metric_for_best_model": (
        *("accuracy", "loss", "eval_loss", "ece", "macro_auroc", "recall_mel", "recall_nv", "auroc_df", "train_loss"),
        *("support_mel", "top_class_share", "runtime", "recall_scar"),
    ),
    "accelerator_config": (
        *(*JSON, '{"split_batches": true}', '{"dispatch_batches": true}', '{"even_batches": false}'),
        *('{"use_seedable_sampler": false}', '{"gradient_accumulation_kwargs": {"num_steps": 2}}'),
        *('{"non_blocking": true}', '{"use_configured_state": true}'),
    ),
    "dataloader_num_workers": ("1",),
    "label_names": ("labels", "label"),
    "fsdp": ("full_shard",),
    "fsdp_config": (*JSON, '{"min_num_params": 1}'),
    "deepspeed": (*JSON, '{"zero_optimization": {"stage": 3}}'),
    "debug": ("underflow_overflow", "tpu_metrics_debug"),
    "resume_from_checkpoint": ("last",),
    "diagnosis_map": (*JSON, '{"foo": "nv"}'),
    "dx_type_weights": (*JSON, *(f'{{"histo": {weight}}}' for weight in ("1", "0", "-1", "1e300", '"x"'))),
    "model_name_or_path": ("someone/absent", "timm/absent", "pypi:absent"),
    "text_model_name_or_path": ("pypi:absent",),
    "freeze": ("none", "backbone", ",", "vit", "classifier", "vit,classifier"),
    "config_overrides": (
        *(*JSON, '{"return_dict": false}', '{"output_attentions": true}', '{"output_hidden_states": true}'),
        *('{"hidden_dropout_prob": 2}', '{"hidden_dropout_prob": "x"}', '{"hidden_size": 7}', '{"num_labels": 3}'),
        *('{"num_hidden_layers": 0}', '{"hidden_act": "banana"}', '{"num_attention_heads": 0}', '{"patch_size": 0}'),
        *('{"problem_type": "regression"}', '{"id2label": {"0": "x"}}', '{"patch_size": 64}', '{"image_size": 1}'),
        *('{"num_channels": 1}', '{"layer_norm_eps": -1}', '{"dtype": "float16"}', '{"model_type": "bert"}'),
        *('{"architectures": ["X"]}', '{"torchscript": true}', '{"model_args": {"x": 1}}'),
        '{"model_args": {"drop_rate": 2}}',
    ),
}
# Options that depend on each other: combinations of two or three of a line are tried
GROUPS = [
    line.split()
    for line in """\
eval_strategy save_strategy eval_steps save_steps load_best_model_at_end eval_delay metric_for_best_model
metric_for_best_model greater_is_better calibration classes melanoma_sensitivity early_stopping_patience fusion
lr_scheduler_type lr_scheduler_kwargs
lr_scheduler_type lr_decay_factor lr_decay_epochs warmup_epochs warmup_steps learning_rate load_best_model_at_end
lr_scheduler_type gradual_unfreezing head_learning_rate layer_decay freeze eval_strategy
optim optim_args optim_target_modules optimizer
optimizer sgd_momentum sgd_nesterov adam_beta1 adam_epsilon weight_decay max_grad_norm learning_rate
optim head_learning_rate layer_decay gradual_unfreezing image_learning_rate base_learning_rate
fp16 bf16 fp16_full_eval bf16_full_eval tf32 use_cpu
gradient_checkpointing gradient_checkpointing_kwargs freeze fusion
torch_compile torch_compile_backend torch_compile_mode
dataloader_num_workers dataloader_prefetch_factor dataloader_persistent_workers dataloader_in_order pixel_cache
dataloader_num_workers dataloader_multiprocessing_context sampling pixel_cache
dataloader_drop_last per_device_train_batch_size max_train_samples fusion mixup cutmix gradient_accumulation_steps
max_train_samples class_weighting sampling loss calibration logit_adjustment
fsdp fsdp_config deepspeed ema_decay
freeze augment ema_decay mixup dx_type_weights sampling gradient_checkpointing neftune_noise_alpha fusion
fusion patient_dropout image_learning_rate test_time_augmentation calibration train_size image_size config_overrides
fusion text_model_name_or_path patient_encoding image_position_range
image_size eval_resize train_size freeze augment pixel_cache
auto_augment randaugment_magnitude augment mixup cutmix random_erasing
loss focal_gamma ldam_margin label_smoothing_factor logit_adjustment class_weighting class_weighting_start mixup
soft_labels soft_label_weight label_smoothing_factor
sampling class_weighting data_seed accelerator_config train_sampling_strategy
base_learning_rate learning_rate auto_find_batch_size per_device_train_batch_size
max_steps num_train_epochs do_train do_eval do_predict
resume resume_from_checkpoint save_only_model ignore_data_skip save_total_limit
report_to run_name logging_strategy logging_steps
prediction_loss_only eval_accumulation_steps eval_do_concat_batches batch_eval_metrics include_for_metrics
label_names remove_unused_columns push_to_hub hub_model_id full_determinism channels_last""".splitlines()
]
COMBINATIONS = 10  # of each group
EXPECTED = (0, 2, 3, 4)  # exit codes
TIMEOUT = 120  # seconds of a trial


def values() -> dict[str, tuple[str, ...]]:
    """Return the values to try of every option of a run."""
    from ham_hf.config.recipe import recipe_parser

    found = {}
    for action in recipe_parser()._actions:
        name = action.dest
        if action.nargs == 0:  # --help, and the --no_… of switches
            continue
        if action.choices:
            usual = (*map(str, action.choices), "banana")
        elif getattr(action.type, "__name__", "") == "string_to_bool":
            usual = SWITCHES
        else:
            usual = BY_TYPE.get(action.type, BY_TYPE[str])
        found[name] = tuple(dict.fromkeys((*usual, *VALUES.get(name, ()))))
    return found


def trials() -> list[dict[str, str]]:
    """Return the options and their values of every trial, the same in every call."""
    of = values()
    rng = random.Random(0)
    chosen = [{name: value} for name, tried in of.items() for value in tried]
    for group in GROUPS:
        for _ in range(COMBINATIONS):
            names = rng.sample(group, min(len(group), rng.choice((2, 3))))
            chosen.append({name: rng.choice(of[name]) for name in names})
    return chosen


def write_tiny(folder: Path) -> dict[str, str | int]:
    """Write a ViT and 35 images to `folder`; return the options of a one-step run on them."""
    import torch
    from transformers import BitImageProcessor, ViTConfig, ViTForImageClassification

    torch.manual_seed(2)  # the same weights whatever ran before; of seeds 0 and 1, they predict akiec untrained
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    ViTForImageClassification(ViTConfig(**sizes, image_size=32, patch_size=16)).save_pretrained(folder / "vit")
    crop = {"height": 32, "width": 32}
    BitImageProcessor(size={"shortest_edge": 32}, crop_size=crop).save_pretrained(folder / "vit")
    return {
        "data_dir": str(write_folder(folder / "data", make_rows(35, 1))),
        "split": "grouped",
        "model_name_or_path": str(folder / "vit"),
        "image_size": 32,
        "per_device_train_batch_size": 8,
        "max_steps": 1,
        "disable_tqdm": "true",
        "do_predict": "false",
    }


def run_trial(flags: dict[str, str | int], options: dict[str, str], output: Path) -> tuple[int, str]:
    """Train with `options` in this process; return the exit code (1: a traceback) and the last message."""
    from ham_hf.cli.main import main
    from tests.helpers.tiny_runs import flags_of

    values = flags | {"output_dir": output} | options
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        try:
            code = main(["train", *flags_of(values)])
        except SystemExit as end:
            code, _ = 1, said.write(f"SystemExit: {end.code}")
        except BaseException:
            code, _ = 1, said.write(traceback.format_exc())
    lines = said.getvalue().strip().splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    return code, (errors or lines or [""])[-1]


def _fork(flags: dict[str, str | int], options: dict[str, str], folder: Path) -> tuple[int, str]:
    said = folder / "said"
    child = os.fork()
    if not child:
        with contextlib.suppress(BaseException):
            os.setsid()
            os.chdir(folder)
            faulthandler.dump_traceback_later(TIMEOUT, exit=True)
            code, text = run_trial(flags, options, folder / "run")
            said.write_text(text)
            os._exit(code)
        os._exit(99)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status), said.read_text() if said.exists() else ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="a CSV of the outcomes")
    parser.add_argument("names", nargs="*", help="options (default: all)")
    args = parser.parse_args()
    import ham_hf.train  # noqa: F401  (once, before the forks)

    chosen = [options for options in trials() if not args.names or set(args.names) & set(options)]
    outcomes, rows = Counter(), []
    with tempfile.TemporaryDirectory(prefix="ham_hf-options-") as folder:
        flags = write_tiny(Path(folder))
        for number, options in enumerate(chosen):
            started = time.monotonic()
            trial = Path(folder) / f"trial_{number}"
            trial.mkdir()
            code, text = _fork(flags, options, trial)
            outcomes[code] += 1
            words = " ".join(f"--{name} {value}" for name, value in options.items())
            rows.append([code, round(time.monotonic() - started, 1), words, text])
            if code not in EXPECTED:
                print(f"{code}: {words}: {text}", flush=True)
    if args.output:
        with args.output.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([["exit_code", "seconds", "options", "said"], *rows])
    print(f"{len(rows)} trials: " + ", ".join(f"{count} with exit code {code}" for code, count in outcomes.items()))
    return int(any(code not in EXPECTED for code in outcomes))


if __name__ == "__main__":
    sys.exit(main())
