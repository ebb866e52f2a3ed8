"""Jobs of single subjects: carry out an analysis, write its files, and recognise it on the next run."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from llm2bids.bids.provenance import hash_parts, versions
from llm2bids.bids.runs import PREPARED, REPEATED
from llm2bids.bids.tables import write_tsv
from llm2bids.design.statsmodel import Contrast
from llm2bids.results.jobs import describe_output, stage_of
from llm2bids.results.summaries import LIBRARIES, SUMMARY
from llm2bids.results.targets import Target
from llm2bids.statistics.analysis import find_analyses
from llm2bids.statistics.contrast_patterns import write_patterns
from llm2bids.statistics.output import (
    describe_contrast,
    publish,
    write_contrast,
    write_designs,
    write_maps,
    write_prompts,
    write_tested,
)
from llm2bids.statistics.second_level import check, estimate

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from llm2bids.bids.dataset import Dataset
    from llm2bids.results.summaries import ContrastResult
    from llm2bids.statistics.analysis import Analysis
    from llm2bids.statistics.second_level import SubjectMaps
    from llm2bids.statistics.settings import GLMSettings


@dataclass(frozen=True)
class SubjectJob:
    """An analysis of a subject, task and site, and the derivative its results go to."""

    analysis: Analysis
    out: Dataset
    raw: Path

    @property
    def place(self) -> str:
        """Folder of the subject, relative to the output."""
        return f"sub-{self.analysis.entities['sub']}"

    @property
    def summary(self) -> Path:
        """Path of the summary."""
        return self._target(self.out.root).path(SUMMARY)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of everything that the result depends on."""
        runs = [(run.label, run.volumes.metadata.get("SourceSHA256")) for run in self.analysis.runs]
        contrasts = [describe_contrast(contrast) for contrast in self.analysis.contrasts]
        x, settings = self.analysis.model.run.x, self.analysis.settings.to_json()
        others = [(run.volumes.name, run.volumes.metadata.get("SourceSHA256")) for run in self.analysis.others]
        patterns = ("patterns", others) if others else ()
        return hash_parts(
            runs, contrasts, x, settings, self.analysis.cutoff, *self._transformations.values(), *patterns
        )

    def describe(self) -> None:
        """Describe the output as a BIDS derivative."""
        with self.out.lock():
            describe_output(self.out, "glm", {"raw": self.raw, "prep": self.raw / PREPARED})

    def run(self) -> list[ContrastResult]:
        """Estimate, and publish all files at once."""
        with self.out.stage(stage_of(self)) as stage:
            results = estimate(self.analysis)
            target = self._target(stage)
            target.folder.mkdir(parents=True)
            return publish(self, stage, self._write(target, results))

    def _write(self, target: Target, results: SubjectMaps) -> list[dict[str, Any]]:
        """Write all files but the summary; returns the entries of the summary."""
        settings = self.analysis.settings
        entries = []
        patterns, prompts = write_patterns(target, self.analysis)
        for contrast in self.analysis.contrasts:
            sample_fields = results.sample_fields.get(contrast.name, {})
            fields = {"RunsDropped": results.dropped[contrast.name], **sample_fields}
            maps, adjusted = results.maps[contrast.name], results.adjusted[contrast.name]
            entry = write_contrast(target, contrast, maps, adjusted, settings, fields)
            entries.append(entry | {"pattern": patterns.get(contrast.name)})
            for run, run_maps in results.by_run.get(contrast.name, {}).items():
                run_fields = {**describe_contrast(contrast), "DegreesOfFreedom": run_maps.dof, "Run": run} | {
                    key: sample_fields[key] for key in ("EffectOf", "Kinds") if key in sample_fields
                }
                write_maps(target, contrast, run_maps, settings.tail, run_fields, run)
        write_tested(target)
        write_designs(target, results.designs)
        if len(results.prompts):
            write_prompts(target, results.prompts, results.effects, prompts)
        else:
            write_tsv(target.path("prompts.tsv"), prompts)
        return entries

    @property
    def _transformations(self) -> dict[str, Any]:
        """Field with the transformations of conditions; empty if there are none."""
        transformations = self.analysis.model.run.regressors.to_json()
        return {"Transformations": transformations} if transformations else {}

    def _target(self, root: Path) -> Target:
        """Names and common fields of all files, below `root`."""
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
                **self._transformations,
                "HighPassHz": analysis.cutoff,
                "Confounds": sorted({name for run in analysis.runs for name in analysis.confounds(run).columns}),
                "Statistics": analysis.settings.to_json(),
                "Versions": versions(*LIBRARIES),
            },
        }

    def summary_fields(self) -> dict[str, Any]:
        """Fields of the summary: subject, task, site, space, runs, and the fields of every sidecar."""
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
    raw: Path, out: Dataset, settings: GLMSettings, *, contrasts: Sequence[str] = (), **filters: Any
) -> list[SubjectJob]:
    """Find the subjects, tasks and sites to analyse, and check that each analysis can be carried out.

    `contrasts`: expressions that replace the contrasts of the models. `filters`: further arguments of `find_analyses`.
    """
    expressions = [Contrast.from_expression(text) for text in contrasts]
    analyses = find_analyses(raw, settings, contrasts=expressions, **filters)
    for analysis in analyses:
        check(analysis)
    return [SubjectJob(analysis, out, raw) for analysis in analyses]
