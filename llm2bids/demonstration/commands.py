"""The demo as commands to type, with the settings and file names that both share."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Final

from llm2bids.options import option, options

if TYPE_CHECKING:
    from collections.abc import Mapping

BLOCKS: Final = 4
"""Blocks of a topic per run. No run shows 12 of its 60 prompts then, so that lesions can be scored on some of them."""
CONTROLS: Final = 20
"""Random masks per lesion, few enough for a demo."""
THRESHOLD: Final = "5%"
"""Share of units that is a network when tasks are identified; a choice among several would take longer."""
PAIR: Final = ("medicalimaging", "pathology")
"""The two tasks whose planted networks share most units."""
SHARED: Final = f"shared_{'_'.join(PAIR)}.safetensors"
"""File of the units that are in both networks of the pair."""


@options
class DemoOptions:
    """Options of ``demo``."""

    bids_dir: str | Path = option(
        "dataset to make; results are in its derivatives",
        default="llm2bids-demo",
        kw_only=False,
        place=True,
        metavar="DIR",
    )
    overwrite: bool = option("replace a demo that is there", default=False)
    progress: bool | None = option("show progress bars; by default if the terminal can", default=None, typed=False)


def mask_name(task: str) -> str:
    """Name the file of a network as tensors, which load into hooks."""
    return f"task-{task}_mask.safetensors"


def commands(bids_dir: Path, networks: Mapping[str, Path]) -> list[str]:
    """List shell commands that do the same; of masks as tensors, one stands for all tasks."""
    home = shlex.quote(str(bids_dir))
    results = f"{home}/derivatives"
    masks = {task: f"{home}/{path.relative_to(bids_dir).as_posix()}" for task, path in networks.items()}
    every = masks[PAIR[0]].replace(f"_task-{PAIR[0]}_", "_task-*_")
    scored = f"--text {results}/texts/*.txt --lines --controls {CONTROLS} --dissociation"
    return [
        f"llm2bids record {home} --model phantom --task nencka2023 --blocks {BLOCKS}",
        f"llm2bids prep {home}",
        f"llm2bids glm {home} {results}/glm participant",
        f"llm2bids ica {home} {results}/ica",
        f"llm2bids networks match {results}/phantom {results}/ica",
        f"llm2bids lesion {results}/lesion --model phantom --mask {every} {scored}",
        f"llm2bids mask convert {masks[PAIR[0]]} {results}/masks/{mask_name(PAIR[0])}",
        f"llm2bids mask combine intersection {results}/masks/{SHARED} {' '.join(masks[task] for task in PAIR)}",
        *(
            f"llm2bids networks {question} {results}/glm"
            for question in ("overlap", "reliability", "profile", "connectivity")
        ),
        f"llm2bids networks identify {results}/glm --thresholds {THRESHOLD}",
        f"llm2bids report {home}",
        f"llm2bids validate {home}",
    ]
