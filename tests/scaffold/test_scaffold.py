"""`mixcore new`: what it renders is found, keeps the contract and trains; what it refuses."""

from __future__ import annotations

import json
import os
import runpy
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from mixcore.cli.main import main
from mixcore.hooks.roles import ROLES, TEMPLATE_ROLES
from mixcore.scaffold.render import render
from mixcore.testing import Harness, NotApplicableError, Subject
from mixcore.testing.checks import checks_of

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
    monkeypatch.delitem(sys.modules, project["name"].replace("-", "_"), raising=False)
    monkeypatch.syspath_prepend(str(rendered / "src"))
    monkeypatch.setenv("PYTHONPATH", str(rendered / "src"))


OPTIONS = {"mix": ("alpha", 0.2), "labels": ("power", 3.0), "loss": ("smoothing", 0.1), "analysis": ("bins", 12)}


@pytest.mark.parametrize("role", list(TEMPLATE_ROLES))
def test_the_files_of_a_distribution(tmp_path: Path, role: str) -> None:
    folder = render("two_stripes", tmp_path, role)
    assert folder == tmp_path / "mixcore-plugin-two-stripes"
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert files == FILES
    for path in files:
        assert "$" not in (folder / path).read_text(), f"{path} has a word of the template left"
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["mixcore"] == {"two_stripes": "mixcore_plugin_two_stripes:TwoStripes"}


@pytest.mark.parametrize("role", list(TEMPLATE_ROLES))
def test_a_rendered_plugin_is_found_and_its_pages_say_what_it_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], role: str
) -> None:
    folder = render("two_stripes", tmp_path, role)
    in_environment(folder, monkeypatch)
    assert main(["plugins", "show", "two_stripes"]) == 0
    assert OPTIONS[role][0] in capsys.readouterr().out
    settings = tomllib.loads((folder / "quickstart.toml").read_text())
    readme = (folder / "README.md").read_text()
    if ROLES[role].table:
        assert settings[role]["name"] == "two_stripes"
        assert OPTIONS[role][0] in settings[role]
        assert f'[{role}]\nname = "two_stripes"' in readme
    summary = tomllib.loads((folder / "pyproject.toml").read_text())["project"]["description"]
    assert summary.removeprefix("TwoStripes for mixcore: ")[1:] in readme
    pages = ("README.md", "pyproject.toml", "quickstart.toml", "src/mixcore_plugin_two_stripes/__init__.py")
    others = {"mix": "column", "labels": "power", "loss": "squared", "analysis": "how sure"}
    for other, word in others.items():
        found = [page for page in pages if word in (folder / page).read_text().lower()]
        assert bool(found) == (other == role), f"{other} of {role}: {found}"


@pytest.mark.parametrize("role", list(TEMPLATE_ROLES))
def test_a_rendered_plugin_keeps_the_contract_of_its_role(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, role: str
) -> None:
    name = f"two_{role}"
    in_environment(render(name, tmp_path, role), monkeypatch)
    option, value = OPTIONS[role]
    passed = 0
    for check_name, check in checks_of(role).items():
        if check_name != "two_processes":
            try:
                check(Harness(Subject(plugin=name, options={option: value})))
                passed += 1
            except NotApplicableError:
                pass
    assert passed > (5 if role == "analysis" else 8)


@pytest.mark.parametrize("role", ["labels", "loss"])
def test_what_a_rendered_plugin_promises_beyond_the_contract(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, role: str
) -> None:
    """Its own tests, called here; those of a mixer run in a process of their own below."""
    name = f"own_{role}"
    folder = render(name, tmp_path, role)
    in_environment(folder, monkeypatch)
    tests = runpy.run_path(str(folder / "tests" / f"test_mixcore_plugin_{name}.py"))
    own = [found for key, found in tests.items() if key.startswith("test_") and key != "test_contract"]
    assert len(own) == 2
    for test in own:
        test()


@pytest.mark.slow
@pytest.mark.parametrize("role", list(TEMPLATE_ROLES))
def test_the_tests_of_a_rendered_plugin_bite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, role: str) -> None:
    """They fail once the plugin's arithmetic is another."""
    folder = render("two_stripes", tmp_path, role)
    in_environment(folder, monkeypatch)
    module = folder / "src" / "mixcore_plugin_two_stripes" / "__init__.py"
    right, wrong = {
        "mix": ("images[partner][..., kept:]", "images[..., kept:]"),
        "labels": ("weights**power", "weights**2.5"),
        "loss": (".square()", ".abs()"),
        "analysis": ("min=0, max=1", "min=0, max=2"),
    }[role]
    assert right in module.read_text()
    module.write_text(module.read_text().replace(right, wrong))
    assert own_tests(folder, "-k", "not test_contract").returncode == 1


def own_tests(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A distribution's tests, run in its folder as its author would."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)


def test_a_rendered_mixer_passes_its_own_tests_and_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole("mix", tmp_path, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("role", ["labels", "loss"])
def test_a_rendered_policy_or_loss_passes_its_own_tests_and_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, role: str
) -> None:
    whole(role, tmp_path, monkeypatch)


def whole(role: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole of its own test file, but for two processes, and an epoch of its quickstart."""
    folder = render("two_stripes", tmp_path, role)
    in_environment(folder, monkeypatch)
    monkeypatch.chdir(folder)
    done = own_tests(folder, "-k", "not two_processes")
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout
    small = ["--set", "schedule.epochs=1", "--set", "schedule.warmup_epochs=0", "--set", "data.batch_size=256"]
    assert main(["run", "quickstart.toml", "--set", "run.device=cpu", *small]) == 0
    assert list((folder / "runs").glob("*/summary.json"))


@pytest.mark.parametrize(
    ("name", "role"), [("targets", "labels"), ("mix", "labels"), ("task", "loss"), ("tensor", "loss")]
)
def test_a_class_of_another_role_does_not_shadow_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, role: str
) -> None:
    in_environment(render(name, tmp_path, role), monkeypatch)
    assert main(["plugins", "show", name]) == 0


def test_a_role_that_the_template_has_not_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new", "stripes", "--role", "data", "--dir", str(tmp_path)]) == 2
    assert "mix" in (said := capsys.readouterr().err)
    assert "labels" in said
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("role", ["labels", "loss"])
def test_new_makes_what_the_role_says(tmp_path: Path, capsys: pytest.CaptureFixture[str], role: str) -> None:
    assert main(["new", "stripes", "--role", role, "--dir", str(tmp_path)]) == 0
    assert "mixcore check stripes" in capsys.readouterr().out
    module = tmp_path / "mixcore-plugin-stripes" / "src" / "mixcore_plugin_stripes" / "__init__.py"
    assert f'role = "{role}"' in module.read_text()


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
@pytest.mark.parametrize("role", list(TEMPLATE_ROLES))
def test_a_rendered_plugin_in_an_empty_environment(tmp_path: Path, role: str) -> None:
    """From the wheel of mixcore and nothing else: new, install, find, check, its own tests, the quickstart."""
    uv = shutil.which("uv")
    if uv is None:
        pytest.skip("uv, which makes the empty environment, is not installed")
    clean = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}

    def run(*command: str, folder: Path = tmp_path) -> str:
        done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=clean, check=False)
        assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    for source in (ROOT, ROOT / "plugins" / "mixcore-plugin-cutmix"):
        run(uv, "build", "--wheel", "--out-dir", str(tmp_path / "wheels"), str(source))
    run(uv, "venv", "--python", sys.executable, "empty")
    (wheel,) = (tmp_path / "wheels").glob("mixcore-*.whl")
    install = [uv, "pip", "install", "--find-links", str(tmp_path / "wheels"), "--python", str(tmp_path / "empty")]
    done = subprocess.run([*install, str(wheel)], capture_output=True, text=True, cwd=tmp_path, env=clean, check=False)
    if done.returncode != 0:
        pytest.skip(f"the dependencies of mixcore cannot be installed here: {done.stderr.strip().splitlines()[-1]}")
    mixcore = str(tmp_path / "empty" / "bin" / "mixcore")
    run(mixcore, "new", "two_stripes", "--role", role)
    folder = tmp_path / "mixcore-plugin-two-stripes"
    run(*install, f"{folder}[test]")
    assert "mixcore-plugin-two-stripes" in run(mixcore, "plugins")
    assert "failed" not in run(mixcore, "check", "two_stripes")
    run(str(tmp_path / "empty" / "bin" / "python"), "-m", "pytest", "-q", folder=folder)
    run(mixcore, "run", "quickstart.toml", "--set", "run.device=cpu", "--set", "schedule.epochs=3", folder=folder)
    rows = [json.loads(line) for line in (folder / "runs" / "quickstart" / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["val/top1"] > 50, "ten classes: chance is 10"
