"""A LoRA adapter's folder as the model to start from: merged once with its base into a model's folder.

Weights are added up in float32 by PEFT and rounded to the dtype that answers are sampled in; to bfloat16
stochastically, as a published policy's are. What was merged is loaded back and compared with base and adapter before it
gets its name.
"""

from __future__ import annotations

import gc
import hashlib
import json
import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from maskdpo_ray.config import hub_name
from maskdpo_ray.config.schema import Config, ModelConfig
from maskdpo_ray.errors import ModelError, one_line, shown
from maskdpo_ray.models import hub, other_folders
from maskdpo_ray.models.folder import load_network, open_weights
from maskdpo_ray.models.origin import Origin
from maskdpo_ray.store import files
from maskdpo_ray.terminal import note, quiet

_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_TOKENIZER = ("tokenizer*", "special_tokens_map.json", "added_tokens.json", "chat_template*", "vocab*", "merges.txt")
_OF_BASE = ("*.json", "*.jinja", "*.model", "*.txt", "*.py")
"""Files that are copied, but for weights; an adapter's tokenizer goes before its base's."""


@dataclass(frozen=True)
class Adapter:
    """A checked adapter's folder."""

    folder: Path
    base: Path
    """Folder of the model that it was trained beside."""

    def digest(self, dtype: str) -> str:
        """Hash of all that decides the merged weights: the adapter's bytes, the base's files, and the dtype."""
        found = hashlib.sha256(dtype.encode())
        for name in (_CONFIG, _WEIGHTS):
            found.update((self.folder / name).read_bytes())
        for file in sorted(self.base.glob("*")):
            if file.is_file():
                status = file.stat()
                found.update(f"{file.resolve()} {status.st_size} {status.st_mtime_ns}\n".encode())
        return found.hexdigest()[:16]


def find(model: ModelConfig) -> Adapter | None:
    """The adapter that a config names in place of a model; None for other folders.

    Raises ModelError (one line) for an adapter that can't be merged.
    """
    folder = Path(model.model_name_or_path)
    file = folder / _CONFIG
    if not os.path.isfile(file) or (folder / "config.json").exists():
        return None
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{file}: expected JSON, got: {error}") from None
    if not isinstance(settings, dict) or settings.get("peft_type") != "LORA":
        got = shown(settings.get("peft_type") if isinstance(settings, dict) else settings)
        raise ModelError(f"{file}: peft_type: expected 'LORA', whose weights can be merged, got {got}")
    if not (folder / _WEIGHTS).is_file():
        raise ModelError(f"{folder}: expected {_WEIGHTS}, found none (pickled weights are not read)")
    with open_weights(folder / _WEIGHTS) as weights:  # now: a dry run merges nothing
        names = sorted(weights.keys())
    if not any(".lora_" in name for name in names):
        got = shown(", ".join(names) or "none")
        raise ModelError(f"{folder / _WEIGHTS}: expected tensors of a LoRA adapter, got {got}")
    return Adapter(folder, _base(file, settings.get("base_model_name_or_path")))


def _base(file: Path, name: Any) -> Path:
    """Folder of an adapter's base, which may be a model of the Hub. Raises ModelError when there is none."""
    of_hub = hub_name.parsed(name) if isinstance(name, str) else None
    if of_hub is not None:
        name = hub.folder(of_hub, f"{file}: base_model_name_or_path")
    if not isinstance(name, str) or not os.path.isfile(os.path.join(name, "config.json")):
        said = other_folders.described(name) if isinstance(name, str) and name else ""
        expected = "expected the folder of a model, with config.json"
        raise ModelError(f"{file}: base_model_name_or_path: {expected}, got {shown(name)}{said}")
    return Path(name)


def merged(config: Config, dry_run: bool = False) -> Config:
    """The config with a model's folder in the place of an adapter's.

    Merged weights lie in `run.dir`/.merged and are made once for each adapter, base and dtype. A dry run writes nothing
    and looks at the base.

    Raises ModelError (one line), RunFolderError when they can't be written.
    """
    adapter = find(config.model)
    if adapter is None:
        return config
    dtype = config.sampled_dtype
    target = Path(config.run.dir) / ".merged" / f"{adapter.folder.resolve().name}-{adapter.digest(dtype)}"
    if dry_run and not target.is_dir():
        note(f"model: the base {adapter.base} is checked; a run merges the adapter {adapter.folder} into {target}")
        return _with_model(config, adapter.base)
    if not target.is_dir():
        note(f"model: merge the adapter {adapter.folder} with {adapter.base} into {target}")
        _merge(adapter, target, dtype, config.model.trust_remote_code)
    return _with_model(config, target)


def _with_model(config: Config, folder: Path) -> Config:
    return replace(config, model=replace(config.model, model_name_or_path=str(folder)))


@quiet()
def _merge(adapter: Adapter, target: Path, dtype: str, trust_remote_code: bool) -> None:
    """Write the merged model to `target`, which appears whole and checked, or not at all."""
    import peft
    import torch

    from maskdpo_ray.training import guards, rounding, tree_check

    partial = target.with_name(f"{target.name}.{os.getpid()}.partial")
    try:
        base = _load(adapter.base, trust_remote_code)
        try:
            wrapped = peft.PeftModel.from_pretrained(base, adapter.folder, autocast_adapter_dtype=True).eval()
        except Exception as failure:  # files that don't fit make PEFT raise errors of all kinds
            reason = f"{type(failure).__name__}: {one_line(failure)}"
            raise ModelError(f"{adapter.folder}: expected an adapter of {adapter.base}, got: {reason}") from failure
        expected = tree_check.logps(wrapped)
        plain = wrapped.merge_and_unload(safe_merge=True)
        weights, seen = {}, set()
        for name, weight in plain.state_dict(keep_vars=True).items():
            if id(weight) not in seen:  # tied ones once
                seen.add(id(weight))
                exact = weight.detach().float()
                weights[name] = rounding.stochastic(exact, dtype, name).to(getattr(torch, dtype))
        with files.written_by_others(target, partial):
            plain.save_pretrained(partial, state_dict=weights)
            _copy(adapter, partial)
            Origin.of(str(adapter.base)).write(partial, "A LoRA adapter, merged with its base by maskdpo_ray")
        del base, wrapped, plain, weights
        gc.collect()
        found = tree_check.logps(_load(partial, trust_remote_code))
        error = (found - expected).abs().mean().item()
        allowed = guards.CHECKED["bf16" if dtype == "bfloat16" else "fp32"]
        if not error <= allowed:
            raise ModelError(
                f"{adapter.folder}: expected log-probs of {adapter.base} with the adapter, within {allowed:.2g} nats a "
                f"token on random tokens, merged they differ by {error:.2g}"
            )
        os.rename(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _load(folder: Path, trust_remote_code: bool) -> Any:
    """The causal language model in float32. Raises ModelError as `load_network` does."""
    from transformers import AutoModelForCausalLM

    return load_network(AutoModelForCausalLM, folder, "a causal language model", trust_remote_code)


def _copy(adapter: Adapter, folder: Path) -> None:
    """Copy tokenizer, chat template, generation settings and code into the folder of merged weights."""
    written = {file.name for file in folder.iterdir()}
    for pattern in _OF_BASE:
        for file in adapter.base.glob(pattern):
            if file.name not in written and not file.name.endswith(".index.json"):
                shutil.copy(file, folder / file.name)
    for pattern in _TOKENIZER:
        for file in adapter.folder.glob(pattern):
            shutil.copy(file, folder / file.name)
