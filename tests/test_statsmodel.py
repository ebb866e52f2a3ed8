"""BIDS Stats Models: what is read as its authors meant it, and what is refused by name."""

from __future__ import annotations

import json
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from bids.utils import convert_JSON
from bsmschema.models import BIDSStatsModel
from nilearn.glm.first_level import compute_regressor

from llm2bids.design.regressors import MEAN, Column, Regressors
from llm2bids.design.statsmodel import Contrast, Node, StatsModel
from llm2bids.errors import DatasetError, DesignError, StatsModelError
from llm2bids.recording import record

if TYPE_CHECKING:
    from pathlib import Path

    from llm2bids.recording import Recording

FACTOR = {"Name": "Factor", "Input": ["trial_type"]}
T = {"Test": "t"}


def model(run: dict[str, Any] | None = None, *, dataset: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    """A model that compares a with b; `run` and `dataset` replace fields of their nodes."""
    contrast = {"Name": "aVsB", "ConditionList": ["trial_type.a", "trial_type.b"], "Weights": [1, -1], **T}
    nodes = [
        {
            "Level": "Run",
            "Name": "run",
            "GroupBy": ["run", "subject"],
            "Transformations": {"Transformer": "pybids-transforms-v1", "Instructions": [FACTOR]},
            "Model": {"Type": "glm", "X": ["trial_type.a", "trial_type.b"]},
            "Contrasts": [contrast],
        },
        {
            "Level": "Subject",
            "Name": "subject",
            "GroupBy": ["subject", "contrast"],
            "Model": {"Type": "meta", "X": [1]},
            "DummyContrasts": T,
        },
        {
            "Level": "Dataset",
            "Name": "dataset",
            "GroupBy": ["contrast"],
            "Model": {"Type": "glm", "X": [1]},
            "DummyContrasts": T,
        },
    ]
    nodes[0] |= deepcopy(run or {})
    nodes[2] |= deepcopy(dataset or {})
    return {"Name": "m", "BIDSModelVersion": "1.0.0", "Nodes": nodes, **fields}


def asked(**contrast: Any) -> Contrast:
    """The only contrast of a model."""
    fields = {"Name": "c", "ConditionList": ["trial_type.a", "trial_type.b"], "Weights": [1, -1], **T} | contrast
    return StatsModel.from_json(model({"Contrasts": [fields]})).run.contrasts[0]


# ---- what is read


def test_what_record_writes_is_valid_and_read_back(small_dataset: tuple[Path, list[Recording]]) -> None:
    for path in sorted(small_dataset[0].glob("code/models/*_smdl.json")):
        BIDSStatsModel(**json.loads(path.read_text()))
        read = StatsModel.from_file(path)
        assert [(contrast.name, contrast.conditions, contrast.weights) for contrast in read.run.contrasts] == [
            ("onVsOff", ("on", "off"), ((1.0, -1.0),))
        ]
        assert read.includes({"task": path.name.split("_")[0].removeprefix("model-")})
        assert not read.includes({"task": "another"})


def test_what_record_writes_of_three_conditions_in_two_sessions(tmp_path: Path) -> None:
    lines = [f"text {kind}\t{kind}" for kind in ("a", "b", "c")]
    (tmp_path / "three.tsv").write_text("\n".join(["text\ttrial_type", *lines]) + "\n")
    record(tmp_path / "ds", task=str(tmp_path / "three.tsv"), sessions=2, mode="read", progress=False)
    path = tmp_path / "ds" / "code" / "models" / "model-three_smdl.json"
    fields = json.loads(path.read_text())
    BIDSStatsModel(**fields)
    assert fields["Nodes"][0]["GroupBy"] == ["run", "session", "subject"]
    read = StatsModel.from_file(path).run.contrasts
    assert [contrast.name for contrast in read] == ["aVsOthers", "bVsOthers", "cVsOthers"]
    assert {contrast.weights for contrast in read} == {((1.0, -0.5, -0.5),)}


@pytest.mark.parametrize(
    ("weights", "numbers"),
    [([1, -1], (1, -1)), (["1/2", "-1/2"], (0.5, -0.5)), ([0.25, " -1 / 4"], (0.25, -0.25)), ([[1, -1]], (1, -1))],
)
def test_weights_are_numbers_or_fractions(weights: list[Any], numbers: tuple[float, ...]) -> None:
    assert asked(Weights=weights).weights == (numbers,)


def test_rows_of_f_spread_over_the_columns_of_a_design() -> None:
    contrast = asked(Weights=[[1, 0], [0, "1/2"]], Test="F")
    assert contrast.test == "F"
    np.testing.assert_array_equal(
        contrast.matrix(["trial_type.b", "x", "trial_type.a"]), [[0.0, 0.0, 1.0], [0.5, 0.0, 0.0]]
    )
    with pytest.raises(DesignError, match=r"contrast c weighs trial_type\.b, .* it has trial_type\.a, constant"):
        contrast.matrix(["trial_type.a", "constant"])


def test_conditions_of_weight_0_are_not_needed() -> None:
    assert asked(Weights=[1, 0]).conditions == ("a",)
    assert asked(ConditionList=["trial_type.a", 1]).conditions == ("a",)


@pytest.mark.parametrize("test", ["t", "pass"])
def test_dummies_are_named_columns_or_all(test: str) -> None:
    columns = ["trial_type.a", "trial_type.b"]
    for listed, names in ({}, ["a", "b"]), ({"Contrasts": ["trial_type.b"]}, ["b"]):
        node = StatsModel.from_json(model({"Contrasts": [], "DummyContrasts": {"Test": test, **listed}})).run
        assert [(contrast.name, contrast.weights) for contrast in node.all_contrasts(columns)] == [
            (name, ((1.0,),)) for name in names
        ]


def test_a_contrast_that_is_only_passed_on_is_tested_where_it_arrives() -> None:
    assert asked(Test="pass") == asked(Test="t")


def test_no_question_and_one_asked_twice_are_refused() -> None:
    with pytest.raises(StatsModelError, match="no contrast found at level Run"):
        StatsModel.from_json(model({"Contrasts": []})).run.all_contrasts(["trial_type.a"])
    twice = Node("Run", contrasts=(Contrast("a b", ("x",), ((1.0,),)), Contrast("a_b", ("y",), ((1.0,),))))
    with pytest.raises(StatsModelError, match="two contrasts would be named ab"):
        twice.all_contrasts([])


def test_columns_are_chosen_by_name_and_wildcard_in_order_of_x() -> None:
    node = Node("Run", ("tok_*", "1", "cosine0[1-2]", "trial_type.a", "tok_entropy", "nothing*"))
    available = ["cosine00", "cosine01", "cosine02", "tok_entropy", "tok_position", "trial_type.a"]
    assert node.select(available) == ["tok_entropy", "tok_position", "cosine01", "cosine02", "trial_type.a"]
    with pytest.raises(DesignError, match=r"tok_x is asked for at level Run and not there; there are cosine00, "):
        Node("Run", ("tok_x",)).select(available)


def test_the_cutoff_of_the_drift_is_read() -> None:
    x = {"Type": "glm", "X": ["trial_type.a", "trial_type.b"]}
    assert StatsModel.from_json(model()).run.high_pass is None
    for options in ({"HighPassFilterCutoffHz": 0.01}, {"HighPassFilterCutoffHz": 0.01, "Aggregate": "none"}):
        assert StatsModel.from_json(model({"Model": x | {"Options": options}})).run.high_pass == 0.01


def test_convolution_with_none_is_none() -> None:
    steps = [FACTOR, {"Name": "Convolve", "Model": "None", "Input": ["trial_type.a"]}]
    transformations = {"Transformer": "pybids-transforms-v1", "Instructions": steps}
    assert StatsModel.from_json(model({"Transformations": transformations})).run.factors == ("trial_type",)


PRODUCT = {"Name": "Product", "Input": ["trial_type.a", "tok_surprisal"], "Output": ["a_x_s"]}
FIR = {"Name": "Convolve", "Model": "fir", "Input": ["trial_type.a"], "FIRDelays": [0, 4, 8]}


def regressors(*steps: dict[str, Any]) -> Regressors:
    """What a model makes of its conditions."""
    transformations = {"Transformer": "pybids-transforms-v1", "Instructions": [FACTOR, *steps]}
    return StatsModel.from_json(model({"Transformations": transformations})).run.regressors


@pytest.mark.parametrize("inputs", [["trial_type.a", "tok_surprisal"], ["tok_surprisal", "trial_type.a"]])
@pytest.mark.parametrize("output", ["a_x_s", ["a_x_s"]])
def test_products_are_conditions_times_confounds(inputs: list[str], output: Any) -> None:
    products = regressors({"Name": "Product", "Input": inputs, "Output": output})
    assert products.columns(["a", "b"]) == {
        "trial_type.a": Column("a"),
        "trial_type.b": Column("b"),
        "a_x_s": Column("a", "tok_surprisal"),
    }
    assert products.columns(["b"]) == {"trial_type.b": Column("b")}
    assert products.to_json() == [PRODUCT]
    assert regressors().to_json() == []


@pytest.mark.parametrize("key", ["FIRDelays", "FirDelays"])
@pytest.mark.parametrize("name", ["fir", "FIR"])
def test_bins_have_the_spelling_of_pybids_and_the_names_of_nilearn(key: str, name: str) -> None:
    step = {"Name": "Convolve", "Model": name, "Input": ["trial_type.a"], key: [0, 4.0, 8]}
    assert convert_JSON(step)["fir_delays"] == [0, 4.0, 8]
    columns = regressors(step).columns(["a", "b"])
    expected = compute_regressor(np.ones((3, 1)), "fir", np.arange(20.0), "trial_type.a", fir_delays=[0, 4, 8])[1]
    assert list(columns) == [*expected, "trial_type.b"]
    assert [(column.kind, column.delay) for column in columns.values()][1:] == [
        ("delay 4", 4),
        ("delay 8", 8),
        (MEAN, None),
    ]
    two = regressors(FIR, {**FIR, "Input": ["trial_type.b*"]})
    assert two.columns(["a", "b", "c"]).keys() >= {"trial_type.a_delay_0", "trial_type.b_delay_8", "trial_type.c"}
    assert regressors(FIR).to_json() == [FIR]


@pytest.mark.parametrize(
    ("inputs", "entities", "included"),
    [
        ({"run": [1, 2]}, {"run": "02"}, True),
        ({"run": ["3"]}, {"run": "02"}, False),
        ({"subject": ["x"], "acquisition": ["mlp"]}, {"sub": "x", "acq": "mlp"}, True),
        ({"subject": ["x"], "acquisition": ["mlp"]}, {"sub": "x", "acq": "attn"}, False),
        ({"session": ["02"]}, {"run": "01"}, False),
        ({}, {"sub": "x"}, True),
    ],
)
def test_input_lets_files_in(inputs: dict[str, Any], entities: dict[str, str], *, included: bool) -> None:
    assert StatsModel.from_json(model(Input=inputs)).includes(entities) is included


def test_edges_order_the_nodes() -> None:
    fields = model(Edges=[{"Source": "subject", "Destination": "dataset"}, {"Source": "run", "Destination": "subject"}])
    fields["Nodes"].reverse()
    assert StatsModel.from_json(fields) == StatsModel.from_json(model())
    assert StatsModel.from_json(model() | {"Nodes": model()["Nodes"][:1]}).dataset == Node("Dataset", dummies=())


def test_another_question_keeps_the_design() -> None:
    read = StatsModel.from_json(model({"DummyContrasts": T}))
    reverse = Contrast.from_expression("b - a")
    assert read.with_contrasts([reverse]).run.all_contrasts(["trial_type.a"]) == (reverse,)
    assert read.with_contrasts([reverse]).run.x == read.run.x


# ---- contrasts as one writes them


@pytest.mark.parametrize(
    ("text", "label", "weights"),
    [
        ("on - off", "onMinusOff", {"on": 1, "off": -1}),
        ("on-off", "onMinusOff", {"on": 1, "off": -1}),
        ("-a + 2*b", "minusAPlus2B", {"a": -1, "b": 2}),
        ("mine=a - .5*b - 0.5 * c_1", "mine", {"a": 1, "b": -0.5, "c_1": -0.5}),
        ("on", "on", {"on": 1}),
    ],
)
def test_expressions(text: str, label: str, weights: dict[str, float]) -> None:
    contrast = Contrast.from_expression(text)
    assert dict(zip(contrast.conditions, contrast.weights[0], strict=True)) == weights
    assert contrast.label.lower() == label.lower()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   ",
        "on off",
        "on -",
        "on - - off",
        "2",
        "2 on",
        "on*2",
        "0*on",
        "on - on",
        "=on - off",
        "a.b - c",
        "on / off",
    ],
)
def test_what_is_no_sum_of_conditions_is_refused(text: str) -> None:
    with pytest.raises(StatsModelError, match=r"^(a )?contrast "):
        Contrast.from_expression(text)


# ---- what is refused, by name


def step(**fields: Any) -> dict[str, Any]:
    return {"Transformations": {"Transformer": "pybids-transforms-v1", "Instructions": [fields]}}


def steps(*instructions: dict[str, Any]) -> dict[str, Any]:
    return {"Transformations": {"Transformer": "pybids-transforms-v1", "Instructions": list(instructions)}}


def of_model(**fields: Any) -> dict[str, Any]:
    return {"Model": {"Type": "glm", "X": ["trial_type.a"], **fields}}


def of_contrast(**fields: Any) -> dict[str, Any]:
    return {"Contrasts": [{"Name": "c", "ConditionList": ["trial_type.a"], "Weights": [1], **T, **fields}]}


SUBJECT = model()["Nodes"][1]
EDGES = [{"Source": "run", "Destination": "subject"}, {"Source": "run", "Destination": "dataset"}]
UNSUPPORTED: dict[str, tuple[dict[str, Any], str]] = {
    "convolve": (model(step(Name="Convolve", Model="glover", Input=["trial_type.a"])), "Convolve with glover"),
    "convolve by default": (model(step(Name="Convolve", Input=["trial_type.a"])), "Convolve with spm"),
    "derivative": (
        model(step(**FIR, Derivative=True)),
        "Convolve with fir and fields Name, Model, Input, FIRDelays, Derivative",
    ),
    "no delays": (model(step(Name="Convolve", Model="fir", Input=["trial_type.a"])), "Convolve with fir and fields"),
    "delays twice": (model(step(**FIR, FirDelays=[0, 4])), "Convolve with fir and fields"),
    "fir of a confound": (
        model(step(**FIR | {"Input": ["tok_surprisal"]})),
        r"Convolve with fir of \['tok_surprisal'\]",
    ),
    "one delay": (model(step(**FIR | {"FIRDelays": [0]})), r"FIRDelays \[0\] .* two or more scans"),
    "late delays": (model(step(**FIR | {"FIRDelays": [4, 8]})), r"FIRDelays \[4, 8\]"),
    "uneven delays": (model(step(**FIR | {"FIRDelays": [0, 4, 9]})), "equally spaced"),
    "backward delays": (model(step(**FIR | {"FIRDelays": [0, -4]})), "equally spaced"),
    "half a scan": (model(step(**FIR | {"FIRDelays": [0, 2.5]})), r"FIRDelays \[0, 2\.5\] .* whole scans"),
    "delays as text": (model(step(**FIR | {"FIRDelays": "0 4"})), "FIRDelays 0 4"),
    "two sets of delays": (model(steps(FIR, FIR | {"FIRDelays": [0, 2]})), r"\[0, 4, 8\] and \[0, 2\]"),
    "bins and slopes": (model(steps(FIR, PRODUCT)), r"Product \(of a_x_s\) and Convolve .* two models"),
    "fir elsewhere": (
        model(dataset={"Transformations": {"Transformer": "pybids-transforms-v1", "Instructions": [FIR]}}),
        "Convolve with fir is not supported at level Dataset",
    ),
    "product elsewhere": (
        model(dataset={"Transformations": {"Transformer": "pybids-transforms-v1", "Instructions": [PRODUCT]}}),
        "transformation Product is not supported at level Dataset",
    ),
    "product of two confounds": (model(step(**PRODUCT | {"Input": ["x", "y"]})), r"Product .* Input \['x', 'y'\]"),
    "product of three": (model(step(**PRODUCT | {"Input": ["trial_type.a", "x", "y"]})), "Product .* one confound"),
    "product of two conditions": (model(step(**PRODUCT | {"Input": ["trial_type.a", "trial_type.b"]})), "Product"),
    "product of a text": (model(step(**PRODUCT | {"Input": "trial_type.a"})), "Product .* Input trial_type"),
    "product without a name": (model(step(Name="Product", Input=PRODUCT["Input"])), "Product with fields Name, Input"),
    "product with two names": (model(step(**PRODUCT | {"Output": ["p", "q"]})), r"Output \['p', 'q'\]"),
    "product named as its input": (model(step(**PRODUCT | {"Output": "tok_surprisal"})), "Output tok_surprisal"),
    "product named as a condition": (model(step(**PRODUCT | {"Output": "trial_type.p"})), r"Output trial_type\.p"),
    "product with a wildcard": (
        model(step(**PRODUCT | {"Input": ["trial_type.*", "x"]})),
        r"Product with the wildcard trial_type\.\*",
    ),
    "product with weights": (model(step(**PRODUCT, Weights=[1])), "Product with fields Name, Input, Output, Weights"),
    "two products of one name": (model(steps(PRODUCT, PRODUCT)), "two Products have Output a_x_s"),
    "scale": (model(step(Name="Scale", Input=["tok_position"])), "transformation Scale .* level Run"),
    "no instruction": (model(step(Input=["trial_type"])), "transformation None"),
    "factor of another": (model(step(Name="Factor", Input=["block"])), "Factor of block"),
    "factor renamed": (model(step(Name="Factor", Input=["trial_type"], Output=["x"])), "Factor .* Output"),
    "factor of a text": (model(step(Name="Factor", Input="trial_type")), "Factor .* a list"),
    "formula": (model(of_model(Formula="1 + a")), "Formula"),
    "hrf": (model(of_model(HRF={"Variables": ["trial_type.a"], "Model": "spm"})), "HRF spm"),
    "low pass": (model(of_model(Options={"LowPassFilterCutoffHz": 0.1})), "LowPassFilterCutoffHz"),
    "aggregate": (model(of_model(Options={"Aggregate": "mean"})), "Aggregate"),
    "cutoff of 0": (model(of_model(Options={"HighPassFilterCutoffHz": 0.0})), r"cutoff of 0\.0 Hz"),
    "cutoff elsewhere": (
        model(dataset={"Model": {"Type": "glm", "X": [1], "Options": {"HighPassFilterCutoffHz": 0.1}}}),
        "level Dataset",
    ),
    "meta run": (model(of_model(Type="meta")), "Type meta at level Run"),
    "runs pooled": (model({"GroupBy": ["subject"]}), "GroupBy at level Run lacks run"),
    "split over subjects": (model(dataset={"GroupBy": ["contrast", "sex"]}), "GroupBy at level Dataset holds sex"),
    "dummies of F": (model({"DummyContrasts": {"Test": "F"}}), "DummyContrasts with Test F"),
    "nothing after the last": (model(dataset={"DummyContrasts": {"Test": "pass"}}), "Test pass at level Dataset"),
    "session": (model({"Level": "Session"}), "Session → Subject → Dataset"),
    "no run": (model() | {"Nodes": [SUBJECT]}, "nodes Subject"),
    "two runs": (model() | {"Nodes": [model()["Nodes"][0], model({"Name": "r2"})["Nodes"][0]]}, "Run → Run"),
    "subject glm": (
        model() | {"Nodes": [model()["Nodes"][0], SUBJECT | {"Model": {"Type": "glm", "X": [1]}}]},
        "Type glm at level Subject",
    ),
    "subject with columns": (
        model() | {"Nodes": [model()["Nodes"][0], SUBJECT | {"Model": {"Type": "meta", "X": [1, "age"]}}]},
        "Subject node",
    ),
    "branches": (model(Edges=EDGES), "Edges that branch"),
    "filter": (model(Edges=[{**EDGES[0], "Filter": {"contrast": ["c"]}}]), "Edges that branch or filter"),
    "circle": (model(Edges=[EDGES[0], {"Source": "subject", "Destination": "run"}]), "none are not supported"),
    "edge to nowhere": (model(Edges=[{"Source": "run", "Destination": "nowhere"}]), "Edges"),
    "input by another": (model(Input={"suffix": ["bold"]}), "Input by suffix"),
    "weight is no number": (model(of_contrast(Weights=["half"])), "contrast c: a weight is no number"),
    "weight over 0": (model(of_contrast(Weights=["1/0"])), "contrast c: a weight is no number"),
    "weights of 0": (model(of_contrast(Weights=[0])), "contrast c has only weights of 0"),
    "too many weights": (model(of_contrast(Weights=[1, 2])), "contrast c has 1 conditions"),
    "no weights": (model(of_contrast(Weights=[])), "contrast c has 1 conditions"),
    "condition twice": (
        model(of_contrast(ConditionList=["trial_type.a"] * 2, Weights=[1, -1])),
        r"names trial_type\.a twice",
    ),
    "t with two rows": (
        model(of_contrast(ConditionList=["trial_type.a", "trial_type.b"], Weights=[[1, 0], [0, 1]])),
        "contrast c is a t test with 2 rows",
    ),
    "rows that depend": (
        model(of_contrast(ConditionList=["trial_type.a", "trial_type.b"], Weights=[[1, -1], [-1, 1]], Test="F")),
        "contrast c has rows that follow",
    ),
    "no name": (model(of_contrast(Name="- -")), "letters or digits"),
    "no schema": (model(BIDSModelVersion=1), "BIDSModelVersion"),
    "no such test": (model(of_contrast(Test="skip")), "Test"),
    "no nodes": ({"Name": "m", "BIDSModelVersion": "1.0.0"}, "Nodes"),
    "misspelt": (model({"Contrast": []}), r"Nodes\.0\.Contrast is no field"),
    "misspelt below": (model(of_model(Option={})), r"Nodes\.0\.Model\.Option is no field"),
}


@pytest.mark.parametrize("case", UNSUPPORTED)
def test_what_is_not_supported_is_refused_by_name(case: str, tmp_path: Path) -> None:
    fields, message = UNSUPPORTED[case]
    (tmp_path / "m_smdl.json").write_text(json.dumps(fields))
    with pytest.raises(StatsModelError, match=f"m_smdl.json: .*{message}") as stop:
        StatsModel.from_file(tmp_path / "m_smdl.json")
    assert "\n" not in str(stop.value)


@pytest.mark.parametrize("text", ['{"Name": ', "[1]", "\xff", '"x"'])
def test_malformed_json_is_refused_with_its_name(text: str, tmp_path: Path) -> None:
    (tmp_path / "m_smdl.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(DatasetError, match=r"m_smdl\.json (cannot be read|holds a)"):
        StatsModel.from_file(tmp_path / "m_smdl.json")


def test_a_model_that_is_nowhere_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"nowhere\.json cannot be read"):
        StatsModel.from_file(tmp_path / "nowhere.json")
