"""Does the analysis find what is there, and only that? Power on planted networks, errors where there is nothing.

``python benchmarks/calibration.py [--designs 1000] [--model DIR] [--of slope]`` prints

- power: for each task of the phantom, four runs, the default design: sensitivity, false discovery proportion and Dice
  with the planted network at q .05, mean over recordings with other prompts, and a 95 % interval;
- calibration: on recordings of ``rest``, whose prompts are labelled at random, block by block as in a task: the share
  of units with p < .05 and p < .001, and how often any unit is found (family-wise error), for each inference. Intervals
  are Monte Carlo: of the mean over designs for shares, Wilson's for frequencies.

With ``--model`` calibration is that of a model of your own, and power is left out. With ``--of slope`` or ``--of bin``
it is that of slopes over surprisal, or of tokens 8 to 15, instead of mean effects.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import dataclass, replace
from functools import cached_property
from math import sqrt
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import norm

from llm2bids.bids.prepared import PreparedRun
from llm2bids.design.regressors import Product, Regressors
from llm2bids.design.statsmodel import Contrast, Node, StatsModel
from llm2bids.masks import load_mask
from llm2bids.preparation import prep
from llm2bids.recording import record
from llm2bids.statistics import glm
from llm2bids.statistics.analysis import Analysis, find_analyses
from llm2bids.statistics.first_level import PromptEffects, first_level
from llm2bids.statistics.second_level import estimate, second_level
from llm2bids.statistics.settings import GLMSettings

INFERENCES = ("prompt", "run", "token")
RUNS = 4
CONDITIONS = ("on", "off")


def null_model(effect: str) -> StatsModel:
    """On minus off, of the mean effects of prompts, of their slopes over surprisal, or of their tokens 8 to 15."""
    means = tuple(f"trial_type.{name}" for name in CONDITIONS)
    products = tuple(Product(f"{name}_x_surprisal", name, "tok_surprisal") for name in CONDITIONS)
    regressors, columns, weighed = {
        "mean": (Regressors(), means, means),
        "slope": (
            Regressors(products),
            (*means, *(product.name for product in products)),
            tuple(product.name for product in products),
        ),
        "bin": (
            Regressors(convolved=means, delays=(0, 8, 16)),
            ("trial_type.*",),
            tuple(f"{name}_delay_8" for name in means),
        ),
    }[effect]
    node = Node("Run", (*columns, "non_steady_state_outlier*"), factors=("trial_type",), regressors=regressors)
    model = StatsModel("null", node, Node("Dataset"), {})
    return model.with_contrasts([Contrast("onMinusOff", weighed, ((1.0, -1.0),))])


@dataclass(frozen=True)
class Relabelled(PreparedRun):
    """A run whose prompts are given other conditions."""

    labels: tuple[str, ...] = ()

    @cached_property
    def events(self) -> pd.DataFrame:
        """The events, with those conditions."""
        return super().events.assign(trial_type=list(self.labels))


def interval(values: list[float], digits: int = 3) -> str:
    """Mean and its 95 % interval, of independent draws of shares."""
    mean = float(np.mean(values))
    half = 1.96 * np.std(values, ddof=1) / sqrt(len(values)) if len(values) > 1 else 1.0
    return f"{mean:.{digits}f} ({max(mean - half, 0):.{digits}f} to {min(mean + half, 1):.{digits}f})"


def frequency(hits: list[bool]) -> str:
    """How often, with Wilson's 95 % interval."""
    n, rate, z = len(hits), float(np.mean(hits)), norm.isf(0.025)
    centre = (rate + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z * sqrt(rate * (1 - rate) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
    return f"{rate:.3f} ({centre - half:.3f} to {centre + half:.3f})"


def power(repeats: int, n_jobs: int) -> None:
    """Planted against found, task by task and inference by inference."""
    rows: dict[tuple[str, str], list[tuple[float, float, float]]] = {}
    for seed in range(repeats):
        with tempfile.TemporaryDirectory() as name:
            root = Path(name, "ds")
            record(root, "phantom", "nencka2023", seed=seed, runs=RUNS)
            prep(root, n_jobs=n_jobs)
            for inference in INFERENCES:
                for result in glm(root, Path(name, inference), inference=inference, n_jobs=n_jobs):
                    truth = next(root.glob(f"derivatives/phantom/sub-*/func/*_task-{result.task}_*truth_mask.nii.gz"))
                    planted, network = load_mask(truth).selected, result.mask.selected
                    hits = (planted & network).sum()
                    scores = (
                        hits / planted.sum(),
                        (network & ~planted).sum() / max(network.sum(), 1),
                        2 * hits / (planted.sum() + network.sum()),
                    )
                    rows.setdefault((inference, result.task), []).append(scores)
    print(f"\nPower: phantom, {RUNS} runs, q .05; mean over {repeats} recordings (95 % interval)")
    print(f"{'inference':<10}{'task':<18}{'sensitivity':<26}{'false discovery prop.':<26}Dice")
    for inference in INFERENCES:
        of_all = np.array([rows[key] for key in rows if key[0] == inference]).mean(0).tolist()
        for task, scores in [
            *((key[1], values) for key, values in rows.items() if key[0] == inference),
            ("mean", of_all),
        ]:
            print(
                f"{inference:<10}{task:<18}"
                + "".join(f"{interval(list(column)):<26}" for column in zip(*scores, strict=True))
            )


def block_labels(rng: np.random.Generator, n_prompts: int, per_block: int = 3) -> tuple[str, ...]:
    """Conditions of a run at random: 5 of 11 blocks are on, as in a task."""
    n_blocks = n_prompts // per_block
    on = rng.permutation(n_blocks) < n_blocks // 2
    return tuple(np.where(np.repeat(on, per_block), "on", "off"))


def null_design(analysis: Analysis, rng: np.random.Generator, inference: str) -> Analysis:
    """The same runs with random conditions."""
    runs = tuple(Relabelled(run.volumes, run.raw, block_labels(rng, len(run.events))) for run in analysis.runs)
    return replace(analysis, runs=runs, settings=replace(analysis.settings, inference=inference))


def null_recordings(model: str, sessions: int, folder: Path, n_jobs: int, effect: str) -> list[Analysis]:
    """Rest, four runs per session; one analysis per session."""
    root = folder / "null"
    record(root, model, "rest", runs=RUNS, sessions=sessions)
    prep(root, n_jobs=n_jobs)
    path = root / "code" / "models" / "null_smdl.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    node = {"Level": "Run", "Name": "run", "GroupBy": ["run", "session", "subject"], "Model": {"X": [1], "Type": "glm"}}
    pd.Series({"Name": "null", "BIDSModelVersion": "1.0.0", "Nodes": [node]}).to_json(path)
    (analysis,) = find_analyses(root, GLMSettings(), model=path)
    labels = sorted({run.volumes.entities["ses"] for run in analysis.runs})
    runs_of_session = [tuple(run for run in analysis.runs if run.volumes.entities["ses"] == label) for label in labels]
    return [Analysis(runs, null_model(effect), GLMSettings()) for runs in runs_of_session]


def calibration(model: str, n_designs: dict[str, int], sessions: int, n_jobs: int, effect: str = "mean") -> bool:
    """Errors where there is nothing, inference by inference; whether the default keeps its promise."""
    calibrated = True
    with tempfile.TemporaryDirectory() as name:
        analyses = null_recordings(model, sessions, Path(name), n_jobs, effect)
        rng = np.random.default_rng(0)  # first levels are the same whatever the labels, but want some
        first = [first_level(null_design(analysis, rng, "prompt")) for analysis in analyses]
        space = analyses[0].space
        what = f"{Path(model).name}, {space.label}, {sessions} recordings of rest x {RUNS} runs"
        print(f"\nCalibration: {what}, random labels, {effect} of prompts")
        head = f"{'inference':<10}{'designs':<9}{'p < .05':<26}{'p < .001':<28}"
        print(head + f"{'Bonferroni .05':<24}{'FDR q .05, any':<24}max-t .05")
        for inference in INFERENCES:
            results = [
                null_result(analyses[number % sessions], first[number % sessions], inference, number)
                for number in range(n_designs[inference])
            ]
            rates, strict, bonferroni, fdr, max_t = map(list, zip(*results, strict=True))
            permuted = [hit for hit in max_t if hit is not None]
            line = f"{inference:<10}{len(results):<9}{interval(rates, 4):<26}{interval(strict, 4):<28}"
            print(
                line
                + f"{frequency(bonferroni):<24}{frequency(fdr):<24}"
                + (f"{frequency(permuted)} of {len(permuted)}" if permuted else "-"),
                flush=True,
            )
            if inference == "prompt":
                errors = [np.mean(bonferroni), np.mean(fdr), np.mean(permuted)]
                calibrated = 0.04 <= np.mean(rates) <= 0.06 and max(errors) <= 0.06
    verdict = "yes" if calibrated else "NO"
    print(f"default inference: p < .05 within .04 to .06 and family-wise error at most .06: {verdict}")
    return calibrated


def null_result(
    analysis: Analysis, first: PromptEffects, inference: str, seed: int, n_permuted: int = 300
) -> tuple[float, float, bool, bool, bool | None]:
    """Shares of p < .05 and p < .001, and whether Bonferroni, FDR and max-t find anything, for one null design."""
    design = null_design(analysis, np.random.default_rng(seed), inference)
    fitted = estimate(design) if inference == "token" else second_level(design, first)
    p, q = fitted.maps["onMinusOff"].p("two"), fitted.adjusted["onMinusOff"]
    any_by_maxt = None
    if inference == "prompt" and seed < n_permuted:
        settings = replace(design.settings, correction="maxt", n_permutations=500, seed=seed)
        corrected = second_level(replace(design, settings=settings), first).adjusted["onMinusOff"]
        any_by_maxt = bool((corrected <= 0.05).any())
    return (
        float((p < 0.05).mean()),
        float((p < 0.001).mean()),
        bool(p.min() <= 0.05 / len(p)),
        bool((q <= 0.05).any()),
        any_by_maxt,
    )


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=20, help="recordings for power (%(default)s)")
    parser.add_argument("--designs", type=int, default=1000, help="null designs (%(default)s); 200 for tokens")
    parser.add_argument("--sessions", type=int, default=5, help="recordings of rest (%(default)s)")
    parser.add_argument("--model", help="a model directory or hub id, instead of the phantom")
    parser.add_argument("--of", choices=["mean", "slope", "bin"], default="mean", help="of prompts (%(default)s)")
    parser.add_argument("--n-jobs", type=int, default=1)
    args = parser.parse_args()
    if not args.model and args.repeats:
        power(args.repeats, args.n_jobs)
    designs = dict.fromkeys(INFERENCES, args.designs) | {"token": min(args.designs, 200)}
    sys.exit(0 if calibration(args.model or "phantom", designs, args.sessions, args.n_jobs, args.of) else 1)


if __name__ == "__main__":
    main()
