"""Calls to Ray actors that must all succeed, with a deadline and the actor's name in errors; what errors of Ray say."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

from maskdpo_ray.errors import ActorLost, ClusterError, UserError, one_line, printable
from maskdpo_ray.terminal import note


class OutOfMemory(ClusterError):
    """An actor asked for more memory than there is."""


def gather(references: Sequence[Any], timeout_s: float, what: str, step: str, note_s: float = math.inf) -> list[Any]:
    """Results in order; the first failure is raised at once, a missing answer is named after the deadline.

    Every `note_s` seconds of waiting a line says for how many.
    """
    import ray

    begin, waiting = time.monotonic(), list(references)
    end, said = begin + timeout_s, begin
    while waiting:
        done, waiting = ray.wait(waiting, num_returns=1, timeout=max(0.0, min(end, said + note_s) - time.monotonic()))
        if not done and time.monotonic() < end:
            said = time.monotonic()
            left = f"{len(waiting)} of {len(references)} did not {step} yet"
            note(f"{what}: {left}, after {said - begin:.0f} of at most {timeout_s:.0f} s")
            continue
        if not done:
            index = references.index(waiting[0])
            raise ClusterError(
                f"{what} {index}: could not {step} within {timeout_s:.0f} s; its log is in Ray's session folder"
            )
        get(done[0], f"{what} {references.index(done[0])}")
    return ray.get(list(references))


def death(references: Sequence[Any], timeout_s: float, what: str) -> ActorLost | None:
    """Find the first actor of these calls that is known to be dead within `timeout_s`."""
    import ray

    end, waiting = time.monotonic() + timeout_s, list(references)
    while waiting:
        done, waiting = ray.wait(waiting, num_returns=1, timeout=max(0.0, end - time.monotonic()))
        if not done:
            return None
        try:
            get(done[0], f"{what} {references.index(done[0])}")
        except ActorLost as died:
            return died
        except UserError:
            continue  # it lives
    return None


def get(reference: Any, who: str) -> Any:
    """The result of one call.

    Raises the actor's UserError as itself, ActorLost, OutOfMemory, and anything else as a ClusterError.
    """
    import ray
    from ray.exceptions import RayError, RayTaskError

    try:
        return ray.get(reference)
    except RayTaskError as error:
        if isinstance(error.cause, ActorLost):
            raise ActorLost(f"{who}: {error.cause}") from error
        if isinstance(error.cause, UserError):
            raise error.cause from error
        kind = OutOfMemory if _is_out_of_memory(error.cause) else ClusterError
        raise kind(f"{who}: {type(error.cause).__name__}: {first_line(error.cause)}") from error
    except RayError as error:
        if is_death(error):
            raise ActorLost(f"{who} died{reason(error)}") from error
        raise ClusterError(f"{who}: {first_line(error)}") from error


def _is_out_of_memory(error: BaseException) -> bool:
    """Python's, torch's on a GPU, and what torch's CPU allocator raises."""
    names = {kind.__name__ for kind in type(error).__mro__}
    return bool(names & {"MemoryError", "OutOfMemoryError"}) or "DefaultCPUAllocator: can't allocate" in str(error)


def is_death(error: BaseException) -> bool:
    """Whether this error of Ray's says that an actor's process is gone; one that can't even be made is no death."""
    from ray.exceptions import NodeDiedError, OutOfMemoryError, RayActorError

    if isinstance(error, RayActorError):
        return not error.actor_init_failed
    return isinstance(error, NodeDiedError | OutOfMemoryError)  # the latter when Ray killed it


def reason(error: BaseException) -> str:
    """Why an actor died, after a colon and without ids; empty where Ray does not say, as of one that it restarts."""
    from ray.exceptions import ActorUnavailableError

    if isinstance(error, ActorUnavailableError):
        return ""
    detail = str(error).partition("Worker exit detail: ")[2]
    return f": {one_line(detail) if detail else first_line(error)}"


def message_of(error: BaseException) -> str:
    """One line about an error raised by an actor, with its class unless that is ours."""
    kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
    return f"{kind}{printable(one_line(error))}"


def first_line(error: BaseException) -> str:
    """First line of an error's text, as any file and terminal takes it; its class where it has none."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return printable(lines[0]) if lines else type(error).__name__
