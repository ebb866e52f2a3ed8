"""The literature's network: a share of the tested units with the largest statistic, whatever chance would give."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from llm2bids.bids.names import sidecar_of, to_label
from llm2bids.bids.nifti import write_image
from llm2bids.bids.tables import write_json
from llm2bids.errors import InferenceError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from llm2bids.results.targets import Target
    from llm2bids.statistics.linear_model import StatMaps

_BY: Final = {"two": "|z|", "positive": "z", "negative": "-z"}
_UNCORRECTED: Final = {"Correction": "none", "CorrectionDescription": "uncorrected: the share of units was chosen"}


def top_label(share: float) -> str:
    """Name a share as a BIDS label.

    >>> top_label(0.01), top_label(0.005), top_label(0.1)
    ('top1', 'top0p5', 'top10')
    """
    return f"top{share * 100:.8f}".rstrip("0").rstrip(".").replace(".", "p")


def check_shares(shares: Sequence[float]) -> None:
    """Refuse shares that choose nothing, or the same twice."""
    for share in shares:
        if not 0 < share <= 1 or top_label(share) == "top0":
            raise InferenceError(
                f"top share {share} found; a share of the tested units needed, above 0 and at most 1, e.g. 0.01 or 1%"
            )
    labels = [top_label(share) for share in shares]
    if doubled := {label for label in labels if labels.count(label) > 1}:
        raise InferenceError(f"{min(doubled)} asked for twice; name each share once")


def strongest(maps: StatMaps, tail: str, share: float) -> NDArray[np.bool_]:
    """Choose the units with the largest statistic.

    Returns (n_units,): as many as asked for; fewer where fewer lie on that side of 0. Of units with equal z the larger
    statistic is chosen, of those the first.
    """
    z, statistic = (_turned(values, maps.test, tail) for values in (maps.z, maps.stat))
    order = np.lexsort((np.arange(len(z)), -statistic, -z))
    chosen = np.zeros(len(z), bool)
    chosen[order[: max(1, round(share * len(z)))]] = True
    return np.asarray(chosen & (z > 0))


def _turned(values: NDArray[np.float64], test: str, tail: str) -> NDArray[np.float64]:
    """More is stronger; what is no number is weakest."""
    side = (
        np.abs(values) if tail == "two" and test == "t" else -values if tail == "negative" and test == "t" else values
    )
    return np.where(np.isnan(side), -np.inf, side)


def write_top(
    target: Target, maps: StatMaps, share: float, network: NDArray[np.bool_], own: Mapping[str, Any]
) -> dict[str, Any]:
    """Write the mask of a top share, after AlKhamissi et al. (2025, doi:10.18653/v1/2025.naacl-long.544).

    `network` (n_tested,): the corrected network, for comparison. Returns ``share``, ``label``, ``n_selected``,
    ``n_outside`` (not in the network), ``threshold`` (smallest ``|z|`` inside; None where there is none) and the file
    name ``mask``.
    """
    statistics = target.common["Llm2bids"]["Statistics"]
    tail, contrast = statistics["Tail"], own["Contrast"]["Name"]
    chosen = strongest(maps, tail, share)
    by = "F" if maps.test == "F" else _BY[tail]
    label, threshold = top_label(share), float(np.abs(maps.z[chosen]).min()) if chosen.any() else None
    counted = {"n_selected": int(chosen.sum()), "n_outside": int((chosen & ~network).sum())}
    selected = np.zeros(target.space.n_units, bool)
    selected[target.tested] = chosen
    path = target.path("mask.nii.gz", contrast=to_label(contrast), desc=label)
    write_image(path, target.space.to_image(selected))
    rule = f"top {share * 100:g} % of tested units by {by}, uncorrected,"
    told = {
        **own,
        "Label": label,
        "Rule": rule,
        "Top": float(share),
        "ThresholdZ": threshold,
        "NumberTested": len(chosen),
        "NumberSelected": counted["n_selected"],
        "NumberNotInNetwork": counted["n_outside"],
        "Statistics": {key: value for key, value in statistics.items() if key != "Alpha"} | _UNCORRECTED,
    }
    about = f"Units with the largest statistic of contrast {contrast}: {rule} whatever chance would give."
    write_json(sidecar_of(path), target.sidecar(about, told, Type="ROI"))
    return {"share": float(share), "label": label, **counted, "threshold": threshold, "mask": path.name}
