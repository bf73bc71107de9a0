"""The switching recipes: their files fit together, and keep their mixers, losses and turns under overrides."""

from __future__ import annotations

import pytest
import tomli

from mixcore.cli.main import main

FAKE = ("data.name=fake", "data.num_classes=10", "data.train_images=8", "data.validation_images=8", "data.batch_size=4")


def dry_run(name: str, capsys: pytest.CaptureFixture[str], *overrides: str) -> dict:
    """What `--dry-run` on fake images says the configuration is."""
    arguments = [argument for override in (*FAKE, *overrides) for argument in ("--set", override)]
    code = main(["run", name, *arguments, "--dry-run"])
    told = capsys.readouterr()
    assert code == 0, told.err
    assert "everything fits: " in told.out
    return tomli.loads(told.out)


@pytest.mark.parametrize(
    ("name", "lr", "epochs", "accumulate"), [("a3.resnet50.rsb", 8e-3, 100, 1), ("a2.resnet50.rsb", 5e-3, 300, 2)]
)
def test_rsb(name, lr, epochs, accumulate, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    found = dry_run(f"imagenet-rsb-{name}.ep{epochs}", capsys, "backbone.name=resnet10t")
    assert [(mix["name"], mix["alpha"]) for mix in found["mix"]] == [("mixup", 0.1), ("cutmix", 1.0)]
    assert (found["loss"]["name"], found["loss"]["reduction"], found["loss"]["smoothing"]) == ("bce", "sum_classes", 0)
    assert (found["optimizer"]["name"], found["optimizer"]["lr"]) == ("lamb", lr)
    assert (found["schedule"]["epochs"], found["train"]["accumulate"]) == (epochs, accumulate)


def test_deit(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    found = dry_run(
        "imagenet-deit.deit_small.deit.ep300", capsys, "backbone.name=deit_tiny_patch16_224", "data.size=224"
    )
    assert [(mix["name"], mix["alpha"]) for mix in found["mix"]] == [("mixup", 0.8), ("cutmix", 1.0)]
    assert (found["loss"]["name"], found["loss"]["smoothing"]) == ("soft_cross_entropy", 0.1)


def test_a_single_mixer_replaces_the_pair(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    found = dry_run(
        "imagenet-rsb-a3.resnet50.rsb.ep100", capsys, "backbone.name=resnet10t", "mix.name=cutmix", "mix.alpha=0.2"
    )
    mix = found["mix"][0] if isinstance(found["mix"], list) else found["mix"]
    assert (mix["name"], mix["alpha"]) == ("cutmix", 0.2)
