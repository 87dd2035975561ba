"""Mixup and CutMix: each image of a batch is mixed with the one before it, and learns from both targets.

The loss of a mixed image is the mean of the losses for its two targets, weighted by their shares, as the authors of
mixup have it (Zhang et al. 2018, arXiv 1710.09412; CutMix: Yun et al. 2019, arXiv 1905.04899). So any loss of classes
can be mixed: softmax, grades, several labels of which some are missing. Images are mixed by torchvision, which draws
from torch's generator, so that a resumed run draws the same.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.transforms import v2

from medsoft.errors import InputError, check_range
from medsoft.specs import DataSpec


class Mixing:
    """Mixes the images of a batch.

    Args:
        mixup: parameter of the Beta distribution of the shares of mixup, such as 0.2; 0 for no mixup.
        cutmix: likewise of CutMix, such as 1; of both, each batch has one at random.

    Raises:
        InputError: a number below 0.
    """

    def __init__(self, mixup: float, cutmix: float) -> None:
        check_range("model.mixup", mixup, 0)
        check_range("model.cutmix", cutmix, 0)
        self.mixup, self.cutmix = mixup, cutmix

    def __bool__(self) -> bool:
        return bool(self.mixup or self.cutmix)

    def check(self, spec: DataSpec) -> None:
        """Check that images of these data can be mixed.

        Raises:
            InputError: they cannot; says which option to leave out.
        """
        if not self:
            return
        name = "model.mixup" if self.mixup else "model.cutmix"
        if not spec.task.has_classes:
            raise InputError(
                f"{name}: two images mixed have no {spec.task.kind} target: a picture half of one and half of another "
                "was never measured. Leave it out"
            )
        if getattr(spec, "covariates", None) is not None:
            raise InputError(f"{name}: an image mixed of two patients has no covariates; leave out one of the two")
        if self.cutmix and len(spec.image_size) != 2:
            raise InputError("model.cutmix pastes rectangles, which is for pictures; volumes can have model.mixup")

    def __call__(self, image_BCx: Tensor) -> tuple[Tensor, float]:
        """Mix every image with the one before it in the batch (the first with the last).

        Args:
            image_BCx: pictures (B, C, H, W) or volumes (B, C, X, Y, Z); not changed.

        Returns:
            The mixed images, and the share that an image's own target has; that of the other is the rest.
        """
        n = len(image_BCx)
        if n == 1:
            return image_BCx, 1.0
        kinds = [
            kind(alpha=alpha, num_classes=n)
            for kind, alpha in ((v2.MixUp, self.mixup), (v2.CutMix, self.cutmix))
            if alpha
        ]
        chosen = kinds[int(torch.randint(len(kinds), ()))] if len(kinds) > 1 else kinds[0]
        # torchvision takes pictures alone, and for mixup a volume is as good as a picture of other sides. As a class
        # each image has its own number: the mixed classes then say the shares.
        as_picture = image_BCx.flatten(3) if image_BCx.ndim > 4 else image_BCx
        mixed, shares_BB = chosen(as_picture, torch.arange(n, device=image_BCx.device))
        return mixed.reshape(image_BCx.shape), float(shares_BB[0, 0])
