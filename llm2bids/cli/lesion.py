"""``llm2bids lesion``: its options, and the tables of scores."""

from __future__ import annotations

import json
from math import isnan
from typing import TYPE_CHECKING

from llm2bids.bids.names import short_names
from llm2bids.cli.arguments import add_options, values_of
from llm2bids.cli.terminal import format_table, tell

if TYPE_CHECKING:
    import argparse

    from llm2bids.lesioning import LesionScore


def add(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``llm2bids lesion``."""
    from llm2bids.lesioning.settings import LesionOptions  # noqa: PLC0415

    verb = verbs.add_parser(
        "lesion",
        help="silence or change units, and see what the model can no longer do",
        description="Run a model intact, lesioned, and with random units lesioned instead, and score it on texts and "
        "tasks.",
    )
    add_options(verb, LesionOptions)
    verb.set_defaults(verb=_run)


def _run(args: argparse.Namespace) -> int:
    """Lesion, and print the scores."""
    from llm2bids.lesioning import lesion_study  # noqa: PLC0415 - takes seconds to import

    results = lesion_study(**values_of(args))
    if args.json:
        rows = json.loads(results.table.to_json(orient="records"))
        summary = json.loads(results.summary.to_json(orient="records"))
        tell(json.dumps({"summary": summary, "scores": rows, "files": [str(path) for path in results.files]}, indent=2))
        return 0
    masks = list(dict.fromkeys(score.mask for score in results.scores))
    names = dict(zip(masks, short_names(masks), strict=True))  # files have the full names
    conditions = names | {f"random for {name}": f"random for {short}" for name, short in names.items()}
    summary = [
        {name: conditions.get(value, _text(value)) for name, value in row.items() if name != "runs"}
        for row in results.summary.to_dict("records")
    ]
    omitted = {"bits_per_token", "accuracy_parsed", "parse_failures"}  # in the files; the last in the summary too
    scores = [_row(score, names[score.mask]) for score in results.scores if score.score not in omitted]
    tell(format_table(summary), "", format_table(scores), "", *(str(path) for path in results.files))
    return 0


def _text(value: str | float | None) -> str:
    """A value as it is printed: shares and scores with three digits."""
    if value is None or (isinstance(value, float) and isnan(value)):  # a column of numbers holds NaN for None
        return "n/a"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _row(score: LesionScore, mask: str) -> dict[str, object]:
    """A row of the second table: a lesion against its random masks."""
    low, high = score.interval
    return {
        "mask": mask,
        "text": score.material,
        "score": score.score,
        "intact": _text(score.before),
        "lesioned": _text(score.after),
        "random": _text(score.control_mean),
        "percentile": f"{score.percentile:.0f} ({low:.0f} to {high:.0f})" if score.comparable else "n/a",
    }
