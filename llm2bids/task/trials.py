"""Trials, the runs they make, and the table of events."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import TYPE_CHECKING, Final, Literal

from llm2bids.errors import TaskError
from llm2bids.options import option, options

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import pandas as pd


LABELS: Final = ("cluster", "item")
"""Fields of a trial that say which prompts belong together; optional columns of task files and events."""


def text_hash(text: str) -> str:
    """Return the start of a text's SHA-256, by which the same text is recognized in any file.

    >>> text_hash("a b")
    'c8687a08aa5d'
    """
    return hashlib.sha256(text.encode()).hexdigest()[:12]


@dataclass(frozen=True, slots=True)
class Trial:
    """One prompt of a run.

    Parameters
    ----------
    text : str
        The text that the model is shown.
    trial_type : str or None
        Its condition; None where the task has none.
    block : int
        Number of the block it belongs to, from 1.
    cluster : str or None
        What it shares with other prompts, e.g. a topic, template or author; those of one cluster are not independent
        samples. None where each prompt is a sample of its own.
    item : str or None
        What stands in several conditions, e.g. a sentence and its scrambled version; None where nothing is matched.
    """

    text: str
    trial_type: str | None
    block: int
    cluster: str | None = None
    item: str | None = None

    @property
    def sample(self) -> str:
        """What is held out as a whole: the cluster, without one the item, without either the prompt itself."""
        return self.cluster or self.item or self.text


@dataclass(frozen=True, slots=True)
class Task:
    """The trials of one run, in the order in which they are shown.

    Parameters
    ----------
    name : str
        Label of the BIDS entity ``task``.
    trials : tuple of Trial
        The prompts of the run.
    session, run : int
        Numbers of the session and run, from 1.
    description, instructions : str
        What the task is about, and what the model is asked to do.
    trial_types : mapping
        Description of each condition, by name; empty where the task has none.
    mode : {"generate", "read"}
        Whether scans are the tokens that the model generates after each prompt, or the tokens of the prompt, unless a
        recording chooses the other.
    held_out : mapping
        Clusters that no run shows, by topic or conditions; empty where all are shown.
    """

    name: str
    trials: tuple[Trial, ...]
    session: int = 1
    run: int = 1
    description: str = ""
    instructions: str = ""
    trial_types: Mapping[str, str] = field(default_factory=dict, hash=False)
    mode: Literal["generate", "read"] = "generate"
    held_out: Mapping[str, tuple[str, ...]] = field(default_factory=dict, hash=False)

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the events that only some tasks have: those of ``cluster`` and ``item`` that a prompt fills."""
        return tuple(name for name in LABELS if any(getattr(trial, name) for trial in self.trials))

    def events(self, n_scans: Sequence[int], t_r: float = 1.0, *, responses: bool = False) -> pd.DataFrame:
        """Make the table of events: one row per trial.

        Parameters
        ----------
        n_scans : sequence of int
            Number of scans of each trial, in order; at least 1 each.
        t_r : float
            Repetition time in seconds.
        responses : bool
            Whether the scans are tokens that the model generated; adds the column ``response_tokens``.

        Returns
        -------
        DataFrame
            Columns ``onset`` and ``duration`` in seconds, ``trial_type`` (``n/a`` where there is none), ``block`` and
            ``prompt``, both from 1; ``cluster`` and ``item`` where the task has them. The texts are not in it: a bare
            quotation mark breaks many readers.
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
        for name in self.columns:
            table[name] = [getattr(trial, name) or "n/a" for trial in self.trials]
        return table.assign(response_tokens=scans) if responses else table


_design = partial(option, group="design")


@options
class Design:
    """How many prompts are shown in which order."""

    runs: int | None = _design("runs per session (4, or what the task file holds)", default=None, metavar="N")
    sessions: int | None = _design("sessions; each draws and orders its prompts anew (none)", default=None, metavar="N")
    blocks: int = _design(
        'blocks of "on", the first condition, per run; a block of the other comes before each, and one after the last',
        default=5,
        metavar="N",
    )
    prompts_per_block: int = _design("prompts per block", default=3, metavar="N")
    reuse_prompts: bool = _design("show prompts again where there are too few", default=False)
    seed: int = _design("seed of the order of prompts and of the draw of tokens", default=0, metavar="N")
    hold_out: int = _design(
        "clusters of each topic that are not shown, so that networks can be tested on them; the seed says which",
        default=0,
        metavar="N",
    )

    def check(self) -> None:
        """Raise if a count is below 1, or that of the clusters that are held out below 0."""
        counts = {
            "runs": self.runs,
            "sessions": self.sessions,
            "blocks": self.blocks,
            "prompts per block": self.prompts_per_block,
        }
        for name, count in counts.items():
            if count is not None and count < 1:
                raise TaskError(f"{count} {name} asked for; 1 or more needed")
        if self.hold_out < 0:
            raise TaskError(f"hold_out={self.hold_out} found; 0 (all are shown) or more needed")

    @property
    def session_numbers(self) -> range:
        """Numbers of the sessions, from 1; one where there are none."""
        return range(1, (self.sessions or 1) + 1)

    def draw_held_out(self, name: str, clusters: Iterable[str]) -> tuple[str, ...]:
        """Draw the clusters of a topic that are not shown; raise if none would be left.

        The names of the clusters and the seed alone decide, so that all tasks and sessions leave out the same. Those
        of a smaller `hold_out` are among those of a larger one.
        """
        names = sorted(set(clusters))
        if self.hold_out >= len(names):
            raise TaskError(
                f"{len(names)} clusters of {name} found, hold_out={self.hold_out} leaves none; hold out fewer"
            )
        return tuple(sorted(self.rng("hold out", *names).sample(names, len(names))[: self.hold_out]))

    def rng(self, *parts: object) -> Random:
        """Make a generator that depends on the seed and on `parts` alone, and is the same on every machine."""
        return Random("/".join(map(str, (self.seed, *parts))))  # noqa: S311 - order of prompts, no secret
