"""What a config will start, and whether a cluster has room for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from maskdpo_ray.config import Config
from maskdpo_ray.errors import ClusterError


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
        """Rollout engines, annotation actors and training ranks."""
        config, on_gpu = self.config, self.config.cluster.device == "cuda"
        return [
            ActorGroup("rollout engines", config.rollout.num_engines, config.cluster.cpus_per_engine,
                       config.vllm.tensor_parallel_size if on_gpu else 0),
            ActorGroup("annotation actors", config.annotation.num_actors, config.cluster.cpus_per_annotator,
                       config.cluster.gpus_per_annotator),
            ActorGroup("training ranks", config.train.num_ranks, config.cluster.cpus_per_rank, 1 if on_gpu else 0),
        ]

    def check(self, available: Mapping[str, float]) -> None:
        """Raise ClusterError with the sum when the cluster's CPUs or GPUs don't suffice."""
        for kind, field in (("CPU", "cpus"), ("GPU", "gpus")):
            needs = [(group.count, getattr(group, field), group.name) for group in self.groups()]
            total, has = sum(count * each for count, each, _ in needs), available.get(kind, 0)
            if total > has + 1e-6:
                terms = " + ".join(f"{count} x {each:g} ({name})" for count, each, name in needs if each)
                raise ClusterError(f"not enough {kind}s: expected at most {has:g}, got {terms} = {total:g}; "
                                   f"lower the counts or cluster.cpus_per_*")
