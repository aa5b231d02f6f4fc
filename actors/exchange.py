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
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future
from secrets import token_hex
from typing import Any

from actors.calls import Refused, cause_of, first_line, is_death
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
        self._waiting: asyncio.Event | None = None
        """Of the message that waits for a call to end."""
        self._running: set[asyncio.Task[None]] = set()

    async def take(
        self, method: Callable[[str], Callable[..., Awaitable[Any]]], life: str | None, calls: Sequence[Call]
    ) -> tuple[str, list[tuple[int, bytes]]]:
        """Begin some calls; return when any has ended, or with nothing when another message came to wait for that.

        Args:
            method: the actor's, by name.
            life: the process that holds earlier calls, None when there are none.

        Returns:
            This process, and pairs of a call's number and what came of it, pickled: its answer, `Refused` where it
            raised what is about its question, or another UserError that it raised.

        Raises:
            Restarted: another process was meant.
        """
        if life not in (None, self._life):
            raise Restarted
        for call in calls:
            task = asyncio.create_task(self._run(method, call))
            self._running.add(task)
            task.add_done_callback(self._running.discard)
        if not self._ended and not await self._is_next():
            return self._life, []
        return self._life, self._packed()

    async def _is_next(self) -> bool:
        """Whether any call has ended before another message came to wait for that."""
        before, mine = self._waiting, asyncio.Event()
        self._waiting = mine
        if before is not None:
            before.set()
        while self._waiting is mine and not self._ended:
            mine.clear()
            await mine.wait()
        if self._waiting is not mine:
            return False
        self._waiting = None
        return True

    def _packed(self) -> list[tuple[int, bytes]]:
        found: list[tuple[int, bytes]] = []
        size = 0
        while self._ended and (not found or size + len(self._ended[0][1]) <= _MOST_BYTES):
            size += len(self._ended[0][1])
            found.append(self._ended.popleft())
        return found

    async def _run(self, method: Callable[[str], Callable[..., Awaitable[Any]]], call: Call) -> None:
        number, name, arguments = call
        answer: Any
        try:
            answer = await method(name)(*arguments)
        except ReplyError as error:
            answer = Refused.of(error)
        except UserError as error:
            answer = error
        except (Exception, asyncio.CancelledError) as error:
            answer = Refused.of(error)
        self._ended.append((number, _pickled(answer)))
        if self._waiting is not None:
            self._waiting.set()


def _pickled(answer: Any) -> bytes:
    try:
        return pickle.dumps(answer, pickle.HIGHEST_PROTOCOL)
    except Exception as error:  # pickle's own, and what classes raise
        return pickle.dumps(Refused.of(error))


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
        self.since = 0.0
        """When there came to be a message that is not answered, or answers came last."""


class Line:
    """The driver's side, for one actor."""

    def __init__(self, send: Callable[[str | None, list[Call]], Future[Any]]) -> None:
        """`send` a message to the actor's `Exchange.take`."""
        self._send = send
        self._sent = _Sent()
        self._number = 0
        self._changing = threading.RLock()

    def call(self, method: str, arguments: tuple[Any, ...]) -> Future[Any]:
        """Its answer, which may take a `flush` to send the call and more to fetch what came of it.

        The future fails with a UserError that the call raised, an error of Ray's that says that the actor died, or
        ActorLost when a message failed otherwise.
        """
        with self._changing:
            future: Future[Any] = Future()
            self._sent.futures[self._number] = future
            self._sent.new.append((self._number, method, arguments))
            self._number += 1
            if len(self._sent.new) >= MOST_CALLS:
                self.flush()
        return future

    def flush(self) -> None:
        """Send what waits; ask for answers when any are to come and no message is under way."""
        with self._changing:
            sent = self._sent
            if sent.new or (sent.futures and not sent.num_messages):
                new, sent.new = sent.new, []
                self._ask(sent, new)

    def silent_s(self) -> float:
        """Seconds that the actor has been asked for answers, and has given none."""
        with self._changing:
            return time.monotonic() - self._sent.since if self._sent.num_messages else 0.0

    def reset(self) -> None:
        """Forget all calls: the actor's process is gone, and nobody waits for them."""
        with self._changing:
            self._sent = _Sent()

    def _ask(self, sent: _Sent, new: list[Call]) -> None:
        reply = self._send(sent.life, new)
        if not sent.num_messages:
            sent.since = time.monotonic()
        sent.num_messages += 1
        reply.add_done_callback(lambda reply: self._came(sent, reply))

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
            if ended:
                sent.since = time.monotonic()
            elif sent.futures and not sent.num_messages and self._sent is sent:
                self._ask(sent, [])  # nobody learns of this message: it told of forgotten calls only
        for future, answer in ended:
            _settle(future, answer)

    def _failed(self, sent: _Sent, error: BaseException) -> None:
        """All calls have, as nobody knows which one was to blame."""
        from ray.exceptions import ActorUnavailableError

        if isinstance(cause_of(error), Restarted):
            error = ActorUnavailableError("", None)
        elif not is_death(error):
            # The calls continue there, but their results are lost.
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
        answer = error
    if isinstance(answer, Exception):
        future.set_exception(answer)
    else:
        future.set_result(answer)
