"""``llm2bids prep``: the options of preparing, and the list of what was written."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from llm2bids.cli.terminal import add_labels, add_work, format_table, options, tell

if TYPE_CHECKING:
    import argparse


def add(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``llm2bids prep``."""
    verb = verbs.add_parser(
        "prep",
        help="prepare recordings for statistics, in every fMRI program",
        description="Prepare recordings as derivatives/llm2bids: every unit on one scale that nilearn, FSL, SPM and "
        "AFNI take, confounds, masks, an atlas of layers.",
    )
    verb.add_argument("bids_dir", metavar="BIDS_DIR", help="a raw dataset made by record")
    verb.add_argument("--fsl", action="store_true", help="write EV files and designs for FSL too")
    add_labels(verb)
    add_work(verb)
    verb.set_defaults(verb=_run)


def _run(args: argparse.Namespace) -> int:
    """Prepare, and tell what was written."""
    from llm2bids.preparation import prep  # noqa: PLC0415 - takes seconds to import

    rows = [
        {
            "file": str(one.bold),
            "scans": one.n_scans,
            "units": one.n_units,
            "varying": one.n_varying,
            "clipped": one.n_clipped,
            "state": "was there" if one.skipped else "written",
        }
        for one in prep(**options(args))
    ]
    tell(json.dumps(rows, indent=2) if args.json else format_table(rows))
    return 0
