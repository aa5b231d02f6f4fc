"""A training rank without DeepSpeed, which dies when it is told to."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from fakes import fake_logps, write_checkpoint, write_policy

from actors import weights
from maskdpo_ray.errors import NotFiniteError
from maskdpo_ray.records import TrainingExample
from maskdpo_ray.store.files import Proof
from maskdpo_ray.training import batches
from maskdpo_ray.training.example_store import ExampleStore
from maskdpo_ray.training.reference import ReferenceLogps


class FakeRank:
    """`actors.training.TrainingRank` without DeepSpeed; set `log` in a subclass.

    What a pair's id starts with decides: "bad/" makes a step's loss NaN, "oom/" takes too much memory; "die/x" ends the
    process of the rank that meets it in a step, "die-reference/x" in the reference log-probs, each the first time,
    "die-always/" each time; "wait/x" never ends in a group that has not yet lost a rank by x, like a collective
    operation, and "broken/x" fails there, like one that noticed. Rank 1 dies when it first joins a group, if a file
    `die-in-setup` lies beside the log. A policy folder whose path holds "die-save" ends rank
    1 the first time that it is saved.
    """

    log = ""

    def __init__(self, config: Any, rank: int, world_size: int, threads: int, chat_template: str | None) -> None:
        self._config, self._rank, self._world_size = config, rank, world_size
        self._state = b""

    def _note(self, event: str, **values: Any) -> None:
        line = json.dumps({"event": event, "rank": self._rank, **values}) + "\n"
        with open(self.log, "ab", buffering=0) as file:
            file.write(line.encode())

    def address(self) -> tuple[str, int]:
        return "127.0.0.1", 29500

    def setup(self, master_addr: str, master_port: int) -> str | None:
        self._survived = {path.name for path in Path(self.log).parent.glob("died-of-*")}
        if self._rank == 1 and Path(self.log).with_name("die-in-setup").exists():
            self._meet(["die/setup"], "die")
        savings = dataclasses.asdict(self._config.savings)
        self._note("setup", address=[master_addr, master_port], world_size=self._world_size, savings=savings)
        return None

    def _meet(self, pair_ids: Iterable[str], killer: str) -> None:
        for kind, _, name in (pair_id.partition("/") for pair_id in pair_ids):
            marker = Path(self.log).with_name(f"died-of-{name}")
            is_first = marker.name not in self._survived
            if kind == "die-always" or (kind == killer and is_first):
                marker.touch()
                os._exit(1)
            if kind == "wait" and is_first:
                time.sleep(3600)
            if kind == "broken" and is_first:
                raise RuntimeError("Connection closed by peer\nand more")
            if kind == "oom":
                raise MemoryError("tried to allocate 2.00 GiB")
            if kind == "bad":
                raise NotFiniteError("expected a finite loss, got nan")

    def begin(
        self,
        config: Any,
        policy_path: str,
        examples: str,
        total_steps: int,
        seed: int,
        reference_path: str | None,
        reference_logps: str | None,
        starts_at_reference: bool,
    ) -> None:
        self._config = config
        self._note("begin", path=policy_path, total_steps=total_steps, seed=seed, reference=reference_path)
        self._examples, self._reference = ExampleStore(Path(examples)), reference_path
        self._logps = reference_logps and ReferenceLogps(Path(reference_logps), self._examples)
        self._state = weights.checksum(policy_path).encode()

    def _share(self, examples: Sequence[TrainingExample], indices: Sequence[int]) -> list[list[int]]:
        """This rank's micro-batches."""
        batch, config = [examples[index] for index in indices], self._config
        share = batches.micro_batches(batch, self._rank, self._world_size, config.train, config.savings)
        return [[indices[place] for place in places] for places in share]

    def reference_logps(
        self, examples: str, indices: Sequence[int], policy_path: str | None = None
    ) -> dict[int, tuple[np.ndarray, np.ndarray]]:
        store = ExampleStore(Path(examples))
        share = self._share(store, indices)
        self._note("reference", sizes=[len(batch) for batch in share])
        own = {index: store[index] for batch in share for index in batch}
        self._meet((example.id for example in own.values()), "die-reference")
        return {index: fake_logps(example, str(policy_path)) for index, example in own.items()}

    def published_logps(
        self, examples: str, indices: Sequence[int], path: str
    ) -> dict[int, tuple[np.ndarray, np.ndarray]]:
        self._note("published", path=path)
        store = ExampleStore(Path(examples))
        return {index: fake_logps(store[index], "None") for batch in self._share(store, indices) for index in batch}

    def train_step(self, batch: Sequence[int]) -> dict[str, float]:
        share = self._share(self._examples, batch)
        ids = [[self._examples[index].id for index in together] for together in share]
        self._note("step", ids=ids, size=len(batch))
        self._meet(sum(ids, []), "die")
        for index in (index for together in share for index in together):
            example = self._examples[index]
            if self._logps:
                logps = self._logps[index]
            else:
                assert self._reference is not None
                logps = fake_logps(example, self._reference)
            assert list(map(len, logps)) == [len(response.token_ids) for response in example.responses]
            self._state = hashlib.sha256(self._state + b"".join(each.tobytes() for each in logps)).digest()
        return {"loss": float(self._rank), "accuracy": 0.5, "tokens": float(sum(map(len, ids)))}

    def save_checkpoint(self, folder: str) -> dict[str, Proof]:
        self._note("save_checkpoint", folder=folder)
        return write_checkpoint(Path(folder), f"rank-{self._rank}", self._state)

    def load_checkpoint(self, folder: str) -> None:
        self._note("load_checkpoint", folder=folder)
        self._state = (Path(folder) / f"rank-{self._rank}").read_bytes()

    def save_policy(self, path: str) -> None:
        self._note("save")
        if "die-save" in path and self._rank == 1:
            self._meet(["die/save"], "die")
        if self._rank == 0:
            write_policy(path, 0, self._state)

    def release(self) -> None:
        self._note("release")

    def close(self) -> None:
        self._note("close")
