"""Sentence splitting: hand-written hard cases, and properties over any text.

In a case, ¦ marks each boundary that is expected; the text under test is the case without it.
"""

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskdpo_ray.sentences import split

ENGLISH = {
    # What a model's answer looks like.
    "plain": "The capital is Kigali.¦ It lies in Africa.¦ It borders Uganda.",
    "bracket_before_stop": "The official language is Kinyarwanda, French, English and Swahili."
    "¦ Its currency is the Rwandan franc (RWF).",
    "numbered_list": "1. Capital: Kigali\n¦2. Continent: Africa\n¦3. Currency: Rwandan franc",
    "numbered_list_stops": "1. The capital is Kigali.\n¦2. The continent is Africa.\n¦",
    "numbered_list_parenthesis": "1) Kigali is the capital.¦ It is hilly.\n¦2) Africa",
    "numbered_item_two_sentences": "1. Paris is the capital.¦ It lies on the Seine.\n¦2. The euro is used.",
    "marker_alone_on_line": "1.\nParis is the capital.\n¦2.\nThe euro is used.",
    "lettered_list": "a. Paris is the capital.\n¦b. The euro is used.",
    "roman_list": "ii. Paris is the capital.\n¦iii. The euro is used.",
    "lead_in": "Here are five facts:\n\n¦1. Capital: Kigali\n¦2. Continent: Africa",
    "bullets": "- The capital of Rwanda is Kigali.\n¦- It lies in Africa.\n¦* Its currency is the franc",
    "bullets_unicode": "• Capital: Kigali\n¦• Continent: Africa\n¦– Currency: franc",
    "nested_bullets": "- Geography\n¦  - Capital: Kigali\n¦  - Continent: Africa",
    "key_value_lines": "capital: Kigali\n¦continent: Africa\n¦currency: Rwandan franc",
    "inline_numbered": "Facts: 1. The capital is Paris.¦ 2. The currency is the euro.",
    "cut_off": "The capital is Kigali.¦ Its currency is the Rwan",
    "heading": "## Rwanda\n¦Kigali is the capital.\n\n¦### Currency\n¦The franc is used.",
    "heading_numbered": "## 1. Overview\n¦Kigali is the capital.",
    "bold_label": "**Capital:** Kigali.\n¦**Continent:** Africa.",
    "bold_sentence": "**Kigali is the capital.**¦ It lies in **Africa**.¦ *It is hilly.*¦ Yes.",
    "code_span": "Use `a.b. C` to call it.¦ Then run `x = 1. Y`.¦ Done.",
    "code_fence": "Run this:\n¦```python\nx = 1. Y\n```\n¦It prints 1.",
    "table": "| Fact | Value |\n|---|---|\n¦| Capital | Washington, D.C. |\n¦| Area | 3.5 million. Big. |",
    "link": "See [the site](https://example.com/a.b?c=d).¦ It lists St. Louis.",
    "quote_block": "> Kigali is the capital.\n¦> It lies in Africa.",
    "rule_line": "Kigali is the capital.\n---\n¦It lies in Africa.",
    # Full stops that end nothing.
    "title": "Dr. Smith met Mrs. Jones and Prof. Lee.¦ They spoke with Gen. Grant.",
    "us_inside": "The U.S. dollar is used.¦ The U.S. Congress sits in Washington, D.C.¦ It has two chambers.",
    "us_adjective": "It borders the U.S. Virgin Islands and the U.K. overseas territories.",
    "us_end": "He moved to the U.S.¦ He then bought a house.¦ It is bigger than the U.K.¦ The sea is near.",
    "eg_ie": "Some metals, e.g. Iron and zinc, rust.¦ Others, i.e. Gold, do not, etc.¦ That is all.",
    "etc_inside": "Iron, zinc, etc. are metals.",
    "saint": "Basseterre is the capital of St. Kitts and Nevis.¦ St. George's is Grenada's.",
    "number_abbreviation": "It is No. 1 in Africa, vol. 2, p. 15, Fig. 3.¦ See it.",
    "answer_no": "Is it a metal?¦ No.¦ Helium is a noble gas.",
    "month": "It was founded on Jan. 5, 1962, and on Dec. 1 it joined.",
    "versus": "In Marbury vs. Madison and Brown v. Board of Education it ruled.",
    "time": "It opens at 9 a.m. Monday and shuts at 5 p.m.¦ The bank is shut.",
    "time_inside": "It opens at 9 a.m. and shuts at 5 p.m. daily.",
    "company": "Apple Inc. is large.¦ He left Apple Inc.¦ It was late.",
    "company_name_inside": "Samsung Electronics Co. Ltd. was founded there.",
    "initials": "J. R. R. Tolkien met J.K. Rowling and George W. Bush.¦ They ate.",
    "franklin": "Franklin D. Roosevelt led the U.S. Army.¦ He died in 1945.",
    "and_junior": "Martin Luther King Jr. Day is in January.¦ He was Martin Luther King Jr.¦ He spoke.",
    "citation": "Smith et al. Reported it.¦ Jones et al. (2021) agree.",
    "circa": "It dates from c. 1200 and ca. 300 B.C. Greek settlers came.",
    "degree": "She has a Ph.D. in physics.¦ He has a Ph.D.¦ They met there.",
    "mount": "Mt. Kilimanjaro and Ft. Worth are far apart.",
    "approximately": "It has approx. 12 million people.¦ That is est. 2020.",
    # Numbers.
    "atomic_number": "The atomic number is 73.¦ Tantalum is a metal.",
    "atomic_number_list": "Its symbol is Ta.¦ Its number is 73.¦ 74 is tungsten.",
    "decimal": "It has 3.5 million people.¦ Pi is 3.14159.¦ It grew by .5 percent.",
    "version": "Python 3.11.7 and v1.2 are out.¦ Use 3.12.",
    "year": "It became free in 1962.¦ Rwanda joined the UN.",
    "number_starts": "It has 12 provinces.¦ 5 of them are large.",
    "thousands": "Its area is 26,338 km².¦ It has 1.000.000 people.",
    "percent_and_money": "It costs $3.50.¦ It fell 5%.¦ All paid.",
    "units": "It weighs 180.95 u.¦ Its density is 16.65 g/cm3.¦ It melts at 3,017 °C.¦ It is grey.",
    "letter_end": "The symbol is W.¦ It is a metal.",
    "letter_end_vitamin": "It holds vitamin C.¦ The fruit is sour.",
    "symbol_end": "Its symbol is K.¦ Potassium is soft.",
    # Other ends.
    "question_exclamation": "Really?!¦ Yes!!!¦ What is it?¦ Gold.",
    "exclaimed_name": "Yahoo! is a company.",
    "ellipsis": "Well... it is Kigali.¦ Hmm...¦ Let me think…¦ It is Kigali.",
    "quote_after_stop": 'He said, "It is Kigali."¦ Then he left.',
    "quote_inside": '"Is it Kigali?" he asked.¦ "Yes." she said.',
    "quote_curly": "She said, “It is Kigali.”¦ He agreed.",
    "bracket_after_stop": "It is Kigali.¦ (See the map.)¦ It is hilly.",
    "bracket_inside": "It has three capitals (Pretoria is one. Cape Town is another.) and one flag.",
    "footnote": "It is Kigali.[1]¦ It is hilly.[2][3]¦ Yes.",
    "semicolon": "Pretoria (administrative); Cape Town (legislative); Bloemfontein (judicial).",
    "open_bracket_never_closed": "It is Kigali (the city.¦ It is hilly.",
    "no_space": "It is Kigali.It lies in Africa.",
    "lower_case_start": "it is kigali.¦ it lies in africa.",
    "url": "See https://en.wikipedia.org/wiki/St._Louis. for more.¦ Or www.a.com/b?c=1.¦ Done.",
    "email": "Write to j.doe@example.com.¦ We reply.",
    "file": "Open README.md and a.out.¦ They are here.",
    "emoji": "It is Kigali. 🎉¦ It is hilly 😀\n¦Bye",
    "no_punctuation": "the capital is kigali and it lies in africa",
    "only_marks": "...",
    "one_character": "a",
    # Newlines.
    "soft_wrap": "The capital and largest city of the country is Kigali, which lies near the\n"
    "centre of the country and has been its capital since it became free in 1962.¦ It is hilly.",
    "soft_wrap_capital": "The last emperor to rule there before the war was defeated by the army of the\n"
    "United States.¦ He fled.",
    "soft_wrap_item": "- The capital and largest city of the country is Kigali, which lies near the\n"
    "  centre of the country.\n¦- It is hilly.",
    "wrap_short": "Kigali\n¦the capital",
    "blank_line": "The capital is Kigali\n\n¦and it is hilly\n \n¦Yes",
    "carriage_return": "Kigali.\r\n¦Africa\r\n\r\n¦Yes",
    "line_separator": "Kigali\u2028¦Africa\u2029¦Yes",
    "no_break_space": "It is Kigali.\u00a0¦It is hilly.\u00a0\n",
    "outer_space": "  \n\tIt is Kigali.  \n",
    "latin_accents": "É a capital.¦ Ça va.¦ Ñandú runs.",
    "mixed": "China is 中国。¦Its capital is Beijing (北京).¦ 它很大。¦Yes.",
}

CHINESE = {
    "plain": "首都是基加利。¦它位于非洲。¦货币是卢旺达法郎。",
    "question_exclamation": "首都是哪里？¦是基加利！¦真的吗？！¦对。",
    "semicolon": "首都是北京；¦货币是人民币；¦语言是汉语。",
    "semicolon_in_brackets": "南非有三个首都（行政首都：比勒陀利亚；立法首都：开普敦）。¦它位于非洲。",
    "quote_after_stop": "他说：“首都是北京。”¦然后他走了。",
    "corner_quote_after_stop": "他說：「首都是北京。」¦然後他走了。",
    "corner_quote_inside": "他說「首都在哪？是北京。」並離開了。",
    "quote_inside": "《你好！中国。》是一本书。¦他读过。",
    "bracket_after_stop": "首都是北京。¦（见地图。）¦它很大。",
    "list": "1. 首都：北京\n¦2. 货币：人民币\n¦3、语言：汉语",
    "list_stops": "1. 首都是北京。\n¦2. 货币是人民币。",
    "list_full_width": "（1）首都是北京。\n¦（2）货币是人民币。",
    "list_han": "一、首都是北京。\n¦二、货币是人民币。",
    "bullets": "- 首都：北京。\n¦- **货币**：人民币。",
    "decimal": "人口为3.5亿。¦面积是960.5万平方公里。",
    "ellipsis": "嗯……我想想……\n¦是北京。",
    "ellipsis_stop": "有北京、上海等……。¦它很大。",
    "mixed": "首都是Beijing.¦ It is big.¦ 它很大。",
    "english_inside": "作者是J. K. Rowling。¦公司是Apple Inc. 和IBM。",
    "english_stop": "首都是北京.¦ 货币是人民币.",
    "ascii_marks": "首都是哪里?¦是北京!¦对.",
    "ideographic_space": "首都是北京。\u3000¦货币是人民币。\u3000",
    "half_width_stop": "首都是北京｡¦货币是人民币．",
    "full_width_stop": "首都是北京．¦货币是人民币．",
    "newline": "首都是北京\n¦货币是人民币",
    "heading": "## 首都\n¦北京。",
    "url": "请看https://zh.wikipedia.org/wiki/北京。¦谢谢。",
    "no_punctuation": "首都是北京货币是人民币",
    "emoji": "首都是北京。😀¦货币是人民币。",
    "bold": "**首都是北京。**¦货币是人民币。",
    "date": "卢旺达于1962年7月1日独立。¦首都是基加利。",
    "open_bracket_never_closed": "首都是北京（很大。¦它很美。",
    "wave": "你好~",
}

CASES = [("en", name, case) for name, case in ENGLISH.items()] + [("zh", name, case) for name, case in CHINESE.items()]


@pytest.mark.parametrize(("language", "case"), [pytest.param(lang, case, id=f"{lang}-{name}") for lang, name, case in CASES])
def test_case(language: str, case: str) -> None:
    text = case.replace("¦", "")
    expected = [part.strip() for part in case.split("¦") if part.strip()]
    assert [text[start:end] for start, end in split(text, language)] == expected


def test_enough_cases() -> None:
    assert len(CASES) >= 60


def test_unknown_language_is_named() -> None:
    with pytest.raises(ValueError, match="'fr'"):
        split("Bonjour.", "fr")


def test_empty_and_blank() -> None:
    assert split("") == split(" \n\t\u00a0\u3000") == []


# Pieces that meet in odd ways, next to text of any kind but surrogates.
FRAGMENTS = st.sampled_from(
    ["Dr. ", "U.S. ", "1. ", "73. ", "- ", "\n", "\n\n", "\r\n", "| a |\n", "```", "`", "**", "# ", '"', "“", "”", "(", ")",
     "（", "）", "「", "」", "。", "！", "；", "…", "...", "?! ", ". ", "It is", "北京", "🎉", "\u200b", "\u00a0", "\u3000", "\u2028",
     "\x1f", "\ufeff", "[1]", "5", " ", "the"]
)
ANY_TEXT = st.lists(
    FRAGMENTS | st.text(st.characters(exclude_categories=["Cs"]), max_size=8), max_size=25
).map("".join)
LANGUAGES = st.sampled_from(["en", "zh"])


@settings(max_examples=400, deadline=None, derandomize=True)
@given(ANY_TEXT, LANGUAGES)
def test_spans_partition_the_text(text: str, language: str) -> None:
    spans = split(text, language)
    assert spans == split(text, language)
    position = 0
    for start, end in spans:
        assert position <= start < end <= len(text)
        assert text[position:start].strip() == "", "a character outside every span"
        assert text[start:end] == text[start:end].strip(), "outer white space"
        position = end
    assert text[position:].strip() == ""
    if any(c.isalnum() for c in text):
        assert all(any(c.isalnum() for c in text[start:end]) for start, end in spans), "a span without a word"
    else:
        assert len(spans) == bool(text.strip())


@settings(max_examples=200, deadline=None, derandomize=True)
@given(ANY_TEXT, LANGUAGES)
def test_a_prefix_line_does_not_depend_on_what_follows(text: str, language: str) -> None:
    """A first paragraph is cut in the same way whatever comes after it."""
    head = "The capital is Kigali. It lies in Africa."
    assert split(f"{head}\n\nAnd {text}", language)[0] == split(head, language)[0]
