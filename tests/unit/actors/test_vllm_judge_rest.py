"""A judge that gives its GPU back, or a CPU's memory, and takes it again: what vLLM is told, and in which order."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from actors import vllm_judge, vllm_process
from actors.vllm_judge import VllmJudge
from maskdpo_ray.errors import ActorLost


class Vllm:
    def __init__(self, told: list[Any]) -> None:
        self._told = told

    async def sleep(self, level: int) -> None:
        self._told.append(("sleep", level))

    async def wake_up(self, tags: list[str]) -> None:
        self._told.append(("wake", *tags))
        if "broken" in self._told:
            raise RuntimeError("out of memory")

    async def collective_rpc(self, method: str, args: tuple[str, ...] = ()) -> None:
        self._told.append((method, *args))

    def shutdown(self) -> None:
        self._told.append("shutdown")


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    told: list[Any] = []
    monkeypatch.setattr(vllm_judge, "set_environment", lambda *_: told.append("environment"))
    monkeypatch.setattr(vllm_process, "_reasons", open(os.devnull))  # noqa: SIM115

    async def opened(judge: VllmJudge) -> None:
        told.append("open")
        judge._engine = Vllm(told)

    monkeypatch.setattr(VllmJudge, "_open", opened)
    return told


@pytest.mark.parametrize(
    ("device", "rests", "wakes"),
    [
        ("cuda", [("sleep", 2)], [("wake", "weights"), ("reload_weights",), ("wake", "kv_cache")]),
        ("cpu", ["shutdown"], ["open"]),
    ],
)
def test_it_rests_until_it_is_started(
    tiny_model: Path, told: list[Any], device: str, rests: list[Any], wakes: list[Any]
) -> None:
    judge = VllmJudge(str(tiny_model), device=device)
    judge.start()
    for _ in range(2):
        judge.rest()
        judge.start()
    assert told == ["environment", "open", *rests, *wakes, *rests, *wakes]
    judge.close()


def test_a_wake_that_fails_is_a_lost_actor(tiny_model: Path, told: list[Any]) -> None:
    judge = VllmJudge(str(tiny_model))
    judge.start()
    judge.rest()
    told.append("broken")
    with pytest.raises(ActorLost, match=r"^judge .*: vLLM did not wake: out of memory; lower judge_options.max_model"):
        judge.start()
