"""Sentence splitting: hand-written hard cases, and properties over any text.

In a case, ¦ marks each boundary that is expected; the text under test is the case without it.
"""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskdpo_ray.annotation.sentences import split

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
    "option": "Answer: A. Paris\n¦The answer is: C. Lima lies in Peru.¦ Choice: **B. Quito**",
    "square_bracket": "[See this.]¦ It ends.¦ [See that.]¦ He saw [sic.] Lima.",
    "link_of_sentences": "[See this. And that.](http://example.com) It ends.",
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
    "superscript": "Its unit is m².¦ Its mark is a ².¦ Done.",
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
    "soft_wrap_not_over_blank_line": "The largest city of the country, Kigali, is found near\n\n¦the sea",
    "soft_wrap_not_over_hard_break": "The largest city of the country, Kigali, is found near  \n¦the sea",
    "inches": 'He is 5\'10" tall.¦ She has a 6" ruler.¦ They left.',
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
    "quotation_then_more": "“你好。”然后走了。",
    "short_quotation_then_more": "“二。”三",
    "square_bracket": "【注意。】¦结束。",
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
    "full_width_decimal": "密度为３．５克．¦它很重．",
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

# Written after the rules; of these only the circled numbers then changed them.
ENGLISH_UNSEEN = [
    "The capital of South Africa is Pretoria (administrative), Cape Town (legislative), and"
    " Bloemfontein (judicial).¦ It is located in Africa.",
    "1. **Capital**: Kigali\n¦2. **Continent**: Africa\n"
    "¦3. **Official language**: Kinyarwanda, French, English, and Swahili.",
    "Five facts about the Congo:\n¦- The capital is Kinshasa.\n¦- The D.R.C. borders Angola.",
    "The D.R. Congo is large.¦ Its neighbor is the Rep. of Congo.",
    "Tantalum has the symbol Ta and atomic number 73."
    "¦ Its atomic mass is approximately 180.95 amu.¦ It was discovered by Anders Gustaf Ekeberg in 1802.",
    "Cobalt's symbol is Co.¦ Cobalt is in period 4.¦ Its group is 9.¦ It was found by G. Brandt.",
    "The element was discovered by W. Ramsay and M. W. Travers in 1898.¦ Krypton is a gas.",
    "It was named after Mt. Everest.¦ Sir Edmund P. Hillary climbed it.",
    "St. Lucia's capital is Castries.¦ Its currency is the E.C. dollar.",
    "The official name is St. Vincent and the Grenadines.¦ St. Vincent's capital is Kingstown.",
    "Sao Tome and Principe: The capital is São Tomé.¦ Its currency is the dobra (STN).",
    "The currency is the U.S. Dollar (USD).¦ The official language is English.",
    "Ecuador uses the U.S. dollar.¦ Ecuador borders Peru.",
    "The capital is Washington, D.C.¦ The currency is the dollar.",
    "The capital is Washington, D.C.\n¦The currency is the dollar.",
    "Its area is approx. 26,338 sq. km.¦ It is landlocked.",
    "The population was 13.2 million in 2020.¦ 90% live in cities.",
    'The country is in Africa.¦ "Rwanda" means "domain".',
    'Rwanda is called "the land of a thousand hills."¦ It is landlocked.',
    "Sure!¦ Here are five facts about Rwanda:\n\n¦1. The capital is Kigali.\n\n¦2. It is in Africa.",
    "### Rwanda\n\n¦* **Capital:** Kigali\n¦* **Continent:** Africa\n\n¦Let me know if you need more!",
    "The boiling point is 5,458 °C (9,856 °F).¦ The density is 16.69 g/cm³.¦ Tantalum is rare.",
    "It melts at 3290 K.¦ Tantalum resists corrosion.",
    "The electron configuration is [Xe] 4f14 5d3 6s2.¦ It is a d-block element.",
    "It has an atomic number of 1.¦ It is the lightest element.",
    "Hydrogen is number 1.¦ Helium is number 2.¦ Lithium is number 3.",
    "Founded in 1999 by J.P. Morgan Chase & Co., it grew.¦ It was sold.",
    "He was born on Feb. 29, 2000 in St. Paul, Minn., and moved.",
    "The book (published in 1990 by O'Reilly & Assoc. Inc.) is good.¦ Buy it.",
    "Mr. and Mrs. Smith live at 5 Main St. in Boston.¦ They're old.",
    "What is the capital?¦ The capital is Kigali.",
    'Note: the answer is "No."¦ The other is "Yes."',
    "Facts: (1) the capital is Paris; (2) the currency is the euro.¦ Good.",
    "In Sept. the rains begin.¦ By Dec. it is dry.",
    "It's about 3 p.m. here.¦ It's 8 a.m. in the U.S.",
    "I like e.g. apples, i.e. fruit.¦ You?",
    "Elizabeth II. was queen.",
    "It was part of the Roman Empire until A.D. 476.¦ Then it fell.",
    "It was built in 44 B.C.¦ It was rebuilt.",
    "The Ph.D. program began.¦ Dr. No is a film.",
    "iPhone is made by Apple.¦ iOS runs on it.",
    "The pH is 7.¦ pH 7 is neutral.",
    "Visit example.com.¦ It is free.",
    "Use version 2.0.¦ Version 1.0 is old.",
    "The temperature is -5.¦ -10 is colder.",
    "Rwanda is bordered by Uganda to the north, Tanzania to the east, Burundi to the south,"
    " and\nthe Democratic Republic of the Congo to the west.¦ It is small.",
    "Capital: Kigali.¦ Continent: Africa.¦ Language: Kinyarwanda.",
    "Capital: Kigali; Continent: Africa; Currency: franc",
    "Rwanda's capital is Kigali!¦ Its currency: franc.¦ Neighbour(s): Uganda.",
    "The capital is N'Djamena.¦ The language is French.",
    "The capital is Port-au-Prince.¦ The language is Creole.",
    "The capital is Kigali [1].¦ It is in Africa [2].",
    "The capital is Kigali.¦ 1 The river is long.",
    "Hello, I'm an A.I. model.¦ I can't say.",
    "A. The capital is Paris.\n¦B. The capital is Rome.",
    "Q: What is it?\n¦A: Gold.",
    "The answer is B.¦ Rwanda is in Africa.",
    "**Rwanda**\n¦Kigali is the capital\n¦Africa",
    'He said: "It is. It was. It will be."¦ We left.',
    '"It is Kigali.¦ It lies in Africa."',
    "Actually... no.¦ It's Kigali.",
    "The 'Land of Hills.'¦ It is hilly.",
    "Vitamin B12.¦ Vitamin K.¦ Potassium.",
    "World War II.¦ Germany lost.¦ World War I. began in 1914.",
    "No. 5 is alive.¦ No.¦ It is not.",
    "U.S. President Joe Biden met U.K. Prime Minister.¦ The U.N. Security Council sat.",
    "Capt. James T. Kirk commands the U.S.S. Enterprise.¦ He is bold.",
    "The capital is Kigali.  ¦It is hilly.",
    "The capital is Kigali .¦ It is hilly .",
    "Nauru has no official capital; Yaren is the seat.¦ It is small.",
    'Its symbol is "Ta".¦ Its name comes from Tantalus.',
    "Its symbol is **W**.¦ Tungsten is hard.",
    "The symbol is `K`.¦ Potassium is soft.",
    "Iodine (I) is a halogen.¦ I like it.",
    "The symbol for iodine is I.¦ It is purple.",
    "Carbon is C.¦ It is black.",
    "The symbol for nobelium is No.¦ Nobelium is radioactive.",
    "Symbol: Al.¦ Atomic number: 13.¦ Category: metal.",
    "Atomic number: 1.¦ Hydrogen is a gas.",
    "Two isotopes exist: U-235 and U-238.¦ Uranium is dense.",
    "It was discovered in the 19th c. France led.",
    "They speak French, etc.¦ The capital is Paris.",
    "# Facts: 1. First. 2. Second.",
    "1. First.¦ 2. Second.¦ 3. Third.",
    "There are 3 facts.¦ 1. First.¦ 2. Second.",
    "Gross (GDP) is $10.5 bn.¦ Debt is €3.2 tn.",
    "He won.¦ 1990 was a good year.",
    "Open 24/7!¦ #1 choice.",
]

CHINESE_UNSEEN = [
    "卢旺达的首都是基加利，官方语言包括卢旺达语、法语和英语。¦货币为卢旺达法郎（RWF）。¦",
    "1. **首都**：基加利\n¦2. **大洲**：非洲\n¦3. **货币**：卢旺达法郎",
    "钽的原子序数是73。¦钽是一种金属。¦密度为16.65 g/cm³。",
    "“首都是哪里？”他问。",
    "他问：“首都是哪里？”¦她答：“基加利。”",
    "他认为“这是真的！”的说法不对。¦她同意。",
    "（一）首都是北京。\n¦（二）货币是人民币。",
    "①首都是北京。¦②货币是人民币。",
    "首都是北京。 ¦ 货币是人民币。",
    "该片获得2.5亿美元票房。¦导演是James Cameron。¦它很好看。",
    "什么是GDP？¦GDP是国内生产总值。",
    "首都是北京。[1]¦货币是人民币。[2]",
    "真的吗？？？¦是的！！",
    "以下是五个事实：\n\n¦一、首都是北京；\n¦二、货币是人民币。",
    "《红楼梦》是曹雪芹写的。¦《你好，李焕英！》是电影。",
    "苹果公司（Apple Inc.）很大。¦总部在美国。",
    "他出生于1990年。¦1995年搬到北京。",
    "符号是Co。¦钴是金属。",
    "首都:北京\n¦货币:人民币",
    "北京是首都, 上海是城市.¦ 它们很大.",
    "| 项目 | 内容 |\n|---|---|\n¦| 首都 | 北京。很大。 |",
]

CASES = [("en", name, case) for name, case in ENGLISH.items()]
CASES += [("zh", name, case) for name, case in CHINESE.items()]
CASES += [("en", f"unseen-{i}", case) for i, case in enumerate(ENGLISH_UNSEEN)]
CASES += [("zh", f"unseen-{i}", case) for i, case in enumerate(CHINESE_UNSEEN)]


@pytest.mark.parametrize(
    ("language", "case"), [pytest.param(language, case, id=f"{language}-{name}") for language, name, case in CASES]
)
def test_case(language: str, case: str) -> None:
    text = case.replace("¦", "")
    expected = [part.strip() for part in case.split("¦") if part.strip()]
    assert [text[start:end] for start, end in split(text, language)] == expected


def test_unknown_language_is_named() -> None:
    with pytest.raises(ValueError, match="'fr'"):
        split("Bonjour.", "fr")


def test_empty_and_blank() -> None:
    assert split("") == split(" \n\t\u00a0\u3000") == []


# Pieces that meet in odd ways, next to text of any kind but surrogates.
FRAGMENTS = st.sampled_from(
    'Dr. |U.S. |1. |73. |- |\n|\n\n|\r\n|```|`|**|# |"|“|'
    "”|(|)|（|）|「|」|。|！|；|…|...|?! |. |²|It is|北京|🎉|[1]|5| |the|"
    "\u200b|\u00a0|\u3000|\u2028|\x1f|\ufeff|"
    "[1, 2]|[a]|(Smith, 2020)|【4:0†source】|¹,²|<sup>1</sup>|:)|:(|(: |1)|b) |fig. 3|Rs. ".split("|")
    + ["| a |\n"]
)
UNICODE = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
ANY_TEXT = st.lists(FRAGMENTS | UNICODE, max_size=25).map("".join)
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
def test_a_paragraph_does_not_depend_on_the_next(text: str, language: str) -> None:
    head = "The capital is Kigali. It lies in Africa."
    spans = split(head, language)
    assert len(spans) == 2
    assert split(f"{head}\n\nAnd {text}", language)[: len(spans)] == spans


def test_number_of_many_digits() -> None:
    text = "9" * 5000 + ". Done."
    assert split(text) == [(0, 5001), (5002, 5007)]


def test_long_odd_text_takes_linear_time() -> None:
    """Quadratic (tens of seconds or more) if each mark looked through the rest of its block."""
    nested = "(" * 20000 + "a." + ")" * 20000
    for text in (". " * 30000 + "a", "symbol " + "W. " * 20000, '" ' * 30000, nested):
        start = time.process_time()
        split(text)
        assert time.process_time() - start < 10, text[:20]
