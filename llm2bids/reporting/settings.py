"""Options of ``report``."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from llm2bids.options import option, options

_work = partial(option, group="work", noted=False)


@options
class ReportOptions:
    """Options of ``report``."""

    bids_dir: str | Path = option("a raw dataset made by record", kw_only=False, place=True, metavar="BIDS_DIR")
    out_dir: str | Path | None = option(
        "folder of the pages; BIDS_DIR/derivatives/report by default", default=None, kw_only=False, metavar="DIR"
    )
    participant_label: Sequence[str] = option("subjects to report; all by default", default=(), metavar="LABEL")
    results: Sequence[str | Path] = option(
        "folders of results outside derivatives of the dataset", default=(), metavar="DIR"
    )
    overwrite: bool = _work("replace existing pages", default=False)
    progress: bool | None = _work("show a progress bar; by default if the terminal can", default=None, typed=False)

    @property
    def home(self) -> Path:
        """Folder of the pages."""
        return Path(self.bids_dir) / "derivatives" / "report" if self.out_dir is None else Path(self.out_dir)
