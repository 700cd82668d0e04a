"""Try hundreds of odd values and pairs of options, each in a run of one step: none may end in a traceback.

    python -m tests.helpers.try_options --output outcomes.csv
    python -m tests.helpers.try_options adam_beta1 optim

Each trial is a forked process with a tiny ViT on 35 tiny images. It may end with exit code 0, or with 2, 3 or 4 and a
sentence; this script ends with 1 where a trial ended in a traceback, by a signal, or after two minutes. The names of
options choose the trials that have them.
"""

import argparse
import contextlib
import csv
import faulthandler
import io
import os
import sys
import tempfile
import time
import traceback
from collections import Counter
from itertools import chain
from pathlib import Path

from tests.helpers.small_data import make_rows, write_folder

OPTIMIZERS = """adamw_torch adamw_torch_fused adamw_torch_xla adamw_torch_npu_fused adafactor adamw_anyprecision
adamw_torch_4bit adamw_torch_8bit ademamix sgd adagrad adamw_bnb_8bit adamw_8bit ademamix_8bit lion_8bit lion_32bit
paged_adamw_32bit paged_lion_8bit rmsprop rmsprop_bnb rmsprop_bnb_32bit galore_adamw galore_adamw_layerwise lomo
adalomo grokadamw schedule_free_radam schedule_free_adamw schedule_free_sgd apollo_adamw stable_adamw sgdd""".split()
SCHEDULES = """linear cosine cosine_with_restarts polynomial constant constant_with_warmup inverse_sqrt
reduce_lr_on_plateau cosine_with_min_lr cosine_warmup_with_min_lr warmup_stable_decay greedy cosinee""".split()
INTEGERS = ("-1", "0", "1", "1000000000")
NUMBERS = ("-1", "0", "0.5", "1", "1.5", "1e30", "nan", "inf", "x")
SHARES = ("-0.1", "0", "0.9999999", "1", "2", "nan")
SWITCHES = ("true", "false", "perhaps")
WORDS = ("", "banana")

# Values of one option
SINGLES: dict[str, tuple[str, ...]] = {
    # TrainingArguments
    "output_dir": ("", "/dev/null/run", "/proc/run", "a\tb"),
    "per_device_train_batch_size": (*INTEGERS, "2.5", "7", "20"),
    "per_device_eval_batch_size": INTEGERS,
    "num_train_epochs": ("-1", "0", "0.01", "1e-9", "1e30", "nan"),
    "max_steps": ("-5", "-1", "0", "1", "2.5"),
    "learning_rate": ("-1", "0", "1e-30", "1", "1e30", "1e300", "nan"),
    "lr_scheduler_type": tuple(SCHEDULES),
    "lr_scheduler_kwargs": ("foo", "[]", '{"foo": 1}', "{}", "{", '{"num_cycles": "x"}', "1"),
    "warmup_steps": NUMBERS,
    "optim": tuple(OPTIMIZERS),
    "optim_args": ("foo", "a=b", "lr=1", "betas=1", "", "x=1,y"),
    "optim_target_modules": ("all-linear", "foo", ""),
    "weight_decay": NUMBERS,
    "adam_beta1": SHARES,
    "adam_beta2": SHARES,
    "adam_epsilon": ("-1", "0", "1", "1e30"),
    "gradient_accumulation_steps": (*INTEGERS, "2"),
    "average_tokens_across_devices": SWITCHES,
    "max_grad_norm": NUMBERS,
    "label_smoothing_factor": SHARES,
    "bf16": SWITCHES,
    "fp16": SWITCHES,
    "bf16_full_eval": SWITCHES,
    "fp16_full_eval": SWITCHES,
    "tf32": SWITCHES,
    "gradient_checkpointing": SWITCHES,
    "gradient_checkpointing_kwargs": ("foo", "{}", '{"use_reentrant": true}', '{"foo": 1}'),
    "torch_compile_backend": ("banana",),
    "torch_compile_mode": ("banana",),
    "use_liger_kernel": SWITCHES,
    "liger_kernel_config": ('{"foo": true}', "foo"),
    "use_cache": SWITCHES,
    "neftune_noise_alpha": ("-1", "0", "5"),
    "torch_empty_cache_steps": INTEGERS,
    "auto_find_batch_size": SWITCHES,
    "logging_strategy": ("no", "steps", "epoch", "banana"),
    "logging_steps": NUMBERS,
    "logging_first_step": SWITCHES,
    "log_on_each_node": SWITCHES,
    "logging_nan_inf_filter": SWITCHES,
    "include_num_input_tokens_seen": ("all", "non_padding", "no", "banana", "true"),
    "log_level": ("debug", "banana", ""),
    "log_level_replica": ("debug", "banana"),
    "disable_tqdm": SWITCHES,
    "report_to": ("none", "all", "banana", "", "tensorboard", "wandb", "mlflow"),
    "run_name": ("", "a/b"),
    "project": ("", "a/b"),
    "trackio_space_id": ("a/b",),
    "trackio_bucket_id": ("a/b",),
    "eval_strategy": ("no", "steps", "epoch", "banana"),
    "eval_steps": NUMBERS,
    "eval_delay": ("-1", "0.5", "1", "100", "1e30"),
    "prediction_loss_only": SWITCHES,
    "eval_on_start": SWITCHES,
    "eval_do_concat_batches": SWITCHES,
    "eval_use_gather_object": SWITCHES,
    "eval_accumulation_steps": INTEGERS,
    "include_for_metrics": ("inputs", "loss", "banana"),
    "batch_eval_metrics": SWITCHES,
    "save_only_model": SWITCHES,
    "save_strategy": ("no", "steps", "epoch", "best", "banana"),
    "save_steps": NUMBERS,
    "save_on_each_node": SWITCHES,
    "save_total_limit": ("-1", "0", "1", "1000000000"),
    "enable_jit_checkpoint": SWITCHES,
    "push_to_hub": SWITCHES,
    "hub_token": ("x",),
    "hub_private_repo": SWITCHES,
    "hub_model_id": ("a/b", ""),
    "hub_strategy": ("end", "banana"),
    "hub_always_push": SWITCHES,
    "hub_revision": ("x",),
    "load_best_model_at_end": SWITCHES,
    "metric_for_best_model": (
        *("accuracy", "loss", "eval_loss", "ece", "macro_auroc", "recall_mel", "auroc_df", "banana", "", "train_loss"),
        *("support_mel", "top_class_share", "runtime", "recall_scar"),
    ),
    "greater_is_better": SWITCHES,
    "ignore_data_skip": SWITCHES,
    "restore_callback_states_from_checkpoint": SWITCHES,
    "full_determinism": SWITCHES,
    "seed": (*INTEGERS, "4294967296"),
    "data_seed": INTEGERS,
    "use_cpu": SWITCHES,
    "accelerator_config": (
        *(
            '{"foo": 1}',
            "foo",
            "{}",
            '{"split_batches": true}',
            '{"dispatch_batches": true}',
            '{"even_batches": false}',
        ),
        *('{"use_seedable_sampler": false}', '{"gradient_accumulation_kwargs": {"num_steps": 2}}'),
        *('{"non_blocking": true}', '{"use_configured_state": true}', "[]"),
    ),
    "dataloader_drop_last": SWITCHES,
    "dataloader_num_workers": ("-1", "1"),
    "dataloader_pin_memory": SWITCHES,
    "dataloader_persistent_workers": SWITCHES,
    "dataloader_prefetch_factor": INTEGERS,
    "dataloader_multiprocessing_context": ("fork", "banana"),
    "dataloader_in_order": SWITCHES,
    "remove_unused_columns": SWITCHES,
    "label_names": ("labels", "foo", "label"),
    "train_sampling_strategy": ("random", "sequential", "group_by_length", "banana"),
    "length_column_name": ("foo",),
    "ddp_find_unused_parameters": SWITCHES,
    "ddp_bucket_cap_mb": ("-1", "0"),
    "ddp_broadcast_buffers": SWITCHES,
    "ddp_static_graph": SWITCHES,
    "ddp_backend": ("gloo", "nccl", "banana"),
    "ddp_timeout": ("-1", "0"),
    "fsdp": ("full_shard", "banana", "", "true"),
    "fsdp_config": ("foo", "{}", '{"min_num_params": 1}'),
    "deepspeed": ("foo", "{}", '{"zero_optimization": {"stage": 3}}'),
    "debug": ("underflow_overflow", "tpu_metrics_debug", "banana"),
    "skip_memory_metrics": SWITCHES,
    "do_train": SWITCHES,
    "do_eval": SWITCHES,
    "do_predict": SWITCHES,
    "resume_from_checkpoint": ("/absent", "true", "last", ""),
    "local_rank": ("-1", "0", "5"),
    # Options of ham_hf
    "resume": SWITCHES,
    "base_learning_rate": ("-1", "0", "1e30", "nan"),
    "image_learning_rate": ("-1", "1e-3"),
    "head_learning_rate": ("-1", "0", "1e30"),
    "layer_decay": ("-1", "0", "0.5", "2"),
    "gradual_unfreezing": ("-1", "0.5", "1e30"),
    "optimizer": ("adamw", "adam", "sgd", "banana"),
    "sgd_momentum": SHARES,
    "sgd_nesterov": SWITCHES,
    "lr_decay_factor": ("-1", "0", "0.5", "2"),
    "lr_decay_epochs": INTEGERS,
    "warmup_epochs": INTEGERS,
    "ema_decay": SHARES,
    "early_stopping_patience": INTEGERS,
    "stop_on_collapse": SWITCHES,
    "channels_last": SWITCHES,
    "data_dir": ("", "/absent", "/dev/null", "someone/absent"),
    "data_revision": ("x", ""),
    "split": ("", "banana", "all", "study", "/dev/null"),
    "metadata_csv": ("", "absent.csv", "/dev/null"),
    "split_seed": ("-1", "4294967296"),
    "group_near_duplicates": SWITCHES,
    "allow_missing_images": SWITCHES,
    "pixel_cache": SWITCHES,
    "classes": ("nevus_or_other", "banana"),
    "max_train_samples": INTEGERS,
    "image_size": ("-1", "0", "1", "2", "16", "33", "64", "5000"),
    "train_size": ("-1", "0", "1", "16", "33", "64", "5000"),
    "eval_resize": ("-1", "0", "1", "31", "32", "1000", "5000"),
    "augment": SWITCHES,
    "crop_scale": ("0", "2", "-1"),
    "rotation": ("-1", "180", "181"),
    "shear": ("-1", "89", "90"),
    "perspective": ("-1", "0.49", "0.5"),
    "color_jitter": ("-1", "1", "2"),
    "hue_jitter": ("-1", "0.5", "1"),
    "sharpness_jitter": ("-1", "1", "2"),
    "auto_augment": ("randaugment", "trivialaugment", "banana"),
    "randaugment_magnitude": ("-1", "31"),
    "random_erasing": ("-1", "1", "2"),
    "mixup": ("-1", "1e-30", "1", "1e30", "inf"),
    "cutmix": ("-1", "1e-30", "1", "1e30"),
    "normalization": ("imagenet", "none", "twice", "banana"),
    "loss": ("focal", "ldam", "banana"),
    "focal_gamma": ("-1", "1", "1e30"),
    "ldam_margin": ("-1", "1", "1e30"),
    "logit_adjustment": ("-1", "0.5", "1", "10", "1e30"),
    "class_weighting": ("square_root", "balanced", "banana"),
    "class_weighting_start": ("-1", "1"),
    "sampling": ("square_root", "balanced", "banana"),
    "dx_type_weights": (
        "foo",
        "{}",
        '{"histo": 1}',
        '{"histo": 0}',
        '{"histo": -1}',
        '{"histo": 1e300}',
        '{"histo": "x"}',
    ),
    "model_name_or_path": ("", "/absent", "someone/absent", "timm/absent", "pypi:absent", "/dev/null"),
    "model_revision": ("x", ""),
    "freeze": ("", "backbone", "banana", ",", "vit", "classifier", "vit,classifier", "none"),
    "config_overrides": (
        *("foo", "{}", '{"return_dict": false}', '{"output_attentions": true}', '{"output_hidden_states": true}'),
        *('{"hidden_dropout_prob": 2}', '{"hidden_dropout_prob": "x"}', '{"hidden_size": 7}', '{"num_labels": 3}'),
        *('{"num_hidden_layers": 0}', '{"foo": 1}', '{"hidden_act": "banana"}', '{"num_attention_heads": 0}'),
        *('{"problem_type": "regression"}', '{"id2label": {"0": "x"}}', '{"patch_size": 0}', '{"patch_size": 64}'),
        *('{"image_size": 1}', '{"num_channels": 1}', '{"layer_norm_eps": -1}', '{"dtype": "float16"}'),
        *('{"model_type": "bert"}', '{"architectures": ["X"]}', '{"torchscript": true}', '{"model_args": {"x": 1}}'),
    ),
    "test_time_augmentation": ("flips", "scales", "banana"),
    "calibration": ("temperature", "temperature_and_prior", "banana"),
    "melanoma_sensitivity": ("-1", "0", "0.9", "1", "2"),
    "fusion": ("mlp", "mmbt", "banana"),
    "text_model_name_or_path": ("x", ""),
    "text_model_revision": ("x",),
    "patient_encoding": ("codes", "banana"),
    "patient_dropout": SHARES,
    "image_position_range": ("-1", "0", "1e30"),
}

# Values of several options at a time
PAIRS = tuple(
    dict(part.split("=", 1) for part in line.split("; "))
    for line in """\
eval_strategy=steps; save_strategy=steps
eval_strategy=steps; save_strategy=steps; eval_steps=0; save_steps=0
eval_strategy=steps; save_strategy=steps; eval_steps=0.5; save_steps=0.5
eval_strategy=steps; save_strategy=steps; eval_steps=1.5; save_steps=1.5
eval_strategy=steps; save_strategy=steps; eval_steps=-1; save_steps=-1
eval_strategy=steps; save_strategy=steps; eval_steps=1000; save_steps=1000
eval_strategy=no; save_strategy=no; load_best_model_at_end=false
eval_strategy=no; save_strategy=no
eval_strategy=no; save_strategy=epoch; load_best_model_at_end=false
eval_strategy=no; save_strategy=best; load_best_model_at_end=false
eval_strategy=no; load_best_model_at_end=false; lr_scheduler_type=greedy
eval_strategy=no; load_best_model_at_end=false; early_stopping_patience=1
eval_strategy=epoch; save_strategy=no; load_best_model_at_end=false
eval_strategy=epoch; save_strategy=best; metric_for_best_model=loss
save_strategy=no; load_best_model_at_end=false; metric_for_best_model=
load_best_model_at_end=false; metric_for_best_model=banana
load_best_model_at_end=false; save_steps=0; save_strategy=steps
load_best_model_at_end=false; save_steps=-1; save_strategy=steps
load_best_model_at_end=false; early_stopping_patience=1
eval_delay=100; load_best_model_at_end=true
eval_delay=100; save_strategy=best
logging_strategy=steps; logging_steps=0
logging_strategy=steps; logging_steps=-1
logging_strategy=no; logging_steps=0
logging_strategy=epoch; logging_steps=-1
lr_scheduler_type=cosine_with_min_lr; lr_scheduler_kwargs={"min_lr": 1e-6}
lr_scheduler_type=cosine_with_min_lr; lr_scheduler_kwargs={"min_lr_rate": 0.1}
lr_scheduler_type=cosine_with_min_lr; lr_scheduler_kwargs={"min_lr": "x"}
lr_scheduler_type=cosine_with_min_lr; learning_rate=0; lr_scheduler_kwargs={"min_lr": 1e-6}
lr_scheduler_type=cosine_warmup_with_min_lr; lr_scheduler_kwargs={"min_lr_rate": 0.1}
lr_scheduler_type=warmup_stable_decay; lr_scheduler_kwargs={"num_decay_steps": 1}
lr_scheduler_type=warmup_stable_decay; lr_scheduler_kwargs={"num_decay_steps": 0}
lr_scheduler_type=warmup_stable_decay; lr_scheduler_kwargs={"num_decay_steps": 1, "decay_type": "banana"}
lr_scheduler_type=polynomial; lr_scheduler_kwargs={"lr_end": 1}
lr_scheduler_type=polynomial; lr_scheduler_kwargs={"power": -1}
lr_scheduler_type=polynomial; learning_rate=1e-9
lr_scheduler_type=inverse_sqrt; lr_scheduler_kwargs={"timescale": 0}
lr_scheduler_type=inverse_sqrt; warmup_steps=0
lr_scheduler_type=constant; lr_scheduler_kwargs={"num_warmup_steps": 1}
lr_scheduler_type=constant; lr_decay_factor=0
lr_scheduler_type=constant; lr_decay_factor=-1
lr_scheduler_type=constant; lr_decay_factor=1e30; lr_decay_epochs=1
lr_scheduler_type=constant; lr_decay_factor=0.5; warmup_epochs=1000000000
lr_scheduler_type=constant; lr_decay_factor=0.5; lr_scheduler_kwargs={"foo": 1}
lr_scheduler_type=constant; lr_decay_factor=0.5; gradual_unfreezing=0.5
lr_scheduler_type=constant; warmup_steps=10
lr_scheduler_type=cosine_with_restarts; lr_scheduler_kwargs={"num_cycles": 0}
lr_scheduler_type=cosine; lr_scheduler_kwargs={"num_cycles": 1e30}
lr_scheduler_type=reduce_lr_on_plateau; lr_scheduler_kwargs={"factor": 2}
lr_scheduler_type=reduce_lr_on_plateau; lr_scheduler_kwargs={"mode": "banana"}
lr_scheduler_type=reduce_lr_on_plateau; lr_scheduler_kwargs={"patience": -1}
lr_scheduler_type=reduce_lr_on_plateau; eval_delay=100; load_best_model_at_end=false
lr_scheduler_type=reduce_lr_on_plateau; gradual_unfreezing=1
lr_scheduler_type=greedy; lr_scheduler_kwargs={"foo": 1}
lr_scheduler_type=greedy; lr_scheduler_kwargs={"factor": 2}
lr_scheduler_type=greedy; lr_scheduler_kwargs={"window_size": 0}
lr_scheduler_type=greedy; head_learning_rate=1
lr_scheduler_type=reduce_lr_on_plateau; head_learning_rate=1; lr_scheduler_kwargs={"min_lr": [1, 2]}
optim=adamw_torch; optim_args=weight_decay=1
optim=sgd; optim_args=momentum=0.9
optim=sgd; optim_args=nesterov=true
optim=sgd; optim_args=momentum=-1
optim=adafactor; optim_args=scale_parameter=True
optim=adafactor; optim_args=relative_step=True
optim=adagrad; optim_args=lr_decay=-1
optim=rmsprop; optim_args=alpha=x
optim=sgd; optimizer=sgd
optim=adafactor; optimizer=adam
optim=adafactor; head_learning_rate=1e-3
optim=adafactor; layer_decay=0.5
optim=rmsprop; gradual_unfreezing=0.5
optim_args=foo; optimizer=sgd
optim_args=foo; optimizer=adam
optimizer=adam; adam_beta1=1.5
optimizer=adam; weight_decay=-1
optimizer=sgd; sgd_momentum=0; sgd_nesterov=true
optimizer=sgd; sgd_momentum=-1
optimizer=sgd; sgd_momentum=5
optimizer=sgd; learning_rate=1e30
optimizer=adam; adam_epsilon=0
optimizer=sgd; adam_beta1=0.5
optim_target_modules=all-linear; optim=galore_adamw
fp16=true; bf16=true
fp16=true; bf16=false
fp16_full_eval=true; bf16_full_eval=true
fp16_full_eval=true; bf16=false
bf16=true; bf16_full_eval=true
tf32=true; use_cpu=true
gradient_checkpointing=true; gradient_checkpointing_kwargs={"use_reentrant": false}
gradient_checkpointing=true; gradient_checkpointing_kwargs={"foo": 1}
gradient_checkpointing=true; freeze=backbone
torch_compile=true; torch_compile_backend=banana
torch_compile=true; torch_compile_backend=eager
torch_compile=true; torch_compile_backend=eager; torch_compile_mode=banana
dataloader_num_workers=1; dataloader_prefetch_factor=0
dataloader_num_workers=1; dataloader_prefetch_factor=-1
dataloader_num_workers=1; dataloader_prefetch_factor=2
dataloader_num_workers=1; dataloader_persistent_workers=true
dataloader_num_workers=1; dataloader_multiprocessing_context=banana
dataloader_num_workers=1; dataloader_multiprocessing_context=spawn
dataloader_num_workers=1; dataloader_multiprocessing_context=forkserver
dataloader_num_workers=1; dataloader_in_order=false
dataloader_num_workers=1; pixel_cache=true
dataloader_num_workers=0; dataloader_persistent_workers=true
dataloader_drop_last=true; per_device_train_batch_size=1000
dataloader_drop_last=true; per_device_train_batch_size=20
dataloader_drop_last=true; max_train_samples=1
max_train_samples=1; per_device_train_batch_size=1
max_train_samples=1; class_weighting=balanced
max_train_samples=1; sampling=balanced
max_train_samples=1; loss=ldam
max_train_samples=1; calibration=temperature_and_prior
max_train_samples=1; mixup=0.2
max_train_samples=1; cutmix=1
max_train_samples=2; logit_adjustment=1
per_device_train_batch_size=1; mixup=0.2
per_device_train_batch_size=1; cutmix=1
per_device_train_batch_size=2; gradient_accumulation_steps=1000
fsdp=full_shard; fsdp_config={"min_num_params": 1}
fsdp=banana; fsdp_config=foo
fsdp=full_shard; deepspeed={}
deepspeed=foo; fsdp=
ema_decay=0.5; fsdp=full_shard
ema_decay=0.5; freeze=backbone
ema_decay=0.5; freeze=backbone; augment=false
freeze=backbone; augment=false
freeze=backbone; augment=false; mixup=0.2
freeze=backbone; augment=false; dx_type_weights={"histo": 1}
freeze=backbone; augment=false; sampling=balanced
freeze=backbone; augment=false; gradient_checkpointing=true
freeze=backbone; augment=false; neftune_noise_alpha=1
freeze=backbone; augment=false; fusion=mlp
freeze=backbone; fusion=mlp
freeze=backbone; head_learning_rate=1
freeze=backbone; layer_decay=0.5
freeze=backbone; gradual_unfreezing=0.5
freeze=classifier; head_learning_rate=1
freeze=classifier; gradual_unfreezing=0.5
freeze=banana; fusion=mlp
fusion=mlp; patient_dropout=0.5
fusion=mlp; image_learning_rate=1e-3
fusion=mlp; image_learning_rate=-1
fusion=mlp; image_learning_rate=1e30
fusion=mlp; image_learning_rate=0
fusion=mlp; test_time_augmentation=flips
fusion=mlp; calibration=temperature
fusion=mlp; train_size=16
fusion=mlp; image_size=64
fusion=mlp; config_overrides={"hidden_dropout_prob": 0.5}
fusion=mlp; config_overrides={"foo": 1}
fusion=mlp; gradient_checkpointing=true
fusion=mlp; max_train_samples=9
fusion=mlp; per_device_train_batch_size=20
fusion=mlp; per_device_train_batch_size=1
fusion=mlp; classes=nevus_or_other
fusion=mlp; head_learning_rate=1
fusion=mmbt; text_model_name_or_path=/absent
fusion=mmbt; text_model_name_or_path=
fusion=mlp; text_model_name_or_path=x
calibration=temperature_and_prior; metric_for_best_model=loss
calibration=temperature_and_prior; metric_for_best_model=macro_auroc
calibration=temperature_and_prior; classes=nevus_or_other
melanoma_sensitivity=0.9; classes=nevus_or_other
metric_for_best_model=recall_mel; classes=nevus_or_other
metric_for_best_model=recall_nv; classes=nevus_or_other
metric_for_best_model=ece; greater_is_better=true
metric_for_best_model=accuracy; greater_is_better=false
metric_for_best_model=loss; early_stopping_patience=1
image_size=1; eval_resize=1
image_size=16; eval_resize=16; train_size=16
image_size=64; train_size=32
train_size=16; freeze=backbone
auto_augment=randaugment; randaugment_magnitude=0
auto_augment=trivialaugment; randaugment_magnitude=5
augment=false; mixup=0.2
augment=false; train_size=16
augment=false; pixel_cache=true
loss=focal; focal_gamma=0
loss=focal; focal_gamma=1e30
loss=focal; focal_gamma=100
loss=focal; label_smoothing_factor=0.1
loss=focal; logit_adjustment=1
loss=ldam; ldam_margin=1e30
loss=ldam; ldam_margin=100
loss=ldam; class_weighting=balanced; class_weighting_start=1000000000
loss=ldam; mixup=0.2
class_weighting=balanced; class_weighting_start=-1
class_weighting=balanced; class_weighting_start=1
class_weighting=balanced; sampling=balanced
logit_adjustment=1e30; learning_rate=1e-3
logit_adjustment=1; mixup=0.2
label_smoothing_factor=0.99; mixup=0.2
mixup=0.2; cutmix=1
mixup=1e30; cutmix=1e30
sampling=balanced; dataloader_num_workers=1
sampling=balanced; data_seed=-1
sampling=balanced; accelerator_config={"use_seedable_sampler": false}
sampling=balanced; train_sampling_strategy=group_by_length
data_seed=5; accelerator_config={"use_seedable_sampler": false}
base_learning_rate=1e-3; learning_rate=1
base_learning_rate=1e-3; auto_find_batch_size=true
layer_decay=0.5; head_learning_rate=0
layer_decay=1e-300; head_learning_rate=1
gradual_unfreezing=0.5; gradual_unfreezing=2
gradual_unfreezing=1; ema_decay=0.9
max_steps=0; num_train_epochs=0
max_steps=-1; num_train_epochs=0.01
max_steps=-1; num_train_epochs=1e-9
max_steps=1; num_train_epochs=0
max_steps=1; num_train_epochs=-1
do_train=false; do_eval=true
do_train=false; do_predict=false
do_train=true; do_eval=true
resume=true; resume_from_checkpoint=/absent
resume=true; save_only_model=true
use_cpu=false; bf16=true
report_to=tensorboard; run_name=x
report_to=wandb; run_name=x
split=all; data_dir=synthetic
config_overrides={"model_args": {"drop_rate": 2}}; freeze=backbone
full_determinism=true; channels_last=true
prediction_loss_only=true; load_best_model_at_end=false; metric_for_best_model=loss
eval_accumulation_steps=1; eval_do_concat_batches=false
batch_eval_metrics=true; load_best_model_at_end=false
include_for_metrics=inputs; eval_do_concat_batches=true
label_names=foo; load_best_model_at_end=false
remove_unused_columns=true; label_names=labels
neftune_noise_alpha=1; fusion=mlp
push_to_hub=true; hub_model_id=a/b
auto_find_batch_size=true; per_device_train_batch_size=1000
lr_scheduler_type=cosine; warmup_steps=1e30
weight_decay=1e30; optimizer=sgd
max_grad_norm=-1; optimizer=sgd
save_total_limit=0; load_best_model_at_end=true
save_total_limit=-1; load_best_model_at_end=false
ignore_data_skip=true; resume=true""".splitlines()
)
EXPECTED = (0, 2, 3, 4)  # exit codes
TIMEOUT = 120  # seconds of a trial


def trials() -> list[dict[str, str]]:
    """Yield the options and their values of every trial."""
    singles = ({name: value} for name, values in SINGLES.items() for value in values)
    return list(chain(singles, PAIRS))


def write_tiny(folder: Path) -> dict[str, str | int]:
    """Write a ViT and 35 images to `folder`; return the options of a one-step run on them."""
    from transformers import BitImageProcessor, ViTConfig, ViTForImageClassification

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

    values = flags | {"output_dir": output} | options
    words = [str(word) for name, value in values.items() for word in (f"--{name}", value)]
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        try:
            code = main(["train", *words])
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
