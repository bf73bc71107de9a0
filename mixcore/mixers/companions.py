"""What plugins read of a foreign loop's batch beside images and labels, and whether it was handed over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs
import torch
from torch import Tensor

from mixcore.data.checks import layout
from mixcore.discovery.plugins import Plugins
from mixcore.errors import ConfigError, DataError
from mixcore.mixers.tensors import together

__all__ = ["Companions", "companions_of"]


@attrs.frozen(eq=False, kw_only=True)
class Companions:
    """The maps and further augmentations that each batch must have."""

    call: str
    """What the loop calls, "mixer" or "step"."""
    readers: Mapping[str, str]
    """Map -> the label of a plugin that reads it."""
    augmentations: int
    augmenting: str
    """The label of the plugin that wants so many."""

    def check(self, images: Tensor, index: object, maps: object, augmented: object) -> None:
        """Refuse what plugins miss and what is not of these images. Raises DataError.

        Expected: `index` None or int64 [N], `maps` None or floating [N,c,H,W] by name, `augmented` images like these.
        """
        if index is not None:
            _check_index(index, images)
        if maps is not None or self.readers:
            self._check_maps(maps, images)
        self._check_augmented(augmented, images)

    def refuse_pairs(self) -> None:
        """Raises ConfigError where images and labels are not all that a batch must have."""
        read = [(reader, f"the map {name!r}") for name, reader in self.readers.items()]
        if self.augmentations:
            read.append((self.augmenting, "further augmentations"))
        if read:
            reader, what = read[0]
            raise ConfigError(
                f"{reader} reads {what} of a batch, which a function of images and labels cannot hand over; call the "
                "mixer itself: mix = mixer(images, labels, ...)"
            )

    def _check_maps(self, maps: object, images: Tensor) -> None:
        rows, _, height, width = images.shape
        expected = f"[{rows},c,{height},{width}]"
        maps = {} if maps is None else maps
        if not isinstance(maps, Mapping):
            raise DataError(f"maps is a {type(maps).__name__}; expected maps by name: {self._with_map('objects')}")
        for name, reader in self.readers.items():
            if name not in maps:
                there = f"the maps {', '.join(map(str, maps))}" if maps else "no maps"
                raise DataError(
                    f"{reader} reads the map {name!r}, and this batch has {there}; hand it over, floating {expected} "
                    f"in [0,1]: {self._with_map(name)}"
                )
        for name, found in maps.items():
            if not (isinstance(found, Tensor) and found.ndim == 4 and _places(found) == _places(images)):
                raise DataError(f"the map {name!r} is {_found(found)}; expected {expected}")
            if not found.is_floating_point():
                way = f"{name}.float() / 255" if found.dtype == torch.uint8 else f"{name}.float()"
                raise DataError(f"the map {name!r} is {layout(found)}; expected floating values in [0,1]: {way}")
            _check_place(f"the map {name!r}", found, images)

    def _with_map(self, name: str) -> str:
        return f'{self.call}(images, labels, maps={{"{name}": ...}})'

    def _check_augmented(self, augmented: object, images: Tensor) -> None:
        if not isinstance(augmented, Sequence):
            raise DataError(
                f"augmented is {_found(augmented)}; expected a tuple of images: {self.call}(images, labels, "
                "augmented=(again, ...))"
            )
        if len(augmented) < self.augmentations:
            one = self.augmentations == 1
            raise DataError(
                f"{self.augmenting} reads {self.augmentations} further augmentation{'' if one else 's'} of each batch, "
                f"and this one has {len(augmented) or 'none'}; hand {'it' if one else 'them'} over, "
                f"{layout(images)}{'' if one else ' each'}: {self.call}(images, labels, "
                "augmented=(again, ...))"
            )
        for number, found in enumerate(augmented):
            if not (isinstance(found, Tensor) and found.shape == images.shape and found.dtype == images.dtype):
                raise DataError(f"augmentation {number} is {_found(found)}; expected {layout(images)} as the images")
            _check_place(f"augmentation {number}", found, images)


def companions_of(plugins: Plugins, call: str) -> Companions:
    """What these plugins declare."""
    chosen = plugins.selected
    most = max(chosen, key=lambda item: item.declared.augmentations)
    return Companions(
        call=call,
        readers={name: item.label for item in reversed(chosen) for name in item.declared.maps},
        augmentations=most.declared.augmentations,
        augmenting=most.label,
    )


def _check_index(index: object, images: Tensor) -> None:
    if not (isinstance(index, Tensor) and index.dtype == torch.int64 and index.shape == images.shape[:1]):
        raise DataError(f"index is {_found(index)}; expected int64 [{images.shape[0]}], a row of the set per image")
    _check_place("index", index, images)


def _check_place(what: str, found: Tensor, images: Tensor) -> None:
    if not together(found.device, images.device):
        raise DataError(
            f"images are on {images.device}, {what} on {found.device}; bring them together: .to(images.device)"
        )


def _places(tensor: Tensor) -> tuple[int, ...]:
    return (tensor.shape[0], *tensor.shape[-2:])


def _found(value: object) -> str:
    return layout(value) if isinstance(value, Tensor) else f"a {type(value).__name__}"
