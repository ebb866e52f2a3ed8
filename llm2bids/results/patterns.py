"""Patterns that `glm` wrote, read back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from llm2bids.bids.names import format_name, parse_name, sidecar_of
from llm2bids.bids.tables import read_json
from llm2bids.results.targets import read_map
from llm2bids.space import UnitPattern, UnitSpace

if TYPE_CHECKING:
    from pathlib import Path


def sibling(path: Path, suffix: str = "statmap.nii.gz", **entities: str | None) -> Path:
    """Name another file of the same analysis."""
    return path.with_name(format_name(suffix, **{**parse_name(path.name)[1], **entities}))


def read_pattern(path: Path) -> UnitPattern:
    """Read the pattern of a contrast from its filter, ``…_stat-filter_desc-pattern_statmap.nii.gz``, and its siblings.

    The filter reads standard deviation 1, so the spread along it is one over its length.
    """
    metadata = read_json(sidecar_of(path))["Llm2bids"]
    space = UnitSpace.from_json(metadata["UnitSpace"])
    filters = np.asarray(read_map(path, space), np.float64)
    lengths = np.array([np.linalg.norm(part) for part in space.split(filters)])
    return UnitPattern(
        space,
        pattern=read_map(sibling(path, stat="effect"), space),
        filter=filters,
        reference=read_map(sibling(path, stat="mean", desc="reference"), space),
        spread=np.divide(1.0, lengths, out=np.zeros_like(lengths), where=lengths > 0),
        provenance={**metadata, "Source": str(path)},
    )
