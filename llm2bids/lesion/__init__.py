"""Model × masks → scores: intact, lesioned, and with random units lesioned instead."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from llm2bids.bids.history import noted
from llm2bids.errors import LesionError
from llm2bids.lesion.controls import Controls, check_request, draw_controls
from llm2bids.lesion.exam import Exam, Reading
from llm2bids.lesion.ledger import Ledger
from llm2bids.lesion.materials import (
    Questions,
    Text,
    check_names,
    file_name,
    known_texts,
    overlap,
    read_questions,
    read_text,
)
from llm2bids.lesion.output import RUNS, check_out, forget, write_results
from llm2bids.lesion.plan import Condition, Lesion, Surgery, plan_lesions
from llm2bids.lesion.scores import LesionScore, dissociation, tabulate
from llm2bids.lesion.tables import Results
from llm2bids.mask import check_same_model, load_mask
from llm2bids.model.lesions import POSITIONS, Method, mean_activations
from llm2bids.model.lesions import lesion as lesioned
from llm2bids.subject import subject_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import pandas as pd
    from numpy.typing import NDArray

    from llm2bids.lesion.exam import Answers
    from llm2bids.model.lesions import Positions
    from llm2bids.model.loading import Subject
    from llm2bids.space import UnitMask, UnitSpace

__all__ = ["LesionScore", "Lesions", "dissociation", "draw_controls", "lesion", "tabulate"]

logger = logging.getLogger(__name__)

_FAR = 0.25
"""Part by which activation of a lesion and its controls may differ unmentioned."""
_FILE = "LesionMaskFile"
"""Key under which the name of a mask's file goes along with it."""


@dataclass(frozen=True, slots=True, eq=False)
class Lesions:
    """What was found and written.

    Parameters
    ----------
    scores : tuple of LesionScore
        One per lesion, text or task, and score.
    table : DataFrame
        The same as a table; see `llm2bids.lesion.scores.tabulate`.
    summary : DataFrame
        One row per state of the model, one column per text or task; see `llm2bids.lesion.tables.Results`.
    files : tuple of Path
        What was written, the table of scores first.
    """

    scores: tuple[LesionScore, ...]
    table: pd.DataFrame
    summary: pd.DataFrame
    files: tuple[Path, ...]


def _wrote(found: Lesions, asked: Mapping[str, Any]) -> tuple[Path, Sequence[Path]]:
    """Tables, pictures and sidecar."""
    return Path(asked["out_dir"]), found.files


@noted("lesion", _wrote)
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
    out_dir, surgery = Path(out_dir), _surgery(method, positions, keep=keep)
    check_request(controls, control)
    reading = Reading(window, stride, answers, new_tokens, generations, batch_size)
    texts = [read_text(path, lines=lines) for path in _listed(text)]
    questions = [read_questions(path) for path in _listed(task)]
    _check_materials(texts, questions, surgery)
    check_out(out_dir, resume=resume, overwrite=overwrite)
    loaded = dict(masks) if isinstance(masks, Mapping) else _load_masks(masks, like)
    if dissociation:
        _check_dissociation(loaded, texts, [*union, *keep_union])
    if not loaded:
        raise LesionError("no mask found; give one or more with --mask")
    lesions = plan_lesions(loaded, surgery, union, keep_union)
    leaks = _check_overlap(loaded, [*texts, *questions], allow_overlap=allow_overlap)
    averaged = read_text(reference, lines=lines) if reference is not None else None
    options: dict[str, Any] = {"revision": revision, "device": device, "dtype": dtype, "device_map": device_map}
    model = subject_of(model, trust_remote_code=trust_remote_code, **options)
    _check_model(model, loaded)
    exam = Exam.prepare(model, texts, questions, reading)
    shown = averaged.documents if averaged else [*_documents(texts, questions)]
    drawn, means = _prepare(model, lesions, shown, (controls, control, seed), batch_size)
    conditions = [Condition(), *_conditions(drawn, lesions, means)]
    common = _common(model, texts, questions, reading)
    keys = {condition.key(common): condition for condition in reversed(conditions)}
    if overwrite:
        forget(out_dir)
    ledger = Ledger.open(out_dir / RUNS)
    _run_all(exam, ledger, dict(reversed(keys.items())), progress=progress)
    rows = [(condition, ledger.rows[condition.key(common)]) for condition in conditions]
    results = Results(tuple(lesions), tuple(rows), control, drawn)
    told = {
        **model.describe(),
        "Masks": [_about_mask(name, mask, leaks[name]) for name, mask in loaded.items()],
        "Lesions": [_about_lesion(one, drawn[one.name]) for one in lesions],
        "Texts": [_about_material(one, exam) for one in texts],
        "Tasks": [_about_material(one, exam) for one in questions],
        "Method": str(surgery),
        "Keep": keep,
        "Positions": positions,
        "Controls": {"Kind": control, "Number": controls, "Seed": seed},
        "ActivationOver": averaged.name if averaged else "what is scored",
        "AllowOverlap": allow_overlap,
        "Settings": asdict(reading),
    }
    files = write_results(out_dir, results, told, dissociating=dissociation)
    return Lesions(tuple(results.scores), results.table, results.summary, tuple(files))


def _listed(paths: str | Path | Sequence[str | Path]) -> list[str | Path]:
    """One path or several, as several."""
    return [paths] if isinstance(paths, str | Path) else list(paths)


def _surgery(method: str, positions: Positions, *, keep: bool) -> Surgery:
    """What is to be done, checked."""
    if positions not in POSITIONS:
        raise LesionError(f"positions {positions!r} found; use {', '.join(POSITIONS)}")
    return Surgery(Method.parse(method), keep, positions)


def _check_materials(texts: Sequence[Text], questions: Sequence[Questions], surgery: Surgery) -> None:
    """Refuse what cannot be scored."""
    if not texts and not questions:
        raise LesionError("nothing to score found; give --text or --task-file")
    check_names([*texts, *questions])
    if texts and surgery.positions != "all":
        raise LesionError(
            f"a text is all prompt, so {surgery.positions} tokens cannot be told apart in {texts[0].name}; lesion all "
            "positions, or score a task file"
        )


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
        found[name] = replace(mask, provenance={**mask.provenance, _FILE: Path(path).name})
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


def _check_model(subject: Subject, masks: Mapping[str, UnitMask]) -> None:
    """Refuse a model that predicts nothing, and masks of other models."""
    if not subject.causal:
        raise LesionError(
            f"{subject.identity.name} does not predict the next token, so it has no perplexity; use a causal model"
        )
    own = subject.describe()
    for name, mask in masks.items():
        check_same_model(mask.provenance, own | {"Site": mask.space.site}, (name, "the model"))
        with lesioned(subject.model, mask):  # refuses places that the model does not have
            pass


def _documents(texts: Sequence[Text], questions: Sequence[Questions]) -> Iterator[str]:
    """All that is read."""
    yield from (document for text in texts for document in text.documents)
    yield from (item.prompt for one in questions for item in one.items)


def _prepare(
    subject: Subject, lesions: Sequence[Lesion], shown: Sequence[str], asked: tuple[int, str, int], batch_size: int
) -> tuple[dict[str, Controls], dict[UnitSpace, NDArray[np.float64]]]:
    """Random masks of every lesion, and mean activations where they are needed."""
    n_controls, kind, seed = asked
    strength: dict[UnitSpace, NDArray[np.float64]] = {}
    means: dict[UnitSpace, NDArray[np.float64]] = {}
    for space in dict.fromkeys(one.mask.space for one in lesions):
        if kind == "matched" and n_controls:
            strength[space] = mean_activations(subject, shown, space, absolute=True, batch_size=batch_size)
        if lesions[0].surgery.method.needs_means:
            means[space] = mean_activations(subject, shown, space, batch_size=batch_size)
    drawn = {
        one.name: draw_controls(
            one.mask, n_controls, kind=kind if n_controls else "layer", strength=strength.get(one.mask.space), seed=seed
        )
        for one in lesions
    }
    return {one.name: _worth_it(one, drawn[one.name]) for one in lesions}, means


def _worth_it(lesion: Lesion, drawn: Controls) -> Controls:
    """Controls that can say something; what they cannot match is warned about."""
    if drawn.masks and all((one.selected == lesion.mask.selected).all() for one in drawn.masks):
        logger.warning("%s takes so many units that no others are left: it has no random masks", lesion.name)
        return replace(drawn, masks=())
    if drawn.masks and drawn.own:
        logger.warning(
            "%s takes more than half of %s: there, its random masks hold units of its own, which makes them alike",
            lesion.name,
            ", ".join(drawn.own),
        )
    strength, others = drawn.activation, drawn.control_activation
    if strength is not None and others is not None and drawn.masks and abs(strength - others) > _FAR * others:
        logger.warning(
            "%s is not matched in activation: mean absolute activation %.3g, of its random masks %.3g",
            lesion.name,
            strength,
            others,
        )
    return drawn


def _conditions(
    drawn: Mapping[str, Controls], lesions: Sequence[Lesion], means: Mapping[UnitSpace, NDArray[np.float64]]
) -> Iterator[Condition]:
    """Every lesion and its controls."""
    for one in lesions:
        level = means.get(one.mask.space)
        for number, mask in [(None, one.mask), *enumerate(drawn[one.name].masks)]:
            yield Condition(one.name, number, mask, one.surgery, level)


def _common(subject: Subject, texts: Sequence[Text], questions: Sequence[Questions], reading: Reading) -> str:
    """Hash of what the scores of all states depend on."""
    model = subject.describe()
    materials: list[Text | Questions] = [*texts, *questions]
    shown = [[one.name, one.sha256] for one in materials]
    documents = [hashlib.sha256("\0".join(text.documents).encode()).hexdigest() for text in texts]
    settings = [reading.window, reading.stride, reading.answers, reading.new_tokens, reading.generations]
    parts = [model["WeightsSHA256"], model["Dtype"], shown, documents, settings, reading.batch_size]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _run_all(exam: Exam, ledger: Ledger, keys: Mapping[str, Condition], *, progress: bool | None) -> None:
    """Score what is not scored yet, one state after the other."""
    hide = None if progress is None else not progress
    missing = dict(ledger.missing(keys))
    with tqdm(total=len(keys), initial=len(keys) - len(missing), unit=" runs", disable=hide, dynamic_ncols=True) as bar:
        for key, condition in missing.items():
            bar.set_description(condition.name or "intact")
            changed = condition.changed(exam.subject.model)
            row: dict[str, Any] = {
                "key": key,
                "mask": condition.name,
                "control": condition.control,
                "values": exam.take(changed),
            }
            if condition.control is None:
                row["continued"] = exam.continued(changed)
            ledger.add(row)
            bar.update()


def _about_mask(name: str, mask: UnitMask, n_leaks: int) -> dict[str, Any]:
    """What the sidecar says of a mask."""
    return {
        "Name": name,
        "File": mask.provenance.get(_FILE, name),
        "Units": mask.n_selected,
        "UnitSpace": mask.space.to_json(),
        "SelectedSHA256": _sha256(mask),
        "Provenance": {key: value for key, value in mask.provenance.items() if key != _FILE},
        "StimuliKnown": bool(known_texts(mask.provenance)),
        "StimuliInScoredTexts": n_leaks,
    }


def _about_lesion(lesion: Lesion, drawn: Controls) -> dict[str, Any]:
    """What the sidecar says of a lesion and its controls."""
    return {
        "Name": lesion.name,
        "Masks": list(lesion.of),
        "Method": str(lesion.surgery),
        "Units": lesion.mask.n_selected,
        "ShareOfUnits": lesion.share,
        "SelectedSHA256": _sha256(lesion.mask),
        "MeanActivation": drawn.activation,
        "MeanActivationOfControls": drawn.control_activation,
        "ControlsMayHoldOwnUnitsAt": list(drawn.own),
        "DistinctControls": len({one.selected.tobytes() for one in drawn.masks}),
    }


def _sha256(mask: UnitMask) -> str:
    """Hash of which units are chosen."""
    return hashlib.sha256(np.packbits(mask.selected).tobytes()).hexdigest()


def _about_material(material: Text | Questions, exam: Exam) -> dict[str, Any]:
    """What the sidecar says of a file that was scored."""
    return {
        "Name": material.name,
        "File": material.file or material.name,
        "SHA256": material.sha256,
        **exam.sizes()[material.name],
    }
