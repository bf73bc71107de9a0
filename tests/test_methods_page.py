"""docs/methods.md is what docs/build_methods.py makes of the installed plugins, and its combinations are as it says."""

from __future__ import annotations

import itertools
import re
import runpy
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from mixcore.testing import companions

ROOT = Path(__file__).resolve().parents[1]
METHODS = SimpleNamespace(**runpy.run_path(str(ROOT / "docs" / "build_methods.py")))
PAGE = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
MIXERS, POLICIES, SALIENCIES = METHODS.names("mix"), METHODS.names("labels"), METHODS.names("saliency")
LOSSES = tuple(
    name for name in METHODS.names("loss") if "class" in getattr(METHODS.class_of(name), "accepts", ("class",))
)
STEPS = 3


def test_the_page_is_made_of_what_is_installed_now() -> None:
    assert METHODS.page() == PAGE, "docs/methods.md is not what the plugins say: run  python docs/build_methods.py"


def test_its_links_lead_somewhere() -> None:
    links = re.findall(r"\]\((\.\./[^)]*)\)", PAGE)
    assert len(set(links)) > 5
    assert all((ROOT / "docs" / link).is_file() for link in links)


def train_or_be_refused(**chosen: Mapping[str, Any]) -> bool:
    """Three steps of what can be combined; what cannot is refused with a name that would do. Whether it could."""
    refusal = METHODS.refusal(**chosen)
    if refusal is not None:
        others = {
            name for name in (*MIXERS, *POLICIES, *SALIENCIES) if name not in {one["name"] for one in chosen.values()}
        }
        assert any(re.search(rf"\b{name}\b", refusal) for name in others) or " = " in refusal, refusal
        return False
    step = METHODS.trial_step(**chosen)
    before = [parameter.detach().clone() for parameter in step.model.parameters()]
    optimizer = torch.optim.SGD(step.param_groups(), lr=0.05)
    images, labels = METHODS.trial_batch()
    for iteration in range(STEPS):
        loss, _ = step(images, labels, iteration=iteration, **companions(step, images))
        assert loss.isfinite(), chosen
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        step.after_step()
    moved = [not torch.equal(now, then) for now, then in zip(step.model.parameters(), before, strict=True)]
    assert any(moved), chosen
    assert all(parameter.isfinite().all() for parameter in step.model.parameters()), chosen
    return True


@pytest.mark.parametrize("mixer", MIXERS)
def test_every_mixer_trains_with_every_policy_that_it_is_not_refused_with(mixer: str) -> None:
    mix = METHODS.table_of(mixer)
    fits = {policy: train_or_be_refused(mix=mix, labels=METHODS.table_of(policy)) for policy in POLICIES}
    assert fits["weights"]


@pytest.mark.parametrize("mixer", MIXERS)
def test_every_mixer_trains_with_every_loss(mixer: str) -> None:
    for loss in LOSSES:
        tables = {"mix": METHODS.table_of(mixer), "labels": METHODS.PLAIN_LABELS, "loss": METHODS.table_of(loss)}
        assert train_or_be_refused(**tables), loss


@pytest.mark.parametrize(("holder", "option"), list(METHODS.holders()))
def test_every_saliency_serves_where_it_is_not_refused(holder: str, option: str) -> None:
    for saliency in SALIENCIES:
        train_or_be_refused(**METHODS.holding(holder, option, saliency))


@pytest.mark.slow
@pytest.mark.parametrize("mixer", MIXERS)
def test_every_combination_of_mixer_policy_and_loss(mixer: str, record_property: Callable[[str, object], None]) -> None:
    """How many there are is in the report that `--junitxml=FILE` writes."""
    mix = METHODS.table_of(mixer)
    trained = [
        train_or_be_refused(mix=mix, labels=METHODS.table_of(policy), loss=METHODS.table_of(loss))
        for policy, loss in itertools.product(POLICIES, LOSSES)
    ]
    record_property("trained", trained.count(True))
    record_property("refused", trained.count(False))
    assert any(trained)
