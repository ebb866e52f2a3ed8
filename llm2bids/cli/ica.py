"""``llm2bids ica``: decompose prepared runs, and list the results."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from llm2bids.cli.arguments import add_options, values_of
from llm2bids.cli.terminal import format_table, tell
from llm2bids.decomposition.settings import ICAOptions

if TYPE_CHECKING:
    import argparse


def add(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``llm2bids ica``."""
    verb = verbs.add_parser(
        "ica",
        help="find networks without a task",
        description="Independent components of prepared runs: maps, networks, time courses, and how well they repeat.",
    )
    add_options(verb, ICAOptions)
    verb.set_defaults(verb=_run)


def _run(args: argparse.Namespace) -> int:
    """Decompose, and list the results."""
    from llm2bids.decomposition import ica  # noqa: PLC0415 - takes seconds to import

    options = ICAOptions(**values_of(args))
    results = ica(options)  # type: ignore[arg-type]
    if args.json:
        tell(json.dumps([result.to_json() for result in results], indent=2, default=str))
        return 0
    rows = [
        {
            "what": result.name,
            "space": result.space,
            "runs": result.n_runs,
            "samples": result.n_samples,
            "units": result.n_units,
            "components": result.n_components,
            "state": "was there" if result.skipped else "written",
        }
        for result in results
    ]
    tell(format_table(rows), "", f"Maps, networks and time courses are in {options.home}.")
    return 0
