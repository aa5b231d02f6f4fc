"""Which actors of a group are alive: available, restarting, or lost. `dispatch.py` gives them work.

Ray restarts an actor that died (`max_restarts`). While it finds out that a node is dead and starts its actors
elsewhere, every call to them fails, and no call is to blame: so a restarted actor is available again once it has
answered a ping, for which it has `cluster.start_timeout_s`. An actor that takes longer, or can't be started, is lost.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from actors.calls import first_line, is_death
from maskdpo_ray.config.schema import ClusterConfig
from maskdpo_ray.errors import ClusterError
from maskdpo_ray.terminal import note


@dataclass
class _Restart:
    """An actor that has finished no call since its process was replaced."""

    ping: Any
    """Object reference of a call that Ray repeats until the actor answers."""
    since: float
    is_available: bool = False
    error: str = ""
    """Why it can't be started."""


class Pool:
    """Handles of started actors, each with the methods `busy_seconds` and `until_gone`, which never returns."""

    def __init__(self, handles: Sequence[Any], what: str, cluster: ClusterConfig) -> None:
        """`what`: an actor's name in messages, before its number."""
        self.handles = handles
        self.restarts = 0
        """Deaths and hangs that calls met."""
        self.is_stopped = False
        """Set by another thread: dispatchers end soon, without the rest of their answers."""
        self.what, self._cluster = what, cluster
        self._restarting: dict[int, _Restart] = {}
        self._methods: dict[tuple[int, str], Any] = {}

    def __len__(self) -> int:
        return len(self.handles)

    def name(self, actor: int) -> str:
        """The actor's name in messages."""
        return f"{self.what} {actor}"

    def submit(self, actor: int, method: str, *arguments: Any) -> Any:
        """Object reference of a call that Ray does not repeat by itself."""
        bound = self._methods.get((actor, method))
        if bound is None:  # takes Ray a while
            bound = getattr(self.handles[actor], method).options(max_task_retries=0)
            self._methods[actor, method] = bound
        return bound.remote(*arguments)

    def time_limit_s(self, actor: int) -> float:
        """Longest that the actor's oldest call may take: the first one after a restart may load what it needs."""
        start_s = self._cluster.start_timeout_s if actor in self._restarting else 0
        return self._cluster.step_timeout_s + start_s

    def kill(self, actor: int) -> None:
        """End an actor's process; Ray starts another. Returns when it is gone: calls made before that are lost."""
        import ray

        gone = self.submit(actor, "until_gone")
        ray.kill(self.handles[actor], no_restart=False)
        ray.wait([gone], timeout=self._cluster.start_timeout_s)

    def note_restart(self, actor: int, why: str, num_calls: int) -> None:
        """Record that Ray starts the actor again, and say so."""
        self.restarts += 1
        self._restarting[actor] = _Restart(self._ping(actor), time.monotonic())
        note(f"{self.name(actor)}: {why}; it is restarted, and the {num_calls} calls that it had count as failed")

    def note_answer(self, actor: int) -> None:
        """Record that the actor has finished a call."""
        self._restarting.pop(actor, None)

    def is_available(self, actor: int) -> bool:
        """Whether the actor takes calls."""
        restart = self._restarting.get(actor)
        if restart is not None and not restart.is_available:
            self._look_at(actor, restart)
        return restart is None or restart.is_available

    def is_lost(self, actor: int) -> bool:
        """Whether the actor can't be started, or was not in time."""
        if self.is_available(actor):
            return False
        restart = self._restarting[actor]
        return bool(restart.error) or self._left_s(restart) <= 0

    def why_lost(self, actor: int) -> str:
        """One line."""
        late = f"did not come back within {self._cluster.start_timeout_s:.0f} s (cluster.start_timeout_s)"
        return f"{self.name(actor)} was lost: {self._restarting[actor].error or late}"

    def await_any(self, actors: Iterable[int]) -> None:
        """Return when one of these actors may be available, or is newly lost. Raises ClusterError when all are lost."""
        import ray

        absent = [actor for actor in actors if not self.is_available(actor)]
        coming = [self._restarting[actor] for actor in absent if not self.is_lost(actor)]
        if coming:
            timeout = max(0.0, min(map(self._left_s, coming)))
            ray.wait([restart.ping for restart in coming], timeout=timeout)
        elif absent:
            raise ClusterError(self.why_lost(absent[-1]))

    def _look_at(self, actor: int, restart: _Restart) -> None:
        import ray
        from ray.exceptions import RayError

        if restart.error or not ray.wait([restart.ping], timeout=0)[0]:
            return
        try:
            ray.get(restart.ping)
            restart.is_available = True
        except RayError as error:
            if is_death(error):
                restart.ping = self._ping(actor)
            else:
                restart.error = first_line(error)

    def _ping(self, actor: int) -> Any:
        return self.handles[actor].busy_seconds.options(max_task_retries=-1).remote()

    def _left_s(self, restart: _Restart) -> float:
        return restart.since + self._cluster.start_timeout_s - time.monotonic()
