"""The annotation benchmark over a judge that needs no engine: calls are counted, ratios are of seconds, text agrees."""

from __future__ import annotations

import json
from collections.abc import Sequence

from benchmarks import annotation
from maskdpo_ray.annotation.llm.anah import AnahAnnotator
from maskdpo_ray.annotation.llm.judge import Conversation, Reply


class Scripted:
    """The benchmark's script alone; of every prompt's 10 tokens 9 were cached."""

    forgets = False
    max_model_len = None

    def __init__(self) -> None:
        self.prompt_tokens = self.cached_tokens = 0

    def start(self) -> None: ...

    def ask(self, conversations: Sequence[Conversation], max_tokens: int) -> list[Reply]:
        self.prompt_tokens += 10 * len(conversations)
        self.cached_tokens += 9 * len(conversations)
        return [Reply(annotation.ScriptedReplies._text(each), None) for each in conversations]

    def close(self) -> None: ...


def test_both_ways_are_measured_and_savings_add_up() -> None:
    annotator = AnahAnnotator(judge=f"python:{__name__}:Scripted")
    annotator.start()
    found = json.loads(json.dumps(annotation.measured(annotator, num_answers=20, num_baseline=10)))
    annotator.close()
    assert found["sentences"] == 20 * annotation.SENTENCES_PER_ANSWER
    assert 0 < found["distinct"] <= 2 * annotation.DISTINCT_SENTENCES
    saved = found["saved_by_asking_once"] + found["saved_by_early_ends"]
    assert found["calls"] + saved == found["calls_at_most"] == 3 * found["sentences"]
    assert found["cached_share"] == 0.9
    for name, seconds in found["one_at_a_time"].items():
        assert found["ratios"][name] == seconds / found["seconds"]
    shown = annotation.shown(found).splitlines()
    assert shown[0] == f"20 answers, 100 sentences, {found['distinct']} distinct"
    assert "without prefix cache" in shown[2] and "(from 10 answers): ratio " in shown[2]
    assert shown[-1] == "prefix cache: 90% of the prompt tokens"
