"""Fixtures of several rooms: runs made of the toy plugins in tests/toy_distribution."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from mixcore.discovery import survey

TOY = Path(__file__).parent / "toy_distribution"

TOY_CONFIG = """
seed = 3
[data]
name = "toy_data"
batch_size = 8
[backbone]
name = "toy_net"
[mix]
name = "toy_mix"
[optimizer]
lr = 0.05
[schedule]
epochs = 4
[train]
log_every = 2
[run]
device = "cpu"
dir = "run"
"""
"""Four epochs of three iterations."""


@pytest.fixture(autouse=True)
def no_survey(monkeypatch: pytest.MonkeyPatch) -> None:
    """Messages name every installed plugin, whatever its role: finding out takes importing all of them."""
    monkeypatch.setattr("mixcore.discovery.survey.LIMIT", 0)


@pytest.fixture
def every_plugin_named(no_survey: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Messages name the installed plugins that would do: imported here, where most of what they import is already."""
    monkeypatch.setattr("mixcore.discovery.survey.LIMIT", 300)
    monkeypatch.setattr(survey, "survey", lambda names, limit: {name: survey.look_at(name) for name in names})


@pytest.fixture
def toy_config(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A configuration of the toy plugins, installed for this process and those it starts; works in a fresh folder."""
    monkeypatch.syspath_prepend(str(TOY))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(TOY), os.environ.get("PYTHONPATH")))))
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "toy.toml"
    path.write_text(TOY_CONFIG)
    return path


@pytest.fixture
def toy_run(toy_config: Path) -> Callable[..., Path]:
    """`toy_run("mix.pause=0.1", folder="run", resume_from=None)`: a run in this process; gives its folder."""
    from mixcore.run.folder import RunFolder
    from mixcore.run.resolve import load_config
    from mixcore.run.run import run

    def start(*overrides: str, folder: str = "run", resume_from: str | None = None) -> Path:
        loaded = load_config(toy_config, overrides)
        run(loaded, RunFolder(Path(folder)), resume_from=resume_from)
        return Path(folder)

    return start


@pytest.fixture
def install(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """`install({"shape": "fake_shape:Shape"}, {"fake_shape": source}, distribution="fake-shape", ...)`.

    Makes a distribution of its own, visible to this process until the test ends; a module without source stays missing.
    """
    site = tmp_path_factory.mktemp("site")
    monkeypatch.syspath_prepend(str(site))

    def make(
        entries: Mapping[str, str],
        sources: Mapping[str, str] | None = None,
        *,
        distribution: str = "fake-plugins",
        version: str = "1.0",
        requires: Sequence[str] = ("mixcore",),
        group: str = "mixcore",
    ) -> None:
        info = site / f"{distribution.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        heads = [f"Name: {distribution}", f"Version: {version}", f"Summary: What {distribution} is for."]
        heads += [f"Requires-Dist: {requirement}" for requirement in requires]
        (info / "METADATA").write_text("\n".join(["Metadata-Version: 2.1", *heads, ""]))
        points = [f"{name} = {value}" for name, value in entries.items()]
        (info / "entry_points.txt").write_text("\n".join([f"[{group}]", *points, ""]))
        (info / "RECORD").write_text("")
        for module, source in (sources or {}).items():
            (site / f"{module}.py").write_text(source)
        importlib.invalidate_caches()

    yield make
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", "")).startswith(str(site)):
            del sys.modules[name]
