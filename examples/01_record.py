"""Record the phantom on one task and look at what was written; draw README's picture.

Run it with ``python examples/01_record.py [FOLDER]``.
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import nibabel as nib
import numpy as np
import pandas as pd

from llm2bids.recording import record

ORANGE = "#e66101"


def draw(bold: Path, picture: Path, n_rows: int = 60) -> Path:
    """Draw one scan slice by slice, and below it all units of the last block over time."""
    image = nib.load(bold)
    events = pd.read_csv(str(bold).replace("bold.nii.gz", "events.tsv"), sep="\t")
    volumes = image.get_fdata()[..., : int(events["onset"].max() + events["duration"].iloc[-1])]
    inside = volumes.any(axis=(0, 1, 3)).nonzero()[0]
    spread = volumes.std(-1, keepdims=True)
    scaled = np.divide(volumes - volumes.mean(-1, keepdims=True), spread, out=np.zeros_like(volumes), where=spread > 0)

    figure = plt.figure(figsize=(10, 5.2), layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=[1, 1.9])
    scan = int(events.loc[events["trial_type"] == "on", "onset"].iloc[1])
    panels = top.subplots(1, len(inside))
    for block, (panel, z) in enumerate(zip(panels, inside, strict=True)):
        drawn = panel.imshow(scaled[:, :, z, scan].T, cmap="PuOr_r", vmin=-3, vmax=3, origin="lower")
        panel.set(title=f"block {block} (z = {z})", xticks=[], yticks=[])
    panels[0].set(xlabel="x: channel (fast)", ylabel="y (slow)")
    top.suptitle(f"One scan = one token (scan {scan} of {bold.name.split('_acq')[0]}); one voxel = one unit")
    top.colorbar(drawn, ax=panels, label="activation (sd over time)", shrink=0.8)

    panel = bottom.subplots()
    last = scaled[:, :, inside[-1]].reshape(-1, volumes.shape[-1])
    on = np.repeat(events["trial_type"] == "on", events["duration"].astype(int)).to_numpy()
    order = np.argsort(last[:, on].mean(1) - last[:, ~on].mean(1))[::-1]
    drawn = panel.imshow(last[order][:n_rows], aspect="auto", cmap="PuOr_r", vmin=-3, vmax=3, interpolation="none")
    for _, event in events[events["trial_type"] == "on"].iterrows():
        panel.axvspan(event["onset"], event["onset"] + event["duration"], 1.01, 1.05, color=ORANGE, clip_on=False)
    panel.set(
        title=f"The {n_rows} units of the last block that differ most, over time (orange above: blocks of the task)\n",
        xlabel="scan (token), 1 s each by convention",
        ylabel="unit, sorted",
    )
    bottom.colorbar(drawn, ax=panel, label="activation (sd over time)")
    figure.savefig(picture, dpi=110)
    plt.close(figure)
    return picture


def main(folder: Path) -> None:
    """Record one run of the phantom, and say what is where."""
    (recording,) = record(folder / "dataset", "phantom", "medicalimaging", runs=1, overwrite=True)
    image = nib.load(recording.bold)
    print(f"{recording.bold.name}: {image.shape} voxels and scans, space {recording.space.label}")
    unit = recording.space.unit_at((3, 2, 4))
    hookpoint, channel = recording.space.locate([unit])
    print(f"voxel (3, 2, 4) is unit {unit}: channel {channel[0]} of {recording.space.hookpoints[hookpoint[0]]}")
    print(f"picture: {draw(recording.bold, folder / 'volume.png')}")


if __name__ == "__main__":
    target = Path(sys.argv[1] if len(sys.argv) > 1 else "example-output")
    target.mkdir(exist_ok=True, parents=True)
    main(target)
