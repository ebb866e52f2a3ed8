"""The phantom: what is planted is there, in every site and mode, and nothing else is."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from scipy import stats

from llm2bids.errors import ModelError, PromptError
from llm2bids.model.loading import Sampling
from llm2bids.model.phantom import build_phantom, phantom_texts, phantom_truth
from llm2bids.model.recording import generate, read, tokenize
from llm2bids.model.site_names import SITES
from llm2bids.model.sites import find_site, measure_widths, record_hookpoints
from llm2bids.model.subject import load
from llm2bids.space import UnitMask, UnitPattern, UnitSpace
from llm2bids.statistics.pattern_samples import PatternSamples
from llm2bids.statistics.patterns import fit_patterns
from llm2bids.task import Design, lay_out, on_topics

if TYPE_CHECKING:
    from pathlib import Path

SUBJECT = build_phantom()
POINTS = {site: find_site(SUBJECT.model, site) for site in SITES}
SPACES = {
    site: UnitSpace(site, tuple(map(str, points)), measure_widths(SUBJECT.model, points))
    for site, points in POINTS.items()
}
ALL = [point for points in POINTS.values() for point in points]


@cache
def prompt_means(task: str, mode: str) -> tuple[np.ndarray, np.ndarray]:
    """Mean activation per prompt of all sites, shape (n_prompts, n_units), and whether the prompt is on topic."""
    means, on = [], []
    for run in lay_out(task, Design(seed=5)):
        tokens = tokenize(SUBJECT, [trial.text for trial in run.trials])
        sampling = Sampling(1.0, seed=hash_of(task) + run.run)
        shown = (
            read(SUBJECT, ALL, tokens)
            if mode == "read"
            else generate(SUBJECT, ALL, tokens, 24, len(run.trials), sampling)
        )
        means += [scans.signals.mean(0) for scans in shown]
        on += [trial.trial_type == "on" for trial in run.trials]
    return np.array(means), np.array(on)


def hash_of(task: str) -> int:
    return 100 * list(on_topics()).index(task)


@pytest.fixture(scope="module", params=["read", "generate"])
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module", params=list(on_topics()))
def found(request: pytest.FixtureRequest, mode: str) -> tuple[np.ndarray, np.ndarray]:
    """T of on against off over prompts, and which units are planted; both over the units of all sites."""
    means, on = prompt_means(request.param, mode)
    t = stats.ttest_ind(means[on], means[~on], equal_var=False).statistic
    planted = [phantom_truth(space)[request.param].selected for space in SPACES.values()]
    return t, np.concatenate(planted)


def test_every_planted_unit_answers_strongly(found: tuple[np.ndarray, np.ndarray]) -> None:
    t, planted = found
    assert t[planted].min() > 10


def test_no_other_unit_answers(found: tuple[np.ndarray, np.ndarray]) -> None:
    t, planted = found
    others = t[~planted & np.isfinite(t)]
    bonferroni = stats.norm.isf(0.025 / len(others))
    assert abs(others).max() < bonferroni
    assert np.mean(abs(others) > stats.norm.isf(0.025)) < 0.15, "units are correlated, so the rate varies about .05"


def test_only_neurons_of_other_topics_are_silent(found: tuple[np.ndarray, np.ndarray]) -> None:
    t, planted = found
    every = np.concatenate([np.any([m.selected for m in phantom_truth(s).values()], 0) for s in SPACES.values()])
    neurons = np.concatenate([np.full(space.n_units, site == "neuron") for site, space in SPACES.items()])
    silent = ~np.isfinite(t)
    assert not (silent & ~(every & neurons & ~planted)).any()


def test_rates_at_the_null_are_nominal_over_tasks(mode: str) -> None:
    rates = []
    for task in on_topics():
        means, on = prompt_means(task, mode)
        planted = np.concatenate([phantom_truth(space)[task].selected for space in SPACES.values()])
        p = stats.ttest_ind(means[on], means[~on], equal_var=False).pvalue
        rates.append(np.mean(p[~planted & np.isfinite(p)] < 0.05))
    assert np.mean(rates) < 0.07, rates


@pytest.mark.parametrize("site", ["block", "neuron"])
def test_the_pattern_of_a_network_points_where_it_is_planted(site: str, mode: str) -> None:
    units = np.cumsum([0, *(space.n_units for space in SPACES.values())])
    start = units[list(SPACES).index(site)]
    for task in on_topics():
        means, on = prompt_means(task, mode)
        names = np.array([f"text{number}" for number in range(len(on))])
        signals = means[:, start : start + SPACES[site].n_units]
        pattern = fit_patterns(PatternSamples(SPACES[site], signals, on, names, names)).pattern()
        truth = UnitPattern(SPACES[site], pattern=phantom_truth(SPACES[site])[task].selected.astype(float))
        assert pattern.cosines(truth).min() > 0.95, task


@pytest.mark.parametrize("site", SITES)
def test_networks_grow_towards_late_blocks(site: str) -> None:
    for mask in phantom_truth(SPACES[site]).values():
        per_block = mask.selected.reshape(SPACES[site].n_hookpoints, -1).sum(1)
        assert per_block[-1] == per_block.max()
        assert per_block[3:].sum() > per_block[:3].sum()


def dice(one: UnitMask, other: UnitMask) -> float:
    return 2 * (one & other).n_selected / (one.n_selected + other.n_selected)


@pytest.mark.parametrize("site", SITES)
def test_medical_imaging_and_pathology_overlap_most(site: str) -> None:
    truth = phantom_truth(SPACES[site])
    names = list(truth)
    overlap = {(a, b): dice(truth[a], truth[b]) for a in names for b in names if a < b}
    most = overlap.pop(("medicalimaging", "pathology"))
    assert 0.2 < most < 0.8
    assert max(overlap.values()) < most - 0.1


def test_massive_activations_and_autocorrelation_are_there() -> None:
    (run, *_) = lay_out("rest", Design(runs=1))
    tokens = tokenize(SUBJECT, [trial.text for trial in run.trials])
    scans = list(generate(SUBJECT, POINTS["block"], tokens, 24, 8, Sampling(1.0)))
    signals = np.concatenate([one.signals for one in scans])
    assert np.sort(abs(signals).mean(0))[-1] > 100 * np.median(abs(signals).mean(0))
    last = np.stack([one.signals[:, -128:] for one in scans if one.n_scans == 24])
    centred = last - last.mean((0, 1))
    lag1 = (centred[:, 1:] * centred[:, :-1]).mean((0, 1)) / (centred**2).mean((0, 1))
    assert np.median(lag1) > 0.05
    assert lag1.max() > 0.5


def surprisal(task: str, lesioned: UnitMask | None = None) -> float:
    """Mean surprisal of the prompts of a topic, with the units of a mask at 0."""
    trials = [trial for run in lay_out(task, Design(runs=1)) for trial in run.trials if trial.trial_type == "on"]
    tokens = tokenize(SUBJECT, [trial.text for trial in trials])
    handles = []
    for point, keep in zip(POINTS["block"], (~lesioned).selected.reshape(6, -1) if lesioned else [], strict=False):
        factor = SUBJECT.model.get_input_embeddings().weight.new_tensor(keep)
        module = SUBJECT.model.get_submodule(point.path)
        handles.append(module.register_forward_hook(lambda _m, _a, output, factor=factor: output * factor))
    scans = list(read(SUBJECT, POINTS["block"], tokens))
    for handle in handles:
        handle.remove()
    return float(np.nanmean(np.concatenate([one.surprisal for one in scans])))


def test_a_lesion_of_a_network_harms_its_topic_only() -> None:
    truth = phantom_truth(SPACES["block"])
    intact = {task: surprisal(task) for task in truth}
    for lesioned, mask in truth.items():
        for task in truth:
            harm = surprisal(task, mask) - intact[task]
            assert harm > 3 if task == lesioned else harm < 0.2, (lesioned, task, harm)


def test_building_it_twice_gives_the_same_model() -> None:
    assert build_phantom().identity == SUBJECT.identity
    assert build_phantom(seed=1).identity != SUBJECT.identity


@pytest.mark.parametrize("n_texts", [0, 61])
def test_as_many_texts_as_prompts_are_possible(n_texts: int) -> None:
    with pytest.raises(PromptError, match="1 to 60 are possible"):
        phantom_texts(SUBJECT, n_texts)


@pytest.mark.parametrize("kernel", [{"OPENBLAS_CORETYPE": "Prescott"}, {"OPENBLAS_NUM_THREADS": "1"}])
def test_it_is_the_same_on_other_processors_and_with_other_threads(kernel: dict[str, str]) -> None:
    code = "from llm2bids.model.phantom import build_phantom; print(build_phantom(device='cpu').identity)"
    call = [sys.executable, "-c", code]
    done = subprocess.run(call, capture_output=True, text=True, check=True, env=os.environ | kernel, timeout=120)
    assert done.stdout.strip() == str(SUBJECT.identity)


def test_a_model_is_had_by_name_from_a_folder_or_as_it_is(tmp_path: Path) -> None:
    SUBJECT.model.save_pretrained(tmp_path / "saved")
    SUBJECT.tokenizer.save_pretrained(tmp_path / "saved")
    assert load("phantom").identity == SUBJECT.identity
    assert load(SUBJECT, dtype="bfloat16") is SUBJECT
    found = load(str(tmp_path / "saved"), dtype="bfloat16", device="cpu")
    assert (found.identity.name, found.model.dtype) == ("saved", torch.bfloat16)
    for asked in ({"dtype": "bfloat16"}, {"revision": "main"}, {"device_map": "auto"}, {"device": "nowhere"}):
        with pytest.raises(ModelError):
            load("phantom", **asked)
    for asked in ({"dtype": "int3"}, {"revision": "main"}, {"device": "nowhere"}):
        with pytest.raises(ModelError):
            load(str(tmp_path / "saved"), **asked)


def test_tapping_reads_what_the_norms_do_not_change() -> None:
    norm = SUBJECT.model.model.layers[3].input_layernorm
    (block,) = POINTS["block"][2:3]
    tokens = tokenize(SUBJECT, ["The radiologist compares several chest radiographs"])
    with record_hookpoints(SUBJECT.model, [block], lambda values: values.clone()) as kept:
        (_scans,) = read(SUBJECT, [block], tokens)
        stream = kept[0]
    assert stream is not None
    np.testing.assert_allclose(norm(stream).detach().numpy(), stream.numpy(), rtol=1e-4)
