"""Who may import whom, read from the import statements; and that the light doors stay light."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# Each room may import itself and those of lines before its own.
ORDER = [
    {"errors"},
    {"autocast", "children", "files", "options", "rng", "words"},
    {"entry_points", "job"},
    {"types"},
    {"ops", "networks"},
    {"evidence"},
    {"hooks"},
    {"api", "config"},
    {"discovery"},
    {"data"},
    {"evaluate", "logs", "pictures"},
    {"step"},
    {"train"},
    {"run"},
    {"mixers", "ledger", "export", "plots", "scaffold", "testing", "measure"},
    {"analyse"},
    {"cli"},
    {"__main__"},
]
LEVEL = {room: level for level, rooms in enumerate(ORDER) for room in rooms}


def imports_of(path: Path, typing: bool = False) -> Iterator[str]:
    """Modules that a file imports, wherever in the file; those under TYPE_CHECKING only with `typing`."""
    tree = ast.parse(path.read_text())
    skipped = {
        id(inner)
        for node in ast.walk(tree)
        if not typing and isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            yield node.module or ""


def room_of(module: str) -> str | None:
    parts = module.split(".")
    return parts[1] if parts[0] == "mixcore" and len(parts) > 1 else None


CORE = sorted((ROOT / "mixcore").rglob("*.py"))


@pytest.mark.parametrize("path", CORE, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_core_imports_downwards_only(path: Path) -> None:
    own = path.relative_to(ROOT / "mixcore").parts[0].removesuffix(".py")
    if own == "__init__":
        return
    for module in imports_of(path):
        assert not module.startswith("mixcore_plugin"), f"{path} imports {module}: the core names no plugin"
        room = room_of(module)
        if room is None or room == own:
            continue
        assert LEVEL[room] < LEVEL[own], f"{path.relative_to(ROOT)} imports {module}; {own} may not know {room}"


def test_no_file_imports_itself_through_others() -> None:
    """Statements under TYPE_CHECKING count here: what a file only names, it still has to be read with."""
    modules = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in CORE}
    known = {
        name: {found for found in imports_of(path, typing=True) if found in modules and found != name}
        for name, path in modules.items()
    }
    while leaves := {name for name, needed in known.items() if not needed & known.keys()}:
        known = {name: needed for name, needed in known.items() if name not in leaves}
    assert not known, f"a circle is among {sorted(known)}"


PLUGINS = sorted([*(ROOT / "mixcore_plugins_builtin").rglob("*.py"), *ROOT.glob("plugins/*/src/**/*.py")])


@pytest.mark.parametrize("path", PLUGINS, ids=lambda path: str(path.relative_to(ROOT)))
def test_plugins_know_the_api_only(path: Path) -> None:
    relative = path.relative_to(ROOT)
    own = relative.parts[3] if relative.parts[0] == "plugins" else relative.parts[0]
    declared = (
        (ROOT / Path(*relative.parts[:2]) / "pyproject.toml").read_text() if relative.parts[0] == "plugins" else ""
    )
    for module in imports_of(path):
        top = module.split(".")[0]
        if top == "mixcore":
            assert module == "mixcore.api", f"{relative} imports {module}; plugins import mixcore.api"
        elif top.startswith("mixcore_plugin") and top != own:
            assert top.replace("_", "-") in declared, (
                f"{relative} imports {module}, which its distribution does not need"
            )


@pytest.mark.parametrize("door", ["import mixcore", "import mixcore.cli.main", "import mixcore.job"])
def test_the_light_doors_import_neither_torch_nor_timm(door: str) -> None:
    code = f"import sys; {door}; print([m for m in ('torch', 'timm', 'torchvision', 'numpy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_help_imports_neither_torch_nor_timm() -> None:
    code = (
        "import sys\nfrom mixcore.cli.main import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "print([m for m in ('torch', 'timm') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "run" in done.stdout
    assert done.stdout.strip().splitlines()[-1] == "[]"
