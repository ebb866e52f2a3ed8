"""Tasks: which texts a model is shown, in which order, and the table of events."""

from __future__ import annotations

from pathlib import Path

from llm2bids.errors import TaskError, did_you_mean
from llm2bids.task.builtin import (
    Prompt,
    builtin_prompts,
    builtin_tasks,
    expand_tasks,
    held_out_prompts,
    lay_out_builtin,
    on_topics,
)
from llm2bids.task.file import lay_out_file
from llm2bids.task.localizers import lay_out_localizer, localizer_texts, localizers
from llm2bids.task.trials import LABELS, Design, Task, Trial, text_hash

__all__ = [
    "LABELS",
    "Design",
    "Prompt",
    "Task",
    "Trial",
    "builtin_prompts",
    "builtin_tasks",
    "expand_tasks",
    "held_out_prompts",
    "lay_out",
    "localizer_texts",
    "localizers",
    "on_topics",
    "text_hash",
]


def lay_out(name: str, design: Design | None = None) -> tuple[Task, ...]:
    """Make the trials of every run of a task.

    Parameters
    ----------
    name : str
        A built-in task (see `builtin_tasks`), or a YAML or TSV file.
    design : Design, optional
        How many prompts are shown in which order.

    Returns
    -------
    tuple of Task
        One per session and run.

    Raises
    ------
    TaskError
        If the task is unknown, has too few prompts, or its file is malformed; the message names line and column.
    """
    design = design or Design()
    if Path(name).suffix.lower() in {".tsv", ".yaml", ".yml"}:
        return lay_out_file(Path(name), design)
    if name not in builtin_tasks() or expand_tasks([name]) != (name,):
        near, names = did_you_mean(name, builtin_tasks()), ", ".join(builtin_tasks())
        raise TaskError(f"task {name!r} not found; {near}there are {names}, or give a .yaml or .tsv file")
    return tuple((lay_out_localizer if name in localizers() else lay_out_builtin)(name, design))
