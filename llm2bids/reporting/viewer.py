"""The viewer inside a page: maps on their slices, any unit's value and time course. Asks nothing of the network."""

from __future__ import annotations

import base64
import gzip
import json
import re
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from llm2bids.bids.templates import raw_text, template_text
from llm2bids.errors import DatasetError, SpaceError
from llm2bids.plots.layers import label_layers
from llm2bids.reporting.time_courses import STEPS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from llm2bids.reporting.time_courses import Courses
    from llm2bids.space import UnitSpace


@dataclass(frozen=True, slots=True, eq=False)
class ViewerMap:
    """A map to look at.

    - `name`: what it is called in the list.
    - `task`: label of the task whose time courses belong to it.
    - `values` (n_units,): one value per unit; NaN where there is none.
    - `network` (n_units,): units of the network that was made of it.
    - `label`: what the values are, e.g. ``z``.
    - `threshold`: size from which units are in the network; without one everything is shown at first.
    - `tail`: sign that a value must have to count, as of a one-tailed or an F test; 0 for any.
    """

    name: str
    task: str
    values: NDArray[np.floating[Any]]
    network: NDArray[np.bool_]
    label: str = "z"
    threshold: float | None = None
    tail: Literal[0, 1, -1] = 0


def niivue_html() -> str:
    """Embed NiiVue, once per page, with its licence.

    Returns HTML: a script, which draws nothing until a viewer asks for it.
    """
    licence, code = raw_text("niivue/LICENSE"), raw_text("niivue/niivue.umd.js")
    version = json.loads(raw_text("niivue/niivue.json"))["Version"]
    return f"<script>\n/*! NiiVue {version}\n\n{licence}*/\n{_inside_script(code)}</script>"


def viewer_html(space: UnitSpace, maps: Sequence[ViewerMap], courses: Mapping[str, Courses], anchor: str) -> str:
    """Make the viewer of one site.

    `anchor`: id of the part of the page that shows the same maps as pictures; the viewer is known to programs by it, as
    ``window.llm2bids[anchor]``. Returns HTML; needs what `niivue_html` makes once in the same page.
    """
    if not maps:
        raise DatasetError(f"no map of site {space.site} found, at least one needed; leave the viewer out")
    if not re.fullmatch(r"[A-Za-z][\w-]*", anchor):
        raise DatasetError(f"anchor {anchor!r} found; use a letter, then letters, digits, - and _")
    content = {"space": _space_fields(space), "maps": [_map_fields(one, space) for one in maps], "steps": STEPS}
    blocks = [_json_html(f"{anchor}-viewer-maps", content)]
    blocks += [_json_html(f"{anchor}-viewer-course-{task}", _course_fields(one)) for task, one in courses.items()]
    options = "".join(f'<option value="{n}">{escape(one.name)}</option>' for n, one in enumerate(maps))
    body = template_text(
        "viewer.html",
        anchor=anchor,
        site=escape(space.site),
        options=options,
        last_layer=space.n_hookpoints - 1,
        last_channel=max(space.n_channels) - 1,
    )
    code = f'<script data-anchor="{anchor}">\n{_inside_script(raw_text("viewer.js"))}</script>'
    return "\n".join([f"<style>\n{raw_text('viewer.css')}</style>", body, *blocks, code])


def _inside_script(code: str) -> str:
    """Code that does not end the element it is in."""
    return re.sub(r"<(?=/script|!--)", r"\\x3c", code, flags=re.IGNORECASE)


def _json_html(identifier: str, content: Mapping[str, Any]) -> str:
    """A block of data; no text in it can end it."""
    text = json.dumps(content, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    return f'<script type="application/json" id="{escape(identifier)}">{text}</script>'


def _packed(values: NDArray[Any]) -> str:
    """Numbers as compressed text, little-endian, the same for the same numbers."""
    payload = values.astype(values.dtype.newbyteorder("<")).tobytes()
    return base64.b64encode(gzip.compress(payload, 6, mtime=0)).decode()


def _space_fields(space: UnitSpace) -> dict[str, Any]:
    """What the viewer must know of a space to lay units on slices."""
    return {
        "site": space.site,
        "hookpoints": space.hookpoints,
        "blocks": space.blocks,
        "names": label_layers(space.blocks, space.hookpoints),
        "channels": space.n_channels,
        "shape": space.shape,
        "empty": space.n_empty,
    }


def _map_fields(one: ViewerMap, space: UnitSpace) -> dict[str, Any]:
    """A map, its values exact to what a file of it holds."""
    for what, array in {"values": one.values, "a network": one.network}.items():
        if array.shape != (space.n_units,):
            raise SpaceError(
                f"{what} of shape {array.shape} found in map {one.name}, ({space.n_units},) needed for {space.label}; "
                "pass one per unit"
            )
    return {
        "name": one.name,
        "task": one.task,
        "label": one.label,
        "threshold": one.threshold,
        "tail": one.tail,
        "values": _packed(one.values.astype(np.float32)),
        "network": _packed(one.network.astype(np.uint8)),
    }


def _course_fields(courses: Courses) -> dict[str, Any]:
    """The time courses of a task, unit by unit."""
    return {
        "description": courses.description,
        "scans": courses.n_scans,
        "runs": [
            {
                "label": run.label,
                "scans": run.n_scans,
                "prompts": [(prompt.start, prompt.n_scans, prompt.trial_type) for prompt in run.prompts],
            }
            for run in courses.runs
        ],
        "units": _packed(courses.units.astype(np.int32)),
        "points": _packed(courses.points),
    }
