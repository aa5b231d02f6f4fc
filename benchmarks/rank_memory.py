#!/usr/bin/env python3
"""The memory that `python -m maskdpo_ray.plan` predicts for a training rank, beside what a rank takes on a CPU.

PYTHONPATH=. python benchmarks/rank_memory.py --model models/smollm2-135m-instruct --zero_stage 2

Two optimizer steps of two passes over pairs of random tokens that share nothing but a pair's prompt; the peak is the
kernel's (VmHWM), of the second step, when Adam's moments are there. Needs Linux.
"""

from __future__ import annotations

import argparse
import json
import random
import socket
import tempfile
from pathlib import Path

import numpy as np

from actors.training import TrainingRank
from benchmarks import measures
from maskdpo_ray.config.schema import AdamConfig, Config, DeepspeedConfig, ModelConfig, TrainConfig
from maskdpo_ray.models import memory, shape
from maskdpo_ray.records import TrainingExample
from maskdpo_ray.training import prefix_tree, reference
from maskdpo_ray.training.example_store import ExampleStore

MIB = 2**20


def kernel_says(name: str) -> int:
    """A figure of this process, bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def forget_peak() -> None:
    """VmHWM starts anew."""
    Path("/proc/self/clear_refs").write_text("5")


def pairs(count: int, prompt: int, answer: int, vocab_size: int, seed: int) -> list[TrainingExample]:
    rng = random.Random(seed)

    def ids(length: int) -> tuple[int, ...]:
        return tuple(rng.randrange(vocab_size) for _ in range(length))

    ones = (1.0,) * answer
    return [TrainingExample.of_pair(f"q{i}", ids(prompt), ids(answer), ids(answer), ones, ones) for i in range(count)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--zero_stage", type=int, choices=(2, 3), default=2)
    parser.add_argument("--param_dtype", choices=("bf16", "fp32"), default="bf16")
    parser.add_argument("--gradient_checkpointing", action="store_true")
    parser.add_argument("--pairs", type=measures.count, default=8, help="pairs per pass")
    parser.add_argument("--prompt", type=measures.count, default=120, help="tokens")
    parser.add_argument("--answer", type=measures.count, default=96, help="tokens")
    parser.add_argument("--threads", type=measures.count, default=2)
    given = parser.parse_args()

    model = shape.of_folder(given.model)
    examples = pairs(2 * given.pairs, given.prompt, given.answer, model.vocab_size, seed=1)
    batch = examples[: given.pairs]
    sides = [(e.prompt_token_ids, e.responses[0].token_ids, e.responses[0].weights) for e in batch]
    sides += [(e.prompt_token_ids, e.responses[1].token_ids, e.responses[1].weights) for e in batch]
    tree = prefix_tree.build(*map(list, zip(*sides, strict=True)))
    config = Config(
        model=ModelConfig(str(given.model), gradient_checkpointing_enable=given.gradient_checkpointing),
        ds=DeepspeedConfig(zero_stage=given.zero_stage, param_dtype=given.param_dtype),
        train=TrainConfig(
            batch_size=2 * given.pairs, micro_batch_size=given.pairs, max_tokens_per_gpu=10**9, lr_scheduler="constant"
        ),
        adam=AdamConfig(lr=1e-5),
    )
    largest = memory.Pass(len(tree.token_ids), len(set(tree.nodes.tolist())))
    predicted = sum(memory.RankMemory(model, config, largest).on_cpu()[1].values())

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    rank = TrainingRank(config, 0, 1, given.threads)
    rank.setup("127.0.0.1", port)
    empty = kernel_says("VmRSS")
    with tempfile.TemporaryDirectory() as folder:
        store = ExampleStore.write(Path(folder), examples)
        zeros = ((np.zeros(given.answer, np.float32),) * 2 for _ in examples)
        logps = reference.save(Path(folder) / "logps.safetensors", store, zeros, "")
        rank.begin(config, str(given.model), str(store.path), 2, reference_logps=str(logps.path))
        rank.train_step(range(len(store)))
        forget_peak()
        rank.train_step(range(len(store)))
    peak = kernel_says("VmHWM")
    rank.close()
    print(
        json.dumps(
            {
                "tokens": largest.tokens,
                "targets": largest.targets,
                "process_mib": round(empty / MIB),
                "predicted_mib": round(predicted / MIB),
                "measured_mib": round(peak / MIB),
                "error": round(predicted / peak - 1, 3),
            }
        )
    )


if __name__ == "__main__":
    main()
