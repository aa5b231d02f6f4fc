"""python -m maskdpo_ray.plan: what it prints, its exit codes, and what it refuses."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from processor_time import processor_seconds

from maskdpo_ray import plan
from maskdpo_ray.config.schema import VllmConfig
from maskdpo_ray.errors import UserError
from maskdpo_ray.models import folder as model_folder
from maskdpo_ray.models import memory
from maskdpo_ray.models.folder import ModelFolder

REPOSITORY = Path(__file__).resolve().parents[2]
PAPER = ["--config", str(REPOSITORY / "configs/paper.yaml"), "--model_size", "8b", "--annotator_size", "internlm2-7b"]


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")


def output(argv: list[str], capsys: pytest.CaptureFixture[str], code: int = 0) -> str:
    if code:
        with pytest.raises(SystemExit) as caught:
            plan.main(argv)
        assert caught.value.code == code
    else:
        plan.main(argv)
    return capsys.readouterr().out


def test_the_papers_config_fits_what_its_header_says(capsys: pytest.CaptureFixture[str]) -> None:
    text = output([*PAPER, "--num_gpus", "16", "--num_nodes", "2"], capsys)
    assert text.count(": fits, ") == 3
    assert "GPUs: 16 of 16 = 4 x 1 (rollout engines) + 4 x 1 (annotation actors) + 8 x 1 (training ranks)" in text
    assert "a policy of 14.96 GiB to 4 engines = 59.83 GiB" in text


def weights(text: str) -> list[str]:
    """GiB of weights of ranks, engines and annotators, as printed."""
    return [line.split()[0] for line in text.splitlines() if line.partition("GiB  ")[2].startswith("weights")]


def test_a_sum_is_what_its_terms_add_up_to(capsys: pytest.CaptureFixture[str]) -> None:
    text = output([*PAPER, "--vllm.tensor_parallel_size", "2"], capsys)
    assert weights(text) == ["1.87", "7.48", "14.41"] and "7.48 GiB  weights / 2" in text
    groups = text.split("\n\n")[1:5]
    for group in groups:
        terms = [float(line.split()[0].replace(",", "")) for line in group.splitlines() if "GiB  " in line]
        found = re.search(r": (?:fits, )?([0-9.,]+) (?:of|GiB)", group.splitlines()[-1])
        assert found and sum(terms) == pytest.approx(float(found[1].replace(",", "")), abs=0.05)


def test_the_error_is_stated(capsys: pytest.CaptureFixture[str]) -> None:
    last = output(PAPER, capsys).splitlines()[-1]
    assert last.startswith(f"Error of a rank's sum: at most {memory.ERROR:.0%}, as measured on CPUs; nothing has been")


def test_what_several_ranks_send_each_other_with_adapters(capsys: pytest.CaptureFixture[str]) -> None:
    """ZeRO-2: gradients once, trained weights twice, 7/8 of them from each of 8 ranks."""
    text = output([*PAPER, "--ds.zero_stage", "2", "--lora.rank", "16"], capsys)
    adapted = 32 * 16 * (4 * 4096 + 2 * (4096 + 1024) + 3 * (4096 + 14336))  # q, o; k, v; gate, up, down
    assert f"and {2 * 3 * adapted * 7 / 8 / 2**30:.2f} GiB from each rank" in text


def test_too_few_gpus(capsys: pytest.CaptureFixture[str]) -> None:
    assert "GPUs: 16 of 8 = " in output([*PAPER, "--num_gpus", "8"], capsys, code=1)


ADVISED = {
    "full training, all GPUs one could want": "--model_size 8b --gpu_memory_gib 80",
    "full training, 8 GPUs": "--model_size 8b --num_gpus 8",
    "LoRA, 2 small GPUs": "--model_size 8b --num_gpus 2 --gpu_memory_gib 24 --lora.rank 16",
    "LoRA, 4 small GPUs": "--model_size 8b --num_gpus 4 --gpu_memory_gib 24 --lora.rank 16",
    "a large model": "--model_size 70b --num_gpus 16 --num_nodes 2",
    "a large model and little of the nodes' memory": "--model_size 70b --num_gpus 16 --node_memory_gib 900",
    "more engines than GPUs": "--model_size 1b --num_gpus 4 --rollout.num_engines 8",
    "more ranks than GPUs": "--model_size 1b --num_gpus 4 --train.num_ranks 8",
    "a CPU": "--model_size 1.5b --node_memory_gib 16",
    "a cache too small": "--model_size 1.7b --node_memory_gib 300 --vllm.cpu_kv_cache_gib 1",
    "several engines on a CPU": "--model_size 360m --node_memory_gib 24 --train.num_ranks 4",
    "LoRA, one small GPU": "--model_size 8b --num_gpus 1 --gpu_memory_gib 24 --lora.rank 16",
    "full training, one GPU": "--model_size 1.5b --num_gpus 1",
    "full training, one small GPU": "--model_size 1.5b --num_gpus 1 --gpu_memory_gib 24",
    "an engine and a judge on one GPU": f"{shlex.join(PAPER)} --lora.rank 16 --num_gpus 1",
    "little disk": "--model_size 1.5b --num_gpus 2 --disk_gib 20",
}


@pytest.mark.parametrize("argv", ADVISED.values(), ids=ADVISED)
def test_what_is_advised_fits(argv: str, capsys: pytest.CaptureFixture[str]) -> None:
    """One piece of advice, for the GPUs that were named; with it nothing is left to say."""
    words = argv.split()
    advice = [line for line in output(words, capsys, code=1).splitlines() if line.startswith("It fits with: ")]
    options = shlex.split(advice[0].removeprefix("It fits with: ").partition(", on ")[0])
    assert len(advice) == 1 and options
    given = dict(zip(words[::2], words[1::2], strict=True)) | dict(zip(options[::2], options[1::2], strict=True))
    text = output([word for pair in given.items() for word in pair], capsys)
    assert "DOES NOT FIT" not in text and "NOT ENOUGH" not in text and "It fits with" not in text


@pytest.mark.parametrize("argv", ADVISED.values(), ids=ADVISED)
def test_nothing_is_advised_without_need(argv: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Each option of the advice is needed: without it something does not fit, or there are too few GPUs."""
    words = argv.split()
    advice = next(line for line in output(words, capsys, code=1).splitlines() if line.startswith("It fits with: "))
    options = shlex.split(advice.removeprefix("It fits with: ").partition(", on ")[0])
    given, changes = (
        dict(zip(words[::2], words[1::2], strict=True)),
        dict(zip(options[::2], options[1::2], strict=True)),
    )
    for left_out in changes:
        rest = given | {name: value for name, value in changes.items() if name != left_out}
        output([word for pair in rest.items() for word in pair], capsys, code=1)


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (
            "--model_size 8b --num_gpus 1 --gpu_memory_gib 24 --lora.rank 16 --rollout.ahead 1",
            "A run of this config takes 2 GPUs or more, for one of the rollout engines and one of the training ranks, "
            "which rollout.ahead keeps apart: no option makes do with 1",
        ),
        (
            f"{shlex.join(PAPER)} --num_gpus 1 --cluster.gpus_per_annotator 2",
            "A run of this config takes 2 GPUs or more, for one of the annotation actors: no option makes do with 1",
        ),
        (
            "--model_size 70b --num_gpus 2 --gpu_memory_gib 24",
            "No options make it fit on 2 GPUs of 24.00 GiB: take a smaller model, or more or larger GPUs",
        ),
        ("--model_size 8b --node_memory_gib 8", "No options make it fit: take a smaller model, or more memory"),
    ],
)
def test_where_no_option_helps(argv: str, expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = output(argv.split(), capsys, code=1)
    assert expected in text.splitlines() and "It fits with" not in text


def test_a_published_model_needs_neither_files_nor_a_network(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    options = ["--annotation.options", "{judge_options: {model: Qwen/Qwen2.5-7B-Instruct}}"]
    text = output([*PAPER[:2], "--model.model_name_or_path", "org/Qwen3-8B", *options], capsys)
    assert "Policy qwen3-8b: 8,190,735,360 parameters" in text and "Annotator 7b: 7,615,616,512 parameters" in text


COLOCATED = {
    "LoRA of 8B on a card of 24 GB": (
        "--model_size 8b --lora.rank 16 --num_gpus 1 --gpu_memory_gib 24 --model.gradient_checkpointing_enable true "
        "--vllm.max_model_len 2048 --train.max_tokens_per_gpu 2048",
        1,
    ),
    "all of 1.5B on a card of 80 GB": ("--model_size 1.5b --num_gpus 1", 1),
    "all of 8B on 8 cards of 80 GB": (
        "--model_size 8b --num_gpus 8 --train.num_ranks 8 --rollout.num_engines 8 --ds.zero_stage 3 "
        "--node_memory_gib 1000 --disk_gib 1000",
        8,
    ),
}


@pytest.mark.parametrize(("argv", "gpus"), COLOCATED.values(), ids=COLOCATED)
def test_colocated_engines_and_ranks_take_the_gpus_of_one_group(
    argv: str, gpus: int, capsys: pytest.CaptureFixture[str]
) -> None:
    text = output([*argv.split(), "--cluster.colocate", "true"], capsys)
    assert f"GPUs: {gpus} of {gpus} = the most of {gpus} x 1 (rollout engines), {gpus} x 1 (training ranks)" in text
    assert "1.50 GiB  1 x engine or judge at rest" in text and "2.00 GiB  rank at rest" in text
    assert "NOT ENOUGH" in output(argv.split(), capsys, code=1)


def test_colocated_engine_and_judge_share_a_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    """Each takes nine tenths by default; on two GPUs they have one each."""
    argv = [*PAPER, "--lora.rank", "16", "--train.num_ranks", "1", "--rollout.num_engines", "1", "--cluster.colocate"]
    text = output([*argv, "true", "--annotation.num_actors", "1"], capsys, code=1)
    assert "engines and judges of one GPU: DOES NOT FIT, 146.00 of 80.00 GiB; lower vllm.gpu_memory_utilization" in text
    argv[argv.index("--train.num_ranks") + 1] = "2"
    text = output([*argv, "true", "--annotation.num_actors", "1"], capsys)
    assert "engines and judges of one GPU: fits, 74.00 of 80.00 GiB" in text


def test_shorter_prompts_are_advised_where_no_option_helps(capsys: pytest.CaptureFixture[str]) -> None:
    """vllm.max_model_len says how long prompts may be; the advice works."""
    argv = "--model_size 8b --lora.rank 16 --num_gpus 1 --gpu_memory_gib 24 --vllm.max_model_len 4096".split()
    advised = "^If prompts have at most 1024 tokens, it fits with: (.*), on 1 GPUs$"
    found = re.search(advised, output(argv, capsys, 1), re.M)
    assert found and "--vllm.max_model_len 2048" in found[1]
    assert "enough" in output([*argv[:-2], *found[1].split()], capsys)


def test_weights_in_four_bits(capsys: pytest.CaptureFixture[str]) -> None:
    """QLoRA: 0.127 bits a weight beside its 4 (section 3); embedding, head, norms and adapters stay in 16 bits."""
    argv = ["--model_size", "8b", "--lora.rank", "16", "--num_gpus", "2"]
    linear = 32 * (2 * 4096 * 4096 + 2 * 4096 * 1024 + 3 * 4096 * 14336)
    adapters = 32 * 16 * (4 * 4096 + 2 * (4096 + 1024) + 3 * (4096 + 14336))
    others = 2 * 128256 * 4096 + 65 * 4096
    expected = linear * 4.127 / 8 + 2 * (others + adapters)
    text = output([*argv, "--ds.load_in_4bit", "true"], capsys)
    assert weights(text)[0] == f"{expected / 2**30:.2f}" and "NOT MEASURED: weights in 4 bits" in text
    assert f"{2 * 4096 * 14336 / 2**30:.2f} GiB  the largest 4-bit weight as numbers" in text
    text = output(argv, capsys)
    assert weights(text)[0] == f"{2 * (linear + others + adapters) / 2**30:.2f}" and "4 bits" not in text


def test_a_mixture_of_experts_is_counted_and_said_not_to_be_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    described = {"model_type": "mixtral", "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2}
    described |= {"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 1000, "num_local_experts": 4}
    (tmp_path / "config.json").write_text(json.dumps(described | {"max_position_embeddings": 4096}))
    text = output(["--model.model_name_or_path", str(tmp_path), "--num_gpus", "2"], capsys)
    experts = 2 * (4 * 3 * 256 * 512 + 4 * 256)  # and routers
    attention = 2 * (2 * 256 * 256 + 2 * 256 * 128)
    assert f": {experts + attention + 2 * 1000 * 256 + 5 * 256:,} parameters" in text
    assert "NOT MEASURED: mixtures of experts" in text
    assert "NOT MEASURED" not in output(["--model_size", "135m"], capsys)


def test_a_cpus_memory_is_taken_in_turns(capsys: pytest.CaptureFixture[str]) -> None:
    argv = "--model_size 135m --vllm.max_model_len 1024 --rollout.max_new_tokens 96 --prompt_tokens 200".split()
    argv += ["--node_memory_gib", "64"]

    def gib(argv: list[str]) -> float:
        found = re.search(r"all actors: fits, ([0-9.]+)", output(argv, capsys))
        assert found
        return float(found[1])

    turns = gib([*argv, "--cluster.colocate", "true"])
    assert turns < 0.75 * gib(argv)
    answering = output([*argv, "--cluster.colocate", "true", "--vllm.cpu_kv_cache_gib", "40"], capsys)
    assert "all actors, while engines answer: RAM" in answering


def test_the_disk_that_a_run_fills(capsys: pytest.CaptureFixture[str]) -> None:
    """bf16 policies of each iteration; two checkpoints of weights, fp32 masters and both moments."""
    argv = ["--model_size", "1.5b", "--num_gpus", "2", "--run.iterations", "3"]
    text, size = output(argv, capsys), 1_543_714_304
    assert f"{3 * 2 * size / 2**30:.2f} GiB  3 policies" in text
    assert f"{2 * 14 * size / 2**30:.2f} GiB  2 checkpoints (train.save_steps)" in text
    assert "the run folder's disk: 48.88 GiB; how much there is is not known (--disk_gib)" in text
    text = output([*argv, "--train.save_steps", "-1", "--disk_gib", "8"], capsys, code=1)
    assert "the run folder's disk: DOES NOT FIT, 8.63 of 8.00 GiB; lower run.iterations" in text


def test_a_judge_that_does_not_fit_says_what_helps_it(capsys: pytest.CaptureFixture[str]) -> None:
    text = output([*PAPER, "--gpu_memory_gib", "20", "--num_gpus", "32", "--num_nodes", "4"], capsys, code=1)
    line = next(line for line in text.splitlines() if line.startswith("annotation actors: DOES NOT FIT"))
    assert "set a smaller judge_options.max_model_len, or give each more GPUs" in line
    assert "All but the annotation actors fit with: --" in text


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        ("--model_size 135m --node_memory_gib 64", "CPUs alone (--num_gpus or --gpu_memory_gib says otherwise)"),
        ("--model_size 135m --node_memory_gib 64 --cluster.device cpu", None),
        ("--model_size 135m --num_gpus 2", "GPUs of 80 GiB (--gpu_memory_gib)"),
        ("--model_size 135m --gpu_memory_gib 24", "as many GPUs as it takes (--num_gpus)"),
        (
            "--model_size 135m --cluster.device cuda",
            "GPUs of 80 GiB (--gpu_memory_gib); as many GPUs as it takes (--num_gpus)",
        ),
        ("--model_size 135m --num_gpus 2 --gpu_memory_gib 24", None),
    ],
)
def test_what_is_assumed(argv: str, expected: str | None, capsys: pytest.CaptureFixture[str]) -> None:
    first = output(argv.split(), capsys).splitlines()[0]
    assert first == f"Assumed: {expected}" if expected else first.startswith("Policy 135m")


def test_annotators_that_share_a_gpu_must_take_no_more_than_their_part(capsys: pytest.CaptureFixture[str]) -> None:
    text = output([*PAPER, "--cluster.gpus_per_annotator", "0.5"], capsys)
    assert "annotation actors: fits, 20.94 of 40.00 GiB" in text
    assert "set judge_options.gpu_memory_utilization to at most 0.5" in text
    assert "2 x" not in text and "GPUs: 14 = 4 x 1 (rollout engines) + 4 x 0.5 (annotation actors)" in text


def test_annotators_of_another_dtype(capsys: pytest.CaptureFixture[str]) -> None:
    text = output([*PAPER, "--annotation.options", "{judge_options: {dtype: float32}}"], capsys)
    assert weights(text)[2] == "28.83"


def test_on_a_cpu_all_actors_share_the_machine(capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["--model_size", "135m", "--vllm.max_model_len", "1024", "--rollout.max_new_tokens", "96"]
    text = output([*argv, "--node_memory_gib", "64", "--prompt_tokens", "200"], capsys)
    assert text.count(": fits, ") == 2 and "GPUs" not in text
    text = output([*argv, "--node_memory_gib", "4", "--prompt_tokens", "200"], capsys, code=1)
    assert "all actors: DOES NOT FIT" in text


def test_a_kv_cache_too_small_for_one_sequence(capsys: pytest.CaptureFixture[str]) -> None:
    text = output(["--model_size", "8b", "--node_memory_gib", "900"], capsys, code=1)
    assert "rollout engines: DOES NOT FIT, 16.00 of 2.00 GiB" in text
    assert "It fits with: --vllm.max_model_len 2048" in text


def written(folder: Path, kind: str, **others: object) -> list[str]:
    """Arguments for a tiny model of this kind, whose config.json is written to `folder`."""
    described = {
        "model_type": kind,
        "hidden_size": 8,
        "intermediate_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 2,
        "vocab_size": 32,
        "max_position_embeddings": 4096,
        "pad_token_id": None,
        **others,
    }
    (folder / "config.json").write_text(json.dumps(described))
    return ["--model.model_name_or_path", str(folder), "--node_memory_gib", "64"]


def test_the_shape_of_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = output(written(tmp_path, "llama", tie_word_embeddings=True), capsys)
    assert f"Policy {tmp_path.name}: 1,448 parameters" in text
    text = output(written(tmp_path, "gemma"), capsys)  # ties its embeddings without a word
    assert f"Policy {tmp_path.name}: 1,448 parameters" in text
    (tmp_path / "judge").mkdir()
    written(tmp_path / "judge", "gemma2")  # two norms more in each layer
    options = ["--annotation.options", f"{{judge_options: {{model: {tmp_path / 'judge'}}}}}"]
    text = output([*PAPER[:4], "--vllm.max_model_len", "2048", *options], capsys)
    assert "Annotator judge: 1,480 parameters" in text


def test_what_a_run_refuses_does_not_fit(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        plan.main([*written(tmp_path, "llama"), "--vllm.max_model_len", "5000"])
    assert str(caught.value) == "vllm.max_model_len: expected at most the model's 4096, got 5000"
    model = ModelFolder(tmp_path / "config.json", None, None, 4096)
    with pytest.raises(UserError) as of_run:
        model_folder.max_len(model, VllmConfig(max_model_len=5000))
    assert str(caught.value) == str(of_run.value)


def test_rows_are_counted_where_a_tree_cannot_serve(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = [*written(tmp_path, "llama", alibi=True), "--vllm.max_model_len", "2048"]
    text = output(argv, capsys)
    assert text.endswith("training: on padded rows, one for each answer: alibi: positions are counted along the row\n")
    assert output([*argv, "--savings.prefix_tree", "false"], capsys) == text


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        ([], "--model_size: expected the size of a model, or --config with a model's folder, got nothing"),
        (["--model_size", "9b"], "--model_size: expected one of 135m, "),
        (["--model_size", "8b", "--num_gpus", "many"], "--num_gpus: expected a whole number of at least 0, got 'many'"),
        (["--model_size", "8b", "--gpu_memory_gib", "0"], "--gpu_memory_gib: expected GiB above 0, got '0'"),
        (["--model_size", "8b", "--num_nodes", "0"], "--num_nodes: expected a whole number above 0, got '0'"),
        (["--model_size", "8b", "--train.num_rank", "2"], "--train.num_rank: unknown option; did you mean"),
        (["--model_size", "8b", "--train.num_ranks", "x"], "--train.num_ranks: expected a whole number, got 'x'"),
        (["--model_size", "8b", "--nonsense", "2"], "--nonsense: unknown option"),
        (["--config", "absent.yaml"], "absent.yaml: expected a config file, got: No such file"),
        (
            ["--model.model_name_or_path", "models/ours"],
            "model.model_name_or_path: expected a folder with config.json, a published model or --model_size, got 'mod",
        ),
        (
            [*PAPER, "--cluster.gpus_per_annotator", "0"],
            "cluster.gpus_per_annotator: expected more than 0, as its model runs on 1 (device: cuda), got 0",
        ),
        (
            [*PAPER, "--eval.evaluator", "factscore", "--eval.options", "{judge: vllm, judge_options: {model: m/m}}"],
            "cluster.gpus_per_evaluator: expected more than 0, as its model runs on 1 (device: cuda), got 0",
        ),
        (PAPER[:2], "--annotator_size: expected the size of the annotator's model, as annotators have a GPU "),
        (["--model_size", "8b", "--annotator_size", "7b"], "--annotator_size: expected none where annotators have no"),
        (
            ["--model_size", "8b", "--cluster.device", "cpu", "--num_gpus", "2"],
            "--num_gpus: expected none where cluster.device is cpu, got 2",
        ),
        (
            ["--model_size", "8b", "--num_gpus", "4", "--num_nodes", "2", "--vllm.tensor_parallel_size", "4"],
            "vllm.tensor_parallel_size: expected at most the 2 GPUs of a node, got 4",
        ),
        (
            [*PAPER, "--annotation.options", "{judge_options: {max_model_len: long}}"],
            "annotation.options.judge_options.max_model_len: expected a number above 0, got 'long'",
        ),
        (["--model_size", "8b", "--prompt_tokens", "131000"], "--prompt_tokens: expected at most 130048, which"),
        (
            ["--model_size", "135m", "--vllm.max_model_len", "100000"],
            "vllm.max_model_len: expected at most the model's 8192, got 100000",
        ),
        (
            ["--model_size", "135m", "--rollout.max_new_tokens", "8192"],
            "rollout.max_new_tokens: expected less than the model's context (8192), which also holds the prompt, got",
        ),
    ],
)
def test_bad_input_is_one_line(argv: list[str], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as caught:
        plan.main(argv)
    assert str(caught.value).startswith(expected), str(caught.value)
    assert "\n" not in str(caught.value)


def test_help_answers_at_once_and_bad_input_exits_with_2() -> None:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-m", "maskdpo_ray.plan"]
    best = float("inf")
    for _ in range(3):
        start = processor_seconds()
        done = subprocess.run([*command, "--help"], capture_output=True, text=True, env=environment, cwd=REPOSITORY)
        best = min(best, processor_seconds() - start)
    assert done.returncode == 0 and "--annotator_size" in done.stdout
    assert best < 2
    done = subprocess.run([*command, "--model_size", "9b"], capture_output=True, text=True, env=environment)
    assert done.returncode == 2 and done.stderr.startswith("error: --model_size: ") and done.stdout == ""
