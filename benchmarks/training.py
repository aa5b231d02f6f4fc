#!/usr/bin/env python3
"""Our training beside TRL's and OpenRLHF's: the same pairs, tokens, model, batches, order, optimizer and threads.

PYTHONPATH=. python benchmarks/make_pairs.py
PYTHONPATH=. python benchmarks/training.py --json training.json

Every contender has a process of its own; they take turns, `--repeats` times. Counted are reference log-probs and all
optimizer steps. Not counted is what happens once, whatever the number of pairs: imports, starting Ray, loading models.
docs/benchmarks.md says what is compared with what.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks import measures
from benchmarks.contender import NAMES
from benchmarks.workload import Workload

OTHERS_MICRO_BATCH_SIZE = 4
"""Pairs per pass at which TRL is fastest on two cores; with 2 or 8 it is slower by a few percent."""
MODEL = "models/smollm2-135m-instruct"
BASELINE, PRECOMPUTED = "trl", "trl-precompute"
ONCE = ("authors-rule", "openrlhf")
"""Take part in the first repeat only: no bar is measured by them."""


def turn(name: str, workload: Workload) -> dict[str, Any]:
    """One contender's outcome, or {"failed": the last line that it said}."""
    environment = os.environ | {
        "OMP_NUM_THREADS": str(workload.threads),
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "TQDM_DISABLE": "1",
    }
    with tempfile.TemporaryDirectory() as folder:
        output, log = Path(folder) / "outcome.json", Path(folder) / "log"
        command = [sys.executable, "-m", "benchmarks.contender", name, workload.to_json(), str(output)]
        with log.open("wb") as file:
            code = subprocess.run(command, env=environment, stdout=file, stderr=subprocess.STDOUT).returncode
        if code or not output.exists():
            lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
            return {"failed": lines[-1].strip() if lines else f"exit code {code}"}
        return json.loads(output.read_text())


def summary(name: str, outcomes: list[dict[str, Any]], workload: Workload, rate: float | None) -> dict[str, Any]:
    """Summary of one contender's turns.

    `rate`: operations per second that this machine's matrix products reach, for the share of it that we use.
    """
    failed = [outcome["failed"] for outcome in outcomes if "failed" in outcome]
    if failed:
        return {"contender": name, "failed": failed[0]}
    pairs = workload.num_pairs * workload.epochs
    result = {
        "contender": name,
        "options": workload.options,
        "pairs_per_second": measures.spread([pairs / outcome["seconds"] for outcome in outcomes]),
        "peak_memory_gib": measures.spread([outcome["peak_rss"] / measures.GIB for outcome in outcomes]),
        "seconds": [outcome["seconds"] for outcome in outcomes],
        "losses": outcomes[0]["losses"],
        "outcomes": outcomes,
    }
    flops = outcomes[0]["details"].get("flops")
    if flops and rate:
        result["share_of_matrix_rate"] = measures.spread(
            [outcome["details"]["flops"] / outcome["seconds"] / rate for outcome in outcomes]
        )
    return result


def ratios(summaries: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Ratios of each contender: how many times as fast as TRL, and its share of TRL's memory, by medians."""
    by_name = {each["contender"]: each for each in summaries if "failed" not in each}
    found: dict[str, dict[str, float]] = {}
    for name, each in by_name.items():
        for other in (BASELINE, PRECOMPUTED):
            if other in by_name:
                speed = each["pairs_per_second"]["median"] / by_name[other]["pairs_per_second"]["median"]
                memory = each["peak_memory_gib"]["median"] / by_name[other]["peak_memory_gib"]["median"]
                found.setdefault(name, {})[f"speed/{other}"] = speed
                found[name][f"memory/{other}"] = memory
    return found


def shown(summaries: list[dict[str, Any]]) -> str:
    """The table."""
    compared = ratios(summaries)
    rows = []
    for each in summaries:
        name = each["contender"]
        if "failed" in each:
            rows.append([name, f"failed: {each['failed'][:90]}", "", "", "", ""])
            continue
        own = compared.get(name, {})
        share = each.get("share_of_matrix_rate")
        rows.append(
            [
                name,
                measures.shown_spread(each["pairs_per_second"], 3),
                measures.shown_spread(each["peak_memory_gib"]),
                " / ".join(f"{own[key]:.2f}" if (key := f"speed/{o}") in own else "-" for o in (BASELINE, PRECOMPUTED)),
                " / ".join(
                    f"{own[key]:.2f}" if (key := f"memory/{o}") in own else "-" for o in (BASELINE, PRECOMPUTED)
                ),
                f"{share['median']:.0%}" if share else "-",
            ]
        )
    header = [
        "contender",
        "pairs/s, median (range)",
        "peak memory, GiB",
        "speed, times TRL / precomputed",
        "memory, share of TRL's / precomputed",
        "of the matrix rate",
    ]
    return measures.table(header, rows)


def shown_losses(summaries: list[dict[str, Any]]) -> str:
    """Loss of each optimizer step, one row a contender."""
    curves = [(each["contender"], each["losses"]) for each in summaries if "failed" not in each]
    if not curves:
        return ""
    steps = [str(step) for step in range(1, len(curves[0][1]) + 1)]
    return measures.table(["loss of step", *steps], [[name, *(f"{x:.4f}" for x in losses)] for name, losses in curves])


def compare(workload: Workload, contenders: dict[str, dict[str, Any]], repeats: int) -> dict[str, Any]:
    """All turns. `contenders`: name -> its options; a name may go on after a colon, to stand twice with others."""
    from transformers import AutoConfig

    shape = measures.Shape.of(AutoConfig.from_pretrained(workload.model))
    outcomes: dict[str, list[dict[str, Any]]] = {name: [] for name in contenders}
    rates = []
    for repeat in range(repeats):
        rates.append(measures.matrix_rate(shape, 1024, threads=workload.threads, dtype=workload.dtype))
        for name, options in contenders.items():
            if repeat and name.partition(":")[0] in ONCE:
                continue
            outcome = turn(name.partition(":")[0], replace(workload, options=options))
            outcomes[name].append(outcome)
            said = outcome.get("failed") or f"{outcome['seconds']:.1f} s, {outcome['peak_rss'] / measures.GIB:.2f} GiB"
            print(f"turn {repeat + 1} of {repeats}: {name}: {said}", file=sys.stderr, flush=True)
    rate = max(rates)
    summaries = [
        summary(name, found, replace(workload, options=contenders[name]), rate) for name, found in outcomes.items()
    ]
    return {
        "machine": measures.machine(),
        "workload": json.loads(workload.to_json()),
        "repeats": repeats,
        "matrix_rate_gflops": [each / 1e9 for each in rates],
        "contenders": summaries,
        "ratios": ratios(summaries),
    }


def parser(description: str) -> argparse.ArgumentParser:
    """The options that the training benchmarks share."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--pairs", default="runs/bench-pairs/quickstart.jsonl")
    made.add_argument("--model", default=MODEL)
    made.add_argument("--num_pairs", type=measures.count, default=16)
    made.add_argument("--batch_size", type=measures.count, default=16, help="Pairs per optimizer step.")
    made.add_argument("--epochs", type=measures.count, default=2)
    made.add_argument("--repeats", type=measures.count, default=3)
    made.add_argument("--threads", type=measures.count, default=len(os.sched_getaffinity(0)))
    made.add_argument("--dtype", choices=["bf16", "fp32"], default="fp32", help="fp32: as the quickstart trains")
    measures.json_option(made)
    return made


def workload_of(given: argparse.Namespace) -> Workload:
    """Workload of the options. Raises ValueError when the pairs don't suffice."""
    workload = Workload(
        pairs=given.pairs,
        model=given.model,
        num_pairs=given.num_pairs,
        batch_size=given.batch_size,
        epochs=given.epochs,
        threads=given.threads,
        dtype=given.dtype,
    )
    workload.read()
    return workload


def options_of(contender: str, given: argparse.Namespace) -> dict[str, Any]:
    """Options of a contender's process. Raises SystemExit on an unknown name."""
    name, _, pairs = contender.partition(":")
    if name not in NAMES or not (pairs or "1").isdecimal():
        raise SystemExit(
            f"--contenders: expected names of {', '.join(NAMES)}, with :PAIRS or without; got {contender!r}"
        )
    if name.startswith("ours"):
        return {"train.micro_batch_size": int(pairs)} if pairs else {}
    return {
        "micro_batch_size": int(pairs or OTHERS_MICRO_BATCH_SIZE),
        "weights": given.trl_weights,
        "gradient_checkpointing": given.trl_gradient_checkpointing,
    }


def main() -> None:
    """Command line: take turns, print the tables."""
    made = parser(__doc__ or "")
    made.add_argument(
        "--contenders",
        nargs="+",
        default=list(NAMES),
        metavar="NAME[:PAIRS]",
        help=f"{', '.join(NAMES)}; PAIRS: per forward pass, by default 8 for ours and 4 for the others.",
    )
    made.add_argument("--trl_weights", choices=["bf16", "fp32"], default="bf16", help="fp32: under bf16 autocast")
    made.add_argument("--trl_gradient_checkpointing", action="store_true")
    given = made.parse_args()
    contenders = {name: options_of(name, given) for name in given.contenders}
    report = compare(workload_of(given), contenders, given.repeats)
    print(shown(report["contenders"]))
    print(f"\n{shown_losses(report['contenders'])}")
    print(f"\nmatrix rate: {max(report['matrix_rate_gflops']):.0f} GFLOP/s in {given.dtype}")
    measures.keep(report, given.json)


if __name__ == "__main__":
    main()
