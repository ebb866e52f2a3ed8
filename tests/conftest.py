"""What several tests share: tiny models with random weights, and one recorded phantom."""

from __future__ import annotations

import io
import json
import shutil
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from filelock import FileLock
from matplotlib.figure import Figure
from PIL import Image

from llm2bids.cli import main
from llm2bids.preparation import prep
from llm2bids.recording import record
from llm2bids.statistics import glm

from .browser import browsers, visit  # noqa: F401 - fixtures of all tests
from .maps import IDENTITY, SPACE, VALUES, write_map
from .warm import warm_commands

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from llm2bids.recording import Recording

    from .group_cases import Cohort

SHARED_MODEL = Path(__file__).parents[2] / "shared" / "models" / "minilm-causal"


LONG = (
    "test_examples",
    "test_demo",
    "test_docs",
    "test_readme",
    "test_report",
    "test_example_lesion",
    "test_networks_phantom",
    "test_record",
    "test_lesion_verb",
    "test_undone",
    "test_report_pages",
    "test_viewer",
)
"""Modules of half a minute and more, begun first: at the end a process with one of them would keep the others waiting.

The two first begin together: one is longest, the other makes the demo that others look at.
"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with long modules, in their order; the others stay in theirs."""
    order = {name: place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: order.get(item.path.stem, len(LONG)))


@contextmanager
def figures_left_blank() -> Iterator[None]:
    """Figures are composed but not rendered, a third of the time of an answer; for what looks at no picture."""
    blank = io.BytesIO()
    Image.new("RGB", (1, 1)).save(blank, "png")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", lambda _figure, file, **_: file.write(blank.getvalue()))
        yield


@pytest.fixture
def blank_figures() -> Iterator[None]:
    """The same for a test."""
    with figures_left_blank():
        yield


@pytest.fixture(scope="session")
def warm() -> Iterator[Path]:
    """A folder with `llm2bids` and `python` whose libraries are loaded already; for tests of what commands do."""
    with warm_commands() as folder:
        yield folder


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
    with FileLock(f"{home}.lock"), figures_left_blank():
        if not home.exists():
            root = base / "planted-unfinished" / "ds"
            record(root, batch_size=33, progress=False)
            prep(root, progress=False)
            glm(root, root / "derivatives" / "glm", progress=False)
            root.parent.rename(home)
    return home / "ds"


@pytest.fixture
def planted_results(planted: Path, tmp_path: Path) -> Path:
    """Its networks, to write into."""
    return shutil.copytree(planted / "derivatives" / "glm", tmp_path / "glm")


@pytest.fixture
def bold(tmp_path: Path) -> Path:
    """A recording that says which voxel is which unit."""
    return write_map(tmp_path / "sub-x_task-a_bold.nii.gz", np.ones((2, SPACE.n_units)), **IDENTITY, Mode="read")


@pytest.fixture
def zstat(tmp_path: Path) -> Path:
    """A map with a sidecar of ours."""
    return write_map(tmp_path / "sub-x_contrast-onVsOff_stat-z_statmap.nii.gz", VALUES, **IDENTITY)


def made_once(factory: pytest.TempPathFactory, worker_id: str, name: str, make: Callable[[Path], object]) -> Path:
    """A dataset for the processes of one test session: the first makes it, the others wait. Its figures are blank."""
    base = factory.getbasetemp()
    home = (base if worker_id == "master" else base.parent) / name
    with FileLock(f"{home}.lock"), figures_left_blank():
        if not home.exists():
            root = base / f"{name}-unfinished" / "ds"
            make(root)
            root.parent.rename(home)
    return home / "ds"


@pytest.fixture(scope="session")
def two_sites(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """One task at two sites, two runs, prepared; do not write into it."""

    def make(root: Path) -> None:
        from .glm_cases import SMALL

        record(root, task="pathology", sites=["block", "mlp"], **SMALL)
        prep(root, progress=False)

    return made_once(tmp_path_factory, worker_id, "two-sites", make)


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """Three phantoms of other noise, analysed one by one; do not write into it."""

    def make(root: Path) -> None:
        from llm2bids.model.phantom import build_phantom

        from .group_cases import SMALL

        for seed in (1, 2, 3):
            record(root, model=build_phantom(seed), subject=f"p{seed}", task="pathology", **SMALL)
        prep(root, progress=False)
        glm(root, root / "derivatives" / "glm", progress=False)

    return made_once(tmp_path_factory, worker_id, "phantoms", make)


@dataclass(frozen=True)
class Ran:
    """What `llm2bids demo DIR --json` wrote and said."""

    folder: Path
    told: dict[str, Any]

    @property
    def results(self) -> Path:
        return self.folder / "derivatives"

    @property
    def pages(self) -> Path:
        return self.results / "report"

    @property
    def rows(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self.told["tasks"]
        return rows


@pytest.fixture(scope="session")
def ran(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Ran:
    """The demo, in a folder whose name a shell and a browser could misread; made once for all processes."""
    base = tmp_path_factory.getbasetemp()
    home = (base if worker_id == "master" else base.parent) / "demonstrated"
    folder, said = home / "a <b>demo & more", home / "said.json"
    with FileLock(f"{home}.lock"):
        if not said.exists():
            with pytest.MonkeyPatch.context() as patch:
                lines: list[str] = []
                patch.setattr("llm2bids.cli.demo.tell", lines.append)
                assert main(["demo", str(folder), "--json"]) == 0
            said.write_text("\n".join(lines))
    return Ran(folder, json.loads(said.read_text()))


@pytest.fixture(scope="session")
def known_cohort(phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    """Eight subjects with the files of a phantom and effects of our own; do not write into it."""
    from .group_cases import made_of

    return made_of(phantoms, tmp_path_factory.mktemp("made") / "ds")


@pytest.fixture
def cohort(known_cohort: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cohort:
    """A copy to write into; pages are drawn for phantoms only, which is slow."""
    monkeypatch.setattr("llm2bids.statistics.verb.write_page", lambda *_: None)
    shutil.copytree(known_cohort.raw, tmp_path / "ds")
    return replace(known_cohort, raw=tmp_path / "ds")
