"""Lesions along patterns equal projections by hand, at every site of five families; and they are gone afterwards."""
# ruff: noqa: ARG005

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from llm2bids.errors import LesionError, LLM2BIDSError, SpaceError
from llm2bids.model.lesions import lesion, mean_activations, token_activations
from llm2bids.model.recording import read, tokenize
from llm2bids.model.sites import find_site, record_hookpoints
from llm2bids.space import UnitMask, UnitPattern, UnitSpace

from .families import texts, tiny_subject
from .test_lesions import IDS, logits, n_hooks, sites_of, space_of

if TYPE_CHECKING:
    from llm2bids.model.loading import Subject

PATTERN_FAMILIES = ("llama", "gpt2", "opt", "phi3", "gpt_neox")


@pytest.fixture(scope="module", params=PATTERN_FAMILIES)
def subject(request: pytest.FixtureRequest) -> Subject:
    return tiny_subject(request.param)


@pytest.fixture(scope="module")
def llama() -> Subject:
    return tiny_subject("llama")


def some_pattern(space: UnitSpace, n_directions: int = 1, seed: int = 0) -> UnitPattern:
    """Directions at the last hookpoint only, so that what comes before it is the intact model."""
    rng = np.random.default_rng(seed)
    last = np.arange(space.n_units) >= space.n_units - space.n_channels[-1]
    rows = rng.normal(size=(2, n_directions, space.n_units)) * last
    spread = rng.random((n_directions, space.n_hookpoints)) + 0.5
    return UnitPattern(space, *rows, reference=rng.normal(size=space.n_units), spread=spread)


def activations(subject: Subject, space: UnitSpace) -> np.ndarray:
    """What the last hookpoint passes on, shape (2, 5, n_channels)."""
    with record_hookpoints(subject.model, find_site(subject.model, space.site), torch.clone) as kept:
        logits(subject)
        return kept[-1].double().numpy()


def by_hand(values: np.ndarray, pattern: UnitPattern, method: str, along: str, dose: float, keep: bool) -> np.ndarray:  # noqa: FBT001
    """Change activations of one hookpoint by textbook projections, one row vector at a time."""
    n = pattern.space.n_channels[-1]
    filters, patterns = pattern.filter[:, -n:].T, pattern.pattern[:, -n:].T  # columns are directions
    reads, writes = {"filter": (filters, filters), "pattern": (patterns, patterns), "oblique": (filters, patterns)}[
        along
    ]
    projector = writes @ np.linalg.inv(reads.T @ writes) @ reads.T
    origin = pattern.reference[-n:] if method == "mean" else np.zeros(n)
    changed = values.copy()
    for text, token in np.ndindex(values.shape[:2]):
        if token:  # the first token of a text stays
            component = projector @ (values[text, token] - origin)
            rest = values[text, token] - origin - component
            changed[text, token] -= dose * (rest if keep else component)
    return changed


@pytest.mark.parametrize(
    ("method", "along", "n_directions", "dose", "keep"),
    [
        ("mean", "filter", 1, 1.0, False),
        ("mean", "filter", 1, 1.0, True),
        ("zero", "pattern", 1, 0.5, False),
        ("mean", "oblique", 1, 1.0, False),
        ("mean", "oblique", 2, 1.0, False),
        ("zero", "filter", 2, 1.0, True),
    ],
)
def test_a_component_is_changed_as_by_hand(
    subject: Subject,
    method: str,
    along: Any,
    n_directions: int,
    dose: float,
    keep: bool,  # noqa: FBT001
) -> None:
    for site in sites_of(subject):
        pattern = some_pattern(space_of(subject, site), n_directions)
        wanted = by_hand(activations(subject, pattern.space), pattern, method, along, dose, keep)
        with lesion(subject, pattern, method, along=along, dose=dose, keep=keep):
            np.testing.assert_allclose(activations(subject, pattern.space), wanted, rtol=1e-4, atol=1e-5)
    assert not n_hooks(subject.model)


def test_removing_a_pattern_of_a_block_equals_the_rest_of_the_stack_run_by_hand(llama: Subject) -> None:
    pattern = some_pattern(space_of(llama, "block"))
    stream = by_hand(activations(llama, pattern.space), pattern, "mean", "filter", 1.0, False)
    with torch.inference_mode():
        wanted = llama.model.lm_head(llama.model.model.norm(torch.from_numpy(stream).float()))
    intact = logits(llama)
    with lesion(llama, pattern):
        torch.testing.assert_close(logits(llama), wanted, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(intact, wanted, rtol=1e-5, atol=1e-5)
    assert torch.equal(logits(llama), intact)


# The library compiles functions when it is imported, in a way that torch no longer recommends.
@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
def test_oblique_removal_is_least_squares_concept_erasure(llama: Subject) -> None:
    """With the library's covariance and the overall mean, what LEACE does and what we do is the same."""
    import concept_erasure

    rng = np.random.default_rng(0)
    space = space_of(llama, "block")
    n = space.n_channels[-1]
    x = torch.from_numpy(rng.normal(size=(80, n)) @ rng.normal(size=(n, n)))
    z = torch.from_numpy((np.arange(80) < 30).astype(float))
    x[:30] += torch.from_numpy(rng.normal(size=n))
    fitter = concept_erasure.LeaceFitter.fit(x, z)
    effect = (x[:30].mean(0) - x[30:].mean(0)).numpy()
    rows = np.zeros((3, space.n_units))
    rows[:, -n:] = effect, np.linalg.solve(fitter.sigma_xx.numpy(), effect), fitter.mean_x.numpy()
    values = activations(llama, space)
    wanted = fitter.eraser(torch.from_numpy(values)).numpy()
    with lesion(llama, UnitPattern(space, rows[:1], rows[1:2], reference=rows[2]), along="oblique"):
        erased = activations(llama, space)
    np.testing.assert_allclose(erased[:, 1:], wanted[:, 1:], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("along", ["filter", "oblique"])
def test_steering_changes_the_expression_by_standard_deviations(llama: Subject, along: Any) -> None:
    pattern = some_pattern(space_of(llama, "block"), 2)
    n = pattern.space.n_channels[-1]

    def expression() -> np.ndarray:
        values = np.zeros((10, pattern.space.n_units))
        values[:, -n:] = activations(llama, pattern.space).reshape(-1, n)
        return pattern.expression(values)[..., -1].reshape(2, 5, 2)

    if along == "filter":  # two directions at right angles, else a step along one is read by the other
        pattern = replace(pattern, filter=np.eye(pattern.space.n_units)[-2:])
    before = expression()
    with lesion(llama, pattern, "steer:1.5", along=along):
        change = expression() - before
    np.testing.assert_allclose(change[:, 1:], 1.5, rtol=1e-4)
    np.testing.assert_array_equal(change[:, 0], 0)


def test_resampled_components_are_those_of_other_tokens_and_the_rest_stays(llama: Subject) -> None:
    pattern = some_pattern(space_of(llama, "block"))
    n = pattern.space.n_channels[-1]
    direction = pattern.filter[0, -n:] / np.linalg.norm(pattern.filter[0, -n:])
    samples = np.random.default_rng(3).normal(size=(7, pattern.space.n_units))
    before = activations(llama, pattern.space)
    with lesion(llama, pattern, "resample", samples=samples):
        after = activations(llama, pattern.space)
    components = samples[:, -n:] @ direction
    distance = np.abs((after[:, 1:] @ direction)[..., None] - components).min(-1)
    assert distance.max() < 1e-4
    change = (after - before)[:, 1:]
    np.testing.assert_allclose(change - (change @ direction)[..., None] * direction, 0, atol=1e-5)


def test_resampled_units_are_those_of_one_other_token_at_all_hookpoints(llama: Subject) -> None:
    space = space_of(llama, "neuron")
    samples = np.repeat(np.arange(9.0)[:, None], space.n_units, axis=1)
    everything = UnitMask(space, np.ones(space.n_units, bool))
    points = find_site(llama.model, "neuron")
    with (
        lesion(llama, everything, "resample", samples=samples),
        record_hookpoints(llama.model, points, torch.clone) as kept,
    ):
        logits(llama)
        values = torch.cat(list(kept), dim=-1).numpy()
    assert (values == values[..., :1]).all()
    assert len(np.unique(values)) > 3


def test_activations_of_tokens_are_those_of_the_recording(llama: Subject) -> None:
    space, lines = space_of(llama, "block"), texts(5)
    tokens = token_activations(llama, lines, space, n_tokens=10_000)
    points = find_site(llama.model, "block")
    scans = [scans.signals for scans in read(llama, points, tokenize(llama, lines), 2)]
    recorded = np.concatenate(scans)
    assert 0 < len(tokens) <= len(recorded)
    for row in tokens[:20]:
        assert np.abs(recorded - row).max(1).min() < 1e-4
    few = token_activations(llama, lines, space, n_tokens=3)
    assert few.shape == (3, space.n_units)


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_first_token_is_that_of_the_text_not_padding(llama: Subject, side: str) -> None:
    pattern = some_pattern(space_of(llama, "block"))
    short, long = IDS[:1, :3], IDS[1:]
    with lesion(llama, pattern):
        with torch.inference_mode():
            alone = llama.model(input_ids=short).logits[0]
        pad = torch.zeros((1, 2), dtype=torch.long)
        padded = torch.cat([pad, short] if side == "left" else [short, pad], dim=1)
        mask = torch.cat([pad, torch.ones_like(short)] if side == "left" else [torch.ones_like(short), pad], dim=1)
        ids, attention = torch.cat([padded, long]), torch.cat([mask, torch.ones_like(long)])
        positions = (attention.cumsum(1) - 1).clamp_min(0)
        with torch.inference_mode():
            together = llama.model(input_ids=ids, attention_mask=attention, position_ids=positions).logits[0]
    torch.testing.assert_close(together[2:] if side == "left" else together[:3], alone, rtol=1e-4, atol=1e-4)


def test_with_and_without_a_cache_the_same_tokens_are_changed(llama: Subject) -> None:
    pattern = some_pattern(space_of(llama, "block"))
    with lesion(llama, pattern), torch.inference_mode():
        whole = llama.model(input_ids=IDS).logits
        first = llama.model(input_ids=IDS[:, :2], use_cache=True)
        rest = llama.model(input_ids=IDS[:, 2:], past_key_values=first.past_key_values).logits
    torch.testing.assert_close(torch.cat([first.logits, rest], dim=1), whole, rtol=1e-4, atol=1e-5)


def test_components_of_large_activations_survive_bfloat16() -> None:
    subject = tiny_subject("llama")
    subject.model.to(torch.bfloat16)
    pattern = some_pattern(space_of(subject, "block"))
    before = activations(subject, pattern.space)
    wanted = by_hand(before, pattern, "mean", "filter", 1.0, False)
    with lesion(subject, pattern):
        after = activations(subject, pattern.space)
    assert np.abs(after - wanted).max() <= np.abs(wanted).max() * 2**-8


def test_blocks_are_chosen(llama: Subject) -> None:
    space = space_of(llama, "block")
    pattern = UnitPattern(
        space, np.random.default_rng(0).normal(size=(1, space.n_units)), reference=np.zeros(space.n_units)
    )
    points = find_site(llama.model, "block")
    with record_hookpoints(llama.model, points, torch.clone) as kept:
        logits(llama)
        intact = [value.clone() for value in kept]
    with lesion(llama, pattern.at_blocks([1])), record_hookpoints(llama.model, points, torch.clone) as kept:
        logits(llama)
        assert torch.equal(kept[0], intact[0])
        assert not torch.equal(kept[1], intact[1])
    with pytest.raises(SpaceError, match="blocks 99 found"):
        pattern.at_blocks([99])


REFUSALS: dict[str, Any] = {
    "a method of units": lambda pattern, mask: (pattern, "scale:2", {}),
    "no reference": lambda pattern, mask: (replace(pattern, reference=None), "mean", {}),
    "no samples": lambda pattern, mask: (pattern, "resample", {}),
    "no spread": lambda pattern, mask: (replace(pattern, spread=None), "steer:1", {}),
    "a spread of another direction": lambda pattern, mask: (pattern, "steer:1", {"along": "pattern"}),
    "steering that keeps": lambda pattern, mask: (pattern, "steer:1", {"keep": True}),
    "no filter": lambda pattern, mask: (replace(pattern, filter=None), "mean", {"along": "oblique"}),
    "a filter that reads nothing": lambda pattern, mask: (
        UnitPattern(pattern.space, np.eye(pattern.space.n_units)[:1], np.eye(pattern.space.n_units)[1:2]),
        "zero",
        {"along": "oblique"},
    ),
    "a mask along": lambda pattern, mask: (mask, "zero", {"along": "filter"}),
    "a mask at a dose": lambda pattern, mask: (mask, "zero", {"dose": 0.5}),
    "a mask steered": lambda pattern, mask: (mask, "steer:1", {}),
    "an unknown direction": lambda pattern, mask: (pattern, "mean", {"along": "sideways"}),
    "an endless dose": lambda pattern, mask: (pattern, "mean", {"dose": float("inf")}),
    "samples of another space": lambda pattern, mask: (pattern, "resample", {"samples": np.zeros((3, 2))}),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_cannot_be_done_is_refused(llama: Subject, name: str) -> None:
    space = space_of(llama, "block")
    network, method, options = REFUSALS[name](some_pattern(space), UnitMask(space, np.ones(space.n_units, bool)))
    with pytest.raises(LLM2BIDSError), lesion(llama, network, method, **options):
        pass
    assert not n_hooks(llama.model)


def test_no_hook_is_left_after_an_exception(llama: Subject) -> None:
    pattern = some_pattern(space_of(llama, "block"))
    with pytest.raises(RuntimeError, match="inside"), lesion(llama, pattern):
        raise RuntimeError("inside")
    with pytest.raises(LesionError, match="only part of the model"), lesion(llama, pattern):
        llama.model.model(input_ids=IDS)
    assert not n_hooks(llama.model)


def test_means_of_a_caller_replace_the_reference(llama: Subject) -> None:
    pattern = some_pattern(space_of(llama, "block"))
    means = mean_activations(llama, texts(3), pattern.space)
    wanted = by_hand(activations(llama, pattern.space), replace(pattern, reference=means), "mean", "filter", 1.0, False)
    with lesion(llama, pattern, means=means):
        np.testing.assert_allclose(activations(llama, pattern.space), wanted, rtol=1e-4, atol=1e-5)
