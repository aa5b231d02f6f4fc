"""Media of a run: which samples, marks and colours, hostile text, scores, curves."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import pytest

from maskdpo_ray.config.schema import LoggerConfig
from maskdpo_ray.evaluation.metrics import evaluate
from maskdpo_ray.records import (
    LABELS,
    Annotation,
    CommittedQuestion,
    PreferencePair,
    Question,
    Rollout,
    ScoredAnswer,
    Sentence,
    encode_line,
    encode_record,
)
from maskdpo_ray.report import media
from maskdpo_ray.report.media import MARKS, of_collection, of_evaluation, of_training
from maskdpo_ray.store.trackers.media import Histogram, Html, Image, Table
from maskdpo_ray.store.tracking import Tracker

HOSTILE = "</td></table><script>x</script>&amp;\x1b[2J\u202e|"
NAMES = [f"q{number}" for number in range(20)]


def answer(name: str, sample: int, labels: tuple[str, ...], text: str = "Fact.") -> tuple[Rollout, Annotation]:
    whole = " ".join([text] * len(labels))
    at = [number * (len(text) + 1) for number in range(len(labels))]
    sentences = tuple(Sentence(start, start + len(text), label) for start, label in zip(at, labels, strict=True))
    return Rollout(name, sample, (1, 2), whole, "stop", 0), Annotation(name, sample, sentences)


def write_log(file: Path, *questions: CommittedQuestion) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"".join(map(encode_record, questions)))


def write_evaluation(
    folder: Path, version: int, labels: tuple[str, ...], names: list[str], text: str = "Fact."
) -> None:
    found = [answer(name, 0, labels, text) for name in names]
    questions = [CommittedQuestion.of(rollout.question_id, [rollout], [labelled]) for rollout, labelled in found]
    write_log(folder / f"eval_{version:03d}/heldout-questions.jsonl", *questions)
    asked = [Question(name, name, ({"role": "user", "content": "?"},)) for name in names]
    statistics = evaluate(asked, found, seed=1, bootstrap_samples=20)
    (folder / f"eval_{version:03d}/heldout.json").write_bytes(encode_line(statistics))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    write_evaluation(tmp_path, 0, ("no_hallucination", "contradictory"), NAMES)
    write_evaluation(tmp_path, 1, ("no_hallucination",) * 2, NAMES[::-1][:15])
    return tmp_path


def table(found: dict[str, media.Media], name: str) -> Table:
    shown = found[name]
    assert isinstance(shown, Table)
    return shown


def test_an_evaluation_shows_the_same_questions_before_and_after(run: Path) -> None:
    before, after = (of_evaluation(run, "heldout", version, 4) for version in (0, 1))
    shown = table(after, "media/heldout/answers_table")
    assert list(shown.columns) == ["question", "before", "before: score", "after", "after: score"]
    assert len(shown.rows) == 4
    for name, *cells in shown.rows:
        assert name in NAMES[5:]
        assert cells == ["✓ Fact. ✗ Fact.", 0.5, "✓ Fact. ✓ Fact.", 1.0]
    first = table(before, "media/heldout/answers_table")
    assert list(first.columns) == ["question", "before", "before: score"] and len(first.rows) == 4
    assert table(of_evaluation(run, "heldout", 1, 4), "media/heldout/answers_table") == shown
    wider = {row[0] for row in table(of_evaluation(run, "heldout", 1, 9), "media/heldout/answers_table").rows}
    assert {row[0] for row in shown.rows} < wider


def test_scores_and_curves_are_of_all_and_need_no_samples(run: Path) -> None:
    found = of_evaluation(run, "heldout", 1, 0)
    assert found.keys() == {"media/heldout/scores", "media/heldout/by_policy"}
    scores, curve = found.values()
    assert isinstance(scores, Histogram) and list(scores.values) == [1.0] * 15
    assert isinstance(curve, Image) and curve.png.startswith(b"\x89PNG") and "score: from 0.5 to 1" in curve.caption


def test_a_long_log_is_read_no_further_than_its_beginning(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(media, "_READ", 3)
    scores = of_evaluation(run, "heldout", 0, 8)["media/heldout/scores"]
    assert isinstance(scores, Histogram) and len(scores.values) == 3


class Cells(HTMLParser):
    """Texts of the cells of a page, and the tags that there are."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.cells: list[str] = []
        self.tags: set[str] = set()
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag == "td":
            self.cells.append("")

    def handle_data(self, data: str) -> None:
        if self.cells:
            self.cells[-1] += data


def test_a_page_shows_hostile_answers_as_text(tmp_path: Path) -> None:
    write_evaluation(tmp_path, 0, LABELS, ["q"], HOSTILE)
    page = of_evaluation(tmp_path, "heldout", 0, 4)["media/heldout/answers"]
    assert isinstance(page, Html)
    found = Cells(page.text)
    assert found.tags == set("html head meta title style body p table tr th td mark i".split())
    assert "src=" not in page.text and "http" not in page.text and "\x1b" not in page.text and "\u202e" not in page.text
    shown = HOSTILE.replace("\x1b", "\\x1b").replace("\u202e", "\\u202e")
    name, cell, *_ = found.cells
    assert name == "q" and cell.strip() == "score 0.50\n" + " ".join(f"{MARKS[label]} {shown}" for label in LABELS)


def test_every_label_has_a_colour_and_a_mark_of_its_own() -> None:
    assert MARKS.keys() == set(LABELS) and len(set(MARKS.values())) == len(LABELS)
    assert all(f".{label} {{ background: #" in media._STYLE for label in LABELS)


def test_a_collection_shows_pairs_scores_and_gaps(tmp_path: Path) -> None:
    questions = []
    for name in NAMES:
        answers = [answer(name, 0, ("no_hallucination",)), answer(name, 1, ("contradictory", "no_fact"), HOSTILE)]
        sides = [ScoredAnswer(*each, score) for each, score in zip(answers, (1.0, 0.5), strict=True)]
        pair = PreferencePair(name, f"about {name}", (1,), sides[0], sides[1], 0)
        questions.append(CommittedQuestion.of(name, *zip(*answers, strict=True), [pair]))
    write_log(tmp_path / "iter_000/questions.jsonl", *questions, CommittedQuestion("failed", error="died"))
    found = of_collection(tmp_path, 0, 3)
    shown = table(found, "media/pairs/answers_table")
    assert list(shown.columns) == ["question", "chosen", "chosen: score", "rejected", "rejected: score"]
    assert len(shown.rows) == 3
    name, *cells = shown.rows[0]
    visible = HOSTILE.replace("\x1b", "\\x1b").replace("\u202e", "\\u202e")
    assert name.startswith("about q") and cells == ["✓ Fact.", 1.0, f"✗ {visible} ○ {visible}", 0.5]
    scores, gaps = found["media/pairs/scores"], found["media/pairs/gaps"]
    assert isinstance(scores, Histogram) and sorted(scores.values) == [0.5] * 20 + [1.0] * 20
    assert isinstance(gaps, Histogram) and list(gaps.values) == [0.5] * 20
    assert of_collection(tmp_path, 0, 0).keys() == {"media/pairs/scores", "media/pairs/gaps"}


def test_a_pair_of_one_answer_and_an_iteration_without_pairs(tmp_path: Path) -> None:
    only = answer("q", 0, ("no_hallucination",))
    pair = PreferencePair("q", "t", (1,), ScoredAnswer(*only, 1.0), None, 0)
    write_log(tmp_path / "iter_000/questions.jsonl", CommittedQuestion.of("q", [only[0]], [only[1]], [pair]))
    assert table(of_collection(tmp_path, 0, 3), "media/pairs/answers_table").rows == [
        ["t (q)", "✓ Fact.", 1.0, "", None]
    ]
    write_log(tmp_path / "iter_001/questions.jsonl", CommittedQuestion("q", drops=("same_score",)))
    assert of_collection(tmp_path, 1, 3) == {}


def test_training_shows_its_curves(tmp_path: Path) -> None:
    for name in ("config.yaml", "ledger.jsonl"):
        (tmp_path / name).write_text("run: {name: r}\n" if name == "config.yaml" else "")
    with Tracker(tmp_path, LoggerConfig(), {}) as tracker:
        for step in range(3):
            tracker.log({"train/loss": 0.7 - step / 10, "train/accuracy": 0.5}, step)
    found = of_training(tmp_path)
    assert found.keys() == {"media/train/loss", "media/train/accuracy"}
    loss = found["media/train/loss"]
    assert isinstance(loss, Image) and loss.png.startswith(b"\x89PNG") and "from 0.7 to 0.5" in loss.caption
