"""Files of an analysis: maps, networks (masks) with their units, prompts and designs, each with a sidecar."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from llm2bids.bids.names import sidecar_of, to_label
from llm2bids.bids.nifti import write_image
from llm2bids.bids.tables import write_bytes, write_json, write_tsv
from llm2bids.bids.templates import template_json
from llm2bids.design.regressors import is_slope
from llm2bids.plots.design import draw_design_matrix
from llm2bids.plots.pictures import as_png
from llm2bids.results import jobs
from llm2bids.results.summaries import TAILS, ContrastResult, contrast_results
from llm2bids.space import Selection, UnitMask
from llm2bids.space.selection import share_label

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from typing import Protocol

    import pandas as pd
    from numpy.typing import NDArray

    from llm2bids.design.statsmodel import Contrast
    from llm2bids.results.targets import Target
    from llm2bids.space.selection import Tail
    from llm2bids.statistics.linear_model import StatMaps
    from llm2bids.statistics.settings import GLMSettings

    class Job(jobs.Job, Protocol):
        """An analysis of a subject or a group."""

        def summary_fields(self) -> dict[str, Any]:
            """Fields of the summary."""

        def run(self) -> list[ContrastResult]:
            """Carry it out and publish all files at once."""


_STATISTICS: Final = {"two": "|z|", "positive": "z", "negative": "-z"}
_UNCORRECTED: Final = {"Correction": "none", "CorrectionDescription": "uncorrected: the share of units was chosen"}


def write_contrast(
    target: Target,
    contrast: Contrast,
    maps: StatMaps,
    adjusted: NDArray[np.float64],
    settings: GLMSettings,
    fields: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Write all files of a contrast, and return its entry in the summary.

    `adjusted` (n_tested,): corrected p-values. `fields`: further fields of the sidecars.
    """
    network = adjusted <= settings.alpha
    fields = {**describe_contrast(contrast), "DegreesOfFreedom": maps.dof, **(fields or {})}
    z_map = write_maps(target, contrast, maps, settings.tail, fields)
    top = [write_top(target, maps, share, network, {**fields, "Source": z_map.name}) for share in settings.top]
    threshold = _least_z(maps, network)
    fields |= {
        "Label": settings.label,
        "ThresholdZ": threshold,
        "NumberTested": len(network),
        "NumberSelected": int(network.sum()),
    }
    description = (
        f"Units found by contrast {contrast.name}: {settings.correction} at {settings.alpha:g}"
        f"{'' if contrast.test == 'F' else f', {TAILS[settings.tail]}'}."
    )
    mask = target.path("mask.nii.gz", contrast=contrast.label, desc=settings.label)
    selected = _write_mask(target, mask, network, target.sidecar(description, fields, Type="ROI"))
    units = target.path("units.tsv", contrast=contrast.label, desc=settings.label)
    write_tsv(units, units_table(target, selected, maps, adjusted))
    write_json(units.with_suffix(".json"), template_json("units.json") | target.sidecar(description, fields))
    files = {"mask": mask.name, "z_map": z_map.name, "units": units.name}
    counts = {"n_tested": len(network), "n_selected": int(network.sum()), "threshold": threshold}
    return {"contrast": contrast.name, "test": contrast.test, **counts, **files, "top": top}


def write_top(
    target: Target, maps: StatMaps, share: float, network: NDArray[np.bool_], fields: Mapping[str, Any]
) -> dict[str, Any]:
    """Write the mask of a share of the tested units with the largest statistic, and return its entry in the summary.

    This is how localizers of language models define a network (AlKhamissi et al. 2025,
    doi:10.18653/v1/2025.naacl-long.544). It selects units whatever chance would give, so the entry says how many of
    them (``n_outside``) are not in the corrected `network` (n_tested,).
    """
    statistics = target.common["Llm2bids"]["Statistics"]
    tail, contrast = statistics["Tail"], fields["Contrast"]["Name"]
    chosen = select_top(maps, tail, share)
    label, threshold = share_label(share), _least_z(maps, chosen)
    counts = {"n_selected": int(chosen.sum()), "n_outside": int((chosen & ~network).sum())}
    statistic = "F" if maps.test == "F" else _STATISTICS[tail]
    rule = f"top {share * 100:g} % of tested units by {statistic}, uncorrected,"
    fields = {
        **fields,
        "Label": label,
        "Rule": rule,
        "Top": float(share),
        "ThresholdZ": threshold,
        "NumberTested": len(chosen),
        "NumberSelected": counts["n_selected"],
        "NumberNotInNetwork": counts["n_outside"],
        "Statistics": {key: value for key, value in statistics.items() if key != "Alpha"} | _UNCORRECTED,
    }
    description = f"Units with the largest statistic of contrast {contrast}: {rule} whatever chance would give."
    mask = target.path("mask.nii.gz", contrast=to_label(contrast), desc=label)
    _write_mask(target, mask, chosen, target.sidecar(description, fields, Type="ROI"))
    return {"share": float(share), "label": label, **counts, "threshold": threshold, "mask": mask.name}


def select_top(maps: StatMaps, tail: Tail, share: float) -> NDArray[np.bool_]:
    """Select a share of the tested units, shape (n_tested,); an F statistic has only a positive tail."""
    selection = Selection(top=share, tail="positive" if maps.test == "F" else tail)
    # nilearn's z stops at about 37, where p is below 1e-300; among equal z the statistic itself decides.
    return selection.select(maps.z, equals=maps.stat)


def _least_z(maps: StatMaps, units: NDArray[np.bool_]) -> float | None:
    """Smallest absolute z of these tested units (n_tested,); None if there are none."""
    return float(np.abs(maps.z[units]).min()) if units.any() else None


def _write_mask(target: Target, path: Path, units: NDArray[np.bool_], sidecar: Mapping[str, Any]) -> NDArray[np.bool_]:
    """Write a mask of tested units (n_tested,), and return it over all units (n_units,)."""
    selected = np.zeros(target.space.n_units, bool)
    selected[target.tested] = units
    write_image(path, target.space.to_image(selected))
    write_json(sidecar_of(path), sidecar)
    return selected


def write_maps(
    target: Target, contrast: Contrast, maps: StatMaps, tail: str, fields: Mapping[str, Any], run: str | None = None
) -> Path:
    """Write effect, variance, statistic, z and p of a contrast; returns the path of the z map."""
    tails = "one-tailed by nature" if maps.test == "F" else TAILS[tail]
    meaning = f": {fields['EffectOf']}" if "EffectOf" in fields else ""
    per = "".join(f" per unit of {kind}" for kind in fields.get("Kinds", {}) if is_slope(kind))
    effect = f"Effect{meaning}, in standard deviations of the unit over the run{per}."
    variance = "Variance of the effect."
    if maps.test == "F":
        effect, variance = "Root mean square of the whitened effects.", "Variance of the noise."
    values_and_texts = {
        "effect": (maps.effect, effect),
        "variance": (maps.variance, variance),
        maps.test: (maps.stat, f"{maps.test} statistic with {maps.dof:g} degrees of freedom of the noise."),
        "z": (maps.z, "The same as a normal deviate."),
        "p": (maps.p(tail), f"p-value, {tails}, not corrected; 1 where no unit was tested."),
    }
    entities = dict(part.split("-") for part in run.split("_")) if run else {}
    for statistic, (values, text) in values_and_texts.items():
        path = target.path("statmap.nii.gz", contrast=contrast.label, stat=statistic, **entities)
        write_image(path, target.space.to_image(target.spread(values, 1.0 if statistic == "p" else 0.0)))
        write_json(sidecar_of(path), target.sidecar(f"{contrast.name}: {text}", fields))
    return target.path("statmap.nii.gz", contrast=contrast.label, stat="z", **entities)


def units_table(
    target: Target, selected: NDArray[np.bool_], maps: StatMaps, adjusted: NDArray[np.float64]
) -> pd.DataFrame:
    """Table of the units of a network, the strongest first.

    Columns are ``unit``, ``hookpoint``, ``block``, ``channel``, ``effect`` (in standard deviations), ``z`` and
    ``p_corrected``.

    `selected` (n_units,): the network. `adjusted` (n_tested,): corrected p-values.
    """
    network = selected[target.tested]
    values = {"effect": maps.effect[network], "z": maps.z[network], "p_corrected": adjusted[network]}
    table = UnitMask(target.space, selected).table().assign(**values)
    return table.sort_values("z", key=np.abs, ascending=False, kind="stable", ignore_index=True)


def write_tested(target: Target) -> None:
    """Write the mask of the units that were tested."""
    mask = target.path("mask.nii.gz", desc="brain")
    write_image(mask, target.space.to_image(target.tested))
    write_json(
        sidecar_of(mask), target.sidecar("Units that were tested: those that vary in every run.", {}, Type="Brain")
    )


def write_prompts(target: Target, prompts: pd.DataFrame, effects: NDArray[np.float64], means: pd.DataFrame) -> None:
    """Write effects of prompts (n_prompts, n_tested) as one image, and their table (n_prompts, n_columns).

    `means`: table of their raw means, in the same order.
    """
    image = target.path("statmap.nii.gz", stat="effect", desc="prompts")
    description = (
        "Effect of each prompt, in standard deviations of the unit over the run; prompts along the fourth axis."
    )
    write_image(image, target.space.to_image(target.spread(effects)))
    write_json(sidecar_of(image), target.sidecar(description, {}))
    write_tsv(target.path("prompts.tsv"), prompts.assign(cluster=means["cluster"], n_averaged=means["n_averaged"]))


def write_designs(target: Target, designs: Mapping[str, pd.DataFrame]) -> None:
    """Write design matrices as tables and pictures, by label of the run, ``prompts`` or ``contrast-x``."""
    for name, matrix in designs.items():
        entities = {"desc": name} if "-" not in name else dict(part.split("-") for part in name.split("_"))
        write_tsv(target.path("design.tsv", **entities), matrix)
        write_bytes(target.path("design.png", **entities), as_png(draw_design_matrix(matrix)))


def describe_contrast(contrast: Contrast) -> dict[str, Any]:
    """Field of a sidecar that describes a contrast."""
    weights = [list(row) for row in contrast.weights]
    return {
        "Contrast": {
            "Name": contrast.name,
            "Columns": list(contrast.columns),
            "Weights": weights if contrast.test == "F" else weights[0],
            "Test": contrast.test,
        }
    }


def publish(job: Job, stage: Path, entries: list[dict[str, Any]]) -> list[ContrastResult]:
    """Write the summary of an analysis, and move all its files to their place; files of an earlier one are removed."""
    return contrast_results(jobs.publish(job, stage, {**job.summary_fields(), "Found": entries}), job.summary)
