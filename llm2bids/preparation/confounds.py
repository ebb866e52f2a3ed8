"""What else varies from token to token, scan by scan: columns for models of the noise."""

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
    """Read what was recorded of each token beside a run.

    Returns (n_scans, n_columns): ``token_id``, ``position``, ``surprisal``, ``entropy``; missing values are NaN.
    """
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
    """Count how often each token occurs in the recordings of one subject.

    Returns base-10 logarithm of its share of all tokens, by token id.
    """
    once = {run.beside("bold.nii.gz", acq=None): run for run in runs}
    counts = Counter(token for run in once.values() for token in read_tokens(run)["token_id"])
    total = sum(counts.values())
    return {int(token): float(np.log10(count / total)) for token, count in counts.items()}


def confounds(
    run: BoldRun, frequencies: Mapping[int, float], global_signal: NDArray[np.float64], cutoff: float | None
) -> pd.DataFrame:
    """Make the table of confounds of a run.

    `global_signal` (n_scans,): mean over units. `cutoff`: of the drift, in Hz. Returns (n_scans, n_confounds): finite
    everywhere: a token of which the model made no prediction, or thought it impossible, gets the mean surprisal and
    entropy of the run. One spike per scan at position 0 of its context, where models park attention and units are far
    off.
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
    """The mean instead of what is missing or infinite, 0 where all is."""
    finite = bits.where(np.isfinite(bits))
    return finite.fillna(finite.mean()).fillna(0.0)


def describe(table: pd.DataFrame, cutoff: float | None) -> dict[str, Any]:
    """Describe the columns of a table of confounds.

    `table` (n_scans, n_confounds): what `confounds` made. `cutoff`: of the drift, in Hz.
    """
    texts = template_json("confounds.json")
    families = {"cosine": texts.pop("cosine"), SPIKE: texts.pop(SPIKE)}
    if cutoff is not None:
        families["cosine"]["CutoffHz"] = cutoff
    return {name: texts.get(name) or families[name.rstrip("0123456789")] for name in table.columns}
