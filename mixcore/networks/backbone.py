"""timm's interface for a network of any other origin, by the names of its own modules."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mixcore.errors import ConfigError, MixcoreError
from mixcore.networks.between import Measured, measure
from mixcore.networks.compiled import compiled_around, is_compiled, kind_of

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
    - `get_classifier()`, `num_features` (the width of its input), `num_classes`, and under timm's names what lies
      between ("avg", "token" or "flatten"), whether a class token stands first, and the layout of the map;
    - `feature_info`: of the modules beside `features` that put out a map, the last one of each size, so that stages
      have numbers; empty for networks of tokens.

    Class activation needs the mean over positions and a linear classifier. All other attributes are those of `module`.
    Copies, pickles, train and eval mode and DistributedDataParallel treat the result as any module; hooks on `module`
    itself (not on the modules inside it) run in `forward` only. torch.compile compiles what follows the features.

    Raises ConfigError for names that `module` lacks, for a module that came compiled, and where a forward does not pass
    from one to the other like this.
    """
    around = f"{kind_of(module)} is compiled" if is_compiled(module) else compiled_around(module, features)
    if around is not None:
        raise ConfigError(
            f"as_backbone: {around}, and its forward can no longer be cut at {features!r}; wrap the module as it was "
            "before torch.compile, and have the result compiled: create_step(..., compile=True), in a configuration "
            "[train] compile = true"
        )
    for name, given in (("features", features), ("classifier", classifier)):
        if given not in dict(module.named_modules()) or not given:
            children = ", ".join(name for name, _ in module.named_children())
            raise ConfigError(
                f"as_backbone: {name}={given!r} is no module of {type(module).__name__}; it has {children}, and what "
                "is inside of these, by dotted names"
            )
    return Backbone(module, features, classifier, measure(module, features, classifier, image_size, in_channels))


class _ReachedFeatures(Exception):  # noqa: N818 - no error: it leaves a forward that has given what was wanted
    def __init__(self, features: Tensor) -> None:
        super().__init__()
        self.features = features


class Backbone(nn.Module):
    """A network with timm's interface over modules of another; made by :func:`as_backbone`."""

    def __init__(self, network: nn.Module, features: str, classifier: str, measured: Measured) -> None:
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

    @torch.compiler.disable
    def forward_features(self, images: Tensor) -> Tensor:
        """The output of the module named `features`; the forward ends there."""
        # not compiled: compiled modules do not hear a hook that comes later, and this one comes at every call
        tap = self.get_submodule(self._features).register_forward_hook(_leave)
        try:
            self._network(images)
        except _ReachedFeatures as reached:
            return reached.features
        finally:
            tap.remove()
        raise MixcoreError(
            f"the forward of {type(self._network).__name__} no longer calls {self._features!r}, as it did when "
            "as_backbone looked at it; do not compile it or parts of it in place, and leave its forward as it was"
        )

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
