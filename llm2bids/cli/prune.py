"""``llm2bids prune``: its options, and what went and what was set to 0."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from llm2bids.cli.model import add_model_options
from llm2bids.cli.terminal import format_table, options, tell

if TYPE_CHECKING:
    import argparse

    from llm2bids.pruning import Pruned


def add(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``llm2bids prune``."""
    verb = verbs.add_parser(
        "prune",
        help="take the units of a mask out of a model and save the smaller one",
        description="Take neurons or heads out of a model and save what is left as a smaller model that plain "
        "from_pretrained loads. It equals the model with these units held at 0. Where blocks lose unequal numbers and "
        "the architecture has one width for all, the rest is set to 0 in its place.",
    )
    verb.add_argument("--model", required=True, metavar="phantom|DIR|HUB_ID", help="the model the mask was made of")
    verb.add_argument("--mask", required=True, metavar="FILE", help="units to take out, of site neuron or head")
    verb.add_argument("--out", required=True, metavar="DIR", help="folder to write")
    verb.add_argument("--like", metavar="FILE", help="image or sidecar of ours that says which voxel is which unit")
    what = verb.add_argument_group("what goes")
    what.add_argument("--keep", action="store_true", help="keep the units of the mask and take out all others")
    for end in ("first", "last"):
        what.add_argument(
            f"--protect-{end}", type=int, default=0, metavar="N", help=f"the {end} N blocks lose nothing (%(default)s)"
        )
    what.add_argument("--pad", action="store_true", help="write it also where units can only be set to 0")
    what.add_argument(
        "--compensate-bias",
        action="store_true",
        help="add what the units contributed on average over the text to the biases",
    )
    what.add_argument("--text", metavar="FILE", help="report perplexity on it, before and after")
    _add_work(verb.add_argument_group("model and files"))
    verb.set_defaults(verb=_run)


def _add_work(work: argparse._ArgumentGroup) -> None:
    """How the model is loaded, and what may happen to what is there."""
    saved = "precision to load and save in; auto saves in that of the model's files"
    add_model_options(work, "windows of text", saved, device_map=False)
    work.add_argument("--overwrite", action="store_true", help="replace a pruned model that is there")
    work.add_argument("--json", action="store_true", help="print the report for programs")


def _run(args: argparse.Namespace) -> int:
    """Prune, and tell what was done."""
    from llm2bids.pruning import prune  # noqa: PLC0415 - takes seconds to import

    pruned = prune(**options(args))
    tell(json.dumps(pruned.report, indent=2) if args.json else _text(pruned))
    return 0


def _text(pruned: Pruned) -> str:
    """Blocks as rows, then the sums."""
    report = pruned.report
    rows: list[dict[str, Any]] = [
        {
            "block": place["Block"],
            f"{report['Site']} channels": place["Channels"],
            "removed": len(place["Removed"]),
            "set to 0": len(place["Zeroed"]),
        }
        for place in report["Hookpoints"]
    ]
    parameters, scored = report["Parameters"], report.get("Perplexity")
    lines = [format_table(rows)]
    if report["Obstacle"]:
        lines.append(f"nothing was removed: {report['Obstacle']}")
    lines.append(
        f"parameters {parameters['Before']:,} → {parameters['After']:,}, of these set to 0: {parameters['Zeroed']:,}"
    )
    if scored:
        lines.append(f"perplexity on {scored['Text']} {scored['Before']:.4g} → {scored['After']:.4g}")
    return "\n".join([*lines, str(pruned.folder)])
