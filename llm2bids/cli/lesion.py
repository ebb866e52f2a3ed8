"""``llm2bids lesion``: its options, and the table of scores."""

from __future__ import annotations

import json
from math import isnan
from typing import TYPE_CHECKING

from llm2bids.bids.names import short_names
from llm2bids.cli.model import add_model_options
from llm2bids.cli.terminal import format_table, options, tell

if TYPE_CHECKING:
    import argparse

    from llm2bids.lesioning import LesionScore


def add(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``llm2bids lesion``."""
    verb = verbs.add_parser(
        "lesion",
        help="silence or change units, and see what the model can no longer do",
        description="Run a model intact, lesioned, and with random units lesioned instead, and score it on texts and "
        "tasks.",
    )
    verb.add_argument("out_dir", metavar="OUT_DIR", help="folder for tables, pictures and sidecar")
    verb.add_argument("--model", default="phantom", metavar="phantom|DIR|HUB_ID", help="the model (%(default)s)")
    verb.add_argument("--mask", dest="masks", nargs="+", required=True, metavar="FILE", help="masks, each a lesion")
    verb.add_argument("--like", metavar="FILE", help="image or sidecar of ours that says which voxel is which unit")
    _add_surgery(verb.add_argument_group("what is done"))
    _add_materials(verb.add_argument_group("what is scored"))
    _add_controls(verb.add_argument_group("random masks"))
    _add_work(verb.add_argument_group("work"))
    verb.set_defaults(verb=_run)


def _add_surgery(group: argparse._ArgumentGroup) -> None:
    """What is done to units, and when."""
    group.add_argument(
        "--method",
        default="zero",
        metavar="METHOD",
        help="zero, mean, scale:X, add:X, push:X (X times their mean) (zero)",
    )
    group.add_argument("--keep", action="store_true", help="do it to all units but those of the mask")
    group.add_argument(
        "--union",
        type=int,
        nargs="+",
        default=[],
        metavar="N",
        help="lesion the first N masks together, not each by itself",
    )
    group.add_argument(
        "--keep-union", type=int, nargs="+", default=[], metavar="N", help="the same, but to all units but theirs"
    )
    group.add_argument(
        "--positions",
        choices=["all", "prompt", "generated"],
        default="all",
        help="at which tokens; prompt and generated for task files only (%(default)s)",
    )


def _add_materials(group: argparse._ArgumentGroup) -> None:
    """What the model reads and answers."""
    group.add_argument("--text", nargs="+", default=[], metavar="FILE", help="texts in UTF-8, each one document")
    group.add_argument("--lines", action="store_true", help="each line of a text is a document")
    group.add_argument(
        "--task-file",
        dest="task",
        nargs="+",
        default=[],
        metavar="FILE",
        help=".tsv or .jsonl with prompt, answer and, to choose from, options (a|b|c)",
    )
    group.add_argument(
        "--answers",
        choices=["likelihood", "generate"],
        default="likelihood",
        help="take the likeliest option, or look for one in what the model says (%(default)s)",
    )
    group.add_argument("--new-tokens", type=int, default=24, metavar="N", help="tokens generated (%(default)s)")
    group.add_argument(
        "--generations", type=int, default=2, metavar="N", help="texts per file continued side by side (%(default)s)"
    )
    group.add_argument("--window", type=int, metavar="N", help="tokens read together (the context, 2048 at most)")
    group.add_argument("--stride", type=int, metavar="N", help="tokens from one window to the next (half a window)")
    group.add_argument(
        "--dissociation", action="store_true", help="every mask against every text, as a table and a picture"
    )
    group.add_argument(
        "--allow-overlap",
        action="store_true",
        help="score networks on texts by which they were defined too; known are whole lines, documents and prompts",
    )


def _add_controls(group: argparse._ArgumentGroup) -> None:
    """What lesions are held against."""
    group.add_argument("--controls", type=int, default=100, metavar="N", help="per lesion (%(default)s)")
    group.add_argument(
        "--control",
        choices=["matched", "layer", "uniform"],
        default="matched",
        help="as many units per layer and activation, per layer, or overall (%(default)s)",
    )
    group.add_argument("--seed", type=int, default=0, metavar="N", help="of the draws (%(default)s)")
    group.add_argument("--reference", metavar="FILE", help="text over which activations are averaged (what is scored)")


def _add_work(group: argparse._ArgumentGroup) -> None:
    """How the model runs, and what may happen to what is there."""
    add_model_options(group, "texts")
    group.add_argument("--resume", action="store_true", help="go on with what was broken off")
    group.add_argument("--overwrite", action="store_true", help="replace what is there")
    group.add_argument("--json", action="store_true", help="print the result for programs")


def _run(args: argparse.Namespace) -> int:
    """Lesion, and tell what it did."""
    from llm2bids.lesioning import lesion  # noqa: PLC0415 - takes seconds to import

    found = lesion(**options(args))
    if args.json:
        rows = json.loads(found.table.to_json(orient="records"))
        summary = json.loads(found.summary.to_json(orient="records"))
        tell(json.dumps({"summary": summary, "scores": rows, "files": [str(path) for path in found.files]}, indent=2))
        return 0
    masks = list(dict.fromkeys(one.mask for one in found.scores))
    names = dict(zip(masks, short_names(masks), strict=True))  # files have the full names
    conditions = names | {f"random for {name}": f"random for {short}" for name, short in names.items()}
    summary = [
        {name: conditions.get(value, _plain(value)) for name, value in row.items() if name != "runs"}
        for row in found.summary.to_dict("records")
    ]
    apart = {"bits_per_token", "accuracy_parsed", "parse_failures"}  # in the files; the last in the summary too
    against = [_against(one, names[one.mask]) for one in found.scores if one.score not in apart]
    tell(format_table(summary), "", format_table(against), "", *(str(path) for path in found.files))
    return 0


def _plain(value: str | float | None) -> str:
    """A value as it is printed: shares and scores with three digits."""
    if value is None or (isinstance(value, float) and isnan(value)):  # a column of numbers holds NaN for None
        return "n/a"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _against(score: LesionScore, mask: str) -> dict[str, object]:
    """A row of the second table: a lesion against its controls."""
    low, high = score.interval
    return {
        "mask": mask,
        "text": score.material,
        "score": score.score,
        "intact": _plain(score.before),
        "lesioned": _plain(score.after),
        "random": _plain(score.control_mean),
        "percentile": f"{score.percentile:.0f} ({low:.0f} to {high:.0f})" if score.known else "n/a",
    }
