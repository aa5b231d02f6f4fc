"""The command line from start to summary, on real engines and ranks; everything it leaves in the run folder."""

from __future__ import annotations

import hashlib
import json
import math
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from driver import REPOSITORY, Driver, describe
from finished_run import SMALLEST, Run, arguments, finish
from safetensors.torch import load_file

from maskdpo_ray.records import LABELS

# The fixtures' runs count towards the test that first asks for them.
pytestmark = pytest.mark.timeout(2400)
ITERATIONS = (0, 1)
VERSIONS = (0, 1, 2)
SPLITS = ("heldout", "transfer")
K, R = 4, 2


@pytest.fixture(scope="module")
def vanilla_run(runs_dir: Path, smallest: Path) -> Run:
    """The first iteration of plain DPO, all else as in `masked_run`."""
    folder = runs_dir / "vanilla"
    options = arguments(folder, smallest, mask__policy="vanilla", run__iterations=1)
    with Driver(options, runs_dir / "vanilla.log") as driver:
        run = finish(driver, folder)
    assert run.code == 0, run.output
    return run


def call(options: list[str], log: Path) -> tuple[int, str, float]:
    """(exit code, output, seconds) of a command that should start nothing."""
    start = time.monotonic()
    with Driver(options, log) as driver:
        code = driver.wait(120)
        return code, driver.output, time.monotonic() - start


def answers_by_question(lines: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    grouped: dict[str, list[dict[str, Any]]] = {}
    for line in lines:
        grouped.setdefault(line["question_id"], []).append(line)
    return grouped


def is_in_order(rollouts: list[dict[str, Any]], annotations: list[dict[str, Any]]) -> bool:
    return [(r["question_id"], r["sample"]) for r in rollouts] == [(a["question_id"], a["sample"]) for a in annotations]


def test_it_ends_well_and_leaves_no_process(masked_run: Run) -> None:
    assert masked_run.left == []
    assert "Traceback" not in masked_run.output
    assert "heldout" in masked_run.output
    assert not (masked_run.folder / "error.log").exists()


def test_ray_listens_to_this_machine_only(masked_run: Run) -> None:
    """Whoever reaches Ray's ports runs code here."""
    names = {name for name, _ in masked_run.listening}
    assert {"gcs_server", "raylet"} <= names
    # The ranks' store is torch's, and takes no code; it binds to every address.
    rays = {(name, ip) for name, ip in masked_run.listening if not name.startswith("ray::TrainingRa")}
    assert {ip for _, ip in rays} <= {"127.0.0.1", "::1"}, rays


def test_every_file_is_there(masked_run: Run) -> None:
    expected = {"config.yaml", "ledger.jsonl", "metrics.jsonl", "summary.json"}
    for iteration in ITERATIONS:
        names = (
            "rollouts-000.jsonl",
            "annotations-000.jsonl",
            "pairs.jsonl",
            "pairs-summary.json",
            "reference-logps.safetensors",
            "policy/config.json",
            "policy/model.safetensors",
            "policy/tokenizer.json",
            "policy/tokenizer_config.json",
            "policy/chat_template.jinja",
        )
        expected |= {f"iter_{iteration:03d}/{name}" for name in names}
    for version in VERSIONS:
        for split in SPLITS:
            names = [f"{split}.json", f"{split}-rollouts.jsonl", f"{split}-annotations.jsonl"]
            expected |= {f"eval_{version:03d}/{name}" for name in names}
            expected |= {f"eval_{version:03d}/{split}-gain.json"} if version else set()
    assert {name for name in expected if not (masked_run.folder / name).is_file()} == set()
    leftovers = [str(path) for path in masked_run.folder.rglob("*") if path.name.endswith((".tmp", ".partial"))]
    assert leftovers == []


def test_config_is_resolved(masked_run: Run) -> None:
    text = (masked_run.folder / "config.yaml").read_text(encoding="utf-8")
    config = yaml.safe_load(text)
    assert config["run"]["name"] == "masked" and config["logger"]["wandb_mode"] == "offline"
    assert config["data"]["max_questions"] == SMALLEST["data.max_questions"]
    assert config["train"]["beta"] > 0 and config["rollout"]["top_k"] == 40  # defaults too
    assert "torch" in text and "ray" in text  # versions


@pytest.mark.parametrize("iteration", ITERATIONS)
def test_rollouts_annotations_and_pairs(masked_run: Run, iteration: int) -> None:
    base = f"iter_{iteration:03d}"
    rollouts = masked_run.lines(f"{base}/rollouts-000.jsonl")
    annotations = masked_run.lines(f"{base}/annotations-000.jsonl")
    pairs = masked_run.lines(f"{base}/pairs.jsonl")
    grouped = answers_by_question(rollouts)
    assert len(grouped) == SMALLEST["data.max_questions"]
    assert all([r["sample"] for r in answers] == list(range(K)) for answers in grouped.values())
    assert {rollout["policy_version"] for rollout in rollouts} == {iteration}  # on-policy
    assert all(rollout["token_ids"] for rollout in rollouts)
    assert is_in_order(rollouts, annotations)
    for rollout, annotation in zip(rollouts, annotations, strict=True):
        for sentence in annotation["sentences"]:
            assert sentence["label"] in LABELS
            assert rollout["text"][sentence["start"] : sentence["end"]].strip()
    texts = {(r["question_id"], r["sample"]): r["text"] for r in rollouts}
    assert pairs
    for pair in pairs:
        assert pair["chosen"]["score"] > pair["rejected"]["score"]
        for side in ("chosen", "rejected"):
            rollout = pair[side]["rollout"]
            assert rollout["text"] == texts[pair["question_id"], rollout["sample"]]
    summary = masked_run.read(f"{base}/pairs-summary.json")
    assert summary["questions"] == len(grouped) == summary["pairs"] + sum(summary["drops"].values())
    assert summary["pairs"] == len(pairs)
    assert set(summary["mixture"]) == {"chosen_with_incorrect", "rejected_with_correct"}


def test_evaluations(masked_run: Run) -> None:
    for version in VERSIONS:
        for split, topics in zip(SPLITS, ("data.num_eval_topics", "data.num_transfer_topics"), strict=True):
            base = f"eval_{version:03d}/{split}"
            rollouts = masked_run.lines(f"{base}-rollouts.jsonl")
            for part in ("annotations", "judgements"):
                assert is_in_order(rollouts, masked_run.lines(f"{base}-{part}.jsonl"))
            assert {rollout["policy_version"] for rollout in rollouts} == {version}
            assert {len(answers) for answers in answers_by_question(rollouts).values()} == {R}
            assert len(rollouts) == SMALLEST[topics] * R
            for name in (base, f"{base}-judged"):
                assert 0 <= masked_run.read(f"{name}.json")["metrics"]["score"]["mean"] <= 1
    held = {r["question_id"] for r in masked_run.lines("eval_000/heldout-rollouts.jsonl")}
    trained = {r["question_id"] for i in ITERATIONS for r in masked_run.lines(f"iter_{i:03d}/rollouts-000.jsonl")}
    assert not held & trained


def test_metrics(masked_run: Run) -> None:
    metrics = masked_run.lines("metrics.jsonl")
    names = {name for line in metrics for name in line}
    expected = {
        "timing/start_s",
        "timing/collect_s",
        "timing/reference_s",
        "timing/train_s",
        "timing/sync_s",
        "timing/iteration_s",
        "timing/evaluate-heldout_s",
        "tokens/collect",
        "tokens/train",
        "idle/rollout",
        "idle/annotation",
        "idle/training",
        "idle/evaluation",
        "train/loss",
        "train/grad_norm",
        "train/lr",
        "eval/heldout/score",
        "eval/heldout/gain",
        "eval/transfer/score",
        "pairs/count",
    }
    assert expected - names == set()
    steps = [line["step"] for line in metrics if "train/loss" in line]
    assert steps == list(range(len(steps)))  # on through the iterations
    sampled = [
        sum(len(r["token_ids"]) for r in masked_run.lines(f"iter_{i:03d}/rollouts-000.jsonl")) for i in ITERATIONS
    ]
    assert [line["tokens/collect"] for line in metrics if "tokens/collect" in line] == sampled


def test_summary(masked_run: Run) -> None:
    summary = masked_run.read("summary.json")
    assert summary["run"] == "masked"
    assert {split: len(versions) for split, versions in summary["evaluations"].items()} == {"heldout": 3, "transfer": 3}
    assert [pairs["iteration"] for pairs in summary["pairs"]] == list(ITERATIONS)
    assert any("the second evaluator, factscore," in remark for remark in summary["remarks"])


def test_ledger_names_what_is_on_disk(masked_run: Run) -> None:
    finished = {}
    for entry in masked_run.lines("ledger.jsonl"):
        if "finished" in entry:
            finished[entry["stage"], entry["iteration"]] = entry["files"]
    assert {("train", 0), ("train", 1), *(("evaluate-heldout", v) for v in VERSIONS)} <= set(finished)
    for files in finished.values():
        for name, proof in files.items():
            data = (masked_run.folder / name).read_bytes()
            assert (len(data), hashlib.sha256(data).hexdigest()) == (proof["bytes"], proof["sha256"])


def test_all_files_have_the_mode_of_a_new_one(masked_run: Run, tmp_path: Path) -> None:
    """Files have the umask's mode, so policies load for every reader of the folder; W&B manages its own files."""
    (tmp_path / "new").touch()
    files = [file for file in masked_run.folder.rglob("*") if file.is_file() and "wandb" not in file.parts]
    assert {file.stat().st_mode for file in files} == {(tmp_path / "new").stat().st_mode}


def test_policies_load_and_differ(masked_run: Run, bundled_model: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folders = [bundled_model, *(masked_run.folder / f"iter_{i:03d}" / "policy" for i in ITERATIONS)]
    weights = []
    for folder in folders:
        model, report = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
        assert not report["missing_keys"] and not report["unexpected_keys"]
        assert AutoTokenizer.from_pretrained(folder).chat_template
        weights.append(torch.cat([parameter.flatten().float() for parameter in model.parameters()]))
    assert not torch.equal(weights[0], weights[1]) and not torch.equal(weights[1], weights[2])
    assert all(bool(torch.isfinite(values).all()) for values in weights)


def test_wandb_is_on_disk(masked_run: Run) -> None:
    assert list((masked_run.folder / "wandb").glob("offline-run-*/run-*.wandb"))


def test_again_says_finished(masked_run: Run, smallest: Path, runs_dir: Path) -> None:
    before = {name: (masked_run.folder / name).read_bytes() for name in ("summary.json", "iter_001/pairs.jsonl")}
    code, output, seconds = call(arguments(masked_run.folder, smallest), runs_dir / "again.log")
    assert code == 0 and "is finished" in output
    assert seconds < 60
    assert before == {name: (masked_run.folder / name).read_bytes() for name in before}


def test_another_config_is_refused(masked_run: Run, smallest: Path, runs_dir: Path) -> None:
    code, output, _ = call(arguments(masked_run.folder, smallest, train__beta=0.2), runs_dir / "refused.log")
    assert code == 2
    error = [line for line in output.splitlines() if line.startswith("error:")]
    assert len(error) == 1 and "train.beta" in error[0] and "0.2" in error[0]


def test_a_prompt_too_long_is_refused(smallest: Path, runs_dir: Path) -> None:
    """One line, whatever transformers prints when it is imported."""
    facts = {"table": "countries", "entity": "Rwanda"}
    question = {"id": "long", "prompt": "word " * 9000, "facts": facts, "document": "Rwanda: capital Kigali"}
    (runs_dir / "long.jsonl").write_text(json.dumps(question), encoding="utf-8")
    folder = runs_dir / "too-long"
    options = arguments(folder, smallest, data__transfer=runs_dir / "long.jsonl", data__num_transfer_topics=1)
    code, output, _ = call(options, runs_dir / "too-long.log")
    assert code == 2
    assert output.startswith("error: question 'long': expected a prompt of at most ") and output.count("\n") == 1
    assert not folder.exists()


def test_dry_run_starts_nothing(smallest: Path, runs_dir: Path) -> None:
    folder, seen = runs_dir / "dry", set()
    with Driver(
        [*arguments(folder, smallest, train__num_ranks=2, cluster__cpus_per_rank=0.5), "--dry_run"],
        runs_dir / "dry.log",
    ) as driver:
        while driver.process.poll() is None:
            seen |= set(describe(driver.left()))
            time.sleep(0.02)
        assert driver.wait() == 0, driver.output
        output = driver.output
    assert [name for name in seen if any(word in name for word in ("raylet", "gcs_server", "ray::", "VLLM"))] == []
    assert not folder.exists()
    for part in ("rollout engines: 1", "training ranks: 2", "iterations: 2 of 6 questions"):
        assert part in output


def test_vanilla_differs_in_the_policy_only(masked_run: Run, vanilla_run: Run) -> None:
    """Same seeds, same initial policy: the same answers, labels and pairs; only the loss differs."""
    for name in ("rollouts-000.jsonl", "annotations-000.jsonl", "pairs.jsonl"):
        masked, vanilla = ((run.folder / "iter_000" / name).read_bytes() for run in (masked_run, vanilla_run))
        assert sorted(masked.splitlines()) == sorted(vanilla.splitlines()), name  # questions finish in any order
    masked, vanilla = (
        load_file(run.folder / "iter_000" / "policy" / "model.safetensors") for run in (masked_run, vanilla_run)
    )
    assert masked.keys() == vanilla.keys()
    assert any(not torch.equal(masked[name], vanilla[name]) for name in masked)
    losses = [
        [line["train/loss"] for line in run.lines("metrics.jsonl") if "train/loss" in line]
        for run in (masked_run, vanilla_run)
    ]
    # Both begin at the reference, where the loss is log 2, but for bf16's noise over a batch of two pairs.
    assert [losses[0][0], losses[1][0]] == pytest.approx([math.log(2)] * 2, abs=0.02)
    assert losses[0][: len(losses[1])] != losses[1]


def test_repository_is_untouched(masked_run: Run) -> None:
    assert not (REPOSITORY / "runs" / "masked").exists() and not (REPOSITORY / "wandb" / "masked").exists()
