"""What the model is shown and when: trials, their order, and the table of events."""

from __future__ import annotations

import csv
import re
from collections import defaultdict
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.resources import files
from itertools import groupby
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, Final

import yaml

from llm2bids.errors import TaskError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    import pandas as pd

COLUMNS: Final = ("text", "trial_type", "block", "run")
"""Columns a user's task file may have; the first two are needed."""
FIELDS: Final = ("name", "description", "instructions", "trial_types", "trials")
"""Keys of a YAML task file; only ``trials`` is needed."""
RUNS: Final = 4
"""Runs of a built-in task unless told otherwise."""


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
    """

    name: str
    trials: tuple[Trial, ...]
    session: int = 1
    run: int = 1
    description: str = ""
    instructions: str = ""
    trial_types: Mapping[str, str] = field(default_factory=dict, hash=False)

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
        Blocks of the "on" condition per run; one block of "off" comes before each and one after the last.
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
        """Random numbers that depend on the seed and what they are for, the same on every machine."""
        return Random("/".join(map(str, (self.seed, *parts))))  # noqa: S311 - order of prompts, no secret


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt of the built-in pool.

    Parameters
    ----------
    topic : str
        What it is about, e.g. ``"medical imaging"``.
    frame : int
        Its syntactic frame, 1 to 10; each topic has as many of each.
    text : str
        The opening of a sentence, 12 words.
    """

    topic: str
    frame: int
    text: str


@cache
def builtin_prompts() -> dict[str, tuple[Prompt, ...]]:
    """Read the built-in prompts.

    Returns
    -------
    dict
        Prompts by topic.
    """
    text = files("llm2bids").joinpath("stimuli", "prompts.tsv").read_text(encoding="utf-8")
    rows = csv.DictReader(text.splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE)
    pool: dict[str, list[Prompt]] = defaultdict(list)
    for row in rows:
        pool[row["topic"]].append(Prompt(row["topic"], int(row["frame"]), row["text"]))
    return {topic: tuple(prompts) for topic, prompts in pool.items()}


def on_topics() -> dict[str, str]:
    """Name the topics that are networks to be found.

    Returns
    -------
    dict
        Topic by task, e.g. ``{"medicalimaging": "medical imaging", ...}``.
    """
    return {name: fields["topic"] for name, fields in _catalogue()["tasks"].items() if "topic" in fields}


def builtin_tasks() -> dict[str, str]:
    """List the built-in tasks.

    Returns
    -------
    dict
        Description by name; families of tasks first.
    """
    catalogue = _catalogue()
    families = {name: fields["description"] for name, fields in catalogue["families"].items()}
    return families | {name: _describe(name) for name in catalogue["tasks"]}


def expand_tasks(names: Iterable[str]) -> tuple[str, ...]:
    """Replace families of tasks by their members.

    Parameters
    ----------
    names : iterable of str
        Task names, family names or files.

    Returns
    -------
    tuple of str
        Task names and files, each once, in order.

    Examples
    --------
    >>> expand_tasks(["rest", "nencka2023"])[:3]
    ('rest', 'politicalscience', 'medicalimaging')
    """
    families = _catalogue()["families"]
    members = (families[name]["tasks"] if name in families else [name] for name in names)
    return tuple(dict.fromkeys(member for group in members for member in group))


def lay_out(name: str, design: Design | None = None) -> tuple[Task, ...]:
    """Lay out every run of a task.

    Parameters
    ----------
    name : str
        A built-in task (see `builtin_tasks`), or a YAML or TSV file.
    design : Design, optional
        How many prompts in which order.

    Returns
    -------
    tuple of Task
        One per session and run.

    Raises
    ------
    TaskError
        If the task is unknown, has too few prompts, or its file is malformed; names line and column.
    """
    design = design or Design()
    if Path(name).suffix in {".tsv", ".yaml", ".yml"}:
        return _lay_out_file(Path(name), design)
    if name not in _catalogue()["tasks"]:
        known = ", ".join(builtin_tasks())
        raise TaskError(f"task {name!r} is unknown; use one of {known}, or a .yaml or .tsv file")
    return tuple(_lay_out_builtin(name, design))


@cache
def _catalogue() -> dict[str, Any]:
    """What tasks.yaml says."""
    text = files("llm2bids").joinpath("stimuli", "tasks.yaml").read_text(encoding="utf-8")
    catalogue: dict[str, Any] = yaml.safe_load(text)
    return catalogue


def _describe(name: str) -> str:
    """One line about a built-in task."""
    fields = _catalogue()["tasks"][name]
    return str(fields.get("description") or f"Prompts on {fields['topic']} (on) against fifteen other topics (off).")


def _lay_out_builtin(name: str, design: Design) -> Iterator[Task]:
    """Deal the pool of a built-in task over sessions, runs and blocks."""
    topic = on_topics().get(name)
    task = Task(name, (), description=_describe(name), instructions=_catalogue()["instructions"])
    if topic:
        levels = {"on": f"Prompts on {topic}.", "off": "Prompts on fifteen other topics."}
        task = replace(task, trial_types=levels)
    order = ["off", *["on", "off"] * design.n_blocks] if topic else [None] * (2 * design.n_blocks + 1)
    for session in range(1, design.n_sessions + 1):
        decks = {kind: _deck(name, kind, session, design) for kind in dict.fromkeys(order)}
        for run in range(1, (design.n_runs or RUNS) + 1):
            trials = tuple(
                Trial(next(decks[kind]).text, kind, block)
                for block, kind in enumerate(order, 1)
                for _ in range(design.prompts_per_block)
            )
            yield replace(task, trials=trials, session=session, run=run)


def _pool(name: str, kind: str | None) -> list[tuple[Prompt, ...]]:
    """Prompts of one condition of a built-in task, by topic; without conditions all that are sentences."""
    topics = on_topics()
    pool = builtin_prompts()
    if kind == "on":
        return [pool[topics[name]]]
    left_out = set(topics.values()) if kind else {"random strings"}
    return [prompts for topic, prompts in pool.items() if topic not in left_out]


def _deck(name: str, kind: str | None, session: int, design: Design) -> Iterator[Prompt]:
    """Prompts in a random order in which the topics take turns; complains when it runs out."""
    rng = design.rng(name, kind, session)
    pool = _pool(name, kind)
    while True:
        piles = [rng.sample(pile, len(pile)) for pile in pool]
        while piles:
            rng.shuffle(piles)
            yield from [pile.pop() for pile in piles]
            piles = [pile for pile in piles if pile]
        if not design.reuse:
            break
    n_blocks = {"on": design.n_blocks, "off": design.n_blocks + 1, None: 2 * design.n_blocks + 1}[kind]
    runs = design.n_runs or RUNS
    raise TaskError(
        f"{sum(map(len, pool))} {kind or 'mixed'} prompts found for task {name}, "
        f"{runs * n_blocks * design.prompts_per_block} needed for {runs} runs; ask for fewer runs, blocks or prompts "
        "per block, or allow repeats with --reuse-prompts"
    )


def _lay_out_file(path: Path, design: Design) -> tuple[Task, ...]:
    """Runs of a user's task."""
    if not path.is_file():
        raise TaskError(f"task file {path} does not exist; give an existing .yaml or .tsv file")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise TaskError(f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8") from error
    task, runs = _parse_tsv(path, text) if path.suffix == ".tsv" else _parse_yaml(path, text)
    n_runs = design.n_runs or len(runs)
    if len(runs) > 1 and n_runs > len(runs):
        raise TaskError(f"{path}: {len(runs)} runs found, {n_runs} asked for; add runs or ask for fewer")
    places = [(session, run) for session in range(1, design.n_sessions + 1) for run in range(1, n_runs + 1)]
    return tuple(
        replace(task, session=session, run=run, trials=_file_trials(task.name, runs, session, run, design))
        for session, run in places
    )


def _file_trials(
    name: str, runs: Sequence[tuple[Trial, ...]], session: int, run: int, design: Design
) -> tuple[Trial, ...]:
    """Trials of one run: as in the file where it holds them, else dealt anew."""
    as_written = session == 1 and run <= len(runs)
    trials = runs[min(run, len(runs)) - 1]
    return trials if as_written else _dealt(trials, design.rng(name, session, run))


def _dealt(trials: Sequence[Trial], rng: Random) -> tuple[Trial, ...]:
    """The same conditions in the same places, their texts dealt anew within each condition."""
    texts: dict[str | None, list[str]] = defaultdict(list)
    for trial in trials:
        texts[trial.trial_type].append(trial.text)
    for pile in texts.values():
        rng.shuffle(pile)
    return tuple(replace(trial, text=texts[trial.trial_type].pop()) for trial in trials)


@dataclass(frozen=True, slots=True)
class _Row:
    """One line of a task file: its cells and where they stand, for messages."""

    path: Path
    line: int
    cells: Mapping[str, str]
    columns: Mapping[str, int]

    def error(self, column: str, found: str, needed: str) -> TaskError:
        """A message that names line and column."""
        place = f"{self.path}, line {self.line}, column {self.columns.get(column, 1)} ({column})"
        return TaskError(f"{place}: {found} found, {needed} needed; mend that line")

    def trial(self, previous: Trial | None) -> Trial:
        """The trial of this row; `previous` is the one before it in the run."""
        text = self.cells.get("text", "").strip()
        if not text:
            raise self.error("text", "no text", "a prompt")
        kind = self.cells.get("trial_type", "")
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", kind) or kind.lower() in {"na", "nan", "null", "none"}:
            raise self.error("trial_type", repr(kind), "a word of letters, digits and _ that starts with a letter")
        before = previous.block if previous else 0
        block = self.number("block", before + (previous is None or previous.trial_type != kind))
        if block < before:
            raise self.error("block", f"block {block} after {before}", "blocks in ascending order")
        return Trial(text, kind, block)

    def number(self, column: str, default: int) -> int:
        """A whole number of this row."""
        cell = self.cells.get(column, "")
        if cell in {"", "n/a"}:
            return default
        if not re.fullmatch(r"[1-9][0-9]*", cell):
            raise self.error(column, repr(cell), "a whole number from 1")
        return int(cell)


def _parse_tsv(path: Path, text: str) -> tuple[Task, list[tuple[Trial, ...]]]:
    """Task and runs of a TSV file: one trial per line, quotation marks mean themselves."""
    lines = text.splitlines()
    header = lines[0].split("\t") if lines else []
    missing = [name for name in COLUMNS[:2] if name not in header]
    unknown = [name for name in header if name not in COLUMNS]
    if missing or unknown:
        wrong = f"column {unknown[0]!r} found" if unknown else f"no column {missing[0]!r} found"
        raise TaskError(f"{path}, line 1: {wrong}; columns {', '.join(COLUMNS)} may be there, the first two must")
    rows = []
    columns = {name: number for number, name in enumerate(header, 1)}
    for number, line in enumerate(lines[1:], 2):
        if not line.strip():
            continue
        cells = line.split("\t")
        row = _Row(path, number, dict(zip(header, cells, strict=False)), columns)
        if len(cells) != len(header):
            raise row.error(header[min(len(cells), len(header)) - 1], f"{len(cells)} cells", str(len(header)))
        rows.append(row)
    return Task(_task_name(path.stem, path), ()), _runs(path, rows)


def _parse_yaml(path: Path, text: str) -> tuple[Task, list[tuple[Trial, ...]]]:
    """Task and runs of a YAML file."""
    try:
        root = yaml.compose(text, yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise TaskError(f"{path}{place}: {error.problem}; mend the YAML") from error
    if not isinstance(root, yaml.MappingNode):
        raise TaskError(f"{path}, line 1: no mapping found; start with keys such as 'description:' and 'trials:'")
    nodes = {key.value: value for key, value in root.value}
    for key, _ in root.value:
        if key.value not in FIELDS:
            raise TaskError(
                f"{path}, line {key.start_mark.line + 1}, column {key.start_mark.column + 1}: key {key.value!r} found; "
                f"use {', '.join(FIELDS)}"
            )
    trials = nodes.get("trials")
    if not isinstance(trials, yaml.SequenceNode):
        raise TaskError(f"{path}: no list under 'trials' found; add '- {{text: ..., trial_type: ...}}' lines")
    runs = _runs(path, [_yaml_row(path, node) for node in trials.value])
    task = Task(
        name=_task_name(_scalar(path, nodes.get("name")) or path.stem, path),
        trials=(),
        description=_scalar(path, nodes.get("description")),
        instructions=_scalar(path, nodes.get("instructions")),
        trial_types=_yaml_row(path, nodes["trial_types"]).cells if "trial_types" in nodes else {},
    )
    return task, runs


def _yaml_row(path: Path, node: yaml.Node) -> _Row:
    """Cells of a YAML mapping."""
    line, column = node.start_mark.line + 1, node.start_mark.column + 1
    if not isinstance(node, yaml.MappingNode):
        raise TaskError(f"{path}, line {line}, column {column}: no 'key: value' pairs found; write them")
    columns = {key.value: key.start_mark.column + 1 for key, _ in node.value}
    return _Row(path, line, {key.value: _scalar(path, value) for key, value in node.value}, columns)


def _scalar(path: Path, node: yaml.Node | None) -> str:
    """Text of a YAML value; empty where it is absent."""
    if node is None:
        return ""
    if not isinstance(node, yaml.ScalarNode):
        mark = node.start_mark
        raise TaskError(f"{path}, line {mark.line + 1}, column {mark.column + 1}: a list or mapping found, text needed")
    return str(node.value)


def _task_name(name: str, path: Path) -> str:
    """Refuse a task name that is no BIDS label."""
    if not re.fullmatch(r"[0-9A-Za-z]+", name):
        raise TaskError(f"{path}: task name {name!r} found; letters and digits needed: rename the file or add 'name:'")
    return name


def _runs(path: Path, rows: Sequence[_Row]) -> list[tuple[Trial, ...]]:
    """Trials of each run."""
    if not rows:
        raise TaskError(f"{path}: no trials found; add at least one")
    for row in rows:
        for name in row.cells:
            if name not in COLUMNS:
                raise row.error(name, f"key {name!r}", f"one of {', '.join(COLUMNS)}")
    numbers = [row.number("run", 1) for row in rows]
    runs = []
    for wanted, (number, group) in enumerate(groupby(zip(numbers, rows, strict=True), key=lambda pair: pair[0]), 1):
        members = [row for _, row in group]
        if number != wanted:
            raise members[0].error("run", f"run {number}", f"run {wanted} (runs from 1, in order)")
        trials: list[Trial] = []
        for row in members:
            trials.append(row.trial(trials[-1] if trials else None))
        runs.append(tuple(trials))
    return runs
