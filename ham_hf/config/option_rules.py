"""List the ranges of all numbers in a recipe, and which TrainingArguments are supported.

`TRAINING_ARGUMENTS` covers all fields of transformers 5.20 to 5.24, so that none is accepted and then ignored. Fields
of later versions are refused until they have a line here.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple


class Range(NamedTuple):
    """A range of numbers from `low` to `high`; `above` and `below` exclude these ends."""

    low: float
    high: float = math.inf
    above: bool = False
    below: bool = False
    example: float | None = None

    def has(self, value: float) -> bool:
        """Return whether `value` lies in the range; NaN and infinity lie in none."""
        low = value > self.low if self.above else value >= self.low
        high = value < self.high if self.below else value <= self.high
        return low and high and math.isfinite(value)

    def __str__(self) -> str:
        """Return what is expected, in words."""
        if self.high == math.inf:
            words = f"a number above {self.low:g}" if self.above else f"at least {self.low:g}"
        else:
            words = f"a number from {'above ' * self.above}{self.low:g} to {'below ' * self.below}{self.high:g}"
        return words if self.example is None else f"{words}, such as {self.example:g}"


COUNT = Range(1)
FROM_ZERO = Range(0)
PROBABILITY = Range(0, 1)
BELOW_ONE = Range(0, 1, below=True)
LEARNING_RATE = Range(0, 100, example=1e-3)
INTERVAL = Range(0, above=True)  # steps, or below 1 a share of all steps
PIXELS = Range(1, 4096)

# ham_hf's own options
RANGES: Mapping[str, Range] = {
    "max_train_samples": COUNT,
    "image_size": PIXELS,
    "eval_resize": PIXELS,
    "rotation": Range(0, 180, example=30),
    "shear": Range(0, 89, example=10),
    "perspective": Range(0, 0.49, example=0.2),
    "color_jitter": Range(0, 1, example=0.2),
    "hue_jitter": Range(0, 0.5, example=0.05),
    "sharpness_jitter": Range(0, 1, example=0.5),
    "randaugment_magnitude": Range(0, 30, example=9),
    "random_erasing": Range(0, 1, example=0.25),
    "mixup": Range(0, 100, example=0.2),
    "cutmix": Range(0, 100, example=1),
    "melanoma_sensitivity": Range(0, 1, above=True, example=0.9),
    "patient_dropout": BELOW_ONE,
    "image_position_range": Range(0, 10, example=0.02),
    "focal_gamma": Range(0, 10, example=2),
    "ldam_margin": Range(0, 100, example=0.5),
    "logit_adjustment": Range(0, 10, example=1),
    "class_weighting_start": FROM_ZERO,
    "soft_label_weight": Range(0, 1, above=True, example=0.5),
    "base_learning_rate": LEARNING_RATE,
    "image_learning_rate": LEARNING_RATE,
    "head_learning_rate": LEARNING_RATE,
    "layer_decay": Range(0, 1, above=True, example=0.75),
    "gradual_unfreezing": FROM_ZERO,
    "sgd_momentum": BELOW_ONE,
    "lr_decay_factor": Range(0, 1, above=True, example=0.1),
    "lr_decay_epochs": COUNT,
    "warmup_epochs": FROM_ZERO,
    "ema_decay": Range(0, 1, above=True, below=True, example=0.995),
    "early_stopping_patience": COUNT,
}

SUPPORTED = None

_PUBLISHES_NOTHING = "a run publishes nothing; remove it, and publish the finished run with `ham-hf push`"
_LANGUAGE = "it is for language models; remove it"
_EVALUATION = "the metrics require exactly the predictions for all validation images; remove it"
_PARALLEL = "only data parallelism, FSDP and DeepSpeed are supported; remove it"

# TrainingArguments: a range, or the reason why only the default is supported
TRAINING_ARGUMENTS: Mapping[str, Range | str | None] = {
    "output_dir": SUPPORTED,
    "per_device_train_batch_size": COUNT,
    "num_train_epochs": Range(0, 100_000, above=True),
    "max_steps": SUPPORTED,
    # Optimizer and schedule
    "learning_rate": LEARNING_RATE,
    "lr_scheduler_type": SUPPORTED,
    "lr_scheduler_kwargs": SUPPORTED,
    "warmup_steps": FROM_ZERO,
    "optim": SUPPORTED,
    "optim_args": SUPPORTED,
    "optim_target_modules": SUPPORTED,
    "weight_decay": Range(0, 100, example=0.01),
    "adam_beta1": BELOW_ONE,
    "adam_beta2": BELOW_ONE,
    "adam_epsilon": Range(0, 1, above=True, example=1e-8),
    "gradient_accumulation_steps": COUNT,
    "average_tokens_across_devices": "the loss is a mean over the images of all processes; remove it",
    "max_grad_norm": FROM_ZERO,
    "label_smoothing_factor": BELOW_ONE,
    # Precision, memory and speed
    "bf16": SUPPORTED,
    "fp16": SUPPORTED,
    "bf16_full_eval": "evaluation uses the precision of bf16 or fp16; remove it",
    "fp16_full_eval": "evaluation uses the precision of bf16 or fp16; remove it",
    "tf32": SUPPORTED,
    "activation_checkpointing": SUPPORTED,
    "activation_checkpointing_kwargs": SUPPORTED,
    "gradient_checkpointing": SUPPORTED,
    "gradient_checkpointing_kwargs": SUPPORTED,
    "torch_compile": SUPPORTED,
    "torch_compile_backend": SUPPORTED,
    "torch_compile_mode": SUPPORTED,
    "use_liger_kernel": _LANGUAGE,
    "liger_kernel_config": _LANGUAGE,
    "use_cache": _LANGUAGE,
    "neftune_noise_alpha": _LANGUAGE,
    "torch_empty_cache_steps": COUNT,
    "auto_find_batch_size": SUPPORTED,
    # Logging
    "logging_strategy": SUPPORTED,
    "logging_steps": INTERVAL,
    "logging_first_step": SUPPORTED,
    "log_on_each_node": SUPPORTED,
    "logging_nan_inf_filter": SUPPORTED,
    "include_num_input_tokens_seen": "images have no tokens to count; remove it",
    "log_level": SUPPORTED,
    "log_level_replica": SUPPORTED,
    "disable_tqdm": SUPPORTED,
    "report_to": SUPPORTED,
    "run_name": SUPPORTED,
    "project": SUPPORTED,
    "trackio_space_id": SUPPORTED,
    "trackio_bucket_id": SUPPORTED,
    "trackio_static_space_id": SUPPORTED,
    # Evaluation
    "eval_strategy": SUPPORTED,
    "eval_steps": INTERVAL,
    "eval_delay": FROM_ZERO,
    "per_device_eval_batch_size": COUNT,
    "prediction_loss_only": _EVALUATION,
    "eval_on_start": "it would count the untrained model among the evaluations of the run; remove it",
    "eval_do_concat_batches": _EVALUATION,
    "eval_use_gather_object": _EVALUATION,
    "eval_accumulation_steps": COUNT,
    "include_for_metrics": _EVALUATION,
    "batch_eval_metrics": _EVALUATION,
    "metric_for_best_model": SUPPORTED,
    "greater_is_better": SUPPORTED,
    # Checkpoints
    "save_only_model": SUPPORTED,
    "save_strategy": SUPPORTED,
    "save_steps": INTERVAL,
    "save_on_each_node": SUPPORTED,
    "save_total_limit": COUNT,
    "enable_jit_checkpoint": "an interrupted run resumes from its last checkpoint (--resume); remove it",
    "load_best_model_at_end": SUPPORTED,
    "resume_from_checkpoint": "use --resume, which resumes from the last checkpoint in --output_dir",
    "ignore_data_skip": SUPPORTED,
    "restore_callback_states_from_checkpoint": "--resume restores them; remove it",
    # The Hub
    "push_to_hub": _PUBLISHES_NOTHING,
    "hub_token": "it would be written into the run's files; remove it, and use HF_TOKEN or `hf auth login` to read "
    "private repositories",
    "hub_private_repo": _PUBLISHES_NOTHING,
    "hub_model_id": _PUBLISHES_NOTHING,
    "hub_strategy": _PUBLISHES_NOTHING,
    "hub_always_push": _PUBLISHES_NOTHING,
    "hub_revision": _PUBLISHES_NOTHING,
    # Randomness
    "full_determinism": SUPPORTED,
    "seed": SUPPORTED,
    "data_seed": SUPPORTED,
    # Data
    "dataloader_drop_last": SUPPORTED,
    "dataloader_num_workers": Range(0, 256, example=4),
    "dataloader_pin_memory": SUPPORTED,
    "dataloader_persistent_workers": SUPPORTED,
    "dataloader_prefetch_factor": COUNT,
    "dataloader_multiprocessing_context": SUPPORTED,
    "dataloader_in_order": "the order of the batches would depend on the speed of the workers; remove it",
    "remove_unused_columns": "the images would be removed before they are decoded; remove it",
    "label_names": "the pipeline uses 'labels'; remove it",
    "train_sampling_strategy": "an epoch shows the images in random order, or as `sampling` says; remove it",
    "length_column_name": _LANGUAGE,
    # Processes and devices
    "use_cpu": SUPPORTED,
    "accelerator_config": "the pipeline distributes the batches; remove it, and configure the processes with "
    "`accelerate launch`",
    "parallelism_config": _PARALLEL,
    "ddp_find_unused_parameters": SUPPORTED,
    "ddp_bucket_cap_mb": COUNT,
    "ddp_broadcast_buffers": "each process would evaluate with its own batch norm statistics; remove it",
    "ddp_static_graph": SUPPORTED,
    "ddp_backend": SUPPORTED,
    "ddp_timeout": COUNT,
    "fsdp": SUPPORTED,
    "fsdp_config": SUPPORTED,
    "deepspeed": SUPPORTED,
    "local_rank": "the launcher numbers the processes; remove it",
    # Other
    "debug": SUPPORTED,
    "skip_memory_metrics": SUPPORTED,
    "do_train": "a run always trains; remove it, and evaluate a trained model with `ham-hf evaluate`",
    "do_eval": "a run always ends with an evaluation of the validation images; remove it",
    "do_predict": SUPPORTED,
}

# Fields of the model's config that the pipeline sets or relies on
FIXED_CONFIG: tuple[str, ...] = (
    *("return_dict", "use_return_dict", "output_attentions", "output_hidden_states", "torchscript"),
    *("num_labels", "id2label", "label2id", "label_names", "problem_type", "num_channels"),
    *("model_type", "architectures", "architecture", "auto_map", "dtype", "torch_dtype", "use_cache"),
    *("image_processor_type", "transformers_version", "quantization_config"),
)
