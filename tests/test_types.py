"""The containers that pass between the core and plugins."""

from __future__ import annotations

import pickle
import pkgutil
from importlib import import_module

import pytest
import torch

import mixcore.types
from mixcore.errors import MixcoreError
from mixcore.types import Attention, Mix, Step, Targets


def test_a_pair_reads_back_its_partner_lam_and_mask() -> None:
    mask = torch.tensor([0.25, 0.75]).reshape(2, 1, 1, 1)
    mix = Mix.pair(torch.rand(2, 3, 4, 4), torch.tensor([1, 0]), torch.tensor([0.25, 0.75]), mask)
    assert mix.partner.tolist() == [1, 0]
    assert mix.lam.tolist() == [0.25, 0.75]
    assert mix.mask is mask or torch.equal(mix.mask, mask)
    torch.testing.assert_close(mix.weights, torch.tensor([[0.25, 0.75], [0.75, 0.25]]))


def test_a_pair_takes_one_number_for_all_rows() -> None:
    mix = Mix.pair(torch.rand(3, 1, 2, 2), torch.tensor([1, 2, 0]), 0.3)
    torch.testing.assert_close(mix.weights, torch.tensor([[0.3, 0.7]] * 3))
    assert mix.sources.tolist() == [[0, 1], [1, 2], [2, 0]]
    for lam in (0.0, 1.0):
        assert Mix.pair(mix.images, mix.partner, lam).weights.tolist() == [[lam, 1 - lam]] * 3


def test_a_pair_refuses_a_ratio_of_another_shape() -> None:
    with pytest.raises(MixcoreError, match=r"shape \[\]; expected \[3\]"):
        Mix.pair(torch.rand(3, 1, 2, 2), torch.tensor([1, 2, 0]), torch.tensor(0.3))


def test_a_clean_mix_is_its_own_partner_with_weight_one_and_no_mask() -> None:
    mix = Mix.clean(torch.rand(3, 1, 2, 2))
    assert mix.partner.tolist() == [0, 1, 2]
    assert mix.lam.tolist() == [1, 1, 1]
    assert mix.mask is None
    assert mix.masks_on(2, 2).eq(1).all()


def test_masks_on_samples_the_nearest_pixel_below() -> None:
    mask = torch.arange(16.0).reshape(1, 1, 4, 4) / 16
    mix = Mix.pair(torch.rand(1, 3, 8, 8), torch.tensor([0]), torch.ones(1), mask)
    assert torch.equal(mix.masks_on(2, 2)[0, 0], mask[0, 0, ::2, ::2])
    assert torch.equal(mix.masks_on(8, 8)[0, 0, 1::2, 1::2], mask[0, 0])
    assert torch.equal(mix.masks_on(3, 3)[0, 0], mask[0, 0][[0, 1, 2]][:, [0, 1, 2]])
    torch.testing.assert_close(mix.masks_on(2, 2).sum(1), torch.ones(1, 2, 2))


def test_masks_on_says_when_a_mix_has_none() -> None:
    mix = Mix.pair(torch.rand(1, 3, 8, 8), torch.tensor([0]), torch.ones(1))
    with pytest.raises(MixcoreError, match="no masks"):
        mix.masks_on(2, 2)


def test_masks_vary_where_they_have_more_than_one_cell() -> None:
    images, partner = torch.rand(2, 3, 8, 8), torch.tensor([1, 0])
    assert Mix.clean(images).varying_masks is None
    assert Mix.pair(images, partner, 0.5, torch.full((2, 1, 1, 1), 0.5)).varying_masks is None
    mix = Mix.pair(images, partner, 0.5, torch.full((2, 1, 1, 2), 0.5))
    assert mix.varying_masks is mix.masks


def test_areas_on_takes_the_mean_over_each_cell() -> None:
    mask = torch.arange(16.0).reshape(1, 1, 4, 4) / 16
    mix = Mix.pair(torch.rand(1, 3, 8, 8), torch.tensor([0]), torch.ones(1), mask)
    expected = mask[0, 0].unflatten(0, (2, 2)).unflatten(2, (2, 2)).mean((1, 3))
    torch.testing.assert_close(mix.areas_on(2, 2)[0, 0], expected)
    torch.testing.assert_close(mix.areas_on(2, 2).sum(1), torch.ones(1, 2, 2))
    for size in (4, 8):
        torch.testing.assert_close(mix.areas_on(size, size), mix.masks_on(size, size))
    assert Mix.clean(torch.rand(3, 1, 2, 2)).areas_on(2, 2).eq(1).all()
    with pytest.raises(MixcoreError, match="no masks"):
        Mix.pair(mix.images, torch.tensor([0]), torch.ones(1)).areas_on(2, 2)


def test_dense_targets_of_classes_add_equal_classes_and_smooth_once() -> None:
    """Examples 2 and 3 of the Mixup specification."""
    labels, sources = torch.tensor([0, 2]), torch.tensor([[0, 1], [1, 0]])
    weights = torch.tensor([[0.25, 0.75], [0.25, 0.75]])
    targets = Targets(labels=labels, sources=sources, weights=weights)
    torch.testing.assert_close(targets.dense(3), torch.tensor([[0.25, 0, 0.75], [0.75, 0, 0.25]]))
    torch.testing.assert_close(targets.dense(3, smoothing=0.3)[0], torch.tensor([0.275, 0.1, 0.625]))
    smoothed = Targets(labels=labels, sources=sources, weights=weights, smooth=False)
    torch.testing.assert_close(smoothed.dense(3, smoothing=0.3), targets.dense(3))
    same = Targets(labels=torch.tensor([1, 1]), sources=sources, weights=weights)
    torch.testing.assert_close(same.dense(2), torch.tensor([[0.0, 1], [0, 1]]))


def test_dense_targets_of_soft_labels_equal_those_of_their_classes() -> None:
    labels = torch.tensor([0, 2, 1])
    sources, weights = torch.tensor([[0, 1], [1, 2], [2, 0]]), torch.tensor([[0.2, 0.8], [0.5, 0.5], [1.0, 0.1]])
    hard = Targets(labels=labels, sources=sources, weights=weights)
    soft = Targets(labels=torch.nn.functional.one_hot(labels).float(), sources=sources, weights=weights)
    torch.testing.assert_close(soft.dense(3, 0.1), hard.dense(3, 0.1))


def test_weights_given_to_targets_are_detached() -> None:
    mix = Mix.clean(torch.rand(2, 1, 2, 2))
    weights = torch.ones(2, 1, requires_grad=True)
    assert not mix.targets(torch.tensor([0, 1]), weights * 2).weights.requires_grad


def test_attention_sums_agree_with_the_whole_matrix() -> None:
    generator = torch.Generator().manual_seed(0)
    queries, keys = (torch.randn(2, 3, 5, 4, generator=generator) for _ in range(2))
    attention = Attention(queries, keys, 0.5, 1)
    matrix = (0.5 * queries @ keys.transpose(-2, -1)).softmax(-1).mean(1)
    torch.testing.assert_close(attention.row(), matrix[:, 0, 1:])
    torch.testing.assert_close(attention.received(), matrix[:, 1:, 1:].mean(1))
    assert torch.equal(attention.on_patches(), attention.row())
    registers = Attention(queries, keys, 0.5, 1, class_token=False)
    assert torch.equal(registers.on_patches(), registers.received())
    weights = torch.rand(2, 5, generator=generator)
    torch.testing.assert_close(attention.apply(weights), (matrix @ weights[..., None])[..., 0])
    with pytest.raises(MixcoreError, match=r"received\(\)"):
        Attention(queries, keys, 0.5, 0).row()


def test_shared_draws_ignore_the_group_and_device_draws_do_not() -> None:
    first, second = (Step(epoch=1, epochs=2, iteration=3, iterations=4, group=group) for group in (0, 1))

    def draw(generator: torch.Generator) -> float:
        return torch.rand((), generator=generator).item()

    assert draw(first.shared_rng("a")) == draw(second.shared_rng("a"))
    assert draw(first.shared_rng("a")) != draw(first.shared_rng("b"))
    assert draw(first.device_rng("a")) != draw(second.device_rng("a"))
    assert first.progress == 0.75


def test_every_type_is_found_where_it_always_was() -> None:
    """What was pickled before the types had modules of their own names them so."""
    rooms = [import_module(f"mixcore.types.{found.name}") for found in pkgutil.iter_modules(mixcore.types.__path__)]
    assert sorted(name for room in rooms for name in room.__all__) == sorted(mixcore.types.__all__)
    for name in ("Batch", "Data", "Mix", "Part", "Step", "Task"):
        assert pickle.loads(f"cmixcore.types\n{name}\n.".encode()) is getattr(mixcore.types, name)
