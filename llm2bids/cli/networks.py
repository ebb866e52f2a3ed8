"""``llm2bids networks``: questions about the networks in a folder of results, and their answers in short."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from llm2bids.cli.terminal import add_labels, format_table, options, plain, short, tell

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from llm2bids.networks.answers import Answer

_SHOWN: Final = {
    "overlap": ("task_a", "task_b", "units_a", "units_b", "shared", "dice", "dice_chance", "p", "p_holm"),
    "reliability": ("measure", "task", "within", "between", "difference", "low", "high", "p"),
    "profile": (
        "task",
        "units",
        "share",
        "depth",
        "depth_low",
        "depth_high",
        "depth_p",
        "effect_held_out",
        "shrinkage",
    ),
    "connectivity": ("task_a", "task_b", "n_runs", "correlation", "correlation_low", "correlation_high", "partial"),
    "match": (
        "template",
        "match",
        "iou",
        "correlation",
        "best_p",
        "recurrence",
        "recurrence_chance",
        "recurrence_p_holm",
    ),
    "identify": ("level", "score", "n_items", "accuracy", "low", "high", "chance", "p"),
}
"""Columns of an answer that are printed."""


def add(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``llm2bids networks`` with its questions."""
    verb = verbs.add_parser("networks", help="what networks share, how they repeat, which task they tell")
    questions = verb.add_subparsers(title="questions", metavar="QUESTION", required=True)
    _add_overlap(questions)
    _add_reliability(questions)
    _add_identify(questions)
    _add_profile(questions)
    _add_connectivity(questions)
    _add_match(questions)


def _add_overlap(questions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """`llm2bids networks overlap`."""
    question = _add_question(
        questions,
        "overlap",
        "what the networks of every two tasks share, against chance",
        "Dice, Jaccard and overlap coefficient of every two tasks, what they would be by chance, and p-values.",
    )
    question.add_argument(
        "--n-draws",
        type=int,
        default=1000,
        metavar="N",
        help="permutations of units, exchanges of conditions (%(default)s)",
    )
    _finish(question, _overlap)


def _add_reliability(questions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """`llm2bids networks reliability`."""
    question = _add_question(
        questions,
        "reliability",
        "how well networks repeat over runs and prompts",
        "Networks of single runs and halves: agreement within tasks against between them, intraclass correlation of "
        "units, growth with runs and prompts.",
    )
    question.add_argument(
        "--rule", metavar="RULE", help="which units are a network: 5%%, fdr, bonferroni (as glm chose them)"
    )
    question.add_argument(
        "--n-permutations", type=int, default=1000, metavar="N", help="exchanges of tasks among runs (%(default)s)"
    )
    question.add_argument(
        "--n-splits", type=int, default=20, metavar="N", help="pairs of sets for each size (%(default)s)"
    )
    _finish(question, _reliability)


def _add_identify(questions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """`llm2bids networks identify`."""
    question = _add_question(
        questions,
        "identify",
        "tell the task of runs that did not define the networks",
        "Hold out the runs of one number (or a session, or a subject), make networks of the others, and tell by them "
        "which task each held-out run, block and prompt is of.",
    )
    question.add_argument(
        "--across", choices=["run", "session", "subject"], default="run", help="what is held out (%(default)s)"
    )
    question.add_argument(
        "--scores",
        nargs="+",
        default=["mean-z", "correlation", "dice"],
        metavar="SCORE",
        help="how maps and networks are compared: mean-z correlation dice (all)",
    )
    question.add_argument(
        "--thresholds",
        nargs="+",
        default=["1%", "0.5%", "2%", "5%", "10%"],
        metavar="RULE",
        help="which units are a network, for the training runs to choose among: shares, fdr, bonferroni "
        "(1%% 0.5%% 2%% 5%% 10%%)",
    )
    question.add_argument("--no-decoder", dest="decoder", action="store_false", help="leave out the linear decoder")
    question.add_argument(
        "--allow-overlap", action="store_true", help="even if training runs show the texts of held-out runs"
    )
    question.add_argument(
        "--n-permutations", type=int, default=1000, metavar="N", help="exchanges of tasks among runs (%(default)s)"
    )
    _finish(question, _identify)


def _add_profile(questions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """`llm2bids networks profile`."""
    question = _add_question(
        questions,
        "profile",
        "where networks lie, and how large their effects are",
        "Units per layer and site, depth, and effects in runs that did not choose the units.",
    )
    question.add_argument(
        "--n-draws", type=int, default=1000, metavar="N", help="exchanges of conditions (%(default)s)"
    )
    _finish(question, _profile)


def _add_connectivity(questions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """`llm2bids networks connectivity`."""
    question = _add_question(
        questions,
        "connectivity",
        "how networks go together over time",
        "Time courses of the networks in every prepared run, their correlation and partial correlation.",
    )
    question.add_argument(
        "--scans", nargs="+", default=[], metavar="TASK", help="tasks whose runs give the time courses (all)"
    )
    question.add_argument(
        "--course",
        choices=["mean", "eigenvariate"],
        default="mean",
        help="how units become one time course: signed mean, or first eigenvariate (%(default)s)",
    )
    question.add_argument(
        "--shared", action="store_true", help="keep units of several networks, although they correlate with themselves"
    )
    question.add_argument(
        "--background", action="store_true", help="take out first what the task does to all prompts of a condition"
    )
    question.add_argument(
        "--confounds",
        nargs="+",
        default=[],
        metavar="NAME",
        help="columns of confounds to take out first, or wildcards",
    )
    _finish(question, _connectivity, draws=False)


def _add_match(questions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """`llm2bids networks match`."""
    question: argparse.ArgumentParser = questions.add_parser(
        "match",
        help="which networks of one set are found again in another",
        description="IoU and correlation of two sets of maps or masks, best one-to-one pairs, and in how many runs "
        "each network of A is found again in B, against chance. A set is a folder of results of glm or ica, another "
        "folder of masks, an image of several maps, a mask, or a pattern in quotes.",
    )
    question.add_argument("a", metavar="A", help="templates")
    question.add_argument("b", metavar="B", help="where they are looked for, e.g. results of llm2bids ica --by run")
    question.add_argument("--out", metavar="DIR", help="folder of results to add the answer to (B)")
    question.add_argument(
        "--bound", type=float, default=0.2, metavar="IOU", help="above which a network is found again (%(default)s)"
    )
    question.add_argument(
        "--n-draws", type=int, default=1000, metavar="N", help="permutations of units within layers (%(default)s)"
    )
    _finish(question, _match)


def _add_question(
    questions: argparse._SubParsersAction[argparse.ArgumentParser], name: str, text: str, description: str
) -> argparse.ArgumentParser:
    """A question with what all of them take first."""
    question: argparse.ArgumentParser = questions.add_parser(name, help=text, description=description)
    question.add_argument("glm_dir", metavar="GLM_DIR", help="results of llm2bids glm")
    add_labels(question)
    question.add_argument(
        "--contrasts", nargs="+", default=[], metavar="NAME", help="which, where a task has several (all)"
    )
    return question


def _finish(question: argparse.ArgumentParser, verb: Any, *, draws: bool = True) -> None:
    """What all questions take last."""
    if draws:
        question.add_argument("--seed", type=int, default=0, metavar="N", help="of all that is drawn (%(default)s)")
    question.add_argument("--overwrite", action="store_true", help="replace what is there")
    question.add_argument("--json", action="store_true", help="print the result for programs")
    question.set_defaults(verb=verb)


def _overlap(args: argparse.Namespace) -> int:
    """Ask, and tell what is shared."""
    from llm2bids.networks.unit_overlap import overlap  # noqa: PLC0415 - takes seconds to import

    return _tell(args, overlap(**options(args)))


def _reliability(args: argparse.Namespace) -> int:
    """Ask, and tell how well networks repeat."""
    from llm2bids.networks.repeatability import reliability  # noqa: PLC0415 - takes seconds to import

    return _tell(args, reliability(**options(args)))


def _identify(args: argparse.Namespace) -> int:
    """Ask, and tell how often the task was told right."""
    from llm2bids.networks.identification_study import identify  # noqa: PLC0415 - takes seconds to import

    return _tell(args, identify(**options(args)))


def _profile(args: argparse.Namespace) -> int:
    """Ask, and tell where networks lie."""
    from llm2bids.networks.depth_profile import profile  # noqa: PLC0415 - takes seconds to import

    return _tell(args, profile(**options(args)))


def _connectivity(args: argparse.Namespace) -> int:
    """Ask, and tell how networks go together."""
    from llm2bids.networks.functional_connectivity import connectivity  # noqa: PLC0415 - takes seconds to import

    return _tell(args, connectivity(**options(args)))


def _match(args: argparse.Namespace) -> int:
    """Ask, and tell what is found again."""
    from llm2bids.networks.matching import match  # noqa: PLC0415 - takes seconds to import

    return _tell(args, [match(**options(args))])


def _tell(args: argparse.Namespace, answers: Sequence[Answer]) -> int:
    """Print the first table of every answer, and where the rest is."""
    if args.json:
        told = [
            {
                "question": one.question,
                "subject": one.subject,
                "site": one.site,
                "tables": {name: plain(table.to_dict("records")) for name, table in one.tables.items()},
                "files": [str(path) for path in one.files],
            }
            for one in answers
        ]
        tell(json.dumps(told, indent=2))
        return 0
    for one in answers:
        first = next(iter(one.tables.values()))
        asked = next((name for name in _SHOWN if one.question.startswith(name)), one.question)
        shown = [name for name in _SHOWN.get(asked, first) if name in first]
        rows = [{str(name): short(value) for name, value in row.items()} for row in first[shown].to_dict("records")]
        tell(f"{one.question}: sub-{one.subject.replace(', ', ', sub-')}, site {one.site or 'unnamed'}")
        tell(format_table(rows), "")
    folders = sorted({str(path.parent) for one in answers for path in one.files})
    tell(f"Tables, figures and what each column means are in {', '.join(folders)}.")
    return 0
