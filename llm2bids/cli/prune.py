"""``llm2bids prune``: its options, and the table of what was removed and set to 0."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from llm2bids.cli.arguments import add_options, values_of
from llm2bids.cli.terminal import format_table, tell

if TYPE_CHECKING:
    import argparse

    from llm2bids.pruning import PrunedModel


def add(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``llm2bids prune``."""
    from llm2bids.pruning.settings import PruneOptions  # noqa: PLC0415

    verb = verbs.add_parser(
        "prune",
        help="take the units of a mask out of a model and save the smaller one",
        description="Take neurons or heads out of a model and save what is left as a smaller model that plain "
        "from_pretrained loads. It equals the model with these units held at 0. Where blocks lose unequal numbers and "
        "the architecture has one width for all, the rest is set to 0 in its place.",
    )
    add_options(verb, PruneOptions)
    verb.set_defaults(verb=_run)


def _run(args: argparse.Namespace) -> int:
    """Prune, and print what was done."""
    from llm2bids.pruning import prune  # noqa: PLC0415 - takes seconds to import

    pruned = prune(**values_of(args))
    tell(json.dumps(pruned.report, indent=2) if args.json else _text(pruned))
    return 0


def _text(pruned: PrunedModel) -> str:
    """Blocks as rows, then the sums."""
    report = pruned.report
    rows: list[dict[str, Any]] = [
        {
            "block": hookpoint["Block"],
            f"{report['Site']} channels": hookpoint["Channels"],
            "removed": len(hookpoint["Removed"]),
            "set to 0": len(hookpoint["Zeroed"]),
        }
        for hookpoint in report["Hookpoints"]
    ]
    parameters, scores = report["Parameters"], report.get("Perplexity")
    lines = [format_table(rows)]
    if report["Obstacle"]:
        lines.append(f"nothing was removed: {report['Obstacle']}")
    lines.append(
        f"parameters {parameters['Before']:,} → {parameters['After']:,}, of these set to 0: {parameters['Zeroed']:,}"
    )
    if scores:
        lines.append(f"perplexity on {scores['Text']} {scores['Before']:.4g} → {scores['After']:.4g}")
    return "\n".join([*lines, str(pruned.folder)])
