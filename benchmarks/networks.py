"""Are chance levels of networks right where there is nothing? Overlap and identification without any effect.

``python benchmarks/networks.py [--repeats 300] [--model DIR] [--untrained]`` records six tasks whose conditions are
dealt at random over the mixed prompts of ``rest``, deals them anew again and again, and prints

- overlap of two such tasks, networks of the strongest 1 % and 10 % of the units: how often p < .05 when units are
  permuted within layers, and when conditions are exchanged among prompts; with a Kolmogorov-Smirnov test against the
  uniform distribution (ties broken at random, as p-values of few shared units are steps);
- identification: mean accuracy over the deals with its 95 % interval, and how often p < .05.

``--untrained`` gives the model random weights. Exit code 1 if conditions exchanged among prompts fail, or accuracy is
off chance.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy.stats import kstest
from tqdm import tqdm

from llm2bids.model.phantom import build_phantom
from llm2bids.networks.measures import shared_units, units_per_layer
from llm2bids.networks.network_set import NetworkSet, find_networks
from llm2bids.networks.resampling import exchanged_labels, matched_networks, p_at_least, shared_by_chance
from llm2bids.networks.rules import NetworkRule
from llm2bids.networks.run_statistics import RunContrast, RunSums, relabelled
from llm2bids.networks.settings import SCORES
from llm2bids.networks.task_decoding import Experiment, items_by_level
from llm2bids.preparation import prep
from llm2bids.recording import record
from llm2bids.statistics import glm
from llm2bids.task import builtin_prompts

TASKS, RUNS, PROMPTS = 6, 4, 18
CHANCE = 1 / TASKS
WEIGHTS = {f"nothing{task}/{name}": weight for task in range(TASKS) for name, weight in (("on", 1.0), ("off", -1.0))}


def write_tasks(folder: Path, rng: np.random.Generator) -> list[str]:
    """Six tasks of prompts that have nothing in common, in files."""
    pool = [
        prompt.text for topic, prompts in builtin_prompts().items() if topic != "random strings" for prompt in prompts
    ]
    texts = iter(rng.permutation(pool))
    paths = []
    for task in range(TASKS):
        lines = ["text\ttrial_type\trun"]
        for run in range(1, RUNS + 1):
            kinds = rng.permutation(["on", "off"] * (PROMPTS // 2))
            lines += [f"{next(texts)}\t{kind}\t{run}" for kind in kinds]
        paths.append(folder / f"nothing{task}.tsv")
        paths[-1].write_text("\n".join(lines) + "\n", encoding="utf-8")
    return list(map(str, paths))


def untrained(model: str, folder: Path) -> str:
    """The same model with random weights."""
    import torch  # noqa: PLC0415 - only here
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer  # noqa: PLC0415

    torch.manual_seed(0)
    phantom = build_phantom() if model == "phantom" else None
    config = phantom.model.config if phantom else AutoConfig.from_pretrained(model)
    if phantom:
        config.rms_norm_eps = 1e-6
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    (phantom.tokenizer if phantom else AutoTokenizer.from_pretrained(model)).save_pretrained(folder)
    return str(folder)


def dealt(runs: list[RunContrast], rng: np.random.Generator) -> list[RunContrast]:
    """The same prompts with other conditions."""
    runs_dealt = []
    for run in runs:
        order = rng.permutation(len(run.regressor))
        kinds = run.prompts["trial_type"].to_numpy()[order]
        runs_dealt.append(replace(run, regressor=run.regressor[order], prompts=run.prompts.assign(trial_type=kinds)))
    return runs_dealt


def overlap_p(
    networks: NetworkSet, runs: list[RunContrast], share: float, rng: np.random.Generator
) -> tuple[float, float]:
    """Give p of the overlap of two tasks: units permuted, conditions exchanged."""
    pair = [dealt([run for run in runs if run.task == f"nothing{task}"], rng) for task in (1, 4)]
    rule = NetworkRule("top", share)
    networks_of_pair = np.stack(
        [rule.select(RunSums.from_runs(task_runs).pooled(np.ones(RUNS)))[0] for task_runs in pair]
    )
    shared = shared_units(networks_of_pair)[0, 1]
    counts = units_per_layer(networks_of_pair, networks.layers)
    exchanged = [
        np.concatenate(list(matched_networks(relabelled(task_runs, 199, rng), count, networks.layers, "two")))
        for task_runs, count in zip(pair, counts, strict=True)
    ]
    by_units = shared_by_chance(networks_of_pair, networks.layers, 199, rng)[:, 0, 1]
    by_exchange = shared_units(np.stack(exchanged, axis=1))[:, 0, 1]
    return float(p_at_least(shared, by_units, rng)), float(p_at_least(shared, by_exchange, rng))


def identified(
    runs: list[RunContrast], n_exchanges: int, rng: np.random.Generator
) -> dict[tuple[str, str], list[float]]:
    """Accuracy, and its p where tasks are exchanged, by level and score."""
    dealt_runs = dealt(runs, rng)
    sums, groups = RunSums.from_runs(dealt_runs), np.array([run.run for run in dealt_runs])
    rules = tuple(NetworkRule.from_text(text) for text in ("1%", "5%"))
    experiment = Experiment(sums, items_by_level(dealt_runs, sums, WEIGHTS), groups, rules, groups, tuple(SCORES))
    names = [run.task for run in dealt_runs]
    labels = np.array([int(name[-1]) for name in names])
    accuracies = experiment.accuracies(labels, experiment.identify(labels, rng))
    drawn: dict[tuple[str, str], list[float]] = {key: [] for key in accuracies}
    for _ in range(n_exchanges):
        exchanged = np.array([int(name[-1]) for name in exchanged_labels(names, list(groups), rng)])
        for key, value in experiment.accuracies(exchanged, experiment.identify(exchanged, rng)).items():
            drawn[key].append(value)
    return {key: [value, float(p_at_least(value, np.array(drawn[key]), rng))] for key, value in accuracies.items()}


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=300, help="deals of conditions (%(default)s)")
    parser.add_argument("--exchanges", type=int, default=39, help="of tasks among runs, for each deal (%(default)s)")
    parser.add_argument("--model", default="phantom", help="phantom, a folder or a hub id (%(default)s)")
    parser.add_argument("--untrained", action="store_true", help="with random weights")
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        model = untrained(args.model, root / "untrained") if args.untrained else args.model
        record(root / "ds", model, write_tasks(root, rng), subject="one", mode="generate")
        prep(root / "ds")
        glm(root / "ds", root / "glm", drift="none", contrasts=["on - off"])
        (networks,) = find_networks(root / "glm")
        runs = networks.runs()
    what = f"{Path(args.model).name}{', random weights' if args.untrained else ''}, {networks.space.label}"
    print(f"{what}: {TASKS} tasks without effect, {RUNS} runs of {PROMPTS} prompts, {args.repeats} deals of conditions")
    passed = True
    for share in (0.01, 0.1):
        pairs = [overlap_p(networks, runs, share, rng) for _ in tqdm(range(args.repeats), desc=f"top {share:.0%}")]
        for label, p in zip(("units permuted within layers", "conditions exchanged"), np.transpose(pairs), strict=True):
            uniform = kstest(p, "uniform").pvalue
            print(
                f"overlap, top {share:>4.0%}, {label:<29} p < .05 in {np.mean(p < 0.05):.3f}; uniform: p {uniform:.3f}"
            )
            passed &= label.startswith("units") or uniform > 0.01
    accuracies = [identified(runs, args.exchanges, rng) for _ in tqdm(range(args.repeats), desc="identify")]
    for key in accuracies[0]:
        rates, p = np.transpose([result[key] for result in accuracies])
        half = 1.96 * rates.std(ddof=1) / np.sqrt(len(rates))
        text = f"{rates.mean():.3f} ({rates.mean() - half:.3f} to {rates.mean() + half:.3f})"
        line = f"identify, each {key[0]:<7}{key[1]:<12}"
        print(f"{line} accuracy {text}, chance {CHANCE:.3f}; p < .05 in {np.mean(p < 0.05):.3f}")
        passed &= abs(rates.mean() - CHANCE) < 1.5 * half  # nine intervals
    sys.exit(0 if passed else 1)


if __name__ == "__main__":
    main()
