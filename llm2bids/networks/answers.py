"""How answers about networks lie on disk: tables, figures, and one sidecar that says how they were made."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from html import escape
from typing import TYPE_CHECKING, Any, Final, Protocol

from llm2bids.bids.names import format_name, parse_name
from llm2bids.bids.provenance import generated_by, versions
from llm2bids.bids.tables import write_bytes, write_json, write_tsv
from llm2bids.bids.templates import template_json
from llm2bids.errors import DatasetError
from llm2bids.plots.pictures import as_png
from llm2bids.results.summaries import LIBRARIES
from llm2bids.version import __version__

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import pandas as pd
    from matplotlib.figure import Figure

    from llm2bids.bids.dataset import Dataset

FOLDER: Final = "networks"
"""Folder of answers about networks, inside the results of ``glm`` or ``ica``."""
_VERBS: Final = {"fingerprint": "fingerprint"}
"""Questions that are verbs of their own."""


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """Answer to a question about networks.

    Parameters
    ----------
    question : str
        Name of the question in file names, e.g. ``"overlap"``.
    subject, site : str
        Subjects, joined by commas, and site of the networks; the site is empty where it has no name.
    tables : dict of DataFrame
        By name; the first is the answer in short.
    figures : dict of Figure
        By name.
    settings : dict
        How the question was asked, as values that JSON can hold.
    columns : dict
        Meaning of each column, by name.
    series : dict of DataFrame
        Long tables, one per run, by entities and suffix, e.g. ``"task-rest_run-01_timeseries"``: written, not printed.
    files : tuple of Path
        Files of the answer; empty before it is written.
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

    def plot(self, name: str = "figure") -> Figure:
        """Return a figure.

        Parameters
        ----------
        name : str
            Name of the figure, a key of `figures`.

        Returns
        -------
        Figure
            As it is written.
        """
        return self.figures[name]

    def __repr__(self) -> str:
        """One line."""
        tables = ", ".join(f"{name} ({len(table)} rows)" for name, table in self.tables.items())
        return f"<Answer {self.question}: {self.subject}, site {self.site or 'unnamed'}; tables {tables}>"

    def _repr_html_(self) -> str:
        """Answer in a notebook: the first rows of its first table."""
        name, table = next(iter(self.tables.items()))
        rows = table.head(10).to_html(index=False, float_format="{:.3g}".format)
        return f"<p>{escape(repr(self)[1:-1])}</p><p>{name}, first of {len(table)} rows:</p>{rows}"


class AnswerSource(Protocol):
    """Networks that an answer is about: they name its files and describe themselves in its sidecar."""

    def entities(self, label: str) -> dict[str, str]:
        """Entities of its files, with ``desc`` the name of the question."""

    @property
    def sources(self) -> Mapping[str, Any]:
        """Fields of the sidecar with the files that it is made of."""

    @property
    def metadata(self) -> Mapping[str, Any]:
        """Fields of ours in the sidecar: models, units."""


def check_new(out: Dataset, entities: Mapping[str, str], *, overwrite: bool, hint: str = "") -> None:
    """Raise if there is an answer already that may not be replaced; `hint` says what else to do."""
    path = out.root / FOLDER / format_name("networks.json", **entities)
    if path.exists() and not overwrite:
        raise DatasetError(f"{path} exists already; replace it with overwrite=True{hint}")


def publish(out: Dataset, source: AnswerSource, answer: Answer) -> Answer:
    """Write the files of an answer, in place of those of an earlier one."""
    entities = source.entities(answer.question)
    stem = format_name("", **entities).removesuffix("_")
    with out.stage(stem) as stage:
        folder = stage / FOLDER
        for name, table in {**answer.tables, **answer.series}.items():
            suffix, further = parse_name(f"{name}.tsv")
            write_tsv(folder / format_name(suffix, **{**entities, **further}), table)
        for name, figure in answer.figures.items():
            write_bytes(folder / format_name(f"{name}.png", **entities), as_png(figure))
        write_json(folder / f"{stem}_networks.json", _sidecar(answer, source))
        with out.lock():
            if not (out.root / "dataset_description.json").exists():  # an answer of two sets may lie by itself
                out.add_missing("dataset_description.json", template_json("ica_description.json", version=__version__))
                out.add_missing("README.md", "ica_README.md")
            for old in _files(out.root / FOLDER, entities):
                old.unlink()
            out.ignore(FOLDER)  # results of older versions do not say so yet
            files = out.publish(stage)
    return replace(answer, files=tuple(sorted(files)))


def _sidecar(answer: Answer, source: AnswerSource) -> dict[str, Any]:
    """Sidecar of all tables and figures of an answer."""
    tables = (*answer.tables.values(), *answer.series.values())
    names = {column for table in tables for column in map(str, table.columns)}
    return {
        "Description": f"llm2bids {_VERBS.get(answer.question, f'networks {answer.question}')}",
        "GeneratedBy": generated_by(),
        **source.sources,
        "Columns": {name: text for name, text in answer.columns.items() if name in names},
        "Llm2bids": {**source.metadata, "Settings": dict(answer.settings), "Versions": versions(*LIBRARIES)},
    }


def _files(folder: Path, entities: Mapping[str, str]) -> list[Path]:
    """Files of an answer in a folder, whatever run they are of."""
    keys = ("sub", "acq", "space", "desc")
    answer = {key: entities.get(key) for key in keys}
    parsed = [(path, parse_name(path.name)[1]) for path in folder.glob("*")]
    return [path for path, names in parsed if {key: names.get(key) for key in keys} == answer]
