"""OpenRLHF's DeepSpeed strategy on CPUs and GPUs: the one place where training knows the difference.

LoRA (arXiv 2106.09685) through PEFT: adapters beside frozen weights, and both merged into plain weights.
"""

from __future__ import annotations

import inspect
import os
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import timedelta
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any, Literal

from maskdpo_ray.config.schema import Config, LoraConfig
from maskdpo_ray.errors import ModelError, one_line
from maskdpo_ray.models import lora_targets
from maskdpo_ray.training import rounding

if TYPE_CHECKING:
    import torch


Device = Literal["cpu", "cuda"]


def prepare_process(device: Device, rank: int, world_size: int, address: str, port: int, num_threads: int) -> None:
    """Set what torch.distributed and DeepSpeed read from the environment. Call before importing them.

    Every rank is a process of its own that sees at most one GPU, so the local rank is 0.
    """
    os.environ.update(
        MASTER_ADDR=address, MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE=str(world_size), LOCAL_RANK="0"
    )
    if device == "cpu":
        os.environ["DS_ACCELERATOR"] = "cpu"
        import torch

        torch.set_num_threads(num_threads)


def slow_dtype(device: Device, param_dtype: str) -> str | None:
    """Advice where the processor of this node multiplies weights of this dtype in software; None: there is none."""
    import torch

    # Measured with torch 2.13 on an AMD EPYC with AVX2, one thread: 0.9 GFLOP/s in bfloat16, 75 in float32.
    if device != "cpu" or param_dtype != "bf16" or torch.backends.cpu.get_cpu_capability() != "AVX2":
        return None
    return "training: a CPU without AVX-512 multiplies bfloat16 some 80 times as slowly; set ds.param_dtype fp32"


def build(config: Config, world_size: int) -> Any:
    """A `DeepspeedStrategy` of OpenRLHF for `cluster.device`; its process group is not yet set up."""
    with _flash_attn_stand_ins():
        from openrlhf.utils.deepspeed import deepspeed as openrlhf_deepspeed
    args = SimpleNamespace(
        local_rank=-1,
        optim="adam",
        ds=SimpleNamespace(
            param_dtype=config.ds.param_dtype,
            zero_stage=config.ds.zero_stage,
            adam_offload=config.ds.adam_offload,
            tensor_parallel_size=1,
            # Micro-batches are to add up in fp32: in bf16 a sum of many small gradients loses the small ones.
            # DeepSpeed 0.19.6 does so under stage 3; under stage 2 it takes this and sums in the weights' dtype all
            # the same (few passes a step make that matter less).
            grad_accum_dtype="fp32",
        ),
        # Makes OpenRLHF leave gradient accumulation to us: micro-batches differ in number from step to step.
        train=SimpleNamespace(dynamic_batch_enable=True),
    )
    strategy_class = _strategy(openrlhf_deepspeed)
    if config.cluster.device == "cpu":
        strategy_class = _cpu_strategy(openrlhf_deepspeed, strategy_class)
    # DeepSpeed insists on a batch size, though we count pairs: one micro-batch of 1 per rank and step.
    return strategy_class(seed=config.run.seed, zero_stage=config.ds.zero_stage, train_batch_size=world_size, args=args)


def optimizer(config: Config, total_steps: int) -> dict[str, Any]:
    """AdamW, its schedule and clipping: the `cfg` that OpenRLHF's `strategy.prepare((model, cfg))` takes."""
    return {
        "optim": "adam",
        "adam": asdict(config.adam),
        "lr_scheduler": config.train.lr_scheduler,
        "lr_warmup_ratio": config.train.lr_warmup_ratio,
        "min_lr_ratio": config.train.min_lr_ratio,
        "max_norm": config.train.max_norm,
        "scheduler_steps": total_steps,
    }


def seed_everything(text: str) -> None:
    """Seed torch (all devices), numpy and `random` by `text`."""
    import transformers

    transformers.set_seed(zlib.crc32(text.encode()))


def device_of(device: Device) -> torch.device:
    """The torch device of this rank."""
    import torch

    return torch.device("cpu") if device == "cpu" else torch.device("cuda", torch.cuda.current_device())


@contextmanager
def partitioned_loading(strategy: Any) -> Iterator[None]:
    """Under ZeRO-3, `from_pretrained` inside gives each rank its part of every weight, never a whole model."""
    if strategy.stage != 3:
        yield
        return
    from transformers.integrations.deepspeed import HfDeepSpeedConfig, unset_hf_deepspeed_config

    # transformers holds this object by a weak reference: it must live while the model loads.
    config = HfDeepSpeedConfig(strategy.get_ds_train_config())
    try:
        yield
    finally:
        unset_hf_deepspeed_config()
        del config


def destroy_engine(engine: Any) -> None:
    """`engine.destroy()`, and what it leaves behind.

    DeepSpeed 0.19.6 keeps the model of every ZeRO-3 engine for good: in a stack of modules (where
    gradient checkpointing, which stops a recomputed forward early, leaves layers too), and as keys of a
    cached method. Remove when `destroy` empties both.
    """
    from deepspeed.runtime.zero import parameter_offload
    from deepspeed.runtime.zero.partitioned_param_coordinator import PartitionedParameterCoordinator

    own = set(engine.module.modules())
    engine.destroy()
    stack = parameter_offload.FWD_MODULE_STACK
    stack[:] = [entry for entry in stack if entry not in own]
    # Only a cache: an engine that is still in use fills it again. It lies inside a decorator's closure.
    method = PartitionedParameterCoordinator._PartitionedParameterCoordinator__params_to_release
    inspect.getclosurevars(method).nonlocals["func"].cache_clear()


_ELEMENTS_AT_A_TIME = 2**24
"""On CPUs, of gradients: what ranks exchange in one go, and what the optimizer has in fp32."""


def _parts(group: dict[str, Any]) -> list[dict[str, Any]]:
    """A group of parameters as several: DeepSpeed's step copies a group's gradients to fp32 at once."""
    parts: list[dict[str, Any]] = []
    size = 0
    for parameter in group["params"]:
        # ds_numel: of all ranks under ZeRO-3, where numel() is 0.
        count = getattr(parameter, "ds_numel", parameter.numel())
        # Two at least: a single one is not copied when DeepSpeed makes a group flat, and keeps the model's file mapped.
        if not parts or (size + count > _ELEMENTS_AT_A_TIME and len(parts[-1]["params"]) > 1):
            parts.append({**group, "params": []})
            size = 0
        parts[-1]["params"].append(parameter)
        size += count
    return parts


def _strategy(openrlhf_deepspeed: ModuleType) -> Any:
    """A subclass of OpenRLHF's strategy with torch's fused AdamW: DeepSpeed's own would be compiled at the start, with
    nvcc or g++, which images of CUDA's runtime lack. It is kept for an optimizer on a GPU's host (ds.adam_offload)."""

    class Strategy(openrlhf_deepspeed.DeepspeedStrategy):
        def get_ds_train_config(
            self, optim_dict: dict[str, Any] | None = None, *, max_norm: float | None = None
        ) -> Any:
            if optim_dict is not None and not self.adam_offload:
                optim_dict = {**optim_dict, "params": {**optim_dict["params"], "torch_adam": True, "fused": True}}
            return super().get_ds_train_config(optim_dict, max_norm=max_norm)

    return Strategy


def _cpu_strategy(openrlhf_deepspeed: ModuleType, base: Any) -> type:
    """A subclass of our strategy for gloo and CPU tensors.

    Remove when OpenRLHF takes the device from the accelerator: 0.11.2 names "cuda" in
    `setup_distributed` and synchronizes CUDA after every barrier.
    """
    import deepspeed
    import torch.distributed as dist
    import transformers
    from torch.distributed.device_mesh import init_device_mesh

    openrlhf_deepspeed.torch_dist_barrier_and_cuda_sync = dist.barrier
    # DeepSpeed would compile its shared-memory collectives with g++ at start; gloo needs no compiler.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False

    class CpuStrategy(base):
        def setup_distributed(self, timeout: timedelta = timedelta(minutes=60)) -> None:
            transformers.set_seed(self.seed)
            deepspeed.init_distributed(dist_backend="gloo", timeout=timeout)
            self.world_size = dist.get_world_size()
            shape = (self.world_size, self.ring_attn_size, self.ds_tensor_parallel_size)
            self.ds_device_mesh = init_device_mesh("cpu", shape, mesh_dim_names=("dp", "sp", "tp"))
            self.setup_ring_attn(self.ds_device_mesh)

        def get_ds_train_config(
            self, optim_dict: dict[str, Any] | None = None, *, max_norm: float | None = None
        ) -> Any:
            config = super().get_ds_train_config(optim_dict, max_norm=max_norm)
            config["zero_optimization"]["reduce_bucket_size"] = _ELEMENTS_AT_A_TIME
            # DeepSpeed 0.19.6 coalesces gathers and waits for the last one only: enough on a CUDA stream,
            # but gloo may still be filling the others. Modules with several parameters (a weight and a bias) were then
            # silently computed from uninitialised memory. Remove when it waits for all of them.
            config["zero_optimization"]["stage3_allgather_sequential"] = True
            return config

        def _get_model_parameters(self, *args: Any, **kwargs: Any) -> tuple[Any, list[dict[str, Any]]]:
            model, groups = super()._get_model_parameters(*args, **kwargs)
            return model, [part for group in groups for part in _parts(group)]

    return CpuStrategy


@contextmanager
def _flash_attn_stand_ins() -> Iterator[None]:
    """Let `import openrlhf` pass where flash_attn is not installed (it needs CUDA).

    OpenRLHF 0.11.2's models/ring_attn_utils.py imports five of its names at import time and uses them
    for packed samples and ring attention only, neither of which we use. transformers holds pure-torch
    equivalents of three. The stand-ins leave `sys.modules` again, so that nobody takes flash_attn for
    installed. Remove when OpenRLHF imports flash_attn where it is used.
    """
    from importlib.util import find_spec

    if find_spec("flash_attn") is not None:
        yield
        return
    # Imported before the stand-ins exist: they look for flash_attn, and must not find it.
    import einops
    import peft  # noqa: F401
    import transformers.integrations.flash_attention  # noqa: F401
    import transformers.modeling_flash_attention_utils as equivalents
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText  # noqa: F401
    from transformers.trainer import get_scheduler  # noqa: F401

    def all_gather(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("ring attention needs flash_attn, which is not installed")

    names = {
        "flash_attn": {},
        "flash_attn.bert_padding": {
            "index_first_axis": equivalents._index_first_axis,
            "pad_input": equivalents._pad_input,
            "unpad_input": equivalents._unpad_input,
            "rearrange": einops.rearrange,
        },
        "flash_attn.utils": {},
        "flash_attn.utils.distributed": {"all_gather": all_gather},
    }
    for name, members in names.items():
        module = ModuleType(name)
        vars(module).update(members)
        sys.modules[name] = module
    try:
        yield
    finally:
        for name in names:
            del sys.modules[name]


_PREFIX, _BASE, _A, _B = "base_model.model.", ".base_layer.", ".lora_A.default.weight", ".lora_B.default.weight"
"""Parts of PEFT's names in a state dict."""


def wrap(model: Any, lora: LoraConfig) -> Any:
    """`model` with adapters that add nothing yet; its own weights are frozen.

    Raises ModelError when PEFT can't wrap what `lora.target_modules` names.
    """
    import peft

    paths = lora_targets.paths(model, lora)
    described = peft.LoraConfig(
        r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=paths, task_type="CAUSAL_LM"
    )
    try:
        with _names_as_they_are():
            # Their dtype is the model's: DeepSpeed keeps masters in fp32.
            wrapped = peft.get_peft_model(model, described, autocast_adapter_dtype=False)
    except (ValueError, TypeError) as error:
        raise ModelError(f"lora.target_modules: {one_line(error)}") from error
    if odd := sorted(_layers(wrapped).keys() ^ set(paths)):
        raise ModelError(f"lora.target_modules: expected adapters on linear layers only, PEFT differs: {odd[0]}")
    return wrapped


@contextmanager
def _names_as_they_are() -> Iterator[None]:
    """Make PEFT adapt exactly the given layers.

    PEFT 0.21 takes names such as gate_proj for those that a mixture of experts had in transformers 4, and adapts the
    tensor that holds all experts instead, which fails under ZeRO-3 or with dropout. Remove when PEFT has an option
    for it.
    """
    from peft.utils import transformers_weight_conversion as conversion

    before = conversion.convert_peft_config_for_transformers
    conversion.convert_peft_config_for_transformers = lambda *arguments, **options: None
    try:
        yield
    finally:
        conversion.convert_peft_config_for_transformers = before


def _layers(wrapped: Any) -> dict[str, Any]:
    """{dotted path in the plain model: layer} of the layers that have adapters."""
    from peft.tuners.lora import LoraLayer

    return {
        path.removeprefix(_PREFIX): layer for path, layer in wrapped.named_modules() if isinstance(layer, LoraLayer)
    }


def dropouts(wrapped: Any) -> list[torch.nn.Module]:
    """The dropout modules of all adapters."""
    return [layer.lora_dropout for layer in _layers(wrapped).values()]


def merged(wrapped: Any, weights: dict[str, torch.Tensor], dtype: str, seed: int) -> dict[str, torch.Tensor]:
    """The state dict of a wrapped model as one of the plain model: W + (alpha / rank) B A (arXiv 2106.09685, eq. 3),
    added up in float32.

    Args:
        wrapped: what `wrap` returned.
        weights: its whole state dict, of which adapters alone are left: two copies would take twice the memory.
        dtype: torch's name of the dtype to round the sums to; they are returned as the weights' dtype, on their device.
        seed: seed of the stochastic rounding.
    """
    layers, plain = _layers(wrapped), {}
    device = next(wrapped.parameters()).device  # where one tensor at a time is added up and rounded
    for name in [name for name in weights if ".lora_" not in name]:
        weight = weights.pop(name)
        path, is_wrapped, parameter = name.removeprefix(_PREFIX).rpartition(_BASE)
        if is_wrapped and parameter == "weight":
            stem, layer = f"{_PREFIX}{path}", layers[path]
            delta = weights[stem + _B].to(device).float() @ weights[stem + _A].to(device).float()
            delta = delta.T if getattr(layer, "fan_in_fan_out", False) else delta  # 4-bit layers don't say
            exact = weight.to(device).float() + layer.scaling["default"] * delta
            weight = rounding.stochastic(exact, dtype, f"{seed}/{path}").to(weight)
        plain[f"{path}.{parameter}" if is_wrapped else parameter] = weight
    return plain
