"""Plans a recording: its runs and their file names, and what must not be lost or mixed. Checked before any work."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm2bids.bids.names import check_label, format_name, parse_name, to_label
from llm2bids.bids.tables import read_json
from llm2bids.bids.templates import template_json
from llm2bids.errors import DatasetError, LabelError, RecordError, SiteError
from llm2bids.model.loading import Sampling
from llm2bids.model.site_names import SITES, check_site
from llm2bids.task import LABELS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llm2bids.bids.dataset import Dataset
    from llm2bids.model.loading import Subject
    from llm2bids.model.sites import HookPoint
    from llm2bids.recording.settings import Protocol, RecordOptions
    from llm2bids.space import UnitSpace
    from llm2bids.task import Task


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a subject, and the names of its files.

    `session`: label of the session, or None where there are none.
    """

    label: str
    task: Task
    session: str | None

    @property
    def name(self) -> str:
        """Name of the run in messages, and of the folder in which it is staged."""
        return self._name("").rstrip("_")

    @property
    def folder(self) -> Path:
        """Folder of its files, relative to the dataset."""
        return self._home / "func"

    @property
    def stimuli(self) -> Path:
        """File of its texts, relative to the dataset."""
        return "stimuli" / self._home / self._name("stimuli.json")

    @property
    def fingerprint(self) -> str:
        """SHA-256 of its texts, conditions and blocks, and of clusters and items where it has them, in order."""
        fields = ("text", "trial_type", "block", *self.task.columns)
        trials = [[getattr(trial, name) for name in fields] for trial in self.task.trials]
        return hashlib.sha256(json.dumps(trials).encode()).hexdigest()

    def path(self, site: str, suffix: str) -> Path:
        """Return the path of one of its files, relative to the dataset."""
        return self.folder / self._name(suffix, site)

    def bolds(self, site: str) -> tuple[Path, Path]:
        """Return the two paths that its volumes may have, relative to the dataset."""
        return self.path(site, "bold.nii.gz"), self.path(site, "bold.nii")

    def is_complete(self, root: Path, site: str) -> bool:
        """Return whether all its files of a site exist."""
        small_files = [self.path(site, suffix) for suffix in ("bold.json", "events.tsv", "stim.tsv.gz")]
        has_volumes = any((root / path).exists() for path in self.bolds(site))
        return has_volumes and all((root / path).exists() for path in [*small_files, self.stimuli])

    def sidecars(self, root: Path) -> list[Path]:
        """Find the existing sidecars of its volumes, of all sites."""
        return sorted((root / self.folder).glob(self._name("bold.json", "SITE").replace("acq-SITE", "acq-*")))

    @property
    def _home(self) -> Path:
        """Folder of subject and session."""
        return Path(f"sub-{self.label}", *([f"ses-{self.session}"] if self.session else []))

    def _name(self, suffix: str, site: str | None = None) -> str:
        """One of its file names."""
        return format_name(suffix, sub=self.label, ses=self.session, task=self.task.name, acq=site, run=self.task.run)


@dataclass(frozen=True, slots=True)
class Session:
    """A subject in the scanner: its model, dataset, sites and options.

    - `label`: label of the subject, without ``sub-``.
    - `sites`: unit space and hookpoints of each site.
    - `replaced`: tasks of which every recording is replaced, so that the files its runs share are written anew.
    - `may_change_model`: whether the label may belong to another model, since nothing of that one stays.
    """

    dataset: Dataset
    label: str
    subject: Subject
    sites: tuple[tuple[UnitSpace, tuple[HookPoint, ...]], ...]
    options: RecordOptions
    replaced: frozenset[str] = frozenset()
    may_change_model: bool = False

    @property
    def spaces(self) -> list[UnitSpace]:
        """Unit spaces, one per site."""
        return [space for space, _ in self.sites]

    @property
    def hookpoints(self) -> list[HookPoint]:
        """Hookpoints of all sites, one site after the other."""
        return [point for _, points in self.sites for point in points]


def subject_label(label: str | None, model_name: str) -> str:
    """Check the subject's label, or make one from the name of the model."""
    if label is not None:
        return check_label(label, "subject")
    label = to_label(model_name)
    if not label:
        raise LabelError(f"no letters or digits found in the name of model {model_name!r}; give `subject`")
    return label


def site_patterns(sites: Sequence[str], hookpoints: Sequence[str]) -> dict[str, str | None]:
    """Return the pattern of module paths of each site to be recorded; None for the built-in sites."""
    patterns: dict[str, str | None] = {}
    for site in sites:
        check_site(site)
        patterns[site] = None
    for pattern in hookpoints:
        label, equals, glob = pattern.rpartition("=")
        label = check_label(label if equals else "custom", "hookpoints")
        if label in SITES:
            raise SiteError(f"hookpoints labelled {label!r} found, which is a site; give them another label")
        if label in patterns:
            raise SiteError(f"site {label!r} named twice; give each of `hookpoints` a label of its own, as LABEL=GLOB")
        patterns[label] = glob
    if not patterns:
        raise SiteError("no site and no hookpoints asked for; name at least one")
    return patterns


def sampling_of(protocol: Protocol, subject: Subject, task: Task) -> Sampling:
    """Return how the tokens of a run are drawn; its seed depends on the protocol's seed, task, session and run."""
    text = "/".join(map(str, (protocol.seed, task.name, task.session, task.run)))
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
    defaults = subject.sampling
    temperature = defaults.temperature if protocol.temperature is None else protocol.temperature
    top_p = defaults.top_p if protocol.top_p is None else protocol.top_p
    top_k = defaults.top_k if protocol.top_k is None else protocol.top_k
    return Sampling(temperature, top_p, top_k, seed)


def run_settings(protocol: Protocol, run: Run) -> dict[str, Any]:
    """Describe for a sidecar what the numbers of a run depend on besides the model.

    Runs of other settings must not be mixed. Options that are not set are left out.
    """
    mode = protocol.mode_of(run.task)
    fields = {
        "Mode": mode,
        "TokensPerPrompt": protocol.tokens if mode == "generate" else None,
        "Temperature": protocol.temperature,
        "TopP": protocol.top_p,
        "TopK": protocol.top_k,
        "Seed": protocol.seed,
        "HoldOut": protocol.hold_out or None,
        "Nonfinite": protocol.nonfinite,
        "StimuliSHA256": run.fingerprint,
    }
    return {key: value for key, value in fields.items() if value is not None}


def find_missing(
    dataset: Dataset, planned: Sequence[Run], sites: Sequence[str], options: RecordOptions
) -> dict[Run, tuple[str, ...]]:
    """Find the sites of each run that are to be recorded; raise if recordings would be lost or mixed.

    Runs that were complete when their process was killed are moved to their place first. Runs of which nothing is
    missing are left out.
    """
    _check_unique(planned)
    old_volumes = unplanned_volumes(dataset, planned, sites)
    old_tasks = {volume.get("task") for volume in old_volumes}
    lasting = [run for run in planned if not options.overwrite or run.task.name in old_tasks]
    _check_shared(dataset, lasting, options)
    missing = {}
    for run in planned:
        dataset.recover(run.name)
        existing = [path for site in sites for path in run.bolds(site) if (dataset.root / path).exists()]
        if existing and not options.resume and not options.overwrite:
            raise DatasetError(
                f"{existing[0]} exists already; go on with resume=True, replace it with overwrite=True, or name "
                "another `subject`"
            )
        for sidecar in run.sidecars(dataset.root):
            if not options.overwrite or parse_name(sidecar.name)[1].get("acq") not in sites:
                _check_same_settings(sidecar, run_settings(options, run))
        incomplete = [site for site in sites if options.overwrite or not run.is_complete(dataset.root, site)]
        if incomplete:
            missing[run] = tuple(incomplete)
    if options.overwrite:
        _check_no_old_runs(planned, sites, old_volumes)
    return missing


def _check_unique(planned: Sequence[Run]) -> None:
    """Raise if two runs have one name, since the second would replace the first."""
    names = [run.name for run in planned]
    for name in names:
        if names.count(name) > 1:
            raise RecordError(f"{name} asked for twice; give each task a name of its own")


def _check_shared(dataset: Dataset, planned: Sequence[Run], protocol: Protocol) -> None:
    """Raise if the dataset describes a task in another way."""
    for run in planned:
        for name, fields in shared_sidecars(run.task, protocol).items():
            dataset.check_shared(name, fields)


def shared_sidecars(task: Task, protocol: Protocol) -> dict[str, dict[str, Any]]:
    """Compose the sidecars that all runs of a task share, by file name in the root of the dataset."""
    texts = {
        "task": task.name,
        "description": task.description or f"Task {task.name}.",
        "instructions": task.instructions or "Continue the text.",
    }
    absent = set(LABELS) - set(task.columns)
    events = {name: text for name, text in template_json("task_events.json").items() if name not in absent}
    if protocol.mode_of(task) == "generate":
        events |= template_json("events_responses.json")
    if levels := condition_levels(task):
        events["trial_type"]["Levels"] = levels
    return {
        f"task-{task.name}_bold.json": template_json("task_bold.json", **texts),
        f"task-{task.name}_events.json": events,
        f"task-{task.name}_stim.json": template_json("task_stim.json", **texts),
    }


def condition_levels(task: Task) -> dict[str, str]:
    """Return a description of each condition: those that the task describes, then others in order of appearance."""
    conditions = dict.fromkeys(trial.trial_type for trial in task.trials if trial.trial_type)
    return dict(task.trial_types) | {name: f"Condition {name}." for name in conditions if name not in task.trial_types}


def _check_same_settings(sidecar: Path, settings: dict[str, Any]) -> None:
    """Raise if a recording was made with other settings."""
    before = read_json(sidecar).get("Llm2bids", {}).get("Settings", {})
    for key in settings | before:
        if before.get(key) != settings.get(key):
            raise RecordError(
                f"{sidecar.name} was recorded with {key} {before.get(key)}, now {settings.get(key)} is asked for; use "
                "the same settings or another `subject`, or replace all its sites with overwrite=True"
            )


def unplanned_volumes(dataset: Dataset, planned: Sequence[Run], sites: Sequence[str]) -> list[dict[str, str]]:
    """Find the recordings of a dataset that stay if all that is planned is recorded anew, in order of name.

    Of each the BIDS entities are returned (``sub``, ``task``, ...), and under ``name`` the file name.
    """
    volumes = {dataset.root / path for run in planned for site in sites for path in run.bolds(site)}
    paths = sorted(path for path in dataset.root.glob("sub-*/**/*_bold.nii*") if path not in volumes)
    return [parse_name(path.name)[1] | {"name": path.name} for path in paths]


def _check_no_old_runs(planned: Sequence[Run], sites: Sequence[str], old_volumes: Sequence[dict[str, str]]) -> None:
    """Raise if older runs of a task would stay beside those that are overwritten."""
    tasks = {(run.label, run.session, run.task.name) for run in planned}
    for volume in old_volumes:
        if volume.get("acq") in sites and (volume["sub"], volume.get("ses"), volume.get("task")) in tasks:
            raise RecordError(
                f"{volume['name']} of an earlier recording would stay beside the new runs; record as many runs as "
                "before, or remove it"
            )


def check_model_of_label(session: Session) -> None:
    """Raise if the subject's label belongs to another model."""
    if session.may_change_model:
        return
    before = session.dataset.participant(session.label).get("weights_sha256")
    if before not in {None, "n/a", session.subject.identity.weights_sha256}:
        raise RecordError(
            f"sub-{session.label} is another model already (weights {before[:12]}…, not "
            f"{session.subject.identity.weights_sha256[:12]}…); name another `subject`"
        )
