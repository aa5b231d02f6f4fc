"""A judge of one's own: the documented example, what it may reply, and options that it gets as they are written."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from scripted_judge import MODEL
from test_schema import MINIMAL, load

from maskdpo_ray.annotation import replies
from maskdpo_ray.annotation.llm import judge
from maskdpo_ray.annotation.llm.judge import Conversation, Reply
from maskdpo_ray.annotation.protocol import build
from maskdpo_ray.errors import AnnotatorError, ConfigError
from maskdpo_ray.evaluation.evaluators.protocol import build as build_evaluator
from maskdpo_ray.records import NO_FACT, UNPARSED, Question, Rollout

REPOSITORY = Path(__file__).resolve().parents[2]
QUESTION = Question("q", "Rwanda", ({"role": "user", "content": "What?"},), "Rwanda is a country.", answer="Kigali")
ROLLOUT = Rollout("q", 0, (), "Its capital is Kigali. It is in Africa.", "stop", 0)


class Gives:
    """Replies with `reply` to each conversation, or if `whole` with it to all of them."""

    def __init__(self, reply: Any, whole: bool = False, max_model_len: int | None = None) -> None:
        self._given, self._whole, self.max_model_len = reply, whole, max_model_len

    def start(self) -> None: ...

    def ask(self, conversations: Sequence[Conversation], max_tokens: int) -> Any:
        return self._given if self._whole else [self._given for _ in conversations]

    def close(self) -> None: ...


GIVES = f"python:{__name__}:Gives"


@pytest.mark.parametrize(
    ("options", "label", "evidence"), [({}, NO_FACT, None), ({"longest": 10}, UNPARSED, "fact: '' (1")]
)
def test_the_documented_example(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], label: str, evidence: str | None
) -> None:
    monkeypatch.syspath_prepend(REPOSITORY)
    annotator = build("anah", {"judge": "python:docs.echo_judge:EchoJudge", "judge_options": options})
    annotator.start()
    (found,) = annotator.annotate([(QUESTION, ROLLOUT)])
    replies.refuse_annotation_faults([(QUESTION, ROLLOUT)], [found])
    assert [sentence.label for sentence in found.sentences] == [label] * 2
    assert found.sentences[0].confidence == (None if evidence else 1.0)
    assert str(found.sentences[0].evidence).startswith(str(evidence))


BAD_REPLIES = [
    ({"reply": None, "whole": True}, r"expected a list of \d replies, got NoneType"),
    ({"reply": [], "whole": True}, r"expected a list of \d replies, got 0"),
    ({"reply": "True"}, "reply 0: expected a Reply, got str"),
    ({"reply": Reply(None)}, "reply 0: text: expected text, got None"),  # type: ignore[arg-type]
    ({"reply": Reply("x", logprob=float("nan"))}, "reply 0: logprob: expected a number, at most 0, or None, got nan"),
    ({"reply": Reply("x", logprob="-1")}, "reply 0: logprob: expected a number, "),  # type: ignore[arg-type]
    ({"reply": Reply("x", fault=True)}, "reply 0: fault: expected text or None, got True"),  # type: ignore[arg-type]
]


@pytest.mark.parametrize(("options", "expected"), BAD_REPLIES)
@pytest.mark.parametrize("name", ["anah", "claims", "factscore", "short_answer"])
def test_what_is_no_reply_is_one_line(name: str, options: dict[str, Any], expected: str) -> None:
    asking: Any = (build if name in ("anah", "claims") else build_evaluator)(
        name, {"judge": GIVES, "judge_options": options}
    )
    asking.start()
    with pytest.raises(AnnotatorError, match=f"^judge: {expected}"):
        (asking.annotate if name in ("anah", "claims") else asking.judge)([(QUESTION, ROLLOUT)])


@pytest.mark.parametrize(("context", "is_refused"), [(None, False), (513, False), (512, True)])
def test_a_context_without_room_for_a_reply(context: int | None, is_refused: bool) -> None:
    for field, make in {
        "annotation": lambda o: build("anah", o),
        "eval": lambda o: build_evaluator("factscore", o),
    }.items():
        options = {"judge": GIVES, "judge_options": {"reply": "", "max_model_len": context}}
        if not is_refused:
            make(options)
            continue
        with pytest.raises(ConfigError) as caught:
            make(options)
        expected = "expected more than the longest reply, 512 tokens, got 512"
        assert str(caught.value) == f"{field}.options.judge_options.max_model_len: {expected}"


def test_none_is_a_word_within_an_option(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    body = "{reasoning_effort: none, a: None, b: [none, 1], c: null, d: ~, e: {f: none}}"
    given = f"{{judge: none, judge_options: {{extra_body: {body}}}}}"
    read = {"reasoning_effort": "none", "a": "None", "b": ["none", 1], "c": None, "d": None, "e": {"f": "none"}}
    expected = {"judge": None, "judge_options": {"extra_body": read}}
    assert load(f"{MINIMAL}annotation:\n  options: {given}\n").annotation.options == expected
    config = load(MINIMAL, "--annotation.options", given, "--eval.options", "none")
    assert (config.annotation.options, config.eval.options) == (expected, None)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"base_url": "http://a/v1/chat/completions/"}, "base_url: expected an address up to /v1, without /chat/compl"),
        ({"timeout_s": 1e300}, "timeout_s: expected seconds above 0, at most a day, got 1e+300"),
    ],
)
def test_an_address_and_a_time_that_can_only_fail(options: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        judge.build("http", {"base_url": "http://a/v1", "model": MODEL, **options}, 8)
    assert str(caught.value).startswith(f"annotation.options.judge_options.{expected}")
