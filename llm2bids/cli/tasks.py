"""``llm2bids tasks``: the list of the built-in tasks."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from llm2bids.cli.terminal import format_table, tell

if TYPE_CHECKING:
    import argparse


def add(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``llm2bids tasks``."""
    verb = verbs.add_parser("tasks", help="list the built-in tasks")
    verb.add_argument("--json", action="store_true", help="print the result for programs")
    verb.set_defaults(verb=_run)


def _run(args: argparse.Namespace) -> int:
    """List the built-in tasks."""
    from llm2bids.task import builtin_tasks  # noqa: PLC0415 - keeps --help fast

    rows = [{"task": name, "description": text} for name, text in builtin_tasks().items()]
    tell(json.dumps(rows, indent=2) if args.json else format_table(rows))
    return 0
