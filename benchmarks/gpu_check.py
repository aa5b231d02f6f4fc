#!/usr/bin/env python3
"""The training rank on one GPU in ten minutes: does it compute what it should, how fast, in how much memory.

PYTHONPATH=. python benchmarks/gpu_check.py --json gpu.json

Run it on every new kind of card before a long run. It needs torch, transformers, deepspeed, openrlhf (`--no-deps`, with
peft, einops, torchdata and pylatexenc) and msgspec; trl with datasets for TRL's rows. No Ray, vLLM, nvcc or model: the
weights are random, at the shapes of Llama-3.2-1B and -3B.

A section is a process of its own and has a share of the time that is left: one that fails or is stopped costs its own
figures only, and exit code 1 says so in the end. docs/benchmarks.md explains the tables. On a CPU, `--device cpu` runs
all of it at a tiny shape.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import measures

Figures = dict[str, Any]
_SAME_LOSS = 0.02
"""Difference of two first steps' losses that rounding to bf16 explains."""


@dataclass(frozen=True)
class Section:
    """One process's part of the figures."""

    kind: str
    """Key of `KINDS`."""
    shape: str
    variant: str = ""
    """"lora" or "checkpointed", of a rank."""
    weight: float = 1.0
    """Share of the time beside other sections."""

    @property
    def name(self) -> str:
        return " ".join(filter(None, (self.kind, self.shape, self.variant)))


def sections(device: str) -> list[Section]:
    """All sections, the most important first."""
    small, large = ("1b", "3b") if device == "cuda" else ("tiny", "tiny")
    found = [
        Section("rate", small, weight=0.3),
        Section("agreement", small),
        Section("rank", small),
        Section("trl", small),
        Section("rank", large, weight=1.5),
        Section("rank", large, "lora"),
        Section("trl", large),
        Section("rank", large, "checkpointed"),
        Section("rate", large, weight=0.3),
    ]
    return list({each.name: each for each in found}.values())


def config_of(shape: str) -> Any:
    """transformers' config of a shape: "1b" and "3b" are Llama-3.2's."""
    from transformers import LlamaConfig

    from maskdpo_ray.models.shape import of_size

    if shape != "tiny":
        return of_size(shape, "--shape").config
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "vocab_size": 512}
    return LlamaConfig(**sizes, num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True)


def model_folder(shape: str, given: argparse.Namespace) -> str:
    """Folder of a model with random bf16 weights and a tokenizer, written when first asked for."""
    folder = given.work / shape
    if folder.is_dir():
        return str(folder)
    import torch
    from tokenizers import Tokenizer, models
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device(given.device):
        model = LlamaForCausalLM(config_of(shape))
    torch.set_default_dtype(torch.float32)
    partial = given.work / f"{shape}.partial"
    model.save_pretrained(partial)
    words = Tokenizer(models.WordLevel({"<pad>": 0, "<unk>": 1, "</s>": 2}, unk_token="<unk>"))
    PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="</s>").save_pretrained(partial)
    partial.rename(folder)
    return str(folder)


def examples(count: int, prompt: int, answer: int, vocabulary: int, pairs_per_prompt: int = 1) -> list[Any]:
    """Random pairs; sentences of 16 tokens have weight in turns, on both sides."""
    from maskdpo_ray.records import TrainingExample

    rng = random.Random(0)

    def ids(length: int) -> tuple[int, ...]:
        return tuple(rng.randrange(3, vocabulary) for _ in range(length))

    prompts = [ids(prompt) for _ in range(-(-count // pairs_per_prompt))]
    weights = tuple(float(index // 16 % 2 == 0) for index in range(answer))
    return [
        TrainingExample.of_pair(
            str(number), prompts[number // pairs_per_prompt], ids(answer), ids(answer), weights, weights
        )
        for number in range(count)
    ]


class Device:
    """Memory and the clock of a GPU, or of this process on a CPU."""

    def __init__(self, name: str) -> None:
        self._is_gpu = name == "cuda"

    def wait(self) -> None:
        """Return once all work that was started is done."""
        if self._is_gpu:
            import torch

            torch.cuda.synchronize()

    def timed(self, call: Callable[[], Any]) -> tuple[float, Any]:
        """(seconds, result)."""
        self.wait()
        begin = time.perf_counter()
        result = call()
        self.wait()
        return time.perf_counter() - begin, result

    def forget_peak(self) -> None:
        """The peak starts anew."""
        if self._is_gpu:
            import torch

            torch.cuda.reset_peak_memory_stats()
        else:
            measures.forget_peak_rss()

    def peak(self) -> int:
        """Bytes: tensors on the GPU, or the process's resident memory."""
        import torch

        return torch.cuda.max_memory_allocated() if self._is_gpu else measures.peak_rss()

    def held(self) -> int:
        """Bytes that are taken now: of the whole GPU, CUDA's context included, or of this process."""
        if self._is_gpu:
            import torch

            free, total = torch.cuda.mem_get_info()
            return total - free
        return measures.rss()


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


def rate(section: Section, given: argparse.Namespace) -> Figures:
    """The highest rate of bf16 products of the shape's layers, in operations per second."""
    shape, tokens = measures.Shape.of(config_of(section.shape)), 2 * given.micro_batch_size * given.answer_tokens
    seconds = 2.0 if given.device == "cuda" else 0.1
    return {"operations_per_second": measures.matrix_rate(shape, tokens, given.device, seconds, given.threads)}


def agreement(section: Section, given: argparse.Namespace) -> Figures:
    """Log-probs and gradients of a prefix tree in bf16 beside padded rows in bf16, and both beside rows in fp32.

    Pairs that share prompts; loss and weights are Mask-DPO's. Errors of log-probs are per token, in nats; of the
    gradient of all weights relative, in norm.
    """
    import torch
    from transformers import AutoModelForCausalLM

    from maskdpo_ray.training import guards, lean_layers, tree_attention
    from maskdpo_ray.training.forward import ALL_SAVINGS, response_logps
    from maskdpo_ray.training.objectives import dpo

    folder = model_folder(section.shape, given)
    pairs = examples(
        4, given.prompt_tokens, given.answer_tokens, config_of(section.shape).vocab_size, pairs_per_prompt=2
    )
    rows_only = replace(ALL_SAVINGS, prefix_tree=False)
    way = ""

    def computed(dtype: torch.dtype, is_tree: bool) -> tuple[Any, Any, list[Any]]:
        nonlocal way
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).to(given.device).eval()
        if is_tree:
            way = tree_attention.install(model)
            lean_layers.install(model)
        else:
            model.set_attn_implementation("sdpa")
        savings = ALL_SAVINGS if is_tree else rows_only
        logps, weights = response_logps(model, pairs, given.device, savings)
        loss, _, _ = dpo.masked_dpo_loss(logps, logps.detach(), weights, 0.1, reduction="sum")
        loss.backward()
        return logps.detach(), weights, [parameter.grad.cpu() for parameter in model.parameters()]

    found = {
        "tree, bf16": computed(torch.bfloat16, True),
        "rows, bf16": computed(torch.bfloat16, False),
        "rows, fp32": computed(torch.float32, False),
    }

    def beside(one: str, other: str) -> Figures:
        (logps, weights, gradients), (others, _, other_gradients) = found[one], found[other]
        errors = (logps - others).abs()[weights > 0]
        squares = [
            ((mine.float() - its.float()).square().sum().item(), its.float().square().sum().item())
            for mine, its in zip(gradients, other_gradients, strict=True)
        ]
        error, size = (sum(each) ** 0.5 for each in zip(*squares, strict=True))
        return {"logps": errors.mean().item(), "largest": errors.max().item(), "gradient": error / size}

    names = list(found)
    compared = {
        f"{one} beside {other}": beside(one, other) for one, other in zip(names, names[1:] + names[:1], strict=True)
    }
    ours = compared["tree, bf16 beside rows, bf16"]
    agrees = ours["logps"] <= guards.LOGPS["bf16"] and ours["gradient"] <= guards.GRADIENT["bf16"]
    return {"attention": way, "compared": compared, "agrees": agrees}


def rank(section: Section, given: argparse.Namespace) -> Figures:
    """One `TrainingRank` of a group of one: reference log-probs, steps, publication, and what it keeps at rest.

    Its own checks are on: the tree against rows, and the first step's log-probs against the reference's.
    """
    from actors.training import TrainingRank
    from maskdpo_ray.config import schema
    from maskdpo_ray.models import memory, shape
    from maskdpo_ray.training import prefix_tree, reference
    from maskdpo_ray.training.example_store import ExampleStore

    device, folder = Device(given.device), model_folder(section.shape, given)
    pairs = examples(given.batch_size, given.prompt_tokens, given.answer_tokens, config_of(section.shape).vocab_size)
    config = schema.Config(
        model=schema.ModelConfig(folder, gradient_checkpointing_enable=section.variant == "checkpointed"),
        train=schema.TrainConfig(
            batch_size=given.batch_size,
            micro_batch_size=given.micro_batch_size,
            max_tokens_per_gpu=10**9,
            lr_scheduler="constant",
        ),
        adam=schema.AdamConfig(lr=given.lr),
        lora=schema.LoraConfig(rank=16 if section.variant == "lora" else 0),
        cluster=schema.ClusterConfig(device=given.device),
    )
    one = TrainingRank(config, 0, 1, given.threads)
    one.setup("127.0.0.1", _free_port())
    work = given.work / section.name
    work.mkdir()
    store = ExampleStore.write(work, pairs)
    every, found = range(len(store)), {}
    one.reference_logps(str(store.path), every, folder)  # kernels are compiled
    found["reference_seconds"], logps = device.timed(lambda: one.reference_logps(str(store.path), every, folder))
    saved = reference.save(work / "logps.safetensors", store, [logps[index] for index in every], "")

    def begin() -> None:
        one.begin(
            config, folder, str(store.path), given.steps + 1, reference_logps=str(saved.path), starts_at_reference=True
        )

    found["begin_seconds"], _ = device.timed(begin)
    losses = []

    def step() -> None:
        losses.append(one.train_step(every)["loss"])

    found["first_step_seconds"], _ = device.timed(step)
    device.forget_peak()
    counter = Counter(_plain(one._engine.module))
    seconds = _steps(step, device, given)
    found["peak_bytes"] = device.peak()
    found["publication_seconds"], _ = device.timed(lambda: one.save_policy(str(work / "policy")))
    found["working_bytes"] = device.held()
    found["rest_seconds"], _ = device.timed(one.release)
    found["resting_bytes"] = device.held()
    found["return_seconds"], _ = device.timed(begin)
    step()  # computes what the first one did
    one.close()

    tree = prefix_tree.build(*_columns(pairs[: given.micro_batch_size]))
    largest = memory.Pass(len(tree.token_ids), len(set(tree.nodes.tolist())))
    planned = memory.RankMemory(shape.of_folder(Path(folder)), config, largest)
    if given.device == "cpu":
        found["planned_bytes"] = sum(planned.on_cpu()[1].values())
    else:
        found["planned_bytes"] = sum({**planned.lasting(), **planned.fullest()[1]}.values())
    sizes = measures.Shape.of(config_of(section.shape))
    flops = measures.forward_flops(counter.work, sizes) / len(seconds)
    found["flops"] = 3 * flops + flops / given.epochs
    agrees = abs(losses[-1] - losses[0]) <= _SAME_LOSS
    return {**found, "losses": losses[:-1], "loss_after_return": losses[-1], "agrees": agrees, "step_seconds": seconds}


def trl(section: Section, given: argparse.Namespace) -> Figures:
    """TRL's DPOTrainer, its loss on the same pairs, a plain loop around it: AdamW on the bf16 weights themselves, the
    reference in each step, as by default."""
    import torch
    from transformers import AutoModelForCausalLM

    from benchmarks.by_trl import plain_trainer

    device, folder = Device(given.device), model_folder(section.shape, given)
    model, frozen = (
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).to(given.device) for _ in range(2)
    )
    pairs = examples(given.batch_size, given.prompt_tokens, given.answer_tokens, config_of(section.shape).vocab_size)
    trainer = plain_trainer(model, frozen, pairs, str(given.work / section.name), given)
    losses: list[float] = []
    batches, optimizer = list(trainer.get_train_dataloader()), trainer.create_optimizer()
    trainer.model.train()

    def step() -> None:
        total = 0.0
        for batch in batches:
            loss = trainer.compute_loss(trainer.model, trainer._prepare_inputs(batch)) / len(batches)
            loss.backward()
            total += float(loss.detach())
        torch.nn.utils.clip_grad_norm_(trainer.model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(total)

    first, _ = device.timed(step)
    device.forget_peak()
    seconds = _steps(step, device, given)
    length, rows = given.prompt_tokens + given.answer_tokens, 2 * given.batch_size
    work = measures.Work(rows * length, rows * measures.causal([length]), rows * given.answer_tokens)
    flops = 4 * measures.forward_flops(work, measures.Shape.of(config_of(section.shape)))
    return {
        "first_step_seconds": first,
        "step_seconds": seconds,
        "peak_bytes": device.peak(),
        "flops": flops,
        "losses": losses,
    }


KINDS: dict[str, Callable[[Section, argparse.Namespace], Figures]] = {
    "rate": rate,
    "agreement": agreement,
    "rank": rank,
    "trl": trl,
}


def _plain(module: Any) -> Any:
    """The Hugging Face model within adapters."""
    return module.get_base_model() if hasattr(module, "get_base_model") else module


def _steps(step: Callable[[], None], device: Device, given: argparse.Namespace) -> list[float]:
    """Seconds of each of at most `--steps` steps; no further one begins once half of the section's time has passed."""
    seconds: list[float] = []
    while not seconds or (len(seconds) < given.steps and time.monotonic() < given.began + given.seconds / 2):
        seconds.append(device.timed(step)[0])
    return seconds


def _columns(pairs: Sequence[Any]) -> tuple[list[Any], list[Any], list[Any]]:
    rows = [(each.prompt_token_ids, r.token_ids, r.weights) for each in pairs for r in each.responses]
    return tuple(map(list, zip(*rows, strict=True)))  # type: ignore[return-value]


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def take(section: Section, words: Sequence[str], seconds: float, work: Path) -> Figures:
    """A section's figures from a process of its own; {"failed": why} where it has none."""
    output, log = work / "figures.json", work / "log"
    output.unlink(missing_ok=True)
    command = [sys.executable, __file__, *words, "--only", section.name, "--work", str(work)]
    command += ["--seconds", f"{seconds:.1f}", "--json", str(output)]
    begin = time.monotonic()
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, stdout=file, stderr=subprocess.STDOUT, env=environment, start_new_session=True
        )
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            return {"failed": f"stopped after its {seconds:.1f} s"}
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # compilers of kernels as well
            process.wait()
    spent = {"section_seconds": round(time.monotonic() - begin, 1)}
    if code or not output.exists():
        lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
        return {"failed": lines[-1] if lines else f"exit code {code}", "log": lines[-40:], **spent}
    return {**json.loads(output.read_text()), **spent}


def main(words: list[str]) -> int:
    """All sections, the table, the JSON. Returns 1 when a section failed or figures do not agree."""
    given = parse(words)
    every = sections(given.device)
    if given.only:
        section = next(each for each in every if each.name == given.only)
        measures.keep(KINDS[section.kind](section, given), given.json)
        return 0
    end = time.monotonic() + 60 * given.minutes
    found: dict[str, Any] = {
        "machine": measures.machine(),
        "card": _card(given.device),
        "options": {name: value for name, value in vars(given).items() if name in _SHARED},
        "sections": {},
    }
    with tempfile.TemporaryDirectory(dir=given.work) as folder:
        for number, section in enumerate(every):
            share = section.weight / sum(each.weight for each in every[number:])
            seconds = share * (end - time.monotonic())
            print(f"{section.name}: at most {seconds:.0f} s", file=sys.stderr, flush=True)
            found["sections"][section.name] = take(section, words, seconds, Path(folder))
            measures.keep(found, given.json)  # now, whatever happens to those that follow
    print(shown(found))
    return 0 if is_good(found) else 1


def is_good(found: Figures) -> bool:
    """Whether every section has figures, trees agree with rows, and ranks that returned with themselves."""
    return not any("failed" in own or own.get("agrees") is False for own in found["sections"].values())


def _card(device: str) -> str:
    if device == "cpu":
        return str(measures.machine()["cpu"])
    import torch

    return torch.cuda.get_device_name()


_COLUMNS = (
    "tokens/s", "times TRL", "share of the matrix rate", "peak, GiB", "by `plan`", "at rest, GiB", "back after, s",
    "published in, s",
)  # fmt: skip


def speed(own: Figures, options: Figures) -> tuple[float, float]:
    """(tokens per second, operations per second) of a training section.

    Tokens are those that pairs hold, twice the prompt and both answers, whatever is computed of them. Our reference
    pass counts with the part that a step has of it over `--epochs`.
    """
    seconds = median(own["step_seconds"]) + own.get("reference_seconds", 0.0) / options["epochs"]
    tokens = 2 * (options["prompt_tokens"] + options["answer_tokens"]) * options["batch_size"]
    return tokens / seconds, own["flops"] / seconds


def shown(found: Figures) -> str:
    """The tables, and what failed."""
    parts, options = found["sections"], found["options"]
    good = {name: own for name, own in parts.items() if "failed" not in own}
    rates = {name.split()[1]: own["operations_per_second"] for name, own in good.items() if name.startswith("rate")}
    lines = [f"{found['card']}; " + ", ".join(f"{k} {v}" for k, v in found["machine"]["versions"].items())]
    lines += [f"bf16 products of {shape}'s layers: {each / 1e12:.3g} TFLOP/s" for shape, each in rates.items()]
    rows = []
    for name, own in good.items():
        kind, shape, *variant = name.split()
        if kind not in ("rank", "trl"):
            continue
        tokens, operations = speed(own, options)
        other = good.get(f"trl {shape}")
        gib = {each: f"{own[each] / measures.GIB:.2f}" for each in own if each.endswith("_bytes")}
        rows.append(
            [
                " ".join([shape, "TRL" if kind == "trl" else "ours", *variant]),
                f"{tokens:,.0f}",
                f"{tokens / speed(other, options)[0]:.2f}" if other else "-",
                f"{operations / rates[shape]:.2f}" if shape in rates else "-",
                gib["peak_bytes"],
                gib.get("planned_bytes", "-"),
                f"{gib['resting_bytes']} of {gib['working_bytes']}" if kind == "rank" else "-",
                *(f"{own[f'{each}_seconds']:.1f}" if kind == "rank" else "-" for each in ("return", "publication")),
            ]
        )
    lines += ["", measures.table(["training", *_COLUMNS], rows)] if rows else []
    for own in good.values():
        if "compared" in own:
            verdict = "agrees" if own["agrees"] else "DOES NOT AGREE"
            errors = [[name, *(f"{each:.2g}" for each in of.values())] for name, of in own["compared"].items()]
            header = [f"by {own['attention']}: {verdict}", "log-probs, mean error", "largest", "gradient, relative"]
            lines += ["", measures.table(header, errors)]
    failed = [f"{name}: FAILED: {own['failed'][:200]}" for name, own in parts.items() if "failed" in own]
    return "\n".join([*lines, *([""] if failed else []), *failed])


_SHARED = ("prompt_tokens", "answer_tokens", "batch_size", "micro_batch_size", "epochs", "steps", "lr", "threads")


def parse(words: Sequence[str]) -> argparse.Namespace:
    """Command line."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    made.add_argument("--minutes", type=float, default=9.5, help="for all sections")
    made.add_argument("--prompt_tokens", type=measures.count, default=512)
    made.add_argument("--answer_tokens", type=measures.count, default=512)
    made.add_argument("--batch_size", type=measures.count, default=16, help="pairs per optimizer step")
    made.add_argument("--micro_batch_size", type=measures.count, default=4, help="pairs per pass, of both")
    made.add_argument("--steps", type=measures.count, default=5, help="timed at most")
    made.add_argument("--epochs", type=measures.count, default=3, help="that share our one reference pass")
    made.add_argument("--lr", type=float, default=1e-6)
    made.add_argument("--threads", type=measures.count, default=len(os.sched_getaffinity(0)))
    made.add_argument("--work", type=Path, help="folder for models, removed in the end (10 GB; default: the system's)")
    made.add_argument("--only", help=argparse.SUPPRESS)
    made.add_argument("--seconds", type=float, help=argparse.SUPPRESS)
    measures.json_option(made)
    given = made.parse_args(words)
    given.began, given.gradient_checkpointing = time.monotonic(), False
    if given.device == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise SystemExit("--device cuda: no GPU here; --device cpu tries the script out at a tiny shape")
    return given


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
