"""Training crops that the fine-grained sets share."""

from __future__ import annotations

import attrs

from mixcore_plugins_builtin.data.folder_transforms import Interpolation
from mixcore_plugins_builtin.data.published import PublishedSet

__all__ = ["FineGrained"]


@attrs.define(eq=False, kw_only=True)
class FineGrained(PublishedSet):
    """Crops that keep most of an object whose class is told by its details."""

    resize: int = attrs.field(default=256, validator=attrs.fields(PublishedSet).resize.validator)
    """Pixels that the short side of a training image is brought to before its crop; 0: cropped as it is."""
    scale: tuple[float, float] = attrs.field(default=(0.5, 1.0), validator=attrs.fields(PublishedSet).scale.validator)
    """Share of the image's area that the random crop takes, from and to, in (0,1]."""
    interpolation: Interpolation = attrs.field(
        default="bilinear", validator=attrs.fields(PublishedSet).interpolation.validator
    )
    """How crops are brought to their size, in training and validation."""
