"""The whole chain on the phantom, planted against found."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from llm2bids.glm import glm
from llm2bids.mask import combine, load_mask, save_mask
from llm2bids.prep import prep
from llm2bids.record import record
from llm2bids.validate import validate

if TYPE_CHECKING:
    from llm2bids.glm import Finding
    from llm2bids.validate import Validation


def demo(
    bids_dir: str | Path = "llm2bids-demo", *, overwrite: bool = False, progress: bool | None = None
) -> tuple[pd.DataFrame, list[Validation]]:
    """Record the phantom on six tasks, prepare and analyse the recordings, and compare networks with the truth.

    Parameters
    ----------
    bids_dir : path-like
        Dataset to make; results are in its ``derivatives``.
    overwrite : bool
        Replace a demo that is there.
    progress : bool, optional
        Whether to show progress bars; by default if the terminal can.

    Returns
    -------
    table : DataFrame
        One row per task: ``task``, ``runs``, ``scans``, ``units`` tested, ``planted`` (units of its network),
        ``found``, ``hits`` (found and planted), ``false`` (found and not planted), ``dice``.
    validations : list of Validation
        What the official validator says about the dataset and its derivatives.

    Raises
    ------
    LLM2BIDSError
        If the folder holds something else.
    """
    root = Path(bids_dir)
    record(root, "phantom", "nencka2023", overwrite=overwrite, progress=progress)
    prepared = prep(root, overwrite=overwrite, progress=progress)
    found = glm(root, root / "derivatives" / "glm", overwrite=overwrite, progress=progress)
    scans = {one.bold.name: one.n_scans for one in prepared}
    rows = [_row(root, one, [n for name, n in scans.items() if f"_task-{one.task}_" in name]) for one in found]
    _save_masks(root, found)
    return pd.DataFrame(rows), validate(root)


def _row(root: Path, found: Finding, scans: list[int]) -> dict[str, object]:
    """What was planted for one task, and what was found."""
    truth = next(root.glob(f"derivatives/phantom/sub-*/func/*task-{found.task}_acq-block_*truth_mask.nii.gz"))
    planted, network = load_mask(truth), load_mask(found.mask)
    hits = (planted & network).n_selected
    return {
        "task": found.task,
        "runs": len(scans),
        "scans": sum(scans),
        "units": found.n_tested,
        "planted": planted.n_selected,
        "found": network.n_selected,
        "hits": hits,
        "false": network.n_selected - hits,
        "dice": round(2 * hits / (planted.n_selected + network.n_selected), 3),
    }


def _save_masks(root: Path, found: list[Finding]) -> None:
    """Networks as tensors that load into hooks, and the units that two tasks share."""
    folder = root / "derivatives" / "masks"
    folder.mkdir(parents=True, exist_ok=True)
    for one in found:
        save_mask(load_mask(one.mask), folder / f"task-{one.task}_mask.safetensors", overwrite=True)
    shared = [one.mask for one in found if one.task in {"medicalimaging", "pathology"}]
    target = folder / "shared_medicalimaging_pathology.safetensors"
    combine("intersection", shared, target, overwrite=True, allow_empty=True)
