"""Options that a run cannot use are refused with a reason, before anything is read."""

import pytest

from ham_hf.config.recipe import parse_recipe
from ham_hf.system.errors import InputError


def refusal(words: str) -> str:
    with pytest.raises(InputError) as refused:
        parse_recipe(["--data_dir", "synthetic", "--model_name_or_path", "x", *words.split()])
    return str(refused.value)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        # Options without effect
        ("--fp16 true", "fp16 requires a GPU, and this run would use the CPU: use bf16"),
        ("--resume_from_checkpoint /absent", "resume_from_checkpoint is /absent: use --resume"),
        ("--do_train false", "do_train is false: a run always trains; remove it"),
        ("--do_eval false", "do_eval is false: a run always ends with an evaluation"),
        ("--max_steps 0", "max_steps is 0: expected at least 1, or -1"),
        ("--bf16_full_eval true", "bf16_full_eval is true: evaluation uses the precision of bf16"),
        ("--optim_args a=1", "optim_args has 'a', which optim: adamw_torch_fused does not read"),
        ("--optimizer sgd --adam_beta1 0.5", "adam_beta1 is 0.5, which has no effect with optimizer: sgd"),
        ("--optimizer adam --optim sgd", "optim is sgd, which has no effect with optimizer: adam"),
        ("--lr_scheduler_type constant --warmup_steps 10", "unlike constant_with_warmup"),
        ("--lr_scheduler_type greedy --warmup_steps 10", "no effect with lr_scheduler_type: greedy"),
        ("--base_learning_rate 1e-3 --learning_rate 1", "learning_rate is 1.0, which has no effect with base"),
        ("--gradient_checkpointing_kwargs {}", "no effect without gradient_checkpointing"),
        ("--enable_jit_checkpoint true", "an interrupted run resumes from its last checkpoint"),
        ("--accelerator_config {}", "the pipeline distributes the batches"),
        ("--dataloader_in_order false", "the order of the batches would depend on the speed of the workers"),
        ("--average_tokens_across_devices false", "the loss is a mean over the images of all processes"),
        ("--include_num_input_tokens_seen true", "images have no tokens"),
        ("--hub_model_id a/b", "hub_model_id is a/b: a run publishes nothing"),
        ("--eval_delay 9 --num_train_epochs 2", "the run ends after 2 epochs: the model would never be evaluated"),
        ("--metric_for_best_model accuracy --greater_is_better false", "but a higher accuracy is better"),
        ("--metric_for_best_model eval_ece --greater_is_better true", "but a lower ece is better"),
        # Numbers out of range
        ("--logit_adjustment -1", "logit_adjustment is -1: expected a number from 0 to 10, such as 1"),
        ("--logit_adjustment 1e30", "logit_adjustment is 1e30: expected a number from 0 to 10"),
        ("--loss focal --focal_gamma 1e30", "focal_gamma is 1e30: expected a number from 0 to 10"),
        ("--loss ldam --ldam_margin 1e30", "ldam_margin is 1e30: expected a number from 0 to 100"),
        ("--learning_rate 1e30", "learning_rate is 1e30: expected a number from 0 to 100"),
        ("--adam_epsilon -1", "adam_epsilon is -1: expected a number from above 0 to 1"),
        ("--max_grad_norm -1", "max_grad_norm is -1: expected at least 0"),
        ("--save_total_limit 0", "save_total_limit is 0: expected at least 1"),
        # Options that would fail later
        ("--adam_beta1 1.5", "adam_beta1 is 1.5: expected a number from 0 to below 1"),
        ("--optim_args foo", "optim_args is 'foo': expected name=value"),
        ("--lr_scheduler_kwargs foo", "lr_scheduler_kwargs is 'foo': expected a JSON object"),
        ("--lr_scheduler_type cosine_with_min_lr", 'requires "min_lr" or "min_lr_rate" in lr_scheduler_kwargs'),
        ("--lr_scheduler_type warmup_stable_decay", 'requires "num_decay_steps" in lr_scheduler_kwargs'),
        ("--eval_do_concat_batches false", "the metrics require exactly the predictions"),
        ("--batch_eval_metrics true", "the metrics require exactly the predictions"),
        ("--prediction_loss_only true", "the metrics require exactly the predictions"),
        ("--train_sampling_strategy group_by_length", "an epoch shows the images in random order"),
        ("--debug tpu_metrics_debug", "debug is tpu_metrics_debug, which requires a TPU"),
        ("--label_names foo", "label_names is ['foo']: the pipeline uses 'labels'"),
        ("--remove_unused_columns true", "the images would be removed before they are decoded"),
        ("--neftune_noise_alpha 5", "it is for language models"),
        ("--use_liger_kernel true", "it is for language models"),
        ("--dataloader_num_workers -1", "dataloader_num_workers is -1: expected a number from 0 to 256"),
        ("--dataloader_persistent_workers true", "no effect with dataloader_num_workers: 0"),
        ("--eval_accumulation_steps 0", "eval_accumulation_steps is 0: expected at least 1"),
        ("--report_to banana", "report_to is 'banana', which is not installed: expected one of none"),
        ("--output_dir=", "output_dir is empty: expected the path of a folder"),
        ("--fsdp full_shard", "fsdp requires several processes, and there is one"),
        ("--freeze=", "freeze is '': expected 'none', 'backbone', or names of parts"),
        ('--config_overrides {"return_dict":false}', "config_overrides has 'return_dict', which the pipeline sets"),
        ('--config_overrides {"output_attentions":true}', "config_overrides has 'output_attentions', which"),
        # Optimizers and schedules
        ("--layer_decay 1.5", "layer_decay is 1.5: expected a number from above 0 to 1, such as 0.75"),
        ("--head_learning_rate -1", "head_learning_rate is -1: expected a number from 0 to 100"),
        ("--fusion mlp --layer_decay 0.8", "layer_decay does not support fusion: mlp"),
        ("--sgd_nesterov true", "sgd_nesterov requires optimizer: sgd"),
        ("--early_stopping_patience 0", "early_stopping_patience is 0: expected at least 1"),
        ("--gradual_unfreezing 1 --lr_scheduler_type reduce_lr_on_plateau", "reduce_lr_on_plateau both set the"),
        ("--metric_for_best_model auroc", "metric_for_best_model is 'auroc': expected one of balanced_accuracy,"),
        ("--eval_on_start true", "eval_on_start is true: it would count the untrained model"),
        (
            "--eval_strategy steps --eval_steps 2 --save_strategy steps --save_steps 6",
            "save_steps is 6, eval_steps is 2: expected the same",
        ),
        ("--restore_callback_states_from_checkpoint true", "--resume restores them; remove it"),
        ("--num_train_epochs -1", "num_train_epochs is -1: expected a number from above 0"),
        ("--lr_decay_epochs 0", "lr_decay_epochs is 0: expected at least 1"),
        ("--class_weighting balanced --class_weighting_start -1", "class_weighting_start is -1: expected at least 0"),
        ("--gradual_unfreezing 1 --freeze backbone", "gradual_unfreezing and freeze: backbone contradict each other"),
        # Augmentation
        ("--rotation 200", "rotation is 200: expected a number from 0 to 180, such as 30"),
        ("--mixup -1", "mixup is -1: expected a number from 0 to 100, such as 0.2"),
        ("--augment false --mixup 0.2", "mixup has no effect with augment: false"),
        (
            "--randaugment_magnitude 5",
            "randaugment_magnitude requires auto_augment: randaugment, but auto_augment is 'none'",
        ),
        ("--fusion mlp --cutmix 1", "fusion: mlp does not support mixup and cutmix"),
        ("--augment false --train_size 96", "train_size has no effect with augment: false"),
        ('--augment false --train_size {"1":96}', "train_size has no effect with augment: false"),
        ("--train_size banana", "train_size is 'banana': expected a whole number of pixels from 1 to 4096, or sizes"),
        ("--train_size 96.5", "train_size is '96.5': expected a whole number of pixels from 1 to 4096, or sizes"),
        ("--train_size 5000", "train_size is '5000': expected a whole number of pixels from 1 to 4096, or sizes"),
        ("--train_size {}", 'train_size is an empty schedule: expected sizes by epoch, such as \'{"1": 128'),
        ('--train_size {"2":96}', "train_size starts with epoch 2: expected a size for epoch 1"),
        ('--train_size {"0":96}', "train_size has a size for epoch '0': expected whole numbers from 1"),
        ('--train_size {"1":96,"1.5":128}', "train_size has a size for epoch '1.5': expected whole numbers from 1"),
        ('--train_size {"1":0}', "train_size is 0 from epoch 1 on: expected a whole number of pixels from 1 to 4096"),
        ('--train_size {"1":96,"2":99.5}', "train_size is 99.5 from epoch 2 on: expected a whole number of pixels"),
        ('--train_size {"1":true}', "train_size is True from epoch 1 on: expected a whole number of pixels"),
        (
            '--num_train_epochs 2.5 --train_size {"1":96,"4":128}',
            "train_size changes in epoch 4, but num_train_epochs is 2.5: remove that size, or train for more epochs",
        ),
        # Losses and sampling
        ("--class_weighting balanced --sampling balanced", "class_weighting and sampling both rebalance the classes"),
        ("--class_weighting balanced --logit_adjustment 1", "class_weighting and logit_adjustment both"),
        ("--sampling square_root --logit_adjustment 1", "sampling and logit_adjustment both"),
        ("--loss ldam --logit_adjustment 1", "loss: ldam does not support logit_adjustment"),
        ("--loss focal --label_smoothing_factor 0.1", "loss: focal does not support label_smoothing_factor"),
        (
            "--class_weighting balanced --label_smoothing_factor 0.1",
            "class_weighting: balanced does not support label_smoothing_factor",
        ),
        ("--label_smoothing_factor 1.5", "label_smoothing_factor is 1.5: expected a number from 0 to below 1"),
        ("--focal_gamma 1", "focal_gamma requires loss: focal, but loss is 'cross_entropy'"),
        ("--loss focal --focal_gamma -1", "focal_gamma is -1: expected"),
        ("--ldam_margin 1", "ldam_margin requires loss: ldam"),
        ("--class_weighting_start 2", "class_weighting_start requires class_weighting"),
        ('--dx_type_weights {"histo":-1}', "dx_type_weights has -1 for 'histo': expected a number of at least 0"),
        ("--soft_labels x.csv --label_smoothing_factor 0.1", "soft_labels and label_smoothing_factor both soften"),
        ("--soft_label_weight 0.7", "soft_label_weight requires soft_labels: set it, or remove soft_label_weight"),
        ("--soft_labels x.csv --soft_label_weight 0", "soft_label_weight is 0: expected a number from above 0 to 1"),
        ("--soft_labels x.csv --soft_label_weight 1.5", "soft_label_weight is 1.5: expected a number from above 0"),
        ("--dx_type_weights histo", "dx_type_weights is 'histo': expected a JSON object"),
        # Calibration and thresholds
        (
            "--melanoma_sensitivity 90",
            "melanoma_sensitivity is 90: expected a number from above 0 to 1, such as 0.9",
        ),
        ("--melanoma_sensitivity 0.9 --classes nevus_or_other", "melanoma_sensitivity requires classes: diagnoses"),
        (
            "--calibration temperature_and_prior --metric_for_best_model loss",
            "which is 'loss': expected one of balanced_accuracy",
        ),
    ],
)
def test_options_that_a_run_cannot_use_are_refused(words, expected):
    assert expected in refusal(words)


def test_a_half_precision_of_the_launcher_is_refused_on_a_cpu(monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")
    assert "fp16 requires a GPU" in refusal("--bf16 false")
