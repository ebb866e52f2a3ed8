"""Write the page of a dataset and of each of its subjects: which panels they have, and in which order."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from llm2bids.bids.history import noted
from llm2bids.bids.tables import read_json
from llm2bids.errors import DatasetError
from llm2bids.options import takes
from llm2bids.pages.analysis import analysis_panel
from llm2bids.pages.frame import Panel, save_page
from llm2bids.progress import progress_bar
from llm2bids.reporting.cards import commands_panel, dataset_panel, further_panel, model_panel, tasks_panel
from llm2bids.reporting.maps import maps_panel, networks_html, niivue_html
from llm2bids.reporting.methods import methods_panel
from llm2bids.reporting.recordings import design_panel, signal_panel
from llm2bids.reporting.results import answers_panel, components_panel, lesions_panel, planted_panel
from llm2bids.reporting.settings import ReportOptions
from llm2bids.reporting.sources import Sources, select_results
from llm2bids.results.jobs import check_place

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

PAGE: Final = "report.html"
"""The page of the dataset; the pages of its subjects lie beside it."""


@dataclass(frozen=True, slots=True)
class Report:
    """Pages about a dataset.

    Parameters
    ----------
    page : Path
        The page of the dataset.
    subjects : dict of Path
        The page of every subject, by label.
    panels : dict of list of str
        Titles of the parts of every page, by name of its file.
    """

    page: Path
    subjects: dict[str, Path]
    panels: dict[str, list[str]]

    @property
    def files(self) -> list[Path]:
        """All pages."""
        return [self.page, *self.subjects.values()]


@noted("report")
@takes(ReportOptions)
def report(options: ReportOptions) -> Report:
    """Write pages about a dataset and all its results, to open in a browser, without a network.

    Returns
    -------
    Report
        The pages.

    Raises
    ------
    DatasetError
        If there is no recording, pages exist and `overwrite` is not set, or a result cannot be read.
    """
    raw, out = Path(options.bids_dir), options.home
    sources = Sources.from_dataset(raw, [Path(folder) for folder in options.results], options.participant_label)
    check_place(raw, out)
    pages = {label: out / f"sub-{label}.html" for label in sources.subjects}
    _check_out(out, [out / PAGE, *pages.values()], overwrite=options.overwrite)
    steps = [*pages.items(), ("", out / PAGE)]
    panels: dict[str, list[str]] = {}
    contents: list[tuple[Path, str, list[str | Panel]]] = []
    with progress_bar("pages", len(steps), "report", steps, visible=options.progress) as bar:
        for label, path in bar:
            title = f"sub-{label}: a language model in the scanner" if label else _title(raw)
            parts = list(_subject(sources, label) if label else _dataset(sources))
            panels[path.name] = [part.title for part in parts if isinstance(part, Panel)]
            contents.append((path, title, parts))
    for path, title, parts in contents:
        save_page(path, title, parts)
    return Report(out / PAGE, pages, panels)


def _check_out(out: Path, pages: Sequence[Path], *, overwrite: bool) -> None:
    """Raise if the pages would replace existing ones without `overwrite`, or lie among the pages of another verb."""
    if out.exists() and not out.is_dir():
        raise DatasetError(f"{out} is a file; give a folder")
    if (out / "dataset_description.json").exists():
        raise DatasetError(f"{out} is a dataset, whose pages might be replaced; give another folder")
    present = [path for path in pages if path.exists()]
    if present and not overwrite:
        raise DatasetError(f"{present[0]} exists already; replace it with overwrite=True")


def _title(raw: Path) -> str:
    """Read the name of the dataset."""
    path = raw / "dataset_description.json"
    return str(read_json(path).get("Name") or raw.name) if path.exists() else raw.name


def _dataset(sources: Sources) -> Iterator[str | Panel]:
    """Make the page of the dataset."""
    yield dataset_panel(sources)
    yield tasks_panel(sources)
    if sources.analyses:
        yield Panel("found", "Networks found", networks_html(sources.analyses, "sub-{}.html", sources.subjects))
    if sources.groups:
        groups = (
            analysis_panel(result.path, result.fields, f"group-{number}")
            for number, result in enumerate(sources.groups)
        )
        yield Panel("groups", "Over subjects", "", tuple(groups))
    yield from _panels_of(
        (answers_panel, select_results(sources.answers, [])),
        (components_panel, select_results(sources.components, [])),
        (lesions_panel, sources.lesions_of(None)),
    )
    yield methods_panel(sources)
    yield commands_panel(sources)
    if more := further_panel(sources):
        yield more


def _subject(sources: Sources, label: str) -> Iterator[str | Panel]:
    """Make the page of a subject."""
    recordings = sources.for_subject(label)
    yield f'<p><a href="{PAGE}">All of the dataset</a></p>'
    yield model_panel(recordings.runs)
    yield design_panel(recordings)
    for site in recordings.sites:
        yield signal_panel(recordings, site)
    analyses = select_results(sources.analyses, [label])
    components = select_results(sources.components, [label])
    if analyses:
        yield niivue_html()
    for site in dict.fromkeys(result.site for result in analyses):
        yield maps_panel(recordings, site, [result for result in analyses if result.site == site])
    yield from _panels_of((answers_panel, select_results(sources.answers, [label])), (components_panel, components))
    if recordings.truths and (analyses or components):
        yield planted_panel(recordings, analyses, components)
    yield from _panels_of((lesions_panel, sources.lesions_of(label)))
    yield methods_panel(sources, label)


def _panels_of(*pairs: tuple[Callable[[Sequence[Any]], Panel], Sequence[Any]]) -> Iterator[Panel]:
    """Make the panels that have results."""
    return (make_panel(results) for make_panel, results in pairs if results)
