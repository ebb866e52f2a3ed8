"""`glm` on recordings of the phantom: against nilearn driven by hand, closed forms, and what was planted."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING
from warnings import catch_warnings, simplefilter

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from nilearn.glm import compute_fixed_effects
from nilearn.glm.first_level import FirstLevelModel, first_level_from_bids
from nilearn.glm.second_level import SecondLevelModel
from nilearn.masking import intersect_masks
from scipy import stats

from llm2bids.bids.dataset import Dataset
from llm2bids.bids.nifti import write_image
from llm2bids.bids.tables import read_json, read_tsv, write_json, write_tsv
from llm2bids.errors import DatasetError, StatsModelError
from llm2bids.masks import load_mask
from llm2bids.preparation import prep
from llm2bids.recording import record
from llm2bids.statistics import glm
from llm2bids.validation import validate

from .glm_cases import (
    CUTOFF,
    N_PROMPTS,
    N_RUNS,
    N_TOKENS,
    PREPARED,
    SMALL,
    analysed,
    beside,
    contents,
    files_of,
    refused,
    values,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llm2bids.statistics import ContrastResult


@pytest.fixture(scope="module")
def prepared(two_sites: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One task at two sites, two runs, prepared; do not write into it but below derivatives/NAME."""
    return Path(shutil.copytree(two_sites, tmp_path_factory.mktemp("glm") / "ds"))


@pytest.fixture(scope="module")
def network(prepared: Path) -> ContrastResult:
    """The network of the default settings, at site mlp, in derivatives/glm."""
    return analysed(prepared, "glm")


@pytest.fixture
def copied(prepared: Path, tmp_path: Path) -> Path:
    """A copy to change, without results."""
    ignored = shutil.ignore_patterns("glm*", "*acq-block*")
    return Path(shutil.copytree(prepared, tmp_path / "ds", ignore=ignored))


# ---- nilearn driven by hand


@pytest.mark.parametrize(
    ("site", "confounds", "cutoff"), [("block", [], None), ("mlp", ["tok_position", "tok_surprisal"], CUTOFF)]
)
def test_tokens_equal_nilearn_through_its_bids_reader(
    prepared: Path, site: str, confounds: list[str], cutoff: float | None
) -> None:
    result = analysed(
        prepared, f"glmtoken{site}", sites=[site], inference="token", confounds=confounds, high_pass=cutoff
    )
    (sidecar, _) = sorted((prepared / PREPARED).glob(f"*acq-{site}*_bold.json"))
    masks = [nib.load(path) for path in (prepared / PREPARED).glob(f"*acq-{site}*_mask.nii.gz")]
    with catch_warnings():
        simplefilter("ignore")
        models, images, events, tables = first_level_from_bids(
            prepared,
            "pathology",
            result.space,
            img_filters=[("acq", site), ("desc", "preproc")],
            derivatives_folder="derivatives/llm2bids",
            slice_time_ref=None,
            hrf_model=None,
            drift_model="cosine",
            high_pass=cutoff or read_json(sidecar)["Llm2bids"]["HighPassHz"],
            noise_model="ar1",
            signal_scaling=False,
            smoothing_fwhm=None,
            mask_img=intersect_masks(masks, threshold=1, connected=False),
        )
        chosen = [table[confounds] for table in tables[0]] if confounds else None
        model = models[0].fit(images[0], events[0], chosen)
        vectors = [
            matrix.columns.isin(["on"]) * 1.0 - matrix.columns.isin(["off"]) for matrix in model.design_matrices_
        ]
        by_hand = model.compute_contrast(vectors, output_type="z_score").get_fdata().reshape(-1)
    assert model.slice_time_ref == 0.5
    assert np.abs(by_hand).max() > 3
    np.testing.assert_allclose(values(result.z_file), by_hand, rtol=0, atol=1e-5)


def mean_cosines(order: int) -> NDArray[np.float64]:
    """Cosine of a drift over the prompts of a run."""
    cosine = np.cos(np.pi / (N_PROMPTS * N_TOKENS) * (np.arange(N_PROMPTS * N_TOKENS) + 0.5) * order)
    averaged: NDArray[np.float64] = cosine.reshape(N_PROMPTS, N_TOKENS).mean(1)
    return averaged


@pytest.mark.parametrize("cutoff", [None, CUTOFF])
def test_prompts_equal_a_second_level_model_of_their_effects(prepared: Path, cutoff: float | None) -> None:
    result = analysed(prepared, "glmprompt", high_pass=cutoff, overwrite=True)
    table = read_tsv(result.mask_file.with_name(result.mask_file.name.split("_contrast")[0] + "_prompts.tsv"))
    effects = nib.load(
        result.mask_file.with_name(
            result.mask_file.name.split("_contrast")[0] + "_stat-effect_desc-prompts_statmap.nii.gz"
        )
    )
    assert effects.shape[3] == len(table) == N_RUNS * N_PROMPTS
    design = pd.DataFrame({"on": (table["trial_type"] == "on") * 1.0})
    for run in range(N_RUNS):
        of_run = np.repeat(np.arange(N_RUNS) == run, N_PROMPTS)
        design[f"run{run}"] = of_run * 1.0
        for order in (1, 2) if cutoff else ():
            design[f"drift{run}{order}"] = of_run * np.tile(mean_cosines(order), N_RUNS)
    mask = nib.load(result.mask_file.with_name(result.mask_file.name.split("_contrast")[0] + "_desc-brain_mask.nii.gz"))
    model = SecondLevelModel(mask_img=mask).fit(list(nib.four_to_three(effects)), design_matrix=design)
    by_hand = model.compute_contrast("on", output_type="z_score").get_fdata().reshape(-1)
    np.testing.assert_allclose(values(result.z_file), by_hand, rtol=0, atol=1e-5)


def prompt_means(root: Path) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Mean of every unit over every prompt, in standard deviations, and which prompts are "on", run by run."""
    scans = [(values(path) - 10000) / 100 for path in files_of(root, "_bold.nii.gz")]
    means = np.stack([run.reshape(-1, N_PROMPTS, N_TOKENS).mean(2).T for run in scans])
    tables = [read_tsv(path) for path in sorted((root / "sub-phantom" / "func").glob("*acq-mlp*events.tsv"))]
    return means, np.stack([(table["trial_type"] == "on").to_numpy() for table in tables])


def test_means_of_prompts_give_the_t_test_of_a_textbook(prepared: Path) -> None:
    result = analysed(prepared, "glmmean", level="prompt-mean", drift="none", overwrite=True)
    means, on = prompt_means(prepared)
    within = on - on.mean(1, keepdims=True)
    residuals = means - means.mean(1, keepdims=True)
    slope = np.einsum("rp,rpv->v", within, residuals) / (within**2).sum()
    rest = residuals - within[..., None] * slope
    dof = on.size - N_RUNS - 1
    error = np.sqrt((rest**2).sum((0, 1)) / dof / (within**2).sum())
    tested = values(result.z_file) != 0
    for statistic, expected in {"effect": slope, "variance": error**2, "t": slope / np.maximum(error, 1e-9)}.items():
        np.testing.assert_allclose(values(beside(result, statistic))[tested], expected[tested], rtol=1e-4, atol=1e-6)
    assert (
        read_json(beside(result, "t").with_name(beside(result, "t").name.replace(".nii.gz", ".json")))["Llm2bids"][
            "DegreesOfFreedom"
        ]
        == dof
    )
    p = 2 * stats.t.sf(np.abs(slope[tested] / error[tested]), dof)
    np.testing.assert_allclose(values(beside(result, "p"))[tested], p, rtol=1e-3, atol=1e-7)


def test_the_mean_of_a_prompt_is_its_effect_in_a_model_of_its_own(prepared: Path) -> None:
    result = analysed(prepared, "glmmean", level="prompt-mean", drift="none", overwrite=True)
    stem = result.mask_file.name.split("_contrast")[0]
    effects = values(result.mask_file.with_name(f"{stem}_stat-effect_desc-prompts_statmap.nii.gz"))
    means, _ = prompt_means(prepared)
    tested = values(result.mask_file.with_name(f"{stem}_desc-brain_mask.nii.gz")) > 0
    np.testing.assert_allclose(effects[tested], means.reshape(N_RUNS * N_PROMPTS, -1).T[tested], atol=1e-4)
    mask = nib.load(result.mask_file.with_name(f"{stem}_desc-brain_mask.nii.gz"))
    events = pd.DataFrame({"onset": np.arange(N_PROMPTS) * 5.0, "duration": 5.0, "trial_type": list("abcdefghij")})
    with catch_warnings():
        simplefilter("ignore")
        model = FirstLevelModel(
            t_r=1, slice_time_ref=0.5, hrf_model=None, drift_model=None, noise_model="ols", signal_scaling=False,
            mask_img=mask,
        ).fit(files_of(prepared, "_bold.nii.gz")[0], events)  # fmt: skip
        by_hand = model.compute_contrast("c - d", output_type="effect_size").get_fdata().reshape(-1) / 100
    np.testing.assert_allclose((effects[:, 2] - effects[:, 3])[tested], by_hand[tested], atol=1e-4)


def test_runs_are_combined_by_fixed_effects(prepared: Path) -> None:
    result = analysed(prepared, "glmrun", inference="run")
    runs = [
        [beside(result, f"{name}").name.replace("_space", f"_run-0{run}_space") for run in (1, 2)]
        for name in ("effect", "variance")
    ]
    paths = [[result.z_file.with_name(name) for name in names] for names in runs]
    dofs = [
        read_json(path.with_name(path.name.replace(".nii.gz", ".json")))["Llm2bids"]["DegreesOfFreedom"]
        for path in paths[0]
    ]
    assert dofs == [N_PROMPTS - 2] * N_RUNS
    mask = nib.load(result.mask_file.with_name(result.mask_file.name.split("_contrast")[0] + "_desc-brain_mask.nii.gz"))
    *_, z = compute_fixed_effects(*paths, mask, precision_weighted=True, dofs=dofs)
    np.testing.assert_allclose(values(result.z_file), z.get_fdata().reshape(-1), atol=1e-4)


# ---- what is written


def test_the_network_is_what_the_false_discovery_rate_leaves(network: ContrastResult) -> None:
    stem = network.mask_file.name.split("_contrast")[0]
    tested = values(network.mask_file.with_name(f"{stem}_desc-brain_mask.nii.gz")) > 0
    p = 2 * stats.norm.sf(np.abs(values(network.z_file)[tested]))
    ranks = np.arange(1, len(p) + 1)
    below = np.flatnonzero(np.sort(p) <= 0.05 * ranks / len(p))
    selected = values(network.mask_file)[tested] > 0
    np.testing.assert_array_equal(selected, p <= np.sort(p)[below[-1]])
    assert (network.n_tested, network.n_selected) == (tested.sum(), selected.sum())
    assert network.threshold == pytest.approx(
        np.abs(values(network.z_file)[values(network.mask_file) > 0]).min(), rel=1e-5
    )


def test_the_table_of_units_is_the_mask(network: ContrastResult) -> None:
    table = read_tsv(network.units_file)
    mask = load_mask(network.mask_file)
    assert sorted(map(int, table["unit"])) == mask.units.tolist()
    volume = nib.load(network.z_file).get_fdata()
    for row in table.head(3).itertuples():
        assert volume[mask.space.voxel_of(int(row.unit))] == pytest.approx(float(row.z), rel=1e-4)
    strength = table["z"].astype(float).abs()
    assert strength.is_monotonic_decreasing
    assert strength.min() == pytest.approx(network.threshold, rel=1e-4)


def test_every_sidecar_says_where_its_image_comes_from(prepared: Path, network: ContrastResult) -> None:
    raw = next((prepared / "sub-phantom" / "func").glob("*acq-mlp*bold.json"))
    model = {
        key: read_json(raw)["Llm2bids"][key] for key in ("Model", "Revision", "WeightsSHA256", "Site", "UnitSpace")
    }
    out = network.mask_file.parents[2]
    links = read_json(out / "dataset_description.json")["DatasetLinks"]
    images = sorted(network.mask_file.parent.glob("*acq-mlp*.nii.gz"))
    assert len(images) == 12
    for image in images:
        sidecar = read_json(image.with_name(image.name.replace(".nii.gz", ".json")))
        metadata = sidecar["Llm2bids"]
        assert {key: metadata[key] for key in model} == model
        assert (metadata["Statistics"]["Correction"], metadata["Statistics"]["Alpha"]) == ("fdr", 0.05)
        assert len(metadata["Stimuli"]) == N_RUNS
        for source in (*sidecar["Sources"], sidecar["SpatialReference"]):
            _, name, path = source.split(":")
            assert (out / links[name] / path).is_file(), source
        if "_contrast-" in image.name:
            assert metadata["Contrast"]["Name"] == "onVsOff"
            assert metadata["RunsDropped"] == []
    assert (
        read_json(network.mask_file.with_name(network.mask_file.name.replace(".nii.gz", ".json")))["Llm2bids"][
            "ThresholdZ"
        ]
        == network.threshold
    )


def test_sidecars_hash_the_stimuli(prepared: Path, network: ContrastResult) -> None:
    raw = sorted((prepared / "sub-phantom" / "func").glob("*acq-mlp*bold.json"))
    recorded = [read_json(path)["Llm2bids"] for path in raw]
    stimuli = read_json(network.z_file.with_name(network.z_file.name.replace(".nii.gz", ".json")))["Llm2bids"][
        "Stimuli"
    ]
    texts = [[prompt["text"] for prompt in read_json(prepared / run["Stimuli"])["Prompts"]] for run in recorded]
    assert stimuli == [
        {
            "File": run["Stimuli"],
            "SHA256": run["Settings"]["StimuliSHA256"],
            "Texts": sorted({hashlib.sha256(text.encode()).hexdigest()[:12] for text in run_texts}),
        }
        for run, run_texts in zip(recorded, texts, strict=True)
    ]
    assert all(re.fullmatch("[0-9a-f]{64}", run["SHA256"]) for run in stimuli)


def test_the_page_needs_nothing_from_elsewhere(network: ContrastResult) -> None:
    page = (network.mask_file.parents[2] / "sub-phantom.html").read_text()
    assert page.count("data:image/png;base64,") >= 3
    assert not re.findall(r"(?:src|href)=[\"']?(?!data:|#)[^\"'>]+", page)
    assert f"{network.n_selected} of {network.n_tested} units" in page


def test_results_are_valid_bids_inside_and_outside(prepared: Path, network: ContrastResult, tmp_path: Path) -> None:
    analysed(prepared, "glmrun", inference="run", overwrite=True)
    glm(prepared, tmp_path / "else where" / "out", sites=["mlp"], progress=False)
    folders = [*validate(network.mask_file.parents[2]), *validate(tmp_path / "else where" / "out")]
    folders += validate(prepared / "derivatives" / "glmrun")
    assert [
        (validation.n_errors, validation.n_warnings, validation.summary())
        for validation in folders
        if validation.issues
    ] == []
    links = read_json(tmp_path / "else where" / "out" / "dataset_description.json")["DatasetLinks"]
    assert (tmp_path / "else where" / "out" / links["raw"]).resolve() == prepared.resolve()


def test_two_processes_find_what_one_finds(prepared: Path, tmp_path: Path) -> None:
    """To rounding: how a matrix product adds up depends on where in memory its factors lie."""
    for n_jobs in (1, 2):
        glm(prepared, tmp_path / str(n_jobs), n_jobs=n_jobs, progress=False)
    assert set(contents(tmp_path / "1")) == set(contents(tmp_path / "2"))
    for path in (tmp_path / "1").rglob("*.nii.gz"):
        single, two = (
            nib.load(root / path.relative_to(tmp_path / "1")).get_fdata() for root in (tmp_path / "1", tmp_path / "2")
        )
        np.testing.assert_allclose(single, two, rtol=1e-5, atol=1e-6)


def test_a_model_of_ones_own_with_f_confounds_and_wildcards(prepared: Path, tmp_path: Path) -> None:
    fields = read_json(prepared / "code" / "models" / "model-pathology_smdl.json")
    node = fields["Nodes"][0]
    node["Model"] |= {"X": [1, "trial_type.*", "tok_*"], "Options": {"HighPassFilterCutoffHz": CUTOFF}}
    node["Contrasts"] = [
        {
            "Name": "difference",
            "ConditionList": ["trial_type.on", "trial_type.off"],
            "Weights": ["1/2", -0.5],
            "Test": "t",
        },
        {"Name": "any", "ConditionList": ["trial_type.on", "trial_type.off"], "Weights": [[1, -1]], "Test": "F"},
    ]
    fields["Input"] |= {"acquisition": ["mlp"]}
    write_json(tmp_path / "own_smdl.json", fields)
    t, f = glm(prepared, tmp_path / "out", model=tmp_path / "own_smdl.json", progress=False)
    assert (t.contrast, f.contrast, t.site) == ("difference", "any", "mlp")
    np.testing.assert_allclose(values(beside(f, "F")), values(beside(t, "t")) ** 2, rtol=1e-4)
    metadata = read_json(f.z_file.with_name(f.z_file.name.replace(".nii.gz", ".json")))["Llm2bids"]
    assert (metadata["HighPassHz"], metadata["Contrast"]["Weights"]) == (CUTOFF, [[1.0, -1.0]])
    (page,) = (tmp_path / "out").glob("*.html")
    assert "level 0.05, two-tailed, F tests one-tailed." in page.read_text()
    (result,) = glm(prepared, tmp_path / "half", sites=["mlp"], contrasts=["half=0.5*on - 0.5*off"],
                 confounds=["tok_*"], high_pass=CUTOFF, progress=False)  # fmt: skip
    np.testing.assert_array_equal(values(result.z_file), values(t.z_file))


def test_input_leaves_runs_out(prepared: Path, tmp_path: Path) -> None:
    fields = read_json(prepared / "code" / "models" / "model-pathology_smdl.json")
    write_json(tmp_path / "one_smdl.json", fields | {"Input": {"run": [2]}})
    (result,) = glm(prepared, tmp_path / "out", sites=["mlp"], model=tmp_path / "one_smdl.json", progress=False)
    sources = read_json(result.mask_file.with_name(result.mask_file.name.replace(".nii.gz", ".json")))["Sources"]
    assert [source.split("_run-")[1][:2] for source in sources] == ["02"]
    write_json(tmp_path / "none_smdl.json", fields | {"Input": {"run": [3]}})
    refused(StatsModelError, r"Input of .*none_smdl\.json lets none", prepared, model=tmp_path / "none_smdl.json")


# ---- what is there already


def test_what_is_there_stays_unless_replaced(copied: Path) -> None:
    first = analysed(copied, "out")
    before = contents(copied)
    with pytest.raises(DatasetError, match=r"glm\.json exists already; go on with resume=True, replace"):
        analysed(copied, "out")
    with pytest.raises(DatasetError, match="made of other data or with other settings"):
        analysed(copied, "out", alpha=0.01, resume=True)
    with pytest.raises(DatasetError, match="both resume=True and overwrite=True"):
        analysed(copied, "out", resume=True, overwrite=True)
    again = analysed(copied, "out", resume=True)
    assert again.skipped
    assert (again.mask_file, again.n_selected) == (first.mask_file, first.n_selected)
    assert contents(copied) == before


def test_another_correction_replaces_the_earlier_network(copied: Path) -> None:
    first = analysed(copied, "out")
    replaced = analysed(copied, "out", correction="maxt", n_permutations=99, overwrite=True)
    assert replaced.mask_file.is_file()
    assert not first.mask_file.exists()
    assert [path.name for path in first.mask_file.parent.iterdir() if "fdr05" in path.name] == []


def test_a_second_task_joins_the_first(copied: Path) -> None:
    analysed(copied, "out")
    record(copied, task="archeology", sites=["mlp"], **SMALL)
    prep(copied, resume=True, progress=False)
    glm(copied, copied / "derivatives" / "out", task_label=["archeology"], progress=False)
    again = glm(copied, copied / "derivatives" / "out", resume=True, progress=False)
    assert [(result.task, result.skipped) for result in again] == [("archeology", True), ("pathology", True)]
    page = (copied / "derivatives" / "out" / "sub-phantom.html").read_text()
    assert "Task archeology" in page
    assert "Task pathology" in page


def test_an_analysis_that_was_cut_off_while_moving_is_finished(copied: Path) -> None:
    out = Dataset(copied / "derivatives" / "out", "derivative")
    first = analysed(copied, "out")
    before = contents(out.root)
    stage = out.root / ".llm2bids" / first.mask_file.name.split("_contrast")[0]
    (stage / "sub-phantom" / "func").mkdir(parents=True)
    for path in first.mask_file.parent.glob("*.nii.gz"):
        path.rename(stage / "sub-phantom" / "func" / path.name)
    (stage / "READY").touch()
    assert analysed(copied, "out", resume=True).skipped
    assert contents(out.root) == before


def test_results_of_another_dataset_are_refused(prepared: Path, copied: Path) -> None:
    analysed(copied, "out")
    with pytest.raises(DatasetError, match=r"holds results of \.\./\.\., not of .*; name another output folder"):
        glm(prepared, copied / "derivatives" / "out", progress=False)


def test_two_at_once_on_one_output_do_not_mix(copied: Path, network: ContrastResult) -> None:
    out = Dataset(copied / "derivatives" / "out", "derivative")
    with out.stage(network.mask_file.name.split("_contrast")[0]) as other_stage:
        (other_stage / "half").mkdir()
        with pytest.raises(DatasetError, match="is being written by another process"):
            analysed(copied, "out")
        assert (other_stage / "half").is_dir()
    assert analysed(copied, "out").n_selected == network.n_selected


# ---- what was planted, and what was not


def test_planted_networks_are_found(tmp_path: Path) -> None:
    """On the average of two tasks at one seed; the false discovery rate is an expectation, no bound on each map."""
    tasks = ["archeology", "medicalimaging"]
    record(tmp_path / "ds", task=tasks, progress=False)
    prep(tmp_path / "ds", progress=False)
    rows = []
    for result in glm(tmp_path / "ds", tmp_path / "ds" / "derivatives" / "glm", progress=False):
        truth = next((tmp_path / "ds" / "derivatives" / "phantom").rglob(f"*task-{result.task}_*truth_mask.nii.gz"))
        planted, network = values(truth) > 0, values(result.mask_file) > 0
        hits = (planted & network).sum()
        rows.append((hits / planted.sum(), 2 * hits / (planted.sum() + network.sum()), 1 - hits / network.sum()))
    sensitivity, dice, false = np.mean(rows, axis=0)
    assert len(rows) == len(tasks)
    assert sensitivity >= 0.95
    assert dice >= 0.95
    assert false <= 0.05


def test_nothing_is_found_where_nothing_is(tmp_path: Path) -> None:
    """Rest whose prompts are called on and off by lot, at one seed; one such draw in twenty would find something."""
    root = tmp_path / "ds"
    record(root, task="rest", **SMALL | {"blocks": 3})
    rng = np.random.default_rng(0)
    for path in (root / "sub-phantom" / "func").glob("*events.tsv"):
        table = read_tsv(path)
        write_tsv(path, table.assign(trial_type=rng.permutation(np.resize(["on", "off"], len(table)))))
    prep(root, progress=False)
    contrast = {"Name": "lot", "ConditionList": ["trial_type.on", "trial_type.off"], "Weights": [1, -1], "Test": "t"}
    factor = {"Transformer": "pybids-transforms-v1", "Instructions": [{"Name": "Factor", "Input": ["trial_type"]}]}
    node = {"Level": "Run", "Name": "run", "GroupBy": ["run", "subject"], "Transformations": factor,
            "Model": {"Type": "glm", "X": ["trial_type.*"]}, "Contrasts": [contrast]}  # fmt: skip
    write_json(root / "lot_smdl.json", {"Name": "lot", "BIDSModelVersion": "1.0.0", "Nodes": [node]})
    result = analysed(root, "out", sites=[], model=root / "lot_smdl.json", correction="maxt", n_permutations=199)
    assert (result.n_selected, result.threshold) == (0, None)
    assert result.n_tested > 700
    assert read_tsv(result.units_file).empty
    assert (
        json.loads(result.mask_file.with_name(result.mask_file.name.replace(".nii.gz", ".json")).read_text())[
            "Llm2bids"
        ]["ThresholdZ"]
        is None
    )


def test_units_that_are_constant_in_a_run_are_not_tested(copied: Path, network: ContrastResult) -> None:
    record(copied, task="pathology", sites=["mlp"], overwrite=True, **SMALL)
    (path,) = (copied / "sub-phantom" / "func").glob("*acq-mlp_run-02_bold.nii.gz")
    image = nib.load(path)
    planted = load_mask(network.mask_file).units[:3]
    volumes = np.asarray(image.dataobj).copy()
    for unit in planted:
        volumes[load_mask(network.mask_file).space.voxel_of(int(unit))] = 7.0
    write_image(path, nib.Nifti1Image(volumes, image.affine, image.header))
    prep(copied, overwrite=True, progress=False)
    fewer = analysed(copied, "out")
    assert fewer.n_tested == network.n_tested - 3
    assert not set(planted) & set(load_mask(fewer.mask_file).units)
    space = load_mask(network.mask_file).space
    for unit in planted:
        assert [nib.load(beside(fewer, name)).get_fdata()[space.voxel_of(int(unit))] for name in ("z", "p")] == [
            0.0,
            1.0,
        ]
