"""Which states of the model have been scored: a list on disk that survives being killed."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from llm2bids.errors import DatasetError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from llm2bids.lesioning.plan import Condition


@dataclass(slots=True)
class Ledger:
    """Scores that are there, one line each, added as soon as they are.

    `rows`: what it holds, by key.
    """

    path: Path
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def open(cls, path: Path) -> Ledger:
        """Read what is there; a last line cut short by a kill is left out and dropped from the file."""
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
        """Write a row so that it survives whatever happens next."""
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
        """Go through what is still to be done."""
        for key, condition in keys.items():
            if key not in self.rows:
                yield key, condition
