"""Images turned by known angles: handwritten digits, and garments before coloured backgrounds (RCF-MNIST)."""

from __future__ import annotations

import attrs
import torch
import torch.nn.functional as F
from attrs.validators import gt, le
from torch import Tensor
from torchvision import datasets

from mixcore.api import PLACE, Data, PaddingMode, all_positive, hookimpl, keyed_generator
from mixcore_plugins_builtin.data.digits import Digits, digit_images
from mixcore_plugins_builtin.data.options import (
    CIFAR_MEAN,
    CIFAR_STD,
    MOST_SIDE,
    ResidentOptions,
    all_finite,
    between,
    data_path,
    probability,
)
from mixcore_plugins_builtin.data.torchvision_sets import FASHION_FILES, open_torchvision

__all__ = ["RcfMnist", "RotatedDigits", "rotate", "silhouettes"]

STEPS = 60
"""Angles of RCF-MNIST around the circle: 0, 6, 12, ..., 354 degrees."""
INK = 2
"""Grey level above which a pixel belongs to the garment."""
WHITE = 255
AT_ONCE = 4096
"""Images that are turned together: the grid of a pixel is eight bytes."""
NAMES = ("angle in degrees",)


def rotate(images: Tensor, degrees: Tensor) -> Tensor:
    """Each image turned counter-clockwise about its centre by its own angle, bilinearly, 0 where nothing was.

    `images` uint8 [n,C,S,S], squares; `degrees` floating [n]. Gives uint8 [n,C,S,S].
    """
    turned = [
        _rotate(*part) for part in zip(images.split(AT_ONCE), degrees.to(torch.float64).split(AT_ONCE), strict=True)
    ]
    return torch.cat(turned)


def _rotate(images: Tensor, degrees: Tensor) -> Tensor:
    radians = torch.deg2rad(degrees)
    cosine, sine, zero = radians.cos(), radians.sin(), torch.zeros_like(radians)
    # of a place in the result where it was before: rows count downwards, so this looks like the opposite turn
    back = torch.stack((cosine, -sine, zero, sine, cosine, zero), 1).view(-1, 2, 3).float()
    grid = F.affine_grid(back, list(images.shape), align_corners=False)
    return F.grid_sample(images.float(), grid, align_corners=False).round().to(torch.uint8)


def silhouettes(garments: Tensor, backgrounds: Tensor) -> Tensor:
    """`backgrounds` uint8 [n,3,H,W], white where the `garments` uint8 [n,1,H,W] exceed INK: uint8 [n,3,H,W]."""
    return backgrounds.masked_fill(garments > INK, WHITE)


@attrs.define(eq=False, kw_only=True)
class RotatedDigits(Digits):
    """The digits that ship with mixcore, each turned by an angle that is to be told: values, nothing to download.

    Angles are uniform in [-degrees, degrees], counter-clockwise, and fixed by `data_seed`. A value is the angle in
    degrees. Shapes: uint8 [n,channels,size,size]; the split is that of `digits`.
    """

    role = "data"

    degrees: float = attrs.field(default=60.0, validator=[gt(0), le(180)])
    """Largest angle in degrees, in (0,180]."""
    data_seed: int = attrs.field(default=0, validator=between(-(2**63), 2**63 - 1))
    """Seed of the angles; another seed gives another set."""

    @hookimpl
    def build_data(self) -> Data:
        """The two splits, enlarged and turned."""
        images, _, held_back = digit_images(self.size, self.channels)
        rng = keyed_generator("rotated_digits", self.data_seed)
        angles = (2 * torch.rand(len(images), 1, generator=rng) - 1) * self.degrees
        turned = rotate(images, angles[:, 0])
        return self.resident_data(
            (turned[~held_back], angles[~held_back]),
            (turned[held_back], angles[held_back]),
            num_classes=1,
            class_names=NAMES,
        )


@attrs.define(eq=False, kw_only=True)
class RcfMnist(ResidentOptions):
    """RCF-MNIST: white silhouettes of Fashion-MNIST, turned, before images of CIFAR-10; the angle is to be told.

    Image i of a split shows garment i before image i mod n of CIFAR-10's split, turned counter-clockwise by one of the
    angles 0, 6, ..., 354 degrees, which are fixed by `data_seed`. A value is the angle in degrees. 60,000 images for
    training and 10,000 for validation, uint8 [n,3,32,32] (C-Mixup, arXiv 2210.05775).
    """

    role = "data"

    root: str = attrs.field(default="data", metadata=PLACE)
    """Folder that holds FashionMNIST/raw/ and cifar-10-batches-py/, as torchvision has them."""
    download: bool = attrs.field(default=False, metadata=PLACE)
    """Let torchvision fetch the two sets into `root` where they are missing."""
    data_seed: int = attrs.field(default=0, validator=between(-(2**63), 2**63 - 1))
    """Seed of the angles; another seed gives another set."""
    crop_padding: int = attrs.field(default=2, validator=between(0, MOST_SIDE))
    """Pixels added on every side before a random crop of the original size; 0: no crop."""
    padding_mode: PaddingMode = "constant"
    """What the padding shows: "reflect" the image mirrored at its edge, "constant" zeros."""
    flip: float = attrs.field(default=0.0, validator=probability)
    """Probability of the left-right mirror image, in [0,1]; a mirror image has another angle."""
    mean: tuple[float, ...] = attrs.field(default=CIFAR_MEAN, validator=all_finite)
    """Subtracted from pixels in [0,1], per channel; one number stands for all channels."""
    std: tuple[float, ...] = attrs.field(default=CIFAR_STD, validator=all_positive)
    """Pixels are divided by this, per channel, after the mean is subtracted; above 0."""

    @hookimpl
    def build_data(self) -> Data:
        """The training and the test set. DataError where one of the two sets is missing."""
        train, test = (self._split(train=train) for train in (True, False))
        return self.resident_data(train, test, num_classes=1, class_names=NAMES)

    def _split(self, *, train: bool) -> tuple[Tensor, Tensor]:
        root = data_path(self.root)
        fashion = open_torchvision(
            datasets.FashionMNIST,
            "Fashion-MNIST, of which RCF-MNIST is made,",
            root,
            root / "FashionMNIST" / "raw",
            FASHION_FILES,
            self.download,
            train=train,
        )
        cifar = open_torchvision(
            datasets.CIFAR10,
            "CIFAR-10, of which RCF-MNIST is made,",
            root,
            root / datasets.CIFAR10.base_folder,
            "torchvision's files in it",
            self.download,
            train=train,
        )
        backgrounds = torch.from_numpy(cifar.data).permute(0, 3, 1, 2)
        margin = (backgrounds.shape[-1] - fashion.data.shape[-1]) // 2
        garments = F.pad(fashion.data[:, None], (margin,) * 4)
        rng = keyed_generator("rcfmnist", self.data_seed, "train" if train else "test")
        angles = torch.randint(STEPS, (len(garments), 1), generator=rng) * (360 / STEPS)
        behind = backgrounds[torch.arange(len(garments)) % len(backgrounds)]
        return silhouettes(rotate(garments, angles[:, 0]), behind), angles
