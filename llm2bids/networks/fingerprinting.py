"""Compare the networks of two models by their time courses over the same texts, whatever their units are."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from llm2bids.bids.dataset import find_linked
from llm2bids.bids.history import noted
from llm2bids.bids.names import parse_name, to_label
from llm2bids.bids.prepared import find_prepared
from llm2bids.bids.tables import read_json, read_tsv
from llm2bids.decomposition.components import assign
from llm2bids.decomposition.job import hash_inputs
from llm2bids.decomposition.run_groups import prompt_numbers
from llm2bids.decomposition.summaries import derivative_of, find_summary
from llm2bids.errors import DatasetError, InferenceError
from llm2bids.networks.answers import Answer
from llm2bids.networks.question import Question
from llm2bids.networks.resampling import p_at_least
from llm2bids.networks.settings import FingerprintOptions
from llm2bids.options import takes
from llm2bids.plots.fingerprint import draw_fingerprint

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from llm2bids.bids.prepared import PreparedRun

Level = Literal["prompt", "token"]
"""Samples of a correlation: means of texts, or tokens within each text."""
STRONG: Final = 0.5
"""Absolute correlation above which a pair of networks counts (follow-up of Liu et al. 2025)."""
_MIN_SAMPLES: Final = 5
"""Texts or tokens that a rank correlation needs at least."""
_MAX_RANKS: Final = 4096
"""Ranked texts in memory: every permutation needs them again."""
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
class ModelCourses:
    """Time courses of the networks of one model.

    - `texts`: courses (n_tokens, n_networks) by the hash of the text.
    - `reads`: whether the model read, so that tokens are those of the text and can be aligned.
    """

    subject: str
    model: str
    networks: tuple[str, ...]
    texts: Mapping[str, NDArray[np.float64]]
    reads: bool


@noted("fingerprint")
@takes(FingerprintOptions)
def fingerprint(options: FingerprintOptions) -> Answer:
    """Compare how the networks of two models respond to the texts that both were shown.

    Returns
    -------
    Answer
        Tables ``score``, ``matches`` (assigned pairs) and ``spearman`` (matrix), and a figure.

    Raises
    ------
    LLM2BIDSError
        If a file is missing, if the models share fewer than five texts, or if tokens cannot be aligned.
    """
    summaries = find_summary(Path(options.a)), find_summary(Path(options.b))
    first, second = (read_model_courses(path) for path in summaries)
    level = choose_level(first, second, options.level)
    models = ModelPair(first, second, summaries, options.home)
    question = Question("fingerprint", options, hint=", or write elsewhere with `out`")
    question.check_new([models])
    (answer,) = question.answer([FingerprintStudy(models, level, options)])
    return answer


@dataclass(frozen=True, slots=True, eq=False)
class ModelPair:
    """Two models; `summaries` describe their decompositions, and the answer is written to `home`."""

    first: ModelCourses
    second: ModelCourses
    summaries: tuple[Path, Path]
    home: Path

    def entities(self, label: str) -> dict[str, str]:
        """Entities of the files of an answer."""
        return {"sub": self.first.subject, "desc": f"{label}{to_label(self.second.subject)}"}

    @property
    def sources(self) -> dict[str, Any]:
        """Summaries of both decompositions, for the sidecar."""
        return {"SourceFiles": [Path(os.path.relpath(path, self.home)).as_posix() for path in self.summaries]}

    @property
    def metadata(self) -> dict[str, Any]:
        """Both models, for the sidecar."""
        models = [read_json(path)["Llm2bids"] for path in self.summaries]
        return {
            "Models": [model.get("Model") for model in models],
            "WeightsSHA256": [model.get("WeightsSHA256") for model in models],
        }


@dataclass(frozen=True, eq=False)
class FingerprintStudy:
    """Comparison of two models."""

    networks: ModelPair
    level: Level
    options: FingerprintOptions

    @property
    def n_steps(self) -> int:
        """Number of permutations."""
        return self.options.n_draws

    def answer(self, tick: Callable[[int], object]) -> Answer:
        """Compute all tables, and the figure."""
        rng = np.random.default_rng(self.options.seed)
        models = self.networks
        answer = compare_models(models.first, models.second, self.level, self.options.n_draws, rng, tick)
        return replace(answer, settings={**answer.settings, "Seed": self.options.seed})


def compare_models(
    first: ModelCourses,
    second: ModelCourses,
    level: Level,
    n_draws: int,
    rng: np.random.Generator,
    tick: Callable[[int], object] = lambda _: None,
) -> Answer:
    """Compare the networks of two models."""
    texts = [text for text in first.texts if text in second.texts]
    courses_a, courses_b = [first.texts[text] for text in texts], [second.texts[text] for text in texts]
    correlate = spearman(courses_a, courses_b, level)
    rho = correlate(np.arange(len(texts)))
    score, strong, order = score_pairs(rho)
    # Permuting texts keeps the courses of both models. Networks are assigned anew each time, since the best pairs of
    # unrelated networks correlate too.
    scores, counts = np.zeros(n_draws), np.zeros(n_draws)
    for draw in range(n_draws):
        scores[draw], counts[draw], _ = score_pairs(correlate(rng.permutation(len(texts))))
        tick(1)
    row = {
        "score": score,
        "score_chance": scores.mean(),
        "score_p": float(p_at_least(score, scores)),
        "strong": strong,
        "strong_chance": counts.mean(),
        "strong_p": float(p_at_least(strong, counts)),
        "pairs": int((order >= 0).sum()),
        "texts": len(texts),
        "level": level,
    }
    matches = _matches(first, second, np.abs(rho), order)
    matrix = pd.DataFrame(np.abs(rho), columns=list(second.networks)).assign(network_a=list(first.networks))
    tables = {
        "score": pd.DataFrame([row]),
        "matches": matches,
        "spearman": matrix[["network_a", *second.networks]],
    }
    models = (first.model, second.model)
    figure = draw_fingerprint(matches, matrix.set_index("network_a"), scores, row, models, STRONG)
    settings = {"Level": level, "Draws": n_draws, "Texts": len(texts)}
    subjects = f"{first.subject}, {second.subject}"
    return Answer("fingerprint", subjects, "", tables, {"figure": figure}, settings, _COLUMNS)


def _matches(
    first: ModelCourses, second: ModelCourses, size: NDArray[np.float64], order: NDArray[np.int64]
) -> pd.DataFrame:
    """The assigned pairs, the largest absolute correlation first."""
    rows = np.flatnonzero(order >= 0)
    table = pd.DataFrame(
        {
            "network_a": [first.networks[row] for row in rows],
            "network_b": [second.networks[order[row]] for row in rows],
            "rho": size[rows, order[rows]],
        }
    )
    return table.sort_values("rho", ascending=False, kind="stable", ignore_index=True)


def spearman(
    courses_a: Sequence[NDArray[np.float64]], courses_b: Sequence[NDArray[np.float64]], level: Level
) -> Callable[[NDArray[np.int64]], NDArray[np.float64]]:
    """Return a function that correlates the networks of two models, with the texts of the second in any order.

    `courses_a`, `courses_b`: one array (n_tokens, n_networks) per text. `level`: correlate the means of texts; or the
    tokens within each text, of which the longer is cut, averaged over texts. The function takes an order, shape
    (n_texts,), and returns correlations, shape (n_a, n_b); a constant course counts as 0.
    """
    if level == "prompt":
        means_a, means_b = (
            _unit_ranks(np.stack([course.mean(0) for course in courses])) for courses in (courses_a, courses_b)
        )
        return lambda order: means_a.T @ means_b[order]
    models = (courses_a, courses_b)

    @lru_cache(_MAX_RANKS)
    def ranks(model: int, text: int, n_tokens: int) -> NDArray[np.float64]:
        return _unit_ranks(models[model][text][:n_tokens])

    def correlate(order: NDArray[np.int64]) -> NDArray[np.float64]:
        total = np.zeros((courses_a[0].shape[1], courses_b[0].shape[1]))
        for text, partner in enumerate(order.tolist()):
            n_tokens = min(len(courses_a[text]), len(courses_b[partner]))
            total += ranks(0, text, n_tokens).T @ ranks(1, partner, n_tokens)
        return total / len(order)

    return correlate


def _unit_ranks(courses: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rank every column, centre it, and scale it to length 1: the product of two is Spearman's correlation."""
    ranks = rankdata(courses, axis=0)
    ranks -= ranks.mean(0)
    lengths = np.sqrt((ranks**2).sum(0))
    unit: NDArray[np.float64] = np.divide(ranks, lengths, out=np.zeros_like(ranks), where=lengths > 0)
    return unit


def score_pairs(rho: NDArray[np.float64]) -> tuple[float, int, NDArray[np.int64]]:
    """Assign networks one to one.

    `rho` (n_a, n_b): correlations. Returns the mean absolute correlation of the pairs, the number of strong pairs, and
    the network of the second model for each of the first, shape (n_a,), -1 for none.

    >>> score, strong, order = score_pairs(np.array([[0.1, -0.9], [0.3, 0.8]]))
    >>> round(score, 2), strong, order.tolist()
    (0.6, 1, [1, 0])
    """
    size = np.abs(rho)  # components have no sign
    order = assign(size)
    assigned = order >= 0
    matched = size[assigned, order[assigned]]
    return float(matched.mean()), int((matched > STRONG).sum()), order


def choose_level(first: ModelCourses, second: ModelCourses, level: Literal["auto", "prompt", "token"]) -> Level:
    """Choose what is correlated; raise if it cannot be."""
    if level not in {"auto", "prompt", "token"}:
        raise InferenceError(f"level {level!r} found; use auto, prompt or token")
    texts = [text for text in first.texts if text in second.texts]
    if len(texts) < _MIN_SAMPLES:
        raise InferenceError(
            f"{len(texts)} texts found that both {first.subject} and {second.subject} were shown, {_MIN_SAMPLES} "
            "needed; record both on the same task and seed"
        )
    lengths = [(len(first.texts[text]), len(second.texts[text])) for text in texts]
    aligned = first.reads and second.reads and all(n_a == n_b >= _MIN_SAMPLES for n_a, n_b in lengths)
    if level == "token" and not aligned:
        raise InferenceError(
            "tokens cannot be aligned: both models must read, and cut every text into as many tokens, "
            f'{_MIN_SAMPLES} at least; use level="prompt"'
        )
    return "token" if aligned and level != "prompt" else "prompt"


def read_model_courses(summary: Path) -> ModelCourses:
    """Read the time courses of a decomposition over every text; the first time it was shown, if it was repeated."""
    fields, root = read_json(summary), derivative_of(summary)
    texts: dict[str, NDArray[np.float64]] = {}
    networks: tuple[str, ...] = ()
    for run, series in zip(_decomposed_runs(summary, fields), fields["Timeseries"], strict=True):
        table = read_tsv(root / series).astype(float)
        if len(table) != run.volumes.n_scans:
            raise DatasetError(f"{series} and {run.volumes.name} differ in length; run llm2bids ica again")
        networks, courses, prompts = tuple(table.columns), table.to_numpy(), prompt_numbers(run)
        for number, text in enumerate(run.stimuli(run.events["prompt"])):
            if (prompts == number).any():
                texts.setdefault(text, courses[prompts == number])
    metadata = fields["Llm2bids"]
    subject = str(fields["Name"]).partition("_")[0].removeprefix("sub-")
    return ModelCourses(subject, str(metadata.get("Model")), networks, texts, reads=metadata.get("Mode") == "read")


def _decomposed_runs(summary: Path, fields: Mapping[str, Any]) -> list[PreparedRun]:
    """Find the runs that were decomposed; raise if they changed since."""
    raw = find_linked(derivative_of(summary), "raw")
    prepared = find_prepared(raw)
    if missing := [name for name in fields["Runs"] if name not in prepared]:
        raise DatasetError(
            f"{missing[0]} is no longer prepared in {raw}; run llm2bids prep {raw}, and llm2bids ica again"
        )
    runs = [prepared[name] for name in fields["Runs"]]
    for run in runs:
        run.recording()  # raises if the run was recorded anew since it was prepared
    if fields.get("Fingerprint") != hash_inputs(runs, fields["Llm2bids"]["Decomposition"], parse_name(summary.name)[1]):
        raise DatasetError(
            f"{summary.name} was made of other recordings than those now in {raw}; run ica again with overwrite=True"
        )
    return runs
