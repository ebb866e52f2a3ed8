"""The whole chain on the phantom: what was planted, what two analyses find, and what a model cannot do without it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pandas as pd

from llm2bids.bids.tables import write_bytes
from llm2bids.decomposition import ica
from llm2bids.demonstration.commands import BLOCKS, CONTROLS, PAIR, SHARED, THRESHOLD, commands, mask_name
from llm2bids.lesioning import dissociation, lesion
from llm2bids.lesioning.materials import file_name, known_texts
from llm2bids.masks import combine, convert, load_mask
from llm2bids.networks.depth_profile import profile
from llm2bids.networks.functional_connectivity import connectivity
from llm2bids.networks.identification_study import identify
from llm2bids.networks.matching import match
from llm2bids.networks.repeatability import reliability
from llm2bids.networks.unit_overlap import overlap
from llm2bids.preparation import prep
from llm2bids.recording import record
from llm2bids.reporting import report
from llm2bids.statistics import glm
from llm2bids.task import builtin_prompts, on_topics, text_hash
from llm2bids.validation import validate

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from llm2bids.lesioning import LesionScore
    from llm2bids.preparation import Prepared
    from llm2bids.space import UnitMask
    from llm2bids.statistics import ContrastResult
    from llm2bids.validation import Validation

_TEXTS: Final = 4
"""Prompts of each topic on which lesions are scored."""
_DIGITS: Final = 3
"""Of numbers in the table."""


@dataclass(frozen=True, slots=True, eq=False)
class Demo:
    """What the demo found.

    Parameters
    ----------
    table : DataFrame
        One row per task: ``task``, ``runs``, ``scans``, ``units`` tested, ``planted`` (units of its network),
        ``found`` (by ``glm``), ``hits`` (found and planted), ``false`` (found and not planted), ``dice``;
        ``component`` (of ``components`` that ``ica`` found, the one most like the planted network) and ``iou`` of the
        two; ``bits`` per token that texts on the topic cost more once what ``glm`` found is silenced, ``random_bits``
        (mean over random masks), and ``percentile`` of the lesion among these.
    dissociation : DataFrame
        One row per silenced network and text: ``network``, ``text``, and as `llm2bids.lesioning.dissociation`.
    validations : list of Validation
        What the official validator says about the dataset and its derivatives.
    page : Path
        The report of all of it, to open in a browser.
    commands : list of str
        What to type to do the same by hand.
    """

    table: pd.DataFrame
    dissociation: pd.DataFrame
    validations: list[Validation]
    page: Path
    commands: list[str]


def demo(bids_dir: str | Path = "llm2bids-demo", *, overwrite: bool = False, progress: bool | None = None) -> Demo:
    """Record the phantom on six tasks, find its networks in two ways, silence them, and compare with the truth.

    Parameters
    ----------
    bids_dir : path-like
        Dataset to make; results are in its ``derivatives``.
    overwrite : bool
        Replace a demo that is there.
    progress : bool, optional
        Whether to show progress bars; by default if the terminal can.

    Returns
    -------
    Demo
        Tables, and the page that shows them.

    Raises
    ------
    LLM2BIDSError
        If the folder holds something else.
    """
    root = Path(bids_dir)
    results = root / "derivatives"
    how: dict[str, Any] = {"overwrite": overwrite, "progress": progress}
    record(root, "phantom", "nencka2023", blocks=BLOCKS, **how)
    prepared = prep(root, **how)
    found = glm(root, results / "glm", **how)
    (components,) = ica(root, results / "ica", **how)
    matched = match(results / "phantom", results / "ica", **how)
    networks = {one.task: one.mask_file for one in found}
    lesioned = lesion(
        results / "lesion",
        masks=[*networks.values()],
        text=_save_texts(results / "texts", networks),
        lines=True,
        controls=CONTROLS,
        dissociation=True,
        **how,
    )
    _save_masks(results / "masks", networks)
    _ask(results / "glm", how)
    planted = {task: load_mask(_truth(results, task)) for task in networks}
    tested = pd.DataFrame([_tested(one, planted[one.task], prepared) for one in found])
    best = matched.tables["pairs"][["template", "best", "best_iou"]].set_axis(["task", "component", "iou"], axis=1)
    harm = _harm(lesioned.scores, networks)
    table = tested.merge(best.assign(components=components.n_components)).merge(_own(harm)).round(_DIGITS)
    page = report(root, **how).page
    return Demo(table, harm, validate(root), page, commands(root, networks))


def _ask(out_dir: Path, how: dict[str, Any]) -> None:
    """Every question about the networks that ``glm`` found."""
    replacing = {"overwrite": how["overwrite"]}
    for ask in (overlap, reliability, profile, connectivity):
        ask(out_dir, **replacing)
    identify(out_dir, thresholds=[THRESHOLD], **replacing)


def _truth(results: Path, task: str) -> Path:
    """The planted network of a task."""
    return next(results.glob(f"phantom/sub-*/func/*_task-{task}_acq-block_*truth_mask.nii.gz"))


def _tested(found: ContrastResult, planted: UnitMask, prepared: Sequence[Prepared]) -> dict[str, object]:
    """What was planted for one task, and what ``glm`` found."""
    network = found.mask
    scans = [one.n_scans for one in prepared if f"_task-{found.task}_" in one.bold.name]
    hits = (planted & network).n_selected
    return {
        "task": found.task,
        "runs": len(scans),
        "scans": sum(scans),
        "units": found.n_tested,
        "planted": planted.n_selected,
        "found": network.n_selected,
        "hits": hits,
        "false": network.n_selected - hits,
        "dice": 2 * hits / (planted.n_selected + network.n_selected),
    }


def _save_texts(folder: Path, networks: Mapping[str, Path]) -> list[Path]:
    """Prompts of every topic that defined no network, one file per task."""
    shown = frozenset[str]().union(*(known_texts(load_mask(path).provenance) for path in networks.values()))
    pool = builtin_prompts()
    paths = []
    for task in networks:
        unseen = [prompt.text for prompt in pool[on_topics()[task]] if text_hash(prompt.text) not in shown]
        paths.append(write_bytes(folder / f"{task}.txt", "\n".join([*unseen[:_TEXTS], ""]).encode()))
    return paths


def _save_masks(folder: Path, networks: Mapping[str, Path]) -> None:
    """Networks as tensors that load into hooks, and the units that two tasks share."""
    for task, path in networks.items():
        convert(path, folder / mask_name(task), overwrite=True)
    combine("intersection", [networks[task] for task in PAIR], folder / SHARED, overwrite=True, allow_empty=True)


def _harm(scores: Sequence[LesionScore], networks: Mapping[str, Path]) -> pd.DataFrame:
    """What each lesion did to each text, networks by task."""
    tasks = {file_name(path): task for task, path in networks.items()}
    table = dissociation(scores)
    return table.assign(network=table.pop("mask").map(tasks)).set_index("network").reset_index()


def _own(harm: pd.DataFrame) -> pd.DataFrame:
    """What each lesion did to the texts on its own topic."""
    own = harm[harm["network"] == harm["text"]]
    names = {"network": "task", "change": "bits", "control_change": "random_bits", "percentile": "percentile"}
    return own.rename(columns=names)[[*names.values()]]
