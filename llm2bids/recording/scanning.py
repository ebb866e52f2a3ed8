"""Scans runs: shows their prompts to the model and writes the volumes, then publishes each run whole."""

from __future__ import annotations

import logging
from collections import defaultdict
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from llm2bids.bids.names import parse_name
from llm2bids.bids.nifti import MAX_SCANS, Grid, NiftiWriter
from llm2bids.bids.tables import read_stim
from llm2bids.errors import DatasetError, NonFiniteError, RecordError
from llm2bids.model.recording import generate, padding_is_harmless, read, tokenize
from llm2bids.progress import progress_bar
from llm2bids.recording.plan import check_model_of_label, sampling_of
from llm2bids.recording.result import Recording
from llm2bids.recording.sidecars import STIM_COLUMNS, T_R, ScanLog, merge_shared, write_run

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from tqdm import tqdm

    from llm2bids.model.recording import Scans
    from llm2bids.recording.plan import Run, Session

logger = logging.getLogger(__name__)


def record_runs(session: Session, missing: Mapping[Run, Sequence[str]]) -> Iterator[Recording]:
    """Record the missing sites of every run, one run after the other, under one progress bar."""
    prompts = {run: _tokenize(session, run) for run in missing}
    session = _with_safe_batches(session, prompts)
    expected = {run: _expected_scans(session, run, tokens) for run, tokens in prompts.items()}
    with progress_bar("tokens", sum(expected.values()), visible=session.options.progress) as bar:
        for run, tokens in prompts.items():
            bar.set_description(run.name)
            sites = tuple(site for site in session.sites if site[0].site in missing[run])
            recordings = _record_run(replace(session, sites=sites), run, tokens, bar)
            bar.update(expected[run] - recordings[0].n_scans)  # the model may end a text early
            yield from recordings


def _record_run(session: Session, run: Run, tokens: list[list[int]], bar: tqdm[Any]) -> list[Recording]:
    """Record one run of all sites and publish it whole."""
    suffix = "bold.nii.gz" if session.options.compress else "bold.nii"
    root = session.dataset.root
    try:
        with session.dataset.stage(run.name) as stage:
            _check_still_missing(session, run)
            (stage / run.folder).mkdir(parents=True)
            paths = [stage / run.path(space.site, suffix) for space in session.spaces]
            log = _scan(session, run, tokens, paths, bar)
            write_run(session, run, log, stage)
            _check_same_tokens(session, run, log)
            with session.dataset.lock():
                check_model_of_label(session)
                merge_shared(session, run)
                session.dataset.publish(stage)
    except OSError as error:
        raise DatasetError(
            f"{run.name} could not be written ({error.strerror or error}); complete runs are safe: mend that and go on "
            "with resume=True"
        ) from error
    return [Recording(root / run.path(space.site, suffix), space, log.n_scans) for space in session.spaces]


def _scan(session: Session, run: Run, tokens: list[list[int]], paths: Sequence[Path], bar: tqdm[Any]) -> ScanLog:
    """Run the model and append its scans, prompt by prompt, to one file per site."""
    log = ScanLog()
    ends = np.cumsum([space.n_units for space in session.spaces])[:-1]
    with ExitStack() as stack:
        grids = [Grid(space.shape, space.affine, T_R) for space in session.spaces]
        writers = [stack.enter_context(NiftiWriter(*pair)) for pair in zip(paths, grids, strict=True)]
        for scans in _scans_of_prompts(session, run, tokens):
            signals = _finite(session, run, scans.signals, log)
            for space, writer, part in zip(session.spaces, writers, np.split(signals, ends, axis=1), strict=True):
                writer.append(space.to_volumes(part))
            log.scans.append(replace(scans, signals=signals[:0]))
            bar.update(scans.n_scans)
    return log


def _scans_of_prompts(session: Session, run: Run, tokens: list[list[int]]) -> Iterator[Scans]:
    """The scans of each prompt, in order of presentation."""
    options, points = session.options, session.hookpoints
    if options.mode_of(run.task) == "read":
        return read(session.subject, points, tokens, options.batch_size)
    sampling = sampling_of(options, session.subject, run.task)
    return generate(session.subject, points, tokens, options.tokens, options.batch_size, sampling)


def _finite(session: Session, run: Run, signals: NDArray[np.float32], log: ScanLog) -> NDArray[np.float32]:
    """Signals with 0 for NaN and infinity; or an error that names the first such value."""
    broken = ~np.isfinite(signals)
    if not broken.any():
        return signals
    if session.options.nonfinite == "zero":
        log.n_zeroed += int(broken.sum())
        return np.where(broken, np.float32(0), signals)
    scan, unit = (int(index) for index in np.argwhere(broken)[0])
    widths = np.cumsum([width for space in session.spaces for width in space.n_channels])
    point = session.hookpoints[int(np.searchsorted(widths, unit, side="right"))]
    raise NonFiniteError(
        f'{signals[scan, unit]} found at {point} in scan {log.n_scans + scan} of {run.name}; try dtype="float32", or '
        'record it as 0 with nonfinite="zero"'
    )


def _with_safe_batches(session: Session, prompts: Mapping[Run, list[list[int]]]) -> Session:
    """The session, with one text at a time where padding would change the numbers."""
    if session.options.batch_size == 1:
        return session
    texts: dict[bool, list[list[int]]] = defaultdict(list)
    for run, tokens in prompts.items():
        texts[session.options.mode_of(run.task) == "generate"] += tokens
    if all(
        padding_is_harmless(session.subject, session.hookpoints, tokens, generating=generating)
        for generating, tokens in texts.items()
    ):
        return session
    logger.warning(
        "%s gives other numbers for a text beside a longer one; recording one text at a time",
        type(session.subject.model).__name__,
    )
    return replace(session, options=replace(session.options, batch_size=1))


def _check_still_missing(session: Session, run: Run) -> None:
    """Raise if another process recorded the run since it was planned; call with the run's stage held."""
    root = session.dataset.root
    if not session.options.overwrite and any(run.is_complete(root, space.site) for space in session.spaces):
        raise DatasetError(f"{run.name} was recorded by another process meanwhile; use resume=True for the others")


def _check_same_tokens(session: Session, run: Run, log: ScanLog) -> None:
    """Raise if the model generated other tokens than when other sites of this run were recorded."""
    sites = {space.site for space in session.spaces}
    for sidecar in run.sidecars(session.dataset.root):
        stim = sidecar.with_name(sidecar.name.replace("bold.json", "stim.tsv.gz"))
        if parse_name(sidecar.name)[1].get("acq") in sites or not stim.exists():
            continue
        before = read_stim(stim, STIM_COLUMNS)["token_id"]
        if before.tolist() != [token for scans in log.scans for token in scans.token_id]:
            raise RecordError(
                f"the model said something else than when {sidecar.name} was recorded (other hardware, versions or "
                "batches); record all sites at once with overwrite=True, or name another `subject`"
            )


def _tokenize(session: Session, run: Run) -> list[list[int]]:
    """Tokens of every prompt of a run; raises if they cannot be shown, or give too many scans."""
    n_new = session.options.tokens if session.options.mode_of(run.task) == "generate" else 0
    tokens = tokenize(session.subject, [trial.text for trial in run.task.trials], n_new)
    if (n_scans := _expected_scans(session, run, tokens)) > MAX_SCANS:
        raise RecordError(
            f"{run.name} would have {n_scans} scans, a NIfTI-1 file holds {MAX_SCANS}; ask for fewer "
            "blocks, prompts or tokens, and more runs"
        )
    return tokens


def _expected_scans(session: Session, run: Run, tokens: Sequence[Sequence[int]]) -> int:
    """Number of scans of a run, or the largest it can have."""
    if session.options.mode_of(run.task) == "generate":
        return len(tokens) * session.options.tokens
    special = session.subject.special_ids
    return sum(token not in special for ids in tokens for token in ids)
