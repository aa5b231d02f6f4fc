"""The `facts` annotator: single sentences, every fact of the tables, tables of a user's own, bad input."""

from __future__ import annotations

import random

import pytest

from maskdpo_ray.annotation.protocol import build
from maskdpo_ray.annotation.rules.facts import FactsAnnotator
from maskdpo_ray.data.domains import countries, elements
from maskdpo_ray.data.domains.table import NUMBER, WORDS, Entity, FactTable, Kind, Value
from maskdpo_ray.errors import ConfigError, DataError
from maskdpo_ray.records import CONTRADICTORY as WRONG
from maskdpo_ray.records import NO_FACT, Question, Rollout, Sentence
from maskdpo_ray.records import NO_HALLUCINATION as RIGHT
from maskdpo_ray.records import UNVERIFIABLE as OPEN

ANNOTATOR = FactsAnnotator()


def annotate(text: str, entity: str, table: str = "countries") -> list[Sentence]:
    question = Question("q", entity, (), facts={"table": table, "entity": entity})
    (annotation,) = ANNOTATOR.annotate([(question, Rollout("q", 0, (), text, "stop", 0))])
    return list(annotation.sentences)


COUNTRY_CASES = [
    ("South Africa", "South Africa has three capitals: Pretoria, Cape Town and Bloemfontein.", RIGHT),
    ("South Africa", "The administrative capital of South Africa is Pretoria.", OPEN),
    ("South Africa", "The capital of South Africa is Johannesburg.", WRONG),
    ("Burma", "The capital of Myanmar is Naypyidaw.", RIGHT),
    ("Burma", "Burma, also known as Myanmar, is in Southeast Asia.", RIGHT),
    ("Democratic Republic of the Congo", "The capital of the Democratic Republic of the Congo is Kinshasa.", RIGHT),
    ("Democratic Republic of the Congo", "The capital of the DRC is Brazzaville.", WRONG),
    ("Republic of the Congo", "The capital of the Republic of the Congo is Brazzaville.", RIGHT),
    ("Republic of the Congo", "The capital of Congo is Kinshasa.", WRONG),
    ("Angola", "Angola borders the Republic of the Congo and the Democratic Republic of the Congo.", RIGHT),
    ("Ivory Coast", "The capital of Côte d'Ivoire is Yamoussoukro.", RIGHT),
    ("Ivory Coast", "The capital of Côte d’Ivoire is Abidjan.", RIGHT),
    ("Ghana", "One neighbour of Ghana is Cote d'Ivoire.", RIGHT),
    ("Ghana", "Ghana borders the Ivory Coast, Burkina Faso and Togo.", RIGHT),
    ("Turkey", "The capital of Türkiye is Ankara.", RIGHT),
    ("Turkey", "Turkey lies in both Europe and Asia.", RIGHT),
    ("Turkey", "Turkey is in Africa.", WRONG),
    ("Czechia", "The capital of the Czech Republic is Prague.", RIGHT),
    ("Eswatini", "The currency of Swaziland is the lilangeni.", RIGHT),
    ("Eswatini", "The capital of Eswatini is Mbabane.", RIGHT),
    ("Iraq", "Iraq is located in the Middle East.", RIGHT),
    ("Haiti", "Haiti is in the Caribbean.", RIGHT),
    ("Honduras", "Honduras is in North America.", RIGHT),
    ("Honduras", "Honduras is in South America.", WRONG),
    ("Honduras", "Honduras is a country in Central America.", RIGHT),
    ("Russia", "Russia is in Asia.", RIGHT),
    ("Egypt", "Egypt is in Asia.", RIGHT),
    ("Egypt", "Egypt is in Africa.", RIGHT),
    ("Kazakhstan", "Kazakhstan is in Europe.", RIGHT),
    ("Kazakhstan", "Kazakhstan is in Africa.", WRONG),
    ("Russia", "Russia is the largest country in the world.", OPEN),
    ("Nigeria", "Lagos is the largest city in Nigeria.", OPEN),
    ("Algeria", "Algeria is the largest country in Africa.", OPEN),
    ("Rwanda", "Rwanda is bordered by Uganda, whose capital is Nairobi.", WRONG),
    ("Rwanda", "Rwanda is bordered by Kenya, whose capital is Nairobi.", WRONG),
    ("Rwanda", "The capital of Rwanda is Kigali and its currency is the US dollar.", WRONG),
    ("Rwanda", "Rwanda is in Africa, its capital is Kigali, and its currency is the Rwandan franc.", RIGHT),
    ("Rwanda", "Rwanda borders Burundi, Tanzania, Uganda, and the Democratic Republic of the Congo.", RIGHT),
    ("Rwanda", "Rwanda borders Burundi, Tanzania, Uganda, and the Republic of the Congo.", WRONG),
    ("Rwanda", "Rwanda does not border Kenya.", RIGHT),
    ("Rwanda", "Rwanda does not border Uganda.", WRONG),
    ("Rwanda", "The official language is not French.", WRONG),
    ("Rwanda", "The capital of Rwanda is not Kampala.", RIGHT),
    ("Rwanda", "Rwanda is a landlocked country in Africa with no coastline.", RIGHT),
    ("Rwanda", "Currency: Rwandan franc (RWF)", RIGHT),
    ("Rwanda", "**Capital:** Kigali", RIGHT),
    ("Rwanda", "- Capital: Kampala", WRONG),
    ("Rwanda", "1. The capital of Rwanda is Kigali.", RIGHT),
    ("Rwanda", "Neighbour: Uganda", RIGHT),
    ("Rwanda", "Continent: Africa", RIGHT),
    ("Rwanda", "Its capital is Kigali.", RIGHT),
    ("Rwanda", "The country's capital is Kigali.", RIGHT),
    ("Germany", "The currency of Germany is the Euro.", RIGHT),
    ("Germany", "Germany uses the euro.", RIGHT),
    ("Germany", "The currency of Germany is the Deutsche Mark.", WRONG),
    ("Germany", "The currency is EUR.", RIGHT),
    ("Gabon", "The currency of Gabon is the Gabonese franc.", WRONG),
    ("Gabon", "The currency of Gabon is the Central African CFA franc.", RIGHT),
    ("Gabon", "The currency of Gabon is the CFA franc.", RIGHT),
    ("Rwanda", "The currency of Rwanda is the Tanzanian franc.", WRONG),
    ("Liechtenstein", "The currency of Liechtenstein is the Swiss franc.", RIGHT),
    ("Nepal", "The currency of Nepal is the Nepalese rupee.", RIGHT),
    ("Nepal", "The currency of Nepal is the Nepali rupee.", RIGHT),
    ("Nepal", "The currency of Nepal is the Indian rupee.", WRONG),
    ("India", "The currency of India is the rupee.", RIGHT),
    ("Niger", "The capital of Niger is Abuja.", WRONG),
    ("Niger", "The capital of Nigeria is Abuja.", RIGHT),
    ("Guinea", "One neighbour of Guinea is Guinea-Bissau.", RIGHT),
    ("Guinea", "One neighbour of Guinea is Equatorial Guinea.", WRONG),
    ("Oman", "The capital of Oman is Bucharest.", WRONG),
    ("Mali", "The capital of Mali is Mogadishu.", WRONG),
    ("Mali", "One neighbour of Mali is Somalia.", WRONG),
    ("Dominican Republic", "The capital of the Dominican Republic is Roseau.", WRONG),
    ("Dominican Republic", "The capital of the Dominican Republic is Santo Domingo.", RIGHT),
    ("Sudan", "One neighbour of Sudan is South Sudan.", RIGHT),
    ("South Sudan", "The capital of South Sudan is Juba.", RIGHT),
    ("South Sudan", "The capital of South Sudan is Khartoum.", WRONG),
    ("Laos", "The official language of Laos is Lao.", RIGHT),
    ("Laos", "The official language of Laos is Laotian.", RIGHT),
    ("Laos", "The official language of Laos is Thai.", WRONG),
    ("Georgia", "The official language of Georgia is Georgian.", RIGHT),
    ("Georgia", "Georgia is in Asia.", RIGHT),
    ("Switzerland", "German, French, Italian, and Romansh are the official languages of Switzerland.", RIGHT),
    ("Switzerland", "The official language of Switzerland is Spanish.", WRONG),
    ("Kenya", "English and Swahili are the official languages of Kenya.", RIGHT),
    ("Algeria", "French is widely spoken in Algeria.", OPEN),
    ("Canada", "The official languages of Canada are English, French and Spanish.", WRONG),
    ("Canada", "Spanish is spoken in Canada.", RIGHT),
    ("Canada", "The capital of Ontario is Toronto.", OPEN),
    ("Canada", "The official name of Canada is Canada.", OPEN),
    ("Rwanda", "The official name of the country is the Republic of Rwanda.", OPEN),
    ("Nigeria", "The former capital of Nigeria is Lagos.", OPEN),
    ("Kazakhstan", "The capital is Astana, formerly known as Nur-Sultan.", OPEN),
    ("Chad", "Chad is named after Lake Chad.", OPEN),
    ("Rwanda", "Rwanda is a member of the African Union.", OPEN),
    ("Rwanda", "Rwanda is an East African country.", RIGHT),
    ("Rwanda", "Rwanda has a population of about 13 million people.", OPEN),
    ("Rwanda", "Rwanda gained independence from Belgium in 1962.", OPEN),
    ("Rwanda", "Rwanda, a former colony of Belgium, borders Uganda.", OPEN),
    ("Rwanda", "It shares a border with Uganda to the north and Burundi to the south.", RIGHT),
    ("Rwanda", "It is located in East Africa and shares borders with Uganda, Tanzania, and Kenya.", WRONG),
    ("Rwanda", "Rwanda's official language is Kinyarwanda, but English and French are also spoken.", RIGHT),
    ("Rwanda", "The people of Rwanda speak Kinyarwanda.", RIGHT),
    ("Rwanda", "The most widely spoken language is Kinyarwanda.", OPEN),
    ("Rwanda", "Hello!", NO_FACT),
    ("Rwanda", "Facts about Rwanda:", NO_FACT),
    ("Rwanda", "Let me know if you need more.", NO_FACT),
    ("Rwanda", "The currency of Rwanda is", NO_FACT),
    ("Rwanda", "### Geography", OPEN),
    ("Mexico", "The capital of Mexico is Mexico City.", RIGHT),
    ("Kuwait", "The capital of Kuwait is Kuwait City.", RIGHT),
    ("United States", "The capital of the United States is Washington, D.C.", RIGHT),
    ("Brazil", "The capital of Brazil is Brasilia.", RIGHT),
    ("Brazil", "The capital of Brazil is Rio de Janeiro.", WRONG),
    ("Colombia", "The capital of Colombia is Bogota.", RIGHT),
    ("Chad", "The capital of Chad is N'Djamena.", RIGHT),
    ("Moldova", "The capital of Moldova is Chișinău.", RIGHT),
    ("Ukraine", "The capital of Ukraine is Kiev.", RIGHT),
    ("Iceland", "The capital of Iceland is Reykjavík.", RIGHT),
    ("Zambia", "One neighbour of Zambia is Zimbabwe, which is in Africa.", RIGHT),
    ("France", "One neighbour of France is Spain, which is in Asia.", WRONG),
    ("Brazil", "Brazil borders every South American country except Chile and Ecuador.", OPEN),
    ("Ecuador", "The currency of Ecuador is the US dollar.", RIGHT),
    ("Panama", "The currency of Panama is the balboa.", RIGHT),
    ("Bolivia", "The capital of Bolivia is Sucre.", RIGHT),
    ("Bolivia", "La Paz is the capital of Bolivia.", RIGHT),
    ("Bolivia", "The capital of Bolivia is Santa Cruz.", WRONG),
    ("Japan", "One neighbour of Japan is China.", OPEN),
    ("Madagascar", "Madagascar borders Mozambique.", OPEN),
    ("Palau", "The capital of Palau is Ngerulmud.", RIGHT),
    ("Spain", "Spain shares a border with Portugal and France.", RIGHT),
    ("Spain", "The official language is Spanish, which is spoken in Mexico.", RIGHT),
    ("Poland", "Poland is in Eastern Europe.", RIGHT),
    ("Estonia", "Estonia is a Baltic country.", RIGHT),
    ("Estonia", "Estonia is in Southern Europe.", WRONG),
    ("Mongolia", "The capital is Ulaanbaatar, and the official language is Mongolian.", RIGHT),
    ("Mongolia", "Mongolia is a landlocked country between Russia and China.", OPEN),
    ("Jordan", "The Jordan River flows through Jordan.", OPEN),
    (
        "Guatemala",
        "It is bordered by Mexico to the north and west, Belize and the Caribbean Sea to the northeast, "
        "Honduras to the east, and El Salvador to the southeast.",
        OPEN,
    ),
    (
        "Peru",
        "Peru is bordered by Ecuador and Colombia to the north, Brazil to the east, Bolivia to the "
        "southeast, Chile to the south, and the Pacific Ocean to the west.",
        OPEN,
    ),
    ("Peru", "The currency used in Peru is the sol.", RIGHT),
    ("Peru", "Peru's currency, the sol, is widely accepted.", OPEN),
    ("Thailand", "Thailand's currency is the baht (THB).", RIGHT),
    ("Vietnam", "The currency is the đồng.", RIGHT),
]

COUNTRY_CASES += [
    ("Ghana", "Ghana is bordered by the Gulf of Guinea to the south.", OPEN),
    ("Mexico", "Mexico is bordered by the Gulf of Mexico and the Pacific Ocean.", OPEN),
    ("Rwanda", "Lagos is a neighbour of Rwanda.", WRONG),
    ("Brazil", "Brazil borders Argentina, Peru and French Guiana.", RIGHT),
    ("Luxembourg", "The capital of Luxembourg is Luxembourg City.", RIGHT),
    ("Canada", "The US dollar is the currency of Canada.", WRONG),
    ("Ghana", "The currency of Ghana is strong.", OPEN),
    ("Ghana", "The currency of Ghana is the riga.", WRONG),
    ("Ghana", "Currency: riga", WRONG),
    ("Ghana", "Ghana was the first country in Sub-Saharan Africa to gain independence.", OPEN),
    ("Chile", "Chile is one of the longest countries in South America.", OPEN),
]

ELEMENT_CASES = [
    ("Tantalum", "The atomic number of Tantalum is 73.", RIGHT),
    ("Tantalum", "Tantalum has an atomic number of 73.", RIGHT),
    ("Tantalum", "Tantalum (Ta) is a chemical element with the symbol Ta and atomic number 73.", RIGHT),
    ("Tantalum", "Tantalum is a chemical element with symbol Tm and atomic number 73.", WRONG),
    ("Tantalum", "Tantalum is a rare, hard, blue-gray, lustrous transition metal.", OPEN),
    ("Tantalum", "Its symbol is Ta.", RIGHT),
    ("Indium", "The symbol of Indium is In.", RIGHT),
    ("Indium", "In period 5 of the periodic table.", RIGHT),
    ("Arsenic", "Arsenic is a metalloid.", RIGHT),
    ("Helium", "Helium is a colorless, odorless gas at room temperature.", OPEN),
    ("Helium", "Helium is a noble gas.", RIGHT),
    ("Helium", "Helium is a liquid at room temperature.", WRONG),
    ("Helium", "Helium is not a metal.", RIGHT),
    ("Mercury", "Mercury is a liquid at room temperature.", RIGHT),
    ("Mercury", "Mercury is the only metal that is liquid at room temperature.", OPEN),
    ("Copper", "Copper is in the 4th period.", RIGHT),
    ("Copper", "Copper is in group 11 and period 4.", RIGHT),
    ("Copper", "Copper is in group 12.", WRONG),
    ("Copper", "Copper is element 29.", OPEN),
    ("Uranium", "Uranium is an actinide.", RIGHT),
    ("Gold", "Gold was discovered in ancient times.", OPEN),
    ("Sodium", "Sodium is an alkali metal.", RIGHT),
    ("Sodium", "Sodium is an alkaline earth metal.", WRONG),
    ("Sodium", "Symbol: Na", RIGHT),
    ("Sodium", "Atomic number: 11", RIGHT),
    ("Sodium", "Period: 3", RIGHT),
    ("Chlorine", "Chlorine is a halogen.", RIGHT),
    ("Chlorine", "Chlorine is a gas.", RIGHT),
    ("Bromine", "Bromine is a red-brown liquid.", OPEN),
    ("Lead", "The symbol for Lead is Pb.", RIGHT),
    ("Lead", "Lead has 82 protons.", RIGHT),
    ("Neon", "It belongs to the noble gases.", RIGHT),
    ("Aluminum", "Aluminium is a metal.", RIGHT),
    ("Cerium", "Cerium is a rare earth metal.", RIGHT),
    ("Tungsten", "Its melting point is 3422 degrees.", OPEN),
    ("Tungsten", "Tungsten has a boiling point of 5555 °C and is used in lamps.", OPEN),
]


@pytest.mark.parametrize(("entity", "text", "expected"), COUNTRY_CASES)
def test_country_sentences(entity: str, text: str, expected: str) -> None:
    check(annotate(text, entity), text, expected)


@pytest.mark.parametrize(("entity", "text", "expected"), ELEMENT_CASES)
def test_element_sentences(entity: str, text: str, expected: str) -> None:
    check(annotate(text, entity, "elements"), text, expected)


def check(sentences: list[Sentence], text: str, expected: str) -> None:
    assert [text[s.start : s.end] for s in sentences] == [text]
    assert sentences[0].label == expected, sentences[0].evidence
    assert sentences[0].evidence


def test_evidence_and_kind_say_what_decided() -> None:
    (wrong,) = annotate("The capital of Rwanda is Paris.", "Rwanda")
    assert (wrong.kind, wrong.evidence) == ("capital", "capital of Rwanda: Kigali; the sentence says Paris")
    (neighbour,) = annotate("Its capital is Kigali, and it borders Kenya.", "Rwanda")
    assert neighbour.kind == "neighbour" and "the sentence says Kenya" in neighbour.evidence


def test_atomic_number_at_a_sentence_end_is_no_list_marker() -> None:
    text = "The atomic number of Tantalum is 73. Tantalum is a gas."
    assert [s.label for s in annotate(text, "Tantalum", "elements")] == [RIGHT, WRONG]


def test_an_empty_field_matches_nothing() -> None:
    for text in ("One neighbour of Japan is China.", "Japan borders .", "The neighbour of Japan is ."):
        assert all(s.label not in (RIGHT, WRONG) for s in annotate(text, "Japan"))


TEMPLATES = {
    "capital": ("The capital of {e} is {v}.", "{v} is the capital of {e}.", "Capital: {v}", "Its capital is {v}."),
    "continent": ("{e} is in {v}.", "{e} is a country in {v}.", "{e} is located in {v}."),
    "official_language": ("The official language of {e} is {v}.", "{e}'s official language is {v}."),
    "currency": ("The currency of {e} is the {v}.", "{e} uses the {v}.", "{e}'s currency is the {v}."),
    "neighbour": ("One neighbour of {e} is {v}.", "{e} borders {v}.", "{e} is bordered by {v}."),
    "symbol": ("The symbol of {e} is {v}.", "{e} has the symbol {v}."),
    "atomic_number": ("The atomic number of {e} is {v}.", "{e} has {v} protons."),
    "category": ("{e} is a {v}.", "{e} is classified as a {v}."),
    "period": ("{e} is in period {v}.",),
    "state": ("{e} is a {v} at room temperature.",),
}


@pytest.mark.parametrize("domain", [countries, elements])
def test_every_fact_of_every_question_is_told_from_another_entitys(domain) -> None:
    """Statements of the table are right, those that it makes only of others are wrong, for all entities and kinds."""
    table, chance = domain.table(), random.Random(0)
    entities = {entity.name: entity for entity in table.entities}
    bad = []
    for question in domain.questions():
        entity = entities[question.topic]
        for kind in (k for k in table.kinds if k.name in TEMPLATES):
            own = entity.facts.get(kind.name, ())
            spelled = {alias for value in own for alias in (value.name, *value.aliases)}
            known = kind.lexicon or tuple(Value(q.topic) for q in domain.questions())
            others = [v for v in known if v.name != entity.name and not spelled & {v.name, *v.aliases}]
            for value, expected in [(own[0], RIGHT), (chance.choice(others), WRONG)] if own else []:
                text = chance.choice(TEMPLATES[kind.name]).format(e=entity.name, v=value.name)
                (sentence,) = annotate(text, entity.name, table.name)
                if sentence.label != expected:
                    bad.append((text, sentence.label, sentence.evidence))
    assert bad == []


def test_a_users_own_table() -> None:
    planets = FactTable(
        name="planets",
        kinds=(
            Kind("moons", "number of moons", ("moon",), shape=NUMBER),
            Kind(
                "type", "type", ("type",), ("is a", "a"), (), (Value("gas giant"), Value("rocky planet")), shape=WORDS
            ),
        ),
        entities=(
            Entity("Mars", ("the Red Planet",), (), {"moons": (Value("2"),), "type": (Value("rocky planet"),)}),
            Entity("Jupiter", (), (), {"type": (Value("gas giant"),)}),
        ),
    )
    annotator = FactsAnnotator({"planets": planets})
    text = "Mars has 2 moons. The Red Planet is a gas giant. Jupiter is a gas giant. Jupiter has 3 moons."
    question = Question("q", "Mars", (), facts={"table": "planets", "entity": "Mars"})
    (annotation,) = annotator.annotate([(question, Rollout("q", 3, (), text, "stop", 0))])
    assert [s.label for s in annotation.sentences] == [RIGHT, WRONG, RIGHT, OPEN]
    assert (annotation.question_id, annotation.sample) == ("q", 3)


def test_unknown_annotator_names_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="facts"):
        build("fact")
    assert isinstance(build("facts"), FactsAnnotator)


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        (None, ': expected {"table": ..., "entity": ...} for the facts annotator, got None'),
        (
            {"table": "countries"},
            ": expected {\"table\": ..., \"entity\": ...} for the facts annotator, got {'table': 'countries'}",
        ),
        ({"table": "nowhere", "entity": "Rwanda"}, ".table: expected one of countries, elements, got 'nowhere'"),
        (
            {"table": "countries", "entity": "Malii"},
            ".entity: expected an entity of the table countries, got 'Malii'; did you mean Mali?",
        ),
    ],
)
def test_questions_without_usable_facts_are_refused(facts, message) -> None:
    question = Question("q", "t", (), facts=facts)
    answered = [(question, Rollout("q", 0, (), "Kigali.", "stop", 0))]
    for refuse in (lambda: ANNOTATOR.check(question), lambda: ANNOTATOR.annotate(answered)):
        with pytest.raises(DataError) as caught:
            refuse()
        assert str(caught.value) == f"question 'q': facts{message}"


@pytest.mark.parametrize("questions", [countries.questions, elements.questions])
def test_built_in_questions_pass_the_check(questions) -> None:
    for question in questions():
        ANNOTATOR.check(question)
