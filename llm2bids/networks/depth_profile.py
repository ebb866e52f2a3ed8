"""The distribution of networks over layers, against chance, and effect sizes in held-out runs."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd
from scipy.stats import hypergeom

from llm2bids.bids.history import noted
from llm2bids.errors import DesignError, InferenceError
from llm2bids.networks.answers import Answer
from llm2bids.networks.held_out_effects import (
    HeldOutEffects,
    jackknife_interval,
    leave_one_out,
    mean_and_interval,
    shrinkage,
)
from llm2bids.networks.measures import quantiles_by_layer, units_per_layer
from llm2bids.networks.network_set import NetworkSet
from llm2bids.networks.question import Question
from llm2bids.networks.resampling import p_at_least
from llm2bids.networks.run_statistics import Maps, RunSums, relabelled
from llm2bids.networks.settings import ProfileOptions
from llm2bids.options import takes
from llm2bids.plots.profiles import draw_effects, draw_profiles, draw_sites
from llm2bids.space.selection import strength

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import ArrayLike, NDArray

    from llm2bids.networks.network_set import Network
    from llm2bids.networks.run_statistics import RunContrast
    from llm2bids.space import UnitSpace
    from llm2bids.space.selection import Tail

logger = logging.getLogger(__name__)

_MIN_RUNS: Final = 2
"""Fewest runs of which one can be left out."""
_COLUMNS: Final = {
    "site": "Where in each block the units are.",
    "task": "Task.",
    "n_runs": "Runs that show all conditions of the contrast.",
    "tested": "Units tested: those that vary in every run of every task.",
    "units": "Units of the network.",
    "share": "units over tested.",
    "low": "Lower end of the 95 % interval of share: jackknife over runs.",
    "high": "Upper end.",
    "positive": "Units of the network whose effect is positive.",
    "negative": "Units whose effect is negative.",
    "depth": "Mean depth of the units of the network: 0 is the first layer, 1 the last.",
    "depth_low": "Lower end of its 95 % interval: jackknife over runs, units chosen anew by the same rule.",
    "depth_high": "Upper end.",
    "depth_chance": "Mean depth of all tested units.",
    "depth_p": "How often a task without effect lies as deep or as shallow (two-sided): conditions are exchanged among "
    "the prompts of each run, and as many of the strongest units taken. Units keep their dependence.",
    "depth_by_z": "Mean depth with every unit weighed by its |z|.",
    "depth_by_z_low": "Lower end of its 95 % interval.",
    "depth_by_z_high": "Upper end.",
    "effect": "Mean |effect| of the units, all runs together, in standard deviations of the unit over the run. "
    "Choosing units by their effects makes it too large.",
    "effect_chosen": "The same where all runs but one choose units by the same rule, in the runs that chose; mean over "
    "the runs left out. Too large likewise.",
    "effect_held_out": "Effect of these units in the run left out, with the sign it has in the others: honest.",
    "held_out_low": "Lower end of its 95 % interval over runs left out (Student's t). Choices share runs, so it is "
    "approximate.",
    "held_out_high": "Upper end.",
    "shrinkage": "1 - effect_held_out / effect_chosen: the part of the effect that choosing made up.",
    "texts_repeated": "Texts that more than one run shows: with these, held-out runs are new runs, not new texts.",
    "layer": "Number of the hookpoint, 0 is the first.",
    "hookpoint": "Name of the hookpoint.",
    "block": "Number of the block, 0 is the first.",
    "part": "Units of the layer over units of the network.",
    "chance": "share if the network were spread evenly over all tested units.",
    "chance_low": "Lower end of the central 95 % of the share when units are drawn from all layers alike "
    "(hypergeometric).",
    "chance_high": "Upper end.",
    "p_units": "Two-sided p-value of the same. It takes units for independent: units that go together in any map of "
    "the model, such as one channel of the residual stream in all layers, make it too small.",
    "null_low": "Lower end of the central 95 % of the share in tasks without effect: conditions are exchanged among "
    "the prompts of each run, and as many of the strongest units taken. Units keep their dependence.",
    "null_high": "Upper end.",
    "p": "How often the share of a task without effect is as unusual (two-sided).",
    "p_corrected": "p, corrected for the number of layers (max statistic).",
    "sign": "Units with positive or negative effects.",
    "n_units": "Units of that sign in the layer.",
    "mean": "Mean effect over them, in standard deviations of the unit over the run.",
    **{f"q{cut:02d}": f"{cut} % of them have a lower effect." for cut in (5, 25, 50, 75, 95)},
}


@noted("networks profile")
@takes(ProfileOptions)
def profile(options: ProfileOptions) -> list[Answer]:
    """Find in which layers the network of each task lies, and how large its effects are.

    Returns
    -------
    list of Answer
        One per subject and site, with tables ``summary``, ``layers`` and ``effects`` (their distribution), and two
        figures; then one per subject with several sites, which compares them.

    Raises
    ------
    LLM2BIDSError
        If no network holds a unit, or a file is missing.
    """
    question = Question("profile", options)
    network_sets = _with_units(question.networks(options))
    several_sites = _join_sites(network_sets)
    comparison = Question("profile", options, "profilesites")
    comparison.check_new(several_sites)
    answers = question.answer(DepthStudy(networks, options) for networks in network_sets)
    return answers + comparison.answer(SiteComparison(networks, answers) for networks in several_sites)


def _join_sites(network_sets: Sequence[NetworkSet]) -> list[NetworkSet]:
    """Join the networks of each subject that was analysed at several sites."""
    subjects = dict.fromkeys(networks.subjects[0] for networks in network_sets)
    joined = [
        NetworkSet(
            tuple(
                network for networks in network_sets if networks.subjects[0] == subject for network in networks.networks
            )
        )
        for subject in subjects
    ]
    return [networks for networks in joined if len(networks.sites) > 1]


def _with_units(network_sets: Sequence[NetworkSet]) -> list[NetworkSet]:
    """Leave out sets whose networks are all empty, with a warning; raise if all sets are."""
    usable = []
    for networks in network_sets:
        empty = [task for task, units in zip(networks.tasks, networks.selected, strict=True) if not units.any()]
        if empty:
            logger.warning("without any unit: the network of task %s, %s", ", ".join(empty), networks.name)
        if len(empty) < len(networks.tasks):
            usable.append(networks)
    if not usable:
        raise InferenceError(
            f"no network of {network_sets[0].name} holds a unit; choose by a laxer rule, such as alpha .1 of llm2bids "
            "glm into another output folder, or record more runs"
        )
    return usable


@dataclass(frozen=True, eq=False)
class DepthStudy:
    """Depth of the networks of one subject and site."""

    networks: NetworkSet
    options: ProfileOptions

    @property
    def n_steps(self) -> int:
        """Number of exchanges of conditions, over all networks."""
        return self.options.n_draws * len(self.networks.networks)

    def answer(self, tick: Callable[[int], object]) -> Answer:
        """Compute all tables, and the figures."""
        networks, n_draws = self.networks, self.options.n_draws
        rng = np.random.default_rng(self.options.seed)
        parts: list[tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]] = []
        reasons: dict[str, str] = {}
        for network in networks.networks:
            runs, reason = _runs(network, networks.tested)
            maps = relabelled(runs, n_draws, rng) if runs else iter(())
            parts.append(NetworkDepth(networks, network, tuple(runs)).tables(_counted(maps, tick)))
            reasons |= {network.task: reason} if reason else {}
            tick(0 if runs else n_draws)
        summary, layers, effects = (pd.concat(tables, ignore_index=True) for tables in zip(*parts, strict=True))
        settings = {
            "Draws": n_draws,
            "Rule": networks.networks[0].rule.label,
            "Tail": networks.networks[0].tail,
            **({"NotHeldOut": reasons} if reasons else {}),
        }
        figures = {"figure": draw_profiles(summary, layers), "effectsfigure": draw_effects(effects, layers)}
        tables = {"summary": _ordered(summary), "layers": _ordered(layers), "effects": _ordered(effects)}
        return Answer("profile", ", ".join(networks.subjects), networks.site, tables, figures, settings, _COLUMNS)


@dataclass(frozen=True, eq=False)
class SiteComparison:
    """Comparison of the sites of one subject; `answers` are those for each site, of all subjects."""

    networks: NetworkSet
    answers: Sequence[Answer]
    n_steps = 0

    def answer(self, _tick: Callable[[int], object]) -> Answer:
        """Put the tables of the sites below each other, and draw the figure."""
        subject = self.networks.subjects[0]
        answers = [answer for answer in self.answers if answer.subject == subject]
        tables = {
            name: pd.concat([answer.tables[name] for answer in answers], ignore_index=True)
            for name in ("summary", "layers")
        }
        figure = draw_sites(tables["summary"], tables["layers"])
        settings = {name: value for name, value in answers[0].settings.items() if name != "NotHeldOut"}
        site = ", ".join(answer.site for answer in answers)
        return Answer("profilesites", subject, site, tables, {"figure": figure}, settings, _COLUMNS)


def _counted(statistics: Iterator[NDArray[np.float64]], tick: Callable[[int], object]) -> Iterator[NDArray[np.float64]]:
    """Pass maps on, and count them for the progress bar."""
    for maps in statistics:
        tick(len(maps))
        yield maps


def _ordered(table: pd.DataFrame) -> pd.DataFrame:
    """Put columns into the order in which the sidecar explains them."""
    return table[[name for name in _COLUMNS if name in table]]


def _runs(network: Network, tested: NDArray[np.bool_]) -> tuple[list[RunContrast], str]:
    """Read the effects of every prompt, run by run; and why effects cannot be held out, if so."""
    try:
        runs = network.runs(tested)
    except (InferenceError, DesignError) as error:
        logger.warning("task %s: no intervals and no held-out effects: %s", network.task, error)
        return [], str(error)
    if len(runs) < _MIN_RUNS:
        reason = f"1 run of task {network.task} found, {_MIN_RUNS} needed to leave one out; record more"
        logger.warning("no intervals and no held-out effects: %s", reason)
        return runs, reason
    return runs, ""


@dataclass(frozen=True, eq=False)
class NetworkDepth:
    """One network, and its runs; no runs where their prompts cannot be separated."""

    networks: NetworkSet
    network: Network
    runs: tuple[RunContrast, ...]

    @property
    def space(self) -> UnitSpace:
        """Space of the units."""
        return self.network.space

    @cached_property
    def selected(self) -> NDArray[np.bool_]:
        """Units of the network among the tested units, shape (n_tested,)."""
        units: NDArray[np.bool_] = self.network.selected[self.networks.tested]
        return units

    @cached_property
    def layers(self) -> NDArray[np.int64]:
        """Layer of each tested unit."""
        return self.networks.layers

    @cached_property
    def widths(self) -> NDArray[np.int64]:
        """Number of tested units of each layer."""
        widths: NDArray[np.int64] = np.bincount(self.layers, minlength=self.space.n_hookpoints)
        return widths

    @cached_property
    def counts(self) -> NDArray[np.int64]:
        """Number of units of the network in each layer."""
        counts: NDArray[np.int64] = self._count(self.selected[None])[0]
        return counts

    @cached_property
    def effect(self) -> NDArray[np.float64]:
        """Effect of each tested unit."""
        return self.network.map("effect")[self.networks.tested]

    @cached_property
    def z(self) -> NDArray[np.float64]:
        """Absolute z of each tested unit."""
        return np.abs(self.network.map("z")[self.networks.tested])

    @cached_property
    def sums(self) -> RunSums | None:
        """Sums of each run; None if no run can be left out."""
        return RunSums.from_runs(self.runs) if len(self.runs) >= _MIN_RUNS else None

    @cached_property
    def left_out(self) -> tuple[NDArray[np.bool_], Maps] | None:
        """Networks and maps without each run, then with all."""
        if self.sums is None:
            return None
        maps = leave_one_out(self.sums)
        return self.network.rule.select(maps), maps

    @cached_property
    def held_out(self) -> HeldOutEffects | None:
        """Effects of the networks that all runs but one select."""
        if self.sums is None or self.left_out is None:
            return None
        networks, maps = self.left_out
        return HeldOutEffects.from_sums(self.sums, maps, networks)

    def tables(self, statistics: Iterator[NDArray[np.float64]]) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
        """Compute summary, layers, and effects; `statistics` are maps without effect, as from `relabelled`."""
        null = None
        if self.runs:
            n_units, tail = int(self.selected.sum()), self.network.tail
            null = counts_without_effect(statistics, n_units, self.layers, self.space.n_hookpoints, tail)
        return pd.DataFrame([self._summary(null)]), self._layers(null), self._effects()

    def _count(self, networks: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Count units by layer, shape (n_networks, n_layers)."""
        return units_per_layer(networks, self.layers, self.space.n_hookpoints)

    def _depth(self, weights: NDArray[Any]) -> NDArray[np.float64]:
        """Compute the centre of mass over layers."""
        return depth_of(weights, self.layers, self.space.n_hookpoints)

    @property
    def _signs(self) -> dict[str, NDArray[np.bool_]]:
        """Units of the network by sign; empty for an F contrast, whose effects have none."""
        if self.network.contrast.test == "F":
            return {}
        return {"positive": self.selected & (self.effect > 0), "negative": self.selected & (self.effect < 0)}

    def _summary(self, null: NDArray[np.int64] | None) -> dict[str, Any]:
        """The network in one row."""
        n_units, empty = int(self.selected.sum()), not self.selected.any()
        depth, by_z = float(self._depth(self.selected)), float(self._depth(self.selected * self.z))
        ends = self._depth_intervals(depth, by_z)
        numbers = np.arange(self.space.n_hookpoints)
        p = np.nan
        if null is not None and not np.isnan(depth):
            p = float(p_two_sided(depth, depth_of(null, numbers, self.space.n_hookpoints)))
        return {
            "site": self.network.site or "n/a",
            "task": self.network.task,
            "n_runs": len(self.runs) or len(self.network.fields["Runs"]),
            "tested": len(self.selected),
            "units": n_units,
            "share": n_units / len(self.selected),
            **{name: int(units.sum()) for name, units in self._signs.items()},
            "depth": depth,
            **dict(zip(("depth_low", "depth_high"), ends[0], strict=True)),
            "depth_chance": float(self._depth(np.ones(len(self.selected)))),
            "depth_p": p,
            "depth_by_z": by_z,
            **dict(zip(("depth_by_z_low", "depth_by_z_high"), ends[1], strict=True)),
            "effect": np.nan if empty else float(np.abs(self.effect[self.selected]).mean()),
            **self._mean_effects(),
            "texts_repeated": self._texts_repeated(),
        }

    def _depth_intervals(self, depth: float, by_z: float) -> list[tuple[float, float]]:
        """Jackknife intervals of both depths."""
        if self.left_out is None:
            return [(np.nan, np.nan)] * 2
        networks, maps = self.left_out
        intervals = []
        for value, weights in ((depth, networks.astype(float)), (by_z, networks * np.abs(maps.z))):
            low, high = jackknife_interval(self._depth(weights), value)
            intervals.append((float(np.clip(low, 0, 1)), float(np.clip(high, 0, 1))))
        return intervals

    def _mean_effects(self, members: NDArray[np.bool_] | None = None) -> dict[str, float]:
        """Mean effects in the runs that select units, and in those held out."""
        names = ("effect_chosen", "effect_held_out", "held_out_low", "held_out_high", "shrinkage")
        if self.held_out is None:
            return dict.fromkeys(names, np.nan)
        selecting, held_out = self.held_out.means(members)
        inflated, (mean, low, high) = mean_and_interval(selecting)[0], mean_and_interval(held_out)
        return dict(zip(names, (inflated, mean, low, high, shrinkage(inflated, mean)), strict=True))

    def _texts_repeated(self) -> float:
        """Number of texts that more than one run shows."""
        if not self.runs:
            return np.nan
        texts = pd.concat([run.prompts["stimulus"].drop_duplicates() for run in self.runs])
        return int(texts[texts.duplicated()].nunique())

    def _layers(self, null: NDArray[np.int64] | None) -> pd.DataFrame:
        """The network layer by layer."""
        n_units, widths = int(self.selected.sum()), np.where(self.widths > 0, self.widths, np.nan)
        low, high = np.stack(spread_evenly(n_units, self.widths)[1:]) / widths
        table = pd.DataFrame(
            {
                "site": self.network.site or "n/a",
                "task": self.network.task,
                "layer": range(self.space.n_hookpoints),
                "hookpoint": self.space.hookpoints,
                "block": self.space.blocks,
                "tested": self.widths,
                "units": self.counts,
                **{name: self._count(units[None])[0] for name, units in self._signs.items()},
                "part": self.counts / max(n_units, 1),
                "share": self.counts / widths,
                "chance": n_units / len(self.selected),
                "chance_low": low,
                "chance_high": high,
                "p_units": p_evenly(self.counts, self.widths) if n_units else np.nan,
            }
        )
        held_out = [self._mean_effects(self.layers == layer) for layer in table["layer"]]
        members = [self.selected & (self.layers == layer) for layer in table["layer"]]
        effect = [float(np.abs(self.effect[units]).mean()) if units.any() else np.nan for units in members]
        table = pd.concat([table.assign(effect=effect), pd.DataFrame(held_out)], axis=1)
        return table.assign(**self._share_intervals(widths), **self._against_null(null, widths))

    def _share_intervals(self, widths: NDArray[np.float64]) -> dict[str, Any]:
        """Jackknife intervals of the share of each layer."""
        if self.left_out is None:
            return {"low": np.nan, "high": np.nan}
        shares = self._count(self.left_out[0]) / widths
        ends = [
            jackknife_interval(share, float(value)) for share, value in zip(shares.T, self.counts / widths, strict=True)
        ]
        return dict(zip(("low", "high"), np.clip(np.array(ends), 0, 1).T, strict=True))

    def _against_null(self, null: NDArray[np.int64] | None, widths: NDArray[np.float64]) -> dict[str, Any]:
        """Compare each layer with tasks without effect."""
        if null is None or not self.selected.any():
            return dict.fromkeys(("null_low", "null_high", "p", "p_corrected"), np.nan)
        low, high = np.quantile(null, [0.025, 0.975], axis=0) / widths
        p = {"p": p_two_sided(self.counts, null), "p_corrected": p_over_layers(self.counts, null)}
        return {"null_low": low, "null_high": high, **p}

    def _effects(self) -> pd.DataFrame:
        """Distribution of effects over the units of each layer, by sign."""
        parts = [
            quantiles_by_layer(self.effect[units], self.layers[units], 0.0).assign(sign=name)
            for name, units in self._signs.items()
            if units.any()
        ]
        names = ["layer", "n_units", "mean", "q05", "q25", "q50", "q75", "q95", "sign"]
        table = pd.concat(parts)[names] if parts else pd.DataFrame(columns=names)
        layers = table["layer"].astype(int)
        return table.assign(
            site=self.network.site or "n/a",
            task=self.network.task,
            hookpoint=[self.space.hookpoints[layer] for layer in layers],
            block=[self.space.blocks[layer] for layer in layers],
        )


def spread_evenly(
    n_selected: int, widths: NDArray[np.int64], level: float = 0.95
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Compute the units per layer of a network whose units are drawn from all tested units alike.

    `widths` (n_layers,): tested units of each layer. Returns `expected`, `low`, `high`, each (n_layers,): mean and
    central interval of the hypergeometric distribution.

    >>> expected, low, high = spread_evenly(10, np.array([50, 150]))
    >>> expected.tolist(), low.tolist(), high.tolist()
    ([2.5, 7.5], [0.0, 5.0], [5.0, 10.0])
    """
    # Drawing n_selected units without replacement, of which widths[l] lie in layer l.
    counts = hypergeom(widths.sum(), n_selected, widths)
    return n_selected * widths / widths.sum(), counts.ppf((1 - level) / 2), counts.ppf((1 + level) / 2)


def p_evenly(counts: NDArray[np.int64], widths: NDArray[np.int64]) -> NDArray[np.float64]:
    """Test each layer against an even spread that takes units for independent.

    `counts`, `widths` (n_layers,): units of the network, and tested units, of each layer. Returns (n_layers,):
    two-sided p-values, twice the smaller tail of the hypergeometric distribution.
    """
    even = hypergeom(widths.sum(), counts.sum(), widths)
    # Both tails include the observed count: sf(k - 1) is P(X >= k).
    p: NDArray[np.float64] = np.minimum(2 * np.minimum(even.cdf(counts), even.sf(counts - 1)), 1.0)
    return p


def depth_of(weights: ArrayLike, layers: NDArray[np.int64], n_layers: int) -> NDArray[np.float64]:
    """Compute the centre of mass of weights over layers.

    `weights` (..., n_units): membership, or the absolute statistic of members. `layers` (n_units,): number of the
    layer of each unit, from 0. Returns (...): 0 for the first layer, 1 for the last; NaN where all weights are 0, or
    there is one layer only.

    >>> float(depth_of([1, 0, 0, 3], np.array([0, 1, 2, 4]), 5))
    0.75
    """
    values = np.asarray(weights, float)
    total = values.sum(-1)
    scale = np.where((total > 0) & (n_layers > 1), total * (n_layers - 1), np.nan)
    depth: NDArray[np.float64] = np.asarray(values @ layers.astype(float) / scale)
    return depth


def counts_without_effect(
    statistics: Iterator[NDArray[np.float64]],
    n_selected: int,
    layers: NDArray[np.int64],
    n_layers: int,
    tail: Tail,
) -> NDArray[np.int64]:
    """Count the strongest units of maps without effect, layer by layer.

    `statistics`: maps (n_some, n_units), some at a time, as from `llm2bids.networks.run_statistics.relabelled`.
    `layers` (n_units,): number of the layer of each unit, from 0. Returns (n_draws, n_layers): every row sums to
    `n_selected`.
    """
    counts = []
    for maps in statistics:
        # As many units as the network has, whatever their statistic: the null is about where they lie, not how many.
        values = strength(maps, tail)
        first = values.shape[1] - n_selected
        chosen = np.argpartition(values, min(first, values.shape[1] - 1), axis=1)[:, first:]
        counts += [np.bincount(layers[units], minlength=n_layers) for units in chosen]
    return np.array(counts, np.int64).reshape(len(counts), n_layers)


def p_two_sided(observed: ArrayLike, null: NDArray[Any]) -> NDArray[np.float64]:
    """Compute two-sided permutation p-values.

    `observed` (...), `null` (n_draws, ...). Returns (...): twice the smaller of the two p-values of `p_at_least`, at
    most 1; NaN where `observed` is.
    """
    values = np.asarray(observed, float)
    p = 2 * np.minimum(p_at_least(values, null), p_at_least(-values, -null))
    capped: NDArray[np.float64] = np.minimum(p, 1.0)
    return capped


def p_over_layers(counts: NDArray[np.int64], null: NDArray[np.int64]) -> NDArray[np.float64]:
    """Test all layers against maps without effect, corrected for the number of layers.

    `counts` (n_layers,): units of the network in each layer. `null` (n_draws, n_layers): those of maps without effect.
    Returns (n_layers,): two-sided p-values (max statistic; Westfall and Young 1993).
    """
    # Counts are compared in standard deviations of their layer, else the widest layer would decide every maximum.
    # The observed counts are one of the permutations, and enter mean and deviation like all others.
    everything = np.concatenate([counts[None], null]).astype(float)
    spread = everything.std(0)
    scores = np.abs(everything - everything.mean(0)) / np.where(spread > 0, spread, np.inf)
    return p_at_least(scores[0], np.repeat(scores[1:].max(1, keepdims=True), len(counts), axis=1))
