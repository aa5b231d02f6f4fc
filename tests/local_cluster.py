"""A Ray cluster of several nodes on this machine, apart from every other Ray on it."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
from driver import REPOSITORY, adopt_orphans, families, parents
from ray.util.state import list_actors, list_nodes

_START_TIMEOUT_S = 240.0
# Ray gives a node 30 s, fixed in its code, which a machine that does other things too may not keep.
_ATTEMPTS = 3
_STOP_TIMEOUT_S = 20.0


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nobody listens on."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


class LocalCluster:
    """`with LocalCluster(num_nodes=2, cpus=2) as cluster`; ended by its own process ids, never by `ray stop`.

    Each node has a loopback address of its own: 127.0.0.1 itself would not do, Ray puts the machine's outer one in
    its place. Ports that Ray fixes by default are left to chance: nodes of one machine would collide in them, and
    look for a free one for seconds.
    """

    def __init__(self, num_nodes: int, cpus: int) -> None:
        self._num_nodes = num_nodes
        self._cpus = cpus
        port, dashboard, self._client_port = free_ports(3)
        self.address = f"127.0.0.2:{port}"
        """For --cluster.address."""
        self.jobs = f"http://127.0.0.1:{dashboard}"
        """For ray job submit --address."""
        self._dashboard = dashboard
        self._nodes: list[set[psutil.Process]] = []
        """By node: its processes that are our children now; all others come of these."""
        self._folder = Path()

    def __enter__(self) -> LocalCluster:
        adopt_orphans()  # `ray start` leaves its processes to whoever takes them
        # Short: Ray puts sockets there, whose paths may have 107 characters.
        self._folder = Path(tempfile.mkdtemp(prefix="maskdpo-"))
        try:
            for number in range(self._num_nodes):
                self._start(number)
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def _start(self, number: int) -> None:
        for attempt in range(_ATTEMPTS):
            log, before = self._folder / f"node-{number}-{attempt}.log", set(psutil.Process().children())
            code = self._launch(number, log)
            node = set(psutil.Process().children()) - before
            if code == 0:
                self._nodes.append(node)
                return
            _end(node)
        raise RuntimeError(f"node {number} did not start:\n{log.read_text(errors='replace')}")

    def _launch(self, number: int, log: Path) -> int:
        options = [
            "--node-ip-address",
            f"127.0.0.{number + 2}",
            "--num-cpus",
            str(self._cpus),
            "--dashboard-agent-listen-port",
            "0",
            "--min-worker-port",
            "0",
            "--max-worker-port",
            "0",
            "--disable-usage-stats",
        ]
        if number == 0:
            options += [
                "--head",
                "--port",
                self.address.split(":")[1],
                "--temp-dir",
                str(self._folder / "ray"),
                "--include-dashboard",
                "true",
                "--dashboard-host",
                "127.0.0.1",
                "--dashboard-port",
                str(self._dashboard),
                "--ray-client-server-port",
                str(self._client_port),
            ]
        else:
            options += ["--address", self.address]
        scripts = Path(sys.executable).parent
        environment = os.environ | {
            # Jobs run `python` where the head runs, as on a cluster where this repository is set up.
            "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}",
            "RAY_DASHBOARD_SUBPROCESS_MODULE_WAIT_READY_TIMEOUT": str(_START_TIMEOUT_S),
        }
        with log.open("wb") as output:
            return subprocess.run(
                [str(scripts / "ray"), "start", *options],
                cwd=REPOSITORY,
                env=environment,
                timeout=_START_TIMEOUT_S,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            ).returncode

    def actors(self) -> list[dict[str, int]]:
        """By node: living actors of each class, as Ray itself has them, {"RolloutEngine": 1}."""
        counts: dict[str, dict[str, int]] = {node.node_id: {} for node in list_nodes(self.jobs)}
        for actor in list_actors(self.jobs, filters=[("state", "=", "ALIVE")]):
            node = counts[actor.node_id]
            node[actor.class_name] = node.get(actor.class_name, 0) + 1
        return list(counts.values())

    def raylets(self, number: int) -> list[psutil.Process]:
        """Those of one node (from 0) that are alive: one, or none after it was killed."""
        return [process for process in families(self._nodes[number]) if process.name() == "raylet"]

    def vllm_workers(self) -> int:
        """Processes in which vLLM computes: a raylet starts actors, an actor an engine, this a worker.

        Not told by their titles: now and then an engine and its worker were seen to work without one.
        """
        table = parents()
        found = {raylet.pid for number in range(len(self._nodes)) for raylet in self.raylets(number)}
        for _ in range(3):
            found = {process.pid for process, parent in table.items() if parent in found}
        return len(found)

    def _stop(self) -> None:
        for node in reversed(self._nodes):  # the head last
            _end(node)
        self._nodes.clear()
        shutil.rmtree(self._folder)


def _end(node: set[psutil.Process]) -> None:
    """End a node's processes and all that came of them."""
    family = families(node)
    for process in node:
        process.terminate()
    _, left = psutil.wait_procs(family, timeout=_STOP_TIMEOUT_S)
    for process in left:
        process.kill()
    psutil.wait_procs(left, timeout=_STOP_TIMEOUT_S)
