"""The samples of a contrast: one value per prompt, in which texts that were shown repeatedly count once."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, TypeVar

import numpy as np
import pandas as pd

from llm2bids.design.matrix import check_estimable
from llm2bids.design.regressors import FACTOR, MEAN, is_slope
from llm2bids.design.statsmodel import Contrast
from llm2bids.errors import DesignError, InferenceError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from llm2bids.design.regressors import Column

Real = TypeVar("Real", np.float32, np.float64)

_TINY: Final = 1e-6


@dataclass(frozen=True, slots=True)
class SplitContrast:
    """A contrast in two parts: a value within each prompt, and a comparison between prompts.

    - `kinds`: weights of mean effect, slopes and bins in the value of a prompt, by kind.
    - `between`: contrast of conditions (``trial_type.on``) or confounds over these values.
    """

    kinds: Mapping[str, float]
    between: Contrast

    @classmethod
    def from_contrast(cls, contrast: Contrast, columns: Mapping[str, Column]) -> SplitContrast:
        """Split a contrast of the columns of a design.

        The weights form a table with one row per row and condition of the contrast, and one column per kind. They can
        be split if this table has rank 1: then every prompt gives one value, whatever its condition.
        """
        terms = [
            (f"{FACTOR}{columns[name].condition}", columns[name].kind) if name in columns else (name, MEAN)
            for name in contrast.columns
        ]
        conditions, kinds = (list(dict.fromkeys(parts)) for parts in zip(*terms, strict=True))
        weights = np.zeros((len(contrast.weights), len(conditions), len(kinds)))
        for (condition, kind), column_weights in zip(terms, np.transpose(contrast.weights), strict=True):
            weights[:, conditions.index(condition), kinds.index(kind)] += column_weights
        table = weights.reshape(-1, len(kinds))
        # Rank 1 means that the table is the outer product of the row and the column through its largest entry.
        row, column = np.unravel_index(np.abs(table).argmax(), table.shape)
        within, between = table[row] / table[row, column], weights[:, :, column]
        if np.abs(np.outer(table[:, column], within) - table).max() > _TINY * np.abs(table).max():
            rows = "rows" if contrast.test == "F" and len(contrast.weights) > 1 else "conditions"
            raise InferenceError(
                f"contrast {contrast.name} weighs {', '.join(kinds)} of prompts differently in its {rows}; with "
                f'prompts as samples all {rows} must weigh them alike: ask several contrasts, or use inference="token"'
            )
        nonzero = {kind: float(weight) for kind, weight in zip(kinds, within, strict=True) if weight}
        compared = Contrast(contrast.name, tuple(conditions), tuple(map(tuple, between.tolist())), contrast.test)
        return cls(nonzero, compared)

    @property
    def is_level(self) -> bool:
        """Whether the value of a prompt is a level of activity, and not a slope or a difference within the prompt."""
        return abs(sum(weight for kind, weight in self.kinds.items() if not is_slope(kind))) > _TINY

    @property
    def slopes(self) -> list[str]:
        """Modulators whose slopes enter the value of a prompt."""
        return [kind for kind in self.kinds if is_slope(kind)]

    @property
    def description(self) -> str:
        """The value of a prompt in words, e.g. ``"slope over tok_surprisal"`` or ``"delay 0 - delay 4"``."""
        names = {kind: f"slope over {kind}" if is_slope(kind) else kind for kind in self.kinds}
        terms = [
            f"{'-' if weight < 0 else '+'} {'' if abs(weight) == 1 else f'{abs(weight):g} × '}{names[kind]}"
            for kind, weight in self.kinds.items()
        ]
        return " ".join(terms).removeprefix("+ ")

    def prompt_values(self, effects: Mapping[str, NDArray[np.float64]]) -> NDArray[np.float64]:
        """Value of each prompt, shape (n_prompts, n_units); NaN where a kind could not be estimated.

        `effects`: by kind, shape (n_prompts, n_units).
        """
        if self.kinds == {MEAN: 1.0}:
            return effects[MEAN]  # without a copy, which would take as much memory again
        return np.asarray(sum(weight * effects[kind] for kind, weight in self.kinds.items()))


@dataclass(frozen=True, slots=True, eq=False)
class Prompts:
    """Prompts of one or several runs, with their effects.

    - `table`: one row per prompt: ``run``, ``prompt``, ``stimulus``, ``trial_type``, ``n_scans``.
    - `design` (n_prompts, n_regressors): conditions as ``trial_type.on``, confounds, drift, and a constant per run.
    - `estimable` (n_prompts, n_kinds): which slopes and bins each prompt has; every prompt has a mean effect.
    - `effects`: by kind, shape (n_prompts, n_units).
    """

    table: pd.DataFrame
    design: pd.DataFrame
    estimable: pd.DataFrame
    effects: Mapping[str, NDArray[np.float64]]

    @classmethod
    def without_units(cls, table: pd.DataFrame, design: pd.DataFrame, estimable: pd.DataFrame) -> Prompts:
        """Prompts without effects, to check a design before any volume is read."""
        effects = {kind: np.empty((len(table), 0)) for kind in (MEAN, *estimable.columns)}
        return cls(table, design, estimable, effects)

    @classmethod
    def concatenate(cls, runs: Sequence[Prompts]) -> Prompts:
        """Prompts of several runs; columns that the design of a run lacks, as constants of other runs, are 0 there."""
        design = pd.concat([run.design for run in runs], ignore_index=True).fillna(0.0)
        effects = {kind: np.concatenate([run.effects[kind] for run in runs]) for kind in runs[0].effects}
        table = pd.concat([run.table for run in runs], ignore_index=True)
        return cls(table, design, pd.concat([run.estimable for run in runs], ignore_index=True), effects)


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """The samples of a contrast.

    - `design` (n_samples, n_regressors).
    - `effects` (n_samples, n_units).
    - `n_prompts`: prompts that the samples were made from.
    - `n_dropped`: prompts left out because they have no token in a bin of the contrast.
    """

    design: pd.DataFrame
    effects: NDArray[np.float64]
    n_prompts: int
    n_dropped: int

    @classmethod
    def from_prompts(cls, contrast: SplitContrast, runs: Sequence[Prompts], name: str) -> Samples:
        """Make the samples of a contrast; `name` is that of the analysis.

        A level (mean effect or bin) has no natural zero: it is compared among all prompts, with the whole design. A
        slope or a difference within prompts has a zero of its own: its design has only the conditions of the contrast,
        and only their prompts are samples.
        """
        prompts = Prompts.concatenate(runs)
        kinds = [kind for kind in contrast.kinds if kind != MEAN]
        estimable = prompts.estimable[kinds].all(axis=1).to_numpy()
        weights = contrast.between.matrix(list(prompts.design.columns))
        conditions = list(prompts.design.columns[np.abs(weights).max(0) > 0])
        compared = prompts.design[conditions].sum(axis=1).to_numpy() > 1 - _TINY  # wholly in one of the conditions
        if contrast.is_level:
            rows, dropped, design = estimable, ~estimable, prompts.design
        else:
            rows, dropped, design = estimable & compared, ~estimable & compared, prompts.design[conditions]
        _check_slopes(contrast, dropped & compared, compared, name)
        if not rows.any():
            raise DesignError(
                f"no prompt of {name} is of one condition of contrast {contrast.between.name} and has a token for "
                f"{contrast.description}; ask for earlier tokens, or record longer prompts"
            )
        effects = contrast.prompt_values(prompts.effects)
        if not rows.all():  # a copy of all rows would take as much memory again
            effects = effects[rows]
        samples = cls(design[rows].reset_index(drop=True), effects, int(rows.sum()), int(dropped.sum()))
        return _average_repeats(samples, prompts.table[rows].reset_index(drop=True))

    def check(self, contrast: SplitContrast, name: str) -> None:
        """Raise if the samples cannot estimate a contrast, or leave no degree of freedom."""
        between = contrast.between
        weights = between.matrix(list(self.design.columns))
        check_estimable(self.design, weights, f"contrast {between.name} over the prompts of {name}")
        rank = int(np.linalg.matrix_rank(self.design.to_numpy()))
        if len(self.design) <= rank:
            raise DesignError(
                f"{name} has {len(self.design)} different prompts and {rank} independent columns: none left for the "
                'noise; record more prompts, or leave out the drift with drift="none"'
            )


def _check_slopes(contrast: SplitContrast, missing: NDArray[np.bool_], compared: NDArray[np.bool_], name: str) -> None:
    """Raise if prompts of the contrast have no slope: leaving out short prompts would bias the comparison."""
    if contrast.slopes and missing.any():
        raise DesignError(
            f"{int(missing.sum())} of {int(compared.sum())} prompts of {name} that contrast {contrast.between.name} "
            f"compares have too few tokens, or none that differ in {', '.join(contrast.slopes)}, for a slope; record "
            'longer prompts, give the short ones another condition, or use inference="token"'
        )


def _average_repeats(samples: Samples, table: pd.DataFrame) -> Samples:
    """Average samples of one text and condition: a model answers a repeated text alike, so it is no new sample."""
    weights = averaging_weights(table, np.float64)
    if weights is None:
        return samples
    design = pd.DataFrame(weights @ samples.design.to_numpy(), columns=samples.design.columns)
    return replace(samples, design=design, effects=weights @ samples.effects)


def averaging_weights(prompts: pd.DataFrame, dtype: type[Real]) -> NDArray[Real] | None:
    """Weights (n_samples, n_prompts) that average prompts of one text and condition; None if no text is repeated.

    Samples are in the order in which texts are first shown.

    >>> prompts = pd.DataFrame({"stimulus": ["a", "b", "a"], "trial_type": "on"})
    >>> averaging_weights(prompts, np.float64).tolist()
    [[0.5, 0.0, 0.5], [0.0, 1.0, 0.0]]
    """
    groups = prompts.groupby(["stimulus", "trial_type"], sort=False).ngroup().to_numpy()
    if groups.max() + 1 == len(groups):
        return None
    weights = np.equal.outer(np.arange(groups.max() + 1), groups).astype(dtype)
    weights /= weights.sum(1, keepdims=True)
    return weights


def describe_samples(samples: Sequence[Samples], contrast: SplitContrast) -> dict[str, Any]:
    """Fields of a sidecar: numbers of prompts and samples, and what the value of a prompt is unless its mean effect."""
    counts: dict[str, Any] = {
        "NumberOfPrompts": sum(part.n_prompts for part in samples),
        "NumberOfSamples": sum(len(part.design) for part in samples),
    }
    if contrast.kinds == {MEAN: 1.0}:
        return counts
    dropped = {} if contrast.slopes else {"PromptsWithoutTokens": sum(part.n_dropped for part in samples)}
    return {"EffectOf": contrast.description, "Kinds": dict(contrast.kinds), **counts, **dropped}
