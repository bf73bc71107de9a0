"""The roles of plugins: the one table that says what a role is, read by all who tell plugins apart by it.

Light on purpose: the command line and the configuration read it before anything imports torch. What belongs to a role
elsewhere stands here by name: checks of the contract, and whether `mixcore new` has a template.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

__all__ = [
    "EXTRA",
    "ROLES",
    "STEP_ROLES",
    "SUGGESTED_ROLES",
    "TABLE_ROLES",
    "TEMPLATE_ROLES",
    "Role",
    "role_of",
    "where_it_stands",
]

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
    elsewhere: str = ""
    """Where its plugins are named, in words; empty: in a table of its own in a configuration."""
    several: bool = False
    """Whether its table may be a list, of any length; else a run has one plugin of this role."""
    default: str | None = None
    """The plugin where a configuration names none and no mixer suggests one; None: there is none."""
    example: str = ""
    """A name that does everywhere, for messages; set where a configuration has to name one."""
    undemanding: str = ""
    """Which of its plugins asks nothing of mixers and networks, in words, for who is refused because of another."""
    in_step: bool = False
    """Whether it takes part in the training step: asked for `extra_losses` and `scalars`, and in foreign loops too."""
    checks: tuple[str, ...]
    """The contract: `values` stands for all checks of `mixcore.testing.checks_values`, `step.any_mix` for one."""
    option_checks: tuple[str, ...] = ()
    """Those that every value of an option has to pass, one value at a time."""
    contract: Mapping[str, Any] = attrs.field(factory=dict)
    """What of `mixcore.testing.Subject` is otherwise for its plugins, unless the class declares it."""
    template: bool = False
    """Whether `mixcore new` has a template of it, the folder of its name in `mixcore/scaffold/template`."""

    @property
    def table(self) -> bool:
        """Whether it has a table of its own in a configuration."""
        return not self.elsewhere


_TRAINED = ("repeat.options_round_trip", "repeat.two_training_steps", "repeat.state_round_trip")
_BESIDE_A_MIXER = ("step", "hooks", "device", "options", *_TRAINED, "processes")
_TWO_STEPS = ("repeat.two_training_steps", "device.two_steps_on_another_device")

ROLES: Mapping[str, Role] = {
    "data": Role(
        title="data set",
        plural="data sets",
        duty="build_data",
        example="digits",
        checks=(
            "class",
            "repeat.options_round_trip",
            "owners.batches_fit_the_task",
            "owners.maps_fit_the_images",
            "owners.splits_differ",
            "owners.epochs_repeat",
            "owners.two_steps_on_it",
        ),
    ),
    "backbone": Role(
        title="backbone",
        plural="backbones",
        duty="build_backbone",
        example="resnet18",
        checks=(
            "class",
            "owners.logits_fit_the_task",
            "owners.timm_interface",
            "owners.no_memory",
            "step.any_batch_size",
            "step.same_seed_same_loss",
            *_TRAINED,
            "processes",
        ),
        contract={"image_size": (32, 32)},  # networks are made for square images
    ),
    "mix": Role(
        title="mixer",
        plural="mixers",
        duty="generate_mix",
        hooks=("preview_mix",),
        several=True,
        default="none",
        in_step=True,
        checks=(
            *("class", "form", "values", "isolation", "device"),
            *("hooks", "graph", "repeat", "options", "processes"),
        ),
        option_checks=(
            "form.heights_and_widths",
            "values.weights_are_shares",
            "values.masks_are_shares",
            "isolation.batch_is_not_modified",
            *_TWO_STEPS,
        ),
        template=True,
    ),
    "saliency": Role(
        title="saliency",
        plural="saliencies",
        duty="map_saliency",
        elsewhere="in another plugin's option",
        undemanding='saliency = "fine_grained" looks at the image alone',
        checks=("class", "saliency", "device", "options", *_TRAINED),
        option_checks=("saliency.saliency_is_a_map", "saliency.saliency_leaves_the_network", *_TWO_STEPS),
    ),
    "labels": Role(
        title="label policy",
        plural="label policies",
        duty="mix_labels",
        default="weights",
        undemanding='[labels] name = "weights" goes with every mixer and network',
        in_step=True,
        checks=("class", "owners.label_weights", *_BESIDE_A_MIXER),
        option_checks=("owners.label_weights", *_TWO_STEPS),
        template=True,
    ),
    "loss": Role(
        title="loss",
        plural="losses",
        duty="compute_loss",
        default="soft_cross_entropy",
        undemanding='[loss] name = "soft_cross_entropy" goes with every mixer and network',
        in_step=True,
        checks=("class", "owners.the_loss_heeds_the_weights", "owners.the_loss_is_a_mean", *_BESIDE_A_MIXER),
        option_checks=("owners.the_loss_is_a_mean", *_TWO_STEPS),
        template=True,
    ),
    "analysis": Role(
        title="analysis",
        plural="analyses",
        duty="analyse",
        hooks=("compare_runs",),
        elsewhere="on the command line, mixcore analyse RUN NAME",
        checks=("class", "repeat.options_round_trip", "analysis", "options"),
        option_checks=("analysis.numbers_are_plain",),
        template=True,
    ),
    "launcher": Role(
        title="launcher",
        plural="launchers",
        duty="launch_runs",
        elsewhere="in [launcher] of a sweep file",
        default="local",
        checks=("class", "repeat.options_round_trip"),
    ),
    EXTRA: Role(
        title="extra",
        plural="extras",
        hooks=("build_metrics", "log_record"),
        several=True,
        in_step=True,
        checks=("class", *_BESIDE_A_MIXER),
        option_checks=("step.the_batch_is_kept", *_TWO_STEPS),
    ),
}
"""Name -> role, in the order in which the plugins of a run are built, called and listed."""

TABLE_ROLES: Mapping[str, Role] = {name: role for name, role in ROLES.items() if role.table}
"""Those with a table of their own in a configuration."""
STEP_ROLES: Mapping[str, Role] = {name: role for name, role in ROLES.items() if role.in_step}
"""Those that take part in the training step."""
SUGGESTED_ROLES = tuple(name for name, role in TABLE_ROLES.items() if role.default and not role.several)
"""Those whose plugin a mixer may suggest: one per run, and a configuration need not name it."""
TEMPLATE_ROLES: Mapping[str, Role] = {name: role for name, role in ROLES.items() if role.template}
"""Those that `mixcore new` makes a plugin of."""


def role_of(cls: type) -> str:
    """The role of a plugin class by its name in `ROLES`; whatever it declares, `EXTRA` where that is nothing."""
    found = getattr(cls, "role", None)
    return EXTRA if found is None else found


def where_it_stands(role: str) -> str:
    """Where plugins of a role are named: `in [mix]`, `in another plugin's option`."""
    return ROLES[role].elsewhere or ("in [[extra]]" if role == EXTRA else f"in [{role}]")
