"""`mixcore new`: what it renders is found, keeps the contract and trains; what it refuses."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from mixcore.cli.main import main
from mixcore.scaffold.render import render

ROOT = Path(__file__).resolve().parents[2]
FILES = {
    ".gitignore",
    "README.md",
    "pyproject.toml",
    "quickstart.toml",
    "src/mixcore_plugin_two_stripes/__init__.py",
    "src/mixcore_plugin_two_stripes/py.typed",
    "tests/test_mixcore_plugin_two_stripes.py",
}


def in_environment(rendered: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the rendered sources on the path, with the metadata that installing them would leave."""
    project = tomllib.loads((rendered / "pyproject.toml").read_text())["project"]
    info = rendered / "src" / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
        f"Summary: {project['description']}\nRequires-Dist: {project['dependencies'][0]}\n"
    )
    points = project["entry-points"]["mixcore"].items()
    (info / "entry_points.txt").write_text("[mixcore]\n" + "".join(f"{name} = {value}\n" for name, value in points))
    monkeypatch.syspath_prepend(str(rendered / "src"))
    monkeypatch.setenv("PYTHONPATH", str(rendered / "src"))


def test_the_files_of_a_distribution(tmp_path: Path) -> None:
    folder = render("two_stripes", tmp_path)
    assert folder == tmp_path / "mixcore-plugin-two-stripes"
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert files == FILES
    for path in files:
        assert "$" not in (folder / path).read_text(), f"{path} has a word of the template left"
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["mixcore"] == {"two_stripes": "mixcore_plugin_two_stripes:TwoStripes"}


def test_a_rendered_plugin_is_found_passes_its_own_tests_and_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = render("two_stripes", tmp_path)
    in_environment(folder, monkeypatch)
    assert main(["plugins", "show", "two_stripes"]) == 0
    assert "alpha" in capsys.readouterr().out
    monkeypatch.chdir(folder)
    tests = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error", "-k", "not two_processes"]
    done = subprocess.run(tests, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout
    small = ["--set", "schedule.epochs=1", "--set", "schedule.warmup_epochs=0", "--set", "data.batch_size=256"]
    assert main(["run", "quickstart.toml", "--set", "run.device=cpu", *small]) == 0
    assert (folder / "runs" / "quickstart" / "summary.json").is_file()


@pytest.mark.parametrize("name", ["mix", "generator"])
def test_a_class_does_not_shadow_what_its_module_imports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    in_environment(render(name, tmp_path), monkeypatch)
    assert main(["plugins", "show", name]) == 0


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Stripes", "mixcore new stripes"),
        ("two-stripes", "mixcore new two_stripes"),
        ("twoStripes", "mixcore new two_stripes"),
        ("2stripes", "mixcore new my_mix"),
        ("two__stripes", "mixcore new two_stripes"),
        ("a" * 50, f"mixcore new {'a' * 40}"),
        ("../stripes", "mixcore new stripes"),
        ("cutmix", "taken by cutmix (mixcore-plugin-cutmix"),
        ("digits", "taken by digits (mixcore "),
    ],
)
def test_names_that_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, said: str) -> None:
    assert main(["new", name, "--dir", str(tmp_path)]) == 2
    assert said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_an_existing_folder_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new", "stripes", "--dir", str(tmp_path / "new")]) == 0
    shown = capsys.readouterr().out
    assert "mixcore check stripes" in shown
    readme = tmp_path / "new" / "mixcore-plugin-stripes" / "README.md"
    assert str(readme) in shown
    readme.write_text("mine")
    assert main(["new", "stripes", "--dir", str(tmp_path / "new")]) == 2
    assert "exists" in capsys.readouterr().err
    assert readme.read_text() == "mine"


@pytest.mark.slow
def test_a_rendered_plugin_in_an_empty_environment(tmp_path: Path) -> None:
    """From the wheel of mixcore and nothing else: new, install, find, check, its own tests, the quickstart."""
    uv = shutil.which("uv")
    if uv is None:
        pytest.skip("uv, which makes the empty environment, is not installed")
    clean = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}

    def run(*command: str, folder: Path = tmp_path) -> str:
        done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=clean, check=False)
        assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    run(uv, "build", "--wheel", "--out-dir", str(tmp_path / "wheels"), str(ROOT))
    run(uv, "venv", "--python", sys.executable, "empty")
    (wheel,) = (tmp_path / "wheels").glob("mixcore-*.whl")
    install = [uv, "pip", "install", "--python", str(tmp_path / "empty")]
    done = subprocess.run([*install, str(wheel)], capture_output=True, text=True, cwd=tmp_path, env=clean, check=False)
    if done.returncode != 0:
        pytest.skip(f"the dependencies of mixcore cannot be installed here: {done.stderr.strip().splitlines()[-1]}")
    mixcore = str(tmp_path / "empty" / "bin" / "mixcore")
    run(mixcore, "new", "two_stripes")
    folder = tmp_path / "mixcore-plugin-two-stripes"
    run(*install, f"{folder}[test]")
    assert "mixcore-plugin-two-stripes" in run(mixcore, "plugins")
    assert "failed" not in run(mixcore, "check", "two_stripes")
    run(str(tmp_path / "empty" / "bin" / "python"), "-m", "pytest", "-q", folder=folder)
    run(mixcore, "run", "quickstart.toml", "--set", "run.device=cpu", "--set", "schedule.epochs=3", folder=folder)
    rows = [json.loads(line) for line in (folder / "runs" / "quickstart" / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["val/top1"] > 50, "ten classes: chance is 10"
