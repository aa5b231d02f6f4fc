"""Verification of short answers against standard answers by a judge that first reasons (SMA 3.1 and appendix A.2)."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import NamedTuple

from maskdpo_ray.annotation.llm import judge as judges
from maskdpo_ray.annotation.llm.interviews import Once
from maskdpo_ray.annotation.llm.judge import Judge, Reply
from maskdpo_ray.annotation.llm.tags import Tags, plain
from maskdpo_ray.annotation.matching import accepted
from maskdpo_ray.records import CONTRADICTORY, NO_FACT, NO_HALLUCINATION, UNPARSED, Question

# After Figure 11: verdict by the standard answer, examples of each, the analysis before the verdict, which stands in
# brackets. The paper counts an answer that does not answer as incorrect; here it has a verdict of its own.
_EN = """Judge whether a candidate answer to a question is correct, by the standard answer and by what you know. Look \
only at what answers the question; other things that it says don't matter. Explain your judgement in one or two \
sentences, then give one verdict in square brackets:
[Correct] it answers the question and agrees with the standard answer, in whatever words;
[Incorrect] it contradicts the standard answer, or answers something else;
[No Answer] it does not commit itself, or says that it does not know;
[Unsure] it can't be told.

Question: In which year was the Eiffel Tower finished?
Standard answer: The Eiffel Tower was finished on 31 March 1889.
Candidate answer: It was finished in 1889, as the entrance to a world's fair.
Evaluation: The standard answer gives 31 March 1889. The candidate says 1889, which agrees with it. [Correct]

Question: Who wrote the novel Middlemarch?
Standard answer: George Eliot
Candidate answer: Middlemarch is a novel by Jane Austen, published in 1871.
Evaluation: The standard answer is George Eliot. The candidate names Jane Austen, another writer. [Incorrect]

Question: What is the deepest lake of the world?
Standard answer: Lake Baikal
Candidate answer: I'm sorry, I have no reliable information about the depth of lakes.
Evaluation: The standard answer is Lake Baikal. The candidate names no lake. [No Answer]

Question: {question}
Standard answer: {standard}
Candidate answer: {candidate}
Evaluation:"""
_ZH = """请根据标准答案和你掌握的知识，判断候选答案是否正确回答了问题。只看直接回答问题的内容，其余内容不影响判断。\
先用一两句话说明理由，再用方括号给出一个结论：
【正确】回答了问题，且与标准答案相符，措辞不限；
【错误】与标准答案矛盾，或答非所问；
【未作答】没有给出答案，或表示不知道；
【不确定】无法判断。

问题：埃菲尔铁塔于哪一年建成？
标准答案：埃菲尔铁塔于1889年3月31日建成。
候选答案：它建成于1889年，是世界博览会的入口。
评价：标准答案是1889年3月31日，候选答案为1889年，与之相符。【正确】

问题：小说《米德尔马契》的作者是谁？
标准答案：乔治·艾略特
候选答案：《米德尔马契》是简·奥斯汀的小说，出版于1871年。
评价：标准答案是乔治·艾略特，候选答案说的是另一位作家简·奥斯汀。【错误】

问题：世界上最深的湖是哪个？
标准答案：贝加尔湖
候选答案：抱歉，我没有关于湖泊深度的可靠信息。
评价：标准答案是贝加尔湖，候选答案没有说出任何湖。【未作答】

问题：{question}
标准答案：{standard}
候选答案：{candidate}
评价："""
TEMPLATES = {"en": _EN, "zh": _ZH}
_MEANINGS = {
    **{"Correct": NO_HALLUCINATION, "Incorrect": CONTRADICTORY, "No Answer": NO_FACT, "Unsure": UNPARSED},
    **{"正确": NO_HALLUCINATION, "错误": CONTRADICTORY, "未作答": NO_FACT, "不确定": UNPARSED},
}
_PLAIN = {plain(text): label for text, label in _MEANINGS.items()}
_TAGS = Tags(_MEANINGS)
_BRACKETED = re.compile(r"[\[【]([^\[\]【】]{1,40})[\]】]")


class Verified(NamedTuple):
    """Label of an answer, and the judge's reasoning."""

    label: str
    evidence: str


class Verifier:
    """Asks a judge about answers, about the same answer to the same question once."""

    def __init__(self, judge: Judge, max_tokens: int) -> None:
        """`max_tokens`: longest reply, reasoning included."""
        self._judge = judge
        self._max_tokens = max_tokens
        self._once: Once[str, Verified] = Once(self._asked)

    def verify(self, items: Sequence[tuple[Question, str]]) -> list[Verified]:
        """Verdict on each (question, answer), in order. Raises AnnotatorError when the judge fails."""
        prompts = [_prompt(question, text) for question, text in items]
        digests = [hashlib.sha256(prompt.encode()).digest() for prompt in prompts]
        found = self._once.get(dict(zip(digests, prompts, strict=True)))
        return [found[digest] for digest in digests]

    def _asked(self, prompts: Sequence[str]) -> list[Verified]:
        conversations = [[{"role": "user", "content": prompt}] for prompt in prompts]
        return [_read(reply) for reply in judges.ask(self._judge, conversations, self._max_tokens)]


def _prompt(question: Question, text: str) -> str:
    standard = " / ".join(accepted(question))
    asked = str(question.prompt[-1]["content"])
    return TEMPLATES[question.language].format(question=asked, standard=standard, candidate=text.strip())


def _read(reply: Reply) -> Verified:
    """The verdict in brackets, or the one that the whole reply is; `unparsed` without one, and with two."""
    label = None
    if reply.fault is None:
        bracketed = {_PLAIN[key] for text in _BRACKETED.findall(reply.text) if (key := plain(text)) in _PLAIN}
        label = bracketed.pop() if len(bracketed) == 1 else None if bracketed else _TAGS.meaning(reply.text)
    if label is None:
        return Verified(UNPARSED, reply.quoted())
    return Verified(label, " ".join(reply.text.split()))
