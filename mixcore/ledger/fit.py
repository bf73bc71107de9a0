"""Whether a row of evidence is of a claim's experiment, and what of it differs that may."""

from __future__ import annotations

from pathlib import Path

import attrs

from mixcore.config.layers import Layer
from mixcore.errors import MixcoreError
from mixcore.ledger.claims import Claim
from mixcore.ledger.evidence import Evidence
from mixcore.run.folder import ABSENT, Difference, differences
from mixcore.run.resolve import Loaded, determining, load_layers

__all__ = ["Fit", "fit"]

_UNSTATED = "claimed"
"""Protocol of a claim whose document does not say it: the experiment's own counts."""
_LENGTH = frozenset({"schedule.epochs", "schedule.warmup_epochs"})
"""What a shorter run of the same experiment differs in."""
_NUMERICS = frozenset(
    f"train.{key}"
    for key in ("benchmark", "channels_last", "checkpoint", "compile", "deterministic", "matmul", "precision")
)
"""How exactly and how fast the same thing is computed: a row says so, and is evidence all the same."""
_READER = "data.name"


@attrs.frozen(kw_only=True)
class Fit:
    """How a row stands to a claim."""

    epochs: int
    """Epochs that the experiment asks for."""
    refused: tuple[str, ...] = ()
    """What makes the row one of another experiment, a line each; empty: it is evidence."""
    remarks: tuple[str, ...] = ()
    """What differs and may: number formats, and who read the same data."""


def fit(row: Evidence, claim: Claim, wanted: Loaded) -> Fit:
    """Compare `row` with the experiment of `claim`, which is `wanted` as it is configured today."""
    epochs = wanted.config.schedule.epochs
    found = [] if row.experiment_digest == wanted.experiment else _differences(row, wanted)
    read_so = any(difference.key == _READER and difference.there in claim.readers for difference in found)
    may = [difference for difference in found if difference.key in _NUMERICS or (read_so and difference.key == _READER)]
    refused = [
        str(difference)
        for difference in found
        if difference not in may
        and not (difference.key in _LENGTH and row.epochs < epochs)
        and not (read_so and _is_of_one_reader(difference))
    ]
    refused += _another_protocol(row, claim, wanted) + _another_size(row, claim)
    return Fit(epochs=epochs, refused=tuple(refused), remarks=tuple(map(_remark, may)))


def _differences(row: Evidence, wanted: Loaded) -> list[Difference]:
    """What differs when both are read today: an option that came after the run has its default in both."""
    own = determining(wanted.resolved, wanted.places | {("seed",)})
    try:
        read = load_layers([Layer(row.configuration, {}, "evidence"), Layer({}, {}, "--set")], Path("evidence"))
    except MixcoreError:  # an option that is gone, a plugin that is not installed
        return differences(row.configuration, own)
    return differences(determining(read.resolved, read.places | {("seed",)}), own)


def _is_of_one_reader(difference: Difference) -> bool:
    """Whether it is an option that only one of two data plugins has. Those of both, such as the crop, must agree."""
    return difference.key.startswith("data.") and ABSENT in (difference.there, difference.now)


def _remark(difference: Difference) -> str:
    if difference.key == _READER:
        return f"data read by {difference.there}"
    return f"{difference.key.removeprefix('train.')} {str(difference.there).lower()}"


def _another_protocol(row: Evidence, claim: Claim, wanted: Loaded) -> list[str]:
    protocol = wanted.config.eval.protocol if claim.protocol == _UNSTATED else claim.protocol
    told = [f"the protocol is {row.protocol} there and {protocol} of the claim"] if row.protocol != protocol else []
    if row.metric != claim.metric:
        told.append(f"the metric is {row.metric} there and {claim.metric} of the claim")
    return told


def _another_size(row: Evidence, claim: Claim) -> list[str]:
    sizes = {"training": claim.training, "validation": claim.validation}
    return [
        f"the {name} set has {row.data[name]['samples']} samples there, {claim.dataset} has {size}"
        for name, size in sizes.items()
        if size is not None and row.data[name]["samples"] != size
    ]
