"""``glm``: which units answer to a task, per subject and over subjects, by nilearn's estimators.

On the way from prepared runs to networks, the modules come in this order:

- `verb`, `settings`: the function ``glm`` and its options.
- `analysis`: a subject, task and site: its runs, its contrasts, the designs of its runs.
- `first_level`: signals of runs to effects of every prompt.
- `samples`: effects of prompts to the samples of a contrast.
- `second_level`: samples to maps of every contrast.
- `correction`: maps to corrected p-values.
- `prompt_means`, `pattern_samples`: raw activations of prompts, to samples of a pattern.
- `patterns`, `pattern_measures`: patterns and filters, and how well they hold on texts of other clusters.
- `contrast_patterns`, `pattern_files`: patterns of the contrasts of an analysis, as files.
- `output`: maps, networks (masks), tables and designs as files.
- `participant_level`: the job that does this for one subject.
- `group_maps`, `group_design`, `group_level`: effects of subjects, the design over them, and the job of a group.

`linear_model` has the fits that both levels use.
"""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from llm2bids.results.summaries import ContrastResult
    from llm2bids.statistics.verb import glm

__getattr__, __dir__, _ = lazy_loader.attach(__name__, submod_attrs={"verb": ["ContrastResult", "glm"]})
__all__ = ["ContrastResult", "glm"]
