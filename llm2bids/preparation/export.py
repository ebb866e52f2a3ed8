"""Write the design of a run for FSL: EV files, matrices for film_gls, and a design.fsf that FEAT runs unchanged."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from llm2bids.bids.runs import frame_times, read_events, stats_model_path
from llm2bids.bids.tables import write_bytes
from llm2bids.design.fsl import FeatRun, design_con, design_mat, ev_text, feat_fsf, reference_of
from llm2bids.design.matrix import CONSTANT, token_design
from llm2bids.design.regressors import FACTOR, WILDCARDS
from llm2bids.design.statsmodel import Node, StatsModel
from llm2bids.errors import DesignError, StatsModelError

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

    from llm2bids.bids.runs import BoldRun
    from llm2bids.design.statsmodel import Contrast


def fsl_folder(root: Path, run: BoldRun) -> Path:
    """Folder for the design of a run."""
    return root / "fsl" / f"sub-{run.entities['sub']}" / run.name


def read_stats_model(root: Path, task: str) -> StatsModel:
    """Read the model of a task; raise if it has none."""
    path = stats_model_path(root, task)
    if not path.exists():
        raise StatsModelError(
            f"task {task} has no {path.relative_to(root)}, as tasks without conditions, so there is no design to "
            "write; leave it out with `task_label`, or leave out `fsl`"
        )
    return StatsModel.from_file(path)


def conditions_of(run: BoldRun, model: StatsModel) -> tuple[list[str], list[Contrast]]:
    """Conditions of a run, and the t contrasts of its model that need no others."""
    if transformations := model.run.regressors.to_json():
        raise DesignError(
            f"model {model.name} uses {transformations[0]['Name']}, which the files for FSL do not hold; leave out "
            "`fsl`, or give the task a model without it, and this model to glm"
        )
    events = read_events(run.beside("events.tsv"), run.n_scans * run.t_r)
    available = [f"{FACTOR}{name}" for name in sorted(set(events["trial_type"]) - {"n/a"})]
    patterns = [
        name for name in model.run.x if name.startswith(FACTOR) and (name in available or set(WILDCARDS) & set(name))
    ]
    columns = Node("Run", tuple(patterns)).select(available)
    contrasts = [
        contrast
        for contrast in model.run.all_contrasts(columns)
        if contrast.test == "t" and set(contrast.columns) <= set(columns)
    ]
    if not contrasts:
        raise DesignError(
            f"{run.name} has {', '.join(available) or 'no condition'}, too little for any t contrast of model "
            f"{model.name}; leave out `fsl`, or mend the model"
        )
    return [name.removeprefix(FACTOR) for name in columns], contrasts


def design_of(run: BoldRun, model: StatsModel, confounds: pd.DataFrame, cutoff: float | None) -> pd.DataFrame:
    """Design matrix for FSL: conditions, confounds of the model, drift (n_scans, n_regressors).

    It has a constant unless the conditions fill the run, see `llm2bids.design.fsl`.

    `confounds` (n_scans, n_confounds): all confounds of the run. `cutoff`: of the drift in Hz, if the model sets none.
    """
    conditions, _ = conditions_of(run, model)
    events = read_events(run.beside("events.tsv"), run.n_scans * run.t_r)
    patterns = tuple(name for name in model.run.x if not name.startswith(FACTOR))
    try:
        chosen = confounds[Node("Run", patterns).select(list(confounds.columns))]
    except DesignError as error:
        raise DesignError(f"{run.name}: {error}") from error
    times = frame_times(run.n_scans, run.t_r)
    matrix = token_design(events, times, conditions, chosen, model.run.high_pass or cutoff)
    filled = matrix[[f"{FACTOR}{name}" for name in conditions]].sum(axis=1)
    return matrix.drop(columns=CONSTANT) if np.allclose(filled, 1) else matrix


def feat_run(
    run: BoldRun, model: StatsModel, bold: Path, cutoff: float | None, root: Path, confounds: Path | None = None
) -> FeatRun:
    """Collect the parameters of a run for FEAT; `cutoff` is that of the drift in Hz, if the model sets none."""
    conditions, contrasts = conditions_of(run, model)
    events = read_events(run.beside("events.tsv"), run.n_scans * run.t_r)
    folder, high_pass = fsl_folder(root, run), model.run.high_pass or cutoff
    columns = [f"{FACTOR}{name}" for name in conditions]
    return FeatRun(
        bold=bold,
        output=folder / f"{run.name}.feat",
        n_scans=run.n_scans,
        n_voxels=int(np.prod(run.space.shape)),
        t_r=run.t_r,
        evs=tuple((name, folder / f"ev_{name}.txt") for name in conditions),
        contrasts=tuple((contrast.name, tuple(contrast.matrix(columns)[0])) for contrast in contrasts),
        reference=reference_of(events[events["trial_type"].isin(conditions)], run.n_scans, run.t_r),
        high_pass_cutoff=None if high_pass is None else 1 / high_pass,
        confounds=confounds,
    )


def export_fsl(
    run: BoldRun,
    model: StatsModel,
    bold: Path,
    cutoff: float | None,
    confounds: pd.DataFrame,
    roots: tuple[Path, Path],
) -> None:
    """Write the design of a run for FSL.

    `cutoff`: of the drift in Hz, if the model sets none. `confounds` (n_scans, n_confounds): all confounds of the run.
    `roots`: folder to write to, and the derivative that the files will lie in, as an absolute path.
    """
    conditions, contrasts = conditions_of(run, model)
    events = read_events(run.beside("events.tsv"), run.n_scans * run.t_r)
    matrix = design_of(run, model, confounds, cutoff)
    files = {f"ev_{name}.txt": ev_text(events, name) for name in conditions}
    weights = np.concatenate([contrast.matrix(list(matrix.columns)) for contrast in contrasts])
    files["design.mat"] = design_mat(matrix)
    files["design.con"] = design_con([contrast.name for contrast in contrasts], weights)
    nuisance = [name for name in matrix.columns if name in confounds.columns]
    if nuisance:
        files["confounds.txt"] = matrix[nuisance].to_csv(sep="\t", header=False, index=False, float_format="%.9g")
    table = fsl_folder(roots[1], run) / "confounds.txt" if nuisance else None
    files["design.fsf"] = feat_fsf(feat_run(run, model, bold, cutoff, roots[1], table))
    for name, text in files.items():
        write_bytes(fsl_folder(roots[0], run) / name, text.encode())
