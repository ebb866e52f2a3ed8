"""Raw activations of prompts, averaged over their tokens as they are read from a recording."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
import pandas as pd

from llm2bids.bids.nifti import read_signals
from llm2bids.design.matrix import name_prompts
from llm2bids.statistics.pattern_samples import PromptMeans

if TYPE_CHECKING:
    from llm2bids.bids.prepared import PreparedRun

_NO_CLUSTER: Final = ("", "n/a")


def prompt_means(run: PreparedRun) -> PromptMeans:
    """Average the recording of a run over the tokens of each prompt, a few scans at a time.

    Position 0 of the context is left out: it is an attention sink with extreme activations (Xiao et al. 2023,
    arXiv:2309.17453).
    """
    codes, prompts, conditions = name_prompts(run.events)
    belongs = np.zeros((len(prompts), len(run.times)), bool)
    for code, onset, duration in zip(codes, run.events["onset"], run.events["duration"], strict=True):
        belongs[code] |= (run.times >= onset) & (run.times < onset + duration)
    belongs &= run.confounds["tok_position"].to_numpy() > 0
    sums, start = np.zeros((len(prompts), run.volumes.space.n_units)), 0
    for signals in read_signals(run.recording().bold, run.volumes.space, "record it again"):
        part = belongs[:, start : start + len(signals)]
        for code in np.flatnonzero(part.any(axis=1)):
            sums[code] += signals[part[code]].sum(axis=0, dtype=np.float64)
        start += len(signals)
    n_averaged = belongs.sum(axis=1)
    stimuli = run.stimuli(prompts)
    table = pd.DataFrame({"run": run.label, "prompt": prompts, "stimulus": stimuli, "trial_type": conditions})
    clusters = run.events.get("cluster", pd.Series("n/a", run.events.index)).groupby(codes).first()
    table["cluster"] = clusters.where(~clusters.isin(_NO_CLUSTER), table["stimulus"])
    table["n_averaged"] = n_averaged
    return PromptMeans(table, (sums / np.maximum(n_averaged, 1)[:, None]).astype(np.float32))
