"""Model × masks → scores: intact, lesioned, and with random units lesioned instead."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm2bids.bids.history import noted_call
from llm2bids.errors import LesionError
from llm2bids.lesioning.controls import Drawing, draw_controls
from llm2bids.lesioning.exam import Reading
from llm2bids.lesioning.materials import Materials, file_name, known_texts, overlap, read_questions, read_text
from llm2bids.lesioning.output import check_out, write_results
from llm2bids.lesioning.plan import Surgery, plan_lesions
from llm2bids.lesioning.scores import LesionScore, dissociation, tabulate
from llm2bids.lesioning.study import MASK_FILE, Study
from llm2bids.masks import load_mask
from llm2bids.model.lesions import POSITIONS, Method
from llm2bids.model.subject import load

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

    from llm2bids.lesioning.exam import Answers
    from llm2bids.lesioning.materials import Questions, Text
    from llm2bids.model.lesions import Positions
    from llm2bids.model.loading import Subject
    from llm2bids.space import UnitMask

__all__ = ["LesionScore", "Lesions", "dissociation", "draw_controls", "lesion", "tabulate"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Lesions:
    """What was found and written.

    - `scores`: one per lesion, text or task, and score.
    - `table`: the same as a table; see `llm2bids.lesioning.scores.tabulate`.
    - `summary`: one row per state of the model, one column per text or task; see `llm2bids.lesioning.tables.Results`.
    - `files`: what was written, the table of scores first.
    """

    scores: tuple[LesionScore, ...]
    table: pd.DataFrame
    summary: pd.DataFrame
    files: tuple[Path, ...]


def _wrote(found: Lesions, asked: Mapping[str, Any]) -> tuple[Path, Sequence[Path]]:
    """Tables, pictures and sidecar."""
    return Path(asked["out_dir"]), found.files


@noted_call("lesion", _wrote)
def lesion(  # noqa: PLR0913 - the arguments of the command
    out_dir: str | Path,
    *,
    masks: Sequence[str | Path] | Mapping[str, UnitMask],
    model: str | Subject = "phantom",
    text: str | Path | Sequence[str | Path] = (),
    task: str | Path | Sequence[str | Path] = (),
    lines: bool = False,
    method: str = "zero",
    keep: bool = False,
    union: Sequence[int] = (),
    keep_union: Sequence[int] = (),
    positions: Positions = "all",
    controls: int = 100,
    control: str = "matched",
    seed: int = 0,
    reference: str | Path | None = None,
    dissociation: bool = False,
    answers: Answers = "likelihood",
    new_tokens: int = 24,
    generations: int = 2,
    window: int | None = None,
    stride: int | None = None,
    batch_size: int = 8,
    like: str | Path | None = None,
    allow_overlap: bool = False,
    revision: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    device_map: str | None = None,
    trust_remote_code: bool = False,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool | None = None,
) -> Lesions:
    """Run a model intact, lesioned, and with random units lesioned instead, and score it on texts and tasks.

    Parameters
    ----------
    out_dir : path-like
        Folder for tables, pictures and sidecar.
    masks : sequence of path-like, or mapping of UnitMask by name
        The lesions: masks of any format, all of this model.
    model : str or Subject
        ``"phantom"``, a folder made by ``save_pretrained``, a hub id, or a model in memory; it must predict the next
        token.
    text : path-like or sequence of them
        Text files in UTF-8, each one document.
    task : path-like or sequence of them
        Task files: TSV or JSON lines with prompt, answer and, if any, options.
    lines : bool
        Whether every line of a text file is a document of its own.
    method : str
        What is done to units: ``zero``, ``mean``, ``scale:X``, ``add:X`` or ``push:X``.
    keep : bool
        Whether it is done to all units but those of the mask.
    union : sequence of int
        Numbers of masks: the units of the first so many are lesioned together, instead of each mask by itself.
    keep_union : sequence of int
        The same, but it is done to all other units.
    positions : {"all", "prompt", "generated"}
        At which tokens; others than ``all`` for tasks only, whose prompts end somewhere.
    controls : int
        Random masks per lesion.
    control : {"matched", "layer", "uniform"}
        What they share with it: units per hookpoint and bin of mean absolute activation, per hookpoint, or overall.
    seed : int
        Of the draws.
    reference : path-like, optional
        Text over which activations are averaged, for matching and for ``mean`` and ``push``; by default what is scored.
    dissociation : bool
        Whether to lay out every mask against every text, as a table and a picture.
    answers : {"likelihood", "generate"}
        Whether the likeliest option is the answer, or what the model says is searched for one.
    new_tokens : int
        Tokens generated at most.
    generations : int
        Texts of each file that are continued by the intact and the lesioned model, side by side.
    window, stride : int, optional
        Tokens read together (the context, 2048 at most), and from one window to the next (half a window).
    batch_size : int
        Texts in the model at a time.
    like : path-like, optional
        Says which voxel is which unit, for masks of other programs.
    allow_overlap : bool
        Score networks on texts by which they were defined too.
    revision : str, optional
        Branch, tag or commit of the hub.
    device, dtype : str
        ``"auto"`` or a name of torch.
    device_map : str, optional
        ``"auto"`` spreads the model over several GPUs.
    trust_remote_code : bool
        Whether code that comes with the model may run.
    resume : bool
        Go on with what was broken off; what was scored with the same settings is not scored again.
    overwrite : bool
        Replace what is there.
    progress : bool, optional
        Whether to show a progress bar; by default if the terminal can.

    Returns
    -------
    Lesions
        Scores, table and files.

    Raises
    ------
    LLM2BIDSError
        If anything the user can mend is wrong.
    """
    surgery = _surgery(method, positions, keep=keep)
    drawing = Drawing(controls, control, seed)
    reading = Reading(window, stride, answers, new_tokens, generations, batch_size)
    materials = _materials(text, task, reference, surgery, lines=lines)
    check_out(Path(out_dir), resume=resume, overwrite=overwrite)
    loaded = dict(masks) if isinstance(masks, Mapping) else _load_masks(masks, like)
    if dissociation:
        _check_dissociation(loaded, materials.texts, [*union, *keep_union])
    lesions = tuple(plan_lesions(loaded, surgery, union, keep_union))
    leaks = _check_overlap(loaded, materials.files, allow_overlap=allow_overlap)
    study = Study(loaded, surgery, lesions, materials, reading, drawing, leaks, allow_overlap)
    model = load(
        model, revision=revision, device=device, dtype=dtype, device_map=device_map, trust_remote_code=trust_remote_code
    )
    return _scored(study, model, Path(out_dir), dissociating=dissociation, overwrite=overwrite, progress=progress)


def _listed(paths: str | Path | Sequence[str | Path]) -> list[str | Path]:
    """One path or several, as several."""
    return [paths] if isinstance(paths, str | Path) else list(paths)


def _surgery(method: str, positions: Positions, *, keep: bool) -> Surgery:
    """What is to be done, checked."""
    if positions not in POSITIONS:
        raise LesionError(f"positions {positions!r} found; use {', '.join(POSITIONS)}")
    return Surgery(Method.parse(method), keep, positions)


def _materials(
    text: str | Path | Sequence[str | Path],
    task: str | Path | Sequence[str | Path],
    reference: str | Path | None,
    surgery: Surgery,
    *,
    lines: bool,
) -> Materials:
    """What is scored, read; refuses what such a surgery cannot be scored on."""
    texts = tuple(read_text(path, lines=lines) for path in _listed(text))
    questions = tuple(read_questions(path) for path in _listed(task))
    averaged = None if reference is None else read_text(reference, lines=lines)
    materials = Materials(texts, questions, averaged)
    if texts and surgery.positions != "all":
        raise LesionError(
            f"a text is all prompt, so {surgery.positions} tokens cannot be told apart in {texts[0].name}; lesion all "
            "positions, or score a task file"
        )
    return materials


def _scored(
    study: Study, subject: Subject, out_dir: Path, *, dissociating: bool, overwrite: bool, progress: bool | None
) -> Lesions:
    """Carry a study out, and write what came of it."""
    results, told = study.carry_out(subject, out_dir, overwrite=overwrite, progress=progress)
    files = write_results(out_dir, results, told, dissociating=dissociating)
    return Lesions(tuple(results.scores), results.table, results.summary, tuple(files))


def _check_dissociation(masks: Mapping[str, UnitMask], texts: Sequence[Text], unions: Sequence[int]) -> None:
    """Refuse what is no matrix of masks and texts."""
    if unions:
        raise LesionError("a dissociation of unions asked for; it lays out single masks: leave --dissociation out")
    if len(masks) < 2 or len(texts) < 2:  # noqa: PLR2004
        raise LesionError(f"{len(masks)} masks and {len(texts)} texts found; a dissociation needs two or more of both")


def _load_masks(paths: Sequence[str | Path], like: str | Path | None) -> dict[str, UnitMask]:
    """Masks by name of the file."""
    found: dict[str, UnitMask] = {}
    for path in paths:
        name = file_name(Path(path))
        if name in found:
            raise LesionError(f"two masks named {name!r} found; rename one file")
        mask = load_mask(path, like)
        found[name] = replace(mask, provenance={**mask.provenance, MASK_FILE: Path(path).name})
    return found


def _check_overlap(
    masks: Mapping[str, UnitMask], materials: Sequence[Text | Questions], *, allow_overlap: bool
) -> dict[str, int]:
    """Refuse to score networks on the texts that defined them; count those allowed."""
    found = {}
    for name, mask in masks.items():
        leaks = [(one.name, leak) for one in materials for leak in overlap(mask.provenance, one)]
        if leaks and not allow_overlap:
            raise LesionError(
                f"{leaks[0][0]} holds {len(leaks)} texts by which {name} was defined, e.g. {leaks[0][1][:40]!r}; score "
                "it on others, or allow it with --allow-overlap"
            )
        if not known_texts(mask.provenance):
            logger.warning(
                "%s does not say by which texts it was defined; make sure that it is not scored on the same", name
            )
        found[name] = len(leaks)
    return found
