"""A maker that asks a language model: prompts after SMA's appendix A.1, and how its replies are read."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence

from maskdpo_ray.data.builders.drafts import DOMAINS, NUM_WRONG, OTHERS, Draft, Fault
from maskdpo_ray.data.builders.entries import Entry

Conversation = Sequence[Mapping[str, str]]
Ask = Callable[[Sequence[Conversation], int], Sequence[str | None]]
"""Gives the reply to each conversation, of at most so many tokens; None for one that can't be taken (cut off)."""
GENERATION_TOKENS, CLASSIFICATION_TOKENS, QUALITY_TOKENS = 1024, 32, 512

# Figure 7 (English) and 6 (Chinese): one object and its description; unique, checkable answers that stand in it;
# questions that need no description; two examples in the form that is asked for.
_GENERATE_EN = """I give you an object and a description of it. Ask up to {number} factual questions about the object. \
Each must have one exact answer that the description states directly: nothing vague or disputed, no opinions, nothing \
that changes with time. A reader without the description must understand each question, so name things in full. Give \
one standard answer and three wrong but tempting answers to each question. Two examples:

[Object]: Eiffel Tower
[Description]: The Eiffel Tower is a wrought-iron lattice tower in Paris, France. It was designed by the company of \
the engineer Gustave Eiffel and finished in March 1889 as the entrance to the Exposition Universelle.
[Question 1]: In which year was the Eiffel Tower in Paris finished?
[Standard Answer]: The Eiffel Tower was finished in 1889.
[Wrong Answer 1]: The Eiffel Tower was finished in 1879.
[Wrong Answer 2]: The Eiffel Tower was finished in 1900.
[Wrong Answer 3]: The Eiffel Tower was finished in 1925.

[Object]: Middlemarch
[Description]: Middlemarch, A Study of Provincial Life is a novel by the English author George Eliot, published in \
eight instalments in 1871 and 1872. It is set in a fictional Midlands town between 1829 and 1832.
[Question 1]: Who wrote the novel Middlemarch?
[Standard Answer]: Middlemarch was written by George Eliot.
[Wrong Answer 1]: Middlemarch was written by Jane Austen.
[Wrong Answer 2]: Middlemarch was written by Charles Dickens.
[Wrong Answer 3]: Middlemarch was written by Elizabeth Gaskell.

Write questions and answers for this object and description, in the same form.

[Object]: {title}
[Description]: {description}"""
_GENERATE_ZH = """我将给你一个对象及其简介。请针对该对象提出最多{number}个事实性问题。每个问题都应有唯一且准确的答案，\
并能在简介中直接找到；不要含糊或有争议的问题，不要主观判断，不要随时间变化的内容。不看简介的读者也应能理解问题，\
因此名称要写完整。对每个问题给出一个标准答案和三个有迷惑性的错误答案。下面是两个例子：

【对象】：埃菲尔铁塔
【简介】：埃菲尔铁塔是法国巴黎的一座锻铁镂空塔，由工程师古斯塔夫·埃菲尔的公司设计，1889年3月建成，是世界博览会的入口。
【问题1】：巴黎的埃菲尔铁塔于哪一年建成？
【标准答案】：埃菲尔铁塔于1889年建成。
【错误答案1】：埃菲尔铁塔于1879年建成。
【错误答案2】：埃菲尔铁塔于1900年建成。
【错误答案3】：埃菲尔铁塔于1925年建成。

【对象】：米德尔马契
【简介】：《米德尔马契》是英国作家乔治·艾略特的长篇小说，1871年至1872年分八卷出版，故事发生在虚构的英格兰中部小镇。
【问题1】：小说《米德尔马契》的作者是谁？
【标准答案】：《米德尔马契》的作者是乔治·艾略特。
【错误答案1】：《米德尔马契》的作者是简·奥斯汀。
【错误答案2】：《米德尔马契》的作者是查尔斯·狄更斯。
【错误答案3】：《米德尔马契》的作者是伊丽莎白·盖斯凯尔。

请用同样的格式，为下面的对象和简介写出问题和答案。

【对象】：{title}
【简介】：{description}"""
_GENERATE = {"en": _GENERATE_EN, "zh": _GENERATE_ZH}

# The paper classifies with a fine-tuned model of its own (3.1, step 4).
_CLASSIFY = """To which domain does this question belong? Reply with the number of one domain.
{domains}

Question: {question}"""

# Figure 9: rules in one turn, the question in the next, a judgement in brackets after reasoning. The four kinds of 3.1
# have a verdict each, so that they are counted apart.
_RULES = """You assess the quality of a factual question. Think it through step by step and end with one verdict in \
square brackets:
[Unclear] if it holds a pronoun or a name without clear reference, or can't be understood alone;
[Several Answers] if more than one answer is right, or it is a matter of opinion;
[Time Dependent] if the answer changes with time and the question names no time;
[Obscure] if it asks for something that hardly anybody knows or needs;
[High Quality] if none of these is the case."""
_UNDERSTOOD = "Understood. I will assess questions by these rules."
_ASSESS = "The question is:\n{question}\nPlease give your verdict:"
_VERDICTS = {
    "high quality": None,
    "unclear": Fault.UNCLEAR,
    "several answers": Fault.SEVERAL_ANSWERS,
    "time dependent": Fault.TIME_DEPENDENT,
    "obscure": Fault.OBSCURE,
}

_FIELD = re.compile(
    r"^\W{0,4}[\[【]\s*(?P<name>question|standard answer|wrong answer|问题|标准答案|错误答案)\s*\d*\s*[\]】]"
    r"\W{0,2}[:：]?(?P<text>[^\n]*)$",
    re.IGNORECASE | re.MULTILINE,
)
_NAMES = {"问题": "question", "标准答案": "standard answer", "错误答案": "wrong answer"}
_BRACKETED = re.compile(r"[\[【]([^\[\]【】]{1,40})[\]】]")
_NUMBER = re.compile(r"\b[0-9]{1,2}\b")


class JudgedMaker:
    """See `drafts.Maker`."""

    def __init__(self, ask: Ask, num_questions: int) -> None:
        """`num_questions`: most of an entry."""
        self._ask = ask
        self._num_questions = num_questions

    def generate(self, entry: Entry) -> list[Draft | Fault]:
        """See `Maker`."""
        prompt = _GENERATE[entry.language].format(
            number=self._num_questions, title=entry.title, description=entry.description
        )
        (reply,) = self._ask([[_user(prompt)]], GENERATION_TOKENS)
        return read_drafts(entry, reply, self._num_questions)

    def classify(self, drafts: Sequence[Draft]) -> list[str]:
        """See `Maker`. A reply that names no domain is `OTHERS`."""
        domains = "\n".join(f"{number}. {name}" for number, name in enumerate((*DOMAINS, OTHERS), start=1))
        prompts = [_CLASSIFY.format(domains=domains, question=draft.question) for draft in drafts]
        return [read_domain(reply) for reply in self._ask([[_user(each)] for each in prompts], CLASSIFICATION_TOKENS)]

    def assess(self, drafts: Sequence[Draft]) -> list[Fault | None]:
        """See `Maker`."""
        rules = [_user(_RULES), {"role": "assistant", "content": _UNDERSTOOD}]
        asked = [[*rules, _user(_ASSESS.format(question=draft.question))] for draft in drafts]
        return [read_quality(reply) for reply in self._ask(asked, QUALITY_TOKENS)]


def _user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def read_drafts(entry: Entry, reply: str | None, num_questions: int) -> list[Draft | Fault]:
    """The questions of a reply, each with a standard and three wrong answers; `UNPARSED` for each without.

    A reply without any question is one `UNPARSED`. Questions beyond `num_questions` are left out.
    """
    groups: list[list[tuple[str, str]]] = []
    for match in _FIELD.finditer(reply or ""):
        name = _NAMES.get(match["name"], match["name"].casefold())
        if name == "question":
            groups.append([])
        if groups:
            groups[-1].append((name, match["text"].strip()))
    found: list[Draft | Fault] = []
    for number, group in enumerate(groups[:num_questions], start=1):
        names = [name for name, _ in group]
        texts = [text for _, text in group]
        is_whole = names == ["question", "standard answer", *["wrong answer"] * NUM_WRONG] and all(texts)
        if is_whole and len({_key(text) for text in texts[1:]}) == NUM_WRONG + 1:
            found.append(Draft(entry, number, texts[0], texts[1], tuple(texts[2:])))
        else:
            found.append(Fault.UNPARSED)
    return found or [Fault.UNPARSED]


def _key(text: str) -> str:
    folded = unicodedata.normalize("NFKC", text).casefold()
    return "".join(character for character in folded if character.isalnum())


def read_domain(reply: str | None) -> str:
    """The domain whose number, or name, a reply gives; `OTHERS` when it gives none, or several."""
    known = (*DOMAINS, OTHERS)
    numbers = {int(number) for number in _NUMBER.findall(reply or "")}
    if len(numbers) == 1 and 1 <= (number := numbers.pop()) <= len(known):
        return known[number - 1]
    named = [name for name in known if name in (reply or "").casefold()]
    return named[0] if len(named) == 1 and not numbers else OTHERS


def read_quality(reply: str | None) -> Fault | None:
    """The verdict in brackets, None for high quality; `UNPARSED` without one, or with several."""
    found = {" ".join(text.casefold().split()) for text in _BRACKETED.findall(reply or "")} & _VERDICTS.keys()
    return _VERDICTS[found.pop()] if len(found) == 1 else Fault.UNPARSED
