"""Many questions to one actor, few messages: what has ended comes back when the next ones are sent.

A message of Ray's costs both sides about as much as all else that a driver does for a question. So calls to an engine
don't travel one by one. `Line`, on the driver, keeps new calls until the driver has nothing else to do, and sends them
in one message; `Exchange`, in the actor, answers it as soon as any call has ended, with all that have. A driver that
keeps up has a message for each call, and waits for nothing. One that does not finds more in each message, the further
it lags behind.
"""

from __future__ import annotations

import asyncio
import pickle
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future
from secrets import token_hex
from typing import Any

from actors.calls import Refused, first_line, is_death
from maskdpo_ray.errors import ActorLost, ReplyError, UserError

MOST_CALLS = 16
"""That wait for a message: with as many it is sent at once."""
_MOST_BYTES = 90_000
"""Of answers in one message, unless the first has more: Ray keeps what is larger than 100 kB on the actor's node, from
where it is fetched in a second step, and is lost with it."""

Call = tuple[int, str, tuple[Any, ...]]
"""Number, the actor's method, its arguments."""


class Restarted(Exception):
    """Calls were given to a process that is gone."""


class Exchange:
    """An async actor's side: its calls run beside each other on its event loop."""

    def __init__(self) -> None:
        self._life = token_hex(8)
        """Of this process."""
        self._ended: deque[tuple[int, bytes]] = deque()
        self._fault: UserError | None = None
        """What a call raised that is not about its question."""
        self._waiting: asyncio.Event | None = None
        """Of the message that waits for a call to end."""
        self._running: set[asyncio.Task[None]] = set()

    async def take(
        self, method: Callable[[str], Callable[..., Awaitable[Any]]], life: str | None, calls: Sequence[Call]
    ) -> tuple[str, list[tuple[int, bytes]]]:
        """Begin some calls; return when any has ended, or another message came which waits for that instead.

        Args:
            method: the actor's, by name.
            life: the process that holds earlier calls, None when there are none.

        Returns:
            This process, and pairs of a call's number and its answer, pickled: `Refused` in place of one that is about
            its question.

        Raises:
            Restarted: another process was meant.
            UserError: what a call raised, unless it is a ReplyError.
        """
        if life not in (None, self._life):
            raise Restarted
        for call in calls:
            task = asyncio.create_task(self._run(method, call))
            self._running.add(task)
            task.add_done_callback(self._running.discard)
        if not self._has_news():
            await self._news()
        if self._fault is not None:
            fault, self._fault = self._fault, None
            raise fault
        return self._life, self._packed()

    async def _news(self) -> None:
        before, mine = self._waiting, asyncio.Event()
        self._waiting = mine
        if before is not None:
            before.set()
        while self._waiting is mine and not self._has_news():
            mine.clear()
            await mine.wait()
        if self._waiting is mine:
            self._waiting = None

    def _has_news(self) -> bool:
        return bool(self._ended) or self._fault is not None

    def _packed(self) -> list[tuple[int, bytes]]:
        found: list[tuple[int, bytes]] = []
        size = 0
        while self._ended and (not found or size + len(self._ended[0][1]) <= _MOST_BYTES):
            size += len(self._ended[0][1])
            found.append(self._ended.popleft())
        return found

    async def _run(self, method: Callable[[str], Callable[..., Awaitable[Any]]], call: Call) -> None:
        number, name, arguments = call
        try:
            self._ended.append((number, pickle.dumps(await method(name)(*arguments), pickle.HIGHEST_PROTOCOL)))
        except ReplyError as error:
            self._ended.append((number, pickle.dumps(Refused.of(error))))
        except UserError as error:
            self._fault = error
        except Exception as error:
            self._ended.append((number, pickle.dumps(Refused.of(error))))
        if self._waiting is not None:
            self._waiting.set()


class _Sent:
    """What a process of the actor has been given, and not answered."""

    def __init__(self) -> None:
        self.life: str | None = None
        self.new: list[Call] = []
        """That wait for a message."""
        self.futures: dict[int, Future[Any]] = {}
        """By number, those of `new` too."""
        self.num_messages = 0
        """That are not answered."""


class Line:
    """The driver's side, for one actor."""

    def __init__(self, send: Callable[[str | None, list[Call]], Future[Any]]) -> None:
        """`send` a message to the actor's `Exchange.take`."""
        self._send = send
        self._sent = _Sent()
        self._number = 0
        self._changing = threading.RLock()

    def call(self, method: str, arguments: tuple[Any, ...]) -> Future[Any]:
        """Its answer, once `flush` has been called; it fails with whatever becomes of the message or the actor."""
        with self._changing:
            future: Future[Any] = Future()
            self._sent.futures[self._number] = future
            self._sent.new.append((self._number, method, arguments))
            self._number += 1
            if len(self._sent.new) >= MOST_CALLS:
                self.flush()
        return future

    def flush(self) -> bool:
        """Send what waits, or ask for answers if any are to come and no message is under way; whether that was so."""
        with self._changing:
            sent = self._sent
            if not sent.new and (not sent.futures or sent.num_messages):
                return False
            new, sent.new = sent.new, []
            sent.num_messages += 1
            self._send(sent.life, new).add_done_callback(lambda reply: self._came(sent, reply))
            return True

    def reset(self) -> None:
        """Forget all calls: the actor's process is gone. Their futures stay as they are."""
        with self._changing:
            self._sent = _Sent()

    def _came(self, sent: _Sent, reply: Future[Any]) -> None:
        """In a thread of Ray's."""
        error = reply.exception()
        if error is not None:
            self._failed(sent, error)
            return
        life, answers = reply.result()
        with self._changing:
            sent.life = life
            sent.num_messages -= 1
            ended = [(sent.futures.pop(number), answer) for number, answer in answers if number in sent.futures]
            if not ended and self._sent is sent:
                self.flush()  # nobody learns of this message: it told of forgotten calls, or of none
        for future, answer in ended:
            _settle(future, answer)

    def _failed(self, sent: _Sent, error: BaseException) -> None:
        """All calls have, as nobody knows which one was to blame."""
        from ray.exceptions import RayActorError, RayTaskError

        cause = error.cause if isinstance(error, RayTaskError) else error
        if isinstance(cause, Restarted):
            error = RayActorError()
        elif not isinstance(cause, UserError) and not is_death(error):
            # The calls go on there, but nobody will learn what became of them.
            error = ActorLost(f"a message to it failed: {first_line(error)}")
        with self._changing:
            if self._sent is sent:
                self._sent = _Sent()
            futures, sent.futures = list(sent.futures.values()), {}
        for future in futures:
            future.set_exception(error)


def _settle(future: Future[Any], pickled: bytes) -> None:
    try:
        answer = pickle.loads(pickled)
    except Exception as error:  # whoever waits is to have it: a callback's own errors get lost
        future.set_exception(error)
    else:
        future.set_result(answer)
