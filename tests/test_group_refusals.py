"""Over subjects: who enters, everything that cannot be asked, and results that are there already."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from scipy import stats

from llm2bids.bids.nifti import write_image
from llm2bids.bids.tables import read_json, write_json, write_tsv
from llm2bids.errors import DatasetError, DesignError, InferenceError, LLM2BIDSError, StatsModelError
from llm2bids.preparation import prep
from llm2bids.recording import record
from llm2bids.space import UnitSpace
from llm2bids.statistics import glm

from .families import tiny_subject
from .group_cases import DEAD, MADE, SMALL, STEM, factor, stats_model

if TYPE_CHECKING:
    from .group_cases import Cohort


def with_table(cohort: Cohort, **columns: list[str]) -> Cohort:
    """Another participants.tsv."""
    write_tsv(cohort.raw / "participants.tsv", MADE.assign(**columns))
    return cohort


def change(path: Path, **fields: Any) -> None:
    """Other fields in a sidecar; those of Llm2bids may be given by themselves."""
    content = read_json(path)
    metadata = {key: fields.pop(key) for key in ("Statistics", "Contrast", "UnitSpace", "Design") if key in fields}
    content["Llm2bids"] |= {key: content["Llm2bids"][key] | value for key, value in metadata.items()}
    write_json(path, content | fields)


def summary_of(cohort: Cohort, label: str) -> Path:
    return cohort.out / f"sub-{label}" / "func" / f"sub-{label}_{STEM}_glm.json"


def sidecar_of(cohort: Cohort, label: str, contrast: str = "onVsOff") -> Path:
    return Path(str(cohort.maps(label)).replace(".nii.gz", ".json").replace("onVsOff", contrast))


# ---- who enters


def ask_another_contrast(cohort: Cohort, label: str) -> None:
    """The results of a subject under another name."""
    for path in (cohort.maps(label), sidecar_of(cohort, label)):
        path.rename(path.with_name(path.name.replace("onVsOff", "mine")))
    change(sidecar_of(cohort, label, "mine"), Contrast={"Name": "mine"})
    entry = read_json(summary_of(cohort, label))["Found"][0]
    renamed = {**entry, "contrast": "mine", "z_map": entry["z_map"].replace("onVsOff", "mine")}
    change(summary_of(cohort, label), Found=[renamed])


def test_a_subject_without_the_contrast_is_an_error(cohort: Cohort) -> None:
    ask_another_contrast(cohort, "c")
    with pytest.raises(
        DesignError, match=r"sub-c has no result of contrast onVsOff, task pathology, site block, and sub"
    ):
        cohort.ask()
    with pytest.raises(DesignError, match="1 subjects and 1 independent columns"):
        cohort.ask(drop_missing=True)
    (result,) = cohort.ask(participant_label=list("abdefgh")).values()
    assert result.n_tested == 766


def test_a_subject_without_the_contrast_is_left_out_if_asked_and_recorded(cohort: Cohort) -> None:
    for label in "ceg":
        ask_another_contrast(cohort, label)
    results = cohort.ask(drop_missing=True)
    entered = {"onVsOff": "abdfh", "mine": "ceg"}
    for name, labels in entered.items():
        summary = read_json(results[name].mask_file.with_name(f"{STEM}_contrast-{name}_glm.json"))
        assert summary["Subjects"] == [f"sub-{label}" for label in labels]
        assert summary["Llm2bids"]["SubjectsDropped"] == [f"sub-{label}" for label in "abcdefgh" if label not in labels]
    expected = stats.ttest_1samp(cohort.effects[[2, 4, 6]].astype(float)[:, :40], 0).statistic
    np.testing.assert_allclose(cohort.read(results["mine"], "t")[:40], expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("Contrast", {"Weights": [2.0, -1.0]}, r"contrast onVsOff .*\[2\.0, -1\.0\].*sub-a with .*\[1\.0, -1\.0\]"),
        ("Statistics", {"Inference": "token"}, "sub-e was analysed with Inference token, sub-a with prompt"),
        ("Statistics", {"EffectOfPrompt": "prompt-mean"}, "EffectOfPrompt prompt-mean, sub-a with prompt"),
        ("Statistics", {"Drift": "none"}, "Drift none, sub-a with cosine.*overwrite=True"),
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
        results = cohort.ask(drop_missing=True)
    assert list(results) == ["mine"]
    assert "F contrast onVsOff" in caplog.text


def test_only_units_tested_in_every_subject_are_tested(cohort: Cohort) -> None:
    for label, units in (("b", range(10)), ("f", range(5, 20))):
        mask = cohort.maps(label).with_name(f"sub-{label}_{STEM}_desc-brain_mask.nii.gz")
        write_image(mask, cohort.space.to_image(~np.isin(np.arange(768), units)))
    (result,) = cohort.ask().values()
    assert result.n_tested == 746
    tested = cohort.space.to_signals(
        nib.load(result.mask_file.with_name(result.mask_file.name.replace("fdr05", "brain")))
    )
    np.testing.assert_array_equal(np.flatnonzero(tested == 0), [*range(20), *DEAD])
    assert (cohort.read(result)[:20] == 0).all()
    assert (cohort.read(result, "p")[:20] == 1).all()
    write_image(cohort.maps("b").with_name(f"sub-b_{STEM}_desc-brain_mask.nii.gz"), cohort.space.to_image(tested > 1))
    with pytest.raises(DesignError, match="no unit was tested in every subject and"):
        cohort.ask(overwrite=True)


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
    (result,) = glm(root, out, "group", participant_label=["p1", "p2", "p3"], progress=False)
    assert result.n_selected > 20


# ---- what cannot be asked


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"participant_label": ["a"]}, DesignError, "1 subjects and 1 independent columns found"),
        ({"participant_label": ["a", "e"], "compare": "family"}, DesignError, "2 subjects and 2 independent"),
        ({"participant_label": ["a", "nobody"]}, DatasetError, "no results of subject nobody"),
        ({"task_label": ["archeology"]}, DatasetError, "no results of task archeology"),
        ({"sites": ["mlp"]}, DatasetError, "no results of site mlp"),
        ({"compare": "famliy"}, DesignError, "no column famliy; did you mean family[?] it has family, pair, three"),
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
        ({"pairs": "pair"}, InferenceError, "pairs without a comparison.*`compare`"),
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
    contrasts = [{"Name": "c", "ConditionList": contrast, "Weights": [1], "Test": "t"}] if contrast else []
    model = stats_model(tmp_path / "m_smdl.json", x, contrasts, **fields)
    with pytest.raises(error, match=message):
        cohort.ask(model=model)
    with pytest.raises(InferenceError, match="a model and a comparison"):
        cohort.ask(model=model, compare="family")


def test_permutation_refuses_f_and_two_factors(cohort: Cohort, tmp_path: Path) -> None:
    contrasts = [{"Name": "c", "ConditionList": ["three.x", "three.y"], "Weights": [[1, -1]], "Test": "F"}]
    model = stats_model(tmp_path / "m_smdl.json", ["three.*"], contrasts, **factor("three"))
    with pytest.raises(InferenceError, match="permutation of F contrast onVsOffC asked for"):
        cohort.ask(model=model, correction="maxt")
    contrasts = [{"Name": "c", "ConditionList": ["family.llama", "family.qwen"], "Weights": [1, -1], "Test": "t"}]
    model = stats_model(tmp_path / "n_smdl.json", ["family.*", "pair.*"], contrasts, **factor("family", "pair"))
    with pytest.raises(InferenceError, match=r"factors family, pair asked for: .*`pairs`"):
        cohort.ask(model=model, correction="maxt")


def test_the_input_of_a_model_chooses_subjects(cohort: Cohort, tmp_path: Path) -> None:
    path = stats_model(tmp_path / "m_smdl.json", [1], [], DummyContrasts={"Test": "t"})
    write_json(path, read_json(path) | {"Input": {"subject": ["a", "c", "h"], "run": ["1"]}})
    (result,) = cohort.ask(model=path).values()
    assert read_json(result.mask_file.with_name(f"{STEM}_contrast-onVsOff_glm.json"))["Subjects"] == [
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
    with pytest.raises(DatasetError, match=rf"{path.name} cannot be read .*analyse it again with overwrite=True"):
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
    assert (again.mask_file, again.threshold) == (first.mask_file, first.threshold)
    (strict,) = cohort.ask(overwrite=True, alpha=0.01).values()
    assert strict.n_selected < first.n_selected
    assert not first.mask_file.exists()
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
    assert all(result.mask_file.exists() for result in [*mean.values(), *compared.values()])
    contrasts = [{"Name": "llama_minus_qwen", "ConditionList": [1], "Weights": [1], "Test": "t"}]
    contrasts = [{**contrasts[0], "Name": "m"}, contrasts[0]]
    with pytest.raises(DatasetError, match=r"LlamaMinusQwen_glm.json has results named onVsOffLlamaMinusQwen"):
        cohort.ask(model=stats_model(tmp_path / "m_smdl.json", [1], contrasts))
    assert len(list((cohort.out / "group").glob("*_glm.json"))) == 2
