"""The errors a user can cause and mend, as one tree.

Every message says what was found, what was needed and what to do. The command line prints it on one line and exits with
2; any other exception is a bug and keeps its traceback. Where a name is not known, `did_you_mean` suggests the most
similar one.
"""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


def did_you_mean(name: str, choices: Iterable[object]) -> str:
    """Suggest the choice that was probably meant, as a question and a space; empty where none is similar.

    >>> did_you_mean("patholgy", ["archeology", "pathology"])
    'did you mean pathology? '
    >>> did_you_mean("rest", ["archeology", "pathology"])
    ''
    """
    folded = {_folded(str(choice)): str(choice) for choice in choices}
    near = get_close_matches(_folded(name), folded, n=1)
    return f"did you mean {folded[near[0]]}? " if near else ""


def _folded(name: str) -> str:
    """A name without case and leading hyphens, which all options share."""
    return name.casefold().lstrip("-")


class LLM2BIDSError(Exception):
    """Anything a user can mend; catch this one to catch them all."""


class OptionError(LLM2BIDSError, ValueError):
    """An option of a verb has a value that it cannot take."""


class SpaceError(LLM2BIDSError, ValueError):
    """An image, mask or table does not fit the unit space it was paired with."""


class LabelError(LLM2BIDSError, ValueError):
    """A BIDS label holds something other than letters and digits."""


class TaskError(LLM2BIDSError, ValueError):
    """A task is unknown, its file is malformed, or it cannot be laid out as asked."""


class ModelError(LLM2BIDSError, LookupError):
    """A model or its tokenizer cannot be loaded, or cannot be used in the mode asked for."""


class SiteError(LLM2BIDSError, LookupError):
    """A recording site or hookpoint does not exist in this architecture."""


class PromptError(LLM2BIDSError, ValueError):
    """A prompt is empty for this tokenizer or longer than the model's context."""


class NonFiniteError(LLM2BIDSError, ValueError):
    """A model produced NaN or infinity where a number was to be recorded."""


class DatasetError(LLM2BIDSError, ValueError):
    """A folder is no BIDS dataset, already holds the output, or cannot be written."""


class RecordError(LLM2BIDSError, ValueError):
    """The settings of a recording contradict each other or an earlier recording."""


class StatsModelError(LLM2BIDSError, ValueError):
    """A BIDS Stats Model is malformed, or asks for what is not supported."""


class DesignError(LLM2BIDSError, ValueError):
    """A design cannot answer the question: a condition or confound is missing, or columns are collinear."""


class MaskError(LLM2BIDSError, ValueError):
    """A map or mask cannot be read, chooses no unit, belongs to another model, or its file cannot be written."""


class InferenceError(LLM2BIDSError, ValueError):
    """A statistic is asked for that means nothing for units of a model, or that the samples do not allow."""


class SelectionError(MaskError, InferenceError):
    """A rule that chooses units of a map contradicts itself, or would choose none or others than meant."""


class LesionError(LLM2BIDSError, ValueError):
    """A lesion cannot be made as asked, or what it is to be scored on is unsuitable."""


class PruneError(LLM2BIDSError, ValueError):
    """Units cannot be taken out of a model: of another site, or the architecture or the output folder forbids it."""
