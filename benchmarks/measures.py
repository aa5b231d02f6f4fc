"""Common parts of benchmarks: counted work, this machine's matrix rate, memory, spreads, tables and JSON."""

from __future__ import annotations

import argparse
import json
import os
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

GIB = 2**30


@dataclass(frozen=True)
class Shape:
    """Shape of a Llama-like model, from which its matrix products' cost follows."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int

    @classmethod
    def of(cls, config: Any) -> Shape:
        """From a transformers config."""
        return cls(
            config.hidden_size,
            config.intermediate_size,
            config.num_hidden_layers,
            config.num_attention_heads,
            config.num_key_value_heads,
            getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads,
            config.vocab_size,
        )

    def projections(self) -> list[tuple[int, int]]:
        """(inputs, outputs) of each matrix of one layer: q, k, v, o, gate, up, down."""
        q, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        h, i = self.hidden, self.intermediate
        return [(h, q), (h, kv), (h, kv), (q, h), (h, i), (h, i), (i, h)]


@dataclass(frozen=True)
class Work:
    """Tokens that went through a model in one kind of pass."""

    tokens: int = 0
    """Rows that the layers computed, padding included."""
    attended: int = 0
    """Pairs of a token and one that it attends to."""
    head_rows: int = 0
    """Rows that the LM head computed."""

    def __add__(self, other: Work) -> Work:
        return Work(self.tokens + other.tokens, self.attended + other.attended, self.head_rows + other.head_rows)


def forward_flops(work: Work, shape: Shape) -> float:
    """Multiplications and additions of a forward pass.

    2 x weights of the layers x tokens, 4 x width of the queries x attended pairs in each layer (scores and values), and
    2 x weights of the head x its rows. Norms, rotations and softmax are left out.
    """
    layer = sum(inputs * outputs for inputs, outputs in shape.projections())
    linear = 2 * layer * shape.layers * work.tokens
    attention = 4 * shape.heads * shape.head_dim * shape.layers * work.attended
    return float(linear + attention + 2 * shape.hidden * shape.vocabulary * work.head_rows)


def training_flops(work: Work, shape: Shape) -> float:
    """Forward and backward: the backward pass makes two products of each product of the forward pass."""
    return 3 * forward_flops(work, shape)


def causal(lengths: Sequence[int]) -> int:
    """Attended pairs of sequences of these lengths, each token attending to those before it and itself."""
    return sum(length * (length + 1) // 2 for length in lengths)


def matrix_rate(
    shape: Shape,
    tokens: int,
    device: str = "cpu",
    seconds: float = 1.0,
    threads: int | None = None,
    dtype: str = "bf16",
) -> float:
    """Floating point operations per second of products of a layer's shapes, `tokens` rows each: measured here.

    Each shape has its share of the layer's work; the products of a backward pass are of the same shapes turned around.
    """
    import torch

    if threads:
        torch.set_num_threads(threads)

    def wait() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    kind = torch.bfloat16 if dtype == "bf16" else torch.float32
    pairs = [
        (
            torch.randn(tokens, inputs, dtype=kind, device=device),
            torch.randn(outputs, inputs, dtype=kind, device=device),
        )
        for inputs, outputs in shape.projections()
    ]
    flops = sum(2 * tokens * inputs * outputs for inputs, outputs in shape.projections())
    best = float("inf")
    end = time.perf_counter() + seconds
    with torch.no_grad():
        while time.perf_counter() < end or best == float("inf"):
            wait()
            begin = time.perf_counter()
            for rows, weights in pairs:
                torch.nn.functional.linear(rows, weights)
            wait()
            best = min(best, time.perf_counter() - begin)
    return flops / best


def peak_rss(pid: int | str = "self") -> int:
    """Highest resident memory of a process since its start (or `forget_peak_rss`), bytes: VmHWM of Linux."""
    return _status("VmHWM", pid)


def rss(pid: int | str = "self") -> int:
    """Resident memory of a process, bytes."""
    return _status("VmRSS", pid)


def forget_peak_rss() -> None:
    """This process's `peak_rss` starts anew."""
    Path("/proc/self/clear_refs").write_text("5")


def _status(name: str, pid: int | str) -> int:
    found = re.search(rf"{name}:\s*(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    if found is None:
        raise OSError(f"/proc/{pid}/status: no {name}")
    return int(found[1]) * 1024


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median and range."""
    return {"median": median(values), "min": min(values), "max": max(values)}


def shown_spread(values: Mapping[str, float], digits: int = 2) -> str:
    """`3.21 (3.10-3.40)`."""
    return f"{values['median']:.{digits}f} ({values['min']:.{digits}f}-{values['max']:.{digits}f})"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose columns line up."""
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in [header, *rows]
    ]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])


def machine() -> dict[str, Any]:
    """Machine that made the figures: processor, cores, memory, versions."""
    import importlib.metadata as metadata

    cpu = re.search(r"model name\s*:\s*(.*)", Path("/proc/cpuinfo").read_text())
    packages = ("torch", "transformers", "deepspeed", "trl", "openrlhf", "ray")
    versions = {}
    for package in packages:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {
        "cpu": cpu[1] if cpu else "unknown",
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB, 1),
        "versions": versions,
    }


def count(text: str) -> int:
    """The `type` of an option that is a count of at least 1."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"expected a whole number above 0, got {text!r}")
    return int(text)


def json_option(made: argparse.ArgumentParser) -> None:
    """The option `--json`, which `keep` is to be given."""
    made.add_argument("--json", type=Path, metavar="FILE", help="file for the figures")


def keep(found: Mapping[str, Any], file: Path | None) -> None:
    """Write figures as JSON, where a file is given."""
    if file:
        file.write_text(json.dumps(found, indent=1) + "\n")


def plain(value: Any) -> Any:
    """A dataclass as JSON values."""
    return asdict(value)
