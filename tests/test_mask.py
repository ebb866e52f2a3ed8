"""A choice of units as image, table, JSON and safetensors, and as a set."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import save_file

from llm2bids.errors import MaskError, SpaceError
from llm2bids.masks import load_mask
from llm2bids.space import UnitMask, UnitSpace

if TYPE_CHECKING:
    from pathlib import Path

relaxed = settings(max_examples=50, deadline=None)

WIDTHS = (5, 17, 1, 11)
NAMES = ("embed:out", "h.0.mlp:out", "h.1.mlp:out", "h.2.mlp:out")
SPACE = UnitSpace("mlp", NAMES, WIDTHS)
PROVENANCE = {"Model": "gpt2", "Threshold": 2.5, "Sources": ['a "b"\n', "é"], "Correction": {"fdr": 0.05}, "Seed": None}
UNITS = st.sets(st.integers(0, 33))


def chosen(mask: UnitMask) -> set[int]:
    """The units as a Python set."""
    return set(mask.units.tolist())


def image_of(volume: np.ndarray[Any, Any], affine: np.ndarray[Any, Any] | None = None) -> nib.Nifti1Image:
    """What another program would write."""
    return nib.Nifti1Image(volume, np.eye(4) if affine is None else affine)


# ---- what is chosen


@relaxed
@given(UNITS)
def test_units_are_those_chosen(units: set[int]) -> None:
    mask = UnitMask.from_units(SPACE, list(units) * 2, {"Model": "gpt2"})
    assert mask.units.tolist() == sorted(units)
    assert mask.n_selected == len(units)
    assert np.flatnonzero(mask.selected).tolist() == sorted(units)
    assert mask.provenance == {"Model": "gpt2"}


def test_a_mask_is_shown_in_one_line_and_as_a_table_without_markup_of_its_own() -> None:
    mask = UnitMask.from_units(SPACE, [0, 5, 6, 33], PROVENANCE)
    assert repr(mask) == f"<UnitMask {SPACE.label}: 4 of 34 units>"
    assert repr(SPACE) == f"<UnitSpace {SPACE.label}: 34 units of 4 hookpoints>"
    assert mask.n_per_hookpoint.tolist() == [1, 2, 0, 1]
    for place, name, width, n_selected in zip([-1, 0, 1, 2], NAMES, WIDTHS, [1, 2, 0, 1], strict=True):
        row = f"<tr><td>{place}</td><td>{name}</td><td>{width}</td>"
        assert f"{row}</tr>" in SPACE._repr_html_()
        assert f"{row}<td>{n_selected}</td></tr>" in mask._repr_html_()
    evil = UnitSpace.uniform("x", ["<script>alert('&')</script>"], 9)
    for text in (evil._repr_html_(), UnitMask.from_units(evil, [1])._repr_html_()):
        assert "<script>" not in text
        assert "&lt;script&gt;alert(&#x27;&amp;&#x27;)" in text


def test_a_mask_is_saved_and_loaded(tmp_path: Path) -> None:
    mask = UnitMask.from_units(SPACE, [0, 33], {"Model": "gpt2"})
    assert mask.save(tmp_path / "net.tsv") == [tmp_path / "net.tsv", tmp_path / "net.json"]
    assert chosen(load_mask(tmp_path / "net.tsv")) == {0, 33}
    with pytest.raises(MaskError, match="overwrite=True"):
        (~mask).save(tmp_path / "net.tsv")
    (~mask).save(tmp_path / "net.tsv", overwrite=True)
    assert load_mask(tmp_path / "net.tsv").n_selected == 32


def test_a_choice_of_nothing_is_a_mask() -> None:
    mask = UnitMask.from_units(SPACE, [])
    assert (mask.n_selected, len(mask.table()), mask.provenance) == (0, 0, {})
    assert chosen(UnitMask.from_table(mask.table(), SPACE)) == set()
    assert UnitMask.from_json(mask.to_json()).n_selected == 0


# ---- round trips


@relaxed
@given(UNITS)
def test_image_round_trip(units: set[int]) -> None:
    mask = UnitMask.from_units(SPACE, list(units))
    image = nib.Nifti1Image.from_bytes(mask.to_image().to_bytes())
    assert image.get_data_dtype() == np.uint8
    assert {tuple(map(int, v)) for v in np.argwhere(image.get_fdata() == 1)} == {SPACE.voxel_of(u) for u in units}
    assert int(image.get_fdata().sum()) == len(units)
    assert chosen(UnitMask.from_image(image, SPACE)) == units


@relaxed
@given(UNITS)
def test_table_round_trip(units: set[int]) -> None:
    table = UnitMask.from_units(SPACE, list(units)).table()
    back = UnitMask.from_table(table.sample(frac=1, random_state=0), SPACE, PROVENANCE)
    assert chosen(back) == units
    assert back.provenance == PROVENANCE


@relaxed
@given(UNITS)
def test_json_round_trip(units: set[int]) -> None:
    mask = UnitMask.from_units(SPACE, list(units), PROVENANCE)
    back = UnitMask.from_json(json.loads(json.dumps(mask.to_json())))
    assert (back.space, chosen(back), back.provenance) == (SPACE, units, PROVENANCE)


@pytest.mark.parametrize("units", [[], [0], [33], [4, 5, 21, 22, 23], range(34)])
def test_safetensors_round_trip(tmp_path: Path, units: list[int]) -> None:
    mask = UnitMask.from_units(SPACE, list(units), PROVENANCE)
    path = mask.to_safetensors(tmp_path / "mask.safetensors")
    back = UnitMask.from_safetensors(path)
    assert path == tmp_path / "mask.safetensors"
    assert (back.space, chosen(back), back.provenance) == (SPACE, set(units), PROVENANCE)


def test_table_survives_a_text_file(tmp_path: Path) -> None:
    mask = UnitMask.from_units(SPACE, [3, 9, 22, 33])
    mask.table().to_csv(tmp_path / "units.tsv", sep="\t", index=False)
    assert chosen(UnitMask.from_table(pd.read_csv(tmp_path / "units.tsv", sep="\t"), SPACE)) == {3, 9, 22, 33}
    assert chosen(UnitMask.from_table(pd.read_csv(tmp_path / "units.tsv", sep="\t", dtype=str), SPACE)) == {
        3,
        9,
        22,
        33,
    }


# ---- the forms themselves


def test_table_names_hookpoint_block_and_channel() -> None:
    table = UnitMask.from_units(SPACE, [4, 5, 22, 33]).table()
    assert list(table.columns) == ["unit", "hookpoint", "block", "channel"]
    assert table.to_numpy().tolist() == [
        [4, "embed:out", -1, 4],
        [5, "h.0.mlp:out", 0, 0],
        [22, "h.1.mlp:out", 1, 0],
        [33, "h.2.mlp:out", 2, 10],
    ]


def test_json_lists_channels_by_hookpoint() -> None:
    fields = UnitMask.from_units(SPACE, [4, 5, 7, 33], {"Model": "gpt2"}).to_json()
    assert fields["Units"] == {"embed:out": [4], "h.0.mlp:out": [0, 2], "h.2.mlp:out": [10]}
    assert fields["Space"] == SPACE.to_json()
    assert fields["Provenance"] == {"Model": "gpt2"}


def test_safetensors_holds_one_boolean_tensor_per_hookpoint(tmp_path: Path) -> None:
    path = UnitMask.from_units(SPACE, [4, 5, 33]).to_safetensors(tmp_path / "mask.safetensors")
    with safe_open(path, framework="numpy") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    assert {name: (part.dtype, part.shape) for name, part in tensors.items()} == {
        name: (np.dtype(bool), (width,)) for name, width in zip(NAMES, WIDTHS, strict=True)
    }
    assert np.flatnonzero(tensors["h.0.mlp:out"]).tolist() == [0]
    assert np.flatnonzero(tensors["h.2.mlp:out"]).tolist() == [10]


# ---- sets


@relaxed
@given(UNITS, UNITS)
def test_set_operations_are_those_of_python(one: set[int], other: set[int]) -> None:
    first, second = UnitMask.from_units(SPACE, list(one)), UnitMask.from_units(SPACE, list(other))
    assert chosen(first | second) == one | other
    assert chosen(first & second) == one & other
    assert chosen(first - second) == one - other
    assert chosen(~first) == set(range(34)) - one
    assert (chosen(first), chosen(second)) == (one, other)


def test_set_operations_remember_both_sources() -> None:
    first, second = UnitMask.from_units(SPACE, [1], {"Name": "a"}), UnitMask.from_units(SPACE, [2], {"Name": "b"})
    of = [{"Name": "a"}, {"Name": "b"}]
    assert (first | second).provenance == {"Operation": "union", "Of": of}
    assert (first & second).provenance == {"Operation": "intersection", "Of": of}
    assert (first - second).provenance == {"Operation": "difference", "Of": of}
    assert (~first).provenance == {"Operation": "complement", "Of": of[:1]}


@pytest.mark.parametrize(
    "other",
    [
        UnitSpace("attn", NAMES, WIDTHS),
        UnitSpace("mlp", NAMES, (17, 5, 1, 11)),
        UnitSpace("mlp", ("x:out", *NAMES[1:]), WIDTHS),
    ],
)
def test_masks_of_two_spaces_do_not_mix(other: UnitSpace) -> None:
    first, second = UnitMask.from_units(SPACE, [1]), UnitMask.from_units(other, [1])
    for combine in (UnitMask.__or__, UnitMask.__and__, UnitMask.__sub__):
        with pytest.raises(SpaceError, match="two spaces"):
            combine(first, second)


# ---- images of other programs


@relaxed
@given(st.lists(st.sampled_from([-3.0, -0.5, 0.0, 0.5, 2.0, 3.1]), min_size=34, max_size=34))
def test_threshold_chooses_what_is_above_it(values: list[float]) -> None:
    image = SPACE.to_image(np.array(values))
    above = UnitMask.from_image(image, SPACE, threshold=2.0, provenance=PROVENANCE)
    assert chosen(above) == {unit for unit, value in enumerate(values) if value > 2.0}
    assert above.provenance == PROVENANCE
    assert chosen(UnitMask.from_image(image, SPACE)) == {unit for unit, value in enumerate(values) if value}


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.float32, np.float64])
def test_masks_of_any_type_and_with_a_scan_axis_of_one_are_read(dtype: type) -> None:
    volume = np.zeros((*SPACE.shape, 1), dtype)
    volume[*SPACE.voxel_of(22), 0] = 1
    assert chosen(UnitMask.from_image(image_of(volume), SPACE)) == {22}


def test_scaled_maps_are_read_as_scaled() -> None:
    volume = np.zeros(SPACE.shape)
    volume[SPACE.voxel_of(7)], volume[SPACE.voxel_of(8)] = 4.0, 3.0
    image = image_of(volume)
    image.set_data_dtype(np.int16)
    read = nib.Nifti1Image.from_bytes(image.to_bytes())
    assert read.dataobj.slope != 1
    assert chosen(UnitMask.from_image(read, SPACE, threshold=3.5)) == {7}


def test_images_on_another_grid_are_refused() -> None:
    x, y, z = SPACE.shape
    with pytest.raises(SpaceError, match="same geometry"):
        UnitMask.from_image(image_of(np.zeros((x, y, z + 1), np.uint8)), SPACE)


def test_images_with_another_affine_are_refused() -> None:
    with pytest.raises(SpaceError, match="another affine"):
        UnitMask.from_image(image_of(np.zeros(SPACE.shape, np.uint8), np.diag([2.0, 2, 2, 1])), SPACE)


def test_images_of_several_scans_are_refused() -> None:
    with pytest.raises(SpaceError, match="one volume needed"):
        UnitMask.from_image(image_of(np.zeros((*SPACE.shape, 2), np.uint8)), SPACE)


@pytest.mark.parametrize("threshold", [None, 1.0])
def test_images_with_nan_are_refused(threshold: float | None) -> None:
    volume = np.zeros(SPACE.shape, np.float32)
    volume[0, 0, 0] = np.nan
    with pytest.raises(SpaceError, match="NaN"):
        UnitMask.from_image(image_of(volume), SPACE, threshold)


@pytest.mark.parametrize("n_stray", [1, 3])
def test_chosen_voxels_without_a_unit_are_refused_and_counted(n_stray: int) -> None:
    volume = np.zeros(SPACE.shape, np.float32)
    volume[SPACE.voxel_of(9)] = 5
    volume[:n_stray, 0, 0] = 5
    with pytest.raises(SpaceError, match=f"^{n_stray} chosen voxels"):
        UnitMask.from_image(image_of(volume), SPACE)


def test_a_threshold_below_zero_chooses_background_and_is_refused() -> None:
    with pytest.raises(SpaceError, match="hold no unit"):
        UnitMask.from_image(SPACE.to_image(np.ones(34)), SPACE, threshold=-1.0)


# ---- other guards


@pytest.mark.parametrize("selected", [np.zeros(33, bool), np.zeros(34, np.uint8), np.zeros((34, 1), bool)])
def test_selections_that_are_not_one_boolean_per_unit_are_refused(selected: np.ndarray[Any, Any]) -> None:
    with pytest.raises(SpaceError, match=r"bool \(34,\)"):
        UnitMask(SPACE, selected)


@pytest.mark.parametrize("unit", [-1, 34])
def test_units_outside_are_refused(unit: int) -> None:
    with pytest.raises(SpaceError, match="0 to 33"):
        UnitMask.from_units(SPACE, [2, unit])


@pytest.mark.parametrize("column", ["hookpoint", "channel"])
def test_a_table_without_a_column_is_refused(column: str) -> None:
    table = UnitMask.from_units(SPACE, [1, 9]).table().drop(columns=column)
    with pytest.raises(SpaceError, match=f"without column {column}"):
        UnitMask.from_table(table, SPACE)


def test_an_unknown_hookpoint_is_refused_by_name() -> None:
    table = pd.DataFrame({"hookpoint": ["h.0.mlp:out", "h.7.mlp:out"], "channel": [1, 2]})
    with pytest.raises(SpaceError, match=r"h\.7\.mlp:out is not of space"):
        UnitMask.from_table(table, SPACE)
    fields = UnitMask.from_units(SPACE, [1]).to_json() | {"Units": {"h.7.mlp:out": [2]}}
    with pytest.raises(SpaceError, match=r"h\.7\.mlp:out is not of space"):
        UnitMask.from_json(fields)


def test_a_row_without_a_hookpoint_is_refused() -> None:
    table = pd.DataFrame({"hookpoint": ["h.0.mlp:out", None], "channel": [1, 2]})
    with pytest.raises(SpaceError):
        UnitMask.from_table(table, SPACE)


@pytest.mark.parametrize("channel", [17, -1])
def test_a_channel_out_of_range_is_refused_by_number(channel: int) -> None:
    table = pd.DataFrame({"hookpoint": ["embed:out", "h.0.mlp:out", "h.0.mlp:out"], "channel": [0, 3, channel]})
    with pytest.raises(SpaceError, match=rf"channel {channel} of h\.0\.mlp:out found, 0 to 16 exist"):
        UnitMask.from_table(table, SPACE)


@pytest.mark.parametrize("channel", [1.5, "n/a"])
def test_a_channel_that_is_no_whole_number_is_refused(channel: object) -> None:
    table = pd.DataFrame({"hookpoint": ["h.0.mlp:out"], "channel": [channel]})
    with pytest.raises(SpaceError):
        UnitMask.from_table(table, SPACE)


@pytest.mark.parametrize("key", ["Space", "Units"])
def test_json_without_a_key_is_refused_by_name(key: str) -> None:
    fields = UnitMask.from_units(SPACE, [1]).to_json()
    del fields[key]
    with pytest.raises(SpaceError, match=f"without {key}"):
        UnitMask.from_json(fields)


@pytest.mark.parametrize("content", [b"", b"not a mask", bytes(64)])
def test_a_file_that_is_no_safetensors_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "net.safetensors"
    path.write_bytes(content)
    with pytest.raises(SpaceError, match=r"net\.safetensors is no mask"):
        UnitMask.from_safetensors(path)


SPACE_JSON = json.dumps(SPACE.to_json())
PARTS = {name: np.zeros(width, bool) for name, width in zip(NAMES, WIDTHS, strict=True)}


@pytest.mark.parametrize(
    ("tensors", "metadata"),
    [
        (PARTS, None),
        (PARTS, {"provenance": "{}"}),
        (PARTS, {"space": "{"}),
        (PARTS, {"space": "{}"}),
        (PARTS, {"space": SPACE_JSON, "provenance": "{"}),
        ({name: part for name, part in PARTS.items() if name != NAMES[2]}, {"space": SPACE_JSON}),
        (PARTS | {NAMES[3]: np.zeros(12, bool)}, {"space": SPACE_JSON}),
        (PARTS | {NAMES[0]: np.zeros(17, bool), NAMES[1]: np.zeros(5, bool)}, {"space": SPACE_JSON}),
        ({name: part.astype(np.uint8) for name, part in PARTS.items()}, {"space": SPACE_JSON}),
    ],
    ids=[
        "no metadata",
        "no space",
        "space no JSON",
        "space without keys",
        "provenance no JSON",
        "tensor missing",
        "tensor too long",
        "tensors swapped",
        "tensors not boolean",
    ],
)
def test_a_safetensors_file_that_is_no_mask_is_refused(
    tmp_path: Path, tensors: dict[str, Any], metadata: dict[str, str] | None
) -> None:
    save_file(tensors, tmp_path / "weights.safetensors", metadata)
    with pytest.raises(SpaceError):
        UnitMask.from_safetensors(tmp_path / "weights.safetensors")
