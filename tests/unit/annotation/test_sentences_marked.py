"""Citations, abbreviations before numbers and brackets that do not match; texts marked by hand; linear time.

In a case, ¦ marks each boundary that is expected; the text under test is the case without it.
"""

import json
import time
from pathlib import Path

import pytest

from benchmarks import sentences as benchmark
from maskdpo_ray.annotation.sentences import split

MARKED = Path(__file__).parents[2] / "fixtures/sentences.jsonl"

CASES = [
    # Citations behind an end mark belong to the sentence before them.
    ("en", "Lima is the capital.[1, 2]¦ It has ten million people.[3-5]¦ It is old."),
    ("en", "Lima is the capital.[citation needed]¦ It is old.[a]¦ It is big."),
    ("en", "Lima is the capital.【4:0†source】¦ It is old."),
    ("zh", "利马是首都。[1,2]¦它很大。"),
    ("zh", "它很大。（王明等，2020）¦它很美。（见图3）¦它很老。（来源：新华社）¦完。"),
    ("zh", "它很大[1]。¦它很美。¹¦它很老。[注 1]¦完。【2:0†来源】¦好。"),
    ("zh", "他说：“它很大。”[1]¦他走了。"),
    ("en", "It is so. (Smith, 2020; Lee et al., 2021)¦ It is big. (see Smith, 2020, p. 45)¦ It is old. (ibid.)¦ Yes."),
    ("en", "It grew.¹,²¦ It fell.⁴⁻⁶¦ It rose.<sup>[2,3]</sup>¦ It was sold.†¦ It ended.(4,5)¦ Done."),
    ("en", "It grew.[5]:12¦ It fell.[6]: 45–46¦ It rose.  [7]  ¦It ended."),
    ("en", "It grew.[1]–[3]¦ It fell. [4]¦ It rose.[5], [6]¦ End."),
    ("en", "It grew.[[1]](https://a.b/c)¦ It fell. ([a.b](https://a.b/c?x=y))¦ It rose.[1](https://a.b)¦ End."),
    ("en", "**Lima is old.[1]**¦ It is big.¦ *It is.*[2]¦ Yes.[^3]¦ “No.”[4]¦ End."),
    ("en", "Lima is old.[1]¦It is big.[2]¦It is nice."),
    ("en", "It grew. [5]¦ Trees died. (John 3:16)¦ Five stood."),
    # Brackets that are not citations: a sentence, a list number, a heading, a remark.
    ("en", "It was sold.¦ (In 2020 it was bought again.)¦ It closed."),
    ("en", "It was sold.¦ (It reopened in 1990)"),
    ("en", "They waited.¦ (Apollo 11) landed."),
    ("en", "[1] Lima is old.¦ [2] It is big.¦ [3] It is nice."),
    ("en", "Lima is old.¦ (1) It is big.¦ (2) It is nice."),
    ("zh", "【1】北京是首都。¦【2】它很大。"),
    ("zh", "北京是首都。¦【气候】北京四季分明。"),
    ("zh", "（1）北京是首都。¦（2）它很大。"),
    ("en", "Lima is old.¦ [He] Left it."),
    # Abbreviations before a number.
    ("en", "The budget was Rs. 500 crore.¦ It grew by a fifth."),
    ("en", "See the results in fig. 3 and tab. 2.¦ Check p. 45 of the book."),
    ("en", "See para. 4 and eqn. 5 of the report.¦ It is short."),
    ("en", "It is No. 7 of Vol. 2, approx. 20 pages, of ca. 1990, for Tk. 500 or Re. 1.¦ Rs. 20 is left."),
    ("en", "See Fig. S1 and Tab. II.¦ It is in App. B and Ex. 4.2, Vol. IV, Art. 5 and Suppl. Fig. 4.¦ See it."),
    ("en", "Go to Ste. 200, Apt. 4B, Rm. 12, then Hwy. 61.¦ Nr. 5 is Bd. 3 and max. 20 m long, as ref. 3 says."),
    ("en", "He was born on 5 Jan. 1990 and left in mid-Dec. 2010.¦ It says so in Gen. 1:1 and 1 Cor. 13:4."),
    ("en", "- 2 tbsp. olive oil"),
    ("zh", "见fig. 3和tab. 2。¦价格是Rs. 500。"),
    # The same words where they end a sentence.
    ("en", "Is it right?¦ No.¦ It is not.¦ Read para. 4.¦ It is long.¦ Read Sec. 3.¦ It is short."),
    ("en", "It weighs 5 kg.¦ 3 of them weigh 15 kg.¦ It took 20 min.¦ 5 minutes were lost.¦ It is 6 ft.¦ The end."),
    ("en", "It runs at 60 km/h.¦ Cars are fast.¦ It holds 3 l.¦ Water is heavy.¦ It is 6.94 u.¦ Lithium is light."),
    ("en", "Watch the BBC.¦ 3 of its channels are free.¦ He won.¦ 1990 was a good year."),
    # Brackets that do not match: emoticons, list markers, other widths.
    ("en", "Rain fell :(¦ It was cold.¦ 1) Lima is old.¦ 2) It is big."),
    ("en", "I lost my keys :-(¦ Then I found them (in the car).¦ All is well."),
    ("en", "He won. :D¦ It was late. ;-)¦ We left. (:¦ Bye."),
    ("en", "It is Kigali (the city.¦ 1) It is hilly.¦ 2) It is big."),
    ("en", "It is Kigali (see chapter 1) and big.¦ It is hilly (see 2).¦ Yes."),
    ("en", "Options: a) Lima is old.¦ b) It is big."),
    ("en", "She said it was fine (really ;) and left.¦ He stayed (not long.¦ He slept."),
    ("en", "It has two (Lima is one. Cusco is another.) and f(x) =(a. B).¦ Yes."),
    ("zh", "首都是北京（很大). ¦它很美(真的）。¦对。"),
    ("zh", "我考砸了:(¦ 下次努力。¦真的:)"),
    ("zh", "事实：1）北京是首都。¦2）它很大（真的）。¦好。"),
    ("zh", "首都是北京（很大。¦1）它很美。¦2）它很老。"),
]


@pytest.mark.parametrize(("language", "case"), CASES)
def test_case(language: str, case: str) -> None:
    text = case.replace("¦", "")
    expected = [part.strip() for part in case.split("¦") if part.strip()]
    assert [text[start:end] for start, end in split(text, language)] == expected


def marked() -> list[dict]:
    return [json.loads(line) for line in MARKED.read_text(encoding="utf-8").splitlines()]


def test_texts_marked_by_hand() -> None:
    """Two sentences are missed, both Chinese: one ends in ……, one in ～, before more words."""
    rows = marked()
    kinds = {row["kind"] for row in rows}
    counts = {kind: sum(len(row["sentences"]) for row in rows if row["kind"] == kind) for kind in kinds}
    assert len(counts) == 5 and min(counts.values()) >= 40 and sum(counts.values()) >= 300
    least = {kind: 0.95 if kind == "chinese" else 1.0 for kind in kinds}
    found = {kind: benchmark.f1([row for row in rows if row["kind"] == kind], split) for kind in kinds}
    assert {kind: f1 for kind, f1 in found.items() if f1 < least[kind]} == {}


def test_f1_counts_exact_spans_and_joins_what_has_no_word() -> None:
    row = {"text": "A b. C d.\n---\nE f.", "language": "en", "sentences": ["A b.", "C d.\n---", "E f."]}
    assert benchmark.f1([row], lambda text, language: [(0, 4), (5, 9), (10, 13), (14, 18)]) == 1
    assert benchmark.f1([row], lambda text, language: [(0, 4), (4, 18)]) == 2 * 1 / (3 + 2)
    lines = benchmark.by_line(lambda text, language: [(0, len(text))])
    assert benchmark.f1([row], lines) == 2 * 1 / (3 + 2)


def test_benchmark_prints_a_table_and_names_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["sentences.py"])
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    benchmark.main()
    printed = capsys.readouterr()
    assert printed.err == "not installed, so not measured: pip install pysbd sentencex blingfire spacy\n"
    assert printed.out.count("| maskdpo_ray |") == 3
    assert "prose (48) | lists (51) | markdown (52) | science (44) | chinese (63)" in printed.out


@pytest.mark.parametrize(
    "piece",
    (
        ". [|a.[1] |a.[|. (|a. (Smith, |(a. 1) |1) 2) |:( |x :) |. :) |¹,|.¹,¹|:|。【1|. ([x](y), |fig. fig.5 |No. "
        '|a.|a) b) |(: |<sup>|.<sup>|(|[|「|." '
    ).split("|"),
)
def test_time_grows_with_the_length(piece: str) -> None:
    """Eight times the text takes at most 20 times as long; 64 times if it were quadratic."""

    def seconds(count: int) -> float:
        times = []
        for _ in range(3):
            start = time.process_time()
            split("a " + piece * count)
            times.append(time.process_time() - start)
        return min(times)

    assert seconds(8000) < 20 * seconds(1000) + 0.05
