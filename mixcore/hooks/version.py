"""Version of the hook specification: minor +1 for an addition, major +1 for a removal, rename or change of meaning."""

from __future__ import annotations

__all__ = ["FIRST_MINOR", "SPEC_VERSION"]

SPEC_VERSION = (1, 4)
"""(major, minor) of the hooks that this mixcore calls; a plugin declares as `spec_version` what it was written for."""
FIRST_MINOR = (SPEC_VERSION[0], 0)
"""What a plugin that declares nothing was written for."""
