"""Design matrices of a run: boxcars of conditions or prompts, confounds, and a drift that spares the task.

Regressors are sampled in the middle of scans (``slice_time_ref`` 0.5). At the edges of scans, rounding in nilearn's
grid would decide on which side of a block a scan lies. No regressor is convolved: a unit responds at once.
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
"""Beginning of the names of confounds that are 1 at a single scan."""
CONSTANT: Final = "constant"
"""Name of the column of ones."""
LONGEST_PERIOD: Final = 128.0
"""Seconds. The drift is never faster than the usual high-pass filter of fMRI (128 s in SPM)."""
_TINY: Final = 1e-6
"""Singular values below this share of the largest count as 0."""
_HALF: Final = 0.5
"""Halfway between the values of a boxcar, which nilearn computes up to rounding."""
_MAX_LISTED: Final = 12
"""Most columns that a message lists."""
_NYQUIST: Final = 0.5
"""Highest frequency that scans can sample, in cycles per scan."""


def high_pass(events: Sequence[pd.DataFrame], n_seconds: Sequence[float]) -> float | None:
    """Choose the cutoff of the drift, in Hz, so that the drift cannot model the task.

    The cutoff is one over twice the longest cycle, the time from a block of a condition to its next block, and at most
    1/128 Hz. It is None without conditions. A condition with a single block has a cycle of twice the run: no cosine is
    slow enough then.

    >>> table = pd.DataFrame({"onset": [0, 60, 120, 180], "duration": 60, "trial_type": ["off", "on", "off", "on"]})
    >>> 1 / high_pass([table], [240])
    240.0
    """
    cycles = [_longest_cycle(*pair) for pair in zip(events, n_seconds, strict=True)]
    longest = max(cycles, default=0.0)
    return 1 / max(2 * longest, LONGEST_PERIOD) if longest else None


def _longest_cycle(events: pd.DataFrame, n_seconds: float) -> float:
    """Longest time in seconds from a block of a condition to its next block; 0 without conditions."""
    trial_types = events["trial_type"]
    blocks = events[trial_types.ne(trial_types.shift())]  # a block begins where the condition changes
    blocks = blocks[blocks["trial_type"] != "n/a"]
    onsets = [group["onset"].to_numpy() for _, group in blocks.groupby("trial_type")]
    return max((float(np.diff(times).max()) if len(times) > 1 else 2 * n_seconds for times in onsets), default=0.0)


def token_design(
    events: pd.DataFrame,
    times: NDArray[np.float64],
    conditions: Sequence[str],
    confounds: pd.DataFrame | None = None,
    cutoff: float | None = None,
) -> pd.DataFrame:
    """Design matrix of a run with one column per condition, shape (n_scans, n_regressors).

    It equals nilearn's `make_first_level_design_matrix` with ``hrf_model=None``: ``trial_type.<condition>``, confounds,
    ``drift_1`` ... and ``constant``. Where every scan belongs to a condition, conditions and constant are collinear,
    which does not affect contrasts between conditions.

    `times` (n_scans,): middle of every scan, in seconds. `confounds` (n_scans, n_confounds). `cutoff`: of the cosine
    drift, in Hz.
    """
    boxcars = _boxcars(events, times, conditions).rename(columns=lambda name: f"{FACTOR}{name}")
    drift = cosines(times, cutoff)
    drift.columns = [f"drift_{number}" for number in range(1, drift.shape[1] + 1)]
    parts = [boxcars, *([] if confounds is None else [confounds.reset_index(drop=True)]), drift]
    return pd.concat(parts, axis=1).assign(**{CONSTANT: 1.0})


def name_prompts(events: pd.DataFrame) -> tuple[NDArray[np.int64], list[str], list[str]]:
    """Assign events to prompts: index of each event's prompt (n_events,), labels and conditions of the prompts.

    The condition of a prompt is ``n/a`` if its events have several. Events without a column ``prompt`` are one prompt
    each.
    """
    number = events.get("prompt", pd.Series(range(1, len(events) + 1), events.index).astype(str))
    codes, labels = pd.factorize(number)
    trial_types = events["trial_type"].groupby(codes)
    return codes, list(labels), np.where(trial_types.min() == trial_types.max(), trial_types.min(), "n/a").tolist()


def prompt_design(
    events: pd.DataFrame, times: NDArray[np.float64], confounds: pd.DataFrame | None = None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Design matrix of a run with one column per prompt, and a table with one row per prompt.

    The matrix (n_scans, n_regressors) has the columns ``prompt.0001`` ..., the confounds, and ``constant`` if some
    scans belong to no prompt. Confounds that equal the column of a prompt are left out, such as the spike of a prompt
    of one token. The table has ``name`` (of the column), ``prompt``, ``n_scans``, ``trial_type`` (``n/a`` for several)
    and, where the events have it, ``block``.

    `times` (n_scans,): middle of every scan, in seconds. `confounds` (n_scans, n_confounds).
    """
    codes, labels, trial_types = name_prompts(events)
    names = [f"prompt.{code + 1:04d}" for code in range(len(labels))]
    prompts = _boxcars(events[["onset", "duration"]].assign(trial_type=[names[code] for code in codes]), times, names)
    table = pd.DataFrame({"name": names, "prompt": labels, "n_scans": prompts.gt(0).sum().to_numpy()})
    table["trial_type"] = trial_types
    if "block" in events:
        table["block"] = events["block"].groupby(codes).first()
    matrix = prompts if confounds is None else pd.concat([prompts, drop_copies(confounds, prompts)], axis=1)
    return matrix if np.allclose(prompts.sum(axis=1), 1) else matrix.assign(**{CONSTANT: 1.0}), table


def drop_copies(confounds: pd.DataFrame, prompts: pd.DataFrame) -> pd.DataFrame:
    """Drop confounds (n_scans, n_confounds) that equal a column of `prompts` (n_scans, n_columns)."""
    columns = {prompts[name].to_numpy().tobytes() for name in prompts}
    distinct = [name for name in confounds if confounds[name].to_numpy(float).tobytes() not in columns]
    return confounds[distinct].reset_index(drop=True)


def inside(boxcars: pd.DataFrame) -> NDArray[np.bool_]:
    """Whether each scan lies inside each boxcar, shape (n_scans, n_columns)."""
    return np.asarray(boxcars.to_numpy() > _HALF)


def token_numbers(prompts: pd.DataFrame) -> NDArray[np.int64]:
    """Position of each scan in its prompt, from 0, shape (n_scans,); -1 for scans of no prompt.

    `prompts` (n_scans, n_prompts): columns of prompts, as `prompt_design` makes them.

    >>> token_numbers(pd.DataFrame({"first": [1, 1, 0, 0, 0, 0], "second": [0, 0, 0, 1, 1, 1]})).tolist()
    [0, 1, -1, 0, 1, 2]
    """
    scans = inside(prompts)
    numbers: NDArray[np.int64] = np.where(scans, scans.cumsum(0) - 1, -1).max(1, initial=-1)
    return numbers


def average_over_prompts(matrix: pd.DataFrame, prompts: pd.DataFrame) -> pd.DataFrame:
    """Average a design (n_scans, n_regressors) over the scans of each prompt, shape (n_prompts, n_regressors).

    `prompts` (n_scans, n_prompts): columns of prompts, as `prompt_design` makes them.
    """
    weights = prompts.to_numpy() / prompts.to_numpy().sum(0)
    return pd.DataFrame(weights.T @ matrix.to_numpy(), prompts.columns, matrix.columns)


def cosines(times: NDArray[np.float64], cutoff: float | None) -> pd.DataFrame:
    """Cosines of the drift, ``cosine00``, ``cosine01``, ..., shape (n_scans, n_cosines).

    `times` (n_scans,): middle of every scan, in seconds. `cutoff`: in Hz; None for no drift.
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


def check_estimable(matrix: pd.DataFrame, contrast: NDArray[np.float64], description: str) -> None:
    """Raise if a design cannot estimate a contrast.

    A contrast is estimable if it lies in the row space of the design, that is, if it is orthogonal to the null space
    (Searle 1971, Linear Models, chapter 5). Collinear columns are allowed if the contrast does not depend on how
    their effect is shared out.

    `matrix` (n_rows, n_regressors). `contrast` (n_contrasts, n_regressors).
    """
    values, scale = _unit_columns(matrix.to_numpy(float))
    weights = contrast / scale
    weights = weights / np.linalg.norm(weights, axis=1, keepdims=True)
    wide = values.shape[0] < values.shape[1]  # the thin SVD of a wide matrix lacks rows of the null space
    _, singular, rows = np.linalg.svd(values, full_matrices=wide)
    null = rows[int((singular > _TINY * singular.max()).sum()) :]
    involved = np.abs(weights @ null.T @ null).max(0) > _TINY  # the part of the contrast that the data cannot see
    if involved.any():
        names = list(matrix.columns[involved])
        listed = ", ".join([*names[:_MAX_LISTED], *(["..."] if len(names) > _MAX_LISTED else [])])
        reason = f"columns {listed} are collinear" if len(names) > 1 else f"column {names[0]} is 0"
        raise DesignError(f"{description} cannot be estimated: {reason}; leave one out, or ask another contrast")


def partition(matrix: ArrayLike, contrast: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Turn a design into one tested column and nuisance columns (Ridgway's partition, as in FSL's randomise).

    Returns `tested` (n_rows, 1), whose coefficient is the contrast, and `nuisance` (n_rows, n_columns), an orthonormal
    basis of the rest of the design. Winkler et al. 2014 (doi:10.1016/j.neuroimage.2014.01.060) compare partitions.

    `matrix` (n_rows, n_regressors): may be rank-deficient. `contrast` (n_regressors,): must be estimable.
    """
    design, scale = _unit_columns(np.asarray(matrix, float))
    weights = np.asarray(contrast, float) / scale
    solution = weights @ np.linalg.pinv(design, rcond=_TINY)  # solution @ samples is the least-squares contrast
    tested = solution / (solution @ solution)  # scaled so that its coefficient is the contrast itself
    rest = design - np.outer(tested, weights)  # spans the fits of all coefficients whose contrast is 0
    basis, singular, _ = np.linalg.svd(rest, full_matrices=False)
    return tested[:, None], basis[:, singular > _TINY * max(singular.max(), 1.0)]


def full_rank(
    matrix: ArrayLike, contrasts: Sequence[NDArray[np.float64]]
) -> tuple[NDArray[np.float64], list[NDArray[np.float64]]]:
    """Express the same model without redundant columns.

    nilearn divides the noise by (rows - columns) where a rank-deficient design has (rows - rank) degrees of freedom.
    With the singular value decomposition X = U S V', the basis is U S and a contrast c becomes c V: fits, residuals and
    contrasts stay the same.

    `matrix` (n_rows, n_regressors): may be rank-deficient. `contrasts` (n_contrasts, n_regressors): estimable. Returns
    the basis (n_rows, n_rank) and the contrasts of its coefficients (n_contrasts, n_rank).
    """
    design, scale = _unit_columns(np.asarray(matrix, float))
    basis, singular, rows = np.linalg.svd(design, full_matrices=False)
    nonzero = singular > _TINY * singular.max()
    return basis[:, nonzero] * singular[nonzero], [weights / scale @ rows[nonzero].T for weights in contrasts]


def _unit_columns(design: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Scale columns to length 1, so that rank does not depend on their units; returns the lengths too."""
    scale = np.linalg.norm(design, axis=0)
    scale[scale == 0] = 1
    return design / scale, scale


def _boxcars(events: pd.DataFrame, times: NDArray[np.float64], names: Sequence[str]) -> pd.DataFrame:
    """One column per name of `trial_type`, as nilearn makes it without a haemodynamic response."""
    columns = {}
    for name in names:
        trials = events[events["trial_type"] == name]
        condition = (trials["onset"].to_numpy(), trials["duration"].to_numpy(), np.ones(len(trials)))
        columns[name] = compute_regressor(condition, None, times)[0][:, 0] if len(trials) else np.zeros(len(times))
    return pd.DataFrame(columns, index=range(len(times)))
