"""Shared by all tests: markers by folder, offline defaults, the bundled model and a tiny one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

REPOSITORY = Path(__file__).resolve().parents[1]
TIERS = ("unit", "ray", "e2e", "nightly", "gpu")
NAMESPACES = ("unshare", "--user", "--map-root-user", "--mount")
BUNDLED_MODEL = REPOSITORY / "models" / "smollm2-135m-instruct"

# Nothing may reach for the network, and child processes inherit it. Set before any test imports a library.
os.environ.update(
    {
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "WANDB_MODE": "offline",
        "RAY_USAGE_STATS_ENABLED": "0",
        "VLLM_NO_USAGE_STATS": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
)

# The same examples in every run: a red test stays red, a green one stays green.
settings.register_profile("deterministic", derandomize=True, deadline=None, database=None)
settings.load_profile("deterministic")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test with its tier: the folder of tests/ that it lies in, but for a case that is marked nightly."""
    for item in items:
        if not item.path.is_relative_to(REPOSITORY / "tests"):
            continue
        tier = item.path.relative_to(REPOSITORY / "tests").parts[0]
        if tier not in TIERS:
            raise pytest.UsageError(f"{item.path}: tests lie in one of tests/{{{','.join(TIERS)}}}")
        if item.get_closest_marker("nightly") is None:
            item.add_marker(tier)


@pytest.fixture(scope="session")
def bundled_model() -> Path:
    """Folder of the bundled SmolLM2-135M-Instruct (bfloat16); converted on first use, then reused."""
    command = [sys.executable, str(REPOSITORY / "scripts" / "convert_model.py"), "--output", str(BUNDLED_MODEL)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return BUNDLED_MODEL


@pytest.fixture(scope="session")
def tiny_model(bundled_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random two-layer Llama (float32, fixed seed) with the bundled model's tokenizer and template.

    Its head size of 32 is the smallest that vLLM's CPU attention takes; its weights are wide enough that answers
    differ from prompt to prompt.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("tiny-model")
    config = LlamaConfig(
        vocab_size=49152,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=2048,
        initializer_range=0.1,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(bundled_model / name, folder / name)
    return folder


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """A folder on which a process in namespaces of its own can mount a small disk; they end with it."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run([*NAMESPACES, "mount", "-t", "tmpfs", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("no disk can be mounted here")
    return folder


@pytest.fixture(scope="module")
def no_fsync() -> Iterator[None]:
    """Disk without waiting: what survives a power loss is a matter of the run folder's tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="module")
def once(tiny_model: Path) -> Iterator[Any]:
    """Checking the model takes a second, and it is the same one every time; nobody waits for a disk."""
    from maskdpo_ray.config.schema import ModelConfig
    from maskdpo_ray.models import folder as model_folder

    model = model_folder.load(ModelConfig(str(tiny_model)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model_folder, "load", lambda config: model)
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield model


@pytest.fixture(scope="session")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a one-layer Llama with a tokenizer of characters: checking it takes no time to speak of."""
    import bad_input

    folder = tmp_path_factory.mktemp("small-model")
    bad_input.small_model(folder)
    return folder


@pytest.fixture
def good_folder(small_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with a config that passes and all that it names. No run can start in it."""
    import bad_input

    from maskdpo_ray.store.run_folder import RunFolder

    shutil.copytree(small_model, tmp_path / "model")
    bad_input.write("config.yaml", bad_input.CONFIG)(tmp_path)
    bad_input.write("questions.jsonl", bad_input.lines(*bad_input.QUESTIONS))(tmp_path)
    monkeypatch.chdir(tmp_path)
    for name in ("RAY_ADDRESS", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(RunFolder, "open", None)
    return tmp_path


@pytest.fixture
def labelled_folder(good_folder: Path, capfd: pytest.CaptureFixture[str]) -> Path:
    """The good folder with answers to all its questions, their labels, and their pairs."""
    from bad_input import ANNOTATIONS, CONFIG, ROLLOUTS, lines, write

    from maskdpo_ray import pairs

    write("held-out.jsonl", lines({"id": "e", "topic": "E", "prompt": "What is e?"}))(good_folder)
    write("config.yaml", CONFIG.replace("num_eval_topics: 1", "eval: held-out.jsonl"))(good_folder)
    write("rollouts.jsonl", lines(*ROLLOUTS))(good_folder)
    write("annotations.jsonl", lines(*ANNOTATIONS))(good_folder)
    pairs.main(["rollouts.jsonl", "annotations.jsonl", "-o", "pairs.jsonl", "--config", "config.yaml"])
    capfd.readouterr()
    return good_folder
