"""``llm2bids mask``: its three actions, and how many units each mask holds."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

from llm2bids.cli.arguments import add_options, values_of
from llm2bids.cli.terminal import tell

if TYPE_CHECKING:
    import argparse
    from pathlib import Path

    from llm2bids.space import UnitMask


def add(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``llm2bids mask`` with its actions."""
    from llm2bids.masks.settings import CombineOptions, ConvertOptions, ShowOptions  # noqa: PLC0415

    verb = verbs.add_parser("mask", help="any program's map to units, and masks to masks")
    actions = verb.add_subparsers(title="actions", metavar="ACTION", required=True)
    convert = actions.add_parser(
        "convert",
        help="choose units by a map of any program",
        description="Choose units by a map of any program (ours, FSL, AFNI, SPM, NeuroVault), or change the format of "
        "a mask.",
    )
    combine = actions.add_parser("combine", help="union, intersection, difference, complement, majority, at-least")
    show = actions.add_parser("show", help="a mask layer by layer")
    for action, options, function in (
        (convert, ConvertOptions, _convert),
        (combine, CombineOptions, _combine),
        (show, ShowOptions, _show),
    ):
        add_options(action, options)
        action.set_defaults(verb=function)


def _convert(args: argparse.Namespace) -> int:
    """Convert a map, and print how many units were chosen."""
    from llm2bids.masks import convert_mask  # noqa: PLC0415 - keeps --help fast

    return _print_mask(args, *convert_mask(**values_of(args)))


def _combine(args: argparse.Namespace) -> int:
    """Combine masks, and print how many units are left."""
    from llm2bids.masks import combine_masks  # noqa: PLC0415 - keeps --help fast

    return _print_mask(args, *combine_masks(**values_of(args)))


def _print_mask(args: argparse.Namespace, mask: UnitMask, paths: list[Path]) -> int:
    """Print how many units a mask holds, and where it is."""
    files = [str(path) for path in paths]
    fields = {"units": mask.n_selected, "of": mask.space.n_units, "space": mask.space.label, "files": files}
    text = f"{mask.n_selected} of {mask.space.n_units} units of {mask.space.label}: {', '.join(files)}"
    tell(json.dumps(fields, indent=2) if args.json else text)
    return 0


def _show(args: argparse.Namespace) -> int:
    """Show a mask."""
    from llm2bids.masks import show_mask  # noqa: PLC0415 - keeps --help fast

    table, text = show_mask(**values_of(args), width=shutil.get_terminal_size((80, 24)).columns)
    tell(table.to_json(orient="records", indent=2) if args.json else text)
    return 0
