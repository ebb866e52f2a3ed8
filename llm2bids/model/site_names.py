"""Names of the sites that can be recorded in every block. Imports no torch, so that help and completion stay fast."""

from __future__ import annotations

from typing import Final

from llm2bids.errors import SiteError, did_you_mean

SITES: Final = ("block", "attn", "mlp", "neuron", "head")
"""The residual stream after each block, what attention and the MLP add to it, neurons, concatenated heads."""


def check_site(site: str) -> None:
    """Raise if there is no site of this name.

    >>> check_site("neurons")
    Traceback (most recent call last):
    ...
    llm2bids.errors.SiteError: site 'neurons' not found; did you mean neuron? there are block, attn, mlp, neuron, \
head, or name places with `hookpoints`
    """
    if site not in SITES:
        near = did_you_mean(site, SITES)
        raise SiteError(
            f"site {site!r} not found; {near}there are {', '.join(SITES)}, or name places with `hookpoints`"
        )
