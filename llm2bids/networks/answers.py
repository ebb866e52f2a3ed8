"""How answers about networks lie on disk: tables, figures, and one sidecar that says how they were made."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from llm2bids import __version__
from llm2bids.bids.names import format_name, parse_name
from llm2bids.bids.provenance import generated_by, versions
from llm2bids.bids.tables import write_bytes, write_json, write_tsv
from llm2bids.bids.templates import template_json
from llm2bids.errors import DatasetError
from llm2bids.plots.pictures import as_png
from llm2bids.results.summaries import LIBRARIES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import pandas as pd
    from matplotlib.figure import Figure

    from llm2bids.bids.dataset import Dataset
    from llm2bids.networks.network_set import NetworkSet
    from llm2bids.space import UnitSpace

FOLDER: Final = "networks"
"""Folder of answers about networks, inside the results of ``glm``."""
_VERBS: Final = {"fingerprint": "fingerprint"}
"""Questions that are verbs of their own."""


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """What a question about networks came to.

    Parameters
    ----------
    question : str
        Which one, e.g. ``"overlap"``.
    subject, site : str
        Of whom and where; the subject is empty where several are compared.
    tables : dict of DataFrame
        By name; the first is the answer in short.
    figures : dict of Figure
        By name.
    settings : dict
        How it was asked: JSON values.
    columns : dict
        What each column means, by name.
    series : dict of DataFrame
        Long tables, one per run, by entities and suffix, e.g. ``"task-rest_run-01_timeseries"``: written, not told.
    files : tuple of Path
        Where it is written; empty while it is not.
    """

    question: str
    subject: str
    site: str
    tables: Mapping[str, pd.DataFrame]
    figures: Mapping[str, Figure] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    columns: Mapping[str, str] = field(default_factory=dict)
    series: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    files: tuple[Path, ...] = ()


def name_files(networks: NetworkSet, question: str) -> dict[str, str]:
    """Give the entities of the files of an answer.

    Returns ``sub`` (where it is one), ``acq`` and ``space`` (where networks are of one site), and ``desc``.
    """
    one = {"sub": networks.subjects[0]} if len(networks.subjects) == 1 else {}
    if len(_spaces(networks)) > 1:
        return {**one, "desc": question}
    site = {"acq": networks.site} if networks.site else {}
    return {**one, **site, "space": networks.space.label, "desc": question}


def refuse_existing(out: Dataset, asked: Sequence[NetworkSet], question: str, *, overwrite: bool) -> None:
    """Refuse to replace an answer unasked."""
    for networks in asked:
        refuse_answer(out, name_files(networks, question), overwrite=overwrite)


def refuse_answer(out: Dataset, entities: Mapping[str, str], *, overwrite: bool, instead: str = "") -> None:
    """Refuse to replace the files of an answer unasked."""
    path = out.root / FOLDER / format_name("networks.json", **entities)
    if path.exists() and not overwrite:
        raise DatasetError(f"{path} exists already; replace it with --overwrite{instead}")


def write_answer(out: Dataset, networks: NetworkSet, answer: Answer) -> Answer:
    """Write an answer; what was there of an earlier one goes."""
    spaces = [space.to_json() for space in _spaces(networks)]
    tested = [int(one.tested.sum()) for one in networks.sites]
    sources = {"Sources": [f"bids::sub-{one.subject}/func/{one.found['z_map']}" for one in networks.networks]}
    own = {
        "Models": sorted({str(one.fields["Llm2bids"].get("Model")) for one in networks.networks}),
        "WeightsSHA256": sorted({str(one.fields["Llm2bids"].get("WeightsSHA256")) for one in networks.networks}),
        "UnitSpace": spaces[0] if len(spaces) == 1 else spaces,
        "NumberTested": tested[0] if len(tested) == 1 else tested,
        "Contrasts": {one.task: one.found["contrast"] for one in networks.networks},
    }
    return publish_answer(out, name_files(networks, answer.question), answer, sources, own)


def publish_answer(
    out: Dataset, entities: Mapping[str, str], answer: Answer, sources: Mapping[str, Any], own: Mapping[str, Any]
) -> Answer:
    """Write the files of an answer; what was there of an earlier one goes."""
    stem = format_name("", **entities).removesuffix("_")
    with out.stage(stem) as stage:
        folder = stage / FOLDER
        for name, table in {**answer.tables, **answer.series}.items():
            suffix, named = parse_name(f"{name}.tsv")
            write_tsv(folder / format_name(suffix, **{**entities, **named}), table)
        for name, figure in answer.figures.items():
            write_bytes(folder / format_name(f"{name}.png", **entities), as_png(figure))
        write_json(folder / f"{stem}_networks.json", _sidecar(answer, sources, own))
        with out.lock():
            if not (out.root / "dataset_description.json").exists():  # an answer of two sets may lie by itself
                out.add_missing("dataset_description.json", template_json("ica_description.json", version=__version__))
                out.add_missing("README.md", "ica_README.md")
            for old in _files(out.root / FOLDER, entities):
                old.unlink()
            out.ignore(FOLDER)  # results of older versions do not say so yet
            files = out.publish(stage)
    return replace(answer, files=tuple(sorted(files)))


def files_of(answers: Sequence[Answer], _asked: Mapping[str, Any]) -> tuple[Path, list[Path]]:
    """Say what a question wrote, for the history of the results.

    Returns the folder of results, and the files of all answers in it.
    """
    files = [path for one in answers for path in one.files]
    return files[0].parents[1], files


def _sidecar(answer: Answer, sources: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """What the answer was made of and how."""
    tables = (*answer.tables.values(), *answer.series.values())
    used = {column for table in tables for column in map(str, table.columns)}
    return {
        "Description": f"llm2bids {_VERBS.get(answer.question, f'networks {answer.question}')}",
        "GeneratedBy": generated_by(),
        **sources,
        "Columns": {name: text for name, text in answer.columns.items() if name in used},
        "Llm2bids": {**own, "Settings": dict(answer.settings), "Versions": versions(*LIBRARIES)},
    }


def _spaces(networks: NetworkSet) -> list[UnitSpace]:
    """Geometries of the networks, each once."""
    return [one.space for one in networks.sites]


def _files(folder: Path, entities: Mapping[str, str]) -> list[Path]:
    """Files of an answer, whatever run they are of."""
    named = [(path, parse_name(path.name)[1]) for path in folder.glob("*")]
    mine = {key: entities.get(key) for key in ("sub", "acq", "space", "desc")}
    return [path for path, found in named if {key: found.get(key) for key in mine} == mine]
