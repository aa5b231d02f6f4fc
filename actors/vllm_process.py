"""vLLM's own processes: the environment that they get, and their end when the actor is gone."""

from __future__ import annotations

import os


def set_environment(device: str, threads: int, cpu_kv_cache_gib: int) -> None:
    """Set what vLLM reads; before its first import. `threads` and `cpu_kv_cache_gib` count on CPU only."""
    os.environ["VLLM_LOGGING_LEVEL"] = os.environ.get("VLLM_LOGGING_LEVEL", "WARNING")
    os.environ["VLLM_NO_USAGE_STATS"] = "1"
    os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "spawn"
    if device == "cpu":
        os.environ["VLLM_CPU_KVCACHE_SPACE"] = str(cpu_kv_cache_gib)
        # By default the engine uses one core; naming the cores nearly doubles its speed.
        cores = sorted(os.sched_getaffinity(0))[:threads]
        os.environ["VLLM_CPU_OMP_THREADS_BIND"] = ",".join(map(str, cores))


class EndsWithActor:
    """Mixed into vLLM's worker (its `worker_extension_cls`).

    vLLM's engine process outlives a parent that is killed; without `exit_with`, every killed actor would
    leave a process that holds the model's memory.
    """

    def exit_with(self, actor_pid: int) -> None:
        import threading

        # Asked now, while the answer is sure: vLLM's engine process, or the actor itself.
        threading.Thread(target=_end_when_gone, args=(actor_pid, os.getppid()), daemon=True).start()


def _end_when_gone(actor_pid: int, parent_pid: int) -> None:
    import signal
    import time

    import psutil

    try:
        actor = psutil.Process(actor_pid)
        while actor.is_running() and actor.status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.5)
    except psutil.NoSuchProcess:
        pass  # already gone, which is what this waits for
    if parent_pid != actor_pid and os.getppid() == parent_pid:
        os.kill(parent_pid, signal.SIGKILL)
    os._exit(1)
