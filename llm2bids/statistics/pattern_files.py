"""Files of patterns: maps, measures and the raw means of prompts that they are fitted to, each with a sidecar."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from llm2bids.bids.names import sidecar_of
from llm2bids.bids.nifti import write_image
from llm2bids.bids.tables import read_json, read_tsv, write_json, write_tsv
from llm2bids.bids.templates import template_json
from llm2bids.errors import DatasetError
from llm2bids.results.patterns import sibling
from llm2bids.results.targets import read_map
from llm2bids.space import UnitSpace
from llm2bids.statistics.pattern_measures import COLUMNS, N_BOOTSTRAPS, N_EXCHANGES, measure, n_folds_of
from llm2bids.statistics.pattern_samples import PatternSamples, PromptMeans
from llm2bids.statistics.patterns import fit_patterns

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import pandas as pd

    from llm2bids.results.targets import Target
    from llm2bids.statistics.patterns import FittedPatterns

OTHERS: Final = "dataset"
"""Value of ``desc`` of the prompts of other tasks."""
AGAINST_DATASET: Final = "AgainstDataset"
"""End of the label of a contrast whose reference is joined by the other tasks."""
MAPS: Final = {
    "effect": ("pattern", "activation pattern, mean raw activation of the condition minus that of the reference"),
    "filter": ("pattern", "extraction filter, the pattern whitened by the noise within conditions"),
    "mean": ("reference", "mean raw activation of the reference"),
}
"""Value of ``desc`` and description of the maps of a pattern, by ``stat``."""
MEASURES: Final = COLUMNS[2:9]
"""Columns that the summary repeats for all hookpoints."""
SEED: Final = 0
"""Of folds, exchanges and bootstraps."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Which prompts a pattern compares.

    - `label`: value of the entity ``contrast``.
    - `conditions`, `reference`: conditions of the task.
    - `runs`: labels of the runs.
    - `tasks`: other tasks, all of whose prompts join the reference.
    """

    label: str
    conditions: tuple[str, ...]
    reference: tuple[str, ...]
    runs: tuple[str, ...]
    tasks: tuple[str, ...] = ()

    def samples(self, space: UnitSpace, prompts: PromptMeans, others: PromptMeans | None) -> PatternSamples:
        """Choose the texts to fit to."""
        chosen = prompts.select(prompts.table["run"].isin(self.runs))
        return PatternSamples.from_prompts(space, chosen, (self.conditions, self.reference), others)

    def to_json(self) -> dict[str, Any]:
        """Describe the comparison for a sidecar."""
        return {
            "Conditions": list(self.conditions),
            "ReferenceConditions": list(self.reference),
            "ReferenceTasks": list(self.tasks),
            "Runs": list(self.runs),
        }

    @classmethod
    def from_json(cls, label: str, fields: Mapping[str, Any]) -> Comparison:
        """Read what a sidecar says."""
        keys = ("Conditions", "ReferenceConditions", "Runs", "ReferenceTasks")
        return cls(label, *(tuple(fields[key]) for key in keys))


def write_pattern(
    target: Target, comparison: Comparison, samples: PatternSamples, metadata: Mapping[str, Any], sources: list[str]
) -> dict[str, Any]:
    """Fit, judge and write a pattern; returns its entry in the summary: file names, and measures of all hookpoints.

    `metadata`: fields of the sidecars, with ``Contrast``.
    """
    table = measure(samples, seed=SEED)
    fit = fit_patterns(samples).rescaled(table["spread"].to_numpy(float)[:-1])
    table["shrinkage"] = [*fit.shrinkage[0], np.nan]
    pattern = comparison.to_json() | _describe(samples, fit)
    metadata = {**metadata, "Pattern": pattern}
    name, reference = metadata["Contrast"]["Name"], ", which other tasks join" if comparison.tasks else ""
    values = {"effect": fit.patterns, "filter": fit.filters, "mean": fit.references}
    for statistic, (description, text) in MAPS.items():
        path = target.path("statmap.nii.gz", contrast=comparison.label, stat=statistic, desc=description)
        write_image(path, target.space.to_image(values[statistic][0].astype(np.float32)))
        sidecar = target.sidecar(f"{name}: {text}{reference}.", metadata, Sources=sources, Units="arbitrary")
        write_json(sidecar_of(path), sidecar)
    measures = target.path("measures.tsv", contrast=comparison.label, desc="pattern")
    write_tsv(measures, table[list(COLUMNS)])
    procedure = {"Folds": n_folds_of(samples), "Exchanges": N_EXCHANGES, "Bootstraps": N_BOOTSTRAPS, "Seed": SEED}
    text = f"{name}: how well the pattern tells its condition from the reference on clusters that it was not fitted on."
    sidecar = target.sidecar(text, metadata | {"Measures": procedure}, Sources=sources)
    write_json(measures.with_suffix(".json"), template_json("pattern_measures.json") | sidecar)
    filters = target.path("statmap.nii.gz", contrast=comparison.label, stat="filter", desc="pattern")
    of_all = {name: None if np.isnan(value := table[name].iloc[-1]) else float(value) for name in MEASURES}
    return {"filter": filters.name, "measures": measures.name, **of_all}


def _describe(samples: PatternSamples, fit: FittedPatterns) -> dict[str, Any]:
    """Fields of a sidecar: what was fitted to, and how."""
    clusters = [len(np.unique(samples.clusters[which])) for which in (samples.on, ~samples.on)]
    return {
        "NumberOfTexts": int(samples.on.sum()),
        "NumberOfReferenceTexts": int((~samples.on).sum()),
        "NumberOfClusters": clusters[0],
        "NumberOfReferenceClusters": clusters[1],
        "Covariance": "within conditions, Ledoit-Wolf",
        "Scale": "The filter reads standard deviation 1 within conditions; if there are several clusters, from texts "
        "of clusters that it was not fitted on.",
        "FirstPosition": "left out",
        "Shrinkage": fit.shrinkage[0].tolist(),
        "Spread": fit.spread[0].tolist(),
    }


def write_prompt_means(target: Target, prompts: PromptMeans, description: str, sources: list[str]) -> pd.DataFrame:
    """Write the raw means of prompts as one image; those of other tasks with their table.

    Returns the table without what ``prompts.tsv`` has anyway.
    """
    path = target.path("statmap.nii.gz", stat="mean", desc=description)
    text = "Raw activation of each prompt, mean over its tokens without position 0; prompts along the fourth axis."
    write_image(path, target.space.to_image(prompts.activations))
    write_json(sidecar_of(path), target.sidecar(text, {}, Sources=sources, Units="arbitrary"))
    if description == OTHERS:
        write_tsv(target.path("prompts.tsv", desc=OTHERS), prompts.table)
    return prompts.table


def read_samples(path: Path) -> PatternSamples:
    """Read what a pattern was fitted to, so that the same recipe can be fitted to other labels.

    `path`: its filter, ``…_stat-filter_desc-pattern_statmap.nii.gz``.
    """
    metadata = read_json(sidecar_of(path))["Llm2bids"]
    space = UnitSpace.from_json(metadata["UnitSpace"])
    comparison = Comparison.from_json("", metadata["Pattern"])
    prompts = _read_prompts(path, space, None)
    others = _read_prompts(path, space, OTHERS) if comparison.tasks else None
    return comparison.samples(space, prompts, others)


def _read_prompts(path: Path, space: UnitSpace, description: str | None) -> PromptMeans:
    """Raw means of prompts, from the files beside a pattern."""
    image = sibling(path, contrast=None, stat="mean", desc=description or "prompts")
    listed = sibling(path, "prompts.tsv", contrast=None, stat=None, desc=description)
    activations, table = read_map(image, space), read_tsv(listed)
    if activations.ndim == 1:
        activations = activations[None]
    if len(table) != len(activations) or "n_averaged" not in table:
        raise DatasetError(f"{listed.name} does not belong to {image.name}; analyse it again with overwrite=True")
    return PromptMeans(table.assign(n_averaged=table["n_averaged"].astype(int)), activations)
