"""Saliency held by an option: what is selected, who is asked, and how often."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from torch import Tensor, nn

import mixcore
from mixcore.api import Batch, Mix, Probe, Saliency, Step, Targets, as_saliency, hookimpl
from mixcore.config.layers import merge_layers, overrides_layer
from mixcore.errors import BrokenPluginError, ConfigError, HookError, MixcoreError, OptionValueError
from mixcore.run.resolve import load_config
from mixcore.testing import TinyConvNet
from mixcore.testing.fakes import Shown

CONFIG = """
[data]
name = "digits"
[backbone]
name = "resnet18"
[mix]
name = "saliencymix"
"""


@attrs.define(eq=False, kw_only=True)
class Brightness:
    """Tells who asked for what."""

    role = "saliency"
    spec_version = (1, 2)

    factor: float = 1.0
    graph: bool = False
    calls: list[tuple[int, int, bool]] = attrs.field(factory=list)

    @hookimpl
    def build_modules(self) -> dict[str, nn.Module]:
        """A part of its own."""
        return {"gain": nn.Linear(1, 1)}

    @hookimpl
    def map_saliency(self, images: Tensor, batch: Batch, modules: Any, step: Step) -> Tensor:
        """Squares of the channel mean."""
        assert batch.images is images
        assert set(modules) == {"gain"}
        self.calls.append((len(images), step.group, step.may_overwrite))
        gain = modules["gain"].weight.sum() * 0 + self.factor
        found = images.mean(1).square() * gain
        return found if self.graph else found.detach()


@attrs.define(eq=False, kw_only=True)
class Judge:
    """A label policy that asks too."""

    role = "labels"
    spec_version = (1, 2)

    saliency: Saliency = attrs.field(converter=as_saliency)

    @hookimpl
    def mix_labels(self, mix: Mix, images: Tensor, labels: Tensor, probe: Probe) -> Targets:
        """The mix's own weights, after a look."""
        probe.saliency(self.saliency, images, labels)
        return mix.targets(labels)


def step_with(**tables: Any) -> Any:
    torch.manual_seed(0)
    return mixcore.create_step(TinyConvNet(5), num_classes=5, iterations=10, image_size=(16, 16), **tables)


def batch(count: int = 6) -> tuple[Tensor, Tensor]:
    return torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(1)), torch.arange(count) % 5


def test_all_who_hold_it_are_served_by_one_call() -> None:
    shared = Brightness()
    step = step_with(mix=Shown(saliency=shared, times=3), labels=Judge(saliency=shared))
    images, labels = batch()
    step(images, labels)
    assert shared.calls == [(6, 0, False)]
    step(images, labels)
    assert len(shared.calls) == 2, "another iteration asks anew"
    assert "brightness" in step.parts


def test_groups_ask_for_their_own_rows() -> None:
    shared = Brightness()
    step = step_with(mix=Shown(saliency=shared))
    step._setup = attrs.evolve(step._setup, plugins=attrs.evolve(step._setup.plugins, group_sizes=(2,)))
    images, labels = batch()
    mix, _ = step.mix_batch(Batch(images=images, labels=labels), mixer=0)
    assert shared.calls == [(2, group, False) for group in range(3)]
    torch.testing.assert_close(mix.notes["saliency"], images.mean(1).square())


def test_equal_tables_are_one_plugin_and_others_are_not() -> None:
    def saliencies(*tables: Any) -> list[str]:
        mixers = [{"name": "saliencymix", "saliency": table} for table in tables]
        return [calls.name for calls in step_with(mix=mixers)._setup.plugins.saliencies]

    same = {"name": "onoff8", "mean": [0.5, 0.5, 0.5]}
    assert saliencies("feature", {"name": "feature"}, "feature") == ["feature"]
    assert saliencies(same, dict(same), "onoff8") == ["onoff8", "onoff8"]
    assert saliencies("feature", "fine_grained") == ["feature", "fine_grained"]


def test_what_a_saliency_needs_counts_for_the_run() -> None:
    with pytest.raises(
        ConfigError, match=r"attention \(mixcore .*needs attention of the backbone.*saliency = .fine_grained"
    ):
        step_with(mix={"name": "saliencymix", "saliency": "attention"})
    setup = step_with(mix=[{"name": "puzzlemix", "saliency": "feature"}])._setup
    images, _ = batch()
    assert list(setup.network.forward(images, stages=(-1,)).stages) == [-1]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("fine_graned", r"mix.saliency.name: no installed plugin is called .*did you mean \"fine_grained\""),
        ({"name": "teacher_feature", "techer": "resnet18"}, r"mix.saliency.techer: unknown key.*\"teacher\""),
        ({"name": "teacher_feature", "teacher": 3}, r"mix.saliency.teacher: expected a string"),
        ({"teacher": "resnet18"}, r"mix.saliency.name: missing: it says which saliency"),
        ("cutmix", r"mix.saliency.name: cutmix .* has role mix, expected a plugin with role saliency"),
        (3, r"mix.saliency: expected the name of a saliency or a table with its name and options, found 3"),
    ],
)
def test_faults_have_the_full_path(given: Any, message: str) -> None:
    with pytest.raises(MixcoreError, match=message):
        step_with(mix={"name": "saliencymix", "saliency": given})


def test_a_saliency_is_no_table_of_its_own() -> None:
    with pytest.raises(ConfigError, match="belongs in another plugin's option"):
        step_with(mix="fine_grained")


def test_what_an_option_takes_in_python() -> None:
    held = as_saliency({"name": "onoff8", "std": (1.0,)})
    assert (held.name, held.options) == ("onoff8", {"std": (1.0,)})
    assert as_saliency(held) is held
    assert as_saliency(shared := Brightness()).plugin is shared
    with pytest.raises(OptionValueError, match="says which saliency"):
        as_saliency({"std": (1.0,)})


def test_a_map_is_checked() -> None:
    with pytest.raises(HookError, match=r"map_saliency of Brightness returned a map with a graph; write map.detach"):
        step_with(mix=Shown(saliency=Brightness(graph=True)))(*batch())

    @attrs.define(eq=False, kw_only=True)
    class Flat:
        role = "saliency"

        @hookimpl
        def map_saliency(self, images: Tensor) -> Tensor:
            return images.sum((1, 2, 3))

    with pytest.raises(HookError, match=r"returned float32 \[6\]; expected floating \[6,h,w\]"):
        step_with(mix=Shown(saliency=Flat()))(*batch())

    @attrs.define(eq=False, kw_only=True)
    class Empty:
        role = "saliency"

    with pytest.raises(BrokenPluginError, match="has role saliency but does not implement map_saliency"):
        step_with(mix=Shown(saliency=Empty()))


# --- from a file -----------------------------------------------------------------------------------------------------


def write(folder: Path, text: str) -> Path:
    path = folder / "run.toml"
    path.write_text(text)
    return path


def test_the_resolved_configuration_has_the_complete_table_and_reads_back(tmp_path: Path) -> None:
    plain = load_config(write(tmp_path, CONFIG))
    assert plain.resolved["mix"][0]["saliency"] == {"name": "fine_grained"}
    loaded = load_config(write(tmp_path, CONFIG + 'saliency = { name = "teacher_feature", teacher = "resnet50" }'))
    table = loaded.resolved["mix"][0]["saliency"]
    assert table == {"name": "teacher_feature", "teacher": "resnet50", "classes": "own"}
    again = load_config(write(tmp_path, loaded.text))
    assert again.resolved == loaded.resolved
    assert again.digest == loaded.digest != plain.digest
    other = load_config(tmp_path / "run.toml", ["mix.saliency.size=64"])
    assert other.resolved["mix"][0]["saliency"] == {**table, "size": 64}
    assert other.digest != loaded.digest


def test_another_name_drops_the_options_of_the_first(tmp_path: Path) -> None:
    path = write(tmp_path, CONFIG + 'saliency = { name = "teacher_feature", teacher = "resnet50" }')
    for override in ("mix.saliency.name=spectral_residual", "mix.saliency=spectral_residual"):
        loaded = load_config(path, [override])
        assert loaded.resolved["mix"][0]["saliency"] == {"name": "spectral_residual"}
    faults: list[Any] = []
    layers = [overrides_layer([text], faults) for text in ("optimizer.options.name=a", "optimizer.options.name=b")]
    assert merge_layers(layers, faults, "").tree == {"optimizer": {"options": {"name": "b"}}}
    assert not faults


def test_a_fault_inside_names_file_and_line(tmp_path: Path) -> None:
    path = write(tmp_path, CONFIG + 'saliency = { name = "teacher_feature", teacher = "resnet50", sise = 3 }')
    with pytest.raises(ConfigError, match=r'run.toml:8: mix.saliency.sise: unknown key.*did you mean "size"'):
        load_config(path)


def test_a_saliency_is_told_in_one_line() -> None:
    assert str(Saliency("feature")) == "feature"
    told = str(as_saliency({"name": "teacher_feature", "teacher": "resnet50", "size": 64}))
    assert told == "teacher_feature(teacher='resnet50', size=64)"
    assert str(as_saliency(Brightness())) == "brightness"
