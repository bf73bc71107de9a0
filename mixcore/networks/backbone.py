"""timm's interface for a network of any other origin, by the names of its own modules."""

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

__all__ = ["Backbone", "as_backbone"]


def as_backbone(
    module: nn.Module,
    *,
    features: str,
    classifier: str,
    image_size: tuple[int, int] = (224, 224),
    in_channels: int = 3,
) -> Backbone:
    """`module`, a network from images to logits, with timm's interface.

    `features` names the module that puts out the last map [N,D,h,w] (or [N,h,w,D], or tokens [N,T,D]); `classifier` the
    one that makes the logits [N,K]. Between them may stand what needs no weights and no draws: the mean over positions,
    the first token, or all positions in a row (flattened). Which one it is, is found by two forwards of two images of
    `image_size` (height, width) through a copy, in eval and in train mode, and must give what the classifier is really
    given. If dropout stands there, name the module that holds it and the classifier, or put both into one.

    The result shares all modules, parameters and buffers with `module` under the same names: state dicts fit both, and
    training one trains the other. It gives

    - `forward(images)`: what `module` gives, unchanged;
    - `forward_features(images)`: the output of `features`; what comes after it does not run;
    - `forward_head(features, pre_logits=False)`: what lies between and the classifier, or its input [N,D] alone;
    - `get_classifier()`, `num_features` (the width of its input), `num_classes`, `global_pool` ("avg", "token" or
      "flatten"), `num_prefix_tokens` (1 where a class token stands first), `output_fmt` ("NCHW" or "NHWC");
    - `feature_info`: of the modules beside `features` that put out a map, the last one of each size, so that stages have
      numbers; empty for networks of tokens.

    Class activation needs the mean over positions and a linear classifier. All other attributes are those of `module`.
    Copies, pickles, train and eval mode and DistributedDataParallel treat the result as any module; hooks on `module`
    itself (not on the modules inside it) run in `forward` only.

    Raises ConfigError for names that `module` lacks, and where a forward does not pass from one to the other like this.
    """
    for name, given in (("features", features), ("classifier", classifier)):
        if given not in dict(module.named_modules()) or not given:
            children = ", ".join(name for name, _ in module.named_children())
            raise ConfigError(
                f"as_backbone: {name}={given!r} is no module of {type(module).__name__}; it has {children}, and what "
                "is inside of these, by dotted names"
            )
    return Backbone(module, features, classifier, _measured(module, features, classifier, image_size, in_channels))


@attrs.frozen(kw_only=True)
class _Between:
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
class _Measured:
    between: _Between
    width: int
    num_classes: int
    stages: tuple[tuple[str, int, int], ...]
    """Name, channels and reduction of each stage."""


class _ReachedFeatures(Exception):  # noqa: N818 - no error: it leaves a forward that has given what was wanted
    def __init__(self, features: Tensor) -> None:
        super().__init__()
        self.features = features


class Backbone(nn.Module):
    """A network with timm's interface over modules of another; made by :func:`as_backbone`."""

    def __init__(self, network: nn.Module, features: str, classifier: str, measured: _Measured) -> None:
        super().__init__()
        # one set of modules and tensors under one set of names; `network` is no child, which would rename them all
        for shared in ("_modules", "_parameters", "_buffers", "_non_persistent_buffers_set"):
            self.__dict__[shared] = network.__dict__[shared]
        self.__dict__["_network"] = network
        self.training = network.training
        self._features, self._classifier, self._between = features, classifier, measured.between
        self.num_features = self.head_hidden_size = measured.width
        self.num_classes = measured.num_classes
        self.global_pool = measured.between.pool
        self.num_prefix_tokens = measured.between.prefix
        self.output_fmt = "NHWC" if measured.between.nhwc else "NCHW"
        self.feature_info = [
            {"module": name, "num_chs": channels, "reduction": reduction}
            for name, channels, reduction in measured.stages
        ]

    def forward(self, images: Tensor) -> Any:
        """What the network gives."""
        return self._network(images)

    def forward_features(self, images: Tensor) -> Tensor:
        """The output of the module named `features`; the forward ends there."""
        tap = self.get_submodule(self._features).register_forward_hook(_leave)
        try:
            self._network(images)
        except _ReachedFeatures as reached:
            return reached.features
        finally:
            tap.remove()
        raise AssertionError("as_backbone saw this network call its features")

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """Logits [N,K] of what forward_features gave, or with `pre_logits` the classifier's input [N,D]."""
        pooled = self._between(features)
        if pre_logits:
            return pooled.flatten(1)
        logits: Tensor = self.get_classifier()(pooled)
        return logits

    def get_classifier(self) -> nn.Module:
        """The module named `classifier`."""
        return self.get_submodule(self._classifier)

    @property
    def training(self) -> bool:  # type: ignore[override]
        """Train or eval mode, of the network too."""
        return bool(self._network.training)

    @training.setter
    def training(self, training: bool) -> None:
        if "_network" in self.__dict__:
            self._network.training = training

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if "_network" not in self.__dict__ or name.startswith("__"):
                raise
            return getattr(self.__dict__["_network"], name)


def _leave(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
    raise _ReachedFeatures(output)


# --- what a forward shows --------------------------------------------------------------------------------------------


def _measured(
    module: nn.Module, features: str, classifier: str, image_size: tuple[int, int], in_channels: int
) -> _Measured:
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
    return _Measured(
        between=between,
        width=looked.given.flatten(1).shape[1],
        num_classes=looked.logits.shape[1],
        stages=_stages(looked, features, image_size, between.nhwc),
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
    taps = [module.get_submodule(classifier).register_forward_pre_hook(lambda _module, inputs: given.append(inputs))]
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
    found = {name: outputs[name][0] if len(outputs[name]) == 1 else None for name in outputs}
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
    def keep(_module: nn.Module, _inputs: Any, output: Any) -> None:
        # a module behind may write into it
        kept.append(output.clone() if isinstance(output, Tensor) else output)

    return keep


def _candidates(seen: _Seen, image_size: tuple[int, int]) -> list[_Between]:
    if seen.features.ndim == 4:
        keepdim = seen.given.ndim == 4
        means = [_Between(pool="avg", nhwc=nhwc, keepdim=keepdim) for nhwc in (False, True)]
        return [*means, _Between(pool=FLATTEN)]
    if seen.features.ndim == 3:
        prefix = 0 if _is_grid(seen.features.shape[1], image_size) else 1
        means = [_Between(pool="avg", prefix=prefix, after_prefix=after) for after in (False, True)]
        return [*means, _Between(pool="token", prefix=prefix), _Between(pool=FLATTEN, prefix=prefix)]
    return []


def _is_grid(tokens: int, image_size: tuple[int, int]) -> bool:
    height, width = image_size
    rows = max(1, round((tokens * height / width) ** 0.5))
    return rows * rows * width == tokens * height


def _explains(between: _Between, seen: _Seen) -> bool:
    return _same(between(seen.features), seen.given)


def _same(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape:
        return False
    tolerance = max(1e-4, 8 * torch.finfo(other.dtype).eps)
    return bool((one - other).abs().max() <= tolerance * other.abs().max())


def _stages(seen: _Seen, features: str, image_size: tuple[int, int], nhwc: bool) -> tuple[tuple[str, int, int], ...]:
    """The last map of each size, by name, channels and reduction."""
    last: dict[tuple[int, int], str] = {}
    for name, output in seen.beside:
        if output.ndim == 4 and seen.features.ndim == 4:
            channels, rows = (output.shape[3], output.shape[1]) if nhwc else output.shape[1:3]
            last[channels, max(1, round(image_size[0] / rows))] = name
    return tuple((name, channels, reduction) for (channels, reduction), name in last.items())


def _refusal(module: nn.Module, features: str, classifier: str, seen: _Seen, between: _Between | None) -> str:
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
