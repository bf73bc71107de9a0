"""Every published setting is a configuration: it agrees with its claim, it is structured, and it takes a step."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import timm
import tomli
import torch
from PIL import Image

from mixcore.config.layers import Layer
from mixcore.discovery.manager import register_selection
from mixcore.entry_points import entries_in
from mixcore.ledger.benchmarks import Experiment, benchmark, benchmarks, experiment
from mixcore.ledger.claims import Claim, load_claims
from mixcore.ledger.named import find_configuration
from mixcore.run.resolve import Loaded, load_layers
from mixcore.run.trial import try_run

SHARED = Path(__file__).resolve().parents[3] / "shared/recipes/claims.toml"
BENCHMARKS = (
    *("cifar10", "cifar100", "cifar100-vit", "tiny-imagenet", "imagenet-pytorch", "imagenet-rsb-a2", "imagenet-rsb-a3"),
    *("imagenet-deit", "cub200", "aircraft", "cars", "inat2017", "inat2018", "places205"),
)
CLASSES = {"cifar10": 10, "cub200": 200, "cars": 196, "tiny-imagenet": 200, "inat2017": 5089, "inat2018": 8142}
CLASSES |= {"places205": 205} | {name: 1000 for name in BENCHMARKS if name.startswith("imagenet")}
BUILT_FROM_LISTS = set(BENCHMARKS) - {"cifar10", "cifar100", "cifar100-vit"}


@pytest.fixture(autouse=True)
def _read_metadata_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is installed between two configurations."""
    once = cache(entries_in)
    for module in ("mixcore.discovery.catalogue", "mixcore.ledger.benchmarks"):
        monkeypatch.setattr(f"{module}.entries_in", once)


# ------------------------------------------------------------------------------------------------ claims


def alphas_of(tree: Mapping[str, Any]) -> float | list[float] | None:
    """Beta parameters of an experiment's mixers: one, a list of a switched pair, None where there is none."""
    tables = tree.get("mix", [])
    if not isinstance(tables, list):
        tables = [tables]
    found = [
        table[key]
        for table in tables
        for key in ("alpha", "mixup_alpha")
        if key in table and table["name"] != "smoothmix"
    ]
    return found[0] if len(found) == 1 else found or None


def agrees(claim: Claim) -> bool:
    """Whether the experiment has the alpha of the claim."""
    printed = claim.alpha if claim.alpha_override is None else claim.alpha_override
    found = alphas_of(experiment(claim.experiment).tree)
    if claim.method == "smoothmix" or printed is None:
        return True  # SmoothMix draws no lam: its printed alpha has no effect; of the others the recipe decides
    if claim.method == "tokenmix":
        return isinstance(printed, Sequence) and found == printed[0]  # the second is CutMix's, which it does not draw
    return found == printed


def test_the_experiment_of_every_claim_has_its_alpha_epochs_and_protocol() -> None:
    claims = list(load_claims())
    assert len(claims) == 391
    wrong = [claim.id for claim in claims if not agrees(claim)]
    for claim in claims:
        found = experiment(claim.experiment)
        tree = found.tree
        wrong += [claim.id] * (claim.epochs not in (None, found.epochs) or tree["schedule"]["epochs"] != found.epochs)
        wrong += [claim.id] * (claim.protocol not in ("claimed", tree["eval"]["protocol"]))
    assert wrong == []


@pytest.mark.skipif(not SHARED.exists(), reason="the seed documents' claims are not here")
def test_the_packages_claims_are_those_of_the_documents() -> None:
    printed = tomli.loads(SHARED.read_text())["claim"]
    shipped = {claim.id: claim for claim in load_claims()}
    keys = ("benchmark", "backbone", "method", "epochs", "alpha", "alpha_override", "protocol", "value")
    for row in printed:
        claim = shipped[row["id"]]
        assert {key: getattr(claim, key) for key in keys} == {key: row.get(key) for key in keys}, row["id"]


def test_a_printed_alpha_that_is_not_followed_is_found() -> None:
    """The comparison above would see it: of two claims of one method one has another alpha."""
    claims = {claim.id: claim for claim in load_claims()}
    of_r18, of_r50 = (claims[f"imagenet-pytorch.{backbone}.cutmix.ep100"] for backbone in ("resnet18", "resnet50"))
    assert (alphas_of(experiment(of_r18.experiment).tree), of_r18.alpha, of_r18.alpha_override) == (0.2, 1.0, 0.2)
    assert (alphas_of(experiment(of_r50.experiment).tree), of_r50.alpha, of_r50.alpha_override) == (1.0, 1.0, None)


# ------------------------------------------------------------------------------------------------ structure


def distinct(name: str) -> Iterator[Experiment]:
    """The experiments of a benchmark but those that differ from another one in epochs and protocol alone."""
    seen = set()
    for found in benchmark(name).experiments():
        tree = found.tree
        text = json.dumps({**tree, "schedule": {**tree["schedule"], "epochs": 0}, "eval": {}}, sort_keys=True)
        if text not in seen:
            seen.add(text)
            yield found


def checked(found: Experiment) -> Loaded:
    return load_layers([*found.layers, Layer({}, {}, "--set")], Path(found.id), found.id)


def test_all_benchmarks_are_there() -> None:
    assert set(BENCHMARKS) <= set(benchmarks())


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_experiment_is_a_configuration_without_fault(name: str) -> None:
    for found in distinct(name):
        loaded = checked(found)
        assert loaded.config.run.dir == f"runs/{found.id}"


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_backbones_file_mixes_nothing(name: str) -> None:
    found = benchmark(name)
    for backbone in found.backbones:
        assert "mix" not in found.compose(backbone, "vanilla", found.about.epochs[0]).tree


# ------------------------------------------------------------------------------------------------ a step


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight random images under a name for every class, and a list of them for each benchmark."""
    folder = tmp_path_factory.mktemp("images")
    generator = torch.Generator().manual_seed(0)
    for index in range(8):
        pixels = torch.randint(256, (72, 90, 3), generator=generator, dtype=torch.uint8)
        Image.fromarray(pixels.numpy()).save(folder / f"{index}.jpg")
    for label in range(8, max(CLASSES.values())):
        os.link(folder / f"{label % 8}.jpg", folder / f"{label}.jpg")
    for name in BUILT_FROM_LISTS:
        lines = (f"{label}.jpg {label}\n" for label in range(CLASSES.get(name, 100)))
        (folder / f"{name}.txt").write_text("".join(lines))
    return folder


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of random weights in place of published ones, made when they are first needed."""
    return tmp_path_factory.mktemp("weights")


def random_weights(folder: Path, model: str) -> Path:
    path = folder / f"{model}.pt"
    if not path.exists():
        torch.save(timm.create_model(model).state_dict(), path)
    return path


def going_round(found: Experiment, images: Path, weights: Path) -> list[str]:
    """Overrides for what is not here: data, published weights, half precision of a GPU."""
    tree = found.tree
    data = tree["data"]
    told = ["train.precision=fp32", "data.workers=0", "data.batch_size=4", "run.device=cpu"]
    if found.benchmark in BUILT_FROM_LISTS:
        told += [f"data.root={images}", "data.check_counts=false"]
        for split in ("train", "validation"):
            told += [f"data.{split}_list={found.benchmark}.txt", f"data.{split}_images={images}"]
    else:
        told += ["data.name=fake", f"data.size={data.get('size', 32)}", "data.train_images=8"]
        told += ["data.validation_images=8", f"data.num_classes={CLASSES.get(found.benchmark, 100)}"]
        told += ["data.crop_padding=4", f"data.padding_mode={data.get('padding_mode', 'reflect')}"]
    if tree["backbone"].get("pretrained"):
        told += ["backbone.pretrained=false"]
    for path in teachers(tree):
        teacher = "resnet18" if path == "labels.saliency" else path_value(tree, path)["teacher"].partition(".")[0]
        told += [f"{path}.teacher={teacher}", f"{path}.weights={random_weights(weights, teacher)}"]
    return told


def path_value(tree: Any, path: str) -> Any:
    for key in path.split("."):
        tree = tree[key]
    return tree


def teachers(value: Any, path: str = "") -> Iterator[str]:
    """Where a table names a teacher, such as `mix.saliency`."""
    if isinstance(value, dict):
        if "teacher" in value:
            yield path
        for key, inside in value.items():
            yield from teachers(inside, f"{path}.{key}".lstrip("."))


def takes_a_step(name: str, images: Path, weights: Path) -> None:
    found = experiment(name)
    loaded = find_configuration(found.id, going_round(found, images, weights)).load()
    session = try_run(loaded.config, register_selection(loaded.selection))
    assert session.state.epochs == found.epochs


@pytest.mark.parametrize(
    "name",
    [
        "cifar10.resnet18.resizemix.ep200",
        "cifar100.resnet18.puzzlemix.ep200",
        "cifar100-vit.convnext_tiny.mixup.ep200",
        "tiny-imagenet.resnet18.cutmix.ep400",
        "imagenet-pytorch.resnet18.manifoldmix.ep100",
        "imagenet-rsb-a2.mobilenetv2_1x.mixup.ep300",
        "imagenet-rsb-a3.mobilenetv2_1x.rsb.ep100",
        "imagenet-deit.deit_tiny.transmix.ep300",
        "cub200.resnet18.alignmix.ep200",
        "aircraft.resnet18.saliencymix.ep200",
        "cars.resnet18.fmix.ep200",
        "inat2017.resnet18.mixup.ep100",
        "inat2018.resnet50.cutmix.ep100",
        "places205.resnet18.vanilla.ep100",
    ],
)
def test_an_experiment_takes_a_step(name: str, images: Path, weights: Path) -> None:
    takes_a_step(name, images, weights)


LARGER = [
    "cifar100-vit.deit_small.attentivemix.ep200",
    "cifar100-vit.swin_tiny.automix.ep600",
    "cifar100-vit.convnext_tiny.samix.ep600",
    "cifar100-vit.swin_tiny.adautomix.ep200",
    "imagenet-pytorch.resnet50.adautomix.ep100",
    "tiny-imagenet.resnet18.adautomix.ep400",
    "imagenet-rsb-a2.resnet50.samix.ep300",
]


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGER)
def test_an_experiment_of_a_larger_network_takes_a_step(name: str, images: Path, weights: Path) -> None:
    takes_a_step(name, images, weights)


@pytest.mark.slow
@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_claimed_experiment_takes_a_step(name: str, images: Path, weights: Path) -> None:
    claimed = {experiment(claim.experiment).id for claim in load_claims() if claim.benchmark == name}
    for found in distinct(name):
        if re.sub(r"\.ep\d+$", "", found.id) in {re.sub(r"\.ep\d+$", "", each) for each in claimed}:
            takes_a_step(found.id, images, weights)
