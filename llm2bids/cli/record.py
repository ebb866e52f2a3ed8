"""``llm2bids record``: the options of a recording, and the list of what was written."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from llm2bids.cli.model import add_model_options
from llm2bids.cli.terminal import format_table, options, tell

if TYPE_CHECKING:
    import argparse


def add(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``llm2bids record``."""
    verb = verbs.add_parser(
        "record",
        help="show a model a task and write its activations as BIDS",
        description="Show a model a task and write the activations of its units as a BIDS dataset: one scan per token, "
        "one voxel per unit.",
    )
    verb.add_argument("bids_dir", metavar="BIDS_DIR", help="dataset to make or to add to")
    _add_task_options(verb.add_argument_group("what is recorded"))
    _add_design_options(verb.add_argument_group("design"))
    _add_model_options(verb.add_argument_group("model"))
    _add_file_options(verb.add_argument_group("files"))
    verb.set_defaults(verb=_run)


def _add_task_options(what: argparse._ArgumentGroup) -> None:
    """Which model, on which task, in which places."""
    what.add_argument("--model", default="phantom", metavar="phantom|DIR|HUB_ID", help="the model (%(default)s)")
    what.add_argument(
        "--task",
        nargs="+",
        default=["nencka2023"],
        metavar="NAME|FILE",
        help="built-in tasks or families (see llm2bids tasks), or .yaml or .tsv files (nencka2023)",
    )
    what.add_argument(
        "--subject", metavar="LABEL", help="subject label, letters and digits (made from the model's name)"
    )
    what.add_argument(
        "--sites",
        nargs="+",
        default=["block"],
        metavar="SITE",
        help="of block attn mlp neuron head, all in one pass (block)",
    )
    what.add_argument(
        "--hookpoints",
        nargs="+",
        default=[],
        metavar="[LABEL=]GLOB[:in|:out]",
        help="further module paths, written as site LABEL (custom)",
    )
    what.add_argument(
        "--mode",
        choices=["generate", "read"],
        help="scans are the tokens generated after each prompt, or the tokens of the prompt "
        "(generate; read for localizers)",
    )
    what.add_argument("--tokens", type=int, default=24, metavar="N", help="tokens to generate per prompt (%(default)s)")


def _add_design_options(design: argparse._ArgumentGroup) -> None:
    """How many prompts are shown in which order."""
    design.add_argument("--runs", type=int, metavar="N", help="runs per session (4, or what the task file holds)")
    design.add_argument("--sessions", type=int, metavar="N", help="sessions; each orders its prompts anew (none)")
    design.add_argument(
        "--blocks", type=int, default=5, metavar="N", help='blocks of "on", the first condition, per run (%(default)s)'
    )
    design.add_argument("--prompts-per-block", type=int, default=3, metavar="N", help="(%(default)s)")
    design.add_argument("--reuse-prompts", action="store_true", help="show prompts again where there are too few")
    design.add_argument(
        "--seed", type=int, default=0, metavar="N", help="order of prompts, draw of tokens (%(default)s)"
    )


def _add_file_options(files: argparse._ArgumentGroup) -> None:
    """What is written, and what may happen to what is there."""
    files.add_argument(
        "--no-compress", dest="compress", action="store_false", help="write .nii, which can be memory-mapped"
    )
    files.add_argument(
        "--nonfinite",
        choices=["error", "zero"],
        default="error",
        help="stop at NaN and infinity, or write 0 and count them (%(default)s)",
    )
    files.add_argument("--authors", nargs="+", default=[], metavar="NAME", help="authors of a new dataset")
    files.add_argument("--resume", action="store_true", help="leave complete runs alone, record the others")
    files.add_argument("--overwrite", action="store_true", help="replace runs that are there")
    files.add_argument("--json", action="store_true", help="print the result for programs")


def _add_model_options(model: argparse._ArgumentGroup) -> None:
    """How the model is loaded and run."""
    model.add_argument(
        "--temperature", type=float, metavar="X", help="0 takes the likeliest token (what its makers advise)"
    )
    model.add_argument("--top-p", type=float, metavar="P", help="draw among the likeliest tokens of this probability")
    model.add_argument("--top-k", type=int, metavar="K", help="draw among so many of the likeliest tokens")
    add_model_options(model, "prompts", "auto (float32 on a CPU, else the model's own), float32, bfloat16, float16")


def _run(args: argparse.Namespace) -> int:
    """Record and tell what was written."""
    from llm2bids.recording import record  # noqa: PLC0415 - takes seconds to import

    recordings = record(**options(args))
    rows = [
        {
            "file": str(one.bold),
            "scans": one.n_scans,
            "units": one.space.n_units,
            "space": one.space.label,
            "MB": round(one.bold.stat().st_size / 1e6, 1),
            "state": "was there" if one.skipped else "written",
        }
        for one in recordings
    ]
    tell(json.dumps(rows, indent=2) if args.json else format_table(rows))
    return 0
