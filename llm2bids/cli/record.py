"""``llm2bids record``: the options of a recording, and the list of its files."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from llm2bids.cli.arguments import add_options, values_of
from llm2bids.cli.terminal import format_table, tell

if TYPE_CHECKING:
    import argparse


def add(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``llm2bids record``."""
    from llm2bids.recording.settings import RecordOptions  # noqa: PLC0415

    verb = verbs.add_parser(
        "record",
        help="show a model a task and write its activations as BIDS",
        description="Show a model a task and write the activations of its units as a BIDS dataset: one scan per token, "
        "one voxel per unit.",
    )
    add_options(verb, RecordOptions)
    verb.set_defaults(verb=_run)


def _run(args: argparse.Namespace) -> int:
    """Record, and list the runs."""
    from llm2bids.recording import record  # noqa: PLC0415 - takes seconds to import

    rows = [
        {
            "file": str(recording.bold),
            "scans": recording.n_scans,
            "units": recording.space.n_units,
            "space": recording.space.label,
            "MB": round(recording.bold.stat().st_size / 1e6, 1),
            "state": "was there" if recording.skipped else "written",
        }
        for recording in record(**values_of(args))
    ]
    tell(json.dumps(rows, indent=2) if args.json else format_table(rows))
    return 0
