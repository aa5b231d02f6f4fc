"""OpenRLHF's DPOTrainer on the token ids of our pairs, in our order, on its DeepSpeed strategy.

Published for CUDA and FlashAttention only: here it runs on `actors.strategy`'s CPU strategy, and with SDPA attention.
"""

from __future__ import annotations

import socket
import tempfile
import time
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from benchmarks import measures
from benchmarks.workload import Outcome, Workload
from maskdpo_ray.config.schema import AdamConfig, Config, DeepspeedConfig, ModelConfig, RunConfig, TrainConfig


class _Sides:
    """Pairs as OpenRLHF's RewardDataset gives them; its own texts are tokenized again, with a space before EOS."""

    def __init__(self, pairs: Sequence[Any]) -> None:
        self._pairs = pairs

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        import torch

        pair, sides = self._pairs[index], []
        for answer in (pair.chosen, pair.rejected):
            ids = torch.tensor([[*pair.prompt_token_ids, *answer.rollout.token_ids]])
            sides += [ids, torch.ones_like(ids)]
        return (*sides, len(pair.prompt_token_ids))


def train(workload: Workload) -> Outcome:
    """DPOTrainer.fit; the reference runs in each step. Option: `micro_batch_size` (pairs)."""
    begin = time.perf_counter()
    from actors import strategy as strategies

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    strategies.prepare_process("cpu", 0, 1, "127.0.0.1", port, workload.threads)
    config = Config(
        run=RunConfig(seed=workload.seed),
        model=ModelConfig(workload.model),
        train=TrainConfig(max_norm=workload.max_norm, lr_scheduler=workload.lr_scheduler, lr_warmup_ratio=0.0),
        adam=AdamConfig(workload.lr, workload.betas, workload.eps, workload.weight_decay),
        ds=DeepspeedConfig(param_dtype=workload.dtype),
    )
    strategy = strategies.build(config, 1)
    micro_batch_size = workload.options.get("micro_batch_size", 4)
    # As its own command line sets these; `build` leaves gradient accumulation to us, here DeepSpeed does it.
    strategy.use_dynamic_batch = False
    strategy.train_batch_size, strategy.micro_train_batch_size = workload.batch_size, micro_batch_size
    strategy.accumulated_gradient = workload.batch_size // micro_batch_size
    args = strategy.args
    args.model = SimpleNamespace(label_smoothing=0.0, ipo_enable=False, aux_loss_coef=0.0, nll_loss_coef=0.0)
    args.ds.packing_samples = False
    args.logger = SimpleNamespace(wandb=SimpleNamespace(key=None), tensorboard_dir=None, logging_steps=1)
    args.eval = SimpleNamespace(steps=float("inf"))
    args.ckpt = SimpleNamespace(save_steps=float("inf"))
    args.train.batch_size = workload.batch_size
    strategy.setup_distributed()
    strategy.all_reduce = lambda data, op="mean": data  # of metrics, over one rank; its own goes through CUDA

    import torch
    from openrlhf.datasets.reward_dataset import RewardDataset
    from openrlhf.models import Actor
    from openrlhf.trainer.dpo_trainer import DPOTrainer
    from torch.utils.data import DataLoader
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from benchmarks.by_trl import InOurOrder

    tokenizer = AutoTokenizer.from_pretrained(workload.model)

    def actor() -> Any:
        # Loaded here: its own loading takes bf16 and fp16 only, and curves are compared in fp32.
        dtype = torch.bfloat16 if workload.dtype == "bf16" else torch.float32
        made = Actor(AutoModelForCausalLM.from_pretrained(workload.model, dtype=dtype, attn_implementation="sdpa"))
        made.packing_samples = False  # needs FlashAttention
        return made

    model, reference = actor(), actor()
    prepared = strategy.prepare((model, strategies.optimizer(config, workload.num_steps)), reference)
    (model, optim, scheduler), reference = prepared
    collate = SimpleNamespace(is_dpo=True, tokenizer=tokenizer)
    losses: list[float] = []

    class InOrder(InOurOrder):
        def __iter__(self) -> Any:
            indices = super().__iter__()
            self.set_epoch(self._epoch + 1)
            return indices

    class Trainer(DPOTrainer):
        def save_logs_and_checkpoints(self, *arguments: Any) -> None:
            losses.append(float(arguments[3]["loss_mean"]))

    with tempfile.TemporaryDirectory():
        trainer = Trainer(
            model=model,
            ref_model=reference,
            strategy=strategy,
            tokenizer=tokenizer,
            optim=optim,
            train_dataloader=DataLoader(
                _Sides(workload.read()),
                batch_size=micro_batch_size,
                sampler=InOrder(workload.order()),
                collate_fn=lambda items: RewardDataset.collate_fn(collate, items),
            ),
            eval_dataloader=None,
            scheduler=scheduler,
            max_norm=workload.max_norm,
            beta=workload.beta,
            max_epochs=workload.epochs,
        )
        loaded = time.perf_counter()
        trainer.fit(args)
        end = time.perf_counter()
    return Outcome(
        seconds=end - loaded,
        reference_seconds=0.0,
        loading_seconds=loaded - begin,
        peak_rss=measures.peak_rss(),
        losses=losses,
        details={"micro_batch_size": micro_batch_size},
    )
