"""What of the batch a class declares that it wants: `augmentations` and `maps`."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from mixcore.discovery.capabilities import check_maps
from mixcore.discovery.declared import declared
from mixcore.discovery.manager import build_method_plugins, register_alone
from mixcore.errors import BrokenPluginError, ConfigError
from mixcore_plugins_builtin.data.fake import Fake
from mixcore_plugins_builtin.data.image_folder import ImageFolder


@attrs.define(eq=False, kw_only=True)
class Asking:
    """An extra that asks for whatever a test says."""

    count: Any = 0
    names: Any = ()

    @property
    def augmentations(self) -> Any:
        return self.count

    @property
    def maps(self) -> Any:
        return self.names


def test_a_run_asks_for_the_most_augmentations_and_for_every_map() -> None:
    extras = [Asking(count=2, names=("objects",)), Asking(count=1, names=("depth", "objects"))]
    plugins = build_method_plugins(extra=extras)
    assert plugins.augmentations == 2
    assert plugins.maps == ("objects", "depth")
    plain = build_method_plugins(mix="none")
    assert (plain.augmentations, plain.maps) == (0, ())


@pytest.mark.parametrize("count", [-1, 1.0, True, "1"])
def test_a_number_of_augmentations_that_has_no_meaning(count: Any) -> None:
    with pytest.raises(BrokenPluginError, match=r"Asking.*: augmentations is .*, expected how many further"):
        build_method_plugins(extra=[Asking(count=count)])


@pytest.mark.parametrize("names", ["objects", (1,), {"objects": "folder"}, None])
def test_names_of_maps_that_are_none(names: Any) -> None:
    with pytest.raises(BrokenPluginError, match=r'Asking.*: maps is .*, expected the names of maps, such as \("obj'):
        build_method_plugins(extra=[Asking(names=names)])


def test_a_map_that_the_data_does_not_give_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mixcore.discovery.survey.LIMIT", 0)  # naming those that give one imports all that is installed
    plugins = build_method_plugins(extra=[Asking(names=("depth", "objects"))])
    check_maps(plugins, ("objects", "depth", "more"))
    with pytest.raises(ConfigError, match=r"Asking.* reads the map depth, and the data gives the maps more, objects; "):
        check_maps(plugins, ("objects", "more"))
    with pytest.raises(
        ConfigError, match=r"reads the maps depth, objects, and the data gives no maps; name a \[data\] that"
    ):
        check_maps(plugins, ())


def test_a_map_that_is_refused_names_the_option_that_gives_it() -> None:
    plugins = build_method_plugins(extra=[Asking(names=("depth", "objects"))])
    own = register_alone(ImageFolder(), "data", "image_folder").calls
    plugins = attrs.evolve(plugins, of={**plugins.of, "data": (own,)})
    with pytest.raises(ConfigError, match=r'objects; set map_folders = \{ depth = "FOLDER" \} in \[data\], or take'):
        check_maps(plugins, ("objects",))


def test_a_map_that_is_refused_names_the_data_that_can_give_it(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = {name: declared(cls(), name) for name, cls in {"fake": Fake, "image_folder": ImageFolder}.items()}
    monkeypatch.setattr("mixcore.discovery.capabilities.installed_plugins", lambda role: installed.items())
    with pytest.raises(ConfigError) as caught:
        check_maps(build_method_plugins(extra=[Asking(names=("depth",))]), ())
    assert 'fake by object_map = "depth", image_folder by map_folders = { depth = "FOLDER" }' in str(caught.value)


@attrs.define(eq=False, kw_only=True)
class Given:
    """Data that says of its maps whatever a test says."""

    role = "data"
    setting: Any

    @property
    def gives_maps(self) -> Any:
        return self.setting


@pytest.mark.parametrize("setting", ["folders", 3, None])
def test_a_setting_that_names_no_map(setting: Any) -> None:
    with pytest.raises(
        BrokenPluginError, match=r"given: gives_maps is .*, expected the setting by which it gives a map"
    ):
        declared(Given(setting=setting), "given")
