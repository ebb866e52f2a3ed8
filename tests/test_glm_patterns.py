"""Patterns that `glm` writes of recordings of the phantom: by hand from raw activations, and read back."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from llm2bids.bids.names import sidecar_of
from llm2bids.bids.prepared import find_prepared
from llm2bids.bids.tables import read_json, read_tsv, write_json
from llm2bids.design.regressors import FACTOR, Column
from llm2bids.design.statsmodel import Contrast
from llm2bids.errors import DatasetError, DesignError
from llm2bids.preparation import prep
from llm2bids.statistics import glm
from llm2bids.statistics.contrast_patterns import comparison_of
from llm2bids.statistics.pattern_files import Comparison, read_samples
from llm2bids.statistics.patterns import fit_patterns
from llm2bids.statistics.prompt_means import prompt_means
from llm2bids.validation import validate

from .test_patterns import slow

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llm2bids.recording import Recording
    from llm2bids.statistics import ContrastResult
    from llm2bids.statistics.analysis import Analysis

N_TEXTS = {"pathology": (8, 12), "medicalimaging": (8, 12)}


@pytest.fixture(scope="module")
def prepared(small_dataset: tuple[Path, list[Recording]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tasks, two runs each, prepared."""
    root = Path(shutil.copytree(small_dataset[0], tmp_path_factory.mktemp("patterns") / "ds"))
    prep(root, progress=False)
    return root


@pytest.fixture(scope="module")
def result(prepared: Path) -> ContrastResult:
    """The contrast of one task."""
    (result,) = glm(prepared, prepared / "derivatives" / "one", task_label=["pathology"], progress=False)
    return result


@pytest.fixture(scope="module")
def against_dataset(prepared: Path) -> ContrastResult:
    """The same, with the other task in the reference."""
    out = prepared / "derivatives" / "both"
    (result,) = glm(prepared, out, task_label=["pathology"], reference="dataset", progress=False)
    return result


def filter_of(result: ContrastResult) -> Path:
    """File of the filter."""
    assert result.pattern_file is not None
    return result.pattern_file


def by_hand(root: Path, task: str) -> pd.DataFrame:
    """One row per prompt: text, condition and the mean of its raw activations but for position 0."""
    rows = []
    for bold in sorted(root.glob(f"sub-*/func/*task-{task}*_bold.nii.gz")):
        name = bold.name.removesuffix("_acq-block_run-01_bold.nii.gz").removesuffix("_acq-block_run-02_bold.nii.gz")
        events = pd.read_csv(
            bold.with_name(bold.name.replace("bold.nii.gz", "events.tsv")), sep="\t", dtype={"prompt": str}
        )
        run = re.search(r"run-\d+", bold.name)
        texts = read_json(root / "stimuli" / "sub-phantom" / f"{name}_{run and run.group()}_stimuli.json")["Prompts"]
        text_of = {str(prompt["prompt"]): prompt["text"] for prompt in texts}
        position = pd.read_csv(bold.with_name(bold.name.replace("bold.nii.gz", "stim.tsv.gz")), sep="\t", header=None)[
            1
        ]
        volumes = nib.load(bold).get_fdata()[..., 1:-1, :].transpose(3, 2, 1, 0).reshape(len(position), -1)
        for event in events.itertuples():
            scans = np.arange(round(event.onset), round(event.onset + event.duration))
            scans = scans[position[scans].to_numpy() > 0]
            rows.append((text_of[event.prompt], event.trial_type, volumes[scans].mean(0)))
    return pd.DataFrame(rows, columns=["text", "kind", "values"])


def averaged(prompts: pd.DataFrame) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Activations of texts, each once, and whether they are of the condition."""
    texts = prompts.groupby("text", sort=False).agg(
        {"kind": "first", "values": lambda part: np.mean(list(part), axis=0)}
    )
    return np.stack(texts["values"].tolist()), (texts["kind"] == "on").to_numpy()


def check_pattern(result: ContrastResult, values: NDArray[np.float64], on: NDArray[np.bool_]) -> None:
    """The pattern is what formulas make of the activations of texts."""
    pattern = result.pattern
    assert pattern.pattern is not None
    assert pattern.filter is not None
    assert pattern.reference is not None
    np.testing.assert_allclose(pattern.reference, values[~on].mean(0), rtol=1e-5, atol=1e-4)
    for hookpoint, (part, effects, filters) in enumerate(
        zip(*(pattern.space.split(rows) for rows in (values, pattern.pattern[0], pattern.filter[0])), strict=True)
    ):
        expected, direction, shrinkage, _ = slow(part, on)
        np.testing.assert_allclose(effects, expected, rtol=1e-4, atol=1e-4)
        cosine = filters @ direction / np.linalg.norm(filters) / np.linalg.norm(direction)
        assert cosine == pytest.approx(1, abs=1e-6)
        fields = read_json(sidecar_of(filter_of(result)))["Llm2bids"]["Pattern"]
        assert fields["Shrinkage"][hookpoint] == pytest.approx(shrinkage, rel=1e-4)
        assert fields["Spread"][hookpoint] == pytest.approx(1 / np.linalg.norm(filters), rel=1e-4)


def test_pattern_and_filter_are_those_of_raw_activations(prepared: Path, result: ContrastResult) -> None:
    values, on = averaged(by_hand(prepared, "pathology"))
    assert (on.sum(), (~on).sum()) == N_TEXTS["pathology"]
    check_pattern(result, values, on)


def test_prompts_of_other_tasks_join_the_reference(prepared: Path, against_dataset: ContrastResult) -> None:
    own, others = by_hand(prepared, "pathology"), by_hand(prepared, "medicalimaging")
    condition = set(own["text"][own["kind"] == "on"])
    prompts = pd.concat([own, others[~others["text"].isin(condition)].assign(kind="off")])
    check_pattern(against_dataset, *averaged(prompts))
    assert against_dataset.pattern.name == "onVsOffAgainstDataset"
    assert "_contrast-onVsOffAgainstDataset_stat-filter_desc-pattern_" in str(against_dataset.pattern_file)
    stimuli = against_dataset.pattern.provenance["Stimuli"]
    assert {part for run in stimuli for part in re.findall(r"task-(\w+?)_", run["File"])} == set(N_TEXTS)


@pytest.mark.parametrize("name", ["result", "against_dataset"])
def test_the_files_are_enough_to_fit_the_pattern_again(name: str, request: pytest.FixtureRequest) -> None:
    result: ContrastResult = request.getfixturevalue(name)
    samples = read_samples(filter_of(result))
    again = fit_patterns(samples).pattern()
    first, second = (pattern.directions("pattern").astype(np.float32) for pattern in (again, result.pattern))
    np.testing.assert_array_equal(first, second)
    np.testing.assert_allclose(again.cosines(result.pattern, "filter"), 1, atol=1e-9)
    read = result.pattern.expression(samples.activations)[:, 0]
    assert (read[samples.on].mean(0) > 3).all()
    np.testing.assert_allclose(read[~samples.on].mean(0), 0, atol=1e-3)


def test_all_files_are_listed_and_each_prompt_has_its_row(prepared: Path, result: ContrastResult) -> None:
    names = {path.name.partition("L6C128block_")[2] for path in result.files}
    stem = "contrast-onVsOff_"
    assert {
        f"{stem}stat-effect_desc-pattern_statmap.nii.gz",
        f"{stem}stat-filter_desc-pattern_statmap.nii.gz",
        f"{stem}stat-mean_desc-reference_statmap.nii.gz",
        f"{stem}desc-pattern_measures.tsv",
        f"{stem}desc-pattern_measures.json",
        "stat-mean_desc-prompts_statmap.nii.gz",
        "prompts.tsv",
    } <= names
    home = result.mask_file.name.partition("_contrast")[0]
    prompts = read_tsv(result.mask_file.with_name(f"{home}_prompts.tsv"))
    means = nib.load(result.mask_file.with_name(f"{home}_stat-mean_desc-prompts_statmap.nii.gz"))
    assert len(prompts) == means.shape[3] == 20
    events = pd.concat([read_tsv(path) for path in sorted(prepared.glob("sub-*/func/*task-pathology*_events.tsv"))])
    assert prompts["cluster"].tolist() == events["cluster"].tolist()
    assert prompts["prompt"].tolist() == events["prompt"].tolist()
    assert set(prompts["n_averaged"]) == {"5"}


def test_measures_have_a_row_per_hookpoint_and_one_for_all(result: ContrastResult) -> None:
    table = read_tsv(next(path for path in result.files if path.name.endswith("_measures.tsv")))
    described = read_json(next(path for path in result.files if path.name.endswith("_measures.json")))
    assert set(table.columns) <= set(described)
    assert table["hookpoint"].tolist() == [*result.pattern.space.hookpoints, "all"]
    every = table.iloc[-1]
    assert (every["block"], every["shrinkage"], every["spread"]) == ("n/a", "n/a", "n/a")
    assert float(every["auc"]) > 0.95
    assert float(every["p"]) < 0.01
    page = (result.summary_file.parents[2] / "sub-phantom.html").read_text()
    assert re.search(r"Pattern: AUC 0\.9\d+|Pattern: AUC 1\.000", page)


def test_outputs_are_valid_bids(against_dataset: ContrastResult, result: ContrastResult) -> None:
    for one in (against_dataset, result):
        assert [report.issues for report in validate(one.summary_file.parents[2])] == [()]


def test_no_pattern_of_an_f_contrast(prepared: Path) -> None:
    model = read_json(prepared / "code" / "models" / "model-pathology_smdl.json")
    model["Nodes"][0]["Contrasts"] = [
        {"Name": "either", "ConditionList": ["trial_type.on", "trial_type.off"], "Weights": [[1, -1]], "Test": "F"}
    ]
    path = write_json(prepared.parent / "model.json", model)
    out = prepared / "derivatives" / "none"
    (result,) = glm(prepared, out, task_label=["pathology"], model=path, progress=False)
    assert result.pattern_file is None
    with pytest.raises(DatasetError, match="has no pattern: it is no t contrast between conditions"):
        _ = result.pattern
    assert not list(out.rglob("*desc-pattern*"))


@pytest.mark.parametrize(
    ("contrast", "sides"),
    [
        ("on - off", (("on",), ("off",))),
        ("2*on - off - other", (("on",), ("off", "other"))),
        ("off - on + 0*other", (("off",), ("on",))),
        ("on", None),
        ("on - slope", None),
        ("on - tok_surprisal", None),
    ],
)
def test_a_pattern_compares_conditions(contrast: str, sides: tuple[tuple[str, ...], tuple[str, ...]] | None) -> None:
    columns = {f"{FACTOR}{name}": Column(name) for name in ("on", "off", "other")}
    columns[f"{FACTOR}slope"] = Column("on", "tok_surprisal")
    run = SimpleNamespace(label="run-01", volumes=SimpleNamespace(entities={"task": "b"}))
    analysis = SimpleNamespace(columns=columns, others=[run], runs_of=lambda _: [run])
    comparison = comparison_of(cast("Analysis", analysis), Contrast.from_expression(f"x = {contrast}"))
    expected = sides and Comparison("xAgainstDataset", *sides, ("run-01",), ("b",))
    assert comparison == expected


def test_tokens_as_samples_leave_the_pattern_as_it_is(prepared: Path, result: ContrastResult) -> None:
    out = prepared / "derivatives" / "token"
    (other,) = glm(prepared, out, task_label=["pathology"], inference="token", progress=False)
    np.testing.assert_array_equal(other.pattern.directions(), result.pattern.directions())


def test_a_dataset_of_one_task_has_no_other_reference(prepared: Path, tmp_path: Path) -> None:
    ignored = shutil.ignore_patterns("*medicalimaging*", "one", "both", "token", "none")
    root = Path(shutil.copytree(prepared, tmp_path / "ds", ignore=ignored))
    with pytest.raises(DesignError, match='reference="dataset" found, but sub-phantom has no other task'):
        glm(root, reference="dataset", progress=False)
    assert not (root / "derivatives" / "glm").exists()


def test_results_with_another_reference_are_made_again(prepared: Path, result: ContrastResult) -> None:
    out = result.summary_file.parents[2]
    with pytest.raises(DatasetError, match="other settings"):
        glm(prepared, out, task_label=["pathology"], reference="dataset", resume=True, progress=False)
    (same,) = glm(prepared, out, task_label=["pathology"], resume=True, progress=False)
    assert (same.skipped, same.pattern_file) == (True, result.pattern_file)


def test_a_prompt_without_cluster_is_one(prepared: Path) -> None:
    run = next(run for name, run in find_prepared(prepared).items() if "pathology" in name)
    events = run.events
    clusters = ["n/a", "", *(f"cluster{number % 2}" for number in range(len(events) - 2))]
    run.__dict__["events"] = events.assign(cluster=clusters)
    table = prompt_means(run).table
    assert table["cluster"].tolist() == [*table["stimulus"][:2], *clusters[2:]]


def test_prompts_of_position_zero_alone_are_no_samples(prepared: Path) -> None:
    run = next(run for name, run in find_prepared(prepared).items() if "pathology" in name)
    positions = run.confounds["tok_position"].to_numpy(copy=True)
    first = run.events.iloc[0]
    positions[: int(first["duration"])] = 0
    run.__dict__["confounds"] = run.confounds.assign(tok_position=positions)
    means = prompt_means(run)
    assert means.table["n_averaged"].iloc[0] == 0
    assert not means.activations[0].any()
    assert means.activations[1:].any(axis=1).all()
