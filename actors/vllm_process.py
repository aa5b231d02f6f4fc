"""vLLM's own processes: the environment that they get, what they say when they fail, and their end with the actor."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

from actors import patches, process
from maskdpo_ray.errors import ActorLost, one_line

_ACTOR, _DEVICE, _REASONS = "MASKDPO_ACTOR_PID", "MASKDPO_VLLM_DEVICE", "MASKDPO_VLLM_REASONS"
COLOCATED = "MASKDPO_COLOCATED"
"""Set where an engine shares its GPUs with training ranks; see `actors.placement`."""
_SIGNS = (
    "out of memory",
    "no available memory",
    "larger than the available kv cache",
    "free memory on device",
    "available memory on node",
    "t allocate memory",  # can't, cannot
)
"""In an error line, in small letters: that memory did not suffice."""
_reasons: Any = None
"""The file to which vLLM's processes write why they fail; goes with this process."""


def set_environment(device: str, threads: int, cpu_kv_cache_gib: int) -> None:
    """Set what vLLM and its processes read; before its first import.

    `threads` and `cpu_kv_cache_gib` count on CPU only.
    """
    global _reasons
    _reasons = tempfile.NamedTemporaryFile(prefix="maskdpo-vllm-", mode="r", encoding="utf-8")  # noqa: SIM115
    os.environ[_ACTOR], os.environ[_REASONS] = str(os.getpid()), _reasons.name
    os.environ["VLLM_LOGGING_LEVEL"] = os.environ.get("VLLM_LOGGING_LEVEL", "WARNING")
    os.environ["VLLM_NO_USAGE_STATS"] = "1"
    os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "spawn"
    os.environ[_DEVICE] = device
    if device == "cpu":
        os.environ["VLLM_CPU_KVCACHE_SPACE"] = str(cpu_kv_cache_gib)
        # By default the engine uses one core; naming the cores nearly doubles its speed.
        os.environ["VLLM_CPU_OMP_THREADS_BIND"] = ",".join(map(str, process.claim_cores(threads)))


class _Joining(str):
    """Text that runs `_join` in the process that unpickles it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickled, (str(self),)


def _unpickled(text: str) -> _Joining:
    _join()
    return _Joining(text)


CONFIG = {"maskdpo_ray": _Joining("ends with its actor")}
"""For vLLM's `additional_config`. Each process of vLLM's gets its config pickled, before it does anything else."""


def colocated_args() -> dict[str, Any]:
    """Arguments of a vLLM engine that sleeps while ranks train; none where it has its GPUs to itself."""
    if COLOCATED not in os.environ:
        return {}
    arguments: dict[str, Any] = {"enable_sleep_mode": True}
    if "VLLM_RAY_BUNDLE_INDICES" in os.environ:
        # As OpenRLHF 0.11.2 does (trainer/ray/vllm_engine.py): vLLM puts a worker into each of these bundles by Ray,
        # which its process joins, and whose choice of GPUs for this actor (none) it must not inherit.
        import ray

        arguments["distributed_executor_backend"] = "ray"
        os.environ["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address
        os.environ.pop("CUDA_VISIBLE_DEVICES", None)
    return arguments


async def wake(engine: Any, method: str, *arguments: Any) -> None:
    """Wake an engine from sleep of level 2, which drops its weights: `method` of vLLM's worker loads them again.

    The KV cache comes last: loading takes memory of its own.
    """
    await engine.wake_up(["weights"])
    await engine.collective_rpc(method, args=arguments)
    await engine.wake_up(["kv_cache"])


@dataclass(frozen=True)
class Guard:
    """Says why vLLM failed, and what to set when memory did not suffice."""

    who: str
    """In messages: "vLLM"."""
    device: str
    prefix: str
    """Prefix of vLLM's options in the config: "vllm."."""

    @contextmanager
    def start(self, what: str = "did not start") -> Iterator[None]:
        """Inside, vLLM is started, woken or put to sleep: raise ActorLost, one line, when that fails."""
        try:
            yield
        except Exception as error:  # vLLM raises what it likes, with the reason in its own processes
            raise ActorLost(self._explained(what, one_line(error))) from None

    @contextmanager
    def use(self) -> Iterator[None]:
        """Inside, vLLM is at work: raise ActorLost, one line, when it is gone. It can't be revived in this process."""
        from vllm.v1.engine.exceptions import EngineDeadError

        try:
            yield
        except EngineDeadError:  # which says that there is a stack trace
            raise ActorLost(self._explained("lost its engine process", "it crashed or was killed")) from None

    def _explained(self, what: str, otherwise: str) -> str:
        """One line: `what` happened and why, in the words of vLLM's own processes or else `otherwise`."""
        _reasons.seek(0)
        reasons = [*_reasons.read().splitlines(), otherwise]
        about_memory = [reason for reason in reasons if any(sign in reason.lower() for sign in _SIGNS)]
        if not about_memory:
            return f"{self.who} {what}: {reasons[0]}"
        cache = "gpu_memory_utilization" if self.device == "cuda" else "cpu_kv_cache_gib"
        return (
            f"{self.who} {what}: {about_memory[0].rstrip('.')}; lower {self.prefix}max_model_len or "
            f"{self.prefix}max_num_seqs, or change {self.prefix}{cache} (more of it for the KV cache, less for "
            "what needs memory beside it)"
        )


class _Reasons(logging.Handler):
    """Writes one line about each exception that vLLM logs."""

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        if error is not None:
            with open(os.environ[_REASONS], "a", encoding="utf-8") as file:
                file.write(f"{type(error).__name__}: {one_line(error)}\n")


@cache
def _join() -> None:
    """In a process of vLLM's: end with the actor, and tell it what goes wrong.

    Such a process outlives a parent that is killed, and would keep the model's memory.
    """
    actor_pid = int(os.environ.get(_ACTOR, os.getpid()))
    if actor_pid == os.getpid():
        return  # a copy within the actor
    logging.getLogger("vllm").addHandler(_Reasons(logging.ERROR))
    process.end_with(actor_pid)
    if os.environ[_DEVICE] == "cpu":
        patches.wait_without_spinning()
