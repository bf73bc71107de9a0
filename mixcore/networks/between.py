"""What lies between the features of a network and its classifier, found by forwards of a copy."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from mixcore.errors import ConfigError
from mixcore.networks.interface import logits_of
from mixcore.networks.layout import FLATTEN
from mixcore.networks.modes import mode

__all__ = ["Between", "Measured", "measure"]


@attrs.frozen(kw_only=True)
class Between:
    """What lies between features and classifier."""

    pool: str
    """ "avg", "token" or "flatten"."""
    nhwc: bool = False
    prefix: int = 0
    """Tokens before the patches; with "avg" they are left out of the mean where `after_prefix` says so."""
    after_prefix: bool = False
    keepdim: bool = False
    """The classifier is given [N,D,1,1]."""

    def __call__(self, features: Tensor) -> Tensor:
        if self.pool == FLATTEN:
            return features.flatten(1)
        if self.pool == "token":
            return features[:, 0]
        if features.ndim == 3:
            return (features[:, self.prefix :] if self.after_prefix else features).mean(1)
        return features.mean((1, 2) if self.nhwc else (2, 3), keepdim=self.keepdim)


@attrs.frozen(kw_only=True)
class Measured:
    between: Between
    width: int
    num_classes: int
    stages: tuple[tuple[str, int, int], ...]
    """Name, channels and reduction of each stage."""


def measure(
    module: nn.Module, features: str, classifier: str, image_size: tuple[int, int], in_channels: int
) -> Measured:
    """What two forwards of a copy show of the way from `features` to the logits. ConfigError where it cannot be cut."""
    like = next(iter(module.parameters()), torch.zeros(()))
    if like.device.type == "meta":
        raise ConfigError("as_backbone looks at values, and this network is on meta; give it a real device first")
    copied = copy.deepcopy(module)
    generator = torch.Generator("cpu").manual_seed(0)
    images = torch.rand(2, in_channels, *image_size, generator=generator, device="cpu").to(like)
    seen = []
    for training in (False, True):
        seen.append(_forward(copied, features, classifier, images, training))
    looked = seen[0]
    between = next((one for one in _candidates(looked, image_size) if all(_explains(one, each) for each in seen)), None)
    if between is None or not all(_same(each.logits, each.classified) for each in seen):
        raise ConfigError(_refusal(module, features, classifier, looked, between))
    return Measured(
        between=between,
        width=looked.given.flatten(1).shape[1],
        num_classes=looked.logits.shape[1],
        stages=_stages(looked, image_size, between.nhwc),
    )


@attrs.frozen(kw_only=True, eq=False)
class _Seen:
    features: Tensor
    given: Tensor
    """What the classifier was given."""
    classified: Tensor
    logits: Tensor
    beside: tuple[tuple[str, Tensor], ...]
    """Outputs of the modules beside `features`, up to it, of those that are called once."""


def _forward(module: nn.Module, features: str, classifier: str, images: Tensor, training: bool) -> _Seen:
    """One forward of a copy, everything of interest caught."""
    parent, _, _ = features.rpartition(".")
    outputs: dict[str, list[Any]] = {}
    given: list[Any] = []
    taps = [module.get_submodule(classifier).register_forward_pre_hook(_keeping_inputs(given))]
    beside = [f"{parent}.{child}" if parent else child for child, _ in module.get_submodule(parent).named_children()]
    for name in dict.fromkeys([*beside, features, classifier]):
        keep = outputs.setdefault(name, [])
        taps.append(module.get_submodule(name).register_forward_hook(_keeping(keep)))
    devices = [images.device] if images.device.type == "cuda" else []
    try:
        with mode(module, training), torch.no_grad(), torch.random.fork_rng(devices):
            logits = logits_of(module(images))
    except Exception as error:
        raise ConfigError(
            f"as_backbone: {type(module).__name__} does not take images of shape {list(images.shape)} ({error}); give "
            "the shape that it takes: as_backbone(..., image_size=(height, width), in_channels=...)"
        ) from error
    finally:
        for tap in taps:
            tap.remove()
    found: dict[str, Any] = {name: outputs[name][0] if len(outputs[name]) == 1 else None for name in outputs}
    inputs = given[0][0] if len(given) == 1 and len(given[0]) == 1 else None
    for name, tensor in ((features, found[features]), (classifier, found[classifier]), (classifier, inputs)):
        if not isinstance(tensor, Tensor):
            raise ConfigError(
                f"as_backbone: a forward of {type(module).__name__} calls {name!r} {len(outputs[name])} times, or not "
                "with one tensor for one tensor; name a module that it calls once, images to map or features to logits"
            )
    earlier = beside[: beside.index(features) + 1]
    maps = tuple((name, found[name]) for name in earlier if isinstance(found[name], Tensor))
    assert isinstance(inputs, Tensor)
    return _Seen(features=found[features], given=inputs, classified=found[classifier], logits=logits, beside=maps)


def _keeping(kept: list[Any]) -> Callable[..., None]:
    return lambda _module, _inputs, output: kept.append(_own(output))


def _keeping_inputs(kept: list[Any]) -> Callable[..., None]:
    return lambda _module, inputs: kept.append(tuple(map(_own, inputs)))


def _own(value: Any) -> Any:
    """A copy: modules behind may write into what they are given."""
    return value.clone() if isinstance(value, Tensor) else value


def _candidates(seen: _Seen, image_size: tuple[int, int]) -> list[Between]:
    if seen.features.ndim == 4:
        keepdim = seen.given.ndim == 4
        means = [Between(pool="avg", nhwc=nhwc, keepdim=keepdim) for nhwc in (False, True)]
        return [*means, Between(pool=FLATTEN)]
    if seen.features.ndim == 3:
        prefix = 0 if _is_grid(seen.features.shape[1], image_size) else 1
        means = [Between(pool="avg", prefix=prefix, after_prefix=after) for after in (False, True)]
        return [*means, Between(pool="token", prefix=prefix), Between(pool=FLATTEN, prefix=prefix)]
    return []


def _is_grid(tokens: int, image_size: tuple[int, int]) -> bool:
    height, width = image_size
    rows = max(1, round((tokens * height / width) ** 0.5))
    return rows * rows * width == tokens * height


def _explains(between: Between, seen: _Seen) -> bool:
    return _same(between(seen.features), seen.given)


def _same(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape:
        return False
    tolerance = max(1e-4, 8 * torch.finfo(other.dtype).eps)
    return bool((one - other).abs().max() <= tolerance * other.abs().max())


def _stages(seen: _Seen, image_size: tuple[int, int], nhwc: bool) -> tuple[tuple[str, int, int], ...]:
    """The last map of each size, by name, channels and reduction."""
    last: dict[tuple[int, int], str] = {}
    for name, output in seen.beside:
        if output.ndim == 4 and seen.features.ndim == 4:
            channels, rows = (output.shape[3], output.shape[1]) if nhwc else output.shape[1:3]
            last[channels, max(1, round(image_size[0] / rows))] = name
    return tuple((name, channels, reduction) for (channels, reduction), name in last.items())


def _refusal(module: nn.Module, features: str, classifier: str, seen: _Seen, between: Between | None) -> str:
    kind = type(module).__name__
    if between is not None:
        return (
            f"as_backbone: {kind} does not end with {classifier!r}, whose output {list(seen.classified.shape)} is "
            "changed before it becomes the logits; name the module that ends it"
        )
    return (
        f"as_backbone: between {features!r}, which puts out {list(seen.features.shape)}, and {classifier!r}, which is "
        f"given {list(seen.given.shape)}, {kind} does something else than the mean over positions, the first token or "
        "flattening; name a later module as features, or an earlier one as classifier (one that holds dropout and "
        "classifier, for example)"
    )
