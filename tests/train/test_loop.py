"""The loop: accumulation, clipping, averaging, skipped steps, seeds of the global generators, agreement to stop."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from torch import Tensor, nn

from mixcore.discovery.manager import build_plugins
from mixcore.errors import NonFiniteLossError
from mixcore.logs.progress import Progress
from mixcore.run.resolve import load_config
from mixcore.run.session import Session, build_session
from mixcore.train.agreement import Processes
from mixcore.train.loop import Loop, frees_gradients_first


@attrs.define(eq=False)
class Fixture:
    session: Session
    loop: Loop
    saved: list[int]

    @property
    def weights(self) -> list[Tensor]:
        return [parameter.detach().clone() for parameter in self.session.state.step.model.parameters()]

    def run(self, epochs: int = 4) -> None:
        state = self.session.state
        for epoch in range(state.epoch, epochs):
            assert self.loop.run_epoch(epoch, lambda report: None) == 0
            state.epoch += 1
            state.totals.clear()


def fixture(config: Path, *overrides: str, wanted_stop: Any = lambda: 0) -> Fixture:
    loaded = load_config(config, overrides)
    processes = Processes(device=torch.device("cpu"))
    session = build_session(loaded.config, build_plugins(loaded.config), processes)
    saved: list[int] = []
    loop = Loop(
        state=session.state,
        module=session.module,
        schedule=session.schedule,
        loader=session.loader,
        config=loaded.config.train,
        seed=loaded.config.seed,
        processes=processes,
        progress=Progress(4, rank=1),
        wanted_stop=wanted_stop,
        save=lambda: saved.append(session.state.iteration),
    )
    return Fixture(session, loop, saved)


PLAIN = ("backbone.dropout=0.0", "optimizer.momentum=0.0", "optimizer.weight_decay=0.0", "schedule.name=constant")


def test_an_iteration_is_forward_backward_step_by_hand(toy_config: Path) -> None:
    made = fixture(toy_config, *PLAIN)
    step = made.session.state.step
    before, first = made.weights, next(iter(made.session.loader.epoch(0)))
    loss, _ = step(*first, epoch=0, iteration=0)
    gradients = torch.autograd.grad(loss, list(step.model.parameters()))
    expected = [weight - 0.05 * gradient for weight, gradient in zip(before, gradients, strict=True)]
    made.session.state.iterations_per_epoch = 1
    made.loop.loader = OneBatch(first)
    made.loop.run_epoch(0, lambda report: None)
    for a, b in zip(made.weights, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-8)


@attrs.frozen
class OneBatch:
    batch: tuple[Tensor, Tensor]

    def __len__(self) -> int:
        return 1

    def epoch(self, epoch: int, start: int = 0, stop: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        yield self.batch


def test_accumulated_gradients_are_averaged_over_the_iterations(toy_config: Path) -> None:
    made = fixture(toy_config, *PLAIN, "train.accumulate=3")
    step, before = made.session.state.step, made.weights
    losses = [step(*batch, epoch=0, iteration=i)[0] for i, batch in enumerate(made.session.loader.epoch(0))]
    gradients = [torch.autograd.grad(loss / 3, list(step.model.parameters())) for loss in losses]
    summed = [sum(of_one) for of_one in zip(*gradients, strict=True)]
    made.loop.run_epoch(0, lambda report: None)
    expected = [weight - 0.05 * gradient for weight, gradient in zip(before, summed, strict=True)]
    for a, b in zip(made.weights, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-8)
    assert made.session.state.updates == 1


def test_clipping_bounds_the_whole_gradient(toy_config: Path) -> None:
    made = fixture(toy_config, *PLAIN, "train.clip_grad=0.001", "schedule.epochs=1")
    before = made.weights
    made.run(1)
    moved = torch.cat([(a - b).flatten() for a, b in zip(made.weights, before, strict=True)]).norm()
    assert 0 < moved <= 3 * 0.05 * 0.001 * 1.01


def test_an_overflow_skips_the_step_and_whatever_follows_it(toy_config: Path) -> None:
    made = fixture(toy_config, "train.precision=fp16", "train.ema_decay=0.9", "schedule.epochs=1")
    made.session.state.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**60)
    before = made.weights
    made.run(1)
    assert made.session.state.updates == 0
    assert made.session.state.step.saved_state()["parts.toy_mix.counter.steps"] == 0
    assert all(torch.equal(a, b) for a, b in zip(made.weights, before, strict=True))
    assert made.session.state.scaler.get_scale() < 2.0**60


def test_dropout_draws_by_the_iteration_not_by_what_was_drawn_before(toy_config: Path) -> None:
    first, second = fixture(toy_config), fixture(toy_config)
    torch.manual_seed(1)
    first.run(2)
    torch.manual_seed(2)
    second.run(1)
    torch.rand(5)
    second.run(2)
    assert all(torch.equal(a, b) for a, b in zip(first.weights, second.weights, strict=True))
    assert not torch.equal(first.weights[0], fixture(toy_config, "seed=4").weights[0])


def test_initial_weights_depend_on_the_seed_alone_and_leave_the_generators_alone(toy_config: Path) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = fixture(toy_config)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(first.weights[0], fixture(toy_config).weights[0])


@pytest.mark.parametrize(("accumulate", "stops"), [(1, 2), (2, 2), (3, 3)])
def test_a_wanted_stop_waits_for_the_optimizer_step(toy_config: Path, accumulate: int, stops: int) -> None:
    made = fixture(toy_config, f"train.accumulate={accumulate}", wanted_stop=lambda: 75 * (state.iteration >= 2))
    state = made.session.state
    assert made.loop.run_epoch(0, lambda report: None) == 75
    assert made.saved == [stops]
    assert state.iteration == stops


def test_a_checkpoint_that_is_due_is_written_between_optimizer_steps(toy_config: Path) -> None:
    made = fixture(toy_config, "train.accumulate=2")
    made.run(1)
    assert not made.session.state.between_optimizer_steps
    made.loop.save_due = True
    made.run(2)
    assert made.saved == [4]


def test_groups_are_never_incomplete(toy_config: Path) -> None:
    kept = fixture(toy_config, "data.drop_last=false")
    grouped = fixture(toy_config, "data.drop_last=false", "mix.group_size=2")
    assert (len(kept.session.loader), len(grouped.session.loader)) == (4, 3)


# --- losses that are not finite --------------------------------------------------------------------------------------


class Spoilt(nn.Module):
    """The step, its loss at one iteration not a number."""

    def __init__(self, step: nn.Module, at: int) -> None:
        super().__init__()
        self.step, self.at = step, at

    def forward(self, images: Tensor, labels: Tensor, **place: Any) -> Any:
        loss, report = self.step(images, labels, **place)
        if place["iteration"] != self.at:
            return loss, report
        return loss * torch.nan, attrs.evolve(report, loss=report.loss * torch.nan)


def everything(made: Fixture) -> dict[str, Tensor]:
    """Copies of all that an optimizer step may change."""
    state = made.session.state
    assert state.ema is not None
    found = {**state.step.saved_state(), **{f"ema.{name}": value for name, value in state.ema.state_dict().items()}}
    for number, kept in enumerate(state.optimizer.state.values()):
        found.update({f"{number}.{name}": value for name, value in kept.items() if isinstance(value, Tensor)})
    # BatchNorm's statistics move in the forward, before anybody has seen a loss
    return {name: value.clone() for name, value in found.items() if "running" not in name and "tracked" not in name}


def run_into(made: Fixture, at: int) -> dict[str, Tensor]:
    """Run until the loss of iteration `at` is noticed; what was there before that iteration."""
    before: dict[str, Tensor] = {}

    def keep(*_: object) -> None:
        if made.session.state.iteration == at:
            before.update(everything(made))

    made.loop.module = Spoilt(made.session.state.step, at)
    made.loop.module.register_forward_pre_hook(keep)
    with pytest.raises(NonFiniteLossError, match=f"iteration {at}:"):
        made.run()
    return before


@pytest.mark.parametrize("name", ["sgd", "adamw"])
@pytest.mark.parametrize("waits", [False, True])
def test_nothing_is_updated_from_a_loss_that_is_not_a_number(
    toy_config: Path, monkeypatch: pytest.MonkeyPatch, name: str, waits: bool
) -> None:
    """Also where the device is waited for: the loss of iteration 3 is noticed when the epoch ends, two later."""
    if waits:
        monkeypatch.setattr("mixcore.train.loop.reads_at_once", lambda device: False)
    made = fixture(toy_config, f"optimizer.name={name}", "train.ema_decay=0.9", "train.log_every=100")
    before = run_into(made, at=3)
    assert made.session.state.iteration == (6 if waits else 3)
    after = everything(made)
    assert before.keys() == after.keys()
    assert any(name.startswith("0.") for name in after)
    for key, value in before.items():
        assert torch.equal(value, after[key]), key


def test_a_guarded_run_has_the_bits_of_one_that_reads_at_once(
    toy_config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = fixture(toy_config, "train.ema_decay=0.9", "train.accumulate=2")
    plain.run()
    monkeypatch.setattr("mixcore.train.loop.reads_at_once", lambda device: False)
    guarded = fixture(toy_config, "train.ema_decay=0.9", "train.accumulate=2")
    guarded.run()
    expected = everything(plain)
    assert all(torch.equal(value, expected[name]) for name, value in everything(guarded).items())


# --- gradients and memory --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("first", "order"), [(False, "forward zero backward"), (True, "zero forward backward")])
def test_gradients_are_freed_where_it_pays(
    toy_config: Path, monkeypatch: pytest.MonkeyPatch, first: bool, order: str
) -> None:
    if first:
        monkeypatch.setattr("mixcore.train.loop.frees_gradients_first", lambda device: True)
    made, seen = fixture(toy_config), []
    state = made.session.state
    zero_grad = state.optimizer.zero_grad
    monkeypatch.setattr(state.optimizer, "zero_grad", lambda **kw: (seen.append("zero"), zero_grad(**kw)))
    state.step.register_forward_hook(lambda *_: seen.append("forward"))
    next(state.step.model.parameters()).register_hook(lambda _: seen.append("backward"))
    made.loop.run_epoch(0, lambda report: None)
    assert seen == order.split() * 3


def test_gradients_are_freed_before_the_forward_on_accelerators_alone() -> None:
    assert [frees_gradients_first(torch.device(kind)) for kind in ("cpu", "cuda", "mps")] == [False, True, True]


# --- compiled runs ---------------------------------------------------------------------------------------------------


def test_a_run_that_compiles_evaluates_all_its_networks_compiled(
    toy_config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Any] = []
    monkeypatch.setattr(torch, "compile", lambda function: (made.append(function), function)[1])
    state = fixture(toy_config, "train.ema_decay=0.9").session.state
    assert state.step.compiled(network for network, _ in state.networks().values()) == {}
    state = fixture(toy_config, "train.ema_decay=0.9", "train.compile=true").session.state
    networks = [network for network, _ in state.networks().values()]
    compiled = state.step.compiled(networks)
    assert set(networks) <= compiled.keys()
    assert state.ema is not None
    assert {id(state.step.model), id(state.ema.module)} <= {
        id(getattr(function, "__self__", function)) for function in made
    }
    count = len(made)
    assert state.step.compiled(networks) == compiled
    assert len(made) == count, "nothing is compiled anew at every evaluation"


# --- float16 ---------------------------------------------------------------------------------------------------------


def test_skipped_steps_are_counted_in_float16_only(toy_config: Path) -> None:
    made = fixture(toy_config, "train.precision=fp16")
    made.session.state.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**60)
    made.loop.run_epoch(0, lambda report: None)
    assert made.session.state.totals.means()["train/skipped"] == 3
    usual = fixture(toy_config, "train.precision=fp16")
    usual.loop.run_epoch(0, lambda report: None)
    assert usual.session.state.totals.means()["train/skipped"] == 0
    plain = fixture(toy_config)
    plain.loop.run_epoch(0, lambda report: None)
    assert "train/skipped" not in plain.session.state.totals.means()


def test_a_run_that_skips_every_step_stops_with_the_cause(toy_config: Path) -> None:
    made = fixture(toy_config, "train.precision=fp16", "train.max_skipped=5")
    made.session.state.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**90)
    with pytest.raises(NonFiniteLossError, match=r"fp16 gradients overflowed in 5 optimizer steps in a row"):
        made.run()
    assert made.session.state.iteration == 4


def test_a_step_that_takes_place_ends_the_row_of_skipped_ones(toy_config: Path) -> None:
    made = fixture(toy_config, "train.precision=fp16", "train.max_skipped=2", "schedule.epochs=1")
    scaler = made.session.state.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**60)
    scales = iter((1.0, 2.0**60))
    made.loop.module.register_forward_pre_hook(
        lambda *_: scaler.update(next(scales)) if made.session.state.iteration else None
    )
    made.run(1)  # skipped, taken, skipped
    assert made.session.state.updates == 1
