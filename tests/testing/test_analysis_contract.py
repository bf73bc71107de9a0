"""The contract of analyses: an analysis that breaks one promise fails the check of that promise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import pytest
import torch

from mixcore.api import hookimpl, logits_of
from mixcore.errors import HookError
from mixcore.testing import Harness, Subject
from mixcore.testing.checks_analysis import (
    generators_are_left,
    numbers_are_plain,
    same_seed_same_numbers,
    the_network_is_left,
    writes_below_its_folder,
)


@attrs.define(eq=False, kw_only=True)
class Good:
    """Counts."""

    role = "analysis"
    spec_version = (1, 3)

    @hookimpl
    def analyse(self, model: Any, data: Any, folder: Path) -> Any:
        (folder / "picture.png").write_bytes(b"")
        with torch.no_grad():
            return {"images": sum(len(logits_of(model(batch.images))) for batch in data.batches()), **self.more(model)}

    def more(self, model: Any) -> dict[str, Any]:
        """What it does beside counting."""
        return {}


class Words(Good):
    def more(self, model: Any) -> dict[str, Any]:
        return {"mean": float("nan")}


class Unseeded(Good):
    def more(self, model: Any) -> dict[str, Any]:
        rng = torch.Generator()
        rng.seed()
        return {"drawn": float(torch.rand((), generator=rng))}


class Drawing(Good):
    def more(self, model: Any) -> dict[str, Any]:
        return {"seeded": torch.manual_seed(0).initial_seed()}


class Beside(Good):
    def more(self, model: Any) -> dict[str, Any]:
        Path("result.txt").write_text("here")
        return {}


class Training(Good):
    def more(self, model: Any) -> dict[str, Any]:
        model.train()
        return {}


class Gradients(Good):
    def more(self, model: Any) -> dict[str, Any]:
        next(model.parameters()).grad = torch.zeros_like(next(model.parameters()))
        return {}


class Hooked(Good):
    def more(self, model: Any) -> dict[str, Any]:
        model.register_forward_hook(lambda *_: None)
        return {}


CHECKS = (
    generators_are_left,
    numbers_are_plain,
    same_seed_same_numbers,
    the_network_is_left,
    writes_below_its_folder,
)


@pytest.mark.parametrize("check", CHECKS)
def test_a_good_one_passes(check: Any) -> None:
    check(Harness(Subject(plugin=Good)))


@pytest.mark.parametrize(
    ("broken", "check", "said"),
    [
        (Words, numbers_are_plain, "mean = nan; where a number is not finite, give words"),
        (Unseeded, same_seed_same_numbers, "drawn is .* seed every draw"),
        (Drawing, generators_are_left, "global generator of torch"),
        (Beside, writes_below_its_folder, "here/result.txt beside its folder"),
        (Training, the_network_is_left, "the mode of"),
        (Gradients, the_network_is_left, "the gradient of stage1"),
        (Hooked, the_network_is_left, "the hooks of"),
    ],
)
def test_a_broken_one_fails(broken: type, check: Any, said: str) -> None:
    with pytest.raises((AssertionError, HookError), match=said):
        check(Harness(Subject(plugin=attrs.define(eq=False, kw_only=True)(broken))))
