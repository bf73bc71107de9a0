"""Claimed against reproduced, as files: Markdown to read, CSV for machines, a picture where matplotlib is installed."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from mixcore.errors import StorageError
from mixcore.files import replace_file
from mixcore.ledger.claims import Claim, Claims
from mixcore.ledger.compare import Comparison
from mixcore.ledger.evidence import Evidence
from mixcore.ledger.picture import draw, picture_advice
from mixcore.ledger.status import STATUSES, Standing

__all__ = ["write_report"]

_NUMBERS = ("claimed", "mean", "deviation", "difference", "tolerance", "legacy", "n")
_COLUMNS = ("claim", "method", *_NUMBERS, "status", "remarks", "protocol", "source")


def write_report(folder: Path, claims: Claims, compared: Comparison, faults: Sequence[str]) -> tuple[list[Path], str]:
    """Write report.md, report.csv and, where matplotlib is installed, report.png into `folder`.

    The Markdown and the picture have the claims that were tried, the CSV has all. `faults` are what was refused. Gives
    the files, and what to type for a picture where there is none. Raises StorageError.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(
            f"{folder} cannot be made: {error.strerror or error}; name another folder: --out DIR"
        ) from error
    tried = [(claim, compared.standings[claim.id]) for claim in claims if compared.standings[claim.id].seeds]
    contents = {
        "report.md": _markdown(claims, compared, tried, faults).encode(),
        "report.csv": _csv(claims, compared).encode(),
    }
    advice = picture_advice()
    if tried and not advice:
        contents["report.png"] = draw(tried)
    for name, content in contents.items():
        _write(folder / name, content)
    return [folder / name for name in contents], advice if tried else ""


def _write(path: Path, content: bytes) -> None:
    replace_file(path, lambda file: file.write(content))


def _csv(claims: Claims, compared: Comparison) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    writer.writerows(_cells(claim, compared.standings[claim.id]) for claim in claims)
    return text.getvalue()


def _cells(claim: Claim, standing: Standing) -> list[str]:
    """The row of a claim; a number that there is none of is an empty cell."""
    numbers = (claim.value, standing.mean, standing.deviation, standing.difference, standing.tolerance, standing.legacy)
    shown = ["" if number is None else f"{number:.2f}" for number in numbers]
    shown[3] = "" if standing.difference is None else f"{standing.difference:+.2f}"
    remarks = "; ".join((*standing.lacking, *standing.remarks))
    count = str(len(standing.seeds))
    return [claim.id, claim.label, *shown, count, standing.status, remarks, claim.protocol, claim.source]


def _markdown(
    claims: Claims, compared: Comparison, tried: Sequence[tuple[Claim, Standing]], faults: Sequence[str]
) -> str:
    counts = Counter(standing.status for standing in compared.standings.values())
    told = ", ".join(f"{counts[status]} {status}" for status in STATUSES if counts[status])
    lines = ["# Claimed against reproduced", "", f"{len(claims.all)} claims: {told}.", ""]
    if tried:
        lines += [*_legend(), "", *_table(tried), "", *_predictors(tried), *_notes(claims, tried), *_runs(compared)]
    if faults:
        lines += ["## Not counted", "", *(f"- {fault}" for fault in faults), ""]
    return "\n".join(lines)


def _legend() -> list[str]:
    return [
        "Top-1 accuracy in percent. *Difference* is the mean over the seeds minus the claim; *deviation* is over the",
        "seeds. Verified: at least three seeds of all epochs, and their mean within two standard errors plus 0.3",
        "points of the claim (*tolerance*). *Legacy* is the mean as scripts of published tables count epochs; nothing",
        "follows from it.",
    ]


def _table(tried: Sequence[tuple[Claim, Standing]]) -> Iterator[str]:
    heads = _COLUMNS[:-1]
    yield _row(heads)
    yield _row(["---:" if head in _NUMBERS else "---" for head in heads])
    for claim, standing in tried:
        yield _row(_cells(claim, standing)[:-1])


def _runs(compared: Comparison) -> Iterator[str]:
    """Every run that was looked at, once: what it gave, where, with what, and by which command."""
    rows = list({id(row): row for of in compared.rows.values() for row in of}.values())
    yield from ("## Runs", "")
    heads = ("experiment", "seed", "value", "epochs", "device", "processes", "hours", "mixcore", "torch", "commit")
    yield _row(heads)
    yield _row(["---"] * len(heads))
    for row in rows:
        versions = [str(row.versions.get(name, "")) for name in ("mixcore", "torch")]
        numbers = f"{row.seed}", f"{row.value:.2f}", f"{row.epochs}", row.device, f"{row.processes}"
        yield _row([row.experiment, *numbers, f"{row.seconds['wall'] / 3600:.2f}", *versions, _commit(row)])
    commands = dict.fromkeys(row.command for row in rows if row.command)
    yield from ("", "```", *commands, "```", "")


def _commit(row: Evidence) -> str:
    told = row.git or {}
    return f"{str(told.get('commit', ''))[:10]}{' and changes' if told.get('modified') else ''}"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |"


def _predictors(tried: Sequence[tuple[Claim, Standing]]) -> list[str]:
    """Of claims that are the largest over all predictors of a run: what each predictor gives."""
    own = [(claim, standing) for claim, standing in tried if claim.over_predictors]
    if not own:
        return []
    lines = [
        f"- {claim.id}: {', '.join(f'{name} {value:.2f}' for name, value in standing.predictors.items())}; "
        f"the largest of each run, on average: {standing.mean:.2f}"
        for claim, standing in own
    ]
    return ["## Predictors", "", "These claims are of the best network and head of a run.", "", *lines, ""]


def _notes(claims: Claims, tried: Sequence[tuple[Claim, Standing]]) -> list[str]:
    lines = [f"- {claim.id}: {claim.note}" for claim, _ in tried if claim.note]
    for claim, _ in tried:
        lines += [f"- {claim.id}: {other.document} prints {other.value:.2f}" for other in claims.conflicting(claim)]
    return ["## Notes", "", *lines, ""] if lines else []
