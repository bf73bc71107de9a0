"""Plugins for configurations: one of each role that a file must or may name."""

from __future__ import annotations

from collections.abc import Callable

import pytest

SOURCE = '''
from __future__ import annotations
from typing import Any, Literal
import attrs

@attrs.define(eq=False, kw_only=True)
class Numbers:
    """Numbers to learn from."""
    role = "data"
    root: str = "data"

@attrs.define(eq=False, kw_only=True)
class Net:
    """A network."""
    role = "backbone"
    depth: int = 2

@attrs.define(eq=False, kw_only=True)
class Shape:
    """Shapes of the partner."""
    role = "mix"
    provides = frozenset({"mask"})
    alpha: float = attrs.field(default=1.0, validator=attrs.validators.ge(0))
    mode: Literal["hard", "soft"] = "hard"
    sizes: tuple[int, ...] = (1, 2)
    limit: float | None = None

@attrs.define(eq=False, kw_only=True)
class Fade:
    role = "mix"
    suggests = {"labels": "faded", "predictor": "teacher"}
    beta: float = 0.5

@attrs.define(eq=False, kw_only=True)
class Bend:
    role = "mix"
    suggests = {"labels": "area"}

@attrs.define(eq=False, kw_only=True)
class Labels:
    role = "labels"
    power: float = 1.0

@attrs.define(eq=False, kw_only=True)
class Pause:
    epoch: int
'''

ENTRIES = {
    "numbers": "Numbers",
    "net": "Net",
    "shape": "Shape",
    "fade": "Fade",
    "bend": "Bend",
    "faded": "Labels",
    "pause": "Pause",
}


@pytest.fixture(autouse=True)
def plugins(install: Callable[..., None]) -> None:
    """Those above; the defaults (none, weights, soft_cross_entropy, timm) are the builtins."""
    entries = {name: f"fake_config_plugins:{cls}" for name, cls in ENTRIES.items()}
    install(entries, {"fake_config_plugins": SOURCE}, distribution="fake-config-plugins")
