"""What pages tell to type: blocks of commands, what they print, and typing them in."""

from __future__ import annotations

import glob
import os
import re
import shlex
import subprocess
from typing import TYPE_CHECKING

import pytest

from llm2bids.cli import main

if TYPE_CHECKING:
    from pathlib import Path

BLOCK = re.compile(r"^```(bash|python)\n(.*?)^```\n(?:\n```text\n(.*?)^```)?", re.DOTALL | re.MULTILINE)


def blocks_of(path: Path) -> list[tuple[str, str, str]]:
    """Kind, text and what is said to be printed of every block that runs; ``sh`` marks those that need more than we have."""
    return [one for one in BLOCK.findall(path.read_text()) if ">>>" not in one[1]]


def type_in(kind: str, text: str, capsys: pytest.CaptureFixture[str]) -> str:
    """What a block prints; commands of ours run in this process, which has imported all already."""
    capsys.readouterr()
    if kind == "python":
        exec(compile(text, "a page", "exec"), {"__name__": "__main__"})  # noqa: S102 - a page is what we test
    for line in text.splitlines() if kind == "bash" else ():
        if line.startswith("llm2bids "):
            words = [name for word in shlex.split(line)[1:] for name in (sorted(glob.glob(word)) or [word])]  # noqa: PTH207
            assert main(words) == 0, line
        else:
            subprocess.run(["bash", "-euo", "pipefail", "-c", line], check=True, env=os.environ)
    return capsys.readouterr().out


def same(said: str, shown: str) -> bool:
    """Whether two outputs agree word for word, and numbers with fractions, which hang on the machine, nearly."""
    pairs = list(zip(said.split(), shown.split(), strict=False))
    exact = len(said.split()) == len(shown.split())
    return exact and all(one == two or ("." in one and _close(one, two)) for one, two in pairs)


def _close(one: str, two: str) -> bool:
    try:
        return float(one) == pytest.approx(float(two), rel=0.05)
    except ValueError:
        return False
