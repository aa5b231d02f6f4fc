"""`cluster.colocate`: engines and judges rest while ranks train, and come back with the new policy."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import fakes
import pytest
from fake_run import ITERATIONS, results, run
from fakes import Events, Stopped

from maskdpo_ray.config.schema import ClusterConfig, EvalConfig
from maskdpo_ray.records import Policy
from maskdpo_ray.stages.protocols import OtherModel

pytestmark = pytest.mark.usefixtures("no_fsync")
JUDGED = {"eval": EvalConfig(n_samples_per_prompt=2, bootstrap_samples=100, evaluator="factscore")}
COLOCATED = {**JUDGED, "cluster": ClusterConfig(colocate=True)}
OF_RANKS = ("reference", "begin", "step", "publish")
OF_OTHERS = ("load", "answer", "label", "judge")


def turns(events: Events) -> list[str]:
    """Turns in order, without repetitions."""
    kinds = ["rest" if e[0] == "rest" else "ranks" if e[0] in OF_RANKS else "others" for e in events if e[0] in
             (*OF_RANKS, *OF_OTHERS, "rest")]  # fmt: skip
    return [kind for kind, before in zip(kinds, [None, *kinds], strict=False) if kind != before]


def test_ranks_work_while_the_others_rest(tmp_path: Path) -> None:
    events = run(tmp_path, sections=COLOCATED)
    assert turns(events) == ["others", *["rest", "ranks", "others"] * ITERATIONS]
    assert [event[1] for event in events.of("rest")] == ["FakeEngines", "FakeAnnotators", "FakeEvaluators"] * ITERATIONS
    # Engines come back with the policy that was trained, and no other.
    for iteration in range(ITERATIONS):
        last = max(n for n, event in enumerate(events) if event[:2] == ("publish", iteration + 1))
        assert next(event for event in events[last + 1 :] if event[0] in OF_OTHERS) == ("load", iteration + 1)


def test_nobody_rests_without_it_and_the_results_are_the_same(tmp_path: Path) -> None:
    for name, sections in (("apart", JUDGED), ("colocated", COLOCATED)):
        (tmp_path / name).mkdir()
        events = run(tmp_path / name, sections=sections)
        assert bool(events.of("rest")) == (name == "colocated")
    assert results(tmp_path / "apart") == results(tmp_path / "colocated")


def test_a_run_that_stopped_in_training_rests_again(tmp_path: Path) -> None:
    """A new process starts its engines awake."""
    whole = run(tmp_path / "whole", sections=COLOCATED)
    at = next(number for number, event in enumerate(whole) if event[0] == "step")
    with pytest.raises(Stopped):
        run(tmp_path / "stopped", Events(at + 1), sections=COLOCATED)
    assert turns(run(tmp_path / "stopped", sections=COLOCATED))[:3] == ["others", "rest", "ranks"]
    assert results(tmp_path / "whole") == results(tmp_path / "stopped")


def test_another_models_engines_rest_as_well() -> None:
    events = Events()
    groups = fakes.groups(fakes.CONFIG, events)
    policy = Policy(0, "other", "sum")
    replace(groups, other=OtherModel(fakes.FakeEngines(1, events), policy)).rest()
    assert [event[1] for event in events.of("rest")].count("FakeEngines") == 2
