"""Passes are counted and costs compared as they are; `mixcore bench` prints and writes them."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path

import attrs
import pytest
import torch
from torch import Tensor, nn

import mixcore
from mixcore.api import Mix, Part, Probe, hookimpl
from mixcore.cli.main import main
from mixcore.errors import ConfigError
from mixcore.measure.cost import measure
from mixcore.measure.memory import held_bytes, peak_bytes
from mixcore.measure.passes import Passes, count_passes
from mixcore.step.step import TrainingStep
from mixcore.testing import TinyConvNet, tiny_vit


def step_of(mix: object, model: nn.Module | None = None) -> TrainingStep:
    return mixcore.create_step(model or TinyConvNet(4), mix=mix, num_classes=4, iterations=100, image_size=(16, 16))


def batch() -> tuple[Tensor, Tensor]:
    return torch.rand(4, 3, 16, 16), torch.arange(4)


@attrs.define(eq=False, kw_only=True)
class Looking:
    """One pass with a gradient, one look at half of the batch, one at a network of its own."""

    role = "mix"

    @hookimpl
    def build_modules(self) -> Mapping[str, Part]:
        return {"other": Part(module=TinyConvNet(4), optimizer=None)}

    @hookimpl
    def generate_mix(self, images: Tensor, labels: Tensor, probe: Probe) -> Mix:
        probe.input_gradient(images, labels)
        probe.look(images[:2])
        probe.look(images, network="other")
        return Mix.clean(images)


@attrs.define(eq=False, kw_only=True)
class Twice:
    """The clean batch as a view of its own."""

    role = "mix"

    @hookimpl
    def generate_mix(self, images: Tensor) -> Mix:
        return Mix.clean(images.flip(0).contiguous(), views=(Mix.clean(images),))


@attrs.define(eq=False, kw_only=True)
class Slow:
    """Takes its time."""

    role = "mix"

    @hookimpl
    def generate_mix(self, images: Tensor) -> Mix:
        start = time.process_time()
        while time.process_time() < start + 0.03:
            pass
        return Mix.clean(images)


@pytest.mark.parametrize("model", [None, "vit"])
@pytest.mark.parametrize(
    ("mix", "expected"),
    [("none", (1, 1)), ("mixup", (1, 1)), (Looking(), (3.5, 2)), (Twice(), (2, 2))],
    ids=["none", "mixup", "looking", "twice"],
)
def test_passes_are_counted_in_batches(mix, expected, model):
    step = step_of(mix, tiny_vit(4, (16, 16)) if model else None)
    passes = count_passes(step, *batch(), iterations=range(2))
    assert (passes.forward, passes.backward) == expected
    assert all(parameter.grad is None for parameter in step.parameters())
    assert not any(module._forward_hooks for module in step.modules()), "no hook stays behind"


def test_passes_beyond_others():
    more = Passes(forward=3.5, backward=2).beyond(Passes(forward=1, backward=1))
    assert more == Passes(forward=2.5, backward=1)


def test_times_tell_the_slow_from_the_fast():
    builds = {"none": lambda: step_of("none"), "slow": lambda: step_of(Slow())}
    costs = measure(builds, *batch(), repeats=3)
    assert costs["slow"].mix_ms > 20 > costs["none"].mix_ms
    assert costs["slow"].step_ms > 20


@attrs.define(eq=False, kw_only=True)
class Hoarding:
    """Holds a megabyte for a moment."""

    role = "mix"

    @hookimpl
    def generate_mix(self, images: Tensor) -> Mix:
        hoard = torch.ones(2**18)
        return Mix.clean(images + hoard[0] - 1)


def test_memory_tells_who_holds_more():
    builds = {"none": lambda: step_of("none"), "hoarding": lambda: step_of(Hoarding())}
    costs = {name: cost.peak_bytes for name, cost in measure(builds, *batch(), repeats=1).items()}
    weights = held_bytes(TinyConvNet(4).parameters())
    assert costs["none"] > 3 * weights, "weights, momentum and gradients are held together"
    assert 2**20 <= costs["hoarding"] < costs["none"] + 2**20 + 2**14


def test_peak_is_the_most_that_was_held_together():
    def work():
        first = torch.ones(1000)
        del first
        second, third = torch.ones(2000), torch.ones(500)
        return second.view(2, 1000), third

    assert peak_bytes(work, torch.device("cpu")) == 4 * 2500


def test_shared_memory_is_held_once():
    whole = torch.ones(10)
    assert held_bytes([whole, whole[:5], torch.ones(2)]) == 48


def test_what_does_not_fit_is_skipped_or_raised():
    def build() -> TrainingStep:
        raise ConfigError("no such stage")

    told = []
    costs = measure(
        {"none": lambda: step_of("none"), "misfit": build},
        *batch(),
        repeats=1,
        skip=lambda name, error: told.append((name, str(error))) is None,
    )
    assert list(costs) == ["none"]
    assert told == [("misfit", "no such stage")]
    with pytest.raises(ConfigError):
        measure({"misfit": build}, *batch(), repeats=1)


TINY = ["--backbone", "resnet10t", "--batch", "4", "--repeats", "1"]


def test_bench_prints_a_table_and_writes_json(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    file = tmp_path / "bench.json"
    threads = torch.get_num_threads()
    assert main(["bench", "mixup", "puzzlemix", *TINY, "--json", str(file)]) == 0
    shown = capsys.readouterr().out
    (document,) = json.loads(file.read_text())["benchmarks"]
    rows = {row["mixer"]: row for row in document["results"]}
    assert list(rows) == ["none", "mixup", "puzzlemix"]
    assert rows["none"]["relative"] == 1
    assert (rows["mixup"]["extra_forwards"], rows["mixup"]["extra_backwards"]) == (0, 0)
    assert (rows["puzzlemix"]["extra_forwards"], rows["puzzlemix"]["extra_backwards"]) == (1, 1)
    assert document["conditions"]["backbone"] == "resnet10t"
    assert document["conditions"]["threads"] == 1
    assert "4 images of 32 px, 100 classes, resnet10t, fp32" in shown
    assert all(name in shown for name in rows)
    assert torch.get_num_threads() == threads


def test_bench_lists_what_the_backbone_cannot_serve(install, capsys: pytest.CaptureFixture[str]):
    source = (
        "import attrs\nfrom mixcore.api import Mix, hookimpl\n"
        "@attrs.define(eq=False, kw_only=True)\nclass Attends:\n"
        "    role = 'mix'\n    needs = frozenset({'attention'})\n"
        "    @hookimpl\n    def generate_mix(self, images):\n        return Mix.clean(images)\n"
    )
    install({"attends": "fake_attends:Attends"}, {"fake_attends": source})
    assert main(["bench", "attends", *TINY]) == 0
    shown = capsys.readouterr().out
    assert "skipped attends: " in shown
    assert "attention" in shown


def test_bench_with_options_and_tables_beside_the_mixer(capsys: pytest.CaptureFixture[str]) -> None:
    def passes(*more: str) -> list[str]:
        assert main(["bench", "puzzlemix", *TINY, *more]) == 0
        return next(line.split()[2:4] for line in capsys.readouterr().out.splitlines() if line.startswith("puzzlemix"))

    assert passes() == ["+1", "+1"]
    assert passes("--set", "puzzlemix.saliency=uniform", "--set", "puzzlemix.labels.name=area") == ["+0", "+0"]
    for wrong, told in {
        "puzzlemix.saliencyy=1": "saliencyy",
        "mixup.alpha=1": "mixup: expected NAME.KEY=VALUE",
        "puzzlemix.labels=3": "expected a table",
        "puzzlemix.labels.name=areaa": "areaa",
    }.items():
        assert main(["bench", "puzzlemix", *TINY, "--set", wrong]) == 2
        assert told in capsys.readouterr().err


def test_bench_refuses_what_is_no_mixer(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    assert main(["bench", "weights", *TINY]) == 2
    assert "has role labels, and bench measures mixers" in capsys.readouterr().err
    assert main(["bench", "mixupp", *TINY]) == 2
    assert main(["bench", "none", *TINY, "--json", str(tmp_path / "missing" / "bench.json")]) != 0
    assert "could not be written" in capsys.readouterr().err
