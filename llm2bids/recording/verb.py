"""`record`: a task and a model become the runs of a BIDS dataset."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any

from llm2bids.bids.dataset import Dataset
from llm2bids.bids.history import noted
from llm2bids.bids.tables import read_json
from llm2bids.errors import RecordError
from llm2bids.model.recording import check_causal
from llm2bids.model.sites import find_site, match_hookpoints, measure_widths
from llm2bids.model.subject import load, short_name
from llm2bids.options import as_tuple, takes
from llm2bids.recording.plan import (
    Run,
    Session,
    check_model_of_label,
    find_missing,
    site_patterns,
    subject_label,
    unplanned_volumes,
)
from llm2bids.recording.result import Recording
from llm2bids.recording.scanning import record_runs
from llm2bids.recording.settings import RecordOptions
from llm2bids.space import UnitSpace
from llm2bids.task import expand_tasks, lay_out

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from llm2bids.model.loading import Subject
    from llm2bids.model.sites import HookPoint

__all__ = ["RecordOptions", "Recording", "record"]


@noted("record")
@takes(RecordOptions)
def record(options: RecordOptions) -> list[Recording]:
    """Show a model a task and write the activations of its units as a BIDS dataset.

    Returns
    -------
    list of Recording
        One per run and site, in the order of recording.

    Raises
    ------
    LLM2BIDSError
        If anything the user can mend is wrong. Only runs that were complete remain then.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     recordings = record(folder, task="pathology", runs=1, blocks=1, prompts_per_block=1, tokens=2)
    >>> recordings[0].bold.name, recordings[0].n_scans
    ('sub-phantom_task-pathology_acq-block_run-01_bold.nii.gz', 6)
    """
    label = subject_label(options.subject, short_name(options.model))
    planned = _plan_runs(label, options)
    patterns = site_patterns(options.sites, options.hookpoints)
    dataset = Dataset(options.home)
    missing = find_missing(dataset, planned, list(patterns), options)
    subject = load(options.model, **options.loading)
    session = Session(dataset, label, subject, _find_sites(subject, patterns), options)
    if options.overwrite:
        session = _replacing(session, planned)
    _check_session(session, planned)
    existing = [(run, space) for run in planned for space in session.spaces if space.site not in missing.get(run, ())]
    recordings = [_existing(session, run, space) for run, space in existing]
    try:
        return [*recordings, *record_runs(session, missing)]
    finally:
        dataset.remove_if_empty()


def _plan_runs(label: str, options: RecordOptions) -> list[Run]:
    """Every run of every task, in the order of recording."""
    tasks = [task for name in expand_tasks(map(str, as_tuple(options.task))) for task in lay_out(name, options)]
    return [Run(label, task, None if options.sessions is None else f"{task.session:02d}") for task in tasks]


def _find_sites(
    subject: Subject, patterns: Mapping[str, str | None]
) -> tuple[tuple[UnitSpace, tuple[HookPoint, ...]], ...]:
    """Unit space and hookpoints of each site."""
    model = subject.model
    sites = {site: match_hookpoints(model, glob) if glob else find_site(model, site) for site, glob in patterns.items()}
    widths = iter(measure_widths(model, [point for points in sites.values() for point in points]))
    return tuple(
        (UnitSpace(site, tuple(map(str, points)), tuple(islice(widths, len(points)))), points)
        for site, points in sites.items()
    )


def _replacing(session: Session, planned: Sequence[Run]) -> Session:
    """The session, with the tasks and the label of which no older recording remains."""
    old_volumes = unplanned_volumes(session.dataset, planned, [space.site for space in session.spaces])
    old_tasks = {volume.get("task") for volume in old_volumes}
    return replace(
        session,
        replaced=frozenset(run.task.name for run in planned if run.task.name not in old_tasks),
        may_change_model=session.label not in {volume["sub"] for volume in old_volumes},
    )


def _check_session(session: Session, planned: Sequence[Run]) -> None:
    """Raise if the model cannot do the tasks, or is not the one that was recorded before."""
    if any(session.options.mode_of(run.task) == "generate" for run in planned):
        check_causal(session.subject)
    check_model_of_label(session)
    _check_same_hookpoints(session, planned)
    for run in planned:
        for sidecar in run.sidecars(session.dataset.root):
            if not _is_replaced(session, planned, sidecar):
                _check_same_weights(sidecar, session.subject.describe())


def _is_replaced(session: Session, planned: Sequence[Run], sidecar: Path) -> bool:
    """Whether the run of a sidecar is recorded anew."""
    paths = (session.dataset.root / run.path(space.site, "bold.json") for run in planned for space in session.spaces)
    return session.options.overwrite and sidecar in paths


def _check_same_hookpoints(session: Session, planned: Sequence[Run]) -> None:
    """Raise if runs of one site were recorded at other hookpoints."""
    for space in session.spaces:
        for sidecar in session.dataset.root.glob(f"sub-{session.label}/**/func/*_acq-{space.site}_*bold.json"):
            if _is_replaced(session, planned, sidecar):
                continue
            if read_json(sidecar)["Llm2bids"]["UnitSpace"] != space.to_json():
                raise RecordError(
                    f"{sidecar.name} was recorded at other hookpoints; use the same, or give these another label"
                )


def _check_same_weights(sidecar: Path, description: Mapping[str, Any]) -> None:
    """Raise if a run was recorded with other weights or in another precision."""
    before = read_json(sidecar)["Llm2bids"]
    for key in ("WeightsSHA256", "Dtype"):
        if before[key] != description[key]:
            raise RecordError(
                f"{sidecar.name} was recorded with {key} {before[key]}, now {description[key]}; name another "
                "`subject`, or replace all with overwrite=True"
            )


def _existing(session: Session, run: Run, space: UnitSpace) -> Recording:
    """A run that exists already."""
    root = session.dataset.root
    bold = next(root / path for path in run.bolds(space.site) if (root / path).exists())
    n_scans = read_json(root / run.path(space.site, "bold.json"))["Llm2bids"]["NumberOfScans"]
    return Recording(bold, space, n_scans, skipped=True)
