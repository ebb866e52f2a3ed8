"""The units of a mask over the depth of the model, as a table and as bars in a terminal."""

from __future__ import annotations

from textwrap import wrap
from typing import TYPE_CHECKING

import numpy as np

from llm2bids.masks.files import choice_text
from llm2bids.space.identity import model_text

if TYPE_CHECKING:
    import pandas as pd

    from llm2bids.space import UnitMask

_MIN_WIDTH = 56
"""Fewest columns for a name, the numbers and a bar."""


def profile(mask: UnitMask) -> pd.DataFrame:
    """Count the units chosen at each hookpoint.

    Parameters
    ----------
    mask : UnitMask
        Any mask.

    Returns
    -------
    DataFrame
        One row per hookpoint in depth order: ``hookpoint``, ``block`` (-1 outside the blocks), ``units``,
        ``selected``, ``percent`` of its units.
    """
    import pandas as pd  # noqa: PLC0415 - masks are read without it

    units = np.array(mask.space.n_channels)
    selected = mask.n_per_hookpoint
    return pd.DataFrame(
        {
            "hookpoint": mask.space.hookpoints,
            "block": mask.space.blocks,
            "units": units,
            "selected": selected,
            "percent": 100 * selected / units,
        }
    )


def show_text(mask: UnitMask, width: int = 80) -> str:
    """Write where a mask comes from, and a bar for the units chosen at each hookpoint; ASCII if the provenance is."""
    width = max(width, _MIN_WIDTH)
    share, largest = 100 * mask.n_selected / mask.space.n_units, float(profile(mask)["percent"].max())
    bar = f"; the longest bar is {largest:.3g} %" if largest else ""
    header = [
        model_text({**mask.provenance, "Site": mask.space.site}) + f", space {mask.space.label}",
        choice_text(mask.provenance),
        f"{mask.n_selected} of {mask.space.n_units} units selected ({share:.3g} %){bar}",
    ]
    lines = [part for line in header for part in wrap(line, width, subsequent_indent="  ", break_on_hyphens=False)]
    return "\n".join([*lines, "", *_bars(mask, width)])


def _bars(mask: UnitMask, width: int) -> list[str]:
    """One line per hookpoint, under a heading."""
    table = profile(mask)
    by_block = table["block"].is_unique and (table["block"] >= 0).all()
    heading = "block" if by_block else "hookpoint"
    names = [str(name) for name in table["block" if by_block else "hookpoint"]]
    place = max(len(heading), min(width // 3, max(map(len, names))))
    largest = float(table["percent"].max())
    rows = [f"{heading:>{place}} {'units':>7} {'selected':>8} {'percent':>8}"]
    room = width - len(f"{'':>{place}} {'':>7} {'':>8} {'':>8}  ")
    for name, units, selected, percent in zip(names, table["units"], table["selected"], table["percent"], strict=True):
        bar = "#" * max(int(selected > 0), round(room * percent / largest)) if largest else ""
        clipped = name if len(name) <= place else f"...{name[3 - place :]}"
        rows.append(f"{clipped:>{place}} {units:>7} {selected:>8} {percent:>8.2f}  {bar}".rstrip())
    return rows
