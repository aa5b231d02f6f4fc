"""The Ray edge: connects, starts the actors, feeds them, and ends them all.

The groups here fulfil the Protocols of `stages.py`. Together with `run.py` this is the only module of
the package that knows Ray.
"""

from __future__ import annotations

import dataclasses
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import ray
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

import actors
import maskdpo_ray
from actors import calls, weights
from actors.annotation import AnnotationActor
from actors.clock import BusyClock
from actors.rollout import EngineSettings, RolloutEngine, Sampling, request_seed
from actors.strategy import OptimizerSettings
from actors.training import TrainingRank, TrainingSettings
from maskdpo_ray import batching
from maskdpo_ray.batching import TrainingExample
from maskdpo_ray.config import Config
from maskdpo_ray.errors import ClusterError, ConfigError
from maskdpo_ray.plan import Plan
from maskdpo_ray.policy import Policy
from maskdpo_ray.records import Question
from maskdpo_ray.stages import Answered, Labelled, ReferenceLogps, Stages

# Ray restarts a dead actor this often and repeats what it was doing.
_RESTARTS = 3
_CONNECT_TIMEOUT_S = 10.0
_START_TRIES = 3
_CLOSE_TIMEOUT_S = 15.0
_EXIT_TIMEOUT_S = 3.0


class Cluster:
    """A connection to Ray and this run's actors; a context manager that leaves no process behind."""

    def __init__(self, config: Config, engine: type = RolloutEngine, rank: type = TrainingRank) -> None:
        """`engine` and `rank` are the classes that Ray wraps: tests put fakes of the same methods here."""
        self._config = config
        self._engine_class = engine
        self._rank_class = rank
        self._handles: list[Any] = []
        self._engines: list[Any] = []
        self._ranks: list[Any] = []
        self._group: Any = None
        self._others: set[psutil.Process] = set()
        """Children of this process that are none of Ray's (W&B has one)."""

    def __enter__(self) -> Cluster:
        _check_actors_package()
        address = self._config.cluster.address
        _check_reachable(address or os.environ.get("RAY_ADDRESS"))
        self._others = set(psutil.Process().children(recursive=True))
        on_sigterm = signal.getsignal(signal.SIGTERM)
        self._connect(address)
        # Ray puts in its own, which kills its processes where they stand and prints a stack trace.
        if callable(on_sigterm) and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, on_sigterm)
        try:
            Plan(self._config).check(ray.cluster_resources())
        except BaseException:
            self._shut_down()
            raise
        return self

    def _connect(self, address: str | None) -> None:
        loopback = {} if address or _is_in_cluster() else {"_node_ip_address": "127.0.0.1"}
        for tries_left in reversed(range(_START_TRIES)):
            try:
                ray.init(
                    address=address,
                    include_dashboard=False if loopback else None,
                    log_to_driver=False,
                    logging_level="warning",
                    **loopback,
                )
                return
            except Exception as error:  # Ray raises plain ones when its processes don't come up in time
                self._shut_down()
                # Ray gives a node 30 s and has no option for it; a busy machine needs longer.
                if tries_left and loopback and "timed out during startup" in str(error):
                    continue
                where = f"cluster.address: no Ray cluster at {address!r}" if address else "Ray did not start"
                raise ClusterError(f"{where}: {calls.first_line(error)}") from error

    def start(self, policy: Policy, render: Callable[[Question], list[int]]) -> Stages:
        """Start every actor and wait until each answers. Raises ClusterError naming the one that didn't."""
        config = self._config
        cores = int(min(n["Resources"].get("CPU", 1) for n in ray.nodes() if n["Alive"]))
        engines = self._start_engines(policy, config.cluster.threads or cores)
        annotators = [
            self._actor(
                AnnotationActor, config.cluster.cpus_per_annotator, config.cluster.gpus_per_annotator, 1
            ).remote(config.annotation.annotator)
            for _ in range(config.annotation.num_actors)
        ]
        ranks = self._start_ranks(config.cluster.threads or max(1, cores // config.train.num_ranks))
        self._handles = [*engines, *annotators, *ranks]
        self._engines, self._ranks = engines, ranks
        deadline = config.cluster.start_timeout_s
        calls.gather([engine.ready.remote() for engine in engines], deadline, "rollout engine", "start")
        calls.gather([each.ready.remote() for each in annotators], deadline, "annotation actor", "start")
        host, port = calls.gather([ranks[0].address.remote()], deadline, "training rank", "start")[0]
        joins = [rank.setup.remote(host, port) for rank in ranks]
        calls.gather(joins, deadline, "training rank", "join the group")
        rollouts = RolloutGroup(config, engines, render)
        annotation = AnnotationGroup(config, annotators)
        trainer = TrainingGroup(config, ranks)

        def busy_seconds() -> dict[str, float]:
            return {
                "rollout": rollouts.busy_seconds(),
                "annotation": annotation.busy_seconds(),
                "training": trainer.busy_seconds(),
            }

        return Stages(rollouts, annotation, trainer, busy_seconds)

    def _start_engines(self, policy: Policy, threads: int) -> list[Any]:
        config = self._config
        settings = EngineSettings(
            device=config.cluster.device,
            threads=threads,
            dtype="bfloat16" if config.ds.param_dtype == "bf16" else "float32",
            seed=config.run.seed,
            trust_remote_code=config.model.trust_remote_code,
            **dataclasses.asdict(config.vllm),
        )
        gpus = config.vllm.tensor_parallel_size if config.cluster.device == "cuda" else 0
        concurrency = config.rollout.max_in_flight + 8  # loads and questions about state on top
        actor = self._actor(self._engine_class, config.cluster.cpus_per_engine, gpus, concurrency)
        return [actor.remote(settings, policy) for _ in range(config.rollout.num_engines)]

    def _start_ranks(self, threads: int) -> list[Any]:
        config = self._config
        settings = TrainingSettings(
            optimizer=OptimizerSettings(
                **dataclasses.asdict(config.adam),
                max_norm=config.train.max_norm,
                lr_scheduler=config.train.lr_scheduler,
                lr_warmup_ratio=config.train.lr_warmup_ratio,
                min_lr_ratio=config.train.min_lr_ratio,
            ),
            beta=config.train.beta,
            zero_stage=config.ds.zero_stage,
            param_dtype=config.ds.param_dtype,
            seed=config.run.seed,
            device=config.cluster.device,
            num_threads=threads,
            timeout_s=config.cluster.step_timeout_s,
            adam_offload=config.ds.adam_offload,
            gradient_checkpointing=config.model.gradient_checkpointing_enable,
            trust_remote_code=config.model.trust_remote_code,
        )
        # One group for all ranks: they start together or not at all, near each other where possible.
        bundle = {"CPU": config.cluster.cpus_per_rank, "GPU": 1 if config.cluster.device == "cuda" else 0}
        bundle = {name: amount for name, amount in bundle.items() if amount}
        num_ranks = config.train.num_ranks
        self._group = placement_group([bundle or {"CPU": 0.001}] * num_ranks, strategy="PACK")
        if not self._group.wait(config.cluster.start_timeout_s):
            raise ClusterError(
                f"training ranks: no room for {num_ranks} x {bundle} within {config.cluster.start_timeout_s:.0f} s"
            )
        return [
            ray.remote(self._rank_class)
            .options(
                num_cpus=bundle.get("CPU", 0),
                num_gpus=bundle.get("GPU", 0),
                scheduling_strategy=PlacementGroupSchedulingStrategy(
                    self._group, placement_group_bundle_index=rank
                ),
            )
            .remote(settings, rank, num_ranks)
            for rank in range(num_ranks)
        ]

    @staticmethod
    def _actor(kind: type, cpus: float, gpus: float, concurrency: int) -> Any:
        return ray.remote(kind).options(
            num_cpus=cpus,
            num_gpus=gpus,
            max_concurrency=concurrency,
            max_restarts=_RESTARTS,
            max_task_retries=_RESTARTS,
        )

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # A rank in the middle of a step would answer after it only, and has no processes of its own.
        try:
            closing = [each.close.remote() for each in self._engines + (self._ranks if kind is None else [])]
            if closing:
                ray.wait(closing, num_returns=len(closing), timeout=_CLOSE_TIMEOUT_S)
            for handle in self._handles:
                ray.kill(handle)
            if self._group is not None:
                remove_placement_group(self._group)
        finally:
            self._shut_down()

    def _shut_down(self) -> None:
        # A local cluster's processes are our children; Ray's agents outlive their raylet by a while.
        started = set(psutil.Process().children(recursive=True)) - self._others
        ray.shutdown()
        _, left = psutil.wait_procs(started, timeout=_EXIT_TIMEOUT_S)
        for process in left:
            process.kill()
        psutil.wait_procs(left, timeout=_EXIT_TIMEOUT_S)


class RolloutGroup:
    """vLLM engines as one source of answers (`stages.Rollouts`)."""

    def __init__(
        self, config: Config, engines: Sequence[Any], render: Callable[[Question], list[int]]
    ) -> None:
        self._config = config
        self._engines = engines
        self._render = render

    def load(self, policy: Policy) -> None:
        """Every engine confirms version and checksum, or ClusterError names the one that didn't."""
        timeout = self._config.cluster.step_timeout_s
        sees = calls.gather(
            [engine.has.remote(policy) for engine in self._engines],
            timeout,
            "rollout engine",
            "look for the policy",
        )
        # Nodes that don't share a file system with us get the bytes, once, through the object store.
        files = None if all(sees) else ray.put(weights.pack(policy.path))
        loads = [
            engine.load.remote(policy, None if here else files)
            for engine, here in zip(self._engines, sees, strict=True)
        ]
        for index, answer in enumerate(
            calls.gather(loads, timeout, "rollout engine", f"load policy {policy.version}")
        ):
            if answer != (policy.version, policy.checksum):
                raise ClusterError(
                    f"rollout engine {index}: expected policy {policy.version} {policy.checksum[:12]}, holds {answer}"
                )

    def stream(
        self, questions: Iterable[Question], policy: Policy, num_samples: int, purpose: str
    ) -> Iterator[Answered]:
        """See `stages.Rollouts.stream`."""
        config = self._config.rollout
        sampling = Sampling(
            num_samples, config.temperature, config.top_k, config.top_p, config.max_new_tokens
        )

        def submit(engine: Any, item: tuple[Question, list[int]]) -> Any:
            question, prompt = item
            seed = request_seed(self._config.run.seed, purpose, policy.version, question.id)
            return engine.generate.remote(question.id, prompt, sampling, seed, policy)

        prompts = ((question, self._render(question)) for question in questions)
        feed = calls.feed(
            prompts,
            self._engines,
            submit,
            config.max_in_flight,
            self._config.cluster.step_timeout_s,
            "rollout engine",
        )
        for (question, prompt), rollouts in feed:
            yield Answered(question, tuple(prompt), tuple(rollouts))

    def busy_seconds(self) -> float:
        """Mean over the engines."""
        return _mean_busy(self._engines, self._config.cluster.step_timeout_s, "rollout engine")


class AnnotationGroup:
    """Annotation actors as one labeller (`stages.Annotators`)."""

    def __init__(self, config: Config, annotators: Sequence[Any]) -> None:
        self._config = config
        self._annotators = annotators

    def stream(self, answered: Iterable[Answered]) -> Iterator[Labelled]:
        """See `stages.Annotators.stream`."""

        def submit(annotator: Any, item: Answered) -> Any:
            return annotator.annotate.remote(item.question, list(item.rollouts))

        timeout, limit = self._config.cluster.step_timeout_s, self._config.annotation.max_in_flight
        for item, annotations in calls.feed(
            answered, self._annotators, submit, limit, timeout, "annotation actor"
        ):
            yield Labelled(item.question, item.prompt_token_ids, item.rollouts, tuple(annotations))

    def busy_seconds(self) -> float:
        """Mean over the actors."""
        return _mean_busy(self._annotators, self._config.cluster.step_timeout_s, "annotation actor")


class TrainingGroup:
    """DeepSpeed ranks as one trainer (`stages.Trainer`)."""

    def __init__(self, config: Config, ranks: Sequence[Any]) -> None:
        self._config = config
        self._ranks = ranks
        self._clock = BusyClock()

    def reference_logps(self, examples: Sequence[TrainingExample], policy: Policy) -> ReferenceLogps:
        """See `stages.Trainer.reference_logps`."""
        micro_batches = list(batching.chunks(examples, self._config.train.micro_batch_size))
        shares = [batching.shard(micro_batches, rank, len(self._ranks)) for rank in range(len(self._ranks))]
        results = [
            iter(logps) for logps in self._call("reference_logps", [(share, policy.path) for share in shares])
        ]
        # Micro-batch i went to rank i mod n: taking them back in the same turns restores the order.
        return [
            next(results[index % len(self._ranks)])
            for index, micro_batch in enumerate(micro_batches)
            for _ in micro_batch
        ]

    def train(
        self, examples: Sequence[TrainingExample], reference: ReferenceLogps, policy: Policy, seed: int
    ) -> Iterator[dict[str, float]]:
        """See `stages.Trainer.train`."""
        train, num_ranks = self._config.train, len(self._ranks)
        total = batching.num_steps(len(examples), train.batch_size, train.max_epochs)
        self._call("begin", [(policy.path, total)] * num_ranks)
        for batch in batching.epoch_batches(len(examples), train.batch_size, train.max_epochs, seed):
            arguments = []
            for rank in range(num_ranks):
                micro_batches = list(
                    batching.chunks(batching.shard(batch, rank, num_ranks), train.micro_batch_size)
                )
                arguments.append(
                    (
                        [[examples[i] for i in micro_batch] for micro_batch in micro_batches],
                        [[reference[i] for i in micro_batch] for micro_batch in micro_batches],
                        len(batch),
                    )
                )
            yield self._call("train_step", arguments)[0]

    def publish(self, folder: str, version: int) -> Policy:
        """See `stages.Trainer.publish`."""
        self._call("save_policy", [(folder,)] * len(self._ranks))
        return weights.publish(folder, version)

    def busy_seconds(self) -> float:
        """Seconds in which the ranks, which work together, had a call to answer."""
        return self._clock.seconds()

    def _call(self, method: str, arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
        with self._clock:
            pending = [
                getattr(rank, method).remote(*args) for rank, args in zip(self._ranks, arguments, strict=True)
            ]
            return calls.gather(pending, self._config.cluster.step_timeout_s, "training rank", method)


def _mean_busy(handles: Sequence[Any], timeout_s: float, what: str) -> float:
    seconds = calls.gather(
        [handle.busy_seconds.remote() for handle in handles], timeout_s, what, "say how busy it was"
    )
    return sum(seconds) / len(seconds)


def _check_reachable(address: str | None) -> None:
    """Ray itself tries for minutes, and ends the process when nobody answers."""
    if address is None or address in ("auto", "local") or "://" in address:
        return
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=_CONNECT_TIMEOUT_S).close()
    except (OSError, ValueError) as error:
        raise ClusterError(f"cluster.address: no Ray cluster at {address!r}: {error}") from error


def _is_in_cluster() -> bool:
    return bool(os.environ.get("RAY_ADDRESS"))


def _check_actors_package() -> None:
    """`actors` is a common name: refuse one that is not ours."""
    ours, found = (Path(package.__file__).resolve().parent.parent for package in (maskdpo_ray, actors))
    if ours != found:
        raise ConfigError(f"package 'actors': expected the one beside maskdpo_ray in {ours}, found {found}")
