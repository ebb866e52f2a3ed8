"""``llm2bids demo``: the options of the demo, and what it says in the end."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from llm2bids.cli.terminal import format_table, tell

if TYPE_CHECKING:
    import argparse

    from llm2bids.demonstration import Demo

_SHOWN: Final = {
    "task": "",
    "planted": "units of the task's network, known by construction",
    "found": "units that glm found, at a false discovery rate of .05",
    "false": "found and not planted",
    "dice": "1 where found and planted are the same",
    "iou": "1 where the planted network is one that ica found, which is not told what was shown when",
    "bits": "more per token of unseen texts on the topic, once the network that glm found is silenced",
    "percentile": "of that lesion among random ones of as many units of like activation",
}
"""Columns that are printed, and what they mean."""


def add(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``llm2bids demo``."""
    verb = verbs.add_parser("demo", help="the whole chain on the phantom, planted against found, in a minute")
    verb.add_argument(
        "bids_dir", nargs="?", default="llm2bids-demo", metavar="DIR", help="dataset to make (%(default)s)"
    )
    verb.add_argument("--overwrite", action="store_true", help="replace a demo that is there")
    verb.add_argument("--json", action="store_true", help="print the result for programs")
    verb.set_defaults(verb=_run)


def _run(args: argparse.Namespace) -> int:
    """Run the demo and tell what it found."""
    from llm2bids.demonstration import demo  # noqa: PLC0415 - takes seconds to import

    found = demo(args.bids_dir, overwrite=args.overwrite)
    errors = sum(validation.n_errors for validation in found.validations)
    tell(_json(args.bids_dir, found, errors) if args.json else _text(args.bids_dir, found))
    return int(errors > 0)


def _json(bids_dir: str, found: Demo, errors: int) -> str:
    """All of it for programs."""
    told = {
        "bids_dir": bids_dir,
        "errors": errors,
        "page": str(found.page),
        "tasks": found.table.to_dict("records"),
        "dissociation": json.loads(found.dissociation.to_json(orient="records")),
        "commands": found.commands,
    }
    return json.dumps(told, indent=2)


def _text(bids_dir: str, found: Demo) -> str:
    """The table, what its columns mean, and where everything is."""
    table = found.table
    rows = [{str(name): value for name, value in row.items()} for row in table[list(_SHOWN)].to_dict("records")]
    share = (table["false"] / table["found"].clip(lower=1)).mean()
    lines = [
        *(validation.summary() for validation in found.validations),
        "",
        format_table(rows),
        "",
        *(f"{name}: {text}" for name, text in _SHOWN.items() if text),
        "",
        f"The false discovery rate is an average: {share:.3f} here, .039 over 10 longer recordings (see README.md).",
        f"The dataset is in {bids_dir}: networks in its derivatives/glm and ica, masks for the model in masks, what",
        "silenced networks do in lesion, volumes for any other fMRI program in llm2bids.",
        f"All of this as a page to open in a browser: {found.page}",
    ]
    return "\n".join(lines)
