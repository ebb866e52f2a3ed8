"""What recording costs: ratios measured in one process, interleaved, medians.

``python benchmarks/recording.py [--repeats 7] [--sizes small large] [--threads N]`` prints

- ``record`` against bare ``model.generate`` and against a bare forward pass, same prompts, same batches;
- reading against ``output_hidden_states=True`` that copies all states;
- peak memory at 1, 4 and 16 times the scans;
- the writer against nibabel's ``.nii.gz``, on float32 noise and on bfloat16 values.

Models have random weights: the time does not depend on what they say.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import numpy as np
import torch
from transformers import GenerationConfig, GPT2Config, GPT2LMHeadModel

from llm2bids.bids.nifti import Grid, NiftiWriter
from llm2bids.model.loading import Subject, make_subject
from llm2bids.model.phantom import build_phantom
from llm2bids.model.recording import generate, read
from llm2bids.model.sites import find_site, measure_widths
from llm2bids.space import UnitSpace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from llm2bids.model.recording import Scans

SIZES = {"small": (12, 768, 12), "large": (24, 1024, 16)}
"""Blocks, channels and heads: GPT-2 small, and GPT-2 medium."""
BATCH = 8
N_NEW = 24


def build(size: str) -> Subject:
    """A GPT-2 of a size with random weights and its own vocabulary."""
    n_layer, n_embd, n_head = SIZES[size]
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(n_layer=n_layer, n_embd=n_embd, n_head=n_head))
    model.generation_config = GenerationConfig(pad_token_id=0)
    return make_subject(model.eval(), build_phantom().tokenizer)


def prompts(n_texts: int, n_tokens: int) -> list[list[int]]:
    """Random tokens, none of them special."""
    return np.random.default_rng(0).integers(100, 50000, (n_texts, n_tokens)).tolist()


def block_space(subject: Subject) -> UnitSpace:
    """The space of site block; record finds it once per call, not once per run."""
    points = find_site(subject.model, "block")
    return UnitSpace("block", tuple(map(str, points)), measure_widths(subject.model, points))


def write(space: UnitSpace, scans: Iterable[Scans], folder: Path) -> None:
    """Write the scans of one run as record does."""
    with NiftiWriter(folder / "bold.nii.gz", Grid(space.shape, space.affine)) as writer:
        for part in scans:
            writer.append(space.to_volumes(part.signals))


@torch.inference_mode()
def bare_generate(subject: Subject, tokens: Sequence[Sequence[int]]) -> None:
    """What a user does who keeps nothing."""
    for start in range(0, len(tokens), BATCH):
        ids = torch.tensor(tokens[start : start + BATCH])
        subject.model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=N_NEW)


@torch.inference_mode()
def bare_forward(subject: Subject, tokens: Sequence[Sequence[int]], *, states: bool = False) -> None:
    """The same for reading; with `states` all hidden states are copied out."""
    for start in range(0, len(tokens), BATCH):
        ids = torch.tensor(tokens[start : start + BATCH])
        output = subject.model(input_ids=ids, attention_mask=torch.ones_like(ids), output_hidden_states=states)
        if states:
            torch.stack(output.hidden_states, dim=2).reshape(-1, ids.shape[1]).clone()


def ratios(first: Callable[[], None], second: Callable[[], None], repeats: int) -> list[float]:
    """Time of the first over time of the second, pair by pair, after one of each that does not count."""
    quotients = []
    for repeat in range(repeats + 1):
        taken = []
        for call in (first, second) if repeat % 2 else (second, first):
            start = time.perf_counter()
            call()
            taken.append(time.perf_counter() - start)
        if repeat:
            quotients.append(taken[0] / taken[1] if repeat % 2 else taken[1] / taken[0])
    return quotients


def tell(what: str, quotients: Sequence[float], bound: str = "") -> None:
    """Print a ratio."""
    print(f"{what:<66} {median(quotients):6.2f}  ({min(quotients):.2f} to {max(quotients):.2f}) {bound}", flush=True)


def recording(size: str, repeats: int) -> None:
    """Time of recording against not recording."""
    subject = build(size)
    points, space = find_site(subject.model, "block"), block_space(subject)
    short, long = prompts(4 * BATCH, 16), prompts(4 * BATCH, 48)  # as many prompts as a run has
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)

        def generating() -> None:
            write(space, generate(subject, points, short, N_NEW, BATCH), folder)

        def reading() -> None:
            write(space, read(subject, points, long, BATCH), folder)

        quotients = ratios(generating, lambda: bare_generate(subject, short), repeats)
        tell(f"{size}: record block, generate / bare generate", quotients, "at most 1.10")
        quotients = ratios(reading, lambda: bare_forward(subject, long), repeats)
        tell(f"{size}: record block, read / bare forward", quotients, "at most 1.15")
        quotients = ratios(reading, lambda: bare_forward(subject, long, states=True), repeats)
        tell(f"{size}: record block, read / forward with output_hidden_states", quotients)


def peak_megabytes(times: int) -> float:
    """Peak memory of recording so many times 16 prompts, in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(peak_here, (times,))


def peak_here(times: int) -> float:
    """Peak memory of this process after recording."""
    subject = build("small")
    points = find_site(subject.model, "block")
    with tempfile.TemporaryDirectory() as folder:
        write(block_space(subject), read(subject, points, prompts(16 * times, 48), BATCH), Path(folder))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def memory() -> None:
    """Peak memory at 1, 4 and 16 times the scans."""
    base = peak_megabytes(1)
    for times in (1, 4, 16):
        peak = base if times == 1 else peak_megabytes(times)
        bound = "at most 1.10" if times > 1 else ""
        print(f"{f'peak memory, {768 * times} scans: {peak:.0f} MB':<66} {peak / base:6.2f}  {bound}", flush=True)


def writing(repeats: int) -> None:
    """Speed of the writer against nibabel's."""
    space = UnitSpace.uniform("block", [f"h.{block}:out" for block in range(12)], 768)
    noise = np.random.default_rng(0).standard_normal((1000, space.n_units), np.float32)
    coarse = (noise.view(np.uint32) & 0xFFFF0000).view(np.float32)
    for kind, signals in {"float32 noise": noise, "bfloat16 values": coarse}.items():
        with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=name)))

            def ours(signals: np.ndarray = signals, folder: Path = folder) -> None:
                with NiftiWriter(folder / "a.nii.gz", Grid(space.shape, space.affine)) as writer:
                    for start in range(0, len(signals), BATCH):
                        writer.append(space.to_volumes(signals[start : start + BATCH]))

            def theirs(signals: np.ndarray = signals, folder: Path = folder) -> None:
                space.to_image(signals).to_filename(folder / "b.nii.gz")

            tell(f"writer: MB/s of ours / nibabel's .nii.gz, {kind}", ratios(theirs, ours, repeats), "at least 3.5")


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--sizes", nargs="*", choices=SIZES, default=list(SIZES))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(f"torch {torch.__version__}, {args.threads} threads, {args.repeats} pairs each; median (least to most)")
    writing(args.repeats)
    memory()
    for size in args.sizes:
        recording(size, args.repeats)


if __name__ == "__main__":
    main()
