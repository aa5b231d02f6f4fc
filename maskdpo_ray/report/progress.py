"""Progress of long work: a bar on a terminal, a line now and then in a log."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

from maskdpo_ray.errors import printable

Item = TypeVar("Item")

# In a log file a bar that redraws itself is noise; a line every so often is not.
_SECONDS_BETWEEN_LINES = 15.0
_under_way: list[tqdm] = []

SHORT = 2.0
"""Seconds: a `delay` for what is mostly over at once, and may end with an error line."""


def note(line: str) -> None:
    """Say something on stderr without breaking a bar that is there."""
    tqdm.write(printable(line), file=sys.stderr)
    sys.stderr.flush()


def track(items: Iterable[Item], description: str, total: int, delay: float = 0.0, done: int = 0) -> Iterator[Item]:
    """Yield `items` and show how many of `total` are done, `done` of them before, and how long the rest takes.

    Nothing is shown in the first `delay` seconds.
    """
    on_terminal = sys.stderr.isatty()
    interval = 0.2 if on_terminal else _SECONDS_BETWEEN_LINES
    # tqdm (of the transformers stack already) keeps rate and remaining time.
    bar = tqdm(
        items,
        desc=printable(description),  # may name a file
        total=total,
        initial=done,
        mininterval=interval,
        maxinterval=interval,
        delay=delay,
        disable=total == 0,
        dynamic_ncols=on_terminal,
        leave=True,
    )
    _under_way.append(bar)
    try:
        yield from bar
    finally:
        bar.close()
        _under_way.remove(bar)


def end() -> None:
    """Leave the lines of all work that is under way, so that what is printed next has a line of its own."""
    for bar in _under_way:
        bar.close()
