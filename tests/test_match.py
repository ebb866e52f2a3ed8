"""Two sets of networks: what they share by hand, who is whose match, and who is found again."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import nibabel as nib
import numpy as np
import pytest

from llm2bids.bids.tables import read_tsv, write_json
from llm2bids.cli import main
from llm2bids.decomposition import ica
from llm2bids.errors import DatasetError, InferenceError, MaskError
from llm2bids.masks.files import load_mask, save_mask
from llm2bids.model.phantom import phantom_truth
from llm2bids.networks.map_sets import Template, TemplateSet, read_set
from llm2bids.networks.matching import iou_matrix, match, match_sets, permuted_iou
from llm2bids.space import UnitMask, UnitSpace
from llm2bids.validation import validate

from .conftest import figures_left_blank

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

SPACE = UnitSpace.uniform("block", ["h.0:out", "h.1:out", "h.2:out"], 40)
LAYERS = np.arange(SPACE.n_units) // 40


def set_of(selected: NDArray[np.bool_], path: Path, groups: list[str] | None = None) -> TemplateSet:
    labels = groups or ["one"] * len(selected)
    return TemplateSet(
        SPACE,
        tuple(
            Template(f"net{number}", of, path, own, own.astype(float))
            for number, (own, of) in enumerate(zip(selected, labels, strict=True))
        ),
    )


def networks(n: int, seed: int = 0) -> NDArray[np.bool_]:
    rng = np.random.default_rng(seed)
    return np.stack([np.isin(np.arange(120), rng.choice(120, 12, replace=False)) for _ in range(n)])


def test_iou_by_hand() -> None:
    one = np.array([[1, 1, 1, 0, 0], [0, 0, 0, 0, 0]], bool)
    other = np.array([[0, 1, 1, 1, 1], [1, 1, 1, 0, 0], [0, 0, 0, 0, 0]], bool)
    assert iou_matrix(one, other).tolist() == [[2 / 5, 1, 0], [0, 0, 0]]


def test_shuffled_networks_are_matched_to_themselves(tmp_path: Path) -> None:
    own, order = networks(5), np.array([3, 0, 4, 2, 1])
    answer = match_sets(set_of(own, tmp_path), set_of(own[order], tmp_path), 0.2, 200, np.random.default_rng(0))
    pairs = answer.tables["pairs"]
    assert pairs["match"].tolist() == [f"net{np.flatnonzero(order == number)[0]}" for number in range(5)]
    assert pairs[["iou", "correlation"]].to_numpy() == pytest.approx(1.0)
    assert (pairs["recurrence"] == 1).all()
    assert (pairs["best_p"] < 0.01).all()


def test_what_has_no_partner_left_says_so(tmp_path: Path) -> None:
    own = networks(3)
    pairs = match_sets(set_of(own, tmp_path), set_of(own[1:], tmp_path), 0.2, 9, np.random.default_rng(0)).tables[
        "pairs"
    ]
    assert pairs["match"].tolist() == ["n/a", "net0", "net1"]
    assert np.isnan(pairs["iou"][0])
    assert pairs["units_b"].tolist() == [0, 12, 12]


def test_networks_of_several_runs_all_say_of_which(tmp_path: Path) -> None:
    """Also one that the others do not have: it would seem to be of all runs."""
    own = networks(3)
    runs = ["sub-x_task-a_run-01", "sub-x_task-a_run-02", "sub-x_task-a_run-02"]
    several = set_of(own, tmp_path, runs)
    again = replace(several, items=(*several.items[:2], replace(several.items[2], name="net0")))
    assert several.names == ["net0", "net1", "net2"]
    assert again.names == ["01 net0", "02 net1", "02 net0"]


def test_a_single_set_shows_the_best_of_each_beside_chance(tmp_path: Path) -> None:
    own = networks(3)
    one, other = set_of(own, tmp_path), set_of(own[:2], tmp_path)
    answer = match_sets(one, other, 0.2, 99, np.random.default_rng(0))
    axes = answer.figures["figure"].axes[1]
    assert axes.get_xlabel() == "IoU"
    pairs = answer.tables["pairs"]
    assert [bar.get_width() for bar in axes.patches] == pytest.approx(pairs["best_iou"].tolist())
    assert axes.collections[0].get_offsets()[:, 0].tolist() == pytest.approx(pairs["best_chance"].tolist())
    assert [text.get_text().endswith("*") for text in axes.texts] == [True, True, False]
    several = match_sets(one, set_of(own[:2], tmp_path, ["a", "b"]), 0.2, 9, np.random.default_rng(0))
    assert several.figures["figure"].axes[1].get_xlabel() == "of 2 runs or sets of B"


def test_too_few_draws_to_find_anything_again_are_named(
    planted: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    truth = planted / "derivatives" / "phantom"
    match(truth, truth, out=tmp_path / "out", n_draws=119, progress=False)
    assert "6 templates and 119 draws: no p of recurrence can be below 0.05 once corrected; ask for 120" in caplog.text
    caplog.clear()
    match(truth, truth, out=tmp_path / "out", n_draws=120, overwrite=True, progress=False)
    assert not caplog.text


def test_recurrence_counts_runs_and_only_of_what_recurs(tmp_path: Path) -> None:
    planted, noise = networks(1), [networks(3, seed) for seed in range(1, 7)]
    runs = [np.concatenate([planted, own]) if number < 4 else own for number, own in enumerate(noise)]
    groups = [f"run-{number}" for number, own in enumerate(runs) for _ in own]
    templates = set_of(np.concatenate([planted, networks(2, 77)]), tmp_path)
    answer = match_sets(templates, set_of(np.concatenate(runs), tmp_path, groups), 0.2, 400, np.random.default_rng(1))
    pairs = answer.tables["pairs"]
    assert pairs["recurrence"].tolist()[0] == 4
    assert pairs["recurrence_p_holm"][0] < 0.05
    assert (pairs["recurrence_p_holm"][1:] > 0.05).all()
    assert (pairs["groups"] == 6).all()
    assert answer.tables["recurrence"]["net0"].round(6).tolist()[:4] == [1.0] * 4


def test_permuted_templates_keep_their_units_per_layer() -> None:
    template = np.zeros(120, bool)
    template[:3] = template[40:50] = True
    whole = (np.equal.outer(np.arange(3), LAYERS)).astype(bool)
    drawn = permuted_iou(template, whole, LAYERS, 7, np.random.default_rng(0))
    assert drawn == pytest.approx(np.tile([3 / 50, 10 / 43, 0], (7, 1)))


def test_chance_is_uniform_where_there_is_nothing() -> None:
    rng = np.random.default_rng(4)
    p_values = []
    for _ in range(60):
        one, other = networks(1, int(rng.integers(1e9)))[0], networks(3, int(rng.integers(1e9)))
        drawn = permuted_iou(one, other, LAYERS, 99, rng).max(1)
        p_values.append(float(((drawn >= iou_matrix(one[None], other).max()).sum() + 1) / 100))
    assert np.mean(np.array(p_values) <= 0.1) <= 0.2


@pytest.fixture(scope="module")
def by_run(planted: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Each run by itself."""
    out = tmp_path_factory.mktemp("runs") / "ica"
    with figures_left_blank():
        ica(planted, out, by="run", progress=False)
    return out


def test_planted_networks_recur_over_runs(planted: Path, by_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    truth = planted / "derivatives" / "phantom"
    call = ["networks", "match", str(truth), str(by_run), "--n-draws", "200"]
    assert main(call) == 0
    assert capsys.readouterr().out.startswith("match: ")
    assert main(call) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert main([*call, "--overwrite", "--json"]) == 0
    (told,) = json.loads(capsys.readouterr().out)
    pairs = {row["template"]: row for row in told["tables"]["pairs"]}
    for task in ("medicalimaging", "pathology"):
        assert pairs[task]["best_iou"] > 0.8
        assert pairs[task]["recurrence"] >= 4
        assert pairs[task]["recurrence_p_holm"] < 0.05
    assert {path.rpartition("_")[2] for path in told["files"]} == {
        "pairs.tsv",
        "recurrence.tsv",
        "iou.tsv",
        "correlation.tsv",
        "figure.png",
        "networks.json",
    }
    assert validate(by_run)[0].summary().endswith("0 errors, 0 warnings")


def test_planted_networks_are_found_again_without_a_label_and_other_units_are_not(
    planted: Path, by_run: Path, tmp_path: Path
) -> None:
    """Components of all runs, looked for in components of each; to a part of a network a few other units may cling."""
    (found,) = ica(planted, tmp_path / "ica", progress=False)
    pairs = match(tmp_path / "ica", by_run, out=tmp_path / "out", progress=False).tables["pairs"]
    networks = np.stack([own for path in found.mask_files if (own := load_mask(path).selected).any()])
    truth = np.stack([network.selected for network in phantom_truth(load_mask(found.mask_files[0]).space).values()])
    again = ((pairs["recurrence_p_holm"] < 0.05) & (pairs["recurrence"] > 1)).to_numpy()
    share = (networks & truth.any(0)).sum(1) / networks.sum(1)
    best = iou_matrix(truth, networks[again])
    assert (best.max(1) > 0.9).all()
    assert (share[again][best.argmax(1)] == 1).all()
    assert (share[again] > 0.5).all()
    assert (share < 0.5).any()  # that there is something not to find again


def test_sets_come_from_results_images_and_masks(planted: Path, by_run: Path, tmp_path: Path) -> None:
    fitted = read_set(planted / "derivatives" / "glm")
    assert "pathology" in fitted.names
    found = read_set(by_run)
    assert len(found.groups) == 24
    image = next(iter(by_run.rglob("*run-01*_components.nii.gz")))
    assert read_set(image).space == found.space
    pattern = planted / "derivatives" / "phantom" / "sub-phantom" / "func" / "*_mask.nii.gz"
    truth = read_set(pattern)
    assert len(truth.items) == 6
    answer = match(truth.items[0].file, [one.file for one in truth.items], out=tmp_path / "out", n_draws=9)
    assert answer.tables["pairs"]["iou"].tolist() == [1.0]
    assert validate(tmp_path / "out")
    assert read_tsv(next(path for path in answer.files if path.name.endswith("iou.tsv"))).shape == (6, 2)
    again = match(pattern, truth.items[0].file, out=tmp_path / "out", n_draws=9, overwrite=True)
    assert again.tables["pairs"]["match"].tolist().count("n/a") == 5


def test_what_cannot_be_matched_is_refused(planted: Path, tmp_path: Path) -> None:
    truth = planted / "derivatives" / "phantom"
    with pytest.raises(DatasetError, match="as `out`"):
        match(truth, next(iter(truth.rglob("*_mask.nii.gz"))))
    with pytest.raises(DatasetError, match="is not there"):
        match(truth, tmp_path / "nothing")
    with pytest.raises(InferenceError, match="0 draws"):
        match(truth, truth, n_draws=0)
    with pytest.raises(InferenceError, match="bound 1 found"):
        match(truth, truth, bound=1)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match="no map or mask"):
        match(truth, tmp_path / "empty", out=tmp_path / "out")
    foreign = UnitMask.from_units(SPACE, [3], {"Model": "other"})
    save_mask(foreign, tmp_path / "foreign.nii.gz")
    with pytest.raises(MaskError, match="lies in space"):
        match(truth, tmp_path / "foreign.nii.gz", out=tmp_path / "out")
    save_mask(UnitMask(SPACE, np.zeros(SPACE.n_units, bool)), tmp_path / "none.nii.gz")
    with pytest.raises(MaskError, match="are empty"):
        match(tmp_path / "none.nii.gz", truth, out=tmp_path / "out")
    (tmp_path / "broken.nii.gz").write_bytes(b"no image")
    with pytest.raises(MaskError, match="no image that can be read"):
        read_set(tmp_path / "broken.nii.gz")
    nib.save(SPACE.to_image(np.ones((2, SPACE.n_units))), tmp_path / "bare.nii.gz")
    with pytest.raises(MaskError, match="no sidecar"):
        read_set(tmp_path / "bare.nii.gz")
    write_json(tmp_path / "bare.json", {"Llm2bids": {"UnitSpace": SPACE.to_json()}})
    with pytest.raises(MaskError, match="are empty"):
        read_set(tmp_path / "bare.nii.gz")


def test_templates_without_a_partner_leave_the_columns_of_the_others(tmp_path: Path) -> None:
    """More templates than are drawn, of which the first have no partner: each column is the match of its own row."""
    wanted = networks(3, seed=4)
    strangers = np.zeros((15, SPACE.n_units), bool)
    strangers[np.arange(15), np.arange(15)] = True
    rng = np.random.default_rng(0)
    one, other = set_of(np.concatenate([strangers, wanted]), tmp_path), set_of(wanted, tmp_path)
    answer = match_sets(one, other, 0.2, 9, rng)
    axes = answer.figures["figure"].axes[0]
    rows = [label.get_text() for label in axes.get_yticklabels()]
    columns = [label.get_text() for label in axes.get_xticklabels()]
    matches = answer.tables["pairs"].set_index("template")["match"]
    assert columns == [matches[row] for row in rows if matches[row] != "n/a"]
    assert len(rows) == 16
    assert len(columns) == 3
