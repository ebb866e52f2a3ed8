"""One decomposition: it is computed, and written with all its files at once."""

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
from llm2bids.decomposition.components import fit_components, stability, threshold, time_courses, z_over_units
from llm2bids.decomposition.reduction import (
    MAX_DIMENSIONS,
    ReducedRuns,
    estimate_components,
    principal_axes,
    reduce_runs,
)
from llm2bids.decomposition.result import Decomposition
from llm2bids.decomposition.summaries import SUMMARY
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
    from llm2bids.decomposition.run_groups import RunGroup

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
"""Columns of the table of components, for the summary."""
_DIMENSIONS_PER_COMPONENT: Final = 3
_MIN_DIMENSIONS: Final = 100
"""Principal components are computed for more dimensions than there are components, so that resampled runs, whose
leading dimensions differ, are not cut short."""


@dataclass(frozen=True)
class DecompositionJob:
    """A decomposition, and where its results go."""

    group: RunGroup
    out: Dataset
    raw: Path

    @property
    def place(self) -> str:
        """Folder of all files, relative to the output: its root, since time courses lie beside their runs."""
        return "."

    @property
    def folder(self) -> str:
        """Folder of all files but the time courses, relative to the output."""
        subject, session = (self.group.entities.get(key) for key in ("sub", "ses"))
        if subject is None:
            return "group"
        return "/".join([f"sub-{subject}", *([f"ses-{session}"] if session else []), "func"])

    @property
    def summary(self) -> Path:
        """File that describes the decomposition."""
        return self.out.root / self.folder / self._name(SUMMARY)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of all that the result depends on."""
        return hash_inputs(self.group.runs, self.group.settings.to_json(), self.group.entities)

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
            summary = self._write(home, stage, reduced, maps, repeats)
            return self.result(publish(self, stage, {**summary, **self._common}))

    def result(self, summary: Mapping[str, Any], *, skipped: bool = False) -> Decomposition:
        """Return the result that a summary describes."""
        home = self.out.root / self.folder
        maps_file = home / summary["Components"]
        return Decomposition(
            name=summary["Name"],
            space=summary["Space"],
            n_runs=len(summary["Runs"]),
            n_samples=summary["NumberSamples"],
            n_units=summary["NumberUnits"],
            n_components=summary["NumberComponents"],
            maps_file=maps_file,
            table_file=maps_file.with_name(maps_file.name.replace(".nii.gz", ".tsv")),
            mask_files=tuple(home / name for name in summary["Masks"]),
            course_files=tuple(self.out.root / name for name in summary["Timeseries"]),
            summary_file=self.summary,
            skipped=skipped,
        )

    def _reduce(self) -> tuple[ReducedRuns, int]:
        """Reduce the samples to few dimensions, and choose the number of components."""
        settings, group = self.group.settings, self.group
        lengths: list[int] = []
        powers: list[NDArray[np.float64]] = []

        def counted() -> Iterator[NDArray[np.float32]]:  # in the same pass: reading takes longest
            for block in group.blocks():
                lengths.append(len(block))
                powers.append((block.astype(np.float64) ** 2).sum(0))
                yield block

        variances, basis = principal_axes(counted())
        power = np.sum(powers, axis=0)
        n_components = settings.n_components
        if n_components is None:
            rng = np.random.default_rng(settings.seed)
            n_components = min(estimate_components(variances, lengths, power, rng), MAX_DIMENSIONS - 1)
        if n_components > len(variances):
            raise InferenceError(
                f"{n_components} components asked for of {group.name}, whose {sum(lengths)} samples of {len(power)} "
                f'units have {len(variances)} dimensions; ask for fewer, or use samples="token"'
            )
        n_dimensions = max(_MIN_DIMENSIONS, _DIMENSIONS_PER_COMPONENT * n_components)
        subjects = tuple(run.volumes.entities["sub"] for run in group.runs)
        return replace(reduce_runs(group.blocks, basis[:n_dimensions]), subjects=subjects), n_components

    def _decompose(
        self, reduced: ReducedRuns, n_components: int
    ) -> tuple[NDArray[np.float64], dict[str, NDArray[np.float64]]]:
        """Fit maps, sorted by explained variance, and measure how well they repeat."""
        settings, mask = self.group.settings, (self.group.space, self.group.units)
        maps = fit_components(reduced, n_components, settings, settings.seed, mask)
        maps = maps[np.argsort(-_explained_variance(reduced, maps), kind="stable")]
        if not settings.resamples:
            absent = np.full(len(maps), np.nan)
            return maps, {"stability": absent, "quality": absent}
        rng = np.random.default_rng(settings.seed)
        refits = [
            fit_components(reduced.resampled(rng), n_components, settings, settings.seed + number, mask)
            for number in range(1, settings.resamples + 1)
        ]
        return maps, stability(maps, refits)

    def _write(
        self,
        home: Path,
        stage: Path,
        reduced: ReducedRuns,
        maps: NDArray[np.float64],
        repeats: dict[str, NDArray[np.float64]],
    ) -> dict[str, Any]:
        """Write all files but the summary, and return its fields."""
        group, settings = self.group, self.group.settings
        z = z_over_units(maps, robust=settings.z is None)
        networks = threshold(z, settings)
        target = Target(home, group.entities, group.space, group.units, self._common)
        numbers = [f"{number:0{max(2, len(str(len(maps))))}d}" for number in range(1, len(maps) + 1)]
        table = pd.DataFrame(
            {
                "component": numbers,
                "explained_variance": _explained_variance(reduced, maps),
                **repeats,
                "units": networks.sum(1),
                "units_positive": threshold(z, replace(settings, tail="positive")).sum(1),
                "units_negative": threshold(z, replace(settings, tail="negative")).sum(1),
                "kurtosis": kurtosis(maps, axis=1),
            }
        )
        image = home / self._name("components.nii.gz", desc="ica")
        write_image(image, group.space.to_image(target.spread(z)))
        description = "Maps of components as z over units, along the fourth axis; 0 where a unit was not looked at."
        write_json(sidecar_of(image), target.sidecar(description, {}))
        write_tsv(home / self._name("components.tsv", desc="ica"), table)
        masks = [self._write_mask(home, target, number, units) for number, units in zip(numbers, networks, strict=True)]
        return {
            "Name": group.name,
            "Space": group.space.label,
            "Runs": [run.volumes.name for run in group.runs],
            "NumberSamples": reduced.n_samples,
            "NumberUnits": int(group.units.sum()),
            "NumberComponents": len(maps),
            "Columns": COLUMNS,
            "Components": image.name,
            "Masks": masks,
            "Timeseries": self._write_courses(stage, target, maps, numbers),
        }

    def _write_mask(self, home: Path, target: Target, number: str, units: NDArray[np.bool_]) -> str:
        """Write the network of a component, and return the name of its file."""
        mask = home / self._name("mask.nii.gz", desc=f"ica{number}")
        write_image(mask, self.group.space.to_image(target.spread(units) > 0))
        settings = self.group.settings
        description = f"Network of component {number}: {settings.rule}, {settings.tail} tail."
        metadata = {"Component": int(number), "NumberSelected": int(units.sum()), "Description": description}
        write_json(sidecar_of(mask), target.sidecar(description, metadata, Type="ROI"))
        return mask.name

    def _write_courses(self, stage: Path, target: Target, maps: NDArray[np.float64], numbers: list[str]) -> list[str]:
        """Write the time courses of all components in every run, and return the names of their files."""
        names = []
        for number, run in enumerate(self.group.runs):
            courses = time_courses(self.group.signals(number), maps)
            entities = {key: run.volumes.entities.get(key) for key in ("sub", "ses", "task", "acq", "run", "space")}
            layer = {"label": self.group.entities.get("label")}
            path = stage / run.volumes.folder / self._series_name(entities | layer)
            write_tsv(path, pd.DataFrame(courses, columns=[f"ica{component}" for component in numbers]))
            description = "Time courses: every scan regressed on the maps of all components as fitted, one column each."
            fields = {"RepetitionTime": run.volumes.t_r, "Sources": [run.volumes.uri("prep")]}
            sidecar = target.sidecar(description, {"Run": run.volumes.name})
            write_json(path.with_suffix(".json"), {**sidecar, **fields})
            names.append(path.relative_to(stage).as_posix())
        return names

    def _series_name(self, entities: dict[str, str | None]) -> str:
        """Name the time courses of a run; those of a group lie beside those of the subject alone."""
        desc = "icagroup" if self.group.settings.by == "group" else "ica"
        return format_name("timeseries.tsv", **entities, desc=desc)

    def _name(self, suffix: str, **entities: str) -> str:
        """Name a file."""
        return format_name(suffix, **{**self.group.entities, **entities})

    @cached_property
    def _common(self) -> dict[str, Any]:
        """Fields of every sidecar."""
        group, first = self.group, self.group.runs[0].volumes
        models = {str(run.volumes.metadata.get("WeightsSHA256")): run.volumes.metadata for run in group.runs}
        identity = {
            key: first.metadata[key]
            for key in REPEATED
            if key in first.metadata and len({str(model.get(key)) for model in models.values()}) == 1
        }
        keys = ("Model", "Revision", "WeightsSHA256")
        several = {"Models": [{key: model.get(key) for key in keys} for model in models.values()]}
        return {
            "SpatialReference": str(first.sidecar.get("SpatialReference", "")).replace("bids::", "bids:prep:"),
            "Sources": [
                run.volumes.uri("prep") if group.settings.scale == "prep" else run.recording().uri("raw")
                for run in group.runs
            ],
            "Llm2bids": identity
            | (several if len(models) > 1 else {})
            | {
                "UnitSpace": group.space.to_json(),
                "Stimuli": [run.stimuli_metadata for run in group.runs],
                "Decomposition": group.settings.to_json(),
                "Versions": versions(*LIBRARIES, "scikit-learn"),
            },
        }


def hash_inputs(runs: Sequence[PreparedRun], settings: Mapping[str, Any], entities: Mapping[str, str]) -> str:
    """Hash everything that a decomposition depends on."""
    recordings = [(run.volumes.name, run.volumes.metadata.get("SourceSHA256")) for run in runs]
    return hash_parts(recordings, settings, entities)


def _explained_variance(reduced: ReducedRuns, maps: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute the share of the variance of all samples that each map and its time course explain."""
    projected = maps @ reduced.basis.T
    # Least squares on all maps together, so that maps that overlap do not explain the same variance twice.
    courses = np.concatenate(reduced.scores) @ np.linalg.pinv(projected)
    share: NDArray[np.float64] = (courses**2).sum(0) * (projected**2).sum(1) / reduced.total
    return share
