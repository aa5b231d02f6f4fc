#!/usr/bin/env python3
"""Training at the shapes of Llama-3.2-1B and -3B with random weights on one GPU, beside TRL on the same card.

PYTHONPATH=. python benchmarks/gpu_training.py --shape 3b --json gpu.json

Needs torch and transformers, deepspeed for `--optimizer deepspeed`, and trl for its row. No Ray, vLLM or OpenRLHF.
Every contender has a process of its own; they take turns, `--repeats` times.
Prompts and answers are random tokens, as many as the options say; the two answers of a pair share their prompt, and
half of the answers' tokens have weight. Tokens per second count what a pair holds, twice the prompt and both answers,
whatever is computed of them. The share of the card's rate counts only what was computed: see `measures.training_flops`.
Ours computes the reference once for all epochs, TRL in every step, as by default: `--epochs` says what that is worth.
"""

from __future__ import annotations

import argparse
import random
import socket
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from actors import strategy
from benchmarks import measures, turns
from maskdpo_ray.records import TrainingExample
from maskdpo_ray.training import lean_layers, tree_attention
from maskdpo_ray.training.forward import response_logps
from maskdpo_ray.training.objectives import dpo

NAMES = ("ours", "trl")
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
        TrainingExample.of_pair(str(number), ids(prompt), ids(answer), ids(answer), weights, weights)
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


def timed(step: Callable[[], Any], num_steps: int, device: str) -> tuple[float, int]:
    """(seconds, peak bytes) of `num_steps` steps, after one that is not counted."""
    is_gpu = device == "cuda"
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


def optimizer_of(given: argparse.Namespace, model: Any) -> tuple[Callable[[Any], None], Callable[[], None], Any]:
    """(backward, step, what to call): a rank's engine, or AdamW in bf16."""
    if given.optimizer == "deepspeed":
        engine = rank_engine(given, model)
        return engine.backward, engine.step, engine
    optimizer = torch.optim.AdamW(model.parameters(), lr=given.lr, fused=True)

    def step() -> None:
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return lambda loss: loss.backward(), step, model


def rank_engine(given: argparse.Namespace, model: Any) -> Any:
    """DeepSpeed's ZeRO-2 engine with fp32 master weights, set up as in `actors/strategy.py`, without OpenRLHF.

    Other than there, AdamW is torch's fused one on a GPU too: DeepSpeed's would be compiled with nvcc.
    """
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    strategy.prepare_process(given.device, 0, 1, "127.0.0.1", port, given.threads)
    import deepspeed

    if given.device == "cpu":
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # would be compiled with g++
    deepspeed.init_distributed(dist_backend="gloo" if given.device == "cpu" else "nccl")
    engine, *_ = deepspeed.initialize(
        model=model,
        model_parameters=model.parameters(),
        config={
            "train_micro_batch_size_per_gpu": 1,
            "gradient_accumulation_steps": 1,
            "optimizer": {"type": "AdamW", "params": {"lr": given.lr, "torch_adam": True, "fused": True}},
            "bf16": {"enabled": True},
            "data_types": {"grad_accum_dtype": "fp32"},
            "zero_optimization": {"stage": 2},
            "gradient_clipping": 1.0,
        },
    )
    return engine


def ours(given: argparse.Namespace) -> dict[str, Any]:
    """Reference log-probs once for all pairs, then the steps, as our training rank does them."""
    model = model_of(given.shape, given.device)
    tree_attention.install(model)
    lean_layers.install(model)
    if given.gradient_checkpointing:
        lean_layers.recompute(model)
    counter, shape = Counter(model), measures.Shape.of(model.config)
    pairs = examples(given.batch_size, given.prompt_tokens, given.answer_tokens, model.config.vocab_size)
    micro_batches = [
        pairs[start : start + given.micro_batch_size] for start in range(0, len(pairs), given.micro_batch_size)
    ]
    backward, step, called = optimizer_of(given, model)
    model.eval()
    with torch.no_grad():
        references = [response_logps(called, each, given.device)[0] for each in micro_batches]
        counter.work = measures.Work()
        reference_seconds, _ = timed(
            lambda: [response_logps(called, each, given.device) for each in micro_batches], 1, given.device
        )
    reference_flops = measures.forward_flops(counter.work, shape) / 2  # one of the two is not timed
    values: list[float] = []

    def train_step() -> None:
        total = 0.0
        for number, (batch, reference) in enumerate(zip(micro_batches, references, strict=True)):
            if given.optimizer == "deepspeed":
                called.set_gradient_accumulation_boundary(number == len(micro_batches) - 1)
            logps, weights = response_logps(called, batch, given.device)
            loss, _, _ = dpo.masked_dpo_loss(logps, reference, weights, 0.1, reduction="sum")
            backward(loss / given.batch_size)
            total += float(loss.detach()) / given.batch_size
        step()
        values.append(total)

    counter.work = measures.Work()
    seconds, peak = timed(train_step, given.steps, given.device)
    flops = measures.training_flops(counter.work, shape) * given.steps / (given.steps + 1)
    passes = given.steps / given.epochs  # of the reference: every step is an epoch of these pairs
    seconds, flops = seconds + passes * reference_seconds, flops + passes * reference_flops
    return _row(given, seconds, peak, values, flops=flops, reference_seconds=reference_seconds)


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

        seconds, peak = timed(train_step, given.steps, given.device)
    length = given.prompt_tokens + given.answer_tokens
    rows = 2 * given.batch_size * given.steps
    work = measures.Work(
        tokens=rows * length, attended=rows * measures.causal([length]), head_rows=rows * given.answer_tokens
    )
    flops = measures.training_flops(work, shape) + measures.forward_flops(work, shape)
    return _row(given, seconds, peak, values, flops=flops)


def _row(given: argparse.Namespace, seconds: float, peak: int, values: list[float], **more: float) -> dict[str, Any]:
    tokens = 2 * (given.prompt_tokens + given.answer_tokens) * given.batch_size * given.steps
    return {
        "seconds": seconds,
        "tokens_per_second": tokens / seconds,
        "pairs_per_second": given.batch_size * given.steps / seconds,
        "peak_memory_gib": peak / measures.GIB,
        "losses": values,
        **more,
    }


def take_part(name: str, given: argparse.Namespace) -> turns.Outcome:
    """One contender's turn, in this process, after the card's rate; {"failed": why} where it can't be had."""
    shape = measures.Shape.of(LlamaConfig(**SHAPES[given.shape]))
    tokens = given.micro_batch_size * 2 * (given.prompt_tokens + given.answer_tokens)
    is_gpu = given.device == "cuda"
    rate = measures.matrix_rate(shape, tokens, given.device, seconds=2.0 if is_gpu else 0.1, threads=given.threads)
    if is_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    try:
        found = {"ours": ours, "trl": trl}[name](given)
    except (ImportError, torch.cuda.OutOfMemoryError) as error:
        found = {"failed": f"{type(error).__name__}: {error}".splitlines()[0]}
    card = torch.cuda.get_device_name() if is_gpu else measures.machine()["cpu"]
    return {**found, "card": card, "matrix_rate_tflops": rate / 1e12}


FIGURES = ("tokens_per_second", "pairs_per_second", "peak_memory_gib", "share_of_matrix_rate")


def report(outcomes: dict[str, list[turns.Outcome]], given: argparse.Namespace) -> dict[str, Any]:
    """Figures of each contender, and, turn by turn, how many times as fast as TRL it is.

    The card's rate is the highest of those that the turns measured.
    """
    taken = [each for own in outcomes.values() for each in own]
    rate = max(each["matrix_rate_tflops"] for each in taken)
    found: dict[str, Any] = {
        "machine": measures.machine(),
        "card": taken[0]["card"],
        "options": {name: value for name, value in vars(given).items() if name not in ("json", "only")},
        "matrix_rate_tflops": rate,
        "outcomes": outcomes,
        "contenders": {},
    }
    speeds: dict[str, list[float]] = {}
    for name, own in outcomes.items():
        if failed := [each["failed"] for each in own if "failed" in each]:
            found["contenders"][name] = {"failed": failed[0]}
            continue
        shares = [{"share_of_matrix_rate": each["flops"] / each["seconds"] / (rate * 1e12)} for each in own]
        figures = [{**each, **share} for each, share in zip(own, shares, strict=True)]
        found["contenders"][name] = {key: measures.spread([each[key] for each in figures]) for key in FIGURES}
        speeds[name] = [each["tokens_per_second"] for each in own]
    if "trl" in speeds:
        for name, own_speeds in speeds.items():
            found["contenders"][name]["over_trl"] = turns.ratio(own_speeds, speeds["trl"])
    return found


def shown(found: dict[str, Any]) -> str:
    """The table."""
    rows = []
    for name, own in found["contenders"].items():
        if "failed" in own:
            rows.append([name, f"failed: {own['failed'][:80]}", "", "", "", ""])
            continue
        cells = [measures.shown_spread(own[key], digits) for key, digits in zip(FIGURES, (0, 3, 2, 2), strict=True)]
        rows.append([name, *cells, measures.shown_spread(own["over_trl"]) if "over_trl" in own else "-"])
    head = f"{found['card']}: {found['matrix_rate_tflops']:.3g} TFLOP/s in bf16 products of these shapes"
    header = ["tokens/s, median (range)", "pairs/s", "peak memory, GiB", "share of the matrix rate", "times TRL"]
    return f"{head}\n{measures.table(['contender', *header], rows)}"


def parse(words: Sequence[str]) -> argparse.Namespace:
    """Command line."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--shape", choices=list(SHAPES), default="3b")
    made.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    made.add_argument("--optimizer", choices=["adamw", "deepspeed"], default="deepspeed", help="Of ours.")
    made.add_argument("--prompt_tokens", type=measures.count, default=512)
    made.add_argument("--answer_tokens", type=measures.count, default=512)
    made.add_argument("--batch_size", type=measures.count, default=16, help="Pairs per optimizer step.")
    made.add_argument("--micro_batch_size", type=measures.count, default=4, help="Pairs per pass, for both.")
    made.add_argument("--steps", type=measures.count, default=5)
    made.add_argument(
        "--epochs", type=measures.count, default=3, help="Epochs over which our one reference pass is amortised."
    )
    made.add_argument("--lr", type=float, default=1e-6)
    made.add_argument("--gradient_checkpointing", action="store_true")
    turns.options(made, NAMES, repeats=3)
    given = made.parse_args(words)
    if given.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("--device cuda: no GPU here; --device cpu --shape tiny tries the script out")
    return given


def main(words: list[str]) -> None:
    """Command line: take turns, print the table."""
    given = parse(words)

    def said(outcome: turns.Outcome) -> str:
        return outcome.get("failed") or f"{outcome['tokens_per_second']:.0f} tokens/s"

    def reported(outcomes: dict[str, list[turns.Outcome]]) -> dict[str, Any]:
        return report(outcomes, given)

    turns.run(Path(__file__), words, given, lambda name: take_part(name, given), said, reported, shown)


if __name__ == "__main__":
    main(sys.argv[1:])
