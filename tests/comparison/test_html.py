"""The interactive page: what stands in it, and what it does in a browser."""

import base64
import json
import re
import shutil
from contextlib import contextmanager
from dataclasses import replace
from html.parser import HTMLParser

import jax.numpy as jnp
import numpy as np
import pytest

import gradxform as gx
from gradxform.comparison import Contestant, cli, compare
from gradxform.comparison.contestants import CONTESTANTS
from gradxform.comparison.html import _frames, write_html
from gradxform.comparison.surfaces import SURFACES, race_surfaces
from gradxform.optimizers.adaptive import adam
from gradxform.optimizers.gradient_descent import sgd

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(200, 3)).astype(np.float32)
Y = (X @ np.array([1.0, -2.0, 0.5]) > 0).astype(np.float32)
HOSTILE = '</script><b title="&">'
RUNNERS = [
    Contestant("gradient-descent", sgd, None, (), (1e-4, 0.001, 0.01, 0.03)),
    Contestant("adam", adam, 32, (), (0.001, 0.1)),
]


def loss_fn(w, batch):
    logits = batch["x"] @ w
    loss = jnp.logaddexp(0, logits) - batch["y"] * logits
    return loss.mean() + 0.01 * (w**2).sum(), {"accuracy": ((logits > 0) == batch["y"]).mean()}


@pytest.fixture(scope="module")
def report():
    return compare(
        loss_fn,
        jnp.zeros(3),
        {"x": X, "y": Y},
        {"gradient-descent": gx.sgd, "adam": gx.adam, HOSTILE: gx.sgd(0.5)},
        batch_size={"gradient-descent": None, "adam": 20, HOSTILE: 20},
        learning_rates=[0.01, 0.1, 1e30],
        epochs=3,
        seeds=2,
        name="a < b",
    )


@pytest.fixture(scope="module")
def page(report, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "made" / "report.html"
    return write_html(report, path, contestants=RUNNERS)


class Page(HTMLParser):
    """What a browser would see: tags, the cells of the tables, and the data."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.tables, self.texts, self.inside = [], [], {}, None
        self.feed(path.read_text(encoding="utf-8"))
        self.data = json.loads(self.texts["data"])

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags.append((tag, attributes))
        self.inside = attributes.get("id", tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append({**attributes, "text": ""})
            self.inside = "cell"
        elif tag == "button" and attributes.get("data-role") == "sort":
            self.inside = "cell"

    def handle_data(self, text):
        if self.inside == "cell":
            self.tables[-1][-1][-1]["text"] += text
        else:
            self.texts[self.inside] = self.texts.get(self.inside, "") + text

    def handle_endtag(self, tag):
        self.inside = None


def decoded(run):
    rates = len(run["learning_rates"])
    return np.frombuffer(base64.b64decode(run["points"]), "<f4").reshape(rates, -1, 3)


def test_nothing_is_fetched(page):
    parsed = Page(page)
    names = [tag for tag, _ in parsed.tags]
    assert not {"link", "img", "iframe", "object", "embed", "base", "form"} & set(names)
    for _, attributes in parsed.tags:
        assert not {"src", "href", "srcset", "action", "data", "poster"} & set(attributes)
    policy = [i for i, (_, attributes) in enumerate(parsed.tags) if "http-equiv" in attributes]
    assert policy[0] < min(names.index("script"), names.index("style"))
    assert "default-src 'none'" in parsed.tags[policy[0]][1]["content"]
    assert not re.search(r"url\(|@import", parsed.texts["style"])
    assert page.stat().st_size < 7e6


def test_the_table_is_the_reports(page, report):
    ((head, *rows),) = Page(page).tables
    assert [cell["text"] for cell in head][:4] == ["algorithm", "batch", "learning rate", "test accuracy"]
    keys = ["algorithm", "batch", "learning_rate", "test_accuracy", "final_loss", "steps", "seconds"]
    for cells, record in zip(rows, report.records(), strict=True):
        expected = [record[key] for key in [*keys, "steps_per_second", "state_bytes"]]
        assert [cell["data-value"] for cell in cells] == ["" if v is None else str(v) for v in expected]
        assert cells[0]["text"] == record["algorithm"]
        shown = [float(cells[i]["text"].replace(",", "").split()[0]) for i in (1, 3, 4, 5, 6)]
        np.testing.assert_allclose(shown, [expected[i] for i in (1, 3, 4, 5, 6)], rtol=1e-2)
    numbers = np.array([[float(cell["data-value"] or "nan") for cell in cells[1:]] for cells in rows])
    best = np.array([[cell.get("class") == "best" for cell in cells[1:]] for cells in rows])
    for i, pick in {2: np.nanmax, 3: np.nanmin, 5: np.nanmin, 6: np.nanmax, 7: np.nanmin}.items():
        np.testing.assert_array_equal(best[:, i], numbers[:, i] == pick(numbers[:, i]))
    assert not best[:, [0, 1, 4]].any()  # batch, learning rate and steps are no merits


def test_the_curves_are_the_reports(page, report):
    (drawn,) = Page(page).data["reports"]
    assert list(drawn["curves"]) == list(report.curves) == ["gradient-descent", "adam", HOSTILE]
    for name, curve in report.curves.items():
        losses = np.array(curve.train_loss)
        series = drawn["curves"][name]["training loss"]
        np.testing.assert_allclose(series["middle"], losses.mean(0))
        np.testing.assert_allclose([series["low"], series["high"]], [losses.min(0), losses.max(0)])
        scores = drawn["curves"][name]["test accuracy"]["middle"]
        np.testing.assert_allclose(scores, np.mean(curve.test_score, 0))
    assert list(drawn["sensitivity"]) == ["gradient-descent", "adam"]
    for name, grid in report.sensitivity.items():
        assert drawn["sensitivity"][name]["diverged"] == list(grid.diverged) == [False, False, True]
        assert drawn["sensitivity"][name]["picked"] == grid.picked
        assert drawn["sensitivity"][name]["train_loss"][:2] == list(grid.train_loss)[:2]


def test_a_name_cannot_leave_its_place(page):
    parsed = Page(page)
    assert "b" not in {tag for tag, _ in parsed.tags}
    assert HOSTILE in parsed.data["styles"]
    assert sum(attributes.get("data-toggles") == HOSTILE for _, attributes in parsed.tags) == 1
    assert "a < b: 3 epochs, 2 seeds" in parsed.texts["title"]


def test_trajectories_against_the_closed_form(page):
    data = Page(page).data
    t = np.array(data["frames"], float)
    for surface, curvature, (x, y) in (("bowl", (1, 2), (-4, 3)), ("valley", (1, 100), (-4, 0.8))):
        run = data["surfaces"][surface]["runs"]["gradient-descent"]
        for rate, points in zip(run["learning_rates"], decoded(run), strict=True):
            with np.errstate(over="ignore"):  # it diverges
                expected = np.array([x, y]) * (1 - rate * np.array(curvature)) ** t[:, None]
            near = (np.abs(expected) < 1e6).all(1)
            expected = expected[near]
            np.testing.assert_allclose(points[near, :2], expected, rtol=2e-3, atol=1e-6)
            above = expected**2 @ np.array(curvature) / 2
            np.testing.assert_allclose(points[near, 2], above, rtol=5e-3, atol=1e-6)


def test_verdicts_are_what_came_of_it(page):
    surfaces = Page(page).data["surfaces"]
    run = surfaces["valley"]["runs"]["gradient-descent"]
    # 4 e^(-2000 · rate) is far, nearer, there; 1 - 100 · 0.03 is below -1
    assert [each["verdict"] for each in run["verdicts"]] == ["too small", "too small", "right", "diverging"]
    assert run["picked"] == 2
    bowl = surfaces["bowl"]["runs"]["gradient-descent"]
    assert [each["verdict"] for each in bowl["verdicts"]] == ["too small", "too small", "right", "right"]
    step = next(t for t in range(2000) if np.hypot(4 * 0.97**t, 3 * 0.94**t) < 0.1)
    assert f"first at step {step};" in bowl["verdicts"][3]["outcome"]
    stuck = surfaces["saddle"]["runs"]["gradient-descent"]["verdicts"][2]
    assert stuck["verdict"] == "stuck"
    assert "near a saddle, 0.25 above" in stuck["outcome"]


def test_frames_are_dense_at_first_and_keep_the_parity():
    frames = _frames(2000)
    strides = np.diff(frames)
    assert frames[0] == 0
    assert frames[-1] == 2000
    np.testing.assert_array_equal(strides[:48], 1)
    assert (strides[:-1] % 2 == 1).all()
    assert len(frames) < 250
    np.testing.assert_array_equal(_frames(5), range(6))


def test_a_race_on_the_surfaces(tmp_path):
    raced = race_surfaces(RUNNERS[:1], steps=200, seeds=2)
    parsed = Page(write_html(raced, tmp_path / "page.html", contestants=RUNNERS[:1]))
    ((_, *rows),) = parsed.tables
    assert [cells[0]["text"] for cells in rows] == list(SURFACES)
    assert all(cells[5]["class"] == "best" for cells in rows)  # each is alone on its surface
    assert parsed.data["reports"] == [None]
    for row in raced.rows:
        run = parsed.data["surfaces"][row.surface]["runs"]["gradient-descent"]
        assert run["learning_rates"][run["picked"]] == row.learning_rate
        drawn = decoded(run)[run["picked"]][:, :2]
        expected = raced.paths[row.surface]["gradient-descent"][parsed.data["frames"]]
        np.testing.assert_array_equal(drawn, expected)


def test_a_race_over_another_grid(tmp_path):
    raced = race_surfaces([replace(RUNNERS[0], surface_rates=(0.02,))], steps=20, seeds=1)
    parsed = Page(write_html(raced, tmp_path / "page.html", contestants=RUNNERS[:1]))
    run = parsed.data["surfaces"]["bowl"]["runs"]["gradient-descent"]
    assert run["learning_rates"][run["picked"]] == 0.03


def test_without_surfaces_and_without_reports(report, tmp_path):
    parsed = Page(write_html([report, report], tmp_path / "page.html", contestants=()))
    assert len(parsed.tables) == len(parsed.data["reports"]) == 2
    assert "surfaces" not in parsed.data
    with pytest.raises(ValueError, match="no report"):
        write_html([], tmp_path / "none.html")
    assert not (tmp_path / "none.html").exists()


# ---- the command


def test_the_command_says_where_the_page_is(report, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(cli, "_run", lambda options, progress: report)
    monkeypatch.setitem(CONTESTANTS, "adam", RUNNERS[0])
    for given, path in (([], tmp_path / "out" / "report.html"), (["page.html"], tmp_path / "page.html")):
        monkeypatch.chdir(tmp_path)
        options = ["--optimizers", "adam", "--out", str(tmp_path / "out"), "--html", *given]
        assert cli.main(["compare", *options]) == 0
        said = capsys.readouterr().out
        assert f"{path.name}, to open in a browser" in said
        assert list(Page(path).data["surfaces"]["bowl"]["runs"]) == [RUNNERS[0].name]


def test_a_page_that_cannot_be_written_is_refused_before_training(tmp_path, monkeypatch, capsys):
    def trains(*_):
        raise AssertionError("it went on to train")

    monkeypatch.setattr(cli, "_run", trains)
    (tmp_path / "file").write_text("in the way")
    for refused in (tmp_path, tmp_path / "file" / "below.html"):
        options = ["--out", str(tmp_path / "out"), "--html", str(refused)]
        assert cli.main(["compare", *options]) == 2
        assert "cannot write to" in capsys.readouterr().err


# ---- in a browser


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
    executable = next(filter(None, map(shutil.which, names)), None)
    if executable is None:
        pytest.skip("no Chromium is installed")
    with playwright.sync_playwright() as running:
        chromium = running.chromium.launch(executable_path=executable)
        yield chromium
        chromium.close()


@pytest.fixture
def visit(browser, page):
    """Opens the page offline, and fails on anything in the console or any request but for the page."""

    @contextmanager
    def opened(**context):
        told, asked = [], []
        with browser.new_context(offline=True, **context) as made:
            tab = made.new_page()
            tab.on("console", lambda message: told.append(message.text))
            tab.on("pageerror", lambda error: told.append(str(error)))
            tab.on("request", lambda request: asked.append(request.url))
            tab.goto(page.as_uri())
            yield tab
        assert told == []
        assert [url for url in asked if not url.startswith(("data:", "blob:"))] == [page.as_uri()]

    return opened


def traces(tab, role):
    return tab.evaluate(
        f"""[...document.querySelector('[data-role="{role}"]').data]
        .map(({{ name, x, y, visible, mode }}) => ({{ name, x, y, visible, mode }}))"""
    )


def slide(tab, role, value):
    tab.evaluate(
        f"""(value) => {{ const slider = document.querySelector('input[data-role="{role}"]');
        slider.value = value; slider.dispatchEvent(new Event("input", {{ bubbles: true }})); }}""",
        value,
    )


def test_the_table_sorts(visit, report):
    with visit() as tab:
        column = [record["final_loss"] for record in report.records()]

        def shown():
            return tab.eval_on_selector_all(
                "tbody td:nth-child(5)", "cells => cells.map(cell => Number(cell.dataset.value))"
            )

        head, first = tab.locator("th", has_text="final loss"), tab.locator("th").first
        assert shown() == column
        head.get_by_role("button").click()
        assert shown() == sorted(column)
        assert head.get_attribute("aria-sort") == "ascending"
        head.get_by_role("button").focus()
        tab.keyboard.press("Enter")
        assert shown() == sorted(column, reverse=True)
        first.get_by_role("button").click()
        names = tab.eval_on_selector_all("tbody td:first-child", "cells => cells.map(c => c.textContent)")
        assert names == [HOSTILE, "adam", "gradient-descent"]
        assert head.get_attribute("aria-sort") is None
        # without a learning rate: last in either direction
        for _ in range(2):
            tab.locator("th", has_text="learning rate").get_by_role("button").click()
            assert tab.locator("tbody tr").last.locator("td").first.inner_text() == HOSTILE


def test_curves_are_hovered_zoomed_and_toggled(visit, report):
    with visit(viewport={"width": 1200, "height": 900}) as tab:
        drawn = {trace["name"]: trace for trace in traces(tab, "losses")}  # the lines come after the bands
        np.testing.assert_allclose(drawn["adam"]["y"], np.mean(report.curves["adam"].train_loss, 0))
        box = tab.locator('[data-role="losses"] .nsewdrag').bounding_box()
        x, y, width, height = box["x"], box["y"], box["width"], box["height"]

        def extent():
            return tab.evaluate("""document.querySelector('[data-role="losses"]')._fullLayout.xaxis.range""")

        whole = extent()
        tab.mouse.move(x + 0.25 * width, y + 0.25 * height)
        tab.mouse.down()
        tab.mouse.move(x + 0.5 * width, y + 0.75 * height, steps=4)
        tab.mouse.up()
        tab.wait_for_function(
            """(at) => document.querySelector('[data-role="losses"]')._fullLayout.xaxis.range[0] > at""",
            arg=whole[0] + 0.2,
        )
        np.testing.assert_allclose(extent(), [0.25 * whole[1], 0.5 * whole[1]], rtol=0.05)
        tab.wait_for_timeout(400)  # else the two clicks were three
        tab.mouse.dblclick(x + 0.5 * width, y + 0.5 * height)
        tab.wait_for_function(
            """(at) => document.querySelector('[data-role="losses"]')._fullLayout.xaxis.range[0] === at""",
            arg=whole[0],
        )
        point = tab.locator('[data-role="losses"] .scatterlayer .trace').last.locator("path.js-line")
        line = point.bounding_box()
        tab.mouse.move(line["x"] + 2, line["y"] + 2)
        label = tab.locator('[data-role="losses"] .hoverlayer .hovertext').first
        label.wait_for()
        assert "epoch 0" in label.text_content()

        def visible(role):
            return {t["name"] for t in traces(tab, role) if t["name"] and t["visible"] is not False}

        boxes = tab.locator('[data-toggles="adam"]')
        assert boxes.count() == 3
        boxes.first.uncheck()
        assert not boxes.last.is_checked()
        assert visible("losses") == {"gradient-descent", HOSTILE}
        assert visible("sensitivity") == {"gradient-descent"}
        assert visible("paths") == {"gradient-descent", "start", "minimum", "saddle"}
        boxes.last.check()
        assert visible("losses") == {"gradient-descent", "adam", HOSTILE}

        tab.locator('[data-role="what"]').select_option("test accuracy")
        drawn = {trace["name"]: trace for trace in traces(tab, "losses")}
        np.testing.assert_allclose(drawn["adam"]["y"], np.mean(report.curves["adam"].test_score, 0))
        tab.locator('[data-role="against"]').select_option("seconds")
        drawn = {trace["name"]: trace for trace in traces(tab, "losses")}
        np.testing.assert_allclose(drawn["adam"]["x"], report.curves["adam"].seconds[1:])
        # no button that sends the chart away
        buttons = tab.eval_on_selector_all(".modebar-btn", "all => all.map(b => b.dataset.title)")
        assert {"Zoom", "Pan", "Zoom in", "Zoom out"} < set(buttons)
        assert not [title for title in buttons if re.search("share|cloud|edit", title, re.IGNORECASE)]


def test_trajectories_play(visit, page):
    data = Page(page).data
    with visit() as tab:
        button = tab.locator('[data-role="play"]')
        slide(tab, "step", 0)
        heads = [trace for trace in traces(tab, "paths") if trace["mode"] == "markers"][-2:]
        assert [(head["x"], head["y"]) for head in heads] == [([-4], [3])] * 2
        button.click()
        assert button.inner_text() == "Pause"
        tab.wait_for_function("""() => document.querySelector('input[data-role="step"]').value > 3""")
        button.click()
        assert button.inner_text() == "Play"
        frame = int(tab.locator('input[data-role="step"]').input_value())
        told = tab.locator('[data-trajectories] [data-role="told"]')
        assert told.inner_text() == f"step {data['frames'][frame]} of 2,000"
        for name in ("gradient-descent", "adam"):
            run = data["surfaces"]["bowl"]["runs"][name]
            expected = decoded(run)[run["picked"], : frame + 1]
            way = next(t for t in traces(tab, "paths") if t["name"] == name and t["mode"] == "lines")
            np.testing.assert_allclose(np.stack([way["x"], way["y"]], 1), expected[:, :2], rtol=1e-6)
        tab.wait_for_timeout(150)
        assert int(tab.locator('input[data-role="step"]').input_value()) == frame
        # to its end, and from the start again
        slide(tab, "step", len(data["frames"]) - 3)
        button.click()
        tab.wait_for_function(
            """() => document.querySelector('[data-role="play"]').textContent === "Play" """
        )
        assert told.inner_text() == "step 2,000 of 2,000"
        button.click()
        tab.wait_for_function(
            """() => document.querySelector('input[data-role="step"]').value < 100 &&
            document.querySelector('[data-role="play"]').textContent === "Pause" """
        )
        tab.locator('[data-trajectories] [data-role="surface"]').select_option("saddle")
        assert "near a saddle" in tab.locator('[data-role="outcomes"]').inner_text()


def test_the_slider_shows_too_small_right_and_diverging(visit, page):
    run = Page(page).data["surfaces"]["valley"]["runs"]["gradient-descent"]
    with visit() as tab:
        tab.locator('[data-rates] [data-role="surface"]').select_option("valley")
        told = tab.locator('[data-rates] [data-role="told"]')
        chips = tab.locator('[data-role="chips"] button')
        ways = []
        for place, verdict in enumerate(["too small", "too small", "right", "diverging"]):
            slide(tab, "rate", place)
            assert told.get_attribute("data-verdict") == verdict
            assert verdict in told.inner_text()
            assert str(run["learning_rates"][place]) in told.inner_text()
            assert [chips.nth(i).get_attribute("aria-pressed") for i in range(4)].index("true") == place
            way = traces(tab, "way")[-1]
            points = decoded(run)[place]
            shown = np.array([[np.nan if v is None else v for v in way[axis]] for axis in "xy"], float).T
            expected = np.where(np.abs(points[:, :2]) < 1e6, points[:, :2], np.nan)
            np.testing.assert_allclose(shown, expected, rtol=1e-6)
            ways.append(way)
        assert ways[0]["y"] != ways[1]["y"]
        chips.nth(0).click()
        assert tab.locator('input[data-role="rate"]').input_value() == "0"
        tab.locator('[data-role="algorithm"]').select_option("adam")
        assert chips.count() == 2


def luminance(colour):
    channels = np.array(re.findall(r"[\d.]+", colour)[:3], float) / 255
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return linear @ [0.2126, 0.7152, 0.0722]


def contrast(a, b):
    dark, light = sorted((luminance(a), luminance(b)))
    return (light + 0.05) / (dark + 0.05)


COLOURS = """() => {
    const of = (selector, what) => getComputedStyle(document.querySelector(selector))[what];
    return {
        page: of("body", "backgroundColor"), text: of("body", "color"), notes: of(".notes", "color"),
        best: of("td.best", "backgroundColor"), chip: of(".rates button", "backgroundColor"),
        small: of(".rates small", "color"), verdict: of(".verdict", "color"), tick: of(".xtick text", "fill"),
        lines: [...document.querySelectorAll(".legend line")].map((line) => getComputedStyle(line).stroke),
    };
}"""


def test_light_and_dark(visit):
    with visit(color_scheme="light") as tab:
        light = tab.evaluate(COLOURS)
        tab.emulate_media(color_scheme="dark")
        tab.wait_for_function(
            """(before) => getComputedStyle(document.querySelector(".xtick text")).fill !== before""",
            arg=light["tick"],
        )
        dark = tab.evaluate(COLOURS)
    assert luminance(light["page"]) > 0.9
    assert luminance(dark["page"]) < 0.05
    for colours in (light, dark):
        for text in ("text", "notes", "verdict", "tick"):
            assert contrast(colours[text], colours["page"]) >= 4.5, text
        assert contrast(colours["text"], colours["best"]) >= 4.5
        assert contrast(colours["small"], colours["chip"]) >= 4.5
        for line in colours["lines"]:
            assert contrast(line, colours["page"]) >= 2, line


def test_it_fits_a_phone(visit):
    with visit(viewport={"width": 360, "height": 740}, is_mobile=True, has_touch=True) as tab:
        assert tab.evaluate("document.documentElement.scrollWidth") <= 360
        assert tab.evaluate("innerWidth") == 360
        # the table goes on to the right, in a box of its own
        wide, box = tab.evaluate(
            "[...document.querySelectorAll('.scroll')].map(e => [e.scrollWidth, e.clientWidth])"
        )[0]
        assert wide > box
        assert box <= 360
        widths = tab.eval_on_selector_all(
            ".plot .main-svg", "all => all.map(e => e.getBoundingClientRect().width)"
        )
        assert 300 < max(widths) <= 360
        # a finger on a plot scrolls the page
        tab.locator('[data-role="losses"]').scroll_into_view_if_needed()
        at, plot = tab.evaluate("scrollY"), tab.locator('[data-role="losses"] .nsewdrag').bounding_box()
        x, y = plot["x"] + plot["width"] / 2, plot["y"] + plot["height"] / 2
        touch = tab.context.new_cdp_session(tab)
        touch.send("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": [{"x": x, "y": y}]})
        for moved in range(10, 110, 10):
            points = [{"x": x, "y": y - moved}]
            touch.send("Input.dispatchTouchEvent", {"type": "touchMove", "touchPoints": points})
        touch.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
        tab.wait_for_function("(at) => scrollY > at + 30", arg=at)


def test_the_algorithms_look_the_same_in_every_plot(visit):
    with visit() as tab:
        colours = tab.evaluate(
            """Object.fromEntries(["losses", "sensitivity", "paths"].map((role) => [role,
            Object.fromEntries(document.querySelector(`[data-role="${role}"]`).data
            .filter((t) => t.line?.dash).map((t) => [t.name, [t.line.color, t.line.dash]]))]))"""
        )
    for name in ("gradient-descent", "adam"):
        assert colours["losses"][name] == colours["sensitivity"][name] == colours["paths"][name]
    assert len({tuple(style) for style in colours["losses"].values()}) == 3


def test_the_seven_have_seven_colours():
    from gradxform.comparison.html import _styles

    styles, sheet = _styles(CONTESTANTS)
    colours = re.findall(r"#[0-9A-Fa-f]{6}", sheet.split("@media")[0])
    assert len({style["colour"] for style in styles.values()}) == len(set(colours)) == 7
