"""Which states of the model are to be scored, and which have been: a list on disk that survives being killed."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from llm2bids.errors import DatasetError
from llm2bids.model.lesions import Method, Positions
from llm2bids.model.lesions import lesion as lesioned

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from contextlib import AbstractContextManager
    from pathlib import Path

    from numpy.typing import NDArray
    from transformers import PreTrainedModel

    from llm2bids.model.scoring import Changed
    from llm2bids.space import UnitMask

INTACT: Final = ""
"""Name of no mask."""


@dataclass(frozen=True, slots=True)
class Surgery:
    """What is done to the units of a mask.

    Parameters
    ----------
    method : Method
        What.
    keep : bool
        Whether to all others instead.
    positions : {"all", "prompt", "generated"}
        At which tokens.
    """

    method: Method = field(default_factory=lambda: Method("zero"))
    keep: bool = False
    positions: Positions = "all"

    def __str__(self) -> str:
        """As it stands in tables."""
        where = "" if self.positions == "all" else f" at {self.positions} tokens"
        return f"{'keep, others ' if self.keep else ''}{self.method}{where}"


@dataclass(frozen=True, slots=True, eq=False)
class Condition:
    """One state of the model.

    Parameters
    ----------
    name : str
        Of the lesion's mask; empty for the intact model.
    control : int or None
        Number of the random mask; None for the lesion itself.
    mask : UnitMask or None
        Units; None for the intact model.
    surgery : Surgery
        What is done to them.
    means : ndarray, shape (n_units,), optional
        Mean activation of all units, where the method needs it.
    """

    name: str = INTACT
    control: int | None = None
    mask: UnitMask | None = None
    surgery: Surgery = field(default_factory=Surgery)
    means: NDArray[np.float64] | None = None

    def changed(self, model: PreTrainedModel) -> Changed | None:
        """Say how to bring the model into this state.

        Parameters
        ----------
        model : PreTrainedModel
            The model.

        Returns
        -------
        callable or None
            Takes tokens of prompts and makes the context; None for the intact model.
        """
        mask, surgery = self.mask, self.surgery
        if mask is None:
            return None

        def enter(n_prompt: list[int]) -> AbstractContextManager[None]:
            return lesioned(
                model,
                mask,
                surgery.method,
                keep=surgery.keep,
                positions=surgery.positions,
                means=self.means,
                n_prompt=n_prompt,
            )

        return enter

    def key(self, common: str) -> str:
        """Hash all that its scores depend on.

        Parameters
        ----------
        common : str
            Hash of what all states share: model, texts, settings.

        Returns
        -------
        str
            SHA-256 in hexadecimal.
        """
        digest = hashlib.sha256(common.encode())
        if self.control is None:
            digest.update(b"continued")  # what is no control says more: its continuations
        if self.mask is not None:
            digest.update(json.dumps([self.mask.space.to_json(), str(self.surgery)], sort_keys=True).encode())
            digest.update(np.packbits(self.mask.selected).tobytes())
        if self.means is not None:
            digest.update(self.means.tobytes())
        return digest.hexdigest()


@dataclass(slots=True)
class Ledger:
    """Scores that are there, one line each, added as soon as they are.

    Parameters
    ----------
    path : Path
        File of JSON lines.
    rows : dict
        What it holds, by key.
    """

    path: Path
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def open(cls, path: Path) -> Ledger:
        """Read what is there; a last line cut short by a kill is left out and dropped from the file.

        Parameters
        ----------
        path : Path
            File, which may not exist yet.

        Returns
        -------
        Ledger
            Its rows.

        Raises
        ------
        DatasetError
            If the file cannot be read or written, or is damaged elsewhere.
        """
        rows = {}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            content = path.read_bytes() if path.exists() else b""
            whole = content[: content.rfind(b"\n") + 1]
            for line in whole.decode().split("\n")[:-1]:
                row = json.loads(line)
                rows[row["key"]] = row
            if len(whole) < len(content):
                with path.open("r+b") as file:
                    file.truncate(len(whole))
        except OSError as error:
            raise DatasetError(f"{path} cannot be used ({error.strerror or error}); choose another folder") from error
        except (UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError) as error:
            raise DatasetError(f"{path} is damaged in line {len(rows) + 1}; start anew with --overwrite") from error
        return cls(path, rows)

    def add(self, row: Mapping[str, Any]) -> None:
        """Write a row so that it survives whatever happens next.

        Parameters
        ----------
        row : mapping
            JSON values, among them ``key``.

        Raises
        ------
        DatasetError
            If it cannot be written.
        """
        try:
            with self.path.open("ab") as file:
                file.write((json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n").encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise DatasetError(
                f"{self.path} cannot be written ({error.strerror or error}); mend that and go on with --resume"
            ) from error
        self.rows[str(row["key"])] = dict(row)

    def missing(self, keys: Mapping[str, Condition]) -> Iterator[tuple[str, Condition]]:
        """Go through what is still to be done.

        Parameters
        ----------
        keys : mapping
            Conditions by key.

        Yields
        ------
        tuple
            Key and condition.
        """
        for key, condition in keys.items():
            if key not in self.rows:
                yield key, condition
