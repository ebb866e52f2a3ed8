"""Masks of one model are combined and shown; those of two are kept apart."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from llm2bids.errors import MaskError, OptionError
from llm2bids.masks import (
    combine_masks,
    convert_mask,
    load_mask,
    profile,
    save_mask,
    show_mask,
    show_text,
)
from llm2bids.space import UnitMask, UnitSpace
from llm2bids.space.identity import check_same_model

from .maps import IDENTITY, SPACE, SUFFIXES, VALUES, on_grid, write_map

# ---- models


def test_units_of_two_models_do_not_mix(tmp_path: Path, zstat: Path, bold: Path) -> None:
    other = write_map(tmp_path / "other_mask.nii.gz", VALUES > 0, **IDENTITY | {"WeightsSHA256": "cd" * 32})
    with pytest.raises(MaskError, match=r"weights abababababab.*weights cdcdcdcdcdcd"):
        convert_mask(zstat, tmp_path / "net.json", like=other, threshold=2)
    one = convert_mask(zstat, tmp_path / "one.json", like=bold, threshold=2)[1][0]
    with pytest.raises(MaskError, match=r"one\.json is of model tiny .*other_mask\.nii\.gz of"):
        combine_masks("union", [one, other], tmp_path / "net.json")
    deeper = UnitSpace.uniform("mlp", [f"g.{n}.mlp:out" for n in range(4)], 35)
    stranger = save_mask(UnitMask.from_units(deeper, [1]), tmp_path / "stranger.json")[0]
    for attempt in (
        lambda: combine_masks("union", [one, stranger], tmp_path / "n.json"),
        lambda: load_mask(one, stranger),
    ):
        with pytest.raises(MaskError, match=r"L4C35mlp \(h\.0\.mlp:out to .*L4C35mlp \(g\.0"):
            attempt()


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({}, True),
        ({"Dtype": "bfloat16"}, True),
        ({"Model": "another/name", "Revision": "local"}, True),
        ({"WeightsSHA256": "cd" * 32}, False),
        ({"WeightsSHA256": None}, True),
        ({"WeightsSHA256": None, "Revision": "r2"}, False),
        ({"WeightsSHA256": None, "Model": "big", "Revision": None}, False),
        ({"Site": "attn"}, False),
        (dict.fromkeys(IDENTITY), True),
    ],
)
def test_weights_decide_which_model_it_is(change: dict[str, Any], *, same: bool) -> None:
    if same:
        check_same_model(IDENTITY, IDENTITY | change)
    else:
        with pytest.raises(MaskError, match=r"the mask is of model tiny .* and the model of"):
            check_same_model(IDENTITY, IDENTITY | change)


# ---- sets


@pytest.mark.parametrize(
    ("operation", "at_least", "rule"),
    [
        ("union", None, lambda m: m.any(0)),
        ("intersection", None, lambda m: m.all(0)),
        ("difference", None, lambda m: m[0] & ~(m[1] | m[2] | m[3])),
        ("majority", None, lambda m: m.mean(0) > 0.5),
        ("at-least", 2, lambda m: m.sum(0) > 1.5),
    ],
)
def test_sets_are_those_of_numpy(tmp_path: Path, operation: Any, at_least: int | None, rule: Any) -> None:
    masks = np.random.default_rng(1).random((4, SPACE.n_units)) < [[0.7], [0.5], [0.4], [0.6]]
    masks[:, 0], masks[:, 1] = True, [True, False, False, False]
    paths = [
        save_mask(UnitMask(SPACE, mask, IDENTITY | {"Task": f"t{n}"}), tmp_path / f"m{n}{suffix}")[0]
        for n, (mask, suffix) in enumerate(zip(masks, SUFFIXES, strict=True))
    ]
    mask, written = combine_masks(operation, paths, tmp_path / "net.nii.gz", at_least=at_least)
    np.testing.assert_array_equal(mask.selected, rule(masks))
    np.testing.assert_array_equal(load_mask(written[0]).selected, rule(masks))
    assert [of["File"] for of in mask.provenance["Of"]] == [path.name for path in paths]
    assert [of["Task"] for of in mask.provenance["Of"]] == ["t0", "t1", "t2", "t3"]
    assert (IDENTITY | {"Operation": operation}).items() <= mask.provenance.items()
    assert json.loads(written[1].read_text())["Sources"] == [path.name for path in paths]


def test_complement_is_everything_else(tmp_path: Path, bold: Path) -> None:
    nib.save(nib.Nifti1Image((on_grid(VALUES) > 2).astype(np.int16) * 7, np.eye(4)), tmp_path / "thresh.nii.gz")
    mask, _ = combine_masks("complement", [tmp_path / "thresh.nii.gz"], tmp_path / "net.json", like=bold)
    np.testing.assert_array_equal(mask.selected, VALUES <= 2)
    assert mask.provenance["Model"] == "tiny"


@pytest.mark.parametrize(
    ("operation", "n_masks", "at_least", "message"),
    [
        ("xor", 2, None, "use union"),
        ("complement", 2, None, "takes one"),
        ("union", 1, None, "two or more"),
        ("at-least", 2, None, "belong together"),
        ("union", 2, 1, "belong together"),
        ("at-least", 2, 3, "give 1 to 2"),
        ("at-least", 2, 0, "give 1 to 2"),
        ("intersection", 2, None, "the intersection of m0.json, m1.json is empty"),
    ],
)
def test_sets_that_make_no_sense_are_refused(
    tmp_path: Path, operation: Any, n_masks: int, at_least: int | None, message: str
) -> None:
    paths = [save_mask(UnitMask.from_units(SPACE, [n]), tmp_path / f"m{n}.json")[0] for n in range(n_masks)]
    with pytest.raises(OptionError if operation == "xor" else MaskError, match=message):
        combine_masks(operation, paths, tmp_path / "net.json", at_least=at_least)
    assert not (tmp_path / "net.json").exists()


# ---- the picture

PICTURE = """\
model tiny (r1, weights abababababab), site mlp, space L4C35mlp
value > 3.1 in zstat1.nii.gz, contrast onVsOff
15 of 140 units selected (10.7 %); the longest bar is 28.6 %

block   units selected  percent
    0      35        0     0.00
    1      35        1     2.86  #####
    2      35        4    11.43  ###################
    3      35       10    28.57  ###############################################"""


def test_show_draws_the_depth_profile(tmp_path: Path) -> None:
    told = IDENTITY | {"Rule": "value > 3.1", "Source": "zstat1.nii.gz", "Contrast": "onVsOff"}
    mask = UnitMask.from_units(SPACE, [36, *range(72, 76), *range(105, 115)], told)
    table, text = show_mask(save_mask(mask, tmp_path / "net.tsv")[0])
    assert text == PICTURE
    assert max(map(len, text.splitlines())) <= 80
    assert table.to_dict("list") == {
        "hookpoint": list(SPACE.hookpoints),
        "block": [0, 1, 2, 3],
        "units": [35] * 4,
        "selected": [0, 1, 4, 10],
        "percent": pytest.approx([0, 100 / 35, 400 / 35, 1000 / 35]),
    }


@pytest.mark.parametrize("width", [20, 60, 80, 200])
def test_show_keeps_to_the_width(width: int) -> None:
    places = ("embed:out", *(f"model.language_model.decoder.layers.{n}.{p}_proj:out" for n in (10, 11) for p in "qv"))
    space = UnitSpace("custom", places, (9, 4000, 30, 5, 7))
    of = [{"File": f"sub-x_contrast-{n}_mask.nii.gz"} for n in range(9)]
    mask = UnitMask.from_units(space, [1, 2, 20], {"Model": "m" * 130, "Operation": "union", "Of": of})
    lines = show_text(mask, width).splitlines()
    assert max(map(len, lines)) <= max(width, 56)
    assert sum("0.03  #" in line for line in lines) == 1  # one unit of 4000 is still seen
    assert [line.split()[0][-13:] for line in lines[-4:]] == [f"{n}.{p}_proj:out" for n in (10, 11) for p in "qv"]
    assert profile(mask)["selected"].tolist() == [2, 1, 0, 0, 0]
    assert "#" not in show_text(UnitMask.from_units(space, []), width)
