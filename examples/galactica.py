"""Nencka et al. 2023 from end to end on any model: networks, their overlap, their repeatability, telling the task.

``python examples/galactica.py [FOLDER] [--model MODEL]`` records the six tasks, finds their networks, asks the four
questions of the paper, and writes a page with tables and pictures: FOLDER/galactica.md. It takes the phantom by
default; the model of the paper is ``--model facebook/galactica-125m``. The same model with random weights is the
control: it says how much of an answer lies in the words and not in what a model has learned (``--no-control`` leaves it
out).
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

import pandas as pd

from llm2bids.networks.depth_profile import profile
from llm2bids.networks.functional_connectivity import connectivity
from llm2bids.networks.identification import identify
from llm2bids.networks.repeatability import reliability
from llm2bids.networks.unit_overlap import overlap
from llm2bids.preparation import prep
from llm2bids.recording import record
from llm2bids.statistics import glm

if TYPE_CHECKING:
    from llm2bids.networks.answers import Answer

TASKS = "nencka2023"


def find_networks(folder: Path, model: str, args: argparse.Namespace) -> Path:
    """Record a model, prepare and analyse; what is there already stays."""
    record(
        folder, model, TASKS, subject="model", runs=args.runs, seed=args.seed, batch_size=args.batch_size, resume=True
    )
    prep(folder, resume=True)
    glm(folder, folder / "derivatives" / "glm", resume=True)
    return folder / "derivatives" / "glm"


def ask(results: Path, args: argparse.Namespace) -> dict[str, Answer]:
    """All questions about networks."""
    draws = {"seed": args.seed, "overwrite": True}
    return {
        "profile": profile(results, n_draws=args.draws, **draws)[0],
        "overlap": overlap(results, n_draws=args.draws, **draws)[0],
        "reliability": reliability(results, n_permutations=args.draws, **draws)[0],
        "identify": identify(results, n_permutations=args.draws, **draws)[0],
        "connectivity": connectivity(results, overwrite=True)[0],
    }


def untrained(model: str, folder: Path) -> str:
    """The same model with weights as before any training."""
    import torch  # noqa: PLC0415 - only the control needs it
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer  # noqa: PLC0415

    from llm2bids.model.phantom import build_phantom  # noqa: PLC0415

    torch.manual_seed(0)
    subject = build_phantom() if model == "phantom" else None
    config = subject.model.config if subject else AutoConfig.from_pretrained(model)
    if subject:
        config.rms_norm_eps = 1e-6  # the phantom's is so large that random weights would say nothing
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    (subject.tokenizer if subject else AutoTokenizer.from_pretrained(model)).save_pretrained(folder)
    return str(folder)


def table(rows: pd.DataFrame) -> str:
    """Rows as Markdown, numbers with three digits."""

    def text(value: object) -> str:
        if isinstance(value, float):
            return "-" if pd.isna(value) else f"{value:.3f}"
        return str(value)

    lines = [
        list(map(str, rows.columns)),
        ["---"] * rows.shape[1],
        *([text(v) for v in row] for row in rows.to_numpy(object)),
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def with_interval(rows: pd.DataFrame, value: str, low: str = "low", high: str = "high") -> pd.Series:
    """A number and its 95 % interval."""
    return pd.Series(
        [
            ("-" if pd.isna(middle) else f"{middle:.3f}") + ("" if pd.isna(lower) else f" ({lower:.3f} to {upper:.3f})")
            for middle, lower, upper in zip(rows[value], rows[low], rows[high], strict=True)
        ],
        rows.index,
    )


def networks_table(answers: dict[str, Answer]) -> pd.DataFrame:
    """A1: the networks."""
    rows = answers["profile"].tables["summary"]
    alone = answers["overlap"].tables["combinations"].set_index("tasks")["units"]
    return pd.DataFrame(
        {
            "task": rows["task"],
            "units": rows["units"],
            "share": rows["share"],
            "in no other network": [int(alone.get(task, 0)) for task in rows["task"]],
            "positive": rows["positive"],
            "depth, 0 first to 1 last": with_interval(rows, "depth", "depth_low", "depth_high"),
            "effect in the runs that chose, sd": rows["effect_chosen"],
            "in runs held out": with_interval(rows, "effect_held_out", "held_out_low", "held_out_high"),
        }
    )


def overlap_table(answers: dict[str, Answer]) -> pd.DataFrame:
    """A2: pairs of tasks, those that share most above chance first."""
    rows = answers["overlap"].tables["pairs"].sort_values("dice_above_chance", ascending=False)
    return pd.DataFrame(
        {
            "tasks": rows["task_a"] + " × " + rows["task_b"],
            "Dice": with_interval(rows, "dice", "dice_low", "dice_high"),
            "by chance": rows["dice_chance"],
            "above chance": rows["dice_above_chance"],
            "shared units": rows["shared"],
            "of the same sign": rows["same_sign"],
            "p": rows["p"],
            "p, 15 pairs": rows["p_holm"],
        }
    )


def reliability_table(answers: dict[str, Answer]) -> pd.DataFrame:
    """A3: runs of one task against runs of two."""
    rows = answers["reliability"].tables["summary"]
    rows = rows[(rows["task"] != "all") | rows["measure"].isin(["dice", "correlation", "icc21", "icc31"])]
    return pd.DataFrame(
        {
            "measure": rows["measure"],
            "task": rows["task"],
            "within the task": rows["within"],
            "between tasks": rows["between"],
            "difference": with_interval(rows, "difference"),
            "p": rows["p"],
        }
    )


def identify_table(answers: dict[str, Answer], control: Answer | None) -> pd.DataFrame:
    """A4: how often the task was told right."""
    rows = answers["identify"].tables["summary"]
    columns = {
        "told": rows["level"],
        "by": rows["score"],
        "accuracy": with_interval(rows, "accuracy"),
        "by chance": rows["chance"],
        "p": rows["p"],
    }
    if control:
        columns["accuracy, random weights"] = with_interval(control.tables["summary"], "accuracy")
        columns["p, random weights"] = control.tables["summary"]["p"]
    return pd.DataFrame(columns)


PAGE = """\
# Six tasks shown to $model

After Nencka, Muftuler, LaViolette and Koch 2023, *On Functional Activations in Deep Neural Networks* (arXiv
2311.10898): prompts in blocks, one scan per generated token, a linear model for each unit. The paper does not publish
its prompts, block lengths and thresholds, so these are our own. Each task has $runs runs of 33 prompts. Made by

```
$command
```

The networks are tested with prompts as samples, at a false discovery rate of .05, for both signs. Brackets hold 95 %
intervals.

## A1. Each task has a network

$networks

In the runs that selected the units their effects are overestimated. In the runs held out they are not. Depth is the
mean depth of the units: 0 is the first layer and 1 the last.

![Units of each network, layer by layer](galactica/profile.png)

## A2. Networks overlap

$overlap

By chance: the units are permuted within layers, because large networks share many units by chance. p: how often tasks
without effect share as many units in this same model, when conditions are exchanged among prompts. The last column is
corrected for the number of pairs.

![Units shared by tasks](galactica/overlap.png)

## A3. Networks repeat

$reliability

dice compares the networks of single runs. correlation compares their maps of effects, without a threshold. icc21 and
icc31 are intraclass correlations of runs over tasks, as the median over units. p: tasks are exchanged among runs.

![Agreement of runs, of sets of runs and prompts, and of single units](galactica/reliability.png)

## A4. Networks identify the task of other runs

$identify

Networks from the other runs identify the task of each run, with a threshold that those runs chose. By chance: tasks are
exchanged among runs and everything is computed again.$control

![Accuracies and confusions](galactica/identify.png)

## How the networks vary together

![Correlation of the networks' time courses](galactica/connectivity.png)
"""


def page(folder: Path, args: argparse.Namespace, answers: dict[str, Answer], control: Answer | None) -> str:
    """The page, with copies of the pictures beside it."""
    pictures = folder / "galactica"
    pictures.mkdir(exist_ok=True)
    for name, answer in answers.items():
        for path in answer.files:
            if path.name.endswith("_figure.png"):
                shutil.copyfile(path, pictures / f"{name}.png")
    return Template(PAGE).substitute(
        model=Path(args.model).name,
        runs=args.runs,
        command=f"python examples/galactica.py --model {args.model} --runs {args.runs} --seed {args.seed}",
        networks=table(networks_table(answers)),
        overlap=table(overlap_table(answers)),
        reliability=table(reliability_table(answers)),
        identify=table(identify_table(answers, control)),
        control=" Random weights: the same model before training, shown the same texts." if control else "",
    )


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", default="example-output/galactica", metavar="FOLDER")
    parser.add_argument("--model", default="phantom", help="phantom, a folder or a hub id (%(default)s)")
    parser.add_argument("--runs", type=int, default=4, help="per task (%(default)s)")
    parser.add_argument("--draws", type=int, default=1000, help="for chance levels and p-values (%(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-control", dest="control", action="store_false", help="leave the random weights out")
    parser.add_argument("--batch-size", type=int, default=8, help="texts recorded at once (%(default)s)")
    args = parser.parse_args()
    folder = Path(args.folder)
    folder.mkdir(parents=True, exist_ok=True)
    answers = ask(find_networks(folder / "model", args.model, args), args)
    control = None
    if args.control:
        random_weights = untrained(args.model, folder / "untrained-weights")
        results = find_networks(folder / "untrained", random_weights, args)
        (control,) = identify(results, n_permutations=args.draws, seed=args.seed, overwrite=True)
    text = page(folder, args, answers, control)
    (folder / "galactica.md").write_text(text, encoding="utf-8")
    print(overlap_table(answers).head(3).to_string(index=False), "\n")
    print(identify_table(answers, control).to_string(index=False), "\n")
    print(f"The page is {folder / 'galactica.md'}.")


if __name__ == "__main__":
    main()
