"""The literature's network: a share of the tested units with the largest statistic, whatever chance would give."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from llm2bids.bids.names import sidecar_of, to_label
from llm2bids.bids.nifti import write_image
from llm2bids.bids.tables import write_json
from llm2bids.space import Selection
from llm2bids.space.selection import share_label

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from llm2bids.results.targets import Target
    from llm2bids.space.selection import Tail
    from llm2bids.statistics.linear_model import StatMaps

_STATISTICS: Final = {"two": "|z|", "positive": "z", "negative": "-z"}
_UNCORRECTED: Final = {"Correction": "none", "CorrectionDescription": "uncorrected: the share of units was chosen"}


def select_top(maps: StatMaps, tail: Tail, share: float) -> NDArray[np.bool_]:
    """Choose a share of the tested units, shape (n_tested,), as `Selection` does; F has one side."""
    selection = Selection(top=share, tail="positive" if maps.test == "F" else tail)
    # Far out, z has no digits left (p is below the smallest float): among equal z the statistic itself decides.
    return selection.select(maps.z, equals=maps.stat)


def write_top(
    target: Target, maps: StatMaps, share: float, network: NDArray[np.bool_], metadata: Mapping[str, Any]
) -> dict[str, Any]:
    """Write the mask of a top share, after AlKhamissi et al. (2025, doi:10.18653/v1/2025.naacl-long.544).

    `network` (n_tested,): the corrected network, for comparison. Returns ``share``, ``label``, ``n_selected``,
    ``n_outside`` (not in the network), ``threshold`` (smallest ``|z|`` inside; None where there is none) and the file
    name ``mask``.
    """
    statistics = target.common["Llm2bids"]["Statistics"]
    tail, contrast = statistics["Tail"], metadata["Contrast"]["Name"]
    chosen = select_top(maps, tail, share)
    label, threshold = share_label(share), float(np.abs(maps.z[chosen]).min()) if chosen.any() else None
    counts = {"n_selected": int(chosen.sum()), "n_outside": int((chosen & ~network).sum())}
    selected = np.zeros(target.space.n_units, bool)
    selected[target.tested] = chosen
    path = target.path("mask.nii.gz", contrast=to_label(contrast), desc=label)
    write_image(path, target.space.to_image(selected))
    statistic = "F" if maps.test == "F" else _STATISTICS[tail]
    rule = f"top {share * 100:g} % of tested units by {statistic}, uncorrected,"
    fields = {
        **metadata,
        "Label": label,
        "Rule": rule,
        "Top": float(share),
        "ThresholdZ": threshold,
        "NumberTested": len(chosen),
        "NumberSelected": counts["n_selected"],
        "NumberNotInNetwork": counts["n_outside"],
        "Statistics": {key: value for key, value in statistics.items() if key != "Alpha"} | _UNCORRECTED,
    }
    description = f"Units with the largest statistic of contrast {contrast}: {rule} whatever chance would give."
    write_json(sidecar_of(path), target.sidecar(description, fields, Type="ROI"))
    return {"share": float(share), "label": label, **counts, "threshold": threshold, "mask": path.name}
