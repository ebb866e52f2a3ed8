"""What the prompts of single runs say about a contrast, in a form that adds up: networks of any choice of runs.

Each run has its own mean, drift and confounds. With these removed, the least squares of several runs together need of
each run only a few sums, so that the network of any choice of runs, and of any exchange of labels, costs next to
nothing. The result is the linear model of `llm2bids.statistics` over the prompts of those runs, in which conditions
that a contrast does not compare are each run's own, too.
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
"""Of a p-value, so that its normal deviate is finite."""
_VALUES_AT_A_TIME: Final = 1 << 24
"""Values (maps × units) in memory while labels are exchanged."""
_TINY: Final = 1e-9
"""Singular value of a basis that counts as 0."""


@dataclass(frozen=True, slots=True, eq=False)
class RunContrast:
    """The prompts of one run, and what a contrast asks of them.

    - `task`, `subject`, `run`: what it is of; `run` with its session, e.g. ``"ses-01_run-02"``.
    - `prompts`: one row per prompt: ``trial_type``, ``block``, ``stimulus``.
    - `effects` (n_prompts, n_units): what each prompt did, in standard deviations of the unit over the run.
    - `tested` (n_prompts,): regressor whose coefficient is the contrast, with all else in the design removed.
    - `nuisance` (n_prompts, n_nuisance): orthonormal basis of all else in the design.
    """

    task: str
    subject: str
    run: str
    prompts: pd.DataFrame
    effects: NDArray[np.floating[Any]]
    tested: NDArray[np.float64]
    nuisance: NDArray[np.float64]

    @classmethod
    def from_design(
        cls,
        names: tuple[str, str, str],
        prompts: pd.DataFrame,
        effects: ArrayLike,
        design: pd.DataFrame,
        asked: Contrast,
    ) -> RunContrast:
        """Take the design of a run apart.

        `effects` (n_prompts, n_units): what each prompt did. `design` (n_prompts, n_regressors): conditions, confounds,
        drift, constant.
        """
        if asked.test != "t":
            raise InferenceError(f"contrast {asked.name} is an F test, which has no direction; choose a t contrast")
        column, nuisance = partition(design, asked.matrix(list(design.columns))[0])
        tested = column[:, 0]
        return cls(*names, prompts, np.asarray(effects), tested - nuisance @ (nuisance.T @ tested), nuisance)

    @property
    def residuals(self) -> NDArray[np.floating[Any]]:
        """The effects with all but the contrast removed, shape (n_prompts, n_units); 0 where only rounding is left."""
        basis = self.nuisance.astype(self.effects.dtype)
        cleared: NDArray[np.floating[Any]] = self.effects - basis @ (basis.T @ self.effects)
        rounding = 8 * np.finfo(cleared.dtype).eps * len(cleared) ** 0.5
        cleared[:, np.linalg.norm(cleared, axis=0) <= rounding * np.linalg.norm(self.effects, axis=0)] = 0
        return cleared

    @property
    def moved(self) -> NDArray[np.float64]:
        """What an exchange of prompts mixes of all else into the residuals, shape (n_prompts, n_moved).

        Orthonormal; without the constant, which every order leaves out.
        """
        if np.abs(self.nuisance @ self.nuisance.sum(0) - 1).max() > _TINY:
            return self.nuisance
        left, singular, _ = np.linalg.svd(self.nuisance - self.nuisance.mean(0), full_matrices=False)
        found: NDArray[np.float64] = left[:, singular > _TINY**0.5]
        return found

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
        """The statistic as a normal deviate, shape (n_maps, n_units)."""
        p = np.maximum(student.sf(np.abs(self.t), self.dof[:, None]), _SMALLEST)
        found: NDArray[np.float64] = np.sign(self.t) * norm.isf(p)
        return found

    def p(self, tail: Tail) -> NDArray[np.float64]:
        """Give p-values.

        Returns (n_maps, n_units): not corrected.
        """
        one_sided = student.sf(strength(self.t, tail), self.dof[:, None])
        found: NDArray[np.float64] = 2 * one_sided if tail == "two" else one_sided
        return found


@dataclass(frozen=True, slots=True, eq=False)
class RunSums:
    """Sums over the prompts of each run; those of several runs add up.

    - `products`, `squares` (n_runs, n_units): of tested regressor and effects, and of effects with themselves.
    - `powers`, `dof` (n_runs,): of the regressor with itself, and number of prompts less that of nuisance columns.
    """

    products: NDArray[np.float64]
    squares: NDArray[np.float64]
    powers: NDArray[np.float64]
    dof: NDArray[np.float64]

    @classmethod
    def from_runs(cls, runs: Sequence[RunContrast]) -> RunSums:
        """Sum over the prompts of each run."""
        cleared = [run.residuals for run in runs]
        return cls(
            np.stack([run.tested @ values for run, values in zip(runs, cleared, strict=True)]),
            np.stack([np.einsum("pu,pu->u", values, values, dtype=np.float64) for values in cleared]),
            np.array([run.tested @ run.tested for run in runs]),
            np.array([float(len(run.tested) - run.nuisance.shape[1]) for run in runs]),
        )

    def pooled(self, chosen: ArrayLike) -> Maps:
        """Fit the contrast to choices of runs; all else is each run's own.

        `chosen` (n_maps, n_runs): which runs each map is made of.
        """
        weights = np.atleast_2d(np.asarray(chosen, float))
        powers, dof = weights @ self.powers, weights @ self.dof - 1
        if (dof < 1).any():
            raise InferenceError(
                "a choice of runs with no prompt left for the noise found; more prompts than conditions, drifts and "
                "confounds needed in them: record longer runs, or more"
            )
        products, squares = weights @ self.products, weights @ self.squares
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
    noise = np.maximum(squares - explained, np.finfo(float).eps * squares) / dof[:, None]
    found: NDArray[np.float64] = products / np.sqrt(np.where(noise > 0, noise, np.inf) * powers[:, None])
    return found


@dataclass(frozen=True, slots=True, eq=False)
class SharedTexts:
    """Whether texts that several runs show have changed sides, exchange by exchange.

    What a text does is the same wherever it is shown. Tasks with the same baseline resemble each other by its texts
    alone, which exchanges show only if a text changes sides in all of them or in none.

    - `columns`: number of each text that two runs or more show.
    - `turned` (n_draws, n_texts): -1 where a text has changed sides, 1 where it has not, 0 where that is not decided
      yet.
    """

    columns: dict[str, int]
    turned: NDArray[np.int8]

    @classmethod
    def from_runs(cls, runs: Sequence[RunContrast], n_draws: int) -> SharedTexts:
        """Find the texts that several runs show."""
        counts = Counter(text for run in runs for text in run.prompts["stimulus"].unique())
        shared = [text for text, count in counts.items() if count > 1]
        return cls({text: number for number, text in enumerate(shared)}, np.zeros((n_draws, len(shared)), np.int8))

    def exchange(self, run: RunContrast, draws: slice, rng: np.random.Generator) -> NDArray[np.int64]:
        """Draw orders of the prompts of a run in which texts change sides as they did in earlier runs.

        Returns (n_some, n_prompts): whose label each prompt gets. All orders are equally likely where no text is
        decided; a text keeps what is decided as far as the labels of the run allow.
        """
        sides = np.sign(np.where(np.abs(run.tested) > _TINY * np.abs(run.tested).max(), run.tested, 0)).astype(np.int8)
        numbers = np.array([self.columns.get(text, -1) for text in run.prompts["stimulus"]])
        shared = numbers >= 0
        wanted = np.zeros((len(self.turned[draws]), len(sides)), np.int8)
        wanted[:, shared] = self.turned[draws, numbers[shared]] * sides[shared]
        places, labels = (np.argsort(rng.uniform(size=wanted.shape) - side, axis=1) for side in (wanted, sides))
        order = np.empty_like(labels)
        np.put_along_axis(order, places, labels, axis=1)
        self.turned[draws, numbers[shared]] = (sides[order] * sides)[:, shared]
        return order


def relabelled(
    runs: Sequence[RunContrast], n_draws: int, rng: np.random.Generator, shared: SharedTexts | None = None
) -> Iterator[NDArray[np.float64]]:
    """Fit the contrast again and again with its labels exchanged among the prompts of each run.

    What prompts did stays as it is, so units keep their dependence on each other: a map is what a task without any
    effect would look like in this very model. (Permutation of the residuals of the reduced model, as in FSL's
    randomise; Freedman and Lane 1983.)

    `shared`: texts that runs of other tasks show too; by default those that several of these runs show. Yields (n_some,
    n_units): t maps, some draws at a time.
    """
    sums = RunSums.from_runs(runs)
    dof, power = sums.pooled(np.ones(len(runs))).dof, sums.powers.sum()
    total, texts = sums.squares.sum(0), shared or SharedTexts.from_runs(runs, n_draws)
    step = max(1, _VALUES_AT_A_TIME // total.size)
    for start in range(0, n_draws, step):
        n_now = min(step, n_draws - start)
        products, squares = np.zeros((n_now, total.size)), np.tile(total, (n_now, 1))
        for run in runs:
            left = run.residuals
            order = texts.exchange(run, slice(start, start + n_now), rng)
            products += run.tested.astype(left.dtype)[order] @ left
            for column in run.moved.astype(left.dtype).T:  # the model is fitted anew, with all else in it
                squares -= (column[order] @ left) ** 2
        yield t_of(products, np.maximum(squares, 0), np.full(n_now, power), np.repeat(dof, n_now))
