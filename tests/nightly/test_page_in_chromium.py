"""The page of a run in Chromium: from disk, by keyboard, by axe-core, light and dark, on a desk and a phone."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from fake_run import run
from fakes import Events, Stopped
from playwright.sync_api import Page, sync_playwright

from maskdpo_ray.report import page, server

CHROMIUM = os.environ.get("MASKDPO_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium or google-chrome here; MASKDPO_CHROMIUM names one"),
    pytest.mark.timeout(600),
]
SIZES = [(1280, 720), (390, 844)]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of the run that MASKDPO_RUN names, else of one over fakes."""
    path = tmp_path_factory.mktemp("page")
    named = os.environ.get("MASKDPO_RUN")
    if named is None:
        run(path)
    return page.write(Path(named) if named else path / "run", path / "report.html")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


class Opened:
    """A page that was opened from disk, and all that it asked for or complained about."""

    def __init__(self, browser: Any, report: Path, size: tuple[int, int], scheme: str) -> None:
        context = browser.new_context(viewport={"width": size[0], "height": size[1]}, color_scheme=scheme)
        self.page: Page = context.new_page()
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.goto(report.as_uri())


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES, ids=["desk", "phone"])
def test_opens_quietly_and_shows_the_verdict_at_once(
    browser: Any, report: Path, size: tuple[int, int], scheme: str
) -> None:
    opened = Opened(browser, report, size, scheme)
    assert opened.requests == [report.as_uri()] and opened.complaints == []
    for part in (".headline", ".ship", ".tiles"):
        box = opened.page.locator(part).first.bounding_box()
        assert box is not None and box["y"] + box["height"] <= size[1], part
    assert opened.page.evaluate("document.documentElement.scrollWidth") == size[0]
    found = Axe().run(opened.page).response["violations"]
    serious = [(each["id"], each["nodes"][0]["html"]) for each in found if each["impact"] in ("serious", "critical")]
    assert not serious


def test_filters_and_evidence_by_keyboard_alone(browser: Any, report: Path) -> None:
    page = Opened(browser, report, SIZES[0], "light").page

    def shown() -> int:
        return page.locator(".change:visible").count()

    def reach(selector: str) -> None:
        for _ in range(60):
            page.keyboard.press("Tab")
            if page.evaluate("name => document.activeElement.matches(name)", selector):
                return
        pytest.fail(f"the tab key doesn't reach {selector}")

    every = shown()
    topic = page.locator(".change").first.get_attribute("data-topic")
    assert every and topic
    reach("input[name=text]")
    page.keyboard.type("no answer holds this")
    assert shown() == 0 and page.locator("#count").inner_text() == f"0 of {every} shown"
    reach("button[type=reset]")
    page.keyboard.press("Enter")
    page.wait_for_timeout(50)
    assert shown() == every
    page.keyboard.press("Shift+Tab")
    while not page.evaluate("document.activeElement.name === 'topic'"):
        page.keyboard.press("Shift+Tab")
    page.keyboard.type(topic)
    page.keyboard.press("Enter")
    of_topic = page.locator(f'.change[data-topic="{topic}"]').count()
    assert 0 < shown() == of_topic < every
    reach(".answer")
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.matches('.s')")
    tip = page.evaluate("getComputedStyle(document.activeElement.querySelector('.tip')).display")
    assert tip == "block"


def test_hostile_answers_do_nothing(browser: Any, tmp_path: Path) -> None:
    from test_page import HOSTILE, write_answers

    from maskdpo_ray.records import Sentence

    run(tmp_path)
    folder = tmp_path / "run"
    write_answers(
        folder,
        {f"q{i}": (text, (Sentence(0, len(text), "contradictory", evidence=text),)) for i, text in enumerate(HOSTILE)},
    )
    opened = Opened(browser, page.write(folder), SIZES[0], "light")
    assert opened.page.locator('.change[data-split="heldout"]').count() == len(HOSTILE)
    opened.page.mouse.move(300, 300)
    assert opened.complaints == [] and len(opened.requests) == 1
    assert opened.page.title().startswith("run ")


def test_served_page_follows_the_run_and_keeps_its_filters(browser: Any, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    whole = run(tmp_path / "whole")
    with pytest.raises(Stopped):
        run(tmp_path, Events(whole.index(next(event for event in whole if event[:2] == ("begin", 1)))))
    with server.server(folder, 0) as serving:
        thread = threading.Thread(target=serving.serve_forever, daemon=True)
        thread.start()
        try:
            opened = browser.new_page()
            address = f"http://127.0.0.1:{serving.server_address[1]}/"
            requests: list[str] = []
            opened.on("request", lambda request: requests.append(request.url))
            opened.goto(address)
            before = opened.locator(".ship").inner_text()
            opened.locator("input[name=text]").fill("topic of h1")
            shown = opened.locator("#count").inner_text()
            assert not shown.startswith("0 of")
            run(tmp_path)  # resumes, and ends
            opened.wait_for_function("before => document.querySelector('.ship').innerText !== before", arg=before)
            assert opened.locator("input[name=text]").input_value() == "topic of h1"
            assert opened.locator(".change:visible").count() == int(shown.split()[0])
            assert all(request.startswith(address) for request in requests)
        finally:
            serving.shutdown()
            thread.join()
