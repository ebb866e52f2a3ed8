"""Task × model → BIDS: showing a model what a task says and writing what its units did."""

from __future__ import annotations

import logging
from collections import defaultdict
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from llm2bids.bids.dataset import Dataset
from llm2bids.bids.history import noted_call, to_note
from llm2bids.bids.names import format_name, parse_name
from llm2bids.bids.nifti import MAX_SCANS, Grid, NiftiWriter
from llm2bids.bids.tables import read_json, read_stim
from llm2bids.errors import DatasetError, NonFiniteError, RecordError
from llm2bids.model.recording import check_causal, generate, padding_is_harmless, read, tokenize
from llm2bids.model.sites import find_site, match_hookpoints, measure_widths
from llm2bids.model.subject import load, short_name
from llm2bids.progress import progress_bar
from llm2bids.recording.plan import (
    Protocol,
    Run,
    Session,
    still_to_do,
    subject_label,
    unplanned_volumes,
    wanted_places,
)
from llm2bids.recording.sidecars import STIM_COLUMNS, T_R, Told, merge_shared, write_run
from llm2bids.space import UnitSpace
from llm2bids.task import Design, expand_tasks, lay_out

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray
    from tqdm import tqdm

    from llm2bids.model.loading import Subject
    from llm2bids.model.recording import Scans
    from llm2bids.model.sites import HookPoint
    from llm2bids.model.subject import ModelSource

__all__ = ["Protocol", "Recording", "record"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Recording:
    """One run of one site as it was written.

    Parameters
    ----------
    bold : Path
        The volumes.
    space : UnitSpace
        Which voxel is which unit.
    n_scans : int
        Number of scans.
    skipped : bool
        Whether it was there already (``resume``).
    """

    bold: Path
    space: UnitSpace
    n_scans: int
    skipped: bool = False


def _wrote(recordings: Sequence[Recording], asked: Mapping[str, Any]) -> tuple[Path, list[Path]]:
    """The files of new runs, and those that they share with others."""
    root, files = Path(asked["bids_dir"]), set[Path]()
    for bold in to_note(root, {one.bold: one.skipped for one in recordings}):
        entities = parse_name(bold.name)[1]
        subject, task, site = (entities[key] for key in ("sub", "task", "acq"))
        shown = format_name("stimuli.json", **{**entities, "acq": None})
        files |= {
            *bold.parent.glob(bold.name.partition("_bold")[0] + "_*"),
            *root.glob(f"stimuli/**/{shown}"),
            *root.glob(f"task-{task}_*.json"),
            *root.glob(f"code/models/model-{task}_smdl.json"),
            *root.glob(f"derivatives/phantom/sub-{subject}/func/*_task-{task}_acq-{site}_*"),
        }
    return root, sorted(files)


@noted_call("record", _wrote)
def record(  # noqa: PLR0913 - the arguments of the command
    bids_dir: str | Path,
    model: ModelSource = "phantom",
    task: str | Path | Sequence[str | Path] = "nencka2023",
    *,
    subject: str | None = None,
    sites: Sequence[str] = ("block",),
    hookpoints: Sequence[str] = (),
    mode: Literal["generate", "read"] | None = None,
    tokens: int = 24,
    runs: int | None = None,
    sessions: int | None = None,
    blocks: int = 5,
    prompts_per_block: int = 3,
    reuse_prompts: bool = False,
    seed: int = 0,
    temperature: float | None = None,
    top_p: float | None = None,
    top_k: int | None = None,
    batch_size: int = 8,
    revision: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    device_map: str | None = None,
    trust_remote_code: bool = False,
    nonfinite: Literal["error", "zero"] = "error",
    compress: bool = True,
    authors: Sequence[str] = (),
    resume: bool = False,
    overwrite: bool = False,
    progress: bool | None = None,
) -> list[Recording]:
    """Show a model a task and write the activations of its units as a BIDS dataset.

    Parameters
    ----------
    bids_dir : path-like
        Dataset to make or to add to.
    model : str, Path, Subject or tuple
        ``"phantom"``, a folder made by ``save_pretrained``, a hub id, or a loaded model with its tokenizer,
        ``(model, tokenizer)``; see `load`.
    task : str, path-like or sequence of them
        Built-in tasks, families of tasks, or YAML or TSV files.
    subject : str, optional
        Label of the subject, letters and digits; by default made from the name of the model.
    sites : sequence of str
        Of ``block``, ``attn``, ``mlp``, ``neuron``, ``head``; all in one pass.
    hookpoints : sequence of str
        Further places as ``LABEL=GLOB[:in|:out]`` over module paths, each written as site ``LABEL``.
    mode : {"generate", "read"}, optional
        Whether scans are the tokens the model generates after each prompt, or the tokens of the prompt; by default what
        each task is made for, which is "read" for the localizers and "generate" for all others.
    tokens : int
        Tokens to generate per prompt.
    runs, sessions : int, optional
        Runs per session (4, or what the task file holds), and sessions (none).
    blocks, prompts_per_block : int
        Design of built-in tasks: blocks of the first condition ("on") per run, prompts per block.
    reuse_prompts : bool
        Whether prompts may be shown twice in a session where there are too few.
    seed : int
        Order of prompts and draw of tokens.
    temperature, top_p : float, optional
        How tokens are drawn; what the model's makers advise by default. Temperature 0 takes the likeliest.
    top_k : int, optional
        The same.
    batch_size : int
        Prompts in the model at a time.
    revision : str, optional
        Branch, tag or commit of the hub.
    device, dtype : str
        ``"auto"`` or a name of torch.
    device_map : str, optional
        ``"auto"`` spreads the model over several GPUs.
    trust_remote_code : bool
        Whether code that comes with the model may run.
    nonfinite : {"error", "zero"}
        Whether NaN and infinity stop the recording, or become 0 and are counted in the sidecar.
    compress : bool
        Whether volumes are gzipped; if not, they can be memory-mapped.
    authors : sequence of str
        Authors of a new dataset.
    resume : bool
        Leave alone runs that are there with the same settings, and record the others.
    overwrite : bool
        Replace runs that are there.
    progress : bool, optional
        Whether to show a progress bar; by default if the terminal can.

    Returns
    -------
    list of Recording
        One per run and site, in the order of recording.

    Raises
    ------
    LLM2BIDSError
        If anything the user can mend is wrong; nothing is left behind then but runs that were complete.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     written = record(folder, task="pathology", runs=1, blocks=1, prompts_per_block=1, tokens=2)
    >>> written[0].bold.name, written[0].n_scans
    ('sub-phantom_task-pathology_acq-block_run-01_bold.nii.gz', 6)
    """
    if resume and overwrite:
        raise RecordError("both --resume and --overwrite asked for; choose one")
    protocol = Protocol(mode, tokens, temperature, top_p, top_k, seed, batch_size, nonfinite, compress)
    design = Design(runs, 1 if sessions is None else sessions, blocks, prompts_per_block, seed, reuse_prompts)
    label = subject_label(subject, short_name(model))
    planned = _planned(label, task, design, in_sessions=sessions is not None)
    wanted = wanted_places(sites, hookpoints)
    dataset = Dataset(Path(bids_dir))
    todo = still_to_do(dataset, planned, list(wanted), protocol, resume=resume, overwrite=overwrite)
    loaded = load(
        model, revision=revision, device=device, dtype=dtype, device_map=device_map, trust_remote_code=trust_remote_code
    )
    places = _find_places(loaded, wanted)
    session = Session(dataset, label, loaded, places, protocol, _signed(authors), may_replace=overwrite)
    session = _replacing(session, planned)
    _check_session(session, planned)
    return _record_missing(session, planned, todo, progress=progress)


def _planned(label: str, task: str | Path | Sequence[str | Path], design: Design, *, in_sessions: bool) -> list[Run]:
    """Every run of every task, in the order of recording."""
    names = expand_tasks([str(task)] if isinstance(task, str | Path) else [str(name) for name in task])
    laid_out = [one for name in names for one in lay_out(name, design)]
    return [Run(label, one, f"{one.session:02d}" if in_sessions else None) for one in laid_out]


def _replacing(session: Session, planned: Sequence[Run]) -> Session:
    """The session, which knows what nothing older will stay of."""
    if not session.may_replace:
        return session
    left = unplanned_volumes(session.dataset, planned, [space.site for space in session.spaces])
    kept = {volume.get("task") for volume in left}
    return replace(
        session,
        replaced=frozenset(run.task.name for run in planned if run.task.name not in kept),
        may_be_another=session.label not in {volume["sub"] for volume in left},
    )


def _check_session(session: Session, planned: Sequence[Run]) -> None:
    """Refuse a model that cannot do the tasks, or is not the one recorded before."""
    if any(session.protocol.mode_of(run.task) == "generate" for run in planned):
        check_causal(session.subject)
    _check_label(session)
    _check_same_places(session, planned)


def _record_missing(
    session: Session, planned: Sequence[Run], todo: dict[Run, tuple[str, ...]], *, progress: bool | None
) -> list[Recording]:
    """What is there already, then what had to be recorded."""
    there = [(run, space) for run in planned for space in session.spaces if space.site not in todo.get(run, ())]
    done = [_existing(session, run, space) for run, space in there]
    shown = {run: _tokens(session, run) for run in todo}
    session = _with_safe_batches(session, shown)
    try:
        return done + list(_record_all(session, todo, shown, progress=progress))
    finally:
        session.dataset.forget_if_empty()


def _record_all(
    session: Session, todo: dict[Run, tuple[str, ...]], shown: dict[Run, list[list[int]]], *, progress: bool | None
) -> Iterator[Recording]:
    """Record run after run, what is missing of each, under one progress bar."""
    expected = {run: _expected_scans(session, run, tokens) for run, tokens in shown.items()}
    with progress_bar("tokens", sum(expected.values()), visible=progress) as bar:
        for run, tokens in shown.items():
            bar.set_description(run.name)
            missing = tuple(place for place in session.sites if place[0].site in todo[run])
            recordings = _record_run(replace(session, sites=missing), run, tokens, bar)
            bar.update(expected[run] - recordings[0].n_scans)  # where the model ended its text early
            yield from recordings


def _record_run(session: Session, run: Run, tokens: list[list[int]], bar: tqdm[Any]) -> list[Recording]:
    """Record one run of all sites and publish it whole."""
    suffix = "bold.nii.gz" if session.protocol.compress else "bold.nii"
    root = session.dataset.root
    try:
        with session.dataset.stage(run.name) as stage:
            _check_not_there(session, run)
            (stage / run.folder).mkdir(parents=True)
            paths = [stage / run.path(space.site, suffix) for space in session.spaces]
            told = _scan(session, run, tokens, paths, bar)
            write_run(session, run, told, stage)
            _check_same_answers(session, run, told)
            with session.dataset.lock():
                _check_label(session)
                merge_shared(session, run)
                session.dataset.publish(stage)
    except OSError as error:
        raise DatasetError(
            f"{run.name} could not be written ({error.strerror or error}); complete runs are safe: mend that and go on "
            "with --resume"
        ) from error
    return [Recording(root / run.path(space.site, suffix), space, told.n_scans) for space in session.spaces]


def _scan(session: Session, run: Run, tokens: list[list[int]], paths: Sequence[Path], bar: tqdm[Any]) -> Told:
    """Run the model and append its scans, prompt by prompt, to one file per site."""
    told = Told()
    ends = np.cumsum([space.n_units for space in session.spaces])[:-1]
    with ExitStack() as stack:
        grids = [Grid(space.shape, space.affine, T_R) for space in session.spaces]
        writers = [stack.enter_context(NiftiWriter(*pair)) for pair in zip(paths, grids, strict=True)]
        for scans in _shown(session, run, tokens):
            signals = _finite(session, run, scans.signals, told)
            for space, writer, part in zip(session.spaces, writers, np.split(signals, ends, axis=1), strict=True):
                writer.append(space.to_volumes(part))
            told.scans.append(replace(scans, signals=signals[:0]))
            bar.update(scans.n_scans)
    return told


def _shown(session: Session, run: Run, tokens: list[list[int]]) -> Iterator[Scans]:
    """The scans of each prompt, in order of presentation."""
    protocol, points = session.protocol, session.hookpoints
    if protocol.mode_of(run.task) == "read":
        return read(session.subject, points, tokens, protocol.batch_size)
    sampling = protocol.sampling(session.subject, run.task.name, run.task.session, run.task.run)
    return generate(session.subject, points, tokens, protocol.n_tokens, protocol.batch_size, sampling)


def _finite(session: Session, run: Run, signals: NDArray[np.float32], told: Told) -> NDArray[np.float32]:
    """Signals without NaN and infinity, or an error that names the first."""
    broken = ~np.isfinite(signals)
    if not broken.any():
        return signals
    if session.protocol.nonfinite == "zero":
        told.n_zeroed += int(broken.sum())
        return np.where(broken, np.float32(0), signals)
    scan, unit = (int(place) for place in np.argwhere(broken)[0])
    widths = np.cumsum([width for space in session.spaces for width in space.n_channels])
    point = session.hookpoints[int(np.searchsorted(widths, unit, side="right"))]
    raise NonFiniteError(
        f"{signals[scan, unit]} found at {point} in scan {told.n_scans + scan} of {run.name}; try --dtype float32, or "
        "record it as 0 with --nonfinite zero"
    )


def _find_places(
    subject: Subject, wanted: dict[str, str | None]
) -> tuple[tuple[UnitSpace, tuple[HookPoint, ...]], ...]:
    """Hookpoints and unit space of each site."""
    model = subject.model
    places = {site: match_hookpoints(model, glob) if glob else find_site(model, site) for site, glob in wanted.items()}
    widths = iter(measure_widths(model, [point for points in places.values() for point in points]))
    return tuple(
        (UnitSpace(site, tuple(map(str, points)), tuple(islice(widths, len(points)))), points)
        for site, points in places.items()
    )


def _with_safe_batches(session: Session, shown: dict[Run, list[list[int]]]) -> Session:
    """The session, one text at a time where padding would change the numbers."""
    if session.protocol.batch_size == 1:
        return session
    texts: dict[bool, list[list[int]]] = defaultdict(list)
    for run, tokens in shown.items():
        texts[session.protocol.mode_of(run.task) == "generate"] += tokens
    if all(
        padding_is_harmless(session.subject, session.hookpoints, tokens, generating=generating)
        for generating, tokens in texts.items()
    ):
        return session
    logger.warning(
        "%s gives other numbers for a text beside a longer one; recording one text at a time",
        type(session.subject.model).__name__,
    )
    return replace(session, protocol=replace(session.protocol, batch_size=1))


def _check_not_there(session: Session, run: Run) -> None:
    """Refuse to replace what another process recorded since we looked; call with the run claimed."""
    root = session.dataset.root
    if not session.may_replace and any(run.is_complete(root, space.site) for space in session.spaces):
        raise DatasetError(f"{run.name} was recorded by another process meanwhile; use --resume for the others")


def _check_same_answers(session: Session, run: Run, told: Told) -> None:
    """Refuse to put a site beside others that were recorded while the model said something else."""
    sites = {space.site for space in session.spaces}
    for sidecar in run.sidecars(session.dataset.root):
        stim = sidecar.with_name(sidecar.name.replace("bold.json", "stim.tsv.gz"))
        if parse_name(sidecar.name)[1].get("acq") in sites or not stim.exists():
            continue
        before = read_stim(stim, STIM_COLUMNS)["token_id"]
        if before.tolist() != [token for scans in told.scans for token in scans.token_id]:
            raise RecordError(
                f"the model said something else than when {sidecar.name} was recorded (other hardware, versions or "
                "batches); record all sites at once with --overwrite, or name another --subject"
            )


def _check_same_places(session: Session, planned: Sequence[Run]) -> None:
    """Refuse runs of one site that were recorded at other hookpoints, or of another model or precision."""
    now = session.subject.describe()
    planned_sidecars = {session.dataset.root / run.path(s.site, "bold.json") for run in planned for s in session.spaces}
    for space in session.spaces:
        for sidecar in session.dataset.root.glob(f"sub-{session.label}/**/func/*_acq-{space.site}_*bold.json"):
            if session.may_replace and sidecar in planned_sidecars:
                continue
            if read_json(sidecar)["Llm2bids"]["UnitSpace"] != space.to_json():
                raise RecordError(
                    f"{sidecar.name} was recorded at other hookpoints; use the same, or give these another label"
                )
    for run in planned:
        for sidecar in run.sidecars(session.dataset.root):
            if not (session.may_replace and sidecar in planned_sidecars):
                _check_same_source(sidecar, read_json(sidecar)["Llm2bids"], now)


def _check_same_source(sidecar: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    """Refuse to go on with a recording of other weights or in another precision."""
    for key in ("WeightsSHA256", "Dtype"):
        if before[key] != now[key]:
            raise RecordError(
                f"{sidecar.name} was recorded with {key} {before[key]}, now {now[key]}; name another --subject, or "
                "replace all with --overwrite"
            )


def _existing(session: Session, run: Run, space: UnitSpace) -> Recording:
    """A run that is there already."""
    bold = next(path for name in run.bolds(space.site) if (path := session.dataset.root / name).exists())
    own = read_json(session.dataset.root / run.path(space.site, "bold.json"))["Llm2bids"]
    return Recording(bold, space, own["NumberOfScans"], skipped=True)


def _check_label(session: Session) -> None:
    """Refuse two models under one label."""
    if session.may_be_another:
        return
    before = session.dataset.participant(session.label).get("weights_sha256")
    if before not in {None, "n/a", session.subject.identity.weights_sha256}:
        raise RecordError(
            f"sub-{session.label} is another model already (weights {before[:12]}…, not "
            f"{session.subject.identity.weights_sha256[:12]}…); name another --subject"
        )


def _tokens(session: Session, run: Run) -> list[list[int]]:
    """Tokens of every prompt of a run; refuses what cannot be shown or stored."""
    n_new = session.protocol.n_tokens if session.protocol.mode_of(run.task) == "generate" else 0
    tokens = tokenize(session.subject, [trial.text for trial in run.task.trials], n_new)
    if (n_scans := _expected_scans(session, run, tokens)) > MAX_SCANS:
        raise RecordError(
            f"{run.name} would have {n_scans} scans, a NIfTI-1 file holds {MAX_SCANS}; ask for fewer "
            "blocks, prompts or tokens, and more runs"
        )
    return tokens


def _expected_scans(session: Session, run: Run, tokens: Sequence[Sequence[int]]) -> int:
    """Scans of a run, or the most it can have."""
    if session.protocol.mode_of(run.task) == "generate":
        return len(tokens) * session.protocol.n_tokens
    special = session.subject.special_ids
    return sum(token not in special for ids in tokens for token in ids)


def _signed(authors: Sequence[str]) -> tuple[str, ...]:
    """Authors of a dataset; those of the prompts and the software are among them."""
    named = tuple(authors) or ("Unnamed experimenter",)
    return named if len(named) > 1 else (*named, "llm2bids contributors")
