"""Do independent components find planted networks? Best IoU with each, over seeds and recordings.

``python benchmarks/components.py [--recordings 5] [--settings] [--recurrence]`` records the phantom's six tasks,
decomposes what it did without knowing of any task, and prints for each of the six planted networks the IoU of the
component most like it. ``--settings`` tries other settings than the defaults too, among them those of Liu et al. 2025.
``--recurrence`` decomposes every run by itself too, and prints how many components of all runs are found again in two
runs or more, and more often than by chance, and whether these are planted units. The exit code is 1 if a network is
missed, or if a component of mostly other units is found again.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from llm2bids.decomposition import ica
from llm2bids.model.phantom import phantom_truth
from llm2bids.networks.matching import match
from llm2bids.preparation import prep
from llm2bids.recording import record

SETTINGS: tuple[dict[str, Any], ...] = (
    {"z": 3.6},
    {"components": 10},
    {"components": 20, "axis": "spatial"},
    {"components": 10, "method": "canica"},
    {"components": 10, "method": "dictlearning"},
    {"components": 40, "samples": "token", "axis": "spatial"},
    {"components": 10, "samples": "token", "axis": "spatial", "scale": "none", "z": 3.6},
)
ENOUGH = 0.8
LEVEL = 0.05
MOST = 0.5


def best(root: Path, out: Path, **settings: Any) -> np.ndarray:
    """Best IoU with each planted network."""
    (result,) = ica(root, out, overwrite=True, progress=False, **settings)
    masks = result.masks
    networks = np.stack([mask.selected for mask in masks])
    truth = np.stack([mask.selected for mask in phantom_truth(masks[0].space).values()])
    shared = (networks[:, None] & truth).sum(-1)
    return (shared / np.maximum((networks[:, None] | truth).sum(-1), 1)).max(0)


def recurring(root: Path) -> dict[str, int]:
    """What components of all runs are found again in single runs, against what was planted."""
    out = root / "derivatives"
    (result,) = ica(root, out / "ica", overwrite=True, progress=False)
    ica(root, out / "icaruns", by="run", overwrite=True, progress=False)
    answer = match(out / "ica", out / "icaruns", overwrite=True, progress=False)
    pairs = answer.tables["pairs"]
    # One run is no recurrence: it is one of those of which the component was made.
    again = ((pairs["recurrence_p_holm"] < LEVEL) & (pairs["recurrence"] > 1)).to_numpy()
    masks = result.masks
    networks = np.stack([mask.selected for mask in masks if mask.n_selected])
    truth = np.stack([mask.selected for mask in phantom_truth(masks[0].space).values()])
    others = (networks & ~truth.any(0)).sum(1) / networks.sum(1)
    shared = (networks[again, None] & truth).sum(-1) / (networks[again, None] | truth).sum(-1)
    return {
        "components": len(again),
        "found again": int(again.sum()),
        "of planted units only": int((again & (others == 0)).sum()),
        "networks among them": int((shared > ENOUGH).any(0).sum()),
        "components of mostly other units": int((others > MOST).sum()),
        "of these found again": int((again & (others > MOST)).sum()),
    }


def tell(what: str, iou: np.ndarray) -> None:
    """One line per decomposition."""
    each = " ".join(f"{value:.2f}" for value in iou)
    print(f"{what:<62} {each}   min {iou.min():.2f}  mean {iou.mean():.3f}", flush=True)


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recordings", type=int, default=5, help="with other prompts (%(default)s)")
    parser.add_argument("--seeds", type=int, default=5, help="of the decomposition, first recording (%(default)s)")
    parser.add_argument("--settings", action="store_true", help="other settings too, first recording")
    parser.add_argument("--recurrence", action="store_true", help="of components over single runs too")
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    passed = True
    with tempfile.TemporaryDirectory() as name:
        for number in range(args.recordings):
            root = Path(name, f"ds{number}")
            record(root, seed=number)
            prep(root)
            for seed in range(args.seeds if number == 0 else 1):
                iou = best(root, root / "derivatives" / "ica", seed=seed)
                tell(f"recording {number}, seed {seed}, defaults", iou)
                passed &= bool(iou.min() >= ENOUGH and iou.mean() >= (1 + ENOUGH) / 2)
            if args.recurrence:
                counts = recurring(root)
                print(f"recording {number}, components found again in runs: {counts}", flush=True)
                passed &= not counts["of these found again"] and counts["networks among them"] == len(iou)
            for settings in SETTINGS if args.settings and number == 0 else ():
                tell(
                    " ".join(f"{key}={value}" for key, value in settings.items()),
                    best(root, root / "derivatives" / "ica", **settings),
                )
    sys.exit(0 if passed else 1)


if __name__ == "__main__":
    main()
