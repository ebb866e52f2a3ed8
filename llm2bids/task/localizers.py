"""The localizers: two conditions whose texts are matched item by item, and how they are dealt over runs and blocks."""

from __future__ import annotations

import csv
from collections import Counter
from dataclasses import replace
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

from llm2bids.task.builtin import RUNS, catalogue, describe, too_few
from llm2bids.task.trials import Design, Task, Trial

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from random import Random


def localizers() -> tuple[str, ...]:
    """List the localizers.

    Returns names of those built-in tasks that compare two conditions of matched texts.

    >>> localizers()
    ('language', 'theoryofmind', 'multipledemand', 'syntax')
    """
    return tuple(name for name, fields in catalogue()["tasks"].items() if "trial_types" in fields)


def localizer_texts(name: str) -> dict[str, dict[int, str]]:
    """Read the texts of a localizer.

    Returns texts by item, by condition; the condition to be found first. Texts of one item are matched to each other.
    """
    rows = [row for row in _rows() if row["task"] == name]
    return {
        kind: {int(row["item"]): row["text"] for row in rows if row["trial_type"] == kind}
        for kind in catalogue()["tasks"][name]["trial_types"]
    }


def lay_out_localizer(name: str, design: Design) -> Iterator[Task]:
    """Deal the texts of a localizer over sessions, runs and blocks.

    No run shows both texts of an item, e.g. a sentence and the same words scrambled, as long as there are items enough.
    """
    fields = catalogue()["tasks"][name]
    settings = {key: fields[key] for key in ("instructions", "trial_types", "mode")}
    task = Task(name, (), description=describe(name), **settings)
    texts = localizer_texts(name)
    first, second = texts
    order = [second, *[first, second] * design.n_blocks]
    runs = range(1, (design.n_runs or RUNS) + 1)
    counts = {kind: order.count(kind) * design.prompts_per_block for kind in (second, first)}
    for kind, n_prompts in counts.items():
        if len(runs) * n_prompts > len(texts[kind]) and not design.reuse:
            raise too_few(f"{len(texts[kind])} {kind} prompts found for task {name}", order.count(kind), design)
    for session in range(1, design.n_sessions + 1):
        hands = _deal(texts, counts, design.rng(name, session))
        for run in runs:
            hand = next(hands)
            trials = tuple(
                Trial(texts[kind][next(hand[kind])], kind, block)
                for block, kind in enumerate(order, 1)
                for _ in range(design.prompts_per_block)
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
    """Items of each condition for run after run: round a circle, one condition half a circle before the other."""
    circle = rng.sample(sorted(next(iter(texts.values()))), len(next(iter(texts.values()))))
    half = len(circle) // 2
    decks = dict(zip(counts, (circle, circle[half:] + circle[:half]), strict=True))
    shown: dict[str, Counter[int]] = {kind: Counter() for kind in counts}
    while True:
        met: set[int] = set()
        yield {kind: iter(_draw(decks[kind], n_items, shown[kind], met)) for kind, n_items in counts.items()}


def _draw(deck: Sequence[int], n_items: int, shown: Counter[int], met: set[int]) -> list[int]:
    """The items shown least so far, and of these, if possible, none that this run has met in another condition."""
    drawn = []
    for _ in range(n_items):
        drawn.append(min(deck, key=lambda item: (shown[item], item in met)))
        shown[drawn[-1]] += 1
    met.update(drawn)
    return drawn
