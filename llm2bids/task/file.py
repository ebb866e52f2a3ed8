"""A user's task: reads one TSV or YAML file, and says exactly what is wrong with it."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, replace
from itertools import chain, groupby
from pathlib import Path
from typing import TYPE_CHECKING, Final

import yaml

from llm2bids.errors import TaskError
from llm2bids.task.trials import LABELS, Design, Task, Trial

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from random import Random

COLUMNS: Final = ("text", "trial_type", "block", "run", *LABELS)
"""Columns a task file may have; the first two are needed."""
FIELDS: Final = ("name", "description", "instructions", "trial_types", "trials")
"""Keys of a YAML task file; only ``trials`` is needed."""


def lay_out_file(path: Path, design: Design) -> tuple[Task, ...]:
    """Make the trials of every session and run of a user's task.

    The first session shows the file's runs as they are. Further ones deal the texts of each condition anew over its
    trials.
    """
    task, runs = (_parse_tsv if path.suffix.lower() == ".tsv" else _parse_yaml)(path, _text(path))
    if design.hold_out:
        task, runs = _without_held_out(task, runs, design)
    n_runs = design.runs or len(runs)
    if len(runs) > 1 and n_runs > len(runs):
        raise TaskError(f"{path}: {len(runs)} runs found, {n_runs} asked for; add runs or ask for fewer")
    return tuple(
        replace(task, session=session, run=run, trials=_file_trials(task.name, runs, session, run, design))
        for session in design.session_numbers
        for run in range(1, n_runs + 1)
    )


def _without_held_out(
    task: Task, runs: Sequence[tuple[Trial, ...]], design: Design
) -> tuple[Task, list[tuple[Trial, ...]]]:
    """Task and runs without the clusters that a design holds out, of each condition as many."""
    held_out = {
        " and ".join(conditions): design.draw_held_out(f"task {task.name}, {' and '.join(conditions)},", clusters)
        for conditions, clusters in _condition_groups(runs)
    }
    hidden = frozenset().union(*held_out.values())
    remaining = [tuple(trial for trial in trials if trial.sample not in hidden) for trials in runs]
    for number, trials in enumerate(remaining, 1):
        if not trials:
            raise TaskError(
                f"no prompt of run {number} of task {task.name} is left by hold_out={design.hold_out}; hold out fewer"
            )
    return replace(task, held_out=held_out), remaining


def _condition_groups(runs: Sequence[tuple[Trial, ...]]) -> list[tuple[list[str], set[str]]]:
    """Conditions and their clusters; conditions that share a cluster are together, so that it is shown in none."""
    clusters: dict[str, set[str]] = defaultdict(set)
    for trial in chain.from_iterable(runs):
        clusters[trial.trial_type or ""].add(trial.sample)
    groups: list[tuple[list[str], set[str]]] = []
    for condition, names in clusters.items():
        apart = [group for group in groups if group[1].isdisjoint(names)]
        together = [group for group in groups if not group[1].isdisjoint(names)]
        conditions = [*chain.from_iterable(group[0] for group in together), condition]
        groups = [*apart, (conditions, names.union(*(group[1] for group in together)))]
    return groups


def _file_trials(
    name: str, runs: Sequence[tuple[Trial, ...]], session: int, run: int, design: Design
) -> tuple[Trial, ...]:
    """Trials of one run: as in the file where it holds them, else dealt anew."""
    as_written = session == 1 and run <= len(runs)
    trials = runs[min(run, len(runs)) - 1]
    return trials if as_written else _dealt(trials, design.rng(name, session, run))


def _dealt(trials: Sequence[Trial], rng: Random) -> tuple[Trial, ...]:
    """The same order of conditions, with the texts of each condition in a new order."""
    prompts: dict[str | None, list[Trial]] = defaultdict(list)
    for trial in trials:
        prompts[trial.trial_type].append(trial)
    for pile in prompts.values():
        rng.shuffle(pile)
    return tuple(replace(prompts[trial.trial_type].pop(), block=trial.block) for trial in trials)


def _text(path: Path) -> str:
    """The text of a file, with or without a byte order mark."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise TaskError(f"task file {path} does not exist; give an existing .yaml or .tsv file") from error
    except UnicodeDecodeError as error:
        raise TaskError(f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8") from error
    except OSError as error:
        raise TaskError(f"task file {path} cannot be read ({error.strerror}); give a readable file") from error


@dataclass(frozen=True, slots=True)
class _Place:
    """A line and column of a file, from 1."""

    path: Path
    line: int
    column: int

    @classmethod
    def of_node(cls, path: Path, node: yaml.Node) -> _Place:
        """Place where a YAML node begins."""
        return cls(path, node.start_mark.line + 1, node.start_mark.column + 1)

    def error(self, content: str, needed: str, name: str = "") -> TaskError:
        """Make an error that names the place."""
        where = f"{self.path}, line {self.line}, column {self.column}{f' ({name})' if name else ''}"
        return TaskError(f"{where}: {content} found, {needed} needed; mend that line")


@dataclass(frozen=True, slots=True)
class _Row:
    """One trial of a task file: its cells, and the place of each."""

    place: _Place
    cells: Mapping[str, str]
    places: Mapping[str, _Place]

    def error(self, column: str, content: str, needed: str) -> TaskError:
        """Make an error that names line and column."""
        return self.places.get(column, self.place).error(content, needed, column)

    def trial(self, previous: Trial | None) -> Trial:
        """Make the trial of this row; `previous` is the one before it in the run."""
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
        return Trial(text, kind, block, *map(self.label, LABELS))

    def label(self, column: str) -> str | None:
        """Return the name in a column of this row, e.g. of its cluster; None where there is none."""
        cell = self.cells.get(column, "").strip()
        if '"' in cell or not cell.isprintable():
            raise self.error(column, repr(cell), "a name of one line without quotation marks")
        return None if cell in {"", "n/a"} else cell

    def number(self, column: str, default: int) -> int:
        """Return the whole number in a column of this row."""
        cell = self.cells.get(column, "")
        if cell in {"", "n/a"}:
            return default
        if not re.fullmatch(r"[1-9][0-9]*", cell):
            raise self.error(column, repr(cell), "a whole number from 1")
        return int(cell)


def _parse_tsv(path: Path, text: str) -> tuple[Task, list[tuple[Trial, ...]]]:
    """Task and runs of a TSV file: one trial per line; quotation marks have no special meaning."""
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    header = lines[0].split("\t")
    for name in COLUMNS[:2]:
        if name not in header:
            columns = " ".join(map(repr, header))
            raise _Place(path, 1, len(header)).error(
                f"columns {columns} without {name!r}", "text and trial_type, tab between"
            )
    for number, name in enumerate(header, 1):
        if name not in COLUMNS or name in header[: number - 1]:
            raise _Place(path, 1, number).error(f"column {name!r}", f"each of {', '.join(COLUMNS)} at most once")
    numbered = [(number, line.split("\t")) for number, line in enumerate(lines[1:], 2) if line.strip()]
    rows = []
    for number, cells in numbered:
        places = {name: _Place(path, number, column) for column, name in enumerate(header, 1)}
        if len(cells) != len(header):
            column = header[min(len(cells), len(header) - 1)]
            raise places[column].error(f"{len(cells)} cells", str(len(header)), column)
        rows.append(_Row(_Place(path, number, 1), dict(zip(header, cells, strict=True)), places))
    return Task(_task_name(path.stem, path), ()), _runs(path, rows)


def _parse_yaml(path: Path, text: str) -> tuple[Task, list[tuple[Trial, ...]]]:
    """Task and runs of a YAML file."""
    nodes, top = _pairs(path, _compose(path, text))
    for key, place in top.items():
        if key not in FIELDS:
            raise place.error(f"key {key!r}", f"one of {', '.join(FIELDS)}")
    trials = nodes.get("trials")
    if not isinstance(trials, yaml.SequenceNode):
        raise TaskError(f"{path}: no list under 'trials' found; add '- {{text: ..., trial_type: ...}}' lines")
    task = Task(
        name=_task_name(_scalar(path, nodes.get("name")) or path.stem, path),
        trials=(),
        description=_scalar(path, nodes.get("description")),
        instructions=_scalar(path, nodes.get("instructions")),
        trial_types=_yaml_row(path, nodes["trial_types"]).cells if "trial_types" in nodes else {},
    )
    return task, _runs(path, [_yaml_row(path, node) for node in trials.value])


def _compose(path: Path, text: str) -> yaml.Node:
    """The nodes of a YAML text, which keep their places."""
    try:
        root = yaml.compose(text, yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise TaskError(f"{path}{place}: {error.problem}; mend the YAML") from error
    except yaml.reader.ReaderError as error:
        before = text[: error.position]
        place = f"line {before.count(chr(10)) + 1}, column {len(before) - before.rfind(chr(10))}"
        raise TaskError(f"{path}, {place}: a character that YAML does not allow; remove it") from error
    if root is None:
        raise TaskError(f"{path}, line 1: nothing found; start with keys such as 'description:' and 'trials:'")
    return root


def _pairs(path: Path, node: yaml.Node) -> tuple[dict[str, yaml.Node], dict[str, _Place]]:
    """Values of a YAML mapping, and the place of each key."""
    if not isinstance(node, yaml.MappingNode):
        raise _Place.of_node(path, node).error("no mapping", "'key: value' pairs")
    values: dict[str, yaml.Node] = {}
    places: dict[str, _Place] = {}
    for key, value in node.value:
        place = _Place.of_node(path, key)
        if not isinstance(key, yaml.ScalarNode):
            raise place.error("a list or mapping as a key", "a word")
        if key.value in values:
            raise place.error(f"key {key.value!r} a second time", "each key at most once")
        values[key.value], places[key.value] = value, place
    return values, places


def _yaml_row(path: Path, node: yaml.Node) -> _Row:
    """Cells of a YAML mapping."""
    values, places = _pairs(path, node)
    return _Row(_Place.of_node(path, node), {key: _scalar(path, value) for key, value in values.items()}, places)


def _scalar(path: Path, node: yaml.Node | None) -> str:
    """Text of a YAML value; empty where it is absent or null."""
    if node is None or node.tag.endswith(":null"):
        return ""
    if not isinstance(node, yaml.ScalarNode):
        raise _Place.of_node(path, node).error("a list or mapping", "text")
    return str(node.value)


def _task_name(name: str, path: Path) -> str:
    """The task name; raises if it is no BIDS label."""
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
    groups = groupby(zip(numbers, rows, strict=True), key=lambda pair: pair[0])
    for expected, (number, group) in enumerate(groups, 1):
        members = [row for _, row in group]
        if number != expected:
            raise members[0].error("run", f"run {number}", f"run {expected} (runs from 1, in order)")
        trials: list[Trial] = []
        for row in members:
            trials.append(row.trial(trials[-1] if trials else None))
        runs.append(tuple(trials))
    return runs
