"""The folder of a smaller model: it gets its name when it is complete, and replaces only another one of its kind."""

from __future__ import annotations

import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from safetensors import SafetensorError
from transformers import GenerationConfig

from llm2bids.bids.tables import write_bytes, write_json
from llm2bids.errors import PruneError
from llm2bids.model.quiet import quietly

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from transformers import PreTrainedModel

    from llm2bids.model.loading import Subject

REPORT: Final = "llm2bids_prune.json"
"""File in the folder of a smaller model that says how it was made, and marks the folder as ours."""
_CARD = """\
---
library_name: transformers
tags: [pruned, llm2bids]
---
# {name}, {verb} {site}s

{Architecture} `{Model}` (revision {Revision}, weights {weights}…) without the units of a network, made by llm2bids
{version}. It loads with plain transformers:

    from transformers import {Architecture}
    model = {Architecture}.from_pretrained("{name}")

- parameters: {before:,} before, {after:,} after; {zeroed:,} of them set to 0 by the cut
- changed settings: {settings}
- {compensated}{perplexity}

It computes what the original does with these units held {held}. Which units those are, from which mask, is in
`{report}`. Licence and limits of the original apply.
"""


def check_folder(folder: Path, *, overwrite: bool) -> None:
    """Raise if a folder cannot be written, before any work is done."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not (folder / REPORT).is_file():
        raise PruneError(f"{folder} is there and no model that llm2bids pruned; choose another folder")
    if not overwrite:
        raise PruneError(f"{folder} is there already; choose another folder, or replace it with overwrite=True")


@contextmanager
def published(folder: Path) -> Iterator[Path]:
    """Fill a folder that gets its name only when it is complete; what is there is replaced.

    Yields an empty folder beside it to write into, which is removed after any exception.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".llm2bids-") as parent:
            stage = Path(parent) / folder.name
            stage.mkdir()
            yield stage
            if folder.exists():
                folder.replace(Path(parent) / "replaced")
            stage.replace(folder)
    except (OSError, SafetensorError) as error:  # SafetensorError is raised while weights are written
        why = getattr(error, "strerror", None) or error
        raise PruneError(f"{folder} cannot be written ({why}); choose another folder") from error


def write_model(subject: Subject, smaller: PreTrainedModel, folder: Path) -> None:
    """Save a smaller model with the tokenizer and the generation settings of the one it was made from."""
    if smaller.can_generate():
        smaller.generation_config = _generation(subject)
    quietly(lambda: smaller.save_pretrained(folder))
    subject.tokenizer.save_pretrained(folder)


def describe_model(folder: Path, name: str, report: Mapping[str, Any]) -> None:
    """Write the report beside a smaller model, for programs and for people."""
    write_json(folder / REPORT, report)
    write_bytes(folder / "README.md", _card(name, report).encode())


def _generation(subject: Subject) -> GenerationConfig:
    """Settings of generation as the makers of a model advise, with the ids of its special tokens."""
    sampling, generation = subject.sampling, subject.generation
    ids = {key: getattr(generation, key) for key in ("eos_token_id", "pad_token_id", "bos_token_id")}
    if not sampling.temperature:
        return GenerationConfig(do_sample=False, **ids)
    return GenerationConfig(
        do_sample=True, temperature=sampling.temperature, top_p=sampling.top_p, top_k=sampling.top_k, **ids
    )


def _card(name: str, report: Mapping[str, Any]) -> str:
    """The model card."""
    source, parameters, scored = report["Source"], report["Parameters"], report.get("Perplexity")
    settings = (f"{key} {before} → {after}" for key, (before, after) in report["Settings"].items())
    compensated = report["BiasCompensation"]
    text = (
        ""
        if scored is None
        else f"\n- perplexity on {scored['Text']}: {scored['Before']:.4g} before, {scored['After']:.4g} after"
    )
    return _CARD.format(
        **source,
        name=name,
        verb="with fewer" if parameters["Before"] > parameters["After"] else "with silenced",
        site=report["Site"],
        weights=source["WeightsSHA256"][:12],
        version=report["GeneratedBy"][0]["Version"],
        before=parameters["Before"],
        after=parameters["After"],
        zeroed=parameters["Zeroed"],
        settings=", ".join(settings) or "none",
        compensated="mean contribution of the units added to the biases" if compensated else "biases as they were",
        perplexity=text,
        held="at their mean" if compensated else "at 0",
        report=REPORT,
    )
