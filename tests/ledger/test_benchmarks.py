"""Experiments by name: composed of a backbone's file, a method's part and exceptions; unknown names get the nearest."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from mixcore.cli.main import cli
from mixcore.errors import ConfigError
from mixcore.ledger.benchmarks import benchmark, benchmarks, experiment, list_experiments
from mixcore.ledger.named import find_configuration

FILES = {
    "_base/shapes.toml": """
[data]
name = "fake"
[optimizer]
lr = 0.1
weight_decay = 1e-4
""",
    "_base/methods.toml": """
[plain]
[cut.mix]
name = "cutmix"
[[exception]]
methods = ["cut"]
set = { optimizer = { weight_decay = 1e-3 } }
""",
    "shapes/small.toml": """
extends = ["../_base/shapes.toml"]
[backbone]
name = "resnet10t"
[schedule]
epochs = 3
""",
    "shapes/large.toml": """
extends = ["small.toml"]
[backbone]
name = "resnet18"
""",
    "shapes/methods.toml": """
extends = ["../_base/methods.toml"]
[benchmark]
title = "Shapes"
needs = "nothing"
epochs = [3, 5]
backbone_epochs = { large = [5] }
[cut.mix]
alpha = 0.5
[pair]
backbones = ["small"]
epochs = [5]
mix = [ { name = "mixup", alpha = 0.1 }, { name = "cutmix" } ]
[[exception]]
methods = ["cut"]
backbones = ["large"]
set.mix.alpha = 0.2
[[exception]]
epochs = [5]
set.optimizer.lr = 0.2
""",
}


@pytest.fixture
def shapes(install: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A set of benchmarks of a distribution of its own; gives its folder."""
    package = tmp_path / "some_shapes"
    for name, text in FILES.items():
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text(text)
    (package / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    install({"shapes": "some_shapes"}, distribution="some-shapes", group="mixcore.benchmarks")
    monkeypatch.delitem(__import__("sys").modules, "some_shapes", raising=False)
    return package


def test_a_strangers_benchmarks_stand_beside_ours(shapes: Path) -> None:
    assert {"shapes", "cifar100"} <= set(benchmarks())
    names = [found.id for found in list_experiments() if found.benchmark == "shapes"]
    assert names == [
        "shapes.large.plain.ep5",
        "shapes.large.cut.ep5",
        "shapes.small.plain.ep3",
        "shapes.small.plain.ep5",
        "shapes.small.cut.ep3",
        "shapes.small.cut.ep5",
        "shapes.small.pair.ep5",
    ]
    assert benchmark("shapes").about.title == "Shapes"


def test_file_method_exceptions_and_epochs_lie_on_top_of_each_other(shapes: Path) -> None:
    tree = experiment("shapes.small.cut.ep3").tree
    assert tree["mix"] == {"name": "cutmix", "alpha": 0.5}
    assert tree["optimizer"] == {"lr": 0.1, "weight_decay": 1e-3}
    assert tree["schedule"]["epochs"] == 3
    tree = experiment("shapes.large.cut.ep5").tree
    assert tree["mix"]["alpha"] == 0.2
    assert tree["optimizer"] == {"lr": 0.2, "weight_decay": 1e-3}
    assert tree["backbone"] == {"name": "resnet18"}
    assert tree["schedule"]["epochs"] == 5


def test_methods_may_be_several_mixers_or_none(shapes: Path) -> None:
    assert "mix" not in experiment("shapes.small.plain.ep3").tree
    assert [table["name"] for table in experiment("shapes.small.pair.ep5").tree["mix"]] == ["mixup", "cutmix"]


def test_without_a_length_it_is_that_of_the_file_or_the_first_published(shapes: Path) -> None:
    assert experiment("shapes.small.cut").id == "shapes.small.cut.ep3"
    assert experiment("shapes.small.pair").id == "shapes.small.pair.ep5"  # published with this length alone


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("shaps.small.cut.ep3", r'no benchmark "shaps"; .*did you mean "shapes"'),
        ("shapes.smal.cut.ep3", r'no backbone "smal"; known are large, small; did you mean "small"'),
        ("shapes.small.cutt.ep3", r'no method "cutt"; known are plain, cut, pair; did you mean "cut"'),
        ("shapes.large.pair.ep5", r'with large has no method "pair"; known are plain, cut'),
        ("shapes.small.cut.ep4", r"with ep3, ep5, found ep4; .*--set schedule.epochs=N"),
        ("shapes.small", r"no name of an experiment; expected <benchmark>\.<backbone>\.<method>\.ep<epochs>"),
    ],
)
def test_unknown_names_get_the_nearest(shapes: Path, name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        experiment(name)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cut = 3", r"methods.toml:\d+: cut: expected a table"),
        ('[[exception]]\nmethods = ["cut"]', r"methods.toml:\d+: .*without set"),
        ('[[exception]]\nmethod = ["cut"]\nset.seed = 1', r'methods.toml:\d+: method: .*did you mean "methods"'),
        ('[benchmark]\nepochs = "all"', r"methods.toml:\d+: epochs: expected a list"),
    ],
)
def test_faults_of_a_benchmarks_files_have_their_place(shapes: Path, text: str, message: str) -> None:
    base = "" if "[benchmark]" in text else '[benchmark]\ntitle = ""\nneeds = ""\nepochs = [3]\n'
    (shapes / "shapes/methods.toml").write_text(f"{text}\n{base}" if text.startswith("cut") else f"{base}{text}\n")
    with pytest.raises(ConfigError, match=message):
        benchmark("shapes")


def test_two_benchmarks_of_one_name_are_refused_when_named(shapes: Path, install: Callable[..., None]) -> None:
    install({"again": "some_shapes"}, distribution="some-more", group="mixcore.benchmarks")
    with pytest.raises(ConfigError, match="two distributions ship the benchmark shapes"):
        benchmark("shapes")
    assert benchmark("cifar100").name == "cifar100"


def test_a_broken_set_is_told_of_only_where_a_benchmark_is_missing(install: Callable[..., None]) -> None:
    install({"gone": "no_such_module"}, distribution="gone-benchmarks", group="mixcore.benchmarks")
    assert "cifar100" in benchmarks()
    with pytest.raises(ConfigError, match=r'no benchmark "shapes".*gone \(gone-benchmarks 1.0\)'):
        benchmark("shapes")


def test_a_configuration_is_found_by_path_or_name(shapes: Path) -> None:
    Path("mine.toml").write_text('extends = ["some_shapes/shapes/small.toml"]')
    assert find_configuration("mine.toml").load().config.backbone.options["model"] == "resnet10t"
    loaded = find_configuration("shapes.small.cut.ep5", ["mix.alpha=0.7"]).load()
    assert loaded.config.mix[0].options["alpha"] == 0.7
    assert loaded.config.run.dir == "runs/shapes.small.cut.ep5-mix.alpha=0.7"
    assert find_configuration("shapes.small.cut.ep5").load().config.run.dir == "runs/shapes.small.cut.ep5"
    with pytest.raises(ConfigError, match=r"no such file, and no such experiment.*shapes"):
        find_configuration("shapez.small.cut.ep5")
    with pytest.raises(ConfigError, match=r"there is no file gone\.toml"):
        find_configuration("gone.toml")


def test_faults_of_a_composed_configuration_have_their_place(shapes: Path) -> None:
    with pytest.raises(ConfigError, match=r"--set mix\.alhpa=1: mix\.alhpa: .*did you mean \"alpha\""):
        find_configuration("shapes.small.cut.ep5", ["mix.alhpa=1"]).load()


def test_faults_of_a_method_name_the_line_in_its_file(shapes: Path) -> None:
    (shapes / "shapes/methods.toml").write_text(FILES["shapes/methods.toml"].replace("alpha = 0.5", "alpha = -1"))
    with pytest.raises(ConfigError, match=r"shapes.methods\.toml:9: mix\.alpha"):
        find_configuration("shapes.small.cut.ep3").load()


def test_the_command_takes_names(shapes: Path) -> None:
    arguments = ["run", "shapes.small.cut.ep3", "--dry-run", "--set", "data.train_images=100"]
    result = CliRunner().invoke(cli, arguments, catch_exceptions=False, obj={"debug": False})
    assert result.exit_code == 0
    assert "# run folder: runs/shapes.small.cut.ep3-data.train_images=100" in result.output
    result = CliRunner().invoke(cli, ["show", "shapes.small.cut.ep3", "--rows", "1"], catch_exceptions=False)
    assert result.output.strip() == "shapes.small.cut.ep3.png"
    assert Path("shapes.small.cut.ep3.png").exists()
