"""The demo finds what is planted, silences what it found, and tells both on a page; its commands do the same."""

from __future__ import annotations

import glob
import hashlib
import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from llm2bids.bids.history import read_history
from llm2bids.bids.tables import read_json
from llm2bids.cli import main
from llm2bids.masks import load_mask
from llm2bids.plots import draw_iou
from llm2bids.task import builtin_prompts, on_topics, text_hash

if TYPE_CHECKING:
    import pytest

    from .conftest import Ran


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
        number = row["component"].removeprefix("ica")
        component = load_mask(one_file(ran.results, f"ica/**/*_desc-ica{number}_mask.nii.gz"))
        shared, either = (planted & component).n_selected, (planted | component).n_selected
        assert row["iou"] == round(shared / either, 3) >= 0.9
    assert len({row["component"] for row in ran.rows}) == 6


def test_a_silenced_network_costs_its_own_topic_most(ran: Ran) -> None:
    harm = pd.DataFrame(ran.told["dissociation"]).pivot_table(index="network", columns="text", values="change")
    assert harm.shape == (6, 6)
    on_topic = np.diag(harm)
    for row in ran.rows:
        assert row["bits"] == round(harm.loc[row["task"], row["task"]], 3)
        assert row["percentile"] == 100
        assert row["bits"] > 3 > 3 * abs(row["random_bits"])
    assert np.abs(harm.to_numpy() - np.diag(on_topic)).max() < 0.2 * on_topic.min()


def test_the_texts_are_of_the_topic_and_defined_no_network(ran: Ran) -> None:
    defining_texts = set()
    for path in ran.results.glob("glm/**/*_desc-fdr05_mask.json"):
        defining_texts |= {text for run in read_json(path)["Llm2bids"]["Stimuli"] for text in run["Texts"]}
    assert len(defining_texts) > 6 * 4 * 12
    for task, topic in on_topics().items():
        texts = (ran.results / "texts" / f"{task}.txt").read_text().splitlines()
        assert len(set(texts)) == 4
        assert set(texts) <= {prompt.text for prompt in builtin_prompts()[topic]}
        assert not {text_hash(text) for text in texts} & defining_texts


def test_it_ends_with_the_report(ran: Ran) -> None:
    assert ran.told["page"] == str(ran.pages / "report.html")
    assert Path(ran.told["page"]).is_file()


def test_every_command_is_in_the_history_of_what_it_wrote(ran: Ran) -> None:
    folders = (ran.folder, ran.pages, *(ran.results / name for name in ("llm2bids", "glm", "ica", "lesion")))
    noted = {tuple(shlex.split(step.command)) for folder in folders for step in read_history(folder)}
    by_hand = {("llm2bids", *typed(line)) for line in ran.told["commands"]}
    assert {verb_of(words) for words in noted} == {verb_of(words) for words in by_hand} - {"mask", "validate"}
    assert {words for words in noted if words[1] not in {"record", "lesion"}} <= by_hand  # these leave defaults out


def verb_of(words: tuple[str, ...]) -> str:
    return " ".join(words[1:3]) if words[1] == "networks" else words[1]


AGAIN = {
    "record": ["--resume"],
    "prep": ["--resume"],
    "glm": ["--resume"],
    "ica": ["--resume"],
    "networks match": ["--overwrite"],
    "lesion": ["--resume"],
    "mask": ["--overwrite"],
    "validate": [],
}
"""With --resume a command leaves alone what it would do in the same way, and refuses or does anew what it would not."""


def test_the_commands_do_by_hand_what_the_demo_did(ran: Ran, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(ran.folder)
    for line in ran.told["commands"]:
        words = typed(line)
        again = AGAIN.get(words[0], AGAIN.get(" ".join(words[:2])))
        if again is not None:  # other questions and the report have tests of their own
            assert main([*words, *again]) == 0, capsys.readouterr().err
    output = capsys.readouterr().out
    assert output.count("was there") == 24 + 24 + 6 + 1
    assert " written" not in output
    assert contents(ran.folder) == before


def typed(line: str) -> list[str]:
    """A line as a shell hands it over, without the program."""
    program, *words = shlex.split(line)
    assert program == "llm2bids"
    return [name for word in words for name in (sorted(glob.glob(word)) if "*" in word else [word])]  # noqa: PTH207


def contents(folder: Path) -> dict[str, str]:
    """What every volume, table and mask holds; the order of a mask's metadata may differ."""
    files = [path for path in folder.rglob("*") if path.suffix in {".gz", ".tsv"} or path.name == "runs.jsonl"]
    masks = {str(path): load_mask(path) for path in folder.rglob("*.safetensors")}
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files} | {
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
