"""What the prompts of single runs say about a contrast, in a form that adds up: networks of any choice of runs.

Each run has its own mean, drift and confounds. With these removed, the least squares of several runs together need of
each run only a few sums, so that the network of any choice of runs, and of any exchange of labels, costs next to
nothing. What comes out is the linear model of `llm2bids.glm` over the prompts of those runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
from scipy.stats import norm
from scipy.stats import t as student

from llm2bids.design import partition
from llm2bids.errors import InferenceError
from llm2bids.glm.fit import adjust

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import pandas as pd
    from numpy.typing import ArrayLike, NDArray

    from llm2bids.statsmodel import Contrast

Tail = Literal["two", "positive", "negative"]
"""Which effects make a network: both signs, or one."""
_SMALLEST: Final = 1e-300
"""Of a p-value, so that its normal deviate is finite."""
_VALUES_AT_A_TIME: Final = 1 << 24
"""Values (maps × units) in memory while labels are exchanged."""


@dataclass(frozen=True, slots=True, eq=False)
class RunContrast:
    """The prompts of one run, and what a contrast asks of them.

    Parameters
    ----------
    task, subject, run : str
        What it is of; `run` with its session, e.g. ``"ses-01_run-02"``.
    prompts : DataFrame
        One row per prompt: ``trial_type``, ``block``, ``stimulus``.
    effects : ndarray, shape (n_prompts, n_units)
        What each prompt did, in standard deviations of the unit over the run.
    tested : ndarray, shape (n_prompts,)
        Regressor whose coefficient is the contrast, with all else in the design removed.
    nuisance : ndarray, shape (n_prompts, n_nuisance)
        Orthonormal basis of all else in the design.
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

        Parameters
        ----------
        names : tuple of str
            Task, subject and run.
        prompts : DataFrame
            One row per prompt.
        effects : array_like, shape (n_prompts, n_units)
            What each prompt did.
        design : DataFrame, shape (n_prompts, n_regressors)
            Conditions, confounds, drift, constant.
        asked : Contrast
            A t contrast that these prompts can answer.

        Returns
        -------
        RunContrast
            Ready to be summed.

        Raises
        ------
        InferenceError
            If the contrast is F, whose networks have no sign.
        DesignError
            If it weighs a column that the design does not have.
        """
        if asked.test != "t":
            raise InferenceError(f"contrast {asked.name} is an F test, which has no direction; choose a t contrast")
        column, nuisance = partition(design, asked.matrix(list(design.columns))[0])
        tested = column[:, 0]
        return cls(*names, prompts, np.asarray(effects), tested - nuisance @ (nuisance.T @ tested), nuisance)

    @property
    def residuals(self) -> NDArray[np.floating[Any]]:
        """The effects with all but the contrast removed, shape (n_prompts, n_units)."""
        basis = self.nuisance.astype(self.effects.dtype)
        cleared: NDArray[np.floating[Any]] = self.effects - basis @ (basis.T @ self.effects)
        return cleared

    @property
    def session(self) -> str:
        """Label of its session; empty where it has none."""
        return self.run.partition("_")[0].removeprefix("ses-") if self.run.startswith("ses-") else ""


@dataclass(frozen=True, slots=True, eq=False)
class Maps:
    """Maps of one contrast for several choices of runs.

    Parameters
    ----------
    effect, t : ndarray, shape (n_maps, n_units)
        Contrast in standard deviations of the unit, and its t statistic.
    dof : ndarray, shape (n_maps,)
        Degrees of freedom.
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

        Parameters
        ----------
        tail : {"two", "positive", "negative"}
            Which effects count.

        Returns
        -------
        ndarray, shape (n_maps, n_units)
            Not corrected.
        """
        one_sided = student.sf(strength(self.t, tail), self.dof[:, None])
        found: NDArray[np.float64] = 2 * one_sided if tail == "two" else one_sided
        return found


@dataclass(frozen=True, slots=True, eq=False)
class RunSums:
    """Sums over the prompts of each run; those of several runs add up.

    Parameters
    ----------
    products, squares : ndarray, shape (n_runs, n_units)
        Of tested regressor and effects, and of effects with themselves.
    powers, dof : ndarray, shape (n_runs,)
        Of the regressor with itself, and number of prompts less that of nuisance columns.
    """

    products: NDArray[np.float64]
    squares: NDArray[np.float64]
    powers: NDArray[np.float64]
    dof: NDArray[np.float64]

    @classmethod
    def from_runs(cls, runs: Sequence[RunContrast]) -> RunSums:
        """Sum over the prompts of each run.

        Parameters
        ----------
        runs : sequence of RunContrast
            One or more, of the same units.

        Returns
        -------
        RunSums
            In the order given.
        """
        cleared = [run.residuals for run in runs]
        return cls(
            np.stack([run.tested @ values for run, values in zip(runs, cleared, strict=True)]),
            np.stack([np.einsum("pu,pu->u", values, values, dtype=np.float64) for values in cleared]),
            np.array([run.tested @ run.tested for run in runs]),
            np.array([float(len(run.tested) - run.nuisance.shape[1]) for run in runs]),
        )

    def pooled(self, chosen: ArrayLike) -> Maps:
        """Fit the contrast to choices of runs; all else is each run's own.

        Parameters
        ----------
        chosen : array_like of bool, shape (n_maps, n_runs)
            Which runs each map is made of.

        Returns
        -------
        Maps
            One map per choice.

        Raises
        ------
        InferenceError
            If a choice holds too few prompts to estimate noise.
        """
        weights = np.atleast_2d(np.asarray(chosen, float))
        powers, dof = weights @ self.powers, weights @ self.dof - 1
        if (dof < 1).any():
            raise InferenceError("a choice of runs with no prompt left for the noise found; record longer runs")
        products, squares = weights @ self.products, weights @ self.squares
        return Maps(products / powers[:, None], t_of(products, squares, powers, dof), dof)


def t_of(
    products: NDArray[np.float64],
    squares: NDArray[np.float64],
    powers: NDArray[np.float64],
    dof: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Turn sums into t statistics.

    Parameters
    ----------
    products, squares : ndarray, shape (n_maps, n_units)
        Of regressor and effects, and of effects with themselves.
    powers, dof : ndarray, shape (n_maps,)
        Of the regressor with itself, and degrees of freedom of the noise.

    Returns
    -------
    ndarray, shape (n_maps, n_units)
        0 where a unit has no variance.
    """
    explained = products**2 / powers[:, None]
    noise = np.maximum(squares - explained, 0) / dof[:, None]
    safe = np.where(noise > np.finfo(float).eps * np.maximum(squares, 1e-30), noise, np.inf)
    found: NDArray[np.float64] = products / np.sqrt(safe * powers[:, None])
    return found


def relabelled(runs: Sequence[RunContrast], n_draws: int, rng: np.random.Generator) -> Iterator[NDArray[np.float64]]:
    """Fit the contrast again and again with its labels exchanged among the prompts of each run.

    What prompts did stays as it is, so units keep their dependence on each other: a map is what a task without any
    effect would look like in this very model. (Permutation of the residuals of the reduced model, as in FSL's
    randomise; Freedman and Lane 1983.)

    Parameters
    ----------
    runs : sequence of RunContrast
        The runs of one task.
    n_draws : int
        How often.
    rng : Generator
        Which exchanges.

    Yields
    ------
    ndarray, shape (n_some, n_units)
        t maps, some draws at a time.
    """
    sums = RunSums.from_runs(runs)
    squares, power, dof = sums.squares.sum(0), sums.powers.sum(), sums.dof.sum() - 1
    step = max(1, _VALUES_AT_A_TIME // squares.size)
    for start in range(0, n_draws, step):
        n_now = min(step, n_draws - start)
        products = np.zeros((n_now, squares.size))
        for run in runs:
            exchanged = rng.permuted(np.tile(run.tested, (n_now, 1)), axis=1)
            products += exchanged @ run.residuals
        yield t_of(products, np.broadcast_to(squares, products.shape), np.full(n_now, power), np.full(n_now, dof))


def strength(statistic: NDArray[np.float64], tail: Tail) -> NDArray[np.float64]:
    """Turn a statistic so that more is stronger.

    Parameters
    ----------
    statistic : ndarray
        Of any kind: t, z or effects.
    tail : {"two", "positive", "negative"}
        Which effects count.

    Returns
    -------
    ndarray
        Same shape.
    """
    return np.abs(statistic) if tail == "two" else (statistic if tail == "positive" else -statistic)


@dataclass(frozen=True, slots=True)
class NetworkRule:
    """Which units of a map are its network.

    Parameters
    ----------
    name : {"top", "fdr", "bonferroni", "none"}
        The strongest units, or those that pass a test corrected like this.
    level : float
        Share of the units, or level of the test.
    tail : {"two", "positive", "negative"}
        Which effects count.

    Raises
    ------
    InferenceError
        If the name is unknown or the level is not between 0 and 1.

    Examples
    --------
    >>> NetworkRule.from_text("1%"), NetworkRule.from_text("fdr").label
    (NetworkRule(name='top', level=0.01, tail='two'), 'fdr .05')
    """

    name: str
    level: float
    tail: Tail = "two"

    def __post_init__(self) -> None:
        """Refuse unknown rules."""
        if self.name not in {"top", "fdr", "bonferroni", "none"}:
            raise InferenceError(f"rule {self.name!r} found; use a share of the units such as 1%, fdr or bonferroni")
        if not 0 < self.level < 1:
            raise InferenceError(f"level {self.level:g} found; more than 0 and less than 1 needed, e.g. 1% or 0.01")

    @classmethod
    def from_text(cls, text: str, alpha: float = 0.05, tail: Tail = "two") -> NetworkRule:
        """Read a rule as one writes it.

        Parameters
        ----------
        text : str
            A share of the units such as ``"1%"`` or ``"0.01"``, ``"fdr"``, ``"bonferroni"`` or ``"none"``.
        alpha : float
            Level of the test.
        tail : {"two", "positive", "negative"}
            Which effects count.

        Returns
        -------
        NetworkRule
            The rule.

        Raises
        ------
        InferenceError
            If it is neither.
        """
        if text in {"fdr", "bonferroni", "none"}:
            return cls(text, alpha, tail)
        try:
            share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
        except ValueError as error:
            raise InferenceError(f"rule {text!r} found; use a share such as 1%, or fdr, bonferroni, none") from error
        return cls("top", share, tail)

    @property
    def label(self) -> str:
        """The rule for people."""
        level = f"{self.level:.6f}".lstrip("0").rstrip("0")
        return f"top {100 * self.level:g}%" if self.name == "top" else f"{self.name} {level}"

    def select(self, maps: Maps, order: NDArray[np.int64] | None = None) -> NDArray[np.bool_]:
        """Choose units.

        Parameters
        ----------
        maps : Maps
            One or more maps.
        order : ndarray of int, shape (n_maps, n_units), optional
            `ranks` of the strength of the maps, where they are known already.

        Returns
        -------
        ndarray of bool, shape (n_maps, n_units)
            The networks; of equally strong units at the edge of a share the first are chosen.
        """
        if self.name == "top":
            known = ranks(strength(maps.t, self.tail)) if order is None else order
            chosen: NDArray[np.bool_] = known < max(1, round(self.level * maps.t.shape[1]))
            return chosen
        p = maps.p(self.tail)
        return np.stack([adjust(row, self.name) <= self.level for row in p])


def strongest(values: NDArray[np.float64], n_chosen: ArrayLike) -> NDArray[np.bool_]:
    """Choose the largest values of each row.

    Parameters
    ----------
    values : ndarray, shape (n_maps, n_units)
        More is stronger.
    n_chosen : array_like of int, shape (n_maps,)
        How many of each row.

    Returns
    -------
    ndarray of bool, shape (n_maps, n_units)
        True for those; of equal ones the first.

    Examples
    --------
    >>> strongest(np.array([[3.0, 1.0, 2.0]]), [2]).tolist()
    [[True, False, True]]
    """
    return ranks(values) < np.asarray(n_chosen)[:, None]


def ranks(values: NDArray[np.float64]) -> NDArray[np.int64]:
    """Number the values of each row from the largest.

    Parameters
    ----------
    values : ndarray, shape (n_maps, n_units)
        More is stronger.

    Returns
    -------
    ndarray of int, shape (n_maps, n_units)
        0 for the largest; of equal ones the first comes first.

    Examples
    --------
    >>> ranks(np.array([[2.0, 5.0, 2.0]])).tolist()
    [[1, 0, 2]]
    """
    order = np.argsort(-values, axis=1, kind="stable")
    found = np.empty_like(order)
    np.put_along_axis(found, order, np.broadcast_to(np.arange(values.shape[1]), order.shape), axis=1)
    return found
