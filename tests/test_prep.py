"""`prep` on whole datasets: other programs load what it writes; it resumes, replaces, and refuses what is wrong."""

from __future__ import annotations

import gzip
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from warnings import catch_warnings, simplefilter

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from nilearn.glm.first_level import FirstLevelModel, first_level_from_bids
from nilearn.interfaces.fmriprep import load_confounds
from nilearn.maskers import NiftiLabelsMasker
from tokenizers import processors

from llm2bids.bids.dataset import STAGING, Dataset
from llm2bids.bids.history import HISTORY
from llm2bids.bids.nifti import Grid, NiftiWriter, read_scans
from llm2bids.bids.runs import PREPARED, PREPROC, BoldRun, find_runs, frame_times, read_events
from llm2bids.bids.tables import read_json, read_stim, read_tsv, write_bytes, write_json
from llm2bids.design.matrix import token_design
from llm2bids.errors import DatasetError, LLM2BIDSError
from llm2bids.preparation import PrepResult, prep
from llm2bids.preparation.atlas import layer_table
from llm2bids.recording import record
from llm2bids.space import UnitPattern, UnitSpace
from llm2bids.validation import validate

from .families import tiny_subject
from .limits import full_disk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from llm2bids.recording import Recording

SPACE = UnitSpace("block", ("h.0:out", "h.1:out"), (11, 7))
STIM = ["token_id", "position", "surprisal", "entropy"]


# ---- whole datasets


@pytest.fixture(scope="module")
def prepared(
    small_dataset: tuple[Path, list[Recording]], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[PrepResult]]:
    """The phantom's two tasks, prepared; do not write into it."""
    root = tmp_path_factory.mktemp("prepared") / "ds"
    shutil.copytree(small_dataset[0], root)
    return root, prep(root, progress=False)


@pytest.fixture(scope="module")
def varied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A second subject that reads in two sessions, two sites, each text from position 0; prepared."""
    root = tmp_path_factory.mktemp("varied") / "ds"
    design = {"task": "pathology", "runs": 1, "blocks": 2, "prompts_per_block": 2, "tokens": 5, "progress": False}
    record(root, **design)
    tiny = tiny_subject("gpt2")
    tiny.tokenizer.backend_tokenizer.post_processor = processors.ByteLevel()
    record(root, tiny, subject="tiny", mode="read", sites=["block", "mlp"], sessions=2, **design)
    prep(root, progress=False)
    return root


@pytest.fixture
def raw(small_dataset: tuple[Path, list[Recording]], tmp_path: Path) -> Path:
    """The phantom's two tasks, to write into."""
    shutil.copytree(small_dataset[0], tmp_path / "ds")
    return tmp_path / "ds"


def files_of(root: Path) -> dict[str, bytes]:
    """All files by name, but those that are being written, and histories, which say in which folder they were made."""
    contents = {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}
    return {name: content for name, content in contents.items() if STAGING not in name and HISTORY not in name}


def test_an_effect_of_prepared_volumes_goes_back_to_raw_activation_exactly(
    prepared: tuple[Path, list[PrepResult]],
) -> None:
    root, results = prepared
    result = results[0]
    assert result.n_clipped == 0
    mean, sd, mask = (
        nib.load(next(path for path in result.files if path.name.endswith(ending)))
        for ending in ("_stat-mean_statmap.nii.gz", "_stat-sd_statmap.nii.gz", "_desc-brain_mask.nii.gz")
    )
    run = BoldRun(root / PREPARED, result.bold)
    events = read_events(next(root.glob("sub-*/func/*task-medicalimaging*run-01_events.tsv")), run.n_scans * run.t_r)
    design = token_design(events, frame_times(run.n_scans, run.t_r), ["on", "off"]).drop(columns="constant")
    model = FirstLevelModel(mask_img=mask, noise_model="ols", signal_scaling=False, minimize_memory=False)
    with catch_warnings():
        simplefilter("ignore", RuntimeWarning)  # nilearn says that it uses the mask it was given
        cope = model.fit(result.bold, design_matrices=design).compute_contrast(
            np.array([1, -1]), output_type="effect_size"
        )
    pattern = UnitPattern.from_image(cope, run.space, scale=sd, one_sd=run.metadata["OneStandardDeviation"])

    raw = nib.load(root / run.folder / result.bold.name.replace("_space-L6C128block_desc-preproc", ""))
    signals = run.space.to_signals(raw).astype(np.float64)
    on = design["trial_type.on"].to_numpy() > 0
    effect = signals[on].mean(0) - signals[~on].mean(0)
    varies = run.space.to_signals(mask) > 0
    error = np.abs(pattern.directions()[0] - effect)[varies] / run.space.to_signals(sd)[varies]
    assert error.max() < 1e-5, "rounding of volumes in single precision at a baseline of 10000"
    np.testing.assert_allclose(run.space.to_signals(mean), signals.mean(0), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(run.space.to_signals(sd)[varies], signals.std(0)[varies], rtol=1e-6)


def test_everything_promised_is_written_and_the_recording_stays(
    small_dataset: tuple[Path, list[Recording]], prepared: tuple[Path, list[PrepResult]]
) -> None:
    before, after = files_of(small_dataset[0]), files_of(prepared[0])
    assert {name: after.pop(name) for name in before} == before
    suffixes = ["space-L6C128block_desc-preproc_bold", "space-L6C128block_desc-brain_mask", "desc-confounds_timeseries"]
    suffixes += ["space-L6C128block_stat-mean_statmap", "space-L6C128block_stat-sd_statmap"]
    runs = [run for run in find_runs(prepared[0]) if run.root == prepared[0]]
    expected = {f"sub-phantom/func/{run.name}_{suffix}.json" for run in runs for suffix in suffixes}
    expected |= {name.replace("json", "tsv" if "timeseries" in name else "nii.gz") for name in expected}
    expected |= {f"tpl-L6C128block/anat/tpl-L6C128block_atlas-layers_dseg.{end}" for end in ("nii.gz", "tsv", "json")}
    expected |= {"dataset_description.json", "README.md", ".bidsignore", "atlas-layers_description.json"}
    assert set(after) == {f"derivatives/llm2bids/{name}" for name in expected}


@pytest.mark.parametrize("which", ["prepared", "varied"])
def test_the_official_validator_finds_nothing(which: str, request: pytest.FixtureRequest) -> None:
    dataset = request.getfixturevalue(which)
    root = dataset if isinstance(dataset, Path) else dataset[0]
    validations = validate(root)
    assert [validation.root.name for validation in validations] == ["ds", "llm2bids", "phantom"]
    assert [(validation.n_errors, validation.n_warnings) for validation in validations] == [(0, 0)] * 3, [
        v.summary() for v in validations
    ]


def test_all_subjects_sessions_and_sites_are_prepared_alike(varied: Path) -> None:
    names = [run.name for run in find_runs(varied / PREPARED, desc=PREPROC)]
    assert names == [run.name for run in find_runs(varied)]
    assert len(names) == 5
    for run in find_runs(varied / PREPARED, desc=PREPROC):
        signals = run.space.to_signals(nib.load(run.bold))
        mask = run.space.to_signals(nib.load(run.beside("mask.nii.gz", desc="brain"))).astype(bool)
        assert np.array_equal(mask, signals.std(0) > 0)
        np.testing.assert_allclose(signals[:, mask].mean(0, dtype=np.float64), 10000, atol=1e-2)
        np.testing.assert_allclose(signals[:, mask].std(0, dtype=np.float64), 100, atol=1e-2)
        assert (run.metadata["NumberOfScans"], run.metadata["NumberVarying"]) == (len(signals), mask.sum())


def test_confounds_tell_what_was_recorded_of_each_token(varied: Path) -> None:
    runs = find_runs(varied, subjects=["tiny"])
    stims = {run.name: read_stim(run.beside("stim.tsv.gz"), STIM) for run in runs}
    ids = np.concatenate([stims[run.name]["token_id"] for run in runs if run.entities["acq"] == "mlp"])
    for run in runs:
        derived = BoldRun(varied / PREPARED, varied / PREPARED / run.folder / run.beside("bold.nii.gz").name)
        path = derived.beside("timeseries.tsv", desc="confounds")
        table, tokens = pd.read_csv(path, sep="\t"), stims[run.name]
        assert list(read_json(path.with_suffix(".json"))) == list(table)
        assert np.isfinite(table).all(axis=None)
        share = [(ids == token).mean() for token in tokens["token_id"]]
        np.testing.assert_allclose(10 ** table["tok_log_frequency"], share, rtol=1e-4)
        assert (table["tok_position"] == tokens["position"]).all()
        predicted = tokens["surprisal"].notna()
        np.testing.assert_allclose(table["tok_surprisal"][predicted], tokens["surprisal"][predicted], rtol=1e-5)
        np.testing.assert_allclose(table["tok_entropy"][~predicted], tokens["entropy"].mean(), rtol=1e-5)
        preproc = derived.beside("bold.nii.gz", space=run.space.label, desc=PREPROC)
        signals = run.space.to_signals(nib.load(preproc))
        np.testing.assert_allclose(table["global_signal"], signals.mean(1, dtype=np.float64), rtol=1e-5)


def test_nilearn_leaves_out_scans_at_position_0(varied: Path) -> None:
    run = find_runs(varied / PREPARED, subjects=["tiny"], desc=PREPROC)[0]
    table = read_tsv(run.beside("timeseries.tsv", space=None, desc="confounds"))
    position = table["tok_position"].astype(int).to_numpy()
    loaded, scans = load_confounds(str(run.bold), strategy=("high_pass", "global_signal"), global_signal="basic")
    assert (position == 0).sum() == len(read_tsv(next(varied.glob(f"sub-tiny/ses-01/func/{run.name}_events.tsv"))))
    assert scans.tolist() == np.flatnonzero(position).tolist()
    assert {*loaded} == {"global_signal", *(name for name in table if name.startswith("cosine"))}


@pytest.mark.filterwarnings("ignore:.*Given mask will be used:RuntimeWarning")  # nilearn's, of its own masker
def test_nilearn_loads_and_analyses_the_derivative(prepared: tuple[Path, list[PrepResult]]) -> None:
    root = prepared[0]
    first = find_runs(root / PREPARED, tasks=["pathology"], desc=PREPROC)[0]
    mask = nib.load(first.beside("mask.nii.gz", desc="brain"))
    models, (images,), (events,), (tables,) = first_level_from_bids(
        root,
        "pathology",
        space_label=first.space.label,
        derivatives_folder=str(PREPARED),
        sub_labels=["phantom"],
        hrf_model=None,
        signal_scaling=False,
        drift_model=None,
        noise_model="ols",
        mask_img=mask,
    )
    assert (len(models), models[0].slice_time_ref, models[0].t_r, len(images)) == (1, 0.5, 1.0, 2)
    on = events[0].loc[events[0]["trial_type"] == "on", ["onset", "duration", "trial_type"]]
    model = models[0].fit(images[0], on, tables[0])
    effect = model.compute_contrast("on", output_type="effect_size")
    raw_events = read_events(root / first.folder / f"{first.name}_events.tsv", 50)
    matrix = token_design(raw_events, frame_times(50, 1.0), ["on"], tables[0])
    signals = first.space.to_signals(nib.load(first.bold)).astype(np.float64)
    length = np.linalg.norm(matrix, axis=0)
    betas = np.linalg.lstsq(matrix.to_numpy() / length, signals, rcond=None)[0] / length[:, np.newaxis]
    assert matrix.columns[0] == "trial_type.on"
    np.testing.assert_allclose(first.space.to_signals(effect), betas[0], atol=0.01)


def test_atlas_gives_means_of_layers(prepared: tuple[Path, list[PrepResult]]) -> None:
    run = find_runs(prepared[0] / PREPARED, desc=PREPROC)[0]
    atlas = prepared[0] / PREPARED / run.sidecar["SpatialReference"].removeprefix("bids::")
    table = read_tsv(atlas.with_name(atlas.name.replace("nii.gz", "tsv")))
    assert table["name"].tolist() == [f"block {number}" for number in range(6)]
    means = NiftiLabelsMasker(str(atlas), standardize=None).fit_transform(str(run.bold))
    signals = run.space.to_signals(nib.load(run.bold)).reshape(run.n_scans, 6, 128)
    np.testing.assert_allclose(means, signals.mean(2, dtype=np.float64), rtol=1e-6)
    assert np.unique(nib.load(atlas).get_fdata()).tolist() == [0, *table["index"].astype(int)]


def test_layers_of_one_block_are_told_apart_and_places_outside_have_no_number() -> None:
    table = layer_table(UnitSpace("own", ("embed:out", "h.0.a:out", "h.0.b:in", "h.3:out"), (4, 5, 5, 6)))
    assert table.to_dict("list") == {
        "index": [1, 2, 3, 4],
        "name": ["own -1", "h.0.a:out", "h.0.b:in", "own 3"],
        "block": ["n/a", 0, 0, 3],
        "n_units": [4, 5, 5, 6],
    }


def test_several_processes_write_the_same_bytes(prepared: tuple[Path, list[PrepResult]], raw: Path) -> None:
    results = prep(raw, task_label=["pathology"], n_jobs=2, progress=False)
    names = [run.name for run in find_runs(raw, tasks=["pathology"])]
    assert [result.bold.name.partition("_space-")[0] for result in results] == names
    alone = files_of(prepared[0])
    contents = {name: content for name, content in files_of(raw / PREPARED).items() if "medicalimaging" not in name}
    assert contents == {name: alone[f"{PREPARED}/{name}"] for name in contents}
    assert len(contents) == 2 * 10 + 7


def test_repetition_time_is_that_of_the_recording(raw: Path) -> None:
    for run in find_runs(raw, tasks=["pathology"]):
        write_json(run.beside("bold.json"), run.sidecar | {"RepetitionTime": 2.0})
    first = prep(raw, task_label=["pathology"], progress=False)[0]
    sidecar = read_json(first.bold.with_name(first.bold.name.replace("nii.gz", "json")))
    assert (sidecar["RepetitionTime"], sidecar["StartTime"]) == (2.0, 1.0)
    assert nib.load(first.bold).header.get_zooms()[3] == 2.0


# ---- what is there already


@contextmanager
def unchanged(root: Path) -> Iterator[None]:
    """No file is replaced meanwhile."""

    def files() -> dict[Path, int]:
        return {path: path.stat().st_ino for path in root.rglob("*") if path.is_file() and STAGING not in path.parts}

    before = files()
    yield
    assert files() == before


def test_what_is_there_stays_unless_asked_otherwise(raw: Path) -> None:
    first = prep(raw, progress=False)
    with unchanged(raw):
        with pytest.raises(
            DatasetError, match="exists already; go on with resume=True, or replace it with overwrite=True"
        ):
            prep(raw, progress=False)
        with pytest.raises(DatasetError, match="both resume=True and overwrite=True"):
            prep(raw, resume=True, overwrite=True)
        again = prep(raw, resume=True, progress=False)
    assert all(result.skipped for result in again)
    assert [(result.bold, result.n_scans, result.n_units, result.n_varying, result.n_clipped) for result in again] == [
        (result.bold, result.n_scans, result.n_units, result.n_varying, result.n_clipped) for result in first
    ]
    before, inode = files_of(raw), first[0].bold.stat().st_ino
    assert prep(raw, overwrite=True, progress=False) == first
    assert (files_of(raw), first[0].bold.stat().st_ino == inode) == (before, False)


def test_resume_prepares_what_is_missing(raw: Path) -> None:
    first = prep(raw, task_label=["task-pathology"], progress=False)
    mask = first[0].bold.with_name(first[0].bold.name.replace("preproc_bold", "brain_mask"))
    complete = mask.read_bytes()
    mask.unlink()
    everything = prep(raw, resume=True, progress=False)
    assert [result.skipped for result in everything] == [False, False, False, True]
    assert mask.read_bytes() == complete


@pytest.mark.parametrize("suffix", ["bold.json", "events.tsv"])
def test_resume_refuses_what_was_recorded_anew(raw: Path, suffix: str) -> None:
    prep(raw, progress=False)
    run = find_runs(raw)[0]
    path = run.beside(suffix)
    before = path.read_bytes()
    path.write_bytes(before.replace(b'"Seed": 0', b'"Seed": 1').replace(b"off", b"rest"))
    assert path.read_bytes() != before
    with unchanged(raw), pytest.raises(DatasetError, match=f"{run.name} was prepared from another recording or events"):
        prep(raw, resume=True, progress=False)
    prep(raw, overwrite=True, progress=False)
    assert all(result.skipped for result in prep(raw, resume=True, progress=False))


def test_a_recording_of_another_geometry_replaces_the_old_one_whole(tmp_path: Path) -> None:
    root, settings = tmp_path / "ds", {"subject": "tiny", "mode": "read", "task": "pathology", "runs": 1, "blocks": 2}
    record(root, tiny_subject("gpt2"), progress=False, **settings)
    (old,) = prep(root, progress=False)
    record(root, tiny_subject("gpt2", n_embd=32), overwrite=True, progress=False, **settings)
    with unchanged(root), pytest.raises(DatasetError, match="was prepared from another recording or events"):
        prep(root, resume=True, progress=False)
    with unchanged(root), pytest.raises(DatasetError, match="exists already"):
        prep(root, progress=False)
    (new,) = prep(root, overwrite=True, progress=False)
    assert [run.bold for run in find_runs(root / PREPARED, desc=PREPROC)] == [new.bold]
    assert {path.name.partition("_space-")[2][:3] for path in old.bold.parent.glob("*_space-*")} == {"L3C"}
    assert not list(old.bold.parent.glob(f"*_space-{old.bold.name.partition('_space-')[2].partition('_')[0]}_*"))


def test_a_run_that_another_process_writes_is_refused(raw: Path) -> None:
    run = find_runs(raw)[1]
    with (
        Dataset(raw / PREPARED, "derivative").stage(run.name) as stage,
        pytest.raises(DatasetError, match=f"{run.name} is being written by another process; wait for it"),
    ):
        write_bytes(stage / "func" / "half", b"")
        prep(raw, progress=False)
    assert len(prep(raw, resume=True, progress=False)) == 4


def test_what_a_killed_process_left_is_removed_or_finished(raw: Path, prepared: tuple[Path, list[PrepResult]]) -> None:
    out, (half, ready) = raw / PREPARED, [run.name for run in find_runs(raw)[:2]]
    write_bytes(out / STAGING / half / "sub-phantom" / "func" / f"{half}_desc-preproc_bold.nii.gz", b"half")
    complete = prepared[0] / PREPARED / "sub-phantom" / "func"
    for path in complete.glob(f"{ready}_*"):
        write_bytes(out / STAGING / ready / "sub-phantom" / "func" / path.name, path.read_bytes())
    (out / STAGING / ready / "READY").touch()
    assert [result.skipped for result in prep(raw, resume=True, progress=False)] == [False, True, False, False]
    assert files_of(out) == files_of(prepared[0] / PREPARED)
    assert [path.name for path in (out / STAGING).iterdir()] == ["lock"]


def test_a_full_disk_is_told_in_one_line_and_leaves_no_half_run(raw: Path) -> None:
    with full_disk(1 << 14), pytest.raises(DatasetError, match=r"preproc_bold.nii.gz could not be written \(File too"):
        prep(raw, progress=False)
    assert not list(raw.glob(f"{PREPARED}/sub-*/**/*.*"))
    assert not any(result.skipped for result in prep(raw, resume=True, progress=False))


# ---- what is wrong with a recording


def first_run(root: Path) -> BoldRun:
    """The first recording."""
    return find_runs(root)[0]


def flip(path: Path) -> None:
    """Change one byte in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def change_sidecar(root: Path, **fields: Any) -> None:
    """Change what the first sidecar says, our own part of it included."""
    run = first_run(root)
    metadata = run.metadata | fields.pop("own", {})
    write_json(run.beside("bold.json"), run.sidecar | {"Llm2bids": metadata} | fields)


def break_scan(root: Path) -> None:
    """Put NaN into one scan of the first run."""
    run = first_run(root)
    volumes = np.concatenate(list(read_scans(run.bold)))
    volumes[3, 2, 0, 0] = np.nan
    with NiftiWriter(run.bold, Grid(run.space.shape, run.space.affine)) as writer:
        writer.append(volumes)


SPOILT: dict[str, tuple[Callable[[Path], object], str]] = {
    "flipped": (lambda root: flip(first_run(root).bold), "truncated or corrupted; record or prepare it again"),
    "truncated": (
        lambda root: first_run(root).bold.write_bytes(first_run(root).bold.read_bytes()[:-2000]),
        "truncated or corrupted",
    ),
    "missing volume": (lambda root: [path.unlink() for path in root.glob("sub-*/func/*_bold.nii.gz")], "no bold files"),
    "empty volume": (lambda root: first_run(root).bold.write_bytes(b""), "is no NIfTI-1 file"),
    "NaN": (break_scan, "nan found in .*, scan 3, unit 128"),
    "no sidecar": (lambda root: first_run(root).beside("bold.json").unlink(), "bold.json cannot be read"),
    "no TR": (lambda root: change_sidecar(root, RepetitionTime=None), "RepetitionTime is None"),
    "not ours": (lambda root: change_sidecar(root, Llm2bids={}), "no Llm2bids.UnitSpace"),
    "scans": (lambda root: change_sidecar(root, own={"NumberOfScans": 49}), "has 50 scans, its sidecar says otherwise"),
    "grid": (
        lambda root: change_sidecar(root, own={"UnitSpace": SPACE.to_json()}),
        r"has \(16, 8, 8\) voxels, \(4, 3, 4\) needed for L2C11w.*block; record it again",
    ),
    "no stim": (lambda root: first_run(root).beside("stim.tsv.gz").unlink(), "stim.tsv.gz cannot be read"),
    "short stim": (
        lambda root: first_run(root).beside("stim.tsv.gz").write_bytes(gzip.compress(b"1\t1\t1\t1\n")),
        "stim.tsv.gz has 1 rows, .* 50 scans",
    ),
    "no columns": (lambda root: (root / "task-medicalimaging_stim.json").write_text("{}"), "names no token columns"),
    "no events": (lambda root: first_run(root).beside("events.tsv").unlink(), "events.tsv cannot be read"),
    "late events": (
        lambda root: first_run(root).beside("events.tsv").write_bytes(b"onset\tduration\n49\t2\n"),
        "line 2: an event of 2 s at 49 s lies outside the run, which lasts 50 s",
    ),
    "twice": (
        lambda root: first_run(root).bold.with_suffix("").write_bytes(b""),
        "found both as it is and compressed; remove one",
    ),
}


@pytest.mark.parametrize("name", SPOILT)
def test_a_recording_that_is_wrong_is_refused_and_nothing_of_it_prepared(raw: Path, name: str) -> None:
    spoil, telling = SPOILT[name]
    spoil(raw)
    with pytest.raises(LLM2BIDSError, match=telling) as refused:
        prep(raw, progress=False)
    assert "\n" not in str(refused.value)
    assert not list(raw.glob(f"{PREPARED}/sub-*/**/*.*"))


def test_runs_that_were_complete_stay_where_a_later_one_is_wrong(raw: Path) -> None:
    flip(find_runs(raw)[2].bold)
    with pytest.raises(DatasetError, match="truncated or corrupted"):
        prep(raw, progress=False)
    done = find_runs(raw / PREPARED, desc=PREPROC)
    assert [run.name for run in done] == [run.name for run in find_runs(raw)[:2]]


@pytest.mark.parametrize(
    ("options", "telling"),
    [
        ({"participant_label": ["gpt2"]}, "sub-gpt2 not found in .*; there are phantom"),
        ({"task_label": ["rest"]}, "task-rest not found in .*; there are medicalimaging, pathology"),
        ({"sites": ["mlp"]}, "acq-mlp not found in .*; there are block"),
        ({"n_jobs": 0}, "0 processes found"),
    ],
)
def test_what_is_not_there_is_refused_by_name(
    small_dataset: tuple[Path, list[Recording]], options: dict[str, Any], telling: str
) -> None:
    before = files_of(small_dataset[0])
    with pytest.raises(DatasetError, match=telling):
        prep(small_dataset[0], progress=False, **options)
    assert files_of(small_dataset[0]) == before


def test_other_folders_are_refused(prepared: tuple[Path, list[PrepResult]], tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"has no dataset_description.json, so it is no BIDS dataset"):
        prep(tmp_path)
    with pytest.raises(DatasetError, match="is a derivative; prep reads a raw dataset"):
        prep(prepared[0] / PREPARED)
    write_bytes(tmp_path / PREPARED / "notes.txt", b"")
    write_json(tmp_path / "dataset_description.json", {"Name": "x"})
    shutil.copytree(prepared[0] / "sub-phantom", tmp_path / "sub-phantom")
    with pytest.raises(DatasetError, match=r"llm2bids holds files but no dataset_description.json"):
        prep(tmp_path)
