"""The file that describes a decomposition (``ica.json``), and where it lies."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from llm2bids.errors import DatasetError

if TYPE_CHECKING:
    from pathlib import Path

SUMMARY: Final = "ica.json"
"""Suffix of the file that describes a decomposition."""


def find_summary(path: Path) -> Path:
    """Return the summary at a path, or the only one in a folder."""
    if path.is_file() and path.name.endswith(f"_{SUMMARY}"):
        return path
    summaries = sorted(path.glob(f"sub-*/**/*_{SUMMARY}")) if path.is_dir() else []
    if len(summaries) != 1:
        names = f": give one of them, e.g. {summaries[0]}" if summaries else "; give the folder that llm2bids ica made"
        raise DatasetError(f"{path} holds {len(summaries)} decompositions, one needed{names}")
    return summaries[0]


def derivative_of(summary: Path) -> Path:
    """Return the derivative that a decomposition lies in."""
    for folder in summary.resolve().parents:
        if (folder / "dataset_description.json").is_file():
            return folder
    raise DatasetError(f"{summary} lies in no BIDS derivative; give the folder that llm2bids ica made")
