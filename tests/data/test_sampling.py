"""Which samples are in which batch, on any number of processes."""

from __future__ import annotations

import logging

import pytest
import torch

from mixcore.data.sampling import Batches, evaluation_share
from mixcore.errors import ConfigError, DataError
from mixcore.rng import keyed_generator


def batches(**changes):
    return Batches(**{"samples": 103, "batch_size": 12, "drop_last": False, "seed": 5, **changes})


def test_epoch_holds_every_sample_once_and_epochs_and_seeds_differ():
    order = batches().order(0)
    assert sorted(order.tolist()) == list(range(103))
    assert torch.equal(order, batches().order(0))
    assert not torch.equal(order, batches().order(1))
    assert not torch.equal(order, batches(seed=6).order(0))


@pytest.mark.parametrize("repeats", [1, 3])
@pytest.mark.parametrize("world", [1, 2, 4])
def test_processes_share_the_same_batches(world, repeats):
    whole = batches(repeats=repeats)
    shares = [batches(world=world, rank=rank, repeats=repeats) for rank in range(world)]
    assert {len(share) for share in shares} == {len(whole)} or world == 4
    for iteration in range(len(shares[0])):
        together = sorted(p for share in shares for p in share.own_positions(iteration))
        assert together == list(whole.own_positions(iteration))


def test_last_batch_is_kept_or_dropped_as_asked():
    assert len(batches(drop_last=False)) == 9
    assert list(batches().own_positions(8)) == list(range(96, 103))
    assert len(batches(drop_last=True)) == 8


@pytest.mark.parametrize(("samples", "world", "kept"), [(97, 1, False), (98, 1, True), (99, 2, False), (100, 2, True)])
def test_a_last_batch_with_one_sample_for_a_process_is_dropped_and_said_once(samples, world, kept, caplog):
    with caplog.at_level(logging.WARNING, "mixcore"):
        plans = [batches(samples=samples, world=world, rank=rank) for rank in range(world)]
        for plan in plans:
            plan.order(0), plan.order(1)
    assert [len(plan) for plan in plans] == [9 if kept else 8] * world
    said = [record.message for record in caplog.records]
    assert len(said) == (0 if kept else 1)
    assert all("dropped" in text and str(samples - 96) in text for text in said)


def test_batch_size_that_processes_cannot_share_is_refused():
    with pytest.raises(ConfigError, match=r"batch_size = 10 .* 4 processes .* multiple of 4, such as 8"):
        batches(batch_size=10, world=4)


@pytest.mark.parametrize(("samples", "drop_last"), [(11, True), (1, False)])
def test_an_epoch_without_a_batch_is_refused(samples, drop_last):
    with pytest.raises(ConfigError, match=r"no whole batch .*batch_size = 12"):
        batches(samples=samples, drop_last=drop_last)


def test_repeated_augmentation_keeps_the_length_and_parts_the_copies():
    plans = [Batches(samples=600, batch_size=64, drop_last=True, seed=0, rank=r, world=4, repeats=3) for r in range(4)]
    order = plans[0].order(0)
    assert len(order) == 512  # 600 rounded down to a multiple of 256
    assert torch.equal(order[0::3][:170], order[1::3][:170])
    for iteration in range(len(plans[0])):
        of_process = [order[list(plan.own_positions(iteration))] for plan in plans]
        assert all(len(own) == 16 for own in of_process)
        assert all(len(own.unique()) == len(own) for own in of_process)


@pytest.mark.parametrize("world", [1, 2, 3, 8])
@pytest.mark.parametrize("samples", [1, 5, 7, 64])
def test_evaluation_sees_every_sample_exactly_once(samples, world):
    seen = [i for rank in range(world) for batch in evaluation_share(samples, 4, rank, world) for i in batch]
    assert sorted(seen) == list(range(samples))


def test_evaluation_batches_have_the_share_of_a_process():
    assert [len(batch) for batch in evaluation_share(21, 8, 1, 2)] == [4, 4, 3]


def test_empty_validation_set_is_refused():
    with pytest.raises(DataError, match="validation set is empty"):
        evaluation_share(0, 4, 0, 1)


@pytest.mark.parametrize(("samples", "world", "batch"), [(1000, 4, 64), (1000, 1, 100), (600, 8, 64), (1024, 2, 96)])
def test_repeated_augmentation_is_the_published_sampler(samples, world, batch):
    """Each index three times, padded to a multiple of the replicas, dealt in turn; each keeps the first ones."""
    plans = [
        Batches(samples=samples, batch_size=batch, drop_last=False, seed=1, rank=rank, world=world, repeats=3)
        for rank in range(world)
    ]
    shuffled = torch.randperm(samples, generator=keyed_generator(1, 7, "order")).tolist()
    indices = [index for index in shuffled for _ in range(3)]
    padded = -(-len(indices) // world) * world
    indices += indices[: padded - len(indices)]
    kept = samples // 256 * 256 // world
    for rank, plan in enumerate(plans):
        order = plan.order(7)
        batches = [order[list(plan.own_positions(iteration))].tolist() for iteration in range(len(plan))]
        assert [len(own) for own in batches[:-1]] == [batch // world] * (len(batches) - 1)
        assert [index for own in batches for index in own] == indices[rank::world][:kept]


@pytest.mark.parametrize(("samples", "batch", "world"), [(1301, 64, 1), (1301, 64, 4), (1000, 48, 2)])
def test_a_kept_last_batch_is_the_published_one_but_for_its_padding(samples, batch, world):
    """Published loaders repeat the first samples so that replicas have equally many. Here no sample comes twice.

    A batch with less than two samples for a process is left out, see above.
    """
    plans = [
        Batches(samples=samples, batch_size=batch, drop_last=False, seed=1, rank=rank, world=world)
        for rank in range(world)
    ]
    padded = -(-samples // world) * world
    assert {len(plan) for plan in plans} == {-(-(padded // world) // (batch // world))}
    shares = [len(plan.own_positions(len(plan) - 1)) for plan in plans]
    assert sum(shares) == samples % batch
    assert max(shares) - min(shares) <= 1
    order = plans[0].order(0)
    seen = [order[place] for plan in plans for i in range(len(plan)) for place in plan.own_positions(i)]
    assert sorted(map(int, seen)) == list(range(samples))
