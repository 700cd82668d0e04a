"""From decoded images to pixel values: random for training, the saved processor itself for everything else."""

import zlib

import torch
from torchvision.transforms import v2
from transformers import BaseImageProcessor

from ham_hf.models.mmbt.processing_mmbt import PatientProcessor
from ham_hf.recipe import ImageArguments

PATIENT = ("age", "sex", "localization")  # columns of the dataset; never dx_type, which leaks the label


class TrainTransform:
    """Random crop and flips, then the processor's own normalisation, for `datasets.Dataset.set_transform`.

    What an image looks like depends on (seed, epoch, image_id) alone: not on the order of the batches, the number of
    worker processes, or whether the run was interrupted.
    """

    def __init__(self, args: ImageArguments, processor: BaseImageProcessor | PatientProcessor, seed: int):
        self._processor = processor
        images = processor.image_processor if isinstance(processor, PatientProcessor) else processor
        steps = [v2.RandomResizedCrop(args.train_size or args.image_size, scale=tuple(args.crop_scale))]
        if args.horizontal_flip:
            steps.append(v2.RandomHorizontalFlip())
        if args.vertical_flip:
            steps.append(v2.RandomVerticalFlip())
        self._augment = v2.Compose([*steps, v2.PILToTensor()])
        self._finish = [v2.ToDtype(torch.float32, scale=True)]
        if images.do_normalize:
            self._finish.append(v2.Normalize(images.image_mean, images.image_std))
        self._seed = seed
        # In shared memory, since worker processes that outlive an epoch must see the next one too
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def set_epoch(self, epoch: int) -> None:
        self._epoch.fill_(epoch)

    def __call__(self, batch: dict) -> dict:
        """Decoded columns of N rows → `pixel_values` (N, 3, size, size) float32, the patients, N `labels`."""
        images = [self._one(*pair) for pair in zip(batch["image"], batch["image_id"], strict=True)]
        pixels = v2.Compose(self._finish)(torch.stack(images))
        return {"pixel_values": pixels, **encoded_patients(self._processor, batch), "labels": batch["label"]}

    def _one(self, image, image_id: str) -> torch.Tensor:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(zlib.crc32(f"{self._seed} {int(self._epoch)} {image_id}".encode()))
            return self._augment(image.convert("RGB"))


class EvalTransform:
    """The saved processor, so that a figure in a report is what a user of the published model gets."""

    def __init__(self, processor: BaseImageProcessor | PatientProcessor):
        self._processor = processor

    def __call__(self, batch: dict) -> dict:
        """Decoded columns of N rows → `pixel_values` (N, 3, size, size) float32, the patients, N `labels`."""
        images = [image.convert("RGB") for image in batch["image"]]
        patients = [batch[name] for name in PATIENT] if isinstance(self._processor, PatientProcessor) else []
        return {**self._processor(images, *patients, return_tensors="pt"), "labels": batch["label"]}


def encoded_patients(processor: BaseImageProcessor | PatientProcessor, batch: dict) -> dict[str, torch.Tensor]:
    """What a processor that reads patients makes of their columns; nothing from one that does not."""
    if not isinstance(processor, PatientProcessor):
        return {}
    return processor.encode_patients(*(batch[name] for name in PATIENT))


class Collator:
    """Stack rows into a batch, in the memory format the model's convolutions want."""

    def __init__(self, channels_last: bool):
        self._format = torch.channels_last if channels_last else torch.contiguous_format

    def __call__(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        labels = torch.tensor([row["labels"] for row in rows])
        batch = {key: torch.stack([row[key] for row in rows]) for key in rows[0] if key != "labels"}
        batch["pixel_values"] = batch["pixel_values"].contiguous(memory_format=self._format)  # (N, 3, H, W)
        return {**batch, "labels": labels}
