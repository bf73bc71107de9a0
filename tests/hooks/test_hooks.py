"""Each hook, through the example that docs/hooks.md gives for it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import attrs
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import mixcore
from mixcore.api import Mix, Part, RunJob, hookimpl
from mixcore.data.loader import build_train_loader
from mixcore.data.named import evaluation_sets
from mixcore.discovery.capabilities import check_run
from mixcore.discovery.manager import build_method_plugins, new_manager, register, register_alone
from mixcore.errors import ConfigError, HookError
from mixcore.hooks.calls import PluginCalls
from mixcore.hooks.results import check_numbers
from mixcore.logs.track import Bar
from mixcore.step.step import TrainingStep
from mixcore.step.trained import DIFFERENCES
from mixcore.testing import TinyConvNet, ToyRun
from mixcore.testing.fakes import Shown
from mixcore.types import Batch, Task

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "hooks.md").read_text()
TASK = Task(num_classes=3, in_channels=1, image_size=(8, 8), mean=(0.0,), std=(1.0,))


def examples(hook: str) -> SimpleNamespace:
    """What the example under the hook's heading defines."""
    (section,) = [part for part in re.split(r"^## ", PAGE, flags=re.M) if part.startswith(f"`{hook}(")]
    names: dict[str, Any] = {"__name__": f"example_{hook}"}
    for block in re.findall(r"```python\n(.*?)```", section, flags=re.S):
        exec(compile(block, f"docs/hooks.md, {hook}", "exec"), names)
    return SimpleNamespace(**names)


def network() -> nn.Module:
    torch.manual_seed(0)
    return examples("build_backbone").FlatNet().build_backbone(TASK)


def batch() -> Batch:
    rng = torch.Generator().manual_seed(1)
    return Batch(images=torch.rand(4, 1, 8, 8, generator=rng), labels=torch.tensor([0, 1, 2, 0]))


def step_with(**tables: Any) -> TrainingStep:
    return mixcore.create_step(
        network(), num_classes=3, iterations=10, in_channels=1, image_size=(8, 8), seed=3, **tables
    )


def test_hook_check(caplog: pytest.LogCaptureFixture) -> None:
    late = examples("check").Late
    step = step_with(mix=late(start=10))
    assert [record.getMessage() for record in caplog.records] == [
        "late: start = 10 is never reached in 10 iterations; nothing is mixed"
    ]
    caplog.clear()
    step = step_with(mix=late(start=9))
    assert not caplog.records
    assert torch.equal(step.mix_batch(batch(), mixer=0, iteration=8)[0].images, batch().images)
    assert not torch.equal(step.mix_batch(batch(), mixer=0, iteration=9)[0].images, batch().images)
    with pytest.raises(ConfigError, match="found 1 class"):
        check_run(build_method_plugins(mix=late()), attrs.evolve(TASK, num_classes=1), 2000)


@pytest.mark.parametrize("mix", ["resizemix", "cutmix"])
@pytest.mark.parametrize("labels", ["tokenmix_labels", "saliencygrafting_labels", "area", "weights"])
def test_a_run_says_that_a_map_of_a_moved_partner_is_read(mix, labels):
    weighing = {"name": labels, "saliency": "uniform"} if labels.endswith("_labels") else labels
    said = check_run(build_method_plugins(mix=mix, labels=weighing), TASK, 10)
    if mix == "resizemix" and labels.endswith("_labels"):
        (sentence,) = said
        assert re.match(rf"{labels}: resizemix moves or resizes the partner, .*\(weights, area\)", sentence)
    else:
        assert not said


@attrs.define(eq=False, kw_only=False)
class Checking:
    """An extra that says what it was made to say."""

    told: Any

    @hookimpl
    def check(self) -> Any:
        if isinstance(self.told, Exception):
            raise self.told
        return self.told


def test_what_all_plugins_refuse_is_told_together() -> None:
    refusals = [Checking(ConfigError("too short")), Checking(["fine"]), Checking(ConfigError("too long"))]
    with pytest.raises(ConfigError, match=r"(?s)too short.*too long"):
        step_with(extra=refusals)


@pytest.mark.parametrize("told", ["a sentence", 3, [1]])
def test_check_gives_sentences_or_nothing(told: object) -> None:
    with pytest.raises(HookError, match=r"check of .* returned .*sentences"):
        step_with(extra=[Checking(told)])


def test_a_sentence_that_several_say_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    step_with(extra=[Checking(["mind the gap"]), Checking(["mind the gap"])])
    assert len(caplog.records) == 1


def test_hook_build_data() -> None:
    manager, plugin = new_manager(), examples("build_data").Stripes(count=6)
    register(manager, plugin, "stripes", "stripes")
    data = PluginCalls(manager, plugin, "stripes", "stripes").build_data()
    loader = build_train_loader(
        data,
        batch_size=3,
        workers=0,
        drop_last=True,
        seed=0,
        rank=0,
        world=1,
        device=torch.device("cpu"),
        channels_last=False,
    )
    images, labels = next(iter(loader.epoch(0)))
    assert images.shape == (3, 1, 8, 8)
    assert labels.max() <= 1
    assert list(evaluation_sets(data)) == ["val", "dim"]
    assert data.task.class_names == ("lying", "standing")


def test_hook_build_backbone() -> None:
    model = network()
    step = mixcore.create_step(model, num_classes=3, iterations=10, in_channels=1)
    loss, report = step(*batch())
    expected = nn.functional.cross_entropy(model(batch().images), batch().labels)
    torch.testing.assert_close(loss, expected)
    assert report.mixer == "none"


def test_hook_build_modules() -> None:
    step = step_with(extra=[examples("build_modules").Shadow(momentum=0.5)])
    before = [parameter.clone() for parameter in step.model.parameters()]
    assert len(step.trained()) == 1, "a frozen part is in no parameter group"
    optimizer = torch.optim.SGD(step.param_groups(lr=0.1))
    step(*batch())[0].backward()
    optimizer.step()
    step.after_step()
    shadow = next(iter(step.parts.values()))["shadow"]
    for old, new, averaged in zip(before, step.model.parameters(), shadow.parameters(), strict=True):
        torch.testing.assert_close(averaged, (old + new) / 2)
        assert not averaged.requires_grad


def test_hook_choose_mixer() -> None:
    step = step_with(mix=examples("generate_mix").Halves(), extra=[examples("choose_mixer").EverySecond()])
    mixers = [step(*batch())[1].mixer for _ in range(4)]
    assert mixers == ["halves", None, "halves", None]


def test_hook_generate_mix() -> None:
    step = step_with(mix=examples("generate_mix").Halves())
    images, labels = batch()
    mix, targets = step.mix_batch(Batch(images=images, labels=labels), mixer=0, iteration=2)
    own, partner = mix.masks_on(8, 8).split(1, 1)
    torch.testing.assert_close(mix.images, own * images + partner * images[mix.partner])
    torch.testing.assert_close(mix.lam, own.mean((1, 2, 3)))
    assert torch.equal(targets.weights, mix.weights)
    again, _ = step.mix_batch(Batch(images=images, labels=labels), mixer=0, iteration=2)
    assert torch.equal(again.images, mix.images)


def test_hook_preview_mix() -> None:
    step = step_with(mix=[examples("preview_mix").Curtain(), examples("generate_mix").Halves()])
    images, labels = batch()
    previews = step.previews(Batch(images=images, labels=labels), (0.25, 0.75))
    assert list(previews) == ["curtain"], "the other mixer does not picture itself"
    for lam, mix in zip((0.25, 0.75), previews["curtain"], strict=True):
        assert mix.partner.tolist() == [1, 2, 3, 0]
        torch.testing.assert_close(mix.lam, torch.full((4,), lam))
        assert mix.mask is not None
        torch.testing.assert_close(mix.mask.mean((1, 2, 3)), mix.lam)
    assert step.has_previews
    assert not step_with(mix=examples("generate_mix").Halves()).has_previews


def test_hook_map_saliency() -> None:
    saliency = examples("map_saliency").Centre(fall=3.0)
    step = step_with(mix=Shown(saliency=saliency))
    mix, _ = step.mix_batch(batch(), mixer=0)
    found = mix.notes["saliency"]
    assert found.shape == (4, 8, 8)
    torch.testing.assert_close(found, found.flip(1, 2))
    torch.testing.assert_close(found[0, 3, 3], torch.tensor(-3.0 * 0.125 * 2**0.5).exp())
    assert found[0, 0, 0] < found[0, 3, 3]


def test_hook_mix_labels() -> None:
    step = step_with(mix=examples("generate_mix").Halves(), labels=examples("mix_labels").Winner())
    mix, targets = step.mix_batch(batch(), mixer=0, iteration=1)
    assert targets.weights.tolist() == [[1.0, 0.0] if lam >= 0.5 else [0.0, 1.0] for lam in mix.lam.tolist()]


def test_hook_compute_loss() -> None:
    step = step_with(loss=examples("compute_loss").Brier())
    images, labels = batch()
    loss, _ = step(images, labels)
    error = step.model(images).softmax(1) - nn.functional.one_hot(labels, 3)
    torch.testing.assert_close(loss, error.square().sum(1).mean())


def test_a_loss_per_source_is_the_dense_one_and_halves_with_the_weights() -> None:
    images, labels = batch()
    plain = step_with(mix="mixup", loss="soft_cross_entropy")(images, labels)[0]
    own = step_with(mix="mixup", loss=examples("compute_loss").PerSource())(images, labels)[0]
    torch.testing.assert_close(own, plain)
    logits, mix = torch.randn(4, 3), Mix.pair(images, torch.tensor([1, 0, 3, 2]), 0.75)
    targets = mix.targets(labels, mix.weights * torch.tensor([[0.5], [1.0], [1.0], [0.0]]))
    rows = nn.functional.cross_entropy(logits, mix.targets(labels).dense(3), reduction="none")
    expected = (rows * torch.tensor([0.5, 1.0, 1.0, 0.0])).mean()
    torch.testing.assert_close(examples("compute_loss").PerSource().compute_loss(logits, targets), expected)


@attrs.define(eq=False, kw_only=True)
class Told:
    """What the page says of notes, views, scale, head and graphs, in one mixer."""

    role = "mix"

    @hookimpl
    def build_modules(self) -> Any:
        return {"lead": nn.Linear(1, 1), "own": nn.Linear(16, 3)}

    @hookimpl
    def generate_mix(self, images: Tensor, modules: Any) -> Mix:
        lead = modules["lead"](images.mean((1, 2, 3))[:, None])
        view = Mix.clean(images.flip(0), head="own", scale=0.5)
        return Mix.clean(images, notes={"lead": lead}, views=(view,), scale=0.25, losses={"size": lead.square().mean()})

    @hookimpl
    def extra_losses(self, mix: Mix) -> Any:
        return {"lead": mix.notes["lead"].mean()}


def test_notes_and_losses_carry_a_graph_and_scale_is_of_its_own_view_alone() -> None:
    step = step_with(mix=Told())
    images, labels = batch()
    loss, _ = step(images, labels)
    loss.backward()
    assert all(parameter.grad is not None for parameter in step.parts.parameters())
    lead = step.parts["told"]["lead"](images.mean((1, 2, 3))[:, None])
    pooled = step.model.forward_head(step.model.forward_features(images.flip(0)), pre_logits=True)
    own = nn.functional.cross_entropy(step.parts["told"]["own"](pooled), labels)
    plain = nn.functional.cross_entropy(step.model(images), labels)
    torch.testing.assert_close(loss, 0.5 * own + 0.25 * plain + lead.square().mean() + lead.mean())


@pytest.mark.parametrize(
    ("asked", "mixer", "forwards"), [("clean", "mixup", 2), ("clean", "none", 1), ("probe", "mixup", 1)]
)
def test_clean_trains_and_looking_does_not(asked: str, mixer: str, forwards: int) -> None:
    @attrs.define(eq=False, kw_only=True)
    class Clean:
        @hookimpl
        def extra_losses(self, clean: Any) -> Any:
            return {"size": clean.logits.square().mean()}

    @attrs.define(eq=False, kw_only=True)
    class Looking:
        @hookimpl
        def extra_losses(self, probe: Any, images: Tensor) -> Any:
            assert not probe.look(images).logits.requires_grad
            return {}

    model = TinyConvNet(3)
    extra = [Clean() if asked == "clean" else Looking()]
    step = mixcore.create_step(model, mix=mixer, extra=extra, num_classes=3, iterations=10, image_size=(8, 8))
    step(torch.rand(4, 3, 8, 8), batch().labels)
    assert int(model.get_buffer("stage1.1.num_batches_tracked")) == forwards


def test_the_page_names_what_a_part_may_set_apart_and_the_fields_of_mix() -> None:
    row = next(line for line in PAGE.splitlines() if line.startswith("| `optimizer` |"))
    assert {*re.findall(r"`(\w+)`", row.partition("any of")[2].partition(";")[0])} == {*DIFFERENCES}
    (table,) = re.findall(r"\| field of `Part` \|.*?\n\n", PAGE, re.S)
    assert {*re.findall(r"^\| `(\w+)`", table, re.M)} == {field.name for field in attrs.fields(Part)} - {"module"}
    (table,) = re.findall(r"\| field of `Mix` \|.*?\n\n", PAGE, re.S)
    named = " ".join(line.split("|")[1] for line in table.strip().splitlines()[2:])
    assert {*re.findall(r"`(\w+)`", named)} == {field.name for field in attrs.fields(Mix)}


def test_hook_extra_losses() -> None:
    plain, _ = step_with()(*batch())
    step = step_with(extra=[examples("extra_losses").SmallLogits(weight=0.5)])
    loss, report = step(*batch())
    extra = 0.5 * step.model(batch().images).square().mean()
    torch.testing.assert_close(loss, plain + extra)
    torch.testing.assert_close(report.losses["smalllogits/size"], extra.detach())


def test_hook_scalars() -> None:
    step = step_with(mix=examples("generate_mix").Halves(), extra=[examples("scalars").LamSpread()])
    assert step(*batch())[1].scalars == {}, "not asked for outside logging iterations"
    _, report = step(*batch(), logging=True)
    assert float(report.scalars["lamspread/lam_spread"]) == 0


def test_hook_after_step() -> None:
    step = step_with(extra=[examples("after_step").WeightClip(limit=0.01)])
    step(*batch())
    step.after_step()
    largest = max(parameter.detach().abs().max().item() for parameter in step.model.parameters())
    assert largest == pytest.approx(0.01)


def test_hook_predictors() -> None:
    step = step_with(extra=[examples("predictors").SecondHead()])
    predictors = step.predictors()
    assert list(predictors) == ["model", "second"]
    assert predictors["second"][0] is step.model
    step(*batch())[0].backward()
    head = predictors["second"][1]
    assert head is not None
    assert all(parameter.grad is not None for parameter in head.parameters())
    assert len(step.trained()) == 2


def test_hook_build_metrics() -> None:
    manager, plugin = new_manager(), examples("build_metrics").InBits()
    register(manager, plugin, "in_bits", "in_bits")
    calls = PluginCalls(manager, plugin, "in_bits", "in_bits")
    task = Task(num_classes=2, in_channels=1, image_size=(8, 8), mean=(0.0,), std=(1.0,))
    metric = calls.build_metrics(task=task)["surprise"]
    metric.update(torch.zeros(3, 2), torch.tensor([0, 1, 1]))
    assert float(metric.compute()) == pytest.approx(1.0)


def test_hook_log_record(tmp_path: Path) -> None:
    manager, plugin = new_manager(), examples("log_record").Latest(file="now.json")
    register(manager, plugin, "latest", "latest")
    calls = PluginCalls(manager, plugin, "latest", "latest")
    calls.log_record(record={"epoch": 3, "val/top1": 50.0}, folder=tmp_path)
    assert json.loads((tmp_path / "now.json").read_text()) == {"epoch": 3, "val/top1": 50.0}


def toy_run(images: Tensor, labels: Tensor) -> ToyRun:
    torch.manual_seed(0)
    return ToyRun(model=TinyConvNet(3, in_channels=1), images=images, labels=labels)


def test_hook_analyse(tmp_path: Path) -> None:
    sureness = register_alone(examples("analyse").Sureness(temperature=1e-6), "sureness", "sureness").calls
    run = toy_run(*batch())
    numbers = sureness.analyse(model=run.model, data=run, task=TASK, folder=tmp_path, progress=Bar("sureness"))
    assert numbers["sureness"] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (None, "expected a mapping of numbers by name"),
        ({"a": {"b": [1.0, float("nan")]}}, r"gave a.b\[1\] = nan; where a number is not finite, give words"),
        ({"a": torch.ones(3)}, r"gave a float32 \[3\]; expected plain numbers"),
        ({"a": {3: 1.0}}, "expected plain numbers, words, lists and tables with names as keys"),
    ],
)
def test_numbers_that_are_not_plain(given: Any, said: str) -> None:
    with pytest.raises(HookError, match=said):
        check_numbers("analyse of a", given)


def test_hook_compare_runs(tmp_path: Path) -> None:
    brightness = register_alone(examples("compare_runs").Brightness(), "brightness", "brightness").calls
    results = {"dark": {"brightness": -3.0}, "bright": {"brightness": 3.0}}
    brightness.compare_runs(results=results, task=TASK, folder=tmp_path)
    with Image.open(tmp_path / "picture.png") as picture:
        assert picture.size == (128, 64)
        assert picture.getpixel((0, 0)) != picture.getpixel((127, 0))


def test_hook_launch_runs(tmp_path: Path) -> None:
    manager, plugin = new_manager(), examples("launch_runs").OneByOne(threads=2)
    register(manager, plugin, "one_by_one", "one_by_one")
    calls = PluginCalls(manager, plugin, "one_by_one", "one_by_one")
    (tmp_path / "a").mkdir()
    config = tmp_path / "a" / "config.toml"
    config.write_text("[data")  # refused before anything is imported
    run = RunJob(name="a", config=config, directory=tmp_path)
    told: list[tuple[str, int | None]] = []
    calls.launch_runs(
        runs=[run], jobs=None, report=lambda job, code: told.append((job.name, code)), wanted_stop=lambda: False
    )
    assert told == [("a", None), ("a", 2)]
    assert "cannot be read as TOML" in run.log.read_text()
    calls.launch_runs(runs=[run], jobs=None, report=lambda *_: told.append(("b", 0)), wanted_stop=lambda: True)
    assert len(told) == 2
