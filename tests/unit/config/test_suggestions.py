"""Options suggested for an unknown name: a typo, another section's option, another trainer's name."""

from __future__ import annotations

from pathlib import Path

import pytest

from maskdpo_ray.config import cli, suggestions
from maskdpo_ray.config.file import BASE, options, sections
from maskdpo_ray.errors import ConfigError

NAMES = {
    # typos
    "train.bta": "train.beta",
    "rollout.top": "rollout.top_p",
    "train.batchsize": "train.batch_size",
    "adam.weightdecay": "adam.weight_decay",
    "learning-rate": "adam.lr",
    "learnig_rate": "adam.lr",
    "num-engines": "rollout.num_engines",
    # right name, other section or none
    "lr": "adam.lr",
    "train.lr": "adam.lr",
    "actor.lr": "adam.lr",
    "seed": "run.seed",
    "beta": "train.beta",
    "num_actors": "annotation.num_actors or eval.num_actors",
    # transformers and trl
    "learning_rate": "adam.lr",
    "run.output_dir": "run.dir",
    "output_dir": "run.dir",
    "num_train_epochs": "train.max_epochs",
    "per_device_train_batch_size": "train.micro_batch_size",
    "gradient_accumulation_steps": "train.batch_size",
    "gradient_checkpointing": "model.gradient_checkpointing_enable",
    "bf16": "ds.param_dtype",
    "max_length": "vllm.max_model_len",
    "max_completion_length": "rollout.max_new_tokens",
    "report_to": "logger.trackers",
    "push_to_hub": "hub.push",
    "hub_model_id": "hub.push",
    "num_generations": "rollout.n_samples_per_prompt",
    "deepspeed": "ds.zero_stage",
    "max_grad_norm": "train.max_norm",
    "lr_scheduler_type": "train.lr_scheduler",
    "warmup_ratio": "train.lr_warmup_ratio",
    "adam_beta2": "adam.betas",
    "lora_r": "lora.rank",
    "use_peft": "lora.rank",
    "dataset_name": "data.train",
    "vllm_gpu_memory_utilization": "vllm.gpu_memory_utilization",
    "run_name": "run.name",
    "chat_template_path": "model.chat_template",
    # OpenRLHF
    "actor_learning_rate": "adam.lr",
    "use_wandb": "logger.wandb_mode",
    "micro_train_batch_size": "train.micro_batch_size",
    "train_batch_size": "train.batch_size",
    "pretrain": "model.model_name_or_path",
    "vllm_num_engines": "rollout.num_engines",
    "generate_max_len": "rollout.max_new_tokens",
    "init_kl_coef": "train.beta",
    "ds.lora.rank": "lora.rank",
    "logger.wandb.project": "logger.wandb_project",
    "rollout.batch_size": "data.max_questions",
    "data.prompt_dataset": "data.train",
    "ckpt.output_dir": "run.dir",
    # verl
    "data.train_batch_size": "train.batch_size",
    "data.train_files": "data.train",
    "data.max_response_length": "rollout.max_new_tokens",
    "actor_rollout_ref.model.path": "model.model_name_or_path",
    "actor_rollout_ref.rollout.n": "rollout.n_samples_per_prompt",
    "actor_rollout_ref.actor.optim.lr": "adam.lr",
    "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu": "train.micro_batch_size",
    "actor_rollout_ref.rollout.tensor_model_parallel_size": "vllm.tensor_parallel_size",
    "trainer.total_epochs": "train.max_epochs",
    "trainer.n_gpus_per_node": "train.num_ranks",
    "trainer.experiment_name": "run.name",
    # LLaMA-Factory and axolotl
    "pref_beta": "train.beta",
    "cutoff_len": "vllm.max_model_len",
    "base_model": "model.model_name_or_path",
}


@pytest.mark.parametrize("name", NAMES)
def test_options(name: str) -> None:
    assert " or ".join(suggestions.of_option(f"--{name}", options())) == NAMES[name]


@pytest.mark.parametrize("name", ["eval-n", "x", "verbose", "hub_strategy", "train.x", "--", "."])
def test_nothing_is_proposed_for_what_has_no_like(name: str) -> None:
    assert suggestions.of_option(name, options()) == []


def test_the_tables_name_what_there_is() -> None:
    """No alias is one of our names with another meaning, and none occurs twice."""
    assert set(suggestions._OPTIONS) <= set(options())
    assert set(suggestions._SECTIONS) <= {*sections(), BASE}
    for table, ours in ((suggestions._OPTIONS, options()), (suggestions._SECTIONS, sections())):
        theirs = " ".join(table.values()).split()
        assert len(theirs) == len(set(theirs))
        assert not set(theirs) & set(ours)


SECTIONS = {
    "trian": "train",
    "optimizer": "adam",
    "deepspeed": "ds",
    "peft": "lora",
    "Train": "train",
    "wandb": "logger",
    "learning_rate": "adam.lr",
    "beta": "train.beta",
}


@pytest.mark.parametrize("name", SECTIONS)
def test_sections(name: str) -> None:
    assert suggestions.of_section(name, sections(), options()) == [SECTIONS[name]]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("learning_rate: 1e-5", "x.yaml:2: learning_rate: unknown section; did you mean adam.lr?"),
        ("train: {learning_rate: 1e-5}", "x.yaml:2: train.learning_rate: unknown option; did you mean adam.lr?"),
        ("rollout: {n: 8}", "x.yaml:2: rollout.n: unknown option; did you mean rollout.n_samples_per_prompt?"),
        ("optimizer: {lr: 1e-5}", "x.yaml:2: optimizer: unknown section; did you mean adam?"),
    ],
)
def test_keys_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, expected: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path("x.yaml").write_text(f"model: {{model_name_or_path: m}}\n{text}\n")
    with pytest.raises(ConfigError) as refused:
        cli.parse(["--config", "x.yaml"])
    assert str(refused.value) == expected


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("--use_wandb", "--use_wandb: unknown option; did you mean --logger.wandb_mode? (see --help)"),
        ("--learning_rate=1", "--learning_rate: unknown option; did you mean --adam.lr? (see --help)"),
        ("--confg", "--confg: unknown option; did you mean --config? (see --help)"),
        (
            "data.train_batch_size=64",
            "'data.train_batch_size': expected options only, got a word without --; did you mean --train.batch_size? "
            "(see --help)",
        ),
    ],
)
def test_words_of_a_run(tmp_path: Path, word: str, expected: str) -> None:
    (tmp_path / "x.yaml").write_text("model: {model_name_or_path: m}\n")
    with pytest.raises(ConfigError) as refused:
        cli.parse(["--config", str(tmp_path / "x.yaml"), word])
    assert str(refused.value) == expected


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("--num_gpu", "--num_gpu: unknown option; did you mean --num_gpus? (see --help)"),
        ("--learning_rate", "--learning_rate: unknown option; did you mean --adam.lr? (see --help)"),
        ("--train.lr", "--train.lr: unknown option; did you mean --adam.lr? (see --help)"),
    ],
)
def test_words_of_a_command(word: str, expected: str) -> None:
    """A command's own options are suggested as well as the config's."""
    parser = cli.Parser("x", "x")
    parser.add_argument("--num_gpus")
    with pytest.raises(ConfigError) as refused:
        parser.add_config(is_required=False).parse([word, "1"])
    assert str(refused.value) == expected


def test_a_command_without_a_config() -> None:
    parser = cli.Parser("x", "x")
    parser.add_argument("--limit")
    with pytest.raises(ConfigError, match="^--limt: unknown option; did you mean --limit\\? "):
        parser.parse_args(["--limt", "3"])
