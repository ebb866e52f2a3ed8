"""The recordings of a dataset, and all results that were made of them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

from llm2bids.bids.prepared import PreparedRun, find_prepared
from llm2bids.bids.runs import PREPARED, BoldRun, find_runs
from llm2bids.bids.tables import read_json
from llm2bids.decomposition.summaries import SUMMARY as ICA
from llm2bids.errors import DatasetError
from llm2bids.networks.answers import FOLDER
from llm2bids.results.summaries import SUMMARY as GLM
from llm2bids.space import UnitSpace

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

DERIVATIVES: Final = "derivatives"
"""Folder of results inside a dataset."""
LESION: Final = "lesion.json"
"""File that ``lesion`` writes last. It is repeated here because importing it would load torch."""


@dataclass(frozen=True)
class Result:
    """The JSON file in which one analysis says what it did and found.

    `root`: the folder of results that holds it.
    """

    path: Path
    root: Path

    @cached_property
    def fields(self) -> dict[str, Any]:
        """Content of the file."""
        return read_json(self.path)

    @property
    def metadata(self) -> dict[str, Any]:
        """Object ``Llm2bids`` of the file: model, settings, versions."""
        metadata: dict[str, Any] = self.fields.get("Llm2bids", {})
        return metadata

    @property
    def subjects(self) -> list[str]:
        """Subjects in the name of the file."""
        return [part.removeprefix("sub-") for part in self.path.name.split("_") if part.startswith("sub-")]

    @property
    def site(self) -> str:
        """Site whose units were analysed; empty if there is no single one."""
        return str(self.fields.get("Site") or self.metadata.get("Site") or "")

    def space(self) -> UnitSpace:
        """Read which voxel is which unit."""
        fields = self.metadata.get("UnitSpace")
        if not isinstance(fields, dict):
            raise DatasetError(f"{self.path} has no Llm2bids.UnitSpace; make it again with the verb that wrote it")
        return UnitSpace.from_json(fields)


@dataclass(frozen=True)
class Sources:
    """A dataset with all results that were found.

    - `prepared`: prepared runs by name, without those whose recording changed since.
    - `subject_filter`: subjects whose results are reported; all if it is empty.
    """

    raw: Path
    folders: tuple[Path, ...]
    runs: tuple[BoldRun, ...]
    prepared: dict[str, PreparedRun]
    subject_filter: tuple[str, ...] = ()

    @classmethod
    def from_dataset(cls, raw: Path, results: Sequence[Path] = (), subjects: Sequence[str] = ()) -> Sources:
        """Find recordings, and results in ``derivatives`` and in further folders."""
        runs = find_runs(raw, subjects)
        if absent := [path for path in results if not path.is_dir()]:
            raise DatasetError(f"{absent[0]} is no folder; give folders that glm, ica or lesion made")
        home = raw / DERIVATIVES
        inside = sorted(path for path in home.iterdir() if path.is_dir()) if home.is_dir() else []
        folders = {path.resolve(): path for path in reversed([*inside, *results])}  # each once, however it is written
        subject_filter = tuple(dict.fromkeys(run.entities["sub"] for run in runs)) if subjects else ()
        return cls(raw, tuple(reversed(folders.values())), tuple(runs), _find_prepared(raw, runs), subject_filter)

    @property
    def subjects(self) -> list[str]:
        """Labels of the subjects, each once."""
        return list(dict.fromkeys(run.entities["sub"] for run in self.runs))

    @property
    def tasks(self) -> list[str]:
        """Labels of the tasks, each once."""
        return list(dict.fromkeys(run.entities["task"] for run in self.runs))

    @property
    def sites(self) -> list[str]:
        """Labels of the sites, each once."""
        return list(dict.fromkeys(run.entities.get("acq", "") for run in self.runs))

    @cached_property
    def analyses(self) -> list[Result]:
        """Results of ``glm`` for single subjects."""
        return self._find(f"sub-*/func/*_{GLM}")

    @cached_property
    def groups(self) -> list[Result]:
        """Results of ``glm`` over subjects."""
        return self._find(f"group/**/*_{GLM}")

    @cached_property
    def components(self) -> list[Result]:
        """Results of ``ica``."""
        patterns = (f"sub-*/func/*_{ICA}", f"sub-*/ses-*/func/*_{ICA}")  # ica by run writes beside each run
        return [result for pattern in (*patterns, f"group/**/*_{ICA}") for result in self._find(pattern)]

    @cached_property
    def answers(self) -> list[Result]:
        """Results of ``networks`` and ``fingerprint``."""
        return self._find(f"{FOLDER}/*_networks.json")

    @cached_property
    def lesions(self) -> list[Result]:
        """Results of ``lesion``."""
        return [*self._find(LESION), *self._find(f"*/{LESION}")]

    @cached_property
    def truths(self) -> list[Path]:
        """Masks of planted networks of these subjects."""
        return [
            path
            for folder in self.folders
            for label in self.subjects
            for path in sorted(folder.glob(f"sub-{label}/func/*_desc-truth_mask.nii.gz"))
        ]

    def for_subject(self, subject: str) -> Sources:
        """Select the recordings of one subject; results are selected by `select_results`."""
        runs = tuple(run for run in self.runs if run.entities["sub"] == subject)
        names = {run.name for run in runs}
        return Sources(
            self.raw, self.folders, runs, {name: run for name, run in self.prepared.items() if name in names}
        )

    def lesions_of(self, subject: str | None) -> list[Result]:
        """Select the lesions of a subject's model; without a subject, those of models that were not recorded."""
        labels = self.subjects if subject is None else [subject]
        weights = {self.for_subject(label).runs[0].metadata.get("WeightsSHA256") for label in labels}
        recorded = subject is not None
        return [lesion for lesion in self.lesions if (lesion.metadata.get("WeightsSHA256") in weights) == recorded]

    def _find(self, pattern: str) -> list[Result]:
        """Find results in all folders, in order of name."""
        results = [Result(path, folder) for folder in self.folders for path in sorted(folder.glob(pattern))]
        chosen = set(self.subject_filter)
        return [result for result in results if not chosen or set(result.subjects) <= chosen]


def _find_prepared(raw: Path, runs: Sequence[BoldRun]) -> dict[str, PreparedRun]:
    """Find prepared runs of the same version of these recordings; a dataset that is not prepared has none."""
    if not any((raw / PREPARED).glob("sub-*")):
        return {}
    recordings, prepared = {run.name: run for run in runs}, find_prepared(raw)
    return {
        name: run
        for name, run in prepared.items()
        if name in recordings and run.volumes.metadata.get("SourceSHA256") == recordings[name].fingerprint
    }


def select_results(results: Iterable[Result], subjects: Sequence[str]) -> list[Result]:
    """Select the results of exactly these subjects."""
    return [result for result in results if result.subjects == list(subjects)]
