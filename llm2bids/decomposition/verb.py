"""Networks without a task: units whose activity goes together, by independent components."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm2bids.bids.history import noted
from llm2bids.decomposition.job import DecompositionJob
from llm2bids.decomposition.run_groups import find_run_groups
from llm2bids.decomposition.settings import ICAOptions
from llm2bids.options import takes
from llm2bids.results.jobs import open_output, run_all

if TYPE_CHECKING:
    from llm2bids.decomposition.result import Decomposition


@noted("ica")
@takes(ICAOptions)
def ica(options: ICAOptions) -> list[Decomposition]:
    """Find networks without a task.

    Returns
    -------
    list of Decomposition
        One per subject, group, run or layer.

    Raises
    ------
    LLM2BIDSError
        If options contradict each other, the dataset is not prepared, or runs do not go together.
    """
    raw = Path(options.bids_dir)
    out = open_output(raw, options.home)
    groups = find_run_groups(raw, options, **options.labels)
    jobs = [DecompositionJob(group, out, raw) for group in groups]
    return run_all(jobs, options, _read, ("ica", "sets"))


def _read(job: DecompositionJob, summary: dict[str, Any]) -> Decomposition:
    """Return a decomposition that is there already."""
    return job.result(summary, skipped=True)
