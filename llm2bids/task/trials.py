"""Trials, the runs they make, and the table of events."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Literal

from llm2bids.errors import TaskError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd


def text_hash(text: str) -> str:
    """Name a text by what it says, so that it is known again in any file.

    >>> text_hash("a b")
    'c8687a08aa5d'
    """
    return hashlib.sha256(text.encode()).hexdigest()[:12]


@dataclass(frozen=True, slots=True)
class Trial:
    """One prompt.

    Parameters
    ----------
    text : str
        What the model is shown.
    trial_type : str or None
        Its condition; None where the task has none.
    block : int
        Number of the block it belongs to, from 1.
    """

    text: str
    trial_type: str | None
    block: int


@dataclass(frozen=True, slots=True)
class Task:
    """The trials of one run, in the order in which they are shown.

    Parameters
    ----------
    name : str
        Label of the BIDS entity ``task``.
    trials : tuple of Trial
        What is shown.
    session, run : int
        Which session and run this is, from 1.
    description, instructions : str
        What the task is about, and what the model is asked to do.
    trial_types : mapping
        What each condition means, by name; empty where the task has none.
    mode : {"generate", "read"}
        Whether its scans are the tokens the model generates after each prompt, or the tokens of the prompt, unless told
        otherwise.
    """

    name: str
    trials: tuple[Trial, ...]
    session: int = 1
    run: int = 1
    description: str = ""
    instructions: str = ""
    trial_types: Mapping[str, str] = field(default_factory=dict, hash=False)
    mode: Literal["generate", "read"] = "generate"

    def events(self, n_scans: Sequence[int], t_r: float = 1.0, *, responses: bool = False) -> pd.DataFrame:
        """Say what was shown when.

        Parameters
        ----------
        n_scans : sequence of int
            Scans of each trial, in order; at least 1 each.
        t_r : float
            Repetition time in seconds.
        responses : bool
            Whether the scans are tokens that the model generated; adds the column ``response_tokens``.

        Returns
        -------
        DataFrame
            Columns ``onset`` and ``duration`` in seconds, ``trial_type`` (``n/a`` where there is none), ``block`` and
            ``prompt``, both from 1; one row per trial. No text: a bare quotation mark breaks many readers.
        """
        import pandas as pd  # noqa: PLC0415 - listing tasks needs no table

        scans = pd.Series(n_scans, dtype="int64")
        table = pd.DataFrame(
            {
                "onset": (scans.cumsum() - scans) * t_r,
                "duration": scans * t_r,
                "trial_type": [trial.trial_type or "n/a" for trial in self.trials],
                "block": [trial.block for trial in self.trials],
                "prompt": range(1, len(self.trials) + 1),
            }
        )
        return table.assign(response_tokens=scans) if responses else table


@dataclass(frozen=True, slots=True)
class Design:
    """How many prompts are shown in which order.

    Parameters
    ----------
    n_runs : int or None
        Runs per session; None for 4, or as many as the user's file holds.
    n_sessions : int
        Sessions. Within one no prompt is shown twice; each draws and orders its prompts anew.
    n_blocks : int
        Blocks of the first condition ("on") per run; one block of the other comes before each and one after the last.
    prompts_per_block : int
        Prompts per block.
    seed : int
        Which prompts are drawn in which order.
    reuse : bool
        Whether prompts may be shown again where there are too few.

    Raises
    ------
    TaskError
        If a count is below 1.
    """

    n_runs: int | None = None
    n_sessions: int = 1
    n_blocks: int = 5
    prompts_per_block: int = 3
    seed: int = 0
    reuse: bool = False

    def __post_init__(self) -> None:
        """Refuse designs of nothing."""
        counts = {
            "runs": self.n_runs,
            "sessions": self.n_sessions,
            "blocks": self.n_blocks,
            "prompts per block": self.prompts_per_block,
        }
        for what, count in counts.items():
            if count is not None and count < 1:
                raise TaskError(f"{count} {what} asked for; 1 or more needed")

    def rng(self, *parts: object) -> Random:
        """Make random numbers that are the same on every machine.

        Parameters
        ----------
        *parts : object
            What they are for.

        Returns
        -------
        Random
            It depends on `seed` and `parts` alone.
        """
        return Random("/".join(map(str, (self.seed, *parts))))  # noqa: S311 - order of prompts, no secret
