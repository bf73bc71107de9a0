"""Exit codes, messages, and a help that imports nothing heavy."""

from __future__ import annotations

import subprocess
import sys
import types

import click
import pytest

import mixcore
from mixcore.cli import main as main_module
from mixcore.cli.main import VERBS, main
from mixcore.errors import ConfigError, NonFiniteLossError, PreemptedError


@pytest.fixture
def raising(monkeypatch: pytest.MonkeyPatch) -> types.SimpleNamespace:
    """A verb `run` that raises `raising.error`."""
    holder = types.SimpleNamespace(error=None)

    @click.command()
    @click.option("--steps", type=int)
    def command(steps: int | None) -> None:
        if holder.error is not None:
            raise holder.error

    module = types.ModuleType("mixcore.cli.run")
    module.command = command  # type: ignore[attr-defined]
    monkeypatch.setattr(main_module.importlib, "import_module", lambda name: module)
    return holder


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (ConfigError("alpha is wrong"), 2, "mixcore: alpha is wrong\n"),
        (NonFiniteLossError("the loss is nan"), 1, "mixcore: the loss is nan\n"),
        (PreemptedError("start again"), 75, "mixcore: start again\n"),
        (OSError(28, "No space left on device"), 1, "mixcore: OSError: [Errno 28] No space left on device\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
    ],
)
def test_an_error_is_one_message_and_an_exit_code(
    raising: types.SimpleNamespace,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    code: int,
    message: str,
) -> None:
    raising.error = error
    assert main(["run"]) == code
    shown = capsys.readouterr().err
    assert message in shown
    assert "Traceback" not in shown


def test_debug_shows_the_traceback(raising: types.SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    raising.error = ValueError("odd")
    assert main(["run"]) == 1
    assert "for the traceback: mixcore --debug run" in capsys.readouterr().err
    assert main(["--debug", "run"]) == 1
    shown = capsys.readouterr().err
    assert "Traceback" in shown
    assert "mixcore: ValueError: odd" in shown
    assert "for the traceback" not in shown


def test_notes_are_part_of_the_message(raising: types.SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    raising.error = ValueError("odd")
    raising.error.add_note("in generate_mix of shape at epoch 3")
    main(["run"])
    assert "in generate_mix of shape at epoch 3" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["run", "--stpes", "3"], ["run", "--steps", "x"], ["rnu"], ["--nothing"]])
def test_usage_is_refused_with_2(raising: types.SimpleNamespace, arguments: list[str]) -> None:
    assert main(arguments) == 2


def test_success_is_0(raising: types.SimpleNamespace) -> None:
    assert main(["run", "--steps", "3"]) == 0


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"mixcore {mixcore.__version__}\n"


def test_unknown_attribute_of_the_package() -> None:
    with pytest.raises(AttributeError, match="no attribute 'create_mixr'"):
        _ = mixcore.create_mixr


def test_no_torch_before_it_is_needed() -> None:
    commands = [[], ["--help"], ["--version"], ["plugins"], *([verb, "--help"] for verb in VERBS)]
    code = f"""
import sys, mixcore
from mixcore.cli.main import main
for arguments in [None, *{commands}]:
    if arguments is not None:
        main(arguments)
    heavy = [name for name in ("torch", "torchvision", "timm", "numpy", "tensorboard") if name in sys.modules]
    assert not heavy, (arguments, heavy)
"""
    subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)


def test_help_lists_the_verbs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    for verb, text in VERBS.items():
        assert verb in shown
        assert text in " ".join(shown.split())
