"""A file with what it extends and --set on top: merged, checked as a whole, and resolved to a complete file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import tomli

from mixcore.config.schema import MixTable, PluginTable
from mixcore.config.tables import config_from_tree, config_to_tree
from mixcore.errors import ConfigError, UnknownPluginError
from mixcore.run.resolve import Loaded, load_config

BASE = '[data]\nname = "numbers"\n[backbone]\nname = "net"\n'


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., Loaded]:
    """`load("[mix] ...", sets=[...], base="...")`: BASE extended by the text, and --set on top."""
    (tmp_path / "base.toml").write_text(BASE)

    def start(text: str = "", sets: Sequence[str] = (), base: str = "") -> Loaded:
        (tmp_path / "middle.toml").write_text(base)
        (tmp_path / "run.toml").write_text(f'extends = ["base.toml", "middle.toml"]\n{text}')
        return load_config(tmp_path / "run.toml", sets)

    return start


def _refused(load: Callable[..., Loaded], *arguments: str, **more: object) -> str:
    with pytest.raises(ConfigError) as caught:
        load(*arguments, **more)
    return str(caught.value)


# --- what a configuration says ----------------------------------------------------------------------------------------


def test_defaults_are_filled_in(load: Callable[..., Loaded]) -> None:
    config = load('[mix]\nname = "shape"').config
    assert config.data.batch_size == 100
    assert config.mix == (MixTable(name="shape", options={"alpha": 1.0, "mode": "hard", "sizes": [1, 2]}),)
    assert config.labels is not None
    assert config.labels.name == "weights"
    assert config.loss is not None
    assert config.loss.name == "soft_cross_entropy"
    assert (config.eval.predictor, config.run.dir) == ("model", "runs/run")


def test_nothing_mixed_is_the_default(load: Callable[..., Loaded]) -> None:
    assert [mixer.name for mixer in load().config.mix] == ["none"]


def test_layers_are_merged_in_order(load: Callable[..., Loaded]) -> None:
    config = load(
        "[optimizer]\nlr = 2", ["optimizer.momentum=0.5"], base="[optimizer]\nlr = 1\nweight_decay = 1"
    ).config
    optimizer = config.optimizer
    assert (optimizer.lr, optimizer.weight_decay, optimizer.momentum) == (2.0, 1.0, 0.5)


def test_extends_is_relative_to_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "_base").mkdir()
    (tmp_path / "deep").mkdir()
    (tmp_path / "_base" / "data.toml").write_text(BASE)
    (tmp_path / "_base" / "all.toml").write_text('extends = ["data.toml"]\nseed = 7')
    (tmp_path / "deep" / "run.toml").write_text('extends = ["../_base/all.toml"]')
    monkeypatch.chdir(tmp_path / "deep")
    assert load_config("run.toml").config.seed == 7


def test_overrides_are_toml_or_strings(load: Callable[..., Loaded]) -> None:
    sets = ["mix.name=shape", "mix.sizes=[3, 4]", "data.root=my data/x", "seed=5", "train.compile=true"]
    config = load("", sets).config
    assert config.mix[0].options["sizes"] == [3, 4]
    assert config.data.options["root"] == "my data/x"
    assert (config.seed, config.train.compile) == (5, True)


def test_another_plugin_drops_the_options_of_the_earlier_one(load: Callable[..., Loaded]) -> None:
    text = '[mix]\nname = "shape"\nalpha = 0.2\nprobability = 0.5'
    assert load(text, ["mix.name=fade"]).config.mix == (MixTable(name="fade", options={"beta": 0.5}, probability=0.5),)
    assert load(text, ["mix.name=shape"]).config.mix[0].options["alpha"] == 0.2
    assert load(text, ["mix.alpha=3", "mix.name=shape"]).config.mix[0].options["alpha"] == 3.0


def test_the_core_keeps_its_own_keys_of_a_table(load: Callable[..., Loaded]) -> None:
    base = '[data]\nname = "other"\nbatch_size = 7\nsize = 3'
    data = load('[data]\nname = "numbers"', base=base).config.data
    assert (data.batch_size, data.options) == (7, {"root": "data"})


def test_lists_of_mixers(load: Callable[..., Loaded]) -> None:
    both = '[[mix]]\nname = "shape"\nalpha = 0.2\n[[mix]]\nname = "none"\n'
    assert [mixer.name for mixer in load(both).config.mix] == ["shape", "none"]
    assert load(both, ["mix.name=shape"]).config.mix[0].options["alpha"] == 1.0, (
        "a later single mixer replaces the list"
    )
    assert [mixer.name for mixer in load(both, base='[mix]\nname = "fade"').config.mix] == ["shape", "none"]
    lone = '[[mix]]\nname = "shape"\nalpha = 0.2\n'
    assert load(lone, ["mix.mode=soft"]).config.mix[0].options == {"alpha": 0.2, "mode": "soft", "sizes": [1, 2]}
    assert "give the whole list anew" in _refused(load, both, ["mix.alpha=1"])


def test_a_name_that_no_plugin_has_is_a_timm_backbone(load: Callable[..., Loaded]) -> None:
    backbone = load("", ["backbone.name=resnet10t"]).config.backbone
    assert (backbone.name, backbone.options["model"]) == ("timm", "resnet10t")
    message = _refused(load, "", ["backbone.name=resnet10t", "backbone.model=resnet18"])
    assert '"model" names another' in message


def test_suggestions_fill_what_the_file_leaves_open(load: Callable[..., Loaded]) -> None:
    config = load('[mix]\nname = "fade"').config
    assert config.labels == PluginTable(name="faded", options={"power": 1.0})
    assert config.eval.predictor == "teacher"
    own = load('[mix]\nname = "fade"\n[labels]\nname = "weights"\n[eval]\npredictor = "model"').config
    assert own.labels is not None
    assert (own.labels.name, own.eval.predictor) == ("weights", "model")


def test_mixers_that_suggest_differently_need_a_decision(load: Callable[..., Loaded]) -> None:
    text = '[[mix]]\nname = "fade"\n[[mix]]\nname = "bend"\n'
    message = _refused(load, text)
    assert 'fade suggests "faded", bend suggests "area"' in message
    assert 'labels.name = "faded"' in message
    assert load(text, ["labels.name=faded"]).config.labels == PluginTable(name="faded", options={"power": 1.0})


# --- the resolved file ------------------------------------------------------------------------------------------------


def test_the_resolved_file_reads_back_as_itself(load: Callable[..., Loaded], tmp_path: Path) -> None:
    text = (
        '[[mix]]\nname = "shape"\nlimit = 3\nprobability = 0.25\n[[mix]]\nname = "fade"\ngroup_size = 4\n'
        '[[extra]]\nname = "pause"\nepoch = 2\n[optimizer]\nbetas = [0.9, 0.99]\n[optimizer.options]\nfused = true\n'
    )
    first = load(text, ["backbone.name=resnet10t", "run.dir=elsewhere"])
    assert tomli.loads(first.text) == first.resolved
    (tmp_path / "config.toml").write_text(first.text)
    again = load_config(tmp_path / "config.toml")
    assert again == first


def test_the_digest_is_of_what_determines_the_numbers(load: Callable[..., Loaded]) -> None:
    text = '[mix]\nname = "shape"'
    digest = load(text).digest
    comfort = ["run.dir=x", "run.device=cpu", "data.workers=3", "train.log_every=7", "eval.batch_size=3"]
    assert load(text, comfort).digest == digest
    assert load(text, ["mix.alpha=1"]).digest == digest, "1 and 1.0 are the same number here"
    for override in ("mix.alpha=0.5", "seed=1", "mix.probability=0.9", "labels.name=faded"):
        assert load(text, [override]).digest != digest, override
    assert load(text, ["seed=1"]).experiment == load(text).experiment != digest


def test_options_marked_as_places_are_in_no_digest(install: Callable[..., None], load: Callable[..., Loaded]) -> None:
    source = """
import attrs
from mixcore.api import PLACE, hookimpl

@attrs.frozen(kw_only=True)
class Store:
    folder: str = attrs.field(default="", metadata=PLACE)
    size: int = 1

@attrs.define(eq=False, kw_only=True)
class Placed:
    role = "mix"
    root: str = attrs.field(default="data", metadata=PLACE)
    depth: int = 1
    store: Store = Store()

    @hookimpl
    def generate_mix(self):
        pass
"""
    install({"placed": "placed_mix:Placed"}, {"placed_mix": source})
    text = '[[mix]]\nname = "shape"\n[[mix]]\nname = "placed"\n[mix.store]\nsize = 2\n'
    loaded = load(text)
    assert loaded.places == {("mix", 1, "root"), ("mix", 1, "store", "folder")}
    assert load(text.replace("size = 2", 'size = 2\nfolder = "elsewhere"')).digest == loaded.digest
    assert load(text.replace("size = 2", "size = 3")).digest != loaded.digest
    assert load(text.replace('"placed"', '"placed"\nroot = "elsewhere"')).digest == loaded.digest
    assert load(text.replace('"placed"', '"placed"\ndepth = 2')).digest != loaded.digest


def test_every_default_reads_back() -> None:
    tree = {"data": {"name": "numbers"}, "backbone": {"name": "net"}}
    config = config_from_tree(tree)
    assert config_from_tree(config_to_tree(config)) == config


# --- faults -----------------------------------------------------------------------------------------------------------


def test_every_fault_at_once_with_its_place(load: Callable[..., Loaded], tmp_path: Path) -> None:
    text = (
        '[mix]\nname = "shape"\nalpha = -0.5\nmoed = "soft"\nsizes = [\n  1,\n  "a",\n]\n'
        '[loss]\nname = "soft_cros_entropy"\n[schedule]\nepochs = "ten"\n[trian]\n'
    )
    lines = _refused(load, text, ["optimizer.lr=fast"], base="[optimizer]\nmomentum = 1.0").splitlines()
    run, middle = tmp_path / "run.toml", tmp_path / "middle.toml"
    assert lines[0] == f"8 faults in {run}:"
    expected = [
        f"{run}:5: mix.moed: unknown key: shape has alpha, limit, mode, sizes; ",
        f"{run}:4: mix.alpha: 'alpha' must be >= 0: -0.5",
        f'{run}:6: mix.sizes[1]: expected an integer, found "a" (a string)',
        f'{run}:11: loss.name: no installed plugin is called "soft_cros_entropy"; did you mean "soft_cross_entropy"?',
        f'{run}:13: schedule.epochs: expected an integer, found "ten" (a string)',
        f"{run}:14: trian: unknown key: a configuration has",
        f"{middle}:2: optimizer.momentum: 'momentum' must be < 1: 1.0",
        '--set optimizer.lr=fast: optimizer.lr: expected a number, found "fast" (a string)',
    ]
    for start in expected:
        assert any(line.strip().startswith(start) for line in lines), start


def test_a_lone_plugin_fault_keeps_its_kind(load: Callable[..., Loaded]) -> None:
    with pytest.raises(UnknownPluginError, match=r'run.toml:3: mix.name: no .* "shpe"; did you mean "shape"\?'):
        load('[mix]\nname = "shpe"')


def test_what_every_configuration_needs(tmp_path: Path) -> None:
    (tmp_path / "empty.toml").write_text("")
    with pytest.raises(ConfigError) as caught:
        load_config(tmp_path / "empty.toml")
    assert "[data] is missing" in str(caught.value)
    assert "[backbone] is missing" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mix = 3", "mix: expected tables: write [[mix]]"),
        ('data = "numbers"', 'data: expected a table with a name, such as [data] and name = "..." below it'),
        ("[mix]\nalpha = 1", "mix.name: missing: it says which plugin"),
        ('[mix]\nname = "net"', "has role backbone, expected a plugin with role mix; it belongs in [backbone]"),
        ('[[extra]]\nname = "shape"', "has role mix, expected a plugin with no role; it belongs in [mix]"),
        ('[mix]\nname = "pause"\nepoch = 1', "has no role, expected a plugin with role mix; it belongs in [[extra]]"),
        ('[[extra]]\nname = "pause"', "extra.epoch: missing: pause needs it; expected an integer"),
        ('[[mix]]\nname = "shape"\nprobability = 0.7\n[[mix]]\nname = "none"\nprobability = 0.6', "sum to 1.3"),
        ('[[mix]]\nname = "shape"\nprobability = 1.0\n[[mix]]\nname = "none"', "leave nothing to the tables without"),
        ('[mix]\nname = "shape"\nprobability = 1.5', "'probability' must be <= 1"),
        ("[data]\nbatch = 3", 'every such table has batch_size, drop_last, name, workers; did you mean "batch_size"?'),
        ("seed = -1", "'seed' must be >= 0: -1"),
        ("optimizer = 0.1", "optimizer: expected a table: write [optimizer]"),
        ('[eval]\nprotocol = "median"', '\'protocol\' must be "last", "best" or "median-last-N"'),
        ("[optimizer]\nbetas = [0.9, 1.5]", "'betas' must each be in [0, 1): (0.9, 1.5)"),
        ("[optimizer]\nlr = 0.1\nlr = 0.2", "run.toml:4: cannot be read as TOML"),
        ('extends = "base.toml"', "run.toml:2: cannot be read as TOML"),
    ],
)
def test_refused_with(load: Callable[..., Loaded], text: str, message: str) -> None:
    assert message in _refused(load, text)


@pytest.mark.parametrize("override", ["optimizer.lr", "=3", "a b=3", "seed.x.=1"])
def test_overrides_that_say_nothing(load: Callable[..., Loaded], override: str) -> None:
    assert f"--set {override}: expected key.path=value" in _refused(load, "", [override])


def test_an_override_that_opens_a_table_is_its_place(load: Callable[..., Loaded]) -> None:
    message = _refused(load, "", ["optimzer.lr=1"])
    assert message.startswith("--set optimzer.lr=1: optimzer: unknown key")
    assert message.endswith('did you mean "optimizer"?')


def test_overrides_that_contradict_each_other(load: Callable[..., Loaded]) -> None:
    assert "another --set gives seed a plain value" in _refused(load, "", ["seed=1", "seed.x=2"])


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "quickstart.toml").write_text(BASE)
    with pytest.raises(ConfigError, match=r"there is no file .*quikstart.toml; did you mean .*quickstart.toml\?"):
        load_config(tmp_path / "quikstart.toml")
    with pytest.raises(ConfigError, match=r"there is no folder .*nowhere either"):
        load_config(tmp_path / "nowhere" / "a.toml")
    (tmp_path / "child.toml").write_text('extends = ["gone.toml"]')
    with pytest.raises(ConfigError, match=r"extended by .*child.toml: there is no file .*gone.toml"):
        load_config(tmp_path / "child.toml")
    (tmp_path / "latin.toml").write_bytes(b'a = "\xe9"')
    with pytest.raises(ConfigError, match="cannot be read as TOML"):
        load_config(tmp_path / "latin.toml")
    with pytest.raises(ConfigError, match="cannot be read as TOML"):
        load_config(tmp_path)


def test_a_circle_of_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text('extends = ["b.toml"]')
    (tmp_path / "b.toml").write_text('extends = ["./a.toml"]')
    with pytest.raises(ConfigError, match=r"extends goes in a circle: .*a.toml -> .*b.toml -> .*a.toml"):
        load_config(tmp_path / "a.toml")


def test_the_same_file_twice_is_no_circle(tmp_path: Path) -> None:
    (tmp_path / "base.toml").write_text(BASE)
    (tmp_path / "a.toml").write_text('extends = ["base.toml"]')
    (tmp_path / "run.toml").write_text('extends = ["a.toml", "base.toml"]\nseed = 3')
    assert load_config(tmp_path / "run.toml").config.seed == 3
