"""Questions that failed: borne one by one, and the end of the run when there are many."""

from __future__ import annotations

import fakes
import pytest

from maskdpo_ray.config.schema import Config, ModelConfig, RunConfig
from maskdpo_ray.errors import ClusterError, ConfigError
from maskdpo_ray.records import Failed, Labelled
from maskdpo_ray.stages.watch import WINDOW, Watch


def watch(highest: float) -> Watch:
    return Watch(Config(model=ModelConfig("m"), run=RunConfig(max_failed=highest)), {})


def items(outcomes: str) -> list[Labelled | Failed]:
    """ "+" a question that is labelled, "-" one that failed."""
    asked = [fakes.question(f"q{number}") for number in range(len(outcomes))]
    return [
        Labelled(question, (), (), ()) if outcome == "+" else Failed(question, f"annotation actor 0: no {question.id}")
        for question, outcome in zip(asked, outcomes, strict=True)
    ]


def test_what_failed_is_told_apart(capsys: pytest.CaptureFixture[str]) -> None:
    failed: dict[str, str] = {}
    assert [item.question.id for item in watch(0.5).sift(items("+-++"), failed)] == ["q0", "q2", "q3"]
    assert failed == {"q1": "annotation actor 0: no q1"}
    assert "question 'q1' failed in every attempt, at last: annotation actor 0: no q1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("highest", "outcomes", "message"),
    [
        (0.05, "-" + "+" * 18, None),  # one of the first twenty
        (
            0.05,
            "--",
            "expected at most 5% of the last questions to fail (run.max_failed), got 2 of 2; the last one, 'q1': ",
        ),
        (0.05, "+" * 38 + "--", None),
        (0.05, "+" * 38 + "---", "got 3 of 41; "),
        (0.05, ("+" * 24 + "-") * 20, None),  # far more than five, but never so many together
        (0.05, "+" * 1000 + "-" * 5, None),
        (0.05, "+" * 1000 + "-" * 6, f"got 6 of {WINDOW}; the last one, 'q1005': annotation actor 0: no q1005"),
        (0.0, "+++-", "got 1 of 4; "),
        (1.0, "-" * 200, None),
    ],
)
def test_share_of_the_last_questions(highest: float, outcomes: str, message: str | None) -> None:
    failed: dict[str, str] = {}
    sifted = watch(highest).sift(items(outcomes), failed)
    if message is None:
        assert len(list(sifted)) == outcomes.count("+")
        assert len(failed) == outcomes.count("-")
        return
    with pytest.raises(ClusterError) as caught:
        list(sifted)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_the_share_is_over_all_stages() -> None:
    failures = watch(0.05)
    for _ in range(2):
        list(failures.sift(items("+" * 10), {}))
    list(failures.sift(items("-"), {}))
    with pytest.raises(ClusterError, match="got 2 of 22"):
        list(failures.sift(items("-"), {}))


@pytest.mark.parametrize("share", [-0.1, 1.1])
def test_the_share_is_one(share: float) -> None:
    with pytest.raises(ConfigError, match=r"^run.max_failed: expected 0 to 1, got"):
        RunConfig(max_failed=share)
