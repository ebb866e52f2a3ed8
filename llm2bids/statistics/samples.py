"""What a contrast takes for samples: one value per prompt, a text that is shown again being no new one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, TypeVar

import numpy as np
import pandas as pd

from llm2bids.design.matrix import check_estimable
from llm2bids.design.regressors import MEAN
from llm2bids.errors import DesignError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from llm2bids.statistics.prompt_effects import Weighing

Real = TypeVar("Real", np.float32, np.float64)

_TINY: Final = 1e-6


@dataclass(frozen=True, slots=True, eq=False)
class Prompts:
    """Prompts of one or several runs.

    - `table`: one row per prompt: ``run``, ``prompt``, ``stimulus``, ``trial_type``, ``n_scans``.
    - `design` (n_prompts, n_regressors): conditions as ``trial_type.on``, confounds, drift and constants of runs.
    - `kept` (n_prompts, n_kinds): which prompts have which kind; all have a mean effect.
    - `effects`: by kind, shape (n_prompts, n_units).
    """

    table: pd.DataFrame
    design: pd.DataFrame
    kept: pd.DataFrame
    effects: Mapping[str, NDArray[np.float64]]

    @classmethod
    def planned(cls, table: pd.DataFrame, design: pd.DataFrame, kept: pd.DataFrame) -> Prompts:
        """Describe prompts before anything is estimated."""
        return cls(table, design, kept, {kind: np.empty((len(table), 0)) for kind in (MEAN, *kept.columns)})

    @classmethod
    def stacked(cls, runs: Sequence[Prompts]) -> Prompts:
        """Put prompts of several runs below each other.

        Returns columns of the design that a run does not have are 0 there.
        """
        design = pd.concat([run.design for run in runs], ignore_index=True).fillna(0.0)
        effects = {kind: np.concatenate([run.effects[kind] for run in runs]) for kind in runs[0].effects}
        tables, kept = ([getattr(run, name) for run in runs] for name in ("table", "kept"))
        return cls(pd.concat(tables, ignore_index=True), design, pd.concat(kept, ignore_index=True), effects)


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """The samples of a contrast.

    - `design` (n_samples, n_regressors): what differs between them.
    - `effects` (n_samples, n_units): what the units did.
    - `n_prompts`: prompts they were made of.
    - `n_dropped`: prompts left out because they have no token in a bin that is weighed.
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
        """Refuse samples that cannot answer a contrast."""
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

    Returns (n_samples, n_prompts): one row per text and condition, in order of their first showing; None where no text
    is shown again.

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

    `design` (n_prompts, n_regressors): of the prompts. Returns columns of the design; those of weight 0 are left out.
    """
    used = np.abs(weighing.over.matrix(list(design.columns))).max(0) > 0
    return list(design.columns[used])


def counts(samples: Sequence[Samples], weighing: Weighing) -> dict[str, Any]:
    """Tell what the samples of a contrast were.

    Returns fields for a sidecar: ``EffectOf``, ``NumberOfPrompts``, ``NumberOfSamples``, and ``PromptsWithoutTokens``
    where a bin is weighed.
    """
    told: dict[str, Any] = {"NumberOfPrompts": sum(one.n_prompts for one in samples)}
    told["NumberOfSamples"] = sum(len(one.design) for one in samples)
    if weighing.kinds == {MEAN: 1.0}:
        return told
    dropped = {} if weighing.slopes else {"PromptsWithoutTokens": sum(one.n_dropped for one in samples)}
    return {"EffectOf": weighing.text, "Kinds": dict(weighing.kinds), **told, **dropped}
