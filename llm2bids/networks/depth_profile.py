"""Where in the model the network of each task lies, and how large its effects are in runs that did not choose it."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd

from llm2bids.bids.dataset import Dataset
from llm2bids.bids.history import noted_call
from llm2bids.errors import DesignError, InferenceError
from llm2bids.networks.answers import Answer, files_of, refuse_existing, write_answer
from llm2bids.networks.depth import (
    HeldOut,
    counts_without_effect,
    depth_of,
    interval,
    mean_and_interval,
    p_evenly,
    p_over_layers,
    p_two_sided,
    shrinkage,
    spread_evenly,
    without_each,
)
from llm2bids.networks.measures import quantiles_by_layer, units_per_layer
from llm2bids.networks.network_set import NetworkSet, find_networks
from llm2bids.networks.run_statistics import Maps, RunSums, relabelled
from llm2bids.networks.settings import check_draws
from llm2bids.plots.profiles import draw_effects, draw_profiles, draw_sites
from llm2bids.progress import progress_bar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from llm2bids.networks.network_set import Network
    from llm2bids.networks.run_statistics import RunContrast
    from llm2bids.space import UnitSpace

logger = logging.getLogger(__name__)

_RUNS: Final = 2
"""Fewest of which one can be left out."""
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


@noted_call("networks profile", files_of)
def profile(  # noqa: PLR0913 - the arguments of the command
    glm_dir: str | Path,
    *,
    participant_label: Sequence[str] = (),
    task_label: Sequence[str] = (),
    sites: Sequence[str] = (),
    contrasts: Sequence[str] = (),
    n_draws: int = 1000,
    seed: int = 0,
    overwrite: bool = False,
    progress: bool | None = None,
) -> list[Answer]:
    """Say in which layers the network of each task lies, and how large its effects are.

    Parameters
    ----------
    glm_dir : path-like
        What ``glm`` made.
    participant_label, task_label, sites, contrasts : sequence of str
        What to look at; all by default.
    n_draws : int
        Exchanges of conditions: tasks without effect.
    seed : int
        Which ones.
    overwrite : bool
        Replace an answer that is there.
    progress : bool, optional
        Whether to show a progress bar; by default if the terminal can.

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
    check_draws(n_draws)
    out = Dataset(Path(glm_dir), "derivative")
    labels: dict[str, Any] = {"subjects": participant_label, "tasks": task_label, "sites": sites}
    asked = _with_units(find_networks(out.root, **labels, contrasts=contrasts))
    joined = _of_several_sites(asked)
    refuse_existing(out, asked, "profile", overwrite=overwrite)
    refuse_existing(out, joined, "profilesites", overwrite=overwrite)
    total = n_draws * sum(len(networks.networks) for networks in asked)
    answers = []
    with progress_bar("draws", total, "profile", visible=progress) as bar:
        for networks in asked:
            answer = _answer(networks, n_draws, np.random.default_rng(seed), bar.update)
            answers.append(write_answer(out, networks, answer))
    compared = [_compare_sites(one, answers) for one in joined]
    return answers + [write_answer(out, one, answer) for one, answer in zip(joined, compared, strict=True)]


def _of_several_sites(asked: Sequence[NetworkSet]) -> list[NetworkSet]:
    """The networks of each subject that was looked at in several places."""
    subjects = dict.fromkeys(networks.subjects[0] for networks in asked)
    whole = [
        NetworkSet(tuple(one for networks in asked if networks.subjects[0] == subject for one in networks.networks))
        for subject in subjects
    ]
    return [networks for networks in whole if len(networks.sites) > 1]


def _with_units(asked: Sequence[NetworkSet]) -> list[NetworkSet]:
    """Leave out sets whose networks are all empty, with a word; refuse if there are no others."""
    kept = []
    for networks in asked:
        empty = [task for task, own in zip(networks.tasks, networks.selected, strict=True) if not own.any()]
        if empty:
            logger.warning("without any unit: the network of task %s, %s", ", ".join(empty), networks.name)
        if len(empty) < len(networks.tasks):
            kept.append(networks)
    if not kept:
        raise InferenceError(
            f"no network of {asked[0].name} holds a unit; choose by a laxer rule, such as llm2bids glm --alpha .1 into "
            "another output folder, or record more runs"
        )
    return kept


def _answer(networks: NetworkSet, n_draws: int, rng: np.random.Generator, tick: Callable[[int], object]) -> Answer:
    """Look at the networks of one subject and site."""
    found: list[tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]] = []
    why_not: dict[str, str] = {}
    for network in networks.networks:
        runs, why = _runs(network, networks.tested)
        drawn = relabelled(runs, n_draws, rng) if runs else iter(())
        study = _Study(networks, network, tuple(runs))
        found.append(study.tables(_ticked(drawn, tick)))
        why_not |= {network.task: why} if why else {}
        tick(0 if runs else n_draws)
    summary, layers, effects = (pd.concat(tables, ignore_index=True) for tables in zip(*found, strict=True))
    settings = {
        "Draws": n_draws,
        "Rule": networks.networks[0].rule.label,
        "Tail": networks.networks[0].tail,
        **({"NotHeldOut": why_not} if why_not else {}),
    }
    figures = {"figure": draw_profiles(summary, layers), "effectsfigure": draw_effects(effects, layers)}
    tables = {"summary": _ordered(summary), "layers": _ordered(layers), "effects": _ordered(effects)}
    return Answer("profile", ", ".join(networks.subjects), networks.site, tables, figures, settings, _COLUMNS)


def _ticked(statistics: Any, tick: Callable[[int], object]) -> Any:
    """The same maps, counted."""
    for maps in statistics:
        tick(len(maps))
        yield maps


def _ordered(table: pd.DataFrame) -> pd.DataFrame:
    """Columns in the order in which they are explained."""
    return table[[name for name in _COLUMNS if name in table]]


def _runs(network: Network, tested: NDArray[np.bool_]) -> tuple[list[RunContrast], str]:
    """What every prompt did, run by run; where that cannot be told, why."""
    try:
        runs = network.runs(tested)
    except (InferenceError, DesignError) as error:
        logger.warning("task %s: no intervals and no held-out effects: %s", network.task, error)
        return [], str(error)
    if len(runs) < _RUNS:
        why = f"1 run of task {network.task} found, 2 needed to leave one out; record more"
        logger.warning("no intervals and no held-out effects: %s", why)
        return runs, why
    return runs, ""


@dataclass(frozen=True, eq=False)
class _Study:
    """One network, and the runs it was found in where they can be told apart."""

    networks: NetworkSet
    network: Network
    runs: tuple[RunContrast, ...]

    @property
    def space(self) -> UnitSpace:
        """Which voxel is which unit."""
        return self.network.space

    @cached_property
    def selected(self) -> NDArray[np.bool_]:
        """Its units among the tested ones."""
        own: NDArray[np.bool_] = self.network.selected[self.networks.tested]
        return own

    @cached_property
    def layers(self) -> NDArray[np.int64]:
        """Layer of each tested unit."""
        return self.networks.layers

    @cached_property
    def widths(self) -> NDArray[np.int64]:
        """Tested units of each layer."""
        found: NDArray[np.int64] = np.bincount(self.layers, minlength=self.space.n_hookpoints)
        return found

    @cached_property
    def counts(self) -> NDArray[np.int64]:
        """Its units in each layer."""
        found: NDArray[np.int64] = self._count(self.selected[None])[0]
        return found

    @cached_property
    def effect(self) -> NDArray[np.float64]:
        """Effect of each tested unit."""
        return self.network.map("effect")[self.networks.tested]

    @cached_property
    def z(self) -> NDArray[np.float64]:
        """|z| of each tested unit."""
        return np.abs(self.network.map("z")[self.networks.tested])

    @cached_property
    def sums(self) -> RunSums | None:
        """Of each run, where one can be left out."""
        return RunSums.from_runs(self.runs) if len(self.runs) >= _RUNS else None

    @cached_property
    def left_out(self) -> tuple[NDArray[np.bool_], Maps] | None:
        """Networks and maps without each run, then with all."""
        if self.sums is None:
            return None
        maps = without_each(self.sums)
        return self.network.rule.select(maps), maps

    @cached_property
    def held_out(self) -> HeldOut | None:
        """Networks that all runs but one chose."""
        if self.sums is None or self.left_out is None:
            return None
        networks, maps = self.left_out
        return HeldOut.from_sums(self.sums, maps, networks)

    def tables(self, statistics: Any) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
        """Summary, layers, and effects."""
        drawn = None
        if self.runs:
            drawn = counts_without_effect(
                statistics, int(self.selected.sum()), self.layers, self.space.n_hookpoints, self.network.tail
            )
        return pd.DataFrame([self._summary(drawn)]), self._layers(drawn), self._effects()

    def _count(self, networks: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Units by layer."""
        return units_per_layer(networks, self.layers, self.space.n_hookpoints)

    def _depth(self, weights: NDArray[Any]) -> NDArray[np.float64]:
        """Centre of mass."""
        return depth_of(weights, self.layers, self.space.n_hookpoints)

    @property
    def _signs(self) -> dict[str, NDArray[np.bool_]]:
        """Its units by sign; of an F contrast, whose effects have none, nothing."""
        if self.network.contrast.test == "F":
            return {}
        return {"positive": self.selected & (self.effect > 0), "negative": self.selected & (self.effect < 0)}

    def _summary(self, drawn: NDArray[np.int64] | None) -> dict[str, Any]:
        """The network in one row."""
        n_units, empty = int(self.selected.sum()), not self.selected.any()
        depth, by_z = float(self._depth(self.selected)), float(self._depth(self.selected * self.z))
        ends = self._depth_intervals(depth, by_z)
        numbers = np.arange(self.space.n_hookpoints)
        p = np.nan
        if drawn is not None and not np.isnan(depth):
            p = float(p_two_sided(depth, depth_of(drawn, numbers, self.space.n_hookpoints)))
        return {
            "site": self.network.site or "n/a",
            "task": self.network.task,
            "n_runs": len(self.runs) or len(self.network.fields["Runs"]),
            "tested": len(self.selected),
            "units": n_units,
            "share": n_units / len(self.selected),
            **{name: int(own.sum()) for name, own in self._signs.items()},
            "depth": depth,
            **dict(zip(("depth_low", "depth_high"), ends[0], strict=True)),
            "depth_chance": float(self._depth(np.ones(len(self.selected)))),
            "depth_p": p,
            "depth_by_z": by_z,
            **dict(zip(("depth_by_z_low", "depth_by_z_high"), ends[1], strict=True)),
            "effect": np.nan if empty else float(np.abs(self.effect[self.selected]).mean()),
            **self._honest(),
            "texts_repeated": self._texts_repeated(),
        }

    def _depth_intervals(self, depth: float, by_z: float) -> list[tuple[float, float]]:
        """Of both depths, from leaving out each run."""
        if self.left_out is None:
            return [(np.nan, np.nan)] * 2
        networks, maps = self.left_out
        found = []
        for value, weights in ((depth, networks.astype(float)), (by_z, networks * np.abs(maps.z))):
            low, high = interval(self._depth(weights), value)
            found.append((float(np.clip(low, 0, 1)), float(np.clip(high, 0, 1))))
        return found

    def _honest(self, members: NDArray[np.bool_] | None = None) -> dict[str, float]:
        """Effects in the runs that chose units, and in those that did not."""
        names = ("effect_chosen", "effect_held_out", "held_out_low", "held_out_high", "shrinkage")
        if self.held_out is None:
            return dict.fromkeys(names, np.nan)
        chosen, held_out = self.held_out.means(members)
        inflated, (mean, low, high) = mean_and_interval(chosen)[0], mean_and_interval(held_out)
        return dict(zip(names, (inflated, mean, low, high, shrinkage(inflated, mean)), strict=True))

    def _texts_repeated(self) -> float:
        """Texts that more than one run shows."""
        if not self.runs:
            return np.nan
        shown = pd.concat([run.prompts["stimulus"].drop_duplicates() for run in self.runs])
        return int(shown[shown.duplicated()].nunique())

    def _layers(self, drawn: NDArray[np.int64] | None) -> pd.DataFrame:
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
                **{name: self._count(own[None])[0] for name, own in self._signs.items()},
                "part": self.counts / max(n_units, 1),
                "share": self.counts / widths,
                "chance": n_units / len(self.selected),
                "chance_low": low,
                "chance_high": high,
                "p_units": p_evenly(self.counts, self.widths) if n_units else np.nan,
            }
        )
        honest = [self._honest(self.layers == layer) for layer in table["layer"]]
        sizes = [self.selected & (self.layers == layer) for layer in table["layer"]]
        effect = [float(np.abs(self.effect[own]).mean()) if own.any() else np.nan for own in sizes]
        whole = pd.concat([table.assign(effect=effect), pd.DataFrame(honest)], axis=1)
        return whole.assign(**self._share_intervals(widths), **self._against_null(drawn, widths))

    def _share_intervals(self, widths: NDArray[np.float64]) -> dict[str, Any]:
        """Of the share of each layer, from leaving out each run."""
        if self.left_out is None:
            return {"low": np.nan, "high": np.nan}
        shares = self._count(self.left_out[0]) / widths
        ends = [interval(own, float(value)) for own, value in zip(shares.T, self.counts / widths, strict=True)]
        return dict(zip(("low", "high"), np.clip(np.array(ends), 0, 1).T, strict=True))

    def _against_null(self, drawn: NDArray[np.int64] | None, widths: NDArray[np.float64]) -> dict[str, Any]:
        """Each layer against tasks without effect."""
        if drawn is None or not self.selected.any():
            return dict.fromkeys(("null_low", "null_high", "p", "p_corrected"), np.nan)
        low, high = np.quantile(drawn, [0.025, 0.975], axis=0) / widths
        p = {"p": p_two_sided(self.counts, drawn), "p_corrected": p_over_layers(self.counts, drawn)}
        return {"null_low": low, "null_high": high, **p}

    def _effects(self) -> pd.DataFrame:
        """Distribution of effects over the units of each layer, positive and negative ones apart."""
        parts = [
            quantiles_by_layer(self.effect[own], self.layers[own], 0.0).assign(sign=name)
            for name, own in self._signs.items()
            if own.any()
        ]
        names = ["layer", "n_units", "mean", "q05", "q25", "q50", "q75", "q95", "sign"]
        whole = pd.concat(parts)[names] if parts else pd.DataFrame(columns=names)
        places = whole["layer"].astype(int)
        return whole.assign(
            site=self.network.site or "n/a",
            task=self.network.task,
            hookpoint=[self.space.hookpoints[place] for place in places],
            block=[self.space.blocks[place] for place in places],
        )


def _compare_sites(networks: NetworkSet, answers: Sequence[Answer]) -> Answer:
    """The sites of one subject side by side."""
    own = [answer for answer in answers if answer.subject == networks.subjects[0]]
    tables = {
        name: pd.concat([answer.tables[name] for answer in own], ignore_index=True) for name in ("summary", "layers")
    }
    figure = draw_sites(tables["summary"], tables["layers"])
    settings = {name: value for name, value in own[0].settings.items() if name != "NotHeldOut"}
    site = ", ".join(answer.site for answer in own)
    return Answer("profilesites", networks.subjects[0], site, tables, {"figure": figure}, settings, _COLUMNS)
