"""One DeepSpeed rank: log-probs under the policy, optimizer steps, and the policy as a Hugging Face folder.

All methods but `address` are collective: every rank of the group calls them with the same arguments, in the same
order, and works on its own share of the examples that they name.
"""

from __future__ import annotations

import math
import os
import shutil
import socket
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from actors import patches
from actors import strategy as strategies
from actors.process import end_with_raylet, free_memory, trim_heap
from maskdpo_ray.config.schema import Config, SavingsConfig
from maskdpo_ray.errors import ModelError, NotFiniteError
from maskdpo_ray.models import quantized
from maskdpo_ray.records import CHOSEN, REJECTED
from maskdpo_ray.store import files
from maskdpo_ray.training import batches, guards
from maskdpo_ray.training.example_store import ExampleStore
from maskdpo_ray.training.objectives import protocol as objectives
from maskdpo_ray.training.objectives.protocol import Batch, Responses
from maskdpo_ray.training.reference import ReferenceLogps, pad_logps, split_logps
from maskdpo_ray.training.ways import Way

if TYPE_CHECKING:
    import torch

    from maskdpo_ray.records import ResponseLogps, TrainingExample
    from maskdpo_ray.store.files import Proof
    from maskdpo_ray.training.forward import Pass

_TAG = "state"
"""The folder that DeepSpeed makes within a checkpoint's."""


class TrainingRank:
    """Rank `rank` of a group of `world_size`; wrapped as a Ray actor in maskdpo_ray/cluster.py."""

    def __init__(
        self, config: Config, rank: int, world_size: int, threads: int = 1, chat_template: str | None = None
    ) -> None:
        """
        Args:
            threads: for a CPU.
            chat_template: text of the template that published policies get in place of their own.
        """
        end_with_raylet()
        self._config = config
        self._rank, self._world_size = rank, world_size
        self._threads, self._chat_template = threads, chat_template
        self._strategy: Any = None
        self._engine: Any = None
        self._reference: Any = None
        """The reference model, while its log-probs are computed, or where every step computes them."""
        self._reference_path: str | None = None
        self._is_own_reference = False
        """Whether the policy without its adapters is the reference."""
        self._way, self._reference_way = Way(), Way()
        """How policy and reference take their micro-batches."""
        self._examples: ExampleStore | None = None
        self._reference_logps: ReferenceLogps | None = None
        self._tokenizer: Any = None
        self._objective = objectives.load(config.objective.name, config.objective.options)
        self._seed = 0
        self._starts_at_reference = False

    def address(self) -> tuple[str, int]:
        """This node's address and a free port, where the ranks are to meet; rank 0 is asked."""
        import ray

        with socket.socket() as listener:
            listener.bind(("", 0))
            return ray.util.get_node_ip_address(), listener.getsockname()[1]

    def setup(self, master_addr: str, master_port: int) -> str | None:
        """Join the process group; once in the life of a rank. Returns what the user should know of this node."""
        device = self._config.cluster.device
        strategies.prepare_process(device, self._rank, self._world_size, master_addr, master_port, self._threads)
        self._strategy = strategies.build(self._config, self._world_size)
        self._strategy.setup_distributed(timeout=timedelta(seconds=self._config.cluster.step_timeout_s))
        return strategies.slow_dtype(device, self._config.ds.param_dtype)

    def reference_logps(
        self, examples: str, indices: Sequence[int], policy_path: str | None = None
    ) -> dict[int, ResponseLogps]:
        """Per-token log-probs of this rank's share, under the current weights or those of `policy_path`.

        Args:
            examples: path of an `ExampleStore`.
            indices: of all ranks' examples in it.

        Returns:
            Index -> an array of the length of each of its responses; 0 where a token's weight is 0. A model
            of `policy_path` stays loaded for the next call, until `begin` or `release`.
        """
        if policy_path is None:
            return self._logps(self._engine, self._way, examples, indices)
        self._load_reference(policy_path)
        return self._logps(self._reference, self._reference_way, examples, indices)

    def published_logps(self, examples: str, indices: Sequence[int], path: str) -> dict[int, ResponseLogps]:
        """`reference_logps` of a published policy, its weights rounded as in engines. Call `release` before."""
        self._load_reference(path, self._config.sampled_dtype)
        return self._logps(self._reference, self._reference_way, examples, indices)

    def begin(
        self,
        config: Config,
        policy_path: str,
        examples: str,
        total_steps: int,
        seed: int = 0,
        reference_path: str | None = None,
        reference_logps: str | None = None,
        starts_at_reference: bool = False,
    ) -> str | None:
        """Load a policy with a fresh optimizer and a schedule over `total_steps` steps.

        Returns what the user should know of the model: a prefix tree that differs from rows is left out.

        Args:
            config: the iteration's own; of the run's, training options may differ.
            examples: path of the `ExampleStore` of all steps.
            seed: of the adapters: initialisation, dropout, and the rounding when they are merged.
            reference_path: folder of the reference model if `train_step` is to compute its log-probs.
            reference_logps: else the file of `ReferenceLogps`.
            starts_at_reference: the reference has the same weights, so that the first step's log-probs are known.

        Always loads from the folder, even when the same weights are in memory, so that an iteration starts
        from the published (bf16) policy whether or not the run was interrupted before it.
        """
        from transformers import AutoTokenizer

        from maskdpo_ray.training import lean_layers

        self.release()
        self._config = config
        self._objective = objectives.load(config.objective.name, config.objective.options)
        self._examples, self._reference_logps = ExampleStore(Path(examples)), None
        if reference_logps is not None:
            self._reference_logps = ReferenceLogps(Path(reference_logps), self._examples)
        model, known = self._load(policy_path, config.ds.load_in_4bit)
        if config.model.gradient_checkpointing_enable:
            lean_layers.recompute(model)
        if config.lora.rank:
            strategies.seed_everything(f"{seed}/adapters")  # the same on every rank
            model = strategies.wrap(model, config.lora)
        self._tokenizer = AutoTokenizer.from_pretrained(policy_path, trust_remote_code=config.model.trust_remote_code)
        if self._chat_template is not None:  # a published policy renders prompts as in training
            self._tokenizer.chat_template = self._chat_template
        self._engine, _, _ = self._strategy.prepare((model, strategies.optimizer(config, total_steps)))
        self._engine.checkpoint_engine = patches.build_checkpoint_engine()
        self._seed, self._starts_at_reference = seed, starts_at_reference
        # Under ZeRO-3 a gradient here would corrupt DeepSpeed's per-layer pass counts, by which it reduces the
        # gradients of a step: only frozen models (reference, published policy) have their gradient compared there.
        self._way = self._settle(self._engine, known, has_gradient=config.ds.zero_stage < 3)
        self._is_own_reference = config.lora.rank > 0 and reference_path == policy_path
        if reference_path is not None and not self._is_own_reference:
            self._load_reference(reference_path)
            self._go_together()
        free_memory()  # of loading
        return None if self._way == known else self._way.describe(config.savings)

    def train_step(self, batch: Sequence[int]) -> dict[str, float]:
        """One optimizer step over a global batch: indices of examples.

        Shares of the ranks may differ in size and may be empty: loss and gradients are means over the global batch,
        whatever the number of ranks and micro-batches.

        Returns:
            Of the global batch: loss, chosen_reward and rejected_reward (means per response, where there are any),
            accuracy (share of pairs whose chosen reward is the higher, of a pair objective), tokens (of weight > 0),
            grad_norm (before clipping) and lr (used in this step).

        Raises:
            NotFiniteError: when the loss is not finite (no step is taken) or the gradient is not (the weights are
                corrupt). Training can only resume from a checkpoint.
            ModelError: when the first step's log-probs are not those of the reference that has the same weights.
        """
        assert self._examples is not None
        engine, objective, beta = self._engine, self._objective, self._config.train.beta
        sft_weight = self._config.objective.sft_weight
        together = [self._examples[index] for index in batch]
        counts = Counter(response.role for example in together for response in example.responses)
        num_units = objective.num_units(counts[CHOSEN], counts[REJECTED])
        micro_batches = self._micro_batches(together, batch, self._way.savings(self._config.savings))
        num_passes = self._num_passes(micro_batches)
        lr = engine.get_lr()[0]
        # So that dropout depends on the step, and not on what this process has done before.
        strategies.seed_everything(f"{self._seed}/{engine.global_steps}/{self._rank}")
        means = self._means(micro_batches, num_passes) if objective.needs_means else {}
        sums = dict.fromkeys(("loss", "accurate", CHOSEN, REJECTED, "tokens", "moved"), 0.0)
        for number in range(num_passes):
            # ZeRO reduces gradients in every backward pass, and steps after the last one only.
            engine.set_gradient_accumulation_boundary(number == num_passes - 1)
            if number >= len(micro_batches):
                self._fill_reference()
                self._set_learning()
                engine.backward(self._filler_loss(engine))
                continue
            found = self._responses(*micro_batches[number], objective.roles)
            chosen, rejected = (found.of(role) for role in (CHOSEN, REJECTED))
            loss = objective.losses(Batch(chosen, rejected, means), beta).sum()
            if sft_weight:  # RPO (arXiv 2404.19733), eq. 1: the mean over the chosen responses
                loss = loss - sft_weight * num_units / counts[CHOSEN] * chosen.averages.sum()
            # DeepSpeed divides by the number of ranks; the mean is over the global batch.
            engine.backward(loss * (self._world_size / num_units))
            sums["loss"] += loss.item()
            of_chosen, of_rejected = (objective.rewards(responses, beta) for responses in (chosen, rejected))
            sums[CHOSEN] += of_chosen.sum().item()
            sums[REJECTED] += of_rejected.sum().item()
            if objective.unit == "pair":
                sums["accurate"] += (of_chosen > of_rejected).sum().item()
            moved, num_tokens = found.moved()
            sums["moved"] += moved
            sums["tokens"] += num_tokens
        sums = dict(zip(sums, self._reduce(list(sums.values()), "sum"), strict=True))
        if not math.isfinite(sums["loss"]):
            raise NotFiniteError(f"expected a finite loss, got {sums['loss']}")
        if self._starts_at_reference and engine.global_steps == 0:
            guards.check_first_step(sums["moved"], self._config.ds.param_dtype, sums["tokens"])
        trim_heap()  # of what the passes needed, before the optimizer needs as much
        engine.step()
        grad_norm = self._strategy.get_grad_norm(engine)
        if not 0 <= grad_norm < math.inf:  # ZeRO-2 says -1 for NaN
            raise NotFiniteError("expected a finite gradient, got one that holds NaN or infinity")
        accuracy = {"accuracy": sums["accurate"] / len(batch)} if objective.unit == "pair" else {}
        rewards = {f"{role}_reward": sums[role] / counts[role] for role in (CHOSEN, REJECTED) if counts[role]}
        others = {"tokens": sums["tokens"], "grad_norm": grad_norm, "lr": lr}
        return {"loss": sums["loss"] / num_units, **accuracy, **rewards, **others}

    def save_policy(self, path: str) -> None:
        """Write the policy as a Hugging Face folder that transformers and vLLM load; it appears at once, complete.

        Raises RunFolderError when the disk is full.
        """
        import torch.distributed as dist

        partial = f"{path}.partial"
        if self._config.ds.zero_stage == 3:
            weights = self._engine._consolidated_16bit_state_dict()  # gathered on rank 0
        elif self._rank == 0:
            weights = state_dict(self._engine.module)
        if self._rank == 0:
            shutil.rmtree(partial, ignore_errors=True)
            with files.written_by_others(Path(path), Path(partial)):
                plain = self._engine.module
                if self._config.lora.rank:
                    weights = strategies.merged(plain, weights, self._config.sampled_dtype, self._seed)
                    plain = plain.get_base_model()
                    quantized.forget(plain)
                plain.save_pretrained(partial, state_dict=weights)
                self._tokenizer.save_pretrained(partial)
            if os.path.exists(path):
                shutil.rmtree(path)
            os.rename(partial, path)
        dist.barrier()

    def save_checkpoint(self, folder: str) -> dict[str, Proof]:
        """Write this rank's part of weights, optimizer and schedule into `folder`.

        Returns proofs of the files that this rank wrote, by their paths within `folder`; they are on the disk.
        Raises RunFolderError when the disk is full.
        """
        # Not the strategy's save_ckpt, which removes an old checkpoint before the new one is whole.
        written = self._engine.checkpoint_engine.written
        written.clear()
        with files.written_by_others(Path(folder)):
            self._engine.save_checkpoint(folder, tag=_TAG, save_latest=False)
            return {os.path.relpath(path, folder): files.proof(Path(path)) for path in written}

    def load_checkpoint(self, folder: str) -> None:
        """Continue from what `save_checkpoint` of a group of the same size wrote, right after `begin`."""
        self._engine.load_checkpoint(folder, tag=_TAG)

    def release(self) -> None:
        """Free the models, gradients and optimizer; `begin` loads them again."""
        self._free_reference()
        if self._engine is not None:
            strategies.destroy_engine(self._engine)
            self._engine = None
        free_memory()

    def close(self) -> None:
        """Free the engine and leave the process group."""
        import torch.distributed as dist

        self.release()
        self._strategy = None
        if dist.is_initialized():
            dist.destroy_process_group()

    # Models

    def _load(self, path: str, in_4_bits: bool = False) -> tuple[Any, Way]:
        return load_policy(path, self._strategy, self._config, self._any_rank, in_4_bits)

    def _load_reference(self, path: str, dtype: str | None = None) -> None:
        """A model that is not trained; under ZeRO-3 inside an engine, which gathers its weights.

        `dtype`: torch's name of the dtype that its weights are rounded to.
        """
        if self._reference_path == path:
            return
        self._free_reference()
        # A reference computes as the policy does; a published one is loaded as engines do.
        model, known = self._load(path, self._config.ds.load_in_4bit and dtype is None)
        model.requires_grad_(False)
        if dtype:
            round_to(model, dtype)
        if self._config.ds.zero_stage == 3:
            model = self._strategy.prepare(model)
        self._reference_way = self._settle(model, known, has_gradient=True)
        self._reference, self._reference_path = model, path

    def _free_reference(self) -> None:
        if self._reference is not None and self._config.ds.zero_stage == 3:
            strategies.destroy_engine(self._reference)
        self._reference = self._reference_path = None

    def _settle(self, model: Any, known: Way, has_gradient: bool) -> Way:
        """Decide how a model takes its micro-batches, by what it computes: see `tree_check.settle`."""
        from maskdpo_ray.training import tree_check

        model.eval()
        config = self._config
        return tree_check.settle(
            model, known, config.savings, config.ds.param_dtype, self._device(), has_gradient, self._any_rank
        )

    def _go_together(self) -> None:
        """Have policy and reference take micro-batches in one way: they share a pass."""
        from maskdpo_ray.training import tree_attention

        if self._way.obstacle == self._reference_way.obstacle:
            return
        self._way = self._reference_way = self._way if self._way.obstacle else self._reference_way
        for model in (self._engine, self._reference):
            plain = getattr(model, "module", model)
            tree_attention.use_rows(plain, tree_attention.row_ways(plain)[-1])

    def _set_learning(self) -> None:
        """Make the policy compute as its reference does: no dropout from the model's config, no router noise.

        Only the adapters' own dropout stays on: adapters differ from the reference anyway.
        """
        self._engine.eval()
        if self._config.lora.rank:
            for module in strategies.dropouts(self._engine.module):
                module.train()

    # Passes

    def _micro_batches(
        self, batch: Sequence[TrainingExample], indices: Sequence[int], savings: SavingsConfig
    ) -> list[tuple[list[int], list[TrainingExample]]]:
        """This rank's share of the examples of `indices`: (indices, examples) of each forward pass."""
        places = batches.micro_batches(batch, self._rank, self._world_size, self._config.train, savings)
        return [([indices[place] for place in each], [batch[place] for place in each]) for each in places]

    def _responses(
        self, indices: Sequence[int], examples: Sequence[TrainingExample], roles: Collection[str]
    ) -> _Responses:
        """The responses in `roles` of a micro-batch, under the policy and under the reference if there is one."""
        import torch

        from maskdpo_ray.training.forward import Pass

        kept = [[place for place, r in enumerate(e.responses) if r.role in roles] for e in examples]
        parts = [
            replace(e, responses=tuple(e.responses[place] for place in places))
            for e, places in zip(examples, kept, strict=True)
        ]
        forward = Pass(self._engine, parts, self._device(), self._way.savings(self._config.savings))
        reference = reference_logits = None
        if self._reference_logps is not None:
            found = [self._reference_logps[index] for index in indices]
            logps = [tuple(each[place] for place in places) for each, places in zip(found, kept, strict=True)]
            reference = pad_logps(logps).to(self._device())
        elif self._has_reference_model:
            with torch.no_grad(), self._as_reference() as model:
                reference_logits = forward.logits(model)
                reference = forward.logps(reference_logits)
        self._set_learning()
        logits = forward.logits(self._engine)
        kls = forward.kls(logits, reference_logits) if self._objective.needs_kl else None
        return _Responses(forward, forward.logps(logits), reference, kls)

    def _means(
        self, micro_batches: Sequence[tuple[list[int], list[TrainingExample]]], num_passes: int
    ) -> dict[str, torch.Tensor]:
        """`Batch.means` of the roles that the objective asks for."""
        import torch

        roles = self._objective.needs_means
        sums = dict.fromkeys(roles, (0.0, 0.0))
        with torch.no_grad():
            for number in range(num_passes):
                if number >= len(micro_batches):
                    self._fill_reference()
                    self._filler_loss(self._engine)
                    continue
                found = self._responses(*micro_batches[number], roles)
                for role, (total, count) in sums.items():
                    ratios = found.of(role).ratios
                    sums[role] = total + ratios.sum().item(), count + len(ratios)
        means = {}
        for role, parts in sums.items():
            total, count = self._reduce(list(parts), "sum")
            means[role] = torch.tensor(total / count, device=self._device())
        return means

    @contextmanager
    def _as_reference(self) -> Iterator[Any]:
        """The model whose log-probs are the reference's: a loaded one, or the policy without its adapters."""
        model = self._engine if self._is_own_reference else self._reference
        model.eval()
        with self._engine.module.disable_adapter() if self._is_own_reference else nullcontext():
            yield model

    def _fill_reference(self) -> None:
        """A pass of the reference model, if steps need it, that contributes nothing: see `_filler_loss`."""
        import torch

        if self._has_reference_model:
            with torch.no_grad(), self._as_reference() as model:
                self._filler_loss(model)

    @property
    def _has_reference_model(self) -> bool:
        """Whether every step computes the reference's log-probs."""
        return self._is_own_reference or (self._reference is not None and self._reference_logps is None)

    def _logps(self, model: Any, way: Way, examples: str, indices: Sequence[int]) -> dict[int, ResponseLogps]:
        import torch

        from maskdpo_ray.training.forward import response_logps

        store, savings = ExampleStore(Path(examples)), way.savings(self._config.savings)
        micro_batches = self._micro_batches([store[index] for index in indices], indices, savings)
        model.eval()
        result: dict[int, ResponseLogps] = {}
        with torch.no_grad():
            for number in range(self._num_passes(micro_batches)):
                if number >= len(micro_batches):
                    self._filler_loss(model)
                    continue
                together, pairs = micro_batches[number]
                logps, _ = response_logps(model, pairs, self._device(), savings)
                result.update(zip(together, split_logps(logps.cpu().numpy(), pairs), strict=True))
        return result

    def _num_passes(self, micro_batches: Sequence[Any]) -> int:
        """Passes of the rank that has most: ZeRO communicates in each, so all ranks run as many."""
        return int(self._reduce([float(len(micro_batches))], "max")[0])

    def _filler_loss(self, model: Any) -> torch.Tensor:
        """A pass that contributes nothing, for ranks with fewer micro-batches than the others."""
        import torch

        token = torch.zeros(1, 1, dtype=torch.long, device=self._device())
        return model(input_ids=token, use_cache=False).logits.float().sum() * 0.0

    def _any_rank(self, holds: bool) -> bool:
        """Whether a condition holds on any rank."""
        return self._reduce([float(holds)], "max")[0] > 0

    def _reduce(self, values: list[float], op: Literal["sum", "max"]) -> list[float]:
        """Sum or maximum over the ranks."""
        import torch
        import torch.distributed as dist

        tensor = torch.tensor(values, dtype=torch.float64, device=self._device())
        dist.all_reduce(tensor, op=dist.ReduceOp.SUM if op == "sum" else dist.ReduceOp.MAX)
        return tensor.tolist()

    def _device(self) -> torch.device:
        return strategies.device_of(self._config.cluster.device)


@dataclass(frozen=True)
class _Responses:
    """The responses of a micro-batch under the policy."""

    forward: Pass
    logps: torch.Tensor
    """[R, T], with gradient."""
    reference: torch.Tensor | None
    """[R, T] of the reference, if the objective has one."""
    kls: torch.Tensor | None
    """[R, T], if the objective asks for them."""

    def of(self, role: str) -> Responses:
        """The sums of the responses in one role, in the order of their examples."""
        rows = [row for row, found in enumerate(self.forward.roles) if found == role]
        parts = (self.reference, self.kls)
        reference, kls = (None if part is None else part[rows] for part in parts)
        return objectives.sums(self.logps[rows], reference, self.forward.weights[rows], kls)

    def moved(self) -> tuple[float, float]:
        """(nats by which log-probs differ from the reference's, tokens with weight), of all tokens with weight."""
        has_weight = self.forward.weights > 0
        moved = 0.0 if self.reference is None else (self.logps.detach() - self.reference).abs()[has_weight].sum().item()
        return moved, has_weight.sum().item()


def load_policy(
    path: str, strategy: Any, config: Config, any_rank: Callable[[bool], bool], in_4_bits: bool = False
) -> tuple[Any, Way]:
    """A Hugging Face causal language model, and how it takes micro-batches by its config and code; under ZeRO-3 every
    rank holds its part only. Collective.

    Args:
        strategy: the result of `strategies.build`, set up.
        any_rank: tells whether a condition holds on any rank.

    Raises ModelError, on all ranks, unless the folder holds exactly the model's weights and all are finite.
    """
    import torch
    from transformers import AutoModelForCausalLM

    from maskdpo_ray.training import lean_layers, tree_attention, ways

    trusts = config.model.trust_remote_code
    packed = quantized.options(strategies.device_of(config.cluster.device)) if in_4_bits else {}
    with strategies.partitioned_loading(strategy):
        model, report = AutoModelForCausalLM.from_pretrained(
            path,
            dtype=getattr(torch, config.ds.torch_dtype),
            use_safetensors=True,
            trust_remote_code=trusts,
            output_loading_info=True,
            **packed,
        )
    if missing := sorted(report["missing_keys"]):
        raise ModelError(f"{path}: expected a weight for every parameter, {len(missing)} missing: {missing[0]}")
    # A model with custom code may load its weights in its own way.
    if (unexpected := sorted(report["unexpected_keys"])) and not trusts:
        raise ModelError(f"{path}: expected the model's weights only, {len(unexpected)} more: {unexpected[0]}")
    odd = next((name for name, own in own_parts(model) if not own.isfinite().all()), "")
    if any_rank(bool(odd)):
        raise ModelError(f"{path}: expected finite weights, got NaN or infinity in {odd or 'the part of another rank'}")
    if strategy.stage < 3 and not in_4_bits:
        model = model.to(strategies.device_of(config.cluster.device))
    max_len = ways.longest(model.config, config.vllm.max_model_len) or 0
    ways.fix_longrope(model, max_len)
    way = ways.of_config(model.config, max_len, trusts)
    if way.savings(config.savings).prefix_tree:
        tree_attention.install(model)
    if config.savings.lean_layers:
        lean_layers.install(model)
    return model, way


def own_parts(model: Any) -> list[tuple[str, torch.Tensor]]:
    """(name, this rank's part) of each parameter."""
    return [(name, getattr(each, "ds_tensor", each).data) for name, each in model.named_parameters()]


def round_to(model: Any, dtype: str) -> None:
    """Round each weight to `dtype` (torch's name) and back, in place, as an engine of that dtype does."""
    import torch

    for _, own in own_parts(model):
        own.copy_(own.to(getattr(torch, dtype)))


def state_dict(model: Any) -> dict[str, torch.Tensor]:
    """Weights in the node's memory, tied ones once. They own it: ZeRO keeps all in one flat buffer."""
    seen: set[int] = set()
    weights = {}
    for name, tensor in quantized.state_dict(model).items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            weights[name] = tensor.detach().to("cpu", copy=True)  # a GPU has no room for a second copy
    return weights
