"""docs/writing_a_plugin.md: its plugins keep the contract, its test classes run, its links and commands are real."""

from __future__ import annotations

import itertools
import re
import sys
import tomllib
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
import torch
from PIL import Image

import mixcore
from mixcore.cli.main import VERBS
from mixcore.config.structure import structure
from mixcore.data.loader import build_train_loader
from mixcore.networks.network import Network, capabilities
from mixcore.step.step import TrainingStep
from mixcore.testing import (
    Harness,
    NotApplicableError,
    PluginContract,
    Subject,
    checks_of,
    tiny_network,
)
from mixcore.testing.readme import code_blocks
from mixcore.types import Batch
from mixcore_plugins_builtin.data.image_folder import ImageFolder

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGE = DOCS / "writing_a_plugin.md"
BLOCKS = code_blocks(PAGE)
MODULE = "page_writing_a_plugin"


@pytest.fixture(scope="module")
def page() -> Iterator[types.ModuleType]:
    """Everything that the page's blocks define, as one module: its classes can be pickled."""
    module = types.ModuleType(MODULE)
    sys.modules[MODULE] = module
    for number, block in enumerate(BLOCKS):
        exec(compile(block, f"docs/writing_a_plugin.md, block {number}", "exec"), vars(module))
    yield module
    del sys.modules[MODULE]


CASES = [
    ("Halves", {}),
    ("Fade", {}),
    ("Fade", {"keep": "more", "alpha": 0.3}),
    ("Quarter", {}),
    ("Sharpened", {}),
    ("Even", {}),
    ("Even", {"share": {"low": 0.2, "high": 0.3}}),
    ("SalientHalf", {}),
    ("SalientHalf", {"saliency": "feature"}),
    ("SalientHalf", {"saliency": "attention"}),
    ("Edges", {}),
    ("LearntMask", {}),
    ("JudgedShare", {}),
    ("Glare", {}),
    ("OntoBackground", {}),
]


@pytest.mark.parametrize(("name", "options"), CASES, ids=[f"{name}-{options}" for name, options in CASES])
def test_a_plugin_of_the_page_keeps_the_contract(page: types.ModuleType, name: str, options: Any) -> None:
    subject = Subject(plugin=getattr(page, name), options=options)
    passed = 0
    for check in (checks := checks_of(Harness(subject).role)):
        if check == "two_processes":
            continue
        try:
            checks[check](Harness(subject))
            passed += 1
        except NotApplicableError:
            pass
    assert passed > 10


def test_every_plugin_of_the_page_is_tested(page: types.ModuleType) -> None:
    own = {name: found for name, found in vars(page).items() if attrs.has(found) and found.__module__ == MODULE}
    plugins = {name for name, found in own.items() if hasattr(found, "role")}
    assert own.keys() - plugins == {"Between"}, "the one table that an option is"
    assert plugins == {name for name, _ in CASES}


def test_the_smallest_useful_mixer_fits_in_30_lines() -> None:
    (smallest,) = [block for block in BLOCKS if "class Halves" in block]
    assert len(smallest.splitlines()) <= 30


def test_fade_keeps_more_than_half_when_told(page: types.ModuleType) -> None:
    mixer = mixcore.create_mixer(page.Fade(keep="more"), num_classes=5)
    mix = mixer(torch.randn(16, 3, 4, 4), torch.zeros(16, dtype=torch.int64))
    assert mix.lam.min() >= 0.5
    assert mix.lam.unique().numel() > 4


def test_an_option_that_is_a_table_is_read_and_checked(page: types.ModuleType) -> None:
    (toml,) = [text for text in re.findall(r"```toml\n(.*?)```", PAGE.read_text(), re.S) if "even" in text]
    table = tomllib.loads(toml)["mix"]
    assert table.pop("name") == "even"
    plugin, faults = structure(page.Even, table)
    assert not faults
    mix = mixcore.create_mixer(plugin, num_classes=5)(torch.randn(4, 3, 4, 4), torch.arange(4))
    assert 0.4 <= mix.lam[0] <= 0.6
    _, faults = structure(page.Even, {"share": {"low": 2.0, "hihg": 0.5}}, ("mix",))
    assert [fault.path for fault in faults] == [("mix", "share", "hihg"), ("mix", "share", "low")]


def test_a_mixer_of_the_page_keeps_the_objects_that_its_folder_of_maps_shows(
    page: types.ModuleType, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    for split, name, number in itertools.product(("train", "val"), ("jay", "wren"), range(3)):
        for kind in (tmp_path / "data/birds" / split / name, tmp_path / "data/birds-objects" / name):
            kind.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)).save(
            tmp_path / "data/birds" / split / name / f"{number}.bmp"
        )
        whole = np.zeros((12, 16), np.uint8)
        whole[:, : 2 * number + 6] = 255
        Image.fromarray(whole).save(tmp_path / "data/birds-objects" / name / f"{number}.png")
    (toml,) = [text for text in re.findall(r"```toml\n(.*?)```", PAGE.read_text(), re.S) if "map_folders" in text]
    table = {key: value for key, value in tomllib.loads(toml)["data"].items() if key != "name"}
    table |= {"size": 8, "root": str(tmp_path / table["root"])}
    table["map_folders"] = {name: str(tmp_path / folder) for name, folder in table["map_folders"].items()}
    data = ImageFolder(**table).build_data()
    settings = {"batch_size": 6, "workers": 0, "drop_last": True, "seed": 0, "rank": 0, "world": 1}
    device = {"device": torch.device("cpu"), "channels_last": False}
    batch = next(iter(build_train_loader(data, **settings, **device, maps=("objects",)).epoch(0)))
    mix = mixcore.create_mixer(page.OntoBackground(), num_classes=2)(*batch, maps=batch.maps)
    kept = batch.maps["objects"] == 1
    assert 0.1 < kept.float().mean() < 0.9
    assert torch.equal(mix.images, torch.where(kept, batch.images, batch.images[mix.partner]))
    torch.testing.assert_close(mix.lam, batch.maps["objects"].mean((1, 2, 3)))


def test_a_policy_of_the_page_goes_with_a_mixer_of_the_page(page: types.ModuleType) -> None:
    step = mixcore.create_step(
        tiny_network((), 5, (8, 8), 3),
        mix=page.Quarter(),
        labels=page.Sharpened(power=2.0),
        num_classes=5,
        iterations=1,
        image_size=(8, 8),
    )
    mix, targets = step.mix_batch(Batch(images=torch.randn(4, 3, 8, 8), labels=torch.arange(4)), mixer=0)
    assert mix.lam.tolist() == [0.75] * 4
    torch.testing.assert_close(targets.weights, torch.tensor([[0.9, 0.1]]).expand(4, 2))


def test_the_test_classes_of_the_page_run(page: types.ModuleType) -> None:
    classes = [found for found in vars(page).values() if isinstance(found, type) and issubclass(found, PluginContract)]
    own = [cls for cls in classes if cls.__module__ == MODULE]
    assert [cls.role for cls in own] == ["mix", "mix", "labels"]
    for cls in own:
        cls.plugin = {"halves": page.Halves, "sharpened": page.Sharpened}[cls.plugin]
        for check in {"mix": ("batch_sizes", "masks_are_shares"), "labels": ("label_weights",)}[cls.role]:
            cls().test_contract(check)


def learnt_step(mixer: object) -> TrainingStep:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = tiny_network((), 5, (8, 8), 3)
        return mixcore.create_step(model, mix=mixer, num_classes=5, iterations=9, image_size=(8, 8))


def a_batch() -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(1)
    return torch.randn(6, 3, 8, 8, generator=rng), torch.arange(6) % 5


def test_the_network_s_loss_trains_the_learnt_mask(page: types.ModuleType) -> None:
    step = learnt_step(page.LearntMask(half=0.0))
    convolution = step.parts["learntmask"]["mask"]
    loss, report = step(*a_batch())
    (expected,) = torch.autograd.grad(loss, [convolution.weight], retain_graph=True)
    loss.backward()
    assert convolution.weight.grad.abs().max() > 1e-6
    torch.testing.assert_close(convolution.weight.grad, expected)
    assert report.mix.images.requires_grad
    assert not any(value.requires_grad for value in (report.loss, report.lam, report.targets.weights))


def test_the_judge_learns_by_its_settled_loss_alone(page: types.ModuleType) -> None:
    step = learnt_step(page.JudgedShare())
    judge = step.parts["judgedshare"]["judge"]
    images, labels = a_batch()
    loss, report = step(images, labels)
    assert not report.mix.images.requires_grad
    (told,) = report.mix.losses.values()
    (from_scalar,) = torch.autograd.grad(told, [judge.weight], retain_graph=True)
    loss.backward()
    assert judge.weight.grad.abs().max() > 0
    assert torch.equal(judge.weight.grad, from_scalar)


def attending_network(page: types.ModuleType) -> torch.nn.Module:
    """Patches of 4 pixels behind a class token, two of the page's own blocks, and a head."""

    class Attending(torch.nn.Module):
        num_prefix_tokens = 1

        def __init__(self) -> None:
            super().__init__()
            self.patches = torch.nn.Conv2d(3, 8, 4, 4)
            self.cls_token = torch.nn.Parameter(torch.randn(1, 1, 8))
            self.blocks = torch.nn.Sequential(page.Attend(8, 2), page.Attend(8, 2))
            self.fc = torch.nn.Linear(8, 5)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            patches = self.patches(images).flatten(2).transpose(1, 2)
            tokens = torch.cat((self.cls_token.expand(images.shape[0], -1, -1), patches), 1)
            return self.fc(self.blocks(tokens)[:, 0])

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Attending()


@pytest.fixture
def attend_reader(page: types.ModuleType, install: Callable[..., None]) -> None:
    """The page's reader, installed by the entry point that the page shows."""
    (toml,) = [text for text in re.findall(r"```toml\n(.*?)```", PAGE.read_text(), re.S) if "AttendTap" in text]
    ((group, entries),) = tomllib.loads(toml)["project"]["entry-points"].items()
    ((name, value),) = entries.items()
    install({name: f"{MODULE}:{value.partition(':')[2]}"}, distribution="my-networks", group=group)


def test_the_attention_of_the_page_is_the_network_s(page: types.ModuleType, attend_reader: None) -> None:
    model, (images, _) = attending_network(page), a_batch()
    given: list[torch.Tensor] = []
    for block in model.blocks:
        block.register_forward_pre_hook(lambda _module, arguments: given.append(arguments[0].detach()))
    caught = Network(model, attention=True).forward(images, attention=True).attention
    assert len(caught) == 2
    for block, tokens, attention in zip(model.blocks, given, caught, strict=True):
        heads = []
        for head in (slice(0, 4), slice(4, 8)):
            scores = block.queries(tokens)[..., head] @ block.keys(tokens)[..., head].transpose(1, 2)
            heads.append((scores / 2).softmax(2).detach())
        torch.testing.assert_close(attention.row(), torch.stack(heads).mean(0)[:, 0, 1:])
    assert capabilities(model) == {"attention"}


def test_methods_that_read_attention_take_the_network_of_the_page(page: types.ModuleType, attend_reader: None) -> None:
    mixer = page.SalientHalf(saliency="attention")
    step = mixcore.create_step(attending_network(page), mix=mixer, num_classes=5, iterations=9, image_size=(8, 8))
    loss, _ = step(*a_batch())
    assert loss.isfinite()


def test_links_lead_to_headings_and_files() -> None:
    def slug(heading: str) -> str:
        return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")

    headings = {slug(line) for line in re.findall(r"^## (.*)$", (DOCS / "hooks.md").read_text(), re.M)}
    links = re.findall(r"\]\(([^)#]*)(?:#([^)]*))?\)", PAGE.read_text())
    assert len(links) > 10
    for file, anchor in links:
        assert (DOCS / file).is_file()
        assert not anchor or anchor in headings, anchor


def test_commands_and_declarations_of_the_page_exist() -> None:
    text = PAGE.read_text()
    assert set(re.findall(r"mixcore (new|check|run|show|plugins)\b", text)) <= set(VERBS)
    (table,) = re.findall(r"\| field \| declare it where \|\n(.*?)\n\n", text, re.S)
    told = set(re.findall(r"`(\w+)[^`]*`", " ".join(line.split("|")[1] for line in table.splitlines()[1:])))
    known = {field.name for field in attrs.fields(Subject)} - {"plugin", "options", "device"}
    assert told == known
