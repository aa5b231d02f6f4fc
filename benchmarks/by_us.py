"""Our training, through the real actor group: driver, Ray, one DeepSpeed rank."""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from actors.training import TrainingRank
from benchmarks import measures
from benchmarks.workload import Outcome, Workload


class MeasuredRank(TrainingRank):
    """A training rank that tells, with the metrics of each step, what it took.

    Work is counted by hooks on the decoder and the head, whoever calls them.
    """

    timed = True

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._began = time.perf_counter()
        self._seconds: Counter[str] = Counter()
        self._cpu_seconds: Counter[str] = Counter()
        self._work: dict[str, measures.Work] = {}
        self._phase = "training"
        self._shape: measures.Shape | None = None

    def _measured(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any, **options: Any) -> Any:
            begin, cpu_begin = time.perf_counter(), time.process_time()
            try:
                return call(*arguments, **options)
            finally:
                self._seconds[name] += time.perf_counter() - begin
                self._cpu_seconds[name] += time.process_time() - cpu_begin

        return timed

    def setup(self, master_addr: str, master_port: int) -> str | None:
        told = super().setup(master_addr, master_port)
        from maskdpo_ray.training import forward, prefix_tree

        # What the rank imports by name when a step begins.
        forward.response_logps = self._measured("forward", forward.response_logps)
        for name in ("build",):
            setattr(prefix_tree, name, self._measured("tree", getattr(prefix_tree, name)))
        return told

    def _load(self, path: str) -> Any:
        model, way = self._measured("loading", super()._load)(path)
        self._shape = measures.Shape.of(model.config)
        model.get_decoder().register_forward_pre_hook(self._count_tokens, with_kwargs=True)
        model.get_output_embeddings().register_forward_pre_hook(self._count_rows)
        return model, way

    def _settle(self, *arguments: Any, **options: Any) -> Any:
        work = dict(self._work)
        way = super()._settle(*arguments, **options)
        self._work = work  # the guards' few tokens are not part of the comparison
        return way

    def _count_tokens(self, _: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
        ids, depths = options.get("input_ids"), options.get("position_ids")
        if ids is None:
            ids = options.get("inputs_embeds")[..., 0] if "inputs_embeds" in options else arguments[0]
        attended = ids.numel() if depths is None else int((depths + 1).sum())
        self._add(measures.Work(tokens=ids.numel(), attended=attended))

    def _count_rows(self, _: Any, arguments: tuple[Any, ...]) -> None:
        self._add(measures.Work(head_rows=arguments[0].numel() // arguments[0].shape[-1]))

    def _add(self, work: measures.Work) -> None:
        self._work[self._phase] = self._work.get(self._phase, measures.Work()) + work

    def begin(self, *arguments: Any, **options: Any) -> str | None:
        before = self._seconds["loading"]
        begin = time.perf_counter()
        told = super().begin(*arguments, **options)  # loads, too, and is timed for that
        self._seconds["loading"] = before + time.perf_counter() - begin
        engine = self._engine
        engine.backward = self._measured("backward", engine.backward)
        engine.step = self._measured("optimizer", engine.step)
        return told

    def reference_logps(self, *arguments: Any, **options: Any) -> Any:
        self._phase = "reference"
        return self._measured("reference", super().reference_logps)(*arguments, **options)

    def _reference_of(self, *arguments: Any) -> Any:
        self._phase = "reference"
        try:
            return self._measured("reference in steps", super()._reference_of)(*arguments)
        finally:
            self._phase = "training"

    def train_step(self, *arguments: Any, **options: Any) -> dict[str, Any]:
        self._phase = "training"
        if self._seconds["steps"] == 0:
            for seconds in (self._seconds, self._cpu_seconds):
                for name in ("forward", "tree"):
                    seconds[f"reference {name}"] = seconds.pop(name, 0.0)
        metrics: dict[str, Any] = self._measured("steps", super().train_step)(*arguments, **options)
        assert self._shape is not None
        flops = sum(
            measures.training_flops(work, self._shape)
            if phase == "training"
            else measures.forward_flops(work, self._shape)
            for phase, work in self._work.items()
        )
        return metrics | {
            "measured": {
                "seconds": dict(self._seconds),
                "cpu_seconds": dict(self._cpu_seconds),
                "work": {phase: measures.plain(work) for phase, work in self._work.items()},
                "flops": flops,
                "peak_rss": measures.peak_rss(),
            }
        }


def config_of(workload: Workload) -> Any:
    """Mask-DPO's recipe with the workload's training, and the options of ours that it names."""
    from maskdpo_ray.config import cli

    config = cli.read(Path("configs/recipes/mask_dpo.yaml"))
    changes: dict[str, dict[str, Any]] = {
        "model": {"model_name_or_path": workload.model},
        "run": {"seed": workload.seed},
        "train": {
            "beta": workload.beta,
            "max_epochs": workload.epochs,
            "batch_size": workload.batch_size,
            "lr_scheduler": workload.lr_scheduler,
            "lr_warmup_ratio": 0.0,
            "max_norm": workload.max_norm,
            "save_steps": 0,
        },
        "adam": {
            "lr": workload.lr,
            "betas": workload.betas,
            "eps": workload.eps,
            "weight_decay": workload.weight_decay,
        },
        "ds": {"param_dtype": workload.dtype},
        "cluster": {"device": "cpu", "threads": workload.threads},
    }
    for name, value in workload.options.items():
        section, _, option = name.partition(".")
        if option:
            changes.setdefault(section, {})[option] = value
    sections = {name: dataclasses.replace(getattr(config, name), **values) for name, values in changes.items()}
    return dataclasses.replace(config, **sections)


def train(workload: Workload, mask: str) -> Outcome:
    """From the driver's call for reference log-probs to the last step's metrics, less the ranks' loading."""
    from transformers import AutoTokenizer

    from actors import weights
    from maskdpo_ray.cluster import Cluster
    from maskdpo_ray.config import resources
    from maskdpo_ray.store.checkpoints import Checkpoints
    from maskdpo_ray.training.example_store import ExampleStore
    from maskdpo_ray.training.reference import save

    pairs = workload.read()
    examples = workload.examples(pairs, mask, AutoTokenizer.from_pretrained(workload.model))
    config = config_of(workload)
    policy = weights.publish(workload.model, 0)
    resources.prefer_loopback(config.cluster)
    with tempfile.TemporaryDirectory() as folder, Cluster(config, rank=MeasuredRank) as cluster:
        trainer = cluster.start_trainer()
        checkpoints = Checkpoints(Path(folder), 0, {})
        begin = time.perf_counter()
        store, reference = ExampleStore.write(Path(folder), examples), policy
        if config.savings.reference_once:
            logps = trainer.reference_logps(store, policy)
            reference = save(Path(folder) / "logps.safetensors", store, logps, policy.checksum)
        referenced = time.perf_counter()
        steps = list(trainer.train(store, reference, policy, workload.seed, checkpoints, config))
        end = time.perf_counter()
    last: dict[str, Any] = steps[-1]["measured"]  # type: ignore[assignment]
    seconds = last["seconds"]
    in_rank = seconds["steps"] + seconds.get("reference", 0.0)
    loading = seconds["loading"]
    return Outcome(
        seconds=end - begin - loading,
        reference_seconds=referenced - begin,
        loading_seconds=loading,
        peak_rss=last["peak_rss"],
        losses=[float(step["loss"]) for step in steps],
        details={**last, "seconds_in_rank": in_rank, "driver_peak_rss": measures.peak_rss()},
    )
