"""Options of the questions about networks."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Final, Literal

from llm2bids.decomposition.summaries import derivative_of, find_summary
from llm2bids.errors import DatasetError, InferenceError, did_you_mean
from llm2bids.options import option, options
from llm2bids.results.work import RunLabels

SCORES: Final = {
    "mean-z": "mean over the units of the network of the map's z over units, sign by sign",
    "correlation": "correlation of the map with that of the training runs, over all units",
    "dice": "Dice of the network with the strongest units of the map, as many",
}
"""How a map is compared with a network."""
_work = partial(option, group="work", noted=False)
_n_draws = partial(option, default=1000, metavar="N", group="chance")
_seed = partial(option, "seed of all that is drawn", default=0, metavar="N", group="chance")


def check_draws(n_draws: int) -> None:
    """Raise if there are too few draws for any p-value."""
    if n_draws < 1:
        raise InferenceError(f"{n_draws} draws asked for; 1000 or more needed for a p-value of .001")


@options
class AnswerOptions:
    """Options of every question."""

    overwrite: bool = _work("replace an earlier answer", default=False)
    progress: bool | None = _work("show a progress bar; by default if the terminal can", default=None, typed=False)


@options
class NetworkOptions(RunLabels, AnswerOptions):
    """Options of every question about the results of ``glm``."""

    glm_dir: str | Path = option("results of llm2bids glm", kw_only=False, place=True, metavar="GLM_DIR")
    contrasts: Sequence[str] = option(
        "contrasts, where a task has several", default=(), metavar="NAME", group="which runs (all)"
    )

    @property
    def home(self) -> Path:
        """Folder that the answers are added to."""
        return Path(self.glm_dir)


@options
class OverlapOptions(NetworkOptions):
    """Options of ``networks overlap``."""

    n_draws: int = _n_draws("permutations of units, and exchanges of conditions")
    seed: int = _seed()

    def check(self) -> None:
        """Raise if there are no draws."""
        check_draws(self.n_draws)


@options
class ReliabilityOptions(NetworkOptions):
    """Options of ``networks reliability``."""

    rule: str | None = option(
        "which units are the network of a run or half: a share such as 5%, fdr, bonferroni; by default as glm chose "
        "them",
        default=None,
        metavar="RULE",
    )
    n_permutations: int = _n_draws("exchanges of tasks among runs")
    n_splits: int = _n_draws("pairs of sets of runs or prompts, for each size", default=20)
    seed: int = _seed()

    def check(self) -> None:
        """Raise if there are no draws."""
        if self.n_permutations < 1 or self.n_splits < 1:
            few = min(self.n_permutations, self.n_splits)
            raise InferenceError(f"{few} permutations or splits asked for; 1 or more needed")


@options
class IdentifyOptions(NetworkOptions):
    """Options of ``networks identify``."""

    across: Literal["run", "session", "subject"] = option(
        "what is held out together: the runs of one number, of one session, or of one subject, where subjects are "
        "models of one geometry such as fine-tunes of one base",
        default="run",
    )
    scores: Sequence[str] = option("how maps and networks are compared", default=tuple(SCORES), metavar="SCORE")
    thresholds: Sequence[str] = option(
        "which units are a network: shares such as 1%, fdr, bonferroni; of several the training runs choose one, "
        "each of them held out in turn",
        default=("1%", "0.5%", "2%", "5%", "10%"),
        metavar="RULE",
    )
    decoder: bool = option("whether a linear decoder is trained too", default=True)
    allow_overlap: bool = option("identify even if training runs show the texts of held-out runs", default=False)
    n_permutations: int = _n_draws("exchanges of tasks among runs")
    seed: int = _seed()

    def check(self) -> None:
        """Raise if a score is unknown, or if there is no score, threshold or permutation."""
        if unknown := set(self.scores) - set(SCORES):
            near = did_you_mean(min(unknown), SCORES)
            raise InferenceError(f"score {min(unknown)!r} found; {near}use {', '.join(SCORES)}")
        if not self.scores or not self.thresholds:
            raise InferenceError("no score or no threshold asked for; give one of each at least")
        if self.n_permutations < 1:
            raise InferenceError(f"{self.n_permutations} permutations asked for; 1 or more needed")

    @property
    def label(self) -> str:
        """Name of the question in file names."""
        return "identify" if self.across == "run" else f"identify{self.across}"


@options
class ProfileOptions(NetworkOptions):
    """Options of ``networks profile``."""

    n_draws: int = _n_draws("exchanges of conditions")
    seed: int = _seed()

    def check(self) -> None:
        """Raise if there are no draws."""
        check_draws(self.n_draws)


@options
class ConnectivityOptions(NetworkOptions):
    """Options of ``networks connectivity``."""

    scans: Sequence[str] = option(
        "tasks whose runs give the time courses; by default all that are prepared, also those without a network",
        default=(),
        metavar="TASK",
    )
    course: Literal["mean", "eigenvariate"] = option(
        "how units become one time course: signed mean, or first eigenvariate", default="mean"
    )
    shared: bool = option("keep units of several networks, although they correlate with themselves", default=False)
    background: bool = option(
        "take out first what the task does to all prompts of a condition, drift, and spikes", default=False
    )
    confounds: Sequence[str] = option(
        "columns of confounds to take out first, or wildcards", default=(), metavar="NAME"
    )

    @property
    def label(self) -> str:
        """Name of the question in file names."""
        return "connectivitybackground" if self.background else "connectivity"


@options
class MatchOptions(AnswerOptions):
    """Options of ``networks match``."""

    a: str | Path | Sequence[str | Path] = option(
        "templates: results of glm or ica, another folder of masks, an image of several maps, masks, or a pattern in "
        "quotes",
        kw_only=False,
        place=True,
        metavar="A",
    )
    b: str | Path | Sequence[str | Path] = option(
        "where they are looked for, such as results of ica run by run", kw_only=False, place=True, metavar="B"
    )
    out: str | Path | None = option("folder of results to add the answer to; B by default", default=None, metavar="DIR")
    bound: float = option("IoU above which a network is found again", default=0.2, metavar="IOU")
    n_draws: int = _n_draws("permutations of units within layers")
    seed: int = _seed()

    def check(self) -> None:
        """Raise if there are no draws, or the bound is no IoU."""
        check_draws(self.n_draws)
        if not 0 <= self.bound < 1:
            raise InferenceError(f"bound {self.bound:g} found; an IoU from 0 to below 1 needed, e.g. 0.2")

    @property
    def home(self) -> Path:
        """Folder that the answer is added to; raises if B is no folder of results and no other is given."""
        if self.out is not None:
            return Path(self.out)
        if not isinstance(self.b, str | Path) or not (Path(self.b) / "dataset_description.json").is_file():
            raise DatasetError("B is no folder of results, so there is no place for the answer; give a folder as `out`")
        return Path(self.b)


@options
class FingerprintOptions(AnswerOptions):
    """Options of ``fingerprint``."""

    a: str | Path = option(
        "results of llm2bids ica for one model: a folder with one decomposition, or its ica.json",
        kw_only=False,
        place=True,
        metavar="A",
    )
    b: str | Path = option("results for the other model", kw_only=False, place=True, metavar="B")
    out: str | Path | None = option(
        "folder of results to add the answer to; that of A by default", default=None, metavar="DIR"
    )
    level: Literal["auto", "prompt", "token"] = option(
        "correlate mean courses over texts, or courses over the tokens of each text, which needs the same tokens in "
        "both models; auto takes tokens where both models read and cut every text into as many",
        default="auto",
    )
    n_draws: int = _n_draws("permutations of texts between the models")
    seed: int = _seed()

    def check(self) -> None:
        """Raise if there are no draws."""
        check_draws(self.n_draws)

    @property
    def home(self) -> Path:
        """Folder that the answer is added to."""
        return derivative_of(find_summary(Path(self.a))) if self.out is None else Path(self.out)
