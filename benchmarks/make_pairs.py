#!/usr/bin/env python3
"""Real pairs for the training benchmarks: the bundled model's own answers, labelled, and paired as a run does.

PYTHONPATH=. python benchmarks/make_pairs.py

Two files of `--num_pairs` pairs in runs/bench-pairs: `quickstart.jsonl`, of the quickstart's questions with their
two-shot prompts, paired as configs/recipes/mask_dpo.yaml does, and `plain.jsonl`, of the same countries asked in one
sentence without examples, with longer answers.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path

from msgspec import structs

from benchmarks import measures
from maskdpo_ray.annotation import protocol
from maskdpo_ray.config import cli, resources
from maskdpo_ray.config.schema import Config
from maskdpo_ray.data import questions
from maskdpo_ray.models import chat, folder
from maskdpo_ray.pairing.examples import usable_pairs
from maskdpo_ray.records import Labelled, PreferencePair, Question, to_json

FOLDER = Path("runs/bench-pairs")
ANSWER_TOKENS = {"quickstart": 96, "plain": 192}


def asked_plainly(question: Question) -> Question:
    """The question about the same country without examples."""
    text = (
        f"Tell me about {question.topic}: its capital, the continent that it lies in, its official language, its "
        "currency and its neighbours. Write plain sentences, no list."
    )
    return structs.replace(question, prompt=({"role": "user", "content": text},))


def pairs(config: Config, asked: list[Question], num_pairs: int) -> Iterator[PreferencePair]:
    """The first `num_pairs` that come of the questions, in their order."""
    from actors import weights
    from maskdpo_ray.cluster import Cluster

    own = chat.of(config, folder.load(config.model).tokenizer)
    annotator = protocol.build(config.annotation.annotator, config.annotation.options)
    policy = weights.publish(config.model.model_name_or_path, 0)
    with Cluster(config) as cluster:
        groups = cluster.start_evaluation(policy, own, annotator, None)
        answered = groups.engines.stream(asked, policy, config.rollout.sampling, "train")
        found = {item.question.id: item for item in groups.annotators.stream(answered) if isinstance(item, Labelled)}
    in_order = (found[question.id] for question in asked if question.id in found)
    made = (usable_pairs(item, config, own.tokenizer)[0] for item in in_order)
    yield from islice(chain.from_iterable(made), num_pairs)


def main() -> None:
    """Command line: write both files, say what is in them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num_pairs", type=measures.count, default=64)
    parser.add_argument("--questions", type=measures.count, default=120, help="Questions to ask; some give no pair.")
    given = parser.parse_args()
    config = cli.read(Path("configs/recipes/mask_dpo.yaml"))
    resources.prefer_loopback(config.cluster)
    asked, _ = questions.split_by_topic(
        questions.load(config.data.train), config.data.num_eval_topics, config.data.split_seed
    )
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, max_new_tokens in ANSWER_TOKENS.items():
        own = asked if name == "quickstart" else [asked_plainly(question) for question in asked]
        sampled = replace(config, rollout=replace(config.rollout, max_new_tokens=max_new_tokens))
        made = list(pairs(sampled, own[: given.questions], given.num_pairs))
        if len(made) < given.num_pairs:
            raise SystemExit(f"{name}: expected {given.num_pairs} pairs, got {len(made)}; raise --questions")
        file = FOLDER / f"{name}.jsonl"
        file.write_text("".join(json.dumps(to_json(pair)) + "\n" for pair in made))
        sides = [side.rollout.token_ids for pair in made for side in (pair.chosen, pair.rejected)]
        prompt = sum(len(pair.prompt_token_ids) for pair in made) / len(made)
        answer = sum(map(len, sides)) / len(sides)
        print(f"{file}: {len(made)} pairs, prompts of {prompt:.0f} tokens, answers of {answer:.0f} (means)")


if __name__ == "__main__":
    main()
