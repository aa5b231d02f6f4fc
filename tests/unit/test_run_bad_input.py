"""Bad input to `maskdpo_ray.run`, case by case: what the user does, and the one line that says what is wrong.

Nothing starts, and nothing is written. Here are configs; questions and models are in test_bad_data.py, labels and pairs
in test_bad_labels.py and test_bad_pairs.py. What each reader refuses beyond this is in the tests of that reader.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest
from bad_input import CONFIG, CONTEXT, Case, Change, contents, refuses, words, write

from maskdpo_ray import run

REPOSITORY = Path(__file__).resolve().parents[2]


OPEN: list[object] = []
"""Files that keep their lock while a case runs."""


def add_config(text: str) -> Change:
    return write("config.yaml", f"{CONFIG}{text}\n")


def run_folder(*names: str) -> Change:
    """A folder of the run's name that holds these files."""

    def change(folder: Path) -> None:
        for name in names:
            file = folder / "runs" / "r" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("run: {seed: 7}\n" if name == "config.yaml" else "")

    return change


def held_by_another(folder: Path) -> None:
    run_folder("run.lock")(folder)
    file = (folder / "runs" / "r" / "run.lock").open("r+")
    file.write("process 1 on there")
    file.flush()
    fcntl.flock(file, fcntl.LOCK_EX)
    OPEN.append(file)


BOMB = "a: &a [1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 8)}]\n" for before, name in zip("abcdefg", "bcdefgh", strict=True)
)
CASES: dict[str, Case] = {
    "no config": (None, "", "--config: expected a YAML file, got nothing (see --help)"),
    "no such config": (None, "--config no.yaml", "no.yaml: expected a config file, got: No such file or directory"),
    "a folder": (None, "--config model", "model: expected a config file, got: Is a directory"),
    "empty config": (
        write("config.yaml", ""),
        "--config config.yaml",
        "config.yaml: expected sections (run, model, data, rollout, vllm, annotation, atoms, pairs, mask, objective, "
        "sft, train, adam, ds, lora, savings, eval, logger, hub, cluster), got an empty file",
    ),
    "no YAML": (
        add_config("train: [1"),
        "--config config.yaml",
        "config.yaml:7: expected YAML, got: expected ',' or ']', but got '<stream end>'",
    ),
    "no UTF-8": (
        write("config.yaml", b"run: {name: \xff}"),
        "--config config.yaml",
        "config.yaml: expected UTF-8 text, got byte 0xff",
    ),
    "YAML that grows": (
        write("config.yaml", BOMB),
        "--config config.yaml",
        "config.yaml:1: expected YAML, got: more than 100000 values, once aliases are written out",
    ),
    "unknown key": (
        add_config("train: {bta: 0.1}"),
        "--config config.yaml",
        "config.yaml:6: train.bta: unknown option; did you mean train.beta?",
    ),
    "unknown section": (
        add_config("trian: {beta: 0.1}"),
        "--config config.yaml",
        "config.yaml:6: trian: unknown section; did you mean train?",
    ),
    "unknown option": (
        None,
        "--config config.yaml --train.bta 1",
        "--train.bta: unknown option; did you mean --train.beta? (see --help)",
    ),
    "wrong type": (
        add_config("train: {beta: big}"),
        "--config config.yaml",
        "config.yaml:6: train.beta: expected a number, got 'big'",
    ),
    "wrong type of an option": (
        None,
        "--config config.yaml --run.iterations two",
        "--run.iterations: expected a whole number, got 'two'",
    ),
    "LoRA on layers that the model lacks": (
        None,
        "--config config.yaml --lora.rank 4 --lora.target_modules q_proj,query",
        "--lora.target_modules: expected all-linear, or names of linear layers (down_proj, gate_proj, k_proj, lm_head, "
        "o_proj, q_proj, up_proj, v_proj), got 'query'",
    ),
    "out of range": (None, "--config config.yaml --adam.lr -1", "--adam.lr: expected above 0, got -1.0"),
    "key twice": (
        add_config("train: {beta: 0.1}\ntrain: {beta: 0.2}"),
        "--config config.yaml",
        "config.yaml:7: train: given twice, first in line 6",
    ),
    "fewer pairs than ranks": (
        None,
        "--config config.yaml --train.num_ranks 4 --train.batch_size 2",
        "--train.batch_size: expected at least train.num_ranks (4): a pair for every rank, got 2",
    ),
    "no room for a prompt": (
        None,
        "--config config.yaml --vllm.max_model_len 16",
        "config.yaml:4: rollout.max_new_tokens: expected less than vllm.max_model_len (16), which also holds the "
        "prompt, got 16",
    ),
    "offload on a CPU": (
        None,
        "--config config.yaml --ds.adam_offload true",
        "--ds.adam_offload: expected false when cluster.device is cpu (nothing to offload to), got True",
    ),
    "options of nobody": (
        None,
        "--config config.yaml --eval.options {judge: http}",
        "--eval.options: expected none without eval.evaluator, got {'judge': 'http'}",
    ),
    "a mask that hides all": (
        add_config("mask: {eos: drop, policy: {chosen: {no_fact: 0}, rejected: {no_fact: 1}}}"),
        "--config config.yaml",
        "config.yaml:6: mask.policy.chosen: expected a weight above 0 when mask.eos is drop (nothing could be "
        "learned), got {'no_fact': 0.0}",
    ),
    "more resamples than memory": (
        None,
        "--config config.yaml --eval.bootstrap_samples 1000000000",
        "--eval.bootstrap_samples: expected 100 to 100000, got 1000000000",
    ),
    "unknown annotator": (
        None,
        "--config config.yaml --annotation.annotator oracle",
        "--annotation.annotator: expected one of anah, claims, classifier, facts, replay, short_answer, spans, "
        "verdict, python:package.module:Class; got 'oracle'",
    ),
    "no such class": (
        None,
        "--config config.yaml --annotation.annotator python:fakes:Nobody",
        "--annotation.annotator: expected a class Nobody in fakes, got None",
    ),
    "option of another annotator": (
        None,
        "--config config.yaml --annotation.options {file: a}",
        "--annotation.options: Accepting: got an unexpected keyword argument 'file'",
    ),
    "a key in place of its name": (
        None,
        "--config config.yaml --annotation.annotator anah --annotation.options {judge: http, judge_options: "
        "{base_url: 'http://127.0.0.1:1/v1', model: m, api_key_env: sk-secret}}",
        "--annotation.options.judge_options.api_key_env: expected the name of an environment variable, got what can't "
        "be one (not shown, as it may be the key itself)",
    ),
    "a password in an address": (
        None,
        "--config config.yaml --annotation.annotator anah --annotation.options {judge: http, judge_options: "
        "{base_url: 'http://me:secret@127.0.0.1:1/v1', model: m}}",
        "--annotation.options.judge_options.base_url: expected an address without a user and a password, got one with "
        "them (not shown; api_key_env names the variable that holds a key)",
    ),
    "more CPUs than there are": (
        None,
        "--config config.yaml --rollout.num_engines 3 --cluster.cpus_per_engine 5000",
        f"not enough CPUs: expected at most {os.cpu_count()}, got 3 x 5000 (rollout engines) + 1 x 1 (training ranks) "
        "= 15001; lower the counts or cluster.cpus_per_*",
    ),
    "a KV cache above all memory": (
        None,
        "--config config.yaml --vllm.cpu_kv_cache_gib 100000",
        "vllm.cpu_kv_cache_gib: expected less than this machine's ...",
    ),
    "answers longer than the context": (
        None,
        f"--config config.yaml --rollout.max_new_tokens {CONTEXT}",
        f"--rollout.max_new_tokens: expected less than the model's context ({CONTEXT}), which also holds the prompt, "
        f"got {CONTEXT}",
    ),
    "more GPUs than there are": (
        None,
        "--config config.yaml --cluster.device cuda --train.num_ranks 999 --train.batch_size 999 "
        "--cluster.cpus_per_rank 0",
        "not enough GPUs: expected at most ...",
    ),
    "nobody at the address": (
        None,
        "--config config.yaml --cluster.address 127.0.0.1:1",
        "--cluster.address: no Ray cluster at '127.0.0.1:1': [Errno 111] Connection refused",
    ),
    "no address": (
        None,
        "--config config.yaml --cluster.address head",
        "--cluster.address: expected auto, local or host:port (the port of `ray start --head`, 6379 unless told), "
        "got 'head'",
    ),
    "a port that is none": (
        None,
        "--config config.yaml --cluster.address head:99999",
        "--cluster.address: expected auto, local or host:port (the port of `ray start --head`, 6379 unless told), "
        "got 'head:99999'",
    ),
    "no folder can be made there": (
        None,
        "--config config.yaml --run.dir config.yaml",
        "{}/config.yaml/r: expected a folder, {}/config.yaml is a file",
    ),
    "not writable": (
        None,
        "--config config.yaml --run.dir /proc",
        "/proc/r: expected a place to write to, got: No such file or directory (/proc)",
    ),
    "a path as a name": (
        None,
        "--config config.yaml --run.name ../x",
        "--run.name: expected a folder name, got '../x'",
    ),
    "somebody else's folder": (
        run_folder("thesis.tex"),
        "--config config.yaml",
        "{}/runs/r: expected an empty folder, or one of a run, got 'thesis.tex' and no ledger.jsonl; "
        "choose another run.name, or restore the ledger if it was one",
    ),
    "a folder in use": (
        held_by_another,
        "--config config.yaml",
        "{}/runs/r: another run writes this folder (process 1 on there); wait for it or stop it",
    ),
    "W&B without a login": (
        None,
        "--config config.yaml --logger.wandb_mode online",
        "logger.wandb_mode: expected a login of `wandb login`, or the environment variable WANDB_API_KEY, for "
        "'online', got none; log in, or use offline and `wandb sync` later",
    ),
    "tracker": (
        None,
        "--config config.yaml --logger.trackers [tensorbord]",
        "logger.trackers: expected one of mlflow, tensorboard, trackio, wandb, python:package.module:Class; got "
        "'tensorbord'; did you mean tensorboard?",
    ),
}


def test_what_the_cases_make_bad_is_good(good_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(good_folder)
    run.main(["--config", "config.yaml", "--dry_run"])
    assert "2 questions x 32 answers" in capsys.readouterr().out
    assert contents(good_folder) == before


@pytest.mark.parametrize("name", CASES)
def test_bad_input_is_one_line(good_folder: Path, capfd: pytest.CaptureFixture[str], name: str) -> None:
    refuses(run.main, CASES[name], good_folder, capfd)
    OPEN.clear()


@pytest.mark.parametrize("name", ["unknown key", "more CPUs than there are", "somebody else's folder"])
def test_a_process_says_the_same(good_folder: Path, name: str) -> None:
    change, arguments, expected = CASES[name]
    if change is not None:
        change(good_folder)
    before = contents(good_folder)
    environment = {**os.environ, "PYTHONPATH": f"{REPOSITORY}:{REPOSITORY / 'tests'}"}
    call = [sys.executable, "-m", "maskdpo_ray.run", *words(arguments, good_folder)]
    done = subprocess.run(call, env=environment, capture_output=True, text=True, timeout=250)
    assert (done.returncode, done.stdout, done.stderr) == (
        2,
        "",
        f"error: {expected}\n".replace("{}", str(good_folder)),
    )
    assert contents(good_folder) == before
