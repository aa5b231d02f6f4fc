"""An engine that gives its memory back and takes it again: what vLLM is told, in which order, and failures."""

from __future__ import annotations

import asyncio
import io
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import fakes
import pytest

from actors import rollout, vllm_process
from actors.rollout import Request, RolloutEngine
from maskdpo_ray.config.schema import ClusterConfig, Config, ModelConfig
from maskdpo_ray.errors import ActorLost
from maskdpo_ray.records import Policy


@pytest.fixture(autouse=True)
def without_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names that the engine imports from vLLM, which takes 20 s to import."""
    names = {
        "vllm": {"SamplingParams": dict, "TokensPrompt": dict},
        "vllm.sampling_params": {"RequestOutputKind": SimpleNamespace(FINAL_ONLY=None)},
        "vllm.v1.engine.exceptions": {"EngineDeadError": type("EngineDeadError", (Exception,), {})},
    }
    for name, members in names.items():
        module = ModuleType(name)
        vars(module).update(members)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(vllm_process, "_reasons", io.StringIO())  # vLLM's processes say nothing


class Vllm:
    """`AsyncLLM`, noting what is asked of it; `fails` names the call that raises."""

    fails = ""

    def __init__(self, told: list[tuple[Any, ...]]) -> None:
        self._told = told

    def _note(self, *call: Any) -> None:
        self._told.append(call)
        if call[0] == self.fails:
            raise RuntimeError("CUDA error: out of memory\nand more")

    async def sleep(self, level: int) -> None:
        self._note("sleep", level)

    async def wake_up(self, tags: list[str]) -> None:
        self._note(f"wake {tags[0]}")

    async def collective_rpc(self, method: str, args: tuple[str, ...] = ()) -> None:
        self._note(method, *(Path(each).name for each in args))

    async def reset_prefix_cache(self) -> bool:
        self._note("reset_prefix_cache")
        return True

    async def check_health(self) -> None:
        self._note("check_health")

    def shutdown(self) -> None:
        self._note("shutdown")

    async def generate(self, prompt: Any, parameters: Any, name: str) -> Any:
        self._note("generate")
        yield SimpleNamespace(outputs=[])


class Told:
    """An engine, and what it told vLLM."""

    def __init__(self, device: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(rollout, "set_environment", lambda *_: None)
        self.calls: list[tuple[Any, ...]] = []
        self.policies = [
            fakes.write_policy(folder / f"policy-{version}", version, b"weights %d" % version) for version in (0, 1)
        ]
        config = Config(model=ModelConfig("model"), cluster=ClusterConfig(device=device, colocate=True))
        self.engine = RolloutEngine(config, self.policies[0], threads=1)

        async def opened(path: str) -> None:
            self.calls.append(("open", Path(path).name))
            self.engine._engine = Vllm(self.calls)

        monkeypatch.setattr(self.engine, "_open", opened)

    def since(self, *work: Any) -> list[tuple[Any, ...]]:
        """Calls that these coroutines make, one after the other."""

        async def run() -> None:
            for each in work:
                await each

        before = len(self.calls)
        asyncio.run(run())
        return self.calls[before:]


@pytest.fixture(params=["cuda", "cpu"])
def told(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Told:
    return Told(request.param, tmp_path, monkeypatch)


def is_on_gpu(told: Told) -> bool:
    return told.engine._config.cluster.device == "cuda"


def test_it_rests_and_wakes_with_the_policy_that_is_loaded_next(told: Told) -> None:
    engine, (_, trained) = told.engine, told.policies
    assert told.since(engine.ready()) == [("open", "policy-0"), ("check_health",)]
    assert told.since(engine.rest()) == [("sleep", 2) if is_on_gpu(told) else ("shutdown",)]
    assert told.since(engine.rest()) == []  # it rests already
    woken = [("wake weights",), ("load_policy", "policy-1"), ("wake kv_cache",)]
    assert told.since(engine.load(trained)) == (woken if is_on_gpu(told) else [("open", "policy-1")])
    assert told.since(engine.load(trained)) == []
    assert asyncio.run(engine.ready()) == (1, trained.checksum)


def test_a_question_wakes_it_too(told: Told) -> None:
    """With the policy that it had: another model's engines are asked without a load."""
    engine, (initial, _) = told.engine, told.policies
    told.since(engine.ready(), engine.rest())
    request = Request("q", (1,), fakes.sampling(1), 7, initial)
    assert asyncio.run(engine.generate(request)).policy == (0, initial.checksum)
    woken = ["wake weights", "load_policy", "wake kv_cache"] if is_on_gpu(told) else ["open"]
    assert [call[0] for call in told.calls[-len(woken) - 1 :]] == [*woken, "generate"]


def test_one_that_has_not_started_has_nothing_to_give_back(told: Told) -> None:
    """It was restarted while ranks train."""
    engine, (_, trained) = told.engine, told.policies
    assert told.since(engine.rest()) == []
    assert told.since(engine.load(trained)) == [("open", "policy-1")]


def test_awake_it_only_loads(told: Told) -> None:
    told.since(told.engine.ready())
    assert told.since(told.engine.load(told.policies[1])) == [("load_policy", "policy-1"), ("reset_prefix_cache",)]


@pytest.mark.parametrize("call", ["wake weights", "load_policy", "wake kv_cache"])
def test_a_wake_that_fails_is_a_lost_actor(call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = Told("cuda", tmp_path, monkeypatch)
    told.since(told.engine.ready(), told.engine.rest())
    monkeypatch.setattr(Vllm, "fails", call)
    with pytest.raises(
        ActorLost, match="^vLLM did not wake: CUDA error: out of memory and more; lower vllm.max_model_len"
    ):
        asyncio.run(told.engine.load(told.policies[1]))
    assert not told.engine._is_up


def test_a_sleep_that_fails_is_a_lost_actor(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    told.since(told.engine.ready())
    monkeypatch.setattr(Vllm, "fails", "sleep" if is_on_gpu(told) else "shutdown")
    with pytest.raises(ActorLost, match="^vLLM did not go to sleep: CUDA error"):
        asyncio.run(told.engine.rest())


def test_bytes_that_differ_wake_nobody(told: Told) -> None:
    told.since(told.engine.ready(), told.engine.rest())
    _, trained = told.policies
    before = len(told.calls)
    with pytest.raises(RuntimeError, match="policy version 1 at .*: missing or not the published bytes"):
        asyncio.run(told.engine.load(Policy(1, trained.path, "0" * 64)))
    assert told.calls[before:] == []
