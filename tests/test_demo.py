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
        assert (row["runs"], row["scans"]) == (2, 2 * 33 * 24)
        assert row["d_planted"] > 1
        assert abs(row["d_others"]) < 0.1


def test_the_demo_is_not_overwritten_unasked(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", str(home / "ds")]) == 2
    assert "--overwrite" in capsys.readouterr().err
