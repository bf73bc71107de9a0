"""What a plugin author is told after a mistake in a hook: the plugin, the hook, what was found and what to type."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
import torch
from torch import Tensor, nn

import mixcore
from mixcore.api import Mix, MixcoreError, Part, hookimpl
from mixcore.errors import HookError
from mixcore.step.step import TrainingStep
from mixcore.testing import TinyConvNet, tiny_network

CLASSES = 3


def batch(rows: int = 4) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(1)
    return torch.rand(rows, 3, 8, 8, generator=rng), torch.arange(rows) % CLASSES


def step_with(needs: tuple[str, ...] = (), **tables: Any) -> TrainingStep:
    model = tiny_network(needs, CLASSES, (8, 8), 3)
    return mixcore.create_step(model, num_classes=CLASSES, iterations=10, image_size=(8, 8), **tables)


def grouped(mixer: Any, group_size: int | None) -> TrainingStep:
    """A step whose mixer is called once per `group_size` images."""
    step = step_with(mix=mixer)
    plugins = attrs.evolve(step._setup.plugins, group_sizes=(group_size,))
    step._setup = attrs.evolve(step._setup, plugins=plugins)
    return step


def said(error: BaseException) -> str:
    """The message with its notes, as the command line prints them."""
    return "\n".join([str(error), *getattr(error, "__notes__", ())])


def failed(step: TrainingStep, kind: type[Exception] = HookError, **rest: Any) -> str:
    with pytest.raises(kind) as caught:
        step(*batch(), **rest)
    return said(caught.value)


@attrs.define(eq=False, kw_only=True)
class Giving:
    """A mixer that hands over what it is told to."""

    role = "mix"

    rest: Any = attrs.field(factory=dict)

    @hookimpl
    def generate_mix(self, images: Tensor) -> Mix:
        partner = torch.arange(images.shape[0]).roll(1)
        return Mix.pair(images, partner, 0.5, **{k: v(images) if callable(v) else v for k, v in self.rest.items()})


@attrs.define(eq=False, kw_only=True)
class Far:
    """A mixer whose partner is no row of the batch."""

    role = "mix"

    @hookimpl
    def generate_mix(self, images: Tensor) -> Mix:
        return Mix.pair(images, torch.full((images.shape[0],), 9), 0.5)


@attrs.define(eq=False, kw_only=True)
class FarLabels:
    """A label policy whose targets name a row that its labels have not."""

    role = "labels"

    @hookimpl
    def mix_labels(self, mix: Mix, labels: Tensor) -> Any:
        return attrs.evolve(mix.targets(labels), sources=mix.sources + 7)


@attrs.define(eq=False, kw_only=True)
class Gathering:
    """An extra that reads the partner's rows."""

    @hookimpl
    def extra_losses(self, mix: Mix, images: Tensor) -> Any:
        return {"pull": images.index_select(0, mix.partner).mean()}


# --- the mix ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("group_size", [None, 2])
@pytest.mark.parametrize(
    ("note", "found"),
    [
        (torch.tensor(1.0), "float32 []"),
        (lambda images: images[:1, 0, 0, 0], "float32 [1]"),
        (0.5, "a float"),
    ],
)
def test_notes_have_a_row_per_mixed_image(group_size: int | None, note: Any, found: str) -> None:
    mixer = Giving(rest={"notes": lambda images: {"n": note(images) if callable(note) else note}})
    message = failed(grouped(mixer, group_size))
    rows = group_size or 4
    assert f"generate_mix of Giving gave notes 'n' {found}; expected [{rows},...]" in message
    assert "expand" in message


def test_groups_that_disagree_name_the_mixer_and_both_sides() -> None:
    @attrs.define(eq=False, kw_only=True)
    class Torn:
        role = "mix"

        @hookimpl
        def generate_mix(self, images: Tensor, step: Any) -> Mix:
            name = f"half{step.group}"
            return Mix.clean(images, notes={name: images.mean((1, 2, 3))})

    message = failed(grouped(Torn(), 2))
    assert "generate_mix of Torn" in message
    assert "notes ['half0'] and ['half1']" in message
    assert "step.shared_rng" in message


def test_notes_of_groups_that_cannot_stand_below_each_other_name_the_mixer() -> None:
    @attrs.define(eq=False, kw_only=True)
    class Wider:
        role = "mix"

        @hookimpl
        def generate_mix(self, images: Tensor, step: Any) -> Mix:
            return Mix.clean(images, notes={"n": torch.zeros(images.shape[0], 1 + step.group)})

    message = failed(grouped(Wider(), 2))
    assert "generate_mix of Wider" in message
    assert "notes 'n' float32 [2, 1] and float32 [2, 2]" in message


@pytest.mark.parametrize(
    ("rest", "found"),
    [
        ({"head": nn.Linear(16, 3)}, "head a Linear; expected the name of one of its parts"),
        ({"stage": nn.Linear(16, 3)}, "stage a Linear; expected a module's name or a number"),
        ({"losses": {"pull": torch.ones(3)}}, "losses 'pull' float32 [3]; expected a scalar"),
        ({"losses": {"pull": 0.5}}, "losses 'pull' a float; expected a scalar"),
    ],
)
def test_fields_of_a_mix_are_told_by_name(rest: dict[str, Any], found: str) -> None:
    told = {name: (lambda images, value=value: value) for name, value in rest.items()}
    message = failed(step_with(mix=Giving(rest=told)))
    assert f"generate_mix of Giving gave {found}" in message
    assert len(message) < 400


# --- partners out of range -------------------------------------------------------------------------------------------


def test_a_partner_out_of_range_is_the_mixers_fault_and_not_the_losss() -> None:
    message = failed(step_with(mix=Far()))
    assert "generate_mix of Far gave sources from 0 to 9" in message
    assert "4 images: expected rows 0 to 3" in message
    assert "compute_loss" not in message.splitlines()[0]


def test_a_partner_out_of_range_under_a_hook_that_gathers() -> None:
    step = step_with(mix=Far(), loss="bce", extra=[Gathering()])
    assert "generate_mix of Far gave sources from 0 to 9" in failed(step)


def test_targets_out_of_range_are_the_label_policys_fault() -> None:
    message = failed(step_with(labels=FarLabels()))
    assert "mix_labels of FarLabels gave sources from 7 to 10" in message


def test_an_index_error_of_another_cause_stays_what_it_is() -> None:
    @attrs.define(eq=False, kw_only=True)
    class Clumsy:
        @hookimpl
        def extra_losses(self, output: Any) -> Any:
            return {"x": output.logits[:, 99].mean()}

    message = failed(step_with(mix=Giving(), extra=[Clumsy()]), IndexError)
    assert "in extra_losses of Clumsy" in message
    assert "sources" not in message


# --- the instance ----------------------------------------------------------------------------------------------------


@attrs.define(eq=False, kw_only=True)
class Keeping:
    """Keeps what it saw, which slots refuse."""

    role = "mix"
    alpha: float = attrs.field(default=1.0, validator=attrs.validators.gt(0))

    @hookimpl
    def generate_mix(self, images: Tensor) -> Mix:
        self.seen = images
        return Mix.clean(images)


@attrs.frozen(eq=False, kw_only=True)
class KeepingFrozen:
    """Keeps a number in an option."""

    role = "mix"
    alpha: float = 1.0

    @hookimpl
    def generate_mix(self, images: Tensor) -> Mix:
        self.alpha = 2.0
        return Mix.clean(images)


@attrs.define(eq=False, kw_only=True)
class Counting:
    """Counts its calls in a name that is no option."""

    role = "mix"

    @hookimpl
    def generate_mix(self, images: Tensor) -> Mix:
        self.calls += 1  # type: ignore[attr-defined]
        return Mix.clean(images)


@pytest.mark.parametrize(("mixer", "name"), [(Keeping, "seen"), (KeepingFrozen, "alpha"), (Counting, "calls")])
def test_an_instance_keeps_nothing_between_calls(mixer: type, name: str) -> None:
    message = failed(step_with(mix=mixer()), AttributeError)
    assert f"in generate_mix of {mixer.__name__}" in message
    assert f"self.{name}" in message
    assert "part from build_modules" in message
    assert "mix.notes" in message


@pytest.mark.parametrize("target", ["mix", "targets", "step"])
def test_what_the_core_hands_over_is_changed_by_evolve(target: str) -> None:
    @attrs.define(eq=False, kw_only=True)
    class Writing:
        @hookimpl
        def scalars(self, mix: Any, targets: Any, step: Any) -> Any:
            {"mix": mix, "targets": targets, "step": step}[target].weights = 1
            return {}

    message = failed(step_with(extra=[Writing()]), AttributeError, logging=True)
    assert "in scalars of Writing" in message
    assert f"{target.capitalize()}.weights cannot be set" in message
    assert "attrs.evolve" in message


def test_another_attribute_error_gets_no_advice() -> None:
    @attrs.define(eq=False, kw_only=True)
    class Misspelt:
        role = "mix"

        @hookimpl
        def generate_mix(self, images: Tensor) -> Mix:
            return images.shpe  # type: ignore[attr-defined]

    assert "build_modules" not in failed(step_with(mix=Misspelt()), AttributeError)


# --- what was not asked for ------------------------------------------------------------------------------------------


def reading(read: Any, needs: tuple[str, ...] = (), stages: tuple[str, ...] = ()) -> Any:
    @attrs.define(eq=False, kw_only=True)
    class Reading:
        @hookimpl
        def extra_losses(self, output: Any, probe: Any, images: Tensor) -> Any:
            read(output, probe, images)
            return {}

    Reading.needs, Reading.stages = frozenset(needs), stages  # type: ignore[attr-defined]
    return Reading()


READS = {
    "the last block": lambda output, probe, images: output.attention[-1],
    "every block": lambda output, probe, images: [block.row() for block in output.attention],
    "unpacked": lambda output, probe, images: [*output.attention],
    "through the probe": lambda output, probe, images: probe.look(images).attention[0],
}


@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_attention_that_nobody_asked_for(read: Any) -> None:
    message = failed(step_with(("attention",), extra=[reading(read)]), MixcoreError)
    assert "in extra_losses of Reading" in message
    assert 'needs = frozenset({"attention"})' in message
    assert "look(..., attention=True)" in message


def test_attention_that_nobody_asked_for_is_empty() -> None:
    seen: list[Any] = []
    step = step_with(("attention",), extra=[reading(lambda output, probe, images: seen.append(output.attention))])
    step(*batch())
    assert not seen[0]
    assert len(seen[0]) == 0
    assert "NotAsked" not in repr(seen[0])


def test_attention_that_was_asked_for_is_a_tuple() -> None:
    seen: list[Any] = []
    kept = reading(lambda output, probe, images: seen.append(output.attention), needs=("attention",))
    step_with(("attention",), extra=[kept])(*batch())
    assert type(seen[0]) is tuple
    assert len(seen[0]) == 2


@pytest.mark.parametrize("through", ["output", "probe"])
def test_a_stage_that_nobody_asked_for(through: str) -> None:
    def read(output: Any, probe: Any, images: Tensor) -> None:
        (output if through == "output" else probe.look(images, stages=("stage2",))).stages["stage1"]

    message = failed(step_with(extra=[reading(read, stages=("stage2",))]), MixcoreError)
    assert "in extra_losses of Reading" in message
    assert 'stages = ("stage1",)' in message
    assert "it kept: 'stage2'" in message


def test_stages_are_a_mapping_in_all_else() -> None:
    def read(output: Any, probe: Any, images: Tensor) -> None:
        assert set(output.stages) == {"stage2"}
        assert "stage1" not in output.stages
        assert output.stages.get("stage1") is None
        assert output.stages["stage2"].shape[1] == 16

    step_with(extra=[reading(read, stages=("stage2",))])(*batch())


# --- the probe, and numbers ------------------------------------------------------------------------------------------


def test_a_network_is_looked_at_by_its_name() -> None:
    @attrs.define(eq=False, kw_only=True)
    class Taught:
        given: str = "part"

        @hookimpl
        def build_modules(self) -> Any:
            return {"teacher": Part(module=TinyConvNet(CLASSES), optimizer=None)}

        @hookimpl
        def extra_losses(self, probe: Any, modules: Any, images: Tensor) -> Any:
            of = {"part": modules["teacher"], "model": probe.model, "other": nn.Linear(2, 2), "none": "student"}
            probe.look(images, network=of[self.given])
            return {}

    expected = {
        "part": 'network is a TinyConvNet; expected its name: look(images, network="teacher")',
        "model": "network is the trained network, which is looked at by default: look(images)",
        "other": "network is a Linear; expected the name of one of this plugin's networks: teacher",
        "none": "no part 'student' that is a network; this plugin's: teacher",
    }
    for given, text in expected.items():
        message = failed(step_with(extra=[Taught(given=given)]), MixcoreError)
        assert text in message
        assert "in extra_losses of Taught" in message
        assert len(message) < 400, "no network is printed"


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (lambda output: output.logits.mean(), "'x' with a graph; write value.detach()"),
        (lambda output: output.logits.detach(), "'x' float32 [4, 3]; expected a number or a scalar tensor"),
        (lambda output: "much", "'x' a str; expected a number or a scalar tensor"),
        (lambda output: None, "'x' None; expected a number or a scalar tensor"),
    ],
)
def test_scalars_are_numbers_without_a_graph(value: Any, found: str) -> None:
    @attrs.define(eq=False, kw_only=True)
    class Telling:
        kept: Any = attrs.field(factory=list)

        @hookimpl
        def extra_losses(self, output: Any) -> Any:
            self.kept.append(output)
            return {}

        @hookimpl
        def scalars(self) -> Any:
            return {"x": value(self.kept[-1])}

    message = failed(step_with(extra=[Telling()]), logging=True)
    assert f"scalars of Telling returned {found}" in message


def test_a_loss_that_is_no_scalar_is_told_by_its_name() -> None:
    @attrs.define(eq=False, kw_only=True)
    class Rows:
        @hookimpl
        def extra_losses(self, output: Any) -> Any:
            return {"size": output.logits.square().mean(1)}

    message = failed(step_with(extra=[Rows()]))
    assert "extra_losses of Rows returned 'size' float32 [4]; expected a scalar" in message
    assert "mean over the rows" in message
