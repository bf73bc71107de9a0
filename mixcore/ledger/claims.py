"""Published numbers, read from the benchmark packages of installed distributions; nothing heavy is imported.

A package of the entry-point group `mixcore.benchmarks` may hold a claims.toml: tables of documents, each with its
claims, the conflicts among them, and the data set of each benchmark. The head of the builtin one explains every key.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from typing import Any, Literal

import attrs
import tomli
from attrs.validators import and_, deep_iterable, ge, in_, instance_of, min_len, optional

from mixcore.entry_points import Entry, broken, entries_in, load_object
from mixcore.errors import BrokenPluginError, ConfigError
from mixcore.ledger.benchmarks import GROUP
from mixcore.words import cut, suggestion

__all__ = ["FILTERS", "Claim", "Claims", "load_claims"]

FILTERS = ("dataset", "benchmark", "backbone", "method")
"""Fields of a claim by which claims are selected."""
_TEXT: Any = and_(instance_of(str), min_len(1))
_NUMBER: Any = instance_of((int, float))
_COUNT: Any = and_(instance_of(int), ge(1))


def _alpha(_instance: Any, _attribute: Any, value: Any) -> None:
    check: Any = deep_iterable(_NUMBER) if isinstance(value, list) else _NUMBER
    check(_instance, _attribute, value)


@attrs.frozen(kw_only=True)
class Claim:
    """A published number with its setting. Accuracies are in percent, as printed."""

    id: str = attrs.field(validator=_TEXT)
    experiment: str = attrs.field(validator=_TEXT)
    """Name of the experiment that the number is of: several claims may be of one."""
    document: str = attrs.field(validator=_TEXT)
    """Where it was published, in words."""
    table: str = attrs.field(validator=_TEXT)
    """Short name of the table in it."""
    title: str = attrs.field(validator=_TEXT)
    """The table in words."""
    benchmark: str = attrs.field(validator=_TEXT)
    dataset: str = attrs.field(validator=_TEXT)
    backbone: str = attrs.field(validator=_TEXT)
    method: str = attrs.field(validator=_TEXT)
    label: str = attrs.field(validator=_TEXT)
    """The method's name as printed."""
    value: float = attrs.field(validator=_NUMBER)
    protocol: str = attrs.field(validator=_TEXT)
    """Which epochs the number is of; "claimed" where the document does not say."""
    epochs: int | None = None
    epochs_inferred: bool = attrs.field(default=False, validator=instance_of(bool))
    """Whether the epochs do not stand beside the number."""
    metric: str = "top1"
    metric_as_given: str | None = attrs.field(default=None, validator=optional(_TEXT))
    trials: int | None = attrs.field(default=None, validator=optional(_COUNT))
    """Runs that the number is a mean of, where the document says so."""
    alpha: float | Sequence[float] | None = attrs.field(default=None, validator=optional(_alpha))
    """Beta(alpha, alpha) as printed; of a pair that takes turns, one for each."""
    alpha_override: float | None = attrs.field(default=None, validator=optional(_NUMBER))
    """What the document says was used in place of the printed `alpha`."""
    mark: Literal["official", "preprint"] | None = attrs.field(
        default=None, validator=optional(in_(("official", "preprint")))
    )
    """By the method's official code; or a preprint that the benchmark's authors implemented."""
    over_predictors: bool = False
    """Whether the number is the largest over all predictors of the run."""
    training: int | None = attrs.field(default=None, validator=optional(_COUNT))
    """Images of the training set, where that is certain."""
    validation: int | None = attrs.field(default=None, validator=optional(_COUNT))
    """Images of the validation set, where that is certain."""
    readers: tuple[str, ...] = attrs.field(default=(), converter=tuple, validator=deep_iterable(_TEXT))
    """Data plugins beside the experiment's own that give the same images, augmented in the same way."""
    note: str | None = attrs.field(default=None, validator=optional(_TEXT))
    """What to know before a comparison."""

    @property
    def source(self) -> str:
        """Document and table in one line."""
        return f"{self.document}: {self.title}"


@attrs.frozen(kw_only=True)
class Claims:
    """All claims of the installed benchmark packages, in the order in which they are written."""

    all: tuple[Claim, ...]
    conflicts: tuple[tuple[str, ...], ...] = ()
    """Ids of claims of one quantity that were printed differently."""

    def __iter__(self) -> Iterator[Claim]:
        return iter(self.all)

    def find(self, name: str) -> Claim:
        """The claim of that id. ConfigError with the nearest ids where there is none."""
        found = next((claim for claim in self.all if claim.id == name), None)
        if found is None:
            near = difflib.get_close_matches(name.lower(), [claim.id for claim in self.all], n=3)
            nearest = f"; the nearest: {', '.join(near)}" if near else ""
            raise ConfigError(f"no claim has the id {cut(name)!r}{nearest}; `mixcore claims` lists them all")
        return found

    def select(self, wanted: Mapping[str, str]) -> list[Claim]:
        """The claims whose fields have the `wanted` values, by field of `FILTERS`.

        Case and signs do not matter (CIFAR-100 is cifar100), and a method may be named as it is printed. ConfigError
        with the nearest value where no claim at all has the wanted one.
        """
        for field, value in wanted.items():
            names = {name for claim in self.all for name in _names(claim, field)}
            if _plain(value) not in map(_plain, names):
                keys = sorted({getattr(claim, field) for claim in self.all})
                hint = suggestion(value, keys) or "."
                raise ConfigError(f"no claim has the {field} {cut(value)!r}{hint} There are: {', '.join(keys)}")
        return [
            claim
            for claim in self.all
            if all(_plain(value) in map(_plain, _names(claim, field)) for field, value in wanted.items())
        ]

    def conflicting(self, claim: Claim) -> list[Claim]:
        """Other claims of the same quantity that print another value."""
        ids = {name for group in self.conflicts if claim.id in group for name in group}
        return [other for other in self.all if other.id in ids and other != claim]


def _names(claim: Claim, field: str) -> set[str]:
    return {claim.method, claim.label} if field == "method" else {getattr(claim, field)}


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def load_claims() -> Claims:
    """The claims of every installed benchmark package. BrokenPluginError names a file that cannot be read."""
    found = [_read(entry) for entry in entries_in(GROUP)]
    claims = tuple(claim for claims, _ in found for claim in claims)
    seen: set[str] = set()
    for claim in claims:
        if claim.id in seen:
            raise ConfigError(f"two claims have the id {claim.id}; uninstall one of the packages that hold them")
        seen.add(claim.id)
    return Claims(all=claims, conflicts=tuple(group for _, groups in found for group in groups))


def _read(entry: Entry) -> tuple[list[Claim], list[tuple[str, ...]]]:
    """Claims and conflicts of one package; none where it holds no claims.toml."""
    try:
        path = files(load_object(entry)) / "claims.toml"
        if not path.is_file():
            return [], []
        tree = tomli.loads(path.read_text("utf-8"))
        claims = [claim for table in tree.get("table", ()) for claim in _claims(table, tree)]
        return claims, [tuple(group["ids"]) for group in tree.get("conflict", ())]
    except BrokenPluginError:
        raise
    except (OSError, ImportError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise broken(entry, f"its claims.toml cannot be read: {type(error).__name__}: {error}") from error


def _claims(table: Mapping[str, Any], tree: Mapping[str, Any]) -> Iterator[Claim]:
    shared = {key: value for key, value in table.items() if key not in ("name", "count", "prefix", "claims")}
    for own in table["claims"]:
        try:
            yield _claim(own, {**shared, "table": table["name"]}, table.get("prefix", ""), tree)
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"claim {own.get('id')!r} of table {table['name']!r}: {error}") from error


def _claim(own: Mapping[str, Any], shared: Mapping[str, Any], prefix: str, tree: Mapping[str, Any]) -> Claim:
    """A claim from its own keys and its table's; what its id says is read from that."""
    experiment = own["id"].removeprefix(prefix)
    benchmark, backbone, method, *rest = experiment.split(".")
    epochs = int(rest[0].removeprefix("ep")) if rest else None
    told = {**shared, **own}
    told["epochs_inferred"] = told.get("epochs_inferred", False) and epochs is not None
    return Claim(
        **told,
        **tree["benchmarks"][benchmark],
        experiment=experiment,
        benchmark=benchmark,
        backbone=backbone,
        method=method,
        epochs=epochs,
        over_predictors=method in tree.get("over_predictors", ()),
    )
