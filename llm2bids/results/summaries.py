"""What the summary of an analysis (``glm.json``) says, as one result per contrast."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

SUMMARY: Final = "glm.json"
"""Suffix of the file that says what an analysis did and found."""
LIBRARIES: Final = ("nilearn", "numpy", "scipy")
"""Packages that compute, whose versions sidecars tell."""
TAILS: Final = {"two": "two-tailed", "positive": "one-tailed (positive)", "negative": "one-tailed (negative)"}


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


def tails_of(summary: Mapping[str, Any]) -> str:
    """Name the tails of the tests of an analysis.

    `summary`: what ``glm.json`` says. An F test has one tail, whatever was asked of the t tests beside it.

    >>> asked = {"Llm2bids": {"Statistics": {"Tail": "two"}}}
    >>> tails_of(asked | {"Found": [{"test": "t"}]})
    'two-tailed'
    >>> tails_of(asked | {"Found": [{"test": "t"}, {"test": "F"}]})
    'two-tailed, F tests one-tailed'
    >>> tails_of(asked | {"Found": [{"test": "F"}]})
    'one-tailed, as F tests are'
    """
    asked = TAILS[summary["Llm2bids"]["Statistics"]["Tail"]]
    tests = {found["test"] for found in summary["Found"]}
    if "F" not in tests:
        return asked
    return f"{asked}, F tests one-tailed" if "t" in tests else "one-tailed, as F tests are"


def findings(summary: Mapping[str, Any], folder: Path, *, skipped: bool = False) -> list[Finding]:
    """Read what an analysis found."""
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
