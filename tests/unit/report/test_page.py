"""The page: what it says of a run, that hostile text stays text, and that nothing of it needs a network."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from fake_run import run
from fakes import Events, Stopped

from maskdpo_ray.errors import RunFolderError
from maskdpo_ray.records import Annotation, CommittedQuestion, Question, Rollout, Sentence, encode_record
from maskdpo_ray.report import page
from maskdpo_ray.report.passages import visible

pytestmark = pytest.mark.usefixtures("no_fsync")
HOSTILE = [
    "<script>document.title='taken'</script>",
    "<img src=x onerror=alert(1)>",
    "</div></article></main></body></html>",
    '"><svg onload=alert(1)>',
    "' onmouseover='alert(1)",
    "<style>*{display:none}</style>",
    "<!-- ",
    "--><b>",
    "&lt;script&gt;alert(1)&lt;/script&gt;",
    "&#x3c;script&#x3e;",
    "javascript:alert(1)",
    "<a href='javascript:alert(1)'>x</a>",
    "<iframe srcdoc='<script>1</script>'></iframe>",
    "{{ config }} {% raw %} ${7*7} `x`",
    "<base href='http://example.org/'><meta http-equiv=refresh content='0;url=http://example.org'>",
    "\x1b[2J\x1b]0;taken\x07\x9b31m",
    "right \u202e tfel \u2066 more \u2069 \u200f end",
    "\u0000\u0008\u2028\u2029\ufeff\ue000",
    "x" * 100_000,
    "<form action='http://example.org'><input name=a autofocus onfocus=alert(1)>",
]
OURS = set(
    "html head meta title link style body a header nav main h1 h2 h3 h4 h5 section p span dl div dt dd b ul li figure "
    "figcaption svg g path use text defs clippath rect pattern form label input select option button output article "
    "details summary code pre table thead tbody tr th td script".split()
)


class Elements(HTMLParser):
    """Elements, their attributes and the text of a page."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def text(self) -> str:
        return "".join(self.texts)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, no_fsync: None) -> Path:
    path = tmp_path_factory.mktemp("page")
    run(path)
    return path / "run"


@pytest.fixture(scope="module")
def html(folder: Path) -> str:
    return page.of_run(folder)


def write_answers(folder: Path, answers: dict[str, tuple[str, tuple[Sentence, ...]]]) -> None:
    """Make these, by their questions, the held-out answers of the policies before and after."""
    for version in (0, 2):
        lines = [
            CommittedQuestion(name, (Rollout(name, 0, (1,), text, "stop", version),), (Annotation(name, 0, sentences),))
            for name, (text, sentences) in answers.items()
        ]
        log = folder / f"eval_{version:03d}" / "heldout-questions.jsonl"
        log.write_bytes(b"".join(map(encode_record, lines)))


def test_needs_nothing_but_itself(html: str) -> None:
    found = Elements(html)
    links = [value for _, given in found.found for name, value in given.items() if name in ("src", "href", "action")]
    assert links and all(link is not None and link.startswith(("#", "data:,")) for link in links)
    assert {tag for tag, _ in found.found} <= OURS
    assert not re.search(r"https?://(?!www\.w3\.org)", html)
    assert sum(tag == "script" for tag, _ in found.found) == 1
    ids = [given["id"] for _, given in found.found if "id" in given]
    assert len(ids) == len(set(ids))


def test_says_first_whether_it_worked_and_what_to_ship(folder: Path, html: str) -> None:
    text = Elements(html).text
    main = text[text.index("Report of run") :]
    assert main.index("held-out score") < main.index("Ship policy") < main.index("Curves") < main.index("Answers, side")
    assert str(folder / "policy") in main


def test_hostile_text_stays_text(folder: Path, tmp_path: Path) -> None:
    """Twenty answers that mean harm, the same text as evidence, kind, prompt, topic and name of the question."""
    copy = copied(folder, tmp_path)
    names = {f"{text[:50]}{number}": text for number, text in enumerate(HOSTILE)}
    sentences = {text: (Sentence(0, len(text), "contradictory", evidence=text, kind=text[:70]),) for text in HOSTILE}
    write_answers(copy, {name: (text, sentences[text]) for name, text in names.items()})
    asked = [Question(name, text[:80], ({"role": "user", "content": text},)) for name, text in names.items()]
    (copy / "eval_000" / "heldout-asked.jsonl").write_bytes(b"".join(map(encode_record, asked)))
    html = page.of_run(copy)
    found = Elements(html)
    assert {tag for tag, _ in found.found} <= OURS
    assert sum(tag == "script" for tag, _ in found.found) == 1
    assert not [name for _, given in found.found for name in given if name.startswith("on")]
    assert not {*found.text} & {*"\x00\x07\x08\x1b\x9b\u202e\u2066\u2069\u200f\u2028\u2029\ufeff\ue000"}
    missing = [text for text in HOSTILE if visible(text[:4000]) not in found.text]
    assert not missing
    assert len(html.encode()) < 1_000_000


def copied(folder: Path, tmp_path: Path) -> Path:
    copy = tmp_path / "run"
    copy.mkdir()
    for file in folder.rglob("*"):
        if file.is_file() and "policy" not in file.relative_to(folder).parts:
            (copy / file.relative_to(folder)).parent.mkdir(parents=True, exist_ok=True)
            (copy / file.relative_to(folder)).write_bytes(file.read_bytes())
    return copy


@pytest.mark.parametrize("stop_at", [7, 60])
def test_run_that_is_not_finished_has_a_page(tmp_path: Path, stop_at: int) -> None:
    with pytest.raises(Stopped):
        run(tmp_path, Events(stop_at))
    assert "Provenance" in page.of_run(tmp_path / "run")


def test_stays_small_however_large_the_run(folder: Path, tmp_path: Path) -> None:
    """Answers of 4,000 characters to 600 questions, of which a part has room; the page says which part."""
    copy = copied(folder, tmp_path)
    labels = tuple(Sentence(at, at + 10, "contradictory") for at in range(0, 3900, 17))
    write_answers(copy, {f"q{number}": (f"Sentence {number}. " * 300, labels) for number in range(600)})
    html = page.of_run(copy)
    assert 1_000_000 < len(html.encode()) < page.MOST_BYTES
    shown = html.count('<article class="change"')
    assert 20 < shown < 300
    assert f"{shown:,} of" in html and "drawn by a hash of their names" in html


def test_runs_side_by_side(folder: Path, tmp_path: Path) -> None:
    second = copied(folder, tmp_path)
    for run_folder in (folder, second):
        built = page.Run(run_folder).summary
        (run_folder / "summary.json").write_text(json.dumps(built))
    config = second / "config.yaml"
    config.write_text(
        config.read_text().replace("name: run", "name: other").replace("policy: mask_dpo", "policy: vanilla")
    )
    found = Elements(page.of_runs([folder, second]))
    verdicts = [given for _, given in found.found if (given.get("class") or "").startswith("verdict ")]
    assert [given["aria-label"] for given in verdicts] == ["run", "other"]
    assert found.text.count("mask.policy") >= 2 and "vanilla" in found.text
    assert "first-iteration pairs are the same" in found.text
    changes = [given for _, given in found.found if given.get("class") == "change"]
    assert changes and {given["data-moved"] for given in changes} == {"same"}  # the same answers on both sides


def test_damaged_line_is_named(folder: Path, tmp_path: Path) -> None:
    copy = copied(folder, tmp_path)
    log = copy / "eval_000" / "heldout-questions.jsonl"
    log.write_bytes(b"{}\n" + log.read_bytes())
    with pytest.raises(RunFolderError, match=r"heldout-questions.jsonl, line 1: missing field 'question_id'"):
        page.of_run(copy)


def test_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="expected the config of a run"):
        page.of_run(tmp_path)


def test_config_that_is_not_readable_here_leaves_the_rest(folder: Path, tmp_path: Path) -> None:
    copy = copied(folder, tmp_path)
    config = copy / "config.yaml"
    config.write_text(config.read_text().replace("name: dpo", "name: python:not_here:Objective"))
    text = Elements(page.of_run(copy)).text
    assert "Iteration 1:" in text and "Provenance" in text
