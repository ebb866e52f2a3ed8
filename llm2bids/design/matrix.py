"""What the design of a run is: regressors of conditions and prompts, the drift that leaves the task alone.

Time is sampled in the middle of scans (``slice_time_ref`` 0.5): at their edges nilearn's grid decides by rounding
which side of a block a scan lies on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
import pandas as pd
from nilearn.glm.first_level import compute_regressor, make_first_level_design_matrix

from llm2bids.design.regressors import FACTOR
from llm2bids.errors import DesignError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

SPIKE: Final = "non_steady_state_outlier"
"""What the names of confounds begin with that are 1 at a single scan."""
CONSTANT: Final = "constant"
"""Name of the column of ones."""
LONGEST_PERIOD: Final = 128.0
"""Seconds: a drift is never faster than fMRI's usual high-pass filter."""
_TINY: Final = 1e-6
_HALF: Final = 0.5
"""Between the values of a boxcar, which nilearn gives but for rounding."""
_LISTED: Final = 12
"""Columns that a message names."""
_NYQUIST: Final = 0.5
"""Cycles per scan beyond which there is nothing."""


def high_pass(events: Sequence[pd.DataFrame], n_seconds: Sequence[float]) -> float | None:
    """Choose a cutoff for the drift that leaves the task alone.

    Returns in Hz: one over twice the longest cycle, from a block of a condition to its next block, but no faster than
    1/128 Hz. None where there are no conditions. A condition with a single block has a cycle of twice the run, so that
    no drift is slow enough.

    >>> table = pd.DataFrame({"onset": [0, 60, 120, 180], "duration": 60, "trial_type": ["off", "on", "off", "on"]})
    >>> 1 / high_pass([table], [240])
    240.0
    """
    cycles = [_longest_cycle(*pair) for pair in zip(events, n_seconds, strict=True)]
    longest = max(cycles, default=0.0)
    return 1 / max(2 * longest, LONGEST_PERIOD) if longest else None


def _longest_cycle(events: pd.DataFrame, n_seconds: float) -> float:
    """Seconds from a block of a condition to its next block, the longest; 0 without conditions."""
    kinds = events["trial_type"]
    starts = events[kinds.ne(kinds.shift())]
    named = starts[starts["trial_type"] != "n/a"]
    onsets = [group["onset"].to_numpy() for _, group in named.groupby("trial_type")]
    return max((float(np.diff(times).max()) if len(times) > 1 else 2 * n_seconds for times in onsets), default=0.0)


def token_design(
    events: pd.DataFrame,
    times: NDArray[np.float64],
    conditions: Sequence[str],
    confounds: pd.DataFrame | None = None,
    cutoff: float | None = None,
) -> pd.DataFrame:
    """Make the design matrix of a run, one row per scan.

    `times` (n_scans,): middle of every scan, in seconds. `confounds` (n_scans, n_confounds): further columns. `cutoff`:
    of the cosine drift, in Hz. Returns (n_scans, n_regressors): ``trial_type.<condition>`` in the order given,
    confounds, ``drift_1`` ... and ``constant``: what nilearn makes with ``hrf_model=None``. Where every scan belongs to
    a condition these are collinear, harmlessly.
    """
    boxcars = _boxcars(events, times, conditions).rename(columns=lambda name: f"{FACTOR}{name}")
    drift = cosines(times, cutoff)
    drift.columns = [f"drift_{number}" for number in range(1, drift.shape[1] + 1)]
    parts = [boxcars, *([] if confounds is None else [confounds.reset_index(drop=True)]), drift]
    return pd.concat(parts, axis=1).assign(**{CONSTANT: 1.0})


def name_prompts(events: pd.DataFrame) -> tuple[NDArray[np.int64], list[str], list[str]]:
    """Say which events are one prompt, and which condition it is of.

    Returns `codes` (n_events,): place of each event's prompt in the lists. Returns `trial_types` condition of each
    prompt; ``n/a`` where it has several.
    """
    number = events.get("prompt", pd.Series(range(1, len(events) + 1), events.index).astype(str))
    codes, labels = pd.factorize(number)
    kinds = events["trial_type"].groupby(codes)
    return codes, list(labels), np.where(kinds.min() == kinds.max(), kinds.min(), "n/a").tolist()


def prompt_design(
    events: pd.DataFrame, times: NDArray[np.float64], confounds: pd.DataFrame | None = None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Make a design matrix with one column per prompt.

    `times` (n_scans,): middle of every scan, in seconds. `confounds` (n_scans, n_confounds): further columns. Returns
    `matrix` (n_scans, n_prompts + n_confounds + 1): ``prompt.0001`` ..., confounds but for those that are a whole
    prompt (the spike at a prompt of one token), and ``constant`` where prompts leave scans free. Returns `prompts` one
    row per prompt: ``name`` of its column, ``prompt``, ``trial_type`` (``n/a`` where it has several), ``n_scans``, and
    ``block`` where the events have it.
    """
    codes, labels, kinds = name_prompts(events)
    names = [f"prompt.{code + 1:04d}" for code in range(len(labels))]
    own = _boxcars(events[["onset", "duration"]].assign(trial_type=[names[code] for code in codes]), times, names)
    table = pd.DataFrame({"name": names, "prompt": labels, "n_scans": own.gt(0).sum().to_numpy()})
    table["trial_type"] = kinds
    if "block" in events:
        table["block"] = events["block"].groupby(codes).first()
    matrix = own if confounds is None else pd.concat([own, without_twins(confounds, own)], axis=1)
    return matrix if np.allclose(own.sum(axis=1), 1) else matrix.assign(**{CONSTANT: 1.0}), table


def without_twins(confounds: pd.DataFrame, prompts: pd.DataFrame) -> pd.DataFrame:
    """Leave out confounds that are a whole prompt, or a whole part of one.

    `confounds` (n_scans, n_confounds): such as spikes. `prompts` (n_scans, n_parts): columns of prompts or of their
    parts. Returns (n_scans, n_kept): those that are no copy of a column of `prompts`.
    """
    twins = {prompts[name].to_numpy().tobytes() for name in prompts}
    kept = [name for name in confounds if confounds[name].to_numpy(float).tobytes() not in twins]
    return confounds[kept].reset_index(drop=True)


def token_numbers(prompts: pd.DataFrame) -> NDArray[np.int64]:
    """Number the scans of each prompt.

    `prompts` (n_scans, n_prompts): columns of prompts, as `prompt_design` makes them. Returns (n_scans,): place of the
    scan in its prompt, from 0; -1 for scans of no prompt.

    >>> token_numbers(pd.DataFrame({"one": [1, 1, 0, 0, 0, 0], "two": [0, 0, 0, 1, 1, 1]})).tolist()
    [0, 1, -1, 0, 1, 2]
    """
    own = prompts.to_numpy() > _HALF
    numbers: NDArray[np.int64] = np.where(own, own.cumsum(0) - 1, -1).max(1, initial=-1)
    return numbers


def average(matrix: pd.DataFrame, prompts: pd.DataFrame) -> pd.DataFrame:
    """Average columns of a token design over the scans of each prompt.

    `matrix` (n_scans, n_regressors): A token design. `prompts` (n_scans, n_prompts): columns of prompts, as
    `prompt_design` makes them. Returns (n_prompts, n_regressors): means.
    """
    weights = prompts.to_numpy() / prompts.to_numpy().sum(0)
    return pd.DataFrame(weights.T @ matrix.to_numpy(), prompts.columns, matrix.columns)


def cosines(times: NDArray[np.float64], cutoff: float | None) -> pd.DataFrame:
    """Make the cosines of the drift.

    `times` (n_scans,): middle of every scan, in seconds. `cutoff`: in Hz; None for no drift. Returns (n_scans,
    n_cosines): ``cosine00``, ``cosine01``, ...
    """
    if cutoff is None or len(times) < 2:  # noqa: PLR2004 - one scan has no drift
        return pd.DataFrame(index=range(len(times)))
    if cutoff * (times[1] - times[0]) >= _NYQUIST:
        raise DesignError(
            f"a high-pass cutoff of {cutoff:g} Hz found, which leaves nothing of scans of {times[1] - times[0]:g} s; "
            "choose a lower one"
        )
    matrix = make_first_level_design_matrix(times, drift_model="cosine", high_pass=cutoff).drop(columns=CONSTANT)
    return pd.DataFrame(matrix.to_numpy(), columns=[f"cosine{number:02d}" for number in range(matrix.shape[1])])


def check_estimable(matrix: pd.DataFrame, contrast: NDArray[np.float64], what: str) -> None:
    """Refuse a contrast that a design cannot tell from 0.

    `matrix` (n_rows, n_regressors): the design; its columns may be collinear where the contrast does not mind.
    `contrast` (n_contrasts, n_regressors): weights.
    """
    values, scale = _unit_columns(matrix.to_numpy(float))
    weights = contrast / scale
    weights = weights / np.linalg.norm(weights, axis=1, keepdims=True)
    wide = values.shape[0] < values.shape[1]  # only then rows of the null space are left out otherwise
    _, singular, rows = np.linalg.svd(values, full_matrices=wide)
    null = rows[int((singular > _TINY * singular.max()).sum()) :]
    lost = np.abs(weights @ null.T @ null).max(0) > _TINY
    if lost.any():
        involved = list(matrix.columns[lost])
        listed = ", ".join([*involved[:_LISTED], *(["..."] if len(involved) > _LISTED else [])])
        why = f"columns {listed} are collinear" if len(involved) > 1 else f"column {involved[0]} is 0"
        raise DesignError(f"{what} cannot be estimated: {why}; leave one out, or ask another contrast")


def partition(matrix: ArrayLike, contrast: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Turn a design so that one column alone carries a contrast (Ridgway's partition, as in FSL's randomise).

    `matrix` (n_rows, n_regressors): the design; may be rank-deficient. `contrast` (n_regressors,): an estimable
    contrast. Returns `tested` (n_rows, 1): the column; its coefficient is the contrast. Returns `nuisance` (n_rows,
    n_others): an orthonormal basis of what the design spans besides.
    """
    design, scale = _unit_columns(np.asarray(matrix, float))
    weights = np.asarray(contrast, float) / scale
    solution = weights @ np.linalg.pinv(design, rcond=_TINY)  # its product with the samples is the contrast
    tested = solution / (solution @ solution)
    rest = design - np.outer(tested, weights)  # what is left when the contrast of the coefficients is 0
    left, singular, _ = np.linalg.svd(rest, full_matrices=False)
    return tested[:, None], left[:, singular > _TINY * max(singular.max(), 1.0)]


def full_rank(
    matrix: ArrayLike, contrasts: Sequence[NDArray[np.float64]]
) -> tuple[NDArray[np.float64], list[NDArray[np.float64]]]:
    """Give the same model without redundant columns: nilearn's noise variance counts columns, not rank.

    `matrix` (n_rows, n_regressors): the design; may be rank-deficient. `contrasts` (n_contrasts, n_regressors):
    estimable contrasts. Returns `basis` (n_rows, n_rank): columns that span what the design spans. Returns `weights`
    (n_contrasts, n_rank): the same contrasts of the coefficients of the basis.
    """
    design, scale = _unit_columns(np.asarray(matrix, float))
    left, singular, rows = np.linalg.svd(design, full_matrices=False)
    kept = singular > _TINY * singular.max()
    return left[:, kept] * singular[kept], [weights / scale @ rows[kept].T for weights in contrasts]


def _unit_columns(design: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Columns of length 1, so that rank does not depend on their units, and what they were divided by."""
    scale = np.linalg.norm(design, axis=0)
    scale[scale == 0] = 1
    return design / scale, scale


def _boxcars(events: pd.DataFrame, times: NDArray[np.float64], names: Sequence[str]) -> pd.DataFrame:
    """One column per name of `trial_type`, as nilearn makes it without a haemodynamic response."""
    columns = {}
    for name in names:
        own = events[events["trial_type"] == name]
        condition = (own["onset"].to_numpy(), own["duration"].to_numpy(), np.ones(len(own)))
        columns[name] = compute_regressor(condition, None, times)[0][:, 0] if len(own) else np.zeros(len(times))
    return pd.DataFrame(columns, index=range(len(times)))
