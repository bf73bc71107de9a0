"""The published numbers: all there, as printed, findable."""

from __future__ import annotations

import sys
import tomllib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import attrs
import pytest

from mixcore.errors import BrokenPluginError, ConfigError
from mixcore.ledger.claims import Claims, load_claims

ROOT = Path(__file__).resolve().parents[2]
OWN = ROOT / "mixcore_plugins_builtin/benchmarks/claims.toml"
PAGE = ROOT.parent / "shared/recipes/claims.toml"
COUNTS = {
    "cifar100-1": 56,
    "cifar100-2": 70,
    "tiny-imagenet-1": 22,
    "imagenet-pytorch-ep100": 56,
    "imagenet-pytorch-ep300": 41,
    "imagenet-rsb": 63,
    "imagenet-deit": 71,
    "automix-paper-page": 12,
}


@pytest.fixture(scope="module")
def claims() -> Claims:
    return load_claims()


def test_every_table_has_as_many_numbers_as_it_prints(claims: Claims) -> None:
    assert Counter(claim.table for claim in claims) == COUNTS
    stated = {table["name"]: table["count"] for table in tomllib.loads(OWN.read_text())["table"]}
    assert stated == COUNTS
    assert len(claims.all) == len({claim.id for claim in claims}) == 391


@pytest.mark.skipif(not PAGE.exists(), reason="the page of claims lies beside a checkout only, in ../shared")
def test_every_claim_says_what_the_page_says(claims: Claims) -> None:
    page = tomllib.loads(PAGE.read_text())
    said = {claim["id"]: claim for claim in page["claim"]}
    assert [claim.id for claim in claims] == list(said)
    marks = {"official": "official_reproduction", "preprint": "preprint_reimplementation"}
    for claim in claims:
        expected = {key: value for key, value in said[claim.id].items() if key != "source"}
        assert claim.readers == (("parquet",) if claim.benchmark in ("cifar10", "cifar100") else ())
        own = {key: value for key, value in attrs.asdict(claim).items() if key in expected}
        own |= {flag: True for mark, flag in marks.items() if claim.mark == mark}
        assert own == expected
        assert claim.epochs_inferred == said[claim.id].get("epochs_inferred", False)
        assert (claim.alpha, claim.trials) == (said[claim.id].get("alpha"), said[claim.id].get("trials"))
    conflicts = [tuple(conflict["ids"]) for conflict in page["conflict"]]
    assert list(claims.conflicts) == conflicts
    documents = {claim.document: said[claim.id]["source"] for claim in claims}
    assert len(documents) == len(set(documents.values())) == 4


def test_a_claim_says_where_it_stands_and_what_of(claims: Claims) -> None:
    claim = claims.find("imagenet-rsb-a3.resnet50.automix.ep100")
    assert claim.value == 78.44
    assert claim.source == (
        "OpenMixup, Mixup benchmarks, ImageNet-1k: timm RSB training, A3 (100 epochs) and A2 (300 epochs)"
    )
    assert (claim.protocol, claim.epochs, claim.dataset) == ("median-last-5", 100, "ImageNet-1k")
    assert claim.over_predictors
    assert not claims.find("imagenet-rsb-a3.resnet50.mixup.ep100").over_predictors
    assert (claim.training, claim.validation) == (1_281_167, 50_000)


def test_a_page_of_its_own_has_the_experiments_of_the_benchmark(claims: Claims) -> None:
    claim = claims.find("automix-paper.cifar100.wrn28_8.automix.ep400")
    assert claim.experiment == "cifar100.wrn28_8.automix.ep400"
    assert [other.value for other in claims.conflicting(claim)] == [85.18]
    assert claims.conflicting(claims.find("cifar100.resnet18.mixup.ep200")) == []
    unknown = claims.find("automix-paper.cifar10.resnext50_32x4d.automix")
    assert (unknown.epochs, unknown.epochs_inferred) == (None, False)


def test_an_unknown_claim_is_told_the_nearest(claims: Claims) -> None:
    with pytest.raises(
        ConfigError, match=r"no claim has the id 'cifar100.resnet18.mixupp.ep200'; the nearest: cifar100"
    ):
        claims.find("cifar100.resnet18.mixupp.ep200")
    with pytest.raises(ConfigError, match=r"no claim has the id 'zzz'; `mixcore claims` lists"):
        claims.find("zzz")


def test_claims_are_selected_by_any_spelling(claims: Claims) -> None:
    assert len(claims.select({})) == 391
    assert len(claims.select({"dataset": "cifar100"})) == 128
    assert len(claims.select({"dataset": "CIFAR-100", "method": "AttentiveMix+"})) == 9
    assert claims.select({"method": "attentivemix"}) == claims.select({"method": "AttentiveMix+"})
    assert claims.select({"benchmark": "cifar10", "backbone": "resnet18"}) == []
    with pytest.raises(ConfigError, match=r'method \'cutmx\'; did you mean "cutmix"\? There are: alignmix, '):
        claims.select({"method": "cutmx"})


CLAIMS = """
[benchmarks]
tiny = { dataset = "Tiny" }
[[table]]
name = "t"
document = "A page"
title = "A table"
protocol = "last"
claims = [%s]
"""


def test_anyone_may_ship_claims(install: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _ship(install, tmp_path, monkeypatch, CLAIMS % '{ id = "tiny.net.mixup.ep2", label = "Mixup", value = 90.5 }')
    claims = load_claims()
    assert len(claims.all) == 392
    assert claims.find("tiny.net.mixup.ep2").value == 90.5
    assert claims.find("tiny.net.mixup.ep2").dataset == "Tiny"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[table", "its claims.toml cannot be read"),
        (
            CLAIMS % '{ id = "tiny.net.mixup.ep2", label = "Mixup", value = "high" }',
            r"claim 'tiny.net.mixup.ep2' .*value",
        ),
        (CLAIMS % '{ id = "tiny.net.mixup.ep2", label = "Mixup", value = 9.0, vale = 1 }', r"unexpected .*'vale'"),
        (
            CLAIMS % '{ id = "other.net.mixup.ep2", label = "Mixup", value = 9.0 }',
            r"claim 'other.net.mixup.ep2'.*other",
        ),
        (CLAIMS % '{ id = "tiny.net", label = "Mixup", value = 9.0 }', r"claim 'tiny.net' of table 't'"),
    ],
)
def test_a_broken_package_is_named(
    install: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, message: str
) -> None:
    _ship(install, tmp_path, monkeypatch, text)
    with pytest.raises(BrokenPluginError, match=rf"tiny_numbers \(tiny-numbers 1.0\).*{message}"):
        load_claims()


def test_two_claims_of_one_id_are_refused(
    install: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = '{ id = "tiny.net.mixup.ep2", label = "Mixup", value = 9.0 }'
    _ship(install, tmp_path, monkeypatch, CLAIMS % f"{own}, {own}")
    with pytest.raises(ConfigError, match=r"two claims have the id tiny.net.mixup.ep2"):
        load_claims()


def _ship(install: Callable[..., None], folder: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    package = folder / "site" / "tiny_numbers"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "claims.toml").write_text(text)
    monkeypatch.syspath_prepend(str(package.parent))
    monkeypatch.delitem(sys.modules, "tiny_numbers", raising=False)
    install({"tiny_numbers": "tiny_numbers"}, distribution="tiny-numbers", group="mixcore.benchmarks")
