"""Result of one decomposition: its files, which are read when asked for."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from llm2bids.bids.names import sidecar_of
from llm2bids.bids.tables import read_json, read_tsv
from llm2bids.masks import load_mask
from llm2bids.results.targets import read_map
from llm2bids.space import UnitSpace

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from llm2bids.space import UnitMask


@dataclass(frozen=True)
class Decomposition:
    """Components of one subject, group, run or layer: maps, networks and time courses, read when asked for.

    Parameters
    ----------
    name : str
        Entities of what was decomposed, e.g. ``"sub-phantom_acq-block"``.
    space : str
        Label of the space of the units.
    n_runs, n_samples, n_units, n_components : int
        Number of runs, samples and units that were decomposed, and of components.
    maps_file : Path
        Maps of all components as a 4-D image, z over units.
    table_file : Path
        Table of components.
    mask_files : tuple of Path
        Network of each component.
    course_files : tuple of Path
        Time courses, one file per run.
    summary_file : Path
        The ``ica.json`` of the decomposition.
    skipped : bool
        Whether it was there already (``resume``).
    """

    name: str
    space: str
    n_runs: int
    n_samples: int
    n_units: int
    n_components: int
    maps_file: Path
    table_file: Path
    mask_files: tuple[Path, ...]
    course_files: tuple[Path, ...]
    summary_file: Path
    skipped: bool = False

    @cached_property
    def maps(self) -> NDArray[np.float64]:
        """Maps of the components as z over units, shape (n_components, n_all_units); 0 for units left out."""
        return np.asarray(read_map(self.maps_file, self._space), np.float64)

    @cached_property
    def masks(self) -> list[UnitMask]:
        """Networks of the components, in the same order."""
        return [load_mask(path) for path in self.mask_files]

    @cached_property
    def table(self) -> pd.DataFrame:
        """Table of components: explained variance, stability, number of units; NaN for n/a."""
        table: pd.DataFrame = read_tsv(self.table_file).apply(pd.to_numeric, errors="coerce")
        return table

    @cached_property
    def courses(self) -> dict[str, pd.DataFrame]:
        """Time courses of the components in each run, one column each, by the name of their file."""
        return {path.name.removesuffix("_timeseries.tsv"): read_tsv(path).astype(float) for path in self.course_files}

    @property
    def files(self) -> list[Path]:
        """All files of the decomposition."""
        tables = [self.table_file, *self.course_files]
        images = [self.maps_file, *self.mask_files]
        sidecars = [sidecar_of(path) for path in (*images, *self.course_files)]
        return sorted([self.summary_file, *tables, *images, *sidecars])

    def plot(self, component: int = 1) -> Figure:
        """Draw the map of a component layer by layer, with its network.

        Parameters
        ----------
        component : int
            Number of the component, from 1.

        Returns
        -------
        Figure
            One panel per layer.
        """
        from llm2bids.plots.layers import draw_layers  # noqa: PLC0415 - matplotlib takes long to import

        return draw_layers(self.maps[component - 1], self.masks[component - 1].selected, self._space)

    def to_json(self) -> dict[str, Any]:
        """Describe the decomposition for programs.

        Returns
        -------
        dict
            Numbers and names of files.
        """
        names = {
            "maps_file": "components",
            "table_file": "table",
            "mask_files": "masks",
            "course_files": "timeseries",
        }
        values = {part.name: getattr(self, part.name) for part in fields(self) if part.name != "summary_file"}
        return {names.get(name, name): value for name, value in values.items()}

    def __repr__(self) -> str:
        """Return one line."""
        counts = f"{self.n_components} components, {self.n_samples} samples, {self.n_units} units"
        return f"<Decomposition {self.name}: {counts}>"

    def _repr_html_(self) -> str:
        """Show the table of components in a notebook."""
        return f"<p>{repr(self)[1:-1]}</p>{self.table.to_html(index=False)}"

    @cached_property
    def _space(self) -> UnitSpace:
        """Space of the units."""
        return UnitSpace.from_json(read_json(self.summary_file)["Llm2bids"]["UnitSpace"])
