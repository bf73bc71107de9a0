"""What the core checks of what a hook returned: types, shapes, dtypes, and graphs; values are not read.

`who` names hook and plugin in messages, as in "generate_mix of stripes (mixcore-plugin-stripes 0.1.0)".
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Real
from typing import Any, cast

import torch
from torch import Tensor

from mixcore.errors import HookError
from mixcore.types import Mix

__all__ = [
    "check_mix",
    "check_number",
    "check_numbers",
    "check_pair",
    "check_saliency",
    "check_scalar",
    "check_sources",
    "described",
    "unexpected",
]


def described(value: object) -> str:
    """A value in few words: dtype and shape of a tensor, the type of anything else; never what is in it."""
    if isinstance(value, Tensor):
        return f"{value.dtype} {list(value.shape)}".replace("torch.", "")
    return "None" if value is None else f"a {type(value).__name__}"


def unexpected(who: str, found: object, expected: str) -> HookError:
    """The error for a result of another type."""
    kind = "None" if found is None else type(found).__name__
    return HookError(f"{who} returned {kind}, expected {expected}; see docs/hooks.md")


def check_mix(who: str, mix: object) -> Mix:
    """HookError for what is no Mix, or one whose fields do not fit its images."""
    if not isinstance(mix, Mix):
        raise unexpected(who, mix, "a mixcore.api.Mix")
    rows = mix.images.shape[0]
    check_sources(who, mix.sources, mix.weights, rows)
    _check_masks(who, mix, rows)
    if mix.head is not None and not isinstance(mix.head, str):
        raise HookError(f"{who} gave head {described(mix.head)}; expected the name of one of its parts (build_modules)")
    if mix.stage is not None and not isinstance(mix.stage, str | int):
        raise HookError(f"{who} gave stage {described(mix.stage)}; expected a module's name or a number")
    for name, loss in mix.losses.items():
        if not isinstance(loss, Tensor) or loss.ndim:
            raise HookError(f"{who} gave losses {name!r} {described(loss)}; expected a scalar tensor, such as a mean")
    for name, note in mix.notes.items():
        if not isinstance(note, Tensor) or note.shape[:1] != (rows,):
            raise HookError(
                f"{who} gave notes {name!r} {described(note)}; expected [{rows},...], a row per mixed image, because "
                f"the notes of groups are joined; one value for all: torch.as_tensor(value).expand({rows})"
            )
    return mix


def check_pair(who: str, mix: object) -> Mix:
    """A mix as check_mix takes it, of two sources per image; HookError for another number."""
    found = check_mix(who, mix)
    count = found.sources.shape[1]
    if count != 2:
        raise HookError(
            f"{who} gave a mix of {count} sources per image; expected 2, each image and its partner: "
            "Mix.pair(images, partner, lam, mask)"
        )
    return found


def check_sources(who: str, sources: Tensor, weights: Tensor, rows: int) -> None:
    """HookError unless sources are int64 [rows,S] and weights float32 of the same shape."""
    shape = sources.shape
    if sources.dtype != torch.int64 or len(shape) != 2 or shape[0] != rows:
        raise HookError(f"{who} gave sources {described(sources)}; expected int64 [{rows},S]")
    if weights.dtype != torch.float32 or weights.shape != shape:
        raise HookError(f"{who} gave weights {described(weights)}; expected float32 {list(shape)}")


def _check_masks(who: str, mix: Mix, rows: int) -> None:
    masks = mix.masks
    if masks is None:
        return
    height, width = mix.images.shape[-2:]
    shape, given = tuple(masks.shape), mix.sources.shape[1] - 1
    fits = len(shape) == 4 and shape[:2] == (rows, given) and not (height % shape[2] or width % shape[3])
    if not (fits and masks.is_floating_point()):
        raise HookError(
            f"{who} gave masks {described(masks)}; expected floating "
            f"[{rows},{given},h,w] with h dividing {height} and w dividing {width}"
        )


def check_scalar(who: str, value: object, name: str | None = None) -> Tensor:
    """The loss itself; HookError where it is no scalar tensor. `name` is its own, where a hook returns several."""
    if not isinstance(value, Tensor):
        raise unexpected(who, value, "a scalar tensor" if name is None else f"a scalar tensor under {name!r}")
    if value.ndim:
        called = "" if name is None else f"{name!r} "
        raise HookError(
            f"{who} returned {called}{described(value)}; expected a scalar: take the mean over the rows "
            "after per-sample weights are applied"
        )
    return value


def check_saliency(who: str, value: object, rows: int) -> Tensor:
    """The map itself; HookError unless it is floating [rows,h,w] without a graph."""
    if not isinstance(value, Tensor):
        raise unexpected(who, value, f"a tensor [{rows},h,w]")
    if value.ndim != 3 or value.shape[0] != rows or not value.is_floating_point():
        raise HookError(f"{who} returned {described(value)}; expected floating [{rows},h,w], a map for each image")
    if value.requires_grad:
        raise HookError(f"{who} returned a map with a graph; write map.detach(), or look with torch.no_grad()")
    return value


def check_number(who: str, value: object, name: str) -> float | Tensor:
    """The number itself; HookError where it is none, or a tensor that keeps its graph alive."""
    if isinstance(value, Real):
        return cast(float, value)
    if not isinstance(value, Tensor) or value.ndim:
        raise HookError(f"{who} returned {name!r} {described(value)}; expected a number or a scalar tensor")
    if value.requires_grad:
        raise HookError(
            f"{who} returned {name!r} with a graph; write value.detach(): what is logged is kept until it is read"
        )
    return value


def check_numbers(who: str, found: object) -> dict[str, Any]:
    """What an analysis gave, plain: words, finite numbers, lists, and tables of these by name. HookError otherwise."""
    if not isinstance(found, Mapping):
        raise unexpected(who, found, "a mapping of numbers by name")
    return cast(dict[str, Any], _plain_number(who, "", found))


def _plain_number(who: str, name: str, value: object) -> object:
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: _plain_number(who, f"{name}.{key}" if name else key, item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain_number(who, f"{name}[{index}]", item) for index, item in enumerate(value)]
    if isinstance(value, float):
        raise HookError(f"{who} gave {name} = {value}; where a number is not finite, give words that say why")
    raise HookError(
        f"{who} gave {name or 'a table'} {described(value)}; expected plain numbers, words, lists and tables with "
        "names as keys, such as float(value) or tensor.tolist()"
    )
