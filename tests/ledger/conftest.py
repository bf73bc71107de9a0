"""Rows of evidence and what they are compared with, made of the digits."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mixcore.ledger.claims import Claim
from mixcore.ledger.evidence import Evidence
from mixcore.run.resolve import Loaded, determining, digest_of, load_config

CONFIG = """
[data]
name = "digits"
batch_size = 64
[backbone]
name = "resnet10t"
[schedule]
epochs = 200
warmup_epochs = 5
[eval]
protocol = "median-last-10"
"""


@pytest.fixture(scope="session")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Loaded]:
    """`experiment("optimizer.lr=0.2")`: 200 epochs on digits, with overrides."""
    path = tmp_path_factory.mktemp("experiment") / "plain.toml"
    path.write_text(CONFIG)
    return functools.cache(lambda *overrides: load_config(path, overrides))


@pytest.fixture
def claim() -> Claim:
    """78.52 % for that experiment."""
    return Claim(
        id="digits.net.plain.ep200",
        experiment="digits.net.plain.ep200",
        document="A page",
        table="t",
        title="A table",
        benchmark="digits",
        dataset="Digits",
        backbone="net",
        method="plain",
        label="Plain",
        value=78.52,
        protocol="median-last-10",
        epochs=200,
        training=1437,
        validation=360,
    )


@pytest.fixture
def make_row(experiment: Callable[..., Loaded]) -> Callable[..., Evidence]:
    """`make_row("train.precision='bf16'", seed=1, value=78.4)`: the evidence of a run of the experiment."""

    def make(*overrides: str, seed: int = 0, value: float = 78.5, **changed: Any) -> Evidence:
        loaded = experiment(f"seed={seed}", *overrides)
        row: dict[str, Any] = {
            "experiment": "digits.net.plain.ep200",
            "experiment_digest": loaded.experiment,
            "run_digest": loaded.digest,
            "configuration": determining(loaded.resolved, loaded.places | {("seed",)}),
            "seed": seed,
            "protocol": loaded.config.eval.protocol,
            "metric": "top1",
            "value": value,
            "values": {"model": value},
            "epochs": loaded.config.schedule.epochs,
            "command": "mixcore reproduce digits.net.plain.ep200",
            "git": None,
            "versions": {"mixcore": "0.1.0"},
            "device": "x86_64",
            "processes": 1,
            "seconds": {"wall": 12.5},
            "data": {"training": {"samples": 1437, "hash": "a"}, "validation": {"samples": 360, "hash": "b"}},
        }
        assert digest_of(row["configuration"]) == loaded.experiment
        return Evidence(**(row | changed))

    return make


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "evidence"
