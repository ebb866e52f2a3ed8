"""``llm2bids prep``: the options of preparing, and the list of what was written."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from llm2bids.cli.arguments import add_options, values_of
from llm2bids.cli.terminal import format_table, tell

if TYPE_CHECKING:
    import argparse


def add(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``llm2bids prep``."""
    from llm2bids.preparation.settings import PrepOptions  # noqa: PLC0415

    verb = verbs.add_parser(
        "prep",
        help="prepare recordings for statistics, in every fMRI program",
        description="Prepare recordings as derivatives/llm2bids: every unit on one scale that nilearn, FSL, SPM and "
        "AFNI take, confounds, masks, an atlas of layers.",
    )
    add_options(verb, PrepOptions)
    verb.set_defaults(verb=_run)


def _run(args: argparse.Namespace) -> int:
    """Prepare, and list the runs."""
    from llm2bids.preparation import prep  # noqa: PLC0415 - takes seconds to import

    rows = [
        {
            "file": str(result.bold),
            "scans": result.n_scans,
            "units": result.n_units,
            "varying": result.n_varying,
            "clipped": result.n_clipped,
            "state": "was there" if result.skipped else "written",
        }
        for result in prep(**values_of(args))
    ]
    tell(json.dumps(rows, indent=2) if args.json else format_table(rows))
    return 0
