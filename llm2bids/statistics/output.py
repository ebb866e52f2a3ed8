"""How results lie on disk: maps, networks, their units, designs, and what each says about itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from llm2bids.bids.names import sidecar_of
from llm2bids.bids.nifti import write_image
from llm2bids.bids.tables import write_bytes, write_json, write_tsv
from llm2bids.bids.templates import template_json
from llm2bids.design.regressors import is_slope
from llm2bids.plots.design import draw_design_matrix
from llm2bids.plots.pictures import as_png
from llm2bids.results import jobs
from llm2bids.results.summaries import TAILS, ContrastResult, contrast_results
from llm2bids.space import UnitMask
from llm2bids.statistics.top import write_top

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from typing import Protocol

    import pandas as pd
    from numpy.typing import NDArray

    from llm2bids.design.statsmodel import Contrast
    from llm2bids.results.targets import Target
    from llm2bids.statistics.linear_model import StatMaps
    from llm2bids.statistics.settings import GLMSettings

    class Job(jobs.Job, Protocol):
        """An analysis that is to be carried out and written."""

        def about(self) -> dict[str, Any]:
            """Describe the analysis for its summary."""

        def run(self) -> list[ContrastResult]:
            """Carry it out and write all files at once."""


def write_contrast(
    target: Target,
    contrast: Contrast,
    maps: StatMaps,
    adjusted: NDArray[np.float64],
    settings: GLMSettings,
    **told: object,
) -> dict[str, Any]:
    """Write all files of a contrast.

    `adjusted` (n_tested,): corrected p-values. Returns ``contrast``, ``test``, ``n_tested``, ``n_selected``,
    ``threshold``, file names ``mask``, ``z_map``, ``units``, and ``top``: what `write_top` gives for each share of the
    settings.
    """
    found = adjusted <= settings.alpha
    threshold = float(np.abs(maps.z[found]).min()) if found.any() else None
    own = {**describe_contrast(contrast), "DegreesOfFreedom": maps.dof, **told}
    z_map = write_maps(target, contrast, maps, settings.tail, own)
    top = [write_top(target, maps, share, found, {**own, "Source": z_map.name}) for share in settings.top]
    own |= {
        "Label": settings.label,
        "ThresholdZ": threshold,
        "NumberTested": len(found),
        "NumberSelected": int(found.sum()),
    }
    selected = np.zeros(target.space.n_units, bool)
    selected[target.tested] = found
    mask = target.path("mask.nii.gz", contrast=contrast.label, desc=settings.label)
    write_image(mask, target.space.to_image(selected))
    about = (
        f"Units found by contrast {contrast.name}: {settings.correction} at {settings.alpha:g}"
        f"{'' if contrast.test == 'F' else f', {TAILS[settings.tail]}'}."
    )
    write_json(sidecar_of(mask), target.sidecar(about, own, Type="ROI"))
    units = target.path("units.tsv", contrast=contrast.label, desc=settings.label)
    write_tsv(units, units_table(target, selected, maps, adjusted))
    write_json(units.with_suffix(".json"), template_json("units.json") | target.sidecar(about, own))
    files = {"mask": mask.name, "z_map": z_map.name, "units": units.name}
    counts = {"n_tested": len(found), "n_selected": int(found.sum()), "threshold": threshold}
    return {"contrast": contrast.name, "test": contrast.test, **counts, **files, "top": top}


def write_maps(
    target: Target, contrast: Contrast, maps: StatMaps, tail: str, own: Mapping[str, Any], run: str | None = None
) -> Path:
    """Write effect, variance, statistic, z and p of a contrast."""
    tails = "one-tailed by nature" if maps.test == "F" else TAILS[tail]
    about = "".join(f": {own[key]}" for key in ("EffectOf",) if key in own)
    per = "".join(f" per unit of {kind}" for kind in own.get("Kinds", {}) if is_slope(kind))
    effect = f"Effect{about}, in standard deviations of the unit over the run{per}."
    variance = "Variance of the effect."
    if maps.test == "F":
        effect, variance = "Root mean square of the whitened effects.", "Variance of the noise."
    told = {
        "effect": (maps.effect, effect),
        "variance": (maps.variance, variance),
        maps.test: (maps.stat, f"{maps.test} statistic with {maps.dof:g} degrees of freedom of the noise."),
        "z": (maps.z, "The same as a normal deviate."),
        "p": (maps.p(tail), f"p-value, {tails}, not corrected; 1 where no unit was tested."),
    }
    entities = dict(part.split("-") for part in run.split("_")) if run else {}
    for statistic, (values, text) in told.items():
        path = target.path("statmap.nii.gz", contrast=contrast.label, stat=statistic, **entities)
        write_image(path, target.space.to_image(target.spread(values, 1.0 if statistic == "p" else 0.0)))
        write_json(sidecar_of(path), target.sidecar(f"{contrast.name}: {text}", own))
    return target.path("statmap.nii.gz", contrast=contrast.label, stat="z", **entities)


def units_table(
    target: Target, selected: NDArray[np.bool_], maps: StatMaps, adjusted: NDArray[np.float64]
) -> pd.DataFrame:
    """List the units of a network.

    `selected` (n_units,): the network. `adjusted` (n_tested,): corrected p-values. Returns ``unit``, ``hookpoint``,
    ``block``, ``channel``, ``effect`` (in standard deviations), ``z``, ``p_corrected``; the strongest first.
    """
    chosen = selected[target.tested]
    values = {"effect": maps.effect[chosen], "z": maps.z[chosen], "p_corrected": adjusted[chosen]}
    table = UnitMask(target.space, selected).table().assign(**values)
    return table.sort_values("z", key=np.abs, ascending=False, kind="stable", ignore_index=True)


def write_tested(target: Target) -> None:
    """Write which units were tested."""
    mask = target.path("mask.nii.gz", desc="brain")
    write_image(mask, target.space.to_image(target.tested))
    write_json(
        sidecar_of(mask), target.sidecar("Units that were tested: those that vary in every run.", {}, Type="Brain")
    )


def write_prompts(target: Target, prompts: pd.DataFrame, effects: NDArray[np.float64]) -> None:
    """Write the effect of every prompt, as one image, and what each prompt was.

    `prompts` (n_prompts, n_columns): one row per prompt. `effects` (n_prompts, n_tested): in standard deviations of the
    unit.
    """
    image = target.path("statmap.nii.gz", stat="effect", desc="prompts")
    about = "Effect of each prompt, in standard deviations of the unit over the run; prompts along the fourth axis."
    write_image(image, target.space.to_image(target.spread(effects)))
    write_json(sidecar_of(image), target.sidecar(about, {}))
    write_tsv(target.path("prompts.tsv"), prompts)


def write_designs(target: Target, designs: Mapping[str, pd.DataFrame]) -> None:
    """Write design matrices as tables and pictures."""
    for name, matrix in designs.items():
        entities = {"desc": name} if "-" not in name else dict(part.split("-") for part in name.split("_"))
        write_tsv(target.path("design.tsv", **entities), matrix)
        write_bytes(target.path("design.png", **entities), as_png(draw_design_matrix(matrix)))


def describe_contrast(contrast: Contrast) -> dict[str, Any]:
    """Describe a contrast for a sidecar."""
    weights = [list(row) for row in contrast.weights]
    return {
        "Contrast": {
            "Name": contrast.name,
            "Columns": list(contrast.columns),
            "Weights": weights if contrast.test == "F" else weights[0],
            "Test": contrast.test,
        }
    }


def publish(job: Job, stage: Path, found: list[dict[str, Any]]) -> list[ContrastResult]:
    """Write the summary of a job, and move all its files to their places; those of an earlier one go."""
    return contrast_results(jobs.publish(job, stage, {**job.about(), "Found": found}), job.summary)
