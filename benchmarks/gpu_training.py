#!/usr/bin/env python3
"""Training at the shapes of Llama-3.2-1B and -3B with random weights on one GPU, beside TRL on the same card.

PYTHONPATH=. python benchmarks/gpu_training.py --shape 3b --json gpu.json

Needs torch and transformers, deepspeed for `--optimizer deepspeed`, and trl for its row. No Ray, vLLM or OpenRLHF.
Prompts and answers are random tokens, as many as the options say; the two answers of a pair share their prompt, and
half of the answers' tokens have weight. Tokens per second count what a pair holds, twice the prompt and both answers,
whatever is computed of them. The share of the card's rate counts only what was computed: see `measures.training_flops`.
Ours computes the reference once for all epochs, TRL in every step, as by default: `--epochs` says what that is worth.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks import measures
from maskdpo_ray import lean_layers, losses, tree_attention
from maskdpo_ray.batching import TrainingExample
from maskdpo_ray.forward import response_logps

SHAPES: dict[str, dict[str, Any]] = {
    "tiny": {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "vocab_size": 512,
    },
    "1b": {
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 64,
        "vocab_size": 128256,
    },
    "3b": {
        "hidden_size": 3072,
        "intermediate_size": 8192,
        "num_hidden_layers": 28,
        "num_attention_heads": 24,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 128256,
    },
}


def model_of(shape: str, device: str) -> LlamaForCausalLM:
    """Random weights of a shape, bf16."""
    config = LlamaConfig(**SHAPES[shape], max_position_embeddings=8192, tie_word_embeddings=True, rope_theta=500000.0)
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            return LlamaForCausalLM(config)
    finally:
        torch.set_default_dtype(before)


def examples(num_pairs: int, prompt: int, answer: int, vocabulary: int, seed: int = 0) -> list[TrainingExample]:
    """Random pairs; sentences of 16 tokens have weight in turns, on both sides."""
    rng = random.Random(seed)

    def ids(count: int) -> tuple[int, ...]:
        return tuple(rng.randrange(3, vocabulary) for _ in range(count))

    weights = tuple(float(index // 16 % 2 == 0) for index in range(answer))
    return [
        TrainingExample(str(number), ids(prompt), ids(answer), ids(answer), weights, weights)
        for number in range(num_pairs)
    ]


class Counter:
    """Counts what passes through a model's layers and head."""

    def __init__(self, model: Any) -> None:
        self.work = measures.Work()
        model.get_decoder().register_forward_pre_hook(self._tokens, with_kwargs=True)
        model.get_output_embeddings().register_forward_pre_hook(self._rows)

    def _tokens(self, _: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
        ids, depths = options["input_ids"] if "input_ids" in options else arguments[0], options.get("position_ids")
        attended = measures.causal([ids.shape[1]] * ids.shape[0]) if depths is None else int((depths + 1).sum())
        self.work += measures.Work(tokens=ids.numel(), attended=attended)

    def _rows(self, _: Any, arguments: tuple[Any, ...]) -> None:
        self.work += measures.Work(head_rows=arguments[0].numel() // arguments[0].shape[-1])


def timed(step: Callable[[], Any], num_steps: int) -> tuple[float, int]:
    """(seconds, peak bytes) of `num_steps` steps, after one that is not counted."""
    is_gpu = torch.cuda.is_available()
    step()
    if is_gpu:
        torch.cuda.synchronize()
    begin = time.perf_counter()
    for _ in range(num_steps):
        step()
    if is_gpu:
        torch.cuda.synchronize()
    seconds = time.perf_counter() - begin
    return seconds, torch.cuda.max_memory_allocated() if is_gpu else measures.peak_rss()


def optimizer_of(name: str, model: Any, lr: float) -> tuple[Callable[[Any], None], Callable[[], None], Any]:
    """(backward, step, what to call): DeepSpeed's ZeRO-2 engine with fp32 master weights, or AdamW in bf16."""
    if name == "adamw":
        optimizer = torch.optim.AdamW(model.parameters(), lr=lr, fused=True)

        def step() -> None:
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        return lambda loss: loss.backward(), step, model
    os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        os.environ["MASTER_PORT"] = str(listener.getsockname()[1])
    if model.device.type == "cpu":
        os.environ["DS_ACCELERATOR"] = "cpu"
    import deepspeed

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # would be compiled with g++
    engine, *_ = deepspeed.initialize(
        model=model,
        model_parameters=model.parameters(),
        config={
            "train_micro_batch_size_per_gpu": 1,
            "gradient_accumulation_steps": 1,
            "optimizer": {"type": "AdamW", "params": {"lr": lr, "torch_adam": True, "fused": True}},
            "bf16": {"enabled": True},
            "zero_optimization": {"stage": 2},
            "gradient_clipping": 1.0,
        },
    )
    return engine.backward, engine.step, engine


def ours(given: argparse.Namespace) -> dict[str, Any]:
    """Reference log-probs once for all pairs, then the steps, as our training rank does them."""
    model = model_of(given.shape, given.device)
    tree_attention.install(model)
    lean_layers.install(model)
    if given.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    counter, shape = Counter(model), measures.Shape.of(model.config)
    pairs = examples(given.batch_size, given.prompt_tokens, given.answer_tokens, model.config.vocab_size)
    micro_batches = [
        pairs[start : start + given.micro_batch_size] for start in range(0, len(pairs), given.micro_batch_size)
    ]
    backward, step, called = optimizer_of(given.optimizer, model, given.lr)
    model.eval()
    with torch.no_grad():
        references = [response_logps(called, each, given.device)[0] for each in micro_batches]
        counter.work = measures.Work()
        reference_seconds, _ = timed(lambda: [response_logps(called, each, given.device) for each in micro_batches], 1)
    reference_flops = measures.forward_flops(counter.work, shape) / 2  # one of the two is not timed
    model.train()
    values: list[float] = []

    def train_step() -> None:
        total = 0.0
        for number, (batch, reference) in enumerate(zip(micro_batches, references, strict=True)):
            if given.optimizer == "deepspeed":
                called.set_gradient_accumulation_boundary(number == len(micro_batches) - 1)
            logps, weights = response_logps(called, batch, given.device)
            loss, _, _ = losses.masked_dpo_loss(logps, reference, weights, 0.1, reduction="sum")
            backward(loss / given.batch_size)
            total += float(loss.detach()) / given.batch_size
        step()
        values.append(total)

    counter.work = measures.Work()
    seconds, peak = timed(train_step, given.steps)
    flops = measures.training_flops(counter.work, shape) * given.steps / (given.steps + 1)
    passes = given.steps / given.epochs  # of the reference: every step is an epoch of these pairs
    seconds, flops = seconds + passes * reference_seconds, flops + passes * reference_flops
    return _row("ours", given, seconds, peak, values, flops=flops, reference_seconds=reference_seconds)


def trl(given: argparse.Namespace) -> dict[str, Any]:
    """TRL's DPOTrainer, its loss on the same pairs, a plain loop around it: reference in each step, as by default."""
    import tempfile

    from benchmarks.by_trl import plain_trainer

    model, reference = model_of(given.shape, given.device), model_of(given.shape, given.device)
    shape = measures.Shape.of(model.config)
    pairs = examples(given.batch_size, given.prompt_tokens, given.answer_tokens, model.config.vocab_size)
    with tempfile.TemporaryDirectory() as folder:
        trainer = plain_trainer(model, reference, pairs, folder, given)
        values: list[float] = []
        batches = list(trainer.get_train_dataloader())
        optimizer = trainer.create_optimizer()
        trainer.model.train()

        def train_step() -> None:
            total = 0.0
            for batch in batches:
                loss = trainer.compute_loss(trainer.model, trainer._prepare_inputs(batch)) / len(batches)
                loss.backward()
                total += float(loss.detach())
            torch.nn.utils.clip_grad_norm_(trainer.model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            values.append(total)

        seconds, peak = timed(train_step, given.steps)
    length = given.prompt_tokens + given.answer_tokens
    rows = 2 * given.batch_size * given.steps
    work = measures.Work(
        tokens=rows * length, attended=rows * measures.causal([length]), head_rows=rows * given.answer_tokens
    )
    flops = measures.training_flops(work, shape) + measures.forward_flops(work, shape)
    return _row("trl", given, seconds, peak, values, flops=flops)


def _row(
    name: str, given: argparse.Namespace, seconds: float, peak: int, values: list[float], **more: float
) -> dict[str, Any]:
    tokens = 2 * (given.prompt_tokens + given.answer_tokens) * given.batch_size * given.steps
    return {
        "contender": name,
        "seconds": seconds,
        "tokens_per_second": tokens / seconds,
        "pairs_per_second": given.batch_size * given.steps / seconds,
        "peak_memory_gib": peak / measures.GIB,
        "losses": values,
        **more,
    }


def shown(rows: list[dict[str, Any]], rate: float) -> str:
    """The table."""
    cells = []
    for row in rows:
        if "failed" in row:
            cells.append([row["contender"], f"failed: {row['failed'][:80]}", "", "", ""])
            continue
        share = row["flops"] / row["seconds"] / rate
        cells.append(
            [
                row["contender"],
                f"{row['tokens_per_second']:.0f}",
                f"{row['pairs_per_second']:.3f}",
                f"{row['peak_memory_gib']:.2f}",
                f"{share:.0%}",
            ]
        )
    return measures.table(["contender", "tokens/s", "pairs/s", "peak memory, GiB", "of the matrix rate"], cells)


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Command line: measure the card's rate, then the contenders in turns; returns what --json holds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=list(SHAPES), default="3b")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--contenders", nargs="+", choices=["ours", "trl"], default=["ours", "trl"])
    parser.add_argument("--optimizer", choices=["adamw", "deepspeed"], default="deepspeed")
    parser.add_argument("--prompt_tokens", type=int, default=512)
    parser.add_argument("--answer_tokens", type=int, default=512)
    parser.add_argument("--batch_size", type=int, default=16, help="Pairs per optimizer step.")
    parser.add_argument("--micro_batch_size", type=int, default=4, help="Pairs per pass, of both.")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=3, help="Over which the reference pass of ours is spread.")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--lr", type=float, default=1e-6)
    parser.add_argument("--gradient_checkpointing", action="store_true")
    parser.add_argument("--json", metavar="FILE")
    given = parser.parse_args(argv)
    if given.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("--device cuda: no GPU here; --device cpu --shape tiny tries the script out")
    shape = measures.Shape.of(LlamaConfig(**SHAPES[given.shape]))
    tokens = given.micro_batch_size * 2 * (given.prompt_tokens + given.answer_tokens)
    rate = measures.matrix_rate(shape, tokens, given.device, seconds=2.0 if given.device == "cuda" else 0.1)
    rows: list[dict[str, Any]] = []
    for repeat in range(given.repeats):
        for name in given.contenders:
            if given.device == "cuda":
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
            try:
                rows.append({"ours": ours, "trl": trl}[name](given))
            except (ImportError, torch.cuda.OutOfMemoryError) as error:
                rows.append({"contender": name, "failed": f"{type(error).__name__}: {error}".splitlines()[0]})
            gc.collect()
            print(f"turn {repeat + 1} of {given.repeats}: {name}", file=sys.stderr, flush=True)
    card = torch.cuda.get_device_name() if given.device == "cuda" else measures.machine()["cpu"]
    report = {"card": card, "options": vars(given), "matrix_rate_tflops": rate / 1e12, "rows": rows}
    print(f"{card}: {rate / 1e12:.2f} TFLOP/s in bf16 products of these shapes\n{shown(rows, rate)}")
    if given.json:
        Path(given.json).write_text(json.dumps(report, indent=1) + "\n")
    return report


if __name__ == "__main__":
    main()
