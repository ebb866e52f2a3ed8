"""The page: whole, offline, honest about what was found, and readable for every shape of model."""

from __future__ import annotations

import io
import shutil
from typing import TYPE_CHECKING, Any

import matplotlib.image
import numpy as np
import pandas as pd
import pytest

from llm2bids.bids.dataset import Dataset
from llm2bids.bids.tables import read_json, read_tsv, write_json
from llm2bids.errors import DatasetError
from llm2bids.pages.analysis import write_page
from llm2bids.plots import draw_design_matrix, draw_layers, draw_profile
from llm2bids.plots.pictures import as_png
from llm2bids.preparation import prep
from llm2bids.space import UnitSpace
from llm2bids.statistics import glm

from .html import Page, check_offline, pictures_in

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from llm2bids.recording import Recording


@pytest.fixture(scope="module")
def results(small_dataset: tuple[Path, list[Recording]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tasks with two contrasts each; do not write into it."""
    root = tmp_path_factory.mktemp("page") / "ds"
    shutil.copytree(small_dataset[0], root)
    prep(root, progress=False)
    glm(root, root / "derivatives" / "glm", contrasts=["on - off", "off - on"], progress=False)
    return root / "derivatives" / "glm"


@pytest.fixture
def out(results: Path, tmp_path: Path) -> Dataset:
    """A copy to write into."""
    shutil.copytree(results, tmp_path / "glm")
    return Dataset(tmp_path / "glm", "derivative")


def change(out: Dataset, **fields: Any) -> None:
    """Other fields in the first summary."""
    path = min(out.root.rglob("*_glm.json"))
    summary = read_json(path)
    write_json(path, summary | {"Llm2bids": summary["Llm2bids"] | fields})


def test_the_page_is_whole_and_asks_nothing_of_the_network(results: Path) -> None:
    page = Page(results / "sub-phantom.html")
    check_offline(page)
    alternatives = page.values("img", "alt")
    assert len(alternatives) == len(page.values("img", "src")) == 2 * (2 * 2 + 1)
    assert min(map(len, alternatives)) > 20


def test_links_lead_to_the_contrasts(results: Path) -> None:
    page = Page(results / "sub-phantom.html")
    places = page.values("h3", "id")
    assert len(set(places)) == len(places) == 4
    links = [link.removeprefix("#") for link in page.values("a", "href")]
    assert set(places) <= set(links) <= {attrs["id"] for _, attrs in page.tags if "id" in attrs}


def test_pictures_are_pictures(results: Path) -> None:
    shapes = [picture.shape for picture in pictures_in(Page(results / "sub-phantom.html"))]
    assert min(shape[1] for shape in shapes) > 300
    assert {shape[2] for shape in shapes} == {4}


def test_every_contrast_has_its_numbers(results: Path) -> None:
    page = Page(results / "sub-phantom.html")
    summaries = [read_json(path) for path in sorted(results.rglob("*_glm.json"))]
    assert [summary_fields["Task"] for summary_fields in summaries] == ["medicalimaging", "pathology"]
    for summary in summaries:
        assert f"Task {summary['Task']}, site block" in page.text
        for entry in summary["Found"]:
            share = entry["n_selected"] / entry["n_tested"]
            assert f"{entry['n_selected']} of {entry['n_tested']} units tested ({share:.1%})" in page.text
            assert f"|z| from {entry['threshold']:.2f}" in page.text
            units = read_tsv(next(results.rglob(entry["units"])))
            assert f"The {min(len(units), 15)} strongest units" in page.text
            strongest = units.iloc[0]
            assert f"{strongest['unit']}{strongest['hookpoint']}{strongest['block']}{strongest['channel']}" in page.text
    assert "Model phantom seed0, space L6C128block, runs run-01, run-02." in page.text
    assert "not calibrated" not in page.text


def test_names_cannot_become_markup(out: Dataset) -> None:
    change(out, Model='<b onclick="x">"evil" & co</b>', Revision="</p><script>alert(1)</script>${title}")
    page = Page(write_page(out, "sub-phantom"))
    assert {tag for tag, _ in page.tags} & {"b", "script"} == set()
    assert 'Model <b onclick="x">"evil" & co</b> </p><script>alert(1)</script>${title}, space' in page.text


def test_contrast_names_cannot_become_markup(out: Dataset) -> None:
    path = min(out.root.rglob("*_glm.json"))
    summary = read_json(path)
    summary["Found"][0]["contrast"] = '"><i>on</i>'
    write_json(path, summary)
    page = Page(write_page(out, "sub-phantom"))
    assert "i" not in {tag for tag, _ in page.tags}
    assert 'Contrast "><i>on</i>' in page.text
    assert 'z map of contrast "><i>on</i>, layer by layer' in page.values("img", "alt")


def test_inference_over_tokens_is_warned_of(results: Path, tmp_path: Path) -> None:
    glm(results.parents[1], tmp_path / "new", task_label=["pathology"], inference="token", progress=False)
    page = Page(tmp_path / "new" / "sub-phantom.html")
    assert page.values("p", "class")[0] == "warning"
    assert "Inference over tokens: not calibrated. Tokens of one prompt are not independent" in page.text
    assert len(page.values("h3", "id")) == 1


def test_nothing_found_is_said(results: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"alpha": 1e-200, "correction": "bonferroni", "progress": False}
    glm(results.parents[1], tmp_path / "new", task_label=["pathology"], **options)
    page = Page(tmp_path / "new" / "sub-phantom.html")
    assert "0 of 768 units tested (0.0%) are in the network: sub-phantom" in page.text
    assert "strongest units" not in page.text
    assert len(page.values("img", "src")) == 2


def test_the_page_of_a_group_names_its_models(results: Path, tmp_path: Path) -> None:
    root = tmp_path / "ds"
    shutil.copytree(results.parents[1], root)
    out = root / "derivatives" / "glm"
    group = {"sub-phantom": {"Model": "phantom", "Revision": "seed0"}, "sub-b": {"Model": "<em>", "Revision": None}}
    shutil.copytree(out / "sub-phantom" / "func", out / "group")
    for path in (out / "group").glob("*_glm.json"):
        summary = read_json(path)
        del summary["Runs"]
        summary["Llm2bids"] |= {"Subjects": group, "SubjectsDropped": ["sub-c"]}
        write_json(path, summary)
    page = Page(write_page(Dataset(out, "derivative"), "group"))
    assert "Space L6C128block, 2 subjects: sub-phantom (phantom seed0), sub-b (<em>); left out sub-c." in page.text


def test_a_map_that_cannot_be_read_is_named(out: Dataset) -> None:
    path = min(out.root.rglob("*stat-z_statmap.nii.gz"))
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(DatasetError, match=rf"{path.name} cannot be read .*overwrite=True"):
        write_page(out, "sub-phantom")


def test_six_tasks_fit_into_two_megabytes(results: Path) -> None:
    assert (results / "sub-phantom.html").stat().st_size / 4 * 12 < 2e6


# ---- pictures


SPACES = {
    "large": UnitSpace.uniform("block", [f"h.{n}:out" for n in range(32)], 4096),
    "deep": UnitSpace.uniform("block", [f"h.{n}:out" for n in range(32)], 60),
    "one": UnitSpace.uniform("mlp", ["h.0:out"], 96),
    "unequal": UnitSpace("mlp", tuple(f"h.{n}:out" for n in range(5)), (37, 120, 64, 3, 200)),
    "apart": UnitSpace.uniform("odd", ["transformer.h.0.attn:in", "transformer.h.0.mlp:in", "lm_head:out"], 50),
}


def some_map(space: UnitSpace) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    rng = np.random.default_rng(0)
    network = rng.random(space.n_units) < 0.03
    return rng.normal(size=space.n_units) + 9 * network, network


@pytest.mark.parametrize("name", SPACES)
def test_panels_hold_the_map_and_mark_the_network(name: str) -> None:
    space = SPACES[name]
    z, network = some_map(space)
    figure = draw_layers(z, network, space)
    panels = [axes for axes in figure.axes if axes.images and axes.get_title()]
    assert len(panels) == space.n_hookpoints
    values = np.concatenate(
        [axes.images[0].get_array().ravel()[:width] for axes, width in zip(panels, space.n_channels, strict=True)]
    )
    np.testing.assert_array_equal(values, z)
    dots = [len(line.get_xdata()) for axes in panels for line in axes.lines]
    assert sum(dots) == network.sum()
    hidden = sum(int(np.ma.getmaskarray(axes.images[0].get_array()).sum()) for axes in panels)
    assert hidden == space.n_hookpoints * space.shape[0] * space.shape[1] - space.n_units
    assert len(as_png(figure)) < 6e5


def test_dots_stand_out_from_the_colour_below() -> None:
    space = SPACES["one"]
    z = np.zeros(96)
    z[:5], z[5:10] = 10, 1
    colours = {line.get_color(): line.get_xdata() for line in draw_layers(z, z > 0, space).axes[0].lines}
    assert sorted(colours["white"]) == [0, 1, 2, 3, 4]
    assert sorted(colours["black"]) == [5, 6, 7, 8, 9]


def test_a_few_extreme_units_leave_others_their_colour() -> None:
    space = SPACES["deep"]
    z, network = some_map(space)
    z[7] = 1e4
    assert 5 < draw_layers(z, network, space).axes[0].images[0].get_clim()[1] < 20
    assert draw_layers(np.zeros(space.n_units), network, space).axes[0].images[0].get_clim() == (-1, 1)


@pytest.mark.parametrize("name", SPACES)
def test_bars_are_shares_of_each_hookpoint(name: str) -> None:
    space = SPACES[name]
    _, network = some_map(space)
    (axes,) = draw_profile(network, space).axes
    expected = [100 * part.mean() for part in np.split(network, space.starts()[1:])]
    np.testing.assert_allclose([bar.get_height() for bar in axes.patches], expected)
    assert len(axes.get_xticks()) <= 24


@pytest.mark.parametrize("name", ["deep", "apart"])
def test_labels_do_not_lie_over_each_other(name: str) -> None:
    space = SPACES[name]
    z, network = some_map(space)
    for figure in (draw_layers(z, network, space), draw_profile(network, space)):
        figure.draw_without_rendering()
        texts = [axes.title for axes in figure.axes] + [t for axes in figure.axes for t in axes.get_xticklabels()]
        boxes = [text.get_window_extent() for text in texts if text.get_text() and text.get_visible()]
        overlap = [(first, second) for n, first in enumerate(boxes) for second in boxes[:n] if first.overlaps(second)]
        assert overlap == []


def test_hookpoints_of_one_block_are_told_apart() -> None:
    titles = [axes.get_title() for axes in draw_layers(*some_map(SPACES["apart"]), SPACES["apart"]).axes[:3]]
    assert titles == ["…ormer.h.0.attn:in", "…former.h.0.mlp:in", "lm_head:out"]


@pytest.mark.parametrize(("n_rows", "n_columns"), [(132, 26), (3, 1), (500, 150), (1, 4)])
def test_a_design_is_drawn_in_any_shape(n_rows: int, n_columns: int) -> None:
    matrix = pd.DataFrame(np.random.default_rng(0).normal(size=(n_rows, n_columns)))
    matrix.columns = [f"run-01_drift_{n}" for n in range(n_columns)]
    height, width, _ = matplotlib.image.imread(io.BytesIO(as_png(draw_design_matrix(matrix)))).shape
    assert 250 < height < 700
    assert 400 < width <= 1400
