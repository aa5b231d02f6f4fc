"""vLLM's processes sleep while they wait for each other on a CPU, and wake up at once."""

from __future__ import annotations

import os
import threading
import time

import pytest

from actors import patches, process, vllm_process


def test_a_waiting_process_takes_no_core(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a read vLLM's own spins for a second."""
    from vllm.distributed.device_communicators import shm_broadcast

    monkeypatch.setattr(shm_broadcast.SpinCondition, "__init__", shm_broadcast.SpinCondition.__init__)
    monkeypatch.setattr(shm_broadcast, "SHM_READER_RECHECK_INTERVAL_MS", 5000)
    patches.wait_without_spinning()
    writer = shm_broadcast.MessageQueue(1, 1)
    reader = shm_broadcast.MessageQueue.create_from_handle(writer.export_handle(), 0)
    writer.wait_until_ready()
    reader.wait_until_ready()
    for wait in (0.0, 0.8, 0.8):
        threading.Timer(wait, writer.enqueue, [wait]).start()
        begin, cpu = time.monotonic(), time.thread_time()
        assert reader.dequeue() == wait
        assert time.thread_time() - cpu < 0.2
        assert time.monotonic() - begin < wait + 2


@pytest.mark.parametrize(("device", "expected"), [("cpu", ["waits"]), ("cuda", [])])
def test_engines_on_a_cpu_get_it(monkeypatch: pytest.MonkeyPatch, device: str, expected: list[str]) -> None:
    """In each process of vLLM's, which gets its config pickled; on a GPU spinning takes nothing from the worker."""
    found: list[str] = []
    monkeypatch.setattr(process, "end_with", lambda pid: None)
    monkeypatch.setattr(patches, "wait_without_spinning", lambda: found.append("waits"))
    monkeypatch.setenv("MASKDPO_ACTOR_PID", str(os.getppid()))
    monkeypatch.setenv("MASKDPO_VLLM_DEVICE", device)
    vllm_process._join.__wrapped__()
    assert found == expected
