#!/usr/bin/env python3
"""Answers through our pool beside raw vLLM and transformers: the same prompts, model, dtype, sampling and threads.

PYTHONPATH=. python benchmarks/rollout.py --json rollout.json

    pool           `RolloutGroup.stream`: a `RolloutEngine` on a local Ray, fed as in a run (rollout.max_in_flight)
    vllm           `vllm.LLM.generate`, all prompts in one call, with the seeds that the pool gives them
    vllm-top-k     the same with the pool's sampler (`actors/patches.py`)
    vllm-patched   the same with all of the pool's changes to vLLM: what the pool itself costs
    transformers   `generate` on left-padded batches of prompts, each `n_samples_per_prompt` times

Every contender has a process of its own; they take turns, `--repeats` times. Counted is the time from the first
request to the last answer's text; starting and two questions before are not.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import measures, turns
from maskdpo_ray.config import cli, resources
from maskdpo_ray.config.schema import Config
from maskdpo_ray.data import questions
from maskdpo_ray.models import chat, folder
from maskdpo_ray.models.chat import Chat
from maskdpo_ray.records import Question

NAMES = ("pool", "vllm", "vllm-top-k", "vllm-patched", "transformers")
WARM_UP = 2
"""Questions."""
Answers = Sequence[tuple[Sequence[int], str]]
"""(token ids, text) of each."""


@dataclass(frozen=True)
class Work:
    """Work of every contender."""

    config: Config
    chat: Chat
    asked: list[Question]
    threads: int

    @classmethod
    def of(cls, given: argparse.Namespace) -> Work:
        """Work that the command line describes: the first training questions of a config."""
        config = cli.read(given.config)
        overrides = {"n_samples_per_prompt": given.samples, "max_new_tokens": given.max_new_tokens}
        changed = {name: value for name, value in overrides.items() if value is not None}
        config = dataclasses.replace(
            config,
            rollout=dataclasses.replace(config.rollout, num_engines=1, **changed),
            model=dataclasses.replace(config.model, model_name_or_path=given.model),
            cluster=dataclasses.replace(config.cluster, threads=given.threads),
        )
        data = config.data
        asked, _ = questions.split_by_topic(questions.load(data.train), data.num_eval_topics, data.split_seed)
        own = chat.of(config, folder.load(config.model).tokenizer)
        return cls(config, own, asked[: WARM_UP + given.questions], given.threads)

    def measured(self, answer: Callable[[list[Question]], Answers]) -> dict[str, float]:
        """Warm up, then time."""
        answer(self.asked[:WARM_UP])
        begin = time.perf_counter()
        answers = answer(self.asked[WARM_UP:])
        seconds = time.perf_counter() - begin
        expected = len(self.asked[WARM_UP:]) * self.config.rollout.n_samples_per_prompt
        if len(answers) != expected:
            raise ValueError(f"expected {expected} answers, got {len(answers)}")
        return {"seconds": seconds, "answers": len(answers), "tokens": sum(len(ids) for ids, _ in answers)}


def by_pool(work: Work) -> dict[str, float]:
    """Ours."""
    from actors import weights
    from maskdpo_ray.annotation import protocol
    from maskdpo_ray.cluster import Cluster
    from maskdpo_ray.records import Answered

    resources.prefer_loopback(work.config.cluster)
    annotator = protocol.build(work.config.annotation.annotator, work.config.annotation.options)
    policy = weights.publish(work.config.model.model_name_or_path, 0)
    with Cluster(work.config) as cluster:
        engines = cluster.start_evaluation(policy, work.chat, annotator, None).engines
        assert engines is not None

        def answer(asked: list[Question]) -> Answers:
            found = engines.stream(asked, policy, work.config.rollout.sampling, "train")
            items = [item for item in found if isinstance(item, Answered)]
            return [(rollout.token_ids, rollout.text) for item in items for rollout in item.rollouts]

        return work.measured(answer)


def by_vllm(work: Work, name: str) -> dict[str, float]:
    """Raw, or with some of our changes."""
    from actors.rollout import request_seed
    from actors.vllm_process import CONFIG, set_environment

    config, sampling = work.config, work.config.rollout
    set_environment("cpu", work.threads, config.vllm.cpu_kv_cache_gib)
    from vllm import LLM, SamplingParams, TokensPrompt

    engine = LLM(
        config.model.model_name_or_path,
        dtype=work.config.engine_dtype,
        max_model_len=config.vllm.max_model_len,
        max_num_seqs=config.vllm.max_num_seqs,
        enforce_eager=config.vllm.enforce_eager,
        enable_prefix_caching=config.vllm.enable_prefix_caching,
        enable_chunked_prefill=False,  # on a CPU vLLM can't split the prompt of a request with a seed
        max_num_batched_tokens=32768,
        generation_config="vllm",
        worker_extension_cls="actors.rollout.WorkerExtension",
        additional_config=CONFIG if name == "vllm-patched" else {},
    )
    if name != "vllm":
        engine.collective_rpc("sample_from_top_k")

    def answer(asked: list[Question]) -> Answers:
        options = {"n": sampling.n_samples_per_prompt, "max_tokens": sampling.max_new_tokens}
        options |= {"temperature": sampling.temperature, "top_k": sampling.top_k, "top_p": sampling.top_p}
        seeds = [request_seed(config.run.seed, "train", 0, question.id) for question in asked]
        outputs = engine.generate(
            [TokensPrompt(prompt_token_ids=work.chat.prompt_ids(question)) for question in asked],
            [SamplingParams(**options, seed=seed) for seed in seeds],
            use_tqdm=False,
        )
        return [(each.token_ids, each.text) for output in outputs for each in output.outputs]

    return work.measured(answer)


def by_transformers(work: Work, prompts: int) -> dict[str, float]:
    """`prompts` at a time."""
    import torch
    from transformers import AutoModelForCausalLM

    sampling = work.config.rollout
    torch.set_num_threads(work.threads)
    dtype = getattr(torch, work.config.engine_dtype)
    model = AutoModelForCausalLM.from_pretrained(work.config.model.model_name_or_path, dtype=dtype)
    model.eval()
    eos = work.chat.tokenizer.eos_token_id

    def answer(asked: list[Question]) -> Answers:
        found: list[tuple[list[int], str]] = []
        for first in range(0, len(asked), prompts):
            ids = [work.chat.prompt_ids(question) for question in asked[first : first + prompts]]
            width = max(map(len, ids))
            padded = torch.tensor([[eos] * (width - len(row)) + row for row in ids])
            mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in ids])
            torch.manual_seed(first)
            output = model.generate(
                padded,
                attention_mask=mask,
                do_sample=True,
                num_return_sequences=sampling.n_samples_per_prompt,
                max_new_tokens=sampling.max_new_tokens,
                temperature=sampling.temperature,
                top_k=sampling.top_k,
                top_p=sampling.top_p,
                pad_token_id=eos,
                eos_token_id=eos,
            )
            for row in output[:, width:].tolist():
                answered = row[: row.index(eos) + 1] if eos in row else row
                found.append((answered, work.chat.tokenizer.decode(answered, skip_special_tokens=True)))
        return found

    return work.measured(answer)


def take_part(name: str, given: argparse.Namespace) -> dict[str, float]:
    """One contender's turn, in this process."""
    work = Work.of(given)
    if name == "pool":
        return by_pool(work)
    if name == "transformers":
        return by_transformers(work, given.prompts)
    return by_vllm(work, name)


def report(outcomes: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    """Rates of each contender, and, turn by turn, the pool's share of them."""
    rates = {name: [each["tokens"] / each["seconds"] for each in taken] for name, taken in outcomes.items()}
    found: dict[str, Any] = {"machine": measures.machine(), "outcomes": outcomes}
    found["tokens_per_second"] = {name: measures.spread(own) for name, own in rates.items()}
    if ours := rates.get("pool"):
        found["pool_over"] = {name: turns.ratio(ours, own) for name, own in rates.items()}
    return found


def shown(found: dict[str, Any]) -> str:
    """The table."""
    rows = []
    for name, taken in found["outcomes"].items():
        rate, over = found["tokens_per_second"][name], found.get("pool_over", {}).get(name)
        tokens = f"{taken[0]['tokens']:,.0f}"
        rows.append([name, tokens, measures.shown_spread(rate, 1), measures.shown_spread(over, 3) if over else "-"])
    header = ["contender", "tokens", "tokens/s, median (range)", "the pool is so many times as fast"]
    return measures.table(header, rows)


def parse(words: Sequence[str]) -> argparse.Namespace:
    """Command line."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--config", type=Path, default=Path("configs/quickstart.yaml"))
    made.add_argument("--model", default="models/smollm2-135m-instruct")
    made.add_argument("--questions", type=measures.count, default=24)
    made.add_argument("--samples", type=measures.count, help="answers to each question; default: the config's")
    made.add_argument("--max_new_tokens", type=measures.count, help="default: the config's")
    made.add_argument("--prompts", type=measures.count, default=8, help="batch size for transformers")
    turns.options(made, NAMES, repeats=3)
    return made.parse_args(words)


def main(words: list[str]) -> None:
    """Command line: take turns, print the table."""
    given = parse(words)

    def said(outcome: turns.Outcome) -> str:
        return f"{outcome['tokens']:.0f} tokens in {outcome['seconds']:.1f} s"

    turns.run(Path(__file__), words, given, lambda name: take_part(name, given), said, report, shown)


if __name__ == "__main__":
    main(sys.argv[1:])
