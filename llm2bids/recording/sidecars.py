"""Writes the files of a run besides its volumes, and those that runs and subjects share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd

from llm2bids.bids.names import format_name
from llm2bids.bids.nifti import write_image
from llm2bids.bids.provenance import versions
from llm2bids.bids.tables import write_json, write_stim, write_tsv
from llm2bids.bids.templates import template_json
from llm2bids.model.phantom import phantom_truth
from llm2bids.model.site_names import SITES
from llm2bids.recording.plan import condition_levels, run_settings, sampling_of, shared_sidecars
from llm2bids.version import __version__

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from llm2bids.model.loading import Subject
    from llm2bids.model.recording import Scans
    from llm2bids.recording.plan import Run, Session
    from llm2bids.space import UnitSpace

T_R: Final = 1.0
"""Repetition time in seconds: by convention one token takes one second."""
STIM_COLUMNS: Final = tuple(template_json("task_stim.json", task="")["Columns"])
"""Columns of a ``_stim.tsv.gz``, each an attribute of `Scans`."""


@dataclass(slots=True)
class ScanLog:
    """Tokens, positions and surprisal of the scans of a run.

    - `scans`: one entry per prompt, without signals.
    - `n_zeroed`: number of values that were NaN or infinite and became 0.
    """

    scans: list[Scans] = field(default_factory=list)
    n_zeroed: int = 0

    @property
    def n_scans(self) -> int:
        """Number of scans of the run so far."""
        return sum(scans.n_scans for scans in self.scans)


def write_run(session: Session, run: Run, log: ScanLog, stage: Path) -> None:
    """Write all files of a run but its volumes."""
    responses = session.options.mode_of(run.task) == "generate"
    events = run.task.events([scans.n_scans for scans in log.scans], T_R, responses=responses)
    stim = pd.DataFrame({name: np.concatenate([getattr(s, name) for s in log.scans]) for name in STIM_COLUMNS})
    for space in session.spaces:
        write_tsv(stage / run.path(space.site, "events.tsv"), events)
        write_stim(stage / run.path(space.site, "stim.tsv.gz"), stim)
        write_json(stage / run.path(space.site, "bold.json"), _bold_sidecar(session, run, space, log))
    write_json(stage / run.stimuli, _stimuli(session, run, log))


def merge_shared(session: Session, run: Run) -> None:
    """Write or complete the files that runs and subjects share; call with the lock held."""
    dataset, identity = session.dataset, session.subject.identity
    hub = {"URL": f"https://huggingface.co/{identity.name}", "Version": identity.revision}
    on_hub = "/" in identity.name and identity.revision != "local"  # a loaded model may have changed since
    dataset.merge_description([hub] if on_hub else [], _authors(session.options.authors), __version__)
    dataset.merge_participant(run.label, _participant(session.subject))
    shared = shared_sidecars(run.task, session.options)
    stats_model = f"code/models/model-{run.task.name}_smdl.json"
    if run.task.name in session.replaced and (run.task.session, run.task.run) == (1, 1):
        for name in (*shared, stats_model):
            (dataset.root / name).unlink(missing_ok=True)
    for name, fields in shared.items():
        dataset.merge_shared(name, fields)
    dataset.add_missing("code/bids-validator-config.json", template_json("validator_config.json"))
    if conditions := list(condition_levels(run.task)):
        dataset.add_missing(stats_model, _stats_model(run, conditions))
    if identity.name == "phantom" and (run.task.session, run.task.run) == (1, 1):
        _write_truth(session, run)


def _authors(names: Sequence[str]) -> tuple[str, ...]:
    """Authors of a dataset; beside a single one stand the authors of the prompts and the software."""
    authors = tuple(names) or ("Unnamed experimenter",)
    return authors if len(authors) > 1 else (*authors, "llm2bids contributors")


def _bold_sidecar(session: Session, run: Run, space: UnitSpace, log: ScanLog) -> dict[str, Any]:
    """The fields of a bold.json."""
    subject, options = session.subject, session.options
    mode = options.mode_of(run.task)
    program, *libraries = versions("torch", "transformers", "tokenizers").items()
    fields = template_json(
        "bold.json",
        model=subject.identity.name,
        weights=subject.identity.weights_sha256,
        versions="; ".join(f"{name} {number}" for name, number in (*libraries, program)),
    )
    metadata = subject.describe() | {
        "Site": space.site,
        "Mode": mode,
        "BatchSize": options.batch_size,
        "Settings": run_settings(options, run),
        "Stimuli": run.stimuli.as_posix(),
        **({"HeldOutClusters": run.task.held_out} if run.task.held_out else {}),
        "NumberOfScans": log.n_scans,
        "SpecialTokensLeftOut": sum(scans.n_special for scans in log.scans),
        "NonfiniteSetToZero": log.n_zeroed,
        "UnitSpace": space.to_json(),
    }
    if mode == "generate":
        sampling = sampling_of(options, subject, run.task)
        metadata["Generation"] = {
            "Temperature": sampling.temperature,
            "TopP": sampling.top_p,
            "TopK": sampling.top_k,
            "RunSeed": sampling.seed,
        }
    return fields | {"Llm2bids": metadata}


def _stimuli(session: Session, run: Run, log: ScanLog) -> dict[str, Any]:
    """The prompts of a run, the responses of the model, and the token of every scan as text."""
    decode = session.subject.tokenizer.decode
    mode = session.options.mode_of(run.task)
    prompts = [
        {
            "prompt": number,
            "trial_type": trial.trial_type,
            "block": trial.block,
            "text": trial.text,
            **({"response": decode(scans.token_id)} if mode == "generate" else {}),
            "tokens": [decode([token]) for token in scans.token_id],
        }
        for number, (trial, scans) in enumerate(zip(run.task.trials, log.scans, strict=True), 1)
    ]
    return {"TaskName": run.task.name, "Mode": mode, "Prompts": prompts}


def _participant(subject: Subject) -> dict[str, Any]:
    """The subject's row of participants.tsv."""
    described = subject.describe()
    columns = {
        "model": "Model",
        "revision": "Revision",
        "model_type": "ModelType",
        "n_blocks": "NumberOfBlocks",
        "n_parameters": "NumberOfParameters",
        "weights_sha256": "WeightsSHA256",
    }
    return {column: described[key] for column, key in columns.items()}


def _stats_model(run: Run, conditions: list[str]) -> dict[str, Any]:
    """A BIDS Stats Model: each condition against the mean of the others.

    There is no intercept: every scan belongs to a condition, so that it would make the design collinear.
    """
    model = template_json("stats_model.json", task=run.task.name, description=run.task.description)
    node = model["Nodes"][0]
    node["GroupBy"] = ["run", *(["session"] if run.session else []), "subject"]
    columns = [f"trial_type.{name}" for name in conditions]
    node["Model"]["X"] = [*columns, *node["Model"]["X"]]
    n_others = len(conditions) - 1
    for name in conditions[: 1 if n_others <= 1 else None]:
        others = [column for column in columns if column != f"trial_type.{name}"]
        versus = f"Vs{conditions[1][0].upper()}{conditions[1][1:]}" if n_others == 1 else "VsOthers" * (n_others > 1)
        node["Contrasts"].append(
            {
                "Name": f"{name}{versus}",
                "ConditionList": [f"trial_type.{name}", *others],
                "Weights": [1, *[f"-1/{n_others}" if n_others > 1 else -1] * n_others],
                "Test": "t",
            }
        )
    return model


def _write_truth(session: Session, run: Run) -> None:
    """Write the phantom's planted networks as a derivative; a user's tasks and hookpoints have none."""
    spaces = [space for space in session.spaces if space.site in SITES]
    networks = [(space, truth[run.task.name]) for space in spaces if run.task.name in (truth := phantom_truth(space))]
    if not networks:
        return
    folder = session.dataset.root / "derivatives" / "phantom"
    description = template_json("phantom_description.json", version=__version__)
    session.dataset.add_missing("derivatives/phantom/dataset_description.json", description)
    session.dataset.add_missing("derivatives/phantom/README.md", "phantom_README.md")
    for space, mask in networks:
        entities = {"sub": run.label, "task": run.task.name, "acq": space.site, "space": space.label, "desc": "truth"}
        stem = folder / f"sub-{run.label}" / "func" / format_name("mask", **entities)
        bold = run.path(space.site, "bold.nii.gz" if session.options.compress else "bold.nii").as_posix()
        metadata = {"Llm2bids": {**mask.provenance, "UnitSpace": space.to_json()}}
        sidecar = template_json("phantom_mask.json", task=run.task.name, bold=bold)
        write_image(stem.with_suffix(".nii.gz"), mask.to_image())
        write_json(stem.with_suffix(".json"), sidecar | metadata)
