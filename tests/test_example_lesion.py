"""The second paper's lesions run as a reader would run them, on the phantom, whose networks are known."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from llm2bids.masks import load_mask
from llm2bids.model.phantom import phantom_truth

from .test_examples import EXAMPLES


@pytest.fixture(scope="module")
def home(warm: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Where it ran, and what it printed."""
    folder = tmp_path_factory.mktemp("lesion")
    call = [warm / "python", EXAMPLES / "lesion.py", folder, "--runs", "2", "--prompts", "3", "--controls", "5"]
    done = subprocess.run(list(map(str, call)), cwd=folder, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


def test_each_network_harms_its_own_topic(home: tuple[Path, str]) -> None:
    rows = re.findall(r"^ *(\w+) +\d+ +\+(\d+\.\d+) +[+-]\d+\.\d+ +100 \(", home[1], re.MULTILINE)
    assert len(rows) == 6
    assert all(float(change) > 3 for _, change in rows)


def test_masked_networks_are_missed_and_kept_ones_are_enough(home: tuple[Path, str]) -> None:
    rows = re.findall(r"^ *((?:random for )?(?:intact|mask|keep)\b[ \d]*?)(?: \(.*?\))? +(\d+) +[\d.]+ %"
                      r" +(0\.\d+|1\.0+) +\S+ +([\d,]+)", home[1], re.MULTILINE)  # fmt: skip
    states = {
        name.strip(): (int(units), float(right), int(found.replace(",", ""))) for name, units, right, found in rows
    }
    best = max(int(name.split()[1]) for name in states if name.startswith("keep"))
    assert best == 6
    assert states["keep 6"][1] == pytest.approx(states["intact"][1], abs=0.06)
    assert states["mask 6"][1] < 0.4 < states["intact"][1]
    assert states["keep 6"][2] < 1.2 * states["intact"][2]
    for name in ("mask 6", "random for keep 6"):
        assert states[name][2] > 100 * states["intact"][2]
    assert states["random for mask 6"][2] < 1.2 * states["intact"][2]


def test_components_are_the_planted_networks_though_neurons_are_silent_in_most_runs(home: tuple[Path, str]) -> None:
    masks = [load_mask(path) for path in home[0].glob("model/derivatives/ica/sub-model/func/*_mask.nii.gz")]
    found = [mask.selected for mask in masks if mask.n_selected]
    for planted in phantom_truth(masks[0].space).values():
        assert max((one & planted.selected).sum() / (one | planted.selected).sum() for one in found) > 0.9


def test_the_page_is_whole(home: tuple[Path, str]) -> None:
    for folder in (home[0], EXAMPLES):
        text = (folder / "lesion.md").read_text()
        assert "$" not in text
        pictures = re.findall(r"\]\((\S+\.png)\)", text)
        assert len(pictures) == 2
        assert all((folder / picture).stat().st_size > 10_000 for picture in pictures)
    assert "python examples/lesion.py --model ../shared/models/minilm-causal" in text
