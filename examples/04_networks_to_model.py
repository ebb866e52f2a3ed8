"""Take networks back to the model: silence one, and see what the model can no longer say.

Run it with ``python examples/04_networks_to_model.py [FOLDER]``. It finds the networks of two tasks, loads them as one
boolean tensor per hookpoint, and sets their units to 0 while the phantom reads texts of either topic. Masks of random
units, as many in every layer, are the control: some of them hit units that matter, hence more than one.
"""

from __future__ import annotations

import sys
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors.torch import load_file

from llm2bids.masks import save_mask, show_mask
from llm2bids.model.phantom import build_phantom
from llm2bids.preparation import prep
from llm2bids.recording import record
from llm2bids.space import UnitMask
from llm2bids.statistics import glm
from llm2bids.task import builtin_prompts, on_topics

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor, nn

    from llm2bids.model.loading import Subject

TASKS = ("pathology", "politicalscience")
CONTROLS = 20
TEXTS = 20


@contextmanager
def silenced(model: nn.Module, mask: dict[str, Tensor]) -> Iterator[None]:
    """Set the masked channels of each block's output to 0, at every position."""

    def hook(chosen: Tensor) -> nn.Module:
        return lambda _module, _inputs, output: output.masked_fill(chosen, 0)

    with ExitStack() as stack:
        for name, chosen in mask.items():
            block = model.get_submodule(name.removesuffix(":out"))
            stack.callback(block.register_forward_hook(hook(chosen)).remove)
        yield


@torch.inference_mode()
def surprisal(subject: Subject, texts: list[str]) -> float:
    """Mean surprisal of the texts' words, in bit."""
    total, count = 0.0, 0
    for text in texts:
        ids = subject.tokenizer(text, return_tensors="pt")["input_ids"]
        scores = subject.model(input_ids=ids).logits[0, :-1].log_softmax(-1)
        total -= float(scores.gather(1, ids[0, 1:, None]).sum()) / np.log(2)
        count += ids.shape[1] - 1
    return total / count


def layer_matched(mask: UnitMask, seed: int) -> UnitMask:
    """As many random units in every layer."""
    rng = np.random.default_rng(seed)
    shuffled = [rng.permutation(part) for part in mask.space.split(mask.selected)]
    return UnitMask(mask.space, np.concatenate(shuffled), {"Description": "random units, as many in every layer"})


def lesion(subject: Subject, mask: UnitMask, folder: Path, texts: list[str]) -> float:
    """Surprisal of texts without the units of a mask, which goes to the hooks as a file of tensors."""
    (tensors, *_) = save_mask(mask, folder / "mask.safetensors", overwrite=True)
    with silenced(subject.model, load_file(tensors)):
        return surprisal(subject, texts)


def main(folder: Path) -> None:
    """Record, find, save, silence."""
    root, subject = folder / "dataset", build_phantom()
    record(root, subject, list(TASKS), overwrite=True)
    prep(root, overwrite=True)
    networks = {}
    for result in glm(root, folder / "glm", overwrite=True):
        print(show_mask(result.mask_file)[1], end="\n\n")
        networks[result.task] = result.mask

    print(f"surprisal per token (bit); controls: {CONTROLS} masks of as many random units per layer")
    print(f"{'silenced':<20}{'texts on':<20}{'intact':>8}{'silenced':>10}{'controls: median':>18}{'as harmful':>12}")
    for task, network in networks.items():
        for topic_task in TASKS:
            texts = [prompt.text for prompt in builtin_prompts()[on_topics()[topic_task]]][:TEXTS]
            after = lesion(subject, network, folder, texts)
            controls = [lesion(subject, layer_matched(network, seed), folder, texts) for seed in range(CONTROLS)]
            worse = sum(control >= after for control in controls)
            print(
                f"{task:<20}{topic_task:<20}{surprisal(subject, texts):>8.2f}{after:>10.2f}{np.median(controls):>18.2f}"
                f"{f'{worse} of {CONTROLS}':>12}"
            )


if __name__ == "__main__":
    target = Path(sys.argv[1] if len(sys.argv) > 1 else "example-output")
    target.mkdir(exist_ok=True, parents=True)
    main(target)
