"""What is to be recorded, under which names, and what must not be lost or mixed: all that can be said before work."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from llm2bids.bids.names import check_label, format_name, parse_name, to_label
from llm2bids.bids.tables import read_json
from llm2bids.bids.templates import template_json
from llm2bids.errors import DatasetError, LabelError, RecordError, SiteError
from llm2bids.model.loading import Sampling
from llm2bids.model.site_names import SITES, check_site

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llm2bids.bids.dataset import Dataset
    from llm2bids.model.loading import Subject
    from llm2bids.model.sites import HookPoint
    from llm2bids.space import UnitSpace
    from llm2bids.task import Task

COLDEST: Final = 0.01
"""Temperatures below it, but for 0, would overflow."""
MODES: Final = ("generate", "read")
"""Whether scans are tokens the model generates, or tokens it reads."""


@dataclass(frozen=True, slots=True)
class Protocol:
    """How a task is shown and what is done with the numbers; everything the result depends on but task and model.

    - `mode`: whether scans are tokens the model generates after each prompt, or the tokens of the prompt; None for what
      each task says.
    - `n_tokens`: tokens to generate per prompt.
    - `temperature`, `top_p`: how tokens are drawn; None for what the model's makers advise.
    - `seed`: order of prompts and draw of tokens.
    - `batch_size`: prompts in the model at a time.
    - `nonfinite`: whether NaN and infinity stop the recording or become 0.
    """

    mode: Literal["generate", "read"] | None = None
    n_tokens: int = 24
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    seed: int = 0
    batch_size: int = 8
    nonfinite: Literal["error", "zero"] = "error"
    compress: bool = True

    def __post_init__(self) -> None:
        """Refuse settings that cannot be meant."""
        if self.mode is not None and self.mode not in MODES:
            raise RecordError(f"mode {self.mode!r} found; use generate or read")
        if self.n_tokens < 1:
            raise RecordError(f"{self.n_tokens} tokens per prompt asked for; 1 or more needed")
        if self.batch_size < 1:
            raise RecordError(f"a batch size of {self.batch_size} found; 1 or more needed")
        if self.temperature is not None and self.temperature != 0 and not COLDEST <= self.temperature < np.inf:
            raise RecordError(
                f"a temperature of {self.temperature} found; 0 (likeliest token), or {COLDEST} or more needed"
            )
        if self.top_k is not None and self.top_k < 0:
            raise RecordError(f"a top-k of {self.top_k} found; 0 (all tokens) or more needed")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise RecordError(f"a top-p of {self.top_p} found; a number above 0 up to 1 needed")
        if self.nonfinite not in {"error", "zero"}:
            raise RecordError(f"nonfinite {self.nonfinite!r} found; use error or zero")
        if self.seed < 0:
            raise RecordError(f"seed {self.seed} found; 0 or more needed")

    def mode_of(self, task: Task) -> Literal["generate", "read"]:
        """Say what the scans of a task are.

        Returns tokens the model generates, or tokens of the prompt.
        """
        return self.mode or task.mode

    def sampling(self, subject: Subject, *parts: object) -> Sampling:
        """Say how tokens are drawn for one run.

        Returns temperature, top-p, and a seed that depends on `seed` and `parts` alone.
        """
        text = "/".join(map(str, (self.seed, *parts)))
        seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
        advised = subject.sampling
        temperature = advised.temperature if self.temperature is None else self.temperature
        top_p = advised.top_p if self.top_p is None else self.top_p
        top_k = advised.top_k if self.top_k is None else self.top_k
        return Sampling(temperature, top_p, top_k, seed)


@dataclass(frozen=True, slots=True)
class Run:
    """One task, session and run of a subject, and its files.

    `session`: label of the session, or None where there are none.
    """

    label: str
    task: Task
    session: str | None

    @property
    def name(self) -> str:
        """Name of the run in messages and of its stage."""
        return self._name("").rstrip("_")

    @property
    def folder(self) -> Path:
        """Folder of its files, relative to the dataset."""
        return self._home / "func"

    @property
    def stimuli(self) -> Path:
        """Where its texts go, relative to the dataset."""
        return "stimuli" / self._home / self._name("stimuli.json")

    @property
    def fingerprint(self) -> str:
        """SHA-256 of what is shown, in order."""
        shown = [(trial.text, trial.trial_type, trial.block) for trial in self.task.trials]
        return hashlib.sha256(json.dumps(shown).encode()).hexdigest()

    def path(self, site: str, suffix: str) -> Path:
        """Name one of its files."""
        return self.folder / self._name(suffix, site)

    def bolds(self, site: str) -> tuple[Path, Path]:
        """Name the files its volumes may be in."""
        return self.path(site, "bold.nii.gz"), self.path(site, "bold.nii")

    def is_complete(self, root: Path, site: str) -> bool:
        """Say whether all its files of a site are there."""
        others = [self.path(site, suffix) for suffix in ("bold.json", "events.tsv", "stim.tsv.gz")]
        volumes = any((root / path).exists() for path in self.bolds(site))
        return volumes and all((root / path).exists() for path in [*others, self.stimuli])

    def sidecars(self, root: Path) -> list[Path]:
        """Find the sidecars of its volumes that are there.

        Returns of all sites, absolute or relative as `root` is.
        """
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
    """A subject in the scanner: what is recorded of it, how, and into which dataset.

    - `label`: what the subject is called, without ``sub-``.
    - `sites`: what is recorded, site by site.
    - `authors`: authors of a new dataset.
    - `may_replace`: whether runs that are there may be replaced.
    - `replaced`: tasks of which every recording is replaced, so that what it shared is written anew.
    - `may_be_another`: whether the subject may have been another model before, since nothing of it stays.
    """

    dataset: Dataset
    label: str
    subject: Subject
    sites: tuple[tuple[UnitSpace, tuple[HookPoint, ...]], ...]
    protocol: Protocol
    authors: tuple[str, ...]
    may_replace: bool = False
    replaced: frozenset[str] = frozenset()
    may_be_another: bool = False

    @property
    def spaces(self) -> list[UnitSpace]:
        """The spaces recorded, one per site."""
        return [space for space, _ in self.sites]

    @property
    def hookpoints(self) -> list[HookPoint]:
        """All places recorded, site after site."""
        return [point for _, points in self.sites for point in points]


def subject_label(label: str | None, model_name: str) -> str:
    """Check the subject's label, or make one from the name of the model."""
    if label is not None:
        return check_label(label, "subject")
    label = to_label(model_name)
    if not label:
        raise LabelError(f"no letters or digits found in the name of model {model_name!r}; give `subject`")
    return label


def wanted_places(sites: Sequence[str], patterns: Sequence[str]) -> dict[str, str | None]:
    """Read which places are to be recorded.

    Returns pattern of module paths by site, None for the built-in ones.
    """
    wanted: dict[str, str | None] = {}
    for site in sites:
        check_site(site)
        wanted[site] = None
    for pattern in patterns:
        label, equals, glob = pattern.rpartition("=")
        label = check_label(label if equals else "custom", "hookpoints")
        if label in SITES:
            raise SiteError(f"hookpoints labelled {label!r} found, which is a site; give them another label")
        if label in wanted:
            raise SiteError(f"site {label!r} named twice; give each --hookpoints a label of its own, as LABEL=GLOB")
        wanted[label] = glob
    if not wanted:
        raise SiteError("no site and no hookpoints asked for; name at least one")
    return wanted


def run_settings(protocol: Protocol, run: Run) -> dict[str, Any]:
    """Say what the numbers of a run depend on besides the model; runs made with other settings must not mix.

    Returns JSON values; what is not set is left out.
    """
    mode = protocol.mode_of(run.task)
    fields = {
        "Mode": mode,
        "TokensPerPrompt": protocol.n_tokens if mode == "generate" else None,
        "Temperature": protocol.temperature,
        "TopP": protocol.top_p,
        "TopK": protocol.top_k,
        "Seed": protocol.seed,
        "Nonfinite": protocol.nonfinite,
        "StimuliSHA256": run.fingerprint,
    }
    return {key: value for key, value in fields.items() if value is not None}


def still_to_do(
    dataset: Dataset, planned: Sequence[Run], sites: Sequence[str], protocol: Protocol, *, resume: bool, overwrite: bool
) -> dict[Run, tuple[str, ...]]:
    """Find what is to be recorded; refuse before any work what would be lost or mixed.

    `dataset`: where it goes; runs that were complete when their process was killed are put in place. Returns sites to
    record, by run; runs of which everything is there are left out.
    """
    _check_unique(planned)
    left = unplanned_volumes(dataset, planned, sites)
    kept = {volume.get("task") for volume in left} if overwrite else {run.task.name for run in planned}
    _check_shared(dataset, [run for run in planned if run.task.name in kept], protocol)
    todo = {}
    for run in planned:
        dataset.recover(run.name)
        there = {site: path for site in sites for path in run.bolds(site) if (dataset.root / path).exists()}
        if there and not resume and not overwrite:
            raise DatasetError(
                f"{next(iter(there.values()))} exists already; go on with --resume, replace it with --overwrite, or "
                "name another --subject"
            )
        for sidecar in run.sidecars(dataset.root):
            if not overwrite or parse_name(sidecar.name)[1].get("acq") not in sites:
                _check_same_settings(sidecar, run_settings(protocol, run))
        if missing := tuple(site for site in sites if overwrite or not run.is_complete(dataset.root, site)):
            todo[run] = missing
    if overwrite:
        _check_none_left(planned, sites, left)
    return todo


def _check_unique(planned: Sequence[Run]) -> None:
    """Refuse two runs of one name, which would replace each other."""
    names = [run.name for run in planned]
    for name in names:
        if names.count(name) > 1:
            raise RecordError(f"{name} asked for twice; give each task a name of its own")


def _check_shared(dataset: Dataset, planned: Sequence[Run], protocol: Protocol) -> None:
    """Refuse tasks that the dataset describes otherwise."""
    for run in planned:
        for name, fields in shared_sidecars(run.task, protocol).items():
            dataset.check_shared(name, fields)


def shared_sidecars(task: Task, protocol: Protocol) -> dict[str, dict[str, Any]]:
    """Compose what all runs of a task share.

    Returns fields by file name in the root of the dataset.
    """
    texts = {
        "task": task.name,
        "description": task.description or f"Task {task.name}.",
        "instructions": task.instructions or "Continue the text.",
    }
    events = template_json("task_events.json")
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
    """Say what each condition of a task means.

    Returns description by condition: as the task says, then others in order of appearance. Empty without conditions.
    """
    found = dict.fromkeys(trial.trial_type for trial in task.trials if trial.trial_type)
    return dict(task.trial_types) | {name: f"Condition {name}." for name in found if name not in task.trial_types}


def _check_same_settings(sidecar: Path, settings: dict[str, Any]) -> None:
    """Refuse to go on with a recording that was made otherwise."""
    before = read_json(sidecar).get("Llm2bids", {}).get("Settings", {})
    for key in settings | before:
        if before.get(key) != settings.get(key):
            raise RecordError(
                f"{sidecar.name} was recorded with {key} {before.get(key)}, now {settings.get(key)} is asked for; use "
                "the same settings or another --subject, or replace all its sites with --overwrite"
            )


def unplanned_volumes(dataset: Dataset, planned: Sequence[Run], sites: Sequence[str]) -> list[dict[str, str]]:
    """Find the recordings of a dataset that would stay if all that is planned were recorded anew.

    Returns BIDS entities of each (``sub``, ``task``, ...) and, under ``name``, the file name; in order of name.
    """
    known = {dataset.root / path for run in planned for site in sites for path in run.bolds(site)}
    paths = sorted(path for path in dataset.root.glob("sub-*/**/*_bold.nii*") if path not in known)
    return [parse_name(path.name)[1] | {"name": path.name} for path in paths]


def _check_none_left(planned: Sequence[Run], sites: Sequence[str], left: Sequence[dict[str, str]]) -> None:
    """Refuse to overwrite some runs of a task and leave older ones beside them."""
    tasks = {(run.label, run.session, run.task.name) for run in planned}
    for volume in left:
        if volume.get("acq") in sites and (volume["sub"], volume.get("ses"), volume.get("task")) in tasks:
            raise RecordError(
                f"{volume['name']} of an earlier recording would stay beside the new runs; record as many runs as "
                "before, or remove it"
            )
