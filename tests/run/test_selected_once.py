"""The plugins of a run are selected once in a process and built once: what was checked is what trains."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from mixcore.cli.main import main

PROBES = """
import os
from pathlib import Path

import attrs
import torch
from torch import nn

from mixcore.api import Mix, Saliency, as_saliency, hookimpl
from mixcore_toy import ToyData, ToyNet

def note(plugin, what):
    with Path("notes.txt").open("a") as file:
        file.write(f"{os.getpid()} {what} {type(plugin).__name__}\\n")

@attrs.define(eq=False, kw_only=True)
class Method:
    def __attrs_post_init__(self):
        note(self, "made")

    @hookimpl
    def build_modules(self):
        note(self, "built")
        return {}

@attrs.define(eq=False, kw_only=True)
class ProbeData(ToyData):
    def __attrs_post_init__(self):
        note(self, "made")

    @hookimpl
    def build_data(self):
        note(self, "built")
        return ToyData.build_data(self)

@attrs.define(eq=False, kw_only=True)
class ProbeNet(ToyNet):
    def __attrs_post_init__(self):
        note(self, "made")

    @hookimpl
    def build_backbone(self, task):
        note(self, "built")
        return ToyNet.build_backbone(self, task)

@attrs.define(eq=False, kw_only=True)
class ProbeMix(Method):
    role = "mix"
    saliency: Saliency = attrs.field(default=Saliency("probe_saliency"), converter=as_saliency)

    @hookimpl
    def generate_mix(self, images, labels, probe):
        probe.saliency(self.saliency, images, labels)
        return Mix.clean(images)

@attrs.define(eq=False, kw_only=True)
class ProbeSaliency(Method):
    role = "saliency"

    @hookimpl
    def map_saliency(self, images):
        return torch.ones_like(images[:, 0])

@attrs.define(eq=False, kw_only=True)
class ProbeLabels(Method):
    role = "labels"

    @hookimpl
    def mix_labels(self, mix, labels):
        return mix.targets(labels)

@attrs.define(eq=False, kw_only=True)
class ProbeLoss(Method):
    role = "loss"

    @hookimpl
    def compute_loss(self, logits, targets, task):
        return nn.functional.cross_entropy(logits, targets.dense(task.num_classes))

@attrs.define(eq=False, kw_only=True)
class ProbeExtra(Method):
    pass
"""
NAMES = {name: f"Probe{name.capitalize()}" for name in ("data", "net", "mix", "saliency", "labels", "loss", "extra")}
CONFIG = """
[data]
name = "probe_data"
batch_size = 8
[backbone]
name = "probe_net"
[mix]
name = "probe_mix"
[labels]
name = "probe_labels"
[loss]
name = "probe_loss"
[[extra]]
name = "probe_extra"
[schedule]
epochs = 1
[run]
device = "cpu"
dir = "run"
"""


@pytest.fixture
def probes(install: Callable[..., None], toy_config: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration whose every plugin writes down that it was made, and that it built something."""
    classes = {f"probe_{name}": f"fake_probes:{cls}" for name, cls in NAMES.items()}
    install(classes, {"fake_probes": PROBES}, distribution="fake-probes")
    spec = find_spec("fake_probes")
    assert spec is not None
    assert spec.origin is not None
    site = str(Path(spec.origin).parent)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([site, os.environ["PYTHONPATH"]]))
    toy_config.write_text(CONFIG)
    return toy_config


def noted() -> Iterator[tuple[Counter[str], Counter[str]]]:
    """Of each process, how often each plugin was made and how often it built."""
    notes = [line.split() for line in Path("notes.txt").read_text().splitlines()]
    for process in dict.fromkeys(pid for pid, _, _ in notes):
        made, built = (
            Counter(cls for pid, what, cls in notes if (pid, what) == (process, wanted)) for wanted in ("made", "built")
        )
        yield made, built


ONCE = Counter(NAMES.values())


@pytest.mark.parametrize("dry", [False, True], ids=["run", "dry run"])
def test_a_run_selects_and_builds_each_plugin_once(probes: Path, dry: bool) -> None:
    assert main(["run", str(probes), *(["--dry-run"] if dry else [])]) == 0
    assert list(noted()) == [(ONCE, ONCE)]
    assert Path("run/summary.json").exists() != dry


@pytest.mark.ddp
def test_each_process_of_a_run_selects_and_builds_each_plugin_once(
    probes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    command = [sys.executable, "-m", "mixcore", "run", str(probes), "--nproc", "2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    launcher, *processes = noted()
    assert launcher == (ONCE, Counter()), "the launcher checks what the processes train, and builds nothing"
    assert processes == [(ONCE, ONCE)] * 2


def test_bench_selects_each_mixer_once_however_many_shapes(probes: Path) -> None:
    tiny = ["--backbone", "probe_net", "--batch", "2", "--repeats", "1"]
    assert main(["bench", "probe_mix", "--shapes", "cifar", "--shapes", "imagenet", *tiny]) == 0
    ((made, built),) = noted()
    assert (made["ProbeMix"], made["ProbeSaliency"]) == (1, 1)
    assert made["ProbeNet"] == 2, "one for each shape, whose networks it builds for all mixers"
    assert made["ProbeData"] == 0
    assert built["ProbeNet"] == 4
