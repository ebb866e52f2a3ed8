"""What the summary of an analysis (``glm.json``) says, as one result per contrast."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from html import escape
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from llm2bids.bids.names import sidecar_of
from llm2bids.bids.tables import read_json, read_tsv
from llm2bids.results.targets import read_map
from llm2bids.space import UnitMask, UnitSpace

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import pandas as pd
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

SUMMARY: Final = "glm.json"
"""Suffix of the file that says what an analysis did and found."""
LIBRARIES: Final = ("nilearn", "numpy", "scipy")
"""Packages that compute, whose versions sidecars tell."""
TAILS: Final = {"two": "two-tailed", "positive": "one-tailed (positive)", "negative": "one-tailed (negative)"}


@dataclass(frozen=True)
class ContrastResult:
    """Result of one contrast: its maps and its network, which are read when asked for.

    Parameters
    ----------
    subject, task, site, space, contrast : str
        What it is of; subject is ``"group"`` for a group.
    n_tested, n_selected : int
        Number of units tested, and of those in the network.
    threshold : float or None
        Least absolute z of a unit of the network; None where it is empty.
    mask_file, z_file, units_file : Path
        Files of the network, of the map of z, and of the table of units.
    summary_file : Path
        The ``glm.json`` of the analysis.
    skipped : bool
        Whether it was there already (``resume``).
    top_files : tuple of Path
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
    mask_file: Path
    z_file: Path
    units_file: Path
    summary_file: Path
    skipped: bool = False
    top_files: tuple[Path, ...] = ()

    @cached_property
    def mask(self) -> UnitMask:
        """The network."""
        selected = read_map(self.mask_file, self._space) > 0
        return UnitMask(self._space, selected, self._metadata | {"Source": str(self.mask_file)})

    @cached_property
    def z(self) -> NDArray[np.float64]:
        """The statistic as a normal deviate, shape (n_units,); 0 where no unit was tested."""
        return np.asarray(read_map(self.z_file, self._space), np.float64)

    @cached_property
    def units(self) -> pd.DataFrame:
        """The units of the network, the strongest first: place, effect, z and corrected p."""
        return read_tsv(self.units_file)

    @property
    def files(self) -> list[Path]:
        """All files of the analysis, and the page that shows it."""
        names = read_json(self.summary_file).get("Files", [])
        out = next(folder for folder in self.summary_file.parents if (folder / "dataset_description.json").is_file())
        place = next(folder for folder in self.summary_file.parents if (folder / names[0]).exists())
        page = out / f"{self.summary_file.relative_to(out).parts[0]}.html"
        return [self.summary_file, *(place / name for name in names), *([page] if page.exists() else [])]

    def plot(self) -> Figure:
        """Draw the map of z layer by layer, with the network outlined."""
        from llm2bids.plots.layers import draw_layers  # noqa: PLC0415 - matplotlib takes its time

        return draw_layers(self.z, self.mask.selected, self._space)

    def to_json(self) -> dict[str, Any]:
        """Describe the result for programs."""
        files = {"mask": self.mask_file, "z_map": self.z_file, "units": self.units_file}
        counts = ("subject", "task", "site", "space", "contrast", "n_tested", "n_selected", "threshold")
        return {
            **{name: getattr(self, name) for name in counts},
            **{name: str(path) for name, path in files.items()},
            "skipped": self.skipped,
            "top": [str(path) for path in self.top_files],
        }

    def __repr__(self) -> str:
        """One line."""
        return (
            f"<ContrastResult {self.contrast}: sub-{self.subject}, task {self.task}, site {self.site}, "
            f"{self.n_selected} of {self.n_tested} units>"
        )

    def _repr_html_(self) -> str:
        """The result in a notebook: what it is of, and its strongest units."""
        head = self.units.head(10).to_html(index=False, float_format="{:.3g}".format)
        return f"<p>{escape(repr(self)[1:-1])}</p>{head}"

    @property
    def _metadata(self) -> dict[str, Any]:
        """What the sidecar of the network says under ``Llm2bids``."""
        metadata: dict[str, Any] = read_json(sidecar_of(self.mask_file))["Llm2bids"]
        return metadata

    @property
    def _space(self) -> UnitSpace:
        """Which voxel is which unit."""
        return UnitSpace.from_json(self._metadata["UnitSpace"])


def tails_of(summary: Mapping[str, Any]) -> str:
    """Name the tails of the tests of an analysis.

    `summary`: what ``glm.json`` says. An F test has one tail, whatever was asked of the t tests beside it.

    >>> two_tailed = {"Llm2bids": {"Statistics": {"Tail": "two"}}}
    >>> tails_of(two_tailed | {"Found": [{"test": "t"}]})
    'two-tailed'
    >>> tails_of(two_tailed | {"Found": [{"test": "t"}, {"test": "F"}]})
    'two-tailed, F tests one-tailed'
    >>> tails_of(two_tailed | {"Found": [{"test": "F"}]})
    'one-tailed, as F tests are'
    """
    tail = TAILS[summary["Llm2bids"]["Statistics"]["Tail"]]
    tests = {contrast["test"] for contrast in summary["Found"]}
    if "F" not in tests:
        return tail
    return f"{tail}, F tests one-tailed" if "t" in tests else "one-tailed, as F tests are"


def contrast_results(summary: Mapping[str, Any], path: Path, *, skipped: bool = False) -> list[ContrastResult]:
    """Give one result per contrast of the summary of an analysis, which lies at `path`."""
    folder = path.parent
    subject_and_place: dict[str, Any] = {key.lower(): summary[key] for key in ("Subject", "Task", "Site", "Space")}
    return [
        ContrastResult(
            **subject_and_place,
            **{key: contrast[key] for key in ("contrast", "n_tested", "n_selected", "threshold")},
            mask_file=folder / contrast["mask"],
            z_file=folder / contrast["z_map"],
            units_file=folder / contrast["units"],
            summary_file=path,
            skipped=skipped,
            top_files=tuple(folder / share["mask"] for share in contrast.get("top", ())),
        )
        for contrast in summary["Found"]
    ]
