#!/usr/bin/env python3
"""How much faster `anah` labels answers in waves than one question at a time, on one engine and model.

PYTHONPATH=. python benchmarks/annotation.py --model models/smollm2-135m-instruct --device cpu

The engine does the work of every reply; what it says is then replaced by a script, so that any model will do. One at
a time is the same conversations, ended early too, sentence after sentence, measured on a part of the answers, about
other questions, and scaled up: without the engine's prefix cache, as the published script of ANAH-v2 turns none on
(github.com/open-compass/ANAH, eval/anah_v2/eval.py), and with it.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from actors.vllm_judge import VllmJudge
from benchmarks import measures
from maskdpo_ray.annotation.llm import turns
from maskdpo_ray.annotation.llm.anah import AnahAnnotator
from maskdpo_ray.annotation.llm.interviews import Claim, Interviews, Limits
from maskdpo_ray.annotation.llm.judge import Conversation, Reply
from maskdpo_ray.records import Question, Rollout

ANSWERS_PER_QUESTION, SENTENCES_PER_ANSWER = 10, 5
DISTINCT_SENTENCES = 20
"""Among the 50 of a question: answers that one policy samples share sentences."""
DOCUMENT_WORDS = 250
REPLY_TOKENS, REFERENCE_TOKENS = 4, 40

Item = tuple[Question, list[Rollout]]


class ScriptedReplies(VllmJudge):
    """By the sentence: one in five claims nothing, one in five has no passage."""

    forgets = False
    """Whether the prefix cache is emptied before each call."""

    def ask(self, conversations: Sequence[Conversation], max_tokens: int) -> list[Reply]:
        if self.forgets:
            self._run(self._engine.reset_prefix_cache())
        replies = super().ask(conversations, max_tokens)
        return [Reply(self._text(each), reply.logprob) for each, reply in zip(conversations, replies, strict=True)]

    @staticmethod
    def _text(conversation: Conversation) -> str:
        number = int(conversation[0]["content"].rpartition("Claim ")[2].split()[0])
        texts = ["No claim" if number % 5 == 0 else "Has a claim", "One passage, two passages", "Consistent"]
        if number % 5 == 1:
            texts[1] = "No passage"
        return texts[len(conversation) // 2]


def workload(num_answers: int, seed: int) -> list[Item]:
    """Questions with documents of their own, and all answers to each."""
    generator = random.Random(seed)
    items = []
    for number in range(num_answers // ANSWERS_PER_QUESTION):
        words = " ".join(
            f"{generator.choice(('river', 'town', 'king', 'year'))} {generator.randrange(999)}"
            for _ in range(DOCUMENT_WORDS // 2)
        )
        question = Question(f"{seed}/{number}", "t", ({"role": "user", "content": f"What of {seed}/{number}?"},), words)
        rollouts = []
        for sample in range(ANSWERS_PER_QUESTION):
            claims = generator.sample(range(DISTINCT_SENTENCES), SENTENCES_PER_ANSWER)
            text = " ".join(f"Claim {claim} is about the town." for claim in claims)
            rollouts.append(Rollout(question.id, sample, (), text, "stop", 0))
        items.append((question, rollouts))
    return items


def in_waves(annotator: AnahAnnotator, items: Sequence[Item]) -> float:
    """Seconds that it takes, the annotator's number of questions at once."""
    begin = time.perf_counter()
    with ThreadPoolExecutor(annotator.max_concurrency) as pool:
        list(pool.map(lambda item: annotator.annotate([(item[0], rollout) for rollout in item[1]]), items))
    return time.perf_counter() - begin


def one_at_a_time(judge: ScriptedReplies, items: Sequence[Item], forgets: bool) -> float:
    """Seconds that it takes, every sentence on its own."""
    judge.forgets = forgets
    templates = turns.read(turns.TEMPLATES / "anah.yaml", turns.ANAH)
    limits = Limits(REPLY_TOKENS, REFERENCE_TOKENS)
    begin = time.perf_counter()
    for question, rollouts in items:
        for rollout in rollouts:
            for sentence in rollout.text.split(". "):
                Interviews(judge, templates, limits).verdicts([Claim.of(question, sentence)])
    seconds = time.perf_counter() - begin
    judge.forgets = False
    return seconds


def measured(annotator: AnahAnnotator, num_answers: int, num_baseline: int) -> dict[str, Any]:
    """Both ways on a started annotator: seconds, of the baselines scaled up to `num_answers`, and what was saved."""
    judge: Any = annotator.judge
    in_waves(annotator, workload(ANSWERS_PER_QUESTION, seed=0))  # the engine's first batch is slow
    scale = num_answers / num_baseline
    plain = scale * one_at_a_time(judge, workload(num_baseline, seed=1), forgets=True)
    cached_too = scale * one_at_a_time(judge, workload(num_baseline, seed=2), forgets=False)
    before, prompt, cached = annotator.counts.copy(), judge.prompt_tokens, judge.cached_tokens
    seconds = in_waves(annotator, workload(num_answers, seed=3))
    counts = annotator.counts - before
    calls = 3 * counts["sentences"]
    return {
        "answers": num_answers,
        "sentences": counts["sentences"],
        "distinct": counts["judged"],
        "seconds": seconds,
        "baseline_answers": num_baseline,
        "one_at_a_time": {"without": plain, "with": cached_too},
        "ratios": {"without": plain / seconds, "with": cached_too / seconds},
        "calls": counts["calls"],
        "calls_at_most": calls,
        "saved_by_asking_once": calls - 3 * counts["judged"],
        "saved_by_early_ends": 3 * counts["judged"] - counts["calls"],
        "cached_share": (judge.cached_tokens - cached) / (judge.prompt_tokens - prompt),
    }


def shown(found: dict[str, Any]) -> str:
    """Text of the figures; seconds with and without prefix cache, and how many times as long as in waves that is."""
    lines = [
        f"{found['answers']} answers, {found['sentences']} sentences, {found['distinct']} distinct",
        f"in waves {found['seconds']:.1f} s",
    ]
    for name, seconds in found["one_at_a_time"].items():
        taken = f"{seconds:.1f} s (from {found['baseline_answers']} answers)"
        lines.append(f"one question at a time, {name} prefix cache {taken}: ratio {found['ratios'][name]:.1f}")
    once, early = found["saved_by_asking_once"], found["saved_by_early_ends"]
    lines.append(
        f"calls {found['calls']} of {found['calls_at_most']}: {once} saved by asking once, {early} by early ends"
    )
    lines.append(f"prefix cache: {found['cached_share']:.0%} of the prompt tokens")
    return "\n".join(lines)


def main() -> None:
    """Command line: start an engine, measure both ways, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--answers", type=measures.count, default=200)
    parser.add_argument("--baseline_answers", type=int, default=10, help="A multiple of 10.")
    measures.json_option(parser)
    given = parser.parse_args()
    options: dict[str, Any] = {"model": given.model, "device": given.device, "max_model_len": 2048}
    annotator = AnahAnnotator(
        judge="python:benchmarks.annotation:ScriptedReplies",
        judge_options={**options, "enforce_eager": given.device == "cpu"},
        max_reply_tokens=REPLY_TOKENS,
        max_reference_tokens=REFERENCE_TOKENS,
    )
    annotator.start()
    found = measured(annotator, given.answers, given.baseline_answers)
    annotator.close()
    print(shown(found))
    measures.keep({"machine": measures.machine(), **found}, given.json)


if __name__ == "__main__":
    main()
