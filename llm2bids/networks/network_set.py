"""Networks in a folder of results of `glm`: one per task, on one set of units."""

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
from llm2bids.statistics.samples import averaging_weights

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from llm2bids.space.selection import Tail

logger = logging.getLogger(__name__)

_PROMPT_COLUMNS: Final = ("trial_type", "block", "stimulus", "run")


@dataclass(frozen=True)
class Network:
    """Network of one subject, task, site and contrast.

    - `summary`: the ``glm.json`` of the analysis; `fields`: what it holds.
    - `result`: its entry for this contrast, with the names of mask and maps.
    """

    summary: Path
    fields: dict[str, Any]
    result: dict[str, Any]

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
        """Site of the units, such as block or mlp."""
        return str(self.fields["Site"])

    @cached_property
    def space(self) -> UnitSpace:
        """Which voxel is which unit."""
        return UnitSpace.from_json(self.fields["Llm2bids"]["UnitSpace"])

    @cached_property
    def sidecar(self) -> dict[str, Any]:
        """Fields of ours in the sidecar of its z map."""
        fields: dict[str, Any] = read_json(sidecar_of(self.file(self.result["z_map"])))["Llm2bids"]
        return fields

    @cached_property
    def contrast(self) -> Contrast:
        """The contrast of conditions that was tested."""
        fields = self.sidecar["Contrast"]
        test: Literal["t", "F"] = "F" if fields["Test"] == "F" else "t"
        rows = fields["Weights"] if test == "F" else [fields["Weights"]]
        return Contrast(fields["Name"], tuple(fields["Columns"]), tuple(map(tuple, rows)), test)

    @property
    def weights(self) -> dict[str, float]:
        """Weight of each condition in a t contrast."""
        pairs = zip(self.contrast.columns, self.contrast.weights[0], strict=True)
        return {column.removeprefix(FACTOR): weight for column, weight in pairs if column.startswith(FACTOR) and weight}

    @property
    def rule(self) -> NetworkRule:
        """Rule that chose its units; Bonferroni instead of max-t, which needs the prompts of all runs together."""
        settings = self.fields["Llm2bids"]["Statistics"]
        name = {"maxt": "bonferroni"}.get(settings["Correction"], settings["Correction"])
        return NetworkRule(name, settings["Alpha"], settings["Tail"])

    @property
    def tail(self) -> Tail:
        """Which effects count."""
        tail: Tail = self.fields["Llm2bids"]["Statistics"]["Tail"]
        return tail

    def file(self, name: str) -> Path:
        """Path of a file beside the summary; raises if it is missing."""
        path = self.summary.with_name(name)
        if not path.exists():
            raise DatasetError(
                f"{path} is missing, which {self.summary.name} lists; run llm2bids glm again with overwrite=True"
            )
        return path

    def beside(self, suffix: str, **entities: str) -> Path:
        """Path of another file of the same analysis."""
        analysis = {"sub": self.subject, "task": self.task, "space": self.space.label}
        site = {"acq": self.site} if self.site else {}
        return self.file(format_name(suffix, **analysis, **site, **entities))

    @cached_property
    def tested(self) -> NDArray[np.bool_]:
        """Units that were tested, shape (n_units,)."""
        units: NDArray[np.bool_] = read_map(self.beside("mask.nii.gz", desc="brain"), self.space) != 0
        return units

    @cached_property
    def selected(self) -> NDArray[np.bool_]:
        """Units of the network, shape (n_units,)."""
        units: NDArray[np.bool_] = read_map(self.file(self.result["mask"]), self.space) != 0
        return units

    def map(self, statistic: Literal["z", "effect"]) -> NDArray[np.float64]:
        """Read a map, shape (n_units,); 0 where a unit was not tested."""
        name = self.result["z_map"].replace("_stat-z_", f"_stat-{statistic}_")
        return np.asarray(read_map(self.file(name), self.space), np.float64)

    def runs(self, units: NDArray[np.bool_]) -> list[RunContrast]:
        """Read the effects of single prompts, run by run, over some units (a mask of shape (n_units,)).

        Runs that lack a condition of the contrast are left out. A text that a run shows twice is averaged.
        """
        if self.fields["Llm2bids"]["Statistics"]["Inference"] == "token":
            raise InferenceError(
                f"{self.summary.name} took tokens for samples, so effects of single prompts are missing; run "
                'llm2bids glm with inference="prompt" into another output folder'
            )
        prompts, design = self._table("prompts.tsv"), self._design()
        path = self.beside("statmap.nii.gz", stat="effect", desc="prompts")
        effects = np.asarray(read_map(path, self.space)[:, units], np.float32)
        if not len(prompts) == len(design) == len(effects):
            raise DatasetError(f"{path.name}, its prompts and their design differ in length; run llm2bids glm again")
        runs = []
        for run in prompts["run"].drop_duplicates():
            rows = (prompts["run"] == run).to_numpy()
            # regressors that are 0 all over this run belong to other runs
            columns = design[rows].loc[:, design[rows].abs().max() > 0].reset_index(drop=True)
            averaged = _averaged(prompts[rows].reset_index(drop=True), effects[rows], columns)
            if self._is_estimable(averaged[2], run):
                runs.append(RunContrast.from_design((self.task, self.subject, run), *averaged, self.contrast))
        if not runs:
            raise DesignError(f"no run of {self.summary.name} can answer contrast {self.contrast.name}; choose another")
        return runs

    def _is_estimable(self, design: pd.DataFrame, run: str) -> bool:
        """Whether a run can estimate the contrast; logs a warning if not."""
        conditions = [f"{FACTOR}{name}" for name in self.contrast.conditions]
        try:
            weights = self.contrast.matrix(list(design.columns))
            check_estimable(design, weights, f"contrast {self.contrast.name} in {run}")
        except DesignError as error:
            if conditions and all(name in self._design().columns for name in conditions):
                logger.warning("%s of task %s is left out: %s", run, self.task, error)
                return False
            raise
        return True

    def _design(self) -> pd.DataFrame:
        """Design over prompts: one table, or one per run where runs were analysed one by one."""
        if self.fields["Llm2bids"]["Statistics"]["Inference"] == "prompt":
            paths = [self.beside("design.tsv", desc="prompts")]
        else:
            entities = [dict(part.split("-") for part in run.split("_")) for run in self.fields["Runs"]]
            paths = [self.beside("design.tsv", **run) for run in entities]
        return pd.concat([read_tsv(path).astype(float) for path in paths], ignore_index=True).fillna(0.0)

    def _table(self, suffix: str) -> pd.DataFrame:
        """Table of prompts."""
        path = self.beside(suffix)
        table = read_tsv(path)
        if missing := set(_PROMPT_COLUMNS) - {"block"} - set(table.columns):
            raise DatasetError(f"{path} has no column {min(missing)}; run llm2bids glm again")
        return table if "block" in table else table.assign(block="n/a")


def _averaged(
    prompts: pd.DataFrame, effects: NDArray[np.float32], design: pd.DataFrame
) -> tuple[pd.DataFrame, NDArray[np.float32], pd.DataFrame]:
    """Average the rows of a text that was shown again under the same condition: it is no new sample."""
    weights = averaging_weights(prompts, np.float32)
    if weights is None:
        return prompts, effects, design
    rows = pd.DataFrame(weights @ design.to_numpy(), columns=design.columns)
    return prompts.iloc[weights.argmax(1)].reset_index(drop=True), weights @ effects, rows


@dataclass(frozen=True)
class NetworkSet:
    """Networks of one subject at one site, or of several subjects of one geometry; one per task and subject."""

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
        """Site of the units, such as block or mlp."""
        return self.networks[0].site

    @property
    def sites(self) -> list[NetworkSet]:
        """Sets of one site each; itself where it is of one."""
        labels = dict.fromkeys(network.site for network in self.networks)
        groups = [tuple(network for network in self.networks if network.site == label) for label in labels]
        return [self] if len(groups) == 1 else [NetworkSet(networks) for networks in groups]

    @property
    def name(self) -> str:
        """Name in messages."""
        return f"{', '.join(f'sub-{subject}' for subject in self.subjects)}, site {self.site or 'unnamed'}"

    def entities(self, label: str) -> dict[str, str]:
        """Entities of the files of an answer: ``sub`` and ``acq`` (where there is one), ``space`` and ``desc``."""
        subject = {"sub": self.subjects[0]} if len(self.subjects) == 1 else {}
        if len(self.sites) > 1:
            return {**subject, "desc": label}
        site = {"acq": self.site} if self.site else {}
        return {**subject, **site, "space": self.space.label, "desc": label}

    @property
    def sources(self) -> dict[str, Any]:
        """Files that an answer is made of, for its sidecar."""
        return {"Sources": [f"bids::sub-{network.subject}/func/{network.result['z_map']}" for network in self.networks]}

    @property
    def metadata(self) -> dict[str, Any]:
        """Models, units and contrasts, for the sidecar of an answer."""
        fields = [network.fields["Llm2bids"] for network in self.networks]
        spaces = [networks.space.to_json() for networks in self.sites]
        tested = [int(networks.tested.sum()) for networks in self.sites]
        return {
            "Models": sorted({str(part.get("Model")) for part in fields}),
            "WeightsSHA256": sorted({str(part.get("WeightsSHA256")) for part in fields}),
            "UnitSpace": spaces[0] if len(spaces) == 1 else spaces,
            "NumberTested": tested[0] if len(tested) == 1 else tested,
            "Contrasts": {network.task: network.result["contrast"] for network in self.networks},
        }

    @cached_property
    def tested(self) -> NDArray[np.bool_]:
        """Units that were tested in every task, shape (n_units,)."""
        units: NDArray[np.bool_] = np.logical_and.reduce([network.tested for network in self.networks])
        if not units.any():
            raise DesignError(f"no unit of {self.name} was tested in every task; leave a task out with `task_label`")
        return units

    @cached_property
    def selected(self) -> NDArray[np.bool_]:
        """Networks over the tested units, shape (n_networks, n_tested)."""
        return np.stack([network.selected[self.tested] for network in self.networks])

    @cached_property
    def layers(self) -> NDArray[np.int64]:
        """Number of the hookpoint of each tested unit, shape (n_tested,)."""
        hookpoints: NDArray[np.int64] = self.space.locate(np.flatnonzero(self.tested))[0]
        return hookpoints

    def runs(self) -> list[RunContrast]:
        """Read the effects of single prompts, run by run, over the tested units."""
        return [run for network in self.networks for run in network.runs(self.tested)]


def with_tasks(sets: Sequence[NetworkSet], n_tasks: int, question: str) -> list[NetworkSet]:
    """Keep the sets with enough tasks, and log which are left out."""
    enough = [networks for networks in sets if len(networks.tasks) >= n_tasks]
    few = [f"{len(rest.tasks)} task ({', '.join(rest.tasks)}) of {rest.name}" for rest in sets if rest not in enough]
    if not enough:
        raise InferenceError(
            f"{few[0]} found, {question} needs {n_tasks}; record and analyse more, or leave out `task_label`"
        )
    for text in few:
        logger.warning("left out: %s; %s needs %d", text, question, n_tasks)
    return enough


def find_networks(
    glm_dir: Path,
    *,
    subjects: Sequence[str] = (),
    tasks: Sequence[str] = (),
    sites: Sequence[str] = (),
    contrasts: Sequence[str] = (),
    together: bool = False,
) -> list[NetworkSet]:
    """Find the networks in a folder of results: one set per subject and site, or with `together` one per site."""
    summaries = sorted(glm_dir.glob(f"sub-*/func/*_{SUMMARY}"))
    if not summaries:
        raise DatasetError(
            f"{glm_dir} holds no results of single subjects; give the folder that llm2bids glm wrote its results to"
        )
    fields = {path: read_json(path) for path in summaries}
    networks = [
        Network(path, summary, result)
        for path, summary in _with_labels(fields, {"Subject": subjects, "Task": tasks, "Site": sites}, glm_dir)
        for result in summary["Found"]
        if not contrasts or result["contrast"] in contrasts
    ]
    _check_contrasts(networks, contrasts, fields.values())
    groups: dict[tuple[str, ...], list[Network]] = {}
    for network in networks:
        groups.setdefault((network.site,) if together else (network.subject, network.site), []).append(network)
    sets = [NetworkSet(tuple(group)) for group in groups.values()]
    for group in sets:
        _check_space(group)
    return sets


def _with_labels(
    fields: dict[Path, dict[str, Any]], labels: dict[str, Sequence[str]], glm_dir: Path
) -> Iterable[tuple[Path, dict[str, Any]]]:
    """Keep the summaries with these labels; raises if a label does not occur."""
    entities = {"Subject": "sub", "Task": "task", "Site": "acq"}
    matching = fields
    for key, values in labels.items():
        present = {str(summary[key]) for summary in fields.values()}
        chosen = {label.removeprefix(f"{entities[key]}-") for label in values}
        if absent := chosen - present:
            raise DatasetError(
                f"{entities[key]}-{min(absent)} not found in {glm_dir}; {did_you_mean(min(absent), present)}there are "
                f"{', '.join(sorted(present))}"
            )
        matching = {path: summary for path, summary in matching.items() if not chosen or summary[key] in chosen}
    if not matching:
        raise DatasetError(f"{glm_dir} holds no result with all of these labels together; give fewer")
    return matching.items()


def _check_contrasts(networks: Sequence[Network], names: Sequence[str], fields: Iterable[dict[str, Any]]) -> None:
    """Raise if a contrast does not occur, or a task has several and none is chosen."""
    present = {result["contrast"] for summary in fields for result in summary["Found"]}
    if absent := set(names) - present:
        near = did_you_mean(min(absent), present)
        raise DatasetError(f"contrast {min(absent)} not found; {near}there are {', '.join(sorted(present))}")
    contrasts: dict[Path, list[str]] = {}
    for network in networks:
        contrasts.setdefault(network.summary, []).append(network.result["contrast"])
    for path, several in contrasts.items():
        if len(several) > 1:
            raise InferenceError(
                f"{path.name} has contrasts {', '.join(several)}; choose one per task with `contrasts`, "
                f"e.g. {several[0]}"
            )


def _check_space(networks: NetworkSet) -> None:
    """Raise if units are not the same, or the weights of a subject."""
    first, *rest = networks.networks
    for network in rest:
        if network.space != first.space:
            raise InferenceError(
                f"{network.summary.name} is of space {network.space.label}, {first.summary.name} of "
                f"{first.space.label}; compare models of one geometry only: choose with `participant_label`"
            )
        weights = {part.fields["Llm2bids"].get("WeightsSHA256") for part in (first, network)}
        if network.subject == first.subject and len(weights) > 1:
            raise InferenceError(
                f"{network.summary.name} was recorded with other weights than {first.summary.name}; record them as two "
                "subjects"
            )
