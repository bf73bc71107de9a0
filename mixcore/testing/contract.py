"""The contract as pytest classes, for a plugin's tests to subclass."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, ClassVar

import attrs
import pytest

from mixcore.testing.checks import checks_of
from mixcore.testing.expect import expect
from mixcore.testing.harness import Harness, NotApplicableError, Subject

__all__ = ["MixerContract", "PluginContract", "SaliencyContract"]


class PluginContract:
    """Holds a plugin to every check of its role, those that `mixcore check` runs.

    Subclass it as `class TestContract(PluginContract)` and set `role` (such as "labels"; "extra" for a plugin without
    one), `plugin` (its name, or the class) and `options`. Every field of :class:`mixcore.testing.Subject` may be set in
    the same way, where the method is defined otherwise: `lam_is_mask_mean = False`, `partner_pixels = False`, ...
    """

    role: ClassVar[str]
    plugin: ClassVar[str | type]
    options: ClassVar[Mapping[str, Any]] = {}
    left_out: ClassVar[Collection[str]] = ()
    """Names of checks that are not run: two processes, say, for further options of a plugin that ran them once."""

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """One test per check of the role."""
        if metafunc.definition.originalname == "test_contract":
            metafunc.parametrize("check", checks_of(self.role))

    def test_contract(self, check: str) -> None:
        """One check, skipped where it has nothing to say about the plugin."""
        if check in self.left_out:
            pytest.skip("left out by the test class")
        harness = Harness(self._subject())
        expect(
            harness.role == self.role,
            f"{self.plugin} has role {harness.role}, and {type(self).__name__} tests role {self.role}; write "
            f'role = "{harness.role}" in the test class',
        )
        try:
            checks_of(self.role)[check](harness)
        except NotApplicableError as reason:
            pytest.skip(str(reason))

    def _subject(self) -> Subject:
        names = {field.name for field in attrs.fields(Subject)}
        return Subject(**{name: getattr(type(self), name) for name in names if hasattr(type(self), name)})


class MixerContract(PluginContract):
    """Holds a mixer to every check of :data:`mixcore.testing.CHECKS`."""

    role = "mix"


class SaliencyContract(PluginContract):
    """Holds a saliency to every check of its role: its map, and that asking for it changes nothing."""

    role = "saliency"
