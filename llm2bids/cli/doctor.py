"""``llm2bids doctor``: a table of what this machine has, and what to do about the rest."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from llm2bids.cli.terminal import format_table, tell

if TYPE_CHECKING:
    import argparse


def add(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``llm2bids doctor``."""
    verb = verbs.add_parser(
        "doctor",
        help="is everything here that is needed? exit 1 if not",
        description="Compare versions of libraries, the validator, device, memory and disk with what is needed.",
    )
    verb.add_argument("--json", action="store_true", help="print the result for programs")
    verb.set_defaults(verb=_run)


def _run(args: argparse.Namespace) -> int:
    """Check, and list what needs mending."""
    from dataclasses import asdict  # noqa: PLC0415

    from llm2bids.diagnosis import doctor  # noqa: PLC0415 - keeps --help fast

    checks = doctor()
    failed = [check for check in checks if check.state != "ok"]
    if args.json:
        tell(json.dumps([asdict(check) for check in checks], indent=2))
        return int(bool(failed))
    columns = ("name", "state", "found", "needed")
    rows = [{key: asdict(check)[key] for key in columns} for check in checks]
    advice = [f"{check.name}: {check.advice}" for check in failed]
    tell(format_table(rows), "", *(advice or ["All is well; go on with llm2bids demo."]))
    return int(bool(failed))
