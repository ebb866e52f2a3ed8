"""The demo finds what is planted, silences what it found, and tells both on a page; its commands do the same."""

from __future__ import annotations

import glob
import hashlib
import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from llm2bids.bids.tables import read_json
from llm2bids.cli import main
from llm2bids.demo.page import draw_iou
from llm2bids.mask import load_mask
from llm2bids.task import builtin_prompts, on_topics, text_hash

from .html import Page, check_offline, pictures_in


@dataclass(frozen=True)
class Ran:
    """What `llm2bids demo DIR --json` wrote and said."""

    folder: Path
    told: dict[str, Any]

    @property
    def results(self) -> Path:
        return self.folder / "derivatives"

    @property
    def rows(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self.told["tasks"]
        return rows


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """The demo in a folder whose name a shell and a browser could misread."""
    folder = tmp_path_factory.mktemp("demo") / "a <b>demo & more"
    with pytest.MonkeyPatch.context() as patch:
        said: list[str] = []
        patch.setattr("llm2bids.cli.demo.tell", said.append)
        assert main(["demo", str(folder), "--json"]) == 0
    return Ran(folder, json.loads("\n".join(said)))


def test_glm_tells_planted_units_from_others(ran: Ran) -> None:
    assert ran.told["errors"] == 0
    assert {row["task"] for row in ran.rows} == set(on_topics())
    for row in ran.rows:
        assert (row["runs"], row["scans"], row["units"]) == (4, 4 * 27 * 24, 768)
        assert row["hits"] == row["planted"]
        assert row["false"] == row["found"] - row["hits"]
    assert sum(row["dice"] for row in ran.rows) / len(ran.rows) >= 0.95
    assert len(list((ran.results / "masks").glob("*.safetensors"))) == 7
    assert (ran.results / "glm" / "sub-phantom.html").exists()


def test_ica_finds_every_planted_network_without_a_task(ran: Ran) -> None:
    for row in ran.rows:
        planted = load_mask(one_file(ran.results, f"phantom/**/*task-{row['task']}_*truth_mask.nii.gz"))
        own = row["component"].removeprefix("ica")
        component = load_mask(one_file(ran.results, f"ica/**/*_desc-ica{own}_mask.nii.gz"))
        shared, either = (planted & component).n_selected, (planted | component).n_selected
        assert row["iou"] == round(shared / either, 3) >= 0.9
    assert len({row["component"] for row in ran.rows}) == 6


def test_a_silenced_network_costs_its_own_topic_most(ran: Ran) -> None:
    harm = pd.DataFrame(ran.told["dissociation"]).pivot_table(index="network", columns="text", values="change")
    assert harm.shape == (6, 6)
    own = np.diag(harm)
    for row in ran.rows:
        assert row["bits"] == round(harm.loc[row["task"], row["task"]], 3)
        assert row["percentile"] == 100
        assert row["bits"] > 3 > 3 * abs(row["random_bits"])
    assert np.abs(harm.to_numpy() - np.diag(own)).max() < 0.2 * own.min()


def test_the_texts_are_of_the_topic_and_defined_no_network(ran: Ran) -> None:
    shown = set()
    for path in ran.results.glob("glm/**/*_desc-fdr05_mask.json"):
        shown |= {text for run in read_json(path)["Llm2bids"]["Stimuli"] for text in run["Texts"]}
    assert len(shown) > 6 * 4 * 12
    for task, topic in on_topics().items():
        texts = (ran.results / "texts" / f"{task}.txt").read_text().splitlines()
        assert len(set(texts)) == 4
        assert set(texts) <= {prompt.text for prompt in builtin_prompts()[topic]}
        assert not {text_hash(text) for text in texts} & shown


def test_the_page_is_whole_and_shows_the_numbers(ran: Ran) -> None:
    assert ran.told["page"] == str(ran.results / "demo.html")
    page = Page(Path(ran.told["page"]))
    check_offline(page)
    assert len(page.source) < 1e6
    assert [shape[1] > 300 for shape in (one.shape for one in pictures_in(page))] == [True] * 3
    assert min(map(len, page.values("img", "alt"))) > 50
    for row in ran.rows:
        cells = [row["task"], row["planted"], row["found"], row["false"], f"{row['dice']:.2f}", f"{row['iou']:.2f}"]
        assert "".join(map(str, [*cells, f"{row['bits']:+.1f}", "100"])) in page.text
    links = page.values("a", "href")
    assert "glm/sub-phantom.html" in links
    assert all((ran.results / link).exists() for link in links)


def test_the_page_lists_the_commands(ran: Ran) -> None:
    page = Page(Path(ran.told["page"]))
    assert page.values("b", "class") == []
    assert "b" not in {tag for tag, _ in page.tags}
    assert len(ran.told["commands"]) == page.source.count("<li>")
    assert all(line in page.text for line in ran.told["commands"])


AGAIN = {
    "record": ["--resume"],
    "prep": ["--resume"],
    "glm": ["--resume"],
    "ica": ["--resume"],
    "networks": ["--overwrite"],
    "lesion": ["--resume"],
    "mask": ["--overwrite"],
    "validate": [],
}
"""With --resume a command leaves alone what it would do in the same way, and refuses or does anew what it would not."""


def test_the_commands_do_by_hand_what_the_demo_did(ran: Ran, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(ran.folder)
    for line in ran.told["commands"]:
        verb, *words = typed(line)
        assert main([verb, *words, *AGAIN[verb]]) == 0, capsys.readouterr().err
    said = capsys.readouterr().out
    assert said.count("was there") == 24 + 24 + 6 + 1
    assert " written" not in said
    assert contents(ran.folder) == before


def typed(line: str) -> list[str]:
    """A line as a shell hands it over, without the program."""
    program, *words = shlex.split(line)
    assert program == "llm2bids"
    return [name for word in words for name in (sorted(glob.glob(word)) if "*" in word else [word])]  # noqa: PTH207


def contents(folder: Path) -> dict[str, str]:
    """What every volume, table and mask holds; the order of a mask's metadata may differ."""
    told = [path for path in folder.rglob("*") if path.suffix in {".gz", ".tsv", ".jsonl"}]
    masks = {str(path): load_mask(path) for path in folder.rglob("*.safetensors")}
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in told} | {
        path: hashlib.sha256(mask.selected.tobytes()).hexdigest() + json.dumps(mask.provenance, sort_keys=True)
        for path, mask in masks.items()
    }


def one_file(folder: Path, pattern: str) -> Path:
    (path,) = folder.glob(pattern)
    return path


def test_the_demo_is_not_overwritten_unasked(ran: Ran, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", str(ran.folder)]) == 2
    assert "--overwrite" in capsys.readouterr().err


def test_the_matrix_shows_the_best_match_of_each() -> None:
    iou = pd.DataFrame({"network": ["ica01", "ica02", "ica03"], "a": [0.1, 0.2, 0.9], "b": [0.7, 0.3, 0.05]})
    axes = draw_iou(iou).axes[0]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["ica03", "ica01"]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["a", "b"]
    assert [text.get_text() for text in axes.texts] == [".90", ".10", ".05", ".70"]
