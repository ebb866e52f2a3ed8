"""Top shares: as many units as asked for, the strongest by the tail, and said to be no test."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from llm2bids.bids.tables import read_json, write_json
from llm2bids.cli import main
from llm2bids.errors import InferenceError
from llm2bids.masks import load_mask, show_mask
from llm2bids.masks.files import choice_text
from llm2bids.preparation import prep
from llm2bids.recording import record
from llm2bids.results.targets import read_map
from llm2bids.space.selection import share_label
from llm2bids.statistics import glm
from llm2bids.statistics.linear_model import StatMaps
from llm2bids.statistics.output import select_top
from llm2bids.statistics.settings import GLMSettings
from llm2bids.validation import validate

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

SHARES = (0.01, 0.25)


def maps(z: Sequence[float], t: Sequence[float] | None = None, test: str = "t") -> StatMaps:
    values = np.array(z, float)
    return StatMaps(test, values, values, np.array(z if t is None else t, float), values, 9.0)


@pytest.mark.parametrize(
    ("z", "tail", "share", "chosen"),
    [
        ([1, -3, 2, 0], "two", 0.5, [1, 2]),
        ([1, -3, 2, 0], "positive", 0.5, [0, 2]),
        ([1, -3, 2, 0], "negative", 0.5, [1]),  # no other is below 0
        ([1, -3, 2, 0], "two", 0.01, [1]),  # one at least
        ([1, -3, 2, 0], "two", 1.0, [0, 1, 2]),
        ([2, -2, 2, -2], "two", 0.5, [0, 1]),  # the first of equals
        ([np.nan, 1, 2, 3], "two", 0.25, [3]),
        ([0, 0], "two", 1.0, []),
    ],
)
def test_the_strongest_are_chosen(z: list[float], tail: str, share: float, chosen: list[int]) -> None:
    assert np.flatnonzero(select_top(maps(z), tail, share)).tolist() == chosen


def test_among_equal_z_the_larger_statistic_counts() -> None:
    """Far out z has no digits left."""
    assert np.flatnonzero(select_top(maps([9, -9, 9], [40, -60, 50]), "two", 0.34)).tolist() == [1]
    assert np.flatnonzero(select_top(maps([9, -9, 9], [40, -60, 50]), "positive", 0.34)).tolist() == [2]


def test_f_has_one_side() -> None:
    assert np.flatnonzero(select_top(maps([-1, 2, 3], [1, 2, 3], "F"), "negative", 0.34)).tolist() == [2]


@pytest.mark.parametrize(
    ("share", "label"),
    [(0.01, "top1"), (0.005, "top0p5"), (0.007, "top0p7"), (0.1, "top10"), (1.0, "top100"), (1e-5, "top0p001")],
)
def test_labels_are_percents(share: float, label: str) -> None:
    assert share_label(share) == label


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ([0.0], "top share 0.0 found; .* e.g. 0.01 or 1%"),
        ([1.5], "top share 1.5"),
        ([-0.1], "top share -0.1"),
        ([float("nan")], "top share nan"),
        ([0.01, 0.010], "top1 given twice"),
    ],
)
def test_shares_that_choose_nothing_or_twice_are_refused(shares: list[float], message: str) -> None:
    with pytest.raises(InferenceError, match=message):
        GLMSettings(top=tuple(shares))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("top") / "ds"
    record(root, task="pathology", runs=2, blocks=2, prompts_per_block=2, tokens=5, progress=False)
    prep(root, progress=False)
    return root


def test_masks_of_top_shares_lie_beside_the_network(prepared: Path, tmp_path: Path) -> None:
    (result,) = glm(prepared, tmp_path / "glm", top=SHARES, progress=False)
    network = load_mask(result.mask_file)
    z = read_map(result.z_file, network.space)
    (entry,) = read_json(next((tmp_path / "glm").rglob("*_glm.json")))["Found"]
    for path, share, top in zip(result.top_files, SHARES, entry["top"], strict=True):
        mask = load_mask(path)
        sidecar = read_json(path.with_name(path.name.replace(".nii.gz", ".json")))
        label = share_label(share)
        assert path.name == result.mask_file.name.replace("desc-fdr05", f"desc-{label}")
        assert mask.n_selected == round(share * result.n_tested)
        assert np.abs(z[mask.selected]).min() >= np.abs(z[~mask.selected]).max()
        outside = int((mask.selected & ~network.selected).sum())
        assert top | {"threshold": 0} == {
            "share": share, "label": label, "n_selected": mask.n_selected, "n_outside": outside, "mask": path.name, "threshold": 0,
        }  # fmt: skip
        assert top["threshold"] == pytest.approx(np.abs(z[mask.selected]).min(), rel=1e-5)
        fields = sidecar["Llm2bids"]
        assert (sidecar["Type"], fields["Top"], fields["NumberSelected"]) == ("ROI", share, mask.n_selected)
        assert (fields["NumberNotInNetwork"], fields["ThresholdZ"]) == (outside, top["threshold"])
        assert (fields["Statistics"]["Correction"], "Alpha" in fields["Statistics"]) == ("none", False)
        line = f"top {share * 100:g} % of tested units by |z|, uncorrected, in {result.z_file.name}, contrast onVsOff"
        assert choice_text(mask.provenance) == line
        assert line in show_mask(path, width=500)[1].replace("\n", " ")
        page = (tmp_path / "glm" / "sub-phantom.html").read_text()
        assert f"Top {share * 100:g} % of the units tested, uncorrected: {mask.n_selected} units" in page
    assert entry["top"][1]["n_outside"] > 0
    assert [validation.summary() for validation in validate(tmp_path / "glm") if validation.issues] == []


@pytest.mark.usefixtures("blank_figures")
def test_other_shares_are_another_analysis_and_none_are_as_before(prepared: Path, tmp_path: Path) -> None:
    (plain,) = glm(prepared, tmp_path / "glm", progress=False)
    (with_top,) = glm(prepared, tmp_path / "top", top=[0.02], progress=False)
    assert plain.top_files == ()
    assert plain.mask_file.read_bytes() == with_top.mask_file.read_bytes()
    with pytest.raises(ValueError, match="with other settings"):
        glm(prepared, tmp_path / "glm", top=[0.02], resume=True, progress=False)
    (again,) = glm(prepared, tmp_path / "top", top=[0.02], resume=True, progress=False)
    assert (again.skipped, again.top_files) == (True, with_top.top_files)


@pytest.mark.usefixtures("blank_figures")
def test_summaries_without_top_are_read(prepared: Path, tmp_path: Path) -> None:
    glm(prepared, tmp_path / "glm", progress=False)
    path = next((tmp_path / "glm").rglob("*_glm.json"))
    summary = read_json(path)
    write_json(
        path,
        summary
        | {"Found": [{key: value for key, value in entry.items() if key != "top"} for entry in summary["Found"]]},
    )
    (result,) = glm(prepared, tmp_path / "glm", resume=True, progress=False)
    assert (result.skipped, result.top_files) == (True, ())


@pytest.mark.usefixtures("blank_figures")
def test_groups_have_top_shares_too(tmp_path: Path) -> None:
    root = tmp_path / "ds"
    for subject in "ab":
        record(root, task="pathology", subject=subject, seed=ord(subject), runs=1, blocks=2, tokens=9, progress=False)
    prep(root, progress=False)
    glm(root, root / "derivatives" / "glm", progress=False)
    (result,) = glm(root, root / "derivatives" / "glm", "group", top=[0.01], progress=False)
    assert load_mask(result.top_files[0]).n_selected == round(0.01 * result.n_tested)


@pytest.mark.parametrize("typed", [["1%", "0.25"], ["0.01", "25 %"]])
def test_shares_as_one_types_them(
    prepared: Path, tmp_path: Path, typed: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    call = ["glm", str(prepared), str(tmp_path / "out"), "participant", "--json", "--top", *typed]
    assert main(call) == 0
    (result,) = json.loads(capsys.readouterr().out)
    assert [name.rsplit("_desc-")[1] for name in result["top"]] == ["top1_mask.nii.gz", "top25_mask.nii.gz"]


@pytest.mark.parametrize("typed", ["much", "0", "101%"])
def test_what_is_no_share_is_refused_in_one_line(
    prepared: Path, tmp_path: Path, typed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code: Any
    try:
        code = main(["glm", str(prepared), str(tmp_path / "out"), "participant", "--top", typed])
    except SystemExit as stop:
        code = stop.code
    assert code == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
