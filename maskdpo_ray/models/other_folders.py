"""Recognition of paths given in place of a model's folder, and the command that makes a model's folder of each."""

from __future__ import annotations

import difflib
import json
import os
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from maskdpo_ray.config import hub_name
from maskdpo_ray.errors import shown

_FORMATS = {
    ".gguf": "GGUF, which llama.cpp reads",
    ".onnx": "ONNX",
    ".h5": "TensorFlow's",
    ".msgpack": "Flax's",
    ".npz": "MLX's",
}
_PICKLED = (".bin", ".pt", ".pth", ".ckpt")
_MOST_FOUND = 3
_DEPTH = 3


def described(path: str) -> str:
    """The end of an error line about `path`, which is not a folder of a whole model: what it is and what to do.

    Only reads file names and an adapter's config. Empty when there is nothing to say.
    """
    try:
        what = _missing(path) if not os.path.exists(path) else _file(Path(path))
        what = what or next((said for look in _LOOKS if (said := look(Path(path)))), "")
    except OSError:  # a folder that may not be read, or a name that is too long
        return ""
    return f", {what}" if what else ""


def adapter(folder: Path) -> str:
    """Words about a LoRA adapter's folder, with a command that merges it; empty for other folders."""
    file = folder / "adapter_config.json"
    if not file.exists():
        return ""
    try:
        settings: Any = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        settings = None
    base = settings.get("base_model_name_or_path") if isinstance(settings, dict) else None
    if not isinstance(base, str) or not base:
        return "an adapter; merge it into its model first"
    tokenizer = str(folder) if (folder / "tokenizer_config.json").is_file() else base
    merged = f"{str(folder).rstrip('/')}-merged"
    command = _python(
        "from peft import AutoPeftModelForCausalLM as A; from transformers import AutoTokenizer as T; "
        "A.from_pretrained({0}, dtype={1}).merge_and_unload().save_pretrained({2}); "
        "T.from_pretrained({3}).save_pretrained({2})",
        str(folder),
        "float32",  # in bf16 a part of the adapter's update is rounded away
        merged,
        tokenizer,
    )
    return f"an adapter of {shown(base)}; merge the two and give {merged!r}: {command}"


def weights(folder: Path) -> str:
    """Words about the weights in a folder without safetensors; empty if it has none."""
    return _sharded(folder) or _of_other_formats(folder)


def _of_other_formats(folder: Path) -> str:
    names = _names(folder)
    for ending, format_ in _FORMATS.items():
        if any(name.endswith(ending) for name in names):
            return f"weights of another format ({format_}); take the model's original weights, in safetensors"
    if "config.json" in names and any(name.startswith("pytorch_model") for name in names):
        target = f"{str(folder).rstrip('/')}-safetensors"
        command = _python(
            "from transformers import AutoModelForCausalLM as M, AutoTokenizer as T; "
            "[kind.from_pretrained({0}).save_pretrained({1}) for kind in (M, T)]",
            str(folder),
            target,
        )
        return f"pickled weights; convert them and give {target!r}: {command}"
    if any(name.endswith(_PICKLED) for name in names):
        return "pickled weights, which are code as well; a model's folder has safetensors and config.json"
    return ""


def _missing(path: str) -> str:
    if path.startswith("~"):
        return f"which is not expanded: write {os.path.expanduser(path)!r}"
    if address := re.match(r"[a-z]+://(?:huggingface\.co/)?(datasets/)?", path):
        what = "the address of a data set" if address[1] else "an address of no model"
        return f"{what}; a model of the Hub is org/name, org/name@revision or hf://org/name"
    name, around = Path(path).name, Path(path).parent
    if name == "policy" and around.name and not around.exists():
        return f"and there is no such folder: a run of the name {around.name!r} leaves it; run that first"
    if around.is_dir():
        near = difflib.get_close_matches(name, _names(around), n=1, cutoff=0.75)
        mean = f"; did you mean {str(around / near[0])!r}?" if near else ""
        if hub_name.parsed(f"hf://{path}") and not mean:
            mean = f" in {str(around)!r}, which is a folder here; the Hub's model is hf://{path}"
        if mean or around != Path("."):
            return f"and there is no such folder{mean}"
    return "and there is no such folder"


def _file(path: Path) -> str:
    if not path.is_file():
        return ""
    if path.suffix in _FORMATS:
        return f"a file of {_FORMATS[path.suffix]}; take the folder of the model's original weights, in safetensors"
    if (path.parent / "config.json").is_file():
        return f"a file; give its folder, {str(path.parent)!r}"
    return "a file; a model is a folder"


def _run(folder: Path) -> str:
    if not (folder / "ledger.jsonl").is_file():
        return ""
    policies = [str(each) for each in sorted(folder.glob("iter_*/policy")) if (each / "config.json").is_file()]
    if not policies:
        return "a run folder that holds no policy yet"
    return f"a run folder; give one of its policies, the newest is {policies[-1]!r}"


def _sharded(folder: Path) -> str:
    """Words about an optimizer's checkpoint, whose weights are sharded over ranks."""
    names, needs = _names(folder), "then put config.json and tokenizer of its model beside them"
    target = shlex.quote(f"{str(folder).rstrip('/')}-model")
    if "zero_to_fp32.py" in names:
        script = shlex.quote(str(folder / "zero_to_fp32.py"))
        command = f"python {script} {shlex.quote(str(folder))} {target} --safe_serialization"
        return f"a checkpoint of DeepSpeed; take its weights out, {needs}: {command}"
    if any(name.startswith(("global_step", "mp_rank_", "zero_pp_rank_", "bf16_zero_pp_rank_")) for name in names):
        return f"a checkpoint of DeepSpeed; take its weights out (zero_to_fp32.py of DeepSpeed), {needs}"
    if any(name.endswith(".distcp") for name in names) or any(name.startswith("pytorch_model_fsdp") for name in names):
        command = f"accelerate merge-weights {shlex.quote(str(folder))} {target}"
        return f"a checkpoint of FSDP; join its weights, {needs}: {command}"
    return ""


def _pipeline(folder: Path) -> str:
    return "a pipeline of diffusers, no language model" if (folder / "model_index.json").is_file() else ""


def _data(folder: Path) -> str:
    is_data = any((folder / name).is_file() for name in ("dataset_info.json", "dataset_dict.json", "state.json"))
    return "a data set" if is_data else ""


def _models_below(folder: Path) -> str:
    """Words about a folder of model folders: a Trainer's output, a Hub cache, a collection."""
    found = [str(each) for each in _models(folder, _DEPTH)]
    if not found:
        return ""
    more = f" and {len(found) - _MOST_FOUND} more" if len(found) > _MOST_FOUND else ""
    return f"a folder of model folders; give one of them: {', '.join(map(repr, found[:_MOST_FOUND]))}{more}"


def _models(folder: Path, depth: int) -> Iterator[Path]:
    for each in sorted(folder.iterdir(), key=_by_number):
        if each.is_dir() and not each.name.startswith("."):
            if (each / "config.json").is_file() or (each / "adapter_config.json").is_file():
                yield each
            elif depth > 1:
                yield from _models(each, depth - 1)


def _by_number(path: Path) -> tuple[int, str]:
    """Sort key that puts the last checkpoint first: checkpoint-1000 before checkpoint-500."""
    found = re.search("[0-9]+$", path.name)
    return (-int(found[0]) if found else 0, path.name)


def _rest(folder: Path) -> str:
    names = _names(folder)
    if not names:
        return "an empty folder"
    if any(name.endswith(".safetensors") for name in names):
        return "weights without a config.json; put the model's config.json and tokenizer beside them"
    if "tokenizer.json" in names or "tokenizer_config.json" in names:
        return "a tokenizer without a model"
    return f"a folder of {', '.join(map(shown, names[:_MOST_FOUND]))}{' ...' if len(names) > _MOST_FOUND else ''}"


_LOOKS: tuple[Callable[[Path], str], ...] = (adapter, _run, weights, _pipeline, _data, _models_below, _rest)


def _names(folder: Path) -> list[str]:
    return sorted(each.name for each in folder.iterdir())


def _python(code: str, *texts: str) -> str:
    """A shell command; `texts` replace {0}, {1} ... as literals."""
    return f"python -c {shlex.quote(code.format(*map(json.dumps, texts)))}"
