"""Calls to Ray actors: few at a time, each with a deadline, each failure with the actor's name."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

from maskdpo_ray.errors import ClusterError, UserError, one_line

Item = TypeVar("Item")


class ActorDied(ClusterError):
    """The process of an actor is gone."""


class OutOfMemory(ClusterError):
    """An actor asked for more memory than there is."""


def feed(
    items: Iterable[Item],
    handles: Sequence[Any],
    submit: Callable[[Any, Item], Any],
    max_in_flight: int,
    timeout_s: float,
    what: str,
    home: Callable[[Item], int] | None = None,
) -> Iterator[tuple[Item, Any]]:
    """Hand items to the least loaded actor, or to number `home(item)`, few at a time; yield (item, result) as they
    finish.

    Items are taken one by one and finished ones given back between two takings, so that a slow source
    (the stage before this one) doesn't hold results up.
    """
    import ray

    running: dict[Any, tuple[Item, int]] = {}
    load = [0] * len(handles)

    def finished(timeout: float) -> Iterator[tuple[Item, Any]]:
        done, _ = ray.wait(list(running), num_returns=1, timeout=timeout)
        if not done and timeout > 0:
            _, index = next(iter(running.values()))
            raise ClusterError(f"{what} {index}: no answer within cluster.step_timeout_s = {timeout_s:.0f} s")
        for reference in done:
            item, index = running.pop(reference)
            load[index] -= 1
            yield item, get(reference, f"{what} {index}")

    for item in items:
        index = load.index(min(load)) if home is None else home(item)
        running[submit(handles[index], item)] = (item, index)
        load[index] += 1
        yield from finished(timeout_s if len(running) >= max_in_flight else 0)
    while running:
        yield from finished(timeout_s)


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


def death(references: Sequence[Any], timeout_s: float, what: str) -> ActorDied | None:
    """Of the actors that these calls went to, the first that is known to be dead within `timeout_s`."""
    import ray

    end, waiting = time.monotonic() + timeout_s, list(references)
    while waiting:
        done, waiting = ray.wait(waiting, num_returns=1, timeout=max(0.0, end - time.monotonic()))
        if not done:
            return None
        try:
            get(done[0], f"{what} {references.index(done[0])}")
        except ActorDied as died:
            return died
        except UserError:
            continue  # it lives
    return None


def get(reference: Any, who: str) -> Any:
    """The result of one call.

    Raises the actor's UserError as itself, ActorDied, OutOfMemory, and anything else as a ClusterError.
    """
    import ray
    from ray.exceptions import OutOfMemoryError, RayActorError, RayError, RayTaskError

    try:
        return ray.get(reference)
    except RayTaskError as error:
        if isinstance(error.cause, UserError):
            raise error.cause from error
        kind = OutOfMemory if _is_out_of_memory(error.cause) else ClusterError
        raise kind(f"{who}: {type(error.cause).__name__}: {first_line(error.cause)}") from error
    except RayError as error:
        # An actor that can't even be made is no death. OutOfMemoryError: Ray killed it.
        if isinstance(error, OutOfMemoryError) or (isinstance(error, RayActorError) and not error.actor_init_failed):
            raise ActorDied(f"{who} died: {_reason(error)}") from error
        raise ClusterError(f"{who}: {first_line(error)}") from error


def _is_out_of_memory(error: BaseException) -> bool:
    """Python's, torch's on a GPU, and what torch's CPU allocator raises."""
    names = {kind.__name__ for kind in type(error).__mro__}
    return bool(names & {"MemoryError", "OutOfMemoryError"}) or "DefaultCPUAllocator: can't allocate" in str(error)


def _reason(error: BaseException) -> str:
    """Why Ray says that an actor died, where it does without the actor's ids."""
    return one_line(str(error).partition("Worker exit detail: ")[2] or error)


def first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
