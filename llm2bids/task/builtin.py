"""The built-in tasks, their prompts, and how these are dealt over runs and blocks."""

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
"""Default number of runs of a built-in task."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt of the built-in pool.

    - `topic`: e.g. ``"medical imaging"``.
    - `frame`: number of its syntactic frame, 1 to 10; each topic has equally many of each.
    - `text`: the first 12 words of a sentence.
    """

    topic: str
    frame: int
    text: str


@cache
def builtin_prompts() -> dict[str, tuple[Prompt, ...]]:
    """Read the built-in prompts, by topic."""
    text = files("llm2bids").joinpath("stimuli", "prompts.tsv").read_text(encoding="utf-8")
    rows = csv.DictReader(text.splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE)
    pool: dict[str, list[Prompt]] = defaultdict(list)
    for row in rows:
        pool[row["topic"]].append(Prompt(row["topic"], int(row["frame"]), row["text"]))
    return {topic: tuple(prompts) for topic, prompts in pool.items()}


def on_topics() -> dict[str, str]:
    """Return the topic of each built-in task that has one, by name of the task."""
    return {name: fields["topic"] for name, fields in catalogue()["tasks"].items() if "topic" in fields}


def builtin_tasks() -> dict[str, str]:
    """Return the built-in tasks and families of tasks, with a description of each."""
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
    """Read the descriptions of the built-in tasks."""
    text = files("llm2bids").joinpath("stimuli", "tasks.yaml").read_text(encoding="utf-8")
    fields: dict[str, Any] = yaml.safe_load(text)
    return fields


def describe(name: str) -> str:
    """Describe a built-in task."""
    fields = catalogue()["tasks"][name]
    return str(fields.get("description") or f"Prompts on {fields['topic']} (on) against fifteen other topics (off).")


def lay_out_builtin(name: str, design: Design) -> Iterator[Task]:
    """Deal the prompts of a built-in task over sessions, runs and blocks."""
    topic = on_topics().get(name)
    task = Task(name, (), description=describe(name), instructions=catalogue()["instructions"])
    if topic:
        levels = {"on": f"Prompts on {topic}.", "off": "Prompts on fifteen other topics."}
        task = replace(task, trial_types=levels)
    order = ["off", *["on", "off"] * design.blocks] if topic else [None] * (2 * design.blocks + 1)
    for session in design.session_numbers:
        decks = {kind: _deck(name, kind, session, design) for kind in dict.fromkeys(order)}
        for run in range(1, (design.runs or RUNS) + 1):
            trials = tuple(
                Trial(next(decks[kind]).text, kind, block)
                for block, kind in enumerate(order, 1)
                for _ in range(design.prompts_per_block)
            )
            yield replace(task, trials=trials, session=session, run=run)


def _pool(name: str, kind: str | None) -> list[tuple[Prompt, ...]]:
    """Prompts of one condition of a built-in task, topic by topic; for a task without conditions all sentences."""
    topics = on_topics()
    pool = builtin_prompts()
    if kind == "on":
        return [pool[topics[name]]]
    excluded = set(topics.values()) if kind else {"random strings"}
    return [prompts for topic, prompts in pool.items() if topic not in excluded]


def _deck(name: str, kind: str | None, session: int, design: Design) -> Iterator[Prompt]:
    """Prompts in a random order in which the topics take turns; raises when there are no more."""
    rng = design.rng(name, kind, session)
    pool = _pool(name, kind)
    last = ""
    while True:
        piles = [rng.sample(pile, len(pile)) for pile in pool]
        while piles:
            rng.shuffle(piles)
            if piles[0][0].topic == last:  # two rounds must not meet at the same topic
                piles.append(piles.pop(0))
            last = piles[-1][0].topic
            yield from [pile.pop() for pile in piles]
            piles = [pile for pile in piles if pile]
        if not design.reuse_prompts:
            break
    n_blocks = {"on": design.blocks, "off": design.blocks + 1, None: 2 * design.blocks + 1}[kind]
    raise too_few_prompts(f"{sum(map(len, pool))} {kind or 'mixed'} prompts found for task {name}", n_blocks, design)


def too_few_prompts(supply: str, n_blocks: int, design: Design) -> TaskError:
    """Make the error of a design that needs more prompts than there are."""
    runs = design.runs or RUNS
    return TaskError(
        f"{supply}, {runs * n_blocks * design.prompts_per_block} needed for {runs} runs; ask for fewer runs, blocks or "
        "prompts per block, or allow repeats with reuse_prompts=True"
    )
