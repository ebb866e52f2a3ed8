"""The whole chain on the phantom, planted against found."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import nibabel as nib
import numpy as np
import pandas as pd

from llm2bids.bids.tables import read_json
from llm2bids.record import record
from llm2bids.space import UnitSpace
from llm2bids.validate import validate

if TYPE_CHECKING:
    from llm2bids.validate import Validation


def demo(
    bids_dir: str | Path = "llm2bids-demo", *, overwrite: bool = False, progress: bool | None = None
) -> tuple[pd.DataFrame, list[Validation]]:
    """Record the phantom on six tasks, validate the dataset, and read it back as any other.

    Parameters
    ----------
    bids_dir : path-like
        Dataset to make.
    overwrite : bool
        Replace a demo that is there.
    progress : bool, optional
        Whether to show a progress bar; by default if the terminal can.

    Returns
    -------
    table : DataFrame
        One row per task: ``task``, ``runs``, ``scans``, ``units``, ``planted`` (units of its network), and the median
        over units of the difference between on and off in standard deviations, ``d_planted`` and ``d_others``.
    validations : list of Validation
        What the official validator says about the dataset and its derivatives.

    Raises
    ------
    LLM2BIDSError
        If the folder holds something else.
    """
    record(bids_dir, "phantom", "nencka2023", runs=2, overwrite=overwrite, progress=progress)
    validations = validate(bids_dir)
    return _read_back(Path(bids_dir)), validations


def _read_back(root: Path) -> pd.DataFrame:
    """One row per task, by pybids and nibabel alone but for the name of the truth."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pybids warns of changes to come in pandas
        from bids import BIDSLayout  # noqa: PLC0415 - takes a second

        layout = BIDSLayout(root, validate=False)
        bolds = layout.get(suffix="bold", extension=".nii.gz")
    rows = [
        _row(root, task, [Path(bold.path) for bold in bolds if bold.entities["task"] == task])
        for task in sorted({bold.entities["task"] for bold in bolds})
    ]
    return pd.DataFrame(rows)


def _row(root: Path, task: str, bolds: list[Path]) -> dict[str, object]:
    """What one task's runs hold."""
    effects, n_scans = [], 0
    for path in bolds:
        space = UnitSpace.from_json(
            read_json(path.with_name(path.name.replace(".nii.gz", ".json")))["Llm2bids"]["UnitSpace"]
        )
        signals = space.to_signals(nib.load(path))
        events = pd.read_csv(path.with_name(path.name.replace("bold.nii.gz", "events.tsv")), sep="\t")
        on = np.repeat(events["trial_type"] == "on", events["duration"].astype(int))
        effects.append((signals[on].mean(0) - signals[~on].mean(0)) / signals.std(0))
        n_scans += len(signals)
    truth = next(root.glob(f"derivatives/phantom/sub-*/func/*task-{task}_acq-block_*truth_mask.nii.gz"))
    planted = space.to_signals(nib.load(truth)) > 0
    effect = np.mean(effects, axis=0)
    return {
        "task": task,
        "runs": len(bolds),
        "scans": n_scans,
        "units": space.n_units,
        "planted": int(planted.sum()),
        "d_planted": round(float(np.median(effect[planted])), 2),
        "d_others": round(float(np.median(effect[~planted])), 2),
    }
