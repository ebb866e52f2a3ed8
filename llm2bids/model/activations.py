"""`activations`: what the units of one site do at every token of some texts, as an array. Writes no file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from llm2bids.errors import ModelError, PromptError
from llm2bids.model.loading import Subject
from llm2bids.model.recording import padding_is_harmless, read, tokenize
from llm2bids.model.site_names import SITES, check_site
from llm2bids.model.sites import find_site, match_hookpoints, measure_widths
from llm2bids.model.subject import in_memory, load
from llm2bids.space import UnitSpace

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import DTypeLike, NDArray

    from llm2bids.model.sites import HookPoint
    from llm2bids.model.subject import ModelSource


@dataclass(frozen=True, slots=True, eq=False)
class Activations:
    """Activations of the units of one site at every token of some texts; ``numpy.asarray`` gives the signals.

    Parameters
    ----------
    signals : ndarray of float32, shape (n_scans, n_units)
        One row per token: the texts one after the other, each in reading order, without special tokens.
    space : UnitSpace
        Hookpoint and channel of each unit.
    tokens : DataFrame
        One row per scan: ``text`` (its number), ``position`` (of the token in the model's input, special tokens
        counted), both from 0, ``token_id``, and ``token`` (its string).
    texts : tuple of str
        The texts that the model read.
    """

    signals: NDArray[np.float32]
    space: UnitSpace
    tokens: pd.DataFrame
    texts: tuple[str, ...]

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:  # noqa: FBT001 - numpy's
        """Return the signals, for `numpy.asarray`."""
        return np.array(self.signals, dtype, copy=copy)

    def __repr__(self) -> str:
        """Return sizes, not numbers."""
        n_scans, n_units = self.signals.shape
        n_texts = f"{len(self.texts)} text{'s' * (len(self.texts) != 1)}"
        return f"Activations({n_scans} scans × {n_units} units of {self.space.label}, {n_texts})"

    def _repr_html_(self) -> str:
        """Return sizes and the first tokens, for notebooks."""
        table = self.tokens.head(10).to_html(index=False, border=0)
        return f"<p>{self!r}</p>{table}"


def activations(
    model: ModelSource, texts: str | Sequence[str], site: str = "block", *, batch_size: int = 8
) -> Activations:
    """Let a model read texts, and return the activations of its units.

    Parameters
    ----------
    model : str, Path, Subject or tuple
        As for `load`, e.g. ``"phantom"``, a hub id, or ``(model, tokenizer)``.
    texts : str or sequence of str
        The texts; one string is one text.
    site : str
        ``block``, ``attn``, ``mlp``, ``neuron`` or ``head``; or a pattern of module paths, e.g.
        ``"*.mlp.act_fn"``, followed by ``:in`` to read inputs instead of outputs. ``LABEL=PATTERN`` names the space.
    batch_size : int
        Number of texts in the model at a time.

    Returns
    -------
    Activations
        Array of shape (n_scans, n_units) with its unit space, tokens and texts.

    Raises
    ------
    ModelError
        If the model cannot be loaded, or cannot read these texts.
    PromptError
        If there is no text, or one is empty or longer than the model's context.
    SiteError
        If the model has no such site or module.

    Notes
    -----
    The signals are those that `record` writes with ``mode="read"``. All of them are held in memory.

    Examples
    --------
    >>> x = activations("phantom", ["the fossil record", "the scan of the patient"], site="mlp")
    >>> x
    Activations(8 scans × 768 units of L6C128mlp, 2 texts)
    >>> np.asarray(x).shape, x.tokens["token"].tolist()
    ((8, 768), ['the', 'fossil', 'record', 'the', 'scan', 'of', 'the', 'patient'])
    """
    documents = (texts,) if isinstance(texts, str) else tuple(texts)
    if not documents:
        raise PromptError("no text found; give at least one")
    if batch_size < 1:
        raise ModelError(f"a batch size of {batch_size} found; 1 or more needed")
    # Files need a hash of the weights, which takes seconds per gigabyte; an array in memory does not.
    subject = load(model) if isinstance(model, str | Path | Subject) else in_memory(model, weights_sha256="")
    label, points = _find_hookpoints(subject, site)
    space = UnitSpace(label, tuple(map(str, points)), measure_widths(subject.model, points))
    tokens = tokenize(subject, documents)
    if batch_size > 1 and not padding_is_harmless(subject, points, tokens, generating=False):
        batch_size = 1
    scans = list(read(subject, points, tokens, batch_size))
    table = pd.DataFrame(
        {
            "text": np.repeat(np.arange(len(documents)), [text.n_scans for text in scans]),
            "position": np.concatenate([text.position for text in scans]),
            "token_id": np.concatenate([text.token_id for text in scans]),
        }
    )
    table["token"] = [subject.tokenizer.decode([token]) for token in table["token_id"]]
    return Activations(np.concatenate([text.signals for text in scans]), space, table, documents)


def _find_hookpoints(subject: Subject, site: str) -> tuple[str, tuple[HookPoint, ...]]:
    """The label of a unit space, and its hookpoints."""
    if site in SITES:
        return site, find_site(subject.model, site)
    label, equals, pattern = site.rpartition("=")
    if not equals and not set(".*?[") & set(pattern):
        check_site(site)  # a misspelt name of a site
    return label if equals else "custom", match_hookpoints(subject.model, pattern)
