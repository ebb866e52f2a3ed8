"""The places in a block that every run can record, by name. Knows nothing else, so that asking for them is quick."""

from __future__ import annotations

from typing import Final

from llm2bids.errors import SiteError, did_you_mean

SITES: Final = ("block", "attn", "mlp", "neuron", "head")
"""The stream after each block, what attention and MLP add to it, neurons, heads."""


def check_site(site: str) -> None:
    """Refuse a site that is none of these.

    >>> check_site("neurons")
    Traceback (most recent call last):
    ...
    llm2bids.errors.SiteError: site 'neurons' not found; did you mean neuron? there are block, attn, mlp, neuron, \
head, or name places with --hookpoints
    """
    if site not in SITES:
        near = did_you_mean(site, SITES)
        raise SiteError(
            f"site {site!r} not found; {near}there are {', '.join(SITES)}, or name places with --hookpoints"
        )
