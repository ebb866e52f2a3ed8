"""Statistics of a contrast over the prompts of single runs, as sums that add up over runs.

Each run has its own mean, drift and confounds. With these removed, the least squares of several runs together need only
a few sums of each run, so that the map of any choice of runs, and of any exchange of labels, costs next to nothing. The
result is the linear model of `llm2bids.statistics` over the prompts of those runs, except that conditions outside the
contrast have a coefficient in each run.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from scipy.stats import norm
from scipy.stats import t as student

from llm2bids.design.matrix import partition
from llm2bids.errors import InferenceError
from llm2bids.space.selection import strength

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import pandas as pd
    from numpy.typing import ArrayLike, NDArray

    from llm2bids.design.statsmodel import Contrast
    from llm2bids.space.selection import Tail

_SMALLEST: Final = 1e-300
"""Smallest p-value, so that its normal deviate is finite."""
_VALUES_AT_A_TIME: Final = 1 << 24
"""Values (maps × units) in memory while labels are exchanged."""
_TINY: Final = 1e-9
"""Relative size below which a number counts as 0."""


@dataclass(frozen=True, slots=True, eq=False)
class RunContrast:
    """A contrast over the prompts of one run.

    - `task`, `subject`, `run`: labels; `run` with its session, e.g. ``"ses-01_run-02"``.
    - `prompts`: one row per prompt: ``trial_type``, ``block``, ``stimulus``.
    - `effects` (n_prompts, n_units): effect of each prompt, in standard deviations of the unit over the run.
    - `regressor` (n_prompts,): its coefficient is the contrast; all else in the design is removed from it.
    - `nuisance` (n_prompts, n_nuisance): orthonormal basis of all else in the design.
    """

    task: str
    subject: str
    run: str
    prompts: pd.DataFrame
    effects: NDArray[np.floating[Any]]
    regressor: NDArray[np.float64]
    nuisance: NDArray[np.float64]

    @classmethod
    def from_design(
        cls,
        names: tuple[str, str, str],
        prompts: pd.DataFrame,
        effects: ArrayLike,
        design: pd.DataFrame,
        contrast: Contrast,
    ) -> RunContrast:
        """Split the design of a run into the regressor of a contrast and nuisance.

        `effects` (n_prompts, n_units). `design` (n_prompts, n_regressors): conditions, confounds, drift, constant.
        """
        if contrast.test != "t":
            raise InferenceError(f"contrast {contrast.name} is an F test, which has no direction; choose a t contrast")
        column, nuisance = partition(design, contrast.matrix(list(design.columns))[0])
        regressor = column[:, 0]
        # Frisch-Waugh-Lovell: with nuisance removed from both sides, one regression gives the coefficient of the whole
        regressor = regressor - nuisance @ (nuisance.T @ regressor)
        return cls(*names, prompts, np.asarray(effects), regressor, nuisance)

    @property
    def residuals(self) -> NDArray[np.floating[Any]]:
        """Effects with nuisance removed, shape (n_prompts, n_units); 0 where only rounding remains."""
        basis = self.nuisance.astype(self.effects.dtype)
        residuals: NDArray[np.floating[Any]] = self.effects - basis @ (basis.T @ self.effects)
        # a unit that nuisance explains wholly would get a t of rounding over rounding
        rounding = 8 * np.finfo(residuals.dtype).eps * len(residuals) ** 0.5
        residuals[:, np.linalg.norm(residuals, axis=0) <= rounding * np.linalg.norm(self.effects, axis=0)] = 0
        return residuals

    @property
    def varying_nuisance(self) -> NDArray[np.float64]:
        """Orthonormal basis of nuisance without the constant, shape (n_prompts, n_varying).

        An exchange of prompts makes residuals correlate with these columns, not with the constant.
        """
        if np.abs(self.nuisance @ self.nuisance.sum(0) - 1).max() > _TINY:  # the constant is not in the span
            return self.nuisance
        basis, singular, _ = np.linalg.svd(self.nuisance - self.nuisance.mean(0), full_matrices=False)
        varying: NDArray[np.float64] = basis[:, singular > _TINY**0.5]
        return varying

    @property
    def session(self) -> str:
        """Label of its session; empty where it has none."""
        return self.run.partition("_")[0].removeprefix("ses-") if self.run.startswith("ses-") else ""


@dataclass(frozen=True, slots=True, eq=False)
class Maps:
    """Maps of one contrast for several choices of runs.

    - `effect`, `t` (n_maps, n_units): contrast in standard deviations of the unit, and its t statistic.
    - `dof` (n_maps,): degrees of freedom.
    """

    effect: NDArray[np.float64]
    t: NDArray[np.float64]
    dof: NDArray[np.float64]

    @property
    def z(self) -> NDArray[np.float64]:
        """The statistic as a normal deviate with the same p-value, shape (n_maps, n_units)."""
        p = np.maximum(student.sf(np.abs(self.t), self.dof[:, None]), _SMALLEST)
        z: NDArray[np.float64] = np.sign(self.t) * norm.isf(p)
        return z

    def p(self, tail: Tail) -> NDArray[np.float64]:
        """Give uncorrected p-values (n_maps, n_units)."""
        one_sided = student.sf(strength(self.t, tail), self.dof[:, None])
        p: NDArray[np.float64] = 2 * one_sided if tail == "two" else one_sided
        return p


@dataclass(frozen=True, slots=True, eq=False)
class RunSums:
    """Sums over the prompts of each run, nuisance removed; those of several runs add up.

    - `products`, `squares` (n_runs, n_units): of regressor and effects, and of effects with themselves.
    - `powers`, `dof` (n_runs,): of the regressor with itself, and number of prompts less that of nuisance columns.
    """

    products: NDArray[np.float64]
    squares: NDArray[np.float64]
    powers: NDArray[np.float64]
    dof: NDArray[np.float64]

    @classmethod
    def from_runs(cls, runs: Sequence[RunContrast]) -> RunSums:
        """Sum over the prompts of each run."""
        residuals = [run.residuals for run in runs]
        return cls(
            np.stack([run.regressor @ values for run, values in zip(runs, residuals, strict=True)]),
            np.stack([np.einsum("pu,pu->u", values, values, dtype=np.float64) for values in residuals]),
            np.array([run.regressor @ run.regressor for run in runs]),
            np.array([float(len(run.regressor) - run.nuisance.shape[1]) for run in runs]),
        )

    def pooled(self, chosen: ArrayLike) -> Maps:
        """Fit the contrast to choices of runs; `chosen` (n_maps, n_runs): which runs each map is made of."""
        weights = np.atleast_2d(np.asarray(chosen, float))
        powers, dof = weights @ self.powers, weights @ self.dof - 1  # one degree of freedom is the contrast's
        if (dof < 1).any():
            raise InferenceError(
                "a choice of runs with no prompt left for the noise found; more prompts than conditions, drifts and "
                "confounds needed in them: record longer runs, or more"
            )
        products, squares = weights @ self.products, weights @ self.squares
        # least squares of y on one regressor x: x'y / x'x
        return Maps(products / powers[:, None], t_of(products, squares, powers, dof), dof)


def t_of(
    products: NDArray[np.float64],
    squares: NDArray[np.float64],
    powers: NDArray[np.float64],
    dof: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Turn sums into t statistics.

    `products`, `squares` (n_maps, n_units): of regressor and effects, and of effects with themselves. `powers`, `dof`
    (n_maps,): of the regressor with itself, and degrees of freedom of the noise. Returns (n_maps, n_units): 0 where a
    unit has no variance; very large, not infinite, where the contrast explains all of it.
    """
    explained = products**2 / powers[:, None]
    # what the contrast does not explain; at least rounding, so that a perfect fit stays finite
    noise = np.maximum(squares - explained, np.finfo(float).eps * squares) / dof[:, None]
    # t = (x'y / x'x) / sqrt(noise / x'x); a unit without variance gets 0
    t: NDArray[np.float64] = products / np.sqrt(np.where(noise > 0, noise, np.inf) * powers[:, None])
    return t


@dataclass(frozen=True, slots=True, eq=False)
class SharedTexts:
    """Exchanges of labels that treat a text alike in all runs that show it.

    A text has the same effect wherever it is shown. Tasks with the same baseline resemble each other by its texts
    alone, and exchanges reproduce that only if a text changes sides in all of these runs or in none.

    - `columns`: number of each text that two runs or more show.
    - `signs` (n_draws, n_texts): -1 where a text has changed sides, 1 where it has not, 0 where that is open.
    """

    columns: dict[str, int]
    signs: NDArray[np.int8]

    @classmethod
    def from_runs(cls, runs: Sequence[RunContrast], n_draws: int) -> SharedTexts:
        """Find the texts that several runs show."""
        counts = Counter(text for run in runs for text in run.prompts["stimulus"].unique())
        shared = [text for text, count in counts.items() if count > 1]
        return cls({text: number for number, text in enumerate(shared)}, np.zeros((n_draws, len(shared)), np.int8))

    def exchange(self, run: RunContrast, draws: slice, rng: np.random.Generator) -> NDArray[np.int64]:
        """Draw orders of the prompts of a run in which texts change sides as they did in earlier runs.

        Returns (n_orders, n_prompts): whose label each prompt gets. All orders are equally likely where no text is
        decided; a decided text keeps its side as far as the labels of the run allow.
        """
        smallest = _TINY * np.abs(run.regressor).max()
        sides = np.sign(np.where(np.abs(run.regressor) > smallest, run.regressor, 0)).astype(np.int8)
        numbers = np.array([self.columns.get(text, -1) for text in run.prompts["stimulus"]])
        shared = numbers >= 0
        targets = np.zeros((len(self.signs[draws]), len(sides)), np.int8)
        targets[:, shared] = self.signs[draws, numbers[shared]] * sides[shared]
        # sort prompts by the side that they shall have and labels by the side that they are, each in random order
        # within a side, and give the first label to the first prompt, and so on
        places, labels = (np.argsort(rng.uniform(size=targets.shape) - side, axis=1) for side in (targets, sides))
        order = np.empty_like(labels)
        np.put_along_axis(order, places, labels, axis=1)
        self.signs[draws, numbers[shared]] = (sides[order] * sides)[:, shared]
        return order


def relabelled(
    runs: Sequence[RunContrast], n_draws: int, rng: np.random.Generator, shared: SharedTexts | None = None
) -> Iterator[NDArray[np.float64]]:
    """Fit the contrast again and again with its labels exchanged among the prompts of each run.

    Effects of prompts stay as they are, so units keep their dependence on each other: each map is what a task without
    effect would look like in this very model. `shared`: texts that runs of other tasks show too; by default those that
    several of these runs show. Yields t maps (n_maps, n_units), some draws at a time.
    """
    sums = RunSums.from_runs(runs)
    dof, power = sums.pooled(np.ones(len(runs))).dof, sums.powers.sum()
    total, texts = sums.squares.sum(0), shared or SharedTexts.from_runs(runs, n_draws)
    step = max(1, _VALUES_AT_A_TIME // total.size)
    for start in range(0, n_draws, step):
        n_maps = min(step, n_draws - start)
        products, squares = np.zeros((n_maps, total.size)), np.tile(total, (n_maps, 1))
        for run in runs:
            # residuals of the model without the contrast are permuted (Freedman and Lane 1983, as FSL's randomise);
            # to permute the regressor the other way round gives the same sums
            residuals = run.residuals
            order = texts.exchange(run, slice(start, start + n_maps), rng)
            products += run.regressor.astype(residuals.dtype)[order] @ residuals
            # the whole model is fitted anew: permuted residuals correlate with nuisance again, which takes its part
            for column in run.varying_nuisance.astype(residuals.dtype).T:
                squares -= (column[order] @ residuals) ** 2
        yield t_of(products, np.maximum(squares, 0), np.full(n_maps, power), np.repeat(dof, n_maps))
