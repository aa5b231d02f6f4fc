"""The `claims` annotator with a judge: from the reply that cuts a sentence to the weights of its parts' tokens."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import fakes
import pytest
import yaml

from maskdpo_ray import check_annotator
from maskdpo_ray.annotation.llm import turns
from maskdpo_ray.annotation.llm.judge import Conversation, Reply
from maskdpo_ray.annotation.protocol import build
from maskdpo_ray.errors import ConfigError, DataError
from maskdpo_ray.pairing.masks import MASK_DPO, token_weights
from maskdpo_ray.records import CONTRADICTORY as WRONG
from maskdpo_ray.records import NO_FACT, UNPARSED, Question, Rollout, Sentence
from maskdpo_ray.records import NO_HALLUCINATION as RIGHT

QUESTION = Question("q", "t", ({"role": "user", "content": "What of Rwanda?"},), "A {document}.")
CHINESE = Question("q/zh", "t", ({"role": "user", "content": "卢旺达怎么样？"},), "一份{资料}。", language="zh")
TWO = "Its capital is Kigali and its currency is the dollar."
ZWEI = "首都是基加利，并且货币是美元。"
SPLITS: dict[str, Reply] = {
    TWO: Reply("1. Its capital is Kigali\n2. its currency is the dollar."),
    "It borders on\nUganda, whose capital is Nairobi.": Reply("It borders on Uganda,\nwhose capital is Nairobi."),
    ZWEI: Reply("首都是基加利，\n并且货币是美元。"),
    "Another sentence.": Reply("Some other sentence."),
    "Cut off.": Reply("Cut", fault="cut off at 512 tokens"),
    "No reply.": Reply(""),
}
"""Parts that the judge makes of a sentence; any other comes back whole."""
VERDICTS = {"dollar": "Contradictory", "Nairobi": "Contradictory", "美元": "相反"}
"""By a word of the part; any other part is consistent, and "Sure!" claims nothing."""

TEMPLATES = {
    language: {
        "split": {"prompt": f"split {language}|" + "{question}|{document}|{sentence}"},
        "fact": {
            "prompt": f"fact {language}|" + "{document}|{context}|{sentence}",
            "replies": given["fact"]["replies"],
        },
        "reference": {"prompt": "reference", "replies": given["reference"]["replies"]},
        "verdict": {"prompt": "verdict|{reference}", "replies": given["verdict"]["replies"]},
    }
    for language, given in yaml.safe_load((turns.TEMPLATES / "claims.yaml").read_text(encoding="utf-8")).items()
}


class Scripted:
    """Replies by the tables above to conversations of `TEMPLATES`, and notes its calls."""

    def __init__(self) -> None:
        self.waves: list[tuple[int, list[Conversation]]] = []

    def start(self) -> None: ...

    def ask(self, conversations: Sequence[Conversation], max_tokens: int) -> list[Reply]:
        self.waves.append((max_tokens, [list(each) for each in conversations]))
        return [self.reply(each) for each in conversations]

    def reply(self, conversation: Conversation) -> Reply:
        first, *_, text = conversation[0]["content"].split("|")
        kind, language = first.split()
        if kind == "split":
            return next((reply for each, reply in SPLITS.items() if " ".join(each.split()) == text), Reply(text))
        replies = TEMPLATES[language]
        if len(conversation) == 1:
            return Reply(replies["fact"]["replies"]["no_fact" if text == "Sure!" else "has_fact"][0])
        if len(conversation) == 3:
            return Reply("A passage.")
        consistent = replies["verdict"]["replies"]["no_hallucination"][0]
        return Reply(next((said for word, said in VERDICTS.items() if word in text), consistent), -0.5)

    def close(self) -> None: ...


JUDGE = f"python:{__name__}:Scripted"


@pytest.fixture
def templates(tmp_path: Path) -> str:
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(TEMPLATES, allow_unicode=True), encoding="utf-8")
    return str(file)


def started(templates: str, **options: Any) -> Any:
    annotator: Any = pickle.loads(pickle.dumps(build("claims", {"judge": JUDGE, "templates": templates, **options})))
    annotator.start()
    return annotator


def labelled(annotator: Any, text: str, question: Question = QUESTION) -> list[Sentence]:
    (annotation,) = annotator.annotate([(question, Rollout(question.id, 0, (), text, "stop", 0))])
    return list(annotation.sentences)


def test_a_sentence_is_cut_and_its_parts_are_judged(templates: str) -> None:
    annotator = started(templates)
    text = f"Sure! {TWO} It borders on\nUganda, whose capital is Nairobi."
    found = labelled(annotator, text)
    assert [(text[each.start : each.end], each.label) for each in found] == [
        ("Sure!", NO_FACT),
        ("Its capital is Kigali", RIGHT),
        ("and its currency is the dollar.", WRONG),
        ("It borders on\nUganda,", RIGHT),
        ("whose capital is Nairobi.", WRONG),
    ]
    assert [each.evidence for each in found] == [None, *["A passage."] * 4]
    assert found[2].confidence == pytest.approx(0.6065, abs=1e-4)
    # One wave of splits, then the three of all parts; replies that copy text may be longer.
    assert [(limit, len(asked)) for limit, asked in annotator.judge.waves] == [(512, 3), (32, 5), (512, 4), (32, 4)]
    split, fact = annotator.judge.waves[0][1][1], annotator.judge.waves[1][1][2]
    assert split == [{"role": "user", "content": f"split en|What of Rwanda?|A {{document}}.|{TWO}"}]
    assert fact == [{"role": "user", "content": f"fact en|A {{document}}.|{TWO}|and its currency is the dollar."}]


def test_the_same_sentence_is_cut_once(templates: str) -> None:
    annotator = started(templates)
    items = [(QUESTION, Rollout("q", sample, (), f"{TWO} {TWO}", "stop", 0)) for sample in range(2)]
    first, second = annotator.annotate(items)
    assert first.sentences == second.sentences and len(first.sentences) == 4
    labelled(annotator, TWO)
    labelled(annotator, TWO, Question("q2", "t", ({"role": "user", "content": "And?"},), QUESTION.document))
    asked = [conversation[0]["content"] for _, wave in annotator.judge.waves for conversation in wave]
    assert sum(content.startswith("split en|") for content in asked) == 2


@pytest.mark.parametrize(
    ("text", "evidence"),
    [
        ("Another sentence.", "split: 'Some other sentence.'"),
        ("Cut off.", "split: 'Cut' (cut off at 512 tokens)"),
        ("No reply.", "split: ''"),
    ],
)
def test_a_reply_that_is_no_copy_leaves_the_whole_sentence_unparsed(templates: str, text: str, evidence: str) -> None:
    annotator = started(templates)
    assert labelled(annotator, f"{text} {TWO}")[:2] == [
        Sentence(0, len(text), UNPARSED, None, evidence),
        Sentence(len(text) + 1, len(text) + 22, RIGHT, pytest.approx(0.6065, abs=1e-4), "A passage."),
    ]
    assert [len(asked) for _, asked in annotator.judge.waves] == [2, 2, 2, 2]  # nothing more about it


@pytest.mark.parametrize(
    ("text", "question", "kept"), [(TWO, QUESTION, "Its capital is Kigali"), (ZWEI, CHINESE, "首都是基加利，")]
)
def test_tokens_of_the_right_part_alone_have_weight(
    bundled_model: Path, templates: str, text: str, question: Question, kept: str
) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(bundled_model)
    annotator, ids = started(templates), tokenizer.encode(text, add_special_tokens=False)
    (annotation,) = annotator.annotate([(question, Rollout(question.id, 0, tuple(ids), text, "stop", 0))])
    spans = [(each.start, each.end) for each in annotation.sentences]

    def weighted(side: Any) -> str:
        weights = token_weights(tokenizer, ids, text, spans, MASK_DPO.span_weights(annotation, side))
        return tokenizer.decode([token for token, weight in zip(ids, weights, strict=True) if weight])

    assert weighted("chosen") == kept
    assert weighted("rejected").strip() == text[len(kept) :].strip()


@pytest.mark.parametrize("question", [QUESTION, CHINESE])
def test_it_keeps_the_protocol(templates: str, question: Question) -> None:
    annotator: Any = build("claims", {"judge": JUDGE, "templates": templates})
    findings = list(check_annotator.check(annotator, [question], fakes.CONFIG))
    assert len(findings) > 5 and [finding.fault for finding in findings if finding.fault] == []


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"judge": JUDGE, "tables": {}}, ": ClaimsByJudge: got an unexpected keyword argument 'tables'"),
        ({"templates": "a.yaml"}, ": ClaimsByRules: got an unexpected keyword argument 'templates'"),
        ({"judge_options": {}}, ".judge: expected one, as there are judge_options, got None; `claims` is by rules"),
        ({"judge": JUDGE, "max_reference_tokens": 0}, ".max_reference_tokens: expected a whole number above 0, got 0"),
        ({"judge": JUDGE, "judge_options": {"a": 1}}, ".judge_options: Scripted: got an unexpected keyword argument"),
        ({"judge": "http", "judge_options": {"base_url": "x", "model": "m"}}, ".judge_options.base_url: expected an "),
    ],
)
def test_options_of_the_other_kind_are_refused(options: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build("claims", options)
    assert str(caught.value).startswith(f"annotation.options{expected}")


def test_questions_need_a_document() -> None:
    annotator = build("claims", {"judge": JUDGE})
    annotator.check(CHINESE)
    with pytest.raises(DataError, match="document: expected reference text for the claims annotator, got None$"):
        annotator.check(Question("q", "t", QUESTION.prompt))


BAD_TEMPLATES: list[tuple[Callable[[dict[str, Any]], object], str]] = [
    (lambda en: en.pop("split"), ": expected split, fact, reference, verdict; split is missing"),
    (lambda en: en["split"].update(prompt=" "), ".split.prompt: expected text, got ' '"),
    (lambda en: en["split"].update(prompt="{context}"), ".split.prompt: expected {sentence} in it"),
    (
        lambda en: en["split"].update(prompt="{part}"),
        ".split.prompt: expected only the fields {document}, {question}, ",
    ),
    (lambda en: en["split"].update(replies={}), ".split: expected only prompt; got 'replies'"),
    (lambda en: en["fact"].update(prompt="{context}"), ".fact.prompt: expected {sentence} in it"),
]


@pytest.mark.parametrize(("change", "expected"), BAD_TEMPLATES)
def test_bad_templates_are_one_line(change: Callable[[Any], object], expected: str, tmp_path: Path) -> None:
    raw, file = yaml.safe_load(yaml.safe_dump(TEMPLATES)), tmp_path / "t.yaml"
    change(raw["en"])
    file.write_text(yaml.safe_dump(raw))
    with pytest.raises(ConfigError) as caught:
        build("claims", {"judge": JUDGE, "templates": str(file)})
    assert str(caught.value).startswith(f"{file}: en{expected}")


def test_a_file_of_the_other_annotators_templates_is_refused() -> None:
    own = {name: str(turns.TEMPLATES / f"{name}.yaml") for name in ("anah", "claims")}
    with pytest.raises(ConfigError, match="split is missing$"):
        build("claims", {"judge": JUDGE, "templates": own["anah"]})
    with pytest.raises(ConfigError, match="expected only fact, reference, verdict; got 'split'$"):
        build("anah", {"judge": JUDGE, "templates": own["claims"]})


@pytest.mark.parametrize("language", ["en", "zh"])
def test_our_own_prompts_say_what_a_part_stands_in(language: str) -> None:
    ours = turns.read(turns.TEMPLATES / "claims.yaml", turns.CLAIMS)[language]
    fields = {"document": "<D>", "question": "<Q>", "sentence": "<S>", "context": "<C>", "reference": "<R>"}
    fact = ours["fact"].prompt(fields)
    assert fact.index("<D>") < fact.index("<Q>") < fact.index("<C>") < fact.index("<S>")
    assert "<S>" in ours["split"].prompt(fields) and "<D>" not in ours["split"].prompt(fields)
