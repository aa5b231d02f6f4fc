#!/usr/bin/env python3
"""A whole iteration beside TRL's OnlineDPOTrainer: the same questions, two answers to each, the same annotator.

PYTHONPATH=. python benchmarks/online_dpo.py --json online-dpo.json

    ours   an iteration of the loop: answers, labels, pairs, reference log-probs, training, sync
    trl    `OnlineDPOTrainer.train`, once through the questions: answers by transformers, graded by the share of their
           sentences that our annotator calls correct; it learns from all tokens of both

Sampling, pairs per optimizer step, learning rate, beta, model, dtype and threads are the same. Two answers, as TRL
takes no more; it learns from answers of equal score too, we don't. Every contender has a process of its own; they take
turns, `--repeats` times. Not counted: starting, loading, evaluation.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import measures, turns
from maskdpo_ray import run
from maskdpo_ray.config import cli
from maskdpo_ray.config.schema import Config
from maskdpo_ray.pairing import scoring
from maskdpo_ray.records import Question, Rollout
from maskdpo_ray.stages import preflight

NAMES = ("ours", "trl")
STAGES = ("collect", "reference", "train", "sync")


def config_of(given: argparse.Namespace, folder: str) -> Config:
    """The given config with one iteration of two answers to the first questions, and hardly an evaluation."""
    config = cli.read(given.config)
    replace = dataclasses.replace
    return replace(
        config,
        run=replace(config.run, name="run", dir=folder, iterations=1, keep="last", patience=None),
        model=replace(config.model, model_name_or_path=given.model),
        data=replace(
            config.data,
            max_questions=given.questions,
            transfer=None,
            num_transfer_topics=None,
            num_eval_topics=4,
            num_dev_topics=0,
        ),
        rollout=replace(config.rollout, n_samples_per_prompt=2, num_engines=1),
        train=replace(config.train, max_epochs=1, batch_size=given.batch_size, save_steps=-1),
        eval=replace(config.eval, n_samples_per_prompt=2, evaluator=None, greedy=False),
        cluster=replace(config.cluster, threads=given.threads),
    )


def by_us(config: Config) -> dict[str, Any]:
    """A run."""
    file = Path(config.run.dir) / "config.yaml"
    file.write_text(cli.to_yaml(config))
    run.main(["--config", str(file)])
    path, logged = Path(config.run.dir) / config.run.name, {}
    for line in (path / "metrics.jsonl").read_text().splitlines():
        logged |= json.loads(line)
    return {
        "seconds": logged["timing/iteration_s"],
        "stages": {stage: logged[f"timing/{stage}_s"] for stage in STAGES},
        "tokens": logged["tokens/collect"],
        "pairs": json.loads((path / "iter_000/pairs-summary.json").read_text())["pairs"],
    }


def by_trl(config: Config, micro_batch_size: int) -> dict[str, Any]:
    """Measure TRL's trainer, with our annotator as the reward."""
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl.experimental.online_dpo import OnlineDPOConfig, OnlineDPOTrainer

    torch.set_num_threads(config.cluster.threads or 1)
    prepared, rollout, adam = preflight.check(config), config.rollout, config.adam
    prepared.annotator.start()
    questions = list(prepared.train)
    path, dtype = config.model.model_name_or_path, getattr(torch, config.engine_dtype)
    tokenizer = AutoTokenizer.from_pretrained(path)
    lengths: list[int] = []

    def reward(completions: Any, completion_ids: Any, number: Sequence[int], **_: Any) -> list[float | None]:
        eos = tokenizer.eos_token_id  # and padding after it
        lengths.extend(ids.index(eos) + 1 if eos in ids else len(ids) for ids in completion_ids)
        answered = [(questions[n], text[0]["content"]) for n, text in zip(number, completions, strict=True)]
        return scores(prepared.annotator, answered)

    asked = [{"prompt": list(each.prompt), "number": number} for number, each in enumerate(questions)]
    arguments = OnlineDPOConfig(
        output_dir=config.run.dir,
        use_cpu=True,
        bf16=False,
        per_device_train_batch_size=micro_batch_size,
        gradient_accumulation_steps=config.train.batch_size // micro_batch_size,
        num_train_epochs=1,
        learning_rate=adam.lr,
        lr_scheduler_type=config.train.lr_scheduler,
        adam_beta1=adam.betas[0],
        adam_beta2=adam.betas[1],
        max_grad_norm=config.train.max_norm,
        beta=[config.train.beta],
        max_new_tokens=rollout.max_new_tokens,
        max_length=config.vllm.max_model_len or 1024,
        temperature=rollout.temperature,
        top_k=rollout.top_k,
        top_p=rollout.top_p,
        gradient_checkpointing=config.model.gradient_checkpointing_enable,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
        seed=config.run.seed,
    )
    trainer = OnlineDPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(path, dtype=dtype),
        ref_model=AutoModelForCausalLM.from_pretrained(path, dtype=dtype),
        reward_funcs=reward,
        args=arguments,
        train_dataset=Dataset.from_list(asked),
        processing_class=tokenizer,
    )
    begin = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - begin
    if len(lengths) != 2 * len(questions):
        raise ValueError(f"expected {2 * len(questions)} answers, got {len(lengths)}")
    return {"seconds": seconds, "stages": {}, "tokens": sum(lengths), "pairs": len(questions)}


def scores(annotator: Any, answered: Sequence[tuple[Question, str]]) -> list[float | None]:
    """The share of an answer's sentences that are correct, as pairs are made of; 0 where nothing was said."""
    items = [(question, Rollout(question.id, 0, (), text, "stop", 0)) for question, text in answered]
    return [scoring.precision(annotation) or 0.0 for annotation in annotator.annotate(items)]


def take_part(name: str, given: argparse.Namespace) -> dict[str, Any]:
    """One contender's turn, in this process."""
    with tempfile.TemporaryDirectory(prefix="online-dpo-") as folder:
        config = config_of(given, folder)
        found = by_us(config) if name == "ours" else by_trl(config, given.micro_batch_size)
        return found | {"questions": given.questions, "peak_rss": measures.peak_rss()}


def report(outcomes: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Questions a second of each contender, and, turn by turn, how many times TRL's that is."""
    rates = {name: [each["questions"] / each["seconds"] for each in taken] for name, taken in outcomes.items()}
    found: dict[str, Any] = {"machine": measures.machine(), "outcomes": outcomes}
    found["questions_per_second"] = {name: measures.spread(own) for name, own in rates.items()}
    if "trl" in rates:
        found["over_trl"] = {name: turns.ratio(own, rates["trl"]) for name, own in rates.items()}
    return found


def shown(found: dict[str, Any]) -> str:
    """The table."""
    rows = []
    for name, taken in found["outcomes"].items():
        over = found.get("over_trl", {}).get(name)
        stages = ", ".join(f"{stage} {seconds:.1f}" for stage, seconds in taken[0]["stages"].items())
        rows.append(
            [
                name,
                measures.shown_spread(found["questions_per_second"][name], 3),
                measures.shown_spread(over) if over else "-",
                f"{taken[0]['tokens']:,.0f}",
                str(taken[0]["pairs"]),
                stages or "-",
            ]
        )
    header = ["contender", "questions/s, median (range)", "times TRL", "tokens sampled", "pairs", "seconds by stage"]
    return measures.table(header, rows)


def parse(words: Sequence[str]) -> argparse.Namespace:
    """Command line."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--config", type=Path, default=Path("configs/recipes/mask_dpo.yaml"))
    made.add_argument("--model", default="models/smollm2-135m-instruct")
    made.add_argument("--questions", type=measures.count, default=32)
    made.add_argument("--batch_size", type=measures.count, default=16, help="pairs per optimizer step")
    made.add_argument(
        "--micro_batch_size", type=measures.count, default=8, help="questions that TRL answers and learns at a time"
    )
    turns.options(made, NAMES, repeats=2)
    given = made.parse_args(words)
    if given.batch_size % given.micro_batch_size or given.questions % given.batch_size:
        made.error("--questions must be a multiple of --batch_size, and that of --micro_batch_size")
    return given


def main(words: list[str]) -> None:
    """Command line: take turns, print the table."""
    given = parse(words)

    def said(outcome: turns.Outcome) -> str:
        return f"{given.questions} questions in {outcome['seconds']:.1f} s"

    turns.run(Path(__file__), words, given, lambda name: take_part(name, given), said, report, shown)


if __name__ == "__main__":
    main(sys.argv[1:])
