"""The samples of a pattern: raw activations of texts, each averaged over its tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from llm2bids.errors import InferenceError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from numpy.typing import NDArray

    from llm2bids.space import UnitSpace


@dataclass(frozen=True, slots=True, eq=False)
class PromptMeans:
    """Raw activations of the prompts of some runs.

    - `table`: one row per prompt: ``run``, ``prompt``, ``stimulus`` (equal for equal texts), ``trial_type``,
      ``cluster`` and ``n_averaged``, the number of its tokens without position 0.
    - `activations` (n_prompts, n_units): mean over these tokens; 0 where there is none.
    """

    table: pd.DataFrame
    activations: NDArray[np.float32]

    @classmethod
    def stacked(cls, runs: Sequence[PromptMeans]) -> PromptMeans:
        """Put prompts of several runs below each other."""
        tables = pd.concat([run.table for run in runs], ignore_index=True)
        return cls(tables, np.concatenate([run.activations for run in runs]))

    def select(self, rows: pd.Series[bool]) -> PromptMeans:
        """Choose some prompts."""
        return PromptMeans(self.table[rows].reset_index(drop=True), self.activations[rows.to_numpy()])


@dataclass(frozen=True, slots=True, eq=False)
class PatternSamples:
    """What a pattern is fitted to; one row per text.

    - `activations` (n_samples, n_units): raw, mean over the tokens of the text.
    - `on` (n_samples,): True for the condition, False for the reference.
    - `clusters` (n_samples,): which texts belong together, so that none is fitted on while another is judged.
    - `texts` (n_samples,): start of the SHA-256 of each text.
    """

    space: UnitSpace
    activations: NDArray[np.floating]
    on: NDArray[np.bool_]
    clusters: NDArray[np.str_]
    texts: NDArray[np.str_]

    def __post_init__(self) -> None:
        """Raise if there is nothing to compare."""
        if not 0 < int(self.on.sum()) < len(self.on):
            raise InferenceError(
                f"{int(self.on.sum())} of {len(self.on)} texts are of the condition; a pattern needs texts of it and "
                "of a reference"
            )

    @classmethod
    def from_prompts(
        cls,
        space: UnitSpace,
        prompts: PromptMeans,
        conditions: tuple[Collection[str], Collection[str]],
        others: PromptMeans | None = None,
    ) -> PatternSamples:
        """Average prompts of the same text and side of the comparison: a text that is shown again is no new sample.

        `conditions`: of the condition and of the reference. `others`: prompts of other tasks, which join the reference
        unless their text is one of the condition.
        """
        kinds = prompts.table["trial_type"]
        chosen = prompts.select(kinds.isin([*conditions[0], *conditions[1]]))
        on = chosen.table["trial_type"].isin([*conditions[0]])
        if others is not None:
            further = others.select(~others.table["stimulus"].isin(chosen.table["stimulus"][on]))
            chosen = PromptMeans.stacked([chosen, further])
            on = on.reindex(chosen.table.index, fill_value=False)
        read = chosen.table["n_averaged"] > 0
        chosen, on = chosen.select(read), on[read].reset_index(drop=True)
        sample = chosen.table.assign(on=on).groupby(["stimulus", "on"], sort=False).ngroup().to_numpy()
        first = chosen.table.groupby(sample).first()
        sums = np.zeros((len(first), space.n_units))
        for number, activations in zip(sample, chosen.activations, strict=True):
            sums[number] += activations
        return cls(
            space,
            sums / np.bincount(sample)[:, None] if len(first) else sums,
            on.groupby(sample).first().to_numpy(bool),
            first["cluster"].to_numpy(str),
            first["stimulus"].to_numpy(str),
        )

    def select(self, rows: NDArray[np.bool_]) -> PatternSamples:
        """Choose some samples, e.g. those of the clusters to fit on."""
        return PatternSamples(self.space, self.activations[rows], self.on[rows], self.clusters[rows], self.texts[rows])

    def hookpoints(self) -> Iterator[NDArray[np.float64]]:
        """Give the activations at one hookpoint after another, (n_samples, n_channels), so that memory is bounded."""
        for part in self.space.split(self.activations):
            yield np.asarray(part, np.float64)
