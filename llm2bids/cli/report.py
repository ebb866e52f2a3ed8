"""``llm2bids report``: the options of a report, and where its pages are."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from llm2bids.cli.arguments import add_options, values_of
from llm2bids.cli.terminal import tell

if TYPE_CHECKING:
    import argparse


def add(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``llm2bids report``."""
    from llm2bids.reporting.settings import ReportOptions  # noqa: PLC0415

    verb = verbs.add_parser(
        "report",
        help="pages about a dataset and all its results, with a viewer",
        description="Write pages about a dataset and all its results, which open from the file system, without a "
        "network: report.html, and a page per subject with a viewer of its maps.",
    )
    add_options(verb, ReportOptions)
    verb.set_defaults(verb=_run)


def _run(args: argparse.Namespace) -> int:
    """Write the pages, and say where they are."""
    from llm2bids.reporting import report  # noqa: PLC0415 - takes seconds to import

    pages = report(**values_of(args))
    if args.json:
        subjects = {label: str(path) for label, path in pages.subjects.items()}
        tell(json.dumps({"page": str(pages.page), "subjects": subjects, "panels": pages.panels}, indent=2))
    else:
        tell(*map(str, pages.subjects.values()), f"To open in a browser: {pages.page}")
    return 0
