"""Text → call, error → exit code. Each verb's module is imported when it is asked for."""

from __future__ import annotations

import argparse
import json
import os
import sys
from typing import TYPE_CHECKING, Any, NoReturn

from llm2bids import __version__
from llm2bids.errors import LLM2BIDSError

if TYPE_CHECKING:
    from collections.abc import Sequence

_START = """\
examples:
  llm2bids demo                                   the whole chain on the built-in phantom, in a minute
  llm2bids tasks                                  what a model can be shown
  llm2bids record ds --model phantom --task nencka2023
  llm2bids record ds --model ./my-model --task mytask.tsv --mode read --sites block mlp
  llm2bids validate ds

exit codes: 0 done, 1 the answer is no (the validator found errors), 2 something you can mend: one line says how
"""


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        """Exit with 2."""
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments; those of the process by default.

    Returns
    -------
    int
        Exit code: 0 done, 1 the answer is no, 2 something the user can mend.
    """
    parser = _parser()
    args = parser.parse_args(argv)
    if "verb" not in args:
        parser.print_help()
        return 0
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    try:
        return int(args.verb(args))
    except LLM2BIDSError as error:
        sys.stderr.write(f"llm2bids: {error}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("llm2bids: interrupted; complete runs are safe, go on with --resume\n")
        return 130


def _parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = _Parser(
        prog="llm2bids",
        description="Put a language model in the scanner: record its units as a BIDS dataset for the tools of fMRI.",
        epilog=_START,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"llm2bids {__version__}")
    verbs = parser.add_subparsers(title="commands", metavar="COMMAND", parser_class=_Parser)
    _add_demo(verbs)
    _add_record(verbs)
    _add_tasks(verbs)
    _add_validate(verbs)
    return parser


def _add_demo(verbs: argparse._SubParsersAction[_Parser]) -> None:
    """`llm2bids demo`."""
    verb = verbs.add_parser("demo", help="the whole chain on the phantom, planted against found")
    verb.add_argument(
        "bids_dir", nargs="?", default="llm2bids-demo", metavar="DIR", help="dataset to make (%(default)s)"
    )
    verb.add_argument("--overwrite", action="store_true", help="replace a demo that is there")
    verb.add_argument("--json", action="store_true", help="print the result for programs")
    verb.set_defaults(verb=_demo)


def _add_record(verbs: argparse._SubParsersAction[_Parser]) -> None:
    """`llm2bids record`."""
    verb = verbs.add_parser(
        "record",
        help="show a model a task and write its activations as BIDS",
        description="Show a model a task and write the activations of its units as a BIDS dataset: one scan per token, "
        "one voxel per unit.",
    )
    verb.add_argument("bids_dir", metavar="BIDS_DIR", help="dataset to make or to add to")
    what = verb.add_argument_group("what is recorded")
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
        default="generate",
        help="scans are the tokens generated after each prompt, or the tokens of the prompt (%(default)s)",
    )
    what.add_argument("--tokens", type=int, default=24, metavar="N", help="tokens to generate per prompt (%(default)s)")
    _add_design_options(verb.add_argument_group("design"))
    _add_model_options(verb.add_argument_group("model"))
    _add_file_options(verb.add_argument_group("files"))
    verb.set_defaults(verb=_record)


def _add_design_options(design: argparse._ArgumentGroup) -> None:
    """How many prompts are shown in which order."""
    design.add_argument("--runs", type=int, metavar="N", help="runs per session (4, or what the task file holds)")
    design.add_argument("--sessions", type=int, metavar="N", help="sessions; each orders its prompts anew (none)")
    design.add_argument("--blocks", type=int, default=5, metavar="N", help='"on" blocks per run (%(default)s)')
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
    model.add_argument(
        "--batch-size", type=int, default=8, metavar="N", help="prompts in the model at a time (%(default)s)"
    )
    model.add_argument("--revision", metavar="REV", help="branch, tag or commit of the hub")
    model.add_argument("--device", default="auto", metavar="NAME", help="auto, cpu, cuda, cuda:1, mps (%(default)s)")
    model.add_argument(
        "--dtype",
        default="auto",
        metavar="NAME",
        help="auto (float32 on a CPU, else the model's own), float32, bfloat16, float16",
    )
    model.add_argument("--device-map", metavar="MAP", help="auto spreads the model over several GPUs")
    model.add_argument("--trust-remote-code", action="store_true", help="let code that comes with the model run")


def _add_tasks(verbs: argparse._SubParsersAction[_Parser]) -> None:
    """`llm2bids tasks`."""
    verb = verbs.add_parser("tasks", help="list the built-in tasks")
    verb.add_argument("--json", action="store_true", help="print the result for programs")
    verb.set_defaults(verb=_tasks)


def _add_validate(verbs: argparse._SubParsersAction[_Parser]) -> None:
    """`llm2bids validate`."""
    verb = verbs.add_parser(
        "validate",
        help="ask the official BIDS validator; exit 1 if it finds errors",
        description="Run the official BIDS validator on a dataset and on each of its derivatives.",
    )
    verb.add_argument("bids_dir", metavar="DIR", help="a raw dataset or a derivative")
    verb.add_argument("--json", action="store_true", help="print the result for programs")
    verb.set_defaults(verb=_validate)


def _demo(args: argparse.Namespace) -> int:
    """Run the demo and tell what it found."""
    from llm2bids.demo import demo  # noqa: PLC0415 - takes seconds to import

    table, validations = demo(args.bids_dir, overwrite=args.overwrite)
    errors = sum(validation.n_errors for validation in validations)
    if args.json:
        _print(json.dumps({"bids_dir": args.bids_dir, "errors": errors, "tasks": table.to_dict("records")}, indent=2))
    else:
        _print(*(validation.summary() for validation in validations), "", table.to_string(index=False), "")
        _print("planted: units of the task's network; d: median difference between on and off over units, in sd")
        _print(f"The dataset is in {args.bids_dir}. Look at it with any NIfTI viewer, or see README.md in it.")
    return int(errors > 0)


def _record(args: argparse.Namespace) -> int:
    """Record and tell what was written."""
    from llm2bids.record import record  # noqa: PLC0415 - takes seconds to import

    options = {key: value for key, value in vars(args).items() if key not in {"verb", "json", "bids_dir"}}
    recordings = record(args.bids_dir, **options)
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
    _print(json.dumps(rows, indent=2) if args.json else _table(rows))
    return 0


def _tasks(args: argparse.Namespace) -> int:
    """List the built-in tasks."""
    from llm2bids.task import builtin_tasks  # noqa: PLC0415 - keeps --help fast

    rows = [{"task": name, "description": text} for name, text in builtin_tasks().items()]
    _print(json.dumps(rows, indent=2) if args.json else _table(rows))
    return 0


def _validate(args: argparse.Namespace) -> int:
    """Validate and tell what was found."""
    from dataclasses import asdict  # noqa: PLC0415

    from llm2bids.validate import validate  # noqa: PLC0415 - keeps --help fast

    validations = validate(args.bids_dir)
    if args.json:
        _print(json.dumps([asdict(validation) for validation in validations], indent=2, default=str))
    else:
        _print(*(validation.summary() for validation in validations))
    return int(any(validation.n_errors for validation in validations))


def _table(rows: list[dict[str, Any]]) -> str:
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


def _print(*texts: str) -> None:
    """Write results to standard output."""
    sys.stdout.write("\n".join(texts) + "\n")


if __name__ == "__main__":
    sys.exit(main())
