"""The documentation builds without a warning, its links lead somewhere, its commands run and say what it says."""

from __future__ import annotations

import doctest
import json
import pkgutil
import re
import shutil
import subprocess
import sys
from html import unescape
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import pytest

import llm2bids
from llm2bids.cli import build_parser, main
from llm2bids.task import on_topics

from .test_readme import GUIDES
from .typed import BLOCK, blocks_of, same, type_in

if TYPE_CHECKING:
    from .conftest import Ran

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
WRITTEN = [path for path in sorted(DOCS.rglob("*.md")) if "_build" not in path.parts]
MARKDOWN = [*WRITTEN, *sorted((ROOT / "examples").glob("*.md")), ROOT / "README.md", ROOT / "CHANGELOG.md"]
README = "../README"
FIRST = (README, "quickstart", "own-task", "own-model", "statistics", "nilearn", "plots", "you-know-transformers")
"""Pages whose commands run, in this order and in one folder; ``sh`` marks commands that need more than we have."""
TASK = re.compile("|".join(on_topics()))
FENCE = re.compile(r"^(`{3,}|:{3,}).*?^\1", re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pages, built from a copy, since building writes into its folder."""
    copy = tmp_path_factory.mktemp("docs")
    for name in ("docs", "examples"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("_build", "generated", "__pycache__"))
    for name in ("README.md", "CHANGELOG.md", "CITATION.cff"):
        shutil.copy(ROOT / name, copy)
    call = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-n", "-q", "docs", "html"]
    done = subprocess.run(call, cwd=copy, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return copy / "html"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a reader types."""
    return tmp_path_factory.mktemp("typed")


def verbs() -> list[str]:
    """Of the help of the whole command line: they stand four columns in."""
    return re.findall(r"^ {4}([a-z]+)(?: |$)", build_parser().format_help(), re.MULTILINE)


def modules() -> list[str]:
    found = (one.name for one in pkgutil.walk_packages(llm2bids.__path__, "llm2bids."))
    return [name for name in found if not name.rpartition(".")[2].startswith("_")]


def test_every_module_and_verb_is_in_the_reference(built: Path) -> None:
    pages = "".join(path.read_text() for path in (built / "api" / "generated").glob("*.html"))
    assert [name for name in modules() if f'id="module-{name}"' not in pages] == []
    assert {"record", "glm", "report", "completion"} <= set(verbs())
    for verb in verbs():
        text = (built / "commands" / f"{verb}.html").read_text()
        assert f"usage: llm2bids {verb}" in text
    assert "--prompts-per-block" in (built / "commands" / "record.html").read_text()


def test_every_figure_is_on_the_page_of_plots(built: Path) -> None:
    sources = "".join(path.read_text() for path in (ROOT / "llm2bids" / "plots").glob("*.py"))
    drawn = set(re.findall(r"^def (draw_\w+)", sources, re.MULTILINE))
    text = (built / "plots.html").read_text()
    assert drawn
    assert [name for name in sorted(drawn) if not re.search(rf'href="api/generated/[^"]+\.{name}"', text)] == []


def test_links_of_pages_lead_somewhere(built: Path) -> None:
    texts = {path: path.read_text() for path in built.rglob("*.html")}
    names = {path: set(re.findall(r'\bid="([^"]+)"', text)) for path, text in texts.items()}
    broken = []
    for path, text in texts.items():
        for link in re.findall(r'(?:href|src)="([^"]+)"', text):
            parts = urlsplit(unescape(link))
            if parts.scheme or parts.netloc:
                assert parts.scheme in {"http", "https", "mailto", "data"}, link
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            anchor = unquote(parts.fragment)
            if not target.exists() or (anchor and target in names and anchor not in names[target]):
                broken.append(f"{path.relative_to(built)}: {link}")
    assert broken == []


def slugs(path: Path) -> set[str]:
    """Anchors of a Markdown file, as GitHub names them."""
    headings = re.findall(r"^#+ +(.*)$", FENCE.sub("", path.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", MARKDOWN, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_of_markdown_lead_somewhere(page: Path) -> None:
    text = page.read_text()
    for link in re.findall(r"\]\(([^()\s]+(?:\([^()]*\)[^()\s]*)?)\)", text):
        parts = urlsplit(link)
        if parts.scheme:
            assert parts.scheme == "https", link
            assert "." in parts.netloc, link
            continue
        target = page if not parts.path else page.parent / unquote(parts.path)
        assert target.exists(), link
        assert not parts.fragment or parts.fragment in slugs(target), link


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", FIRST)
def test_commands_run_and_say_what_the_page_says(
    name: str, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(home)
    blocks = blocks_of(DOCS / f"{name}.md")[1 if name == README else 0 :]  # its first sets up what is here already
    blocks = [block for block in blocks if "(model, tokenizer)" not in block[1]]  # test_front_door gives it a model
    assert blocks
    for kind, text, shown in blocks:
        said = type_in(kind, text, capsys)
        assert not shown or same(said, shown), f"{text}\nsays\n{said}"


def test_no_other_page_has_commands_that_are_not_run() -> None:
    assert {path.stem for path in DOCS.glob("*.md") if blocks_of(path)} == {*FIRST, *GUIDES} - {README}


@pytest.mark.parametrize("name", [path.name for path in DOCS.glob("*.md") if ">>>" in path.read_text()])
def test_examples_at_the_prompt(name: str) -> None:
    text = "\n".join(text for _, text, _ in BLOCK.findall((DOCS / name).read_text()) if ">>>" in text)
    test = doctest.DocTestParser().get_doctest(text, {}, name, name, 0)
    result = doctest.DocTestRunner().run(test)
    assert result.attempted
    assert not result.failed


@pytest.fixture(scope="module")
def asked(home: Path) -> Path:
    """What README and the quick start wrote, which ran before, and answers to further questions."""
    root = home / "ds"
    glm, ica = (str(root / "derivatives" / name) for name in ("glm", "ica"))
    assert main(["ica", str(root), ica]) == 0
    assert main(["networks", "profile", glm, "--n-draws", "20"]) == 0
    assert main(["networks", "connectivity", glm]) == 0
    assert main(["networks", "match", glm, ica, "--n-draws", "20"]) == 0
    return root


@pytest.mark.filterwarnings("default")
def test_every_file_and_column_is_explained(asked: Path) -> None:
    explain_all(asked)


def test_every_file_and_column_of_the_demo_is_explained(ran: Ran) -> None:
    explain_all(ran.folder)


def explain_all(root: Path) -> None:
    """Hold the pages about files and columns against what was written."""
    files, columns = (" ".join((DOCS / name).read_text().split()) for name in ("files.md", "columns.md"))
    written = [path for path in root.rglob("*") if path.is_file() and ".llm2bids" not in path.parts]
    assert len(written) > 100
    for path in written:
        tail = re.sub(r"^((sub|ses|task|acq|run|space|contrast|tpl|model)-[A-Za-z0-9]+_?)+", "", path.name)
        stem = re.sub(r"desc-ica\d\d", "desc-ica01", tail.split(".")[0].lstrip("_"))
        assert "networks" in path.parts or TASK.sub("<task>", stem) in files, path
        for name, text in explained(path).items():
            told = text.replace("|", "\\|")
            assert f"| `{name}` | {told}" in columns, (path, name)
    assert "networks overlap" in columns


def explained(path: Path) -> dict[str, str]:
    """Columns that a sidecar explains, but for those that are numbered or named after a task."""
    fields = json.loads(path.read_text()) if path.suffix == ".json" else {}
    if isinstance(fields, list):
        return {}
    each = fields["Columns"] if isinstance(fields.get("Columns"), dict) else fields
    texts = {name: about.get("Description") if isinstance(about, dict) else about for name, about in each.items()}
    return {
        name: text
        for name, text in texts.items()
        if isinstance(text, str)
        and re.fullmatch(r"[a-z][a-z0-9_]*", name)
        and not name.startswith("cosine")
        and not text.startswith("Of the network of task")
    }


def test_every_key_of_ours_is_explained(asked: Path) -> None:
    text = (DOCS / "files.md").read_text()
    told = [path for path in asked.rglob("*.json") if path.name.endswith(("_bold.json", "_mask.json"))]
    keys = {key for path in told for key in json.loads(path.read_text()).get("Llm2bids", {})}
    assert len(keys) > 20
    assert [key for key in sorted(keys) if f"`{key}`" not in text] == []


def test_the_gallery_shows_every_example() -> None:
    shown = (DOCS / "make_gallery.py").read_text()
    for path in (ROOT / "examples").glob("*.py"):
        assert f'"{path.name}"' in shown, path.name
    for page in (DOCS / "gallery").glob("*.md"):
        for picture in re.findall(r"\]\((\S+\.png)\)", page.read_text()):
            assert (page.parent / picture).stat().st_size < 250_000, picture
