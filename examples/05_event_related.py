"""Ask more of a prompt than its mean: how the answer unfolds over tokens, and whether it follows their surprisal.

Run it with ``python examples/05_event_related.py [FOLDER]``. It records the phantom reading sentences on a topic and on
others, finds the units that tell them apart in two runs, and asks two BIDS Stats Models of two others: one with
parametric modulators, one with a finite impulse response. No unit is chosen by what is drawn of it.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import nibabel as nib
import numpy as np
import pandas as pd
from scipy import stats

from llm2bids.masks import load_mask

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from llm2bids.space import UnitMask, UnitSpace

TASK = "medicalimaging"
DELAYS = [0, 2, 4, 6, 8, 10]
CHOOSING, DRAWN = [1, 2], [3, 4]  # runs
LOOKS = {"on": ("the topic (on)", "#e66101", "o"), "off": ("other topics (off)", "#5e3c99", "s")}


def stats_model(name: str, runs: list[int], steps: list[dict[str, Any]], contrasts: dict[str, dict[str, int]]) -> Any:
    """A BIDS Stats Model whose contrasts weigh columns of the design."""
    columns = list(dict.fromkeys(column for weights in contrasts.values() for column in weights))
    node = {
        "Level": "Run",
        "Name": "run",
        "GroupBy": ["run", "subject"],
        "Transformations": {
            "Transformer": "pybids-transforms-v1",
            "Instructions": [{"Name": "Factor", "Input": ["trial_type"]}, *steps],
        },
        "Model": {"Type": "glm", "X": columns},
        "Contrasts": [
            {"Name": label, "ConditionList": list(weights), "Weights": list(weights.values()), "Test": "t"}
            for label, weights in contrasts.items()
        ],
    }
    return {"Name": name, "BIDSModelVersion": "1.0.0", "Input": {"task": [TASK], "run": runs}, "Nodes": [node]}


def models() -> dict[str, Any]:
    """One model to choose units, one with modulators, one with bins of tokens."""
    means = {"onVsOff": {"trial_type.on": 1, "trial_type.off": -1}}
    products = [
        {"Name": "Product", "Input": [f"trial_type.{kind}", f"tok_{what}"], "Output": [f"{kind}_x_{what}"]}
        for kind in LOOKS
        for what in ("surprisal", "position")
    ]
    slopes = {
        "surprisalOn": {"on_x_surprisal": 1},
        "surprisalOff": {"off_x_surprisal": 1},
        "surprisalOnVsOff": {"on_x_surprisal": 1, "off_x_surprisal": -1},
        "positionOnVsOff": {"on_x_position": 1, "off_x_position": -1},
    }
    fir = {"Name": "Convolve", "Model": "fir", "Input": ["trial_type.on", "trial_type.off"], "FIRDelays": DELAYS}
    bins = {
        f"onVsOffFrom{delay}": {f"trial_type.on_delay_{delay}": 1, f"trial_type.off_delay_{delay}": -1}
        for delay in DELAYS
    }
    return {
        "units": stats_model("units", CHOOSING, [], means),
        "modulators": stats_model("modulators", DRAWN, products, means | slopes),
        "bins": stats_model("bins", DRAWN, [fir], bins),
    }


def call(*arguments: object) -> None:
    """Run a command of llm2bids."""
    subprocess.run([sys.executable, "-m", "llm2bids", *map(str, arguments)], check=True)


def answers(dataset: Path, network: UnitMask, signs: NDArray[np.float64]) -> pd.DataFrame:
    """Answer of the network to each prompt, bin by bin: a mean over units and tokens, in standard deviations."""
    rows = []
    for run in DRAWN:
        (bold,) = dataset.glob(f"derivatives/llm2bids/sub-*/func/*task-{TASK}_*run-{run:02d}*_bold.nii.gz")
        (events,) = dataset.glob(f"sub-*/func/*task-{TASK}_*run-{run:02d}_events.tsv")
        signals = (network.space.to_signals(nib.load(bold))[:, network.selected] - 10000) / 100 @ signs / len(signs)
        for event in pd.read_csv(events, sep="\t").itertuples():
            prompt_signals = signals[int(event.onset) : int(event.onset + event.duration)]
            rows += [
                {"trial_type": event.trial_type, "delay": delay, "answer": prompt_signals[delay : delay + 2].mean()}
                for delay in DELAYS
                if delay < len(prompt_signals)
            ]
    return pd.DataFrame(rows)


def result(out: Path, contrast: str, ending: str) -> Path:
    """A file of a contrast."""
    (path,) = out.glob(f"sub-*/func/*task-{TASK}_*_contrast-{contrast}_{ending}")
    return path


def draw_answers(axes: Axes, table: pd.DataFrame) -> None:
    """Means over prompts with 95 % intervals."""
    for kind, (name, colour, marker) in LOOKS.items():
        grouped = table[table["trial_type"] == kind].groupby("delay")["answer"]
        half = grouped.sem() * stats.t.ppf(0.975, grouped.size() - 1)
        places = grouped.mean().index + 0.5 + (0.12 if kind == "on" else -0.12)
        axes.errorbar(places, grouped.mean(), half, color=colour, marker=marker, capsize=3, label=name)
    axes.axhline(0, color="#888888", linewidth=0.8, zorder=0)
    axes.set_xticks([delay + 0.5 for delay in DELAYS], [f"{delay}-{delay + 1}" for delay in DELAYS])
    axes.set(xlabel="tokens of the sentence", ylabel="answer (sd of the unit; 0 is its mean)")
    axes.set_title(
        "How the answer of the network unfolds\n(mean over its units; 95 % interval over prompts)", fontsize=10
    )
    axes.legend(frameon=False, fontsize=9, loc="lower right", bbox_to_anchor=(1, 0.24))


def draw_slopes(axes: Axes, out: Path, space: UnitSpace, network: UnitMask) -> None:
    """One dot per unit of the network; those whose slope is not 0 at a false discovery rate of .05 are filled."""
    block = np.repeat(space.blocks, space.n_channels)[network.selected]
    for kind, (name, colour, marker) in LOOKS.items():
        label = f"surprisal{kind.capitalize()}"
        slope = space.to_signals(nib.load(result(out, label, "stat-effect_statmap.nii.gz")))[network.selected]
        significant = load_mask(result(out, label, "desc-fdr05_mask.nii.gz")).selected[network.selected]
        spread = np.random.default_rng(0).uniform(-0.12, 0.12, len(block)) + (0.19 if kind == "on" else -0.19)
        for units, filled in ((~significant, "none"), (significant, colour)):
            look = {"facecolors": filled, "edgecolors": colour, "marker": marker, "linewidths": 0.8}
            axes.scatter((block + spread)[units], slope[units], 14, **look)
        axes.scatter([], [], 14, color=colour, marker=marker, label=name)
    axes.axhline(0, color="#888888", linewidth=0.8, zorder=0)
    axes.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(0, 0.9))
    axes.set_xticks(range(max(space.blocks) + 1))
    axes.set(xlabel="block (filled: slope is not 0, FDR .05)", ylabel="slope (sd of the unit per bit)")
    axes.set_title("Slopes over the surprisal of tokens\n(one mark per unit of the network, by block)", fontsize=10)


def main(folder: Path) -> None:
    """Record, prepare, ask three models, draw."""
    dataset, out = folder / "dataset", folder / "glm"
    call("record", dataset, "--task", TASK, "--mode", "read", "--runs", 4, "--overwrite")
    call("prep", dataset, "--overwrite")
    for name, model in models().items():
        path = folder / f"model-{name}_smdl.json"
        path.write_text(json.dumps(model, indent=2))
        call("glm", dataset, out / name, "participant", "--model", path, "--overwrite")

    network = load_mask(result(out / "units", "onVsOff", "desc-fdr05_mask.nii.gz"))
    effect = network.space.to_signals(nib.load(result(out / "units", "onVsOff", "stat-effect_statmap.nii.gz")))
    table = answers(dataset, network, np.sign(effect[network.selected]))
    figure, (answer_axes, slope_axes) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    draw_answers(answer_axes, table)
    draw_slopes(slope_axes, out / "modulators", network.space, network)
    figure.savefig(folder / "event_related.png", dpi=110)
    plt.close(figure)
    print(f"{network.n_selected} units chosen in runs {CHOOSING}, drawn from runs {DRAWN}")
    for delay in DELAYS:
        selected = load_mask(result(out / "bins", f"onVsOffFrom{delay}", "desc-fdr05_mask.nii.gz"))
        print(f"tokens from {delay:2d}: {selected.n_selected} units tell on from off")
    print(f"picture: {folder / 'event_related.png'}")


if __name__ == "__main__":
    target = Path(sys.argv[1] if len(sys.argv) > 1 else "example-output")
    target.mkdir(exist_ok=True, parents=True)
    main(target)
