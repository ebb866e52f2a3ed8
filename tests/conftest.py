"""What several tests share: tiny models with random weights, and one recorded phantom."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from filelock import FileLock

from llm2bids.glm import glm
from llm2bids.prep import prep
from llm2bids.record import record

if TYPE_CHECKING:
    from llm2bids.record import Recording

SHARED_MODEL = Path(__file__).parents[2] / "shared" / "models" / "minilm-causal"


@pytest.fixture(scope="session")
def small_dataset(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Recording]]:
    """Two tasks of the phantom, two runs each, small; do not write into it."""
    root = tmp_path_factory.mktemp("small") / "ds"
    tasks = ["medicalimaging", "pathology"]
    return root, record(root, task=tasks, runs=2, blocks=2, prompts_per_block=2, tokens=5, progress=False)


@pytest.fixture(scope="session")
def shared_model() -> str:
    """A small trained model, where it is present."""
    if not SHARED_MODEL.is_dir():
        pytest.skip(f"the trained model for realistic checks is not at {SHARED_MODEL}")
    return str(SHARED_MODEL)


@pytest.fixture(scope="session")
def planted(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """The phantom on six tasks, four runs each, with networks in derivatives/glm; do not write into it.

    The processes of one test session share it: the first makes it, the others wait.
    """
    base = tmp_path_factory.getbasetemp()
    home = (base if worker_id == "master" else base.parent) / "planted"
    with FileLock(f"{home}.lock"):
        if not home.exists():
            root = base / "planted-unfinished" / "ds"
            record(root, progress=False)
            prep(root, progress=False)
            glm(root, root / "derivatives" / "glm", progress=False)
            root.parent.rename(home)
    return home / "ds"


@pytest.fixture
def planted_results(planted: Path, tmp_path: Path) -> Path:
    """Its networks, to write into."""
    return shutil.copytree(planted / "derivatives" / "glm", tmp_path / "glm")
