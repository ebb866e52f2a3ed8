"""``llm2bids networks``: questions about the networks in a folder of results, and their answers in short."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from llm2bids.cli.arguments import add_options, values_of
from llm2bids.cli.terminal import format_table, plain, short, tell

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from llm2bids.networks.answers import Answer


@dataclass(frozen=True, slots=True)
class _Question:
    """Texts of a question in ``--help``, and columns of its first table that are printed."""

    help: str
    description: str
    columns: str


_QUESTIONS: Final = {
    "overlap": _Question(
        "what the networks of every two tasks share, against chance",
        "Dice, Jaccard and overlap coefficient of every two tasks, what they would be by chance, and p-values.",
        "task_a task_b units_a units_b shared dice dice_chance p p_holm",
    ),
    "reliability": _Question(
        "how well networks repeat over runs and prompts",
        "Networks of single runs and halves: agreement within tasks against between them, intraclass correlation of "
        "units, growth with runs and prompts.",
        "measure task within between difference low high p",
    ),
    "identify": _Question(
        "identify the task of runs that did not define the networks",
        "Hold out the runs of one number (or a session, or a subject), make networks of the others, and identify by "
        "them the task of each held-out run, block and prompt.",
        "level score n_items accuracy low high chance p",
    ),
    "profile": _Question(
        "where networks lie, and how large their effects are",
        "Units per layer and site, depth, and effects in runs that did not choose the units.",
        "task units share depth depth_low depth_high depth_p effect_held_out shrinkage",
    ),
    "connectivity": _Question(
        "how networks go together over time",
        "Time courses of the networks in every prepared run, their correlation and partial correlation.",
        "task_a task_b n_runs correlation correlation_low correlation_high partial",
    ),
    "match": _Question(
        "which networks of one set are found again in another",
        "IoU and correlation of two sets of maps or masks, best one-to-one pairs, and in how many runs each network of "
        "A is found again in B, against chance. A set is a folder of results of glm or ica, another folder of masks, "
        "an image of several maps, a mask, or a pattern in quotes.",
        "template match iou correlation best_p recurrence recurrence_chance recurrence_p_holm",
    ),
}


def add(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``llm2bids networks`` with its questions."""
    from llm2bids.networks import settings  # noqa: PLC0415

    verb = verbs.add_parser("networks", help="what networks share, how they repeat, which task they tell")
    questions = verb.add_subparsers(title="questions", metavar="QUESTION", required=True)
    for name, texts in _QUESTIONS.items():
        parser: argparse.ArgumentParser = questions.add_parser(name, help=texts.help, description=texts.description)
        add_options(parser, getattr(settings, f"{name.capitalize()}Options"))
        parser.set_defaults(verb=partial(_run, name))


def _run(question: str, args: argparse.Namespace) -> int:
    """Ask the question, and print the first table of every answer, and where the rest is."""
    from llm2bids import networks  # noqa: PLC0415 - takes seconds to import

    result = getattr(networks, question)(**values_of(args))
    answers: Sequence[Answer] = result if isinstance(result, list) else [result]
    if args.json:
        tell(json.dumps([_to_json(answer) for answer in answers], indent=2))
        return 0
    for answer in answers:
        table = next(iter(answer.tables.values()))
        columns = [name for name in _QUESTIONS[question].columns.split() if name in table]
        rows = [{str(name): short(value) for name, value in row.items()} for row in table[columns].to_dict("records")]
        tell(f"{answer.question}: sub-{answer.subject.replace(', ', ', sub-')}, site {answer.site or 'unnamed'}")
        tell(format_table(rows), "")
    folders = sorted({str(path.parent) for answer in answers for path in answer.files})
    tell(f"Tables, figures and what each column means are in {', '.join(folders)}.")
    return 0


def _to_json(answer: Answer) -> dict[str, object]:
    """Describe an answer for programs."""
    return {
        "question": answer.question,
        "subject": answer.subject,
        "site": answer.site,
        "tables": {name: plain(table.to_dict("records")) for name, table in answer.tables.items()},
        "files": [str(path) for path in answer.files],
    }
