"""Maps of any program become masks over units, written in four formats."""

from __future__ import annotations

import gzip
import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np
import pytest

from llm2bids.bids.nifti import write_image
from llm2bids.bids.tables import write_json
from llm2bids.errors import DatasetError, MaskError, OptionError, SpaceError
from llm2bids.masks import convert_mask, load_mask, save_mask
from llm2bids.space import Selection, UnitMask

from .maps import IDENTITY, SPACE, SUFFIXES, VALUES, on_grid, write_map

if TYPE_CHECKING:
    from numpy.typing import NDArray


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """A map as FSL writes it: float32, sform and qform 1, no sidecar."""
    image = nib.Nifti1Image(on_grid(VALUES), np.eye(4, dtype=np.float32) + np.float32(1e-7))
    image.header.set_intent("z score")
    nib.save(image, tmp_path / "zstat1.nii.gz")
    return tmp_path / "zstat1.nii.gz"


def test_the_axes_of_the_test_space_differ() -> None:
    assert SPACE.shape == (7, 5, 6)


# ---- formats


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("units", [[], [0], [3, 34, 35, 139]])
def test_every_format_gives_back_units_space_and_provenance(tmp_path: Path, suffix: str, units: list[int]) -> None:
    mask = UnitMask.from_units(SPACE, units, IDENTITY | {"Threshold": 3.1, "Contrast": 'é "b"'})
    paths = save_mask(mask, tmp_path / "new" / f"net{suffix}")
    back = load_mask(paths[0])
    assert (back.space, back.units.tolist(), back.provenance) == (SPACE, units, mask.provenance)
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == sorted(path.name for path in paths)
    assert [path.name for path in paths[1:]] == ["net.json"] * (suffix in {".nii.gz", ".tsv"})
    (tmp_path / "any").touch()
    assert {path.stat().st_mode for path in paths} == {(tmp_path / "any").stat().st_mode}


@pytest.mark.parametrize("first", SUFFIXES)
@pytest.mark.parametrize("second", SUFFIXES)
def test_a_mask_keeps_all_in_any_other_format(tmp_path: Path, zstat: Path, first: str, second: str) -> None:
    mask, (one, *_) = convert_mask(zstat, tmp_path / f"one{first}", threshold=2)
    back, (other, *_) = convert_mask(one, tmp_path / f"two{second}")
    for again in (back, load_mask(other)):
        assert (again.units.tolist(), again.provenance) == (mask.units.tolist(), mask.provenance)


def test_the_files_are_what_other_programs_expect(tmp_path: Path, zstat: Path) -> None:
    convert_mask(zstat, tmp_path / "net_mask.nii.gz", threshold=2)
    image = nib.load(tmp_path / "net_mask.nii.gz")
    assert image.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(image.get_fdata(), on_grid(VALUES) > 2)
    sidecar = json.loads((tmp_path / "net_mask.json").read_text())
    assert (sidecar["Type"], sidecar["Sources"]) == ("ROI", [zstat.name])
    assert sidecar["Description"] == (
        f"Units of model tiny (r1, weights abababababab), site mlp: value > 2 in {zstat.name}, contrast onVsOff."
    )
    convert_mask(zstat, tmp_path / "net_units.tsv", threshold=2)
    header, row, *_ = (tmp_path / "net_units.tsv").read_text().splitlines()
    unit = int(np.flatnonzero(VALUES > 2)[0])
    assert (header.split("\t"), row.split("\t")) == (
        ["unit", "hookpoint", "block", "channel"],
        [str(unit), f"h.{unit // 35}.mlp:out", str(unit // 35), str(unit % 35)],
    )


def test_a_table_from_a_spreadsheet_needs_only_hookpoint_and_channel(tmp_path: Path, bold: Path) -> None:
    (tmp_path / "units.tsv").write_bytes(b"channel\thookpoint\r\n34\th.3.mlp:out\r\n0\th.1.mlp:out\r\n")
    mask = load_mask(tmp_path / "units.tsv", bold)
    assert mask.units.tolist() == [35, 139]
    assert mask.provenance["Model"] == "tiny"
    with pytest.raises(MaskError, match="`like`"):
        load_mask(tmp_path / "units.tsv")


# ---- programs


def test_provenance_says_where_units_come_from(tmp_path: Path, zstat: Path) -> None:
    mask, _ = convert_mask(zstat, tmp_path / "net.json", threshold=2.5, tail="two")
    told = dict(mask.provenance)
    assert told.pop("Version")
    assert told == IDENTITY | {
        "Source": zstat.name,
        "SourceSHA256": hashlib.sha256(zstat.read_bytes()).hexdigest(),
        "Rule": "|value| > 2.5",
        "Threshold": 2.5,
        "Tail": "two",
        "Contrast": "onVsOff",
        "Statistic": "z",
    }


def test_fsl_takes_the_identity_of_like(tmp_path: Path, foreign: Path, bold: Path) -> None:
    mask, _ = convert_mask(foreign, tmp_path / "net.tsv", like=bold, threshold=3.1)
    assert mask.units.tolist() == np.flatnonzero(VALUES > 3.1).tolist()
    assert IDENTITY.items() <= mask.provenance.items()
    assert "Mode" not in mask.provenance
    with pytest.raises(MaskError, match=r"zstat1\.nii\.gz has no sidecar.*`like`"):
        convert_mask(foreign, tmp_path / "other.tsv", threshold=3.1)


@pytest.mark.parametrize("kind", ["space", "sidecar", "mask.json", "mask.safetensors", "mask.nii.gz"])
def test_like_may_be_any_file_that_knows_the_units(tmp_path: Path, foreign: Path, bold: Path, kind: str) -> None:
    like = tmp_path / "space.json"
    if kind == "space":
        write_json(like, SPACE.to_json())
    elif kind == "sidecar":
        like = bold.with_name("sub-x_task-a_bold.json")
    else:
        like = save_mask(UnitMask.from_units(SPACE, [3], IDENTITY), tmp_path / kind)[0]
    mask, _ = convert_mask(foreign, tmp_path / "net.tsv", like=like, threshold=3.1)
    assert mask.n_selected == (VALUES > 3.1).sum()
    assert mask.provenance.get("Model") == (None if kind == "space" else "tiny")
    assert mask.provenance["Site"] == "mlp"


@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 0, 1), (1, 0, 2)])
@pytest.mark.parametrize("flips", [(), (0, 1), (0, 1, 2)])
def test_afni_buckets_are_turned_back_without_loss(
    tmp_path: Path, bold: Path, axes: tuple[int, int, int], flips: tuple[int, ...]
) -> None:
    turned = np.flip(on_grid(VALUES), flips).transpose(axes)
    signs = np.array([-1 if axis in flips else 1 for axis in range(3)])
    affine = np.diag([*signs, 1]).astype(float)
    affine[:3, 3] = [SPACE.shape[axis] - 1 if axis in flips else 0 for axis in range(3)]
    affine = affine @ np.eye(4)[:, [*axes, 3]]
    bucket = np.stack([np.full(turned.shape, 9, np.float32), -turned, turned], axis=-1)[:, :, :, None]
    nib.save(nib.Nifti1Image(bucket, affine), tmp_path / "stats.nii")
    mask, _ = convert_mask(tmp_path / "stats.nii", tmp_path / "net.json", like=bold, threshold=1.5, volume=2)
    assert mask.units.tolist() == np.flatnonzero(VALUES > 1.5).tolist()
    assert mask.provenance["Volume"] == 2


def test_afni_head_and_brik_are_read(tmp_path: Path, bold: Path) -> None:
    x, y, z = SPACE.shape
    integer = {
        "DATASET_RANK": "3 2",
        "DATASET_DIMENSIONS": f"{x} {y} {z}",
        "BRICK_TYPES": "1 1",
        "SCENE_DATA": "0 11 1",
    }
    floats = {
        "IJK_TO_DICOM_REAL": f"1 0 0 -{x - 1} 0 1 0 -{y - 1} 0 0 1 0",  # stored from right and from anterior
        "DELTA": "1 1 1",
        "BRICK_FLOAT_FACS": "0.001 0.002",
    }
    parts = [("integer", integer), ("float", floats), ("string", {"BYTEORDER_STRING": "'LSB_FIRST~"})]
    head = [
        f"type = {kind}-attribute\nname = {name}\ncount = {len(text.split())}\n{text}\n"
        for kind, attributes in parts
        for name, text in attributes.items()
    ]
    (tmp_path / "t+orig.HEAD").write_text("\n" + "\n".join(head))
    stored = [np.round(on_grid(values)[::-1, ::-1] / 0.002).astype("<i2") for values in (-VALUES, VALUES)]
    (tmp_path / "t+orig.BRIK").write_bytes(b"".join(volume.tobytes("F") for volume in stored))
    mask, _ = convert_mask(tmp_path / "t+orig.HEAD", tmp_path / "net.json", like=bold, threshold=2, volume=1)
    np.testing.assert_array_equal(mask.selected, np.round(VALUES / 0.002) * 0.002 > 2)
    assert mask.provenance["SourceSHA256"] == hashlib.sha256((tmp_path / "t+orig.BRIK").read_bytes()).hexdigest()


@pytest.mark.parametrize("dtype", [">f4", ">i2"])
def test_spm_maps_with_nan_big_endian_or_scaled_are_read(tmp_path: Path, bold: Path, dtype: str) -> None:
    values = VALUES.copy()
    values[[4, 50]] = np.nan
    volume = on_grid(values)
    volume[:, :, [0, -1]] = np.nan
    header = nib.Nifti1Header(endianness=">")
    if dtype == ">i2":
        volume = np.nan_to_num(volume)
        header.set_slope_inter(0.004, 1)
    header.set_data_dtype(dtype)
    nib.save(nib.Nifti1Image(volume, np.eye(4), header), tmp_path / "spmT_0001.nii")
    mask, _ = convert_mask(tmp_path / "spmT_0001.nii", tmp_path / "net.json", like=bold, threshold=1.001)
    assert mask.units.tolist() == np.flatnonzero(np.nan_to_num(values) > 1.001).tolist()
    assert mask.provenance.get("NaNSetToZero") == (2 if dtype == ">f4" else None)


def test_neurovault_maps_with_axes_of_one_are_read(tmp_path: Path, bold: Path) -> None:
    nib.save(nib.Nifti1Image(on_grid(VALUES.astype(float))[..., None], np.eye(4)), tmp_path / "image_7.nii.gz")
    mask, _ = convert_mask(tmp_path / "image_7.nii.gz", tmp_path / "net.json", like=bold, threshold=2)
    np.testing.assert_array_equal(mask.selected, VALUES > 2)


# ---- rules


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"threshold": 1.0}, VALUES > 1),
        ({"threshold": 1.0, "tail": "negative"}, VALUES < -1),
        ({"threshold": 1.0, "tail": "two"}, np.abs(VALUES) > 1),
        ({"threshold": float(VALUES[7])}, VALUES[7] < VALUES),
        ({"top": 0.1}, np.sort(VALUES)[-14] <= VALUES),
        ({"top": 0.1, "tail": "negative"}, np.sort(VALUES)[13] >= VALUES),
        ({"top": 0.1, "tail": "two"}, np.abs(VALUES) >= np.sort(np.abs(VALUES))[-14]),
        ({"top": 1e-9}, VALUES.max() == VALUES),
        ({"top": 1.0}, VALUES > 0),
    ],
)
def test_rules_choose_what_numpy_does(
    tmp_path: Path, zstat: Path, options: dict[str, Any], expected: NDArray[np.bool_]
) -> None:
    mask, _ = convert_mask(zstat, tmp_path / "net.json", **options)
    assert mask.units.tolist() == np.flatnonzero(expected).tolist()


@pytest.mark.parametrize(
    ("top", "units"),
    [
        (0.01, [3]),
        ("1%", [3]),
        (0.3, [3, 60, 120]),
        (0.5, [3, 5, 60, 120]),
        (0.6, [3, 5, 60, 70, 120]),
        (1, [3, 5, 9, 10, 11, 60, 70, 120, 130]),
    ],
)
def test_a_share_is_met_exactly_by_the_first_of_equals_and_zeros_never(
    tmp_path: Path, top: float | str, units: list[int]
) -> None:
    values = np.zeros(SPACE.n_units)
    values[[3, 60, 120]], values[[5, 70]], values[[9, 10, 11, 130]] = 8, 4, 2
    mask, _ = convert_mask(write_map(tmp_path / "map.nii.gz", values), tmp_path / "net.json", top=top)
    assert mask.units.tolist() == units


def test_a_share_of_p_values_is_of_the_units_tested(tmp_path: Path) -> None:
    values = np.ones(SPACE.n_units)
    values[[3, 60, 120, 130]] = 0.02, 0, 0.01, 0.9
    path = write_map(tmp_path / "x_stat-p_statmap.nii.gz", values)
    mask, _ = convert_mask(path, tmp_path / "net.json", top="50%", below=True)
    assert mask.units.tolist() == [60, 120]
    assert mask.provenance["UnitsNotTested"] == SPACE.n_units - 4


@pytest.mark.parametrize(("background", "expected"), [(0, [1]), (1, [0, 1]), (np.nan, [0, 1])])
def test_zero_is_a_p_value_unless_the_background_is_zero(
    tmp_path: Path, bold: Path, background: float, expected: list[int]
) -> None:
    values = np.full(SPACE.n_units, 0.6)
    values[:4] = 0, 0.01, 0.05, np.nan
    volume = on_grid(values)
    volume[on_grid(np.ones(SPACE.n_units)) == 0] = background
    nib.save(nib.Nifti1Image(volume, np.eye(4)), tmp_path / "a_stat-p_statmap.nii.gz")
    path = tmp_path / "a_stat-p_statmap.nii.gz"
    mask, _ = convert_mask(path, tmp_path / "net.json", like=bold, threshold=0.05, below=True)
    assert mask.units.tolist() == expected
    assert mask.provenance["UnitsNotTested"] == 3 - len(expected)
    best, _ = convert_mask(path, tmp_path / "top.json", like=bold, top=1 / SPACE.n_units, below=True)
    assert best.units.tolist() == expected[:1]
    ours = write_map(tmp_path / "b_stat-p_statmap.nii.gz", values)
    assert convert_mask(ours, tmp_path / "b.json", threshold=0.05, below=True)[0].units.tolist() == [0, 1]


def test_p_values_are_not_taken_for_z_values(tmp_path: Path, zstat: Path) -> None:
    path = write_map(tmp_path / "x_stat-p_statmap.nii.gz", np.linspace(0, 1, SPACE.n_units))
    image = SPACE.to_image(np.linspace(0, 1, SPACE.n_units))
    image.header.set_intent("p value")
    by_intent = write_map(tmp_path / "prob.nii.gz", VALUES)
    write_image(by_intent, image)
    for source in (path, by_intent):
        with pytest.raises(MaskError, match=r"holds p values.*below=True"):
            convert_mask(source, tmp_path / "net.json", threshold=0.05)
    with pytest.raises(MaskError, match="0 to 1, were expected"):
        convert_mask(zstat, tmp_path / "net.json", threshold=0.05, below=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": 2.0, "top": 0.1}, "give one of them"),
        ({"threshold": -3.1}, "0 or more needed"),
        ({"threshold": float("nan")}, "0 or more needed"),
        ({"top": 0.0}, "above 0 and at most 1"),
        ({"top": 5}, "above 0 and at most 1"),
        ({"tail": "left", "threshold": 2}, "use positive, negative, two"),
        ({"tail": "negative"}, "without a threshold"),
        ({"below": True}, "without a threshold"),
        ({"below": True, "tail": "two", "threshold": 0.05}, "which have none"),
        ({}, "no mask yet"),
    ],
)
def test_rules_that_mean_something_else_are_refused(
    tmp_path: Path, zstat: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(OptionError if options.get("tail") == "left" else MaskError, match=message):
        convert_mask(zstat, tmp_path / "net.json", **options)
    assert not (tmp_path / "net.json").exists()


def test_a_rule_says_in_words_what_it_does() -> None:
    rules = [
        Selection(),
        Selection(0),
        Selection(0, "negative"),
        Selection(3.1, "negative"),
        Selection(top=0.005),
        Selection(top=0.1, below=True),
    ]
    assert [rule.text for rule in rules] == [
        "value other than 0",
        "value > 0",
        "value < 0",
        "value < -3.1",
        "top 0.5 % of tested units by value",
        "top 10 % of tested units by small p",
    ]


# ---- what is refused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": 50}, rf"\(value > 50\).*largest value is {VALUES.max():.6g}; lower"),
        ({"threshold": 50, "tail": "negative"}, rf"smallest value is {VALUES.min():.6g}; lower"),
        ({"threshold": 50, "tail": "two"}, rf"largest absolute value is {np.abs(VALUES).max():.6g}; lower"),
    ],
)
def test_an_empty_mask_is_refused_with_the_nearest_value(
    tmp_path: Path, zstat: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(MaskError, match=message):
        convert_mask(zstat, tmp_path / "net.nii.gz", **options)
    assert not list(tmp_path.glob("*net*"))
    mask, paths = convert_mask(zstat, tmp_path / "net.nii.gz", **options, allow_empty=True)
    assert (mask.n_selected, load_mask(paths[0]).n_selected) == (0, 0)
    with pytest.raises(MaskError, match="allow_empty=True"):
        convert_mask(paths[0], tmp_path / "again.tsv")


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        (np.full(SPACE.n_units, np.nan), {"threshold": 1}, "no unit has a value"),
        (np.zeros(SPACE.n_units), {}, "every unit is 0"),
        (-np.ones(SPACE.n_units), {"top": 0.1}, "largest value is -1"),
        (np.full(SPACE.n_units, 0.25), {"threshold": 0.05, "below": True}, "smallest p value is 0.25; raise"),
    ],
)
def test_other_empty_masks_say_why(tmp_path: Path, values: NDArray[Any], options: dict[str, Any], message: str) -> None:
    with pytest.raises(MaskError, match=message):
        convert_mask(write_map(tmp_path / "map.nii.gz", values), tmp_path / "net.json", **options)


def test_maps_on_another_grid_are_refused(tmp_path: Path, bold: Path) -> None:
    oblique = np.eye(4)
    oblique[:2, :2] = [[0.96, -0.28], [0.28, 0.96]]
    shifted, collapsed = np.eye(4), np.diag([1.0, 1, 0, 1])
    shifted[0, 3] = 1
    volume = on_grid(VALUES)
    grids = [(volume[:-1], np.eye(4)), (volume[0], np.eye(4)), (volume.transpose(0, 2, 1), np.eye(4))]
    grids += [(volume, affine) for affine in (oblique, shifted, collapsed, np.diag([2.0, 2, 2, 1]))]
    for number, (values, affine) in enumerate(grids):
        image = nib.Nifti1Image(values, None, nib.Nifti1Header())
        image.header.set_sform(affine, 1)
        path = tmp_path / f"map{number}.nii"
        path.write_bytes(image.header.binaryblock + bytes(4) + values.tobytes("F"))
        with pytest.raises(SpaceError, match=rf"map{number}\.nii: an image"):
            convert_mask(path, tmp_path / "net.json", like=bold, threshold=1)


def test_values_where_no_unit_is_are_refused(tmp_path: Path, bold: Path) -> None:
    volume = on_grid(VALUES)
    volume[:2, 0, 0] = 9
    nib.save(nib.Nifti1Image(volume, np.eye(4)), tmp_path / "map.nii")
    with pytest.raises(MaskError, match="2 voxels that hold no unit"):
        convert_mask(tmp_path / "map.nii", tmp_path / "net.json", like=bold, threshold=5)


def test_one_volume_must_be_named(tmp_path: Path, bold: Path) -> None:
    nib.save(nib.Nifti1Image(np.stack([on_grid(VALUES)] * 3, -1), np.eye(4)), tmp_path / "bucket.nii.gz")
    for volume, message in ((None, "3 volumes.*0 to 2"), (3, "volume 3 .*0 to 2 exist"), (-1, "volume -1 ")):
        with pytest.raises(MaskError, match=message):
            convert_mask(tmp_path / "bucket.nii.gz", tmp_path / "net.json", like=bold, threshold=1, volume=volume)


def test_damaged_files_are_refused_by_name(tmp_path: Path, foreign: Path, bold: Path) -> None:
    whole = foreign.read_bytes()
    corrupted = bytes([*whole[:-8], *(255 - byte for byte in whole[-8:])])  # the checksum
    plain = gzip.decompress(whole)
    contents = {
        "text.nii.gz": b"not an image",
        "text.nii": b"not an image",
        "empty.nii.gz": b"",
        "half.nii.gz": whole[: len(whole) // 2],
        "head.nii.gz": whole[:60],
        "corrupted.nii.gz": corrupted,
        "half.nii": plain[: len(plain) // 2],
        "x+orig.HEAD": b"type = integer-attribute\nname = DATASET_RANK\ncount = 2\n3 1\n",
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(MaskError, match=name.replace("+", r"\+")):
            convert_mask(tmp_path / name, tmp_path / "net.json", like=bold, threshold=1)
    complex_map = nib.Nifti1Image(on_grid(VALUES).astype(np.complex64), np.eye(4))
    nib.save(complex_map, tmp_path / "complex.nii")
    with pytest.raises(MaskError, match="real numbers"):
        convert_mask(tmp_path / "complex.nii", tmp_path / "net.json", like=bold, threshold=1)


def test_missing_and_unknown_files_are_refused(tmp_path: Path, foreign: Path) -> None:
    (tmp_path / "map.png").touch()
    (tmp_path / "nothing.json").write_text('{"Llm2bids": {"Model": "tiny"}}')
    for source, message in (
        (tmp_path / "no.nii.gz", "is no file"),
        (tmp_path, "is no file"),
        (tmp_path / "map.png", "unknown format"),
    ):
        with pytest.raises(MaskError, match=message):
            load_mask(source)
    with pytest.raises(MaskError, match="says of no unit"):
        load_mask(foreign, tmp_path / "nothing.json")
    with pytest.raises(SpaceError, match=r"nothing\.json: a mask without"):
        load_mask(tmp_path / "nothing.json")
    (tmp_path / "list.json").write_text('{"Space": {}, "Units": []}')
    with pytest.raises(MaskError, match=r"list\.json is no mask"):
        load_mask(tmp_path / "list.json")
    (tmp_path / "zstat1.json").write_text("{")
    with pytest.raises(DatasetError, match=r"zstat1\.json cannot be read"):
        convert_mask(foreign, tmp_path / "net.json", threshold=1)


def test_a_map_is_not_read_as_a_mask(zstat: Path) -> None:
    with pytest.raises(MaskError, match="a mask is needed; make one with"):
        load_mask(zstat)


def test_a_list_of_units_has_no_values(tmp_path: Path) -> None:
    (path,) = save_mask(UnitMask.from_units(SPACE, [3]), tmp_path / "net.json")
    for options in ({"threshold": 1.0}, {"top": 0.1}, {"volume": 0}):
        with pytest.raises(MaskError, match="list of units"):
            convert_mask(path, tmp_path / "units.tsv", **options)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_is_there_is_replaced_only_when_told(tmp_path: Path, zstat: Path, suffix: str) -> None:
    target = tmp_path / f"net{suffix}"
    convert_mask(zstat, target, threshold=1)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(MaskError, match="overwrite=True"):
        convert_mask(zstat, target, threshold=2)
    assert before == {path: path.read_bytes() for path in tmp_path.iterdir()}
    convert_mask(zstat, target, threshold=2, overwrite=True)
    assert load_mask(target).n_selected == (VALUES > 2).sum()
    assert set(tmp_path.iterdir()) == set(before)


def test_sources_and_their_sidecars_are_never_replaced(tmp_path: Path, zstat: Path, foreign: Path, bold: Path) -> None:
    sidecar = zstat.with_name(zstat.name.replace(".nii.gz", ".json"))
    like_sidecar = bold.with_name("sub-x_task-a_bold.json")
    table = sidecar.with_suffix(".tsv")
    for source, target in (
        (zstat, zstat),
        (zstat, sidecar),
        (zstat, table),
        (foreign, foreign),
        (foreign, like_sidecar),
    ):
        with pytest.raises(MaskError, match=r"made from; give the target another name, e\.g\. .*_units\."):
            convert_mask(source, target, like=bold, threshold=2, overwrite=True)
    for name in ("net.nii", "net", ".nii.gz", "net.csv"):
        with pytest.raises(MaskError, match="end it with"):
            convert_mask(zstat, tmp_path / name, threshold=2)


def test_a_mask_appears_with_all_its_files_or_not_at_all(
    tmp_path: Path, zstat: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    before = set(tmp_path.iterdir())
    monkeypatch.setattr("llm2bids.masks.files.write_json", full)
    with pytest.raises(MaskError, match=r"cannot be written .No space left"):
        convert_mask(zstat, tmp_path / "net.nii.gz", threshold=2)
    assert set(tmp_path.iterdir()) == before
    with pytest.raises(MaskError, match="cannot be written"):
        convert_mask(zstat, zstat / "net.nii.gz", threshold=2)
