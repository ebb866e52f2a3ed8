"""Over subjects: against nilearn and scipy by hand, against all permutations, and what phantoms share."""

from __future__ import annotations

import shutil
from itertools import combinations, product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from scipy import stats

from llm2bids.bids.nifti import write_image
from llm2bids.bids.tables import read_json, read_tsv
from llm2bids.model.phantom import phantom_truth
from llm2bids.space import UnitSpace
from llm2bids.statistics import glm
from llm2bids.validation import validate

from .group_cases import ALIVE, DEAD, MADE, STEM, factor, stats_model

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from .group_cases import Cohort


# ---- oracles


def test_one_sample_is_what_nilearn_and_scipy_say(cohort: Cohort) -> None:
    result = cohort.ask()["onVsOff"]
    design = pd.DataFrame({"intercept": np.ones(8)})
    nilearn = cohort.fit(design).compute_contrast("intercept", output_type="all")
    for statistic, key in (
        ("z", "z_score"),
        ("t", "stat"),
        ("effect", "effect_size"),
        ("variance", "effect_variance"),
    ):
        expected = cohort.space.to_signals(nilearn[key])
        np.testing.assert_allclose(cohort.read(result, statistic)[ALIVE], expected[ALIVE], rtol=1e-6, atol=1e-6)
    t, p = stats.ttest_1samp(cohort.effects[:, ALIVE].astype(float), 0)
    np.testing.assert_allclose(cohort.read(result, "t")[ALIVE], t, rtol=1e-6)
    np.testing.assert_allclose(cohort.read(result, "p")[ALIVE], p, rtol=1e-5)


def test_two_samples_are_what_nilearn_and_scipy_say(cohort: Cohort) -> None:
    result = cohort.ask(compare="family")["onVsOffLlamaMinusQwen"]
    groups = (MADE["family"] == "llama").to_numpy(float)
    design = pd.DataFrame({"llama": groups, "qwen": 1 - groups})
    expected = cohort.by_nilearn(design, np.array([1, -1]))
    np.testing.assert_allclose(cohort.read(result)[ALIVE], expected[ALIVE], atol=1e-6)
    t, _ = stats.ttest_ind(cohort.effects[:4, ALIVE].astype(float), cohort.effects[4:, ALIVE].astype(float))
    np.testing.assert_allclose(cohort.read(result, "t")[ALIVE], t, rtol=1e-5)
    assert read_tsv(result.units_file)["unit"].astype(int).sort_values().tolist()[-9:] == list(range(9, 18))


def test_pairs_are_what_nilearn_and_scipy_say(cohort: Cohort) -> None:
    result = cohort.ask(compare="family", pairs="pair")["onVsOffLlamaMinusQwen"]
    design = pd.get_dummies(MADE["pair"]).astype(float).assign(llama=(MADE["family"] == "llama").astype(float))
    expected = cohort.by_nilearn(design, "llama")
    np.testing.assert_allclose(cohort.read(result)[ALIVE], expected[ALIVE], atol=1e-6)
    partner = [4 + "3142".index(label) for label in "1234"]
    t, _ = stats.ttest_rel(cohort.effects[:4].astype(float), cohort.effects[partner].astype(float))
    np.testing.assert_allclose(cohort.read(result, "t")[ALIVE], t[ALIVE], rtol=1e-5)


@pytest.mark.parametrize("column", ["depth", "n_parameters"])
def test_covariates_are_centred_and_questions_of_their_own(cohort: Cohort, column: str) -> None:
    results = cohort.ask(covariates=[column])
    values = MADE[column].astype(float)
    design = pd.DataFrame({"intercept": 1.0, column: (values - values.mean()) / values.std()})
    slope_name = f"onVsOff{column.title().replace('_', '')}" if column == "depth" else "onVsOffNParameters"
    for name, contrast in (("onVsOff", "intercept"), (slope_name, column)):
        np.testing.assert_allclose(cohort.read(results[name]), cohort.by_nilearn(design, contrast), atol=1e-6)
    effect = stats.linregress(values, cohort.effects[:, 100].astype(float)).slope
    assert cohort.read(results[slope_name], "effect")[100] == pytest.approx(effect, rel=1e-5)
    assert read_json(results["onVsOff"].mask_file.with_name(f"{STEM}_contrast-onVsOff_glm.json"))["Llm2bids"][
        "Centred"
    ] == [column]


def test_a_comparison_takes_covariates_into_account(cohort: Cohort) -> None:
    results = cohort.ask(compare="family", covariates=["depth"])
    groups, depth = (MADE["family"] == "llama").to_numpy(float), MADE["depth"].astype(float)
    design = pd.DataFrame({"llama": groups, "qwen": 1 - groups, "depth": depth - depth.mean()})
    expected = cohort.by_nilearn(design, np.array([1, -1, 0]))
    np.testing.assert_allclose(cohort.read(results["onVsOffLlamaMinusQwen"]), expected, atol=1e-6)
    expected = cohort.by_nilearn(design, "depth")
    np.testing.assert_allclose(cohort.read(results["onVsOffDepthGivenFamily"]), expected, atol=1e-6)


def test_a_stats_model_asks_t_and_f_of_factors_and_numbers(cohort: Cohort, tmp_path: Path) -> None:
    columns = ["three.x", "three.y", "three.z"]
    contrasts = [
        {"Name": "any", "ConditionList": columns, "Weights": [[1, -1, 0], [0, 1, -1]], "Test": "F"},
        {"Name": "x_minus_y", "ConditionList": columns[:2], "Weights": [1, "-1"], "Test": "t"},
        {"Name": "deeper", "ConditionList": ["depth"], "Weights": [1], "Test": "t"},
    ]
    model = stats_model(tmp_path / "m_smdl.json", [*columns, "depth"], contrasts, **factor("three"))
    results = cohort.ask(model=model)
    depth = MADE["depth"].astype(float)
    design = pd.get_dummies(MADE["three"]).astype(float).assign(depth=depth - depth.mean())
    weights = {"Any": [[1, -1, 0, 0], [0, 1, -1, 0]], "XMinusY": [1, -1, 0, 0], "Deeper": [0, 0, 0, 1]}
    for name, contrast in weights.items():
        test = "F" if name == "Any" else "t"
        expected = cohort.by_nilearn(design, np.array(contrast, float), second_level_stat_type=test)
        result = results[f"onVsOff{name}"]
        np.testing.assert_allclose(cohort.read(result), expected, atol=1e-6)
        assert cohort.read(result, test)[40] == 0
    assert read_json(Path(str(result.z_file).replace(".nii.gz", ".json")))["Llm2bids"]["Contrast"]["Weights"] == [1.0]


def test_a_stats_model_with_dummies_asks_of_every_column(cohort: Cohort, tmp_path: Path) -> None:
    model = stats_model(tmp_path / "m_smdl.json", [1, "depth"], [], DummyContrasts={"Test": "t"})
    results = cohort.ask(model=model)
    assert list(results) == ["onVsOff", "onVsOffDepth"]
    again = cohort.ask(covariates=["depth"], resume=True)
    assert [result.skipped for result in again.values()] == [True, True]


def test_the_recorded_model_says_what_is_asked_by_default(cohort: Cohort) -> None:
    path = cohort.raw / "code" / "models" / "model-pathology_smdl.json"
    stats_model(path, ["family.*"], [], DummyContrasts={"Test": "t"}, **factor("family"))
    assert list(cohort.ask()) == ["onVsOffFamilyLlama", "onVsOffFamilyQwen"]


# ---- correction


def test_false_discovery_and_bonferroni_are_scipys(cohort: Cohort) -> None:
    for correction, label in (("fdr", "fdr05"), ("bonferroni", "bonferroni05")):
        result = cohort.ask(correction=correction, overwrite=True)["onVsOff"]
        p = cohort.read(result, "p")[ALIVE]
        adjusted = np.ones(768)
        adjusted[ALIVE] = stats.false_discovery_control(p) if correction == "fdr" else p * 766
        chosen = cohort.space.to_signals(nib.load(result.mask_file)) > 0
        np.testing.assert_array_equal(chosen, adjusted <= 0.05)
        assert f"desc-{label}_mask" in result.mask_file.name
        assert chosen[:9].any()
        assert not chosen[DEAD].any()
    assert not list(cohort.out.rglob("group/*fdr05*"))


def exact(statistic: Callable[[Any], NDArray[np.float64]], arrangements: list[Any]) -> NDArray[np.float64]:
    """Corrected p of the first arrangement among all: the share whose largest |t| reaches it."""
    largest = np.array([np.abs(statistic(arrangement)).max() for arrangement in arrangements])
    reached = largest * (1 + 1e-9) >= np.abs(statistic(arrangements[0]))[:, None]
    share = np.ones(768)
    share[ALIVE] = reached.mean(1)
    return share


@pytest.mark.parametrize("kind", ["one", "two", "pairs"])
def test_permutation_agrees_with_all_permutations(cohort: Cohort, kind: str) -> None:
    values = cohort.effects[:, ALIVE].astype(float)
    signs = [np.array(drawn)[:, None] for drawn in product([1, -1], repeat=8 if kind == "one" else 4)]
    if kind == "one":
        options: dict[str, Any] = {}
        expected = exact(lambda sign: stats.ttest_1samp(sign * values, 0).statistic, signs)
    elif kind == "two":
        options = {"compare": "family"}
        orders = [[*drawn, *(n for n in range(8) if n not in drawn)] for drawn in combinations(range(8), 4)]
        expected = exact(lambda order: stats.ttest_ind(values[order[:4]], values[order[4:]]).statistic, orders)
    else:
        options = {"compare": "family", "pairs": "pair", "alpha": 0.2}
        differences = values[:4] - values[[5, 7, 4, 6]]
        expected = exact(lambda sign: stats.ttest_1samp(sign * differences, 0).statistic, signs)
    (result,) = cohort.ask(correction="maxt", n_permutations=3000, **options).values()
    table = read_tsv(result.units_file).astype({"unit": int, "p_corrected": float})
    alpha = options.get("alpha", 0.05)
    assert (
        set(np.flatnonzero(expected <= alpha - 0.02))
        <= set(table["unit"])
        <= set(np.flatnonzero(expected <= alpha + 0.02))
    )
    np.testing.assert_allclose(table["p_corrected"], expected[table["unit"]], atol=0.02)
    assert kind == "pairs" or len(table) >= 4


def test_permutation_finds_a_mean_beside_a_covariate(cohort: Cohort) -> None:
    results = cohort.ask(correction="maxt", covariates=["n_parameters"])
    assert set(read_tsv(results["onVsOff"].units_file)["unit"].astype(int)) & set(range(9))
    assert results["onVsOffNParameters"].n_selected <= 1


@pytest.mark.parametrize("correction", ["fdr", "maxt"])
def test_nothing_is_found_where_there_is_nothing(cohort: Cohort, correction: str) -> None:
    rng = np.random.default_rng(0)
    n_found = 0
    for _ in range(3):
        for label in "abcdefgh":
            write_image(cohort.maps(label), cohort.space.to_image(rng.normal(size=768).astype(np.float32)))
        (result,) = cohort.ask(correction=correction, overwrite=True, n_permutations=200).values()
        n_found += result.n_selected
    assert n_found <= 2


@pytest.mark.parametrize(("tail", "sign"), [("positive", 1), ("negative", -1)])
def test_one_tail_finds_one_sign(cohort: Cohort, tail: str, sign: int) -> None:
    (result,) = cohort.ask(compare="family", tail=tail, correction="maxt").values()
    z = read_tsv(result.units_file)["z"].astype(float)
    assert len(z) == 0 if sign < 0 else (z > 0).all() & (len(z) > 4)


# ---- real subjects


def test_phantoms_share_what_was_planted(phantoms: Path, tmp_path: Path) -> None:
    root = tmp_path / "ds"
    shutil.copytree(phantoms, root)
    (result,) = glm(root, root / "derivatives" / "glm", "group", progress=False)
    space = UnitSpace.from_json(
        read_json(result.mask_file.with_name(f"{STEM}_contrast-onVsOff_glm.json"))["Llm2bids"]["UnitSpace"]
    )
    chosen = space.to_signals(nib.load(result.mask_file)) > 0
    truth = phantom_truth(space)["pathology"].selected
    assert 2 * (chosen & truth).sum() / (chosen.sum() + truth.sum()) > 0.8
    assert [(validation.root.name, validation.issues) for validation in validate(root)] == [
        (name, ()) for name in ("ds", "glm", "llm2bids", "phantom")
    ]
    assert (root / "derivatives" / "glm" / "group.html").exists()


def test_sidecars_say_who_entered_and_of_what(phantoms: Path, tmp_path: Path) -> None:
    root = tmp_path / "ds"
    shutil.copytree(phantoms, root)
    (result,) = glm(root, root / "derivatives" / "glm", "group", participant_label=["p3", "sub-p1"], progress=False)
    for name in ("_desc-fdr05_mask", "_desc-fdr05_units", "_stat-z_statmap", "_glm", "_desc-brain_mask"):
        sidecar = read_json(result.mask_file.with_name(f"{STEM}_contrast-onVsOff{name}.json"))
        metadata = sidecar["Llm2bids"]
        assert list(metadata["Subjects"]) == ["sub-p1", "sub-p3"]
        assert metadata["Subjects"]["sub-p3"]["Revision"] == "seed3"
        assert len({entry["WeightsSHA256"] for entry in metadata["Subjects"].values()}) == 2
        assert metadata["EffectOfSubject"]["EffectOfPrompt"] == "prompt"
        assert not {"NoiseModel", "Drift"} & set(metadata["Statistics"])
        assert sidecar["Sources"]
        sources = [root / "derivatives" / "glm" / entry.removeprefix("bids::") for entry in sidecar["Sources"]]
        assert [path.is_file() for path in sources] == [True, True]
        assert [(root / entry["File"]).is_file() for entry in metadata["Stimuli"]] == [True, True]
    assert read_tsv(result.mask_file.with_name(f"{STEM}_contrast-onVsOff_design.tsv")).to_dict("list") == {
        "participant_id": ["sub-p1", "sub-p3"],
        "1": ["1", "1"],
    }
