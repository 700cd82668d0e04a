"""Compute the gradients of one optimizer step over the same 16 images, also under torchrun with two processes."""

import sys
from pathlib import Path

import torch
from datasets import Dataset
from safetensors.torch import save_file
from torch import nn
from transformers import (
    BeitConfig,
    BeitForImageClassification,
    BertConfig,
    BitImageProcessor,
    DeiTConfig,
    DeiTForImageClassification,
    PreTrainedModel,
    ResNetConfig,
    ResNetForImageClassification,
    TimmWrapperConfig,
    TimmWrapperForImageClassification,
    TrainerCallback,
    ViTConfig,
    ViTForImageClassification,
)

from ham_hf.config.arguments import LossArguments
from ham_hf.config.recipe import RunArguments
from ham_hf.models.mmbt.configuration_mmbt import FusionConfig, MMBTConfig
from ham_hf.models.mmbt.modeling_mmbt import (
    ImagePatientFusionForImageClassification,
    MMBTForImageClassification,
    PatientModel,
)
from ham_hf.training.losses import ClassificationLoss
from ham_hf.training.optimization import optimizer_class
from ham_hf.training.trainer import HamTrainer
from ham_hf.training.transforms import Collator

CLASSES = 7
TRANSFORMER = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "image_size": 32,
    "patch_size": 8,
    "num_labels": CLASSES,
}
RESNET = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}
BERT = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
BERT |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "vocab_size": 128}
MODELS = {
    "resnet": lambda: ResNetForImageClassification(ResNetConfig(**RESNET, num_labels=CLASSES)),
    "vit": lambda: ViTForImageClassification(ViTConfig(**TRANSFORMER)),
    "beit": lambda: BeitForImageClassification(BeitConfig(**TRANSFORMER, drop_path_rate=0.0)),
    "deit": lambda: DeiTForImageClassification(DeiTConfig(**TRANSFORMER)),
    "timm": lambda: TimmWrapperForImageClassification(
        TimmWrapperConfig(architecture="resnet18", num_labels=CLASSES, model_args={"channels": [8, 8, 16, 16]})
    ),
    "mmbt": lambda: MMBTForImageClassification(
        MMBTConfig(
            image_config=ViTConfig(**TRANSFORMER),
            text_config=BertConfig(**BERT),
            sites=["back"],
            image_hidden_size=16,
            image_grid=None,
            num_labels=CLASSES,
        )
    ),
    "fusion": lambda: ImagePatientFusionForImageClassification(
        FusionConfig(
            image_config=ResNetConfig(**RESNET), sites=["back"], image_hidden_size=16, dropout=0.0, num_labels=CLASSES
        )
    ),
}
LOSS = LossArguments(logit_adjustment=0.5)
AGES = torch.tensor([torch.nan, 20.0, 40.0, 60.0])


class _KeepGradients(TrainerCallback):
    def __init__(self, model: PreTrainedModel):
        self.model = model
        self.gradients: dict[str, torch.Tensor] = {}

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        self.gradients = {name: p.grad.clone() for name, p in self.model.named_parameters() if p.grad is not None}


def _batch_norm_in_evaluation(model: nn.Module, _inputs: tuple) -> None:
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()


def one_step(name: str, batch: int, accumulation: int, folder: Path, soft: bool = False) -> dict[str, torch.Tensor]:
    """Return the gradients of the first optimizer step over 16 seeded random images, keyed by parameter.

    With `soft`, their labels are soft ones.
    """
    torch.manual_seed(0)
    model = MODELS[name]()
    for parameter in model.parameters():  # a class token of zeros has gradients of thousands behind its layer norm
        if not parameter.any():
            nn.init.normal_(parameter, std=0.5)
    model.register_forward_pre_hook(_batch_norm_in_evaluation)
    keep = _KeepGradients(model)
    soft_labels = torch.rand(16, CLASSES, generator=torch.Generator().manual_seed(2)).softmax(dim=1)
    images = torch.randn(16, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    rows = Dataset.from_dict({"row": list(range(16))})
    reads_patients = isinstance(model, PatientModel)

    def inputs(batch: dict) -> dict:
        numbers = torch.tensor(batch["row"])
        patients = {"age": AGES[numbers % 4], "sex": numbers % 3, "localization": numbers % 2}
        labels = [row % CLASSES for row in batch["row"]]
        extra = (patients if reads_patients else {}) | ({"soft_labels": soft_labels[numbers]} if soft else {})
        return {"pixel_values": images[numbers], **extra, "labels": labels}

    args = RunArguments(
        output_dir=str(folder),
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=accumulation,
        max_steps=1,
        max_grad_norm=0,
        optimizer="sgd",
        bf16=False,
        use_cpu=True,
        disable_tqdm=True,
        eval_strategy="no",
        save_strategy="no",
        load_best_model_at_end=False,
        ddp_find_unused_parameters=not reads_patients,
    )
    trainer = HamTrainer(
        model=model,
        args=args,
        processor=BitImageProcessor(),
        train_dataset=rows.with_transform(inputs),
        data_collator=Collator(channels_last=False),
        finish_batch=lambda batch: batch,
        compute_loss_func=ClassificationLoss([3, 3, 2, 2, 2, 2, 2], LOSS, label_smoothing=0.1),
        optimizer_cls_and_kwargs=optimizer_class(args),
        callbacks=[keep],
    )
    trainer.train()
    return keep.gradients


if __name__ == "__main__":  # torchrun --nproc_per_node 2 tests/helpers/gradients.py OUT BATCH ACCUMULATION
    out = Path(sys.argv[1])
    for name in MODELS:
        gradients = one_step(name, int(sys.argv[2]), int(sys.argv[3]), out / "run")
        if torch.distributed.get_rank() == 0:
            save_file(gradients, out / f"{name}.safetensors")
    torch.distributed.destroy_process_group()  # its threads, left to the interpreter's end, can abort a process
