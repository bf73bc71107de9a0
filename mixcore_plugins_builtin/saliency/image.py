"""Saliency of the image alone, no network involved."""

from __future__ import annotations

import attrs
from torch import Tensor

from mixcore.api import Probe, hookimpl

__all__ = ["FineGrained", "SpectralResidual", "Uniform"]


@attrs.define(eq=False, kw_only=True)
class SpectralResidual:
    """What is unexpected in the spectrum of the grey image (Hou and Zhang, 2007), one value per pixel."""

    role = "saliency"
    spec_version = (1, 2)

    @hookimpl
    def map_saliency(self, images: Tensor, labels: Tensor, probe: Probe) -> Tensor:
        """[N,H,W]."""
        return probe.saliency("spectral_residual", images, labels)


@attrs.define(eq=False, kw_only=True)
class FineGrained:
    """Contrast of each pixel with windows of six sizes around it (Montabone and Soto, 2010)."""

    role = "saliency"
    spec_version = (1, 2)

    @hookimpl
    def map_saliency(self, images: Tensor, labels: Tensor, probe: Probe) -> Tensor:
        """[N,H,W]."""
        return probe.saliency("fine_grained", images, labels)


@attrs.define(eq=False, kw_only=True)
class Uniform:
    """The same everywhere: what a method does without saliency."""

    role = "saliency"
    spec_version = (1, 2)

    @hookimpl
    def map_saliency(self, images: Tensor, labels: Tensor, probe: Probe) -> Tensor:
        """[N,H,W], ones."""
        return probe.saliency("uniform", images, labels)
