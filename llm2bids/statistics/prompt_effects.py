"""What is taken of each prompt: its mean effect, its slopes over modulators, its answers in bins of tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd

from llm2bids.design.matrix import token_numbers, without_twins
from llm2bids.design.regressors import FACTOR, MEAN, bin_kind, is_slope
from llm2bids.design.statsmodel import Contrast
from llm2bids.errors import InferenceError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from llm2bids.design.regressors import Column

_TINY: Final = 1e-6
_HALF: Final = 0.5


@dataclass(frozen=True, slots=True)
class Weighing:
    """A contrast in two parts: what it takes of a prompt, and how it compares conditions.

    - `kinds`: weight of each kind in the sample of a prompt, by name.
    - `over`: of the samples: weights of conditions, as ``trial_type.on``, or of confounds.
    """

    kinds: Mapping[str, float]
    over: Contrast

    @classmethod
    def from_contrast(cls, contrast: Contrast, columns: Mapping[str, Column]) -> Weighing:
        """Split a contrast."""
        terms = [
            (f"{FACTOR}{columns[name].condition}", columns[name].kind) if name in columns else (name, MEAN)
            for name in contrast.columns
        ]
        compared, kinds = (list(dict.fromkeys(parts)) for parts in zip(*terms, strict=True))
        weights = np.zeros((len(contrast.weights), len(compared), len(kinds)))
        for (condition, kind), own in zip(terms, np.transpose(contrast.weights), strict=True):
            weights[:, compared.index(condition), kinds.index(kind)] += own
        flat = weights.reshape(-1, len(kinds))
        row, largest = np.unravel_index(np.abs(flat).argmax(), flat.shape)
        taken, over = flat[row] / flat[row, largest], weights[:, :, largest]
        if np.abs(np.outer(flat[:, largest], taken) - flat).max() > _TINY * np.abs(flat).max():
            rows = "rows" if contrast.test == "F" and len(contrast.weights) > 1 else "conditions"
            raise InferenceError(
                f"contrast {contrast.name} weighs {', '.join(kinds)} of prompts differently in its {rows}; with "
                f"prompts as samples all {rows} must weigh them alike: ask several contrasts, or use --inference token"
            )
        used = {kind: float(weight) for kind, weight in zip(kinds, taken, strict=True) if weight}
        return cls(used, Contrast(contrast.name, tuple(compared), tuple(map(tuple, over.tolist())), contrast.test))

    @property
    def is_level(self) -> bool:
        """Whether the sample of a prompt measures how high a unit is, and not a slope or a difference within it."""
        return abs(sum(weight for kind, weight in self.kinds.items() if not is_slope(kind))) > _TINY

    @property
    def slopes(self) -> list[str]:
        """Modulators whose slopes it takes."""
        return [kind for kind in self.kinds if is_slope(kind)]

    @property
    def text(self) -> str:
        """What it takes of a prompt, e.g. ``"slope over tok_surprisal"`` or ``"delay 0 - delay 4"``."""
        named = {kind: f"slope over {kind}" if is_slope(kind) else kind for kind in self.kinds}
        parts = [
            f"{'-' if weight < 0 else '+'} {'' if abs(weight) == 1 else f'{abs(weight):g} × '}{named[kind]}"
            for kind, weight in self.kinds.items()
        ]
        return " ".join(parts).removeprefix("+ ")

    def take(self, effects: Mapping[str, NDArray[np.float64]]) -> NDArray[np.float64]:
        """Make the samples.

        Returns (n_prompts, n_units): one row per prompt; NaN where a kind could not be estimated.
        """
        if self.kinds == {MEAN: 1.0}:
            return effects[MEAN]
        return np.asarray(sum(weight * effects[kind] for kind, weight in self.kinds.items()))


@dataclass(frozen=True, slots=True, eq=False)
class KindDesign:
    """A design of a run that estimates more of each prompt than its mean effect.

    - `matrix` (n_scans, n_regressors): first a column per kind and prompt that has it, kind by kind.
    - `kept` (n_prompts, n_kinds): which prompts have which kind.
    """

    matrix: pd.DataFrame
    kept: pd.DataFrame

    @property
    def n_effects(self) -> int:
        """How many of the columns are asked for."""
        return int(self.kept.to_numpy().sum())

    def spread(self, coefficients: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        """Sort estimates by kind.

        `coefficients` (n_effects, n_units): of the first columns. Returns by kind, shape (n_prompts, n_units); NaN for
        prompts that do not have it.
        """
        found = {}
        end = 0
        for kind in map(str, self.kept):
            own = self.kept[kind].to_numpy()
            found[kind] = np.full((len(own), coefficients.shape[1]), np.nan)
            found[kind][own] = coefficients[end : end + own.sum()]
            end += int(own.sum())
        return found


def with_slopes(matrix: pd.DataFrame, names: Sequence[str], modulators: pd.DataFrame) -> KindDesign:
    """Give each prompt its own slopes over modulators.

    `matrix` (n_scans, n_regressors): design with one column per prompt. `modulators` (n_scans, n_modulators): centred
    within each prompt, so that its own column stays its mean. Returns prompts whose modulators are constant, collinear
    or too short get no slopes.
    """
    values = modulators.to_numpy(float)
    spread = values.std(0)
    others = matrix.drop(columns=list(names)).to_numpy()
    columns: dict[str, NDArray[Any]] = {}
    estimable = np.zeros(len(names), bool)
    for number, name in enumerate(names):
        own = matrix[name].to_numpy() > _HALF
        centred = values[own] - values[own].mean(0) if own.any() else values[own]
        beside = np.column_stack([np.ones(own.sum()), others[own]])
        estimable[number] = _is_estimable(centred / np.where(spread > 0, spread, 1), beside)
        for modulator, part in zip(modulators, centred.T, strict=True):
            columns[f"{name}_{modulator}"] = np.zeros(len(matrix))
            columns[f"{name}_{modulator}"][own] = part
    wanted = [f"{name}_{one}" for one in modulators for name in np.asarray(names)[estimable]]
    slopes = pd.DataFrame({name: columns[name] for name in wanted}, index=matrix.index)
    kept = pd.DataFrame(dict.fromkeys(modulators, estimable))
    return KindDesign(pd.concat([slopes, matrix], axis=1), kept)


def _is_estimable(columns: NDArray[np.float64], beside: NDArray[np.float64]) -> bool:
    """Whether columns of about unit size are told apart from each other and from those beside them."""
    if columns.shape[0] <= columns.shape[1]:
        return False
    rest = columns - beside @ np.linalg.lstsq(beside, columns, rcond=None)[0]
    return bool(np.linalg.svd(rest, compute_uv=False).min() > _TINY)


def with_bins(matrix: pd.DataFrame, names: Sequence[str], delays: Sequence[int]) -> KindDesign:
    """Cut each prompt into bins of tokens.

    `matrix` (n_scans, n_regressors): design with one column per prompt. `delays`: first tokens of the bins, from 0,
    equally spaced. Returns in place of the columns of prompts, one per prompt and bin; a bin without tokens has none.
    Tokens after the last bin are one more bin, which is not asked for.
    """
    prompts = matrix[list(names)]
    place = bins_of(prompts, delays)
    kinds = [*map(bin_kind, delays), "later"]
    parts = {
        kind: pd.DataFrame(
            {f"{name}_{kind.replace(' ', '_')}": prompts[name].to_numpy() * (place == number) for name in names},
            index=matrix.index,
        )
        for number, kind in enumerate(kinds)
    }
    kept = pd.DataFrame({kind: part.gt(_HALF).any().to_numpy() for kind, part in parts.items()})
    own = pd.concat([part.loc[:, kept[kind].to_numpy()] for kind, part in parts.items()], axis=1)
    others = without_twins(matrix.drop(columns=list(names)), own)
    return KindDesign(pd.concat([own, others], axis=1), kept[kinds[:-1]])


def bins_of(prompts: pd.DataFrame, delays: Sequence[int]) -> NDArray[np.int64]:
    """Say which bin of its prompt each scan is in.

    `prompts` (n_scans, n_prompts): columns of prompts. `delays`: first tokens of the bins, from 0, equally spaced.
    Returns (n_scans,): from 0; the number of bins for tokens after the last, -1 for scans of no prompt.
    """
    numbers = token_numbers(prompts)
    return np.asarray(np.where(numbers < 0, -1, np.minimum(numbers // (delays[1] - delays[0]), len(delays))))
