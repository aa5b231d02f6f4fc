"""Too many sentences without a readable label, or facts without a verdict, stop a run, and stop it again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import fake_run
import fakes
import pytest
import test_annotate
from fakes import Events, FakeAnnotators, FakeEvaluators
from msgspec import structs
from test_annotate import folder  # noqa: F401 (a fixture)

from maskdpo_ray.config.schema import AnnotationConfig, Config, EvalConfig, ModelConfig
from maskdpo_ray.errors import AnnotatorError, EvaluatorError, UserError
from maskdpo_ray.records import (
    NO_FACT,
    SUPPORTED,
    UNPARSED,
    Annotation,
    Answered,
    JudgedFact,
    Judgement,
    Labelled,
    Sentence,
)
from maskdpo_ray.stages.watch import FEWEST_PIECES, Watch
from maskdpo_ray.store.ledger import Count

pytestmark = pytest.mark.usefixtures("no_fsync")


def config(highest: float) -> Config:
    return Config(
        model=ModelConfig("m"),
        annotation=AnnotationConfig(max_unparsed=highest),
        eval=EvalConfig(max_unparsed=highest / 2),
    )


def answer(name: str, *labels: str) -> Annotation:
    return Annotation(
        name, 1, tuple(Sentence(i, i + 1, label, evidence="fact: 'Pardon?'") for i, label in enumerate(labels))
    )


def judged(name: str, *verdicts: str) -> Judgement:
    return Judgement(name, 1, tuple(JudgedFact("It is.", verdict, "'Pardon?'") for verdict in verdicts))


def test_the_share_is_of_all_sentences_so_far() -> None:
    watch = Watch(config(0.25), {})
    watch.check_unparsed([answer("a", *[UNPARSED] * (FEWEST_PIECES // 2 - 1))])  # too few to tell
    watch.check_unparsed(
        [answer("b", *[NO_FACT] * (3 * FEWEST_PIECES // 2)), answer("c", UNPARSED)]
    )  # a quarter: just borne
    with pytest.raises(AnnotatorError) as caught:
        watch.check_unparsed([answer("d", NO_FACT, UNPARSED)])
    assert str(caught.value) == (
        "annotator: expected at most 25% of the sentences unparsed (annotation.max_unparsed), got 26 of 102; "
        "one of them: question 'd', answer 1: fact: 'Pardon?'"
    )


@pytest.mark.parametrize("highest", [0.0, 1.0])
def test_none_and_all(highest: float) -> None:
    watch = Watch(config(highest), {})
    watch.check_unparsed([answer("a", *[NO_FACT] * FEWEST_PIECES)])
    if highest:
        watch.check_unparsed([answer("b", *[UNPARSED] * 1000)])
    else:
        with pytest.raises(AnnotatorError, match="got 1 of 51"):
            watch.check_unparsed([answer("b", UNPARSED)])


def test_an_evaluator_has_a_share_of_its_own() -> None:
    watch = Watch(config(0.2), {"annotations": Count(1000, 0), "judgements": Count(FEWEST_PIECES, 5)})
    watch.check_unparsed([answer("a", UNPARSED)], [judged("a", SUPPORTED)])
    with pytest.raises(EvaluatorError) as caught:
        watch.check_unparsed([answer("b", NO_FACT)], [judged("b", UNPARSED)])
    assert str(caught.value) == (
        "evaluator: expected at most 10% of the facts unparsed (eval.max_unparsed), got 6 of 52; "
        "one of them: question 'b', answer 1: 'Pardon?'"
    )


class Garbled(FakeAnnotators):
    """An annotator whose judge replies nonsense."""

    def stream(self, answered: Iterable[Answered]) -> Iterator[Labelled]:
        for item in super().stream(answered):
            yield replace(item, annotations=tuple(map(garbled, item.annotations)))


class GarbledEvaluators(FakeEvaluators):
    def stream(self, labelled: Iterable[Labelled]) -> Iterator[Labelled]:
        for item in super().stream(labelled):
            yield replace(item, judgements=tuple(judged_so(each) for each in item.judgements))


def garbled(annotation: Annotation) -> Annotation:
    return structs.replace(
        annotation, sentences=tuple(structs.replace(each, label=UNPARSED) for each in annotation.sentences)
    )


def judged_so(judgement: Judgement) -> Judgement:
    return structs.replace(judgement, facts=tuple(structs.replace(fact, verdict=UNPARSED) for fact in judgement.facts))


@pytest.mark.parametrize(
    ("kind", "fake", "message"),
    [("FakeAnnotators", Garbled, "of the sentences"), ("FakeEvaluators", GarbledEvaluators, "of the facts")],
)
def test_a_run_that_is_started_again_stops_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, fake: type, message: str
) -> None:
    """Each attempt commits at most what stays below `FEWEST` in the whole folder, however often it is made."""
    monkeypatch.setattr(fakes, kind, fake)
    plain = fake_run.config_for(tmp_path)
    wanted = replace(plain, eval=replace(plain.eval, evaluator="factscore"))
    monkeypatch.setattr(fake_run, "config_for", lambda *_: wanted)
    monkeypatch.setattr(fake_run, "HELDOUT", tuple(f"h{i}" for i in range(FEWEST_PIECES)))
    committed = []
    for _ in range(4):
        with pytest.raises(UserError, match=message):
            fake_run.run(tmp_path)
        committed.append(len(fake_run.committed(tmp_path)))
    assert committed == committed[:1] * 4 and committed[0] < FEWEST_PIECES


def test_annotate_counts_what_its_file_holds(folder: Path) -> None:  # noqa: F811
    sentences: Sequence[Sentence] = answer("q0", *[UNPARSED] * (FEWEST_PIECES // 2 - 1)).sentences
    job = test_annotate.prepare(folder)
    with job.labels as labels:
        (item, *_) = FakeAnnotators(Events()).stream(job.todo())
        labels.append(
            replace(item, annotations=tuple(structs.replace(each, sentences=sentences) for each in item.annotations))
        )
    again = test_annotate.prepare(folder)
    assert again.labels.counts == {"annotations": Count(2 * len(sentences), 2 * len(sentences))}
    with again.labels, pytest.raises(AnnotatorError, match="got 51 of 51"):
        again.run(Garbled(Events()))
