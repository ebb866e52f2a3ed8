"""Match the networks of two sets, and count in how many runs each recurs, against chance."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np
import pandas as pd

from llm2bids.bids.history import noted
from llm2bids.decomposition.components import assign, correlate_rows
from llm2bids.masks.files import check_same_space
from llm2bids.networks.answers import Answer
from llm2bids.networks.map_sets import TemplateSet, read_set
from llm2bids.networks.measures import index_of, units_per_layer
from llm2bids.networks.question import Question
from llm2bids.networks.resampling import holm, p_at_least
from llm2bids.networks.settings import MatchOptions
from llm2bids.options import takes
from llm2bids.plots.match import draw_match
from llm2bids.space.identity import check_same_model

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

logger = logging.getLogger(__name__)

Paths: TypeAlias = "str | Path | Sequence[str | Path]"
_LEVEL: Final = 0.05
"""Significance level that recurrence should be able to reach."""
_DRAWS_AT_A_TIME: Final = 100
"""Permutations in memory at once."""
_CORRELATION_WEIGHT: Final = 1e-6
"""Weight of the correlation beside IoU in the assignment: it decides between assignments of almost equal IoU only."""
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


@noted("networks match")
@takes(MatchOptions)
def match(options: MatchOptions) -> Answer:
    """Match the networks of two sets, and count in how many runs each recurs.

    Returns
    -------
    Answer
        Tables ``pairs`` (one row per template), ``recurrence`` (best IoU per template and run), ``iou`` and
        ``correlation`` (matrices), and a figure.

    Raises
    ------
    LLM2BIDSError
        If a file is missing or holds no network, or if the two sets are not of one model and space.
    """
    sets = SetPair.from_paths(options.a, options.b)
    n_templates = len(sets.templates.items)
    # Holm multiplies the smallest p, 1 / (n_draws + 1), by the number of templates.
    if n_templates >= _LEVEL * (options.n_draws + 1):
        logger.warning(
            "%d templates and %d draws: no p of recurrence can be below %g once corrected; ask for %d or more",
            n_templates,
            options.n_draws,
            _LEVEL,
            n_templates / _LEVEL,
        )
    question = Question("match", options, hint=", or write elsewhere with `out`")
    question.check_new([sets])
    (answer,) = question.answer([MatchStudy(sets, options)])
    return answer


@dataclass(frozen=True, slots=True, eq=False)
class SetPair:
    """Templates, and the set in which they are looked for."""

    templates: TemplateSet
    targets: TemplateSet

    @classmethod
    def from_paths(cls, a: Paths, b: Paths) -> SetPair:
        """Read both sets; raise if they are not of one model and space."""
        templates = read_set(a)
        targets = read_set(b, templates.space)
        names = (templates.items[0].file.name, targets.items[0].file.name)
        check_same_space(templates.space, targets.space, names)
        check_same_model(templates.metadata, targets.metadata, names)
        return cls(templates, targets)

    def entities(self, label: str) -> dict[str, str]:
        """Entities of the files of an answer."""
        return {"space": self.templates.space.label, "desc": label}

    @property
    def sources(self) -> dict[str, Any]:
        """Files that the sets were read from, for the sidecar."""
        sets = {"A": self.templates, "B": self.targets}
        return {"SourceFiles": {name: sorted({item.file.name for item in part.items}) for name, part in sets.items()}}

    @property
    def metadata(self) -> dict[str, Any]:
        """Model and units, for the sidecar."""
        model = {key: self.templates.metadata.get(key) for key in ("Model", "WeightsSHA256")}
        return model | {"UnitSpace": self.templates.space.to_json()}


@dataclass(frozen=True, eq=False)
class MatchStudy:
    """Matching of two sets."""

    networks: SetPair
    options: MatchOptions

    @property
    def n_steps(self) -> int:
        """Number of permutations, over all templates."""
        return len(self.networks.templates.items) * self.options.n_draws

    def answer(self, tick: Callable[[int], object]) -> Answer:
        """Compute all tables, and the figure."""
        rng = np.random.default_rng(self.options.seed)
        sets, bound = self.networks, self.options.bound
        answer = match_sets(sets.templates, sets.targets, bound, self.options.n_draws, rng, tick)
        return replace(answer, settings={**answer.settings, "Seed": self.options.seed})


def match_sets(
    templates: TemplateSet,
    targets: TemplateSet,
    bound: float,
    n_draws: int,
    rng: np.random.Generator,
    tick: Callable[[int], object] = lambda _: None,
) -> Answer:
    """Match the networks of two sets."""
    units_a, units_b, groups = templates.selected, targets.selected, targets.groups
    iou = iou_matrix(units_a, units_b)
    correlation = correlate_rows(templates.values, targets.values)
    group_numbers = np.array([groups.index(item.group) for item in targets.items])
    layers = templates.space.locate(np.arange(templates.space.n_units))[0]
    # Empty intersections leave several assignments with the same sum of IoU; correlation decides between these only.
    assigned = assign(iou + _CORRELATION_WEIGHT * np.abs(correlation))
    names_a, names_b = templates.names, targets.names
    rows = []
    for number, name in enumerate(names_a):
        permuted = permuted_iou(units_a[number], units_b, layers, n_draws, rng, tick)
        row = {"template": name, "match": "n/a", "iou": np.nan, "correlation": np.nan}
        row |= {"units_a": int(units_a[number].sum()), "units_b": 0, "shared": 0}
        if (column := int(assigned[number])) >= 0:
            row |= {"match": names_b[column], "iou": iou[number, column], "correlation": correlation[number, column]}
            row |= {"units_b": int(units_b[column].sum()), "shared": int((units_a[number] & units_b[column]).sum())}
        row["best"] = names_b[int(iou[number].argmax())]
        rows.append(row | _against_chance(iou[number], permuted, group_numbers, bound))
    pairs = pd.DataFrame(rows)
    pairs["recurrence_p_holm"] = holm(pairs["recurrence_p"].to_numpy())
    recurrence = pd.DataFrame(_best_of_groups(iou, group_numbers).T, columns=names_a).assign(group=groups)
    tables = {
        "pairs": pairs,
        "recurrence": recurrence[["group", *names_a]],
        "iou": _matrix(iou, names_a, names_b),
        "correlation": _matrix(correlation, names_a, names_b),
    }
    figure = draw_match(pairs, iou, assigned, names_b, bound)
    settings: dict[str, Any] = {"Bound": bound, "Draws": n_draws, "NetworksA": len(names_a), "NetworksB": len(names_b)}
    model = str(templates.metadata.get("Model") or "")
    return Answer("match", model, templates.space.site, tables, {"figure": figure}, settings, _COLUMNS)


def _against_chance(
    iou: NDArray[np.float64], permuted: NDArray[np.float64], group_numbers: NDArray[np.int64], bound: float
) -> dict[str, float]:
    """Compare the best IoU and the recurrence of a template with those of its permutations.

    `iou` (n_networks,), `permuted` (n_draws, n_networks), `group_numbers` (n_networks,).
    """
    recurrence, chance = ((_best_of_groups(values, group_numbers) > bound).sum(-1) for values in (iou, permuted))
    # The best of all networks is compared with the best of all, which corrects for the number of networks of B.
    best = permuted.max(1)
    return {
        "best_iou": iou.max(),
        "best_chance": float(best.mean()),
        "best_p": float(p_at_least(iou.max(), best)),
        "groups": int(group_numbers.max()) + 1,
        "recurrence": int(recurrence),
        "recurrence_chance": float(chance.mean()),
        "recurrence_p": float(p_at_least(int(recurrence), chance)),
    }


def _best_of_groups(values: NDArray[np.float64], group_numbers: NDArray[np.int64]) -> NDArray[np.float64]:
    """Take the largest of values (..., n_networks) in each run, subject or file, shape (..., n_groups)."""
    n_groups = int(group_numbers.max()) + 1
    return np.stack([values[..., group_numbers == group].max(-1) for group in range(n_groups)], axis=-1)


def iou_matrix(networks_a: NDArray[np.bool_], networks_b: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Compute the intersection over union of every two networks of two sets.

    `networks_a` (n_a, n_units), `networks_b` (n_b, n_units). Returns (n_a, n_b); 0 where both are empty.

    >>> iou_matrix(np.array([[True, True, False]]), np.array([[True, False, False], [False, True, True]])).tolist()
    [[0.5, 0.3333333333333333]]
    """
    shared = networks_a.astype(np.float32) @ networks_b.T.astype(np.float32)
    return np.nan_to_num(index_of("jaccard", shared, networks_a.sum(1)[:, None], networks_b.sum(1)[None]))


def permuted_iou(
    template: NDArray[np.bool_],
    networks: NDArray[np.bool_],
    layers: NDArray[np.int64],
    n_draws: int,
    rng: np.random.Generator,
    tick: Callable[[int], object] = lambda _: None,
) -> NDArray[np.float64]:
    """Compute the IoU of networks with a template whose units are permuted within every layer.

    `template` (n_units,). `networks` (n_networks, n_units): all meet the same permutations, so that the best of them
    can be compared. `layers` (n_units,): layer of each unit. Returns (n_draws, n_networks).
    """
    # Networks crowd in some layers; a template that kept no number of units per layer would overlap too little.
    counts = units_per_layer(template[None], layers)[0]
    places = [np.flatnonzero(layers == layer) for layer in range(len(counts))]
    parts = []
    for start in range(0, n_draws, _DRAWS_AT_A_TIME):
        permuted = np.zeros((min(_DRAWS_AT_A_TIME, n_draws - start), len(template)), bool)
        for row in permuted:
            for count, layer_units in zip(counts, places, strict=True):
                row[rng.choice(layer_units, count, replace=False)] = True
        parts.append(iou_matrix(permuted, networks))
        tick(len(permuted))
    return np.concatenate(parts)


def _matrix(values: NDArray[np.float64], rows: Sequence[str], columns: Sequence[str]) -> pd.DataFrame:
    """Return a matrix with the networks of B as rows and those of A as columns, which are fewer."""
    return pd.DataFrame(values.T, columns=list(rows)).assign(network=list(columns))[["network", *rows]]
