"""Progress on standard error, which is no terminal here."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from maskdpo_ray.terminal import SHORT, track


def broken() -> Iterator[int]:
    yield 1
    raise ValueError


@pytest.mark.parametrize(("delay", "is_shown"), [(0.0, True), (SHORT, False)])
def test_nothing_is_shown_before_the_delay(capsys: pytest.CaptureFixture[str], delay: float, is_shown: bool) -> None:
    with pytest.raises(ValueError):
        list(track(broken(), "read x", 2, delay))
    assert ("read x" in capsys.readouterr().err) == is_shown
