"""The builtin backbone `timm`: any model of timm by its name."""

from __future__ import annotations

import difflib
from typing import Any

import attrs
import timm
from torch import nn

from mixcore.api import ConfigError, Task, hookimpl

__all__ = ["TimmBackbone", "create_timm_model"]


def create_timm_model(model: str, task: Task, **options: Any) -> nn.Module:
    """A timm model for the task: its channels and classes, and its image size where the model fixes one.

    ConfigError for a name that timm does not have, and for options that this model refuses.
    """
    if not timm.is_model(model):
        near = difflib.get_close_matches(model, timm.list_models(), 3)
        raise ConfigError(
            f"backbone {model!r} is neither an installed plugin nor a model of timm {timm.__version__}; "
            + (f"did you mean {', '.join(near)}?" if near else "timm.list_models() lists what there is")
        )
    given = {name: value for name, value in options.items() if value is not None}
    if (timm.models.get_pretrained_cfg(model, allow_unregistered=True) or _NO_CONFIG).fixed_input_size:
        given.setdefault("img_size", task.image_size)
    try:
        return timm.create_model(model, in_chans=task.in_channels, num_classes=task.num_classes, **given)
    except (TypeError, AssertionError, OSError, RuntimeError) as error:
        shown = ", ".join(f"{name} = {value!r}" for name, value in sorted(given.items()))
        raise ConfigError(f"timm refuses backbone {model!r} with {shown or 'its defaults'}: {error}") from error


@attrs.frozen
class _NoConfig:
    fixed_input_size: bool = False


_NO_CONFIG = _NoConfig()


@attrs.define(eq=False, kw_only=True)
class TimmBackbone:
    """Any timm model. `[backbone] name = "resnet50"` is short for `name = "timm"` with `model = "resnet50"`."""

    role = "backbone"

    model: str
    """Name of the timm model."""
    pretrained: bool = False
    """Start from timm's published weights (fetched once, then cached)."""
    options: dict[str, Any] = attrs.field(factory=dict)
    """Further arguments of the timm model, as they are."""

    @hookimpl
    def build_backbone(self, task: Task) -> nn.Module:
        """The network, on the CPU, in train mode."""
        return create_timm_model(self.model, task, pretrained=self.pretrained, **self.options)
