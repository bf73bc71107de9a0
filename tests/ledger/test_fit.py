"""What is evidence of a claim, and what is refused with what differs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import pytest

from mixcore.ledger.claims import Claim
from mixcore.ledger.evidence import Evidence
from mixcore.ledger.fit import fit
from mixcore.run.resolve import Loaded, digest_of

Rows = Callable[..., Evidence]
Experiments = Callable[..., Loaded]


@pytest.mark.parametrize("seed", [0, 7])
def test_a_run_of_the_experiment_fits_whatever_its_seed(
    make_row: Rows, experiment: Experiments, claim: Claim, seed: int
) -> None:
    found = fit(make_row(seed=seed), claim, experiment())
    assert (found.refused, found.remarks, found.epochs) == ((), (), 200)


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("optimizer.lr=0.2", "optimizer.lr is 0.2 there and 0.1 now"),
        ("mix.name=mixup", 'mix.name is "mixup" there and "none" now'),
        ("data.batch_size=32", "data.batch_size is 32 there and 64 now"),
        ("schedule.epochs=400", "schedule.epochs is 400 there and 200 now"),
        ("schedule.warmup_epochs=2", "schedule.warmup_epochs is 2 there and 5 now"),
        ("data.crop_padding=1", "data.crop_padding is 1 there and "),
    ],
)
def test_another_experiment_is_refused_with_what_differs(
    make_row: Rows, experiment: Experiments, claim: Claim, override: str, line: str
) -> None:
    refused = fit(make_row(override), claim, experiment()).refused
    assert any(found.startswith(line) for found in refused), refused


def test_a_shorter_run_fits(make_row: Rows, experiment: Experiments, claim: Claim) -> None:
    row = make_row("schedule.epochs=20", "schedule.warmup_epochs=1")
    assert row.epochs == 20
    assert fit(row, claim, experiment()).refused == ()


def test_number_formats_are_remarked_and_no_more(make_row: Rows, experiment: Experiments, claim: Claim) -> None:
    row = make_row("train.precision='bf16'", "train.channels_last=true", "train.matmul='high'")
    found = fit(row, claim, experiment())
    assert found.refused == ()
    assert found.remarks == ("channels_last true", "matmul high", "precision bf16")


def test_another_reader_of_the_same_data_fits(make_row: Rows, experiment: Experiments, claim: Claim) -> None:
    wanted = experiment("data.name=cifar100")
    refused = fit(make_row("data.name=parquet"), claim, wanted).refused
    assert 'data.name is "parquet" there and "cifar100" now' in refused
    claim = attrs.evolve(claim, readers=["parquet"])
    reader = ("data.name=parquet", "data.mean=[0.4914, 0.4822, 0.4465]", "data.std=[0.2023, 0.1994, 0.201]")
    row = make_row(*reader)
    assert row.configuration["data"].keys() != wanted.resolved["data"].keys()
    assert fit(row, claim, wanted).remarks == ("data read by parquet",)
    assert fit(row, claim, wanted).refused == ()
    cropped = make_row(*reader, "data.crop_padding=2")
    assert fit(cropped, claim, wanted).refused == ("data.crop_padding is 2 there and 4 now",)


def test_an_option_that_came_after_the_run_has_its_default(
    make_row: Rows, experiment: Experiments, claim: Claim
) -> None:
    row = make_row()
    before = {**row.configuration, "loss": {"name": "soft_cross_entropy"}}
    old = _of_configuration(row, before)
    assert fit(old, claim, experiment()).refused == ()
    refused = fit(old, claim, experiment("loss.name=soft_cross_entropy", "loss.smoothing=0.1")).refused
    assert refused == ("loss.smoothing is 0.0 there and 0.1 now",)
    gone = _of_configuration(row, {**row.configuration, "loss": {"name": "of_a_plugin_that_is_gone"}})
    assert fit(gone, claim, experiment()).refused[0].startswith('loss.name is "of_a_plugin_that_is_gone" there')


@pytest.mark.parametrize(
    "odd",
    [
        {"mix": 3},
        {"mix": [3, {}]},
        {"data": []},
        {"data": {"name": None}},
        {"train": {"precision": {"deep": [{"er": 1}]}}},
        {"eval": "best"},
        {"": {"": 0}},
        {"optimizer": {"lr": "much"}, "backbone": {"name": "../x"}},
    ],
)
def test_a_row_of_whatever_configuration_is_refused_in_words(
    make_row: Rows, experiment: Experiments, claim: Claim, odd: dict[str, Any]
) -> None:
    row = make_row()
    refused = fit(_of_configuration(row, {**row.configuration, **odd}), claim, experiment()).refused
    assert refused
    assert all(line.startswith(tuple(odd)) for line in refused)


def _of_configuration(row: Evidence, configuration: dict[str, Any]) -> Evidence:
    digests = digest_of(configuration), digest_of({**configuration, "seed": row.seed})
    return attrs.evolve(row, configuration=configuration, experiment_digest=digests[0], run_digest=digests[1])


def test_data_of_another_size_is_refused(make_row: Rows, experiment: Experiments, claim: Claim) -> None:
    half = {"training": {"samples": 700, "hash": "a"}, "validation": {"samples": 360, "hash": "b"}}
    refused = fit(make_row(data=half), claim, experiment()).refused
    assert refused == ("the training set has 700 samples there, Digits has 1437",)
    assert fit(make_row(data=half), attrs.evolve(claim, training=None), experiment()).refused == ()


def test_another_protocol_or_metric_is_refused(make_row: Rows, experiment: Experiments, claim: Claim) -> None:
    other = attrs.evolve(claim, protocol="best")
    refused = fit(make_row(metric="mae"), other, experiment()).refused
    assert refused == (
        "the protocol is median-last-10 there and best of the claim",
        "the metric is mae there and top1 of the claim",
    )
    assert fit(make_row(), attrs.evolve(claim, protocol="claimed"), experiment()).refused == ()
