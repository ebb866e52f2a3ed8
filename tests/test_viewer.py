"""The viewer in a real browser: silent, offline, right about every unit, for mouse, keyboard and without WebGL."""

from __future__ import annotations

import hashlib
import io
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import matplotlib.image
import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe

from llm2bids.bids.tables import read_json
from llm2bids.bids.templates import templates
from llm2bids.errors import DatasetError, SpaceError
from llm2bids.reporting.maps import ViewerMap, niivue_html, viewer_html
from llm2bids.reporting.time_courses import STEPS, PromptSpan, RunPrompts, TimeCourses
from llm2bids.space import UnitSpace

from .browser import open_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray
    from playwright.sync_api import Browser

    from .browser import Visit

SPACE = UnitSpace.uniform("mlp", [f"h.{n}.mlp:out" for n in range(5)], 12)
VALUES = np.random.default_rng(1).uniform(-2.5, 2.5, SPACE.n_units)
VALUES[[17, 30, 43]] = 6.283, -7.139, 3.0
NETWORK = np.abs(VALUES) >= 3
THRESHOLD = 3.0
RUNS = tuple(
    RunPrompts(f"run-0{n}", 10, (PromptSpan(0, 5, "off"), PromptSpan(5, 4, "on"), PromptSpan(9, 1, "off")))
    for n in (1, 2)
)
POINTS = np.random.default_rng(2).integers(-30, 30, (SPACE.n_units, 12)).astype(np.int8)
COURSES = TimeCourses("pathology", RUNS, 2, 2, np.arange(SPACE.n_units), POINTS)
MAPS = [
    ViewerMap("pathology </script>", "pathology", VALUES, NETWORK, "z", THRESHOLD),
    ViewerMap("second", "other", -VALUES, np.zeros_like(NETWORK)),
]


def write(path: Path, *viewers: str) -> Path:
    """A page of viewers, far apart."""
    parts = (f'<h2 id="site{n}">Site {n}</h2>{viewer}<p style="height:150vh">.</p>' for n, viewer in enumerate(viewers))
    path.write_text(
        f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>Viewers</title>'
        f'<link rel="icon" href="data:,"></head><body><main><h1>Viewers</h1>{"".join(parts)}</main>'
        f"{niivue_html()}</body></html>",
        encoding="utf-8",
    )
    return path


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of one viewer."""
    return write(
        tmp_path_factory.mktemp("viewer") / "one.html", viewer_html(SPACE, MAPS, {"pathology": COURSES}, "site0")
    )


@pytest.fixture(scope="module")
def opened(browsers: Callable[[bool], Browser], path: Path) -> Iterator[Visit]:
    """The viewer, begun because it is in view; one for many tests, since to begin takes a second."""
    visited = begun(open_file(browsers(True), path))
    yield visited
    visited.page.context.close()


@pytest.fixture
def viewer(opened: Visit) -> Visit:
    """The viewer as it is at first."""
    opened.page.mouse.move(1, 1)
    part(opened, "network").uncheck()
    part(opened, "view").select_option("all")
    part(opened, "map").select_option("0")
    call(opened, "select(2, 6)")
    opened.page.locator("h1").click()  # the next Tab goes to what follows
    return opened


def begun(visited: Visit) -> Visit:
    visited.page.wait_for_function("document.querySelector('[data-part=spoken]').textContent")
    return visited


def call(visited: Visit, what: str) -> Any:
    return visited.page.evaluate(f"llm2bids.site0.{what}")


def part(visited: Visit, name: str) -> Any:
    return visited.page.locator(f"[data-part={name}]").first


def words(visited: Visit) -> dict[str, str]:
    """The terms of the voxel, and what they say."""
    terms, values = (part(visited, "words").locator(tag).all_inner_texts() for tag in ("dt", "dd"))
    return dict(zip(terms, values, strict=True))


def pixel(visited: Visit, unit: int) -> tuple[float, float]:
    """Middle of a voxel, within the stage."""
    (layer,), (channel,) = SPACE.locate([unit])
    at = call(visited, f"pixel({layer}, {channel})")
    return at["x"] + at["size"] / 2, at["y"] + at["size"] / 2


def picture(visited: Visit) -> NDArray[Any]:
    return matplotlib.image.imread(io.BytesIO(part(visited, "stage").screenshot()))[..., :3]


def colour(drawn: NDArray[Any], at: tuple[float, float]) -> NDArray[Any]:
    return drawn[int(at[1]), int(at[0])] * 255


def test_it_says_nothing_and_asks_for_nothing(viewer: Visit) -> None:
    assert (viewer.messages, viewer.outside, len(viewer.requests)) == ([], [], 1)
    assert part(viewer, "map").locator("option").all_inner_texts() == ["pathology </script>", "second"]


def test_every_voxel_is_drawn_where_its_unit_is(viewer: Visit) -> None:
    call(viewer, "select(0, 0)")  # its frame would cover a colour
    drawn = picture(viewer)
    for unit in range(1, SPACE.n_units):
        red, green, blue = colour(drawn, pixel(viewer, unit))
        kind = "grey" if max(red, green, blue) - min(red, green, blue) < 5 else "orange" if red > blue else "purple"
        expected = "grey" if not NETWORK[unit] else "orange" if VALUES[unit] > 0 else "purple"
        assert kind == expected, unit


def test_the_map_is_as_large_as_its_stage_at_once(viewer: Visit) -> None:
    heights = viewer.page.evaluate("""() => ["one", "all"].map(value => {
        const [choice, canvas] = ["view", "canvas"].map(name => document.querySelector(`[data-part=${name}]`));
        choice.value = value;
        choice.dispatchEvent(new Event("change"));
        return [canvas.height, canvas.clientHeight];
    })""")
    assert [drawn for drawn, _ in heights] == [height for _, height in heights]
    assert heights[0] != heights[1]


@pytest.mark.parametrize("unit", [17, 30, 58])
def test_a_click_names_the_unit_and_pointing_only_while_there(viewer: Visit, unit: int) -> None:
    stage = part(viewer, "canvas")
    x, y = pixel(viewer, unit)
    stage.click(position={"x": x, "y": y})
    layer, channel = divmod(unit, 12)
    clicked = {
        "site": "mlp", "block": str(layer), "hookpoint": f"h.{layer}.mlp:out", "channel": str(channel),
        "unit": str(unit), "z": f"{VALUES[unit]:.3g}".ljust(4 + (VALUES[unit] < 0), "0"),
        "in the network": "yes" if NETWORK[unit] else "no",
    }  # fmt: skip
    assert words(viewer) == clicked
    assert call(viewer, "unit().number") == unit
    x, y = pixel(viewer, 5)
    stage.hover(position={"x": x, "y": y})
    assert words(viewer)["unit"] == "5"
    viewer.page.mouse.move(1, 1)
    assert words(viewer) == clicked


def test_one_layer_alone_is_large(viewer: Visit) -> None:
    small = call(viewer, "pixel(2, 6).size")
    part(viewer, "view").select_option("one")
    assert call(viewer, "pixel(2, 6).size") > 2 * small
    assert call(viewer, "pixel(1, 6)") is None
    x, y = pixel(viewer, 24)
    part(viewer, "canvas").click(position={"x": x, "y": y})
    assert words(viewer)["unit"] == "24"
    red, _, blue = colour(picture(viewer), pixel(viewer, 30))
    assert blue > red + 20  # purple, as among all layers


def test_the_threshold_changes_picture_and_count(viewer: Visit) -> None:
    assert call(viewer, "threshold()") == THRESHOLD
    assert call(viewer, "nShown()") == NETWORK.sum() == 3  # the unit at the threshold too
    before = picture(viewer)
    part(viewer, "threshold").fill("1.5")
    n_above = int((np.abs(VALUES) >= 1.5).sum())
    assert call(viewer, "nShown()") == n_above > 3
    assert part(viewer, "count").inner_text() == f"{n_above} of 60 units shown; 3 in the network"
    assert (picture(viewer) != before).any()
    part(viewer, "network").check()
    assert call(viewer, "nShown()") == 3
    assert np.array_equal(picture(viewer), before)


def test_the_course_is_that_of_the_unit(viewer: Visit) -> None:
    call(viewer, "select(1, 5)")
    signal = POINTS[17] / STEPS
    drawn = part(viewer, "course").locator("[data-points]")
    places = [point.split("h")[0].split() for point in drawn.get_attribute("d").split("M")[1:]]
    assert len(places) == 12
    heights = [float(y) for _, y in places]
    assert np.corrcoef(heights, signal)[0, 1] == pytest.approx(-1, abs=1e-4)
    weights = np.array([2, 2, 1, 2, 2, 1] * 2)
    on = np.array([0, 0, 0, 1, 1, 0] * 2, bool)
    means = [np.average(signal[scans], weights=weights[scans]) for scans in (~on, on)]
    text = part(viewer, "caption").inner_text().replace("\xa0", " ")
    assert "each point: mean of 2 tokens, runs 1 to 2;" in text
    assert text.endswith(f"off {means[0]:.2f}, on {means[1]:.2f}.")
    part(viewer, "map").select_option("1")
    assert call(viewer, "unit().value") == pytest.approx(-VALUES[17], rel=1e-6)
    part(viewer, "caption").get_by_text("no time course of this task").wait_for()


def test_a_unit_that_had_no_room_says_so(visit: Callable[..., Visit], tmp_path: Path) -> None:
    units = np.flatnonzero(NETWORK)
    courses = TimeCourses("pathology", RUNS, 2, 2, units, POINTS[units])
    viewer = begun(visit(write(tmp_path / "page.html", viewer_html(SPACE, MAPS, {"pathology": courses}, "site0"))))
    assert "Unit 30 " in part(viewer, "caption").inner_text()
    call(viewer, "select(0, 0)")
    assert "for those of networks only" in part(viewer, "caption").inner_text()


def test_all_is_done_by_keys(viewer: Visit) -> None:
    press = viewer.page.keyboard.press
    reached = []
    for _ in range(7):
        press("Tab")
        reached.append(viewer.page.evaluate("document.activeElement.dataset.part"))
        if reached[-1] == "canvas":
            for key in ("ArrowRight", "ArrowUp", "PageDown"):
                press(key)
            assert call(viewer, "unit().number") == 30 + 1 + 4 - 12
            assert "unit 23" in part(viewer, "spoken").inner_text()
            continue
        if reached[-1] == "threshold":
            press("ArrowLeft")
            assert call(viewer, "threshold()") < THRESHOLD
    assert reached == ["map", "view", "threshold", "network", "canvas", "layer", "channel"]
    for key in ("Control+a", "7", "Tab"):
        press(key)
    assert (words(viewer)["block"], words(viewer)["channel"]) == ("1", "7")


def test_without_webgl_the_pictures_are_offered(visit: Callable[..., Visit], path: Path) -> None:
    viewer = begun(visit(path, webgl=False))
    assert part(viewer, "missing").locator("a").get_attribute("href") == "#site0"
    assert part(viewer, "missing").is_visible()
    assert not part(viewer, "stage").is_visible()
    part(viewer, "layer").fill("1")
    part(viewer, "channel").fill("5")
    part(viewer, "channel").press("Enter")
    assert words(viewer)["unit"] == "17"
    assert part(viewer, "course").locator("[data-points]").count() == 1
    assert (viewer.messages, viewer.outside) == ([], [])


def test_without_scripts_the_pictures_are_offered(visit: Callable[..., Visit], path: Path) -> None:
    viewer = visit(path, java_script_enabled=False)
    assert viewer.page.locator("noscript a").get_attribute("href") == "#site0"
    assert viewer.page.locator("noscript a").is_visible()
    assert not viewer.page.locator(".viewer").is_visible()


@pytest.mark.parametrize("width", [1400, 420])
def test_it_is_accessible_and_fits(visit: Callable[..., Visit], path: Path, width: int) -> None:
    viewer = begun(visit(path, width=width))
    report = Axe().run(viewer.page)
    assert report.violations_count == 0, report.generate_report()
    assert viewer.page.evaluate("document.documentElement.scrollWidth") <= width
    names = viewer.page.evaluate(
        "[...document.querySelectorAll('.viewer-marks text')].map(one => one.getBoundingClientRect().toJSON())"
    )
    assert len(names) == SPACE.n_hookpoints
    assert all(0 < name["left"] < name["right"] < width for name in names)


def test_a_second_viewer_begins_when_it_is_looked_at(visit: Callable[..., Visit], tmp_path: Path) -> None:
    space = UnitSpace.uniform("attn", ["h.0.attn:out", "h.1.attn:out"], 20)
    values = np.linspace(-4, 4, 40)
    second = viewer_html(space, [ViewerMap("z", "t", values, values > 3, "z", 3.0)], {}, "site1")
    viewer = begun(visit(write(tmp_path / "two.html", viewer_html(SPACE, MAPS, {}, "site0"), second)))
    spoken = viewer.page.locator("#site1-viewer [data-part=spoken]")
    assert spoken.inner_text() == ""
    assert viewer.page.locator("#site1-viewer").get_attribute("aria-busy") == "true"
    assert viewer.page.evaluate("llm2bids.site1.unit()") is None
    early = Axe().run(viewer.page)
    assert early.violations_count == 0, early.generate_report()
    viewer.page.locator("#site1-viewer").scroll_into_view_if_needed()
    viewer.page.evaluate("llm2bids.site1.start()")
    assert viewer.page.evaluate("llm2bids.site1.nShown()") == (np.abs(values) >= 3).sum()
    assert "site attn" in spoken.inner_text()
    assert (viewer.messages, viewer.outside) == ([], [])


def test_of_two_maps_chosen_quickly_the_last_is_shown(visit: Callable[..., Visit], tmp_path: Path) -> None:
    second = ViewerMap("second", "other", VALUES, NETWORK, "z", 5.0)
    courses = {"pathology": COURSES, "other": replace(COURSES, task="other")}
    viewer = begun(visit(write(tmp_path / "page.html", viewer_html(SPACE, [MAPS[0], second], courses, "site0"))))
    viewer.page.evaluate("""() => {
        const spoken = document.querySelector("[data-part=spoken]"), map = document.querySelector("[data-part=map]");
        window.times = 0;
        new MutationObserver(seen => { window.times += seen.length; }).observe(spoken, { childList: true });
        for (const value of ["1", "0"]) { map.value = value; map.dispatchEvent(new Event("change")); }
    }""")
    viewer.page.wait_for_function("window.times === 2")
    assert call(viewer, "threshold()") == THRESHOLD
    assert call(viewer, "nShown()") == 3


def test_what_we_ship_of_niivue_is_what_was_recorded() -> None:
    home = templates().joinpath("niivue")
    recorded = read_json(home.joinpath("niivue.json"))  # type: ignore[arg-type]
    assert set(recorded["SHA256"]) == {"LICENSE", "niivue.umd.js"}
    for name, checksum in recorded["SHA256"].items():
        assert hashlib.sha256(home.joinpath(name).read_bytes()).hexdigest() == checksum
    page = niivue_html()
    assert home.joinpath("LICENSE").read_text() in page
    assert page.count("</script") == 1


@pytest.mark.parametrize(
    ("maps", "anchor", "error", "message"),
    [
        ([], "a", DatasetError, "no map of site mlp found"),
        (MAPS, "a b", DatasetError, "anchor 'a b' found"),
        ([ViewerMap("m", "t", VALUES[1:], NETWORK)], "a", SpaceError, r"values of shape \(59,\) found in map m"),
        ([ViewerMap("m", "t", VALUES, NETWORK[1:])], "a", SpaceError, r"a network of shape \(59,\)"),
    ],
)
def test_what_is_no_viewer_is_refused(maps: Any, anchor: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        viewer_html(SPACE, maps, {}, anchor)


def test_one_tail_many_conditions_and_layers_of_one_block(visit: Callable[..., Visit], tmp_path: Path) -> None:
    space = UnitSpace("odd", ("h.0.attn.c_proj:out", "h.0.mlp.c_fc:out"), (6, 6))
    values = np.linspace(-4, 3, 12)
    network = values >= 2
    maps = [
        ViewerMap("positive", "t", values, network, "z", float(values[network].min()), 1),
        ViewerMap("negative", "t", values, values <= -2, "z", 2.0, -1),
    ]
    run = RunPrompts("run-01", 8, tuple(PromptSpan(n, 1, f"kind{n}") for n in range(8)))
    courses = {"t": TimeCourses("t", (run,), 1, 1, np.arange(12), np.zeros((12, 8), np.int8))}
    seen = begun(visit(write(tmp_path / "odd.html", viewer_html(space, maps, courses, "site0"))))
    assert part(seen, "count").inner_text() == f"{network.sum()} of 12 units shown; {network.sum()} in the network"
    assert words(seen)["unit"] == "11"  # the strongest that counts, not the largest
    assert part(seen, "level").inner_text().startswith("z ≥ ")
    assert part(seen, "marks").locator("text").all_text_contents() == ["attn.c_proj:out", "mlp.c_fc:out"]
    assert "share a colour" in part(seen, "legend").inner_text()
    assert part(seen, "course").locator("rect title").all_text_contents() == [f"kind{n}" for n in range(8)]
    part(seen, "map").select_option("1")
    seen.page.wait_for_function("document.querySelector('[data-part=level]').textContent.startsWith('z ≤ −2')")
    assert (
        part(seen, "count").inner_text()
        == f"{(values <= -2).sum()} of 12 units shown; {(values <= -2).sum()} in the network"
    )
    assert seen.messages == []
