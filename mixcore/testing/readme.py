"""Code blocks of a page, for tests that run them."""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["code_blocks"]


def code_blocks(page: Path, language: str = "python") -> list[str]:
    """The text of every fenced block of `language` in a Markdown file, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
