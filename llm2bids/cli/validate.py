"""``llm2bids validate``: errors and warnings of the validator; exit code 1 if there are errors."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from llm2bids.cli.arguments import add_options, values_of
from llm2bids.cli.terminal import tell

if TYPE_CHECKING:
    import argparse


def add(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``llm2bids validate``."""
    from llm2bids.validation import ValidateOptions  # noqa: PLC0415

    verb = verbs.add_parser(
        "validate",
        help="run the official BIDS validator; exit 1 if it finds errors",
        description="Run the official BIDS validator on a dataset and on each of its derivatives.",
    )
    add_options(verb, ValidateOptions)
    verb.set_defaults(verb=_run)


def _run(args: argparse.Namespace) -> int:
    """Validate, and print errors and warnings."""
    from dataclasses import asdict  # noqa: PLC0415

    from llm2bids.validation import validate  # noqa: PLC0415 - keeps --help fast

    validations = validate(**values_of(args))
    if args.json:
        tell(json.dumps([asdict(validation) for validation in validations], indent=2, default=str))
    else:
        tell(*(validation.summary() for validation in validations))
    return int(any(validation.n_errors for validation in validations))
