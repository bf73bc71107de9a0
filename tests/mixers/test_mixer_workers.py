"""A mixer in the collate function: what DataLoader workers draw is repeated by no other worker, epoch or process."""

from __future__ import annotations

import functools
import pickle
from typing import Any

import attrs
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset, default_collate

import mixcore
from mixcore.api import ConfigError, Mix, hookimpl
from mixcore.testing import TinyConvNet

SAMPLES = TensorDataset(torch.rand(48, 3, 8, 8), torch.arange(48) % 4)


def collate(samples: list[Any], mixer: Any) -> tuple[Tensor, Tensor]:
    mix = mixer(*default_collate(samples))
    return mix.lam, mix.partner


def loader(mixer: Any, *, seed: int = 0, **settings: Any) -> DataLoader[Any]:
    settings = {"num_workers": 2, **settings}
    generator = torch.Generator().manual_seed(seed)
    return DataLoader(
        SAMPLES, batch_size=4, collate_fn=functools.partial(collate, mixer=mixer), generator=generator, **settings
    )


def lams(batches: DataLoader[Any], epochs: int = 3) -> list[float]:
    return [float(lam[0]) for _ in range(epochs) for lam, _ in batches]


@pytest.mark.parametrize("persistent", [False, True])
def test_no_worker_and_no_epoch_repeats_a_draw(persistent: bool) -> None:
    found = lams(loader(mixcore.create_mixer("mixup", num_classes=4), persistent_workers=persistent))
    assert len(found) == 36
    assert len(set(found)) == 36


def test_a_choice_of_mixer_is_a_draw_like_any_other() -> None:
    @attrs.define(eq=False, kw_only=True)
    class Fixed:
        role = "mix"

        @hookimpl
        def generate_mix(self, images: Tensor) -> Mix:
            return Mix.pair(images.clone(), torch.arange(len(images)).roll(1), 0.25)

    mixer = mixcore.create_mixer(Fixed(), num_classes=4, probability=0.5)
    batches = loader(mixer)
    patterns = {tuple(lams(batches, epochs=1)[worker::2]) for _ in range(4) for worker in (0, 1)}
    assert len(patterns) > 5  # eight patterns of six draws each; the same draws everywhere would leave one


def test_the_loaders_seed_repeats_the_whole() -> None:
    first, again, other = (
        lams(loader(mixcore.create_mixer("mixup", num_classes=4), seed=seed), epochs=2) for seed in (0, 0, 1)
    )
    assert first == again
    assert not set(first) & set(other)


def test_without_workers_the_mixer_counts_as_in_a_loop() -> None:
    mixer = mixcore.create_mixer("mixup", num_classes=4)
    images, labels = SAMPLES.tensors[0][:4], SAMPLES.tensors[1][:4]
    assert lams(loader(mixcore.create_mixer("mixup", num_classes=4), num_workers=0), epochs=1) == [
        float(mixer(images, labels).lam[0]) for _ in range(12)
    ]


class Placed:
    """A collate function that says itself which iteration it works for."""

    def __init__(self) -> None:
        self.mixer = mixcore.create_mixer("mixup", num_classes=4)

    def __call__(self, samples: list[Any]) -> Tensor:
        images, labels = default_collate(samples)
        return self.mixer(images, labels, epoch=0, iteration=int(labels[0])).lam


def test_who_tells_the_iteration_gets_the_draws_of_that_iteration_in_any_worker() -> None:
    ordered = TensorDataset(torch.rand(4, 3, 8, 8), torch.arange(4))
    workers, alone = (
        [float(lam) for lam in DataLoader(ordered, collate_fn=Placed(), num_workers=number)] for number in (2, 0)
    )
    assert workers == alone


def test_workers_of_another_process_draw_something_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """A spawned worker has no process group: the mixer brings the number of the process that sent it."""
    mixer = mixcore.create_mixer("mixup", num_classes=4)
    with monkeypatch.context() as joined:
        joined.setattr(torch.distributed, "is_initialized", lambda: True)
        joined.setattr(torch.distributed, "get_rank", lambda: 1)
        sent = pickle.dumps(mixer)
    assert set(lams(loader(pickle.loads(sent)))).isdisjoint(lams(loader(mixer)))


def test_a_method_that_looks_at_the_network_is_sent_to_the_loop() -> None:
    @attrs.define(eq=False, kw_only=True)
    class Looking:
        role = "mix"

        @hookimpl
        def generate_mix(self, images: Tensor, labels: Tensor, probe: Any) -> Mix:
            probe.look(images)
            return Mix.clean(images)

    for model in (None, TinyConvNet(4)):
        mixer = mixcore.create_mixer(Looking(), num_classes=4, model=model)
        with pytest.raises(ConfigError, match=r"Looking looks at the trained network.*worker.*in the training loop"):
            lams(loader(mixer), epochs=1)
