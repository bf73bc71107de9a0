"""Plugins by role, registered; what does not fit together is refused before the first iteration."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Iterator
from typing import Literal

import attrs
import pytest
import torch

from mixcore.api import Mix, Task, hookimpl
from mixcore.config.tables import config_from_tree
from mixcore.discovery.capabilities import check_network, check_task
from mixcore.discovery.chooser import Chooser, probabilities_of
from mixcore.discovery.manager import build_method_plugins, build_plugins
from mixcore.discovery.plugins import Plugins
from mixcore.errors import BrokenPluginError, ConfigError, UnknownPluginError

HEAD = "import attrs\nfrom mixcore.api import Mix, hookimpl\n"
MIXER = (
    "@attrs.define(eq=False, kw_only=True)\nclass {0}:\n"
    '    """Shapes of the partner.\n\n    More."""\n'
    "    role = 'mix'\n    alpha: float = attrs.field(default=1.0, validator=attrs.validators.ge(0))\n"
    "    @hookimpl\n    def generate_mix(self, images):\n        return Mix.clean(images)\n"
)


@attrs.define(eq=False, kw_only=True)
class Masked:
    role = "mix"
    provides = frozenset({"mask"})

    @hookimpl
    def generate_mix(self, images: torch.Tensor) -> Mix:
        return Mix.clean(images)


@attrs.define(eq=False, kw_only=True)
class Hungry:
    """An extra that needs whatever a test says."""

    wants: tuple[str, ...] = ()
    at: tuple[str | int, ...] = ()
    kinds: tuple[str, ...] = ("class",)

    @property
    def needs(self) -> frozenset[str]:
        return frozenset(self.wants)

    @property
    def stages(self) -> tuple[str | int, ...]:
        return self.at

    @property
    def accepts(self) -> frozenset[str]:
        return frozenset(self.kinds)


@pytest.fixture
def shape(install: Callable[..., None]) -> None:
    install({"shape": "fake_shape:Shape"}, {"fake_shape": HEAD + MIXER.format("Shape")}, distribution="fake-shape")


def _extra(**options: object) -> Plugins:
    return build_method_plugins(mix=Masked(), extra=[Hungry(**options)])


def test_method_plugins_from_names_tables_and_instances(shape: None) -> None:
    plugins = build_method_plugins(
        mix=["shape", {"name": "shape", "alpha": 0.5, "probability": 0.25, "group_size": 4}, Masked()],
        labels={"name": "weights"},
    )
    assert [calls.plugin.alpha for calls in plugins.mixers[:2]] == [1.0, 0.5]
    assert plugins.probabilities == (0.375, 0.25, 0.375)
    assert plugins.group_sizes == (None, 4, None)
    assert (plugins.data, plugins.backbone, plugins.extras) == (None, None, ())
    assert len(plugins.everyone) == len({calls.plugin for calls in plugins.everyone}) == 5
    assert plugins.described()[0] == ("mix", "shape", "fake-shape", "1.0", "Shapes of the partner.")


def test_what_is_absent_has_a_default() -> None:
    plugins = build_method_plugins()
    assert [calls.name for calls in plugins.everyone] == ["none", "weights", "soft_cross_entropy"]
    assert plugins.probabilities == (1.0,)


def test_plugins_of_a_configuration(install: Callable[..., None], shape: None) -> None:
    source = HEAD + (
        "@attrs.define(eq=False, kw_only=True)\nclass Numbers:\n    role = 'data'\n"
        "    @hookimpl\n    def build_data(self):\n        pass\n"
    )
    install({"numbers": "fake_numbers:Numbers"}, {"fake_numbers": source}, distribution="fake-numbers")
    tree = {"data": {"name": "numbers"}, "backbone": {"name": "resnet10t"}, "mix": {"name": "shape", "alpha": 0.5}}
    plugins = build_plugins(config_from_tree(tree))
    assert plugins.data is not None
    assert plugins.backbone is not None
    assert (plugins.data.name, plugins.backbone.name, plugins.backbone.plugin.model) == ("numbers", "timm", "resnet10t")
    assert [calls.name for calls in plugins.mixers] == ["shape"]
    assert plugins.mixers[0].plugin.alpha == 0.5
    with pytest.raises(ConfigError) as caught:
        build_plugins(config_from_tree({**tree, "data": {"name": "nmbers"}, "mix": {"name": "shape", "alpha": "x"}}))
    assert 'data.name: no installed plugin is called "nmbers"' in str(caught.value)
    assert "mix.alpha: expected a number" in str(caught.value)


def test_every_fault_of_method_plugins_at_once(shape: None) -> None:
    with pytest.raises(ConfigError) as caught:
        build_method_plugins(mix={"name": "shape", "alpha": -1, "beta": 1}, labels="wieghts", loss={"smoothing": 1})
    lines = [line.strip() for line in str(caught.value).splitlines()[1:]]
    assert sorted(line.partition(": ")[0] for line in lines) == ["labels.name", "loss.name", "mix.alpha", "mix.beta"]


def test_a_lone_unknown_name_keeps_its_kind() -> None:
    with pytest.raises(UnknownPluginError):
        build_method_plugins(mix="shape_that_nobody_has")


def test_a_broken_plugin_that_nobody_selected_does_no_harm(install: Callable[..., None]) -> None:
    install({"broken": "fake_broken:Broken"}, {"fake_broken": "1 / 0"}, distribution="fake-broken")
    build_method_plugins()
    with pytest.raises(BrokenPluginError, match=r"fake-broken 1.0.*ZeroDivisionError"):
        build_method_plugins(mix="broken")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("    @hookimpl\n    def genrate_mix(self, images):\n        pass\n", "genrate_mix"),
        ("    @hookimpl\n    def generate_mix(self, pictures):\n        pass\n", "pictures"),
        ("    @hookimpl\n    def generate_mix(self, *, images):\n        pass\n", "keyword-only"),
        ("    alpha: float = 1.0\n", "has role mix but does not implement generate_mix"),
        ("    needs = frozenset({'atention'})\n", "needs has 'atention', known are .*did you mean \"attention\""),
        ("    provides = 'mask'\n", r'provides is the string "mask", expected frozenset\({"mask"}\)'),
        ("    accepts = ('klass',)\n", "accepts has 'klass'"),
        ("    suggests = {'label': 'area'}\n", "suggests has 'label', known are .*did you mean \"labels\""),
        ("    stages = 'layer3'\n", "stages is 'layer3', expected a tuple"),
    ],
)
def test_classes_that_break_the_contract(install: Callable[..., None], body: str, message: str) -> None:
    head = HEAD + "@attrs.define(eq=False, kw_only=True)\nclass Bad:\n    role = 'mix'\n"
    install({"bad": "fake_bad:Bad"}, {"fake_bad": head + body}, distribution="fake-bad")
    with pytest.raises(BrokenPluginError, match=message) as caught:
        build_method_plugins(mix="bad")
    assert "bad (fake-bad 1.0)" in str(caught.value)


# --- what fits together -----------------------------------------------------------------------------------------------


def test_a_need_for_a_mask() -> None:
    build_method_plugins(mix=["none", Masked()], extra=[Hungry(wants=("mask",))])
    with pytest.raises(ConfigError, match="Hungry needs a mixer that provides mask, and none does not"):
        build_method_plugins(mix="none", extra=[Hungry(wants=("mask",))])
    with pytest.raises(ConfigError, match="and none and none do not"):
        build_method_plugins(mix=["none", "none"], extra=[Hungry(wants=("mask",))])


def test_a_refusal_names_installed_plugins_that_would_do(
    install: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mixcore.discovery.survey.LIMIT", 300)  # every installed plugin, on a busy machine
    provides = "    role = 'mix'\n    provides = frozenset({'mask'})\n"
    install(
        {"shape": "fake_shape:Shape", "broken": "fake_broken:Broken", "plain": "fake_plain:Plain"},
        {
            "fake_shape": HEAD + MIXER.format("Shape").replace("    role = 'mix'\n", provides),
            "fake_broken": "1 / 0",
            "fake_plain": HEAD + MIXER.format("Plain"),
        },
        distribution="fake-mixers",
    )
    with pytest.raises(ConfigError) as caught:
        build_method_plugins(mix="none", extra=[Hungry(wants=("mask",))])
    installed = str(caught.value).partition("(installed: ")[2].partition(")")[0].split(", ")
    assert "shape" in installed
    assert not {"plain", "broken", "none"} & set(installed)
    with pytest.raises(UnknownPluginError) as unknown:
        build_method_plugins(mix="shaep")
    offered = str(unknown.value).partition("Installed: ")[2].rstrip(".").split(", ")
    assert {"shape", "plain", "none"} <= set(offered)
    assert not {"weights", "soft_cross_entropy", "digits", "timm", "mix_off", "broken"} & set(offered), "mixers only"
    assert "fake_broken" not in sys.modules


def test_kinds_of_labels() -> None:
    def task(kind: str) -> Task:
        return Task(num_classes=2, in_channels=3, image_size=(8, 8), mean=(0,) * 3, std=(1,) * 3, label_kind=kind)

    plugins = _extra(kinds=("class", "soft"))
    check_task(plugins, task("soft"))
    with pytest.raises(ConfigError, match="Hungry takes labels of kind class and soft, and this task has value labels"):
        check_task(plugins, task("value"))


def test_needs_of_the_network() -> None:
    plugins = _extra(wants=("attention", "stages"), at=(0, 2, "features", "layer9"))
    check_network(plugins, {"attention", "stages", "tokens", "features"}, ("layer1", "layer2"))
    with pytest.raises(ConfigError) as caught:
        check_network(plugins, {"stages"}, ("layer1",))
    message = str(caught.value)
    assert "Hungry needs attention and features of the backbone, and this one offers stages" in message
    assert "mixcore.as_backbone(" in message
    assert "Hungry wants stage 2, and this backbone has stages 0 to 1: 0 (the input), 1 (layer1)" in message
    check_network(_extra(at=(-2,)), {"stages"}, ("layer1", "layer2"))
    with pytest.raises(ConfigError, match="Hungry wants stage -3"):
        check_network(_extra(at=(-3,)), {"stages"}, ("layer1", "layer2"))
    with pytest.raises(ConfigError, match=r"wants stage 1, and this backbone has stage 0 \(the input\) only"):
        check_network(_extra(at=(1,)), (), ())


def test_a_need_that_an_option_causes_names_the_option() -> None:
    @attrs.define(eq=False, kw_only=True)
    class Choosy:
        source: Literal["attention", "tokens", "energy", "both"] = "attention"

        @property
        def needs(self) -> frozenset[str]:
            needs = {"energy": (), "both": ("attention", "tokens")}
            return frozenset(needs.get(self.source, (self.source,)))

    plugins = build_method_plugins(mix="none", extra=[Choosy()])
    with pytest.raises(ConfigError, match=r'offers stages; set source = "energy" of choosy, name a \[backbone\] that'):
        check_network(plugins, {"stages"}, ("layer1",))
    with pytest.raises(ConfigError, match='set source = "tokens" of choosy, set source = "energy" of choosy, name a'):
        check_network(plugins, {"tokens"}, ())


# --- whose turn it is -------------------------------------------------------------------------------------------------


def test_probabilities() -> None:
    assert probabilities_of([None]) == (1.0,)
    assert probabilities_of([None, None]) == (0.5, 0.5)
    assert probabilities_of([0.5, None, None]) == (0.5, 0.25, 0.25)
    assert probabilities_of([0.5, 0.2]) == (0.5, 0.2)


def test_the_chooser_follows_the_probabilities() -> None:
    rng = torch.Generator().manual_seed(0)
    drawn = [Chooser().choose_mixer((0.5, 0.2), rng) for _ in range(4000)]
    assert drawn.count(0) / 4000 == pytest.approx(0.5, abs=0.03)
    assert drawn.count(1) / 4000 == pytest.approx(0.2, abs=0.03)
    assert drawn.count(None) / 4000 == pytest.approx(0.3, abs=0.03)
    assert {Chooser().choose_mixer((0.0, 1.0), rng) for _ in range(50)} == {1}


def test_the_chooser_draws_once_from_the_shared_generator() -> None:
    rng, same = torch.Generator().manual_seed(3), torch.Generator().manual_seed(3)
    Chooser().choose_mixer((0.1, 0.1, 0.1), rng)
    torch.rand((), generator=same, dtype=torch.float64)
    assert torch.equal(rng.get_state(), same.get_state())


def test_a_wrapper_of_choose_mixer_has_the_last_word() -> None:
    @attrs.define(eq=False, kw_only=True)
    class Off:
        @hookimpl(wrapper=True)
        def choose_mixer(self) -> Iterator[None]:
            yield

    plugins = build_method_plugins(mix=Masked(), extra=[Off()])
    step = types.SimpleNamespace(epoch=0, iteration=0)
    chosen = plugins.chooser.choose_mixer(probabilities=plugins.probabilities, step=step, rng=torch.Generator())
    assert chosen is None
