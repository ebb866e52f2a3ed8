"""``llm2bids glm``: the options of an analysis, and the list of its results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from llm2bids.cli.arguments import add_options, values_of
from llm2bids.cli.terminal import format_table, tell

if TYPE_CHECKING:
    import argparse


def add(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``llm2bids glm``."""
    from llm2bids.statistics.settings import GLMOptions  # noqa: PLC0415

    verb = verbs.add_parser(
        "glm",
        help="find the units that answer to a task",
        description="Linear models by nilearn: effects, tests and networks of each subject, task and site, or over "
        "subjects.",
    )
    add_options(verb, GLMOptions)
    verb.set_defaults(verb=_run)


def _run(args: argparse.Namespace) -> int:
    """Analyse, and list the results."""
    from llm2bids.statistics import glm  # noqa: PLC0415 - takes seconds to import

    if args.out_dir in {"participant", "group"} and not Path(args.out_dir).exists():
        args.out_dir, args.analysis_level = None, args.out_dir  # the folder was left out, not the level
    results = glm(**values_of(args))
    if args.json:
        tell(json.dumps([result.to_json() for result in results], indent=2, default=str))
        return 0
    rows = [
        {
            "subject": result.subject,
            "task": result.task,
            "site": result.site,
            "contrast": result.contrast,
            "tested": result.n_tested,
            "found": result.n_selected,
            "from |z|": "-" if result.threshold is None else f"{result.threshold:.2f}",
            "state": "was there" if result.skipped else "written",
        }
        for result in results
    ]
    home = args.options(**values_of(args)).home
    tell(format_table(rows), "", f"Maps, networks and a page per subject are in {home}.")
    if args.analysis_level == "participant" and args.inference == "token":
        tell("Tokens are not independent samples: these are too many. For claims use --inference prompt.")
    return 0
