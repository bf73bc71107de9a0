"""The roles of plugins: the one table that says what a role is, read by all who tell plugins apart by it.

Light on purpose: the command line and the configuration read it before anything imports torch.
"""

from __future__ import annotations

from collections.abc import Mapping

import attrs

__all__ = ["EXTRA", "ROLES", "STEP_ROLES", "SUGGESTED_ROLES", "TABLE_ROLES", "Role", "role_of"]

EXTRA = "extra"
"""What a plugin without a role is called, and its table."""


@attrs.frozen(kw_only=True)
class Role:
    """One role. Its name is what a class declares as `role` (an extra: nothing), and its table in TOML."""

    title: str
    """What people call a plugin of this role."""
    plural: str
    """What they call several."""
    duty: str | None = None
    """The hook that every plugin of this role must implement; None: any hooks will do."""
    hooks: tuple[str, ...] = ()
    """Further hooks that only plugins of this role are asked for."""
    table: bool = True
    """Whether it has a table; else it stands inside another plugin's option."""
    several: bool = False
    """Whether its table may be a list, of any length; else a run has one plugin of this role."""
    default: str | None = None
    """The plugin where a configuration names none and no mixer suggests one; None: there is none."""
    example: str = ""
    """A name that does everywhere, for messages; set where a configuration has to name one."""
    in_step: bool = False
    """Whether it takes part in the training step: asked for `extra_losses` and `scalars`, and in foreign loops too."""


ROLES: Mapping[str, Role] = {
    "data": Role(title="data set", plural="data sets", duty="build_data", example="digits"),
    "backbone": Role(title="backbone", plural="backbones", duty="build_backbone", example="resnet18"),
    "mix": Role(
        title="mixer",
        plural="mixers",
        duty="generate_mix",
        hooks=("preview_mix",),
        several=True,
        default="none",
        in_step=True,
    ),
    "saliency": Role(title="saliency", plural="saliencies", duty="map_saliency", table=False),
    "labels": Role(title="label policy", plural="label policies", duty="mix_labels", default="weights", in_step=True),
    "loss": Role(title="loss", plural="losses", duty="compute_loss", default="soft_cross_entropy", in_step=True),
    EXTRA: Role(title="extra", plural="extras", hooks=("log_record",), several=True, in_step=True),
}
"""Name -> role, in the order in which the plugins of a run are built, called and listed."""

TABLE_ROLES: Mapping[str, Role] = {name: role for name, role in ROLES.items() if role.table}
"""Those with a table of their own in a configuration."""
STEP_ROLES: Mapping[str, Role] = {name: role for name, role in ROLES.items() if role.in_step}
"""Those that take part in the training step."""
SUGGESTED_ROLES = tuple(name for name, role in ROLES.items() if role.default and not role.several)
"""Those whose plugin a mixer may suggest: one per run, and a configuration need not name it."""


def role_of(cls: type) -> str:
    """The role of a plugin class by its name in `ROLES`; whatever it declares, `EXTRA` where that is nothing."""
    found = getattr(cls, "role", None)
    return EXTRA if found is None else found
