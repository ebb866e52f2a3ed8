"""Run the whole chain on the phantom, and compare what it finds with what was planted."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pandas as pd

from llm2bids.bids.tables import write_bytes
from llm2bids.decomposition import ica
from llm2bids.demonstration.commands import BLOCKS, CONTROLS, PAIR, SHARED, THRESHOLD, DemoOptions, commands, mask_name
from llm2bids.lesioning import dissociation, lesion_study
from llm2bids.lesioning.evaluation import file_name, stimulus_hashes
from llm2bids.masks import combine_masks, convert_mask, load_mask
from llm2bids.networks import connectivity, identify, match, overlap, profile, reliability
from llm2bids.options import takes
from llm2bids.preparation import prep
from llm2bids.recording import record
from llm2bids.reporting import report
from llm2bids.statistics import glm
from llm2bids.task import builtin_prompts, on_topics, text_hash
from llm2bids.validation import validate

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from llm2bids.lesioning import LesionScore
    from llm2bids.preparation import PrepResult
    from llm2bids.space import UnitMask
    from llm2bids.statistics import ContrastResult
    from llm2bids.validation import Validation

_TEXTS: Final = 4
"""Prompts of each topic on which lesions are scored."""
_DIGITS: Final = 3
"""Decimal places in the table."""


@dataclass(frozen=True, slots=True, eq=False)
class Demo:
    """Results of the demo.

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
        Results of the official validator for the dataset and its derivatives.
    page : Path
        The report, to open in a browser.
    commands : list of str
        Commands that do the same by hand.
    """

    table: pd.DataFrame
    dissociation: pd.DataFrame
    validations: list[Validation]
    page: Path
    commands: list[str]


@takes(DemoOptions)
def demo(options: DemoOptions) -> Demo:
    """Record the phantom on six tasks, find its networks in two ways, silence them, and compare with the truth.

    Returns
    -------
    Demo
        Tables, and the page that shows them.

    Raises
    ------
    LLM2BIDSError
        If the folder holds something else.
    """
    root = Path(options.bids_dir)
    results = root / "derivatives"
    work: dict[str, Any] = {"overwrite": options.overwrite, "progress": options.progress}
    record(root, "phantom", "nencka2023", blocks=BLOCKS, **work)
    prepared = prep(root, **work)
    analyses = glm(root, results / "glm", **work)
    (components,) = ica(root, results / "ica", **work)
    matches = match(results / "phantom", results / "ica", **work)
    networks = {analysis.task: analysis.mask_file for analysis in analyses}
    study = lesion_study(
        results / "lesion",
        masks=[*networks.values()],
        text=_save_texts(results / "texts", networks),
        lines=True,
        controls=CONTROLS,
        dissociation=True,
        **work,
    )
    _save_masks(results / "masks", networks)
    _ask_questions(results / "glm", overwrite=options.overwrite)
    recovery = pd.DataFrame([_recovery(analysis, _planted(results, analysis.task), prepared) for analysis in analyses])
    best = matches.tables["pairs"][["template", "best", "best_iou"]].set_axis(["task", "component", "iou"], axis=1)
    best = best.assign(components=components.n_components)
    changes = _changes(study.scores, networks)
    table = recovery.merge(best).merge(_change_on_topic(changes)).round(_DIGITS)
    page = report(root, **work).page
    return Demo(table, changes, validate(root), page, commands(root, networks))


def _ask_questions(glm_dir: Path, *, overwrite: bool) -> None:
    """Ask every question about the networks that ``glm`` found."""
    for question in (overlap, reliability, profile, connectivity):
        question(glm_dir, overwrite=overwrite)
    identify(glm_dir, thresholds=[THRESHOLD], overwrite=overwrite)


def _planted(results: Path, task: str) -> UnitMask:
    """Load the planted network of a task."""
    return load_mask(next(results.glob(f"phantom/sub-*/func/*_task-{task}_acq-block_*truth_mask.nii.gz")))


def _recovery(result: ContrastResult, planted: UnitMask, prepared: Sequence[PrepResult]) -> dict[str, object]:
    """Compare the planted network of a task with the one that ``glm`` found."""
    network = result.mask
    scans = [run.n_scans for run in prepared if f"_task-{result.task}_" in run.bold.name]
    hits = (planted & network).n_selected
    return {
        "task": result.task,
        "runs": len(scans),
        "scans": sum(scans),
        "units": result.n_tested,
        "planted": planted.n_selected,
        "found": network.n_selected,
        "hits": hits,
        "false": network.n_selected - hits,
        "dice": 2 * hits / (planted.n_selected + network.n_selected),
    }


def _save_texts(folder: Path, networks: Mapping[str, Path]) -> list[Path]:
    """Save prompts of every topic that defined no network, one file per task."""
    defining_texts = frozenset[str]().union(
        *(stimulus_hashes(load_mask(path).provenance) for path in networks.values())
    )
    pool = builtin_prompts()
    paths = []
    for task in networks:
        unseen = [prompt.text for prompt in pool[on_topics()[task]] if text_hash(prompt.text) not in defining_texts]
        paths.append(write_bytes(folder / f"{task}.txt", "\n".join([*unseen[:_TEXTS], ""]).encode()))
    return paths


def _save_masks(folder: Path, networks: Mapping[str, Path]) -> None:
    """Save networks as tensors that load into hooks, and the units that two tasks share."""
    for task, path in networks.items():
        convert_mask(path, folder / mask_name(task), overwrite=True)
    combine_masks("intersection", [networks[task] for task in PAIR], folder / SHARED, overwrite=True, allow_empty=True)


def _changes(scores: Sequence[LesionScore], networks: Mapping[str, Path]) -> pd.DataFrame:
    """Compute what each lesion did to each text, with networks named by task."""
    tasks = {file_name(path): task for task, path in networks.items()}
    table = dissociation(scores)
    return table.assign(network=table.pop("mask").map(tasks)).set_index("network").reset_index()


def _change_on_topic(changes: pd.DataFrame) -> pd.DataFrame:
    """Select what each lesion did to the texts on its own topic."""
    on_topic = changes[changes["network"] == changes["text"]]
    names = {"network": "task", "change": "bits", "control_change": "random_bits", "percentile": "percentile"}
    return on_topic.rename(columns=names)[[*names.values()]]
