"""The built-in tables and their questions."""

from __future__ import annotations

import pytest

from maskdpo_ray.annotators.facts import FactsAnnotator
from maskdpo_ray.domains import countries, elements
from maskdpo_ray.records import NO_HALLUCINATION, Rollout


@pytest.mark.parametrize("domain", [countries, elements])
def test_shots_are_true_sentences_and_never_asked(domain) -> None:
    questions = domain.questions()
    assert not {q.topic for q in questions} & set(domain.SHOTS)
    assert len({q.id for q in questions}) == len({q.topic for q in questions}) == len(questions)
    by_name = {entity.name for entity in domain.table().entities}
    assert set(domain.SHOTS) <= by_name
    prompt = questions[0].prompt
    for name, shot in zip(domain.SHOTS, (prompt[1], prompt[3])):
        question = questions[0].__class__("shot", name, (), facts={"table": domain.table().name, "entity": name})
        (annotation,) = FactsAnnotator().annotate([(question, Rollout("shot", 0, (), shot["content"], "stop", 0))])
        assert [s.label for s in annotation.sentences] == [NO_HALLUCINATION] * 5
