"""Pictures: what is drawn is what was given, nothing lies over anything else, many fit as well as one."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.text import Text

from llm2bids import plots
from llm2bids.plots import draw_activity, draw_carpet, draw_connectivity, draw_design, draw_overlap, draw_sizes
from llm2bids.plots.design import OTHERS, shorten, style_conditions
from llm2bids.plots.layers import label_layers
from llm2bids.space import UnitSpace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from matplotlib.axes import Axes
    from matplotlib.transforms import Bbox

DEEP = UnitSpace.uniform(
    "odd", [f"model.layers.{n}.{kind}_projection:in" for n in range(24) for kind in ("attention", "mlp_down")], 64
)
FEW = UnitSpace("mlp", ("h.0:out", "h.1:out", "h.2:out"), (4, 6, 5))
ONE = UnitSpace.uniform("odd", ["lm_head:out"], 12)


def events_of(n_events: int, names: list[str], length: float = 3.0) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "onset": np.arange(n_events) * length,
            "duration": length - 1,
            "trial_type": [names[number % len(names)] for number in range(n_events)],
        }
    )


def out_of_view(figure: Figure) -> Iterator[Text]:
    """Labels of ticks that no axis shows."""
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            for tick in [*axis.get_major_ticks(), *axis.get_minor_ticks()]:
                if not axes.get_visible() or not low <= tick.get_loc() <= high:
                    yield from (tick.label1, tick.label2)


def boxes_of(figure: Figure) -> list[tuple[str, Bbox]]:
    """Every text that is seen, and where."""
    figure.draw_without_rendering()
    hidden = {id(text) for text in out_of_view(figure)}
    hidden |= {id(text) for axes in figure.axes if not axes.get_visible() for text in axes.findobj(Text)}
    texts = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]
    return [(text.get_text(), text.get_window_extent()) for text in texts if id(text) not in hidden]


def check_texts(figure: Figure) -> list[str]:
    """No text lies over another or beyond the edge."""
    boxes = boxes_of(figure)
    over = [(text_a, text_b) for n, (text_a, a) in enumerate(boxes) for text_b, b in boxes[:n] if a.overlaps(b)]
    assert over == []
    width, height = figure.bbox.size
    beyond = [text for text, box in boxes if min(box.x0, box.y0) < -1 or box.x1 > width + 1 or box.y1 > height + 1]
    assert beyond == []
    return [text for text, _ in boxes]


def spans(axes: Axes) -> dict[str, list[tuple[float, float]]]:
    """First and last scan of what is drawn, by colour."""
    by_colour: dict[str, list[tuple[float, float]]] = {}
    for collection in axes.collections:
        boxes = [path.get_extents() for path in collection.get_paths()]
        by_colour.setdefault(to_hex(collection.get_facecolor()[0]), []).extend((box.x0, box.x1) for box in boxes)
    return by_colour


def test_everything_that_draws_is_listed() -> None:
    assert sorted(plots.__all__) == [name for name in dir(plots) if name.startswith("draw_")]
    assert all(f"`{name}`" in (plots.__doc__ or "") for name in plots.__all__)
    returned = {inspect.signature(getattr(plots, name)).return_annotation for name in plots.__all__}
    assert returned == {"Figure"}


# ---- design


def test_events_lie_at_their_scans() -> None:
    events = pd.DataFrame({"onset": [0.0, 4.0, 8.0], "duration": [4.0, 4.0, 2.0], "trial_type": ["off", "on", "off"]})
    figure = draw_design({"run-01": events}, t_r=2.0)
    (axes,) = figure.axes
    assert spans(axes) == {"#dcdcdc": [(0, 2), (4, 5)], "#0072b2": [(2, 4)]}
    assert axes.get_xlim() == (0, 5)
    assert {"run-01", "off", "on"} <= set(check_texts(figure))


def test_every_prompt_has_borders() -> None:
    (axes,) = draw_design({"run-01": events_of(6, ["on"], 4)}).axes
    (boxes,) = axes.collections
    assert len(boxes.get_paths()) == 6
    assert to_hex(boxes.get_edgecolor()[0]) == "#ffffff"
    assert 0.5 < boxes.get_linewidth()[0] <= 1
    (axes,) = draw_design({"run-01": events_of(600, ["on"])}).axes
    assert axes.collections[0].get_linewidth()[0] < 0.3  # of about one point each


@pytest.mark.parametrize(("n_runs", "names"), [(24, ["off", "on"]), (3, [f"c{n}" for n in range(20)]), (1, ["n/a"])])
def test_designs_of_any_size(n_runs: int, names: list[str]) -> None:
    runs = {f"medicalimaging run-{n:02d}": events_of(40, names) for n in range(n_runs)}
    figure = draw_design(runs)
    assert {*runs, *names} <= set(check_texts(figure))
    assert sum(len(collection.get_paths()) for collection in figure.axes[0].collections) == 40 * n_runs


def test_conditions_look_different() -> None:
    styles = style_conditions([*(f"c{n}" for n in range(28)), "off"])
    assert len({tuple(look.items()) for look in styles.values()}) == 29
    assert styles["off"]["facecolor"] == "#dcdcdc"


def test_rare_conditions_share_a_look_where_there_are_too_many() -> None:
    styles = style_conditions([*(f"c{n:02d}" for n in range(40)), *(f"c{n:02d}" for n in range(20, 40))])
    assert len(styles) == 29
    assert {f"c{n}" for n in range(20, 40)} < set(styles)
    figure = draw_design({"run-01": events_of(80, [f"a_rather_long_condition_{n:02d}" for n in range(40)])})
    assert OTHERS in check_texts(figure)
    assert len(spans(figure.axes[0])["#8c8c8c"]) == 24  # of 12 conditions


@pytest.mark.parametrize(("name", "longest"), [("abcdefghij", 5), ("abcdefghij", 6), ("abc", 3)])
def test_names_are_shortened_in_the_middle(name: str, longest: int) -> None:
    short = shorten(name, longest)
    assert len(short) == longest
    assert short[0] + short[-1] == name[0] + name[-1]


# ---- carpet


def some_carpet(n_layers: int, per_layer: int, n_columns: int) -> tuple[np.ndarray, np.ndarray]:
    values = np.random.default_rng(0).normal(size=(n_layers * per_layer, n_columns)).astype(np.float32)
    return values, np.repeat(np.arange(n_layers), per_layer)


def test_a_carpet_shows_units_confounds_and_design_over_the_same_scans() -> None:
    values, layers = some_carpet(3, 5, 20)
    values[7], values[2, 3] = np.nan, 50
    confounds = pd.DataFrame({"global_signal": np.linspace(9966, 10047, 40), "tok_entropy": [np.nan, *range(39)]})
    figure = draw_carpet(values, layers, ["block 0", "block 1", "block 2"], confounds, events_of(12, ["off", "on"]))
    first, second, strip, carpet = figure.axes[:4]
    np.testing.assert_array_equal(first.lines[0].get_ydata(), confounds["global_signal"])
    np.testing.assert_array_equal(second.lines[0].get_xdata(), np.arange(40) + 0.5)
    (image,) = carpet.images
    np.testing.assert_array_equal(image.get_array().filled(np.nan), values)
    assert image.get_extent() == [0, 40, 15, 0]
    low, high = image.get_clim()
    assert -low == high < 10  # one extreme value leaves others their colour
    (lines,) = carpet.collections
    assert [path.vertices[0][1] for path in lines.get_paths()] == [5, 10]
    assert dict(zip([t.get_text() for t in carpet.get_yticklabels()], carpet.get_yticks(), strict=True)) == {
        "block 0": 2.5,
        "block 1": 7.5,
        "block 2": 12.5,
    }
    assert sum(map(len, spans(strip).values())) == 12
    texts = check_texts(figure)
    assert {"global_signal", "tok_entropy", "shown", "off", "on", "10,047\n9,966", "38\n0"} <= set(texts)
    assert len({axes.get_position().x0 for axes in figure.axes[:4]}) == 1


def test_a_carpet_of_many_layers_with_long_names() -> None:
    names = label_layers(DEEP.blocks, DEEP.hookpoints)
    confounds = pd.DataFrame({f"a_confound_with_a_long_name_{n}": np.arange(50) / 7e5 for n in range(4)})
    events = events_of(15, [f"condition_{n:02d}" for n in range(15)])
    figure = draw_carpet(*some_carpet(48, 2, 50), names, confounds, events)
    assert len(figure.axes[5].get_yticklabels()) == 24
    assert names[2] in check_texts(figure)


def test_a_carpet_of_one_layer_and_nothing_else() -> None:
    values = np.full((2, 7), np.nan, np.float32)
    figure = draw_carpet(values, np.zeros(2, int), ["lm_head:out"], pd.DataFrame(index=range(7)))
    assert figure.axes[0].images[0].get_clim() == (-0.5, 0.5)
    assert "lm_head:out" in check_texts(figure)
    figure = draw_carpet(values, np.zeros(2, int), ["x"], pd.DataFrame({"empty": [np.nan] * 7}))
    assert "n/a" in check_texts(figure)


# ---- activity


def activity_of(space: UnitSpace, **columns: object) -> pd.DataFrame:
    rng = np.random.default_rng(1)
    names = ("mean", "magnitude", "magnitude_median", "variance", "variance_median")
    fields = {"hookpoint": space.hookpoints, "block": space.blocks} | {
        name: rng.lognormal(size=space.n_hookpoints) for name in names
    }
    return pd.DataFrame(fields | columns)


def massive_of(space: UnitSpace, units: list[tuple[int, int, float, float]]) -> pd.DataFrame:
    table = pd.DataFrame(units, columns=["place", "channel", "magnitude", "ratio"])
    return table.assign(hookpoint=[space.hookpoints[place] for place in table["place"]])


def test_activity_is_drawn_layer_by_layer_and_massive_units_are_named() -> None:
    table = activity_of(FEW, variance=[2.0, 0.0, np.nan])
    massive = massive_of(FEW, [(2, 3, 900.0, 412.4), (1, 3, 700.0, 300.0), (0, 1, 80.0, 120.0)])
    figure = draw_activity(table, massive)
    mean, magnitude, variance = figure.axes
    np.testing.assert_array_equal(mean.lines[1].get_ydata(), table["mean"])
    np.testing.assert_array_equal(variance.lines[0].get_ydata(), [2, np.nan, np.nan])
    assert [axes.get_yscale() for axes in figure.axes] == ["linear", "log", "log"]
    shared, alone = magnitude.lines[2:]
    assert (list(shared.get_xdata()), list(shared.get_ydata())) == ([2, 1], [900, 700])
    assert (list(alone.get_xdata()), list(alone.get_ydata())) == ([0], [80])
    texts = check_texts(figure)
    assert "block 2, channel 3: ×412 (massive in 2 layers)" in texts
    assert "block 0, channel 1: ×120" in texts


@pytest.mark.parametrize("space", [ONE, DEEP], ids=["one", "deep"])
def test_activity_of_few_and_many_layers(space: UnitSpace) -> None:
    none = massive_of(space, [])
    check_texts(draw_activity(activity_of(space), none))
    check_texts(draw_activity(activity_of(space, magnitude=np.nan, variance=np.nan), none))
    units = [(n % space.n_hookpoints, n, 900.0 - n, 500.0 - n) for n in range(11)]
    texts = check_texts(draw_activity(activity_of(space), massive_of(space, units)))
    assert "5 more massive channels" in texts
    assert any(text.endswith("channel 5: ×495") for text in texts)


def test_layers_keep_what_tells_them_apart() -> None:
    names = label_layers(DEEP.blocks, DEEP.hookpoints)
    assert len(set(names)) == 48
    assert names[46].startswith("23.att")
    assert label_layers(FEW.blocks, FEW.hookpoints) == ["block 0", "block 1", "block 2"]
    assert label_layers([-1, -1], ["a.b", "a.b.c"]) == ["b", "b.c"]


# ---- sizes


def test_sizes_are_shares_on_one_scale() -> None:
    selected = np.zeros((2, FEW.n_units), bool)
    selected[0, [0, 4, 5, 14]] = True
    figure = draw_sizes({"pathology": selected[0], "nothing": selected[1]}, FEW)
    full, empty = figure.axes
    np.testing.assert_allclose([bar.get_height() for bar in full.patches], [25, 100 / 3, 20])
    assert full.get_ylim() == empty.get_ylim() == (0, 35)
    assert {"pathology: 4 units", "nothing: 0 units", "no unit"} <= set(check_texts(figure))


@pytest.mark.parametrize("n_tasks", [1, 3, 4, 8])
@pytest.mark.parametrize("space", [ONE, DEEP], ids=["one", "deep"])
def test_sizes_of_few_and_many_tasks(n_tasks: int, space: UnitSpace) -> None:
    chosen = np.random.default_rng(2).random((n_tasks, space.n_units)) < 0.2
    networks = {f"a task with a name that is much too long {n}": network for n, network in enumerate(chosen)}
    figure = draw_sizes(networks, space)
    assert sum(axes.get_visible() for axes in figure.axes) == n_tasks
    titles = [text for text in check_texts(figure) if text.endswith(" units")]
    assert len(titles) == n_tasks


CASES: dict[str, Callable[[], Figure]] = {
    "draw_design": lambda: draw_design({"run-01": events_of(4, ["off", "on"])}),
    "draw_carpet": lambda: draw_carpet(*some_carpet(2, 3, 4), ["a", "b"], pd.DataFrame({"x": range(4)})),
    "draw_activity": lambda: draw_activity(activity_of(FEW), massive_of(FEW, [])),
    "draw_sizes": lambda: draw_sizes({"a": np.ones(FEW.n_units, bool)}, FEW),
}


@pytest.mark.parametrize("name", CASES)
def test_pictures_do_not_depend_on_the_state_of_pyplot(name: str) -> None:
    import matplotlib.pyplot as plt

    before = plt.get_fignums()  # other tests of this process may have left some open
    assert isinstance(CASES[name](), Figure)
    assert plt.get_fignums() == before


def test_pictures_of_networks_keep_their_words_apart_and_inside() -> None:
    rng = np.random.default_rng(3)
    tasks = ["archeology", "medicalimaging", "paleontology", "pathology", "politicalscience", "randomstrings"]
    mean = np.corrcoef(rng.normal(size=(6, 30)))
    pairs = pd.DataFrame([(a, b) for n, a in enumerate(tasks) for b in tasks[:n]], columns=["task_a", "task_b"])
    pairs = pairs.assign(dice=0.1, dice_chance=0.1, p_holm=0.01, units_a=30, units_b=40)
    networks = pd.DataFrame({"task": tasks, "units": 60, "used": 40})
    example = ("run-01", rng.normal(size=(90, 6)), events_of(9, ["on", "off"], 10.0), 1.0)
    method = "24 run(s); signed mean of units, without shared units; task left in"
    for figure in (
        draw_overlap(tasks, np.full((6, 6), 0.1), pairs, {(task,): 30 for task in tasks}, "L6C128block"),
        draw_connectivity(networks, dict.fromkeys(("correlation", "partial"), (mean, mean, mean)), example, method),
    ):
        figure.draw_without_rendering()
        titles = [axes.title.get_window_extent().y1 for axes in figure.axes if axes.get_title()]
        above = [part._suptitle for part in (figure, *figure.subfigs) if part._suptitle]  # noqa: SLF001 - no other way
        assert min(title.get_window_extent().y0 for title in above) > max(titles) + 3
        straight = [text for text in figure.findobj(Text) if text.get_text().strip() and text.get_rotation() % 90 == 0]
        boxes = [text.get_window_extent() for text in straight if text.get_visible()]
        assert min(box.x0 for box in boxes) > -1
        assert max(box.x1 for box in boxes) < figure.bbox.width + 1
