"""``report``: a dataset and all its results told on pages that open from the file system."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from llm2bids.bids.history import noted_call
from llm2bids.bids.tables import read_json
from llm2bids.errors import DatasetError
from llm2bids.pages.analysis import analysis_panel
from llm2bids.pages.frame import Panel, save_page
from llm2bids.progress import progress_bar
from llm2bids.reporting.cards import dataset_panel, model_panel, tasks_panel
from llm2bids.reporting.commands import commands_panel, further_panel
from llm2bids.reporting.maps import found_html, maps_panel
from llm2bids.reporting.methods import lesions_of, methods_panel
from llm2bids.reporting.recordings import design_panel, signal_panel
from llm2bids.reporting.results import answers_panel, components_panel, lesions_panel, planted_panel
from llm2bids.reporting.sources import DERIVATIVES, Sources, about
from llm2bids.reporting.viewer import niivue_html
from llm2bids.results.jobs import check_place

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

PAGE: Final = "report.html"
"""The page of the dataset; beside it lies one per subject."""


@dataclass(frozen=True, slots=True)
class Report:
    """Pages that tell a dataset.

    - `subjects`: of every subject, by label.
    - `panels`: titles of the parts of every page, by name of its file.
    """

    page: Path
    subjects: dict[str, Path]
    panels: dict[str, list[str]]


def _wrote(made: Report, _: Mapping[str, Any]) -> tuple[Path, list[Path]]:
    """Where the pages are."""
    return made.page.parent, [made.page, *made.subjects.values()]


@noted_call("report", _wrote)
def report(
    bids_dir: str | Path,
    out_dir: str | Path | None = None,
    *,
    participant_label: Sequence[str] = (),
    results: Sequence[str | Path] = (),
    overwrite: bool = False,
    progress: bool | None = None,
) -> Report:
    """Tell a dataset and everything that was made of it, as pages to open in a browser, without a network.

    Parameters
    ----------
    bids_dir : path-like
        A raw dataset made by ``record``.
    out_dir : path-like, optional
        Where pages go; by default ``derivatives/report`` of the dataset.
    participant_label : sequence of str
        Subjects to tell; all without.
    results : sequence of path-like
        Folders of results that are not in ``derivatives`` of the dataset.
    overwrite : bool
        Replace pages that are there.
    progress : bool, optional
        Whether to show a progress bar; by default if the terminal can.

    Returns
    -------
    Report
        The pages.

    Raises
    ------
    DatasetError
        If there is no recording, pages are there and may not be replaced, or a result cannot be read.
    """
    raw = Path(bids_dir)
    sources = Sources.from_dataset(raw, [Path(one) for one in results], participant_label)
    out = raw / DERIVATIVES / "report" if out_dir is None else Path(out_dir)
    check_place(raw, out)
    pages = {label: out / f"sub-{label}.html" for label in sources.subjects}
    _check_out(out, [out / PAGE, *pages.values()], overwrite=overwrite)
    steps = [*((label, path) for label, path in pages.items()), ("", out / PAGE)]
    panels: dict[str, list[str]] = {}
    written: list[tuple[Path, str, list[str | Panel]]] = []
    with progress_bar("pages", len(steps), "report", steps, visible=progress) as bar:
        for label, path in bar:
            title = f"sub-{label}: a language model in the scanner" if label else _title(raw)
            parts = list(_subject(sources, label) if label else _dataset(sources))
            panels[path.name] = [one.title for one in parts if isinstance(one, Panel)]
            written.append((path, title, parts))
    for path, title, parts in written:
        save_page(path, title, parts)
    return Report(out / PAGE, pages, panels)


def _check_out(out: Path, pages: Sequence[Path], *, overwrite: bool) -> None:
    """Refuse to replace pages unasked, and those of other verbs at all."""
    if out.exists() and not out.is_dir():
        raise DatasetError(f"{out} is a file; give a folder")
    if (out / "dataset_description.json").exists():
        raise DatasetError(f"{out} is a dataset, whose own pages might be replaced; give another folder")
    there = [path for path in pages if path.exists()]
    if there and not overwrite:
        raise DatasetError(f"{there[0]} exists already; replace it with --overwrite")


def _title(raw: Path) -> str:
    """What the dataset calls itself."""
    path = raw / "dataset_description.json"
    return str(read_json(path).get("Name") or raw.name) if path.exists() else raw.name


def _dataset(sources: Sources) -> Iterator[str | Panel]:
    """The page of a dataset."""
    yield dataset_panel(sources)
    yield tasks_panel(sources)
    if sources.analyses:
        yield Panel("found", "Networks found", found_html(sources.analyses, "sub-{}.html", sources.subjects))
    if sources.groups:
        groups = (analysis_panel(one.path, one.fields, f"group-{number}") for number, one in enumerate(sources.groups))
        yield Panel("groups", "Over subjects", "", tuple(groups))
    yield from _told(
        (answers_panel, about(sources.answers, [])),
        (components_panel, about(sources.components, [])),
        (lesions_panel, lesions_of(sources, None)),
    )
    yield methods_panel(sources)
    yield commands_panel(sources)
    if more := further_panel(sources):
        yield more


def _subject(sources: Sources, label: str) -> Iterator[str | Panel]:
    """The page of a subject."""
    own = sources.of(label)
    yield f'<p><a href="{PAGE}">All of the dataset</a></p>'
    yield model_panel(own.runs)
    yield design_panel(own)
    for site in own.sites:
        yield signal_panel(own, site)
    analyses = about(sources.analyses, [label])
    components = about(sources.components, [label])
    if analyses:
        yield niivue_html()
    for site in dict.fromkeys(one.site for one in analyses):
        yield maps_panel(own, site, [one for one in analyses if one.site == site])
    yield from _told((answers_panel, about(sources.answers, [label])), (components_panel, components))
    if own.truths and (analyses or components):
        yield planted_panel(own, analyses, components)
    yield from _told((lesions_panel, lesions_of(sources, label)))
    yield methods_panel(sources, label)


def _told(*pairs: tuple[Callable[[Sequence[Any]], Panel], Sequence[Any]]) -> Iterator[Panel]:
    """Panels of results that are there."""
    return (tell(found) for tell, found in pairs if found)
