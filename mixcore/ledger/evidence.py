"""Evidence: one JSON file per finished run, so that rows of several people lie beside each other and never clash.

A row carries the configuration that its digests are of: what it is evidence of can be checked by whoever reads it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
from attrs.validators import deep_mapping, ge, in_, instance_of, matches_re, optional

from mixcore.config.text import tree_faults
from mixcore.errors import MixcoreError
from mixcore.files import replace_file
from mixcore.run.resolve import digest_of
from mixcore.words import LONGEST, cut

__all__ = ["Evidence", "EvidenceError", "path_of", "read_evidence", "read_row", "write_row"]

FORMAT = 1
_NAME = [instance_of(str), matches_re(r"[A-Za-z0-9_+-]+(\.[A-Za-z0-9_+-]+)*")]
_DIGEST = [instance_of(str), matches_re(r"[0-9a-f]{32}")]
_TABLE: Any = instance_of(dict)


class EvidenceError(MixcoreError):
    """An evidence file, or a run folder, that lacks what a row needs."""


def _whole(_row: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if type(value) is not int:
        raise TypeError(f"'{attribute.name}' must be a whole number: {value!r}")


def _finite(_row: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if type(value) not in (int, float) or not math.isfinite(value):  # type: ignore[arg-type]
        raise TypeError(f"'{attribute.name}' must be a finite number: {value!r}")


def _fingerprints(_row: object, attribute: attrs.Attribute[Any], value: object) -> None:
    sets = value if isinstance(value, dict) else {}
    if not all(
        isinstance(sets.get(name), dict)
        and type(sets[name].get("samples")) is int
        and isinstance(sets[name].get("hash"), str)
        for name in ("training", "validation")
    ):
        raise TypeError(f"'{attribute.name}' must give samples and hash of training and validation: {value!r}")


def _usable(_row: object, attribute: attrs.Attribute[Any], value: dict[str, Any]) -> None:
    faults = tree_faults(value)
    if faults:
        raise ValueError(f"'{attribute.name}' is none that can be used: {faults[0]}")


@attrs.frozen(kw_only=True)
class Evidence:
    """What a finished run found. Accuracies in percent, times in seconds."""

    experiment: str = attrs.field(validator=_NAME)
    """Name of the experiment that was run: claims of that experiment may be compared."""
    experiment_digest: str = attrs.field(validator=_DIGEST)
    """Hash of `configuration`."""
    run_digest: str = attrs.field(validator=_DIGEST)
    """The same with the seed."""
    configuration: dict[str, Any] = attrs.field(validator=[_TABLE, _usable])
    """All that determined the numbers, but the seed."""
    seed: int = attrs.field(validator=[_whole, ge(0)])
    protocol: str = attrs.field(validator=instance_of(str))
    """Which epochs `value` and `values` are of."""
    metric: str = attrs.field(validator=instance_of(str))
    value: float = attrs.field(validator=_finite)
    """Of the run's own predictor."""
    values: dict[str, float] = attrs.field(validator=deep_mapping(instance_of(str), _finite, _TABLE))
    """Of every predictor, by name."""
    epochs: int = attrs.field(validator=[_whole, ge(1)])
    """Epochs that were trained and evaluated."""
    command: str = attrs.field(validator=instance_of(str))
    """What was typed, without what says where things lie."""
    git: dict[str, Any] | None = attrs.field(validator=optional(_TABLE))
    """`commit`, and whether it was `modified`; None outside a checkout."""
    versions: dict[str, Any] = attrs.field(validator=_TABLE)
    """Of mixcore, torch and every plugin of the run."""
    device: str = attrs.field(validator=instance_of(str))
    processes: int = attrs.field(validator=[_whole, ge(1)])
    seconds: dict[str, float] = attrs.field(validator=deep_mapping(instance_of(str), _finite, _TABLE))
    """`wall`, `train` and `evaluate`."""
    data: dict[str, Any] = attrs.field(validator=_fingerprints)
    """How many samples the sets had, and the hash of them."""
    legacy: dict[str, float] = attrs.field(factory=dict, validator=deep_mapping(instance_of(str), _finite, _TABLE))
    """Of every predictor by the legacy form of the protocol, which counts as scripts of published tables do."""
    legacy_largest: float | None = attrs.field(default=None, validator=optional(_finite))
    """The largest over all predictors, as those scripts find it."""
    format: int = attrs.field(default=FORMAT, validator=in_((FORMAT,)))

    def __attrs_post_init__(self) -> None:
        if digest_of(self.configuration) != self.experiment_digest:
            raise ValueError("'experiment_digest' is not that of 'configuration': one of them was changed")
        if digest_of({**self.configuration, "seed": self.seed}) != self.run_digest:
            raise ValueError("'run_digest' is not that of 'configuration' with 'seed': one of them was changed")
        asked = self.configured("schedule", "epochs")
        if self.epochs != asked:
            raise ValueError(f"'epochs' is {self.epochs}, and its configuration asks for {asked}")
        if self.value not in self.values.values():
            raise ValueError(f"'value' is {self.value}, and none of 'values' is")
        if "wall" not in self.seconds:
            raise ValueError("'seconds' has no wall")

    def configured(self, table: str, key: str) -> Any:
        """What its configuration says there; None where it says nothing."""
        found = self.configuration.get(table)
        return found.get(key) if isinstance(found, dict) else None


def path_of(folder: Path, row: Evidence) -> Path:
    """Where a row is kept: by experiment, seed, and a hash of what was found, so that no two runs share a file.

    The command is left out: naming more seeds, it finds the rows of those that are there.
    """
    found = digest_of({key: value for key, value in attrs.asdict(row).items() if key != "command"})
    return folder / row.experiment / f"seed-{row.seed}-{found[:8]}.json"


def write_row(folder: Path, row: Evidence) -> Path:
    """Write the row below `folder` unless it is there; gives its path. StorageError where it cannot be written."""
    path = path_of(folder, row)
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(attrs.asdict(row), indent=2, allow_nan=False, sort_keys=True)
        replace_file(path, lambda file: file.write(f"{text}\n".encode()))
    return path


def read_row(path: Path) -> Evidence:
    """The row in a file. EvidenceError says what it lacks."""
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise EvidenceError(f"{path} is no evidence: it cannot be read as JSON ({error})") from error
    if not isinstance(content, Mapping):
        raise EvidenceError(f"{path} is no evidence: found a {type(content).__name__}, expected an object of one run")
    fields = attrs.fields_dict(Evidence)
    lacking = [name for name, field in fields.items() if name not in content and field.default is attrs.NOTHING]
    strange = [name for name in content if name not in fields]
    if lacking or strange:
        told = [
            f"{what} {_few(names)}" for what, names in (("it lacks", lacking), ("it has the unknown", strange)) if names
        ]
        raise EvidenceError(f"{path} is no evidence: {'; '.join(told)}")
    try:
        return Evidence(**content)
    except (TypeError, ValueError) as error:
        raise EvidenceError(f"{path} is no evidence: {error.args[0] if error.args else error}") from error


def _few(names: Sequence[str], most: int = 5) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return cut(", ".join(names[:most]), 2 * LONGEST) + more


def read_evidence(folder: Path) -> tuple[list[tuple[Path, Evidence]], list[str]]:
    """Every row below `folder` with its file, sorted by path, and one line per file that is none."""
    rows: list[tuple[Path, Evidence]] = []
    faults: list[str] = []
    for path in sorted(folder.rglob("*.json")):
        try:
            rows.append((path, read_row(path)))
        except EvidenceError as error:
            faults.append(str(error))
    return rows, faults
