"""The built-in tasks, their prompts, and how these are dealt over runs and blocks."""

from __future__ import annotations

import csv
from collections import defaultdict
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

import yaml

from llm2bids.errors import TaskError, did_you_mean
from llm2bids.task.trials import Design, Task, Trial

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

OTHERS: Final = "other topics"
"""Name of the topics that no task is about, taken together."""
RUNS: Final = 4
"""Default number of runs of a built-in task."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt of the built-in pool.

    - `topic`: e.g. ``"medical imaging"``.
    - `frame`: number of its syntactic frame, 1 to 10; each topic has equally many of each.
    - `text`: the first 12 words of a sentence.
    - `cluster`: its sub-topic, e.g. ``"ultrasound"``. A topic that no task is about is one cluster; a random string is
      a cluster of its own.
    """

    topic: str
    frame: int
    text: str
    cluster: str


class PromptPool(dict[str, tuple[Prompt, ...]]):
    """Prompts by topic. The name of a task finds those of its topic, too."""

    def __missing__(self, name: str) -> tuple[Prompt, ...]:
        """Return the prompts of a task; raise if there is neither such a topic nor such a task."""
        topics = on_topics()
        if name not in topics:
            names = [*self, *topics]
            near = did_you_mean(name, names)
            raise TaskError(f"no prompts on {name!r} found; {near}there are {', '.join(names)}")
        return self[topics[name]]


@cache
def builtin_prompts() -> PromptPool:
    """Read the built-in prompts, by topic.

    >>> builtin_prompts()["medicalimaging"] is builtin_prompts()["medical imaging"]
    True
    >>> builtin_prompts()["medicalimaging"][0].cluster
    'computed tomography'
    """
    text = files("llm2bids").joinpath("stimuli", "prompts.tsv").read_text(encoding="utf-8")
    rows = csv.DictReader(text.splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE)
    pool: dict[str, list[Prompt]] = defaultdict(list)
    for row in rows:
        pool[row["topic"]].append(Prompt(row["topic"], int(row["frame"]), row["text"], row["cluster"]))
    return PromptPool({topic: tuple(prompts) for topic, prompts in pool.items()})


def held_out_prompts(design: Design, topics: Iterable[str] = ()) -> dict[str, tuple[Prompt, ...]]:
    """Return the built-in prompts that a design does not show, since it holds out their clusters.

    Parameters
    ----------
    design : Design
        Its `hold_out` and `seed` matter. The options of a recording are a design, too.
    topics : iterable of str
        Topics or tasks; all by default.

    Returns
    -------
    dict of str to tuple of Prompt
        Prompts with their clusters by topic, in the order of `builtin_prompts`. Topics of which all is shown are not in
        it: of those that no task is about, each is one cluster.

    Raises
    ------
    TaskError
        If a topic is unknown, or has so few clusters that none would be shown.

    Examples
    --------
    >>> from llm2bids.task import Design
    >>> {prompt.cluster for prompt in held_out_prompts(Design(hold_out=1))["medical imaging"]}
    {'nuclear medicine'}
    """
    pool = builtin_prompts()
    names = dict.fromkeys(pool[name][0].topic for name in topics or pool)
    prompts = {
        topic: [prompt for prompt in pool[topic] if prompt.cluster in _held_out(topic, design)] for topic in names
    }
    return {topic: tuple(held_out) for topic, held_out in prompts.items() if held_out}


def _held_out(topic: str, design: Design) -> tuple[str, ...]:
    """Clusters that a design does not show: of a topic, or of all topics together that no task is about."""
    if not design.hold_out:
        return ()
    on, pool = on_topics().values(), builtin_prompts()
    clusters = [prompt.cluster for prompt in pool[topic]] if topic in on else [name for name in pool if name not in on]
    return design.draw_held_out(topic if topic in on else OTHERS, clusters)


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
    topics = [prompts[0].topic for kind in dict.fromkeys(order) for prompts in _pool(name, kind)]
    held_out = {topic if topic in on_topics().values() else OTHERS: _held_out(topic, design) for topic in topics}
    task = replace(task, held_out={topic: clusters for topic, clusters in held_out.items() if clusters})
    for session in design.session_numbers:
        decks = {kind: _deck(name, kind, session, design) for kind in dict.fromkeys(order)}
        for run in range(1, (design.runs or RUNS) + 1):
            trials = tuple(
                Trial(prompt.text, kind, block, prompt.cluster)
                for block, kind in enumerate(order, 1)
                for prompt in islice(decks[kind], design.prompts_per_block)
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
    remaining = [
        tuple(prompt for prompt in prompts if prompt.cluster not in _held_out(prompts[0].topic, design))
        for prompts in _pool(name, kind)
    ]
    pool = [prompts for prompts in remaining if prompts]
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
