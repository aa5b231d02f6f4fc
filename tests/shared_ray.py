"""A Ray cluster of one node on this machine, which outlives the runs that join it and ends with its maker.

`python shared_ray.py` starts one, prints a line of JSON, and ends it when its input ends.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

_RAYS_OWN = ("ray::IDLE", "ray::DashboardAgent", "ray::RuntimeEnvAgent")
_NUM_CPUS, _NUM_GPUS = 2, 2  # GPUs in name only: nobody computes on them
# Ray gives a node 30 s, fixed in its code, which a busy machine may not keep.
_ATTEMPTS = 3


@dataclass(frozen=True)
class SharedRay:
    """`address` is what RAY_ADDRESS takes; `pid` is the process that all others of the cluster come of."""

    address: str
    pid: int

    def actors(self) -> list[psutil.Process]:
        """The processes of living actors."""
        found = []
        for process in psutil.Process(self.pid).children(recursive=True):
            try:
                title = " ".join(process.cmdline())
            except psutil.NoSuchProcess:
                continue
            if title.startswith("ray::") and not title.startswith(_RAYS_OWN):
                found.append(process)
        return found

    def actors_left(self) -> list[psutil.Process]:
        """Those that are still there after a moment, which a killed process needs to end."""
        return psutil.wait_procs(self.actors(), timeout=5)[1]


@contextmanager
def started() -> Iterator[SharedRay]:
    """A cluster; its processes are no children of this one, so that nobody takes them for a run's."""
    repository = Path(__file__).resolve().parents[1]
    # The shell ends at once, and its child loses its parent.
    shell = subprocess.Popen(
        ["sh", "-c", 'exec 3<&0; "$0" "$1" <&3 &', sys.executable, __file__],
        cwd=repository,
        env={**os.environ, "PYTHONPATH": str(repository)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert shell.stdin is not None and shell.stdout is not None
    with shell.stdin, shell.stdout:
        shell.wait()
        said = ""
        for said in shell.stdout:  # Ray prints lines of its own before
            if said.startswith("{"):
                break
        if not said.startswith("{"):
            raise RuntimeError("the shared Ray cluster did not start: see above")
        cluster = SharedRay(**json.loads(said))
        process = psutil.Process(cluster.pid)
        try:
            yield cluster
        finally:
            shell.stdin.close()
            process.wait(30)


def _main() -> None:
    from ray.cluster_utils import Cluster

    for tries_left in reversed(range(_ATTEMPTS)):
        cluster = Cluster()
        try:
            cluster.add_node(
                num_cpus=_NUM_CPUS,
                num_gpus=_NUM_GPUS,
                include_dashboard=False,
                node_ip_address="127.0.0.2",  # for 127.0.0.1 itself Ray puts the outer address
                _system_config={"worker_niceness": 0},  # as in a run's own cluster
            )
            break
        except Exception:  # Ray raises plain ones when its processes don't come up in time
            cluster.shutdown()
            if not tries_left:
                raise
    try:
        print(json.dumps({"address": cluster.address, "pid": os.getpid()}), flush=True)
        sys.stdin.read()
    finally:
        cluster.shutdown()


if __name__ == "__main__":
    _main()
