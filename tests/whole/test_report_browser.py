"""The report as people see it, in headless Chromium: drawn, usable, silent, and without network.

Needs the system's Chromium or Chrome (Debian: apt install chromium); skipped where there is none.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

import main
from experiment.report.reader import read_folder
from experiment.report.rows import front, rows_of
from experiment.report.write import html
from tests.support.report_samples import (
    CHROMIUM,
    EVIL,
    hostile,
    large_suite,
    metrics,
    sensitivities,
    small_suite,
    study,
    write,
)
from tests.support.search_samples import full_search, running_search
from tests.support.study_samples import full_study
from tests.support.suites import Suites

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")


REACHED = "nav a, select, input, th button, .scroll, summary"  # by the keyboard


PATIENCE = 120_000  # milliseconds, for a machine that does other things too


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        options = {"executable_path": CHROMIUM, "args": ["--no-sandbox"]}
        browser = playwright.chromium.launch(**options)  # type: ignore[arg-type]
        yield browser
        browser.close()


class Opened:
    """A report in a tab, and everything that it said or asked for."""

    def __init__(self, browser: Browser, folder: Path, **options: Any):
        path = folder / "report.html"
        path.write_text(html(read_folder(folder)))
        self.page: Page = browser.new_page(**options)
        self.page.set_default_timeout(PATIENCE)
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.said.append("dialog"), dialog.dismiss()))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(path.as_uri())
        if options.get("java_script_enabled", True):
            self.page.wait_for_selector("body[data-drawn]")

    def close(self) -> None:
        """It said nothing and asked for nothing but itself."""
        self.page.close()
        assert self.said == []
        assert len(self.asked) == 1, self.asked

    def plot(self, chart: str) -> dict[str, Any]:
        """Traces and layout that Plotly has drawn."""
        script = "chart => ({traces: chart.data, layout: chart.layout})"
        return self.page.locator(f"#{chart}").evaluate(script)

    def names(self) -> list[str]:
        """Experiments in the table, as shown."""
        rows = self.page.locator("#table tbody tr:visible .open")
        return rows.evaluate_all("all => all.map(each => each.dataset.name)")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results")
    small_suite(folder)
    sensitivities(folder)
    study(folder)
    return folder


@pytest.fixture(scope="module")
def report(browser: Browser, folder: Path) -> Iterator[Opened]:
    opened = Opened(browser, folder, viewport={"width": 1280, "height": 900})
    yield opened
    opened.close()


def test_all_charts_are_drawn(report: Opened) -> None:
    charts = report.page.locator(".chart:visible")
    ids = charts.evaluate_all("all => all.map(each => each.id)")
    assert {
        "chart-tradeoff", "chart-accuracy", "chart-model_size_mb", "chart-latency_ms_batch_1",
        "chart-loss", "chart-curve", "chart-widths", "chart-macs", "chart-sensitivity",
        "chart-exits", "chart-study-0", "chart-engines-1", "chart-engines-64",
    } == set(ids)  # fmt: skip
    for chart in ids:
        drawn = report.plot(chart)
        assert drawn["traces"], chart
        assert drawn["layout"]["title"]["text"], chart
        assert report.page.locator(f"#{chart} .main-svg").first.bounding_box()
        assert report.page.locator(f"#{chart} .trace, #{chart} .hm").count(), chart
        assert "Chart: " in (report.page.get_attribute(f"#{chart}", "aria-label") or "")
    for chart in ids[:1]:
        assert report.plot(chart)["layout"]["xaxis"]["title"]["text"] == "latency at batch 1 (ms)"
        assert report.plot(chart)["layout"]["yaxis"]["title"]["text"] == "validation accuracy (%)"


def test_the_cost_axis_is_chosen(report: Opened, folder: Path) -> None:
    report.page.select_option("#cost", "bitops")
    drawn = report.plot("chart-tradeoff")
    assert drawn["layout"]["xaxis"]["title"]["text"] == "BitOps an image (millions)"
    assert drawn["layout"]["xaxis"]["type"] == "log"
    traces = {trace["name"]: trace for trace in drawn["traces"]}
    rows = {row.name: row for row in rows_of(read_folder(folder))}
    on = front(rows.values(), "bitops")
    assert on == ["PFQ", "Q", "E", "Base"]
    assert traces["Pareto front"]["x"] == [32, 64, 500, 1024]
    assert traces["Pareto front"]["y"] == [rows[name].final["accuracy"].mean for name in on]
    assert traces["on the Pareto front"]["customdata"] == ["E", "PFQ", "Q"]
    assert traces["baseline"]["customdata"] == ["Base"]
    assert "prune → finetune → ptq" in traces["on the Pareto front"]["hovertext"][1]
    report.page.select_option("#reach", "2")  # from 90 to 88 %; Slow has 87
    assert "1 less accurate not in view" in (report.page.text_content("#outside") or "")
    report.page.select_option("#reach", "0")
    report.page.select_option("#cost", "latency_ms_batch_1")


def test_engines_stand_beside_the_float_baseline(report: Opened) -> None:
    drawn = report.plot("chart-engines-1")
    traces = {trace["name"]: trace for trace in drawn["traces"]}
    assert drawn["layout"]["yaxis"]["ticktext"] == ["Base", "E", "PF", "PFQ", "Q", "Slow"]
    assert traces["float baseline in turn"]["y"] == ["E", "PF", "PFQ", "Q", "Slow"]
    assert traces["float baseline in turn"]["x"] == [1.0] * 5
    marked = dict(zip(traces["onnxruntime"]["y"], traces["onnxruntime"]["text"], strict=True))
    assert marked["PFQ"] == "<b>0.500</b>" and marked["Slow"] == ""
    assert "0.500 ms, the fastest, 14 of 14 layers in int8" in traces["onnxruntime"]["hovertext"][3]
    report.page.click("#engines summary")
    row = report.page.locator("#engines tbody tr", has_text="PFQ").first
    assert row.inner_text().split() == [
        *("PFQ", "1", "1.500", "14", "of", "14", "int8", "0.500", "★", "14", "of", "14", "int8"),
        *("0.700", "14", "of", "14", "int8", "1.000", "openvino"),
    ]
    assert "inductor was left out: no win is expected" in report.page.inner_text("#engines")


def test_the_waterfall_adds_up(report: Opened) -> None:
    report.page.select_option("#which", "PFQ")
    bars, end = report.plot("chart-model_size_mb")["traces"]
    assert bars["x"] == ["baseline", "1 prune", "2 finetune", "3 ptq"]
    tops = [base + height for base, height in zip(bars["base"], bars["y"], strict=True)]
    assert tops == [4.0, 4.0, 2.0, 2.0]  # from 4 to 2, 2 to 2, 2 to 0.5
    assert bars["y"] == [4.0, 2.0, 0.0, 1.5]
    assert end["y"] == [0.5]
    assert "accuracy 88.60 % (−1.40 points)" in (report.page.text_content("#chain-text") or "")


def test_the_table_sorts_and_filters(report: Opened) -> None:
    page = report.page
    everything = report.names()
    head = page.get_by_role("button", name="size as deployed (MB)")
    head.click()
    assert report.names()[0] == "PFQ"
    assert page.locator("th[aria-sort=ascending]").inner_text().startswith("size as deployed")
    head.click()
    assert report.names()[-1] == "PFQ"
    page.get_by_role("button", name="change (points)").click()
    assert report.names()[-1] == "Base"  # it has no change, which is last either way
    page.get_by_role("button", name="change (points)").click()
    assert report.names()[-1] == "Base"
    page.fill("#filter", "finetune ptq")
    assert report.names() == ["PFQ"]
    assert page.text_content("#count") == "1 of 6 shown"
    page.fill("#filter", "")
    page.fill("#drop", "0.5")
    assert set(report.names()) == {"E", "Q"}
    page.fill("#drop", "")
    page.select_option("#status", "done")
    assert len(report.names()) == len(everything)


def test_the_keyboard_reaches_everything(report: Opened) -> None:
    page = report.page
    page.focus(".skip")
    wanted = page.locator(REACHED).evaluate_all(
        "all => all.filter(each => each.checkVisibility()).length"
    )
    reached = set()
    for _ in range(4 * wanted):
        page.keyboard.press("Tab")
        here = page.evaluate(
            """wanted => document.activeElement === document.body ? null
              : [...document.querySelectorAll(wanted)].indexOf(document.activeElement)""",
            REACHED,
        )
        if here is None:
            break
        reached.add(here)
    assert len(reached - {-1}) == wanted
    page.focus("#which")
    before = page.input_value("#which")
    page.keyboard.press("ArrowDown")
    assert page.input_value("#which") != before
    page.focus(".open[data-name=E]")
    page.keyboard.press("Enter")
    assert page.input_value("#which") == "E"
    assert page.evaluate("document.activeElement.id") == "which"
    page.focus("th button[data-key=accuracy]")
    page.keyboard.press("Enter")
    assert page.locator("th[aria-sort=ascending] button").get_attribute("data-key") == "accuracy"


def test_paper_takes_everything(report: Opened) -> None:
    page = report.page
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    widths = page.locator(".js-plotly-plot:visible .main-svg").evaluate_all(
        "all => all.map(each => each.getBoundingClientRect().width)"
    )
    assert widths
    assert max(widths) <= 690
    page.evaluate("window.dispatchEvent(new Event('afterprint'))")
    assert len(page.pdf()) > 20_000


def test_a_narrow_screen(browser: Browser, folder: Path) -> None:
    opened = Opened(browser, folder, viewport={"width": 390, "height": 844}, has_touch=True)
    page = opened.page
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    boxes = page.locator(".chart:visible .main-svg, .card, select, .alert").evaluate_all(
        "all => all.map(each => each.getBoundingClientRect()).map(box => [box.left, box.right])"
    )
    assert min(left for left, _ in boxes) >= 0
    assert max(right for _, right in boxes) <= 390
    table = page.locator("#experiments .scroll")
    assert table.evaluate("each => each.scrollWidth > each.clientWidth")  # it scrolls by itself
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    opened.close()


def test_without_scripts_the_figures_are_there(browser: Browser, folder: Path) -> None:
    opened = Opened(browser, folder, java_script_enabled=False)
    assert "At most 1 point below Base: Q (ptq)" in opened.page.inner_text("#found")
    assert opened.page.locator("#table tbody tr").count() == 6
    assert "need JavaScript" in opened.page.inner_text("noscript")
    opened.close()


def test_hostile_texts_are_shown_and_do_nothing(browser: Browser, tmp_path: Path) -> None:
    hostile(tmp_path)
    opened = Opened(browser, tmp_path)
    page = opened.page
    assert EVIL in page.inner_text("#attention")
    for option in page.locator("#which option").evaluate_all("all => all.map(e => e.value)"):
        page.select_option("#which", option)
    for option in page.locator("#scan option").evaluate_all("all => all.map(e => e.value)"):
        page.select_option("#scan", option)
    for option in page.locator("#split option").evaluate_all("all => all.map(e => e.value)"):
        page.select_option("#split", option)
    page.set_viewport_size({"width": 390, "height": 844})  # charts follow a moment later
    widths = (page.evaluate("document.documentElement.scrollWidth") for _ in range(200))
    assert any(width <= 390 or page.wait_for_timeout(50) for width in widths)
    assert page.locator("img").count() == 0
    assert page.locator(".chart script").count() == 0
    opened.close()


def test_empty_and_broken_results(browser: Browser, tmp_path: Path) -> None:
    opened = Opened(browser, tmp_path)
    assert "No results yet" in opened.page.inner_text("main")
    opened.close()
    nothing: dict[str, Any] = {"final": {}, "stages": []}
    error = {"seed": 0, "stage": "train", "message": "out of memory"}
    failed: dict[str, Any] = {**nothing, "status": "failed", "errors": [error]}
    write(tmp_path, "Base", [("train", metrics(90.0))], baseline=None, **failed)
    write(tmp_path, "Q", [("ptq", metrics(1.0))], status="skipped", **nothing)
    (tmp_path / "study_X.json").write_text('{"order": [], "pairs": [{"first": "P"}]}')
    opened = Opened(browser, tmp_path)
    assert "2 experiments did not come to their end" in opened.page.inner_text("#attention")
    assert "out of memory" in opened.page.inner_text("#attention")
    opened.page.select_option("#which", "Q")
    assert "no figures of this chain yet" in opened.page.inner_text(
        "#chain-accuracy, #chart-accuracy"
    )
    opened.close()


def test_200_experiments(browser: Browser, tmp_path: Path) -> None:
    large_suite(tmp_path, 200)
    opened = Opened(browser, tmp_path)
    assert len(opened.names()) == 200
    shown = opened.plot("chart-tradeoff")["traces"]
    assert sum(len(trace.get("customdata", [])) for trace in shown) == 200
    data = json.loads(opened.page.text_content("#data") or "")
    assert len(data["experiments"]) == 200
    rows = opened.plot("chart-engines-1")["layout"]["yaxis"]["ticktext"]
    assert "Base" in rows and len(rows) < 200
    opened.page.select_option("#engine-networks", "all")
    assert len(opened.plot("chart-engines-1")["layout"]["yaxis"]["ticktext"]) == 200
    opened.page.fill("#filter", "chain_19")
    assert len(opened.names()) == 9  # 190 to 198
    opened.close()


def test_a_study_by_rounds(browser: Browser, tmp_path: Path) -> None:
    (tmp_path / "study_S.json").write_text(json.dumps(full_study()))
    for width in (1280, 400):
        opened = Opened(browser, tmp_path, viewport={"width": width, "height": 900})
        assert "Order found: D → P ≈ Q → E" in opened.page.inner_text("#found")
        texts = [a["text"] for a in opened.plot("chart-study-0")["layout"]["annotations"]]
        marks = [text.split("<b>")[0] for text in texts]
        assert sorted(filter(None, marks)) == ["? ", "? ", "≈ ", "≈ "]
        pictures = opened.page.locator(".round svg")
        assert pictures.count() == 6
        for picture in pictures.all():
            box = picture.bounding_box()
            assert box is not None and box["width"] > 100 and box["height"] > 70
            assert "sure intervals" in (picture.get_attribute("aria-label") or "")
        assert opened.page.evaluate("document.documentElement.scrollWidth") <= width
        opened.close()


def test_a_search(browser: Browser, tmp_path: Path) -> None:
    written = full_search()
    (tmp_path / "search_S.json").write_text(json.dumps(written))
    (tmp_path / "search_T.json").write_text(json.dumps(running_search()))
    for width in (1280, 390):
        opened = Opened(browser, tmp_path, viewport={"width": width, "height": 900})
        page = opened.page
        assert "Found: DPQ_d0.5_p0.45" in page.inner_text("#found")
        traces = {trace["name"]: trace for trace in opened.plot("chart-search-0")["traces"]}
        kinds = ("meets the limits", "beyond a limit", "short training")
        assert sum(len(traces[kind]["x"]) for kind in kinds) == 59
        assert traces["finalist, confirmed"]["x"] == [written["tried"][place]["hours"]
                                                      for place in (49, 57)]  # fmt: skip
        assert "finalist, confirmed" not in {
            trace["name"] for trace in opened.plot("chart-search-1")["traces"]
        }
        drawn = opened.plot("chart-front-0")
        again = {trace.get("name"): trace for trace in drawn["traces"]}["fresh seeds, confirmed"]
        assert again["y"] == [0.8, 0.3]
        assert again["error_y"]["array"] == pytest.approx([0.5, 0.5])
        assert drawn["layout"]["xaxis"]["type"] == "log"
        assert drawn["layout"]["shapes"][0]["y0"] == 1  # the limit
        assert page.locator(".forest tbody svg").count() == 12
        boxes = page.locator(".chart:visible .main-svg, pre.entry").evaluate_all(
            "all => all.map(each => each.getBoundingClientRect()).map(box => [box.left, box.right])"
        )
        assert min(left for left, _ in boxes) >= 0 and max(right for _, right in boxes) <= width
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        opened.close()


@pytest.mark.slow
def test_the_quickstart_and_a_study(browser: Browser, suites: Suites) -> None:
    config = suites.folder / "quick.py"
    stages = {"P": ["prune", "finetune"], "Q": "ptq"}
    one_study = {"name": "PQ", "baseline": "Digits_Baseline_FP32", "stages": stages}
    config.write_text(
        f"from configs.quickstart import *\nORDER_STUDIES = [{one_study}]\n"
        f"DATA_DIR, MODEL_SAVE_DIR, RESULTS_DIR = "
        f"{[f'{suites.folder}/{name}' for name in ('data', 'models', 'results')]}\n"
    )
    assert main.main(["--config", str(config)]) == 0
    assert main.main(["study", "PQ", "--config", str(config)]) == 0
    opened = Opened(browser, suites.results)
    for name in opened.names():
        opened.page.select_option("#which", name)
        assert opened.plot("chart-accuracy")["traces"][0]["y"]
    found = json.loads((suites.results / "study_PQ.json").read_text())
    assert found["findings"][0]["text"] in opened.page.inner_text("#found")
    assert len(opened.plot("chart-study-0")["layout"]["annotations"]) == 2
    opened.close()
