"""How alike the networks of two models run over the same texts, whatever their units are called and however large."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from llm2bids.bids.dataset import Dataset, linked
from llm2bids.bids.history import noted_call
from llm2bids.bids.names import parse_name, to_label
from llm2bids.bids.prepared import find_prepared
from llm2bids.bids.tables import read_json, read_tsv
from llm2bids.decomposition.components import assign
from llm2bids.decomposition.job import SUMMARY, hash_of
from llm2bids.decomposition.sources import prompts_of
from llm2bids.errors import DatasetError, InferenceError
from llm2bids.networks.answers import Answer, files_of, publish_answer, refuse_answer
from llm2bids.networks.resampling import p_at_least
from llm2bids.networks.settings import check_draws
from llm2bids.plots.fingerprint import draw_fingerprint
from llm2bids.progress import progress_bar

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from llm2bids.bids.prepared import PreparedRun

STRONG: Final = 0.5
"""Absolute correlation above which a pair of networks counts (follow-up of Liu et al. 2025)."""
_FEWEST: Final = 5
"""Texts or tokens that a rank correlation needs at least."""
_HELD: Final = 4096
"""Texts of one length whose ranks are held: permutations come back to them."""
_COLUMNS: Final = {
    "network_a": "Network of the first model.",
    "network_b": "Network of the second that is assigned to it: one to one, such that the sum of absolute correlations "
    "is the largest.",
    "rho": "Spearman correlation of their time courses. Components have no sign, so neither has rho.",
    "score": "Mean absolute correlation of the assigned pairs.",
    "score_chance": "Mean of the score when texts are permuted between the models.",
    "score_p": "How often such permutations have as large a score or a larger one.",
    "strong": f"Assigned pairs whose absolute correlation is above {STRONG:g}.",
    "strong_chance": "Mean of that when texts are permuted.",
    "strong_p": "How often permutations have as many or more.",
    "level": "prompt: correlation over texts of mean courses; token: over the tokens of each text, then averaged.",
    "texts": "Texts that both models were shown.",
    "pairs": "Pairs of networks.",
}


@dataclass(frozen=True, slots=True, eq=False)
class Courses:
    """What the networks of one model do over texts.

    - `texts` (n_tokens, n_networks): by the hash of the text.
    - `reads`: whether tokens are those of the text, so that equal numbers of them can be aligned.
    """

    subject: str
    model: str
    networks: tuple[str, ...]
    texts: Mapping[str, NDArray[np.float64]]
    reads: bool


def _wrote(answer: Answer, asked: Mapping[str, Any]) -> tuple[Path, list[Path]]:
    """The files of the answer."""
    return files_of([answer], asked)


@noted_call("fingerprint", _wrote)
def fingerprint(  # noqa: PLR0913 - the arguments of the command
    a: str | Path,
    b: str | Path,
    *,
    out: str | Path | None = None,
    level: Literal["auto", "prompt", "token"] = "auto",
    n_draws: int = 1000,
    seed: int = 0,
    overwrite: bool = False,
    progress: bool | None = None,
) -> Answer:
    """Say how alike the networks of two models run over the texts that both were shown.

    Parameters
    ----------
    a, b : path-like
        What ``ica`` made of each model: a folder with one decomposition, or its ``ica.json`` where there are several.
    out : path-like, optional
        Folder of results to add the answer to; by default that of `a`.
    level : {"auto", "prompt", "token"}
        Correlate mean courses over texts, or courses over the tokens of each text, which needs the same tokens in both
        models; by default tokens where both read, and cut every text into as many.
    n_draws : int
        Permutations of texts between the models.
    seed : int
        Which ones.
    overwrite : bool
        Replace an answer that is there.
    progress : bool, optional
        Whether to show a progress bar; by default if the terminal can.

    Returns
    -------
    Answer
        Tables ``score``, ``matches`` (assigned pairs) and ``spearman`` (matrix), and a figure.

    Raises
    ------
    LLM2BIDSError
        If a file is missing, the models share fewer than five texts, or tokens cannot be aligned.
    """
    check_draws(n_draws)
    summaries = _summary(Path(a)), _summary(Path(b))
    one, other = (read_courses(path) for path in summaries)
    used = choose_level(one, other, level)
    target = Dataset(Path(out) if out is not None else _root(summaries[0]), "derivative")
    entities = {"sub": one.subject, "desc": f"fingerprint{to_label(other.subject)}"}
    refuse_answer(target, entities, overwrite=overwrite, instead=", or write elsewhere with --out")
    with progress_bar("draws", n_draws, "fingerprint", visible=progress) as bar:
        answer = compare(one, other, used, n_draws, np.random.default_rng(seed), bar.update)
    sources = [Path(os.path.relpath(path, target.root)).as_posix() for path in summaries]
    told = [read_json(path)["Llm2bids"] for path in summaries]
    own = {"Models": [one.get("Model") for one in told], "WeightsSHA256": [one.get("WeightsSHA256") for one in told]}
    answer = replace(answer, settings={**answer.settings, "Seed": seed})
    return publish_answer(target, entities, answer, {"SourceFiles": sources}, own)


def compare(
    one: Courses,
    other: Courses,
    level: Literal["prompt", "token"],
    n_draws: int,
    rng: np.random.Generator,
    tick: Callable[[int], object] = lambda _: None,
) -> Answer:
    """Compare courses that have been read."""
    shared = [text for text in one.texts if text in other.texts]
    mine, theirs = [one.texts[text] for text in shared], [other.texts[text] for text in shared]
    correlate = spearman(mine, theirs, level)
    rho = correlate(np.arange(len(shared)))
    score, strong, order = score_of(rho)
    scores, counts = np.zeros(n_draws), np.zeros(n_draws)
    for draw in range(n_draws):
        scores[draw], counts[draw], _ = score_of(correlate(rng.permutation(len(shared))))
        tick(1)
    told = {
        "score": score,
        "score_chance": scores.mean(),
        "score_p": float(p_at_least(score, scores)),
        "strong": strong,
        "strong_chance": counts.mean(),
        "strong_p": float(p_at_least(strong, counts)),
        "pairs": int((order >= 0).sum()),
        "texts": len(shared),
        "level": level,
    }
    matches = _matches(one, other, np.abs(rho), order)
    matrix = pd.DataFrame(np.abs(rho), columns=list(other.networks)).assign(network_a=list(one.networks))
    tables = {
        "score": pd.DataFrame([told]),
        "matches": matches,
        "spearman": matrix[["network_a", *other.networks]],
    }
    figure = draw_fingerprint(matches, matrix.set_index("network_a"), scores, told, (one.model, other.model), STRONG)
    settings = {"Level": level, "Draws": n_draws, "Texts": len(shared)}
    names = f"{one.subject}, {other.subject}"
    return Answer("fingerprint", names, "", tables, {"figure": figure}, settings, _COLUMNS)


def _matches(one: Courses, other: Courses, size: NDArray[np.float64], order: NDArray[np.int64]) -> pd.DataFrame:
    """The assigned pairs, the most alike first."""
    rows = np.flatnonzero(order >= 0)
    table = pd.DataFrame(
        {
            "network_a": [one.networks[row] for row in rows],
            "network_b": [other.networks[order[row]] for row in rows],
            "rho": size[rows, order[rows]],
        }
    )
    return table.sort_values("rho", ascending=False, kind="stable", ignore_index=True)


def spearman(
    mine: Sequence[NDArray[np.float64]], theirs: Sequence[NDArray[np.float64]], level: Literal["prompt", "token"]
) -> Callable[[NDArray[np.int64]], NDArray[np.float64]]:
    """Rank the courses of two models, to correlate them with the texts of the second in any order.

    `level`: correlate the means of texts; or tokens within each text, of which the longer is cut, and average over
    texts. Returns of an order, ndarray of int, shape (n_texts,), it makes correlations, ndarray, shape (n_one,
    n_other): between -1 and 1; a constant course counts as 0.
    """
    if level == "prompt":
        one, other = (_ranks(np.stack([own.mean(0) for own in part])) for part in (mine, theirs))
        return lambda order: one.T @ other[order]
    both = (mine, theirs)

    @lru_cache(_HELD)
    def ranks(which: int, text: int, n_tokens: int) -> NDArray[np.float64]:
        return _ranks(both[which][text][:n_tokens])

    def correlate(order: NDArray[np.int64]) -> NDArray[np.float64]:
        total = np.zeros((mine[0].shape[1], theirs[0].shape[1]))
        for text, partner in enumerate(order.tolist()):
            n_tokens = min(len(mine[text]), len(theirs[partner]))
            total += ranks(0, text, n_tokens).T @ ranks(1, partner, n_tokens)
        return total / len(order)

    return correlate


def _ranks(courses: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ranks of every column, centred and of length 1."""
    ranks = rankdata(courses, axis=0)
    ranks -= ranks.mean(0)
    lengths = np.sqrt((ranks**2).sum(0))
    found: NDArray[np.float64] = np.divide(ranks, lengths, out=np.zeros_like(ranks), where=lengths > 0)
    return found


def score_of(rho: NDArray[np.float64]) -> tuple[float, int, NDArray[np.int64]]:
    """Assign networks one to one, and say how alike they are.

    `rho` (n_one, n_other): correlations. Returns `order` (n_one,): the network of the other model, -1 for none.

    >>> score, strong, order = score_of(np.array([[0.1, -0.9], [0.3, 0.8]]))
    >>> round(score, 2), strong, order.tolist()
    (0.6, 1, [1, 0])
    """
    size = np.abs(rho)
    order = assign(size)
    there = order >= 0
    matched = size[there, order[there]]
    return float(matched.mean()), int((matched > STRONG).sum()), order


def choose_level(one: Courses, other: Courses, asked: Literal["auto", "prompt", "token"]) -> Literal["prompt", "token"]:
    """Say what can be correlated."""
    if asked not in {"auto", "prompt", "token"}:
        raise InferenceError(f"level {asked!r} found; use auto, prompt or token")
    shared = [text for text in one.texts if text in other.texts]
    if len(shared) < _FEWEST:
        raise InferenceError(
            f"{len(shared)} texts found that both {one.subject} and {other.subject} were shown, {_FEWEST} needed; "
            "record both on the same task and seed"
        )
    lengths = [(len(one.texts[text]), len(other.texts[text])) for text in shared]
    aligned = one.reads and other.reads and all(mine == theirs >= _FEWEST for mine, theirs in lengths)
    if asked == "token" and not aligned:
        raise InferenceError(
            "tokens cannot be aligned: both models must read, and cut every text into as many tokens, "
            f"{_FEWEST} at least; use --level prompt"
        )
    return "token" if aligned and asked != "prompt" else "prompt"


def read_courses(summary: Path) -> Courses:
    """Read what the networks of a decomposition do over every text.

    Returns A text that was shown several times by its first showing.
    """
    told, root = read_json(summary), _root(summary)
    texts: dict[str, NDArray[np.float64]] = {}
    networks: tuple[str, ...] = ()
    for run, series in zip(_runs_of(summary, told), told["Timeseries"], strict=True):
        table = read_tsv(root / series).astype(float)
        if len(table) != run.volumes.n_scans:
            raise DatasetError(f"{series} and {run.volumes.name} differ in length; run llm2bids ica again")
        networks, courses, place = tuple(table.columns), table.to_numpy(), prompts_of(run)
        for number, text in enumerate(run.stimuli(run.events["prompt"])):
            if (place == number).any():
                texts.setdefault(text, courses[place == number])
    own = told["Llm2bids"]
    subject = str(told["Name"]).partition("_")[0].removeprefix("sub-")
    return Courses(subject, str(own.get("Model")), networks, texts, reads=own.get("Mode") == "read")


def _runs_of(summary: Path, told: Mapping[str, Any]) -> list[PreparedRun]:
    """The runs that were decomposed; refuses those that are not as they were then."""
    raw = linked(_root(summary), "raw")
    prepared = find_prepared(raw)
    if gone := [name for name in told["Runs"] if name not in prepared]:
        raise DatasetError(f"{gone[0]} is no longer prepared in {raw}; run llm2bids prep {raw}, and llm2bids ica again")
    runs = [prepared[name] for name in told["Runs"]]
    for run in runs:
        run.recording()  # refuses what was recorded anew since it was prepared
    if told.get("Fingerprint") != hash_of(runs, told["Llm2bids"]["Decomposition"], parse_name(summary.name)[1]):
        raise DatasetError(
            f"{summary.name} was made of other recordings than those now in {raw}; run llm2bids ica with --overwrite"
        )
    return runs


def _summary(path: Path) -> Path:
    """The one decomposition of a folder, or the one named."""
    if path.is_file() and path.name.endswith(f"_{SUMMARY}"):
        return path
    found = sorted(path.glob(f"sub-*/**/*_{SUMMARY}")) if path.is_dir() else []
    if len(found) != 1:
        names = f": give one of them, e.g. {found[0]}" if found else "; give the folder that llm2bids ica made"
        raise DatasetError(f"{path} holds {len(found)} decompositions, one needed{names}")
    return found[0]


def _root(summary: Path) -> Path:
    """The derivative that a decomposition lies in."""
    for folder in summary.resolve().parents:
        if (folder / "dataset_description.json").is_file():
            return folder
    raise DatasetError(f"{summary} lies in no BIDS derivative; give the folder that llm2bids ica made")
