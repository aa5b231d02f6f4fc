"""The factscore evaluator: rules over prose, a scripted judge, and what is refused before a run."""

from __future__ import annotations

import json
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from maskdpo_ray.annotation.abstention import abstains
from maskdpo_ray.annotation.llm.judge import Reply
from maskdpo_ray.data.corpus import Passages
from maskdpo_ray.data.domains import countries, elements
from maskdpo_ray.errors import ConfigError, DataError, OptionError, UserError
from maskdpo_ray.evaluation.analyses import rule_agreement
from maskdpo_ray.evaluation.evaluators import statements
from maskdpo_ray.evaluation.evaluators.factscore import FactScore
from maskdpo_ray.evaluation.evaluators.protocol import build
from maskdpo_ray.evaluation.evaluators.statements import words
from maskdpo_ray.records import Question, Rollout

LABELS = Path(__file__).resolve().parents[2] / "fixtures/facts_labels.jsonl"
DOCUMENT = """Ruritania
Capital: Strelsau
Neighbours (border countries): Graustark 120 km; Saxony 80 km
Languages: Ruritanian (official), German 10%
Currency: Ruritanian crowns (RUK)
Location: Western Europe, between Graustark and Saxony
Population: 1,318,128 (2024 est.)
Independence: 4 May 1854
State at room temperature: solid
Background: The castle of Zenda stands near the border. Explorers from Portugal came in 1522."""
QUESTION = Question("q", "Ruritania", ({"role": "user", "content": "Tell me of Ruritania."},), DOCUMENT)


def verdicts(answer: str, evaluator: FactScore | None = None, question: Question = QUESTION) -> list[str]:
    evaluator = FactScore() if evaluator is None else evaluator
    evaluator.start()
    (judgement,) = evaluator.judge([(question, Rollout(question.id, 0, (), answer, "stop", 0))])
    return [fact.verdict for fact in judgement.facts]


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        ("The capital of Ruritania is Strelsau.", "supported"),
        ("The capital of Ruritania is Zenda.", "unsupported"),  # in the document, but of another thing
        ("Strelsau is the capital of Ruritania.", "supported"),
        ("Graustark is the capital of Ruritania.", "unsupported"),
        ("Its capital is Strelsau.", "supported"),
        ("Capital: Strelsau", "supported"),
        ("Capital: Zenda", "unsupported"),
        (": nothing", "unsupported"),
        ("One neighbour of Ruritania is Saxony.", "supported"),
        ("One neighbour of Ruritania is Portugal.", "unsupported"),
        ("Ruritania borders Graustark and Saxony.", "supported"),
        ("Ruritania borders Graustark and Bavaria.", "unsupported"),
        ("The official language of Ruritania is Ruritanian.", "supported"),
        ("The official language of Ruritania is French.", "unsupported"),
        ("The currency of Ruritania is the Ruritanian crown.", "supported"),
        ("The currency of Ruritania is the Ruritanian mark.", "unsupported"),
        ("Ruritania is in Western Europe.", "supported"),
        ("Ruritania is in West Europe.", "supported"),
        ("Ruritania is in Africa.", "unsupported"),
        ("Ruritania has a population of about 1.3 million.", "supported"),
        ("Ruritania has a population of 2 million.", "unsupported"),
        ("Ruritania became independent in 1854.", "supported"),
        ("Ruritania became independent in 1855.", "unsupported"),
        ("Ruritania is a solid at room temperature.", "supported"),
        ("Ruritania is a gas at room temperature.", "unsupported"),
        ("The capital of Ruritania is not Zenda.", "irrelevant"),  # rules can't tell what is denied rightly
        ("The capital of Ruritania is not Strelsau.", "unsupported"),  # a passage says so
        ("Ruritania never bordered Saxony.", "unsupported"),
        ("Ruritania used to border Saxony.", "unsupported"),
        ("Ruritania borders only Saxony.", "unsupported"),
        ("The former capital of Ruritania is Strelsau.", "unsupported"),
        ("Ruritania, the richest state in the world, is in Western Europe.", "unsupported"),
        ("Ruritania has one neighbour.", "unsupported"),
        ("Ruritania, unlike its rivals, is a solid.", "unsupported"),
        ("Ruritania borders Saxony and uses the mark.", "supported unsupported"),
        ("Sure, the capital of Ruritania is Strelsau.", "supported"),
        ("- Please note that the capital of Ruritania is Zenda.", "unsupported"),
        ("Did you know that the capital of Ruritania is Zenda?", "unsupported"),
        ("The capital of Ruritania is Zenda:", "unsupported"),
        ("Sure!", ""),
        ("Ruritania won the cup.", "unsupported"),
        ("Strelsau might be the capital of Ruritania.", "unsupported"),
        ("Would you like to know more about Ruritania?", "irrelevant"),
        ("Ruritania is a country.", "irrelevant"),
        ("Strelsau.", "irrelevant"),
        ("What a place!", "irrelevant"),
    ],
)
def test_rules(sentence: str, expected: str) -> None:
    assert verdicts(sentence) == expected.split()


def test_hardly_a_falsehood_is_supported() -> None:
    """Adversarial sentences against the annotator's rules; relations between words of one passage are not judged."""
    asked = {question.topic: question for question in (*countries.questions(), *elements.questions())}
    evaluator = FactScore()
    supported = []
    for line in LABELS.with_name("facts_adversarial.txt").read_text(encoding="utf-8").splitlines():
        part, truth, _, entity, text = line.split("|")
        if (
            truth == "F"
            and part not in ("unseen", "newcomer")  # the latter: signs and subjects, which passages do not weigh
            and entity in asked
            and "supported" in (found := verdicts(text, evaluator, asked[entity]))
        ):
            supported += [] if "unsupported" in found else [text]
    assert supported == [
        "Rwanda has one language",  # "one" stands in the passage about languages
        "Rwanda is a kingdom in Africa.",  # a former name says both
        "Rwanda is the capital of Kigali.",
        "Africa lies in Zimbabwe.",
    ]


def test_every_clause_is_a_fact() -> None:
    answer = "1. The capital of Ruritania is Strelsau, and it borders France. Its currency is the crown; it is in Asia."
    assert verdicts(answer) == ["supported", "unsupported", "supported", "unsupported"]
    assert list(statements.clauses("2) It is a solid, but the capital is Zenda, which is a castle.")) == [
        "It is a solid",
        "the capital is Zenda",
        "is a castle.",
    ]


def test_the_evidence_is_the_passage() -> None:
    evaluator = FactScore()
    evaluator.start()
    (judgement,) = evaluator.judge([(QUESTION, Rollout("q", 3, (), "Its capital is Strelsau.", "stop", 0))])
    (fact,) = judgement.facts
    assert (judgement.sample, fact.text, fact.evidence) == (3, "Its capital is Strelsau.", "Capital: Strelsau")


@pytest.mark.parametrize(
    ("one", "other", "strictly", "loosely"),
    [
        ("Mexicans", "mexican", True, True),
        ("São", "Sao", True, True),
        ("countries", "country", True, True),
        ("koruna", "koruny", False, True),
        ("Austria", "Australia", False, False),
        ("Niger", "Norway", False, False),
        ("1,318,128", "1.3 million", True, True),
        ("76", "73", False, False),
        ("2024", "2025", False, False),
        ("0,5", "0.5", True, True),
        ("7", "seven", False, False),
    ],
)
def test_words_match(one: str, other: str, strictly: bool, loosely: bool) -> None:
    (a,), (b,) = words(one), words(other)
    assert (a.matches(b), a.matches(b, loosely=True)) == (strictly, loosely)
    assert b.matches(a) == strictly


@pytest.mark.parametrize("text", ["¹E", "¹²³", "x²", "①", "½ cup", "٣", "१२", "¹E 12 million", "1,2,3.4.5"])
def test_digits_of_every_script_are_read(text: str) -> None:
    """Superscripts and the like are digits to Python, and no numbers."""
    assert all(word.value is None or word.value >= 0 for word in words(text))


def test_passages_are_found_by_their_rarer_words() -> None:
    passages = Passages(["the capital is old", "the capital is Strelsau", "the rest"])
    assert passages.find("capital Strelsau", 2) == ["the capital is Strelsau", "the capital is old"]
    assert passages.find("capital", 1) == ["the capital is old"]  # ties in the order of the text
    assert passages.find("nowhere", 2) == passages.find("", 2) == Passages(["..."]).find("the", 1) == []


def test_built_in_documents_hold_what_the_questions_ask() -> None:
    """And not the annotator's tables: the texts are the sources' own."""
    rwanda = next(q for q in countries.questions() if q.topic == "Rwanda")
    told = "The capital of Rwanda is Kigali. Rwanda is in Africa. The official language of Rwanda is Kinyarwanda. "
    told += "The currency of Rwanda is the Rwandan franc. One neighbour of Rwanda is Uganda."
    assert verdicts(told, question=rwanda) == ["supported"] * 5
    assert verdicts(told.replace("Rwanda ", "Peru ").replace("Kigali", "Lima"), question=rwanda)[0] == "unsupported"
    zinc = next(q for q in elements.questions() if q.topic == "Zinc")
    told = "The symbol of Zinc is Zn. The atomic number of Zinc is 30. Zinc is in period 4. Zinc is solid."
    assert verdicts(told, question=zinc) == ["supported"] * 4
    hydrogen = next(q for q in elements.questions() if q.topic == "Hydrogen")
    assert verdicts("The symbol of Hydrogen is H. The symbol of Hydrogen is He.", question=hydrogen) == [
        "supported",
        "unsupported",
    ]
    assert verdicts("The atomic number of Zinc is 4. Zinc is in period 30.", question=zinc) == ["unsupported"] * 2


def test_agreement_with_labels_by_hand() -> None:
    """Labels of countries and elements; docs/evaluators.md has the table."""
    rows = [row for row in rule_agreement.rejudge(LABELS) if row.by_evaluator is not None]
    for split, least in (("dev", 0.88), ("held_back", 0.90), ("held_back_prose", 0.80)):
        mine = [row.by_evaluator == row.by_hand for row in rows if row.split == split]
        assert sum(mine) / len(mine) >= least, split


def test_agreement_prints_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = {
        "split": "dev",
        "question_id": "countries/rwanda",
        "text": "Its capital is Kigali.",
        "sentence": "Its capital is Kigali.",
        "start": 0,
        "end": 22,
        "label": "no_hallucination",
    }
    file = tmp_path / "labels.jsonl"
    file.write_text(json.dumps(row) + "\n")
    rule_agreement.main([str(file)])
    assert capsys.readouterr().out.splitlines()[-1] == "| dev | 1 | 1 | 1.000 | 1 of 1 | 0 of 0 |"


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("I don't know.", True),
        ("I'm sorry, but I do not have information on that.", True),
        ("I am not sure what the capital is.", True),
        ("As an AI, I can't say.", True),
        ("There is no information available about it.", True),
        (" ", True),
        ("抱歉，我不知道。", True),
        ("The capital is Kigali.", False),
        ("The Unknown Soldier lies in Paris.", False),
        ("Rwandans know three languages.", False),
        ("The state of the economy is unsure.", False),
    ],
)
def test_abstentions(answer: str, expected: bool) -> None:
    assert abstains(answer) is expected


class Scripted:
    """A judge that knows the reply to each prompt, by what the prompt ends with; it counts what it is asked."""

    def __init__(self, replies: dict[str, str | Reply]) -> None:
        self.replies, self.asked, self.started = replies, [], False

    def start(self) -> None:
        self.started = True

    def ask(self, conversations: Sequence[Any], max_tokens: int) -> list[Reply]:
        assert self.started
        prompts = [conversation[-1]["content"] for conversation in conversations]
        self.asked.append(prompts)
        found = [next(reply for key, reply in self.replies.items() if key in prompt) for prompt in prompts]
        return [reply if isinstance(reply, Reply) else Reply(reply) for reply in found]

    def close(self) -> None:
        pass


THIS = "python:test_factscore:Scripted"


def test_a_judge_breaks_up_answers_and_checks_each_fact_once() -> None:
    replies: dict[str, str | Reply] = {
        "Sentence: Alpha.": "- Strelsau is the capital.\n- It is old.",
        "Sentence: Beta.": "- NONE",
        "Sentence: Gamma.": "I can't do that.",
        "Sentence: Delta.": Reply("- half a li", fault="cut off"),
        "Statement: Strelsau is the capital.": " True.",
        "Statement: It is old.": "FALSE, as",
        "Sentence: Epsilon.": "1. Zenda is a castle.",
        "Statement: Zenda is a castle.": "Perhaps",
    }
    evaluator = FactScore(THIS, {"replies": replies})
    evaluator.start()
    texts = ("Alpha. Beta.", "Alpha. Gamma.", "Delta. Epsilon.", "I don't know.")
    found = evaluator.judge([(QUESTION, Rollout("q", i, (), text, "stop", 0)) for i, text in enumerate(texts)])
    assert [[fact.verdict for fact in judgement.facts] for judgement in found] == [
        ["supported", "unsupported"],
        ["supported", "unsupported", "unparsed"],
        ["unparsed", "unparsed"],
        [],
    ]
    assert [fact.evidence for judgement in found for fact in judgement.facts if fact.verdict == "unparsed"] == [
        '"I can\'t do that."',
        "'- half a li' (cut off)",
        "'Perhaps'",
    ]
    assert [judgement.abstained for judgement in found] == [False, False, False, True]
    extracting, verifying = evaluator._judge.asked
    assert len(extracting) == 5 and len(verifying) == 3  # each sentence and each fact once
    assert "Capital: Strelsau" in verifying[0] and "about Ruritania" in verifying[0]
    assert "Capital: Strelsau" in found[0].facts[0].evidence
    assert evaluator.max_concurrency == 16


def test_documents_of_ones_own_are_searched_for_every_question(tmp_path: Path) -> None:
    file = tmp_path / "documents.jsonl"
    file.write_text(
        json.dumps({"title": "Ruritania", "text": "Its capital is Strelsau."})
        + "\n\n"
        + json.dumps({"text": "Graustark has the capital Edelweiss."})
        + "\n"
    )
    evaluator = pickle.loads(pickle.dumps(FactScore(documents=str(file))))
    question = Question("q", "Graustark", QUESTION.prompt)
    evaluator.check(question)  # needs no document of its own
    assert verdicts("The capital of Graustark is Edelweiss.", evaluator, question) == ["supported"]
    assert verdicts("The capital of Graustark is Zenda.", evaluator, question) == ["unsupported"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "documents.jsonl: expected a JSON file, got: No such file"),
        (b"\xff", "documents.jsonl:1: expected a JSON object, got"),
        (b"\n", "documents.jsonl: expected JSON objects, got none"),
        (b"{", "documents.jsonl:1: expected a JSON object, got one whose"),
        (b'{"text": "x"}\n[1]', "documents.jsonl:2: expected a JSON object, got"),
        (b'{"text": " "}', "documents.jsonl:1: text: expected text that is not empty, got ' '"),
        (b'{"text": "x", "title": 1}', "documents.jsonl:1: title: expected text that is not empty, got 1"),
        (b'{"body": "x"}', "documents.jsonl:1: expected a document in one of text, "),
    ],
)
def test_a_bad_file_of_documents_is_one_line(tmp_path: Path, content: bytes | None, message: str) -> None:
    file = tmp_path / "documents.jsonl"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(DataError) as caught:
        FactScore(documents=str(file))
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"passages": 0}, "eval.options.passages: expected a whole number above 0, got 0"),
        ({"documents": 3}, "eval.options.documents: expected a JSON Lines file, got 3"),
        ({"judge": 3}, "eval.options.judge: expected a name or none, got 3"),
        ({"judge": "oracle"}, "eval.options.judge: expected one of http, vllm, python:"),
        ({"judge": "http"}, "eval.options.judge_options: HttpJudge: missing a required argument"),
        ({"judge": THIS, "judge_options": 3}, "eval.options.judge_options: expected a mapping, got 3"),
        ({"judge_options": {"a": 1}}, "eval.options.judge_options: expected none without eval.options.judge, got"),
        ({"max_concurrency": 0}, "eval.options.max_concurrency: expected a whole number above 0, got 0"),
        ({"threshold": 0}, "eval.options: FactScore: got an unexpected keyword argument 'threshold'"),
    ],
)
def test_bad_options_are_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build("factscore", options)
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)


def test_a_judge_that_does_not_start_is_named_as_ours() -> None:
    class Broken(Scripted):
        def start(self) -> None:
            raise OptionError("model: expected a folder, got none")

    evaluator = FactScore(THIS, {"replies": {}})
    evaluator._judge = Broken({})
    with pytest.raises(ConfigError, match="^eval.options.judge_options.model: expected a folder"):
        evaluator.start()


@pytest.mark.parametrize(
    ("question", "message"),
    [
        (Question("q", "t", QUESTION.prompt), "question 'q': document: expected a text for the factscore evaluator"),
        (Question("q", "t", QUESTION.prompt, " "), "document: expected a text for the factscore evaluator"),
        (
            Question("q", "t", QUESTION.prompt, "d", language="zh"),
            "language: expected en for the rules of the factscore",
        ),
    ],
)
def test_questions_that_can_not_be_judged(question: Question, message: str) -> None:
    FactScore().check(QUESTION)
    with pytest.raises(UserError) as caught:
        FactScore().check(question)
    assert message in str(caught.value)
