"""Ties between vLLM's processes and the actor that starts them: its end, and an ear for what goes wrong."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys

import psutil
import pytest

from actors import vllm_process
from actors.vllm_process import CONFIG, Guard
from maskdpo_ray.errors import ActorLost

# An actor: with vLLM's way of starting a process, and no vLLM.
ACTOR = """
import multiprocessing, time
from actors import vllm_process

def work():
    import logging
    try:
        raise ValueError("No available memory for the cache blocks.\\nTry something.")
    except ValueError:
        logging.getLogger("vllm.v1.engine.core").exception("EngineCore failed to start.")
    print("said", flush=True)
    time.sleep(600)

if __name__ == "__main__":
    vllm_process.set_environment("cuda", 1, 1)
    child = multiprocessing.get_context("spawn").Process(target=work)
    child.vllm_config = vllm_process.CONFIG
    child.start()
    input()
    try:
        with vllm_process.Guard("vLLM", "cuda", "vllm.").start():
            raise RuntimeError("Engine core initialization failed. See root cause above.")
    except Exception as error:
        print(error, flush=True)
    time.sleep(600)
"""


def test_ends_with_its_actor_and_says_why_it_failed(tmp_path: object) -> None:
    script = f"{tmp_path}/actor.py"
    with open(script, "w") as file:
        file.write(ACTOR)
    command = [sys.executable, script]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as actor:
        children: list[psutil.Process] = []
        try:
            assert actor.stdout.readline() == b"said\n"
            children = psutil.Process(actor.pid).children(recursive=True)
            actor.stdin.write(b"\n")
            actor.stdin.flush()
            assert actor.stdout.readline().decode() == (
                "vLLM did not start: ValueError: No available memory for the cache blocks. Try something; lower "
                "vllm.max_model_len or vllm.max_num_seqs, or change vllm.gpu_memory_utilization (more of it for the KV "
                "cache, less for what needs memory beside it)\n"
            )
        finally:
            actor.kill()
        _, left = psutil.wait_procs(children, timeout=20)
        assert left == []


def test_vllm_takes_the_config_for_json() -> None:
    """It hashes it as such; and what comes out of a pickle is the same text."""
    import json

    assert json.loads(json.dumps(CONFIG)) == pickle.loads(pickle.dumps(CONFIG)) == CONFIG


@pytest.mark.parametrize(
    ("reason", "device", "expected"),
    [
        ("CUDA out of memory. Tried to allocate 2 GiB", "cuda", "or change judge_options.gpu_memory_utilization"),
        ("Available memory on node 0 (1/2 GiB) is less", "cpu", "or change judge_options.cpu_kv_cache_gib"),
        (
            "8 GiB KV cache is needed, which is larger than the available KV cache memory",
            "cuda",
            "judge_options.max_mod",
        ),
        ("Free memory on device cuda:0 is less than desired", "cuda", "; lower judge_options.max_model_len"),
        ("invalid config", "cuda", None),
    ],
)
def test_remedy_where_memory_did_not_suffice(
    monkeypatch: pytest.MonkeyPatch, reason: str, device: str, expected: str | None
) -> None:
    own = ("MASKDPO_ACTOR_PID", "MASKDPO_VLLM_DEVICE", "MASKDPO_VLLM_REASONS")
    for name in (*own, "VLLM_CPU_KVCACHE_SPACE", "VLLM_CPU_OMP_THREADS_BIND"):
        monkeypatch.setenv(name, "")  # and what it was before afterwards
    monkeypatch.setattr(vllm_process, "_reasons", None)
    vllm_process.set_environment(device, 1, 1)
    with pytest.raises(ActorLost) as caught, Guard("judge m: vLLM", device, "judge_options.").start():
        raise RuntimeError(reason)
    message = str(caught.value)
    assert message.startswith(f"judge m: vLLM did not start: {reason}")
    assert (expected or "") in message and (expected is not None or message.endswith(reason))


def test_a_colocated_engine_can_sleep(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MASKDPO_COLOCATED", raising=False)
    assert vllm_process.colocated_args() == {}
    monkeypatch.setenv("MASKDPO_COLOCATED", "1")
    assert vllm_process.colocated_args() == {"enable_sleep_mode": True}


def test_a_colocated_engine_of_several_gpus_has_its_workers_placed_by_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    class Context:
        gcs_address = "10.0.0.1:6379"

    monkeypatch.setattr(ray, "get_runtime_context", Context)
    monkeypatch.setenv("MASKDPO_COLOCATED", "1")
    monkeypatch.setenv("VLLM_RAY_BUNDLE_INDICES", "2,3")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("RAY_ADDRESS", "")
    expected = {"enable_sleep_mode": True, "distributed_executor_backend": "ray"}
    assert vllm_process.colocated_args() == expected
    assert os.environ["RAY_ADDRESS"] == "10.0.0.1:6379" and "CUDA_VISIBLE_DEVICES" not in os.environ
