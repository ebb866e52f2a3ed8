"""``llm2bids mask``: its three actions, and how many units each mask holds."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from llm2bids.cli.terminal import options, tell

if TYPE_CHECKING:
    import argparse
    from pathlib import Path

    from llm2bids.space import UnitMask


def add(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``llm2bids mask`` with its actions."""
    verb = verbs.add_parser("mask", help="any program's map to units, and masks to masks")
    actions = verb.add_subparsers(title="actions", metavar="ACTION", required=True)
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
    convert.add_argument("--top", metavar="SHARE", help="choose the strongest, e.g. 1%% of the tested units")
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
    for action, function in ((convert, _convert), (combine, _combine), (show, _show)):
        action.add_argument(
            "--like", metavar="FILE", help="image or sidecar of ours that says which voxel is which unit"
        )
        if action is not show:
            action.add_argument("--allow-empty", action="store_true", help="keep a mask without units")
            action.add_argument("--overwrite", action="store_true", help="replace what is there")
        action.add_argument("--json", action="store_true", help="print the result for programs")
        action.set_defaults(verb=function)


def _convert(args: argparse.Namespace) -> int:
    """Convert a map, and tell how many units were chosen."""
    from llm2bids.masks import convert_mask  # noqa: PLC0415 - keeps --help fast

    mask, paths = convert_mask(**options(args))
    return _tell_mask(args, mask, paths)


def _combine(args: argparse.Namespace) -> int:
    """Combine masks, and tell how many units are left."""
    from llm2bids.masks import combine_masks  # noqa: PLC0415 - keeps --help fast

    mask, paths = combine_masks(**options(args))
    return _tell_mask(args, mask, paths)


def _tell_mask(args: argparse.Namespace, mask: UnitMask, paths: list[Path]) -> int:
    """How many units, and where."""
    files = [str(path) for path in paths]
    told = {"units": mask.n_selected, "of": mask.space.n_units, "space": mask.space.label, "files": files}
    text = f"{mask.n_selected} of {mask.space.n_units} units of {mask.space.label}: {', '.join(files)}"
    tell(json.dumps(told, indent=2) if args.json else text)
    return 0


def _show(args: argparse.Namespace) -> int:
    """Show a mask."""
    import shutil  # noqa: PLC0415

    from llm2bids.masks import show_mask  # noqa: PLC0415 - keeps --help fast

    table, text = show_mask(args.source, like=args.like, width=shutil.get_terminal_size((80, 24)).columns)
    tell(table.to_json(orient="records", indent=2) if args.json else text)
    return 0
