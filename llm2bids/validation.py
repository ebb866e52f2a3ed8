"""Runs the official BIDS validator on a dataset and each of its derivatives."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from llm2bids.bids.templates import template_text
from llm2bids.errors import DatasetError
from llm2bids.options import option, options, takes

COMMAND: Final = "bids-validator-deno"


@dataclass(frozen=True, slots=True)
class Issue:
    """One error or warning about one file.

    - `code`: name of the rule, with the key that it concerns.
    - `location`: the file, relative to the dataset.
    """

    severity: str
    code: str
    location: str
    message: str


@dataclass(frozen=True, slots=True)
class Validation:
    """Errors and warnings of the validator about one dataset.

    Parameters
    ----------
    root : Path
        Folder of the dataset.
    issues : tuple of Issue
        The errors and warnings.
    """

    root: Path
    issues: tuple[Issue, ...]

    @property
    def n_errors(self) -> int:
        """Number of errors."""
        return sum(issue.severity == "error" for issue in self.issues)

    @property
    def n_warnings(self) -> int:
        """Number of warnings."""
        return sum(issue.severity == "warning" for issue in self.issues)

    def summary(self) -> str:
        """Describe the result as text.

        Returns
        -------
        str
            One line with the counts, then one per rule with its first file.
        """
        lines = [f"{self.root}: {self.n_errors} errors, {self.n_warnings} warnings"]
        counts = Counter((issue.severity, issue.code) for issue in self.issues)
        first = {(issue.severity, issue.code): issue for issue in reversed(self.issues)}
        for key in sorted(counts):
            more = f" and {counts[key] - 1} more" if counts[key] > 1 else ""
            message = f": {first[key].message}" if first[key].message else ""
            lines.append(f"  {key[0]} {key[1]} in {first[key].location}{more}{message}")
        return "\n".join(lines)

    def __repr__(self) -> str:
        """Return the counts on one line."""
        return f"Validation({self.root}: {self.n_errors} errors, {self.n_warnings} warnings)"


@options
class ValidateOptions:
    """Options of ``validate``."""

    bids_dir: str | Path = option("a raw dataset or a derivative", kw_only=False, place=True, metavar="DIR")


@takes(ValidateOptions)
def validate(options: ValidateOptions) -> list[Validation]:
    """Run the official BIDS validator on a dataset and on each derivative in it.

    Returns
    -------
    list of Validation
        The dataset, then each folder of ``derivatives/`` that has a ``dataset_description.json``; each is validated
        on its own, since the validator does not apply a derivative's ``.bidsignore`` otherwise. Warnings about keys of
        MR physics that mean nothing for a model are left out, as ``code/bids-validator-config.json`` lists them.

    Raises
    ------
    DatasetError
        If the folder is no BIDS dataset or the validator cannot be run.
    """
    root = Path(options.bids_dir)
    if not (root / "dataset_description.json").is_file():
        raise DatasetError(f"{root} has no dataset_description.json, so it is no BIDS dataset; give the folder of one")
    derivatives = sorted(path.parent for path in root.glob("derivatives/*/dataset_description.json"))
    return [_run_validator(folder) for folder in (root, *derivatives)]


def _run_validator(root: Path) -> Validation:
    """Run the validator on one dataset."""
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder, "config.json")
        config.write_text(template_text("validator_config.json"), encoding="utf-8")
        command = [executable(), str(root.resolve()), "--format", "json", "--config", str(config)]
        process = subprocess.run(  # noqa: S603 - no argument is from outside
            command, capture_output=True, text=True, check=False, env=os.environ | {"NO_COLOR": "1"}
        )
    try:
        report = json.loads(process.stdout)
    except json.JSONDecodeError as error:
        lines = (process.stderr or process.stdout).strip().splitlines()
        raise DatasetError(f"{COMMAND} failed: {lines[-1] if lines else 'no output'}; reinstall it with pip") from error
    issues = (_issue(entry) for entry in report["issues"]["issues"])
    return Validation(root, tuple(issue for issue in issues if issue.severity in {"error", "warning"}))


def _issue(entry: dict[str, Any]) -> Issue:
    """One entry of the validator's report."""
    code = " ".join(str(entry[key]) for key in ("code", "subCode") if entry.get(key))
    return Issue(entry.get("severity", ""), code, entry.get("location", ""), entry.get("issueMessage") or "")


def executable() -> str:
    """Find the validator that was installed with this package, or the one on the path."""
    beside = Path(sys.executable).parent / COMMAND
    path = str(beside) if beside.exists() else shutil.which(COMMAND)
    if path is None:
        raise DatasetError(f"{COMMAND} is not installed; install it with: pip install {COMMAND}")
    return path
