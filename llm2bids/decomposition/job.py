"""One decomposition: carried out, written whole, and recognised when it is there already."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd
from scipy.stats import kurtosis

from llm2bids.bids.names import format_name, sidecar_of
from llm2bids.bids.nifti import write_image
from llm2bids.bids.provenance import hash_parts, versions
from llm2bids.bids.runs import PREPARED, REPEATED
from llm2bids.bids.tables import write_json, write_tsv
from llm2bids.decomposition.components import courses_of, cut, fit, over_units, stability
from llm2bids.decomposition.reduction import KEEP, Reduced, estimate_components, principal, reduce_runs
from llm2bids.errors import InferenceError
from llm2bids.results.jobs import describe_output, publish, stage_of
from llm2bids.results.summaries import LIBRARIES
from llm2bids.results.targets import Target

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from llm2bids.bids.dataset import Dataset
    from llm2bids.bids.prepared import PreparedRun
    from llm2bids.decomposition.sources import Source

SUMMARY: Final = "ica.json"
"""Suffix of the file that says what a decomposition did and found."""
COLUMNS: Final = {
    "component": "Number of the component, from 1, as in desc-ica01; volumes of the image of components have the same "
    "order. Sorted by explained variance.",
    "explained_variance": "Share of the variance of all samples that map times course explain. Shares of spatial "
    "components, and of dictionaries, need not add up.",
    "stability": "Mean absolute correlation of the map over refits with other seeds and other runs: 1 where it is "
    "always the same; n/a without --resamples.",
    "quality": "stability less the mean absolute correlation with other components (the index of ICASSO).",
    "units": "Units of the network.",
    "units_positive": "Units beyond the bound in the positive tail, which is the heavier.",
    "units_negative": "Units beyond the bound in the negative tail.",
    "kurtosis": "Excess kurtosis of the map over units: 0 for a normal distribution.",
}
"""What the columns of the table of components mean."""
_MARGIN: Final = 3
_LEAST: Final = 100


@dataclass(frozen=True, slots=True)
class Decomposition:
    """What was found in one subject, group, run or layer.

    - `name`: entities of what was decomposed, e.g. ``"sub-phantom_acq-block"``.
    - `n_runs`, `n_samples`, `n_units`: what it was made from.
    - `components`: maps as a 4-D image, z over units.
    - `timeseries`: time courses, one per run.
    - `skipped`: whether it was there already (``resume``).
    """

    name: str
    space: str
    n_runs: int
    n_samples: int
    n_units: int
    n_components: int
    components: Path
    table: Path
    masks: tuple[Path, ...]
    timeseries: tuple[Path, ...]
    skipped: bool = False


@dataclass(frozen=True)
class Job:
    """A decomposition, and where its results go."""

    source: Source
    out: Dataset
    raw: Path

    @property
    def place(self) -> str:
        """Where all files are, relative to the output: here and there in it, for courses lie with their runs."""
        return "."

    @property
    def folder(self) -> str:
        """Folder of all files but the courses, relative to the output."""
        subject = self.source.entities.get("sub")
        session = self.source.entities.get("ses")
        if subject is None:
            return "group"
        return "/".join([f"sub-{subject}", *([f"ses-{session}"] if session else []), "func"])

    @property
    def summary(self) -> Path:
        """The file that says what was done and found."""
        return self.out.root / self.folder / self._name(SUMMARY)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of all that the result depends on."""
        return hash_of(self.source.runs, self.source.settings.to_json(), self.source.entities)

    def describe(self) -> None:
        """Make the output a BIDS derivative."""
        with self.out.lock():
            describe_output(self.out, "ica", {"raw": self.raw, "prep": self.raw / PREPARED})

    def run(self) -> Decomposition:
        """Decompose, and write all files at once."""
        with self.out.stage(stage_of(self)) as stage:
            reduced, n_components = self._reduce()
            maps, repeats = self._decompose(reduced, n_components)
            home = stage / self.folder
            home.mkdir(parents=True)
            told = self._write(home, stage, reduced, maps, repeats)
            return self.found(publish(self, stage, {**told, **self._common}))

    def found(self, summary: dict[str, Any], *, skipped: bool = False) -> Decomposition:
        """Read what was found."""
        home = self.out.root / self.folder
        components = home / summary["Components"]
        return Decomposition(
            summary["Name"],
            summary["Space"],
            len(summary["Runs"]),
            summary["NumberSamples"],
            summary["NumberUnits"],
            summary["NumberComponents"],
            components,
            components.with_name(components.name.replace(".nii.gz", ".tsv")),
            tuple(home / name for name in summary["Masks"]),
            tuple(self.out.root / name for name in summary["Timeseries"]),
            skipped,
        )

    def _reduce(self) -> tuple[Reduced, int]:
        """Samples in few dimensions, and how many components they hold."""
        settings, source = self.source.settings, self.source
        lengths: list[int] = []
        powers: list[NDArray[np.float64]] = []

        def counted() -> Iterator[NDArray[np.float32]]:  # on the way: reading takes longest
            for block in source.blocks():
                lengths.append(len(block))
                powers.append((block.astype(np.float64) ** 2).sum(0))
                yield block

        variances, basis = principal(counted())
        power = np.sum(powers, axis=0)
        n_components = settings.components
        if n_components is None:
            rng = np.random.default_rng(settings.seed)
            n_components = min(estimate_components(variances, lengths, power, rng), KEEP - 1)
        if n_components > len(variances):
            raise InferenceError(
                f"{n_components} components asked for of {source.name}, whose {sum(lengths)} samples of {len(power)} "
                f"units have {len(variances)} dimensions; ask for fewer, or for --samples token"
            )
        n_kept = max(_LEAST, _MARGIN * n_components)
        subjects = tuple(run.volumes.entities["sub"] for run in source.runs)
        return replace(reduce_runs(source.blocks, basis[:n_kept]), subjects=subjects), n_components

    def _decompose(
        self, reduced: Reduced, n_components: int
    ) -> tuple[NDArray[np.float64], dict[str, NDArray[np.float64]]]:
        """Maps, those that explain most first, and how well they repeat."""
        settings, place = self.source.settings, (self.source.space, self.source.kept)
        maps = fit(reduced, n_components, settings, settings.seed, place)
        order = np.argsort(-_explained(reduced, maps), kind="stable")
        maps = maps[order]
        if not settings.resamples:
            absent = np.full(len(maps), np.nan)
            return maps, {"stability": absent, "quality": absent}
        rng = np.random.default_rng(settings.seed)
        refits = [
            fit(reduced.resampled(rng), n_components, settings, settings.seed + number, place)
            for number in range(1, settings.resamples + 1)
        ]
        return maps, stability(maps, refits)

    def _write(
        self,
        home: Path,
        stage: Path,
        reduced: Reduced,
        maps: NDArray[np.float64],
        repeats: dict[str, NDArray[np.float64]],
    ) -> dict[str, Any]:
        """All files but the summary; what the summary says."""
        source, settings = self.source, self.source.settings
        z = over_units(maps, robust=settings.z is None)
        chosen = cut(z, settings)
        entities = source.entities
        target = Target(home, entities, source.space, source.kept, self._common)
        numbers = [f"{number:0{max(2, len(str(len(maps))))}d}" for number in range(1, len(maps) + 1)]
        table = pd.DataFrame(
            {
                "component": numbers,
                "explained_variance": _explained(reduced, maps),
                **repeats,
                "units": chosen.sum(1),
                "units_positive": cut(z, replace(settings, tail="positive")).sum(1),
                "units_negative": cut(z, replace(settings, tail="negative")).sum(1),
                "kurtosis": kurtosis(maps, axis=1),
            }
        )
        image = home / self._name("components.nii.gz", desc="ica")
        write_image(image, source.space.to_image(target.spread(z)))
        about = "Maps of components as z over units, along the fourth axis; 0 where a unit was not looked at."
        write_json(sidecar_of(image), target.sidecar(about, {}))
        write_tsv(home / self._name("components.tsv", desc="ica"), table)
        masks = [self._write_mask(home, target, number, own) for number, own in zip(numbers, chosen, strict=True)]
        series = self._write_courses(stage, target, maps, numbers)
        return {
            "Name": source.name,
            "Space": source.space.label,
            "Runs": [run.volumes.name for run in source.runs],
            "NumberSamples": reduced.n_samples,
            "NumberUnits": int(source.kept.sum()),
            "NumberComponents": len(maps),
            "Columns": COLUMNS,
            "Components": image.name,
            "Masks": masks,
            "Timeseries": series,
        }

    def _write_mask(self, home: Path, target: Target, number: str, chosen: NDArray[np.bool_]) -> str:
        """The network of a component."""
        mask = home / self._name("mask.nii.gz", desc=f"ica{number}")
        write_image(mask, self.source.space.to_image(target.spread(chosen) > 0))
        settings = self.source.settings
        about = f"Network of component {number}: {settings.rule}, {settings.tail} tail."
        own = {"Component": int(number), "NumberSelected": int(chosen.sum()), "Description": about}
        write_json(sidecar_of(mask), target.sidecar(about, own, Type="ROI"))
        return mask.name

    def _write_courses(self, stage: Path, target: Target, maps: NDArray[np.float64], numbers: list[str]) -> list[str]:
        """What each network does, scan by scan, in every run."""
        written = []
        for number, run in enumerate(self.source.runs):
            courses = courses_of(self.source.signals(number), maps)
            own = {key: run.volumes.entities.get(key) for key in ("sub", "ses", "task", "acq", "run", "space")}
            layer = {"label": self.source.entities.get("label")}
            path = stage / run.volumes.folder / self._series_name(own | layer)
            names = [f"ica{one}" for one in numbers]
            write_tsv(path, pd.DataFrame(courses, columns=names))
            about = "Time courses: every scan regressed on the maps of all components as fitted, one column each."
            fields = {"RepetitionTime": run.volumes.t_r, "Sources": [run.volumes.uri("prep")]}
            told = target.sidecar(about, {"Run": run.volumes.name})
            write_json(path.with_suffix(".json"), {**told, **fields})
            written.append(path.relative_to(stage).as_posix())
        return written

    def _series_name(self, entities: dict[str, str | None]) -> str:
        """Name the courses of a run: those of a group lie beside those of the subject alone."""
        desc = "icagroup" if self.source.settings.by == "group" else "ica"
        return format_name("timeseries.tsv", **entities, desc=desc)

    def _name(self, suffix: str, **entities: str) -> str:
        """Name a file."""
        return format_name(suffix, **{**self.source.entities, **entities})

    @cached_property
    def _common(self) -> dict[str, Any]:
        """What every sidecar says."""
        source, first = self.source, self.source.runs[0].volumes
        models = {str(run.volumes.metadata.get("WeightsSHA256")): run.volumes.metadata for run in source.runs}
        identity = {
            key: first.metadata[key]
            for key in REPEATED
            if key in first.metadata and len({str(own.get(key)) for own in models.values()}) == 1
        }
        several = {
            "Models": [{key: own.get(key) for key in ("Model", "Revision", "WeightsSHA256")} for own in models.values()]
        }
        return {
            "SpatialReference": str(first.sidecar.get("SpatialReference", "")).replace("bids::", "bids:prep:"),
            "Sources": [
                run.volumes.uri("prep") if source.settings.scale == "prep" else run.recording().uri("raw")
                for run in source.runs
            ],
            "Llm2bids": identity
            | (several if len(models) > 1 else {})
            | {
                "UnitSpace": source.space.to_json(),
                "Stimuli": [run.stimuli_metadata for run in source.runs],
                "Decomposition": source.settings.to_json(),
                "Versions": versions(*LIBRARIES, "scikit-learn"),
            },
        }


def hash_of(runs: Sequence[PreparedRun], settings: Mapping[str, Any], entities: Mapping[str, str]) -> str:
    """Hash all that a decomposition depends on."""
    every = [(run.volumes.name, run.volumes.metadata.get("SourceSHA256")) for run in runs]
    return hash_parts(every, settings, entities)


def _explained(reduced: Reduced, maps: NDArray[np.float64]) -> NDArray[np.float64]:
    """Share of the variance of all samples that each map explains with its course, the others held apart."""
    inside = maps @ reduced.basis.T
    courses = np.concatenate(reduced.scores) @ np.linalg.pinv(inside)
    found: NDArray[np.float64] = (courses**2).sum(0) * (inside**2).sum(1) / reduced.total
    return found
