"""One subject, task and site: carried out, written whole, and recognised when it is there already."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from llm2bids.bids.provenance import hash_parts, versions
from llm2bids.bids.runs import PREPARED, REPEATED
from llm2bids.design.statsmodel import Contrast
from llm2bids.results.jobs import describe_output, stage_of
from llm2bids.results.summaries import LIBRARIES, SUMMARY
from llm2bids.results.targets import Target
from llm2bids.statistics.analysis import find_analyses
from llm2bids.statistics.estimation import check, estimate
from llm2bids.statistics.output import (
    describe_contrast,
    publish,
    write_contrast,
    write_designs,
    write_maps,
    write_prompts,
    write_tested,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from llm2bids.bids.dataset import Dataset
    from llm2bids.results.summaries import ContrastResult
    from llm2bids.statistics.analysis import Analysis
    from llm2bids.statistics.estimation import Fitted
    from llm2bids.statistics.settings import GLMSettings


@dataclass(frozen=True)
class SubjectJob:
    """An analysis, and where its results go.

    `analysis`: what is to be estimated.
    """

    analysis: Analysis
    out: Dataset
    raw: Path

    @property
    def place(self) -> str:
        """Folder of the subject, relative to the output."""
        return f"sub-{self.analysis.entities['sub']}"

    @property
    def summary(self) -> Path:
        """The file that says what was done and found."""
        return self._target(self.out.root).path(SUMMARY)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of all that the result depends on."""
        runs = [(run.label, run.volumes.metadata.get("SourceSHA256")) for run in self.analysis.runs]
        contrasts = [describe_contrast(contrast) for contrast in self.analysis.contrasts]
        x, settings = self.analysis.model.run.x, self.analysis.settings.to_json()
        return hash_parts(runs, contrasts, x, settings, self.analysis.cutoff, *self._made.values())

    def describe(self) -> None:
        """Make the output a BIDS derivative."""
        with self.out.lock():
            describe_output(self.out, "glm", {"raw": self.raw, "prep": self.raw / PREPARED})

    def run(self) -> list[ContrastResult]:
        """Estimate, and write all files at once."""
        with self.out.stage(stage_of(self)) as stage:
            fitted = estimate(self.analysis)
            target = self._target(stage)
            target.folder.mkdir(parents=True)
            found = self._write(target, fitted)
            return publish(self, stage, found)

    def _write(self, target: Target, fitted: Fitted) -> list[dict[str, Any]]:
        """All files of the analysis but its summary."""
        settings = self.analysis.settings
        found = []
        for contrast in self.analysis.contrasts:
            maps, adjusted = fitted.maps[contrast.name], fitted.adjusted[contrast.name]
            dropped = fitted.dropped[contrast.name]
            told = {"RunsDropped": dropped, **fitted.told.get(contrast.name, {})}
            found.append(write_contrast(target, contrast, maps, adjusted, settings, **told))
            for run, own in fitted.by_run.get(contrast.name, {}).items():
                about = {**describe_contrast(contrast), "DegreesOfFreedom": own.dof, "Run": run} | {
                    key: told[key] for key in ("EffectOf", "Kinds") if key in told
                }
                write_maps(target, contrast, own, settings.tail, about, run)
        write_tested(target)
        write_designs(target, fitted.designs)
        if len(fitted.prompts):
            write_prompts(target, fitted.prompts, fitted.effects)
        return found

    @property
    def _made(self) -> dict[str, Any]:
        """What the model makes of its conditions, where it makes anything."""
        made = self.analysis.model.run.regressors.to_json()
        return {"Transformations": made} if made else {}

    def _target(self, root: Path) -> Target:
        """Names and common fields of all files."""
        analysis = self.analysis
        return Target(root / self.place / "func", analysis.entities, analysis.space, analysis.tested, self._common)

    @cached_property
    def _common(self) -> dict[str, Any]:
        """Fields of every sidecar."""
        analysis, first = self.analysis, self.analysis.runs[0].volumes
        return {
            "TaskName": analysis.entities["task"],
            "SpatialReference": str(first.sidecar.get("SpatialReference", "")).replace("bids::", "bids:prep:"),
            "Sources": [run.volumes.uri("prep") for run in analysis.runs],
            "Llm2bids": {key: first.metadata[key] for key in REPEATED if key in first.metadata}
            | {
                "UnitSpace": analysis.space.to_json(),
                "Stimuli": [run.stimuli_metadata for run in analysis.runs],
                "StatsModel": analysis.model.name,
                "Design": list(analysis.model.run.x),
                **self._made,
                "HighPassHz": analysis.cutoff,
                "Confounds": sorted({name for run in analysis.runs for name in analysis.confounds(run).columns}),
                "Statistics": analysis.settings.to_json(),
                "Versions": versions(*LIBRARIES),
            },
        }

    def about(self) -> dict[str, Any]:
        """Describe the analysis for its summary.

        Returns ``Subject``, ``Task``, ``Site``, ``Space``, ``Runs`` and all fields of the sidecars.
        """
        entities = self.analysis.entities
        return {
            "Subject": entities["sub"],
            "Task": entities["task"],
            "Site": entities.get("acq", ""),
            "Space": self.analysis.space.label,
            "Runs": [run.label for run in self.analysis.runs],
            **self._common,
        }


def find_subjects(
    raw: Path, out: Dataset, settings: GLMSettings, *, contrasts: Sequence[str] = (), **wanted: Any
) -> list[SubjectJob]:
    """Find what can be analysed in single subjects."""
    asked = [Contrast.from_expression(text) for text in contrasts]
    analyses = find_analyses(raw, settings, contrasts=asked, **wanted)
    for analysis in analyses:
        check(analysis)
    return [SubjectJob(analysis, out, raw) for analysis in analyses]
