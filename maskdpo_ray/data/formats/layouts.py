"""Rows of widely used data sets, rewritten in the fields of our questions and of TRL's preferences.

| layout | recognised by | becomes |
|---|---|---|
| ShareGPT, and conversations as TRL and OpenAI have them | `conversations`, `messages` | prompt, answer |
| Alpaca | `instruction`, with `input`, `output` | prompt, answer |
| TRL, prompt and completion | `prompt`, `completion` | prompt, answer |
| HH-RLHF | `chosen`, `rejected` that begin with "Human:" | chosen, rejected as messages |
| UltraFeedback | `instruction`, `completions` | prompt, chosen, rejected |
| ANAH | `selected_questions`, `documents` | a question each, with documents; responses |
| FActScore | `input`, `output`, `topic`, `annotations` | prompt, topic; responses |
| TRL's unpaired preference (KTO) | `prompt`, `completion`, `label` | prompt; responses; chosen or rejected |
| FactAlign | the same, `completion_sentences`, `sentence_label` | the same, with labelled sentences |

Sources: ShareGPT and Alpaca as LLaMA-Factory documents them (data/README.md); TRL's "Dataset formats"; the cards of
Anthropic/hh-rlhf, openbmb/UltraFeedback and opencompass/anah on the Hub; FActScore's data/labeled (Min et al. 2023,
github.com/shmsw25/FActScore); FactAlign's kto_trainer_fg.py (Huang and Chen 2024, github.com/MiuLab/FactAlign).
`responses` are answers of models, which `annotate` labels; `answer` is what the data set holds to be right.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from maskdpo_ray.data.dropped import Reason
from maskdpo_ray.data.formats.alignment import locate
from maskdpo_ray.data.formats.conversation import Messages, messages
from maskdpo_ray.errors import RecordError, shown
from maskdpo_ray.records import CONTRADICTORY, NO_HALLUCINATION

Row = dict[str, Any]
RESPONSES = "responses"
"""Field of the texts of models' answers to the row's prompt."""
UNPAIRED = "unpaired"
"""Field of the side of a preference that has one answer, `chosen` or `rejected`."""
_TURN = re.compile(r"(?:^|\n\n)(Human|Assistant):")
_SPOKEN = {"Human": "user", "Assistant": "assistant"}
_OPENS_BIO = "Question: "
_ANSWERED_ANAH = ("GPT3.5_answers_D", "InternLM_answers")


def rewritten(row: Row, where: str) -> list[Row]:
    """The rows that a row of a known layout stands for; another row as it is. Raises RecordError."""
    for is_of, rewrite in _LAYOUTS:
        if is_of(row):
            return rewrite(row, where)
    return [row]


def _conversation(row: Row, where: str) -> list[Row]:
    name = "conversations" if row.get("conversations") is not None else "messages"
    turns = messages(row[name], f"{where}: {name}")
    return [_without(row, name) | _answered(turns)]


def _answered(turns: Messages) -> Row:
    """A conversation as prompt and, where the assistant has the last word, answer."""
    if turns[-1]["role"] != "assistant":
        return {"prompt": list(turns)}
    return {"prompt": list(turns[:-1]), "answer": turns[-1]["content"], RESPONSES: [turns[-1]["content"]]}


def _alpaca(row: Row, where: str) -> list[Row]:
    said = [row[name] for name in ("instruction", "input") if _is_text(row.get(name))]
    prompt: list[Row] = [{"role": "user", "content": "\n".join(said)}]
    if _is_text(row.get("system")):
        prompt.insert(0, {"role": "system", "content": row["system"]})
    found = _without(row, "instruction", "input", "output", "system") | {"prompt": prompt}
    return [found | {"answer": row["output"], RESPONSES: [row["output"]]} if _is_text(row.get("output")) else found]


def _completion(row: Row, where: str) -> list[Row]:
    said = messages(row["completion"], f"{where}: completion", said_by="assistant")
    return [_without(row, "completion") | {"answer": said[-1]["content"], RESPONSES: [said[-1]["content"]]}]


def _hh(row: Row, where: str) -> list[Row]:
    return [row | {side: _dialogue(row[side], f"{where}: {side}") for side in ("chosen", "rejected")}]


def _dialogue(text: str, where: str) -> list[Row]:
    parts = _TURN.split(text)
    if parts[0].strip():
        expected = f'{where}: expected turns that begin with "Human:" or "Assistant:", got {shown(parts[0])}'
        raise RecordError(expected, Reason.INVALID_MESSAGES)
    pairs = zip(parts[1::2], parts[2::2], strict=True)
    return [{"role": _SPOKEN[speaker], "content": said.strip()} for speaker, said in pairs]


def _ultrafeedback(row: Row, where: str) -> list[Row]:
    """The best and the worst completion by their mean rating; neither where all are rated the same."""
    rated = [each for each in row["completions"] if isinstance(each, Mapping) and _rating(each) is not None]
    found = _without(row, "instruction", "completions") | {"prompt": row["instruction"]}
    if not rated:
        return [found]
    best, worst = max(rated, key=_rating), min(rated, key=_rating)  # type: ignore[arg-type]
    found[RESPONSES] = [each["response"] for each in rated if _is_text(each.get("response"))]
    if _rating(best) == _rating(worst):
        return [found]
    return [found | {"chosen": best.get("response"), "rejected": worst.get("response")}]


def _rating(completion: Mapping[str, Any]) -> float | None:
    """Mean over the aspects, which the set's authors prefer to `overall_score`; that one where there is no mean."""
    for name in ("fine-grained_score", "overall_score"):
        if isinstance(value := completion.get(name), (int, float)):
            return float(value)
    return None


def _anah(row: Row, where: str) -> list[Row]:
    """A question for each of `selected_questions`, all with the topic's documents."""
    asked, documents = row["selected_questions"], row.get("documents")
    answers = [row[name] for name in _ANSWERED_ANAH if isinstance(row.get(name), list)]
    common = {"topic": row.get("name"), "document": documents or None, "language": row.get("language")}
    found = []
    for number, question in enumerate(asked):
        responses = [given[number] for given in answers if number < len(given) and _is_text(given[number])]
        own = {"id": f"{row['name']}-{number}" if _is_text(row.get("name")) else None, "prompt": question}
        found.append({**own, **common, RESPONSES: responses})
    return found


def _factscore(row: Row, where: str) -> list[Row]:
    prompt = row["input"].removeprefix(_OPENS_BIO)
    rest = _without(row, "input", "output", "annotations", "cat")
    return [rest | {"prompt": prompt, RESPONSES: [row["output"]]}]


def _unpaired(row: Row, where: str) -> list[Row]:
    """One answer, good or bad; FactAlign's with labelled sentences, a false one of which kind it does not say."""
    side = "chosen" if row["label"] else "rejected"
    text = messages(row["completion"], f"{where}: completion", said_by="assistant")[-1]["content"]
    found = _without(row, "completion", "completion_sentences", "sentence_label", "label")
    found |= {UNPAIRED: side, side: text, RESPONSES: [text]}
    sentences, labels = row.get("completion_sentences"), row.get("sentence_label")
    if not sentences or not labels:
        return [found]
    if len(sentences) != len(labels):
        message = f"{where}: sentence_label: expected one per sentence, got {len(labels)} for {len(sentences)}"
        raise RecordError(message, Reason.INVALID_SENTENCES)
    spans = locate(text, sentences, f"{where}: completion_sentences")
    found[f"{side}_sentences"] = [
        {"start": start, "end": end, "label": NO_HALLUCINATION if is_right else CONTRADICTORY}
        for (start, end), is_right in zip(spans, labels, strict=True)
    ]
    return [found]


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _without(row: Row, *names: str) -> Row:
    return {name: value for name, value in row.items() if name not in names}


def _has(*names: str) -> Callable[[Row], bool]:
    return lambda row: all(row.get(name) is not None for name in names)


def _is_conversation(row: Row) -> bool:
    is_alone = row.get("prompt") is None and row.get("chosen") is None
    return is_alone and (row.get("conversations") is not None or row.get("messages") is not None)


def _is_hh(row: Row) -> bool:
    sides = [row.get(side) for side in ("chosen", "rejected")]
    return row.get("prompt") is None and all(isinstance(each, str) and _TURN.match(each) for each in sides)


_LAYOUTS: tuple[tuple[Callable[[Row], bool], Callable[[Row, str], list[Row]]], ...] = (
    (_has("selected_questions"), _anah),
    (lambda row: isinstance(row.get("label"), bool) and _has("prompt", "completion")(row), _unpaired),
    (_has("input", "output", "topic"), _factscore),
    (lambda row: _is_text(row.get("instruction")) and isinstance(row.get("completions"), list), _ultrafeedback),
    (lambda row: row.get("prompt") is None and _is_text(row.get("instruction")), _alpaca),
    (_has("prompt", "completion"), _completion),
    (_is_hh, _hh),
    (_is_conversation, _conversation),
)
"""Test of each layout, the most particular first, and its rewriting."""
