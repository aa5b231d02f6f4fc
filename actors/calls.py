"""Calls to Ray actors of which none may fail: each with a deadline, each failure with the actor's name."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from maskdpo_ray.errors import ActorLost, ClusterError, UserError


def gather(references: Sequence[Any], timeout_s: float, what: str, step: str) -> list[Any]:
    """Results in order; the first failure is raised at once, a missing answer is named after the deadline."""
    import ray

    end, waiting = time.monotonic() + timeout_s, list(references)
    while waiting:
        done, waiting = ray.wait(waiting, num_returns=1, timeout=max(0.0, end - time.monotonic()))
        if not done:
            index = references.index(waiting[0])
            raise ClusterError(
                f"{what} {index}: could not {step} within {timeout_s:.0f} s; its log is in Ray's session folder"
            )
        get(done[0], f"{what} {references.index(done[0])}")
    return ray.get(list(references))


def get(reference: Any, who: str) -> Any:
    """The result of one call. Raises the actor's UserError as itself, anything else as a ClusterError."""
    import ray
    from ray.exceptions import RayError, RayTaskError

    try:
        return ray.get(reference)
    except RayTaskError as error:
        if isinstance(error.cause, ActorLost):
            raise ClusterError(f"{who}: {error.cause}") from error
        if isinstance(error.cause, UserError):
            raise error.cause from error
        raise ClusterError(f"{who}: {type(error.cause).__name__}: {first_line(error.cause)}") from error
    except RayError as error:
        raise ClusterError(f"{who}: {first_line(error)}") from error


def first_line(error: BaseException) -> str:
    """Of what the error says, as text that any file takes."""
    text = str(error).encode("utf-8", "backslashreplace").decode()
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
