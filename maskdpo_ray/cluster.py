"""The Ray edge: connects, starts the actors, and ends them all; `actors.groups` gives them work.

Besides the commands this is the only module of the package that imports Ray.
"""

from __future__ import annotations

import logging
import math
import signal
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import psutil
import ray
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

import actors
from actors import calls
from actors.groups import AnnotationGroup, EvaluationGroup, RolloutGroup, TrainingGroup
from actors.host import AnnotationActor, EvaluationActor, Stored
from actors.placement import Placement
from actors.ranks import Ranks
from actors.rollout import RolloutEngine
from actors.training import TrainingRank
from maskdpo_ray.annotation.protocol import Annotator
from maskdpo_ray.config import resources
from maskdpo_ray.config.resources import ANNOTATORS, ENGINES, EVALUATORS, OTHER_ENGINES, RANKS, Plan, evaluating
from maskdpo_ray.config.schema import Config
from maskdpo_ray.errors import ClusterError, ConfigError
from maskdpo_ray.evaluation.evaluators.protocol import Evaluator
from maskdpo_ray.models import folder
from maskdpo_ray.models.chat import Chat
from maskdpo_ray.records import Policy
from maskdpo_ray.stages.protocols import ActorGroups, AnsweringGroups, Engines, OtherModel

_START_RETRIES = 3
"""Ray's retries of a call while actors start; `actors.dispatch` retries later ones, however often an actor restarts."""
_CONNECT_TRIES = 3
_NOTE_S = 30.0
"""Between two lines about actors that still start."""
_ENGINE_CALLS = 10_000
"""Concurrent calls of an engine, more than it is ever given: what finds no place in its batch queues in vLLM."""
_CLOSE_TIMEOUT_S = 15.0
_STOP_TIMEOUT_S = 5.0  # the sender of SIGTERM sends SIGKILL after a while
_EXIT_TIMEOUT_S = 3.0
_POLL_S = 0.05


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
        self._placement: Any = None
        """Placement group of the training ranks, and of those that replace them, where they have GPUs of their own."""
        self._shared: Placement | None = None
        """GPUs that all actors share."""
        self._connector = ThreadPoolExecutor(1, thread_name_prefix="ray-init")
        """The thread that starts Ray, whose processes end with it: to the kernel a thread is their parent."""
        self._is_stopped = False
        """Set when the run is stopped while Ray starts."""
        self._not_rays: set[psutil.Process] = set()
        """Children of this process that Ray did not start (W&B has one)."""

    def __enter__(self) -> Cluster:
        _check_actors_package()
        address = resources.ray_address(self._config.cluster)
        resources.check_ray_address(self._config.cluster)
        self._not_rays = set(psutil.Process().children(recursive=True))
        on_sigterm = signal.getsignal(signal.SIGTERM)
        # In the main thread Ray would install a SIGTERM handler that exits with another code, if at all, and a stop
        # would interrupt its C++. Here a stop waits until Ray has started.
        connected = self._connector.submit(self._connect, address)
        try:
            while not wait([connected], timeout=_POLL_S).done:
                _restore_sigterm(on_sigterm)
            connected.result()
            _restore_sigterm(on_sigterm)
        except BaseException:  # a stop, too: nobody calls __exit__
            self._is_stopped = True
            wait([connected])
            self._shut_down()
            self._connector.shutdown()
            raise
        return self

    def _connect(self, address: str | None) -> None:
        loopback: dict[str, Any] = {}
        if not address:
            # Ray's workers run at nice 15 by default: on a machine with other load an engine then starves until vLLM's
            # own deadline, and a step takes minutes.
            loopback = {"_node_ip_address": "127.0.0.1", "_system_config": {"worker_niceness": 0}}
            # Ray's processes inherit it. A job manager or `timeout` often sends SIGTERM to all processes of a run;
            # without its raylet Ray's C++ would end the driver at once.
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        logging.getLogger("ray._private.worker").addFilter(_is_not_about_sigterm)
        for tries_left in reversed(range(_CONNECT_TRIES)):
            try:
                with warnings.catch_warnings():
                    # It says that actors without GPUs will see all of them: ours ask for what they use.
                    warnings.filterwarnings("ignore", "Tip: In future versions of Ray", FutureWarning)
                    ray.init(
                        # Without an address Ray would join whatever cluster it finds on this machine.
                        address=address or "local",
                        include_dashboard=False if loopback else None,
                        log_to_driver=False,
                        logging_level="warning",
                        **loopback,
                    )
                return
            except Exception as error:  # Ray raises plain ones when its processes don't come up in time
                self._shut_down()
                # Ray gives a node 30 s and has no option for it; a busy machine needs longer.
                if tries_left and not self._is_stopped and loopback and "timed out during startup" in str(error):
                    continue
                where = resources.no_cluster(self._config.cluster) if address else "Ray did not start"
                raise ClusterError(f"{where}: {calls.first_line(error)}") from error

    def start(
        self,
        policy: Policy,
        chat: Chat,
        annotator: Annotator,
        evaluator: Evaluator | None = None,
        other: tuple[Policy, Chat] | None = None,
    ) -> ActorGroups:
        """Start every actor and wait until each answers; `other` is a model that answers in the policy's place.

        Raises ClusterError naming the one that didn't.
        """
        self._reserve()
        rollout, annotation = self._start_engines(policy, chat), self._start_annotators(annotator)
        others = self._start_engines(*other, OTHER_ENGINES) if other else None
        evaluation = self._start_evaluators(evaluator)
        ranks = self._start_ranks()
        # Ranks import for seconds, while engines start: not on GPUs that they share, whose memory engines measure.
        trainer = None if self._shared else self._training_group(ranks)
        self._await_ready(rollout, others, annotation, evaluation)
        answering = OtherModel(others, other[0]) if others and other else None
        return ActorGroups(rollout, annotation, evaluation, answering, trainer=trainer or self._training_group(ranks))

    def start_evaluation(
        self,
        policy: Policy,
        chat: Chat,
        annotator: Annotator,
        evaluator: Evaluator | None,
        answers: Engines | None = None,
    ) -> AnsweringGroups:
        """Start all but training ranks, and no engines where `answers` take their place.

        Raises ClusterError as `start` does.
        """
        self._reserve(*evaluating(with_engines=answers is None))
        rollout = self._start_engines(policy, chat) if answers is None else None
        annotation, evaluation = self._start_annotators(annotator), self._start_evaluators(evaluator)
        self._await_ready(rollout, annotation, evaluation)
        return AnsweringGroups(answers or rollout, annotation, evaluation)

    def start_annotators(self, annotator: Annotator) -> AnnotationGroup:
        """Start annotation actors only. Raises ClusterError as `start` does."""
        self._reserve(ANNOTATORS)
        annotation = self._start_annotators(annotator)
        self._await_ready(annotation)
        return annotation

    def start_trainer(self) -> TrainingGroup:
        """Start training ranks only. Raises ClusterError as `start` does."""
        self._reserve(RANKS)
        return self._training_group(self._start_ranks())

    def _reserve(self, *names: str) -> None:
        """Check that there is room for the named groups, or for all; take the GPUs that they share."""
        plan = Plan(self._config)
        plan.await_nodes(ray.cluster_resources, *names)
        if self._config.cluster.colocate and plan.gpus(*names):
            self._shared = Placement(plan, *names)

    def _options(self, group: str, number: int, cpus: float, gpus: float) -> dict[str, Any]:
        """Resources and place of an actor: Ray's options."""
        if self._shared is not None:
            return self._shared.options(group, number, cpus)
        return {"num_cpus": cpus, "num_gpus": gpus}

    @staticmethod
    def _num_nodes() -> int:
        return sum(node["Alive"] for node in ray.nodes())

    def _threads(self, sharing: int) -> int:
        """Threads of each of `sharing` actors that work at the same time on one node."""
        cores = int(min(n["Resources"].get("CPU", 1) for n in ray.nodes() if n["Alive"]))
        return self._config.cluster.threads or max(1, cores // sharing)

    def _await_ready(self, *groups: RolloutGroup | AnnotationGroup | EvaluationGroup | None) -> None:
        for group in groups:
            if group is not None:
                calls.gather(group.ready(), self._config.cluster.start_timeout_s, group.pool.what, "start", _NOTE_S)

    def _training_group(self, handles: list[Any]) -> TrainingGroup:
        ranks = Ranks(self._config, handles, self._restart_ranks)
        ranks.join()
        return TrainingGroup(self._config, ranks)

    def _restart_ranks(self) -> list[Any]:
        for rank in self._ranks:
            ray.kill(rank)
        return self._start_ranks()

    def _start_annotators(self, annotator: Annotator) -> AnnotationGroup:
        cluster, count = self._config.cluster, self._config.annotation.num_actors
        share = (cluster.cpus_per_annotator, cluster.gpus_per_annotator)
        return AnnotationGroup(self._config, *self._start_hosts(AnnotationActor, annotator, ANNOTATORS, count, *share))

    def _start_evaluators(self, evaluator: Evaluator | None) -> EvaluationGroup | None:
        if evaluator is None:
            return None
        cluster, count = self._config.cluster, self._config.eval.num_actors
        share = (cluster.cpus_per_evaluator, cluster.gpus_per_evaluator)
        return EvaluationGroup(self._config, *self._start_hosts(EvaluationActor, evaluator, EVALUATORS, count, *share))

    def _start_hosts(
        self, kind: type, hosted: Annotator | Evaluator, group: str, count: int, cpus: float, gpus: float
    ) -> tuple[list[Any], Stored[Any]]:
        """Start actors; returns them and the stored object that they host, which every call to them brings along."""
        concurrency = getattr(hosted, "max_concurrency", 1)
        hosts = [
            self._actor(kind, concurrency, self._options(group, number, cpus, gpus)).remote() for number in range(count)
        ]
        self._handles += hosts
        return hosts, Stored(ray.put(hosted))

    def _start_engines(self, policy: Policy, chat: Chat, group: str = ENGINES) -> RolloutGroup:
        config = self._config
        threads = self._threads(sharing=math.ceil(config.rollout.num_engines / self._num_nodes()))
        gpus = config.vllm.tensor_parallel_size if config.cluster.device == "cuda" else 0
        options = [
            self._options(group, number, config.cluster.cpus_per_engine, gpus)
            for number in range(config.rollout.num_engines)
        ]
        engines = [
            self._actor(self._engine_class, _ENGINE_CALLS, each).remote(config, policy, threads) for each in options
        ]
        self._engines += engines
        self._handles += engines
        return RolloutGroup(config, engines, chat)

    def _start_ranks(self) -> list[Any]:
        config = self._config
        num_ranks = config.train.num_ranks
        threads, template = self._threads(sharing=num_ranks), config.model.chat_template
        text = None if template is None else folder.template(template)  # which ranks' nodes need not see
        self._ranks = [
            ray.remote(self._rank_class)
            .options(**self._rank_options(rank))
            .remote(config, rank, num_ranks, threads, text)
            for rank in range(num_ranks)
        ]
        return self._ranks

    def _rank_options(self, rank: int) -> dict[str, Any]:
        """Resources and place of a rank: all start together or not at all, near each other where possible."""
        config = self._config
        if self._shared is not None:
            return self._shared.options(RANKS, rank, config.cluster.cpus_per_rank)
        bundle = {"CPU": config.cluster.cpus_per_rank, "GPU": 1 if config.cluster.device == "cuda" else 0}
        bundle = {name: amount for name, amount in bundle.items() if amount}
        num_ranks = config.train.num_ranks
        if self._placement is None:
            self._placement = placement_group([bundle or {"CPU": 0.001}] * num_ranks, strategy="PACK")
        if not self._placement.wait(config.cluster.start_timeout_s):
            raise ClusterError(
                f"training ranks: no room for {num_ranks} x {bundle} within {config.cluster.start_timeout_s:.0f} s"
            )
        strategy = PlacementGroupSchedulingStrategy(self._placement, placement_group_bundle_index=rank)
        return {"num_cpus": bundle.get("CPU", 0), "num_gpus": bundle.get("GPU", 0), "scheduling_strategy": strategy}

    @staticmethod
    def _actor(kind: type, concurrency: int, options: dict[str, Any]) -> Any:
        return ray.remote(kind).options(
            max_concurrency=concurrency, max_restarts=-1, max_task_retries=_START_RETRIES, **options
        )

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # After an error ranks are not asked: one in the middle of a step would answer after it, and has no children.
        try:
            ending = self._engines + (self._ranks if kind is None else [])
            # No retries: an actor may be gone by now (the signal may have reached it too), and Ray would restart it
            # and print a line about each call that it retries.
            closing = [each.close.options(max_task_retries=0).remote() for each in ending]
            if closing:
                timeout = _CLOSE_TIMEOUT_S if kind is None else _STOP_TIMEOUT_S
                ray.wait(closing, num_returns=len(closing), timeout=timeout)
            for handle in self._handles + self._ranks:
                ray.kill(handle)
            if self._placement is not None:
                remove_placement_group(self._placement)
            if self._shared is not None:
                self._shared.remove()
        finally:
            self._shut_down()
            self._connector.shutdown()

    def _shut_down(self) -> None:
        # A local cluster's processes are our children; Ray's agents outlive their raylet by a while.
        started = set(psutil.Process().children(recursive=True)) - self._not_rays
        ray.shutdown()
        _, left = psutil.wait_procs(started, timeout=_EXIT_TIMEOUT_S)
        for process in left:
            process.kill()
        psutil.wait_procs(left, timeout=_EXIT_TIMEOUT_S)


def _restore_sigterm(on_sigterm: Any) -> None:
    """Replace the handler that Ray's C++ installs, which prints a stack trace and ends the process at once."""
    if callable(on_sigterm) and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, on_sigterm)


def _is_not_about_sigterm(record: logging.LogRecord) -> bool:
    return "SIGTERM handler is not set" not in record.getMessage()


def _check_actors_package() -> None:
    """Refuse another package of the name `actors`, which is a common one."""
    ours, found = (Path(file).resolve().parents[1] for file in (__file__, actors.__file__))
    if ours != found:
        raise ConfigError(f"package 'actors': expected the one beside maskdpo_ray in {ours}, found {found}")
