"""Results of an analysis, read from its summary (``glm.json``): one per contrast."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from html import escape
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from llm2bids.bids.names import sidecar_of
from llm2bids.bids.tables import read_json, read_tsv
from llm2bids.errors import DatasetError
from llm2bids.results.patterns import read_pattern
from llm2bids.results.targets import read_map
from llm2bids.space import UnitMask, UnitPattern, UnitSpace

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import pandas as pd
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

SUMMARY: Final = "glm.json"
"""Suffix of the summary of an analysis."""
LIBRARIES: Final = ("nilearn", "numpy", "scipy")
"""Packages whose versions sidecars name."""
TAILS: Final = {"two": "two-tailed", "positive": "one-tailed (positive)", "negative": "one-tailed (negative)"}


@dataclass(frozen=True)
class ContrastResult:
    """Result of one contrast; its map and network are read from their files on first use.

    Parameters
    ----------
    subject, task, site, space, contrast : str
        What was analysed; subject is ``"group"`` for a group.
    n_tested, n_selected : int
        Numbers of units tested, and of units in the network.
    threshold : float or None
        Smallest absolute z of the network; None if it is empty.
    mask_file, z_file, units_file : Path
        Files of the network, of the map of z, and of the table of units.
    summary_file : Path
        The ``glm.json`` of the analysis.
    skipped : bool
        Whether it was there already (``resume``).
    top_files : tuple of Path
        Masks of the units with the largest statistic, uncorrected; one per share of ``top``.
    pattern_file : Path or None
        The filter of the pattern; None if the contrast does not compare conditions.
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
    pattern_file: Path | None = None

    @cached_property
    def mask(self) -> UnitMask:
        """The network: units that pass the corrected test."""
        selected = read_map(self.mask_file, self._space) > 0
        return UnitMask(self._space, selected, self._metadata | {"Source": str(self.mask_file)})

    @cached_property
    def z(self) -> NDArray[np.float64]:
        """The statistic as a normal deviate, shape (n_units,); 0 for units that were not tested."""
        return np.asarray(read_map(self.z_file, self._space), np.float64)

    @cached_property
    def units(self) -> pd.DataFrame:
        """Units of the network, the strongest first: where they are, effect, z and corrected p."""
        numbers = {"unit": int, "block": int, "channel": int, "effect": float, "z": float, "p_corrected": float}
        return read_tsv(self.units_file).astype(numbers)

    @cached_property
    def pattern(self) -> UnitPattern:
        """The activation pattern, its filter, the mean of the reference and the spread along the filter."""
        if self.pattern_file is None:
            raise DatasetError(
                f"contrast {self.contrast} has no pattern: it is no t contrast between conditions such as on - off, or "
                "was analysed by an earlier version; in that case analyse it again with overwrite=True"
            )
        return read_pattern(self.pattern_file)

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
        """Convert to what ``--json`` prints."""
        files = {"mask": self.mask_file, "z_map": self.z_file, "units": self.units_file}
        counts = ("subject", "task", "site", "space", "contrast", "n_tested", "n_selected", "threshold")
        return {
            **{name: getattr(self, name) for name in counts},
            **{name: str(path) for name, path in files.items()},
            "pattern": None if self.pattern_file is None else str(self.pattern_file),
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
        """Show the strongest units in a notebook."""
        head = self.units.head(10).to_html(index=False, float_format="{:.3g}".format)
        return f"<p>{escape(repr(self)[1:-1])}</p>{head}"

    @property
    def _metadata(self) -> dict[str, Any]:
        """Object ``Llm2bids`` in the sidecar of the network."""
        metadata: dict[str, Any] = read_json(sidecar_of(self.mask_file))["Llm2bids"]
        return metadata

    @property
    def _space(self) -> UnitSpace:
        """Which voxel is which unit."""
        return UnitSpace.from_json(self._metadata["UnitSpace"])


def tails_of(summary: Mapping[str, Any]) -> str:
    """Name the tails of the tests in a summary; an F test has one tail, whatever the option says.

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
    """Make one result per contrast of a summary; `path` is its file."""
    folder = path.parent
    entities: dict[str, Any] = {key.lower(): summary[key] for key in ("Subject", "Task", "Site", "Space")}
    return [
        ContrastResult(
            **entities,
            **{key: contrast[key] for key in ("contrast", "n_tested", "n_selected", "threshold")},
            mask_file=folder / contrast["mask"],
            z_file=folder / contrast["z_map"],
            units_file=folder / contrast["units"],
            summary_file=path,
            skipped=skipped,
            top_files=tuple(folder / share["mask"] for share in contrast.get("top", ())),
            pattern_file=folder / pattern["filter"] if (pattern := contrast.get("pattern")) else None,
        )
        for contrast in summary["Found"]
    ]
