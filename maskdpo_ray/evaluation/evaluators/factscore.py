"""Facts by a language model: it breaks an answer's sentences into facts, and checks each against passages."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from maskdpo_ray.annotation import sentences
from maskdpo_ray.annotation.llm.judge import Judge, Reply, ask
from maskdpo_ray.annotation.llm.tags import Tags
from maskdpo_ray.evaluators.retrieval import Passages
from maskdpo_ray.records import SUPPORTED, UNPARSED, UNSUPPORTED, JudgedFact, Question, Rollout

_EXTRACT = """Break the sentence below into independent facts. It is part of an answer about {topic}.
Write one fact a line, each line starting with "- ". Each fact is a short full sentence that can be understood alone: \
put names in place of "it" and "they". Add nothing that the sentence does not say, and leave out nothing that changes \
what it says: "not", "only", "until", "former". What a question or a guess ("I think that ...") says of the world is a \
fact to be checked, too.
If the sentence states no fact that could be checked, write only "- NONE".

Sentence: {sentence}"""


_VERIFY = """Read these passages about {topic}:

{passages}

Judge the statement by the passages alone. Is it true or false? A statement that the passages do not support is false.

Statement: {fact}

Reply with one word: True or False."""


_LINE = re.compile(r"^\s*(?:[-*•]|\d+[.)])\s+(.+?)\s*$")


_NONE = Tags({"NONE": "none"})


_VERDICTS = Tags({"True": SUPPORTED, "False": UNSUPPORTED})


MAX_TOKENS, _VERDICT_TOKENS = 512, 32
"""Longest replies: facts, and the verdict on one."""


_MOST_EVIDENCE = 240
"""Characters of the passages that are kept."""


class Asked:
    """Two rounds of questions to a judge, each for all sentences or facts at once, and each asked once."""

    def __init__(self, judge: Judge, passages_of: Callable[[Question], Passages], count: int) -> None:
        """`count`: how many passages the judge reads for a fact."""
        self._judge, self._passages_of, self._count = judge, passages_of, count

    def facts(self, items: Sequence[tuple[Question, Rollout]]) -> list[tuple[JudgedFact, ...]]:
        """The facts of each answer; a sentence or a verdict that the judge does not give is `unparsed`.

        Raises AnnotatorError, one line, when there is no reply to be had.
        """
        split = [
            [_EXTRACT.format(topic=question.topic, sentence=rollout.text[start:end]) for start, end in spans]
            for question, rollout in items
            for spans in [sentences.split(rollout.text, question.language)]
        ]
        extracted = self._ask([prompt for prompts in split for prompt in prompts], MAX_TOKENS)
        found = [[fact for prompt in prompts for fact in _facts(prompt, extracted[prompt])] for prompts in split]
        checks: dict[tuple[str, str], tuple[str, str]] = {}  # (question, fact) -> (prompt, evidence)
        for (question, _), facts in zip(items, found, strict=True):
            for fact in facts:
                if isinstance(fact, str) and (question.id, fact) not in checks:
                    near = "\n".join(self._passages_of(question).find(f"{question.topic} {fact}", self._count))
                    prompt = _VERIFY.format(topic=question.topic, passages=near or "(none)", fact=fact)
                    checks[question.id, fact] = (prompt, near[:_MOST_EVIDENCE])
        verdicts = self._ask([prompt for prompt, _ in checks.values()], _VERDICT_TOKENS)

        def judged(question: Question, fact: str) -> JudgedFact:
            prompt, evidence = checks[question.id, fact]
            verdict = _verdict(verdicts[prompt])
            return JudgedFact(fact, verdict, verdicts[prompt].quoted() if verdict == UNPARSED else evidence or None)

        return [
            tuple(fact if isinstance(fact, JudgedFact) else judged(question, fact) for fact in facts)
            for (question, _), facts in zip(items, found, strict=True)
        ]

    def _ask(self, prompts: Sequence[str], max_tokens: int) -> dict[str, Reply]:
        distinct = list(dict.fromkeys(prompts))
        if not distinct:
            return {}
        replies = ask(self._judge, [[{"role": "user", "content": prompt}] for prompt in distinct], max_tokens)
        return dict(zip(distinct, replies, strict=True))


def _facts(prompt: str, reply: Reply) -> list[str | JudgedFact]:
    """The facts that the judge wrote; one `unparsed` for a reply without a list."""
    lines = [match.group(1) for line in reply.text.splitlines() if (match := _LINE.match(line))]
    if reply.fault is not None or not (lines or reply.text in _NONE):
        return [JudgedFact(prompt.rpartition("Sentence: ")[2], UNPARSED, reply.quoted())]
    return [line for line in lines if line not in _NONE]


def _verdict(reply: Reply) -> str:
    return (None if reply.fault is not None else _VERDICTS.meaning(reply.text)) or UNPARSED
