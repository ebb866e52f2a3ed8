"""Options of ``prep``."""

from __future__ import annotations

from pathlib import Path

from llm2bids.options import option, options
from llm2bids.results.work import RunLabels, Work


@options
class PrepOptions(RunLabels, Work):
    """Options of ``prep``."""

    bids_dir: str | Path = option("a raw dataset made by record", kw_only=False, place=True, metavar="BIDS_DIR")
    fsl: bool = option("write designs for FSL too: EV files, design.mat, design.con and design.fsf", default=False)

    @property
    def home(self) -> Path:
        """Folder of the prepared runs."""
        from llm2bids.bids.runs import PREPARED  # noqa: PLC0415 - pandas is not needed for --help

        return Path(self.bids_dir) / PREPARED
