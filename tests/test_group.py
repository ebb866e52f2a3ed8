"""Over subjects: against nilearn and scipy by hand, against all permutations, and everything that cannot be asked."""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import dataclass, replace
from itertools import combinations, product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from nilearn.glm.second_level import SecondLevelModel
from scipy import stats

from llm2bids.bids.nifti import write_image
from llm2bids.bids.tables import read_json, read_tsv, write_json, write_tsv
from llm2bids.errors import DatasetError, DesignError, InferenceError, LLM2BIDSError, StatsModelError
from llm2bids.glm import glm
from llm2bids.phantom import build_phantom, phantom_truth
from llm2bids.prep import prep
from llm2bids.record import record
from llm2bids.space import UnitSpace
from llm2bids.validate import validate

from .families import tiny_subject

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from llm2bids.glm import Finding

SMALL: dict[str, Any] = {"runs": 1, "blocks": 2, "prompts_per_block": 2, "tokens": 5, "progress": False}
STEM = "task-pathology_acq-block_space-L6C128block"
MADE = pd.DataFrame(
    {
        "participant_id": [f"sub-{letter}" for letter in "abcdefgh"],
        "family": ["llama", "llama", "llama", "llama", "qwen", "qwen", "qwen", "qwen"],
        "pair": [*"1234", *"3142"],
        "three": [*"xxyyzzzx"],
        "depth": ["6", "12", "9", "24", "8", "30", "15", "7"],
        "n_parameters": ["1653632", "7000000000", "70000000000", "3e9", "1e8", "5e8", "1.1e9", "2.6e9"],
        "holes": ["1", "2", "n/a", "4", "5", "6", "7", "8"],
        "same": ["4"] * 8,
        "half": [*"11112222"],
        "tag": ["tuned", *["n/a"] * 7],
    }
)
"""Columns of participants.tsv; not all of them can be used."""
DEAD = [40, 700]
ALIVE = np.delete(np.arange(768), DEAD)
"""Units whose effect is not 0 in all subjects."""


@dataclass(frozen=True)
class Cohort:
    """Subjects whose effects are known."""

    raw: Path
    effects: NDArray[np.float32]
    space: UnitSpace

    @property
    def out(self) -> Path:
        return self.raw / "derivatives" / "glm"

    def maps(self, label: str) -> Path:
        return self.out / f"sub-{label}" / "func" / f"sub-{label}_{STEM}_contrast-onVsOff_stat-effect_statmap.nii.gz"

    def ask(self, **options: Any) -> dict[str, Finding]:
        found = glm(self.raw, self.out, "group", progress=False, **options)
        return {one.contrast: one for one in found}

    def read(self, one: Finding, statistic: str = "z") -> NDArray[np.float64]:
        path = one.z_map.with_name(one.z_map.name.replace("stat-z", f"stat-{statistic}"))
        signals: NDArray[np.float64] = self.space.to_signals(nib.load(path)).astype(np.float64)
        return signals

    def fit(self, design: pd.DataFrame) -> SecondLevelModel:
        """Nilearn's model of the same maps."""
        images = [self.space.to_image(row) for row in self.effects]
        mask = self.space.to_image(np.isin(np.arange(768), ALIVE))
        return SecondLevelModel(mask_img=mask).fit(images, design_matrix=design)

    def by_nilearn(self, design: pd.DataFrame, contrast: Any, **options: Any) -> NDArray[np.float64]:
        signals: NDArray[np.float64] = self.space.to_signals(self.fit(design).compute_contrast(contrast, **options))
        return signals


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three phantoms of other noise, analysed one by one; do not write into it."""
    root = tmp_path_factory.mktemp("phantoms") / "ds"
    for seed in (1, 2, 3):
        record(root, model=build_phantom(seed), subject=f"p{seed}", task="pathology", **SMALL)
    prep(root, progress=False)
    glm(root, root / "derivatives" / "glm", progress=False)
    return root


@pytest.fixture(scope="module")
def made(phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    """Eight subjects with the files of a phantom and effects of our own; do not write into it."""
    raw = tmp_path_factory.mktemp("made") / "ds"
    for name in ("dataset_description.json", "code/models/model-pathology_smdl.json"):
        (raw / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(phantoms / name, raw / name)
    write_tsv(raw / "participants.tsv", MADE)
    one = phantoms / "derivatives" / "glm" / "sub-p1" / "func"
    summary = read_json(one / f"sub-p1_{STEM}_glm.json")
    space = UnitSpace.from_json(summary["Llm2bids"]["UnitSpace"])
    effects = np.random.default_rng(3).normal(0.3, 1, (8, space.n_units)).astype(np.float32)
    effects[:, :9] += 6
    effects[4:, 9:18] -= 20
    effects[:, DEAD] = 0
    for label, row in zip("abcdefgh", effects, strict=True):
        folder = raw / "derivatives" / "glm" / f"sub-{label}" / "func"
        folder.mkdir(parents=True)
        for path in one.glob("*"):
            if "stat-effect_statmap" in path.name or "desc-brain_mask" in path.name:
                shutil.copy(path, folder / path.name.replace("sub-p1", f"sub-{label}"))
        write_image(folder / f"sub-{label}_{STEM}_contrast-onVsOff_stat-effect_statmap.nii.gz", space.to_image(row))
        own = json.loads(json.dumps(summary).replace("sub-p1", f"sub-{label}"))
        write_json(folder / f"sub-{label}_{STEM}_glm.json", own | {"Subject": label, "Fingerprint": f"of {label}"})
    shutil.copy(one.parents[1] / "dataset_description.json", raw / "derivatives" / "glm")
    return Cohort(raw, effects, space)


@pytest.fixture
def cohort(made: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cohort:
    """A copy to write into; pages are drawn for phantoms only, which is slow."""
    monkeypatch.setattr("llm2bids.glm.write_page", lambda *_: None)
    shutil.copytree(made.raw, tmp_path / "ds")
    return replace(made, raw=tmp_path / "ds")


def with_table(cohort: Cohort, **columns: list[str]) -> Cohort:
    """Another participants.tsv."""
    write_tsv(cohort.raw / "participants.tsv", MADE.assign(**columns))
    return cohort


def change(path: Path, **fields: Any) -> None:
    """Other fields in a sidecar; those of Llm2bids may be given by themselves."""
    there = read_json(path)
    own = {key: fields.pop(key) for key in ("Statistics", "Contrast", "UnitSpace", "Design") if key in fields}
    there["Llm2bids"] |= {key: there["Llm2bids"][key] | value for key, value in own.items()}
    write_json(path, there | fields)


def summary_of(cohort: Cohort, label: str) -> Path:
    return cohort.out / f"sub-{label}" / "func" / f"sub-{label}_{STEM}_glm.json"


def sidecar_of(cohort: Cohort, label: str, contrast: str = "onVsOff") -> Path:
    return Path(str(cohort.maps(label)).replace(".nii.gz", ".json").replace("onVsOff", contrast))


def stats_model(path: Path, x: list[Any], contrasts: list[dict[str, Any]], **node: Any) -> Path:
    """A BIDS Stats Model with a Dataset node."""
    dataset = {"Level": "Dataset", "Name": "dataset", "GroupBy": ["contrast"], "Model": {"X": x, "Type": "glm"}}
    run = {
        "Level": "Run",
        "Name": "run",
        "GroupBy": ["run", "subject"],
        "Model": {"X": ["trial_type.*"], "Type": "glm"},
        "DummyContrasts": {"Test": "t"},
    }
    nodes = [run, {**dataset, "Contrasts": contrasts, **node}]
    return write_json(path, {"Name": "m", "BIDSModelVersion": "1.0.0", "Input": {}, "Nodes": nodes})


def factor(*names: str) -> dict[str, Any]:
    instructions = [{"Name": "Factor", "Input": list(names)}]
    return {"Transformations": {"Transformer": "pybids-transforms-v1", "Instructions": instructions}}


# ---- oracles


def test_one_sample_is_what_nilearn_and_scipy_say(cohort: Cohort) -> None:
    found = cohort.ask()["onVsOff"]
    design = pd.DataFrame({"intercept": np.ones(8)})
    nilearn = cohort.fit(design).compute_contrast("intercept", output_type="all")
    for statistic, key in (
        ("z", "z_score"),
        ("t", "stat"),
        ("effect", "effect_size"),
        ("variance", "effect_variance"),
    ):
        expected = cohort.space.to_signals(nilearn[key])
        np.testing.assert_allclose(cohort.read(found, statistic)[ALIVE], expected[ALIVE], rtol=1e-6, atol=1e-6)
    t, p = stats.ttest_1samp(cohort.effects[:, ALIVE].astype(float), 0)
    np.testing.assert_allclose(cohort.read(found, "t")[ALIVE], t, rtol=1e-6)
    np.testing.assert_allclose(cohort.read(found, "p")[ALIVE], p, rtol=1e-5)


def test_two_samples_are_what_nilearn_and_scipy_say(cohort: Cohort) -> None:
    found = cohort.ask(compare="family")["onVsOffLlamaMinusQwen"]
    groups = (MADE["family"] == "llama").to_numpy(float)
    design = pd.DataFrame({"llama": groups, "qwen": 1 - groups})
    expected = cohort.by_nilearn(design, np.array([1, -1]))
    np.testing.assert_allclose(cohort.read(found)[ALIVE], expected[ALIVE], atol=1e-6)
    t, _ = stats.ttest_ind(cohort.effects[:4, ALIVE].astype(float), cohort.effects[4:, ALIVE].astype(float))
    np.testing.assert_allclose(cohort.read(found, "t")[ALIVE], t, rtol=1e-5)
    assert read_tsv(found.units)["unit"].astype(int).sort_values().tolist()[-9:] == list(range(9, 18))


def test_pairs_are_what_nilearn_and_scipy_say(cohort: Cohort) -> None:
    found = cohort.ask(compare="family", pairs="pair")["onVsOffLlamaMinusQwen"]
    design = pd.get_dummies(MADE["pair"]).astype(float).assign(llama=(MADE["family"] == "llama").astype(float))
    expected = cohort.by_nilearn(design, "llama")
    np.testing.assert_allclose(cohort.read(found)[ALIVE], expected[ALIVE], atol=1e-6)
    partner = [4 + "3142".index(own) for own in "1234"]
    t, _ = stats.ttest_rel(cohort.effects[:4].astype(float), cohort.effects[partner].astype(float))
    np.testing.assert_allclose(cohort.read(found, "t")[ALIVE], t[ALIVE], rtol=1e-5)


@pytest.mark.parametrize("column", ["depth", "n_parameters"])
def test_covariates_are_centred_and_questions_of_their_own(cohort: Cohort, column: str) -> None:
    found = cohort.ask(covariates=[column])
    values = MADE[column].astype(float)
    design = pd.DataFrame({"intercept": 1.0, column: (values - values.mean()) / values.std()})
    own = f"onVsOff{column.title().replace('_', '')}" if column == "depth" else "onVsOffNParameters"
    for name, contrast in (("onVsOff", "intercept"), (own, column)):
        np.testing.assert_allclose(cohort.read(found[name]), cohort.by_nilearn(design, contrast), atol=1e-6)
    effect = stats.linregress(values, cohort.effects[:, 100].astype(float)).slope
    assert cohort.read(found[own], "effect")[100] == pytest.approx(effect, rel=1e-5)
    assert read_json(found["onVsOff"].mask.with_name(f"{STEM}_contrast-onVsOff_glm.json"))["Llm2bids"]["Centred"] == [
        column
    ]


def test_a_comparison_takes_covariates_into_account(cohort: Cohort) -> None:
    found = cohort.ask(compare="family", covariates=["depth"])
    groups, depth = (MADE["family"] == "llama").to_numpy(float), MADE["depth"].astype(float)
    design = pd.DataFrame({"llama": groups, "qwen": 1 - groups, "depth": depth - depth.mean()})
    expected = cohort.by_nilearn(design, np.array([1, -1, 0]))
    np.testing.assert_allclose(cohort.read(found["onVsOffLlamaMinusQwen"]), expected, atol=1e-6)
    expected = cohort.by_nilearn(design, "depth")
    np.testing.assert_allclose(cohort.read(found["onVsOffDepthGivenFamily"]), expected, atol=1e-6)


def test_a_stats_model_asks_t_and_f_of_factors_and_numbers(cohort: Cohort, tmp_path: Path) -> None:
    columns = ["three.x", "three.y", "three.z"]
    contrasts = [
        {"Name": "any", "ConditionList": columns, "Weights": [[1, -1, 0], [0, 1, -1]], "Test": "F"},
        {"Name": "x_minus_y", "ConditionList": columns[:2], "Weights": [1, "-1"], "Test": "t"},
        {"Name": "deeper", "ConditionList": ["depth"], "Weights": [1], "Test": "t"},
    ]
    model = stats_model(tmp_path / "m_smdl.json", [*columns, "depth"], contrasts, **factor("three"))
    found = cohort.ask(model=model)
    depth = MADE["depth"].astype(float)
    design = pd.get_dummies(MADE["three"]).astype(float).assign(depth=depth - depth.mean())
    weights = {"Any": [[1, -1, 0, 0], [0, 1, -1, 0]], "XMinusY": [1, -1, 0, 0], "Deeper": [0, 0, 0, 1]}
    for name, contrast in weights.items():
        test = "F" if name == "Any" else "t"
        expected = cohort.by_nilearn(design, np.array(contrast, float), second_level_stat_type=test)
        one = found[f"onVsOff{name}"]
        np.testing.assert_allclose(cohort.read(one), expected, atol=1e-6)
        assert cohort.read(one, test)[40] == 0
    assert read_json(Path(str(one.z_map).replace(".nii.gz", ".json")))["Llm2bids"]["Contrast"]["Weights"] == [1.0]


def test_a_stats_model_with_dummies_asks_of_every_column(cohort: Cohort, tmp_path: Path) -> None:
    model = stats_model(tmp_path / "m_smdl.json", [1, "depth"], [], DummyContrasts={"Test": "t"})
    found = cohort.ask(model=model)
    assert list(found) == ["onVsOff", "onVsOffDepth"]
    again = cohort.ask(covariates=["depth"], resume=True)
    assert [one.skipped for one in again.values()] == [True, True]


def test_the_recorded_model_says_what_is_asked_by_default(cohort: Cohort) -> None:
    path = cohort.raw / "code" / "models" / "model-pathology_smdl.json"
    stats_model(path, ["family.*"], [], DummyContrasts={"Test": "t"}, **factor("family"))
    assert list(cohort.ask()) == ["onVsOffFamilyLlama", "onVsOffFamilyQwen"]


# ---- correction


def test_false_discovery_and_bonferroni_are_scipys(cohort: Cohort) -> None:
    for correction, label in (("fdr", "fdr05"), ("bonferroni", "bonferroni05")):
        found = cohort.ask(correction=correction, overwrite=True)["onVsOff"]
        p = cohort.read(found, "p")[ALIVE]
        adjusted = np.ones(768)
        adjusted[ALIVE] = stats.false_discovery_control(p) if correction == "fdr" else p * 766
        chosen = cohort.space.to_signals(nib.load(found.mask)) > 0
        np.testing.assert_array_equal(chosen, adjusted <= 0.05)
        assert f"desc-{label}_mask" in found.mask.name
        assert chosen[:9].any()
        assert not chosen[DEAD].any()
    assert not list(cohort.out.rglob("group/*fdr05*"))


def exact(statistic: Callable[[Any], NDArray[np.float64]], arrangements: list[Any]) -> NDArray[np.float64]:
    """Corrected p of the first arrangement among all: the share whose largest |t| reaches it."""
    largest = np.array([np.abs(statistic(one)).max() for one in arrangements])
    reached = largest * (1 + 1e-9) >= np.abs(statistic(arrangements[0]))[:, None]
    share = np.ones(768)
    share[ALIVE] = reached.mean(1)
    return share


@pytest.mark.parametrize("kind", ["one", "two", "pairs"])
def test_permutation_agrees_with_all_permutations(cohort: Cohort, kind: str) -> None:
    values = cohort.effects[:, ALIVE].astype(float)
    signs = [np.array(one)[:, None] for one in product([1, -1], repeat=8 if kind == "one" else 4)]
    if kind == "one":
        options: dict[str, Any] = {}
        expected = exact(lambda sign: stats.ttest_1samp(sign * values, 0).statistic, signs)
    elif kind == "two":
        options = {"compare": "family"}
        orders = [[*one, *(n for n in range(8) if n not in one)] for one in combinations(range(8), 4)]
        expected = exact(lambda order: stats.ttest_ind(values[order[:4]], values[order[4:]]).statistic, orders)
    else:
        options = {"compare": "family", "pairs": "pair", "alpha": 0.2}
        differences = values[:4] - values[[5, 7, 4, 6]]
        expected = exact(lambda sign: stats.ttest_1samp(sign * differences, 0).statistic, signs)
    (found,) = cohort.ask(correction="maxt", n_permutations=3000, **options).values()
    table = read_tsv(found.units).astype({"unit": int, "p_corrected": float})
    alpha = options.get("alpha", 0.05)
    assert (
        set(np.flatnonzero(expected <= alpha - 0.02))
        <= set(table["unit"])
        <= set(np.flatnonzero(expected <= alpha + 0.02))
    )
    np.testing.assert_allclose(table["p_corrected"], expected[table["unit"]], atol=0.02)
    assert kind == "pairs" or len(table) >= 4


def test_permutation_finds_a_mean_beside_a_covariate(cohort: Cohort) -> None:
    found = cohort.ask(correction="maxt", covariates=["n_parameters"])
    assert set(read_tsv(found["onVsOff"].units)["unit"].astype(int)) & set(range(9))
    assert found["onVsOffNParameters"].n_selected <= 1


@pytest.mark.parametrize("correction", ["fdr", "maxt"])
def test_nothing_is_found_where_there_is_nothing(cohort: Cohort, correction: str) -> None:
    rng = np.random.default_rng(0)
    n_found = 0
    for _ in range(3):
        for label in "abcdefgh":
            write_image(cohort.maps(label), cohort.space.to_image(rng.normal(size=768).astype(np.float32)))
        (found,) = cohort.ask(correction=correction, overwrite=True, n_permutations=200).values()
        n_found += found.n_selected
    assert n_found <= 2


@pytest.mark.parametrize(("tail", "sign"), [("positive", 1), ("negative", -1)])
def test_one_tail_finds_one_sign(cohort: Cohort, tail: str, sign: int) -> None:
    (found,) = cohort.ask(compare="family", tail=tail, correction="maxt").values()
    z = read_tsv(found.units)["z"].astype(float)
    assert len(z) == 0 if sign < 0 else (z > 0).all() & (len(z) > 4)


# ---- real subjects


def test_phantoms_share_what_was_planted(phantoms: Path, tmp_path: Path) -> None:
    root = tmp_path / "ds"
    shutil.copytree(phantoms, root)
    (found,) = glm(root, root / "derivatives" / "glm", "group", progress=False)
    space = UnitSpace.from_json(
        read_json(found.mask.with_name(f"{STEM}_contrast-onVsOff_glm.json"))["Llm2bids"]["UnitSpace"]
    )
    chosen = space.to_signals(nib.load(found.mask)) > 0
    truth = phantom_truth(space)["pathology"].selected
    assert 2 * (chosen & truth).sum() / (chosen.sum() + truth.sum()) > 0.8
    assert [(one.root.name, one.issues) for one in validate(root)] == [
        (name, ()) for name in ("ds", "glm", "llm2bids", "phantom")
    ]
    assert (root / "derivatives" / "glm" / "group.html").exists()


def test_sidecars_say_who_entered_and_of_what(phantoms: Path, tmp_path: Path) -> None:
    root = tmp_path / "ds"
    shutil.copytree(phantoms, root)
    (found,) = glm(root, root / "derivatives" / "glm", "group", participant_label=["p3", "sub-p1"], progress=False)
    for name in ("_desc-fdr05_mask", "_desc-fdr05_units", "_stat-z_statmap", "_glm", "_desc-brain_mask"):
        sidecar = read_json(found.mask.with_name(f"{STEM}_contrast-onVsOff{name}.json"))
        own = sidecar["Llm2bids"]
        assert list(own["Subjects"]) == ["sub-p1", "sub-p3"]
        assert own["Subjects"]["sub-p3"]["Revision"] == "seed3"
        assert len({one["WeightsSHA256"] for one in own["Subjects"].values()}) == 2
        assert own["EffectOfSubject"]["EffectOfPrompt"] == "prompt"
        assert not {"NoiseModel", "Drift"} & set(own["Statistics"])
        assert sidecar["Sources"]
        sources = [root / "derivatives" / "glm" / one.removeprefix("bids::") for one in sidecar["Sources"]]
        assert [path.is_file() for path in sources] == [True, True]
        assert [(root / one["File"]).is_file() for one in own["Stimuli"]] == [True, True]
    assert read_tsv(found.mask.with_name(f"{STEM}_contrast-onVsOff_design.tsv")).to_dict("list") == {
        "participant_id": ["sub-p1", "sub-p3"],
        "1": ["1", "1"],
    }


def test_models_of_different_geometry_are_refused(phantoms: Path, tmp_path: Path) -> None:
    root = tmp_path / "ds"
    shutil.copytree(phantoms, root)
    record(root, model=tiny_subject("gpt2"), subject="tiny", task="pathology", mode="read", **SMALL | {"blocks": 4})
    prep(root, participant_label=["tiny"], progress=False)
    out = root / "derivatives" / "glm"
    glm(root, out, participant_label=["tiny"], drift="none", progress=False)
    with pytest.raises(DatasetError, match=r"sub-tiny lives in space L3C24block \(transformer\.h\.0:out.*L6C128block"):
        glm(root, out, "group", progress=False)
    assert not (out / "group").exists()
    (found,) = glm(root, out, "group", participant_label=["p1", "p2", "p3"], progress=False)
    assert found.n_selected > 20


# ---- who enters


def ask_another_contrast(cohort: Cohort, label: str) -> None:
    """The results of a subject under another name."""
    for path in (cohort.maps(label), sidecar_of(cohort, label)):
        path.rename(path.with_name(path.name.replace("onVsOff", "mine")))
    change(sidecar_of(cohort, label, "mine"), Contrast={"Name": "mine"})
    found = read_json(summary_of(cohort, label))["Found"][0]
    renamed = {**found, "contrast": "mine", "z_map": found["z_map"].replace("onVsOff", "mine")}
    change(summary_of(cohort, label), Found=[renamed])


def test_a_subject_without_the_contrast_is_an_error(cohort: Cohort) -> None:
    ask_another_contrast(cohort, "c")
    with pytest.raises(
        DesignError, match=r"sub-c has no result of contrast onVsOff, task pathology, site block, and sub"
    ):
        cohort.ask()
    with pytest.raises(DesignError, match="1 subjects and 1 independent columns"):
        cohort.ask(drop_missing=True)
    (found,) = cohort.ask(participant_label=list("abdefgh")).values()
    assert found.n_tested == 766


def test_a_subject_without_the_contrast_is_left_out_if_asked_and_recorded(cohort: Cohort) -> None:
    for label in "ceg":
        ask_another_contrast(cohort, label)
    found = cohort.ask(drop_missing=True)
    entered = {"onVsOff": "abdfh", "mine": "ceg"}
    for name, labels in entered.items():
        summary = read_json(found[name].mask.with_name(f"{STEM}_contrast-{name}_glm.json"))
        assert summary["Subjects"] == [f"sub-{label}" for label in labels]
        assert summary["Llm2bids"]["SubjectsDropped"] == [f"sub-{label}" for label in "abcdefgh" if label not in labels]
    expected = stats.ttest_1samp(cohort.effects[[2, 4, 6]].astype(float)[:, :40], 0).statistic
    np.testing.assert_allclose(cohort.read(found["mine"], "t")[:40], expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("Contrast", {"Weights": [2.0, -1.0]}, r"contrast onVsOff .*\[2\.0, -1\.0\].*sub-a with .*\[1\.0, -1\.0\]"),
        ("Statistics", {"Inference": "token"}, "sub-e was analysed with Inference token, sub-a with prompt"),
        ("Statistics", {"EffectOfPrompt": "prompt-mean"}, "EffectOfPrompt prompt-mean, sub-a with prompt"),
        ("Statistics", {"Drift": "none"}, "Drift none, sub-a with cosine.*--overwrite"),
    ],
)
def test_effects_that_do_not_mean_the_same_are_refused(cohort: Cohort, field: str, value: Any, message: str) -> None:
    change(sidecar_of(cohort, "e") if field == "Contrast" else summary_of(cohort, "e"), **{field: value})
    with pytest.raises(DesignError, match=message):
        cohort.ask()
    assert not (cohort.out / "group").exists()


def test_one_subject_twice_is_no_group(cohort: Cohort) -> None:
    shutil.copy(cohort.maps("b"), cohort.maps("g"))
    with pytest.raises(DesignError, match="sub-g and sub-b have the same effects"):
        cohort.ask()
    assert not (cohort.out / "group").exists()
    assert not list((cohort.out / ".llm2bids").glob("task*"))


def test_f_contrasts_of_subjects_have_no_sign(cohort: Cohort, caplog: pytest.LogCaptureFixture) -> None:
    for label in "abcdefgh":
        change(sidecar_of(cohort, label), Contrast={"Test": "F"})
    with pytest.raises(InferenceError, match="only F contrasts"):
        cohort.ask()
    for label in "abc":
        ask_another_contrast(cohort, label)
        change(sidecar_of(cohort, label, "mine"), Contrast={"Test": "t"})
    with caplog.at_level(logging.WARNING):
        found = cohort.ask(drop_missing=True)
    assert list(found) == ["mine"]
    assert "F contrast onVsOff" in caplog.text


def test_only_units_tested_in_every_subject_are_tested(cohort: Cohort) -> None:
    for label, units in (("b", range(10)), ("f", range(5, 20))):
        mask = cohort.maps(label).with_name(f"sub-{label}_{STEM}_desc-brain_mask.nii.gz")
        write_image(mask, cohort.space.to_image(~np.isin(np.arange(768), units)))
    (found,) = cohort.ask().values()
    assert found.n_tested == 746
    tested = cohort.space.to_signals(nib.load(found.mask.with_name(found.mask.name.replace("fdr05", "brain"))))
    np.testing.assert_array_equal(np.flatnonzero(tested == 0), [*range(20), *DEAD])
    assert (cohort.read(found)[:20] == 0).all()
    assert (cohort.read(found, "p")[:20] == 1).all()
    write_image(cohort.maps("b").with_name(f"sub-b_{STEM}_desc-brain_mask.nii.gz"), cohort.space.to_image(tested > 1))
    with pytest.raises(DesignError, match="no unit was tested in every subject and"):
        cohort.ask(overwrite=True)


# ---- what cannot be asked


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"participant_label": ["a"]}, DesignError, "1 subjects and 1 independent columns found"),
        ({"participant_label": ["a", "e"], "compare": "family"}, DesignError, "2 subjects and 2 independent"),
        ({"participant_label": ["a", "nobody"]}, DatasetError, "no results of subject nobody"),
        ({"task_label": ["archeology"]}, DatasetError, "no results of task archeology"),
        ({"sites": ["mlp"]}, DatasetError, "no results of site mlp"),
        ({"compare": "famliy"}, DesignError, "no column famliy; it has family, pair, three"),
        (
            {"compare": "three"},
            DesignError,
            r"three of participants.tsv has 3 values for these subjects \(x, y, z\), 2",
        ),
        ({"compare": "same"}, DesignError, r"has 1 values for these subjects \(4\), 2 are needed"),
        ({"compare": "n_parameters"}, DesignError, r"has 8 values .*, \.\.\.\), 2 are needed"),
        ({"compare": "tag"}, DesignError, "column tag of participants.tsv has no value for sub-b"),
        ({"compare": "family", "pairs": "tag"}, DesignError, "column tag of participants.tsv has no value for sub-b"),
        ({"compare": "family", "pairs": "nobody"}, DesignError, "no column nobody"),
        (
            {"compare": "family", "pairs": "three"},
            DesignError,
            r"three x holds sub-a \(llama\), sub-b \(llama\), sub-h",
        ),
        ({"compare": "family", "pairs": "family"}, DesignError, "family llama holds sub-a"),
        ({"pairs": "pair"}, InferenceError, "pairs without a comparison.*--compare"),
        ({"covariates": ["age"]}, DesignError, "age is asked for at level Dataset and not there"),
        ({"covariates": ["family"]}, DesignError, "family of participants.tsv holds 'llama' for sub-a, a number is"),
        ({"covariates": ["holes"]}, DesignError, "holes of participants.tsv has no value for sub-c"),
        ({"covariates": ["same"]}, DesignError, "same of participants.tsv is 4 for all these subjects"),
        ({"covariates": ["depth", "depth"]}, StatsModelError, "two contrasts would be named depth"),
        ({"compare": "family", "covariates": ["half"]}, DesignError, "contrast onVsOffLlamaMinusQwen cannot be.*half"),
        ({"compare": "family", "pairs": "pair", "covariates": ["twin"]}, DesignError, "pair.4, twin are collinear"),
        ({"contrasts": ["on - off"]}, InferenceError, "contrasts of conditions asked for a group"),
        ({"inference": "run"}, InferenceError, "inference run asked for a group.*level participant"),
        ({"level": "prompt-mean"}, InferenceError, "level prompt-mean asked for a group"),
        ({"drift": "none"}, InferenceError, "drift none asked for a group"),
        ({"confounds": ["tok_*"]}, InferenceError, "confounds .* asked for a group"),
        ({"smoothing_fwhm": 2.0}, InferenceError, "smoothing asked for"),
        (
            {"participant_label": [*"abcd"], "correction": "maxt"},
            InferenceError,
            "4 subjects allow 8 different.*than 20",
        ),
        ({"participant_label": [*"abefg"], "correction": "maxt", "compare": "family"}, InferenceError, "allow 10 diff"),
        ({"compare": "family", "pairs": "pair", "correction": "maxt"}, InferenceError, "8 subjects allow 8 different"),
    ],
)
def test_what_subjects_cannot_answer_is_refused_by_name(
    cohort: Cohort, options: dict[str, Any], error: type[LLM2BIDSError], message: str
) -> None:
    with_table(cohort, twin=[*"12343142"])
    with pytest.raises(error, match=message):
        cohort.ask(**options)
    assert not (cohort.out / "group").exists()


@pytest.mark.parametrize(
    ("x", "contrast", "fields", "error", "message"),
    [
        (
            ["family.llama"],
            ["family.llama"],
            {},
            DesignError,
            "family.llama is asked for at level Dataset and not there",
        ),
        (["family.*"], ["family.gemma"], factor("family"), DesignError, "family.gemma, which the design does not have"),
        (["kin.*"], ["kin.a"], factor("kin"), DesignError, "no column kin"),
        ([1], [], {}, StatsModelError, "no contrast found at level Dataset"),
        ([1, "three.*"], ["three.x"], factor("three"), DesignError, "1, three.x, three.y, three.z are collinear"),
    ],
)
def test_stats_models_that_ask_what_is_not_there_are_refused(
    cohort: Cohort, tmp_path: Path, x: list[Any], contrast: list[str], fields: Any, error: type[Exception], message: str
) -> None:
    asked = [{"Name": "c", "ConditionList": contrast, "Weights": [1], "Test": "t"}] if contrast else []
    model = stats_model(tmp_path / "m_smdl.json", x, asked, **fields)
    with pytest.raises(error, match=message):
        cohort.ask(model=model)
    with pytest.raises(InferenceError, match="a model and a comparison"):
        cohort.ask(model=model, compare="family")


def test_permutation_refuses_f_and_two_factors(cohort: Cohort, tmp_path: Path) -> None:
    asked = [{"Name": "c", "ConditionList": ["three.x", "three.y"], "Weights": [[1, -1]], "Test": "F"}]
    model = stats_model(tmp_path / "m_smdl.json", ["three.*"], asked, **factor("three"))
    with pytest.raises(InferenceError, match="permutation of F contrast onVsOffC asked for"):
        cohort.ask(model=model, correction="maxt")
    asked = [{"Name": "c", "ConditionList": ["family.llama", "family.qwen"], "Weights": [1, -1], "Test": "t"}]
    model = stats_model(tmp_path / "n_smdl.json", ["family.*", "pair.*"], asked, **factor("family", "pair"))
    with pytest.raises(InferenceError, match=r"factors family, pair asked for: .*--pairs"):
        cohort.ask(model=model, correction="maxt")


def test_the_input_of_a_model_chooses_subjects(cohort: Cohort, tmp_path: Path) -> None:
    path = stats_model(tmp_path / "m_smdl.json", [1], [], DummyContrasts={"Test": "t"})
    write_json(path, read_json(path) | {"Input": {"subject": ["a", "c", "h"], "run": ["1"]}})
    (found,) = cohort.ask(model=path).values()
    assert read_json(found.mask.with_name(f"{STEM}_contrast-onVsOff_glm.json"))["Subjects"] == [
        "sub-a",
        "sub-c",
        "sub-h",
    ]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (MADE.drop(columns="participant_id"), "has no column participant_id"),
        (MADE.drop(index=3), "has no row for sub-d; add it"),
        (pd.concat([MADE, MADE.tail(1)]), "has two rows for sub-h"),
    ],
)
def test_a_table_that_does_not_name_each_subject_once_is_refused(
    cohort: Cohort, table: pd.DataFrame, message: str
) -> None:
    write_tsv(cohort.raw / "participants.tsv", table)
    for options in ({}, {"compare": "family"}):
        with pytest.raises(DatasetError, match=message):
            cohort.ask(**options)


def test_a_table_from_a_spreadsheet_is_read(cohort: Cohort) -> None:
    text = (cohort.raw / "participants.tsv").read_text().replace("family", "family ").replace("\n", " \r\n")
    (cohort.raw / "participants.tsv").write_bytes(text.encode())
    assert list(cohort.ask(compare="family", covariates=["depth"])) == [
        "onVsOffLlamaMinusQwen",
        "onVsOffDepthGivenFamily",
    ]


def test_an_output_without_results_is_refused_and_not_made(cohort: Cohort, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"holds no results of subjects; run llm2bids glm at the level participant"):
        glm(cohort.raw, tmp_path / "new", "group", progress=False)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("broken", ["missing", "truncated", "text", "grid"])
@pytest.mark.parametrize("kind", ["effect", "mask"])
def test_maps_that_cannot_be_read_are_named(cohort: Cohort, kind: str, broken: str) -> None:
    path = cohort.maps("d")
    path = path if kind == "effect" else path.with_name(f"sub-d_{STEM}_desc-brain_mask.nii.gz")
    if broken == "missing":
        path.unlink()
    elif broken == "grid":
        write_image(path, UnitSpace.uniform("block", ["a:out"], 35).to_image(np.ones(35, np.float32)))
    else:
        path.write_bytes(path.read_bytes()[:-40] if broken == "truncated" else b"no image")
    with pytest.raises(DatasetError, match=rf"{path.name} cannot be read .*analyse it again with --overwrite"):
        cohort.ask()
    assert not (cohort.out / "group").exists()


# ---- what is there already


def test_results_stay_unless_overwritten(cohort: Cohort) -> None:
    (first,) = cohort.ask().values()
    before = {path: path.read_bytes() for path in (cohort.out / "group").iterdir()}
    with pytest.raises(DatasetError, match="exists already"):
        cohort.ask()
    with pytest.raises(DatasetError, match="other settings"):
        cohort.ask(resume=True, alpha=0.01)
    (again,) = cohort.ask(resume=True).values()
    assert again.skipped
    assert (again.mask, again.threshold) == (first.mask, first.threshold)
    (strict,) = cohort.ask(overwrite=True, alpha=0.01).values()
    assert strict.n_selected < first.n_selected
    assert not first.mask.exists()
    cohort.ask(overwrite=True)
    assert {path: path.read_bytes() for path in (cohort.out / "group").iterdir()} == before


@pytest.mark.parametrize("what", ["subject", "participants"])
def test_results_of_other_subjects_or_tables_are_not_resumed(cohort: Cohort, what: str) -> None:
    cohort.ask(covariates=["depth"])
    if what == "subject":
        change(summary_of(cohort, "b"), Fingerprint="another")
    else:
        with_table(cohort, depth=[*"12345679"])
    with pytest.raises(DatasetError, match="made of other data"):
        cohort.ask(covariates=["depth"], resume=True)


def test_a_mean_and_a_comparison_live_side_by_side(cohort: Cohort, tmp_path: Path) -> None:
    mean, compared = cohort.ask(), cohort.ask(compare="family", covariates=["depth"])
    assert all(one.mask.exists() for one in [*mean.values(), *compared.values()])
    asked = [{"Name": "llama_minus_qwen", "ConditionList": [1], "Weights": [1], "Test": "t"}]
    asked = [{**asked[0], "Name": "m"}, asked[0]]
    with pytest.raises(DatasetError, match=r"LlamaMinusQwen_glm.json has results named onVsOffLlamaMinusQwen"):
        cohort.ask(model=stats_model(tmp_path / "m_smdl.json", [1], asked))
    assert len(list((cohort.out / "group").glob("*_glm.json"))) == 2
