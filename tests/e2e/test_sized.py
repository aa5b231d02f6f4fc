"""The calculator's sums beside the tensors of real DeepSpeed ranks."""

from __future__ import annotations

import gc
import json
from pathlib import Path

import pytest
import rank_processes
import torch
from plain_training import Member

from maskdpo_ray.config.schema import AdamConfig, ClusterConfig, Config, DeepspeedConfig, ModelConfig, TrainConfig
from maskdpo_ray.models import memory, shape
from maskdpo_ray.records import TrainingExample

pytestmark = pytest.mark.timeout(600)

WORLD = 2
PAIR = TrainingExample.of_pair("q", (11, 12, 13), (14, 15, 16), (17, 18), (1.0,) * 3, (1.0,) * 2)
REFERENCE = (torch.zeros(3).numpy(), torch.zeros(2).numpy())


def allocated(buckets: list[torch.Tensor]) -> int:
    """Bytes of all live tensors but `buckets`, whose memory a CPU gives only where it is written to."""
    gc.collect()
    tensors = [item for item in gc.get_objects() if isinstance(item, torch.Tensor)]
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors if not t.is_meta}
    for bucket in buckets:
        storages.pop(bucket.untyped_storage().data_ptr(), None)
    return sum(storages.values())


def measure(member: Member, model: str, stage: int) -> dict[str, int]:
    """Bytes of tensors just before an optimizer step and after it, in an iteration of two steps of two passes each."""
    member.begin(model, 2, logps=[REFERENCE] * 2 * WORLD)
    engine = member.trainer._engine
    step = engine.step
    buckets = [bucket.buffer for bucket in engine.optimizer.ipg_buckets.values()] if stage == 3 else []
    found = {}

    def measured_step() -> None:
        found["before_step"] = allocated(buckets)
        step()

    engine.step = measured_step
    member.steps([[*range(2 * WORLD)]] * 2)
    found["lasting"] = allocated(buckets)
    engine.step = step
    return found


def rank_main(rank: int, world: int, port: int, stage: int, dtype: str, model: str, folder: str) -> None:
    """Write what lies in memory to `folder`."""
    torch.set_num_threads(1)
    # Of all examples two are a rank's, each in a pass of its own.
    member = Member(config_of(model, stage, dtype), rank, world, port, folder, [PAIR] * 2 * WORLD)
    Path(f"{folder}/{rank}.json").write_text(json.dumps(measure(member, model, stage)))
    member.trainer.close()


def config_of(model: str, stage: int, dtype: str) -> Config:
    return Config(
        model=ModelConfig(model),
        ds=DeepspeedConfig(zero_stage=stage, param_dtype=dtype),
        train=TrainConfig(num_ranks=WORLD, batch_size=2 * WORLD, micro_batch_size=1, lr_scheduler="constant"),
        adam=AdamConfig(lr=1e-3),
        cluster=ClusterConfig(step_timeout_s=120),
    )


def predicted(model: Path, stage: int, dtype: str) -> memory.RankMemory:
    return memory.RankMemory(shape.of_folder(model), config_of(str(model), stage, dtype), memory.Pass(8, 5))


@pytest.mark.parametrize(
    ("stage", "dtype"),
    [
        (3, "bf16"),
        pytest.param(2, "bf16", marks=pytest.mark.nightly),
        pytest.param(2, "fp32", marks=pytest.mark.nightly),
        pytest.param(3, "fp32", marks=pytest.mark.nightly),
    ],
)
def test_weights_gradients_and_optimizer(tiny_model: Path, tmp_path: Path, stage: int, dtype: str) -> None:
    rank_processes.run(rank_main, WORLD, stage, dtype, str(tiny_model), str(tmp_path))
    reports = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(WORLD)]
    rank = predicted(tiny_model, stage, dtype)
    lasting = sum(rank.lasting().values())
    assert max(report["lasting"] for report in reports) == pytest.approx(lasting, rel=0.01)
    # Before a step gradients of all passes are summed up; beside them nothing of a pass is left.
    gradients = rank.moments()["backward pass"]["gradients of this rank's share"] / 2
    expected = lasting + gradients
    assert max(report["before_step"] for report in reports) == pytest.approx(expected, rel=0.01)
