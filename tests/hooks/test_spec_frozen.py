"""The hook specification is a contract: a change of it needs a new version and a changed page."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

from mixcore.hooks.calls import HOOKS
from mixcore.hooks.specs import HookSpecs
from mixcore.hooks.version import SPEC_VERSION

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "hooks.md").read_text()

FROZEN = {
    "version": (1, 4),
    "check": "task, iterations",
    "build_data": "",
    "build_backbone": "task",
    "build_modules": "model, task",
    "choose_mixer": "probabilities, step, rng",
    "generate_mix": "images, labels, batch, probe, modules, task, step, rng",
    "map_saliency": "images, labels, batch, probe, modules, task, step",
    "mix_labels": "mix, images, labels, batch, output, clean, probe, modules, task, step",
    "compute_loss": "logits, targets, modules, task, step",
    "extra_losses": "mix, targets, images, labels, batch, output, clean, probe, modules, task, step",
    "scalars": "mix, targets, modules, step",
    "preview_mix": "images, labels, partner, lam, probe, modules, task",
    "after_step": "model, modules, step",
    "predictors": "model, modules",
    "build_metrics": "task",
    "log_record": "record, folder",
    "analyse": "model, data, task, folder, progress",
    "compare_runs": "results, task, folder",
    "launch_runs": "runs, jobs, report, wanted_stop",
}


def specified() -> dict[str, str]:
    found = {}
    for name, method in inspect.getmembers(HookSpecs, inspect.isfunction):
        found[name] = ", ".join(list(inspect.signature(method).parameters)[1:])
    return found


def test_parameters_are_those_of_this_version() -> None:
    """After a change: raise mixcore/hooks/version.py, rewrite docs/hooks.md, then this table."""
    assert {"version": SPEC_VERSION, **specified()} == FROZEN


def test_the_facade_knows_every_hook() -> None:
    assert set(HOOKS) == set(specified())


def test_the_page_has_a_heading_with_the_signature_of_every_hook() -> None:
    for name, parameters in specified().items():
        signature = f"{name}(self, {parameters})" if parameters else f"{name}(self)"
        assert f"\n## `{signature}`\n" in PAGE, f"docs/hooks.md lacks the heading of {signature}"
    major, minor = SPEC_VERSION
    assert f"now {major}.{minor}." in PAGE


def test_every_hook_has_a_test_of_its_name_and_an_example() -> None:
    tests = (Path(__file__).parent / "test_hooks.py").read_text()
    for name in specified():
        assert f"def test_hook_{name}" in tests
        section = re.split(r"^## ", PAGE, flags=re.M)
        (own,) = [part for part in section if part.startswith(f"`{name}(")]
        assert "```python" in own
