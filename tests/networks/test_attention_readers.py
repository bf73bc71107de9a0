"""Readers of attention: found by entry points, imported where attention is needed, and nowhere else."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import mixcore
from mixcore.errors import BrokenPluginError, ConfigError, MixcoreError, PluginConflictError
from mixcore.networks.network import Network, capabilities
from mixcore.networks.readers import attention_taps, has_attention
from mixcore.testing import tiny_network

GROUP = "mixcore.attention"
HEAD = "from timm.layers.attention import Attention as Block\nfrom mixcore.api import Attention, AttentionTap\n"
READER = HEAD + (
    "class Tap(AttentionTap):\n"
    "    reads = staticmethod(lambda module: type(module) is Block)\n"
    "    def connect(self, module, model, /): pass\n"
    "    def attention(self): return 3\n"
)


@pytest.fixture
def images() -> Tensor:
    return torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def vit() -> nn.Module:
    return tiny_network({"attention"}, 5, (16, 16), 3)


def plain() -> nn.Module:
    return tiny_network((), 5, (16, 16), 3)


def step(model: nn.Module, mix: object) -> nn.Module:
    return mixcore.create_step(model, mix=mix, num_classes=5, iterations=3, image_size=(16, 16))


ATTENDING = {"name": "saliencymix", "saliency": "attention"}


@pytest.fixture(
    params=[
        (None, "its own module odd_reader is missing"),
        ("from attrs import nothing_x", "ImportError while it was imported"),
        ("Tap = 3", "expected a subclass of mixcore.api.AttentionTap, found a int"),
        ("class Tap: pass", "expected a subclass of mixcore.api.AttentionTap, found class Tap"),
        (HEAD + "class Tap(AttentionTap):\n    def connect(self, a, b, /): pass", "does not define attention, reads"),
        (READER.replace("type(module) is Block", "1 / 0"), r"reads\(\) raises ZeroDivisionError at a "),
        (READER.replace("type(module) is Block", "None"), r"reads\(\) gives a NoneType, expected True or False"),
    ],
    ids=["missing", "import", "value", "class", "abstract", "raises", "no answer"],
)
def broken(request: pytest.FixtureRequest, install: Callable[..., None]) -> str:
    """A broken reader is installed; what is wrong with it."""
    source, fault = request.param
    sources = {} if source is None else {"odd_reader": source}
    install({"odd": "odd_reader:Tap"}, sources, distribution="odd-readers", version="0.3", group=GROUP)
    return fault


def test_a_broken_reader_matters_where_attention_is_read(broken: str) -> None:
    named = rf'odd \(odd-readers 0\.3\), entry point "odd = odd_reader:Tap": .*{broken}'
    with pytest.raises(BrokenPluginError, match=named):
        Network(vit(), attention=True)
    for model in (vit(), plain()):
        with pytest.raises(BrokenPluginError, match=named):
            step(model, ATTENDING)
        with pytest.raises(BrokenPluginError, match=named):
            mixcore.create_mixer(ATTENDING, model=model, num_classes=5)


def test_a_broken_reader_matters_nowhere_else(broken: str, images: Tensor) -> None:
    loss, _ = step(vit(), "saliencymix")(images, torch.arange(2))
    assert loss.isfinite()
    assert "odd_reader" not in sys.modules
    # a question is answered by those that work
    assert "attention" in capabilities(vit())
    assert capabilities(plain()) == {"stages", "features", "head", "tokens", "class_activation"}
    # and a refusal for another reason stays what it is
    with pytest.raises(ConfigError, match="needs class_activation of the backbone, and this one offers attention and"):
        step(vit(), {"name": "saliencymix", "saliency": "class_activation"})


def test_readers_are_not_imported_without_need(install: Callable[..., None], images: Tensor) -> None:
    install({"far": "far_reader:Tap"}, {"far_reader": READER}, distribution="far-readers", group=GROUP)
    step(vit(), "saliencymix")(images, torch.arange(2))
    assert "class_activation" in capabilities(plain())
    assert "far_reader" not in sys.modules
    assert "attention" not in capabilities(plain())
    assert "far_reader" in sys.modules


def test_two_that_read_a_module_are_named(install: Callable[..., None]) -> None:
    install({"twin": "twin_reader:Tap"}, {"twin_reader": READER}, distribution="twin-readers", group=GROUP)
    assert has_attention(vit())
    with pytest.raises(PluginConflictError) as caught:
        step(vit(), ATTENDING)
    message = str(caught.value)
    assert "the attention of 'blocks.0.attn' (Attention) is read by timm_vit (mixcore " in message
    assert "and twin (twin-readers 1.0)" in message
    assert message.endswith("Remove one: pip uninstall twin-readers")


OWN = READER.replace("from timm.layers.attention import Attention as", "from own_network import").replace(
    "    def connect(self, module, model, /): pass\n",
    "    def connect(self, module, model, /):\n        self.keep_output('x', module)\n",
)
NETWORK = "from torch import nn\nclass Block(nn.Identity): pass\n"


def own_network(install: Callable[..., None], reader: str) -> nn.Module:
    """A network with a block that `reader` reads, alone."""
    install({"own": "own_reader:Tap"}, {"own_reader": reader, "own_network": NETWORK}, group=GROUP)
    from own_network import Block

    return nn.Sequential(Block(), nn.Flatten(), nn.Linear(3 * 16 * 16, 5))


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ("return 3", r"own_reader\.Tap\.attention\(\) gives a int, expected an Attention"),
        ("return self.kept('y')", "the forward never called the attention block '0'"),
    ],
)
def test_results_that_are_none(install: Callable[..., None], images: Tensor, result: str, message: str) -> None:
    network = Network(own_network(install, OWN.replace("return 3", result)), attention=True)
    with pytest.raises(MixcoreError, match=message):
        network.forward(images, attention=True)
    assert network.forward(images).logits.shape == (2, 5)


def test_a_tap_that_cannot_be_made(install: Callable[..., None]) -> None:
    model = own_network(install, OWN.replace("'x', module", "'x', module.gone"))
    with pytest.raises(BrokenPluginError, match=r"own \(fake-plugins 1\.0\).*connect\(\) raises AttributeError at '0'"):
        Network(model, attention=True)


def test_a_copy_has_taps_of_its_own(images: Tensor) -> None:
    model = vit()
    taps = attention_taps(model, lambda hook: hook)
    twin = copy.deepcopy(model)
    for tap in taps:
        tap.listen()
    twin(images)
    with pytest.raises(MixcoreError, match=r"never called the attention block 'blocks\.0\.attn'"):
        taps[0].attention()
    model(images)
    first = taps[0].attention().queries
    model(images + 1)
    assert taps[0].attention().queries is first, "the first forward counts"
    taps[0].rest()
    with pytest.raises(MixcoreError, match="never called"):
        taps[0].attention()


@pytest.mark.parametrize(
    "points", [b"[mixcore.attention]\nodd\n", b"[mixcore.attention]\nodd = odd:Odd\n", b"\xff\xfe"]
)
def test_broken_metadata_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, points: bytes) -> None:
    info = tmp_path / "odd_dist-1.0.dist-info"
    info.mkdir()
    (info / "entry_points.txt").write_bytes(points)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert len(attention_taps(vit(), lambda hook: hook)) == 2
