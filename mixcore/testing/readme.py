"""Code blocks of a page, for tests that run them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

__all__ = ["code_blocks", "run_example"]


def code_blocks(page: Path, language: str = "python") -> list[str]:
    """The text of every fenced block of `language` in a Markdown file, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def run_example(page: Path) -> dict[str, Any]:
    """The names that the one Python block of a Markdown file leaves. ValueError where it has none or several."""
    (example,) = code_blocks(page)
    names: dict[str, Any] = {}
    exec(example, names)
    return names
