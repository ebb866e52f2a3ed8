"""What the tests of `glm` share: how a prepared recording is analysed, read and refused."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np
import pytest

from llm2bids.statistics import glm

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llm2bids.statistics import ContrastResult

SMALL: dict[str, Any] = {"runs": 2, "blocks": 2, "prompts_per_block": 2, "tokens": 5, "progress": False}
N_RUNS, N_PROMPTS, N_TOKENS = 2, 10, 5
CUTOFF = 0.025
"""Hz; leaves two cosines in a run of 50 scans."""
PREPARED = Path("derivatives", "llm2bids", "sub-phantom", "func")


def analysed(root: Path, name: str, **options: Any) -> ContrastResult:
    """The only network of an analysis."""
    (result,) = glm(root, root / "derivatives" / name, progress=False, **{"sites": ["mlp"], **options})
    return result


def files_of(root: Path, ending: str) -> list[Path]:
    """Files of the derivative at site mlp, in order of runs."""
    return sorted((root / PREPARED).glob(f"*acq-mlp*{ending}"))


def values(path: Path) -> NDArray[np.float64]:
    """Every voxel of a map, scans last."""
    image = nib.load(path).get_fdata()
    return np.asarray(image.reshape(-1, *image.shape[3:]))


def beside(result: ContrastResult, statistic: str) -> Path:
    """Another map of the same contrast."""
    return result.z_file.with_name(result.z_file.name.replace("stat-z", f"stat-{statistic}"))


def contents(folder: Path) -> dict[str, str]:
    """Hash of every file below a folder, locks aside."""
    paths = (path for path in folder.rglob("*") if path.is_file() and path.name != "lock")
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def refused(error: type[Exception], message: str, root: Path, **options: Any) -> None:
    """The analysis stops with one line, and nothing is left of its output."""
    before = contents(root.parent)
    with pytest.raises(error, match=message) as stop:
        analysed(root, "new", **options)
    assert "\n" not in str(stop.value)
    assert contents(root.parent) == before
    assert not (root / "derivatives" / "new").exists()
