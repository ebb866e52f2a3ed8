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
    from pathlib import Path

    from llm2bids.space import UnitMask

_START = """\
examples:
  llm2bids demo                                   the whole chain on the built-in phantom, in a minute
  llm2bids tasks                                  what a model can be shown
  llm2bids record ds --model phantom --task nencka2023
  llm2bids record ds --model ./my-model --task mytask.tsv --mode read --sites block mlp
  llm2bids validate ds
  llm2bids prep ds
  llm2bids glm ds ds/derivatives/glm participant
  llm2bids mask show MASK                         which units, layer by layer

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
    _add_prep(verbs)
    _add_glm(verbs)
    _add_mask(verbs)
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


def _add_prep(verbs: argparse._SubParsersAction[_Parser]) -> None:
    """`llm2bids prep`."""
    verb = verbs.add_parser(
        "prep",
        help="prepare recordings for statistics, in every fMRI program",
        description="Prepare recordings as derivatives/llm2bids: every unit on one scale that nilearn, FSL, SPM and "
        "AFNI take, confounds, masks, an atlas of layers.",
    )
    verb.add_argument("bids_dir", metavar="BIDS_DIR", help="a raw dataset made by record")
    verb.add_argument("--fsl", action="store_true", help="write EV files and designs for FSL too")
    _add_labels(verb)
    _add_work(verb)
    verb.set_defaults(verb=_prep)


def _add_labels(verb: argparse.ArgumentParser) -> None:
    """Which runs, as BIDS apps name them."""
    labels = verb.add_argument_group("which runs (all)")
    for option in ("participant", "task"):
        labels.add_argument(f"--{option}-label", f"--{option}_label", nargs="+", default=[], metavar="LABEL")
    labels.add_argument("--sites", nargs="+", default=[], metavar="SITE")


def _add_work(verb: argparse.ArgumentParser) -> None:
    """How the work is done, and what may happen to what is there."""
    work = verb.add_argument_group("work")
    work.add_argument("--n-jobs", type=_processes, default=1, metavar="N", help="processes; -1 for all (%(default)s)")
    work.add_argument("--resume", action="store_true", help="leave alone what is there and up to date, do the rest")
    work.add_argument("--overwrite", action="store_true", help="replace what is there")
    work.add_argument("--json", action="store_true", help="print the result for programs")


def _processes(text: str) -> int:
    """A number of processes; argparse makes one line of the error."""
    number = int(text)
    if number < 1 and number != -1:
        raise argparse.ArgumentTypeError(f"{text} processes found; 1 or more needed, or -1 for all")
    return number


def _add_glm(verbs: argparse._SubParsersAction[_Parser]) -> None:
    """`llm2bids glm`."""
    verb = verbs.add_parser(
        "glm",
        help="find the units that answer to a task",
        description="Linear models by nilearn: effects, tests and networks of each subject, task and site, or over "
        "subjects.",
    )
    verb.add_argument("bids_dir", metavar="BIDS_DIR", help="a raw dataset that prep has prepared")
    verb.add_argument(
        "out_dir", metavar="OUT_DIR", help="derivative to make or to add to, e.g. BIDS_DIR/derivatives/glm"
    )
    verb.add_argument("analysis_level", choices=["participant", "group"], help="each subject, or over subjects")
    _add_labels(verb)
    what = verb.add_argument_group("what is asked")
    what.add_argument("--model", metavar="FILE", help="BIDS Stats Model (BIDS_DIR/code/models/model-<task>_smdl.json)")
    what.add_argument(
        "--contrasts",
        nargs="+",
        default=[],
        metavar="EXPR",
        help="instead of the model's, e.g. 'on - off', 'name=on - off'",
    )
    what.add_argument(
        "--drop-missing",
        action="store_true",
        help="leave out runs that lack a condition, or subjects that lack a contrast, instead of an error",
    )
    _add_estimate_options(verb.add_argument_group("how it is estimated"))
    _add_test_options(verb.add_argument_group("how it is tested"))
    group = verb.add_argument_group("over subjects")
    group.add_argument("--compare", metavar="COLUMN", help="column of participants.tsv with two values to compare")
    group.add_argument("--pairs", metavar="COLUMN", help="with --compare: who belongs together")
    group.add_argument("--covariates", nargs="+", default=[], metavar="COLUMN", help="columns with numbers, centred")
    _add_work(verb)
    verb.set_defaults(verb=_glm)


def _add_estimate_options(estimate: argparse._ArgumentGroup) -> None:
    """How effects are estimated."""
    estimate.add_argument(
        "--inference",
        choices=["prompt", "run", "token"],
        default="prompt",
        help="what is a sample (%(default)s); tokens are not independent, so token finds too much",
    )
    estimate.add_argument(
        "--level",
        choices=["prompt", "prompt-mean"],
        default="prompt",
        help="effect of a prompt by AR(1) over its tokens, or their mean (%(default)s)",
    )
    estimate.add_argument(
        "--drift", choices=["cosine", "none"], default="cosine", help="slow drift to remove (%(default)s)"
    )
    estimate.add_argument("--high-pass", type=float, metavar="HZ", help="its cutoff (fitted to the design)")
    estimate.add_argument(
        "--confounds",
        nargs="+",
        default=[],
        metavar="NAME",
        help="columns of confounds, or wildcards such as 'cosine*'",
    )


def _add_test_options(test: argparse._ArgumentGroup) -> None:
    """How effects are tested."""
    test.add_argument(
        "--correction",
        choices=["fdr", "bonferroni", "maxt", "none"],
        default="fdr",
        help="for many units (%(default)s)",
    )
    test.add_argument("--alpha", type=float, default=0.05, metavar="P", help="level (%(default)s)")
    test.add_argument(
        "--tail", choices=["two", "positive", "negative"], default="two", help="which effects count (%(default)s)"
    )
    test.add_argument("--n-permutations", type=int, default=1000, metavar="N", help="of maxt (%(default)s)")
    test.add_argument("--seed", type=int, default=0, metavar="N", help="of maxt (%(default)s)")
    test.add_argument(
        "--smoothing-fwhm", type=float, metavar="MM", help="refused: neighbouring voxels are no neighbours"
    )
    test.add_argument("--cluster-threshold", type=int, metavar="K", help="refused for the same reason")


def _add_mask(verbs: argparse._SubParsersAction[_Parser]) -> None:
    """`llm2bids mask`."""
    verb = verbs.add_parser("mask", help="any program's map to units, and masks to masks")
    actions = verb.add_subparsers(title="actions", metavar="ACTION", parser_class=_Parser, required=True)
    convert = actions.add_parser(
        "convert",
        help="choose units by a map of any program",
        description="Choose units by a map of any program (ours, FSL, AFNI, SPM, NeuroVault), or change the format of "
        "a mask.",
    )
    convert.add_argument("source", metavar="MAP", help="NIfTI, AFNI, or a mask as .tsv, .json, .safetensors")
    convert.add_argument("target", metavar="OUT", help="name ending in .nii.gz, .tsv, .json or .safetensors")
    convert.add_argument("--threshold", type=float, metavar="X", help="choose values beyond it")
    convert.add_argument("--tail", choices=["positive", "negative", "two"], default="positive", help="(%(default)s)")
    convert.add_argument("--below", action="store_true", help="for maps of p: choose values below the threshold")
    convert.add_argument(
        "--top", type=float, metavar="SHARE", help="choose the largest, e.g. 0.01 for 1 %% of the units"
    )
    convert.add_argument("--volume", type=int, metavar="N", help="which volume or sub-brick, from 0")
    combine = actions.add_parser("combine", help="union, intersection, difference, complement, majority, at-least")
    combine.add_argument(
        "operation", choices=["union", "intersection", "difference", "complement", "majority", "at-least"]
    )
    combine.add_argument("target", metavar="OUT", help="as for convert")
    combine.add_argument("sources", nargs="+", metavar="MASK")
    combine.add_argument("--at-least", type=int, metavar="K", help="units chosen by K of the masks")
    show = actions.add_parser("show", help="a mask layer by layer")
    show.add_argument("source", metavar="MASK")
    for action, function in ((convert, _mask_convert), (combine, _mask_combine), (show, _mask_show)):
        action.add_argument(
            "--like", metavar="FILE", help="image or sidecar of ours that says which voxel is which unit"
        )
        if action is not show:
            action.add_argument("--allow-empty", action="store_true", help="keep a mask without units")
            action.add_argument("--overwrite", action="store_true", help="replace what is there")
        action.add_argument("--json", action="store_true", help="print the result for programs")
        action.set_defaults(verb=function)


def _demo(args: argparse.Namespace) -> int:
    """Run the demo and tell what it found."""
    from llm2bids.demo import demo  # noqa: PLC0415 - takes seconds to import

    table, validations = demo(args.bids_dir, overwrite=args.overwrite)
    errors = sum(validation.n_errors for validation in validations)
    if args.json:
        _print(json.dumps({"bids_dir": args.bids_dir, "errors": errors, "tasks": table.to_dict("records")}, indent=2))
        return int(errors > 0)
    rows = [{str(key): value for key, value in row.items()} for row in table.to_dict("records")]
    _print(*(validation.summary() for validation in validations), "", _table(rows), "")
    _print("planted: units of the task's network, known by construction; found: units at a false discovery rate of .05")
    share = (table["false"] / table["found"].clip(lower=1)).mean()
    _print("hits: found and planted; false: found and not planted; dice: 1 where both are the same")
    _print(f"The rate is one on average, and {share:.3f} here; over 10 such recordings it was .039 (see README.md).")
    _print(f"The dataset is in {args.bids_dir}. Networks and a page to open in a browser are in its derivatives/glm,")
    _print("masks for the model in derivatives/masks, volumes for any other fMRI program in derivatives/llm2bids.")
    return int(errors > 0)


def _record(args: argparse.Namespace) -> int:
    """Record and tell what was written."""
    from llm2bids.record import record  # noqa: PLC0415 - takes seconds to import

    recordings = record(**_options(args))
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


def _prep(args: argparse.Namespace) -> int:
    """Prepare, and tell what was written."""
    from llm2bids.prep import prep  # noqa: PLC0415 - takes seconds to import

    rows = [
        {
            "file": str(one.bold),
            "scans": one.n_scans,
            "units": one.n_units,
            "varying": one.n_varying,
            "clipped": one.n_clipped,
            "state": "was there" if one.skipped else "written",
        }
        for one in prep(**_options(args))
    ]
    _print(json.dumps(rows, indent=2) if args.json else _table(rows))
    return 0


def _glm(args: argparse.Namespace) -> int:
    """Analyse, and tell what was found."""
    from llm2bids.glm import glm  # noqa: PLC0415 - takes seconds to import

    findings = glm(**_options(args))
    if args.json:
        from dataclasses import asdict  # noqa: PLC0415

        _print(json.dumps([asdict(one) for one in findings], indent=2, default=str))
        return 0
    rows = [
        {
            "subject": one.subject,
            "task": one.task,
            "site": one.site,
            "contrast": one.contrast,
            "tested": one.n_tested,
            "found": one.n_selected,
            "from |z|": "-" if one.threshold is None else f"{one.threshold:.2f}",
            "state": "was there" if one.skipped else "written",
        }
        for one in findings
    ]
    _print(_table(rows), "", f"Maps, networks and a page per subject are in {args.out_dir}.")
    if args.analysis_level == "participant" and args.inference == "token":
        _print("Tokens are not independent samples: these are too many. For claims use --inference prompt.")
    return 0


def _mask_convert(args: argparse.Namespace) -> int:
    """Convert a map, and tell how many units were chosen."""
    from llm2bids.mask import convert  # noqa: PLC0415 - keeps --help fast

    mask, paths = convert(**_options(args))
    return _tell_mask(args, mask, paths)


def _mask_combine(args: argparse.Namespace) -> int:
    """Combine masks, and tell how many units are left."""
    from llm2bids.mask import combine  # noqa: PLC0415 - keeps --help fast

    mask, paths = combine(**_options(args))
    return _tell_mask(args, mask, paths)


def _tell_mask(args: argparse.Namespace, mask: UnitMask, paths: list[Path]) -> int:
    """How many units, and where."""
    files = [str(path) for path in paths]
    told = {"units": mask.n_selected, "of": mask.space.n_units, "space": mask.space.label, "files": files}
    text = f"{mask.n_selected} of {mask.space.n_units} units of {mask.space.label}: {', '.join(files)}"
    _print(json.dumps(told, indent=2) if args.json else text)
    return 0


def _mask_show(args: argparse.Namespace) -> int:
    """Show a mask."""
    import shutil  # noqa: PLC0415

    from llm2bids.mask import show  # noqa: PLC0415 - keeps --help fast

    table, text = show(args.source, like=args.like, width=shutil.get_terminal_size((80, 24)).columns)
    _print(table.to_json(orient="records", indent=2) if args.json else text)
    return 0


def _options(args: argparse.Namespace) -> dict[str, Any]:
    """What goes to the function of a verb."""
    return {key: value for key, value in vars(args).items() if key not in {"verb", "json"}}


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
