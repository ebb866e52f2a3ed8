"""The report tells everything that is there, and what is not; its numbers are those of the files; nothing is lost."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from html import unescape
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest

from llm2bids.bids.history import read_history
from llm2bids.bids.tables import read_json, read_tsv, write_json
from llm2bids.cli import main
from llm2bids.errors import DatasetError
from llm2bids.lesioning.output import SIDECAR
from llm2bids.preparation import prep
from llm2bids.reporting import report
from llm2bids.reporting.cards import commands_panel, further_panel
from llm2bids.reporting.methods import (
    describe_analysis,
    describe_answer,
    describe_lesion,
    methods_panel,
    number_citations,
)
from llm2bids.reporting.recordings import signal_panel
from llm2bids.reporting.results import components_panel, frame_html, lesions_panel
from llm2bids.reporting.sources import LESION, Result, Sources
from llm2bids.statistics import glm

from .html import Page, pictures_in

if TYPE_CHECKING:
    from pathlib import Path

    from llm2bids.pages.frame import Panel
    from llm2bids.recording import Recording

    from .conftest import Ran


@pytest.fixture(scope="module")
def analysed(small_dataset: tuple[Path, list[Recording]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two small tasks with networks; do not write into it."""
    root = tmp_path_factory.mktemp("report") / "ds"
    shutil.copytree(small_dataset[0], root)
    prep(root, progress=False)
    glm(root, root / "derivatives" / "glm", progress=False)
    return root


@pytest.fixture
def dataset(analysed: Path, tmp_path: Path) -> Path:
    """A copy to write into."""
    return shutil.copytree(analysed, tmp_path / "ds")


def anchors(page: Page) -> set[str]:
    return {str(attrs["id"]) for _, attrs in page.tags if "id" in attrs}


def test_the_pages_of_the_demo_show_every_panel(ran: Ran) -> None:
    titles = {path.name: titles_of(Page(path)) for path in ran.pages.glob("*.html")}
    assert titles["report.html"] == [
        "Dataset",
        "What was shown",
        "Networks found",
        "Questions about networks",
        "Methods",
        "Commands",
    ]
    assert titles["sub-phantom.html"] == [
        "Model",
        "Design",
        "Signal, site block",
        "Networks, site block",
        "Questions about networks",
        "Networks without a task",
        "Planted against found",
        "What networks do",
        "Methods",
    ]


def titles_of(page: Page) -> list[str]:
    return re.findall(r'<section><h2 id="[^"]+">([^<]+)</h2>', page.source)


def test_answers_of_every_question_are_shown(ran: Ran) -> None:
    page = Page(ran.pages / "sub-phantom.html")
    below = re.findall(r'<h3 id="[^"]+">([^<]+)</h3>', page.source)
    for title in ("Overlap", "Reliability", "Identification", "Networks over depth", "Connectivity"):
        assert f"{title}, site block" in below
    assert "Networks found again" in Page(ran.pages / "report.html").text


def test_pages_are_whole_small_and_described(ran: Ran) -> None:
    for path in ran.pages.glob("*.html"):
        page = Page(path)
        assert len(page.source) < 20e6
        assert min(map(len, page.values("img", "alt"))) > 15
        assert len(page.values("img", "alt")) == len(page.values("img", "src"))
        assert min(picture.shape[1] for picture in pictures_in(page)) > 250
        links = page.values("a", "href")
        inner = {link.removeprefix("#") for link in links if link.startswith("#")}
        assert inner <= anchors(page)
        assert all((path.parent / link).exists() for link in links if not link.startswith(("#", "https://")))
        assert len(anchors(page)) == sum("id" in attrs for _, attrs in page.tags)


def test_markup_in_names_stays_text(ran: Ran) -> None:
    for path in ran.pages.glob("*.html"):
        page = Page(path)
        assert "b" not in {tag for tag, _ in page.tags}
    assert "a <b>demo & more" in page.text or "a <b>demo & more" in Page(ran.pages / "report.html").text


def test_planted_networks_stand_beside_those_found(ran: Ran) -> None:
    text = Page(ran.pages / "sub-phantom.html").text
    for row in ran.rows:
        cells = [row["task"], "block", row["planted"], row["found"], row["false"]]
        assert "".join(map(str, cells)) in text


def test_commands_and_their_files_are_listed(ran: Ran) -> None:
    text = Page(ran.pages / "report.html").text
    for folder in (ran.folder, *(ran.results / name for name in ("llm2bids", "glm", "ica", "lesion"))):
        steps = read_history(folder)
        assert steps
        for step in steps:
            assert step.command in text
            assert step.outputs[0] in text


def test_numbers_are_those_of_the_files(analysed: Path, tmp_path: Path) -> None:
    pages = report(analysed, tmp_path / "pages")
    text = Page(pages.subjects["phantom"]).text
    for path in (analysed / "derivatives" / "glm").rglob("*_glm.json"):
        for contrast in read_json(path)["Found"]:
            assert f"{contrast['n_selected']} of {contrast['n_tested']} units tested" in text
            units = read_tsv(path.with_name(contrast["units"])).head(3)
            for row in units.to_dict("records"):
                assert f"{row['unit']}{row['hookpoint']}{row['block']}{row['channel']}" in text
    text_of_dataset = Page(pages.page).text
    assert "phantomseed061,653,6324" in text_of_dataset
    assert pages.panels["sub-phantom.html"] == titles_of(Page(pages.subjects["phantom"]))


def test_a_recording_alone_is_told_and_what_comes_next(
    small_dataset: tuple[Path, list[Recording]], tmp_path: Path
) -> None:
    pages = report(small_dataset[0], tmp_path / "pages", progress=False)
    assert pages.panels["sub-phantom.html"] == ["Model", "Design", "Signal, site block", "Methods"]
    assert pages.panels["report.html"] == ["Dataset", "What was shown", "Methods", "Commands", "Not asked yet"]
    text = Page(pages.page).text
    for verb in ("prep", "glm", "ica", "lesion"):
        assert f"llm2bids {verb} " in text
    assert "script" not in {tag for tag, _ in Page(pages.subjects["phantom"]).tags}
    assert not list(small_dataset[0].rglob("*.html"))


def test_what_was_asked_is_not_advised_again(analysed: Path, ran: Ran) -> None:
    panel = further_panel(Sources.from_dataset(analysed))
    assert panel is not None
    assert "networks overlap" in panel.html
    assert "llm2bids prep" not in panel.html
    assert further_panel(Sources.from_dataset(ran.folder)) is None


def test_results_elsewhere_are_told(dataset: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    shutil.move(dataset / "derivatives" / "glm", elsewhere)
    assert "Networks found" not in report(dataset, tmp_path / "a").panels["report.html"]
    assert "Networks found" in report(dataset, tmp_path / "b", results=[elsewhere]).panels["report.html"]


def test_groups_are_told(phantoms: Path, tmp_path: Path) -> None:
    root = shutil.copytree(phantoms, tmp_path / "several")
    glm(root, root / "derivatives" / "glm", "group", progress=False)
    pages = report(root, tmp_path / "pages", participant_label=["p1", "p2"])
    assert list(pages.subjects) == ["p1", "p2"]
    assert "Over subjects" in pages.panels["report.html"]
    assert "3 subjects" in Page(pages.page).text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "exists already; replace it with --overwrite"),
        (["--participant-label", "fantom"], "did you mean phantom"),
        (["--results", "nowhere"], "is no folder"),
        (["--out-dir", "{root}/sub-phantom"], "inside the raw dataset"),
        (["--out-dir", "{root}/derivatives/glm"], "is a dataset"),
        (["--out-dir", "{root}/participants.tsv"], "inside the raw dataset"),
    ],
)
def test_refusals_say_what_to_do(
    dataset: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pages = dataset / "derivatives" / "report"
    pages.mkdir()
    (pages / "report.html").write_text("mine")
    assert main(["report", str(dataset), *(word.format(root=dataset) for word in words)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error
    assert [path.name for path in pages.iterdir()] == ["report.html"]
    assert (pages / "report.html").read_text() == "mine"


def test_a_broken_result_leaves_old_pages_alone(dataset: Path) -> None:
    pages = report(dataset)
    before = {path: path.read_bytes() for path in pages.page.parent.glob("*.html")}
    mask = max((dataset / "derivatives" / "glm").rglob("*_desc-fdr05_mask.nii.gz"))
    mask.write_bytes(mask.read_bytes()[:100])
    with pytest.raises(DatasetError, match=mask.name):
        report(dataset, overwrite=True)
    result = max((dataset / "derivatives" / "glm").rglob("*_glm.json"))
    write_json(result, {key: value for key, value in read_json(result).items() if key != "Found"})
    with pytest.raises(DatasetError, match=f"{result.name} lacks the field 'Found'"):
        report(dataset, overwrite=True)
    assert {path: path.read_bytes() for path in pages.page.parent.glob("*.html")} == before


def test_the_same_dataset_makes_the_same_pages(analysed: Path, tmp_path: Path) -> None:
    first, again = (report(analysed, tmp_path / name) for name in "ab")
    assert first.page.read_bytes() == again.page.read_bytes()
    assert first.subjects["phantom"].read_bytes() == again.subjects["phantom"].read_bytes()


def test_programs_are_told_where_pages_are(analysed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(analysed), "--out-dir", str(tmp_path / "pages"), "--json"]) == 0
    fields = json.loads(capsys.readouterr().out)
    assert fields["page"] == str(tmp_path / "pages" / "report.html")
    assert set(fields["panels"]) == {"report.html", "sub-phantom.html"}


def plain(panel: Panel) -> str:
    return re.sub(r"<[^>]+>", "", panel.html).replace("&quot;", '"')


def test_methods_say_what_sidecars_say(dataset: Path) -> None:
    sources = Sources.from_dataset(dataset)
    written = plain(methods_panel(sources, "phantom"))
    assert f"2 runs each, {sources.runs[0].n_scans} scans per run" in written
    assert "768 units in 6 layers" in written
    assert "by 5 tokens, drawn at temperature 1" in written
    assert "Benjamini Y, Hochberg Y (1995)" in written
    assert "Nencka AS" in written
    assert "Nichols" not in written
    for path in (dataset / "derivatives" / "glm").rglob("*_glm.json"):
        fields = read_json(path)
        fields["Llm2bids"]["Statistics"] |= {"Correction": "maxt", "CorrectionDescription": "max-t", "Tail": "positive"}
        write_json(path, fields)
    changed = plain(methods_panel(Sources.from_dataset(dataset), "phantom"))
    assert "one-tailed (positive), corrected over units: max-t [" in changed
    assert "Nichols TE" in changed
    assert "Benjamini" not in changed


def test_own_tasks_are_not_ascribed_to_papers(dataset: Path) -> None:
    for path in dataset.glob("task-*_bold.json"):
        write_json(path, read_json(path) | {"TaskDescription": "My own."})
    assert "Nencka" not in plain(methods_panel(Sources.from_dataset(dataset), "phantom"))


def test_citations_are_all_known_and_numbered_in_order(ran: Ran) -> None:
    written = plain(methods_panel(Sources.from_dataset(ran.folder), "phantom"))
    text, _, references = written.partition("References")
    numbers = list(dict.fromkeys(map(int, re.findall(r"\[(\d+)\]", text))))
    assert numbers == list(range(1, len(numbers) + 1))
    assert references.count("https://") == len(numbers)
    assert "[@" not in written
    with pytest.raises(KeyError):
        number_citations(["unknown [@nobody]"])


def test_tables_are_cut_and_say_so() -> None:
    table = pd.DataFrame(
        {"task": [f"t{n}" for n in range(50)], "p": ["0.00012345"] * 49 + ["n/a"], "none": ["n/a"] * 50}
    )
    html = frame_html(table)
    assert html.count("<tr>") == 41
    assert "10 more rows" in html
    assert ">0.000123<" in html
    assert '<td class="text">t0</td>' in html
    assert frame_html(table.tail(1)).count(">-<") == 2


def test_lesions_are_looked_for_under_their_name() -> None:
    assert LESION == SIDECAR


def result(folder: Path, name: str, **fields: Any) -> Result:
    """What a verb left on disk, with fields of our own."""
    folder.mkdir(parents=True, exist_ok=True)
    return Result(write_json(folder / name, fields), folder)


TESTED = {
    "Inference": "prompt",
    "InferenceDescription": "Prompts are the samples.",
    "EffectOfPrompt": "prompt",
    "Drift": "cosine",
    "Correction": "fdr",
    "CorrectionDescription": "false discovery rate",
    "Alpha": 0.05,
    "Tail": "two",
}


@pytest.mark.parametrize(
    ("statistics", "metadata", "present", "absent"),
    [
        (
            {},
            {"HighPassHz": 0.01},
            ["of its tokens with first-order", "Drifts of less than 0.01 Hz", "@fdr"],
            ["with a"],
        ),
        ({"EffectOfPrompt": "prompt-mean"}, {}, ["as their mean"], ["first-order", "Drift"]),
        ({"Inference": "token", "Drift": "none"}, {"HighPassHz": None}, ["of all tokens"], ["per prompt", "Drift"]),
        ({"Correction": "none", "Alpha": 0.3}, {}, ["p < 0.3, not corrected"], ["corrected over"]),
        ({"Correction": "maxt", "Permutations": 99, "Seed": 4}, {}, ["99 permutations, seed 4", "@maxt"], ["@fdr"]),
        ({"Top": [0.01]}, {"Confounds": ["a", "b"]}, ["the 1 % of units", "with a and b as confounds"], []),
        (
            {"Inference": "subject"},
            {"EffectOfSubject": {**TESTED, "EffectOfPrompt": "prompt-mean"}, "Subjects": {"sub-a": {}, "sub-b": {}}},
            ["as their mean", "over 2 subjects", "Drifts were modelled"],
            ["first-order"],
        ),
        ({"Tail": "negative"}, {}, ["Tests were one-tailed (negative), corrected"], ["F test"]),
    ],
)
def test_methods_of_tests_are_true_for_every_setting(
    tmp_path: Path, statistics: dict[str, Any], metadata: dict[str, Any], present: list[str], absent: list[str]
) -> None:
    fields = {"Llm2bids": {"Statistics": {**TESTED, **statistics}, **metadata}, "Found": [{"test": "t"}]}
    text = describe_analysis(result(tmp_path, "a_glm.json", **fields))
    assert [words for words in present if words not in text] == []
    assert [words for words in absent if words in text] == []


def test_methods_tell_f_tests_from_t_tests(tmp_path: Path) -> None:
    fields = {"Llm2bids": {"Statistics": TESTED}}
    mixed = describe_analysis(result(tmp_path, "a_glm.json", **fields, Found=[{"test": "t"}, {"test": "F"}]))
    assert "Tests were two-tailed, F tests one-tailed, corrected over units" in mixed
    only = describe_analysis(result(tmp_path, "b_glm.json", **fields, Found=[{"test": "F"}]))
    assert "Tests were one-tailed, as F tests are, corrected over units" in only


@pytest.mark.parametrize(
    ("question", "settings", "present", "absent"),
    [
        ("networks overlap", {"Draws": 10}, "conditions exchanged among prompts (10 draws)", "nothing"),
        ("networks overlap", {"Draws": 10, "NoExchangeOfConditions": "one run"}, "within layers (10 draws).", "Holm"),
        ("networks reliability", {"Permutations": 9}, "within the task,", "exchanged"),
        ("networks identifysession", {"Across": "session", "Permutations": 9}, "of the other sessions", "runs was"),
        ("networks profile", {"Draws": 5, "NotHeldOut": "one run"}, "over depth were", "did not choose"),
        ("networks connectivity", {"Course": "eigenvariate", "Background": True}, "first eigenvariates", "means"),
        ("networks of tomorrow", {}, "", "a"),
    ],
)
def test_methods_of_questions_are_true_for_every_setting(
    tmp_path: Path, question: str, settings: dict[str, Any], present: str, absent: str
) -> None:
    metadata = {"Settings": settings, "Contrasts": {"task": "onVsOff"}}
    text = describe_answer(result(tmp_path, "a_networks.json", Description=f"llm2bids {question}", Llm2bids=metadata))
    assert present in text
    assert absent not in text


def test_methods_of_lesions_say_what_was_kept_and_what_is_not_known(tmp_path: Path) -> None:
    metadata = {"Model": "m", "Method": "zero", "Keep": False, "Controls": {"Kind": "layer", "Number": 0, "Seed": 0}}
    lesions = {
        "Lesions": [{"Method": "keep, others zero"}],
        "Masks": [{"StimuliKnown": True, "StimuliInScoredTexts": 0}],
    }
    text = describe_lesion(result(tmp_path, "lesion.json", Llm2bids=metadata | lesions))
    assert "with all units but those of masks lesioned (method zero), without random masks." in text
    assert "that was scored had defined a mask" in text
    assert "is not known of 1 of 1 masks" in describe_lesion(
        result(tmp_path / "b", "lesion.json", Llm2bids=metadata | lesions | {"Masks": [{"StimuliKnown": False}]})
    )


def test_components_of_sessions_are_found_and_others_subjects_are_not_told(phantoms: Path, tmp_path: Path) -> None:
    root = shutil.copytree(phantoms, tmp_path / "ds")
    result(root / "derivatives" / "ica" / "sub-p1" / "ses-01" / "func", "sub-p1_ses-01_task-x_run-01_ica.json")
    assert [component.path.name for component in Sources.from_dataset(root).components] == [
        "sub-p1_ses-01_task-x_run-01_ica.json"
    ]
    only = Sources.from_dataset(root, [root / "derivatives" / ".." / "derivatives" / "glm"], ["p2"])
    assert only.components == []
    assert [component.subjects for component in only.analyses] == [["p2"]]


def test_planted_networks_are_those_of_the_subject_and_folders_are_told_apart(phantoms: Path, tmp_path: Path) -> None:
    root = shutil.copytree(phantoms, tmp_path / "ds")
    shutil.copytree(root / "derivatives" / "glm", root / "derivatives" / "again")
    pages = report(root, participant_label=["p1"], progress=False)
    page = Page(pages.subjects["p1"])
    planted = page.source.partition('id="planted"')[2].partition("</section>")[0]
    assert planted.count("<tr>") == 3  # a head, and each of the folders
    assert page.source.count('">pathology (again), onVsOff</option>') == 1
    assert len(anchors(page)) == sum("id" in attrs for _, attrs in page.tags)
    links = {link for link in Page(pages.page).values("a", "href") if link.endswith(".html")}
    assert links == {"sub-p1.html"}


def test_lesions_side_by_side_have_places_and_commands_of_their_own(dataset: Path, ran: Ran) -> None:
    for name in ("first", "second"):
        shutil.copytree(ran.results / "lesion", dataset / "derivatives" / "several" / name)
    sources = Sources.from_dataset(dataset)
    html = lesions_panel(sources.lesions).render()
    assert len(set(re.findall(r'id="([^"]+)"', html))) == html.count(' id="') == 3
    assert "Lesions: several/second" in html
    commands = commands_panel(sources).html
    assert "Into derivatives/several/second" in commands
    assert "derivatives/several," not in commands


def test_many_decompositions_do_not_make_a_page_too_large(ran: Ran, monkeypatch: pytest.MonkeyPatch) -> None:
    components = Sources.from_dataset(ran.folder).components
    monkeypatch.setattr("llm2bids.reporting.results.draw_layers", lambda *_: None)
    monkeypatch.setattr("llm2bids.reporting.results.as_png", lambda _: b"")
    html = components_panel(components * 30).render()
    assert html.count("<figure>") == 24
    assert len(set(re.findall(r'id="([^"]+)"', html))) == html.count(' id="') == 31
    assert components_panel(components).render().count("<figure>") == 6


def test_what_was_recorded_anew_is_not_shown_as_prepared(dataset: Path, tmp_path: Path) -> None:
    root = dataset.rename(tmp_path / "it's")
    for path in root.glob("sub-phantom/func/*_events.tsv"):
        path.write_text(path.read_text() + "\n")
    sources = Sources.from_dataset(root)
    assert sources.prepared == {}
    assert shlex.quote(str(root)) in unescape(signal_panel(sources.for_subject("phantom"), "block").html)
    assert "baseline" not in plain(methods_panel(sources, "phantom"))
