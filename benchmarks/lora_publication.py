"""Measure how much of LoRA training survives in bfloat16 weights: rounded to nearest, and as policies are published.

Trains LoRA on eight pairs in float32 arithmetic, merges, and prints for each rounding one JSON line with the margin
between chosen and rejected answers relative to the reference's.

    PYTHONPATH=. .venv/bin/python benchmarks/lora_publication.py --steps 8 24
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import socket
import tempfile
from pathlib import Path
from typing import Any

from actors.strategy import OptimizerSettings
from actors.training import TrainingRank, TrainingSettings
from maskdpo_ray.config.schema import AdamConfig, LoraConfig
from maskdpo_ray.records import TrainingExample
from maskdpo_ray.training import publication

CAPITALS = {
    "Rwanda": ("Kigali", "Kampala"), "Chad": ("N'Djamena", "Bamako"), "Peru": ("Lima", "Quito"),
    "Japan": ("Tokyo", "Kyoto"), "Kenya": ("Nairobi", "Mombasa"), "Nepal": ("Kathmandu", "Delhi"),
    "Brazil": ("Brasilia", "Rio de Janeiro"), "Nigeria": ("Abuja", "Lagos"),
}  # fmt: skip
"""Country -> (its capital, another city)."""


def examples(model: str) -> list[TrainingExample]:
    """A pair for each country, every token of weight 1."""
    from transformers import AutoTokenizer

    tokenizer, found = AutoTokenizer.from_pretrained(model), []
    for country, cities in CAPITALS.items():
        question = [{"role": "user", "content": f"Tell me about {country}."}]
        prompt = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_dict=False)
        answers = [f"The capital of {country} is {city}." for city in cities]
        chosen, rejected = (tuple(tokenizer.encode(answer, add_special_tokens=False)) for answer in answers)
        weights = (1.0,) * len(chosen), (1.0,) * len(rejected)
        found.append(TrainingExample(country, tuple(prompt), chosen, rejected, *weights))
    return found


def measure(trainer: Any, model: str, num_steps: int) -> dict[str, float]:
    """Shares of the trained margin, and the error of log-probs in nats."""
    pairs = examples(model)
    reference = trainer.reference_logps([pairs], model)
    trainer.begin(model, num_steps, 0, starts_at_reference=True)
    for _ in range(num_steps):
        trainer.train_step([pairs], [reference], len(pairs))
    trained = trainer.reference_logps([pairs])
    found: dict[str, float] = {"steps": num_steps}
    settings = trainer._settings
    with tempfile.TemporaryDirectory() as folder:
        exact, published = (str(Path(folder) / name) for name in ("exact", "published"))
        trainer.save_policy(exact)
        trainer._settings = dataclasses.replace(settings, engine_dtype="bfloat16")
        trainer.save_policy(published)
        for name, path in (("nearest", exact), ("published", published)):
            trainer.release()
            logps = trainer.published_logps([pairs], path)  # rounded to the nearest, where it is not bfloat16 already
            compared = publication.compare(pairs, trained, logps, reference)
            found[f"{name}_margin"] = compared["published_margin"]
            found[f"{name}_logp_error"] = compared["published_logp_error"]
    trainer.release()
    trainer._settings = settings
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="models/smollm2-135m-instruct")
    parser.add_argument("--steps", type=int, nargs="+", default=[8, 24])
    parser.add_argument("--lr", type=float, default=1e-4)
    parser.add_argument("--rank", type=int, default=16)
    given = parser.parse_args()
    logging.disable(logging.INFO)
    adam = dataclasses.asdict(AdamConfig(lr=given.lr))
    optimizer = OptimizerSettings(**adam, max_norm=1.0, lr_scheduler="cosine", lr_warmup_ratio=0.0, min_lr_ratio=0.1)
    settings = TrainingSettings(
        optimizer=optimizer,
        beta=0.1,
        zero_stage=2,
        param_dtype="fp32",
        seed=1,
        device="cpu",
        num_threads=2,
        timeout_s=60.0,
        lora=LoraConfig(rank=given.rank, alpha=2 * given.rank),
    )
    trainer = TrainingRank(settings, 0, 1)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    trainer.setup("127.0.0.1", port)
    for num_steps in given.steps:
        found = measure(trainer, given.model, num_steps)
        print(json.dumps({name: round(value, 4) for name, value in found.items()}), flush=True)


if __name__ == "__main__":
    main()
