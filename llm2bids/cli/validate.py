"""``llm2bids validate``: errors and warnings of the validator; exit code 1 if there are errors."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from llm2bids.cli.terminal import tell

if TYPE_CHECKING:
    import argparse


def add(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``llm2bids validate``."""
    verb = verbs.add_parser(
        "validate",
        help="run the official BIDS validator; exit 1 if it finds errors",
        description="Run the official BIDS validator on a dataset and on each of its derivatives.",
    )
    verb.add_argument("bids_dir", metavar="DIR", help="a raw dataset or a derivative")
    verb.add_argument("--json", action="store_true", help="print the result for programs")
    verb.set_defaults(verb=_run)


def _run(args: argparse.Namespace) -> int:
    """Validate, and print errors and warnings."""
    from dataclasses import asdict  # noqa: PLC0415

    from llm2bids.validation import validate  # noqa: PLC0415 - keeps --help fast

    validations = validate(args.bids_dir)
    if args.json:
        tell(json.dumps([asdict(validation) for validation in validations], indent=2, default=str))
    else:
        tell(*(validation.summary() for validation in validations))
    return int(any(validation.n_errors for validation in validations))
