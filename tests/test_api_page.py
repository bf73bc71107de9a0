"""docs/api.md is what docs/build_api.py makes of the docstrings, and every name of mixcore.api is on it, described."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from pathlib import Path

import mixcore.api

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")


def test_the_page_is_made_from_the_docstrings_of_now() -> None:
    made = runpy.run_path(str(ROOT / "docs" / "build_api.py"))["page"]()
    assert made == PAGE, "docs/api.md is not what the docstrings say: run  python docs/build_api.py"


def test_every_name_is_described() -> None:
    entries = dict(re.findall(r"^### (\w+)\n(.*?)(?=^##|\Z)", PAGE, re.M | re.S))
    assert sorted(entries) == sorted(mixcore.api.__all__)
    for name, text in entries.items():
        words = re.sub(r"```.*?```", "", text, flags=re.S).split()
        assert len(words) >= 5, f"{name} has no docstring"


def test_links_of_the_contents_lead_to_entries() -> None:
    headings = [heading.lower() for heading in re.findall(r"^### (\w+)$", PAGE, re.M)]
    anchors = [f"{h}-{n}" if (n := headings[:i].count(h)) else h for i, h in enumerate(headings)]
    linked = re.findall(r"\]\(#([\w-]+)\)", PAGE)
    assert len(set(anchors)) == len(anchors)
    assert sorted(linked) == sorted(anchors)


def test_docstring_roles_are_gone() -> None:
    assert not re.search(r":\w+:`", PAGE)


def test_signatures_are_those_of_the_code() -> None:
    assert "Mix.clean(images: Tensor, **rest: Any) -> Mix" in PAGE
    assert "    *,\n    network: str | None = None,\n" in PAGE
    assert "settle(loss: Tensor, parameters: Iterable[Tensor], scale: Tensor | float = 1.0) -> Tensor" in PAGE
    assert "UnreadableSampleError(message: str, *, skip: bool = False)" in PAGE
    assert "_pool" not in PAGE, "private fields stay out"


def test_the_command_writes_the_page_without_importing_anything() -> None:
    code = "import runpy, sys; runpy.run_path('docs/build_api.py'); assert not {'torch', 'attrs'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
