"""A mixer as a function from a batch to a batch, where a loop has timm's Mixup."""

from __future__ import annotations

from torch import Tensor, nn

from mixcore.errors import ConfigError
from mixcore.mixers.batches import check_images, check_labels, kind_of
from mixcore.types import Mix

__all__ = ["Pairs"]


class Pairs(nn.Module):
    """`images, targets = pairs(images, labels)`; made by :meth:`mixcore.mixers.Mixer.pairs`."""

    mixup_enabled: bool
    """Whether batches are mixed; timm's loop sets it to False at `--mixup-off-epoch`."""

    def __init__(self, mixer: nn.Module, name: str, num_classes: int, smoothing: float) -> None:
        super().__init__()
        if not 0 <= smoothing < 1:
            raise ConfigError(f"smoothing is {smoothing}; expected a number in [0, 1), such as 0.1")
        self.mixer, self.mixup_enabled = mixer, True
        self._name, self._num_classes, self._smoothing = name, num_classes, smoothing

    def forward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Mixed images [M,C,H,W] and target rows [M,K] float32; while switched off, the batch's own.

        `images` and `labels` as a mixer takes them. Raises ConfigError for a method with losses of its own.
        """
        mix = self.mixer(images, labels) if self.mixup_enabled else self._clean(images, labels)
        if mix.losses:
            raise ConfigError(
                f"{self._name} has losses of its own ({', '.join(mix.losses)}), which images and targets cannot carry; "
                f"use mixcore.create_step(model, mix={self._name!r}, num_classes=..., iterations=...), or a loop that "
                "calls the mixer itself and adds mix.losses"
            )
        return mix.images, mix.targets(labels).dense(self._num_classes, self._smoothing)

    def _clean(self, images: Tensor, labels: Tensor) -> Mix:
        check_images(images)
        check_labels(labels, images, kind_of(labels), self._num_classes, read=images.device.type == "cpu")
        return Mix.clean(images)
