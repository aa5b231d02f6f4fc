"""Actors that a run reserves CPUs and GPUs for, and the Ray cluster that has them: one to join, or a local one."""

from __future__ import annotations

import math
import os
import re
import socket
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace

import psutil

from maskdpo_ray.config.schema import ClusterConfig, Config
from maskdpo_ray.errors import ClusterError, ConfigError, shown
from maskdpo_ray.terminal import note

ENGINES, OTHER_ENGINES, RANKS = "rollout engines", "other model's engines", "training ranks"
ANNOTATORS, EVALUATORS = "annotation actors", "evaluation actors"
_TIMEOUT_S = 10.0
_POLL_S = 1.0
_HOST_AND_PORT = re.compile(r"(?:\[([0-9A-Fa-f:.%]+)\]|([^\s:/\[\]]+)):([0-9]{1,5})")
_NOTES = {
    "ray://": "is Ray Client's, which is not supported: start the run on a node of the cluster",
    "http://": "is the dashboard's, for `ray job`",
    "https://": "is the dashboard's, for `ray job`",
}


@dataclass(frozen=True)
class ActorGroup:
    """`count` actors of one kind, each reserving `cpus` and `gpus` of Ray's."""

    name: str
    count: int
    cpus: float
    gpus: float


@dataclass(frozen=True)
class Plan:
    """The actors of a run."""

    config: Config

    def groups(self) -> list[ActorGroup]:
        """Rollout engines, annotation and, where there is something to judge, evaluation actors, training ranks."""
        config, cluster = self.config, self.config.cluster
        split, gpu = (config.vllm.tensor_parallel_size, 1) if cluster.device == "cuda" else (0, 0)
        engines = config.rollout.num_engines, cluster.cpus_per_engine, split
        judges = config.annotation.num_actors, cluster.cpus_per_annotator, cluster.gpus_per_annotator
        evaluators = config.eval.num_actors, cluster.cpus_per_evaluator, cluster.gpus_per_evaluator
        return [
            ActorGroup(ENGINES, *engines),
            *([ActorGroup(OTHER_ENGINES, *engines)] if config.rollout.model else []),
            ActorGroup(ANNOTATORS, *judges),
            *([ActorGroup(EVALUATORS, *evaluators)] if config.eval.is_judged else []),
            ActorGroup(RANKS, config.train.num_ranks, cluster.cpus_per_rank, gpu),
        ]

    def gpu_groups(self) -> list[ActorGroup]:
        """The groups whose actors have GPUs."""
        return [group for group in self.groups() if group.gpus]

    def gpus(self, *names: str) -> int:
        """GPUs of the named groups, or of all: their sum, or colocated the most of one group; parts of a GPU are put
        together within a group."""
        needs = [math.ceil(group.count * group.gpus - 1e-6) for group in self.named(names)]
        return max(needs, default=0) if self.config.cluster.colocate else sum(needs)

    def gpu_terms(self, *names: str) -> str:
        """The sum or the comparison that `gpus` makes, in words."""
        terms = [f"{group.count} x {group.gpus:g} ({group.name})" for group in self.named(names) if group.gpus]
        return f"the most of {', '.join(terms)}" if self.config.cluster.colocate else " + ".join(terms)

    def colocated(self) -> Plan | None:
        """The plan with `cluster.colocate`; None where engines answer while ranks train."""
        config = self.config
        if config.rollout.ahead:
            return None
        return replace(self, config=replace(config, cluster=replace(config.cluster, colocate=True)))

    def places(self, *names: str) -> dict[str, list[range]]:
        """The GPUs of each actor by group, numbered from 0 to `gpus`, where the named groups are colocated.

        Each rank has another one. The other groups follow each other around the GPUs, so that engines and judges, which
        work at the same time, share one only where there are too few.
        """
        total, free = self.gpus(*names), 0
        places: dict[str, list[range]] = {}
        for group in self.named(names):
            if not group.gpus:
                continue
            width, together = max(1, int(group.gpus)), max(1, int(1 / group.gpus + 1e-6))
            free = 0 if group.name == RANKS else free
            found = places[group.name] = []
            for first in range(0, group.count, together):
                # At a multiple of the width, so that one actor's GPUs are of one node.
                start = math.ceil(free / width) * width
                start = start if start + width <= total else 0
                free = start + width
                found += [range(start, free)] * min(together, group.count - first)
        return places

    def named(self, names: Collection[str]) -> list[ActorGroup]:
        """The groups of these names; all without a name."""
        return [group for group in self.groups() if not names or group.name in names]

    def check(self, available: Mapping[str, float], *names: str) -> None:
        """Raise ClusterError with the sum when the cluster's CPUs or GPUs don't suffice for the named groups."""
        groups = self.named(names)
        cpus, has = sum(group.count * group.cpus for group in groups), available.get("CPU", 0)
        if cpus > has + 1e-6:
            terms = " + ".join(f"{group.count} x {group.cpus:g} ({group.name})" for group in groups if group.cpus)
            advice = "lower the counts or cluster.cpus_per_*"
            raise ClusterError(f"not enough CPUs: expected at most {has:g}, got {terms} = {cpus:g}; {advice}")
        is_shared, has = self.config.cluster.colocate, available.get("GPU", 0)
        gpus = self.gpus(*names) if is_shared else sum(group.count * group.gpus for group in groups)
        if gpus > has + 1e-6:
            shared = self.colocated()
            advice = "lower the counts or vllm.tensor_parallel_size"
            if not has and self.config.cluster.device == "cuda":
                advice = "cluster.device: cpu does without"
            elif shared is not None and shared.gpus(*names) <= has:
                advice = f"set cluster.colocate (then {shared.gpus(*names)} will do), or {advice}"
            got = f"{self.gpu_terms(*names)} = {gpus:g}"
            raise ClusterError(f"not enough GPUs: expected at most {has:g}, got {got}; {advice}")

    def await_nodes(self, available: Callable[[], Mapping[str, float]], *names: str) -> None:
        """`check` what `available` returns, again and again for `cluster.nodes_timeout_s`, until it suffices."""
        deadline = time.monotonic() + self.config.cluster.nodes_timeout_s
        while True:
            try:
                return self.check(available(), *names)
            except ClusterError:
                if time.monotonic() >= deadline:
                    raise
            time.sleep(_POLL_S)

    def check_here(self, *names: str, dry_run: bool = False) -> None:
        """`check` before Ray starts, where it is to start on this machine: what that has is the most it can give.

        A dry run may be made on a machine without GPUs, such as a cluster's login node, where a run of GPUs can't be: a
        line says that nothing was compared with it.
        """
        if ray_address(self.config.cluster) is None:
            import torch

            has, needed = torch.cuda.device_count(), self.gpus(*names)
            if dry_run and needed and not has:
                reserved = f"a run reserves {needed} = {self.gpu_terms(*names)}"
                note(f"NOT CHECKED: whether there are enough GPUs and CPUs, as this machine has no GPU; {reserved}")
                return
            self.check({"CPU": os.cpu_count() or 1, "GPU": has}, *names)
            self._check_memory(psutil.virtual_memory().total / 2**30, *names)

    def _check_memory(self, has_gib: float, *names: str) -> None:
        """Raise ConfigError when engines on CPUs would have larger KV caches than all memory; vLLM would not say."""
        engines = [group.count for group in self.named(names) if group.name.endswith("engines")]
        needed = sum(engines) * self.config.vllm.cpu_kv_cache_gib
        if self.config.cluster.device == "cpu" and needed > has_gib:
            raise ConfigError(
                f"vllm.cpu_kv_cache_gib: expected less than this machine's {has_gib:.0f} GiB of memory for all rollout "
                f"engines, got {engines[0]} x {self.config.vllm.cpu_kv_cache_gib} = {needed}"
            )

    def actors(self, work: str, *names: str) -> list[str]:
        """`work`, where it is done, and a line for each of the named groups."""
        cluster = self.config.cluster
        where = ray_address(cluster) or "a local Ray cluster"
        lines = [f"{work} on {where} ({cluster.device})"]
        for group in self.named(names):
            gpus = f", GPUs: {group.gpus:g}" if group.gpus else ""
            lines.append(f"  {group.name}: {group.count}, CPUs for each: {group.cpus:g}{gpus}")
        if cluster.colocate and len(lines) > 2:
            what = f"{shared} GPUs" if (shared := self.gpus(*names)) else "memory"
            lines.append(f"  colocated: they take turns with the same {what}")
        return lines


def evaluating(with_engines: bool) -> list[str]:
    """Names of the groups that evaluate; given answers need no engines."""
    return [ENGINES] * with_engines + [ANNOTATORS, EVALUATORS]


def ray_address(cluster: ClusterConfig) -> str | None:
    """The address of the cluster to join, `auto` or host:port; None when a local one is started.

    Raises ClusterError for an address of any other form.
    """
    name, address = _named(cluster)
    if address in (None, "local"):
        return None
    if address != "auto":
        _host_and_port(name, address)
    return address


def check_ray_address(cluster: ClusterConfig) -> None:
    """Raise ClusterError when no one answers there. Ray itself tries for minutes, and then ends the process."""
    address = ray_address(cluster)
    if address is None or address == "auto":
        return
    try:
        socket.create_connection(_host_and_port(_named(cluster)[0], address), timeout=_TIMEOUT_S).close()
    except (OSError, UnicodeError) as error:  # the latter where it can be no host's name
        raise ClusterError(f"{no_cluster(cluster)}: {error}") from error


def no_cluster(cluster: ClusterConfig) -> str:
    """Start of an error line: there is no cluster at the given address."""
    name, address = _named(cluster)
    return f"{name}: no Ray cluster at {address!r}"


def _named(cluster: ClusterConfig) -> tuple[str, str | None]:
    """(source, address). As in Ray itself, RAY_ADDRESS replaces none and auto, and may be empty."""
    variable = os.environ.get("RAY_ADDRESS")
    if variable and cluster.address in (None, "auto"):
        return "RAY_ADDRESS", variable
    return "cluster.address", cluster.address


def _host_and_port(name: str, address: str) -> tuple[str, int]:
    """Raise ClusterError about `name` unless the address has a supported form."""
    found = _HOST_AND_PORT.fullmatch(address)
    if found is None or not 0 < int(found[3]) < 2**16:
        note = next((f", which {why}" for start, why in _NOTES.items() if address.startswith(start)), "")
        expected = "auto, local or host:port (the port of `ray start --head`, 6379 unless told)"
        raise ClusterError(f"{name}: expected {expected}, got {shown(address)}{note}")
    return found[1] or found[2], int(found[3])


def prefer_loopback(cluster: ClusterConfig) -> None:
    """Have a local cluster listen on 127.0.0.1 only. Call it before anything imports Ray."""
    if ray_address(cluster) is None:
        # With clusters off, Ray keeps the 127.0.0.1 that cluster.py gives it, and a local one listens there only. With
        # clusters on it puts the machine's outward address in its place. It reads the variable when it is imported.
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
