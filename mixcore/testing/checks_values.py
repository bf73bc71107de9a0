"""Checks of values: label weights, masks, which pixel comes from where, and what options promise."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from mixcore.api import Mix
from mixcore.testing.expect import expect, expect_well_formed
from mixcore.testing.harness import Harness, NotApplicableError, Subject

__all__ = [
    "lam_leans_as_pixels_do",
    "lam_of_zero_and_one",
    "masks_are_always_given",
    "masks_are_declared",
    "masks_are_shares",
    "masks_say_where_pixels_come_from",
    "one_lam_per_image",
    "probability_of_mixing",
    "weights_are_shares",
]

DRAWS = 8


def _mixes(
    harness: Harness, options: Mapping[str, Any] | None = None, count: int = 6, draws: int = DRAWS
) -> Iterator[tuple[Mix, Tensor]]:
    """The mixes of one batch at several iterations."""
    images, labels = harness.batch(count)
    step = harness.step(options=options)
    for iteration in range(draws):
        yield harness.mix(images, labels, iteration=iteration, step=step), images


def weights_are_shares(harness: Harness) -> None:
    """Label weights are at least 0, and those of one image sum to 1."""
    for mix, _ in _mixes(harness):
        lowest = mix.weights.min().item()
        expect(lowest >= 0, f"a label weight is {lowest:.4g}")
        if harness.subject.weights_sum_to_one:
            sums = mix.weights.sum(1)
            far = (sums - 1).abs().max().item()
            expect(far < 1e-5, f"label weights of one image sum to {sums.tolist()}, not 1")


def masks_are_shares(harness: Harness) -> None:
    """Masks lie in [0,1], sum to at most 1 over the sources, and have lam as their mean within 1/(H·W)."""
    height, width = harness.subject.image_size
    seen = False
    for mix, _ in _mixes(harness):
        if mix.masks is None:
            continue
        seen = True
        masks = mix.masks_on(height, width)
        low, high = masks.min().item(), masks.max().item()
        expect(low >= -1e-6 and high <= 1 + 1e-6, f"masks lie in [{low:.4g}, {high:.4g}], not in [0, 1]")
        if harness.subject.lam_is_mask_mean:
            far = (masks.mean((2, 3)) - mix.weights).abs().max().item()
            allowed = 1 / (height * width) + 1e-6
            expect(
                far <= allowed,
                f"label weights differ from the masks' means by {far:.4g}, more than 1/(H·W); recompute lam from the "
                "mask after clipping, or set lam_is_mask_mean = False where the method says otherwise",
            )
    if not seen:
        raise NotApplicableError("this mixer gives no masks")


def masks_are_always_given(harness: Harness) -> None:
    """A mixer that gives masks gives them on every call."""
    given = {mix.masks is not None for mix, _ in _mixes(harness)}
    if harness.has_option("prob"):
        given |= {mix.masks is not None for mix, _ in _mixes(harness, {"prob": 0.0})}
    expect(len(given) == 1, "masks came with some mixes only; give masks of ones where nothing was mixed")


def masks_are_declared(harness: Harness) -> None:
    """A mixer that provides "mask" gives masks that vary over the image, and no other does."""
    mixes = _mixes(harness, harness.subject.varied)
    masks = [mix.masks for mix, _ in mixes if mix.masks is not None]
    varies = any(bool((mask.amax((2, 3)) > mask.amin((2, 3))).any()) for mask in masks)
    provides = "mask" in getattr(harness.plugin, "provides", ())
    if provides:
        expect(bool(masks), 'provides = {"mask"}, but the mixes have none')
        expect(
            varies,
            'provides = {"mask"}, but the masks are constant over the image; a method that leaves noise whole declares '
            'options under which it does not: contract = {"varied": {...}}',
        )
    expect(
        provides or not varies,
        "masks vary over the image, but the class does not say so, and what needs masks refuses it: write provides = "
        'frozenset({"mask"})',
    )


def masks_say_where_pixels_come_from(harness: Harness) -> None:
    """Where a mask is 1 the pixel is that source's own; where all are 0 it is the last source's."""
    subject = harness.subject
    compared = 0
    for mix, images in _mixes(harness):
        if mix.masks is None or mix.stage is not None:
            continue
        for source, mask in enumerate(mix.masks_on(*images.shape[-2:]).unbind(1)):
            if not _keeps_pixels(subject, source):
                continue
            whole = (mask == 1)[:, None].expand_as(mix.images)
            expected = images[mix.sources[:, source]]
            compared += int(whole.sum())
            expect(
                bool((mix.images == expected)[whole].all()),
                f"pixels where source {source} has all the weight are not that source's; a mask is the weight of the "
                "image's own pixels (source 0), the last source has what all masks leave",
            )
    if not compared:
        raise NotApplicableError("no mask gives a pixel to one source alone")


def _keeps_pixels(subject: Subject, source: int) -> bool:
    """Whether the method leaves the pixels of this source where they were: source 0 is the image itself."""
    return subject.partner_pixels if source else subject.own_pixels


def lam_leans_as_pixels_do(harness: Harness) -> None:
    """Mixed images resemble the source of the largest label weight most: lam is the weight of the image's own label."""
    subject = harness.subject
    if not (subject.own_pixels and subject.partner_pixels):
        raise NotApplicableError("it moves or resizes the images that it mixes")
    if not subject.pixels_follow_lam:
        raise NotApplicableError("it says that what is shown does not follow lam")
    leaning = agreeing = 0
    for mix, images in _mixes(harness, draws=3 * DRAWS):
        if mix.sources.shape[1] < 2 or mix.images.shape[0] != images.shape[0]:
            continue
        mixed = mix.images if mix.transform is None else mix.transform(images)
        # noise resembles nothing but itself, so these are the shares of the sources in the mixed image
        shares = torch.stack([(mixed * images[rows]).flatten(1).sum(1) for rows in mix.sources.unbind(1)], 1)
        heaviest, second = mix.weights.topk(2, 1).values.unbind(1)
        clear = (heaviest - second > 0.4) & _all_different(mix.sources)
        leaning += int(clear.sum())
        agreeing += int((shares.argmax(1) == mix.weights.argmax(1))[clear].sum())
    if not leaning:
        raise NotApplicableError("no mix of several images has clearly different label weights")
    expect(
        agreeing > leaning / 2,
        f"only {agreeing} of {leaning} mixed images resemble the source with the largest label weight; lam is the "
        "weight of the image's own label (source 0), of a pair 1 - lam that of its partner's; a method that shows what "
        'it likes whatever lam is declares contract = {"pixels_follow_lam": False}',
    )


def _all_different(sources: Tensor) -> Tensor:
    """bool [M]: no row of the batch occurs twice among the sources [M,S] of an image."""
    ordered = sources.sort(1).values
    return (ordered[:, 1:] != ordered[:, :-1]).all(1)


def lam_of_zero_and_one(harness: Harness) -> None:
    """Draws of lam at the ends give finite, well-formed mixes; weight 1 leaves the image as it was, bit for bit."""
    subject = harness.subject
    if not subject.extremes or not harness.has_option(*subject.extremes):
        raise NotApplicableError(f"it has no option {', '.join(subject.extremes) or 'that draws lam at the ends'}")
    for mix, images in _mixes(harness, subject.extremes):
        expect_well_formed(mix, images, subject, f"with {dict(subject.extremes)}")
        if mix.stage is not None or mix.masks is None:
            continue
        for source in range(mix.sources.shape[1]):
            if not _keeps_pixels(subject, source):
                continue
            alone = (mix.weights[:, source] == 1) & (mix.masks_on(*images.shape[-2:])[:, source].flatten(1) == 1).all(1)
            rows = mix.images[alone]
            expected = images[mix.sources[:, source]][alone]
            expect(torch.equal(rows, expected), f"source {source} has weight 1, but the image is not its own bits")


def probability_of_mixing(harness: Harness) -> None:
    """Option `prob`: 0 leaves the batch as it is with lam 1, 0.5 mixes half of all batches."""
    if not harness.has_option("prob"):
        raise NotApplicableError("it has no option prob")
    images, labels = harness.batch(4)
    never = harness.step(options={"prob": 0.0})
    for iteration in range(5):
        mix = harness.mix(images, labels, iteration=iteration, step=never)
        expect(mix.transform is None and torch.equal(mix.images, images), "prob = 0, but the images changed")
        expect(bool((mix.lam == 1).all()), "prob = 0, but lam is not 1")
        expect(_unmixed(mix), "prob = 0, but an image has another one as its partner")
    half = harness.step(options={"prob": 0.5})
    trials = 300
    mixes = [harness.mix(images, labels, iteration=iteration, step=half) for iteration in range(trials)]
    # an image that kept all of itself was mixed too, if it was given a partner
    mixed = sum(not (_unmixed(mix) and torch.equal(mix.images, images)) for mix in mixes)
    # five standard deviations of a fair coin; a chance applied twice gives 75 with one of 7.5
    expect(abs(mixed - trials / 2) < 43, f"prob = 0.5 mixed {mixed} of {trials} batches; is the chance applied twice?")


def _unmixed(mix: Mix) -> bool:
    """Whether every image is its own only source."""
    own = torch.arange(len(mix.sources), device=mix.sources.device)[:, None]
    return bool((mix.sources == own).all())


def one_lam_per_image(harness: Harness) -> None:
    """Option `per_sample`: images of one batch get different lam."""
    if not harness.has_option("per_sample"):
        raise NotApplicableError("it has no option per_sample")
    most = max(mix.lam.unique().numel() for mix, _ in _mixes(harness, {"per_sample": True}, count=7))
    expect(most > 1, "per_sample = true, but all images of a batch have one lam")
