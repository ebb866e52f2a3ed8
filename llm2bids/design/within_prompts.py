"""Designs that estimate more of each prompt than its mean: slopes over modulators, or responses in bins of tokens.

These are the designs of event-related fMRI. A slope is a parametric modulation (Büchel et al. 1998,
doi:10.1006/nimg.1998.0351), bins are a finite impulse response (Dale 1999, Hum Brain Mapp 8:109).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import pandas as pd

from llm2bids.design.matrix import drop_copies, inside, token_numbers
from llm2bids.design.regressors import bin_kind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

_TINY: Final = 1e-6
"""Smallest singular value, for columns of about unit size, of columns that can be told apart."""


@dataclass(frozen=True, slots=True, eq=False)
class WithinPromptDesign:
    """Design of a run with slopes or bins of each prompt.

    - `matrix` (n_scans, n_regressors): first one column per kind (a slope or a bin) and prompt, kind by kind.
    - `estimable` (n_prompts, n_kinds): which kinds can be estimated for which prompts; only these have a column.
    """

    matrix: pd.DataFrame
    estimable: pd.DataFrame

    @property
    def n_effects(self) -> int:
        """Number of leading columns whose coefficients are of interest."""
        return int(self.estimable.to_numpy().sum())

    def effects_by_kind(self, coefficients: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        """Sort coefficients (n_effects, n_units) by kind, each (n_prompts, n_units); NaN where not estimable."""
        effects = {}
        start = 0
        for kind in map(str, self.estimable):
            rows = self.estimable[kind].to_numpy()
            stop = start + int(rows.sum())
            effects[kind] = np.full((len(rows), coefficients.shape[1]), np.nan)
            effects[kind][rows] = coefficients[start:stop]
            start = stop
        return effects


def with_slopes(matrix: pd.DataFrame, names: Sequence[str], modulators: pd.DataFrame) -> WithinPromptDesign:
    """Give each prompt its own slopes over modulators.

    A prompt gets no slope if its modulators are constant or collinear there, or if it has too few tokens.

    `matrix` (n_scans, n_regressors): design with one column per prompt, which `names` lists. `modulators` (n_scans,
    n_modulators).
    """
    values = modulators.to_numpy(float)
    sd = values.std(0)
    others = matrix.drop(columns=list(names)).to_numpy()
    columns: dict[str, NDArray[np.float64]] = {}
    estimable = np.zeros(len(names), bool)
    for number, name in enumerate(names):
        scans = inside(matrix[[name]])[:, 0]
        # Centred within the prompt, the slope is orthogonal to the prompt's own column, which stays its mean.
        centred = values[scans] - values[scans].mean(0) if scans.any() else values[scans]
        nuisance = np.column_stack([np.ones(scans.sum()), others[scans]])
        estimable[number] = _is_estimable(centred / np.where(sd > 0, sd, 1), nuisance)
        for modulator, column in zip(modulators, centred.T, strict=True):
            columns[f"{name}_{modulator}"] = np.zeros(len(matrix))
            columns[f"{name}_{modulator}"][scans] = column
    order = [f"{name}_{modulator}" for modulator in modulators for name in np.asarray(names)[estimable]]
    slopes = pd.DataFrame({name: columns[name] for name in order}, index=matrix.index)
    return WithinPromptDesign(pd.concat([slopes, matrix], axis=1), pd.DataFrame(dict.fromkeys(modulators, estimable)))


def _is_estimable(columns: NDArray[np.float64], nuisance: NDArray[np.float64]) -> bool:
    """Whether columns of about unit size are linearly independent of each other and of the nuisance."""
    if columns.shape[0] <= columns.shape[1]:
        return False
    residuals = columns - nuisance @ np.linalg.lstsq(nuisance, columns, rcond=None)[0]
    return bool(np.linalg.svd(residuals, compute_uv=False).min() > _TINY)


def with_bins(matrix: pd.DataFrame, names: Sequence[str], delays: Sequence[int]) -> WithinPromptDesign:
    """Replace the column of each prompt by one column per bin of its tokens.

    A bin without tokens has no column. Tokens after the last bin get a column of no interest, so that they are not
    noise.

    `matrix` (n_scans, n_regressors): design with one column per prompt, which `names` lists. `delays`: first tokens of
    the bins, from 0, equally spaced.
    """
    prompts = matrix[list(names)]
    numbers = bin_numbers(prompts, delays)
    kinds = [*map(bin_kind, delays), "later"]
    parts = {
        kind: pd.DataFrame(
            {f"{name}_{kind.replace(' ', '_')}": prompts[name].to_numpy() * (numbers == number) for name in names},
            index=matrix.index,
        )
        for number, kind in enumerate(kinds)
    }
    estimable = pd.DataFrame({kind: inside(part).any(0) for kind, part in parts.items()})
    bins = pd.concat([part.loc[:, estimable[kind].to_numpy()] for kind, part in parts.items()], axis=1)
    others = drop_copies(matrix.drop(columns=list(names)), bins)
    return WithinPromptDesign(pd.concat([bins, others], axis=1), estimable[kinds[:-1]])


def bin_numbers(prompts: pd.DataFrame, delays: Sequence[int]) -> NDArray[np.int64]:
    """Number of the bin each scan is in, from 0, shape (n_scans,).

    It is the number of bins for tokens after the last bin, and -1 for scans of no prompt.

    `prompts` (n_scans, n_prompts): columns of prompts. `delays`: first tokens of the bins, from 0, equally spaced.
    """
    numbers = token_numbers(prompts)
    return np.asarray(np.where(numbers < 0, -1, np.minimum(numbers // (delays[1] - delays[0]), len(delays))))
