"""``llm2bids demo``: the options of the demo, and its results as text."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from llm2bids.cli.arguments import add_options, values_of
from llm2bids.cli.terminal import format_table, tell

if TYPE_CHECKING:
    import argparse

    from llm2bids.demonstration import Demo

_COLUMNS: Final = {
    "task": "",
    "planted": "units of the task's network, known by construction",
    "found": "units that glm found, at a false discovery rate of .05",
    "false": "found and not planted",
    "dice": "1 where found and planted are the same",
    "iou": "1 where the planted network is one that ica found, which is not told what was shown when",
    "bits": "more per token of unseen texts on the topic, once the network that glm found is silenced",
    "percentile": "of that lesion among random ones of as many units of like activation",
}
"""Columns that are printed, with their meaning."""


def add(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``llm2bids demo``."""
    from llm2bids.demonstration.commands import DemoOptions  # noqa: PLC0415

    verb = verbs.add_parser("demo", help="the whole chain on the phantom, planted against found, in a minute")
    add_options(verb, DemoOptions)
    verb.set_defaults(verb=_run)


def _run(args: argparse.Namespace) -> int:
    """Run the demo and print its results."""
    from llm2bids.demonstration import demo  # noqa: PLC0415 - takes seconds to import

    result = demo(**values_of(args))
    errors = sum(validation.n_errors for validation in result.validations)
    tell(_json(args.bids_dir, result, errors) if args.json else _text(args.bids_dir, result))
    return int(errors > 0)


def _json(bids_dir: str, result: Demo, errors: int) -> str:
    """Write the results for programs."""
    fields = {
        "bids_dir": bids_dir,
        "errors": errors,
        "page": str(result.page),
        "tasks": result.table.to_dict("records"),
        "dissociation": json.loads(result.dissociation.to_json(orient="records")),
        "commands": result.commands,
    }
    return json.dumps(fields, indent=2)


def _text(bids_dir: str, result: Demo) -> str:
    """Write the table, the meaning of its columns, and where the results are."""
    table = result.table
    rows = [{str(name): value for name, value in row.items()} for row in table[list(_COLUMNS)].to_dict("records")]
    share = (table["false"] / table["found"].clip(lower=1)).mean()
    lines = [
        *(validation.summary() for validation in result.validations),
        "",
        format_table(rows),
        "",
        *(f"{name}: {text}" for name, text in _COLUMNS.items() if text),
        "",
        f"The false discovery rate is an average: {share:.3f} here, .039 over 10 longer recordings (see README.md).",
        f"The dataset is in {bids_dir}: networks in its derivatives/glm and ica, masks for the model in masks, what",
        "silenced networks do in lesion, volumes for any other fMRI program in llm2bids.",
        f"All of this as a page to open in a browser: {result.page}",
    ]
    return "\n".join(lines)
