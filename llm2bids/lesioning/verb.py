"""``llm2bids lesion``, in Python `lesion_study`: reads masks and materials, runs the study and writes its results."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from llm2bids.bids.history import noted
from llm2bids.errors import LesionError
from llm2bids.lesioning.evaluation import Materials, file_name, overlap, read_task_file, read_text, stimulus_hashes
from llm2bids.lesioning.output import check_out_dir, write_results
from llm2bids.lesioning.plan import Surgery, plan_lesions
from llm2bids.lesioning.scores import LesionScore, dissociation, tabulate
from llm2bids.lesioning.settings import LesionOptions
from llm2bids.lesioning.study import MASK_FILE, LesionStudy
from llm2bids.masks import load_mask
from llm2bids.model.lesions import Method
from llm2bids.model.subject import load
from llm2bids.options import takes

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

    from llm2bids.lesioning.evaluation import TaskFile, Text
    from llm2bids.space import UnitMask

__all__ = ["LesionResults", "LesionScore", "dissociation", "lesion_study", "tabulate"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class LesionResults:
    """Scores of a lesion study, and the files that hold them.

    Parameters
    ----------
    scores : tuple of LesionScore
        One per lesion, text or task, and score.
    table : DataFrame
        The same as a table; see `llm2bids.lesioning.scores.tabulate`.
    summary : DataFrame
        One row per state of the model, one column per text or task; see
        `llm2bids.lesioning.scores.StudyResults.summary`.
    files : tuple of Path
        All files, the table of scores first.
    """

    scores: tuple[LesionScore, ...]
    table: pd.DataFrame
    summary: pd.DataFrame
    files: tuple[Path, ...]

    def __repr__(self) -> str:
        """One line: how many lesions were scored, and where the results are."""
        n_lesions = len({score.mask for score in self.scores})
        return f"<LesionResults of {n_lesions} lesions: {len(self.scores)} scores in {self.files[0].parent}>"

    def _repr_html_(self) -> str:
        """The summary as a table, for notebooks."""
        return str(self.summary.to_html(index=False, na_rep="n/a"))


@noted("lesion")
@takes(LesionOptions)
def lesion_study(options: LesionOptions) -> LesionResults:
    """Run a model intact, lesioned, and with random units lesioned instead, and score it on texts and tasks.

    This is ``llm2bids lesion``. `llm2bids.model.lesions.lesion` is the context manager in which a model is lesioned.

    Returns
    -------
    LesionResults
        Scores, tables and files.

    Raises
    ------
    LLM2BIDSError
        If anything the user can mend is wrong.
    """
    method = Method.parse(options.method)
    if method.needs_samples or method.name == "steer":
        raise LesionError(f"method {method} found; a study of masks takes zero, mean, scale:X, add:X or push:X")
    surgery = Surgery(str(method), options.keep, options.positions)
    materials = _read_materials(options)
    check_out_dir(options.home, resume=options.resume, overwrite=options.overwrite)
    masks = dict(options.masks) if isinstance(options.masks, Mapping) else _load_masks(options.masks, options.like)
    if options.dissociation:
        _check_dissociation(masks, materials.texts, [*options.union, *options.keep_union])
    lesions = tuple(plan_lesions(masks, surgery, options.union, options.keep_union))
    leaks = _count_leaks(masks, materials.files, allow_overlap=options.allow_overlap)
    study = LesionStudy(masks, surgery, lesions, materials, leaks, options)
    subject = load(options.model, **options.loading)
    results, metadata = study.run(subject)
    files = write_results(options.home, results, metadata, with_dissociation=options.dissociation)
    return LesionResults(tuple(results.scores), results.table, results.summary, tuple(files))


def _read_materials(options: LesionOptions) -> Materials:
    """Read texts and tasks; raises if the surgery cannot be scored on them."""
    texts = tuple(read_text(path, lines=options.lines) for path in options.text)
    tasks = tuple(read_task_file(path) for path in options.task)
    reference = None if options.reference is None else read_text(options.reference, lines=options.lines)
    materials = Materials(texts, tasks, reference)
    if texts and options.positions != "all":
        raise LesionError(
            f"a text is all prompt, so {options.positions} tokens cannot be told apart in {texts[0].name}; lesion all "
            "positions, or score a task file"
        )
    return materials


def _check_dissociation(masks: Mapping[str, UnitMask], texts: Sequence[Text], unions: Sequence[int]) -> None:
    """Raise if masks and texts make no matrix."""
    if unions:
        raise LesionError("a dissociation of unions found; it lays out single masks: leave `dissociation` out")
    if len(masks) < 2 or len(texts) < 2:  # noqa: PLR2004
        raise LesionError(f"{len(masks)} masks and {len(texts)} texts found; a dissociation needs two or more of both")


def _load_masks(paths: Sequence[str | Path], like: str | Path | None) -> dict[str, UnitMask]:
    """Load masks, by name of their file."""
    masks: dict[str, UnitMask] = {}
    for path in paths:
        name = file_name(Path(path))
        if name in masks:
            raise LesionError(f"two masks named {name!r} found; rename one file")
        mask = load_mask(path, like)
        masks[name] = replace(mask, provenance={**mask.provenance, MASK_FILE: Path(path).name})
    return masks


def _count_leaks(
    masks: Mapping[str, UnitMask], materials: Sequence[Text | TaskFile], *, allow_overlap: bool
) -> dict[str, int]:
    """Count the scored texts that defined each network; raises if there are any that are not allowed."""
    counts = {}
    for name, mask in masks.items():
        leaks = [(file.name, passage) for file in materials for passage in overlap(mask.provenance, file)]
        if leaks and not allow_overlap:
            raise LesionError(
                f"{leaks[0][0]} holds {len(leaks)} texts by which {name} was defined, e.g. {leaks[0][1][:40]!r}; score "
                "it on others, or allow it with allow_overlap=True"
            )
        if not stimulus_hashes(mask.provenance):
            logger.warning(
                "%s does not say by which texts it was defined; make sure that it is not scored on the same", name
            )
        counts[name] = len(leaks)
    return counts
