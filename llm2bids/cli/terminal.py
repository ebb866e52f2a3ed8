"""What verbs share at the terminal: options that mean the same to each, and results as text."""

from __future__ import annotations

import argparse
import math
import sys
from typing import Any


def add_labels(verb: argparse.ArgumentParser) -> None:
    """Add the options that say which runs, as BIDS apps name them."""
    labels = verb.add_argument_group("which runs (all)")
    for option in ("participant", "task"):
        labels.add_argument(f"--{option}-label", f"--{option}_label", nargs="+", default=[], metavar="LABEL")
    labels.add_argument("--sites", nargs="+", default=[], metavar="SITE")


def add_work(verb: argparse.ArgumentParser) -> None:
    """Add the options that say how the work is done, and what may happen to what is there."""
    work = verb.add_argument_group("work")
    work.add_argument("--n-jobs", type=processes, default=1, metavar="N", help="processes; -1 for all (%(default)s)")
    work.add_argument("--resume", action="store_true", help="leave alone what is there and up to date, do the rest")
    work.add_argument("--overwrite", action="store_true", help="replace what is there")
    work.add_argument("--json", action="store_true", help="print the result for programs")


def processes(text: str) -> int:
    """A number of processes."""
    number = int(text)
    if number < 1 and number != -1:
        raise argparse.ArgumentTypeError(f"{text} processes found; 1 or more needed, or -1 for all")
    return number


def options(args: argparse.Namespace) -> dict[str, Any]:
    """What goes to the function of a verb.

    Returns the arguments without those that only the command line knows.
    """
    return {key: value for key, value in vars(args).items() if key not in {"verb", "json", "options"}}


def format_table(rows: list[dict[str, Any]]) -> str:
    """Rows as aligned text with a header; numbers to the right."""
    if not rows:
        return "nothing"
    cells = [[str(key) for key in rows[0]], *([str(value) for value in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    right = [isinstance(value, int | float) for value in rows[0].values()]
    lines = (
        "  ".join(
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(line, widths, right, strict=True)
        )
        for line in cells
    )
    return "\n".join(line.rstrip() for line in lines)


def short(value: Any) -> Any:
    """A value as a table shows it.

    Returns numbers with three digits after the point, a dash for what is not there; all else as it is.

    >>> [short(value) for value in (0.12345, math.nan, None, 3, "block")]
    ['0.123', '-', '-', 3, 'block']
    """
    if value is None:
        return "-"
    if not isinstance(value, float):
        return value
    return "-" if math.isnan(value) else f"{value:.3f}"


def plain(rows: list[dict[Any, Any]]) -> list[dict[str, Any]]:
    """Rows as JSON can say them.

    Returns the same; None for NaN, which JSON does not know.

    >>> plain([{"score": math.nan, "texts": 3}])
    [{'score': None, 'texts': 3}]
    """
    return [
        {str(key): None if isinstance(value, float) and math.isnan(value) else value for key, value in row.items()}
        for row in rows
    ]


def tell(*texts: str) -> None:
    """Write results to standard output."""
    sys.stdout.write("\n".join(texts) + "\n")
