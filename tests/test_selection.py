"""One rule for "the strongest": the same units by every verb that chooses them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from llm2bids.errors import InferenceError, MaskError, SelectionError
from llm2bids.masks import convert_mask
from llm2bids.networks.rules import NetworkRule
from llm2bids.networks.run_statistics import Maps
from llm2bids.results.work import read_share
from llm2bids.space import Selection
from llm2bids.space.selection import ranks
from llm2bids.statistics.linear_model import StatMaps
from llm2bids.statistics.output import select_top

from .maps import SPACE, VALUES, write_map

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from llm2bids.space.selection import Tail

N_UNITS = SPACE.n_units
SINGLE = np.zeros(N_UNITS)
SINGLE[[50]] = 3.0
FEW = np.zeros(N_UNITS)
FEW[[1, 2, 7, 30]] = -2.0, 4.0, -4.0, 1e-30
EQUAL = np.where(np.arange(N_UNITS) % 3, 2.0, -2.0)
UNTESTED = np.where(np.arange(N_UNITS) < N_UNITS // 2, 0, VALUES).astype(float)


def expected(values: NDArray[np.float64], tail: Tail, share: float) -> list[int]:
    """The answer as it is documented, unit by unit."""
    sides = {"two": abs, "positive": lambda value: value, "negative": lambda value: -value}
    tested = [unit for unit in range(len(values)) if values[unit] == values[unit]]
    order = sorted(tested, key=lambda unit: -sides[tail](values[unit]))
    n_chosen = max(1, round(share * len(tested)))
    return sorted(unit for unit in order[:n_chosen] if sides[tail](values[unit]) > 0)


@pytest.mark.parametrize("values", [SINGLE, FEW, EQUAL, UNTESTED, VALUES.astype(float)])
@pytest.mark.parametrize("tail", ["two", "positive", "negative"])
@pytest.mark.parametrize("share", [0.001, 0.1, 0.25, 0.99])
def test_every_verb_chooses_the_same_units(
    tmp_path: Path, values: NDArray[np.float64], tail: Tail, share: float
) -> None:
    tested = values != 0  # a program that writes a map writes 0 where nothing was tested
    chosen = expected(np.where(tested, values, np.nan), tail, share)
    units, z = np.flatnonzero(tested), values[tested]
    assert units[select_top(StatMaps("t", z, z, z, z, 9.0), tail, share)].tolist() == chosen
    maps = Maps(np.stack([z, z]), np.stack([z, -z]), np.array([9.0, 9.0]))
    assert units[NetworkRule("top", share, tail).select(maps)[0]].tolist() == chosen
    path = write_map(tmp_path / "a_stat-z_statmap.nii.gz", values)
    mask, _ = convert_mask(path, tmp_path / "net.json", tail=tail, top=share, allow_empty=True)
    assert mask.units.tolist() == chosen


@pytest.mark.parametrize("share", [0.001, 0.1, 0.5, 1.0])
def test_units_that_are_zero_are_never_chosen(share: float) -> None:
    assert np.flatnonzero(Selection(top=share).select(SINGLE)).tolist() == [50]
    assert np.flatnonzero(Selection(top=share, tail="negative").select(SINGLE)).tolist() == []


def test_each_map_has_its_own_share_of_the_units_tested_in_it() -> None:
    values = np.array([[1.0, 2.0, 3.0, 4.0], [np.nan, np.nan, 3.0, 4.0], [np.nan] * 4])
    assert Selection(top=0.5).select(values).sum(1).tolist() == [2, 1, 0]
    assert Selection(top=0.5).select(values, order=ranks(values)).sum(1).tolist() == [2, 1, 0]


def test_a_second_statistic_tells_equals_apart() -> None:
    z, t = np.array([9.0, -9.0, 9.0, np.nan]), np.array([40.0, -60.0, 50.0, 70.0])
    chosen = {
        tail: np.flatnonzero(Selection(top=0.34, tail=tail).select(z, equals=t)).tolist()  # type: ignore[arg-type]
        for tail in ("two", "positive", "negative")
    }
    assert chosen == {"two": [1], "positive": [2], "negative": [1]}


@pytest.mark.parametrize(
    ("fields", "units"),
    [
        ({}, [0, 1, 2, 4]),
        ({"threshold": 2.0}, [2]),
        ({"threshold": 2.0, "tail": "negative"}, [4]),
        ({"threshold": 2.0, "tail": "two"}, [2, 4]),
        ({"threshold": 0.0}, [1, 2]),
    ],
)
def test_values_beyond_a_threshold_are_chosen_equal_ones_are_not(fields: dict[str, Any], units: list[int]) -> None:
    values = [-2.0, 2.0, 2.5, 0.0, -9.0, np.nan]
    assert np.flatnonzero(Selection(**fields).select(values)).tolist() == units


def test_p_values() -> None:
    values = [0.05, 0.01, 1.0, np.nan, 0.0, 0.01]
    assert np.flatnonzero(Selection(0.05, below=True).select(values)).tolist() == [1, 4, 5]
    assert np.flatnonzero(Selection(top=0.4, below=True).select(values)).tolist() == [1, 4]
    assert np.flatnonzero(Selection(top=1.0, below=True).select(values)).tolist() == [0, 1, 4, 5]


@pytest.mark.parametrize("share", ["much", "", "%", "1 percent"])
def test_what_is_no_share_is_refused_as_a_mask_and_as_an_inference(share: str) -> None:
    with pytest.raises(SelectionError, match="is no share of the units"):
        read_share(share)
    assert issubclass(SelectionError, MaskError)
    assert issubclass(SelectionError, InferenceError)
