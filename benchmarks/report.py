"""How long Chromium takes to open a report of many experiments: parsing, scripts and layout.

Run: python -m benchmarks.report [--experiments 200] [--rounds 5]
Needs the system's Chromium or Chrome. The processor seconds of the page's thread are what counts,
as other programs slow them least; the wall clock stands beside them. About half a minute.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import torch
from playwright.sync_api import Browser, sync_playwright

from experiment.report.reader import read_folder
from experiment.report.write import html
from machine.environment import environment
from tests.support.report_samples import CHROMIUM, large_suite


def opened(browser: Browser, address: str) -> tuple[float, float]:
    """Processor seconds of the page's thread, and of the clock, until all charts are drawn."""
    page = browser.new_page()
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable", {"timeDomain": "threadTicks"})
    started = time.perf_counter()
    page.goto(address)
    page.wait_for_selector("body[data-drawn]")
    clock = time.perf_counter() - started
    metrics = session.send("Performance.getMetrics")["metrics"]
    page.close()
    return next(m["value"] for m in metrics if m["name"] == "TaskDuration"), clock


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--experiments", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args(arguments)
    if CHROMIUM is None:
        parser.error("needs Chromium or Chrome on the PATH (Debian: apt install chromium)")
    with tempfile.TemporaryDirectory() as name, sync_playwright() as playwright:
        folder = Path(name)
        large_suite(folder, args.experiments)
        started = time.perf_counter()
        path = folder / "report.html"
        path.write_text(html(read_folder(folder)))
        written = time.perf_counter() - started
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        found = [opened(browser, path.as_uri()) for _ in range(args.rounds)]
        megabytes = path.stat().st_size / 1e6
        browser.close()
    print(json.dumps(environment(torch.device("cpu"))))
    print(f"\n{args.experiments} experiments: {megabytes:.1f} MB, written in {written:.2f} s")
    print(f"{'':14}{'median':>8}{'min':>8}{'max':>8}")
    for label, times in zip(("processor s", "wall clock s"), zip(*found, strict=True), strict=True):
        print(f"{label:14}{statistics.median(times):>8.2f}{min(times):>8.2f}{max(times):>8.2f}")
    print(json.dumps({"processor_seconds": round(statistics.median(t for t, _ in found), 2)}))


if __name__ == "__main__":
    main()
