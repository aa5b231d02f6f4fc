"""The loop with the `anah` annotator: engines answer, another real engine in the annotation actor judges."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import scripted_model
from driver import Driver
from finished_run import Run, arguments, finish

from maskdpo_ray.annotation.llm import turns
from maskdpo_ray.data import questions
from maskdpo_ray.records import CONTRADICTORY, NO_HALLUCINATION

pytestmark = pytest.mark.timeout(1800)
CONTEXT = 4096


@pytest.fixture(scope="module")
def anah_run(runs_dir: Path, smallest: Path, bundled_model: Path) -> Run:
    """One iteration; two evaluations with the second evaluator, rules, and the perplexity under the first policy."""
    judge = scripted_model.write(runs_dir / "judge", CONTEXT)
    small = {"device": "cpu", "dtype": "float32", "enforce_eager": True, "cpu_kv_cache_gib": 1}
    folder = runs_dir / "anah"
    options = arguments(
        folder,
        smallest,
        annotation__annotator="anah",
        annotation__options=json.dumps({"judge_options": {"model": str(judge), "max_model_len": CONTEXT, **small}}),
        eval__perplexity_model=str(bundled_model),
        run__iterations=1,
        data__max_questions=4,
        data__num_eval_topics=1,
        data__num_transfer_topics=1,
    )
    with Driver(options, runs_dir / "anah.log") as driver:
        run = finish(driver, folder)
    assert run.code == 0, run.output
    return run


def test_labels_are_the_judges(anah_run: Run) -> None:
    by_id = {question.id: question for question in questions.load("builtin:countries")}
    fact = turns.read(turns.TEMPLATES / "anah.yaml", turns.ANAH)["en"][turns.FACT]
    labels = {"Consistent": NO_HALLUCINATION, "Contradictory": CONTRADICTORY}
    seen = set()
    rollouts, annotations = (anah_run.parts("iter_000/", part) for part in ("rollouts", "annotations"))
    for rollout, annotation in zip(rollouts, annotations, strict=True):
        question = by_id[rollout["question_id"]]
        for sentence in annotation["sentences"]:
            text = rollout["text"][sentence["start"] : sentence["end"]]
            fields = {"document": question.document or "", "question": question.prompt[-1]["content"]}
            asked = fact.prompt({**fields, "sentence": text, "context": text})
            assert sentence["label"] == labels[scripted_model.verdict(asked)], text
            assert sentence["evidence"] == scripted_model.PASSAGE
            assert sentence["confidence"] == pytest.approx(scripted_model.PROBABILITY**2, rel=1e-3)  # word and end
            seen.add(sentence["label"])
    assert seen == set(labels.values())


def test_it_is_a_whole_run(anah_run: Run) -> None:
    assert anah_run.left == []
    assert (anah_run.folder / "iter_000" / "policy" / "config.json").exists()
    last = anah_run.read("summary.json")["evaluations"]["heldout"][-1]
    assert last["version"] == 1 and last["unparsed_example"] is None
    assert last["judged"]["evaluator"] == "factscore"
    assert last["judged"]["perplexity_model"]
    nats = last["judged"]["metrics"]["nats_per_token"]["mean"]
    assert 0 < nats < 5  # of 10.8, were all tokens alike
