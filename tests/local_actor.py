"""An async actor without Ray: an event loop in a thread stands for its process, messages are futures of that loop."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import Future
from functools import partial
from typing import Any

from actors.exchange import Call, Exchange


class Actor:
    """What an engine is to its pool: method.options().remote() returns something with a future."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, daemon=True).start()
        self.messages: list[tuple[str | None, list[Call]]] = []
        self.replies: list[Any] = []
        self.begun: list[Any] = []
        self.ended: list[Any] = []
        self.killed = 0
        self.restart()

    def stop(self) -> None:
        """With all that it does."""
        asyncio.run_coroutine_threadsafe(stopped(), self.loop).result(5)
        self.loop.call_soon_threadsafe(self.loop.stop)

    def restart(self) -> None:
        """As a new process, which knows of nothing."""
        self.exchange_of_it = Exchange()

    async def exchange(self, life: str | None, calls: list[Call]) -> Any:
        return await self.exchange_of_it.take(partial(getattr, self), life, calls)

    async def work(self, what: Any, seconds: float) -> Any:
        self.begun.append(what)
        await asyncio.sleep(seconds)
        if isinstance(what, BaseException):
            raise what
        self.ended.append(what)
        return [what] if isinstance(what, str) else what

    async def at_once(self, what: str) -> list[str]:
        return [what]

    def send(self, life: str | None, calls: list[Call]) -> Future[Any]:
        self.messages.append((life, calls))
        reply = asyncio.run_coroutine_threadsafe(self.exchange(life, calls), self.loop)
        reply.add_done_callback(lambda ended: ended.exception() or self.replies.append(ended.result()[1]))
        return reply

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"nobody is to call {name}")


class Handle:
    """A Ray handle of an `Actor`."""

    def __init__(self, actor: Actor) -> None:
        self._actor = actor

    def __getattr__(self, name: str) -> Any:
        assert name == "exchange", f"{name} is called: the actor was taken for lost"
        return self

    def options(self, **_: Any) -> Handle:
        return self

    def remote(self, life: str | None, calls: list[Call]) -> Handle:
        self._reply = self._actor.send(life, calls)
        return self

    def future(self) -> Future[Any]:
        return self._reply


async def stopped() -> None:
    """Return when nothing runs on this loop any more."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


def waited(condition: Any) -> None:
    """Return when it holds."""
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)
