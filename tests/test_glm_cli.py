"""`prep`, `glm` and `mask` as one types them: exit codes, one line for what a user can mend, JSON for programs."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from llm2bids.cli import main

if TYPE_CHECKING:
    from pathlib import Path

RECORD = ["--task", "pathology", "--runs", "2", "--blocks", "2", "--prompts-per-block", "2", "--tokens", "5"]
VERBS = [["prep"], ["glm"], ["mask"], ["mask", "convert"], ["mask", "combine"], ["mask", "show"]]


@pytest.fixture(scope="module")
def analysed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset recorded, prepared and analysed by the command line; do not write into it."""
    root = tmp_path_factory.mktemp("cli") / "ds"
    assert main(["record", str(root), *RECORD]) == 0
    assert main(["prep", str(root)]) == 0
    assert main(["glm", str(root), str(root / "derivatives" / "glm"), "participant"]) == 0
    return root


@pytest.fixture
def workdir(analysed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with `ds`, the dataset."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ds").symlink_to(analysed)
    return tmp_path


def run(*args: str) -> int:
    try:
        return main(args)
    except SystemExit as stop:
        return int(stop.code or 0)


def refused(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    """The one line that says why."""
    capsys.readouterr()
    assert run(*args) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert len(output.err.splitlines()) == 1
    assert output.err.startswith("llm2bids")
    return output.err


def mask_of(root: Path) -> str:
    return str(next(root.glob("derivatives/glm/sub-*/func/*_contrast-onVsOff_desc-fdr05_mask.nii.gz")))


@pytest.mark.parametrize("args", VERBS, ids=" ".join)
def test_help_imports_nothing_heavy(args: list[str]) -> None:
    script = f"""
import sys
from llm2bids.cli import main
try:
    main({[*args, "--help"]})
except SystemExit:
    pass
heavy = {{"torch", "nilearn", "transformers", "pandas", "numpy", "nibabel"}} & set(sys.modules)
sys.exit(" ".join(heavy) or 0)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.strip()) == (0, "")


def test_the_help_of_glm_tells_every_default(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("glm", "--help") == 0
    text = " ".join(capsys.readouterr().out.split())
    for part in (
        "(prompt)",
        "(cosine)",
        "(fdr)",
        "(0.05)",
        "(two)",
        "(1000)",
        "(1)",
        "refused",
        "model-<task>_smdl.json",
    ):
        assert part in text


def test_prep_lists_what_it_wrote(workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("prep", "ds", "--resume", "--json") == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["scans"], row["units"], row["state"]) for row in rows] == [(50, 768, "was there")] * 2
    assert all((workdir / row["file"]).is_file() for row in rows)
    assert run("prep", "ds", "--resume") == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split() == ["file", "scans", "units", "varying", "clipped", "state"]
    assert len(lines) == 2


def test_glm_tells_what_it_found(workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = ["glm", "ds", "out", "participant", "--task_label", "pathology", "--participant-label", "phantom"]
    assert run(*args, "--json") == 0
    output = capsys.readouterr()
    (result,) = json.loads(output.out)
    assert (result["subject"], result["task"], result["site"], result["contrast"], result["skipped"]) == (
        "phantom", "pathology", "block", "onVsOff", False,
    )  # fmt: skip
    assert 0 < result["n_selected"] < result["n_tested"] == 768
    assert all((workdir / result[name]).is_file() for name in ("mask", "z_map", "units"))
    assert run(*args, "--resume") == 0
    _, line, *_ = capsys.readouterr().out.splitlines()
    assert line.split()[:6] == ["phantom", "pathology", "block", "onVsOff", "768", str(result["n_selected"])]
    assert line.endswith("was there")


def test_glm_warns_of_tokens(workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("glm", "ds", "out", "participant", "--inference", "token", "--tail", "positive") == 0
    assert "Tokens are not independent samples" in capsys.readouterr().out
    (page,) = (workdir / "out").glob("sub-*.html")
    assert "not calibrated" in page.read_text()


def test_a_network_that_is_empty_is_an_answer(workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("glm", "ds", "out", "participant", "--correction", "bonferroni", "--alpha", "1e-60", "--json") == 0
    (result,) = json.loads(capsys.readouterr().out)
    assert (result["n_selected"], result["threshold"]) == (0, None)
    assert (workdir / result["mask"]).is_file()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["glm", "ds", "out", "everybody"], "'everybody'"),
        (["glm", "nowhere", "out", "participant"], "nowhere has no dataset_description.json"),
        (["glm", "ds", "ds", "participant"], "inside the raw dataset"),
        (["glm", "ds", "ds/derivatives/llm2bids", "participant"], "another derivative"),
        (["glm", "ds", "ds/derivatives/glm", "participant"], "--resume"),
        (["glm", "ds", "out", "participant", "--contrasts", "on - nope"], "nope"),
        (["glm", "ds", "out", "participant", "--smoothing-fwhm", "6"], "neighbours on the page only"),
        (["glm", "ds", "out", "participant", "--cluster-threshold", "5"], "neighbours on the page only"),
        (["glm", "ds", "out", "participant", "--alpha", "5"], "alpha 5.0"),
        (["glm", "ds", "out", "participant", "--inference", "voxel"], "'voxel'"),
        (["glm", "ds", "out", "participant", "--n-jobs", "0"], "0 processes found"),
        (["glm", "ds", "out", "participant", "--n-jobs", "two"], "'two'"),
        (["glm", "ds", "out", "participant", "--confounds", "heart_rate"], "heart_rate"),
        (["glm", "ds", "out", "group"], "level participant first"),
        (["prep", "nowhere"], "nowhere"),
        (["prep", "ds"], "--resume"),
        (["prep", "ds", "--task-label", "astrology"], "task-astrology not found"),
        (["prep", "ds", "--resume", "--overwrite"], "choose one"),
        (["mask"], "ACTION"),
        (["mask", "show", "nowhere.nii.gz"], "nowhere.nii.gz"),
        (["mask", "convert", "nowhere.nii.gz", "out.tsv"], "nowhere.nii.gz"),
        (["mask", "combine", "sum", "out.tsv", "a.tsv"], "'sum'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_a_user_can_mend_is_one_line(
    workdir: Path, capsys: pytest.CaptureFixture[str], args: list[str], message: str
) -> None:
    assert any(part in refused(capsys, *args) for part in message.split("|"))
    assert [path.name for path in workdir.iterdir()] == ["ds"]


def test_masks_are_shown_converted_and_combined(workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    network = mask_of(workdir / "ds")
    assert run("mask", "show", network, "--json") == 0
    layers = json.loads(capsys.readouterr().out)
    assert len(layers) == 6
    for args in (["convert", network, "net.safetensors"], ["combine", "complement", "rest.tsv", network]):
        assert run("mask", *args, "--json") == 0
        output = json.loads(capsys.readouterr().out)
        assert all((workdir / path).is_file() for path in output["files"])
        assert output["of"] == 768
    assert run("mask", "combine", "union", "all.tsv", "net.safetensors", "rest.tsv", "--json") == 0
    assert json.loads(capsys.readouterr().out)["units"] == 768
    assert "--overwrite" in refused(capsys, "mask", "convert", network, "net.safetensors")
    assert "--allow-empty" in refused(capsys, "mask", "combine", "intersection", "none.tsv", network, "rest.tsv")
    assert run("mask", "show", network) == 0
    assert "block" in capsys.readouterr().out
