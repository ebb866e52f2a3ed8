"""What we write for FSL, as FSL's own readers (fslpy), Tcl, and the algebra of FEAT see it."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest

from llm2bids.design.fsl import FeatRun, design_con, design_mat, ev_text, feat_fsf, reference_of
from llm2bids.errors import DatasetError, DesignError, LLM2BIDSError, TaskError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

featanalysis = pytest.importorskip("fsl.data.featanalysis")
featdesign = pytest.importorskip("fsl.data.featdesign")
vest = pytest.importorskip("fsl.data.vest")

T_R = 1.0
BLOCK = 7.0
ORDER = ("on", "off", "other", "off", "on", "other", "other", "on", "off")
EVENTS = pd.DataFrame({"onset": np.arange(len(ORDER)) * BLOCK, "duration": BLOCK, "trial_type": ORDER})
N_SCANS = int(BLOCK) * len(ORDER)
RUN = FeatRun(
    bold=Path("/data/sub-1_bold.nii.gz"),
    output=Path("/data/out"),
    n_scans=N_SCANS,
    n_voxels=960,
    t_r=T_R,
    evs=(("on", Path("/data/ev_on.txt")), ("off", Path("/data/ev_off.txt")), ("other", Path("/data/ev_other.txt"))),
    contrasts=(("onVsOff", (1, -1, 0)), ("onVsRest", (1, -0.5, -0.5))),
    reference="off",
    high_pass_cutoff=128,
    confounds=Path("/data/confounds.txt"),
)


def boxcars(conditions: Sequence[str]) -> NDArray[np.float64]:
    """One column per condition, one row per scan."""
    return np.stack([np.repeat(np.array(ORDER) == name, int(BLOCK)) for name in conditions], axis=1).astype(float)


def loaded(run: FeatRun, folder: Path) -> dict[str, str]:
    """The design as fslpy reads it."""
    path = folder / "design.fsf"
    path.write_text(feat_fsf(run))
    return dict(featanalysis.loadFsf(path))


def test_ev_files_hold_onset_duration_and_weight_of_one_condition(tmp_path: Path) -> None:
    shuffled = EVENTS.assign(onset=EVENTS["onset"] / 3)
    path = tmp_path / "ev.txt"
    path.write_text(ev_text(shuffled, "off"))
    columns = np.loadtxt(path, delimiter="\t")
    np.testing.assert_allclose(columns[:, 0], [7 / 3, 7, 56 / 3], rtol=1e-9)
    np.testing.assert_array_equal(columns[:, 1:], [[BLOCK, 1]] * 3)


def test_ev_files_are_written_from_tables_read_as_text() -> None:
    assert ev_text(EVENTS.astype(str), "on") == ev_text(EVENTS, "on")


def test_a_condition_without_events_is_named_with_those_that_have_some() -> None:
    with pytest.raises(TaskError, match=r"'rest' found, only off, on, other"):
        ev_text(EVENTS, "rest")


@pytest.mark.parametrize("shape", [(50, 3), (4, 2), (5, 1), (1, 4)])
def test_design_matrix_comes_back(shape: tuple[int, int], tmp_path: Path) -> None:
    matrix = np.random.default_rng(0).standard_normal(shape) * 10.0 ** np.arange(-3, shape[1] - 3)
    path = tmp_path / "design.mat"
    path.write_text(design_mat(matrix))
    np.testing.assert_allclose(vest.loadVestFile(path).reshape(shape), matrix, rtol=1e-9)
    if min(shape) > 1:
        vest.loadVestFile(path, ignoreHeader=False)  # raises where the header differs


def test_heights_are_those_of_feat() -> None:
    """feat_model counts 0 in: a column of ones has height 1, not 0."""
    heights = re.search(r"/PPheights\t(.*)", design_mat([[1, -2, 0], [1, 3, -4]]))
    assert heights
    assert [float(text) for text in heights[1].split()] == [1, 5, 4]


def test_contrasts_come_back_with_their_names(tmp_path: Path) -> None:
    weights = np.array([[1, -1, 0], [0.5, 0.5, -1 / 3]])
    path = tmp_path / "design.con"
    path.write_text(design_con(["on > off", "mean (1:3)"], weights))
    names, loaded_weights = featanalysis.loadContrasts(tmp_path)
    assert names == ["on > off", "mean (1:3)"]
    np.testing.assert_allclose(loaded_weights, weights, rtol=1e-9)


@pytest.mark.parametrize("matrix", [np.zeros(3), np.zeros((0, 2)), np.zeros((2, 3, 4)), [[1.0, np.nan]], [[np.inf]]])
def test_no_matrix_no_file(matrix: object) -> None:
    with pytest.raises(DesignError):
        design_mat(matrix)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("names", "weights"), [(["a"], [[1, 0], [0, 1]]), (["a", "b"], [[1, 0], [0, 0]]), (['"a"'], [[1, 0]])]
)
def test_contrasts_that_do_not_fit_are_refused(names: list[str], weights: list[list[float]]) -> None:
    with pytest.raises(DesignError):
        design_con(names, weights)


def test_every_setting_is_set_once() -> None:
    keys = re.findall(r"^set (\S+) ", feat_fsf(RUN), flags=re.MULTILINE)
    assert len(keys) == len(set(keys))
    assert len(keys) > 110
    assert "${" not in feat_fsf(RUN)


def test_fslpy_reads_the_run(tmp_path: Path) -> None:
    settings = loaded(RUN, tmp_path)
    assert featanalysis.isFirstLevelAnalysis(settings)
    expected = {"version": "6.00", "npts": str(N_SCANS), "tr": "1", "totalVoxels": str(960 * N_SCANS), "ndelete": "0"}
    expected |= {"feat_files(1)": str(RUN.bold), "outputdir": str(RUN.output), "confoundevs": "1"}
    expected |= {"confoundev_files(1)": str(RUN.confounds), "temphp_yn": "1", "paradigm_hp": "128"}
    assert {key: settings[key] for key in expected} == expected


def test_what_means_nothing_for_a_model_is_off(tmp_path: Path) -> None:
    settings = loaded(RUN, tmp_path)
    off = ["mc", "bet_yn", "st", "smooth", "norm_yn", "perfsub_yn", "templp_yn", "melodic_yn", "regunwarp_yn", "thresh"]
    off += ["reginitial_highres_yn", "reghighres_yn", "regstandard_yn", "motionevs", "convolve1", "deriv_yn1"]
    assert {settings[key] for key in off} == {"0"}
    assert (settings["prewhiten_yn"], settings["brain_thresh"], settings["tempfilt_yn1"]) == ("1", "10", "1")


def test_evs_and_contrasts_leave_the_reference_out(tmp_path: Path) -> None:
    settings = loaded(RUN, tmp_path)
    assert (settings["evs_orig"], settings["evs_real"], settings["ncon_real"]) == ("2", "2", "2")
    assert [settings[f"evtitle{n}"] for n in (1, 2)] == ["on", "other"]
    assert [settings[f"custom{n}"] for n in (1, 2)] == ["/data/ev_on.txt", "/data/ev_other.txt"]
    assert [settings[f"shape{n}"] for n in (1, 2)] == ["3", "3"]
    for mode in ("real", "orig"):
        weights = [[float(settings[f"con_{mode}{c}.{n}"]) for n in (1, 2)] for c in (1, 2)]
        assert weights == [[1, 0], [1, -0.5]]
    assert "evtitle3" not in settings
    assert {key for key in settings if key.startswith("ortho")} == {f"ortho{n}.{m}" for n in (1, 2) for m in (0, 1, 2)}
    assert {key for key in settings if re.match(r"conmask\d", key)} == {"conmask1_1", "conmask1_2", "conmask2_1"}


def test_without_reference_all_conditions_are_evs(tmp_path: Path) -> None:
    settings = loaded(replace(RUN, reference=None, contrasts=(("on", (1, 0, 0)),)), tmp_path)
    assert [settings[f"evtitle{n}"] for n in (1, 2, 3)] == ["on", "off", "other"]
    assert [float(settings[f"con_real1.{n}"]) for n in (1, 2, 3)] == [1, 0, 0]


@pytest.mark.parametrize("cutoff", [None, math.inf])
def test_no_cutoff_no_filter(cutoff: float | None, tmp_path: Path) -> None:
    settings = loaded(replace(RUN, high_pass_cutoff=cutoff, confounds=None), tmp_path)
    assert settings["temphp_yn"] == "0"
    assert math.isfinite(float(settings["paradigm_hp"]))
    assert settings["confoundevs"] == "0"
    assert "confoundev_files(1)" not in settings


def test_fslpy_names_the_columns_of_a_finished_analysis(tmp_path: Path) -> None:
    """As after feat: the design beside the matrix that feat_model makes of it."""
    settings = loaded(RUN, tmp_path)
    (tmp_path / "design.mat").write_text(design_mat(boxcars(["on", "other"])))
    design = featdesign.FEATFSFDesign(str(tmp_path), settings)
    assert [ev.title for ev in design.getEVs()] == ["on", "other"]
    np.testing.assert_allclose(design.getDesign(), boxcars(["on", "other"]))


def test_tcl_reads_titles_as_they_were_meant() -> None:
    """FEAT sources the design: what is no constant in Tcl would be run."""
    tcl = pytest.importorskip("tkinter").Tcl()
    title = "a>b; {x} (50%) 'it#s] ~"
    tcl.eval(feat_fsf(replace(RUN, contrasts=((title, (1, -1, 0)),))))
    assert tcl.eval("set fmri(conname_real.1)") == title
    assert tcl.eval("set feat_files(1)") == str(RUN.bold)


@pytest.mark.parametrize("name", ['a"b', "$HOME", "[exec ls]", "a\\b", "a\nb", "Übung", "a/b", ""])
def test_titles_that_tcl_or_feat_would_mangle_are_refused(name: str) -> None:
    with pytest.raises(DesignError, match="rename it"):
        replace(RUN, contrasts=((name, (1, -1, 0)),))


@pytest.mark.parametrize(
    "path", ["data/bold.nii", "/my data/b.nii", "/$x/b.nii", "/a;b.nii", "/a[1].nii", "/" + "a" * 999]
)
def test_paths_that_feat_would_take_apart_are_refused(path: str) -> None:
    with pytest.raises(DatasetError):
        replace(RUN, bold=Path(path))
    with pytest.raises(DatasetError):
        replace(RUN, confounds=Path(path))


@pytest.mark.parametrize(
    "changed",
    [
        {"reference": "rest"},
        {"evs": RUN.evs[1:2]},
        {"evs": RUN.evs[:2] * 2},
        {"evs": ()},
        {"contrasts": ()},
        {"contrasts": (("short", (1, -1)),)},
        {"contrasts": (("empty", (0, 0, 0)),)},
        {"contrasts": (("on", (1, 0, 0)),)},
        {"contrasts": (("nan", (1, -1, np.nan)),)},
        {"t_r": 0.02},
        {"high_pass_cutoff": 0},
    ],
)
def test_designs_feat_cannot_answer_are_refused(changed: dict[str, object]) -> None:
    with pytest.raises(LLM2BIDSError):
        replace(RUN, **changed)  # type: ignore[arg-type]


def test_a_reference_is_left_out_exactly_where_evs_without_mean_are_collinear() -> None:
    filling, gap = boxcars(sorted(set(ORDER))), boxcars(sorted(set(ORDER)))
    gap[:7] = 0
    assert reference_of(EVENTS, N_SCANS, T_R) == "off"
    assert np.linalg.matrix_rank(filling - filling.mean(0)) == 2
    assert reference_of(EVENTS.iloc[1:], N_SCANS, T_R) is None
    assert np.linalg.matrix_rank(gap - gap.mean(0)) == 3


def test_overlapping_events_leave_nothing_out() -> None:
    twice = pd.concat([EVENTS, EVENTS.iloc[:1].assign(trial_type="other")])
    assert reference_of(twice, N_SCANS, T_R) is None


@pytest.mark.parametrize("weights", [(1, -1, 0), (1, -0.5, -0.5), (0, -1, 1)])
@pytest.mark.parametrize("reference", ["on", "off", "other"])
def test_contrast_without_the_reference_equals_that_with_all_conditions(
    weights: tuple[float, ...], reference: str, tmp_path: Path
) -> None:
    """FEAT fits EVs without mean to data without mean; the oracle is the mean of each condition."""
    settings = loaded(replace(RUN, reference=reference, contrasts=(("c", weights),)), tmp_path)
    names = [settings[f"evtitle{n}"] for n in (1, 2)]
    signals = np.random.default_rng(1).standard_normal((N_SCANS, 5)) + 10000
    design = boxcars(names) - boxcars(names).mean(0)
    effects = np.linalg.lstsq(design, signals - signals.mean(0), rcond=None)[0]
    estimate = np.array([float(settings[f"con_real1.{n}"]) for n in (1, 2)]) @ effects
    means = [signals[boxcars([name])[:, 0] == 1].mean(0) for name in ("on", "off", "other")]
    np.testing.assert_allclose(estimate, np.array(weights) @ means, atol=1e-9)
