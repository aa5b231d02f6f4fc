#!/usr/bin/env python3
"""How many bytes cross the network for an answer and for a pair, by length: what Ray pickles of calls and replies.

PYTHONPATH=. python benchmarks/messages.py --tokens 64 512 2048 --json messages.json

Calls and replies are the real ones, of simulated answers (`simulated.py`). Not counted: what Ray
adds to a call (ids, owner, headers), and weights, which are handed on once an iteration.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import ray.cloudpickle
from msgspec import structs

from actors.host import Stored
from actors.rollout import Request, Sampled, Sampling
from benchmarks import measures, simulated
from maskdpo_ray.config.schema import Config, ModelConfig
from maskdpo_ray.models import folder
from maskdpo_ray.records import Policy, Question, Rollout

PROTOCOL = 5  # as Ray


def pickled(value: Any) -> int:
    """Bytes, those of arrays included, which Ray sends beside the pickle."""
    buffers: list[Any] = []
    written = ray.cloudpickle.dumps(value, protocol=PROTOCOL, buffer_callback=buffers.append)
    return len(written) + sum(buffer.raw().nbytes for buffer in buffers)


def answer(phrases: simulated.Phrases, question: Question, sample: int, tokens: int) -> Rollout:
    """One of about `tokens` tokens."""
    one = phrases.answers(question.id, sample, version=0, count=1)[0]
    longer = replace(phrases, rounds=max(1, round(tokens / len(one.token_ids))))
    return structs.replace(longer.answers(question.id, sample, version=0, count=1)[0], sample=sample)


def sizes(phrases: simulated.Phrases, prompt: list[int], answers: int, tokens: int) -> dict[str, float]:
    """Bytes by message: those of rollout and annotation for an answer, those of training for a pair."""
    question = simulated.questions(1, "train")[0]
    rollouts = [answer(phrases, question, sample, tokens) for sample in range(answers)]
    policy = Policy(0, "/shared/runs/quickstart/iter_000/policy", "0" * 64)
    sampling = Sampling(answers, 0.8, 40, 1.0, tokens)
    hosted: Stored[Any] = Stored(None)
    labels = simulated.SimulatedAnnotator(phrases).annotate([(question, rollout) for rollout in rollouts])
    logps = {0: tuple(np.zeros(len(rollout.token_ids), np.float32) for rollout in rollouts[:2])}
    request = Request(question.id, tuple(prompt), sampling, 1, policy)
    of_question = {
        "to an engine: prompt": (request,),
        "from it: answers": Sampled((0, policy.checksum), tuple(rollouts)),
        "to an annotator: question, answers": (hosted, question, rollouts),
        "from it: labels": labels,
    }
    of_pair = {
        "to a rank, for the reference: file, index": (f"{policy.path}/../examples.bin", [100_000], policy.path),
        "from it: log-probs": logps,
        "to a rank, each epoch: index": ([100_000],),
    }
    length = sum(len(rollout.token_ids) for rollout in rollouts) / answers
    return {
        "tokens of an answer": length,
        **{name: pickled(message) / answers for name, message in of_question.items()},
        **{name: float(pickled(message)) for name, message in of_pair.items()},
    }


def show(found: list[dict[str, float]], answers: int) -> None:
    """Print a Markdown table: a column for each length."""
    heads = [f"{row['tokens of an answer']:.0f} tokens" for row in found]
    print(f"| bytes, {answers} answers to a question | {' | '.join(heads)} |\n|---|{'---:|' * len(heads)}")
    for name in list(found[0])[1:]:
        of = "a pair" if "rank" in name or "log-probs" in name else "an answer"
        print(f"| {name}; {of} | {' | '.join(f'{row[name]:,.0f}' for row in found)} |")


def main(words: list[str]) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--tokens", type=measures.count, nargs="+", default=[64, 512, 2048], help="lengths of an answer"
    )
    parser.add_argument("--prompt", type=measures.count, default=256, help="tokens of the prompt")
    parser.add_argument("--answers", type=measures.count, default=8, help="answers to a question")
    parser.add_argument("--model", default="models/smollm2-135m-instruct", help="its tokenizer")
    measures.json_option(parser)
    arguments = parser.parse_args(words)
    tokenizer = folder.load(Config(model=ModelConfig(arguments.model)).model).tokenizer
    phrases, prompt = simulated.Phrases.of(tokenizer), list(range(1000, 1000 + arguments.prompt))
    found = [sizes(phrases, prompt, arguments.answers, tokens) for tokens in arguments.tokens]
    show(found, arguments.answers)
    measures.keep(found, arguments.json)


if __name__ == "__main__":
    main(sys.argv[1:])
