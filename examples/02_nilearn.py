"""Find a network with nilearn alone: after the recording, none of our code runs.

Run it with ``python examples/02_nilearn.py [FOLDER]``. It records the phantom on one task, fits one effect per prompt,
compares prompts over runs at the second level, and draws the network layer by layer. The prompt, not the token, is the
sample: the tokens of a prompt are not independent of each other.
"""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import nibabel as nib
import numpy as np
import pandas as pd
from nilearn.glm import threshold_stats_img
from nilearn.glm.first_level import first_level_from_bids
from nilearn.glm.second_level import SecondLevelModel
from nilearn.image import concat_imgs, index_img, math_img

# nilearn adds a constant, which the prompts of a run add up to: harmless for the effect of each.
warnings.filterwarnings("ignore", "Matrix is singular at working precision")
warnings.filterwarnings("ignore", r"\[MultiNiftiMasker.fit\] Generation of a mask has been requested")

if TYPE_CHECKING:
    from nibabel import Nifti1Image

TASK = "medicalimaging"


def prompt_effects(dataset: Path) -> tuple[Nifti1Image, pd.DataFrame]:
    """One image per prompt, and a table of their conditions and runs."""
    models, runs, events, _ = first_level_from_bids(
        dataset,
        TASK,
        space_label="",  # the raw recordings name no space
        derivatives_folder=".",
        sub_labels=["phantom"],
        confounds_strategy=None,
        hrf_model=None,  # a unit answers at once
        noise_model="ar1",
        drift_model=None,  # every prompt starts from a fresh context
        signal_scaling=False,  # activations are signed: dividing by their mean makes no sense
        smoothing_fwhm=None,  # neighbouring voxels are neighbours on the page only
        mask_img=varying(sorted(dataset.glob(f"sub-*/func/*task-{TASK}_*bold.nii.gz"))),
    )
    images, rows = [], []
    for number, (run, table) in enumerate(zip(runs[0], events[0], strict=True)):
        prompts = table.assign(trial_type=[f"prompt{prompt:03d}" for prompt in table["prompt"]])
        model = models[0].fit(run, events=prompts[["onset", "duration", "trial_type"]])
        images += [model.compute_contrast(name, output_type="effect_size") for name in prompts["trial_type"]]
        rows += [{"on": kind == "on", "run": number} for kind in table["trial_type"]]
    return concat_imgs(images), pd.DataFrame(rows)


def varying(recordings: list[Path]) -> Nifti1Image:
    """A mask of the units that vary in every run."""
    masks = [math_img("image.std(axis=-1) > 0", image=path) for path in recordings]
    return math_img("np.all(masks, axis=-1).astype('uint8')", masks=concat_imgs(masks))


def compare(effects: Nifti1Image, prompts: pd.DataFrame) -> Nifti1Image:
    """Map of z of "on" against "off" over prompts, each run with a mean of its own."""
    design = pd.get_dummies(prompts["run"], prefix="run").astype(float).assign(on=prompts["on"].astype(float))
    inside = math_img("np.any(image != 0, axis=-1).astype('uint8')", image=effects)
    images = [index_img(effects, number) for number in range(len(prompts))]
    model = SecondLevelModel(mask_img=inside, smoothing_fwhm=None).fit(images, design_matrix=design)
    return model.compute_contrast("on", output_type="z_score")


def draw(z_map: Nifti1Image, network: Nifti1Image, picture: Path) -> None:
    """The slices that hold units; black dots mark the network."""
    z, selected = z_map.get_fdata(), network.get_fdata() != 0
    layers = range(1, z.shape[2] - 1)
    figure, panels = plt.subplots(1, len(layers), figsize=(12, 2.4), layout="constrained")
    for layer, panel in zip(layers, panels, strict=True):
        drawn = panel.imshow(z[:, :, layer].T, cmap="PuOr_r", vmin=-20, vmax=20, origin="lower")
        panel.plot(*selected[:, :, layer].nonzero(), ".", color="black", markersize=3)
        panel.set(title=f"block {layer - 1}", xticks=[], yticks=[])
    figure.colorbar(drawn, ax=panels, label="z")
    figure.suptitle(f"{TASK}: units that differ between on and off, FDR .05")
    figure.savefig(picture, dpi=110)
    plt.close(figure)


def main(folder: Path) -> None:
    """Record, then nilearn."""
    dataset = folder / "dataset"
    record = ["record", dataset, "--task", TASK, "--overwrite"]
    subprocess.run([sys.executable, "-m", "llm2bids", *record], check=True)

    effects, prompts = prompt_effects(dataset)
    z_map = compare(effects, prompts)
    network, threshold = threshold_stats_img(z_map, alpha=0.05, height_control="fdr", two_sided=True)
    draw(z_map, network, folder / "network.png")

    truth = nib.load(next(dataset.glob("derivatives/phantom/sub-*/func/*truth_mask.nii.gz"))).get_fdata() > 0
    selected = network.get_fdata() != 0
    dice = 2 * np.sum(selected & truth) / (selected.sum() + truth.sum())
    print(
        f"{len(prompts)} prompts, |z| from {threshold:.2f}: {selected.sum()} units found, {truth.sum()} planted, "
        f"Dice {dice:.2f}"
    )
    print(f"picture: {folder / 'network.png'}")


if __name__ == "__main__":
    target = Path(sys.argv[1] if len(sys.argv) > 1 else "example-output")
    target.mkdir(exist_ok=True, parents=True)
    main(target)
