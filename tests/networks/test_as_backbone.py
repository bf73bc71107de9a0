"""`as_backbone`: timm's interface by the names of a network's own modules, its outputs and names unchanged."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
import torchvision
from torch import Tensor, nn

import mixcore
from mixcore.errors import ConfigError
from mixcore.evidence.activation import class_activation
from mixcore.networks.network import Network, capabilities
from mixcore.networks.shapes import head_width
from mixcore.networks.stages import stage_names
from mixcore.types import Task

IMAGES = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(1))
SPLIT = {"features", "head", "tokens"}


def named(name: str, **options: object) -> nn.Module:
    torch.manual_seed(0)
    return torchvision.models.get_model(name, num_classes=5, **options)


class Own(nn.Module):
    """Convolutions, then `between` them and the classifier whatever is given; `after` changes the logits."""

    def __init__(self, between: Callable[[Tensor], Tensor], width: int = 8, after: float = 1.0) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.drop = nn.Dropout(0.5)
        self.end = nn.Linear(width, 5)
        self.between, self.after = between, after

    def forward(self, images: Tensor) -> Tensor:
        return self.end(self.between(self.body(images))) * self.after


def mean(maps: Tensor) -> Tensor:
    return maps.mean((2, 3))


@pytest.mark.parametrize(
    ("name", "features", "classifier", "offered", "stages"),
    [
        ("resnet18", "layer4", "fc", {"class_activation", "stages"}, ("layer1", "layer2", "layer3", "layer4")),
        ("mobilenet_v3_small", "features", "classifier", {"stages"}, ("features",)),
        ("swin_t", "norm", "head", {"class_activation", "stages"}, ("norm",)),
        ("vit_b_32", "encoder", "heads", set(), ()),
    ],
)
def test_features_and_head_are_the_network(
    name: str, features: str, classifier: str, offered: set[str], stages: tuple[str, ...]
) -> None:
    options = {"image_size": 64} if name.startswith("vit") else {}
    module = named(name, **options)
    backbone = mixcore.as_backbone(module, features=features, classifier=classifier, image_size=(64, 64))
    assert capabilities(backbone) == SPLIT | offered
    assert stage_names(backbone) == stages
    backbone.eval()
    assert torch.equal(backbone(IMAGES), module(IMAGES))
    assert torch.equal(backbone.forward_head(backbone.forward_features(IMAGES)), module(IMAGES))
    task = Task(num_classes=5, in_channels=3, image_size=(64, 64), mean=(0.0,) * 3, std=(1.0,) * 3)
    assert head_width(backbone, task) == backbone.num_features


def test_names_tensors_and_mode_are_those_of_the_module() -> None:
    module = named("resnet18")
    before = copy.deepcopy(module.state_dict())
    backbone = mixcore.as_backbone(module, features="layer4", classifier="fc", image_size=(64, 64))
    assert list(backbone.state_dict()) == list(before)
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items()), "looking moved it"
    assert dict(backbone.named_modules()).keys() == dict(module.named_modules()).keys()
    assert all(one is other for one, other in zip(backbone.parameters(), module.parameters(), strict=True))
    backbone.eval()
    assert not module.training
    assert not module.layer1.training
    module.train()
    assert backbone.training
    backbone.fc = nn.Linear(512, 7)
    assert backbone(IMAGES).shape == module(IMAGES).shape == (3, 7)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))])
def test_a_copy_stands_alone(copied: Callable[[nn.Module], nn.Module]) -> None:
    backbone = mixcore.as_backbone(named("resnet18"), features="layer4", classifier="fc", image_size=(64, 64)).eval()
    other = copied(backbone)
    with torch.no_grad():
        backbone.fc.weight.zero_()
        other.to(torch.float64)
    logits = other.forward_head(other.forward_features(IMAGES.double()))
    assert torch.equal(logits, other(IMAGES.double()))
    assert not torch.allclose(logits.float(), backbone(IMAGES), atol=1e-3)
    assert not other.train().eval().training


def test_training_by_halves_is_training_the_whole() -> None:
    whole, halves = named("resnet18"), named("resnet18")
    backbone = mixcore.as_backbone(halves, features="layer4", classifier="fc", image_size=(64, 64))
    labels = torch.arange(3)
    for logits in (whole(IMAGES), backbone.forward_head(backbone.forward_features(IMAGES))):
        nn.functional.cross_entropy(logits, labels).backward()
    for one, other in zip(whole.parameters(), halves.parameters(), strict=True):
        assert torch.equal(one.grad, other.grad)
    assert all(torch.equal(value, halves.state_dict()[name]) for name, value in whole.state_dict().items())


def test_class_activation_sums_to_the_logit_without_its_bias() -> None:
    backbone = mixcore.as_backbone(named("resnet18"), features="layer4", classifier="fc", image_size=(64, 64)).eval()
    labels = torch.tensor([0, 3, 4])
    maps = class_activation(Network(backbone), IMAGES, labels)
    logits = backbone(IMAGES).gather(1, labels[:, None])[:, 0] - backbone.fc.bias[labels]
    assert maps.shape == (3, 2, 2)
    assert torch.allclose(maps.mean((1, 2)), logits, atol=1e-4)


def test_flattened_positions_have_weights_of_their_own() -> None:
    module = Own(lambda maps: maps.flatten(1), width=8 * 16 * 16)
    backbone = mixcore.as_backbone(module, features="body", classifier="end", image_size=(32, 32)).eval()
    images = IMAGES[..., :32, :32]
    assert torch.equal(backbone.forward_head(backbone.forward_features(images)), module(images))
    assert capabilities(backbone) == SPLIT | {"stages"}


def test_what_lies_between_and_cannot_be_run_again_is_refused() -> None:
    def wrap(module: nn.Module, **names: str) -> nn.Module:
        return mixcore.as_backbone(module, **{"features": "body", "classifier": "end", **names}, image_size=(32, 32))

    assert wrap(Own(mean)).num_features == 8
    with pytest.raises(ConfigError, match="does something else than the mean over positions"):
        wrap(Own(lambda maps: maps.amax((2, 3))))
    dropping = Own(mean)
    dropping.between = lambda maps: dropping.drop(mean(maps))
    with pytest.raises(ConfigError, match=r"holds dropout and classifier"):
        wrap(dropping)
    with pytest.raises(ConfigError, match="does not end with 'end'"):
        wrap(Own(mean, after=2.0))
    with pytest.raises(ConfigError, match=r"features='boddy' is no module of Own; it has body, drop, end"):
        wrap(Own(mean), features="boddy")
    with pytest.raises(ConfigError, match=r"calls 'drop' 0 times"):
        wrap(Own(mean), features="drop")
    with pytest.raises(ConfigError, match=r"image_size=\(height, width\), in_channels="):
        mixcore.as_backbone(Own(mean), features="body", classifier="end", in_channels=1)


def test_the_forward_ends_at_the_features() -> None:
    backbone = mixcore.as_backbone(named("resnet18"), features="layer4", classifier="fc", image_size=(64, 64))
    called: list[str] = []
    backbone.avgpool.register_forward_hook(lambda *_: called.append("avgpool"))
    backbone.forward_features(IMAGES)
    assert called == []
