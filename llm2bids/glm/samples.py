"""What a contrast takes for samples: one value per prompt, a text that is shown again being no new one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, TypeVar

import numpy as np
import pandas as pd

from llm2bids.design import check_estimable
from llm2bids.errors import DesignError
from llm2bids.regressors import MEAN

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from llm2bids.glm.kinds import Weighing

Real = TypeVar("Real", np.float32, np.float64)

_TINY: Final = 1e-6


@dataclass(frozen=True, slots=True, eq=False)
class Prompts:
    """Prompts of one or several runs.

    Parameters
    ----------
    table : DataFrame
        One row per prompt: ``run``, ``prompt``, ``stimulus``, ``trial_type``, ``n_scans``.
    design : DataFrame, shape (n_prompts, n_regressors)
        Conditions as ``trial_type.on``, confounds, drift and constants of runs.
    kept : DataFrame of bool, shape (n_prompts, n_kinds)
        Which prompts have which kind; all have a mean effect.
    effects : mapping
        By kind, shape (n_prompts, n_units).
    """

    table: pd.DataFrame
    design: pd.DataFrame
    kept: pd.DataFrame
    effects: Mapping[str, NDArray[np.float64]]

    @classmethod
    def planned(cls, table: pd.DataFrame, design: pd.DataFrame, kept: pd.DataFrame) -> Prompts:
        """Describe prompts before anything is estimated.

        Parameters
        ----------
        table, design, kept : DataFrame
            See above.

        Returns
        -------
        Prompts
            With effects of no unit.
        """
        return cls(table, design, kept, {kind: np.empty((len(table), 0)) for kind in (MEAN, *kept.columns)})

    @classmethod
    def stacked(cls, runs: Sequence[Prompts]) -> Prompts:
        """Put prompts of several runs below each other.

        Parameters
        ----------
        runs : sequence of Prompts
            Run by run.

        Returns
        -------
        Prompts
            Columns of the design that a run does not have are 0 there.
        """
        design = pd.concat([run.design for run in runs], ignore_index=True).fillna(0.0)
        effects = {kind: np.concatenate([run.effects[kind] for run in runs]) for kind in runs[0].effects}
        tables, kept = ([getattr(run, name) for run in runs] for name in ("table", "kept"))
        return cls(pd.concat(tables, ignore_index=True), design, pd.concat(kept, ignore_index=True), effects)


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """The samples of a contrast.

    Parameters
    ----------
    design : DataFrame, shape (n_samples, n_regressors)
        What differs between them.
    effects : ndarray, shape (n_samples, n_units)
        What the units did.
    n_prompts : int
        Prompts they were made of.
    n_dropped : int
        Prompts left out because they have no token in a bin that is weighed.
    """

    design: pd.DataFrame
    effects: NDArray[np.float64]
    n_prompts: int
    n_dropped: int

    @classmethod
    def of(cls, weighing: Weighing, runs: Sequence[Prompts], name: str) -> Samples:
        """Make the samples of a contrast.

        A level (a mean effect, a bin) is compared among all prompts, with what else is in the design. A slope or a
        difference within prompts has a zero of its own: its design is the conditions that are weighed, and nothing
        else, over their prompts.

        Parameters
        ----------
        weighing : Weighing
            The contrast.
        runs : sequence of Prompts
            Run by run.
        name : str
            Of the analysis, for messages.

        Returns
        -------
        Samples
            Texts that were shown again are averaged.

        Raises
        ------
        DesignError
            If a prompt that is needed has no slope, or there is none.
        """
        whole = Prompts.stacked(runs)
        kinds = [kind for kind in weighing.kinds if kind != MEAN]
        has = whole.kept[kinds].all(axis=1).to_numpy()
        conditions = weighed(weighing, whole.design)
        of_them = whole.design[conditions].sum(axis=1).to_numpy() > 1 - _TINY
        lost = ~has if weighing.is_level else ~has & of_them
        if weighing.slopes and (short := int((lost & of_them).sum())):
            raise DesignError(
                f"{short} of {int(of_them.sum())} prompts of {name} that contrast {weighing.over.name} compares have "
                f"too few tokens, or none that differ in {', '.join(weighing.slopes)}, for a slope; record longer "
                "prompts, give the short ones another condition, or use --inference token"
            )
        rows = has if weighing.is_level else has & of_them
        if not rows.any():
            raise DesignError(
                f"no prompt of {name} is of one condition of contrast {weighing.over.name} and has a token for "
                f"{weighing.text}; ask for earlier tokens, or record longer prompts"
            )
        design = whole.design if weighing.is_level else whole.design[conditions]
        effects = weighing.take(whole.effects)
        if not rows.all():  # copying all of them takes as much memory again
            effects = effects[rows]
        table = whole.table[rows].reset_index(drop=True)
        return _merged(cls(design[rows].reset_index(drop=True), effects, int(rows.sum()), int(lost.sum())), table)

    def check(self, weighing: Weighing, name: str) -> None:
        """Refuse samples that cannot answer a contrast.

        Parameters
        ----------
        weighing : Weighing
            The contrast.
        name : str
            Of the analysis, for messages.

        Raises
        ------
        DesignError
            If it cannot be estimated, or nothing is left for the noise.
        """
        over = weighing.over
        check_estimable(
            self.design, over.matrix(list(self.design.columns)), f"contrast {over.name} over the prompts of {name}"
        )
        rank = int(np.linalg.matrix_rank(self.design.to_numpy()))
        if len(self.design) <= rank:
            raise DesignError(
                f"{name} has {len(self.design)} different prompts and {rank} independent columns: none left for the "
                "noise; record more prompts, or leave out the drift with --drift none"
            )


def _merged(samples: Samples, table: pd.DataFrame) -> Samples:
    """A text that was shown again is no new sample, so what it did is averaged."""
    weights = averaging(table, np.float64)
    if weights is None:
        return samples
    design = pd.DataFrame(weights @ samples.design.to_numpy(), columns=samples.design.columns)
    return replace(samples, design=design, effects=weights @ samples.effects)


def averaging(prompts: pd.DataFrame, dtype: type[Real]) -> NDArray[Real] | None:
    """Weigh prompts so that those of one text and condition are averaged.

    Parameters
    ----------
    prompts : DataFrame
        One row per prompt: ``stimulus``, ``trial_type``.
    dtype : type
        Of the weights.

    Returns
    -------
    ndarray, shape (n_samples, n_prompts), or None
        One row per text and condition, in order of their first showing; None where no text is shown again.

    Examples
    --------
    >>> shown = pd.DataFrame({"stimulus": ["a", "b", "a"], "trial_type": "on"})
    >>> averaging(shown, np.float64).tolist()
    [[0.5, 0.0, 0.5], [0.0, 1.0, 0.0]]
    """
    groups = prompts.groupby(["stimulus", "trial_type"], sort=False).ngroup().to_numpy()
    if groups.max() + 1 == len(groups):
        return None
    weights = np.equal.outer(np.arange(groups.max() + 1), groups).astype(dtype)
    weights /= weights.sum(1, keepdims=True)
    return weights


def weighed(weighing: Weighing, design: pd.DataFrame) -> list[str]:
    """Name the columns of conditions or confounds that a contrast compares.

    Parameters
    ----------
    weighing : Weighing
        The contrast.
    design : DataFrame, shape (n_prompts, n_regressors)
        Of the prompts.

    Returns
    -------
    list of str
        Columns of the design; those of weight 0 are left out.

    Raises
    ------
    DesignError
        If it compares one that the design does not have.
    """
    used = np.abs(weighing.over.matrix(list(design.columns))).max(0) > 0
    return list(design.columns[used])


def counts(samples: Sequence[Samples], weighing: Weighing) -> dict[str, Any]:
    """Tell what the samples of a contrast were.

    Parameters
    ----------
    samples : sequence of Samples
        Of all runs together, or run by run.
    weighing : Weighing
        The contrast.

    Returns
    -------
    dict
        Fields for a sidecar: ``EffectOf``, ``NumberOfPrompts``, ``NumberOfSamples``, and ``PromptsWithoutTokens``
        where a bin is weighed.
    """
    told: dict[str, Any] = {"NumberOfPrompts": sum(one.n_prompts for one in samples)}
    told["NumberOfSamples"] = sum(len(one.design) for one in samples)
    if weighing.kinds == {MEAN: 1.0}:
        return told
    dropped = {} if weighing.slopes else {"PromptsWithoutTokens": sum(one.n_dropped for one in samples)}
    return {"EffectOf": weighing.text, "Kinds": dict(weighing.kinds), **told, **dropped}
