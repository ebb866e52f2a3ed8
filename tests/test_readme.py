"""The commands of the guides run, one after the other, and README names what is there; its own run with the pages."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from llm2bids.validation import validate

from .families import tiny_subject
from .typed import blocks_of

ROOT = Path(__file__).parents[1]
GUIDES = ("record", "analyse", "questions", "lesions")
"""Pages whose commands go on from each other, some of them over several lines of a shell."""
SETUP = ("git clone https://github.com/llm2bids/llm2bids", "cd llm2bids", "make demo", "make test")


def test_the_setup_block_is_the_makefiles_and_cis() -> None:
    assert tuple(blocks_of(ROOT / "README.md")[0][1].splitlines()) == SETUP
    recipes = {
        target: subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=True).stdout
        for target in ("demo", "test")
    }
    assert "llm2bids demo" in recipes["demo"]
    for check in ("ruff check", "ruff format --check", "mypy", "lint-imports", "codespell", "pytest"):
        assert check in recipes["test"]
    assert "make test" in (ROOT / ".ci" / "run").read_text()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty folder in which all blocks run one after the other, as a reader would run them."""
    folder = tmp_path_factory.mktemp("reader")
    subject = tiny_subject("gpt2")
    subject.model.save_pretrained(folder / "my-model")
    subject.tokenizer.save_pretrained(folder / "my-model")
    return folder


def check_what_changed(home: Path, seen: dict[Path, int]) -> dict[Path, int]:
    """Validate each dataset and derivative that has other files than before."""
    now = {path: path.stat().st_mtime_ns for path in home.rglob("*") if path.is_file()}
    told: dict[Path, str] = {}
    for description in sorted(home.rglob("dataset_description.json"), key=lambda path: len(path.parts)):
        root = description.parent
        own = [path for path in now if path.is_relative_to(root) and "derivatives" not in path.relative_to(root).parts]
        if any(seen.get(path) != now[path] for path in own) and root not in told:
            told |= {one.root: one.summary() for one in validate(root)}  # its derivatives too
    assert told == {root: f"{root}: 0 errors, 0 warnings" for root in told}
    return now


def test_the_commands_of_the_guides_run_in_order(home: Path, warm: Path) -> None:
    path = os.pathsep.join([str(warm), str(Path(sys.executable).parent), os.environ["PATH"]])
    said, seen = "", {}
    for kind, text, _ in (block for name in GUIDES for block in blocks_of(ROOT / "docs" / f"{name}.md")):
        call = ["bash", "-euo", "pipefail", "-c", text] if kind == "bash" else ["python", "-c", text]
        done = subprocess.run(
            call, cwd=home, env=os.environ | {"PATH": path}, capture_output=True, text=True, check=False, timeout=300
        )
        assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
        said += done.stdout
        seen = check_what_changed(home, seen)
    for dataset in ("ds", "ds/derivatives/llm2bids", "ds/derivatives/glm", "ds/derivatives/phantom"):
        assert f"{dataset}: 0 errors, 0 warnings" in said
    assert "sub-mymodel_task-medicalimaging_acq-head_run-02_bold.nii.gz" in said
    assert re.search(r"\ngroup +pathology +block +onVsOff +768", said)
    assert "model.layers.5:out" in said
    assert "1.0 0.5 [33, 33]" in said


def test_files_the_readme_points_to_exist() -> None:
    text = (ROOT / "README.md").read_text()
    for name in re.findall(r"\]\((?!http)([^)]+)\)", text) + re.findall(r"`([A-Z]+\.(?:cff|md))`", text):
        assert (ROOT / name).exists(), name


def test_the_options_the_readme_names_exist() -> None:
    verbs = (
        ["record"],
        ["prep"],
        ["glm"],
        ["networks", "identify"],
        ["mask", "convert"],
        ["lesion"],
        ["prune"],
        ["ica"],
        ["networks", "match"],
        ["report"],
    )
    calls = ([sys.executable, "-m", "llm2bids", *verb, "--help"] for verb in verbs)
    shown = "".join(subprocess.run(call, capture_output=True, text=True, check=True).stdout for call in calls)
    pages = [ROOT / "README.md", *(ROOT / "docs" / f"{name}.md" for name in GUIDES)]
    for option in {option for page in pages for option in re.findall(r"--[a-z][a-z-]+", page.read_text())}:
        assert option in shown, option
