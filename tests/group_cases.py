"""What the tests of groups share: eight subjects whose effects are known, and models to ask of them."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np
import pandas as pd
from nilearn.glm.second_level import SecondLevelModel

from llm2bids.bids.nifti import write_image
from llm2bids.bids.tables import read_json, write_json, write_tsv
from llm2bids.space import UnitSpace
from llm2bids.statistics import glm

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from llm2bids.statistics import ContrastResult

SMALL: dict[str, Any] = {"runs": 1, "blocks": 2, "prompts_per_block": 2, "tokens": 5, "progress": False}
STEM = "task-pathology_acq-block_space-L6C128block"
MADE = pd.DataFrame(
    {
        "participant_id": [f"sub-{letter}" for letter in "abcdefgh"],
        "family": ["llama", "llama", "llama", "llama", "qwen", "qwen", "qwen", "qwen"],
        "pair": [*"1234", *"3142"],
        "three": [*"xxyyzzzx"],
        "depth": ["6", "12", "9", "24", "8", "30", "15", "7"],
        "n_parameters": ["1653632", "7000000000", "70000000000", "3e9", "1e8", "5e8", "1.1e9", "2.6e9"],
        "holes": ["1", "2", "n/a", "4", "5", "6", "7", "8"],
        "same": ["4"] * 8,
        "half": [*"11112222"],
        "tag": ["tuned", *["n/a"] * 7],
    }
)
"""Columns of participants.tsv; not all of them can be used."""
DEAD = [40, 700]
ALIVE = np.delete(np.arange(768), DEAD)
"""Units whose effect is not 0 in all subjects."""


@dataclass(frozen=True)
class Cohort:
    """Subjects whose effects are known."""

    raw: Path
    effects: NDArray[np.float32]
    space: UnitSpace

    @property
    def out(self) -> Path:
        return self.raw / "derivatives" / "glm"

    def maps(self, label: str) -> Path:
        return self.out / f"sub-{label}" / "func" / f"sub-{label}_{STEM}_contrast-onVsOff_stat-effect_statmap.nii.gz"

    def ask(self, **options: Any) -> dict[str, ContrastResult]:
        results = glm(self.raw, self.out, "group", progress=False, **options)
        return {result.contrast: result for result in results}

    def read(self, result: ContrastResult, statistic: str = "z") -> NDArray[np.float64]:
        path = result.z_file.with_name(result.z_file.name.replace("stat-z", f"stat-{statistic}"))
        signals: NDArray[np.float64] = self.space.to_signals(nib.load(path)).astype(np.float64)
        return signals

    def fit(self, design: pd.DataFrame) -> SecondLevelModel:
        """Nilearn's model of the same maps."""
        images = [self.space.to_image(row) for row in self.effects]
        mask = self.space.to_image(np.isin(np.arange(768), ALIVE))
        return SecondLevelModel(mask_img=mask).fit(images, design_matrix=design)

    def by_nilearn(self, design: pd.DataFrame, contrast: Any, **options: Any) -> NDArray[np.float64]:
        signals: NDArray[np.float64] = self.space.to_signals(self.fit(design).compute_contrast(contrast, **options))
        return signals


def made_of(phantoms: Path, raw: Path) -> Cohort:
    """Eight subjects with the files of a phantom and effects of our own."""
    for name in ("dataset_description.json", "code/models/model-pathology_smdl.json"):
        (raw / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(phantoms / name, raw / name)
    write_tsv(raw / "participants.tsv", MADE)
    folder_of_first = phantoms / "derivatives" / "glm" / "sub-p1" / "func"
    summary = read_json(folder_of_first / f"sub-p1_{STEM}_glm.json")
    space = UnitSpace.from_json(summary["Llm2bids"]["UnitSpace"])
    effects = np.random.default_rng(3).normal(0.3, 1, (8, space.n_units)).astype(np.float32)
    effects[:, :9] += 6
    effects[4:, 9:18] -= 20
    effects[:, DEAD] = 0
    for label, row in zip("abcdefgh", effects, strict=True):
        folder = raw / "derivatives" / "glm" / f"sub-{label}" / "func"
        folder.mkdir(parents=True)
        for path in folder_of_first.glob("*"):
            if "stat-effect_statmap" in path.name or "desc-brain_mask" in path.name:
                shutil.copy(path, folder / path.name.replace("sub-p1", f"sub-{label}"))
        write_image(folder / f"sub-{label}_{STEM}_contrast-onVsOff_stat-effect_statmap.nii.gz", space.to_image(row))
        subject_summary = json.loads(json.dumps(summary).replace("sub-p1", f"sub-{label}"))
        write_json(
            folder / f"sub-{label}_{STEM}_glm.json", subject_summary | {"Subject": label, "Fingerprint": f"of {label}"}
        )
    shutil.copy(folder_of_first.parents[1] / "dataset_description.json", raw / "derivatives" / "glm")
    return Cohort(raw, effects, space)


def stats_model(path: Path, x: list[Any], contrasts: list[dict[str, Any]], **node: Any) -> Path:
    """A BIDS Stats Model with a Dataset node."""
    dataset = {"Level": "Dataset", "Name": "dataset", "GroupBy": ["contrast"], "Model": {"X": x, "Type": "glm"}}
    run = {
        "Level": "Run",
        "Name": "run",
        "GroupBy": ["run", "subject"],
        "Model": {"X": ["trial_type.*"], "Type": "glm"},
        "DummyContrasts": {"Test": "t"},
    }
    nodes = [run, {**dataset, "Contrasts": contrasts, **node}]
    return write_json(path, {"Name": "m", "BIDSModelVersion": "1.0.0", "Input": {}, "Nodes": nodes})


def factor(*names: str) -> dict[str, Any]:
    instructions = [{"Name": "Factor", "Input": list(names)}]
    return {"Transformations": {"Transformer": "pybids-transforms-v1", "Instructions": instructions}}
