"""The check of options beyond the defaults: every value of those that have few, one at a time."""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, Union, get_args, get_origin

import attrs

from mixcore.config.structure import option_fields
from mixcore.errors import ConfigError
from mixcore.testing import (
    checks_device,
    checks_form,
    checks_isolation,
    checks_owners,
    checks_repeat,
    checks_saliency,
    checks_step,
    checks_values,
)
from mixcore.testing.expect import expect
from mixcore.testing.harness import Harness, NotApplicableError, Subject

__all__ = ["every_option_value"]

_STEP = (checks_repeat.two_training_steps, checks_device.two_steps_on_another_device)
CHECKED: Mapping[str, tuple[Callable[[Harness], None], ...]] = {
    "mix": (
        checks_form.heights_and_widths,
        checks_values.weights_are_shares,
        checks_values.masks_are_shares,
        checks_isolation.batch_is_not_modified,
        *_STEP,
    ),
    "saliency": (checks_saliency.saliency_is_a_map, checks_saliency.saliency_leaves_the_network, *_STEP),
    "labels": (checks_owners.label_weights, *_STEP),
    "loss": (checks_owners.the_loss_is_a_mean, *_STEP),
    "extra": (checks_step.the_batch_is_kept, *_STEP),
}
"""By role the checks that each value has to pass: those of shapes and shares, and training steps."""


def every_option_value(harness: Harness) -> None:
    """Every value of every Literal and boolean option, one at a time, is built and trains."""
    tried, faults = 0, []
    for name, value in _other_values(harness.plugin):
        subject = attrs.evolve(harness.given, options={**harness.given.options, name: value})
        tried += 1
        faults += [f"with {name} = {_toml(value)}, {fault}" for fault in _faults(subject, harness.role)]
    if not tried:
        raise NotApplicableError("it has no option of type Literal or bool")
    expect(not faults, "; ".join(faults))


def _other_values(plugin: Any) -> Iterator[tuple[str, Any]]:
    """Key and value of each value of a Literal or boolean option that it does not have now."""
    for key, field in option_fields(type(plugin)).items():
        for value in _values(field.type):
            if value != getattr(plugin, field.name):
                yield key, value


def _values(annotation: Any) -> tuple[Any, ...]:
    """What a type allows, where it names a few values; None, which no table can hold, is left out."""
    if annotation is bool:
        return (False, True)
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    if get_origin(annotation) in (Union, types.UnionType):
        return tuple(value for member in get_args(annotation) for value in _values(member))
    return ()


def _faults(subject: Subject, role: str) -> list[str]:
    """The first check that fails and what it says; nothing where the plugin refuses the value beside these others."""
    for check in CHECKED[role]:
        try:
            check(Harness(subject))
        except NotApplicableError:
            continue
        except ConfigError:
            return []
        except Exception as error:  # whatever a stranger's plugin raises is a finding
            kind = "" if isinstance(error, AssertionError) else f"{type(error).__name__}: "
            return [f"{check.__name__}: {kind}{error}"]
    return []


def _toml(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else f'"{value}"' if isinstance(value, str) else str(value)
