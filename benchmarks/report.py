"""What a report costs: time and size for 24 runs of six tasks of a model of GPT-2 small's size.

``python benchmarks/report.py [--folder DIR] [--runs 4]`` records GPT-2 with random weights and the tokenizer of the
phantom (12 blocks of 768 units) reading the prompts of the six built-in tasks, prepares and analyses it, asks every
question about its networks, finds components, and lesions two networks. Then it times ``report``, in seconds and as a
multiple of reading the prepared volumes once, and prints the sizes of the pages. What is in DIR already is not made
again.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from llm2bids.bids.nifti import read_scans
from llm2bids.decomposition import ica
from llm2bids.lesioning import lesion_study
from llm2bids.model.loading import Subject, make_subject
from llm2bids.model.phantom import build_phantom
from llm2bids.networks.depth_profile import profile
from llm2bids.networks.functional_connectivity import connectivity
from llm2bids.networks.identification import identify
from llm2bids.networks.repeatability import reliability
from llm2bids.networks.unit_overlap import overlap
from llm2bids.preparation import prep
from llm2bids.recording import record
from llm2bids.reporting import report
from llm2bids.statistics import glm


def gpt2_small() -> Subject:
    """124 million random weights, which none had to download; only the vocabulary is the phantom's."""
    torch.manual_seed(0)
    tokenizer = build_phantom().tokenizer
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": None, "pad_token_id": tokenizer.pad_token_id}
    return make_subject(GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), **ids)).eval(), tokenizer)


def make_dataset(root: Path, n_runs: int) -> None:
    """Everything that a report can tell."""
    subject = gpt2_small()
    record(
        root, subject, "nencka2023", subject="gpt2", mode="read", runs=n_runs, blocks=8, reuse_prompts=True, resume=True
    )
    prep(root, resume=True)
    out = root / "derivatives" / "glm"
    results = glm(root, out, resume=True, top=[0.01])
    if not (root / "derivatives" / "lesion").exists():
        for ask in (overlap, reliability, profile, connectivity):
            ask(out, overwrite=True)
        identify(out, thresholds=["5%"], n_permutations=100, allow_overlap=True, overwrite=True)
        ica(root, root / "derivatives" / "ica", components=20, resume=True)
        texts = root / "derivatives" / "texts.txt"
        texts.write_text("Nobody has shown this line before.\nNor was this one shown to anybody.\n")
        masks = [path for result in results for path in result.top_files]
        lesion_study(
            root / "derivatives" / "lesion", model=subject, masks=masks[:2], text=[texts], lines=True, controls=5
        )


def main() -> None:
    """Make it, tell it, print what that took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help="where the dataset is or will be (a temporary folder)")
    parser.add_argument("--runs", type=int, default=4, metavar="N", help="runs per task (%(default)s)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        root = (args.folder or Path(temporary)) / "ds"
        make_dataset(root, args.runs)
        volumes = sorted((root / "derivatives" / "llm2bids").rglob("*_desc-preproc_bold.nii.gz"))
        start = time.perf_counter()
        n_scans = sum(len(part) for path in volumes for part in read_scans(path))
        reading = time.perf_counter() - start
        start = time.perf_counter()
        pages = report(root, overwrite=True)
        telling = time.perf_counter() - start
        print(f"{len(volumes)} runs, {n_scans:,} scans")
        print(f"report: {telling:.1f} s, {telling / reading:.1f} times reading the prepared volumes once")
        for path in (pages.page, *pages.subjects.values()):
            print(f"{path.name}: {path.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
