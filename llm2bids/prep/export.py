"""The design of a run for FSL: EV files, matrices for film_gls, and a design.fsf that FEAT runs as it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from llm2bids.bids.runs import read_events
from llm2bids.bids.tables import write_bytes
from llm2bids.design import CONSTANT, frame_times, token_design
from llm2bids.errors import DesignError, StatsModelError
from llm2bids.fsl import FeatRun, design_con, design_mat, ev_text, feat_fsf, reference_of
from llm2bids.statsmodel import FACTOR, StatsModel

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

    from llm2bids.bids.runs import BoldRun
    from llm2bids.statsmodel import Contrast


def fsl_folder(root: Path, run: BoldRun) -> Path:
    """Name the folder for the design of a run.

    Parameters
    ----------
    root : Path
        The derivative.
    run : BoldRun
        A recording.

    Returns
    -------
    Path
        ``fsl/sub-x/<run>``.
    """
    return root / "fsl" / f"sub-{run.entities['sub']}" / run.name


def read_stats_model(root: Path, task: str) -> StatsModel:
    """Read the model of a task whose design is to be written.

    Parameters
    ----------
    root : Path
        The raw dataset.
    task : str
        Label of the task.

    Returns
    -------
    StatsModel
        Its BIDS Stats Model.

    Raises
    ------
    StatsModelError
        If there is none, or it is malformed.
    """
    path = root / "code" / "models" / f"model-{task}_smdl.json"
    if not path.exists():
        raise StatsModelError(
            f"task {task} has no {path.relative_to(root)}, as tasks without conditions, so there is no design to "
            "write; leave it out with --task-label, or leave out --fsl"
        )
    return StatsModel.from_file(path)


def design_of(
    run: BoldRun, model: StatsModel, confounds: pd.DataFrame, cutoff: float | None
) -> tuple[pd.DataFrame, list[Contrast]]:
    """Make the design that FSL is given.

    Parameters
    ----------
    run : BoldRun
        A recording.
    model : StatsModel
        What is asked.
    confounds : DataFrame, shape (n_scans, n_confounds)
        All confounds there are.
    cutoff : float or None
        Of the drift, in Hz.

    Returns
    -------
    matrix : DataFrame, shape (n_scans, n_regressors)
        Conditions, confounds of the model, drift; and the constant unless the conditions fill the run.
    contrasts : list of Contrast
        The t contrasts whose conditions the run has.

    Raises
    ------
    DesignError
        If the run has fewer conditions than a contrast needs, for all of them.
    """
    times = frame_times(run.n_scans, run.t_r)
    events = read_events(run.beside("events.tsv"), run.n_scans * run.t_r)
    there = [f"{FACTOR}{name}" for name in sorted(set(events["trial_type"]) - {"n/a"})]
    chosen = model.run.select([*there, *confounds.columns])
    conditions = [name.removeprefix(FACTOR) for name in chosen if name.startswith(FACTOR)]
    others = confounds[[name for name in chosen if not name.startswith(FACTOR)]]
    matrix = token_design(events, times, conditions, others, cutoff)
    if np.allclose(matrix[[f"{FACTOR}{name}" for name in conditions]].sum(axis=1), 1):
        matrix = matrix.drop(columns=CONSTANT)
    asked = model.run.questions([f"{FACTOR}{name}" for name in conditions])
    contrasts = [one for one in asked if one.test == "t" and set(one.columns) <= set(matrix.columns)]
    if not contrasts:
        raise DesignError(
            f"{run.name} has conditions {', '.join(conditions) or 'none'}, too few for any t contrast of the model"
        )
    return matrix, contrasts


def export_fsl(
    run: BoldRun,
    model: StatsModel,
    bold: Path,
    cutoff: float | None,
    confounds: pd.DataFrame,
    roots: tuple[Path, Path],
) -> None:
    """Write the design of a run for FSL.

    Parameters
    ----------
    run : BoldRun
        A recording.
    model : StatsModel
        What is asked.
    bold : Path
        The preprocessed volumes, absolute.
    cutoff : float or None
        Of the drift, in Hz.
    confounds : DataFrame, shape (n_scans, n_confounds)
        All confounds there are.
    roots : tuple of Path
        Where the files are written now, and the derivative in which they will lie, absolute.

    Raises
    ------
    LLM2BIDSError
        If the design asks for what FSL cannot do, or a path is one that FEAT cannot take.
    """
    now, final = (fsl_folder(root, run) for root in roots)
    events = read_events(run.beside("events.tsv"), run.n_scans * run.t_r)
    matrix, contrasts = design_of(run, model, confounds, cutoff)
    columns = list(matrix.columns)
    conditions = [name.removeprefix(FACTOR) for name in columns if name.startswith(FACTOR)]
    files = {f"ev_{name}.txt": ev_text(events, name) for name in conditions}
    weights = np.concatenate([contrast.matrix(columns) for contrast in contrasts])
    files["design.mat"] = design_mat(matrix)
    files["design.con"] = design_con([contrast.name for contrast in contrasts], weights)
    others = [name for name in columns if not name.startswith((FACTOR, "drift_", CONSTANT))]
    if others:
        files["confounds.txt"] = matrix[others].to_csv(sep="\t", header=False, index=False, float_format="%.9g")
    feat = FeatRun(
        bold=bold,
        output=final / f"{run.name}.feat",
        n_scans=run.n_scans,
        n_voxels=int(np.prod(run.space.shape)),
        t_r=run.t_r,
        evs=tuple((name, final / f"ev_{name}.txt") for name in conditions),
        contrasts=tuple((one.name, tuple(row[: len(conditions)])) for one, row in zip(contrasts, weights, strict=True)),
        reference=reference_of(events[events["trial_type"].isin(conditions)], run.n_scans, run.t_r),
        high_pass_cutoff=None if cutoff is None else 1 / cutoff,
        confounds=final / "confounds.txt" if others else None,
    )
    files["design.fsf"] = feat_fsf(feat)
    for name, text in files.items():
        write_bytes(now / name, text.encode())
