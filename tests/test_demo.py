"""The demo finds what is planted, in a dataset that is valid."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from llm2bids.cli import main
from llm2bids.task import on_topics

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo")


def test_the_demo_tells_planted_from_others(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", str(home / "ds"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["errors"] == 0
    assert {row["task"] for row in told["tasks"]} == set(on_topics())
    for row in told["tasks"]:
        assert (row["runs"], row["scans"], row["units"]) == (4, 4 * 33 * 24, 768)
        assert row["hits"] == row["planted"]
        assert row["false"] == row["found"] - row["hits"]
    assert sum(row["dice"] for row in told["tasks"]) / len(told["tasks"]) >= 0.95
    assert len(list((home / "ds" / "derivatives" / "masks").glob("*.safetensors"))) == 7
    assert (home / "ds" / "derivatives" / "glm" / "sub-phantom.html").exists()


def test_the_demo_is_not_overwritten_unasked(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", str(home / "ds")]) == 2
    assert "--overwrite" in capsys.readouterr().err
