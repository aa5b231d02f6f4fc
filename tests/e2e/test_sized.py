"""The calculator's sums beside the tensors of real DeepSpeed ranks."""

from __future__ import annotations

import gc
import json
from pathlib import Path

import pytest
import rank_processes
import torch

from actors.strategy import OptimizerSettings
from actors.training import TrainingRank, TrainingSettings
from maskdpo_ray.config.schema import Config, DeepspeedConfig, ModelConfig, TrainConfig
from maskdpo_ray.models import memory, shape
from maskdpo_ray.records import TrainingExample

pytestmark = pytest.mark.timeout(600)

WORLD = 2
OPTIMIZER = OptimizerSettings(
    lr=1e-3,
    betas=(0.9, 0.95),
    eps=1e-8,
    weight_decay=0.0,
    max_norm=1.0,
    lr_scheduler="constant",
    lr_warmup_ratio=0.0,
    min_lr_ratio=0.1,
)
PAIR = TrainingExample("q", (11, 12, 13), (14, 15, 16), (17, 18), (1.0,) * 3, (1.0,) * 2)
REFERENCE = (torch.zeros(3).numpy(), torch.zeros(2).numpy())


def allocated(buckets: list[torch.Tensor]) -> int:
    """Bytes of all live tensors but `buckets`, whose memory a CPU gives only where it is written to."""
    gc.collect()
    tensors = [item for item in gc.get_objects() if isinstance(item, torch.Tensor)]
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors if not t.is_meta}
    for bucket in buckets:
        storages.pop(bucket.untyped_storage().data_ptr(), None)
    return sum(storages.values())


def measure(trainer: TrainingRank, model: str, stage: int) -> dict[str, int]:
    """Bytes of tensors just before an optimizer step and after it, in an iteration of two steps of two passes each."""
    trainer.begin(model, 2)
    engine = trainer._engine
    step = engine.step
    buckets = [bucket.buffer for bucket in engine.optimizer.ipg_buckets.values()] if stage == 3 else []
    found = {}

    def measured_step() -> None:
        found["before_step"] = allocated(buckets)
        step()

    engine.step = measured_step
    for _ in range(2):
        trainer.train_step([[PAIR], [PAIR]], [[REFERENCE], [REFERENCE]], 2 * WORLD)
    found["lasting"] = allocated(buckets)
    engine.step = step
    return found


def rank_main(rank: int, world: int, port: int, stage: int, dtype: str, model: str, folder: str) -> None:
    """What lies in memory goes to `folder`."""
    torch.set_num_threads(1)
    settings = TrainingSettings(
        optimizer=OPTIMIZER,
        beta=0.1,
        zero_stage=stage,
        param_dtype=dtype,
        seed=1,
        device="cpu",
        num_threads=1,
        timeout_s=120,
    )
    trainer = TrainingRank(settings, rank, world)
    trainer.setup("127.0.0.1", port)
    Path(f"{folder}/{rank}.json").write_text(json.dumps(measure(trainer, model, stage)))
    trainer.close()


def predicted(model: Path, stage: int, dtype: str) -> memory.RankMemory:
    config = Config(
        model=ModelConfig(str(model)),
        ds=DeepspeedConfig(zero_stage=stage, param_dtype=dtype),
        train=TrainConfig(num_ranks=WORLD, batch_size=2 * WORLD),
    )
    return memory.RankMemory(shape.of_folder(model), config, memory.Pass(8, 5))


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
