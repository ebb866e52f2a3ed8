"""Models that ask for slopes and bins: how their contrasts are taken apart, what is refused, what is written."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from llm2bids.bids.tables import read_json, read_tsv, write_json
from llm2bids.design.regressors import MEAN, Column
from llm2bids.design.statsmodel import Contrast, StatsModel
from llm2bids.errors import DesignError, InferenceError, LLM2BIDSError, StatsModelError
from llm2bids.preparation import prep
from llm2bids.recording import record
from llm2bids.statistics import glm
from llm2bids.statistics.samples import SplitContrast
from llm2bids.validation import validate

from .event_related_cases import (
    BINS,
    DELAYS,
    SLOPES,
    SURPRISAL,
    Run,
    analysis_of,
    contrast,
    fitted,
    model,
    refused,
    run_of,
    vars_of,
)

if TYPE_CHECKING:
    from pathlib import Path

    from llm2bids.statistics import ContrastResult


# ---- contrasts in two parts

COLUMNS = {
    "trial_type.a": Column("a"), "trial_type.b": Column("b"), "a_x_s": Column("a", "s"), "b_x_s": Column("b", "s"),
    "trial_type.a_delay_0": Column("a", "delay 0"), "trial_type.a_delay_4": Column("a", "delay 4"),
    "trial_type.b_delay_0": Column("b", "delay 0"), "trial_type.b_delay_4": Column("b", "delay 4"),
}  # fmt: skip


@pytest.mark.parametrize(
    ("weights", "kinds", "over", "is_level", "text"),
    [
        ({"trial_type.a": 1, "trial_type.b": -1}, {MEAN: 1}, {"a": 1, "b": -1}, True, "mean effect"),
        ({"trial_type.a": -1, "trial_type.b": 1}, {MEAN: 1}, {"a": -1, "b": 1}, True, "mean effect"),
        ({"a_x_s": 1, "b_x_s": -0.5}, {"s": 1}, {"a": 1, "b": -0.5}, False, "slope over s"),
        ({"trial_type.a_delay_0": 0.5, "trial_type.a_delay_4": 0.5}, {"delay 0": 1, "delay 4": 1}, {"a": 0.5}, True, "delay 0 + delay 4"),
        ({"trial_type.a_delay_0": 2, "trial_type.a_delay_4": -2}, {"delay 0": 1, "delay 4": -1}, {"a": 2}, False, "delay 0 - delay 4"),
        ({"trial_type.a": 1, "a_x_s": 2}, {MEAN: 0.5, "s": 1}, {"a": 2}, True, "0.5 × mean effect + slope over s"),
        (
            {"trial_type.a_delay_0": 1, "trial_type.a_delay_4": -1, "trial_type.b_delay_0": -1, "trial_type.b_delay_4": 1},
            {"delay 0": 1, "delay 4": -1}, {"a": 1, "b": -1}, False, "delay 0 - delay 4",
        ),
    ],
)  # fmt: skip
def test_a_contrast_is_what_it_takes_of_a_prompt_times_how_it_compares_conditions(
    weights: dict[str, float],
    kinds: dict[str, float],
    over: dict[str, float],
    is_level: bool,  # noqa: FBT001
    text: str,
) -> None:
    combined = Contrast("c", tuple(weights), (tuple(map(float, weights.values())),))
    split = SplitContrast.from_contrast(combined, COLUMNS)
    assert split.kinds == kinds
    assert (
        dict(
            zip(
                (name.removeprefix("trial_type.") for name in split.between.columns),
                split.between.weights[0],
                strict=True,
            )
        )
        == over
    )
    assert (split.is_level, split.description) == (is_level, text)


@pytest.mark.parametrize(
    ("weights", "rows", "message"),
    [
        (
            ["trial_type.a", "b_x_s"],
            [[1, -1]],
            "contrast c weighs mean effect, s of prompts differently in its conditions",
        ),
        (["trial_type.a_delay_0", "trial_type.b_delay_4"], [[1, -1]], "weighs delay 0, delay 4 .* conditions"),
        (["a_x_s", "tok_position"], [[1, 1]], "weighs s, mean effect"),
        (
            ["trial_type.a_delay_0", "trial_type.a_delay_4"],
            [[1, 0], [0, 1]],
            'differently in its rows; .* inference="token"',
        ),
    ],
)
def test_what_is_no_product_of_the_two_is_refused(weights: list[str], rows: list[list[float]], message: str) -> None:
    test = "F" if len(rows) > 1 else "t"
    combined = Contrast("c", tuple(weights), tuple(map(tuple, rows)), test)  # type: ignore[arg-type]
    with pytest.raises(InferenceError, match=message):
        SplitContrast.from_contrast(combined, COLUMNS)


# ---- what is refused


def test_prompts_without_a_slope_are_refused_where_they_are_needed() -> None:
    run = run_of(1, 3, lengths=[12, 1, 12, 1, 12, 12, 12, 12])
    kinds = ("on", "off", "on", "off", "on", "off", "on", "off")
    run = Run(**vars_of(run) | {"trial_types": kinds})
    message = (
        "2 of 4 prompts of sub-x that contrast c compares have too few tokens, .* in tok_surprisal, .* longer prompts"
    )
    refused(DesignError, message, run, model(SURPRISAL, SLOPES, contrast("c", off_x_surprisal=1)))
    assert (
        fitted(run, model(SURPRISAL, SLOPES, contrast("c", on_x_surprisal=1))).sample_fields["c"]["NumberOfSamples"]
        == 4
    )
    flat = model([{**SURPRISAL[1], "Input": ["trial_type.on", "level"]}], SLOPES[:3], contrast("c", on_x_surprisal=1))
    refused(DesignError, "4 of 4 prompts", run, flat)


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        (model([{**SURPRISAL[1], "Input": ["trial_type.on", "tok_frequency"]}], SLOPES[:3], contrast("c", on_x_surprisal=1)),
         DesignError, "run-01: a Product names tok_frequency, which is no confound; there are tok_position"),
        (model([{**SURPRISAL[1], "Output": "tok_position"}], ["tok_position"], contrast("c", on=1)),
         StatsModelError, "Output tok_position, which is a confound already"),
        (model(SURPRISAL, [*SLOPES, "old_x_surprisal"], contrast("c", on=1)), DesignError, "old_x_surprisal"),
        (model([BINS], ["trial_type.on"], contrast("c", on=1)), DesignError, r"trial_type\.on is asked for .* there are trial_type\.off_delay_0, "),
        (model(SURPRISAL, SLOPES, contrast("c", on_x_position=1)), DesignError, "weighs on_x_position, which the design"),
        (model(SURPRISAL, SLOPES, contrast("c", on_delay_0=1)), DesignError, "names condition on_delay_0, .* it has on, off, on_x"),
        (model([BINS], DELAYS, contrast("c", on_delay_0=1, off_delay_4=-1)), InferenceError, "differently in its conditions"),
    ],
)  # fmt: skip
def test_what_a_run_does_not_have_is_refused(fields: dict[str, Any], error: type[LLM2BIDSError], message: str) -> None:
    refused(error, message, run_of(2, 3), fields)


def test_bins_of_one_token_leave_nothing_for_the_noise() -> None:
    fields = model(
        [{**BINS, "FIRDelays": list(range(12))}], ["trial_type.*"], contrast("c", on_delay_0=1, off_delay_0=-1)
    )
    message = (
        'run-01 has 288 scans, of 24 prompts with slopes or bins, and 288 columns: none left .* level="prompt-mean"'
    )
    refused(DesignError, message, run_of(3, 2), fields)
    assert np.isfinite(fitted(run_of(3, 2), fields, level="prompt-mean").maps["c"].z).all()


def test_dummies_are_products_and_bins_too() -> None:
    for steps, x in (SURPRISAL, ["*_x_surprisal"]), ([BINS], ["trial_type.*"]):
        fields = model(steps, x)
        fields["Nodes"][0]["DummyContrasts"] = {"Test": "t"}
        analysis = analysis_of(run_of(2, 3), fields)
        assert [dummy.name for dummy in analysis.contrasts] == [
            name.removeprefix("trial_type.") for name in analysis.columns
        ]
    products = analysis_of(run_of(2, 3), model(SURPRISAL, ["*_x_surprisal"]))
    assert list(products.columns) == ["off_x_surprisal", "on_x_surprisal"]


def test_products_are_named_without_the_factor_on_the_command_line() -> None:
    read = StatsModel.from_json(model(SURPRISAL, SLOPES)).with_contrasts(
        [Contrast.from_expression("on_x_surprisal - off_x_surprisal")]
    )
    assert read.run.contrasts[0].columns == ("on_x_surprisal", "off_x_surprisal")
    assert read.run.contrasts[0].label == "onxsurprisalMinusOffxsurprisal"


# ---- files


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One task, two runs, prepared."""
    root = tmp_path_factory.mktemp("kinds") / "ds"
    record(root, task="pathology", runs=2, blocks=2, prompts_per_block=2, tokens=9, progress=False)
    prep(root, progress=False)
    return root


def analysed(root: Path, out: Path, fields: dict[str, Any], **options: Any) -> list[ContrastResult]:
    write_json(out.with_suffix(".json"), fields)
    return glm(root, out, model=out.with_suffix(".json"), progress=False, **options)


def test_files_say_what_was_made_and_keep_the_mean_effects(prepared: Path, tmp_path: Path) -> None:
    level = contrast("level", on=1, off=-1)
    contrasts = [level, contrast("slope", on_x_surprisal=1, off_x_surprisal=-1)]
    (plain,) = analysed(prepared, tmp_path / "plain", model([], ["trial_type.*"], level))
    level_and_slope = analysed(
        prepared, tmp_path / "slopes", model(SURPRISAL, ["trial_type.*", *SLOPES[2:]], *contrasts)
    )
    bins = model([BINS], ["trial_type.*"], contrast("bin", on_delay_4=1, off_delay_4=-1))
    (binned,) = analysed(prepared, tmp_path / "bins", bins)
    stem = plain.mask_file.name.split("_contrast")[0]
    for ending in ("_prompts.tsv", "_stat-effect_desc-prompts_statmap.nii.gz", "_desc-prompts_design.tsv"):
        plain_bytes = plain.mask_file.with_name(f"{stem}{ending}").read_bytes()
        assert [
            result.mask_file.with_name(f"{stem}{ending}").read_bytes() == plain_bytes
            for result in (*level_and_slope, binned)
        ] == [True] * 3
    slope = read_json(
        level_and_slope[1].z_file.with_name(
            level_and_slope[1].z_file.name.replace("stat-z_statmap.nii.gz", "stat-effect_statmap.json")
        )
    )
    assert (
        slope["Description"]
        == "slope: Effect: slope over tok_surprisal, in standard deviations of the unit over the run per unit of tok_surprisal."
    )
    assert slope["Llm2bids"]["Transformations"] == SURPRISAL
    assert slope["Llm2bids"]["NumberOfPrompts"] == 20
    assert len(read_tsv(next((tmp_path / "slopes").rglob("*_contrast-slope_design.tsv")))) == 20
    assert "Transformations" not in read_json(plain.mask_file.with_name(f"{stem}_desc-brain_mask.json"))["Llm2bids"]
    page = (tmp_path / "slopes" / "sub-phantom.html").read_text()
    assert "on_x_surprisal = trial_type.on × tok_surprisal" in page
    assert "Design matrix of slope: one row per prompt" in page
    assert "trial_type.* in bins of tokens from 0, 4, 8" in (tmp_path / "bins" / "sub-phantom.html").read_text()
    assert [issue.summary() for issue in validate(tmp_path / "slopes") if issue.issues] == []


def test_another_product_under_the_same_name_is_another_analysis(prepared: Path, tmp_path: Path) -> None:
    fields = model(SURPRISAL[1:], SLOPES[:3], contrast("c", on_x_surprisal=1))
    analysed(prepared, tmp_path / "out", fields)
    assert [result.skipped for result in analysed(prepared, tmp_path / "out", fields, resume=True)] == [True]
    changed = model(
        [{**SURPRISAL[1], "Input": ["trial_type.on", "tok_entropy"]}], SLOPES[:3], contrast("c", on_x_surprisal=1)
    )
    with pytest.raises(LLM2BIDSError, match="made of other data or with other settings"):
        analysed(prepared, tmp_path / "out", changed, resume=True)
