"""The contract as a pytest class, for a plugin's tests to subclass."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, ClassVar

import attrs
import pytest

from mixcore.testing.checks import CHECKS
from mixcore.testing.harness import Harness, NotApplicableError, Subject

__all__ = ["MixerContract"]


class MixerContract:
    """Holds a mixer to every check of :data:`mixcore.testing.CHECKS`.

    Subclass it as `class TestContract(MixerContract)` and set `plugin` (its name, or the class) and `options`. Every
    field of :class:`mixcore.testing.Subject` may be set in the same way, where the method is defined otherwise:
    `lam_is_mask_mean = False`, `partner_pixels = False`, ...
    """

    plugin: ClassVar[str | type]
    options: ClassVar[Mapping[str, Any]] = {}
    left_out: ClassVar[Collection[str]] = ()
    """Names of checks that are not run: two processes, say, for further options of a plugin that ran them once."""

    @pytest.mark.parametrize("check", CHECKS)
    def test_contract(self, check: str) -> None:
        """One check, skipped where it has nothing to say about the plugin."""
        if check in self.left_out:
            pytest.skip("left out by the test class")
        try:
            CHECKS[check](Harness(self._subject()))
        except NotApplicableError as reason:
            pytest.skip(str(reason))

    def _subject(self) -> Subject:
        names = {field.name for field in attrs.fields(Subject)}
        return Subject(**{name: getattr(type(self), name) for name in names if hasattr(type(self), name)})
