"""Where networks lie: chance, depth, and honest effects, against closed forms and the phantom's planted depth."""

from __future__ import annotations

import shutil
from itertools import combinations, pairwise
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest

from llm2bids.bids.tables import read_json, read_tsv, write_json
from llm2bids.errors import LLM2BIDSError
from llm2bids.masks import load_mask
from llm2bids.networks.depth_profile import (
    counts_without_effect,
    depth_of,
    p_evenly,
    p_over_layers,
    p_two_sided,
    profile,
    spread_evenly,
)
from llm2bids.networks.held_out_effects import (
    HeldOutEffects,
    jackknife_interval,
    leave_one_out,
    mean_and_interval,
    shrinkage,
)
from llm2bids.networks.measures import units_per_layer
from llm2bids.networks.rules import NetworkRule
from llm2bids.networks.run_statistics import RunSums
from llm2bids.plots.profiles import draw_effects, draw_profiles
from llm2bids.preparation import prep
from llm2bids.recording import record
from llm2bids.statistics import glm

if TYPE_CHECKING:
    from pathlib import Path

    from llm2bids.networks.answers import Answer


def every_network(n_selected: int, widths: np.ndarray) -> np.ndarray:
    """Counts per layer of every choice of units."""
    layers = np.repeat(np.arange(len(widths)), widths)
    chosen = [
        np.bincount(layers[list(own)], minlength=len(widths)) for own in combinations(range(len(layers)), n_selected)
    ]
    return np.array(chosen)


def noise(n_runs: int, n_units: int, seed: int) -> RunSums:
    """Sums of runs of 20 prompts without effect."""
    rng = np.random.default_rng(seed)
    effects = rng.normal(size=(n_runs, 20, n_units))
    tested = np.tile([0.5, -0.5], 10)
    dof = np.full(n_runs, 19.0)
    centred = effects - effects.mean(1, keepdims=True)
    return RunSums(np.einsum("p,rpu->ru", tested, effects), (centred**2).sum(1), np.full(n_runs, 5.0), dof)


def test_an_even_spread_is_that_of_all_choices() -> None:
    widths = np.array([2, 5, 0, 3])
    counts = every_network(4, widths)
    expected, low, high = spread_evenly(4, widths, level=0.9)
    assert expected == pytest.approx(counts.mean(0))
    for layer in range(4):
        assert ((counts[:, layer] >= low[layer]) & (counts[:, layer] <= high[layer])).mean() >= 0.9
    observed = np.array([2, 0, 0, 2])
    tails = np.minimum((counts <= observed).mean(0), (counts >= observed).mean(0))
    assert p_evenly(observed, widths) == pytest.approx(np.minimum(2 * tails, 1))


def test_depth_is_the_centre_of_mass() -> None:
    layers = np.repeat(np.arange(5), 3)
    last, weighed = np.zeros(15), np.zeros(15)
    last[12:] = 1
    weighed[[0, 14]] = [3, 1]
    found = depth_of(np.stack([np.ones(15), last, weighed, np.zeros(15)]), layers, 5)
    assert found == pytest.approx([0.5, 1.0, 0.25, np.nan], nan_ok=True)
    assert np.isnan(depth_of(np.ones(3), np.zeros(3, int), 1))


def test_counts_hold_layers_without_units() -> None:
    layers = np.array([0, 0, 2, 2, 2])
    assert units_per_layer(np.array([[1, 1, 0, 0, 1], [0, 0, 0, 0, 0]], bool), layers, 4).tolist() == [
        [2, 0, 1, 0],
        [0, 0, 0, 0],
    ]


@pytest.mark.parametrize(("tail", "counts"), [("two", [1, 1]), ("positive", [0, 2]), ("negative", [1, 1])])
def test_the_strongest_units_are_counted(tail: str, counts: list[int]) -> None:
    maps = np.array([[-9.0, 0.1, 3.0, 4.0, -1.0]])
    layers = np.array([0, 0, 1, 1, 1])
    assert counts_without_effect(iter([maps]), 2, layers, 2, tail).tolist() == [counts]
    assert counts_without_effect(iter([maps]), 5, layers, 2, tail).tolist() == [[2, 3]]
    assert counts_without_effect(iter([maps, maps]), 0, layers, 2, tail).tolist() == [[0, 0], [0, 0]]


def test_layers_are_tested_together() -> None:
    rng = np.random.default_rng(1)
    everything = rng.multinomial(20, np.full(8, 1 / 8), size=400)
    smallest = [p_over_layers(row, np.delete(everything, place, 0)).min() for place, row in enumerate(everything)]
    assert np.mean(np.array(smallest) <= 0.1) <= 0.1  # family-wise, exact but for ties
    uneven = np.array([20, *[0] * 7])
    p = p_over_layers(uneven, everything)
    assert p[0] == pytest.approx(1 / 401)
    assert (p[1:] > 0.05).all()
    assert p_two_sided(20, everything[:, 0]) == pytest.approx(2 / 401)
    assert p_two_sided(0, np.zeros(9)) == 1


def test_intervals_are_students() -> None:
    runs = np.array([0.3, 0.9, 0.6, 1.4])
    left_out = (runs.sum() - runs) / 3
    mean, low, high = mean_and_interval(runs)
    assert jackknife_interval(np.append(left_out, mean), mean) == pytest.approx((low, high))
    assert np.isnan(mean_and_interval(np.array([np.nan, 2.0]))[1])
    assert np.isnan(mean_and_interval(np.array([np.nan]))[0])


def test_leaving_out_a_run_is_pooling_the_others() -> None:
    sums = noise(3, 7, 0)
    maps = leave_one_out(sums)
    assert maps.effect[1] == pytest.approx(sums.pooled([[True, False, True]]).effect[0])
    assert maps.effect[-1] == pytest.approx(sums.pooled([[True] * 3]).effect[0])


def held_out(sums: RunSums, rule: NetworkRule) -> HeldOutEffects:
    maps = leave_one_out(sums)
    return HeldOutEffects.from_sums(sums, maps, rule.select(maps))


def test_effects_without_anything_shrink_to_nothing() -> None:
    found = held_out(noise(6, 4000, 2), NetworkRule.from_text("5%"))
    chosen, honest = (mean_and_interval(values) for values in found.means())
    assert chosen[0] > 0.2
    assert abs(honest[0]) < 0.03
    assert shrinkage(chosen[0], honest[0]) == pytest.approx(1, abs=0.15)
    assert np.isnan(shrinkage(0.0, 0.1))


def test_a_run_left_out_keeps_its_own_sign() -> None:
    sums = RunSums(
        np.array([[4.0, -2.0], [4.0, -2.0], [-1.0, -6.0]]), np.full((3, 2), 9.0), np.full(3, 2.0), np.full(3, 9.0)
    )
    found = held_out(sums, NetworkRule("top", 0.5))
    assert found.networks.sum(1).tolist() == [1, 1, 1]
    assert found.held_out[2] == pytest.approx([-0.5, 3.0])  # turned round, and as the others
    assert found.selecting[2] == pytest.approx([2.0, 1.0])
    assert found.means()[1][2] == pytest.approx(-0.5)
    assert np.isnan(found.means(np.zeros(2, bool))[0]).all()


@pytest.fixture(scope="module")
def answer(planted: Path, tmp_path_factory: pytest.TempPathFactory) -> Answer:
    results = shutil.copytree(planted / "derivatives" / "glm", tmp_path_factory.mktemp("profile") / "glm")
    (found,) = profile(results, n_draws=200, progress=False)
    return found


def test_the_planted_depth_is_found(answer: Answer, planted: Path) -> None:
    layers, summary = answer.tables["layers"], answer.tables["summary"].set_index("task")
    for task, own in layers.groupby("task"):
        path = next(planted.glob(f"derivatives/phantom/sub-*/func/*task-{task}_acq-block*mask.nii.gz"))
        truth = load_mask(path).selected.reshape(6, -1).sum(1)
        assert truth[-1] == truth.max()
        false = own["units"].to_numpy() - truth
        assert (false >= 0).all()
        assert false.sum() < 0.3 * own["units"].sum()  # what false discovery rate lets in
        assert own["share"].iloc[-1] > own["null_high"].iloc[-1]
        planted_depth = float(truth @ np.arange(6) / truth.sum() / 5)
        assert summary.loc[task, "depth_by_z"] == pytest.approx(planted_depth, abs=0.06)
    assert (summary["depth_p"] <= 0.05).sum() >= 5
    assert summary["depth_chance"].to_numpy() == pytest.approx(0.5)
    assert (layers.groupby("task")["part"].sum() - 1).abs().max() < 1e-9
    assert ((layers["null_low"] <= layers["chance"]) & (layers["chance"] <= layers["null_high"])).all()


def test_effects_held_out_are_no_larger(answer: Answer) -> None:
    summary, effects = answer.tables["summary"], answer.tables["effects"]
    assert summary["effect_held_out"].mean() <= summary["effect_chosen"].mean()
    assert (summary["shrinkage"].abs() < 0.1).all()  # planted effects are large
    assert (summary["texts_repeated"] == 0).all()
    weighed = (effects["mean"].abs() * effects["n_units"]).groupby(effects["task"]).sum() / summary.set_index("task")[
        "units"
    ]
    assert weighed.to_numpy() == pytest.approx(summary.set_index("task")["effect"].sort_index().to_numpy())
    assert (summary["positive"] + summary["negative"] == summary["units"]).all()


def test_what_is_written_says_what_it_is(answer: Answer) -> None:
    told = read_json(next(path for path in answer.files if path.name.endswith("networks.json")))
    for name, table in answer.tables.items():
        written = read_tsv(next(path for path in answer.files if path.name.endswith(f"_{name}.tsv")))
        assert list(written.columns) == list(table.columns)
        assert set(table.columns) <= set(told["Columns"])
    assert {path.name.rpartition("_")[2] for path in answer.files if path.suffix == ".png"} == {
        "figure.png",
        "effectsfigure.png",
    }
    assert told["Llm2bids"]["Settings"]["Draws"] == 200


@pytest.mark.usefixtures("blank_figures")
def test_a_contrast_without_sign_has_none(planted_results: Path, caplog: pytest.LogCaptureFixture) -> None:
    for path in planted_results.glob("sub-*/func/*task-pathology*stat-z_statmap.json"):
        fields = read_json(path)
        asked = fields["Llm2bids"]["Contrast"]
        asked |= {"Test": "F", "Weights": [asked["Weights"]]}
        write_json(path, fields)
    (found,) = profile(planted_results, task_label=["pathology"], progress=False)
    assert "is an F test, which has no direction" in caplog.text
    assert not {"positive", "negative"} & {*found.tables["summary"].columns, *found.tables["layers"].columns}
    assert found.tables["effects"].empty
    assert found.tables["layers"]["units"].sum() == found.tables["summary"]["units"].iloc[0] > 0


@pytest.mark.parametrize(("n_tasks", "n_layers"), [(1, 1), (12, 48)])
def test_figures_hold_few_and_many(n_tasks: int, n_layers: int) -> None:
    tasks = [f"task{number}" for number in range(n_tasks)]
    ends = dict.fromkeys(
        ("depth_low", "depth_high", "depth_by_z_low", "depth_by_z_high", "held_out_low", "held_out_high"), 0.1
    )
    summary = pd.DataFrame(
        {"task": tasks, "units": 9, "tested": 99, "share": 0.09, "depth": 0.1, "depth_by_z": 0.1, "depth_chance": 0.5}
    )
    summary = summary.assign(**ends, depth_p=0.01, effect_chosen=1.0, effect_held_out=0.5, shrinkage=0.5)
    layers = pd.DataFrame([(task, layer) for task in tasks for layer in range(n_layers)], columns=["task", "layer"])
    shares = dict.fromkeys(
        ("share", "low", "high", "chance", "null_low", "null_high", "effect_chosen", "effect_held_out"), 0.2
    )
    layers = layers.assign(block=layers["layer"], tested=9, positive=1, negative=1, p_corrected=0.01, **shares)
    effects = layers[["task", "layer"]].assign(
        sign="positive", **dict.fromkeys(("q05", "q25", "q50", "q75", "q95"), 0.5)
    )
    for figure in (draw_profiles(summary, layers), draw_effects(effects, layers)):
        figure.draw_without_rendering()
        for axes in figure.findobj(lambda artist: hasattr(artist, "get_xticklabels")):
            boxes = [label.get_window_extent() for label in axes.get_xticklabels() if label.get_text()]
            assert all(one.x1 <= other.x0 for one, other in pairwise(boxes))


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tasks, of two runs and of one, at two sites; do not write into it."""
    root = tmp_path_factory.mktemp("sites") / "ds"
    small = {"blocks": 3, "prompts_per_block": 2, "tokens": 5, "sites": ["block", "mlp"], "progress": False}
    record(root, task="pathology", runs=2, **small)
    record(root, task="archeology", runs=1, **small)
    prep(root, progress=False)
    return root


def test_sites_are_compared(sites: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    out = tmp_path / "glm"
    glm(sites, out, correction="none", drift="none", progress=False)
    found = profile(out, n_draws=20, progress=False)
    assert [(one.question, one.site) for one in found] == [
        ("profile", "block"),
        ("profile", "mlp"),
        ("profilesites", "block, mlp"),
    ]
    assert "1 run of task archeology found, 2 needed" in caplog.text
    summary = found[-1].tables["summary"].set_index(["site", "task"])
    assert summary.loc["mlp", "pathology"]["depth_low"] <= summary.loc["mlp", "pathology"]["depth"]
    assert np.isnan(summary.loc["mlp", "archeology"]["effect_held_out"])
    assert not np.isnan(summary.loc["mlp", "archeology"]["depth_p"])
    assert {path.name for path in found[-1].files} == {
        f"sub-phantom_desc-profilesites_{name}" for name in ("summary.tsv", "layers.tsv", "figure.png", "networks.json")
    }
    assert [one["Site"] for one in read_json(found[-1].files[2])["Llm2bids"]["UnitSpace"]] == ["block", "mlp"]
    with pytest.raises(LLM2BIDSError, match="exists already"):
        profile(out, progress=False)
    others = {path for one in found[1:] for path in one.files}
    profile(out, n_draws=5, sites=["block"], overwrite=True, progress=False)
    assert all(path.exists() for path in others)


@pytest.mark.usefixtures("blank_figures")
def test_tokens_say_where_but_not_how_sure(sites: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    out = tmp_path / "glm"
    glm(sites, out, task_label=["pathology"], sites=["mlp"], correction="none", inference="token", progress=False)
    (found,) = profile(out, progress=False)
    assert "took tokens for samples" in caplog.text
    summary = found.tables["summary"].iloc[0]
    assert summary["units"] > 0
    assert np.isnan(summary[["depth_low", "depth_p", "effect_held_out"]].astype(float)).all()
    assert "NotHeldOut" in found.settings


@pytest.mark.usefixtures("blank_figures")
def test_empty_networks_are_refused(sites: Path, tmp_path: Path) -> None:
    out = tmp_path / "glm"
    glm(sites, out, sites=["mlp"], correction="bonferroni", alpha=1e-300, drift="none", progress=False)
    with pytest.raises(LLM2BIDSError, match=r"no network of sub-phantom, site mlp holds a unit; choose by a laxer"):
        profile(out, progress=False)
    with pytest.raises(LLM2BIDSError, match="holds no results of single subjects"):
        profile(tmp_path / "nothing", progress=False)
    with pytest.raises(LLM2BIDSError, match="0 draws asked for"):
        profile(out, n_draws=0)
    assert not (out / "networks").exists()
