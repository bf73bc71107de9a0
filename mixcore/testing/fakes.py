"""Networks small enough for a test, with timm's methods: a convolutional one with BatchNorm, and a ViT; and a mixer."""

from __future__ import annotations

from collections.abc import Collection

import attrs
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Generator, Tensor, nn

from mixcore.api import Mix, Probe, Saliency, as_saliency, draw_partners, hookimpl, send

__all__ = ["Bands", "Columns", "Neighbours", "Shown", "TinyConvNet", "tiny_network", "tiny_vit"]


@attrs.define(eq=False, kw_only=True)
class Columns:
    """The mixer that plugins of other roles are checked with: columns on the right are the partner's."""

    role = "mix"
    provides = frozenset({"mask"})

    masked: bool = True
    """Whether the mix tells its masks."""

    @hookimpl
    def generate_mix(self, images: Tensor, rng: Generator) -> Mix:
        """One share of the columns per image."""
        count, _, height, width = images.shape
        partner = send(draw_partners("permutation", count, rng), images.device)
        kept = send(torch.randint(0, width + 1, (count, 1), generator=rng, device="cpu"), images.device)
        own = (torch.arange(width, device=images.device) < kept)[:, None, None].expand(count, 1, height, width)
        mixed = torch.where(own, images, images[partner])
        return Mix.pair(mixed, partner, own[:, 0, 0].float().mean(1), own.float() if self.masked else None)


@attrs.define(eq=False, kw_only=True)
class Bands:
    """A mixer of any number of sources: image i has a band of columns of image i and of each of those that follow it.

    Of three sources or more the second is empty in every other image: a source of weight 0.
    """

    role = "mix"

    sources: int = 3
    """Images that are mixed to one; 1 mixes nothing."""
    masked: bool = True
    """Whether the mix tells its masks."""

    @property
    def provides(self) -> frozenset[str]:
        """Masks, where there is more than one source to tell apart."""
        return frozenset({"mask"} if self.masked and self.sources > 1 else ())

    @hookimpl
    def generate_mix(self, images: Tensor, rng: Generator) -> Mix:
        """The cuts between the bands are drawn per image."""
        count, _, height, width = images.shape
        cuts = torch.randint(0, width + 1, (count, self.sources - 1), generator=rng, device="cpu").sort(1).values
        if self.sources > 2:
            cuts[::2, 1] = cuts[::2, 0]
        band = (torch.arange(width)[:, None] >= cuts[:, None]).sum(2)  # the source of each column
        masks = send(torch.arange(self.sources)[:, None] == band[:, None], images.device)
        row = torch.arange(count, device=images.device)[:, None]
        sources = (row + torch.arange(self.sources, device=images.device)) % count
        mixed = images
        for source in range(1, self.sources):
            mixed = torch.where(masks[:, source, None, None], images[sources[:, source]], mixed)
        told = masks[:, :-1, None].expand(-1, -1, height, -1).float() if self.masked else None
        return Mix(images=mixed, sources=sources, weights=masks.float().mean(2), masks=told)


@attrs.define(eq=False, kw_only=True)
class Neighbours:
    """A mixer without draws, so that its mixes can be foreseen: columns on the right are the next image's."""

    role = "mix"
    provides = frozenset({"mask"})

    rows: int
    """The batch is mixed in runs of so many images, alike but for the images."""
    lam: float | None = None
    """The label weight of the image itself, in place of its share of the columns."""
    turned: int = 0
    """How far the batch was rolled; the mix is that of the batch before, with sources that say where its rows are."""

    @hookimpl
    def generate_mix(self, images: Tensor) -> Mix:
        """Image k of a run keeps k + 1 of `rows` + 1 shares of its columns."""
        images = images.roll(-self.turned, 0)
        count, _, height, width = images.shape
        row = torch.arange(count, device=images.device)
        place = row % self.rows
        partner = row - place + (place + 1) % self.rows
        kept = (place + 1) * width // (self.rows + 1)
        own = (torch.arange(width, device=images.device) < kept[:, None])[:, None, None].expand(count, 1, height, width)
        lam = own[:, 0, 0].float().mean(1) if self.lam is None else self.lam
        mix = Mix.pair(torch.where(own, images, images[partner]), partner, lam, own.float())
        return attrs.evolve(mix, sources=(mix.sources + self.turned) % count)


@attrs.define(eq=False, kw_only=True)
class Shown:
    """The mixer that a saliency is checked with: it leaves the batch as it is and notes the map."""

    role = "mix"
    spec_version = (1, 2)

    saliency: Saliency = attrs.field(converter=as_saliency)
    """What is asked."""
    times: int = 1
    """How often it is asked."""

    @hookimpl
    def generate_mix(self, images: Tensor, labels: Tensor, probe: Probe) -> Mix:
        """A clean mix whose note `saliency` is the map."""
        maps = [probe.saliency(self.saliency, images, labels) for _ in range(self.times)]
        return Mix.clean(images, notes={"saliency": maps[-1]})


class TinyConvNet(nn.Module):
    """Stages of convolution, BatchNorm and ReLU, each halving the image, then average pooling and a classifier.

    Two stages, `stage1` of `width` channels and `stage2` of twice as many, or more like the second.
    """

    def __init__(self, num_classes: int, in_channels: int = 3, width: int = 8, stages: int = 2) -> None:
        super().__init__()
        self.stage1 = _stage(in_channels, width)
        self.stage2 = _stage(width, 2 * width)
        for number in range(3, stages + 1):
            self.add_module(f"stage{number}", _stage(2 * width, 2 * width))
        self.fc = nn.Linear(2 * width, num_classes)
        self.num_classes, self.num_features, self.head_hidden_size = num_classes, 2 * width, 2 * width
        self.feature_info = [
            {"num_chs": width * min(k, 2), "reduction": 2**k, "module": f"stage{k}"} for k in range(1, stages + 1)
        ]

    def forward_features(self, images: Tensor) -> Tensor:
        """[N,C,H,W] -> [N,2·width,H/4,W/4], with more stages smaller."""
        for entry in self.feature_info:
            images = self.get_submodule(str(entry["module"]))(images)
        return images

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """Pooled features [N,2·width], or with `pre_logits` false the logits [N,K]."""
        pooled = features.mean((2, 3))
        return pooled if pre_logits else self.fc(pooled)

    def get_classifier(self) -> nn.Module:
        """The last linear layer."""
        return self.fc

    def forward(self, images: Tensor) -> Tensor:
        """Logits [N,K]."""
        return self.forward_head(self.forward_features(images))


def _stage(channels: int, width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
    )


def tiny_vit(
    num_classes: int,
    image_size: tuple[int, int],
    in_channels: int = 3,
    patch: int = 4,
    depth: int = 2,
    class_token: bool = True,
) -> nn.Module:
    """timm's ViT of `depth` blocks of two heads and patches of `patch` pixels; without class token it averages them."""
    return VisionTransformer(
        img_size=image_size,
        patch_size=patch,
        in_chans=in_channels,
        num_classes=num_classes,
        embed_dim=16,
        depth=depth,
        num_heads=2,
        class_token=class_token,
        global_pool="token" if class_token else "avg",
    )


def tiny_network(
    needs: Collection[str],
    num_classes: int,
    image_size: tuple[int, int],
    in_channels: int,
    seed: int = 0,
    stages: int = 2,
) -> nn.Module:
    """A tiny network that offers what a plugin `needs` (a ViT for attention), its weights from the seed alone.

    It has so many `stages`. The global generators are left as they are.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if "attention" in needs:
            class_token = "class_activation" not in needs
            return tiny_vit(num_classes, image_size, in_channels, depth=stages, class_token=class_token)
        return TinyConvNet(num_classes, in_channels, stages=stages)
