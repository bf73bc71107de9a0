"""The meta device as a stand-in for an accelerator: which operations are refused, and which are not."""

from __future__ import annotations

from collections.abc import Callable

import attrs
import pytest
import torch
from torch import Tensor

from mixcore.api import Mix, Targets, hookimpl, send
from mixcore.errors import MixcoreError
from mixcore.testing import Harness, NotApplicableError, Subject, checks_of
from mixcore.testing.elsewhere import META, LeftOnHostError, NoKernelError, OtherDevice
from mixcore.testing.tripwire import HostReadError

CHECK = "two_steps_on_another_device"
HOST = torch.arange(4)


def there() -> Tensor:
    return torch.zeros(4, 3, device=META)


REFUSED: dict[str, tuple[Callable[[Tensor], object], type[MixcoreError]]] = {
    "item": (lambda x: x.sum().item(), HostReadError),
    "an if": (lambda x: 1 if x.sum() else 0, HostReadError),
    "cpu": (lambda x: x.cpu(), HostReadError),
    "tolist": (lambda x: x.tolist(), HostReadError),
    "into a host tensor": (lambda x: torch.zeros(4, 3).copy_(x), HostReadError),
    "boolean index": (lambda x: x[x > 0], HostReadError),
    "boolean index of a host tensor": (lambda x: HOST[x[:, 0] > 0], HostReadError),
    "boolean assignment": (lambda x: x.__setitem__(x[:, 0] > 0, x[:1]), HostReadError),
    "nonzero": (lambda x: x.nonzero(), HostReadError),
    "masked_select": (lambda x: x.masked_select(x > 0), HostReadError),
    "unique": (lambda x: x.unique(), HostReadError),
    "equal": (lambda x: x.equal(x), HostReadError),
    "one_hot": (lambda x: torch.nn.functional.one_hot(x.long()), HostReadError),
    "repeat_interleave": (lambda x: x.repeat_interleave(x[:, 0].long(), 0), HostReadError),
    "host index": (lambda x: x[HOST], LeftOnHostError),
    "host factor": (lambda x: x * HOST[:3], LeftOnHostError),
    "searchsorted": (lambda x: torch.searchsorted(HOST.float(), x), LeftOnHostError),
    "histogram": (lambda x: torch.histogram(x), NoKernelError),
}


@pytest.mark.parametrize(("operation", "error"), REFUSED.values(), ids=REFUSED)
def test_an_operation_that_an_accelerator_refuses_or_waits_for(
    operation: Callable[[Tensor], object], error: type[MixcoreError]
) -> None:
    with OtherDevice(), pytest.raises(error):
        operation(there())


ALLOWED: dict[str, Callable[[Tensor], object]] = {
    "host numbers": lambda x: [x[0] * number for number in HOST.tolist()],
    "host arrays": lambda x: x * float(HOST.numpy()[1]),
    "a number on the host": lambda x: torch.lerp(x, x, torch.tensor(0.5)) * HOST[1],
    "sent": lambda x: x[send(HOST, x.device)] + HOST[:3].to(x.device),
    "copied": lambda x: x.copy_(HOST[:, None]),
    "made there": lambda x: x[torch.arange(4, device=x.device)],
    "filled": lambda x: x.__setitem__(x[:, 0] > 0, 0.0),
    "where": lambda x: torch.where(x > 0, x, 1.0),
    "one_hot": lambda x: torch.nn.functional.one_hot(x.long(), 5),
    "repeat_interleave": lambda x: x.repeat_interleave(x[:, 0].long(), 0, output_size=9),
    "the host by itself": lambda x: HOST[HOST > 1].unique(),
}


@pytest.mark.parametrize("operation", ALLOWED.values(), ids=ALLOWED)
def test_an_operation_that_stays_there(operation: Callable[[Tensor], object]) -> None:
    with OtherDevice():
        operation(there())


@attrs.define(eq=False, kw_only=True)
class Policy:
    role = "labels"

    @hookimpl
    def mix_labels(self, mix: Mix, labels: Tensor) -> Targets:
        return mix.targets(labels, self.weights(mix))

    def weights(self, mix: Mix) -> Tensor:
        return mix.weights


class NeedsWhatMetaHasNot(Policy):
    """Sound, by an operation without a meta kernel."""

    def weights(self, mix: Mix) -> Tensor:
        torch.histogram(mix.images.detach())
        return mix.weights


class ReadsBesides(NeedsWhatMetaHasNot):
    def weights(self, mix: Mix) -> Tensor:
        weights = super().weights(mix)
        return weights if mix.images.mean().item() > -99 else 1 - weights


def test_an_operation_that_meta_has_not_is_no_fault() -> None:
    check = checks_of("labels")[CHECK]
    with pytest.raises(NotApplicableError, match="no histogram for its meta device, so that only reads"):
        check(Harness(Subject(plugin=NeedsWhatMetaHasNot)))
    with pytest.raises(AssertionError, match=r"item reads on the host.*test_elsewhere\.py:\d+: return weights if"):
        check(Harness(Subject(plugin=ReadsBesides)))


@attrs.define(eq=False, kw_only=True)
class ReadsLater:
    """What is read after the optimizer step is read in the step too."""

    @hookimpl
    def after_step(self, model: torch.nn.Module) -> None:
        next(model.parameters()).norm().item()


@attrs.define(eq=False, kw_only=True)
class ReadsWhatIsLogged:
    @hookimpl
    def scalars(self, mix: Mix) -> dict[str, float]:
        return {"lam": float(mix.lam.mean())}


@pytest.mark.parametrize("plugin", [ReadsLater, ReadsWhatIsLogged])
def test_every_hook_of_a_step_is_watched(plugin: type) -> None:
    with pytest.raises(AssertionError, match=r"reads on the host.*test_elsewhere\.py:\d+: "):
        checks_of("extra")[CHECK](Harness(Subject(plugin=plugin)))
