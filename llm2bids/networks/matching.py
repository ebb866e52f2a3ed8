"""Which networks of one set are found again in another, and in how many runs, against chance."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd

from llm2bids.bids.dataset import Dataset
from llm2bids.bids.history import noted_call
from llm2bids.decomposition.components import assign, correlate
from llm2bids.errors import DatasetError, InferenceError
from llm2bids.masks.files import check_same_space
from llm2bids.networks.answers import Answer, files_of, publish_answer, refuse_answer
from llm2bids.networks.map_sets import TemplateSet, read_set
from llm2bids.networks.measures import index_of, units_per_layer
from llm2bids.networks.resampling import holm, p_at_least
from llm2bids.networks.settings import check_draws
from llm2bids.plots.match import draw_match
from llm2bids.progress import progress_bar
from llm2bids.space.identity import check_same_model

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

logger = logging.getLogger(__name__)

FOUND: Final = 0.2
"""IoU above which a network is found again (Liu et al. 2025)."""
_LEVEL: Final = 0.05
_AT_A_TIME: Final = 100
"""Permutations held at once."""
_CORRELATION_SAYS: Final = 1e-6
"""Weight of the correlation where IoU leaves several assignments."""
_COLUMNS: Final = {
    "template": "Network of A.",
    "match": "Network of B that is assigned to it: each to one at most, such that the sum of IoU is the largest (where "
    "that leaves a choice, of absolute correlations). n/a where B has run out of networks.",
    "iou": "Shared units over units of either, of the two.",
    "correlation": "Pearson correlation of the two maps over units; of masks where a set has no maps.",
    "units_a": "Units of the template.",
    "units_b": "Units of its match.",
    "shared": "Units of both.",
    "best": "The network of B that shares most with it, whoever else it is assigned to.",
    "best_iou": "Its IoU.",
    "best_chance": "Mean of the best IoU with any network of B when the units of the template are permuted within "
    "every layer.",
    "best_p": "How often these permutations have as large a best IoU or a larger one.",
    "groups": "Runs, subjects or files in which networks of B were found.",
    "recurrence": "In how many of them the best network has an IoU above the bound. 1 says little where the template "
    "was made of these very runs: it may be of that run alone.",
    "recurrence_chance": "Mean of that when the units of the template are permuted within every layer.",
    "recurrence_p": "How often these permutations recur in as many or more. Permutations take units for independent: "
    "units that go together in any map of the model, such as one channel of the residual stream in all layers, make "
    "p too small.",
    "recurrence_p_holm": "The same, corrected for the number of templates (Holm).",
    "group": "Run, subject or file.",
}


def _wrote(answer: Answer, asked: Mapping[str, Any]) -> tuple[Path, list[Path]]:
    """The files of the answer."""
    return files_of([answer], asked)


@noted_call("networks match", _wrote)
def match(  # noqa: PLR0913 - the arguments of the command
    a: str | Path | Sequence[str | Path],
    b: str | Path | Sequence[str | Path],
    *,
    out: str | Path | None = None,
    bound: float = FOUND,
    n_draws: int = 1000,
    seed: int = 0,
    overwrite: bool = False,
    progress: bool | None = None,
) -> Answer:
    """Match the networks of two sets, and count in how many runs each is found again.

    Parameters
    ----------
    a, b : path-like or sequence of path-like
        Templates, and where they are looked for: a folder of results of ``glm`` or ``ica`` (with ``by="run"``,
        recurrence is over runs), another folder with masks, an image of several maps, a pattern, or masks.
    out : path-like, optional
        Folder of results to add the answer to; by default `b`, where it is one.
    bound : float
        IoU above which a network is found again.
    n_draws : int
        Permutations of units within layers.
    seed : int
        Which ones.
    overwrite : bool
        Replace an answer that is there.
    progress : bool, optional
        Whether to show a progress bar; by default if the terminal can.

    Returns
    -------
    Answer
        Tables ``pairs`` (one row per template), ``recurrence`` (best IoU per template and run), ``iou`` and
        ``correlation`` (matrices), and a figure.

    Raises
    ------
    LLM2BIDSError
        If a file is missing or no network, or the two are not of one model and space.
    """
    check_draws(n_draws)
    if not 0 <= bound < 1:
        raise InferenceError(f"bound {bound:g} found; an IoU from 0 to below 1 needed, e.g. 0.2")
    one, other = _read_both(a, b)
    if len(one.items) >= _LEVEL * (n_draws + 1):
        logger.warning(
            "%d templates and %d draws: no p of recurrence can be below %g once corrected; ask for %d or more",
            len(one.items),
            n_draws,
            _LEVEL,
            len(one.items) / _LEVEL,
        )
    target = _target(b, out)
    entities = {"space": one.space.label, "desc": "match"}
    refuse_answer(target, entities, overwrite=overwrite, instead=", or write elsewhere with --out")
    with progress_bar("draws", len(one.items) * n_draws, "match", visible=progress) as bar:
        answer = compare(one, other, bound, n_draws, np.random.default_rng(seed), bar.update)
    sources = {
        name: sorted({item.file.name for item in part.items}) for name, part in zip("AB", (one, other), strict=True)
    }
    own = {key: one.fields.get(key) for key in ("Model", "WeightsSHA256")} | {"UnitSpace": one.space.to_json()}
    answer = replace(answer, settings={**answer.settings, "Seed": seed})
    return publish_answer(target, entities, answer, {"SourceFiles": sources}, own)


def compare(
    one: TemplateSet,
    other: TemplateSet,
    bound: float,
    n_draws: int,
    rng: np.random.Generator,
    tick: Callable[[int], object] = lambda _: None,
) -> Answer:
    """Match two sets that have been read."""
    mine, theirs, groups = one.selected, other.selected, other.groups
    iou = iou_matrix(mine, theirs)
    correlation = correlate(one.values, other.values)
    of = np.array([groups.index(item.of) for item in other.items])
    layers = one.space.locate(np.arange(one.space.n_units))[0]
    assigned = assign(iou + _CORRELATION_SAYS * np.abs(correlation))
    names_a, names_b = one.names, other.names
    rows = []
    for number, name in enumerate(names_a):
        drawn = permuted_iou(mine[number], theirs, layers, n_draws, rng, tick)
        row = {"template": name, "match": "n/a", "iou": np.nan, "correlation": np.nan}
        row |= {"units_a": int(mine[number].sum()), "units_b": 0, "shared": 0}
        if (column := int(assigned[number])) >= 0:
            row |= {"match": names_b[column], "iou": iou[number, column], "correlation": correlation[number, column]}
            row |= {"units_b": int(theirs[column].sum()), "shared": int((mine[number] & theirs[column]).sum())}
        row["best"] = names_b[int(iou[number].argmax())]
        rows.append(row | _against_chance(iou[number], drawn, of, bound))
    pairs = pd.DataFrame(rows)
    pairs["recurrence_p_holm"] = holm(pairs["recurrence_p"].to_numpy())
    recurrence = pd.DataFrame(_best_of_groups(iou, of).T, columns=names_a).assign(group=groups)
    tables = {
        "pairs": pairs,
        "recurrence": recurrence[["group", *names_a]],
        "iou": _matrix(iou, names_a, names_b),
        "correlation": _matrix(correlation, names_a, names_b),
    }
    figure = draw_match(pairs, iou, assigned, names_b, bound)
    settings: dict[str, Any] = {"Bound": bound, "Draws": n_draws, "NetworksA": len(names_a), "NetworksB": len(names_b)}
    return Answer(
        "match", str(one.fields.get("Model") or ""), one.space.site, tables, {"figure": figure}, settings, _COLUMNS
    )


def _against_chance(
    iou: NDArray[np.float64], drawn: NDArray[np.float64], of: NDArray[np.int64], bound: float
) -> dict[str, float]:
    """The best network for a template, and in how many groups it is found again, against its permutations."""
    found, by_chance = ((_best_of_groups(values, of) > bound).sum(-1) for values in (iou, drawn))
    return {
        "best_iou": iou.max(),
        "best_chance": float(drawn.max(1).mean()),
        "best_p": float(p_at_least(iou.max(), drawn.max(1))),
        "groups": int(of.max()) + 1,
        "recurrence": int(found),
        "recurrence_chance": float(by_chance.mean()),
        "recurrence_p": float(p_at_least(int(found), by_chance)),
    }


def _best_of_groups(values: NDArray[np.float64], of: NDArray[np.int64]) -> NDArray[np.float64]:
    """The largest in each run, subject or file, shape (..., n_groups), of values of shape (..., n_networks)."""
    return np.stack([values[..., of == group].max(-1) for group in range(int(of.max()) + 1)], axis=-1)


def iou_matrix(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Measure what every two networks of two sets share.

    Returns (n_one, n_other): shared units over units of either; 0 where both are empty.

    >>> iou_matrix(np.array([[True, True, False]]), np.array([[True, False, False], [False, True, True]])).tolist()
    [[0.5, 0.3333333333333333]]
    """
    shared = one.astype(np.float32) @ other.T.astype(np.float32)
    return np.nan_to_num(index_of("jaccard", shared, one.sum(1)[:, None], other.sum(1)[None]))


def permuted_iou(
    template: NDArray[np.bool_],
    networks: NDArray[np.bool_],
    layers: NDArray[np.int64],
    n_draws: int,
    rng: np.random.Generator,
    tick: Callable[[int], object] = lambda _: None,
) -> NDArray[np.float64]:
    """Measure what networks share with a template whose units are permuted within every layer.

    `template` (n_units,): keeps its number of units per layer. `networks` (n_networks, n_units): one row per network;
    all meet the same permutation, so that the best of them can be compared. `layers` (n_units,): layer of each unit.
    Returns (n_draws, n_networks): ioU.
    """
    counts = units_per_layer(template[None], layers)[0]
    places = [np.flatnonzero(layers == layer) for layer in range(len(counts))]
    drawn = []
    for start in range(0, n_draws, _AT_A_TIME):
        some = np.zeros((min(_AT_A_TIME, n_draws - start), len(template)), bool)
        for row in some:
            for count, own in zip(counts, places, strict=True):
                row[rng.choice(own, count, replace=False)] = True
        drawn.append(iou_matrix(some, networks))
        tick(len(some))
    return np.concatenate(drawn)


def _read_both(
    a: str | Path | Sequence[str | Path], b: str | Path | Sequence[str | Path]
) -> tuple[TemplateSet, TemplateSet]:
    """Both sets, of one model and space."""
    one = read_set(a)
    other = read_set(b, one.space)
    names = (one.items[0].file.name, other.items[0].file.name)
    check_same_space(one.space, other.space, names)
    check_same_model(one.fields, other.fields, names)
    return one, other


def _target(b: str | Path | Sequence[str | Path], out: str | Path | None) -> Dataset:
    """The folder of results that the answer goes to."""
    if out is None and (not isinstance(b, str | Path) or not (Path(b) / "dataset_description.json").is_file()):
        raise DatasetError("B is no folder of results, so there is no place for the answer; give a folder with --out")
    return Dataset(Path(out if out is not None else str(b)), "derivative")


def _matrix(values: NDArray[np.float64], rows: Sequence[str], columns: Sequence[str]) -> pd.DataFrame:
    """A matrix with the names of B down and of A along, which are fewer."""
    return pd.DataFrame(values.T, columns=list(rows)).assign(network=list(columns))[["network", *rows]]
