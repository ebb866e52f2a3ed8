"""``llm2bids ica``: the options of a decomposition, and the list of what was found."""

from __future__ import annotations

import argparse
import json
from typing import Literal

from llm2bids.cli.terminal import add_labels, add_work, format_table, options, tell


def add(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``llm2bids ica``."""
    verb = verbs.add_parser(
        "ica",
        help="find networks without a task",
        description="Independent components of prepared runs: maps, networks, time courses, and how well they repeat.",
    )
    verb.add_argument("bids_dir", metavar="BIDS_DIR", help="a raw dataset that prep has prepared")
    verb.add_argument(
        "out_dir", metavar="OUT_DIR", help="derivative to make or to add to, e.g. BIDS_DIR/derivatives/ica"
    )
    add_labels(verb)
    _add_method_options(verb.add_argument_group("how it is decomposed"))
    _add_network_options(verb.add_argument_group("which units are a network"))
    add_work(verb)
    verb.set_defaults(verb=_run)


def _add_method_options(how: argparse._ArgumentGroup) -> None:
    """How samples are decomposed."""
    how.add_argument("--method", choices=["fastica", "canica", "dictlearning"], default="fastica", help="(%(default)s)")
    how.add_argument(
        "--components", type=components, default="estimate", metavar="N", help="how many, or estimate (%(default)s)"
    )
    how.add_argument(
        "--by",
        choices=["subject", "group", "run", "layer"],
        default="subject",
        help="what goes together: all runs of a subject, of all subjects, each run, each layer (%(default)s)",
    )
    how.add_argument(
        "--axis",
        choices=["temporal", "spatial"],
        help="what is independent, courses or maps (temporal; the other methods than fastica are spatial)",
    )
    how.add_argument(
        "--samples", choices=["prompt", "token"], default="prompt", help="means over prompts, or tokens (%(default)s)"
    )
    how.add_argument(
        "--scale",
        choices=["prep", "none"],
        default="prep",
        help="units in standard deviations, or raw activations only centred (%(default)s)",
    )
    how.add_argument("--seed", type=int, default=0, metavar="N", help="of all that is drawn (%(default)s)")
    how.add_argument(
        "--resamples", type=int, default=0, metavar="N", help="refits that say how stable components are (%(default)s)"
    )


def _add_network_options(network: argparse._ArgumentGroup) -> None:
    """Which units of a map are its network."""
    network.add_argument(
        "--z",
        type=float,
        metavar="Z",
        help="plain z over units, e.g. 3.6 (5 by median and absolute deviation, which a network does not shift)",
    )
    network.add_argument(
        "--tail",
        choices=["positive", "negative", "two"],
        default="positive",
        help="of the map; the heavier is made positive (%(default)s)",
    )


def components(text: str) -> int | Literal["estimate"]:
    """A number of components."""
    if text == "estimate":
        return "estimate"
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} components found; give a number of 2 or more, or estimate")
    return int(text)


def _run(args: argparse.Namespace) -> int:
    """Decompose, and tell what was found."""
    from llm2bids.decomposition import ica  # noqa: PLC0415 - takes seconds to import

    found = ica(**options(args))
    if args.json:
        from dataclasses import asdict  # noqa: PLC0415

        tell(json.dumps([asdict(one) for one in found], indent=2, default=str))
        return 0
    rows = [
        {
            "what": one.name,
            "space": one.space,
            "runs": one.n_runs,
            "samples": one.n_samples,
            "units": one.n_units,
            "components": one.n_components,
            "state": "was there" if one.skipped else "written",
        }
        for one in found
    ]
    tell(format_table(rows), "", f"Maps, networks and time courses are in {args.out_dir}.")
    return 0
