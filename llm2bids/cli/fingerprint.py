"""``llm2bids fingerprint``: two models on one set of texts, and how alike their networks run."""

from __future__ import annotations

import argparse
import json

from llm2bids.cli.terminal import format_table, options, plain, short, tell


def add(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``llm2bids fingerprint``."""
    verb = verbs.add_parser(
        "fingerprint",
        help="how alike the networks of two models run over the same texts",
        description="Spearman correlation of the time courses of all networks of two models over the texts that both "
        "were shown; best one-to-one pairs, their mean, and what unrelated texts give.",
    )
    verb.add_argument("a", metavar="A", help="what llm2bids ica made of one model: its folder, or one ica.json")
    verb.add_argument("b", metavar="B", help="what it made of the other")
    verb.add_argument("--out", metavar="DIR", help="folder of results to add the answer to (A)")
    verb.add_argument(
        "--level",
        choices=["auto", "prompt", "token"],
        default="auto",
        help="means over texts, or tokens, which both models must have alike (%(default)s)",
    )
    verb.add_argument("--n-draws", type=int, default=1000, metavar="N", help="permutations of texts (%(default)s)")
    verb.add_argument("--seed", type=int, default=0, metavar="N", help="of all that is drawn (%(default)s)")
    verb.add_argument("--overwrite", action="store_true", help="replace what is there")
    verb.add_argument("--json", action="store_true", help="print the result for programs")
    verb.set_defaults(verb=_run)


def _run(args: argparse.Namespace) -> int:
    """Compare, and tell the score."""
    from llm2bids.networks.fingerprinting import fingerprint  # noqa: PLC0415 - takes seconds to import

    answer = fingerprint(**options(args))
    tables = {name: plain(table.to_dict("records")) for name, table in answer.tables.items()}
    if args.json:
        tell(json.dumps({"tables": tables, "files": [str(path) for path in answer.files]}, indent=2))
        return 0
    rows = [{key: short(value) for key, value in row.items()} for row in tables["score"]]
    tell(format_table(rows), "", f"Tables, figure and what each column means are in {answer.files[0].parent}.")
    return 0
