"""The localizers: tasks of two conditions whose texts are matched item by item, dealt over runs and blocks."""

from __future__ import annotations

import csv
from collections import Counter
from dataclasses import replace
from functools import cache
from importlib.resources import files
from itertools import islice
from typing import TYPE_CHECKING

from llm2bids.task.builtin import RUNS, catalogue, describe, too_few_prompts
from llm2bids.task.trials import Design, Task, Trial

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from random import Random


def localizers() -> tuple[str, ...]:
    """Return the names of the built-in tasks that compare two conditions of matched texts.

    >>> localizers()
    ('language', 'theoryofmind', 'multipledemand', 'syntax')
    """
    return tuple(name for name, fields in catalogue()["tasks"].items() if "trial_types" in fields)


def localizer_texts(name: str) -> dict[str, dict[int, str]]:
    """Read the texts of a localizer: by condition, that of interest first, and by number of the item.

    Texts of one item are matched to each other.
    """
    rows = [row for row in _rows() if row["task"] == name]
    return {
        kind: {int(row["item"]): row["text"] for row in rows if row["trial_type"] == kind}
        for kind in catalogue()["tasks"][name]["trial_types"]
    }


def lay_out_localizer(name: str, design: Design) -> Iterator[Task]:
    """Deal the texts of a localizer over sessions, runs and blocks.

    As long as there are enough items, no run shows both texts of one, e.g. a sentence and the same words scrambled.
    """
    fields = catalogue()["tasks"][name]
    settings = {key: fields[key] for key in ("instructions", "trial_types", "mode")}
    task = Task(name, (), description=describe(name), **settings)
    texts = localizer_texts(name)
    first, second = texts
    if design.hold_out:  # items have no clusters: each is one, of both conditions
        items = design.draw_held_out(f"task {name}", map(str, texts[first]))
        task = replace(task, held_out={f"{first} and {second}": items})
        texts = {kind: {n: text for n, text in pile.items() if str(n) not in items} for kind, pile in texts.items()}
    order = [second, *[first, second] * design.blocks]
    runs = range(1, (design.runs or RUNS) + 1)
    counts = {kind: order.count(kind) * design.prompts_per_block for kind in (second, first)}
    for kind, n_prompts in counts.items():
        if len(runs) * n_prompts > len(texts[kind]) and not design.reuse_prompts:
            supply = f"{len(texts[kind])} {kind} prompts found for task {name}"
            raise too_few_prompts(supply, order.count(kind), design)
    for session in design.session_numbers:
        hands = _deal(texts, counts, design.rng(name, session))
        for run in runs:
            hand = next(hands)
            trials = tuple(
                Trial(texts[kind][item], kind, block, item=str(item))
                for block, kind in enumerate(order, 1)
                for item in islice(hand[kind], design.prompts_per_block)
            )
            yield replace(task, trials=trials, session=session, run=run)


@cache
def _rows() -> tuple[dict[str, str], ...]:
    """The lines of localizers.tsv."""
    text = files("llm2bids").joinpath("stimuli", "localizers.tsv").read_text(encoding="utf-8")
    return tuple(csv.DictReader(text.splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE))


def _deal(
    texts: Mapping[str, Mapping[int, str]], counts: Mapping[str, int], rng: Random
) -> Iterator[dict[str, Iterator[int]]]:
    """Items of each condition for run after run.

    The items lie on a circle. The conditions start half a circle apart, so that they meet as late as possible.
    """
    circle = rng.sample(sorted(next(iter(texts.values()))), len(next(iter(texts.values()))))
    half = len(circle) // 2
    decks = dict(zip(counts, (circle, circle[half:] + circle[:half]), strict=True))
    times_drawn: dict[str, Counter[int]] = {kind: Counter() for kind in counts}
    while True:
        run_items: set[int] = set()
        yield {kind: iter(_draw(decks[kind], n, times_drawn[kind], run_items)) for kind, n in counts.items()}


def _draw(deck: Sequence[int], n_items: int, times_drawn: Counter[int], run_items: set[int]) -> list[int]:
    """The items drawn least often, and of these, if possible, none that this run has in the other condition."""
    items = []
    for _ in range(n_items):
        items.append(min(deck, key=lambda item: (times_drawn[item], item in run_items)))
        times_drawn[items[-1]] += 1
    run_items.update(items)
    return items
