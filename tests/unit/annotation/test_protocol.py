"""Annotators by name, the user's own among them; what they may answer; the command that tries them."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fakes
import psutil
import pytest
from msgspec import structs

from actors.host import AnnotationActor
from maskdpo_ray import check_annotator
from maskdpo_ray.annotation.protocol import KNOWN, build, check
from maskdpo_ray.annotation.replies import refuse_annotation_faults
from maskdpo_ray.config.schema import AnnotationConfig, ClusterConfig, Config, ModelConfig
from maskdpo_ray.errors import AnnotatorError, ConfigError, DataError
from maskdpo_ray.records import LABELS, NO_FACT, UNPARSED, Annotation, Question, Rollout, Sentence

REPOSITORY = Path(__file__).resolve().parents[3]
QUESTION = Question("q", "t", ({"role": "user", "content": "?"},))
TEXT = "It is. Is it?"
ROLLOUT = Rollout("q", 2, (), TEXT, "stop", 0)
GOOD = Annotation("q", 2, (Sentence(0, 6, LABELS[0], 0.5, "because", "kind"), Sentence(7, 13, LABELS[1])))


class WholeAnswer:
    """Calls every answer one `no_fact` sentence."""

    def __init__(self, label: str = NO_FACT) -> None:
        self.label = label
        self.started = 0

    def check(self, question: Question) -> None:
        if "refused" in question.id:
            raise DataError(f"question {question.id!r}: no")

    def start(self) -> None:
        self.started += 1

    def annotate(self, items: Sequence[tuple[Question, Rollout]]) -> list[Annotation]:
        return [self.answer(rollout) for _, rollout in items]

    def answer(self, rollout: Rollout) -> Annotation:
        text = rollout.text.rstrip()
        spans = (Sentence(len(text) - len(text.lstrip()), len(text), self.label),) if text else ()
        return Annotation(rollout.question_id, rollout.sample, spans)


class Raises(WholeAnswer):
    def start(self) -> None:
        raise OSError("no\nmodel")


class Overlaps(WholeAnswer):
    def answer(self, rollout: Rollout) -> Annotation:
        whole = super().answer(rollout)
        return structs.replace(whole, sentences=whole.sentences * 2)


class Guesses(WholeAnswer):
    def answer(self, rollout: Rollout) -> Annotation:
        self.label = random.choice(LABELS)
        return super().answer(rollout)


class Locked(WholeAnswer):
    def __init__(self) -> None:
        super().__init__()
        self.cannot_travel = threading.Lock()


class Dies(WholeAnswer):
    def start(self) -> None:
        os._exit(3)


class Hangs(WholeAnswer):
    def annotate(self, items: Sequence[tuple[Question, Rollout]]) -> list[Annotation]:
        time.sleep(600)
        return []


class StaysPickled(WholeAnswer):
    def __setstate__(self, state: object) -> None:
        raise ValueError("not here")


class Refuses(WholeAnswer):
    def __init__(self, size: int) -> None:
        raise ValueError(f"size {size} is odd")


class OfTwoMinds(WholeAnswer):
    max_concurrency = "2"


class Fails(WholeAnswer):
    """Raises what no annotator should, wherever its label says."""

    def __init__(self, at: str = "", error: BaseException | None = None) -> None:
        super().__init__()
        self.at, self.error = at, error
        self.fail("__init__")

    def fail(self, at: str) -> None:
        if self.at == at and self.error is not None:
            raise self.error

    @property
    def max_concurrency(self) -> int:
        self.fail("max_concurrency")
        return 1

    def check(self, question: Question) -> None:
        self.fail("check")

    def start(self) -> None:
        self.fail("start")

    def annotate(self, items: Sequence[tuple[Question, Rollout]]) -> list[Annotation]:
        self.fail("annotate")
        return super().annotate(items)


class TakesNoQuestion(WholeAnswer):
    def check(self) -> None: ...  # type: ignore[override]


class NoAnnotator:
    def check(self, question: Question) -> None: ...


HERE = "python:test_protocol"  # the name by which other processes import this file
EXPECTED = f"annotator: expected one of {', '.join(sorted(KNOWN))}, python:package.module:Class; got "


def test_a_class_of_ones_own_with_options() -> None:
    annotator = build(f"{HERE}:WholeAnswer", {"label": "unverifiable"})
    (annotation,) = annotator.annotate([(QUESTION, ROLLOUT)])
    assert annotation == Annotation("q", 2, (Sentence(0, 13, "unverifiable"),))


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("fact", None, f"{EXPECTED}'fact'"),
        ("python:json", None, f"{EXPECTED}'python:json'"),
        ("python:a b:C", None, f"{EXPECTED}'python:a b:C'"),
        (
            "python:no.where:C",
            None,
            "annotator: can't import no.where of 'python:no.where:C': ModuleNotFoundError: No ",
        ),
        ("python:json:Nobody", None, "annotator: expected a class Nobody in json, got None"),
        ("python:json:dumps", None, "annotator: expected a class dumps in json, got <function dumps at "),
        (f"{HERE}:NoAnnotator", None, "annotator: expected a class with the methods check, start, annotate, got "),
        (f"{HERE}:WholeAnswer", {"size": 1}, "options: WholeAnswer: got an unexpected keyword argument 'size'"),
        (f"{HERE}:Refuses", None, "options: Refuses: missing a required argument: 'size'"),
        (f"{HERE}:OfTwoMinds", None, "annotator: max_concurrency: expected a whole number, 1 or more, got '2'"),
        (f"{HERE}:Locked", None, "annotator: Locked must be pickled on its way to an actor: TypeError: cannot pickle"),
        (f"{HERE}:Refuses", {"size": 3}, "options: Refuses refuses {'size': 3}: ValueError: size 3 is odd"),
    ],
)
def test_what_is_no_annotator_is_one_line(name: str, options: dict[str, Any] | None, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build(name, options)
    assert str(caught.value).startswith(f"annotation.{expected}")


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("x = (", "SyntaxError: "),
        ("import sys; sys.exit(0)", "SystemExit: 0"),
        ("raise ValueError('a\\nb')", "ValueError: a b"),
    ],
)
def test_a_module_that_breaks_when_imported(
    body: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_annotator.py").write_text(f"{body}\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError) as caught:
        build("python:broken_annotator:A")
    where = "annotation.annotator: can't import broken_annotator of 'python:broken_annotator:A'"
    assert str(caught.value).startswith(f"{where}: {expected}")


BREAKS = [(ValueError("a\nb"), "ValueError: a b"), (SystemExit(0), "SystemExit: 0")]


@pytest.mark.parametrize(("error", "expected"), BREAKS)
@pytest.mark.parametrize("at", ["__init__", "max_concurrency", "check"])
def test_what_a_class_of_ones_own_raises_is_one_line(at: str, error: BaseException, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check(build(f"{HERE}:Fails", {"at": at, "error": error}), QUESTION)
    message = str(caught.value)
    assert message.startswith("annotation.") and f": {expected} ({__file__}:" in message and "\n" not in message


@pytest.mark.parametrize("error", [KeyboardInterrupt(), DataError("no")])
def test_ctrl_c_and_errors_of_ours_pass(error: BaseException) -> None:
    with pytest.raises(type(error)) as caught:
        check(build(f"{HERE}:Fails", {"at": "check", "error": error}), QUESTION)
    assert caught.value is error


def test_a_check_that_takes_no_question() -> None:
    with pytest.raises(ConfigError, match="^annotation.annotator: TakesNoQuestion.check of question 'q': TypeError: "):
        check(build(f"{HERE}:TakesNoQuestion"), QUESTION)


def test_good_annotations_pass() -> None:
    refuse_annotation_faults([(QUESTION, ROLLOUT)], [GOOD])
    refuse_annotation_faults([], [])


def sentence(**fields: Any) -> Callable[[], list[Any]]:
    """The good annotation with its second sentence changed."""
    first, second = GOOD.sentences
    return lambda: [structs.replace(GOOD, sentences=(first, structs.replace(second, **fields)))]


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (lambda: None, ": expected a list of 1 annotations, got NoneType"),
        (lambda: [], ": expected a list of 1 annotations, got 0"),
        (lambda: [GOOD, GOOD], ": expected a list of 1 annotations, got 2"),
        (lambda: ["no_fact"], ": question 'q', answer 2: expected an Annotation, got str"),
        (lambda: [structs.replace(GOOD, sample=1)], ": expected its annotation, got that of question 'q', answer 1"),
        (lambda: [structs.replace(GOOD, sentences=((0, 6),))], "sentence 0: expected a Sentence, got tuple"),
        (sentence(end=14), "sentence 1: expected a span within 6 to 13, got 7 to 14"),
        (sentence(start=-1), "sentence 1: expected a span within 6 to 13, got -1 to 13"),
        (sentence(start=5), "sentence 1: expected a span within 6 to 13, got 5 to 13"),
        (sentence(start=13), "sentence 1: expected a span within 6 to 13, got 13 to 13"),
        (sentence(start=7.0), "sentence 1: expected a span within 6 to 13, got 7.0 to 13"),
        (sentence(start=6, end=7), "sentence 1: expected a span that holds words, got ' '"),
        (sentence(label="ok"), "sentence 1: label: expected one of no_fact, no_hallucination, "),
        (sentence(confidence=float("nan")), "sentence 1: confidence: expected 0 to 1 or None, got nan"),
        (sentence(confidence="high"), "sentence 1: confidence: expected 0 to 1 or None, got 'high'"),
        (sentence(evidence=3), "sentence 1: evidence: expected Unicode text or None, got 3"),
        (sentence(evidence="ro\ud800cky"), r"sentence 1: evidence: expected Unicode text or None, got 'ro\ud800cky'"),
        (sentence(kind="\udfff"), r"sentence 1: kind: expected Unicode text or None, got '\udfff'"),
    ],
)
def test_other_replies_are_refused_in_one_line(reply: Callable[[], Any], expected: str) -> None:
    with pytest.raises(AnnotatorError) as caught:
        refuse_annotation_faults([(QUESTION, ROLLOUT)], reply())
    assert expected in str(caught.value) and "\n" not in str(caught.value)


def test_the_actor_starts_its_annotator_once_and_checks_its_replies() -> None:
    annotator = WholeAnswer()
    actor, stored = AnnotationActor(), fakes.Held(annotator)
    assert annotator.started == 0
    assert (
        actor.annotate(stored, QUESTION, [ROLLOUT])[0].sentences[0].end == 13
    )  # restarted actors aren't asked `ready`
    assert actor.ready(stored) and annotator.started == 1
    with pytest.raises(AnnotatorError, match="expected a span within 13 to 13, got 0 to 13$"):
        AnnotationActor().annotate(fakes.Held(Overlaps()), QUESTION, [ROLLOUT])


def test_an_actor_of_several_threads_starts_its_annotator_once() -> None:
    both_want_it = threading.Barrier(2)

    class Slow(WholeAnswer):
        def start(self) -> None:
            time.sleep(0.05)
            super().start()

    annotator = Slow()
    actor = AnnotationActor()

    def label(_: int) -> list[Annotation]:
        both_want_it.wait(10)
        return actor.annotate(fakes.Held(annotator), QUESTION, [ROLLOUT])

    with ThreadPoolExecutor(2) as pool:
        assert [len(annotations) for annotations in pool.map(label, range(2))] == [1, 1]
    assert annotator.started == 1


def tried(annotator: Any, question: Question = QUESTION) -> dict[str, str]:
    """Findings of the check about an annotator: tried -> fault, `must` ones as FAILED."""
    config = Config(model=ModelConfig("m"), annotation=AnnotationConfig(max_unparsed=0.5))
    findings = check_annotator.check(annotator, [question] * 8, config)
    return {f.tried: f"{'FAILED' if f.must else 'note'}: {f.fault}" for f in findings if f.fault}


def test_the_check_finds_what_is_wrong() -> None:
    assert tried(WholeAnswer()) == {}
    (raised,) = tried(Raises()).items()
    assert raised[0] == "start()" and raised[1].startswith(f"FAILED: OSError: no model ({__file__}:")
    (overlap,) = tried(Overlaps()).items()
    assert overlap[0].endswith("spans and labels") and overlap[1].startswith("FAILED: annotator: question 'q', answer")
    (unread,) = tried(WholeAnswer(UNPARSED)).items()
    assert unread[0] == "at most 50% of the sentences unparsed"
    assert "(annotation.max_unparsed), got 72 of 72; one of them: question 'q', answer" in unread[1]
    guesses = tried(Guesses())
    assert len(guesses) == 3 and all(fault.startswith("note: ") for fault in guesses.values())
    for at, (name, count) in {"start": ("start()", 1), "annotate": ("no answers: no annotations", 2)}.items():
        ended = tried(Fails(at, SystemExit(0)))
        assert ended[name].startswith("FAILED: SystemExit: 0 (") and len(ended) == count
    refused = tried(WholeAnswer(), structs.replace(QUESTION, id="refused"))
    assert refused == {"check() takes every question": "FAILED: question 'refused': no"}


def test_the_documented_example(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.syspath_prepend(REPOSITORY)
    check_annotator.main(["--config", "docs/numbers.yaml"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 9 and all(line.startswith("      ok  ") for line in lines[1:])


def test_a_dry_run_starts_nothing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(REPOSITORY)
    options = ["--annotation.annotator", f"{HERE}:Raises", "--annotation.options", "{}", "--dry_run"]
    check_annotator.main(["--config", "docs/numbers.yaml", *options])
    tried = [line.split(maxsplit=1)[1] for line in capsys.readouterr().out.splitlines()[1:]]
    assert tried == ["check() takes every question"]


def test_a_failure_exits_with_1(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(REPOSITORY)
    options = ["--annotation.annotator", f"{HERE}:Raises", "--annotation.options", "{}"]
    with pytest.raises(SystemExit) as caught:
        check_annotator.main(["--config", "docs/numbers.yaml", *options])
    assert caught.value.code == 1
    assert f"  FAILED  start(): OSError: no model ({__file__}:" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("kind", "tried", "fault"),
    [
        ("Dies", "start()", "its process ended, with code 3"),
        ("Hangs", "no answers: no annotations", "no end within 2 s (cluster.step_timeout_s)"),
        ("StaysPickled", "it can be unpickled in another process", f"ValueError: not here ({__file__}:"),
    ],
)
def test_an_end_or_a_hang_is_a_finding(kind: str, tried: str, fault: str) -> None:
    config = Config(model=ModelConfig("m"), cluster=ClusterConfig(step_timeout_s=2, start_timeout_s=60))
    *fine, last = check_annotator.check_apart(build(f"{HERE}:{kind}"), [QUESTION], config)
    assert all(finding.fault is None for finding in fine)
    assert last.tried == tried and last.fault is not None and last.fault.startswith(fault)


def test_a_stop_leaves_no_process() -> None:
    """Ctrl-C goes to the whole group."""
    options = ["--annotation.annotator", f"{HERE}:Hangs", "--annotation.options", "{}"]
    command = [sys.executable, "-m", "maskdpo_ray.check_annotator", "--config", "docs/numbers.yaml", *options]
    environment = {**os.environ, "PYTHONPATH": ":".join(sys.path)}
    process = subprocess.Popen(
        command, cwd=REPOSITORY, env=environment, stdout=-1, stderr=-1, text=True, start_new_session=True
    )
    assert process.stdout is not None
    while "start()" not in process.stdout.readline():
        assert process.poll() is None
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (130, "stopping\n")
    end = time.monotonic() + 10  # multiprocessing's own process goes when it sees that its parent is gone
    while is_there(process.pid):
        assert time.monotonic() < end
        time.sleep(0.05)


def is_there(group: int) -> bool:
    """Whether a process group has living processes; who has ended may wait for its parent to take note of it."""
    for process in psutil.process_iter():
        with contextlib.suppress(ProcessLookupError, psutil.NoSuchProcess):
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                return True
    return False
