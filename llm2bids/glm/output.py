"""How results lie on disk: maps, networks, their units, designs, and what each says about itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from llm2bids.bids.names import format_name, sidecar_of
from llm2bids.bids.nifti import write_image
from llm2bids.bids.tables import write_bytes, write_json, write_tsv
from llm2bids.bids.templates import template_json
from llm2bids.glm.top import write_top
from llm2bids.pictures import as_png
from llm2bids.plots.matrix import draw_design_matrix
from llm2bids.regressors import is_slope
from llm2bids.space import UnitMask

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import pandas as pd
    from numpy.typing import NDArray

    from llm2bids.glm.fit import StatMaps
    from llm2bids.glm.settings import Settings
    from llm2bids.space import UnitSpace
    from llm2bids.statsmodel import Contrast

SUMMARY: Final = "glm.json"
"""Suffix of the file that says what an analysis did and found."""
LIBRARIES: Final = ("nilearn", "numpy", "scipy")
"""Packages that compute, whose versions sidecars tell."""
_TAILS: Final = {"two": "two-tailed", "positive": "one-tailed (positive)", "negative": "one-tailed (negative)"}


@dataclass(frozen=True, slots=True)
class Target:
    """Where the files of one analysis go, and what all of them say.

    Parameters
    ----------
    folder : Path
        Folder for the files.
    entities : mapping
        BIDS entities of all files.
    space : UnitSpace
        Which voxel is which unit.
    tested : ndarray of bool, shape (n_units,)
        Units that were tested.
    common : mapping
        Fields of every sidecar: ``Sources``, ``SpatialReference``, and under ``Llm2bids`` model, site and settings.
    """

    folder: Path
    entities: Mapping[str, str]
    space: UnitSpace
    tested: NDArray[np.bool_]
    common: Mapping[str, Any]

    def path(self, suffix: str, **entities: str | None) -> Path:
        """Name a file.

        Parameters
        ----------
        suffix : str
            Suffix with extension.
        **entities : str or None
            Further entities.

        Returns
        -------
        Path
            In the folder, or that of the session.
        """
        session = f"ses-{entities['ses']}" if entities.get("ses") else ""
        folder = self.folder.parent / session / self.folder.name if session else self.folder
        return folder / format_name(suffix, **{**self.entities, **entities})

    def sidecar(self, description: str, own: Mapping[str, Any], **fields: object) -> dict[str, Any]:
        """Compose a sidecar.

        Parameters
        ----------
        description : str
            What the file is.
        own : mapping
            Fields to add under ``Llm2bids``.
        **fields : object
            Further fields.

        Returns
        -------
        dict
            JSON values.
        """
        both = {**self.common["Llm2bids"], **own}
        return {"Description": description, **self.common, **fields, "Llm2bids": both}

    def spread(self, values: NDArray[Any], background: float = 0.0) -> NDArray[np.float32]:
        """Put values of tested units among all units.

        Parameters
        ----------
        values : ndarray, shape (..., n_tested)
            One per tested unit.
        background : float
            For all others.

        Returns
        -------
        ndarray of float32, shape (..., n_units)
            Finite.
        """
        whole = np.full((*values.shape[:-1], self.space.n_units), background, np.float32)
        whole[..., self.tested] = np.nan_to_num(values, nan=background, posinf=0.0, neginf=0.0)
        return whole


@dataclass(frozen=True, slots=True)
class Finding:
    """One network that was found.

    Parameters
    ----------
    subject, task, site, space, contrast : str
        What it is of; subject is ``"group"`` for a group.
    n_tested, n_selected : int
        Units tested, and found.
    threshold : float or None
        Least absolute z of a unit found; None where there is none.
    mask, z_map, units : Path
        Its files.
    skipped : bool
        Whether it was there already (``resume``).
    top : tuple of Path
        Masks of the units with the largest statistic, one per share asked for; uncorrected.
    """

    subject: str
    task: str
    site: str
    space: str
    contrast: str
    n_tested: int
    n_selected: int
    threshold: float | None
    mask: Path
    z_map: Path
    units: Path
    skipped: bool = False
    top: tuple[Path, ...] = ()


def write_contrast(
    target: Target,
    contrast: Contrast,
    maps: StatMaps,
    adjusted: NDArray[np.float64],
    settings: Settings,
    **told: object,
) -> dict[str, Any]:
    """Write all files of a contrast.

    Parameters
    ----------
    target : Target
        Where they go.
    contrast : Contrast
        What was asked.
    maps : StatMaps
        What it came to, over tested units.
    adjusted : ndarray, shape (n_tested,)
        Corrected p-values.
    settings : Settings
        Tail, correction and level.
    **told : object
        Further fields under ``Llm2bids``.

    Returns
    -------
    dict
        ``contrast``, ``test``, ``n_tested``, ``n_selected``, ``threshold``, file names ``mask``, ``z_map``, ``units``,
        and ``top``: what `write_top` gives for each share of the settings.
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
        f"{'' if contrast.test == 'F' else f', {_TAILS[settings.tail]}'}."
    )
    write_json(sidecar_of(mask), target.sidecar(about, own, Type="ROI"))
    units = target.path("units.tsv", contrast=contrast.label, desc=settings.label)
    write_tsv(units, units_table(target, selected, maps, adjusted))
    write_json(units.with_suffix(".json"), template_json("units.json") | target.sidecar(about, own))
    files = {"mask": mask.name, "z_map": z_map.name, "units": units.name}
    counts = {"n_tested": len(found), "n_selected": int(found.sum()), "threshold": threshold}
    return {"contrast": contrast.name, "test": contrast.test, **counts, **files, "top": top}


def tails_of(summary: Mapping[str, Any]) -> str:
    """Name the tails of the tests of an analysis.

    Parameters
    ----------
    summary : mapping
        What ``glm.json`` says. An F test has one tail, whatever was asked of the t tests beside it.

    Returns
    -------
    str
        To follow "tests were", for instance ``"two-tailed"``.

    Examples
    --------
    >>> asked = {"Llm2bids": {"Statistics": {"Tail": "two"}}}
    >>> tails_of(asked | {"Found": [{"test": "t"}]})
    'two-tailed'
    >>> tails_of(asked | {"Found": [{"test": "t"}, {"test": "F"}]})
    'two-tailed, F tests one-tailed'
    >>> tails_of(asked | {"Found": [{"test": "F"}]})
    'one-tailed, as F tests are'
    """
    asked = _TAILS[summary["Llm2bids"]["Statistics"]["Tail"]]
    tests = {found["test"] for found in summary["Found"]}
    if "F" not in tests:
        return asked
    return f"{asked}, F tests one-tailed" if "t" in tests else "one-tailed, as F tests are"


def write_maps(
    target: Target, contrast: Contrast, maps: StatMaps, tail: str, own: Mapping[str, Any], run: str | None = None
) -> Path:
    """Write effect, variance, statistic, z and p of a contrast.

    Parameters
    ----------
    target : Target
        Where they go.
    contrast : Contrast
        What was asked.
    maps : StatMaps
        What it came to, over tested units.
    tail : {"two", "positive", "negative"}
        Of the p-values.
    own : mapping
        Fields under ``Llm2bids``.
    run : str, optional
        Session and run where it is of one, e.g. ``"ses-01_run-02"``.

    Returns
    -------
    Path
        The z map.
    """
    tails = "one-tailed by nature" if maps.test == "F" else _TAILS[tail]
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

    Parameters
    ----------
    target : Target
        The space, and which units were tested.
    selected : ndarray of bool, shape (n_units,)
        The network.
    maps : StatMaps
        Over tested units.
    adjusted : ndarray, shape (n_tested,)
        Corrected p-values.

    Returns
    -------
    DataFrame
        ``unit``, ``hookpoint``, ``block``, ``channel``, ``effect`` (in standard deviations), ``z``, ``p_corrected``;
        the strongest first.
    """
    chosen = selected[target.tested]
    values = {"effect": maps.effect[chosen], "z": maps.z[chosen], "p_corrected": adjusted[chosen]}
    table = UnitMask(target.space, selected).table().assign(**values)
    return table.sort_values("z", key=np.abs, ascending=False, kind="stable", ignore_index=True)


def write_tested(target: Target) -> None:
    """Write which units were tested.

    Parameters
    ----------
    target : Target
        Where it goes.
    """
    mask = target.path("mask.nii.gz", desc="brain")
    write_image(mask, target.space.to_image(target.tested))
    write_json(
        sidecar_of(mask), target.sidecar("Units that were tested: those that vary in every run.", {}, Type="Brain")
    )


def write_prompts(target: Target, prompts: pd.DataFrame, effects: NDArray[np.float64]) -> None:
    """Write the effect of every prompt, as one image, and what each prompt was.

    Parameters
    ----------
    target : Target
        Where it goes.
    prompts : DataFrame, shape (n_prompts, n_columns)
        One row per prompt.
    effects : ndarray, shape (n_prompts, n_tested)
        In standard deviations of the unit.
    """
    image = target.path("statmap.nii.gz", stat="effect", desc="prompts")
    about = "Effect of each prompt, in standard deviations of the unit over the run; prompts along the fourth axis."
    write_image(image, target.space.to_image(target.spread(effects)))
    write_json(sidecar_of(image), target.sidecar(about, {}))
    write_tsv(target.path("prompts.tsv"), prompts)


def write_designs(target: Target, designs: Mapping[str, pd.DataFrame]) -> None:
    """Write design matrices as tables and pictures.

    Parameters
    ----------
    target : Target
        Where they go.
    designs : mapping
        By session and run, or ``prompts``.
    """
    for name, matrix in designs.items():
        entities = {"desc": name} if "-" not in name else dict(part.split("-") for part in name.split("_"))
        write_tsv(target.path("design.tsv", **entities), matrix)
        write_bytes(target.path("design.png", **entities), as_png(draw_design_matrix(matrix)))


def describe_contrast(contrast: Contrast) -> dict[str, Any]:
    """Describe a contrast for a sidecar.

    Parameters
    ----------
    contrast : Contrast
        What was asked.

    Returns
    -------
    dict
        ``Contrast`` with name, columns, weights and test.
    """
    weights = [list(row) for row in contrast.weights]
    return {
        "Contrast": {
            "Name": contrast.name,
            "Columns": list(contrast.columns),
            "Weights": weights if contrast.test == "F" else weights[0],
            "Test": contrast.test,
        }
    }


def findings(summary: Mapping[str, Any], folder: Path, *, skipped: bool = False) -> list[Finding]:
    """Read what an analysis found.

    Parameters
    ----------
    summary : mapping
        What its ``glm.json`` says.
    folder : Path
        Where its files are.
    skipped : bool
        Whether it was there already.

    Returns
    -------
    list of Finding
        One per contrast.
    """
    about: dict[str, Any] = {key.lower(): summary[key] for key in ("Subject", "Task", "Site", "Space")}
    return [
        Finding(
            **about,
            **{key: found[key] for key in ("contrast", "n_tested", "n_selected", "threshold")},
            **{key: folder / found[key] for key in ("mask", "z_map", "units")},
            skipped=skipped,
            top=tuple(folder / one["mask"] for one in found.get("top", ())),
        )
        for found in summary["Found"]
    ]
