"""Checks of what an owner of one role hands to the core: label weights, a loss, a network, data sets."""

from __future__ import annotations

from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from mixcore.api import Data, Resident, Task
from mixcore.data.loader import Loader, build_eval_loader, build_train_loader
from mixcore.data.maps import given_maps
from mixcore.networks.interface import has_interface, logits_of
from mixcore.networks.stages import stage_names
from mixcore.testing.expect import expect
from mixcore.testing.fakes import Bands, Neighbours, TinyConvNet
from mixcore.testing.harness import Harness, NotApplicableError, companions

__all__ = [
    "batches_fit_the_task",
    "epochs_repeat",
    "label_weights",
    "logits_fit_the_task",
    "maps_fit_the_images",
    "no_memory",
    "splits_differ",
    "the_loss_heeds_the_weights",
    "the_loss_is_a_mean",
    "timm_interface",
    "two_steps_on_it",
]

BATCH = 4
ROWS = 6


def label_weights(harness: Harness) -> None:
    """Label weights [M,S] are finite, at least 0, carry no graph, and those of one image sum to 1."""
    steps = (harness.step(), harness.step(mix=[Bands()]))
    for iteration in range(4):
        images, labels = harness.batch(seed=iteration)
        mix, targets = harness.mix_and_targets(images, labels, iteration=iteration, step=steps[iteration % 2])
        weights = targets.weights
        expect(weights.shape == mix.weights.shape, f"weights {list(weights.shape)} of mix {list(mix.weights.shape)}")
        expect(bool(weights.isfinite().all()), "a label weight is not finite")
        expect(weights.min().item() >= 0, f"a label weight is {weights.min().item():.4g}")
        expect(not weights.requires_grad, "label weights carry a graph; detach what is returned as data")
        far = (weights.sum(1) - mix.weights.sum(1)).abs().max().item()
        expect(
            far < 1e-4 or not harness.subject.weights_sum_to_one,
            f"label weights of one image sum to {weights.sum(1).tolist()}, not 1; divide by their sum, or declare "
            'contract = {"weights_sum_to_one": False} where the method is defined so',
        )


def the_loss_heeds_the_weights(harness: Harness) -> None:
    """Other label weights give another loss."""
    own, other = (_view_loss(harness, Neighbours(rows=ROWS, lam=lam)) for lam in (0.2, 0.9))
    expect(
        abs(own - other) > 1e-6 * abs(own),
        f"the loss is {own:.6g} whatever the label weights are; it is told targets.sources and targets.weights, or "
        "targets.dense(num_classes)",
    )


def the_loss_is_a_mean(harness: Harness) -> None:
    """A batch that is repeated has the loss of the batch: the mean over the rows, not their sum."""
    once, twice = (_view_loss(harness, Neighbours(rows=ROWS), times) for times in (1, 2))
    expect(
        abs(twice - once) < 1e-3 * max(abs(once), 1e-3),
        f"the loss of a batch is {once:.6g}, of the same batch twice in one {twice:.6g}; take the mean over the rows "
        "after per-sample weights are applied",
    )


def _view_loss(harness: Harness, mixer: Neighbours, times: int = 1) -> float:
    """What compute_loss gives for the mix of a batch, repeated."""
    images, labels = harness.batch(ROWS)
    images, labels = torch.cat([images] * times), torch.cat([labels] * times)
    step = harness.step(mix=[mixer])
    _, report = step(images, labels, epoch=0, iteration=0, **companions(step, images))
    return report.losses["mix"].item()


def logits_fit_the_task(harness: Harness) -> None:
    """The network makes logits [M,K] of images, as a tensor or as an output with `.logits`."""
    model = harness.step().model.eval()
    images, _ = harness.batch(3)
    with torch.no_grad():
        logits = logits_of(model(images))
    expect(list(logits.shape) == [3, harness.task().num_classes], f"logits are {list(logits.shape)} of 3 images")


def timm_interface(harness: Harness) -> None:
    """What the network has of timm's interface agrees: its halves with the whole, its names with its modules."""
    model: Any = harness.step().model.eval()
    modules = dict(model.named_modules())
    stages = stage_names(model)
    for stage in stages:
        expect(stage in modules, f"feature_info names {stage!r}, which is no module of the network")
    if has_interface(model):
        _halves_agree(model, harness.batch(3)[0])
    elif not stages:
        raise NotApplicableError("a plain module: it has nothing of timm's interface, and offers nothing that needs it")


def _halves_agree(model: Any, images: Tensor) -> None:
    with torch.no_grad():
        features = model.forward_features(images)
        logits, pooled = model.forward_head(features), model.forward_head(features, pre_logits=True)
        whole = logits_of(model(images))
    expect(torch.allclose(logits, whole, atol=1e-4), "forward(x) is not forward_head(forward_features(x))")
    expect(isinstance(model.get_classifier(), nn.Module), "get_classifier gives no module")
    width = getattr(model, "head_hidden_size", None) or model.num_features
    expect(list(pooled.shape) == [3, width], f"the head's input is {list(pooled.shape)}, num_features says {width}")


def no_memory(harness: Harness) -> None:
    """In eval mode an image's logits do not depend on its neighbours, and the forward changes no buffer."""
    model = harness.step().model.eval()
    images, _ = harness.batch(3)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        together, alone = logits_of(model(images)), logits_of(model(images[:1]))
    expect(torch.allclose(together[:1], alone, atol=1e-4), "an image's logits depend on the other images of the batch")
    for name, value in model.state_dict().items():
        expect(torch.equal(value, before[name]), f"{name} changed in eval mode")


def _data(harness: Harness) -> Data:
    return harness.owner(harness.plugins()).build_data()


def _training(data: Data, device: torch.device, augmentations: int = 0, maps: tuple[str, ...] = ()) -> Loader:
    return build_train_loader(
        data,
        batch_size=BATCH,
        workers=0,
        drop_last=True,
        seed=0,
        rank=0,
        world=1,
        device=device,
        channels_last=False,
        augmentations=augmentations,
        maps=maps,
    )


def _loaders(data: Data, device: torch.device) -> dict[str, Loader]:
    return {
        "training": _training(data, device),
        "validation": build_eval_loader(
            data, batch_size=BATCH, workers=0, rank=0, world=1, device=device, channels_last=False
        ),
    }


def batches_fit_the_task(harness: Harness) -> None:
    """Batches of both splits have the task's shape and kind of labels, and finite float32 images."""
    data = _data(harness)
    task = data.task
    shape = [BATCH, task.in_channels, *task.image_size]
    for split, loader in _loaders(data, harness.device).items():
        for images, labels in islice(loader.epoch(0), 2):
            found = f"{images.dtype} {list(images.shape)}"
            expect(images.dtype == torch.float32, f"{split} images are {found}, expected float32")
            expect(list(images.shape[1:]) == shape[1:], f"{split} images are {found}, the task says {shape[1:]}")
            expect(bool(images.isfinite().all()), f"{split} images are not finite")
            _expect_labels(labels, task, split)


def _expect_labels(labels: Tensor, task: Task, split: str) -> None:
    low, high, classes = labels.min().item(), labels.max().item(), task.num_classes
    if task.label_kind == "class":
        expect(labels.dtype == torch.int64, f"{split} labels are {labels.dtype}, expected int64")
        expect(low >= 0 and high < classes, f"{split} labels lie in {low}..{high}, the task has {classes} classes")
    else:
        expect(labels.is_floating_point(), f"{split} labels are {labels.dtype}, expected floating point")
        expect(labels.shape[1:] == (classes,), f"{split} labels are {list(labels.shape)} of {classes} classes")
    if task.label_kind == "soft":
        far = (labels.sum(1) - 1).abs().max().item()
        expect(far < 1e-4, f"rows of soft {split} labels sum to up to {far:.4g} away from 1")
    if task.label_kind == "multi_label":
        expect(bool(((labels == 0) | (labels == 1)).all()), f"{split} labels are not all 0 or 1")


def maps_fit_the_images(harness: Harness) -> None:
    """Maps of training images are float32 [N,c,H,W] in [0,1]; reading them, and again, changes no image."""
    data = _data(harness)
    maps = given_maps(data)
    if not maps:
        raise NotApplicableError("its training set gives no maps")
    asked = _training(data, harness.device, augmentations=1, maps=maps)
    plain = _training(data, harness.device)
    for with_maps, without in islice(zip(asked.epoch(0), plain.epoch(0), strict=True), 2):
        expect(torch.equal(with_maps.images, without.images), "images are others where their maps are read")
        height, width = with_maps.images.shape[2:]
        for name, found in with_maps.maps.items():
            told = f"the map {name!r} is {list(found.shape)} of images of {height}x{width}"
            expect(found.shape[0] == BATCH and found.shape[2:] == (height, width), told)
            low, high = found.min().item(), found.max().item()
            expect(low >= 0 and high <= 1, f"the map {name!r} lies in [{low:.4g}, {high:.4g}], not in [0, 1]")


def splits_differ(harness: Harness) -> None:
    """No image of the first validation batch is among the first training images."""
    data = _data(harness)
    if isinstance(data.train, Resident) and isinstance(data.validation, Resident):
        some, train = data.validation.images[:BATCH].cpu(), data.train.images[:2000].cpu()
        same_size = some.shape[1:] == train.shape[1:]
        again = same_size and bool((train[:, None] == some[None]).flatten(2).all(2).any())
        expect(not again, "a validation image is a training image too")


def epochs_repeat(harness: Harness) -> None:
    """Built twice, the first batch of an epoch is the same bit for bit; another epoch has another order."""
    first, second = (_loaders(_data(harness), harness.device)["training"] for _ in range(2))
    images, labels = next(iter(first.epoch(0)))
    again, same = next(iter(second.epoch(0)))
    expect(torch.equal(images, again) and torch.equal(labels, same), "the same seed and epoch gave another first batch")
    other, _ = next(iter(first.epoch(1)))
    expect(not torch.equal(images, other), "epoch 1 begins with the same batch as epoch 0")


def two_steps_on_it(harness: Harness) -> None:
    """A tiny network takes two optimizer steps on it and its loss stays finite."""
    data = _data(harness)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = TinyConvNet(data.task.num_classes, data.task.in_channels).to(harness.device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for images, labels in islice(_loaders(data, harness.device)["training"].epoch(0), 2):
        logits = model(images)
        criterion = nn.functional.cross_entropy if data.task.label_kind in ("class", "soft") else nn.functional.mse_loss
        loss = criterion(logits, labels)
        expect(bool(loss.isfinite()), f"the loss is {loss.item()}")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
