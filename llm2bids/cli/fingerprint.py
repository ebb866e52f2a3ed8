"""``llm2bids fingerprint``: compare two models on one set of texts, and print the score."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from llm2bids.cli.arguments import add_options, values_of
from llm2bids.cli.terminal import format_table, plain, short, tell
from llm2bids.networks.settings import FingerprintOptions

if TYPE_CHECKING:
    import argparse


def add(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``llm2bids fingerprint``."""
    verb = verbs.add_parser(
        "fingerprint",
        help="compare the networks of two models over the same texts",
        description="Spearman correlation of the time courses of all networks of two models over the texts that both "
        "were shown; best one-to-one pairs, their mean, and what unrelated texts give.",
    )
    add_options(verb, FingerprintOptions)
    verb.set_defaults(verb=_run)


def _run(args: argparse.Namespace) -> int:
    """Compare, and print the score."""
    from llm2bids.networks.fingerprinting import fingerprint  # noqa: PLC0415 - takes seconds to import

    answer = fingerprint(**values_of(args))
    tables = {name: plain(table.to_dict("records")) for name, table in answer.tables.items()}
    if args.json:
        tell(json.dumps({"tables": tables, "files": [str(path) for path in answer.files]}, indent=2))
        return 0
    rows = [{key: short(value) for key, value in row.items()} for row in tables["score"]]
    tell(format_table(rows), "", f"Tables, figure and what each column means are in {answer.files[0].parent}.")
    return 0
