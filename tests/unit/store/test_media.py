"""Media: text that is no markup, pictures as pixels; built once, in the thread of a tracker, or never."""

from __future__ import annotations

import html
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import example_media
import pytest
from example_media import Shows

from maskdpo_ray.config.schema import LoggerConfig
from maskdpo_ray.store.trackers.media import Image, Media, as_markdown
from maskdpo_ray.store.tracking import Tracker


@pytest.mark.parametrize(
    "text", ["<script>alert(1)</script>", "a | b", "*x* _y_ `z` ~u~", "[a](b) ![c](d) # e", "&lt; \\"]
)
def test_markdown_shows_what_was_there(text: str) -> None:
    shown = as_markdown(text)
    assert html.unescape(shown) == text and not set("<>|*_`~[]#\\!") & set(shown.replace("&#", ""))


def test_markdown_is_one_line() -> None:
    assert as_markdown("a\n\n  b\r\nc") == "a b c"


def test_the_pixels_of_a_picture() -> None:
    picture = example_media.MEDIA["media/curve"]
    assert isinstance(picture, Image) and picture.pixels().tolist() == [[[255, 0, 0], [0, 255, 0]]]


def trackers(monkeypatch: pytest.MonkeyPatch, *names: str) -> LoggerConfig:
    monkeypatch.setattr(Shows, "all", [])
    return LoggerConfig(trackers=tuple(f"python:example_media:{name}" for name in names))


def test_media_are_built_once_in_the_thread_of_a_tracker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[int] = []

    def build() -> Mapping[str, Media]:
        time.sleep(0.2)
        built.append(threading.get_ident())
        return example_media.MEDIA

    with Tracker(tmp_path, trackers(monkeypatch, "Shows", "Again"), {}) as tracker:
        start = time.monotonic()
        tracker.show(build, 4)
        assert time.monotonic() - start < 0.1
    assert [each.shown for each in Shows.all] == [[(example_media.MEDIA, 4)]] * 2
    (thread,) = built
    assert thread != threading.get_ident()


@pytest.mark.parametrize("names", [(), ("Figures",)])
def test_nothing_is_built_for_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: tuple[str, ...]) -> None:
    def build() -> Mapping[str, Media]:
        raise AssertionError("nobody shows it")

    with Tracker(tmp_path, trackers(monkeypatch, *names), {}) as tracker:
        tracker.show(build, 4)


def test_media_that_cannot_be_built_are_said_once_and_figures_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def build() -> Mapping[str, Media]:
        raise FileNotFoundError("heldout-questions.jsonl")

    with Tracker(tmp_path, trackers(monkeypatch, "Shows"), {}) as tracker:
        for step in range(3):
            tracker.show(build, step)
            tracker.log({"x": 1.0}, step)
    said = [line for line in capfd.readouterr().err.splitlines() if line.startswith("tracker ")]
    assert len(said) == 1 and "FileNotFoundError: heldout-questions.jsonl" in said[0] and "the run continues" in said[0]
