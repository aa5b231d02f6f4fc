"""Sentences made to be labelled correct although they are not: what training against the rules would find.

A line of the fixture: part, T or F, table, entity, sentence. `given`: from an audit. `held_back`: written before the
rules read by consumption. The rules before them put 38 of its 68 falsehoods on the correct side, the first version of
these none (and called 2 of its 20 truths unverifiable, for "shares", mended since). `tuned`: written with the rules in
view, to get around them; one in 53 did then ("southwest Africa"; the rules before: 36). `unseen`: written when they
were finished; nothing was changed for them (the rules before: 25 of 45). `newcomer`: a sample of what somebody else
found later, mended since; `facts_newcomer.txt` has all 557 falsehoods and 138 truths of that author.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from test_facts import ANNOTATOR, OPEN, RIGHT, WRONG, annotate, check

from maskdpo_ray.annotation.protocol import build
from maskdpo_ray.data.domains import countries
from maskdpo_ray.pairing.scoring import scored
from maskdpo_ray.records import CORRECT, NO_FACT, Question, Rollout

FIXTURE = Path(__file__).parents[2] / "fixtures" / "facts_adversarial.txt"
NEWCOMER = FIXTURE.with_name("facts_newcomer.txt")
LINES = [line.split("|") for line in FIXTURE.read_text(encoding="utf-8").splitlines()]
RWANDA = Question("q", "Rwanda", (), facts={"table": "countries", "entity": "Rwanda"})


@pytest.mark.parametrize("annotator", ["facts", "claims"])
@pytest.mark.parametrize("part", ["given", "held_back", "tuned", "unseen", "newcomer"])
def test_no_falsehood_is_correct_and_truths_are(part: str, annotator: str) -> None:
    own = build(annotator)
    bad = []
    rows = [row for row in LINES if row[0] == part]
    for _, truth, table, entity, text in rows:
        question = Question("q", entity, (), facts={"table": table, "entity": entity})
        answer = text.replace("\\n", "\n")
        (annotation,) = own.annotate([(question, Rollout("q", 0, (), answer, "stop", 0))])
        labels = {sentence.label for sentence in annotation.sentences}
        if labels != {RIGHT} if truth == "T" else labels <= CORRECT:
            bad.append((text, labels))
    assert len(rows) > 40 and bad == []


@pytest.mark.parametrize("annotator", ["facts", "claims"])
def test_a_newcomers_sentences(annotator: str) -> None:
    """Bounds are what was measured: the rules before put 257 falsehoods on the correct side."""
    own = build(annotator)
    passed, right = [], 0
    for line in NEWCOMER.read_text(encoding="utf-8").splitlines():
        truth, table, entity, text = line.split("|", 3)
        question = Question("q", entity, (), facts={"table": table, "entity": entity})
        answer = text.replace("\\n", "\n")
        (annotation,) = own.annotate([(question, Rollout("q", 0, (), answer, "stop", 0))])
        labels = {sentence.label for sentence in annotation.sentences}
        if truth == "F" and labels <= CORRECT:
            passed.append(text)
        right += truth == "T" and labels == {RIGHT}
    assert len(passed) <= 11, passed
    assert right >= 118


CASES = [
    (
        "Guatemala",
        "It is bordered by Mexico to the north and west, Belize to the northeast, Honduras to the east, and "
        "El Salvador to the southeast.",
        RIGHT,
    ),
    (
        "Peru",
        "Peru is bordered by Ecuador and Colombia to the north, Brazil to the east, Bolivia to the southeast, and "
        "Chile to the south.",
        RIGHT,
    ),
    ("Peru", "Peru is bordered by Brazil to the west.", OPEN),
    ("Peru", "Peru is bordered to the north by Ecuador and Colombia, and to the east by Brazil.", RIGHT),
    ("Peru", "Peru is bordered to the east by Ecuador, and to the north by Chile.", OPEN),
    ("Brazil", "Brazil borders French Guiana to the north.", OPEN),  # the table knows no place of it
    ("Portugal", "Portugal borders only Spain.", RIGHT),
    ("Rwanda", "Rwanda has four neighbours: Uganda, Burundi, Tanzania and the DRC.", RIGHT),
    ("Rwanda", "Rwanda borders two countries, Uganda and Burundi.", WRONG),
    ("Rwanda", "Rwanda has 2 official languages, French and English.", OPEN),
    ("Rwanda", "Rwanda has one neighbour, Uganda.", WRONG),
    ("Nepal", "Nepal is a landlocked country in South Asia.", RIGHT),
    ("Kazakhstan", "Kazakhstan is landlocked.", RIGHT),
    ("Japan", "Japan is landlocked.", WRONG),
    ("Japan", "Japan is not landlocked.", RIGHT),
    ("Burma", "The capital of Burma, also called Myanmar, is Naypyidaw.", RIGHT),
    ("Rwanda", "It is a country.", RIGHT),
    ("Egypt", "No-one in Egypt speaks Arabic.", OPEN),
    ("Egypt", "No - Egypt is in Africa.", RIGHT),
    ("Rwanda", "Rwanda is a kingdom.", OPEN),
    ("Rwanda", "Uganda.", OPEN),
    ("Rwanda", "Kigali.", OPEN),
    ("Rwanda", "Kampala.", OPEN),
    ("Rwanda", "What is the capital of Rwanda?", NO_FACT),
    ("Rwanda", "Is Kampala the capital of Rwanda?", OPEN),
    ("Rwanda", "Would you like to know more about Rwanda?", NO_FACT),
    ("Rwanda", "I do not know the capital of Rwanda.", NO_FACT),
    ("Rwanda", "Sure, here are 5 short facts about Rwanda:", NO_FACT),
    ("Rwanda", "I hope this helps!", NO_FACT),
    ("Rwanda", "Rwanda was", OPEN),
    ("Kenya", "Nairobi is Africa's capital.", OPEN),
    ("Kenya", "To the south, it borders Tanzania.", RIGHT),
    ("Kenya", "To the south, it borders Tanzania to the north.", OPEN),
    ("Kenya", "To the north, it borders Tanzania.", OPEN),
    ("Kenya", "To the south, it borders Peru.", WRONG),
    ("Japan", "Tokyo serves as Japan's capital.", RIGHT),
    ("India", "Neighbouring countries include Pakistan, China, Nepal and Bhutan.", RIGHT),
    ("Egypt", "Cairo is its capital, and Arabic is its official language.", RIGHT),
    ("Egypt", "Tripoli is its capital, and Arabic is its official language.", WRONG),
    ("Kenya", "Countries bordering Kenya are Uganda and Tanzania.", RIGHT),
    ("Kenya", "Countries bordering Kenya are Peru and Uganda.", WRONG),
    ("Kenya", "Kenya borders and includes Uganda.", OPEN),
    ("Kenya", "Kenya borders and belongs to Uganda.", OPEN),
]


@pytest.mark.parametrize(("entity", "text", "expected"), CASES)
def test_sentences(entity: str, text: str, expected: str) -> None:
    check(annotate(text, entity), text, expected)


def test_places_of_a_users_own_table(tmp_path: Path) -> None:
    file = tmp_path / "towns.json"
    kinds = [{"name": "twin", "triggers": ["borders"], "shape": "entity"}]
    towns = [
        {"name": "Zenda", "place": [50.0, 10.0], "facts": {"twin": ["Hentzau"]}},
        {"name": "Hentzau", "place": [51, 10]},
    ]
    file.write_text(json.dumps({"kinds": kinds, "entities": towns}), encoding="utf-8")
    own = build("facts", {"tables": {"towns": str(file)}})
    question = Question("q", "Zenda", (), facts={"table": "towns", "entity": "Zenda"})
    text = "Zenda borders Hentzau to the north. Zenda borders Hentzau to the south."
    (annotation,) = own.annotate([(question, Rollout("q", 0, (), text, "stop", 0))])
    assert [sentence.label for sentence in annotation.sentences] == [RIGHT, OPEN]


PHRASES = (
    "Sure, ",
    "Yes, ",
    "Of course ",
    "Please note that ",
    "No wonder: ",
    "If you ask me, ",
    "I can say that ",
    "Here is a fact: ",
    "Here are some facts: ",
    "I think that ",
    "Sure! As you may know, ",
    "**Fun fact:** ",
)


@pytest.mark.parametrize("phrase", PHRASES)
def test_a_phrase_to_the_reader_changes_no_label(phrase: str) -> None:
    for claim in (
        "Rwanda was founded in 1990 by Napoleon.",
        "Rwanda has 900 million inhabitants.",
        "Rwanda won the World Cup in 2018.",
        "Rwanda is in Asia.",
        "Rwanda is in Africa.",
    ):
        (alone,) = annotate(claim, "Rwanda")
        spans = annotate(phrase + claim, "Rwanda")
        assert (spans[-1].label, spans[-1].end) == (alone.label, len(phrase + claim))
        assert all(span.label == NO_FACT for span in spans[:-1])


@pytest.mark.parametrize("mark", ["?", ":", "?!", ":**"])
def test_a_mark_at_the_end_changes_no_label(mark: str) -> None:
    for claim, label in (
        ("Rwanda was founded in 1990", OPEN),
        ("Rwanda is in Asia", WRONG),
        ("Rwanda is in Africa", RIGHT),
    ):
        assert [span.label for span in annotate(claim + mark, "Rwanda")] == [label]


def test_every_word_that_no_claim_takes_counts() -> None:
    """Any word from outside the closed lists, put anywhere into a true sentence, takes its label."""
    words = "The capital of Rwanda is Kigali".split()
    for odd in ("hardly", "1990", "Uganda", "former", "largest", "unlike", "until", "no", "three", "Mordor", "poor"):
        for at in range(len(words) + 1):
            text = " ".join([*words[:at], odd, *words[at:]]) + "."
            assert [span.label for span in annotate(text, "Rwanda")] != [RIGHT], text


def test_an_answer_of_falsehoods_behind_phrases_scores_nothing() -> None:
    question = next(q for q in countries.questions() if q.topic == "Chad")
    text = "Sure, Chad was founded in 1990 by Napoleon. Please note that Chad has 900 million inhabitants."
    rollout = Rollout(question.id, 0, (1,), text, "stop", 0)
    (annotation,) = ANNOTATOR.annotate([(question, rollout)])
    assert scored(rollout, annotation).score == 0


SIGNS = ("≠", "!=", "¬", "~", "<", ">", "%", "$", "°", "+", "#", "✗", "❌", "👎", "-", "−", ".", "^", "\\", "/", "÷")


@pytest.mark.parametrize("sign", SIGNS)
def test_a_sign_beside_a_value_takes_its_label(sign: str) -> None:
    question = Question("q", "Gold", (), facts={"table": "elements", "entity": "Gold"})
    for text in (f"Gold has atomic number {sign}79.", f"Gold has atomic number {sign}79 in the periodic table."):
        (annotation,) = ANNOTATOR.annotate([(question, Rollout("q", 0, (), text, "stop", 0))])
        assert [sentence.label for sentence in annotation.sentences] == [OPEN], text


@pytest.mark.parametrize(
    "form", ["**{}**", "_{}_", '"{}"', "“{}”", "({})", "`{}`", "‘{}’", "{}!", "{} …", "«{}»", "– {}"]
)
def test_punctuation_around_a_value_changes_no_label(form: str) -> None:
    (span, *_) = annotate(f"The capital of Rwanda is {form.format('Kigali')}", "Rwanda")
    assert span.label == RIGHT


@pytest.mark.parametrize("text", ["złoty", "Polish złoty", "zloty", "Złoty"])
def test_letters_that_do_not_decompose_are_folded(text: str) -> None:
    assert [span.label for span in annotate(f"The currency of Poland is the {text}.", "Poland")] == [RIGHT]
    assert [span.label for span in annotate(f"The currency of Poland is the {text}.", "Kenya")] == [RIGHT]
    assert [span.label for span in annotate(f"Kenya's currency is the {text}.", "Kenya")] == [WRONG]


@pytest.mark.parametrize(
    ("entity", "text", "label"),
    [
        ("Italy", "The official language spoken in Italy is Italian.", RIGHT),
        ("Italy", "The official language spoken there is Italian.", RIGHT),
        ("Italy", "The official language spoken in Italy is Spanish.", WRONG),
        ("Kenya", "The official languages spoken in Kenya are English and Swahili.", RIGHT),
        ("Kenya", "The official languages spoken in Kenya are English and French.", WRONG),
    ],
)
def test_two_announcements_share_their_values(entity: str, text: str, label: str) -> None:
    assert [span.label for span in annotate(text, entity)] == [label]


LISTS = [
    ("Kenya", "Kenya's neighbours are:\n- Uganda\n- Nigeria", [NO_FACT, RIGHT, WRONG]),
    ("Kenya", "**Neighbours:**\n1. Uganda\n2. Tanzania to the south", [NO_FACT, RIGHT, RIGHT]),
    ("Kenya", "The capital of Kenya is:\n- Uganda", [NO_FACT, WRONG]),
    ("Kenya", "Here are some facts:\n- Uganda", [NO_FACT, OPEN]),
    ("Kenya", "Neighbours:\n- Uganda\nNairobi is the capital.\nSudan", [NO_FACT, RIGHT, RIGHT, OPEN]),
    ("Kenya", "Kenya\nNairobi is the capital.", [NO_FACT, RIGHT]),
]


@pytest.mark.parametrize(("entity", "text", "labels"), LISTS)
def test_items_are_judged_under_their_heading(entity: str, text: str, labels: list[str]) -> None:
    assert [span.label for span in annotate(text, entity)] == labels
