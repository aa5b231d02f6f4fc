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

from actors.training import TrainingRank
from maskdpo_ray.config.schema import (
    AdamConfig,
    Config,
    DeepspeedConfig,
    LoraConfig,
    ModelConfig,
    TrainConfig,
    VllmConfig,
)
from maskdpo_ray.records import TrainingExample
from maskdpo_ray.training.example_store import ExampleStore
from maskdpo_ray.training.guards import PublishedPolicy
from maskdpo_ray.training.reference import save

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
        found.append(TrainingExample.of_pair(country, tuple(prompt), chosen, rejected, *weights))
    return found


def measure(trainer: TrainingRank, config: Config, num_steps: int) -> dict[str, float]:
    """Shares of the trained margin, and the error of log-probs in nats."""
    model = config.model.model_name_or_path
    found: dict[str, float] = {"steps": num_steps}
    with tempfile.TemporaryDirectory() as folder:
        store = ExampleStore.write(Path(folder), examples(model))
        path, indices = str(store.path), range(len(store))
        reference = trainer.reference_logps(path, indices, model)
        file = Path(folder) / "logps.safetensors"
        save(file, store, (reference[index] for index in indices), "")
        trainer.begin(config, model, path, num_steps, reference_logps=str(file), starts_at_reference=True)
        for _ in range(num_steps):
            trainer.train_step(indices)
        trained = trainer.reference_logps(path, indices)
        in_bfloat16 = dataclasses.replace(config, vllm=VllmConfig(dtype="bfloat16"))
        saved = {}
        for name, held in (("nearest", config), ("published", in_bfloat16)):
            trainer._config = held
            saved[name] = str(Path(folder) / name)
            trainer.save_policy(saved[name])
        for name, policy in saved.items():
            trainer.release()
            logps = trainer.published_logps(path, indices, policy)  # to the nearest, where not in bfloat16 already
            each = ([given[index] for index in indices] for given in (trained, logps, reference))
            compared = PublishedPolicy.compare(store, *each).metrics()
            found[f"{name}_margin"] = compared["published_margin"]
            found[f"{name}_logp_error"] = compared["published_logp_error"]
    trainer.release()
    trainer._config = config
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="models/smollm2-135m-instruct")
    parser.add_argument("--steps", type=int, nargs="+", default=[8, 24])
    parser.add_argument("--lr", type=float, default=1e-4)
    parser.add_argument("--rank", type=int, default=16)
    given = parser.parse_args()
    logging.disable(logging.INFO)
    config = Config(
        model=ModelConfig(given.model),
        train=TrainConfig(lr_warmup_ratio=0.0),
        adam=AdamConfig(lr=given.lr),
        ds=DeepspeedConfig(param_dtype="fp32"),
        lora=LoraConfig(rank=given.rank, alpha=2 * given.rank),
        vllm=VllmConfig(dtype="float32"),
    )
    trainer = TrainingRank(config, 0, 1, threads=2)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    trainer.setup("127.0.0.1", port)
    for num_steps in given.steps:
        found = measure(trainer, config, num_steps)
        print(json.dumps({name: round(value, 4) for name, value in found.items()}), flush=True)


if __name__ == "__main__":
    main()
