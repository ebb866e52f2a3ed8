"""Confounds of a run, scan by scan: position, surprisal, entropy and frequency of tokens, drift, spikes."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd

from llm2bids.bids.runs import frame_times
from llm2bids.bids.tables import read_json, read_stim
from llm2bids.bids.templates import template_json
from llm2bids.design.matrix import SPIKE, cosines
from llm2bids.errors import DatasetError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from llm2bids.bids.runs import BoldRun

_TOKEN_COLUMNS: Final = ("token_id", "position", "surprisal", "entropy")


def read_tokens(run: BoldRun) -> pd.DataFrame:
    """Read ``token_id``, ``position``, ``surprisal`` and ``entropy`` of each token of a run; NaN where missing."""
    columns = read_json(run.root / f"task-{run.entities['task']}_stim.json").get("Columns")
    path = run.beside("stim.tsv.gz")
    if not isinstance(columns, list) or not set(_TOKEN_COLUMNS) <= set(columns):
        raise DatasetError(f"task-{run.entities['task']}_stim.json names no token columns; restore it or record again")
    table = read_stim(path, columns)
    if len(table) != run.n_scans:
        raise DatasetError(f"{path.name} has {len(table)} rows, {run.bold.name} {run.n_scans} scans; record it again")
    for name in _TOKEN_COLUMNS:
        missing = name in {"token_id", "position"} and table[name].isna().any()
        if missing or not pd.api.types.is_numeric_dtype(table[name]):
            raise DatasetError(f"{path.name} holds a {name} that is no number; record it again")
    return table


def log_frequencies(runs: Sequence[BoldRun]) -> dict[int, float]:
    """Base-10 logarithm of each token's share of all tokens in the recordings of a subject, by token id."""
    runs_without_site = {run.beside("bold.nii.gz", acq=None): run for run in runs}  # all sites record the same tokens
    counts = Counter(token for run in runs_without_site.values() for token in read_tokens(run)["token_id"])
    total = sum(counts.values())
    return {int(token): float(np.log10(count / total)) for token, count in counts.items()}


def confounds(
    run: BoldRun, frequencies: Mapping[int, float], global_signal: NDArray[np.float64], cutoff: float | None
) -> pd.DataFrame:
    """Table of the confounds of a run, without missing values, shape (n_scans, n_confounds).

    A token that the model did not predict, or gave probability 0, gets the mean surprisal and entropy of the run. Each
    scan at position 0 of its context gets a spike: models use the first token as an attention sink, and the activity
    of units is extreme there (Xiao et al. 2023, arXiv:2309.17453; Sun et al. 2024, arXiv:2402.17762).

    `global_signal` (n_scans,): mean over units. `cutoff`: of the drift, in Hz.
    """
    tokens = read_tokens(run)
    table = pd.DataFrame(
        {
            "tok_position": tokens["position"],
            "tok_surprisal": _filled(tokens["surprisal"]),
            "tok_entropy": _filled(tokens["entropy"]),
            "tok_log_frequency": tokens["token_id"].map(frequencies),
            "global_signal": global_signal,
        }
    )
    first = np.flatnonzero(tokens["position"] == 0)
    spikes = pd.DataFrame(
        np.equal.outer(np.arange(len(tokens)), first).astype(int),
        columns=[f"{SPIKE}{number:02d}" for number in range(len(first))],
    )
    return pd.concat([table, cosines(frame_times(len(tokens), run.t_r), cutoff), spikes], axis=1)


def _filled(bits: pd.Series[float]) -> pd.Series[float]:
    """Replace missing and infinite values by the mean of the others, or by 0 if there are none."""
    finite = bits.where(np.isfinite(bits))
    return finite.fillna(finite.mean()).fillna(0.0)


def describe(table: pd.DataFrame, cutoff: float | None) -> dict[str, Any]:
    """Sidecar of a table of confounds; `cutoff` is that of the drift, in Hz."""
    texts = template_json("confounds.json")
    families = {"cosine": texts.pop("cosine"), SPIKE: texts.pop(SPIKE)}
    if cutoff is not None:
        families["cosine"]["CutoffHz"] = cutoff
    return {name: texts.get(name) or families[name.rstrip("0123456789")] for name in table.columns}
