"""`actors.rollout.RolloutEngine` without vLLM, to stand behind real Ray."""

from __future__ import annotations

import asyncio
import json
import os
import time
from pathlib import Path
from typing import Any

from fakes import answers

from actors import weights
from actors.rollout import Request, Sampled
from maskdpo_ray.errors import ActorLost, DataError
from maskdpo_ray.records import Policy


class FakeEngine:
    """Set `log` in a subclass: a file that outlives the actor.

    What a question's name starts with decides: "die/" ends the process at its first try and "hang/" never answers
    it, "poison/" and "stuck/" do so each time; "dead/" says once that its engine is gone; "bad/" raises a UserError of
    two lines, "broken/" a RuntimeError; "few/" gets an answer too few, "stale/" answers of another policy. A policy
    folder whose path holds "unseen" is not seen by engines, one with "swapped" is confirmed with another checksum.
    """

    log = ""
    seconds = 0.05
    meeting = ""
    """The ranks' log, if the engine is to be ready only when ranks have met."""

    def __init__(self, config: Any, policy: Policy, threads: int) -> None:
        self._policy = policy
        self._running = 0
        self._note("start", version=policy.version)

    def _note(self, event: str, **values: Any) -> None:
        line = json.dumps({"event": event, "pid": os.getpid(), "time": time.time(), **values}) + "\n"
        with open(self.log, "ab", buffering=0) as file:  # one write: lines of several actors don't mix
            file.write(line.encode())

    async def ready(self) -> tuple[int, str]:
        while self.meeting and not (Path(self.meeting).exists() and '"setup"' in Path(self.meeting).read_text()):
            await asyncio.sleep(0.05)
        return self._policy.version, self._policy.checksum

    async def has(self, policy: Policy) -> bool:
        return "unseen" not in policy.path and weights.is_here(policy)

    async def load(self, policy: Policy, files: Any = None) -> tuple[int, str]:
        received = None
        if files is not None and not await self.has(policy):
            target = Path(self.log).with_name(f"received-{os.getpid()}-{policy.version}")
            weights.unpack(await asyncio.to_thread(files.fetch), target)
            received = weights.checksum(target)
        self._note("load", version=policy.version, received=received)
        if "swapped" in policy.path:
            return policy.version, "0" * 64
        self._policy = policy
        return policy.version, policy.checksum

    async def generate(self, request: Request) -> Sampled:
        question_id, seed = request.question_id, request.seed
        if request.policy != self._policy:
            await self.load(request.policy, request.files)
        self._running += 1
        self._note("generate", question=question_id, running=self._running, seed=seed)
        try:
            await self._behave(question_id)
            count = request.sampling.n - question_id.startswith("few/")
            version = self._policy.version + question_id.startswith("stale/")
            return Sampled((version, self._policy.checksum), answers(question_id, version, seed, count))
        finally:
            self._running -= 1
            self._note("answered", question=question_id)

    async def _behave(self, question_id: str) -> None:
        behaviour = question_id.partition("/")[0]
        marker = Path(self.log).with_name(question_id.replace("/", "-"))
        is_first = not marker.exists()
        marker.touch()
        if behaviour == "poison" or (behaviour == "die" and is_first):
            await asyncio.sleep(self.seconds)  # others are under way when it happens
            os._exit(1)
        if behaviour == "stuck" or (behaviour == "hang" and is_first):
            await asyncio.sleep(3600)
        if behaviour == "dead" and is_first:
            raise ActorLost("vLLM lost its engine process")
        if behaviour == "bad":
            raise DataError(f"{question_id}: expected another question\nin one line")
        if behaviour == "broken":
            raise RuntimeError("no memory left\nmore of it")
        await asyncio.sleep(self.seconds)

    async def busy_seconds(self) -> float:
        return 1.0

    async def until_gone(self) -> None:
        await asyncio.Event().wait()

    async def close(self) -> None:
        self._note("close")
