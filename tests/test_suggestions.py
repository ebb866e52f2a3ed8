"""A name that is not there is refused with the one that is most like it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest

from llm2bids.bids.runs import find_runs
from llm2bids.decomposition.settings import DecompositionSettings
from llm2bids.design.fsl import ev_text
from llm2bids.errors import LLM2BIDSError, did_you_mean
from llm2bids.networks.identification import identify
from llm2bids.networks.unit_overlap import overlap
from llm2bids.space import UnitMask
from llm2bids.statistics.settings import GLMSettings

from .glm_cases import analysed
from .maps import SPACE

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MISSPELT: dict[str, tuple[dict[str, Any], str]] = {
    "subject": (
        {"participant_label": ["phantm"]},
        "sub-phantm not found in .*; did you mean phantom[?] there are phantom",
    ),
    "task": ({"task_label": ["patology"]}, "task-patology not found .*; did you mean pathology[?] there are pathology"),
    "site": ({"sites": ["mpl"]}, "acq-mpl not found .*; did you mean mlp[?] there are block, mlp"),
    "confound": (
        {"confounds": ["tok_suprisal"]},
        "tok_suprisal is .* not there; did you mean tok_surprisal[?] there are",
    ),
    "wildcard": (
        {"confounds": ["token_surpris*"]},
        "no confound token_surpris.; did you mean tok_surprisal[?] there are",
    ),
    "condition": ({"contrasts": ["on - of"]}, "condition of, which .* not have; did you mean o.*[?] it has on, off"),
    "choice": ({"correction": "bonferoni"}, "'bonferoni' found; did you mean bonferroni[?] use fdr"),
}


@pytest.mark.parametrize("what", MISSPELT)
def test_glm_knows_what_was_meant(two_sites: Path, what: str) -> None:
    asked, told = MISSPELT[what]
    with pytest.raises(LLM2BIDSError, match=told):
        analysed(two_sites, "never", **asked)


@pytest.mark.parametrize(
    ("ask", "told"),
    [
        (
            lambda out: overlap(out, task_label=["patology"]),
            "task-patology not found .*did you mean pathology[?] there are",
        ),
        (
            lambda out: overlap(out, contrasts=["onVsOf"]),
            "contrast onVsOf not found; did you mean onVsOff[?] there are",
        ),
        (lambda out: identify(out, scores=["dise"]), "score 'dise' found; did you mean dice[?] use"),
    ],
)
def test_questions_about_networks_know_what_was_meant(phantoms: Path, ask: Callable[[Path], object], told: str) -> None:
    with pytest.raises(LLM2BIDSError, match=told):
        ask(phantoms / "derivatives" / "glm")


def test_single_parts_know_what_was_meant(two_sites: Path) -> None:
    with pytest.raises(LLM2BIDSError, match="did you mean pathology"):
        find_runs(two_sites, tasks=["pathologie"])
    with pytest.raises(LLM2BIDSError, match=r"condition 'onn' found, only off, on; did you mean on[?] choose"):
        ev_text(pd.DataFrame({"onset": [0, 4], "duration": [2, 2], "trial_type": ["on", "off"]}), "onn")
    with pytest.raises(LLM2BIDSError, match=r"method 'fastika' found; did you mean fastica[?] use"):
        DecompositionSettings(method="fastika")  # type: ignore[arg-type]
    with pytest.raises(LLM2BIDSError, match=r"tail 'positivv' found; did you mean positive[?] use two"):
        replace(GLMSettings(), tail="positivv")  # type: ignore[arg-type]


def test_a_hookpoint_is_suggested() -> None:
    name = SPACE.hookpoints[0]
    with pytest.raises(LLM2BIDSError, match=f"did you mean {name}[?] use a mask of the same model"):
        UnitMask.from_table(pd.DataFrame({"hookpoint": [name + "x"], "channel": [0]}), SPACE)


def test_what_is_like_nothing_gets_no_suggestion() -> None:
    assert did_you_mean("xyz", ["on", "off"]) == ""
    assert did_you_mean("--xyz", ["--tokens", "--mode"]) == ""  # the hyphens do not make them alike
    assert did_you_mean("Pathology", ["pathology"]) == "did you mean pathology? "
