"""Do planted networks do what was planted? Every network against every topic, and all of them kept, at every site.

``python benchmarks/lesions.py [--sites mlp neuron …] [--controls 100]`` lesions the phantom while it reads texts that
it wrote itself on its six topics, and prints per site: what each network does to its own topic and how many of the
random masks matched in layer and activation do less; the most that any does to a topic with which it shares no unit;
and how perplexity changes when all units but the union of networks are lesioned, or all but as many random ones. At
``block`` the phantom's prior lies in one massive channel that belongs to no network: kept networks are shown with the
other units at their mean as well.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from llm2bids.lesioning import lesion_study
from llm2bids.model.phantom import build_phantom, phantom_texts, phantom_truth
from llm2bids.model.sites import find_site, measure_widths
from llm2bids.space import UnitSpace

if TYPE_CHECKING:
    from typing import Any

    from llm2bids.lesioning import LesionResults
    from llm2bids.space import UnitMask

SITES = ("attn", "mlp", "neuron", "head", "block")
MOST = 0.10
"""By which perplexity may change when all networks are kept."""


def matrix(study: LesionResults, masks: dict[str, UnitMask], column: str) -> np.ndarray:
    """A score by network (rows) and topic."""
    rows = study.table[study.table["score"] == "bits_per_token"]
    return rows.pivot_table(column, "mask", "text").loc[list(masks), list(masks)].to_numpy()


def dissociate(site: str, masks: dict[str, UnitMask], folder: Path, common: dict[str, Any]) -> bool:
    """Every network against every topic; whether it is as planted."""
    study = lesion_study(folder / f"apart-{site}", masks=masks, dissociation=True, **common)
    change, percentile = matrix(study, masks, "change"), matrix(study, masks, "percentile")
    apart = np.array([[not (mask_a & mask_b).n_selected for mask_b in masks.values()] for mask_a in masks.values()])
    on_topic, beaten = np.diag(change), np.diag(percentile)
    print(f"{site:<7} own topic, bits per token  {'  '.join(f'{value:6.2f}' for value in on_topic)}")
    print(f"{'':<7} percentile                 {'  '.join(f'{value:6.0f}' for value in beaten)}")
    most = np.abs(change[apart]).max()
    print(f"{'':<7} most on a disjoint topic   {most:6.3f}, percentile {percentile[apart].max():.0f}")
    return bool((beaten == 100).all() and (percentile[apart] < 100).all())


def keep(site: str, masks: dict[str, UnitMask], folder: Path, common: dict[str, Any], method: str) -> bool:
    """All networks kept together; whether perplexity stays, and goes with random units kept."""
    options = common | {"controls": min(20, common["controls"]), "method": method}
    study = lesion_study(folder / f"kept-{site}-{method}", masks=masks, keep_union=[len(masks)], **options)
    rows = study.table[study.table["score"] == "perplexity"].set_index("text").loc[list(masks)]
    change = rows["after"] / rows["before"] - 1
    random = rows["control_mean"] / rows["before"]
    what = f"kept, others {method}"
    print(f"{'':<7} {what:<26} {'  '.join(f'{100 * value:+5.1f}%' for value in change)}")
    print(f"{'':<7} random units kept, times   {'  '.join(f'{value:6.1f}' for value in random)}", flush=True)
    return bool((change.abs() <= MOST).all() and (random > 1 + MOST).all())


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sites", nargs="+", default=list(SITES), choices=SITES)
    parser.add_argument("--controls", type=int, default=100, help="random masks per network (%(default)s)")
    parser.add_argument("--texts", type=int, default=6, help="per topic (%(default)s)")
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    phantom = build_phantom(device="cpu")
    good = True
    with tempfile.TemporaryDirectory() as name:
        folder, texts = Path(name), []
        for topic, written in phantom_texts(phantom, args.texts).items():
            texts.append(folder / f"{topic}.txt")
            texts[-1].write_text("\n".join(written) + "\n", encoding="utf-8")
        print(f"{'':<34} {'  '.join(f'{path.stem[:6]:>6}' for path in texts)}")
        common = {"model": phantom, "text": texts, "lines": True, "controls": args.controls, "generations": 0}
        for site in args.sites:
            points = find_site(phantom.model, site)
            space = UnitSpace(site, tuple(map(str, points)), measure_widths(phantom.model, points))
            masks = phantom_truth(space)
            good &= dissociate(site, masks, folder, common | {"progress": False})
            for method in ("zero", "mean") if site == "block" else ("zero",):
                passed = keep(site, masks, folder, common | {"progress": False}, method)
                good &= passed or site == "block"
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
