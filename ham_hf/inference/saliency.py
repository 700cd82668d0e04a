"""Compute where a model looks, by SmoothGrad, and the crop that it sees."""

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from transformers import BaseImageProcessor, PreTrainedModel, TimmWrapperImageProcessor

# SmoothGrad (Smilkov et al., 2017, https://arxiv.org/abs/1706.03825), the same for convolutions and attention
SAMPLES, NOISE = 16, 0.15  # noisy copies of an image, and their deviation as a share of its range
BLUR = 9  # pixels: single ones say nothing

CAVEAT = "It shows where a model looks, not why, and a plausible picture is no proof of a sound reason."


def saliency(model: PreTrainedModel, pixel_values: torch.Tensor, target: int) -> np.ndarray:
    """Return (H, W) from 0 to 1: how much each pixel of an image (1, 3, H, W) changes the logit of `target`."""
    from captum.attr import NoiseTunnel, Saliency

    method = NoiseTunnel(Saliency(lambda pixels: model(pixel_values=pixels).logits))
    noise = NOISE * float(pixel_values.max() - pixel_values.min())
    torch.manual_seed(0)
    gradients = method.attribute(
        pixel_values.requires_grad_(), nt_type="smoothgrad", nt_samples=SAMPLES, stdevs=noise, target=target
    )
    strength = gradients.abs().sum(1, keepdim=True)
    blurred = F.avg_pool2d(strength, BLUR, stride=1, padding=BLUR // 2, count_include_pad=False)[0, 0]
    return ((blurred - blurred.min()) / (blurred.max() - blurred.min()).clamp(min=1e-12)).detach().cpu().numpy()


def crop_of(processor: BaseImageProcessor, image: Image.Image) -> np.ndarray:
    """Return the part of an upright image that the model sees, before normalization: (H, W, 3) from 0 to 1."""
    if isinstance(processor, TimmWrapperImageProcessor):  # it always normalizes
        mean, std = (torch.tensor(processor.data_config[name])[:, None, None] for name in ("mean", "std"))
        crop = processor(image)["pixel_values"][0] * std + mean
    else:
        crop = processor(image, do_normalize=False, return_tensors="pt")["pixel_values"][0]
    return crop.permute(1, 2, 0).clamp(0, 1).numpy()
