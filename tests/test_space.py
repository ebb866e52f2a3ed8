"""Which unit is which voxel: folds, empty slices, inverse pairs, headers and guards of `UnitSpace`."""

from __future__ import annotations

import json
from itertools import product
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from llm2bids.errors import LLM2BIDSError, SpaceError
from llm2bids.space import UnitSpace, fold

if TYPE_CHECKING:
    from pathlib import Path

relaxed = settings(max_examples=50, deadline=None)

DTYPES = ["bool", "uint8", "int64", "float16", "float32", "float64"]
KNOWN_FOLDS = {
    64: (8, 8),
    96: (12, 8),
    128: (16, 8),
    768: (32, 24),
    896: (32, 28),
    1024: (32, 32),
    1280: (40, 32),
    1600: (40, 40),
    2048: (64, 32),
    2304: (48, 48),
    2560: (64, 40),
    3584: (64, 56),
    4096: (64, 64),
    5120: (80, 64),
    8192: (128, 64),
    11008: (128, 86),
    14336: (128, 112),
}
WIDTHS = st.one_of(st.sampled_from([1, 2, 3, 7, 11, 97, 769, *KNOWN_FOLDS, 50257]), st.integers(1, 50257))


def named(site: str, widths: list[int]) -> UnitSpace:
    """A space of hookpoints named by depth."""
    return UnitSpace(site, tuple(f"h.{n}:out" for n in range(len(widths))), tuple(widths))


@st.composite
def spaces(draw: st.DrawFn, max_units: int = 100_000) -> UnitSpace:
    """Uniform and ragged spaces of 1 to 130 hookpoints; the wider, the fewer."""
    width = draw(WIDTHS)
    count = draw(st.integers(1, min(130, max(1, max_units // width))))
    if draw(st.booleans()):
        return named("block", [width] * count)
    widths = draw(st.lists(st.integers(1, width), min_size=count, max_size=count))
    return named("block", widths)


@st.composite
def signals_of(draw: st.DrawFn, space: UnitSpace, dtype: str, lead: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """Values that every type stored on disk holds exactly."""
    assume(not set(lead) & {*space.shape, space.n_units})
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = (*lead, space.n_units)
    if dtype.startswith("float"):
        return rng.normal(size=shape).astype(np.float16).astype(dtype)
    highest = {"bool": 2, "uint8": 256, "int64": 2**31}[dtype]
    lowest = -(2**31) if dtype == "int64" else 0
    return rng.integers(lowest, highest, size=shape).astype(dtype)


# ---- fold


@pytest.mark.parametrize(("n_channels", "expected"), KNOWN_FOLDS.items())
def test_fold_of_known_models(n_channels: int, expected: tuple[int, int]) -> None:
    assert fold(n_channels) == expected


@pytest.mark.parametrize(("n_channels", "n_padding"), [(50257, 143), (151936, 163)])
def test_prime_like_vocabularies_are_padded_a_little(n_channels: int, n_padding: int) -> None:
    x, y = fold(n_channels)
    assert x * y - n_channels == n_padding


@relaxed
@given(st.one_of(WIDTHS, st.integers(1, 500)))
@example(1)
@example(8)
@example(9)
@example(36)
def test_fold_is_exact_wherever_the_aspect_allows(n_channels: int) -> None:
    x, y = fold(n_channels)
    assert x >= y >= 3
    assert x * y >= n_channels
    exact = [(n_channels // b, b) for b in range(3, 225) if n_channels % b == 0 and b <= n_channels // b <= 4 * b]
    if exact:
        assert (x, y) == min(exact, key=lambda sides: sides[0] - sides[1])
    else:
        assert x - y <= 2
        assert x == 3 or (x - 1) * y < n_channels


# ---- empty slices


@relaxed
@given(WIDTHS, st.integers(1, 130))
def test_empty_slices_are_the_fewest_that_leave_a_fortieth_empty(n_channels: int, n_hookpoints: int) -> None:
    space = named("mlp", [n_channels] * n_hookpoints)
    x, y, z = space.shape
    n_empty = space.n_empty
    assert z == n_hookpoints + 2 * n_empty
    assert 40 * (x * y * z - space.n_units) >= x * y * z
    fewer = x * y * (z - 2)
    assert n_empty == 1 or 40 * (fewer - space.n_units) < fewer


@relaxed
@given(spaces())
def test_first_and_last_slices_and_a_fortieth_of_the_box_are_zero(space: UnitSpace) -> None:
    volume = space.to_volumes(np.ones(space.n_units, np.uint8))
    assert not volume[: space.n_empty].any()
    assert not volume[-space.n_empty :].any()
    assert volume[space.n_empty].any()
    assert volume[-space.n_empty - 1].any()
    assert 40 * np.count_nonzero(volume == 0) >= volume.size


# ---- units and voxels


@relaxed
@given(st.data(), spaces(max_units=10_000_000))
def test_voxel_of_and_unit_at_are_inverse(data: st.DataObject, space: UnitSpace) -> None:
    hookpoint = data.draw(
        st.one_of(st.just(0), st.just(space.n_hookpoints - 1), st.integers(0, space.n_hookpoints - 1))
    )
    width = space.n_channels[hookpoint]
    row_ends = [channel for channel in (0, space.shape[0] - 1, space.shape[0], width - 1) if channel < width]
    channel = data.draw(st.one_of(st.sampled_from(row_ends), st.integers(0, width - 1)))
    unit = sum(space.n_channels[:hookpoint]) + channel
    x = space.shape[0]
    voxel = space.voxel_of(unit)
    assert voxel == (channel % x, channel // x, hookpoint + space.n_empty)
    assert space.unit_at(voxel) == unit


@pytest.mark.parametrize("widths", [[12, 12], [5, 11, 1, 7], [1], [2, 17, 3]])
def test_every_voxel_holds_one_unit_in_file_order_or_none(widths: list[int]) -> None:
    space = named("mlp", widths)
    found = []
    for k, j, i in product(*(range(length) for length in reversed(space.shape))):
        try:
            found.append(space.unit_at((i, j, k)))
        except SpaceError:
            assert (i, j, k) not in [space.voxel_of(unit) for unit in range(space.n_units)]
    assert found == list(range(sum(widths)))


@relaxed
@given(spaces())
def test_locate_numbers_hookpoint_by_hookpoint(space: UnitSpace) -> None:
    hookpoint, channel = space.locate(np.arange(space.n_units))
    assert hookpoint.tolist() == [n for n, width in enumerate(space.n_channels) for _ in range(width)]
    assert channel.tolist() == [c for width in space.n_channels for c in range(width)]
    assert space.starts().tolist() == np.flatnonzero(channel == 0).tolist()


def test_numpy_numbers_are_voxels_and_units_too() -> None:
    space = named("mlp", [10, 10])
    assert space.unit_at(np.array(space.voxel_of(np.int64(13)))) == 13


def test_blocks_are_the_first_number_of_the_path() -> None:
    names = ("embed:out", "model.layers.11.mlp:in", "h.2.attn.7:out", "h10:out")
    assert UnitSpace("mlp", names, (9, 9, 9, 9)).blocks == (-1, 11, 2, -1)


# ---- labels


@relaxed
@given(st.lists(st.integers(1, 40), min_size=1, max_size=6), st.lists(st.integers(1, 40), min_size=1, max_size=6))
@example([7], [8])
@example([5, 9], [9, 5])
@example([9, 9, 8], [9, 9])
@example([4, 9, 9], [5, 9, 9])
def test_labels_are_equal_exactly_where_grids_are(one: list[int], other: list[int]) -> None:
    first, second = named("mlp", one), named("mlp", other)
    assert (first.label == second.label) == (one == other)
    assert first.label != named("attn", one).label
    assert first.label.isalnum()


def test_labels_name_depth_width_and_site_and_stay_the_same() -> None:
    assert named("block", [768] * 12).label == "L12C768block"
    assert named("mlp", [5, 9]).label == "L2C9w5c6a41ebmlp"


def test_label_does_not_depend_on_names_of_hookpoints() -> None:
    assert UnitSpace("mlp", ("a", "b"), (9, 9)).label == UnitSpace("mlp", ("c", "d"), (9, 9)).label


# ---- volumes and images


@relaxed
@given(st.data(), spaces(max_units=50_000), st.sampled_from(DTYPES), st.sampled_from([(), (1,), (2,), (1, 2), (2, 1)]))
def test_to_volumes_and_from_volumes_are_inverse(
    data: st.DataObject, space: UnitSpace, dtype: str, lead: tuple[int, ...]
) -> None:
    signals = data.draw(signals_of(space, dtype, lead))
    volumes = space.to_volumes(signals)
    assert volumes.dtype == signals.dtype
    assert volumes.shape == (*lead, *reversed(space.shape))
    assert volumes.flags["C_CONTIGUOUS"]
    back = space.from_volumes(volumes)
    assert back.dtype == signals.dtype
    np.testing.assert_array_equal(back, signals)


@relaxed
@given(st.data(), spaces(max_units=50_000), st.sampled_from(DTYPES), st.sampled_from([(), (1,), (2,)]))
def test_to_image_and_to_signals_are_inverse(
    data: st.DataObject, space: UnitSpace, dtype: str, lead: tuple[int, ...]
) -> None:
    signals = data.draw(signals_of(space, dtype, lead))
    image = nib.Nifti1Image.from_bytes(space.to_image(signals).to_bytes())
    assert image.shape == (*space.shape, *lead)
    back = space.to_signals(image)
    assert back.shape == signals.shape
    np.testing.assert_array_equal(back, signals.astype(back.dtype))


def test_image_holds_each_unit_at_its_voxel() -> None:
    space = named("mlp", [5, 17, 11])
    signals = np.arange(1, 2 * space.n_units + 1, dtype=np.float32).reshape(2, space.n_units)
    values = space.to_image(signals).get_fdata()
    for unit in range(space.n_units):
        assert values[space.voxel_of(unit)].tolist() == signals[:, unit].tolist()
    assert np.count_nonzero(values) == signals.size


@relaxed
@given(space=spaces(2000), axes=st.lists(st.integers(0, 3), max_size=2))
def test_values_are_split_hookpoint_by_hookpoint(space: UnitSpace, axes: list[int]) -> None:
    values = np.arange(np.prod([*axes, space.n_units], dtype=int)).reshape(*axes, space.n_units)
    parts = space.split(values)
    for hookpoint, part in enumerate(parts):
        units = np.flatnonzero(space.locate(np.arange(space.n_units))[0] == hookpoint)
        np.testing.assert_array_equal(part, values[..., units])
        assert part.size == 0 or np.shares_memory(part, values)
    np.testing.assert_array_equal(np.concatenate(parts, axis=-1), values)
    assert len(parts) == space.n_hookpoints


def test_zero_scans_come_back_as_zero_scans() -> None:
    space = named("mlp", [11, 11])
    assert space.from_volumes(space.to_volumes(np.zeros((0, 22), np.float32))).shape == (0, 22)


@pytest.mark.parametrize(
    ("dtype", "stored"),
    [
        ("bool", "u1"),
        ("uint8", "u1"),
        ("int16", "i4"),
        ("int64", "i4"),
        ("float16", "f4"),
        ("float32", "f4"),
        ("float64", "f4"),
    ],
)
@pytest.mark.parametrize("widths", [[768] * 3, [5, 17, 97, 11]])
def test_payload_is_the_c_ordered_array_between_zeros(
    tmp_path: Path, dtype: str, stored: str, widths: list[int]
) -> None:
    space = named("block", widths)
    x, y, z = space.shape
    signals = np.random.default_rng(0).integers(0, 2 if dtype == "bool" else 99, (2, space.n_units)).astype(dtype)
    nib.save(space.to_image(signals), tmp_path / "bold.nii")
    payload = np.memmap(tmp_path / "bold.nii", "<" + stored, "r", offset=352, shape=(2, z, y * x))
    assert (tmp_path / "bold.nii").stat().st_size == 352 + payload.nbytes
    expected = np.zeros_like(payload)
    for number, part in enumerate(np.split(signals, np.cumsum(widths)[:-1], axis=1)):
        expected[:, number + space.n_empty, : part.shape[1]] = part
    np.testing.assert_array_equal(payload, expected)


@pytest.mark.parametrize(
    ("dtype", "stored"), [("bool", "uint8"), ("int64", "int32"), ("uint16", "int32"), ("float64", "float32")]
)
def test_header_says_millimetres_seconds_ras_and_a_type_all_tools_read(dtype: str, stored: str) -> None:
    space = named("mlp", [11, 11])
    written = space.to_image(np.ones((7, 22), dtype), t_r=0.25).to_bytes()
    image = nib.Nifti1Image.from_bytes(written)
    header = image.header
    assert (int(header["sform_code"]), int(header["qform_code"])) == (1, 1)
    np.testing.assert_array_equal(image.get_sform(), np.eye(4))
    np.testing.assert_array_equal(image.get_qform(), np.eye(4))
    assert nib.aff2axcodes(image.affine) == ("R", "A", "S")
    assert header.get_xyzt_units() == ("mm", "sec")
    assert header.get_zooms() == (1, 1, 1, 0.25)
    assert header.get_data_dtype() == np.dtype(stored)
    assert np.isnan(header["scl_slope"]) or header["scl_slope"] in (0, 1)


def test_mask_image_is_one_where_a_unit_is() -> None:
    space = named("mlp", [5, 11])
    mask = space.mask_image()
    assert mask.get_data_dtype() == np.uint8
    ones = {tuple(int(n) for n in voxel) for voxel in np.argwhere(np.asarray(mask.dataobj))}
    assert ones == {space.voxel_of(unit) for unit in range(16)}


# ---- JSON


@relaxed
@given(spaces(max_units=10_000_000))
def test_json_rebuilds_the_space(space: UnitSpace) -> None:
    fields = json.loads(json.dumps(space.to_json()))
    assert UnitSpace.from_json(fields) == space
    assert (fields["Label"], tuple(fields["Shape"]), fields["EmptySlices"]) == (space.label, space.shape, space.n_empty)


# ---- guards


@pytest.mark.parametrize(
    ("site", "hookpoints", "widths", "telling"),
    [
        ("ml-p", ("a",), (9,), "letters and digits"),
        ("", ("a",), (9,), "letters and digits"),
        ("é", ("a",), (9,), "letters and digits"),
        ("mlp", (), (), "at least one"),
        ("mlp", ("a", "b"), (9,), "2 hookpoints and 1 widths"),
        ("mlp", ("a", "b", "a"), (9, 9, 9), "named twice"),
        ("mlp", ("a", "b"), (9, 0), "0 channels"),
        ("mlp", ("a", "b"), (-2, 9), "-2 channels"),
    ],
)
def test_what_is_no_grid_is_refused(
    site: str, hookpoints: tuple[str, ...], widths: tuple[int, ...], telling: str
) -> None:
    with pytest.raises(SpaceError, match=telling):
        UnitSpace(site, hookpoints, widths)


def test_space_errors_are_ours_and_value_errors() -> None:
    assert issubclass(SpaceError, LLM2BIDSError)
    assert issubclass(SpaceError, ValueError)


@pytest.mark.parametrize("unit", [-1, 16, 10**9])
def test_units_outside_are_refused(unit: int) -> None:
    space = named("mlp", [5, 11])
    with pytest.raises(SpaceError, match="0 to 15"):
        space.voxel_of(unit)
    with pytest.raises(SpaceError, match="0 to 15"):
        space.locate([3, unit])


@pytest.mark.parametrize(
    "voxel",
    [(0, 0, 0), (0, 0, 3), (2, 1, 1), (3, 2, 2), (-1, 0, 1), (4, 0, 1), (0, -1, 1), (0, 3, 1), (0, 0, -3), (0, 0, 9)],
)
def test_voxels_without_a_unit_are_refused(voxel: tuple[int, int, int]) -> None:
    space = named("mlp", [5, 11])
    assert space.shape == (4, 3, 4)
    with pytest.raises(SpaceError, match="holds no unit"):
        space.unit_at(voxel)


@pytest.mark.parametrize("shape", [(), (15,), (16, 2), (2, 17), (0,)])
def test_signals_of_another_width_are_refused(shape: tuple[int, ...]) -> None:
    space = named("mlp", [5, 11])
    with pytest.raises(SpaceError, match=r"signals of shape .* found, \(\.\.\., 16\) needed"):
        space.to_volumes(np.zeros(shape))
    with pytest.raises(SpaceError, match=r"values of shape .* found, \(\.\.\., 16\) needed"):
        space.split(np.zeros(shape))


@pytest.mark.parametrize("shape", [(4, 3, 5), (4, 3), (4, 3, 4, 2), (3,)])
def test_volumes_of_another_grid_are_refused(shape: tuple[int, ...]) -> None:
    space = named("mlp", [5, 11, 7])
    assert space.shape == (4, 3, 5)
    with pytest.raises(SpaceError, match=r"\(4, 3, 5\) needed"):
        space.from_volumes(np.zeros(shape))


@pytest.mark.parametrize("shape", [(), (2, 3, 16)])
def test_images_are_made_of_one_or_two_axes(shape: tuple[int, ...]) -> None:
    with pytest.raises(SpaceError, match=f"{len(shape)} axes"):
        named("mlp", [5, 11]).to_image(np.zeros(shape))


@pytest.mark.parametrize("values", [np.zeros(16, complex), np.full(16, "a"), np.full(16, None)])
def test_values_no_image_holds_are_refused(values: np.ndarray[Any, Any]) -> None:
    with pytest.raises(SpaceError, match="real numbers or booleans needed"):
        named("mlp", [5, 11]).to_image(values)


@pytest.mark.parametrize("shape", [(4, 3, 6), (5, 4, 3), (4, 3), (3, 4, 5, 4)])
def test_images_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(SpaceError, match="same geometry"):
        named("mlp", [5, 11, 7]).to_signals(nib.Nifti1Image(np.zeros(shape, np.float32), np.eye(4)))


@pytest.mark.parametrize("affine", [np.diag([2.0, 1, 1, 1]), np.diag([-1.0, 1, 1, 1]), np.full((4, 4), np.nan), None])
def test_images_with_another_affine_are_refused(affine: np.ndarray[Any, Any] | None) -> None:
    image = nib.spatialimages.SpatialImage(np.zeros((4, 3, 5), np.float32), affine)
    with pytest.raises(SpaceError, match="another affine"):
        named("mlp", [5, 11, 7]).to_signals(image)


@pytest.mark.parametrize("key", ["Label", "Site", "Hookpoints", "Channels", "Shape"])
def test_json_without_a_key_is_refused_by_name(key: str) -> None:
    fields = named("mlp", [5, 11]).to_json()
    del fields[key]
    with pytest.raises(SpaceError, match=f"without {key}"):
        UnitSpace.from_json(fields)


@pytest.mark.parametrize(
    "edit", [{"Label": "L2C12mlp"}, {"Shape": [4, 4, 4]}, {"Channels": [11, 5]}, {"Channels": 11}, {"Site": "attn"}]
)
def test_edited_json_is_refused(edit: dict[str, Any]) -> None:
    with pytest.raises(SpaceError, match="it was edited"):
        UnitSpace.from_json(named("mlp", [5, 11]).to_json() | edit)
