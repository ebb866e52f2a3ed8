"""What preparing and analysing cost: peak memory and time for one run of a model of GPT-2 small's size.

``python benchmarks/analysis.py [--scans 1000 4000]`` makes one run of random, autocorrelated signals of 12 x 768 units,
and prints time, also as a multiple of reading the volumes once, and peak memory of a process of its own, also as a
multiple of the run in single precision.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from llm2bids.bids.nifti import Grid, NiftiWriter, read_scans
from llm2bids.bids.tables import write_json, write_stim, write_tsv
from llm2bids.bids.templates import template_json
from llm2bids.preparation import prep
from llm2bids.space import UnitSpace
from llm2bids.statistics import glm
from llm2bids.task import Task, Trial

if TYPE_CHECKING:
    from collections.abc import Callable

SPACE = UnitSpace.uniform("block", [f"transformer.h.{block}:out" for block in range(12)], 768)
TOKENS = 25
STEM = "sub-gpt2_task-blocks_acq-block_run-01"


def make_dataset(root: Path, n_scans: int) -> Path:
    """One run: prompts of 25 tokens in blocks of four, AR(1) noise."""
    rng = np.random.default_rng(0)
    n_prompts = n_scans // TOKENS
    kinds = ["on" if prompt // 4 % 2 else "off" for prompt in range(n_prompts)]
    task = Task("blocks", tuple(Trial("", kind, prompt // 4 + 1) for prompt, kind in enumerate(kinds)))
    folder = root / "sub-gpt2" / "func"
    folder.mkdir(parents=True)
    bold = folder / f"{STEM}_bold.nii.gz"
    state = rng.standard_normal(SPACE.n_units)
    with NiftiWriter(bold, Grid(SPACE.shape, SPACE.affine)) as writer:
        for _ in range(n_prompts * TOKENS):
            state = 0.5 * state + rng.standard_normal(SPACE.n_units)
            writer.append(SPACE.to_volumes(state[None].astype(np.float32)))
    metadata = {"Site": "block", "UnitSpace": SPACE.to_json(), "NumberOfScans": n_prompts * TOKENS}
    write_json(folder / f"{STEM}_bold.json", {"RepetitionTime": 1.0, "StartTime": 0.5, "Llm2bids": metadata})
    write_tsv(folder / f"{STEM}_events.tsv", task.events([TOKENS] * n_prompts))
    stim = pd.DataFrame(
        {name: np.arange(n_prompts * TOKENS) % TOKENS + 1 for name in ("token_id", "position", "surprisal", "entropy")}
    )
    write_stim(folder / f"{STEM}_stim.tsv.gz", stim)
    write_json(root / "task-blocks_stim.json", template_json("task_stim.json", task="blocks"))
    write_json(root / "dataset_description.json", {"Name": "benchmark", "BIDSVersion": "1.11.1", "DatasetType": "raw"})
    model = template_json("stats_model.json", task="blocks", description="")
    model["Nodes"][0]["Model"]["X"] = ["trial_type.on", "trial_type.off"]
    write_json(root / "code" / "models" / "model-blocks_smdl.json", model)
    return bold


def read(root: Path) -> None:
    """Read all volumes once."""
    for _ in read_scans(next(root.glob(f"sub-*/func/{STEM}_bold.nii.gz"))):
        pass


def prepare(root: Path) -> None:
    """Prepare the run."""
    prep(root, overwrite=True, progress=False)


def analyse(root: Path, inference: str = "prompt") -> None:
    """Analyse the run."""
    out = root / "derivatives" / inference
    glm(root, out, inference=inference, contrasts=["on - off"], overwrite=True, progress=False)


def analyse_tokens(root: Path) -> None:
    """Analyse the run, tokens as samples."""
    analyse(root, "token")


def cost(root: Path, work: Callable[[Path], None]) -> tuple[float, float, float]:
    """Seconds, peak memory, and memory before the work, in MB, in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(cost_here, (root, work))


def cost_here(root: Path, work: Callable[[Path], None]) -> tuple[float, float, float]:
    """The same in this process."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    start = time.perf_counter()
    work(root)
    return time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, before


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scans", type=int, nargs="+", default=[1000, 4000])
    args = parser.parse_args()
    for n_scans in args.scans:
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            make_dataset(root, n_scans)
            size = n_scans * SPACE.n_units * 4 / 2**20
            unit = cost(root, read)[0]
            print(f"{n_scans} scans x {SPACE.n_units} units, {size:.0f} MB in single precision; read in {unit:.2f} s")
            for name, work in {"prep": prepare, "glm, prompts": analyse, "glm, tokens": analyse_tokens}.items():
                seconds, peak, before = cost(root, work)
                print(
                    f"  {name:<14}{seconds:7.2f} s = {seconds / unit:5.1f} x reading   peak {peak:6.0f} MB, "
                    f"{peak - before:6.0f} MB above the imports = {(peak - before) / size:4.1f} x the run",
                    flush=True,
                )


if __name__ == "__main__":
    main()
