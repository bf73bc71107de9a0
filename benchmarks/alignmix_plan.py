"""What AlignMix's transport plan moves where, in pixels: a picture from a run.

    mixcore run configs/digits/alignmix.toml
    python benchmarks/alignmix_plan.py OUT.png runs/alignmix

Per row an image, its partner, and the partner's blocks where the plan puts their features: block i of the last picture
is the sum over j of plan[i,j] times block j of the partner. Images are those of the validation set, with the weights of
the run's best checkpoint. Needs matplotlib.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from mixcore_plugin_alignmix import transport
from mixcore_plugin_alignmix.positions import Layout
from torch import Tensor

from mixcore.api import grid_of
from mixcore.run.open import load_run

ROWS = 5


def moved_blocks(images: Tensor, plan: Tensor) -> Tensor:
    """Images [N,C,H,W] whose blocks lie where `plan` [N,n,n] moves them; H and W are multiples of the grid's sides."""
    rows, columns = grid_of(plan.shape[1], *images.shape[-2:])
    size = images.shape[-2] // rows, images.shape[-1] // columns
    blocks = F.unfold(images, size, stride=size)
    return F.fold(blocks @ plan.transpose(1, 2), images.shape[-2:], size, stride=size)


def main() -> None:
    """Draw the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("run", type=Path)
    given = parser.parse_args()
    run = load_run(given.run)
    images, _ = next(iter(run.loader().epoch(0)))
    own, other = images[:ROWS], images[ROWS : 2 * ROWS]
    with torch.no_grad():
        layout = Layout.of(run.model)
        plan = transport(*(layout.vectors(run.model.forward_features(found)) for found in (own, other)))
    columns = {"image": own, "partner": other, "partner, moved": moved_blocks(other, plan)}
    figure, axes = plt.subplots(ROWS, len(columns), figsize=(4.5, 1.5 * ROWS), layout="constrained")
    for column, (title, pictures) in enumerate(columns.items()):
        for row, picture in enumerate(pictures):
            axes[row, column].imshow(picture.mean(0).cpu(), cmap="gray")
            axes[row, column].set_axis_off()
            axes[row, column].set_title(title if row == 0 else "", fontsize=9)
    figure.savefig(given.out, dpi=90)


if __name__ == "__main__":
    main()
