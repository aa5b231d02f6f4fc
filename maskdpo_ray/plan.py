"""What a config will start, and whether a cluster has room for it.

python -m maskdpo_ray.plan --config configs/paper.yaml --model_size 8b says whether the models fit as well.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from maskdpo_ray.config import resources
from maskdpo_ray.config.schema import Config
from maskdpo_ray.entries import Entry, Finished, Unit
from maskdpo_ray.errors import ClusterError, ConfigError
from maskdpo_ray.store.question_log import units


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
        config, on_gpu = self.config, self.config.cluster.device == "cuda"
        return [
            ActorGroup(
                "rollout engines",
                config.rollout.num_engines,
                config.cluster.cpus_per_engine,
                config.vllm.tensor_parallel_size if on_gpu else 0,
            ),
            ActorGroup(
                "annotation actors",
                config.annotation.num_actors,
                config.cluster.cpus_per_annotator,
                config.cluster.gpus_per_annotator,
            ),
            *self._evaluators(),
            ActorGroup("training ranks", config.train.num_ranks, config.cluster.cpus_per_rank, 1 if on_gpu else 0),
        ]

    def _evaluators(self) -> list[ActorGroup]:
        if not self.config.eval.is_judged:
            return []
        cluster = self.config.cluster
        count = self.config.eval.num_actors
        return [ActorGroup("evaluation actors", count, cluster.cpus_per_evaluator, cluster.gpus_per_evaluator)]

    def named(self, names: Collection[str]) -> list[ActorGroup]:
        """The groups of these names; all without a name."""
        return [group for group in self.groups() if not names or group.name in names]

    def check(self, available: Mapping[str, float], *names: str) -> None:
        """Raise ClusterError with the sum when the cluster's CPUs or GPUs don't suffice for the named groups."""
        lower = {"CPU": "cluster.cpus_per_*", "GPU": "vllm.tensor_parallel_size"}
        for kind, field in (("CPU", "cpus"), ("GPU", "gpus")):
            needs = [(group.count, getattr(group, field), group.name) for group in self.named(names)]
            total, has = sum(count * each for count, each, _ in needs), available.get(kind, 0)
            if total > has + 1e-6:
                terms = " + ".join(f"{count} x {each:g} ({name})" for count, each, name in needs if each)
                advice = f"lower the counts or {lower[kind]}"
                if kind == "GPU" and not has and self.config.cluster.device == "cuda":
                    advice = "cluster.device: cpu does without"
                raise ClusterError(f"not enough {kind}s: expected at most {has:g}, got {terms} = {total:g}; {advice}")

    def check_here(self, *names: str) -> None:
        """`check` before Ray starts, where it is to start on this machine: what that has is the most it can give."""
        if resources.of(self.config.cluster) is None:
            import torch

            self.check({"CPU": os.cpu_count() or 1, "GPU": torch.cuda.device_count()}, *names)
            self._check_memory(psutil.virtual_memory().total / 2**30, *names)

    def _check_memory(self, has_gib: float, *names: str) -> None:
        """Raise ConfigError when engines on CPUs would have larger KV caches than all memory; vLLM would not say."""
        engines = [group.count for group in self.named(names) if group.name == "rollout engines"]
        needed = sum(engines) * self.config.vllm.cpu_kv_cache_gib
        if self.config.cluster.device == "cpu" and needed > has_gib:
            raise ConfigError(
                f"vllm.cpu_kv_cache_gib: expected less than this machine's {has_gib:.0f} GiB of memory for all rollout "
                f"engines, got {engines[0]} x {self.config.vllm.cpu_kv_cache_gib} = {needed}"
            )

    def actors(self, work: str, *names: str) -> list[str]:
        """`work`, where it is done, and a line for each of the named groups."""
        cluster = self.config.cluster
        where = resources.of(cluster) or "a local Ray cluster"
        lines = [f"{work} on {where} ({cluster.device})"]
        for group in self.named(names):
            gpus = f", GPUs: {group.gpus:g}" if group.gpus else ""
            lines.append(f"  {group.name}: {group.count}, CPUs for each: {group.cpus:g}{gpus}")
        return lines


def evaluating(with_engines: bool) -> list[str]:
    """Names of the groups that evaluate; answers that exist need no engines."""
    return ["rollout engines"] * with_engines + ["annotation actors", "evaluation actors"]


def describe(
    plan: Plan, num_train: int, num_eval: Mapping[str, int], folder: Path, entries: Sequence[Entry] = ()
) -> str:
    """The plan of a run in words: actors, resources, steps, and what `entries` of a ledger say is done."""
    config = plan.config
    k, replications = config.rollout.n_samples_per_prompt, config.eval.replications
    answers = ", ".join(f"{split} {count} questions x {replications}" for split, count in num_eval.items())
    ahead = "  answers from iteration 1 on: during the training before it, so NOT ON-POLICY (rollout.ahead)"
    lines = [
        *plan.actors(f"run {config.run.name} in {folder}"),
        f"  iterations: {config.run.iterations} of {num_train} questions x {k} answers -> at most {num_train} pairs"
        f"; epochs: {config.train.max_epochs}, in batches of {config.train.batch_size}",
        *([ahead] if config.rollout.ahead else []),
        f"  evaluation before and after each iteration: {answers} {'greedy ' * config.eval.is_greedy}answers",
    ]
    return "\n".join([*lines, *resumed(folder, entries)])


def resumed(folder: Path, entries: Sequence[Entry]) -> list[str]:
    """A line of what the run folder holds already, if anything: finished stages, questions of the one under way."""
    done = [f"{e.stage} {e.iteration}" for e in entries if isinstance(e, Finished) and e.stage != "begin"]
    for name in dict.fromkeys(entry.log for entry in entries if isinstance(entry, Unit)):
        committed, sealed = units(entries, name)
        done += [f"{len(committed)} questions of {name}"] * (len(committed) > sealed)
    return [f"  resumed: {folder} holds {', '.join(done)}"] if done else []
