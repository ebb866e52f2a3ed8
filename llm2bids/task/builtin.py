"""The built-in tasks: which there are, their prompts, and how these are dealt over runs and blocks."""

from __future__ import annotations

import csv
from collections import defaultdict
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final

import yaml

from llm2bids.errors import TaskError
from llm2bids.task.trials import Design, Task, Trial

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

RUNS: Final = 4
"""Runs of a built-in task unless told otherwise."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt of the built-in pool.

    - `topic`: what it is about, e.g. ``"medical imaging"``.
    - `frame`: its syntactic frame, 1 to 10; each topic has as many of each.
    - `text`: the opening of a sentence, 12 words.
    """

    topic: str
    frame: int
    text: str


@cache
def builtin_prompts() -> dict[str, tuple[Prompt, ...]]:
    """Read the built-in prompts."""
    text = files("llm2bids").joinpath("stimuli", "prompts.tsv").read_text(encoding="utf-8")
    rows = csv.DictReader(text.splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE)
    pool: dict[str, list[Prompt]] = defaultdict(list)
    for row in rows:
        pool[row["topic"]].append(Prompt(row["topic"], int(row["frame"]), row["text"]))
    return {topic: tuple(prompts) for topic, prompts in pool.items()}


def on_topics() -> dict[str, str]:
    """Name the topics that are networks to be found."""
    return {name: fields["topic"] for name, fields in catalogue()["tasks"].items() if "topic" in fields}


def builtin_tasks() -> dict[str, str]:
    """List the built-in tasks."""
    families = {name: fields["description"] for name, fields in catalogue()["families"].items()}
    return families | {name: describe(name) for name in catalogue()["tasks"]}


def expand_tasks(names: Iterable[str]) -> tuple[str, ...]:
    """Replace families of tasks by their members.

    >>> expand_tasks(["rest", "nencka2023"])[:3]
    ('rest', 'politicalscience', 'medicalimaging')
    """
    families = catalogue()["families"]
    members = (families[name]["tasks"] if name in families else [name] for name in names)
    return tuple(dict.fromkeys(member for group in members for member in group))


@cache
def catalogue() -> dict[str, Any]:
    """Read what is said about the built-in tasks."""
    text = files("llm2bids").joinpath("stimuli", "tasks.yaml").read_text(encoding="utf-8")
    said: dict[str, Any] = yaml.safe_load(text)
    return said


def describe(name: str) -> str:
    """Describe a built-in task."""
    fields = catalogue()["tasks"][name]
    return str(fields.get("description") or f"Prompts on {fields['topic']} (on) against fifteen other topics (off).")


def lay_out_builtin(name: str, design: Design) -> Iterator[Task]:
    """Deal the pool of a built-in task over sessions, runs and blocks."""
    topic = on_topics().get(name)
    task = Task(name, (), description=describe(name), instructions=catalogue()["instructions"])
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
    last = ""
    while True:
        piles = [rng.sample(pile, len(pile)) for pile in pool]
        while piles:
            rng.shuffle(piles)
            if piles[0][0].topic == last:
                piles.append(piles.pop(0))
            last = piles[-1][0].topic
            yield from [pile.pop() for pile in piles]
            piles = [pile for pile in piles if pile]
        if not design.reuse:
            break
    n_blocks = {"on": design.n_blocks, "off": design.n_blocks + 1, None: 2 * design.n_blocks + 1}[kind]
    raise too_few(f"{sum(map(len, pool))} {kind or 'mixed'} prompts found for task {name}", n_blocks, design)


def too_few(found: str, n_blocks: int, design: Design) -> TaskError:
    """Say that a design needs more prompts than there are."""
    runs = design.n_runs or RUNS
    return TaskError(
        f"{found}, {runs * n_blocks * design.prompts_per_block} needed for {runs} runs; ask for fewer runs, blocks or "
        "prompts per block, or allow repeats with --reuse-prompts"
    )
