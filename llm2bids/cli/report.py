"""``llm2bids report``: the options of telling a dataset, and where the pages are."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from llm2bids.cli.terminal import options, tell

if TYPE_CHECKING:
    import argparse


def add(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``llm2bids report``."""
    verb = verbs.add_parser(
        "report",
        help="pages that tell a dataset and all results, with a viewer",
        description="Tell a dataset and everything that was made of it on pages that open from the file system, "
        "without a network: report.html, and one page per subject with a viewer of its maps.",
    )
    verb.add_argument("bids_dir", metavar="BIDS_DIR", help="a raw dataset made by record")
    verb.add_argument("--out-dir", metavar="DIR", help="where pages go (BIDS_DIR/derivatives/report)")
    verb.add_argument(
        "--participant-label",
        "--participant_label",
        nargs="+",
        default=[],
        metavar="LABEL",
        help="subjects to tell (all)",
    )
    verb.add_argument(
        "--results", nargs="+", default=[], metavar="DIR", help="folders of results that are not in its derivatives"
    )
    verb.add_argument("--overwrite", action="store_true", help="replace pages that are there")
    verb.add_argument("--json", action="store_true", help="print the result for programs")
    verb.set_defaults(verb=_run)


def _run(args: argparse.Namespace) -> int:
    """Write the pages, and tell where they are."""
    from llm2bids.reporting import report  # noqa: PLC0415 - takes seconds to import

    made = report(**options(args))
    if args.json:
        subjects = {label: str(path) for label, path in made.subjects.items()}
        tell(json.dumps({"page": str(made.page), "subjects": subjects, "panels": made.panels}, indent=2))
    else:
        tell(*(f"{path}" for path in made.subjects.values()), f"To open in a browser: {made.page}")
    return 0
