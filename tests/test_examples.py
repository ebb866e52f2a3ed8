"""The examples run as a reader would run them, and say what they promise; so does calibration, in small."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Protocol

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


class Run(Protocol):
    def __call__(self, *call: object, codes: tuple[int, ...] = (0,)) -> str: ...


@pytest.fixture
def run(warm: Path, tmp_path: Path) -> Run:
    """Runs a command in an empty folder, and gives back what it prints."""
    path = os.pathsep.join([str(warm), str(Path(sys.executable).parent), os.environ["PATH"]])

    def typed(*call: object, codes: tuple[int, ...] = (0,)) -> str:
        words, env = list(map(str, call)), os.environ | {"PATH": path}
        done = subprocess.run(words, cwd=tmp_path, env=env, capture_output=True, text=True, check=False, timeout=300)
        assert done.returncode in codes, f"{call}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    return typed


def test_recording_draws_its_picture(run: Run, tmp_path: Path) -> None:
    # This one in a process of its own: an example wants nothing that we have loaded.
    assert "(16, 8, 8, 792)" in run(sys.executable, EXAMPLES / "01_record.py", tmp_path)
    assert (tmp_path / "volume.png").stat().st_size > 50_000


def test_nilearn_alone_finds_the_network(run: Run, tmp_path: Path) -> None:
    output = run("python", EXAMPLES / "02_nilearn.py", tmp_path)
    dice = re.search(r"132 prompts, .* 48 planted, Dice (\d\.\d+)", output)
    assert dice
    assert float(dice[1]) >= 0.9
    assert (tmp_path / "network.png").stat().st_size > 10_000
    text = (EXAMPLES / "02_nilearn.py").read_text()
    assert "import llm2bids" not in text
    assert "from llm2bids" not in text


def test_fsl_page_runs_as_far_as_it_goes_without_fsl(run: Run) -> None:
    text = (EXAMPLES / "03_fsl.md").read_text()
    blocks = re.findall(r"^```bash\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    output = run("bash", "-euo", "pipefail", "-c", "\n".join(blocks))
    for name in ("ev_on.txt", "design.mat", "design.con", "design.fsf"):
        assert name in output
    assert "72\t72\t1" in output or "72\t24\t1" in output
    assert re.search(r"\d+ of 768 units", output)


def test_a_silenced_network_is_missed_by_its_own_topic(run: Run, tmp_path: Path) -> None:
    output = run("python", EXAMPLES / "04_networks_to_model.py", tmp_path)
    rows = re.findall(r"^(\w+) +(\w+) +(\d+\.\d+) +(\d+\.\d+) ", output, re.MULTILINE)
    assert len(rows) == 4
    for network, topic, intact, silenced in rows:
        harm = float(silenced) - float(intact)
        assert harm > 3 if network == topic else harm < 1


def test_event_related_models_draw_their_picture(run: Run, tmp_path: Path) -> None:
    output = run("python", EXAMPLES / "05_event_related.py", tmp_path)
    counts = dict(re.findall(r"tokens from +(\d+): (\d+) units tell on from off", output))
    assert len(counts) == 6
    assert min(map(int, counts.values())) >= 40
    assert (tmp_path / "event_related.png").stat().st_size > 30_000


def test_calibration_runs_in_small(run: Run) -> None:
    """Too few designs for a verdict: the exit code may be 0 or 1."""
    script = EXAMPLES.parent / "benchmarks" / "calibration.py"
    output = run("python", script, "--repeats", "0", "--designs", "4", "--sessions", "1", codes=(0, 1))
    rates = dict(re.findall(r"^(prompt|run|token) +4 +(0\.\d+)", output, re.MULTILINE))
    assert set(rates) == {"prompt", "run", "token"}
    assert float(rates["prompt"]) < float(rates["token"])


def test_the_first_paper_runs_from_end_to_end(run: Run, tmp_path: Path) -> None:
    options = ["--runs", "2", "--draws", "20", "--batch-size", "33"]
    output = run("python", EXAMPLES / "galactica.py", tmp_path, *options)
    assert output.splitlines()[1].split()[:3] == ["medicalimaging", "×", "pathology"]
    rows = re.findall(r"^ *run +(mean-z|correlation|dice) +1\.000 \(.*?\) .* (0\.\d+) \(", output, re.MULTILINE)
    assert len(rows) == 3
    assert all(float(accuracy) < 0.7 for _, accuracy in rows)
    text = (tmp_path / "galactica.md").read_text()
    for heading in ("## A1.", "## A2.", "## A3.", "## A4."):
        assert heading in text
    assert "$" not in text
    for picture in re.findall(r"\]\((\S+\.png)\)", text):
        assert (tmp_path / picture).stat().st_size > 20_000


@pytest.mark.parametrize("name", ["galactica", "networks_without_a_task"])
def test_the_page_of_the_trained_model_is_whole(name: str) -> None:
    text = (EXAMPLES / f"{name}.md").read_text()
    assert f"python examples/{name}.py --model ../shared/models/minilm-causal" in text
    for picture in re.findall(r"\]\((\S+\.png)\)", text):
        assert (EXAMPLES / picture).exists()


def test_the_second_paper_runs_from_end_to_end(run: Run, tmp_path: Path) -> None:
    options = ["--runs", "2", "--draws", "600", "--resamples", "2", "--batch-size", "33"]
    output = run("python", EXAMPLES / "networks_without_a_task.py", tmp_path, *options)
    planted = re.findall(r"^ *\w+ +\d+ +ica\d+ +(\d\.\d+) +(\d\.\d+) +0\.\d+ *$", output, re.MULTILINE)
    assert len(planted) == 6
    assert all(float(iou) > 0.8 and float(chance) < 0.2 for iou, chance in planted)
    others = ("itself, from another start", "random weights", "a phantom of other noise")
    itself, random, noise = (float(re.search(rf"{network} +(\d\.\d+)", output)[1]) for network in others)
    assert itself > noise > random
    text = (tmp_path / "networks_without_a_task.md").read_text()
    for heading in ("## 1.", "## 2.", "## 3.", "## 4.", "## What this does not say"):
        assert heading in text
    assert "$" not in text
    again, control = map(int, re.findall(r"^\| found again \| (\d+) \| (\d+) \|", text, re.MULTILINE)[0])
    assert again >= 6 > control
    pictures = re.findall(r"\]\((\S+\.png)\)", text)
    assert len(pictures) == 5
    for picture in pictures:
        assert (tmp_path / picture).stat().st_size > 10_000


def test_chance_levels_are_checked_in_small(run: Run) -> None:
    """Too few deals for a verdict: the exit code may be 0 or 1."""
    script = EXAMPLES.parent / "benchmarks" / "networks.py"
    output = run("python", script, "--repeats", "2", "--exchanges", "1", codes=(0, 1))
    assert output.count("overlap, top") == 4
    assert output.count("identify, each") == 9
