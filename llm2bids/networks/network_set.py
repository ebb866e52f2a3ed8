"""What `glm` left on disk, as the networks of a subject: one per task, on one set of units."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
import pandas as pd

from llm2bids.bids.names import format_name, sidecar_of
from llm2bids.bids.tables import read_json, read_tsv
from llm2bids.design.matrix import check_estimable
from llm2bids.design.regressors import FACTOR
from llm2bids.design.statsmodel import Contrast
from llm2bids.errors import DatasetError, DesignError, InferenceError, did_you_mean
from llm2bids.networks.rules import NetworkRule
from llm2bids.networks.run_statistics import RunContrast
from llm2bids.results.summaries import SUMMARY
from llm2bids.results.targets import read_map
from llm2bids.space import UnitSpace
from llm2bids.statistics.samples import averaging

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from llm2bids.space.selection import Tail

logger = logging.getLogger(__name__)

_PROMPT_COLUMNS: Final = ("trial_type", "block", "stimulus", "run")


@dataclass(frozen=True)
class Network:
    """What `glm` found for one subject, task, site and contrast.

    `summary`: the ``glm.json`` of the analysis.
    """

    summary: Path
    fields: dict[str, Any]
    found: dict[str, Any]

    @property
    def subject(self) -> str:
        """Label of the subject."""
        return str(self.fields["Subject"])

    @property
    def task(self) -> str:
        """Label of the task."""
        return str(self.fields["Task"])

    @property
    def site(self) -> str:
        """Where the units are."""
        return str(self.fields["Site"])

    @cached_property
    def space(self) -> UnitSpace:
        """Which voxel is which unit."""
        return UnitSpace.from_json(self.fields["Llm2bids"]["UnitSpace"])

    @cached_property
    def sidecar(self) -> dict[str, Any]:
        """What the sidecar of its map of z says about it."""
        own: dict[str, Any] = read_json(sidecar_of(self.file(self.found["z_map"])))["Llm2bids"]
        return own

    @cached_property
    def contrast(self) -> Contrast:
        """What was asked."""
        asked = self.sidecar["Contrast"]
        test: Literal["t", "F"] = "F" if asked["Test"] == "F" else "t"
        rows = asked["Weights"] if test == "F" else [asked["Weights"]]
        return Contrast(asked["Name"], tuple(asked["Columns"]), tuple(map(tuple, rows)), test)

    @property
    def weights(self) -> dict[str, float]:
        """Weight of each condition in a t contrast."""
        pairs = zip(self.contrast.columns, self.contrast.weights[0], strict=True)
        return {column.removeprefix(FACTOR): weight for column, weight in pairs if column.startswith(FACTOR) and weight}

    @property
    def rule(self) -> NetworkRule:
        """How its units were chosen; max-t, which only prompts of the whole allow, as Bonferroni."""
        settings = self.fields["Llm2bids"]["Statistics"]
        name = {"maxt": "bonferroni"}.get(settings["Correction"], settings["Correction"])
        return NetworkRule(name, settings["Alpha"], settings["Tail"])

    @property
    def tail(self) -> Tail:
        """Which effects count."""
        tail: Tail = self.fields["Llm2bids"]["Statistics"]["Tail"]
        return tail

    def file(self, name: str) -> Path:
        """Name a file beside the summary; one that is not there is refused."""
        path = self.summary.with_name(name)
        if not path.exists():
            raise DatasetError(f"{path} is missing, which {self.summary.name} lists; run llm2bids glm --overwrite")
        return path

    def beside(self, suffix: str, **entities: str) -> Path:
        """Name a file of the same analysis."""
        own = {"sub": self.subject, "task": self.task, "space": self.space.label}
        site = {"acq": self.site} if self.site else {}
        return self.file(format_name(suffix, **own, **site, **entities))

    @cached_property
    def tested(self) -> NDArray[np.bool_]:
        """Units that were tested, shape (n_units,)."""
        chosen: NDArray[np.bool_] = read_map(self.beside("mask.nii.gz", desc="brain"), self.space) != 0
        return chosen

    @cached_property
    def selected(self) -> NDArray[np.bool_]:
        """Units of the network, shape (n_units,)."""
        chosen: NDArray[np.bool_] = read_map(self.file(self.found["mask"]), self.space) != 0
        return chosen

    def map(self, statistic: Literal["z", "effect"]) -> NDArray[np.float64]:
        """Read a map.

        Returns (n_units,): 0 where a unit was not tested.
        """
        name = self.found["z_map"].replace("_stat-z_", f"_stat-{statistic}_")
        return np.asarray(read_map(self.file(name), self.space), np.float64)

    def runs(self, kept: NDArray[np.bool_]) -> list[RunContrast]:
        """Read what every prompt did, run by run.

        `kept` (n_units,): units to read. Returns runs that show all conditions of the contrast. A text that a run shows
        twice is averaged.
        """
        if self.fields["Llm2bids"]["Statistics"]["Inference"] == "token":
            raise InferenceError(
                f"{self.summary.name} took tokens for samples, so what each prompt did is not there; run llm2bids glm "
                "with --inference prompt into another output folder"
            )
        prompts, design = self._table("prompts.tsv"), self._design()
        path = self.beside("statmap.nii.gz", stat="effect", desc="prompts")
        effects = np.asarray(read_map(path, self.space)[:, kept], np.float32)
        if not len(prompts) == len(design) == len(effects):
            raise DatasetError(f"{path.name}, its prompts and their design differ in length; run llm2bids glm again")
        found = []
        for run in prompts["run"].drop_duplicates():
            rows = (prompts["run"] == run).to_numpy()
            own = design[rows].loc[:, design[rows].abs().max() > 0].reset_index(drop=True)
            averaged = _averaged(prompts[rows].reset_index(drop=True), effects[rows], own)
            if self._answers(averaged[2], run):
                found.append(RunContrast.from_design((self.task, self.subject, run), *averaged, self.contrast))
        if not found:
            raise DesignError(f"no run of {self.summary.name} can answer contrast {self.contrast.name}; choose another")
        return found

    def _answers(self, design: pd.DataFrame, run: str) -> bool:
        """Whether a run can estimate the contrast; says so if not."""
        known = [f"{FACTOR}{name}" for name in self.contrast.conditions]
        try:
            weights = self.contrast.matrix(list(design.columns))
            check_estimable(design, weights, f"contrast {self.contrast.name} in {run}")
        except DesignError as error:
            if known and all(name in self._design().columns for name in known):
                logger.warning("%s of task %s is left out: %s", run, self.task, error)
                return False
            raise
        return True

    def _design(self) -> pd.DataFrame:
        """The design over prompts."""
        path = self.beside("design.tsv", desc="prompts") if self._together else None
        tables = [read_tsv(path)] if path else [read_tsv(one) for one in self._designs_of_runs()]
        return pd.concat([table.astype(float) for table in tables], ignore_index=True).fillna(0.0)

    @property
    def _together(self) -> bool:
        """Whether the runs were analysed together."""
        return bool(self.fields["Llm2bids"]["Statistics"]["Inference"] == "prompt")

    def _designs_of_runs(self) -> list[Path]:
        """Their designs where runs were analysed apart."""
        parts = [dict(part.split("-") for part in run.split("_")) for run in self.fields["Runs"]]
        return [self.beside("design.tsv", **part) for part in parts]

    def _table(self, suffix: str) -> pd.DataFrame:
        """The table of prompts."""
        path = self.beside(suffix)
        table = read_tsv(path)
        if missing := set(_PROMPT_COLUMNS) - {"block"} - set(table.columns):
            raise DatasetError(f"{path} has no column {min(missing)}; run llm2bids glm again")
        return table if "block" in table else table.assign(block="n/a")


def _averaged(
    prompts: pd.DataFrame, effects: NDArray[np.float32], design: pd.DataFrame
) -> tuple[pd.DataFrame, NDArray[np.float32], pd.DataFrame]:
    """One row per text and condition: a text that was shown again is no new sample."""
    weights = averaging(prompts, np.float32)
    if weights is None:
        return prompts, effects, design
    rows = pd.DataFrame(weights @ design.to_numpy(), columns=design.columns)
    return prompts.iloc[weights.argmax(1)].reset_index(drop=True), weights @ effects, rows


@dataclass(frozen=True)
class NetworkSet:
    """The networks of one subject at one site, or of several subjects of one geometry.

    `networks`: one per task and subject.
    """

    networks: tuple[Network, ...]

    @property
    def tasks(self) -> list[str]:
        """Labels of the tasks, each once."""
        return list(dict.fromkeys(network.task for network in self.networks))

    @property
    def subjects(self) -> list[str]:
        """Labels of the subjects, each once."""
        return list(dict.fromkeys(network.subject for network in self.networks))

    @property
    def space(self) -> UnitSpace:
        """Which voxel is which unit."""
        return self.networks[0].space

    @property
    def site(self) -> str:
        """Where the units are."""
        return self.networks[0].site

    @property
    def sites(self) -> list[NetworkSet]:
        """Sets of one site each; itself where it is of one."""
        labels = dict.fromkeys(network.site for network in self.networks)
        own = [tuple(network for network in self.networks if network.site == label) for label in labels]
        return [self] if len(own) == 1 else [NetworkSet(networks) for networks in own]

    @property
    def name(self) -> str:
        """What it is called in messages."""
        return f"{', '.join(f'sub-{one}' for one in self.subjects)}, site {self.site or 'unnamed'}"

    @cached_property
    def tested(self) -> NDArray[np.bool_]:
        """Units that were tested in every task, shape (n_units,)."""
        kept: NDArray[np.bool_] = np.logical_and.reduce([network.tested for network in self.networks])
        if not kept.any():
            raise DesignError(f"no unit of {self.name} was tested in every task; leave a task out with --task-label")
        return kept

    @cached_property
    def selected(self) -> NDArray[np.bool_]:
        """Networks over the tested units, shape (n_networks, n_tested)."""
        return np.stack([network.selected[self.tested] for network in self.networks])

    @cached_property
    def layers(self) -> NDArray[np.int64]:
        """Number of the hookpoint of each tested unit, shape (n_tested,)."""
        found: NDArray[np.int64] = self.space.locate(np.flatnonzero(self.tested))[0]
        return found

    def runs(self) -> list[RunContrast]:
        """Read what every prompt did, run by run, over the tested units."""
        return [run for network in self.networks for run in network.runs(self.tested)]


def with_tasks(found: Sequence[NetworkSet], n_tasks: int, what: str) -> list[NetworkSet]:
    """Keep the sets of enough tasks, and say which are left out."""
    kept = [one for one in found if len(one.tasks) >= n_tasks]
    few = [f"{len(one.tasks)} task ({', '.join(one.tasks)}) of {one.name}" for one in found if one not in kept]
    if not kept:
        raise InferenceError(
            f"{few[0]} found, {what} needs {n_tasks}; record and analyse more, or leave out --task-label"
        )
    for one in few:
        logger.warning("left out: %s; %s needs %d", one, what, n_tasks)
    return kept


def find_networks(
    out_dir: Path,
    *,
    subjects: Sequence[str] = (),
    tasks: Sequence[str] = (),
    sites: Sequence[str] = (),
    contrasts: Sequence[str] = (),
    together: bool = False,
) -> list[NetworkSet]:
    """Find the networks in a folder of results."""
    summaries = sorted(out_dir.glob(f"sub-*/func/*_{SUMMARY}"))
    if not summaries:
        raise DatasetError(
            f"{out_dir} holds no results of single subjects; give the folder that llm2bids glm BIDS_DIR OUT_DIR made"
        )
    fields = {path: read_json(path) for path in summaries}
    kept = [
        Network(path, one, found)
        for path, one in _wanted(fields, {"Subject": subjects, "Task": tasks, "Site": sites}, out_dir)
        for found in one["Found"]
        if not contrasts or found["contrast"] in contrasts
    ]
    _check_contrasts(kept, contrasts, fields.values())
    groups: dict[tuple[str, ...], list[Network]] = {}
    for network in kept:
        groups.setdefault((network.site,) if together else (network.subject, network.site), []).append(network)
    found_sets = [NetworkSet(tuple(group)) for group in groups.values()]
    for one in found_sets:
        _check_space(one)
    return found_sets


def _wanted(
    fields: dict[Path, dict[str, Any]], wanted: dict[str, Sequence[str]], out_dir: Path
) -> Iterable[tuple[Path, dict[str, Any]]]:
    """Summaries of the labels asked for; refuses a label that is not there."""
    short = {"Subject": "sub", "Task": "task", "Site": "acq"}
    left = fields
    for key, labels in wanted.items():
        there = {str(one[key]) for one in fields.values()}
        asked = {label.removeprefix(f"{short[key]}-") for label in labels}
        if absent := asked - there:
            raise DatasetError(
                f"{short[key]}-{min(absent)} not found in {out_dir}; {did_you_mean(min(absent), there)}there are "
                f"{', '.join(sorted(there))}"
            )
        left = {path: one for path, one in left.items() if not asked or one[key] in asked}
    if not left:
        raise DatasetError(f"{out_dir} holds no result of all labels asked for together; ask for fewer")
    return left.items()


def _check_contrasts(networks: Sequence[Network], asked: Sequence[str], fields: Iterable[dict[str, Any]]) -> None:
    """Refuse a contrast that is not there, and a choice that is not ours to make."""
    there = {found["contrast"] for one in fields for found in one["Found"]}
    if absent := set(asked) - there:
        near = did_you_mean(min(absent), there)
        raise DatasetError(f"contrast {min(absent)} not found; {near}there are {', '.join(sorted(there))}")
    counts: dict[Path, list[str]] = {}
    for network in networks:
        counts.setdefault(network.summary, []).append(network.found["contrast"])
    for path, names in counts.items():
        if len(names) > 1:
            raise InferenceError(
                f"{path.name} has contrasts {', '.join(names)}; choose one per task with --contrasts, e.g. {names[0]}"
            )


def _check_space(networks: NetworkSet) -> None:
    """Refuse units that are not the same."""
    first = networks.networks[0]
    for other in networks.networks[1:]:
        if other.space != first.space:
            raise InferenceError(
                f"{other.summary.name} is of space {other.space.label}, {first.summary.name} of {first.space.label}; "
                "compare models of one geometry only: choose with --participant-label"
            )
        if other.subject == first.subject and other.fields["Llm2bids"].get("WeightsSHA256") != first.fields[
            "Llm2bids"
        ].get("WeightsSHA256"):
            raise InferenceError(
                f"{other.summary.name} was recorded with other weights than {first.summary.name}; record them as two "
                "subjects"
            )
