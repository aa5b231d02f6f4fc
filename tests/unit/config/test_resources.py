"""The plan: what a config reserves, whether it fits, and what it says of itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskdpo_ray.config import resources
from maskdpo_ray.config.resources import ActorGroup, Plan
from maskdpo_ray.config.schema import (
    AnnotationConfig,
    ClusterConfig,
    Config,
    ModelConfig,
    RolloutConfig,
    TrainConfig,
    VllmConfig,
)
from maskdpo_ray.errors import ClusterError
from maskdpo_ray.stages.preflight import describe
from maskdpo_ray.store.ledger import Entry, Finished, Sealed
from maskdpo_ray.store.question_log import log_path

MODEL = ModelConfig(model_name_or_path="model")
CPU = Config(
    model=MODEL,
    rollout=RolloutConfig(num_engines=2),
    annotation=AnnotationConfig(num_actors=3),
    train=TrainConfig(num_ranks=4),
    cluster=ClusterConfig(cpus_per_engine=1.5, cpus_per_annotator=0, cpus_per_rank=0.5),
)
GPU = Config(
    model=MODEL,
    rollout=RolloutConfig(num_engines=2),
    vllm=VllmConfig(tensor_parallel_size=2),
    train=TrainConfig(num_ranks=4),
    cluster=ClusterConfig(device="cuda", cpus_per_rank=0.5, gpus_per_annotator=0.5),
)


def test_groups() -> None:
    assert Plan(CPU).groups() == [
        ActorGroup("rollout engines", 2, 1.5, 0),
        ActorGroup("annotation actors", 3, 0, 0),
        ActorGroup("training ranks", 4, 0.5, 0),
    ]
    assert [group.gpus for group in Plan(GPU).groups()] == [2, 0.5, 1]


@pytest.mark.parametrize("available", [{"CPU": 5.0}, {"CPU": 64.0, "memory": 1.0}])
def test_room_enough(available: dict[str, float]) -> None:
    Plan(CPU).check(available)
    Plan(GPU).check({**available, "GPU": 8.5})


def test_tenths_add_up() -> None:
    """0.1 + 0.2 is more than 0.3 in floating point, but not to a user."""
    cluster = ClusterConfig(cpus_per_engine=0.1, cpus_per_rank=0.2)
    Plan(Config(model=MODEL, cluster=cluster)).check({"CPU": 0.3})


@pytest.mark.parametrize(
    ("config", "available", "expected"),
    [
        (
            CPU,
            {"CPU": 4.9},
            "not enough CPUs: expected at most 4.9, got 2 x 1.5 (rollout engines) + "
            "4 x 0.5 (training ranks) = 5; lower",
        ),
        (CPU, {}, "not enough CPUs: expected at most 0, got 2 x 1.5"),
        (
            GPU,
            {"CPU": 64.0, "GPU": 8.0},
            "not enough GPUs: expected at most 8, got 2 x 2 (rollout engines) + "
            "1 x 0.5 (annotation actors) + 4 x 1 (training ranks) = 8.5; set cluster.colocate (then 4 will do), or",
        ),
        (
            GPU,
            {"CPU": 64.0},
            "not enough GPUs: expected at most 0, got 2 x 2 (rollout engines) + 1 x 0.5 (annotation actors) + "
            "4 x 1 (training ranks) = 8.5; cluster.device: cpu does without",
        ),
    ],
)
def test_no_room(config: Config, available: dict[str, float], expected: str) -> None:
    with pytest.raises(ClusterError) as caught:
        Plan(config).check(available)
    assert str(caught.value).startswith(expected)
    assert "\n" not in str(caught.value)


def test_room_for_one_group_of_actors() -> None:
    """Groups that train or label alone needs no room for the others."""
    Plan(CPU).check({"CPU": 2.0}, "training ranks")
    Plan(GPU).check({"GPU": 0.5}, "annotation actors")
    with pytest.raises(ClusterError, match=r"got 4 x 0.5 \(training ranks\) = 2; lower"):
        Plan(CPU).check({"CPU": 1.9}, "training ranks")
    said = Plan(CPU).actors("train", "training ranks")
    assert said == ["train on a local Ray cluster (cpu)", "  training ranks: 4, CPUs for each: 0.5"]


def colocated(engines: int = 1, split: int = 1, judges: int = 1, gpus_per_judge: float = 0, ranks: int = 1) -> Plan:
    return Plan(
        Config(
            model=MODEL,
            rollout=RolloutConfig(num_engines=engines),
            vllm=VllmConfig(tensor_parallel_size=split),
            annotation=AnnotationConfig(num_actors=judges),
            train=TrainConfig(num_ranks=ranks),
            cluster=ClusterConfig(device="cuda", gpus_per_annotator=gpus_per_judge, colocate=True),
        )
    )


def places(plan: Plan, *names: str) -> dict[str, list[list[int]]]:
    """GPUs of each actor, by the last word of its group's name."""
    return {name.split()[-1]: [list(gpus) for gpus in found] for name, found in plan.places(*names).items()}


@pytest.mark.parametrize(
    ("plan", "expected"),
    [
        (colocated(), {"engines": [[0]], "ranks": [[0]]}),
        (colocated(gpus_per_judge=1), {"engines": [[0]], "actors": [[0]], "ranks": [[0]]}),
        (colocated(gpus_per_judge=1, ranks=2), {"engines": [[0]], "actors": [[1]], "ranks": [[0], [1]]}),
        (colocated(engines=2, split=2, ranks=4), {"engines": [[0, 1], [2, 3]], "ranks": [[0], [1], [2], [3]]}),
        (
            # A judge of two GPUs begins at an even one: nodes have even numbers of them.
            colocated(engines=1, judges=2, gpus_per_judge=2, ranks=4),
            {"engines": [[0]], "actors": [[2, 3], [0, 1]], "ranks": [[0], [1], [2], [3]]},
        ),
        (
            colocated(judges=3, gpus_per_judge=0.5, ranks=2),
            {"engines": [[0]], "actors": [[1], [1], [0]], "ranks": [[0], [1]]},
        ),
    ],
)
def test_places_of_colocated_actors(plan: Plan, expected: dict[str, list[list[int]]]) -> None:
    assert places(plan) == expected


def test_colocated_actors_in_words(tmp_path: Path) -> None:
    words = "\n  colocated: they take turns with the same 2 GPUs"
    assert words in describe(colocated(ranks=2), 1, {"heldout": 1}, tmp_path)
    on_cpu = replace(CPU, cluster=replace(CPU.cluster, colocate=True))
    assert "they take turns with the same memory" in describe(Plan(on_cpu), 1, {"heldout": 1}, tmp_path)
    assert "turns" not in "\n".join(colocated().actors("train", "training ranks"))  # alone


def test_colocated_groups_take_the_gpus_of_the_largest() -> None:
    plan = colocated(engines=2, split=2, gpus_per_judge=0.5, ranks=3)
    assert plan.gpus() == 4 and plan.gpus("training ranks") == 3
    plan.check({"CPU": 64.0, "GPU": 4.0})
    with pytest.raises(ClusterError) as caught:
        plan.check({"CPU": 64.0, "GPU": 3.0})
    assert str(caught.value) == (
        "not enough GPUs: expected at most 3, got the most of 2 x 2 (rollout engines), 1 x 0.5 (annotation actors), "
        "3 x 1 (training ranks) = 4; lower the counts or vllm.tensor_parallel_size"
    )
    assert places(plan, "annotation actors") == {"actors": [[0]]}  # what labels alone has one


@given(
    st.integers(1, 9),
    st.sampled_from([1, 2, 4]),
    st.integers(1, 9),
    st.sampled_from([0.25, 0.5, 1, 2]),
    st.integers(1, 9),
)
def test_places_are_there_and_ranks_have_one_each(
    engines: int, split: int, judges: int, gpus_per_judge: float, ranks: int
) -> None:
    plan = colocated(engines, split, judges, gpus_per_judge, ranks)
    found = places(plan)
    assert {gpu for group in found.values() for gpus in group for gpu in gpus} <= set(range(plan.gpus()))
    assert found["ranks"] == [[rank] for rank in range(ranks)]
    assert [len(gpus) for gpus in found["engines"]] == [split] * engines
    assert [len(gpus) for gpus in found["actors"]] == [max(1, int(gpus_per_judge))] * judges
    of_engines = [gpu for gpus in found["engines"] for gpu in gpus]
    assert len(set(of_engines)) == len(of_engines)  # no two engines share one


def test_a_gpu_shortage_names_what_to_change() -> None:
    with pytest.raises(ClusterError) as caught:
        Plan(GPU).check({"CPU": 64.0, "GPU": 1.0})
    assert "gpus" in str(caught.value).split(";")[1] or "tensor_parallel_size" in str(caught.value)


def test_description(tmp_path: Path) -> None:
    text = describe(Plan(CPU), 161, {"heldout": 40, "transfer": 30}, tmp_path)
    for part in (
        "rollout engines: 2, CPUs for each: 1.5",
        "annotation actors: 3",
        "training ranks: 4",
        "iterations: 2 of 161 questions x 32 answers",
        "heldout 40 questions x 5",
        "transfer 30 questions x 5",
        "local Ray cluster (cpu)",
    ):
        assert part in text
    assert "resumed" not in text and "GPUs" not in text
    assert "rollout engines: 2, CPUs for each: 1, GPUs: 2" in describe(Plan(GPU), 1, {}, tmp_path)


def test_description_of_a_resumed_run(tmp_path: Path) -> None:
    def finished(stage: str, iteration: int, **sealed: int) -> Finished:
        logs = {log_path(0, split): Sealed(size, "", {}) for split, size in sealed.items()}
        return Finished(stage=stage, iteration=iteration, finished=1.0, facts={}, files={}, logs=logs)

    def commit(log: str, count: int) -> None:
        (tmp_path / log).parent.mkdir(exist_ok=True)
        (tmp_path / log).write_text('{"question_id": "q"}\n' * count)

    def last(*entries: Entry) -> str:
        return describe(Plan(CPU), 1, {"heldout": 1}, tmp_path, entries).splitlines()[-1]

    assert "resumed" not in last(finished("begin", 0))
    commit(log_path(0, "heldout"), 1)
    assert last(finished("begin", 0)) == f"  resumed: {tmp_path} holds 1 questions of eval_000/heldout"
    done = (finished("begin", 0), finished("evaluate-heldout", 0, heldout=21))
    assert last(*done) == f"  resumed: {tmp_path} holds evaluate-heldout 0"
    commit(log_path(0), 2)
    assert last(*done) == f"  resumed: {tmp_path} holds evaluate-heldout 0, 2 questions of iter_000"


def test_nodes_that_join_in_time_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "_POLL_S", 0)
    sizes = iter([{"CPU": 1.0}, {"CPU": 4.0}, {"CPU": 5.0}])
    Plan(replace(CPU, cluster=replace(CPU.cluster, nodes_timeout_s=60))).await_nodes(lambda: next(sizes))
    assert next(sizes, None) is None


@pytest.mark.parametrize("timeout_s", [0, 0.01])
def test_nodes_that_never_join_end_the_run(timeout_s: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "_POLL_S", 0.02)
    plan = Plan(replace(CPU, cluster=replace(CPU.cluster, nodes_timeout_s=timeout_s)))
    asked = []
    with pytest.raises(ClusterError, match="not enough CPUs: expected at most 1, got"):
        plan.await_nodes(lambda: asked.append(1) or {"CPU": 1.0})
    assert len(asked) == (1 if timeout_s == 0 else 2)


def test_a_dry_run_on_a_machine_without_gpus(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Says that they weren't checked; the run itself is refused, and so is either where there are too few."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("os.cpu_count", lambda: 64)
    for there, dry_run in ((0, False), (1, True), (1, False)):
        monkeypatch.setattr("torch.cuda.device_count", lambda there=there: there)
        with pytest.raises(ClusterError, match=f"^not enough GPUs: expected at most {there}, got 2 x 2"):
            Plan(GPU).check_here(dry_run=dry_run)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    Plan(GPU).check_here("training ranks", dry_run=True)
    said = "NOT CHECKED: whether there are enough GPUs and CPUs, as this machine has no GPU; a run reserves 4 = 4 x 1"
    assert capsys.readouterr().err == f"{said} (training ranks)\n"
    many = replace(CPU, train=TrainConfig(num_ranks=10_000, batch_size=10_000))
    with pytest.raises(ClusterError, match="^not enough CPUs"):
        Plan(many).check_here(dry_run=True)
