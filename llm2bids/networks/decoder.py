"""A linear decoder of tasks, by nilearn: the reference that networks have to beat."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Final

import numpy as np
from nilearn.decoding import Decoder
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import StratifiedKFold

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from llm2bids.networks.identification import Items
    from llm2bids.space import UnitSpace

_SCREENED: Final = 20
"""Percent of the units on which a decoder is trained: nilearn's default."""
_LEAST: Final = 3
"""Blocks of two kinds that have an F."""


def decode(
    items: Mapping[str, Items],
    labels: Sequence[str],
    groups: tuple[NDArray[np.str_], NDArray[np.str_]],
    space: UnitSpace,
    kept: NDArray[np.bool_],
) -> dict[str, NDArray[np.str_]]:
    """Tell the task of held-out runs by a linear support vector machine, trained on blocks of the other runs.

    `groups` (n_runs,): runs of one group are held out together; the penalty is chosen by holding out each of the other
    groups in turn, or where there is one group, each of its parts, which come second. What is held out by then leaves
    every task something to train on; else halves of the training blocks are held out, and where these are too few for
    that, the penalty is chosen on themselves. `kept` (n_units,): units of the maps.

    `nilearn.decoding.Decoder`, with the default fifth of the units with the largest F over training blocks.
    """
    names = np.array(labels)
    told = {level: np.empty(len(own.maps), names.dtype) for level, own in items.items()}
    mask = space.to_image(kept)
    blocks = items["block"]
    outer, parts = groups
    for group in np.unique(outer):
        training = (outer != group)[blocks.runs]
        runs = blocks.runs[training]
        inner = outer[runs] if len(np.unique(outer[runs])) > 1 else parts[runs]
        decoder = Decoder(
            estimator="svc",
            mask=mask,
            cv=_splits(names[runs], inner),
            scoring="accuracy",
            screening_percentile=_SCREENED if len(runs) >= _LEAST else 100,
            standardize=None,
            smoothing_fwhm=None,
            n_jobs=1,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            warnings.simplefilter("ignore", UserWarning)  # nilearn's advice on masks that are no brains
            decoder.fit(_image(blocks, training, space, kept), names[runs])
            for level, own in items.items():
                held_out = (outer == group)[own.runs]
                if held_out.any():
                    told[level][held_out] = decoder.predict(_image(own, held_out, space, kept))
    return told


def _splits(names: NDArray[np.str_], inner: NDArray[np.str_]) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Training and test blocks, for each group whose absence leaves enough; else halves, or all twice."""
    groups = [inner == group for group in np.unique(inner)]
    splits = [(np.flatnonzero(~testing), np.flatnonzero(testing)) for testing in groups]
    found = [split for split in splits if _enough(names, split[0])]
    if not found and np.unique(names, return_counts=True)[1].min() > 1:
        found = [split for split in StratifiedKFold(2).split(names, names) if _enough(names, split[0])]
    everything = np.arange(len(names))
    return found or [(everything, everything)]


def _enough(names: NDArray[np.str_], training: NDArray[np.int64]) -> bool:
    """Whether there are blocks of every task, and one more for the F by which units are chosen."""
    return set(names[training]) == set(names) and len(training) >= _LEAST


def _image(items: Items, rows: NDArray[np.bool_], space: UnitSpace, kept: NDArray[np.bool_]) -> object:
    """Maps as a 4-D image, scaled over units as for the scores of networks."""
    whole = np.zeros((int(rows.sum()), space.n_units), np.float32)
    whole[:, kept] = items.standardized[rows]
    return space.to_image(whole)
