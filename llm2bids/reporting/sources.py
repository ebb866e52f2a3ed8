"""What there is to tell of a dataset: its recordings, and every result that was made of them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

from llm2bids.bids.prepared import PreparedRun, find_prepared
from llm2bids.bids.runs import PREPARED, BoldRun, find_runs
from llm2bids.bids.tables import read_json
from llm2bids.decomposition.job import SUMMARY as ICA
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
"""What ``lesion`` writes last; said here again because its own module loads torch."""


@dataclass(frozen=True)
class Result:
    """A file that says what was done and found.

    `root`: folder of results that holds it.
    """

    path: Path
    root: Path

    @cached_property
    def fields(self) -> dict[str, Any]:
        """What it says."""
        return read_json(self.path)

    @property
    def own(self) -> dict[str, Any]:
        """Our own part: model, settings, versions."""
        own: dict[str, Any] = self.fields.get("Llm2bids", {})
        return own

    @property
    def subjects(self) -> list[str]:
        """Subjects that it is about, as far as its name says."""
        return [part.removeprefix("sub-") for part in self.path.name.split("_") if part.startswith("sub-")]

    @property
    def site(self) -> str:
        """Site that it is about."""
        return str(self.fields.get("Site") or self.own.get("Site") or "")

    def space(self) -> UnitSpace:
        """Read which voxel is which unit."""
        fields = self.own.get("UnitSpace")
        if not isinstance(fields, dict):
            raise DatasetError(f"{self.path} has no Llm2bids.UnitSpace; make it again with the verb that wrote it")
        return UnitSpace.from_json(fields)


@dataclass(frozen=True)
class Sources:
    """A dataset with all results that were found.

    - `prepared`: by name; without those that were not prepared, or recorded anew since.
    - `wanted`: subjects whose results are told; all without.
    """

    raw: Path
    folders: tuple[Path, ...]
    runs: tuple[BoldRun, ...]
    prepared: dict[str, PreparedRun]
    wanted: tuple[str, ...] = ()

    @classmethod
    def from_dataset(cls, raw: Path, results: Sequence[Path] = (), subjects: Sequence[str] = ()) -> Sources:
        """Look for them."""
        runs = find_runs(raw, subjects)
        if absent := [path for path in results if not path.is_dir()]:
            raise DatasetError(f"{absent[0]} is no folder; give folders that glm, ica or lesion made")
        home = raw / DERIVATIVES
        inside = sorted(path for path in home.iterdir() if path.is_dir()) if home.is_dir() else []
        folders = {path.resolve(): path for path in reversed([*inside, *results])}  # each once, however it is written
        wanted = tuple(dict.fromkeys(run.entities["sub"] for run in runs)) if subjects else ()
        return cls(raw, tuple(reversed(folders.values())), tuple(runs), _prepared(raw, runs), wanted)

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
        """What ``glm`` did for single subjects."""
        return self._find(f"sub-*/func/*_{GLM}")

    @cached_property
    def groups(self) -> list[Result]:
        """What ``glm`` did over subjects."""
        return self._find(f"group/**/*_{GLM}")

    @cached_property
    def components(self) -> list[Result]:
        """What ``ica`` did."""
        own = (f"sub-*/func/*_{ICA}", f"sub-*/ses-*/func/*_{ICA}")  # --by run writes beside each run
        return [one for pattern in (*own, f"group/**/*_{ICA}") for one in self._find(pattern)]

    @cached_property
    def answers(self) -> list[Result]:
        """What ``networks`` and ``fingerprint`` were asked."""
        return self._find(f"{FOLDER}/*_networks.json")

    @cached_property
    def lesions(self) -> list[Result]:
        """What ``lesion`` did."""
        return [*self._find(LESION), *self._find(f"*/{LESION}")]

    @cached_property
    def truths(self) -> list[Path]:
        """Masks of networks that are known by construction, of the subjects whose recordings these are."""
        return [
            path
            for folder in self.folders
            for label in self.subjects
            for path in sorted(folder.glob(f"sub-{label}/func/*_desc-truth_mask.nii.gz"))
        ]

    def of(self, subject: str) -> Sources:
        """Keep what is about one subject.

        Returns the recordings of that subject; results are chosen by `about`.
        """
        runs = tuple(run for run in self.runs if run.entities["sub"] == subject)
        names = {run.name for run in runs}
        return Sources(self.raw, self.folders, runs, {key: one for key, one in self.prepared.items() if key in names})

    def _find(self, pattern: str) -> list[Result]:
        """Results in all folders, in order of name."""
        found = [Result(path, folder) for folder in self.folders for path in sorted(folder.glob(pattern))]
        return [one for one in found if not self.wanted or set(one.subjects) <= set(self.wanted)]


def _prepared(raw: Path, runs: Sequence[BoldRun]) -> dict[str, PreparedRun]:
    """Runs that were prepared from the very recordings that are told; a recording is worth a page without it too."""
    if not any((raw / PREPARED).glob("sub-*")):
        return {}
    told, found = {run.name: run for run in runs}, find_prepared(raw)
    return {
        name: one
        for name, one in found.items()
        if name in told and one.volumes.metadata.get("SourceSHA256") == told[name].fingerprint
    }


def about(found: Iterable[Result], subjects: Sequence[str]) -> list[Result]:
    """Keep results about one subject and no other."""
    return [one for one in found if one.subjects == list(subjects)]
