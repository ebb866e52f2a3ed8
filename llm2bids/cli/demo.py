"""``llm2bids demo``: the options of the demo, and what it says in the end."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from llm2bids.cli.terminal import format_table, tell

if TYPE_CHECKING:
    import argparse


def add(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``llm2bids demo``.

    Parameters
    ----------
    verbs : argparse._SubParsersAction
        The verbs of ``llm2bids``; one more afterwards.
    """
    verb = verbs.add_parser("demo", help="the whole chain on the phantom, planted against found")
    verb.add_argument(
        "bids_dir", nargs="?", default="llm2bids-demo", metavar="DIR", help="dataset to make (%(default)s)"
    )
    verb.add_argument("--overwrite", action="store_true", help="replace a demo that is there")
    verb.add_argument("--json", action="store_true", help="print the result for programs")
    verb.set_defaults(verb=_run)


def _run(args: argparse.Namespace) -> int:
    """Run the demo and tell what it found."""
    from llm2bids.demo import demo  # noqa: PLC0415 - takes seconds to import

    table, validations = demo(args.bids_dir, overwrite=args.overwrite)
    errors = sum(validation.n_errors for validation in validations)
    if args.json:
        tell(json.dumps({"bids_dir": args.bids_dir, "errors": errors, "tasks": table.to_dict("records")}, indent=2))
        return int(errors > 0)
    rows = [{str(key): value for key, value in row.items()} for row in table.to_dict("records")]
    tell(*(validation.summary() for validation in validations), "", format_table(rows), "")
    tell("planted: units of the task's network, known by construction; found: units at a false discovery rate of .05")
    share = (table["false"] / table["found"].clip(lower=1)).mean()
    tell("hits: found and planted; false: found and not planted; dice: 1 where both are the same")
    tell(f"The rate is one on average, and {share:.3f} here; over 10 such recordings it was .039 (see README.md).")
    tell(f"The dataset is in {args.bids_dir}. Networks and a page to open in a browser are in its derivatives/glm,")
    tell("masks for the model in derivatives/masks, volumes for any other fMRI program in derivatives/llm2bids.")
    return int(errors > 0)
