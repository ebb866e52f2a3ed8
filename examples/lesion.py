"""What networks do: Liu et al. 2025's lesions with the controls they lack, on any model.

``python examples/lesion.py [FOLDER] [--model MODEL]`` records the six tasks, finds a network for each, and independent
components without looking at the tasks. Then it silences networks while the model reads prompts that it has not been
shown: every network against every topic, unions of components, and unions kept alone; beside each lesion, random units
as many in every layer and as near in activation as there are. It writes a page with tables and pictures:
FOLDER/lesion.md.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from galactica import table  # the example beside this one

from llm2bids.bids.names import parse_name
from llm2bids.bids.tables import read_tsv
from llm2bids.decomposition import ica
from llm2bids.lesioning import lesion_study
from llm2bids.lesioning.evaluation import stimulus_hashes
from llm2bids.masks import load_mask
from llm2bids.preparation import prep
from llm2bids.recording import record
from llm2bids.statistics import glm
from llm2bids.task import builtin_prompts, on_topics, text_hash

if TYPE_CHECKING:
    from llm2bids.lesioning import LesionResults

TASKS = "nencka2023"
RUNS = 3
WORDS = 8
"""Of a prompt, before its ending is to be chosen."""


def find_networks(folder: Path, args: argparse.Namespace) -> tuple[list[Path], list[Path]]:
    """Networks of the tasks, and components, the strongest first; what is there already stays."""
    record(folder, args.model, TASKS, subject="model", sites=[args.site], runs=args.runs, resume=True)
    prep(folder, resume=True)
    by_task = glm(folder, folder / "derivatives" / "glm", top=[args.top / 100], resume=True)
    (components,) = ica(folder, folder / "derivatives" / "ica", components=args.components, resume=True)
    top = [result.top_files[0] for result in by_task]
    return top, [path for path in components.mask_files if load_mask(path).n_selected]


def write_materials(folder: Path, defining_texts: frozenset[str], n_prompts: int) -> tuple[list[Path], Path]:
    """Prompts that were not shown, one file per topic; and a quiz: which ending belongs to the first words."""
    texts = {}
    for task, topic in on_topics().items():
        unseen = [prompt.text for prompt in builtin_prompts()[topic] if text_hash(prompt.text) not in defining_texts]
        texts[task] = unseen[:n_prompts]
        (folder / f"{task}.txt").write_text("\n".join(texts[task]) + "\n", encoding="utf-8")
    rows = []
    for group in zip(*texts.values(), strict=True):
        endings = [" ".join(text.split()[WORDS:]) for text in group]
        rows += [
            {"prompt": " ".join(text.split()[:WORDS]), "answer": ending, "options": endings}
            for text, ending in zip(group, endings, strict=True)
        ]
    quiz = folder / "endings.jsonl"
    quiz.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return [folder / f"{task}.txt" for task in texts], quiz


def own_topic(study: LesionResults) -> pd.DataFrame:
    """What each network does to its own topic, and to the others."""
    rows = read_tsv(next(path for path in study.files if path.name == "dissociation.tsv"))
    rows["task"] = rows["mask"].str.extract(r"task-([a-z]+)_")
    numbers = ["change", "control_change", "percentile", "percentile_low", "percentile_high"]
    rows[numbers] = rows[numbers].astype(float)
    units = dict(zip(study.table["mask"], study.table["units"], strict=True))
    table_rows = []
    for task, task_rows in rows.groupby("task", sort=False):
        (on_topic,) = task_rows[task_rows["text"] == task].to_dict("records")
        others = task_rows[task_rows["text"] != task]
        interval = f"{on_topic['percentile_low']:.0f} to {on_topic['percentile_high']:.0f}"
        table_rows.append(
            {
                "network of": task,
                "units": units[on_topic["mask"]],
                "own topic, bits per token": f"{on_topic['change']:+.3f}",
                "random units": f"{on_topic['control_change']:+.3f}",
                "percentile among random units": f"{on_topic['percentile']:.0f} ({interval})",
                "other topics": f"{others['change'].mean():+.3f}",
                "most, of": f"{others['change'].max():+.3f} {others.loc[others['change'].idxmax(), 'text']}",
            }
        )
    return pd.DataFrame(table_rows)


def conditions(study: LesionResults) -> pd.DataFrame:
    """States of the model below each other: accuracy, answers not parsed, perplexity over all topics."""
    rows = study.summary
    topics = [name for name in rows if name.endswith(".perplexity")]
    return pd.DataFrame(
        {
            "state": rows["condition"] + [f" ({runs} masks)" if runs > 1 else "" for runs in rows["runs"]],
            "units": rows["units"],
            "share": [f"{100 * share:.1f} %" for share in rows["share"]],
            "endings told right": [f"{value:.3f}" for value in rows["endings.accuracy"]],
            "not parsed": [f"{value:.3f}" for value in rows["endings.parse_failures"]],
            "perplexity": [f"{value:,.0f}" for value in np.exp(np.log(rows[topics]).mean(axis=1))],
        }
    )


PAGE = """\
# What networks of $model do

After Liu et al. 2025, *Brain-Inspired Exploration of Functional Networks and Key Neurons in Large Language Models*
(arXiv 2502.20408), on $n_units units at site `$site`. Networks are silenced, or everything except them, and the model
is scored on texts that defined no network. Each lesion is compared with random units, as many in every layer and as
close in activation as possible. The random units of a large union can include some of its own units. Made by

```
$command
```

## Each network against each topic

For each task, the $top % of units with the largest statistic are set to 0 while the model reads $n_prompts prompts per
topic. The same is done with random units, $controls times.

$own

![Change of log2 perplexity by network and topic](lesion/dissociation.png)

If the model needs a network for its topic, silencing it harms this topic more than the others, and more than silencing
random units does. A percentile near 50 says that these units do no more for these texts than any similar units.

## Masked, and kept alone

These are independent components, found without looking at the tasks. $n_components of them have units; the strongest
come first. `mask n` silences the first n together, `keep n` silences everything else. The quiz shows the first $words
words of a prompt and asks which of six endings is the right one, by likelihood; chance is .167. Perplexities are
geometric means over topics and masks.

$conditions

![Bits per token as more units are kept](lesion/keep.png)

Random masks show what chance gives. Only the difference from them, in `mask n` and in `keep n`, is due to the
components.
"""


def page(
    folder: Path, args: argparse.Namespace, apart: LesionResults, together: LesionResults, components: list[Path]
) -> str:
    """The page, with copies of the pictures beside it."""
    pictures = folder / "lesion"
    pictures.mkdir(exist_ok=True)
    for path in (*apart.files, *together.files):
        if path.suffix == ".png":
            shutil.copyfile(path, pictures / path.name)
    options = {name: getattr(args, name) for name in ("site", "runs", "top", "components", "prompts", "controls")}
    numbers = " ".join(f"--{name} {value}" for name, value in options.items())
    return Template(PAGE).substitute(
        model=Path(args.model).name,
        site=args.site,
        n_units=load_mask(components[0]).space.n_units,
        controls=args.controls,
        command=f"python examples/lesion.py --model {args.model} {numbers}",
        top=f"{args.top:g}",
        n_prompts=args.prompts,
        n_components=len(components),
        words=WORDS,
        own=table(own_topic(apart)),
        conditions=table(conditions(together)),
    )


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", default="example-output/lesion", metavar="FOLDER")
    parser.add_argument("--model", default="phantom", help="phantom, a folder or a hub id (%(default)s)")
    parser.add_argument("--site", default="neuron", help="whose units (%(default)s; the paper's is mlp)")
    parser.add_argument("--runs", type=int, default=3, help="per task; four would show all prompts (%(default)s)")
    parser.add_argument("--top", type=float, default=2.0, help="per cent of units in a task's network (%(default)g)")
    parser.add_argument("--components", default="estimate", help="their number (%(default)s)")
    parser.add_argument("--prompts", type=int, default=6, help="per topic, not shown before (%(default)s)")
    parser.add_argument(
        "--controls", type=int, default=100, help="random masks per network, a fifth per union (%(default)s)"
    )
    args = parser.parse_args()
    args.components = args.components if args.components == "estimate" else int(args.components)
    if not 1 <= args.runs <= RUNS:
        parser.error(f"{args.runs} runs found; 1 to {RUNS} leave prompts that are not shown")
    folder = Path(args.folder)
    folder.mkdir(parents=True, exist_ok=True)
    networks, components = find_networks(folder / "model", args)
    defining_texts = frozenset[str]().union(
        *(stimulus_hashes(load_mask(path).provenance) for path in (*networks, *components))
    )
    texts, quiz = write_materials(folder, defining_texts, args.prompts)
    common = {"model": args.model, "text": texts, "lines": True, "controls": args.controls, "resume": True}
    order = list(on_topics())
    networks.sort(key=lambda path: order.index(parse_name(path.name)[1]["task"]))
    apart = lesion_study(folder / "apart", masks=networks, dissociation=True, **common)
    n = len(components)
    n_kept = sorted({-(-n // part) for part in (4, 2, 1)})
    common["controls"] = -(-args.controls // 5)
    together = lesion_study(
        folder / "together", masks=components, union=[min(10, n)], keep_union=n_kept, task=quiz, **common
    )  # fmt: skip
    (folder / "lesion.md").write_text(page(folder, args, apart, together, components), encoding="utf-8")
    print(own_topic(apart).to_string(index=False), "\n")
    print(conditions(together).to_string(index=False), "\n")
    print(f"The page is {folder / 'lesion.md'}.")


if __name__ == "__main__":
    main()
