"""Liu et al. 2025 on any model, without labels: components, which of them recur, what they are, whose they are.

``python examples/networks_without_a_task.py [FOLDER] [--model MODEL]`` records six tasks, decomposes what the model did
without looking at a label, asks four questions of the components, each beside its chance level and the same model with
random weights, and writes a page with tables and pictures: FOLDER/networks_without_a_task.md.

It takes the phantom by default, whose networks are known. The site of the paper is ``--site mlp``. Where components are
dense, as those of a small trained model are, no unit is far from all others, and the bound that finds the phantom's
networks finds next to none: give a lower one, like ``--z 2``, and read the page with that in mind.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

import nibabel as nib
import numpy as np
import pandas as pd
from galactica import table, untrained  # the example beside this one
from matplotlib.figure import Figure

from llm2bids.decomposition import ica
from llm2bids.decomposition.components import correlate_rows, z_over_units
from llm2bids.model.phantom import build_phantom
from llm2bids.networks.fingerprinting import fingerprint
from llm2bids.networks.matching import match
from llm2bids.networks.resampling import holm
from llm2bids.preparation import prep
from llm2bids.recording import record
from llm2bids.statistics import glm

if TYPE_CHECKING:
    from llm2bids.decomposition import Decomposition
    from llm2bids.networks.answers import Answer

TASKS, PAPER_Z, SHOWN = "nencka2023", 3.6, 24
OTHERS = {"again": "itself, from another start", "untrained": "random weights", "noise": "a phantom of other noise"}


def decompose(folder: Path, model: object, args: argparse.Namespace) -> Decomposition:
    """Record a model, prepare, and find components of all runs together; what is there already stays."""
    record(
        folder,
        model,
        TASKS,
        subject=folder.name,
        sites=[args.site],
        runs=args.runs,
        seed=args.seed,
        batch_size=args.batch_size,
        resume=True,
    )
    prep(folder, resume=True)
    how = {"z": args.z, "seed": args.seed, "resamples": args.resamples, "resume": True}
    return ica(folder, folder / "derivatives" / "ica", **how)[0]


def look_again(folder: Path, result: Decomposition, args: argparse.Namespace) -> Answer | None:
    """Look for the components of all runs in those of single runs, where any has a network."""
    if not any(mask.n_selected for mask in result.masks):
        return None
    results = folder / "derivatives"
    ica(folder, results / "icaruns", by="run", z=args.z, seed=args.seed, resume=True)
    return match(results / "ica", results / "icaruns", out=results / "recurrence", **chance_options(args))


def look_up(folder: Path, args: argparse.Namespace) -> dict[str, Answer]:
    """Look for networks that are known otherwise among the components: those of tasks, and planted ones."""
    results = folder / "derivatives"
    templates = {"labels": results / "glm", "planted": results / "phantom"}
    glm(folder, templates["labels"], resume=True)
    return {
        name: match(path, results / "ica", out=results / name, **chance_options(args))
        for name, path in templates.items()
        if path.exists()
    }


def compare(folder: Path, args: argparse.Namespace) -> dict[str, Answer]:
    """The components of the model against those of the others, and against its own from another start."""
    results = folder / "model" / "derivatives"
    ica(folder / "model", results / "again" / "ica", z=args.z, seed=args.seed + 1, resume=True)
    others = {"again": results / "again"} | {name: folder / name / "derivatives" for name in ("untrained", "noise")}
    return {
        name: fingerprint(results / "ica", path / "ica", out=results / f"fingerprint{name}", **chance_options(args))
        for name, path in others.items()
        if path.exists()
    }


def chance_options(args: argparse.Namespace) -> dict[str, int]:
    """How chance is drawn."""
    return {"n_draws": args.draws, "seed": args.seed, "overwrite": True}


def maps_of(result: Decomposition) -> tuple[np.ndarray, np.ndarray]:
    """Maps, shape (n_components, n_units), and how many units of their networks each layer has."""
    layers = [mask.selected.reshape(mask.space.n_hookpoints, -1).sum(1) for mask in result.masks]
    return result.maps, np.array(layers)


def side_by_side(columns: dict[str, dict[str, object]]) -> str:
    """A column per model."""
    rows = pd.DataFrame({name: pd.Series(column, dtype=object) for name, column in columns.items()})
    return table(rows.reindex(next(iter(columns.values()))).rename_axis("").reset_index())


def components_of(result: Decomposition) -> dict[str, object]:
    """What there is."""
    components, (maps, layers) = result.table, maps_of(result)
    sizes = layers.sum(1)
    beyond, network_sizes = (z_over_units(maps, robust=False) > PAPER_Z).sum(1), sizes[sizes > 0]
    fields = {
        "components": len(sizes),
        "variance explained, sum": components["explained_variance"].sum(),
        "stability, median": components["stability"].median(),
        f"components with units beyond plain z {PAPER_Z:g}, as in the paper": int((beyond > 0).sum()),
        "components with a network": len(network_sizes),
    }
    if not len(network_sizes):
        return fields
    depth = layers[sizes > 0] @ np.linspace(0, 1, layers.shape[1]) / network_sizes
    return fields | {
        "units of a network, median (least to most)": f"{np.median(network_sizes):g} "
        f"({network_sizes.min()} to {network_sizes.max()})",
        "share of all units, mean of networks": network_sizes.mean() / result.n_units,
        "depth of networks, 0 first to 1 last layer": depth.mean(),
    }


def recurrence_of(answer: Answer | None) -> dict[str, object]:
    """How many components are found again in single runs."""
    if answer is None:
        return {"components with a network": 0, "found again": 0}
    rows = answer.tables["pairs"]
    again = (rows["recurrence_p_holm"] < 0.05) & (rows["recurrence"] > 1)  # noqa: PLR2004 - the usual level
    return {
        "components with a network": len(rows),
        "found again": int(again.sum()),
        "share": again.mean(),
        "runs, mean of these": rows["recurrence"][again].mean(),
        "runs, most": f"{rows['recurrence'].max()} of {rows['groups'].iloc[0]}",
        "runs by chance, mean of all": rows["recurrence_chance"].mean(),
    }


def networks_table(answer: Answer, **correlations: dict[str, float]) -> pd.DataFrame:
    """For every network that is known otherwise the component most like it."""
    rows = answer.tables["pairs"].assign(p=[f"{p:.4f}" for p in holm(answer.tables["pairs"]["best_p"].to_numpy())])
    headings = {"template": "network", "units_a": "units", "best": "component", "best_iou": "IoU",
             "best_chance": "IoU by chance", "p": f"p, {len(rows)} networks"}  # fmt: skip
    more = {name: rows["template"].map(correlation) for name, correlation in correlations.items()}
    return rows[list(headings)].rename(columns=headings).assign(**more)


def correlations_of(folder: Path, result: Decomposition) -> dict[str, float]:
    """Largest correlation of a component's map with the z map of each task."""
    tasks = {analysis.task: analysis.z_file for analysis in glm(folder, folder / "derivatives" / "glm", resume=True)}
    space, maps = result.masks[0].space, maps_of(result)[0]
    z = space.to_signals(nib.concat_images(tasks.values())).astype(float)
    return dict(zip(tasks, np.abs(correlate_rows(z, maps)).max(1), strict=True))


def fingerprint_table(answers: dict[str, Answer]) -> pd.DataFrame:
    """The model against others."""
    rows = pd.concat([answer.tables["score"].assign(other=OTHERS[name]) for name, answer in answers.items()])
    headings = {"other": "the model against", "score": "mean correlation of pairs", "score_chance": "by chance",
             "score_p": "p", "pairs": "pairs", "strong": "above .5", "texts": "texts"}  # fmt: skip
    return rows[list(headings)].assign(score_p=rows["score_p"].map("{:.4f}".format)).rename(columns=headings)


def draw_components(result: Decomposition) -> Figure:
    """Where the components are, and how stable they are: those that explain most."""
    units, components = maps_of(result)[1][:SHOWN], result.table[:SHOWN]
    figure = Figure(figsize=(7.5, 0.22 * len(units) + 1.4), layout="constrained")
    layer_axes, stability_axes = figure.subplots(1, 2, sharey=True)
    image = layer_axes.imshow(units, aspect="auto", cmap="cividis", interpolation="none", vmin=0)
    layer_axes.set(xlabel="layer", ylabel="component", xticks=range(units.shape[1]), title="Units per layer")
    layer_axes.set_yticks(range(len(units)), components["component"].map("{:02d}".format), fontsize=7)
    figure.colorbar(image, ax=layer_axes, shrink=0.7)
    stability_axes.barh(range(len(units)), components["stability"], height=0.6)
    stability_axes.set(xlim=(0, 1), xlabel="mean correlation over refits", title="Stability")
    return figure


PAGE = """\
# Networks of $model without a task

After Liu et al. 2025, *Brain-Inspired Exploration of Functional Networks and Key Neurons in Large Language Models*
(arXiv 2502.20408): independent components of the activations of $units units at site `$site`, found without labels.
There are $runs runs of 33 prompts for each of six tasks. A sample is the mean of a unit over a prompt, in standard
deviations of the unit. The network of a component is its units beyond $bound. Made by

```
$command
```

Untrained: the same model with random weights, as before training, shown the same texts.

## 1. How many components there are

$components

The number of components is the number that have more variance than noise of the same strength (parallel analysis).
Stability is the correlation of a map over $resamples refits, with other starts and with runs drawn with replacement. 1
means that the map is always the same.

![Units per layer, and stability, of the components that explain most](networks_without_a_task/components.png)

## 2. Which of them recur

$recurrence

Each run is also decomposed alone. A component is found again in a run if it shares more than a fifth of all units of
the two with a network of that run (IoU above .2). The table counts components that are found again in two runs or more,
and in more runs than when their units are permuted within layers (p < .05, corrected for the number of components).

![Components, their matches in single runs, and how often they are found again](networks_without_a_task/recurrence.png)

## 3. Compared with the labels

$labels

Only this section uses the tasks. `llm2bids glm` finds their networks (prompts as samples, false discovery rate .05,
both signs), and the table shows for each the component that shares most units with it. By chance and p: the units are
permuted within layers. Correlation of maps: the largest correlation of any component with the z map of the task, over
all units.

![Networks of tasks and their matches](networks_without_a_task/labels.png)
$planted
## 4. Whether another model has them

$fingerprint

The table shows the Spearman correlation of the time courses of two sets of components, over the texts that both models
read, with components assigned one to one. By chance and p: the texts are permuted between the models. The first row is
the most that can be expected. Random weights are the least: both models read the same words, which makes time courses
similar beyond chance even before training. Ranks give all texts the same weight. Networks that answer to few texts
therefore correlate little, however similar they are.

![The model against the same with random weights](networks_without_a_task/fingerprint.png)

## What this does not say

- The chance levels treat units as independent, and in no model are they. That a component recurs more often than by
  chance says little. If more components recurred than with random weights, training would have made them.
- Components come from the same runs in which they are found again; each run is one of $n_runs.
- $bound_says
- Tasks differ in their words, and so do texts. The words alone may explain a difference.
- Units that vary together need not have an effect. To test that, lesion them (`examples/lesion.py`).
"""
PLANTED = """
What was planted into the phantom, and found without a label:

$planted

![Planted networks and their matches](networks_without_a_task/planted.png)
"""
FAR = "Dense components, none of whose units is that far from all others, have no network here. There are many of them."
NEAR = (
    "No gap in these maps separates a network from the rest. Of any normal distribution 2.3 % lie beyond 2, so the "
    "size of a network is no finding."
)


def page(
    args: argparse.Namespace,
    models: dict[str, Decomposition],
    again: dict[str, Answer | None],
    matches: dict[str, Answer],
    fingerprints: dict[str, Answer],
) -> str:
    """All of it as Markdown."""
    result = models["model"]
    labels = {
        "largest correlation of maps": correlations_of(Path(args.folder, "model"), result),
        "same, random weights": correlations_of(Path(args.folder, "untrained"), models["untrained"]),
    }
    planted = (
        Template(PLANTED).substitute(planted=table(networks_table(matches["planted"]))) if "planted" in matches else ""
    )
    options = f"--model {args.model} --site {args.site}{f' --z {args.z:g}' if args.z else ''} --runs {args.runs}"
    return Template(PAGE).substitute(
        model=Path(args.model).name,
        units=result.n_units,
        site=args.site,
        runs=args.runs,
        n_runs=result.n_runs,
        bound=f"z {args.z:g}" if args.z else "robust z 5 (median and median absolute deviation over units)",
        bound_says=NEAR if args.z and args.z < PAPER_Z else FAR,
        command=f"python examples/networks_without_a_task.py {options} --resamples {args.resamples} --seed {args.seed}",
        resamples=args.resamples,
        components=side_by_side({name: components_of(model) for name, model in models.items() if name in again}),
        recurrence=side_by_side({name: recurrence_of(answer) for name, answer in again.items()}),
        labels=table(networks_table(matches["labels"], **labels)),
        planted=planted,
        fingerprint=table(fingerprint_table(fingerprints)),
    )


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", default="example-output/networks_without_a_task", metavar="FOLDER")
    parser.add_argument("--model", default="phantom", help="phantom, a folder or a hub id (%(default)s)")
    parser.add_argument("--site", default="block", help="whose units (%(default)s; the paper's is mlp)")
    parser.add_argument("--z", type=float, help="plain z over units beyond which they are a network (robust z 5)")
    parser.add_argument("--runs", type=int, default=4, help="per task (%(default)s)")
    parser.add_argument("--resamples", type=int, default=10, help="refits for the stability (%(default)s)")
    parser.add_argument("--draws", type=int, default=5000, help="for chance levels and p-values (%(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch-size", type=int, default=8, help="texts recorded at once (%(default)s)")
    args = parser.parse_args()
    folder, pictures = Path(args.folder), Path(args.folder, "networks_without_a_task")
    pictures.mkdir(parents=True, exist_ok=True)
    subjects = {"model": args.model, "untrained": untrained(args.model, folder / "untrained-weights")}
    if args.model == "phantom":
        subjects["noise"] = build_phantom(args.seed + 1)
    models = {name: decompose(folder / name, subject, args) for name, subject in subjects.items()}
    again = {name: look_again(folder / name, models[name], args) for name in ("model", "untrained")}
    if again["model"] is None:
        sys.exit("no unit of any component is beyond the bound; give a lower one, e.g. --z 2, and another folder")
    matches, fingerprints = look_up(folder / "model", args), compare(folder, args)
    for name, answer in {"recurrence": again["model"], **matches, "fingerprint": fingerprints["untrained"]}.items():
        figure = next(path for path in answer.files if path.name.endswith("_figure.png"))
        shutil.copyfile(figure, pictures / f"{name}.png")
    draw_components(models["model"]).savefig(pictures / "components.png")
    text = page(args, models, again, matches, fingerprints)
    (folder / "networks_without_a_task.md").write_text(text, encoding="utf-8")
    print(networks_table(matches.get("planted", matches["labels"])).to_string(index=False), "\n")
    print(fingerprint_table(fingerprints).to_string(index=False), "\n")
    print(f"The page is {folder / 'networks_without_a_task.md'}.")


if __name__ == "__main__":
    main()
