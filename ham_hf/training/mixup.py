"""Mixup and CutMix: every training image with a part of its neighbour in the batch, and the loss of both diagnoses.

Sources: mixup, Zhang et al., 2017, https://arxiv.org/abs/1710.09412; CutMix, Yun et al., 2019,
https://arxiv.org/abs/1905.04899. Here each image has a share of its own.
"""

import torch
from scipy.special import betaincinv

from ham_hf.training.augmentation import DRAWN, box_mask


class Mixing:
    """For the collator: how each image of a batch is mixed with the next one, the last with the first.

    Args:
        mixup, cutmix: alpha of the Beta(alpha, alpha) that an image's share is drawn from; 0 for none of it. Where
            both are above 0, each image has one or the other.
    """

    def __init__(self, mixup: float, cutmix: float):
        self._mixup, self._cutmix = mixup, cutmix

    def __call__(self, drawn: torch.Tensor) -> torch.Tensor:
        """Random numbers (N, len(DRAWN)) → (N, 5): share of the image itself, then the box of the other one in it.

        The box is left, top, width and height as shares of the side; mixup's has none of these, only zeros.
        """
        which, share, left, top = (drawn[:, DRAWN.index(f"mix_{name}")] for name in ("which", "share", "left", "top"))
        by_mixup, by_cutmix = (
            torch.from_numpy(betaincinv(alpha, alpha, share.double().numpy())).float()
            if alpha
            else torch.ones_like(share)
            for alpha in (self._mixup, self._cutmix)
        )
        side = (1 - by_cutmix).sqrt()
        cut = torch.stack([by_cutmix, left * (1 - side), top * (1 - side), side, side], dim=1)
        blend = torch.cat([by_mixup[:, None], torch.zeros(len(share), 4)], dim=1)
        chosen = which < (0.5 if self._mixup and self._cutmix else float(bool(self._cutmix)))
        return torch.where(chosen[:, None], cut, blend)


def mix(pixels: torch.Tensor, mixing: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """`pixels` (N, 3, S, S) and what `Mixing` says of them → mixed pixels, and (N,) the share of each image's own.

    The rest is the next image's: `labels.roll(-1)`.
    """
    share, left, top, width, height = mixing.unbind(1)
    box = box_mask(pixels.shape[-1], left, top, width, height)  # (N, 1, S, S), empty for mixup
    own = torch.where((width > 0)[:, None, None, None], (~box).float(), share[:, None, None, None])
    return torch.lerp(pixels.roll(-1, 0), pixels, own), own.mean((1, 2, 3))  # of whole pixels: the box is rounded
