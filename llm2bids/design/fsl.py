"""Text files for FSL: EV files, VEST matrices, and a ``design.fsf`` that FEAT runs unchanged.

FEAT subtracts the mean from the data and from every EV. If every scan belongs to exactly one condition, the EVs then
add up to 0 and one of them is redundant. `reference_of` finds such runs, and `feat_fsf` leaves that condition out of
EVs and contrasts. No information is lost: in such a run FEAT cannot estimate a condition against a baseline.
``film_gls`` by itself subtracts the mean from the data only, so its design has a column for every condition.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import permutations
from math import isclose, isfinite
from typing import TYPE_CHECKING, Final

import numpy as np

from llm2bids.bids.templates import template_text
from llm2bids.errors import DatasetError, DesignError, TaskError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import pandas as pd
    from numpy.typing import ArrayLike, NDArray

MIN_T_R: Final = 0.05
"""Seconds. feat_model samples EVs on a grid with this step, which shorter scans would miss."""
_CUTOFF: Final = 100.0
"""Seconds. FEAT's default, which it requires even if the filter is off."""
_UNSAFE_IN_PATHS: Final = re.compile(r"""[\s"'`$\[\]\\{}();&|<>*?!#]""")
_TITLE: Final = re.compile(r"[ -~]+")
_UNSAFE_IN_TITLES: Final = re.compile(r"[\"$\[\\/]")
_MAX_PATH: Final = 900


@dataclass(frozen=True, slots=True)
class FeatRun:
    """Parameters of a run for FEAT. All paths are absolute.

    - `bold`: the preprocessed volumes.
    - `output`: folder that FEAT makes; its name ends in ``.feat``.
    - `n_voxels`: voxels of the whole grid in one scan.
    - `t_r`: repetition time in seconds.
    - `evs`: name and 3-column file of every condition.
    - `contrasts`: name and weights, one weight per condition in ``evs``.
    - `reference`: condition that is left out because the conditions fill the run, see `reference_of`.
    - `high_pass_cutoff`: longest period that passes the filter, in seconds; None or infinity for no filter.
    - `confounds`: text file of numbers without header, one row per scan.
    """

    bold: Path
    output: Path
    n_scans: int
    n_voxels: int
    t_r: float
    evs: tuple[tuple[str, Path], ...]
    contrasts: tuple[tuple[str, tuple[float, ...]], ...]
    reference: str | None = None
    high_pass_cutoff: float | None = None
    confounds: Path | None = None

    def __post_init__(self) -> None:
        """Raise on values for which FEAT would give wrong results without an error."""
        paths = [self.bold, self.output, *(path for _, path in self.evs)]
        for path in paths if self.confounds is None else [*paths, self.confounds]:
            _check_path(path)
        names = [name for name, _ in self.evs]
        for name in [*names, *(name for name, _ in self.contrasts)]:
            _check_title(name)
        _check_conditions(names, self.reference)
        if not self.contrasts:
            raise DesignError("no contrast found; FEAT needs one: give e.g. on - off")
        for name, weights in self.contrasts:
            _check_weights(name, weights, len(names), may_differ=self.reference is None)
        if self.t_r < MIN_T_R:
            raise DesignError(f"t_r {self.t_r} s found; FEAT needs {MIN_T_R} s or more: record with a longer one")
        if self.high_pass_cutoff is not None and not self.high_pass_cutoff > 0:
            raise DesignError(f"high-pass cutoff {self.high_pass_cutoff} s found; give a period above 0, or None")

    @property
    def ev_indices(self) -> tuple[int, ...]:
        """Indices of the conditions in ``evs`` that are EVs of the design: all but the reference."""
        return tuple(index for index, (name, _) in enumerate(self.evs) if name != self.reference)


def reference_of(events: pd.DataFrame, n_scans: int, t_r: float) -> str | None:
    """Choose the condition that FEAT's design must leave out, if any.

    If the middle of every scan (where FEAT samples) lies in exactly one event, the EVs are collinear with the mean, and
    the condition that is first in sorted order is left out. Otherwise the result is None.

    `events`: ``onset`` and ``duration`` in seconds, ``trial_type``; only conditions of the design. `t_r`: in seconds.

    >>> import pandas as pd
    >>> blocks = pd.DataFrame({"onset": [0, 3], "duration": [3, 3], "trial_type": ["on", "off"]})
    >>> reference_of(blocks, 6, 1.0), reference_of(blocks, 7, 1.0)
    ('off', None)
    """
    times = (np.arange(n_scans)[:, np.newaxis] + 0.5) * t_r
    onsets, durations = (events[column].to_numpy(np.float64) for column in ("onset", "duration"))
    n_events = ((onsets <= times) & (times < onsets + durations)).sum(1)
    return str(min(events["trial_type"])) if (n_events == 1).all() else None


def ev_text(events: pd.DataFrame, trial_type: str) -> str:
    r"""Events of a condition in FSL's 3-column format: onset and duration in seconds, and weight 1.

    >>> import pandas as pd
    >>> ev_text(pd.DataFrame({"onset": [0.5, 4], "duration": [2, 2], "trial_type": ["on", "off"]}), "on")
    '0.5\t2\t1\n'
    """
    chosen = events[events["trial_type"] == trial_type]
    if chosen.empty:
        conditions = sorted(map(str, set(events["trial_type"])))
        near, listed = did_you_mean(str(trial_type), conditions), ", ".join(conditions) or "none"
        raise TaskError(f"no event of condition {trial_type!r} found, only {listed}; {near}choose one of these")
    rows = zip(chosen["onset"], chosen["duration"], strict=True)
    return "".join(f"{float(onset):.10g}\t{float(duration):.10g}\t1\n" for onset, duration in rows)


def design_mat(matrix: ArrayLike) -> str:
    """Text of ``design.mat`` for a design matrix (n_scans, n_regressors).

    ``film_gls`` subtracts the mean from the data but not from these columns. Together they must span the constant, as
    conditions that fill the run do, or each must have mean 0.
    """
    columns = _matrix(matrix)
    n_scans, n_regressors = columns.shape
    heights = np.maximum(columns.max(0), 0) - np.minimum(columns.min(0), 0)
    header = {"NumWaves": n_regressors, "NumPoints": n_scans, "PPheights": _row(heights)}
    return _vest(header, columns)


def design_con(names: Sequence[str], weights: ArrayLike) -> str:
    """Text of ``design.con`` for contrasts (n_contrasts, n_regressors) of the columns of ``design.mat``."""
    rows = _matrix(weights)
    if len(names) != len(rows):
        raise DesignError(f"{len(names)} names and {len(rows)} rows of weights found; give one name per contrast")
    for name, row in zip(names, rows, strict=True):
        _check_title(name)
        _check_weights(name, row, len(row), may_differ=True)
    header: dict[str, object] = {f"ContrastName{number}": name for number, name in enumerate(names, 1)}
    ones = _row(np.ones(len(rows)))
    header |= {"NumWaves": rows.shape[1], "NumContrasts": len(rows), "PPheights": ones, "RequiredEffect": ones}
    return _vest(header, rows)


def feat_fsf(run: FeatRun) -> str:
    """Text of a first-level ``design.fsf`` that ``feat`` runs unchanged."""
    cutoff = run.high_pass_cutoff
    filtered = cutoff is not None and isfinite(cutoff)
    return template_text(
        "design.fsf",
        bold=run.bold,
        output=run.output,
        t_r=f"{run.t_r:.10g}",
        n_scans=run.n_scans,
        n_values=run.n_voxels * run.n_scans,
        high_pass=int(filtered),
        cutoff=f"{cutoff if filtered else _CUTOFF:.10g}",
        n_evs=len(run.ev_indices),
        n_contrasts=len(run.contrasts),
        design="\n".join(f"set {key} {value}" for key, value in _design(run)),
    )


def _design(run: FeatRun) -> Iterator[tuple[str, object]]:
    """Fields of the design that depend on the run: confounds, EVs, contrasts."""
    yield "fmri(confoundevs)", int(run.confounds is not None)
    if run.confounds is not None:
        yield "confoundev_files(1)", f'"{run.confounds}"'
    for number, index in enumerate(run.ev_indices, 1):
        yield from _ev(number, *run.evs[index], n_evs=len(run.ev_indices))
    yield "fmri(con_mode_old)", "orig"
    yield "fmri(con_mode)", "orig"
    for mode in ("real", "orig"):
        for number, (name, weights) in enumerate(run.contrasts, 1):
            yield f"fmri(conpic_{mode}.{number})", 1
            yield f"fmri(conname_{mode}.{number})", f'"{name}"'
            for column, index in enumerate(run.ev_indices, 1):
                yield f"fmri(con_{mode}{number}.{column})", f"{weights[index] + 0.0:.10g}"
    yield from _no_masking(len(run.contrasts))


def _ev(number: int, name: str, path: Path, *, n_evs: int) -> Iterator[tuple[str, object]]:
    """Fields of a 3-column EV: not convolved, filtered like the data, no derivative, not orthogonalised."""
    yield f"fmri(evtitle{number})", f'"{name}"'
    yield f"fmri(shape{number})", 3
    yield f"fmri(convolve{number})", 0
    yield f"fmri(convolve_phase{number})", 0
    yield f"fmri(tempfilt_yn{number})", 1
    yield f"fmri(deriv_yn{number})", 0
    yield f"fmri(custom{number})", f'"{path}"'
    for index in range(n_evs + 1):
        yield f"fmri(ortho{number}.{index})", 0


def _no_masking(n_contrasts: int) -> Iterator[tuple[str, object]]:
    """Fields that switch contrast masking off."""
    yield "fmri(conmask_zerothresh_yn)", 0
    yield from ((f"fmri(conmask{i}_{j})", 0) for i, j in permutations(range(1, n_contrasts + 1), 2))
    yield "fmri(conmask1_1)", 0


def _matrix(values: ArrayLike) -> NDArray[np.float64]:
    """Convert to a matrix; raise unless all its numbers are finite."""
    matrix = np.asarray(values, dtype=np.float64)
    if matrix.ndim != 2 or not matrix.size:  # noqa: PLR2004 - rows and columns
        raise DesignError(f"an array of shape {matrix.shape} found; give rows and columns, at least one of each")
    if not np.isfinite(matrix).all():
        raise DesignError("NaN or infinity found in a design or contrast; FSL needs numbers: fill or drop them")
    return matrix


def _vest(header: dict[str, object], matrix: NDArray[np.float64]) -> str:
    """Format a header and the matrix below it."""
    lines = [f"/{key}\t{value}" for key, value in header.items()]
    return "\n".join([*lines, "", "/Matrix", *map(_row, matrix), ""])


def _row(values: NDArray[np.float64]) -> str:
    """Format numbers side by side; ten digits keep the precision of float32."""
    return "\t".join(f"{value:.9e}" for value in values)


def _check_path(path: Path) -> None:
    """Raise on paths that FEAT cannot take: it gives them to Tcl and a shell unquoted, in lines of 1000 characters."""
    if not path.is_absolute():
        raise DatasetError(f"relative path {path} found; FEAT needs absolute ones: resolve it")
    unsafe = _UNSAFE_IN_PATHS.search(str(path))
    if unsafe or len(str(path)) > _MAX_PATH:
        problem = f"{unsafe.group()!r}" if unsafe else f"{len(str(path))} characters"
        raise DatasetError(f"a path with {problem} found, which FEAT cannot take: {path}; move or link the dataset")


def _check_title(name: str) -> None:
    """Raise on characters that Tcl substitutes, that begin a field of VEST (/), or that FEAT's fonts lack."""
    if not _TITLE.fullmatch(name) or _UNSAFE_IN_TITLES.search(name):
        raise DesignError(f'name {name!r} found; FSL takes ASCII without " $ [ \\ / and line breaks: rename it')


def _check_conditions(names: Sequence[str], reference: str | None) -> None:
    """Raise unless names are unique, include the reference, and leave a condition besides it."""
    if len(set(names)) != len(names):
        raise DesignError(f"conditions {', '.join(names)} found; name each once")
    if reference is not None and reference not in names:
        near = did_you_mean(reference, names)
        raise DesignError(f"reference {reference} found; {near}choose one of the conditions: {', '.join(names)}")
    if not set(names) - {reference}:
        raise DesignError(
            f"conditions {', '.join(names) or 'none'} with reference {reference} found; give another one to compare"
        )


def _check_weights(name: str, weights: ArrayLike, n_columns: int, *, may_differ: bool) -> None:
    """Raise unless a contrast weighs every column, and adds up to 0 if a condition is left out."""
    row = np.asarray(weights, dtype=np.float64)
    if row.shape != (n_columns,) or not np.isfinite(row).all():
        raise DesignError(f"contrast {name} has weights {row.tolist()}; give {n_columns}, one per condition")
    if not row.any():
        raise DesignError(f"contrast {name} has only weights of 0; give one that is not")
    if not may_differ and not isclose(float(row.sum()), 0, abs_tol=1e-9 * float(np.abs(row).sum())):
        raise DesignError(
            f"contrast {name} weighs {row.tolist()} of conditions that fill the run, which FEAT cannot estimate "
            "against a baseline; give weights that add up to 0"
        )
