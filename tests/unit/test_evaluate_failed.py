"""`maskdpo_ray.evaluate` with questions that failed: of its own, and of the evaluation that it is compared with."""

from __future__ import annotations

import json
from pathlib import Path

import fakes
import pytest
from test_evaluate import folder, prepare, run, write  # noqa: F401

from maskdpo_ray.errors import ClusterError
from maskdpo_ray.records import Failed
from maskdpo_ray.report import tables

pytestmark = pytest.mark.usefixtures("once")
FAILED = {"failed/h2": "rollout engine 0: no answer to failed/h2"}


@pytest.fixture(autouse=True)
def with_a_failing_question(folder: Path) -> None:  # noqa: F811
    """Two topics; the only question of one of them fails where engines answer."""
    lines = (folder / "eval.jsonl").read_text().splitlines()
    asked = [json.loads(line) | {"topic": "Rwanda"} for line in lines]
    asked[2] |= {"id": "failed/h2", "facts": {"table": "countries", "entity": "Kenya"}, "topic": "Kenya"}
    write(folder / "eval.jsonl", asked)


def test_its_topic_is_left_out(folder: Path) -> None:  # noqa: F811
    events, summary = run(prepare(folder))
    found = json.loads((folder / "eval/eval_000/heldout.json").read_text())
    assert (found["questions"], found["left_out"]) == (2, {"Kenya": FAILED["failed/h2"]})
    assert found["topic_sums"].keys() == {"Rwanda"}
    text = " ".join(tables.render(summary, width=400).split())
    assert "heldout, this: 1 topics are LEFT OUT of its figures and of gains over it or of it, as a" in text
    # It is set aside for good: the finished evaluation is not asked again.
    assert not run(prepare(folder))[0].of("answer") and events.of("answer")


def test_too_many_stop_it(folder: Path) -> None:  # noqa: F811
    message = r"^expected at most 0% of the last questions to fail \(run.max_failed\), got 1 of 3; the last one, "
    with pytest.raises(ClusterError, match=message):
        run(prepare(folder, "--run.max_failed", "0"))
    assert len(run(prepare(folder))[0].of("answer")) == 3  # the failed one again, and the transfer questions


def test_compared_over_the_common_topics(folder: Path) -> None:  # noqa: F811
    """Each way round: one side left a topic out, and answers of a file have it."""
    run(prepare(folder, "--run.name", "base"))
    answers = [{"question_id": name, "text": fakes.RIGHT} for name in ("h0", "h1", "failed/h2", "t0", "t1")]
    write(folder / "answers.jsonl", answers * 2)
    job = prepare(folder, "{}/answers.jsonl", "--against", "{}/base")
    _, summary = run(job)
    before, after = summary["evaluations"]["heldout"]
    assert (before["topics"], after["topics"]) == (1, 2)
    assert after["gain"]["correct_facts"]["after"] == 1.0
    _, summary = run(prepare(folder, "--run.name", "again", "--against", "{}/eval"))
    assert [entry["topics"] for entry in summary["evaluations"]["heldout"]] == [2, 1]
    assert summary["evaluations"]["heldout"][1]["gain"]["correct_facts"]["before"] == 1.0


def test_answers_of_a_file_whose_labels_fail(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    """No engine answers; the annotation actors are counted where they were replaced."""
    plain = fakes.FakeAnnotators.stream

    def stream(self, answered):
        for item in plain(self, answered):
            if item.question.id == "h1":
                fakes.FakeAnnotators.restarts += 1
                yield Failed(item.question, "annotation actor 0: gone")
            else:
                yield item

    monkeypatch.setattr(fakes.FakeAnnotators, "restarts", 0)
    monkeypatch.setattr(fakes.FakeAnnotators, "stream", stream)
    write(folder / "answers.jsonl", [{"question_id": name, "text": fakes.RIGHT} for name in ("h0", "h1", "failed/h2")])
    _, summary = run(prepare(folder, "{}/answers.jsonl"))
    assert summary["evaluations"]["heldout"][0]["left_out"] == {"Rwanda": "annotation actor 0: gone"}
    assert summary["restarts"] == {"rollout": 0, "annotation": 1, "evaluation": 0}
