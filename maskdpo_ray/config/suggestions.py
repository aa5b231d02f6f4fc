"""Suggestions for an unknown option name: a typo, another section, or another trainer's name."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator

_MOST = 3
_OPTIONS = {
    "run.name": "run_name experiment_name exp_name wandb_run_name",
    "run.dir": "output_dir out_dir output save_dir save_path default_local_dir logging_dir ckpt.path",
    "run.seed": "random_seed data_seed",
    "run.iterations": "num_iterations num_episodes num_rounds",
    "run.keep": "load_best_model_at_end save_total_limit metric_for_best_model save_best",
    "run.patience": "early_stopping_patience early_stopping early_stop",
    "model.model_name_or_path": "model model_name model_path model_id base_model pretrain policy path model_dir",
    "model.gradient_checkpointing_enable": "gradient_checkpointing enable_gradient_checkpointing",
    "model.chat_template": "chat_template_path tokenizer_chat_template template custom_chat_template",
    "rollout.thinking": "enable_thinking reasoning_parser enable_reasoning think",
    "data.train": "dataset dataset_name dataset_path datasets data_path prompt_data prompt_dataset train_file "
    "train_files train_dataset dataset_mixer prompts questions train_path",
    "data.eval": "eval_dataset eval.dataset eval_data val_files val_file val_dataset eval_file eval_path",
    "data.max_questions": "max_samples max_train_samples rollout.batch_size rollout_batch_size",
    "data.num_eval_topics": "val_size eval_size test_size",
    "data.num_dev_topics": "dev_size num_val_topics",
    "rollout.num_engines": "vllm_num_engines num_vllm_engines vllm.num_engines num_rollout_workers",
    "rollout.n_samples_per_prompt": "n rollout.n num_generations num_samples num_return_sequences group_size best_of",
    "rollout.max_new_tokens": "max_tokens max_completion_length max_response_length generate_max_len response_length "
    "rollout.max_len max_output_tokens max_gen_len",
    "vllm.max_model_len": "max_length max_len max_seq_len max_seq_length max_prompt_length max_model_length "
    "prompt_max_len cutoff_len sequence_len context_length data.max_len model_max_length",
    "vllm.tensor_parallel_size": "tp tp_size tensor_parallel tensor_model_parallel_size",
    "vllm.gpu_memory_utilization": "gpu_mem_util mem_fraction_static gpu_memory_fraction",
    "vllm.enforce_eager": "eager",
    "annotation.annotator": "reward_model reward_pretrain reward_funcs reward_func reward remote_rm_url judge labeler "
    "reward.model_name_or_path reward.remote_url remote_url",
    "train.num_ranks": "num_gpus n_gpus n_gpus_per_node num_gpus_per_node actor_num_gpus_per_node world_size "
    "nproc_per_node num_processes num_workers",
    "objective.name": "loss_type preference_loss pref_loss dpo_loss loss.type objective algorithm",
    "objective.sft_weight": "rpo_alpha pref_ftx sft_coef nll_loss_coef cpo_alpha dpo.nll_loss_coef",
    "train.beta": "dpo_beta pref_beta kl_coef init_kl_coef init_coef kl_loss_coef kl_ctrl kl_beta",
    "train.reference": "ref_model ref_pretrain ref_model_name_or_path ref.model_name_or_path reference_model "
    "sync_ref_model",
    "train.max_epochs": "num_train_epochs num_epochs epochs n_epochs ppo_epochs total_epochs num_ppo_epochs",
    "train.batch_size": "train_batch_size global_batch_size gradient_accumulation_steps accumulate_grad_batches "
    "gradient_accumulation ppo_mini_batch_size mini_batch_size",
    "train.micro_batch_size": "per_device_train_batch_size micro_train_batch_size per_device_batch_size "
    "ppo_micro_batch_size ppo_micro_batch_size_per_gpu micro_batch_size_per_gpu",
    "train.max_tokens_per_gpu": "ppo_max_token_len_per_gpu max_token_len_per_gpu max_tokens_per_batch",
    "train.lr_scheduler": "lr_scheduler_type scheduler lr_schedule lr_decay_style",
    "train.lr_warmup_ratio": "warmup_ratio warmup warmup_steps lr_warmup_steps lr_warmup_steps_ratio num_warmup_steps",
    "train.min_lr_ratio": "min_lr lr_min",
    "train.max_norm": "max_grad_norm grad_clip gradient_clipping clip_grad grad_norm_clip clip_grad_norm",
    "train.save_steps": "save_freq save_interval save_every checkpoint_interval",
    "adam.lr": "lr learning_rate actor_lr",
    "adam.betas": "adam_beta1 adam_beta2 adam_betas beta1 beta2",
    "adam.eps": "adam_epsilon epsilon adam_eps",
    "adam.weight_decay": "l2 wd",
    "ds.zero_stage": "deepspeed zero deepspeed_config zero_optimization fsdp strategy sharding_strategy",
    "ds.param_dtype": "bf16 fp16 fp32 mixed_precision precision torch_dtype dtype",
    "ds.adam_offload": "offload cpu_offload optimizer_offload offload_optimizer",
    "ds.load_in_4bit": "qlora load_in_8bit quantization quantization_bit bnb_4bit_quant_type use_bnb_nested_quant",
    "lora.rank": "lora lora_r lora_rank r use_peft use_lora finetuning_type peft_type",
    "lora.alpha": "lora_alpha",
    "lora.dropout": "lora_dropout",
    "lora.target_modules": "lora_target lora_target_modules modules_to_save",
    "savings.reference_once": "precompute_ref_log_probs",
    "savings.prefix_tree": "packing packing_samples padding_free use_remove_padding sample_packing",
    "savings.lean_layers": "use_liger_kernel liger use_liger",
    "logger.trackers": "report_to logger log_with tracking tracker use_tensorboard tensorboard_dir mlflow",
    "logger.wandb_mode": "use_wandb wandb",
    "logger.wandb_project": "project wandb.project project_name",
    "logger.wandb_entity": "entity wandb.entity wandb.org wandb_org",
    "logger.wandb_group": "wandb.group",
    "hub.push": "push_to_hub hub_model_id push_to_hub_model_id hf_repo_id",
    "hub.private": "hub_private_repo",
    "cluster.address": "ray_address ray.address",
    "cluster.device": "use_cpu cpu gpu cuda use_cuda no_cuda accelerator",
    "cluster.step_timeout_s": "ddp_timeout timeout",
}
"""Our options -> the same or governing options' names in trl, OpenRLHF, verl, LLaMA-Factory, axolotl and others."""
_SECTIONS = {
    "model": "policy actor actor_rollout_ref",
    "data": "dataset datasets",
    "rollout": "sampling generation generate sampling_params",
    "annotation": "annotator judge reward",
    "train": "training trainer dpo algo algorithm training_args training_arguments",
    "adam": "optimizer optim adamw",
    "ds": "deepspeed zero",
    "lora": "peft peft_config adapter",
    "eval": "evaluation evaluator",
    "logger": "wandb logging log tracking",
    "cluster": "ray resources",
    "run": "experiment",
    "base": "_base_ bases base_config defaults extends include inherit inherits parent",
}


def _turned(table: dict[str, str]) -> dict[str, str]:
    """{another trainer's name: ours}"""
    return {theirs: ours for ours, names in table.items() for theirs in names.split()}


_OPTION_OF, _SECTION_OF = _turned(_OPTIONS), _turned(_SECTIONS)


def of_option(name: str, known: Collection[str]) -> list[str]:
    """The names among `known` that are most similar in spelling or meaning to the unknown `name`; at most three.

    Args:
        name: as the user wrote it, with or without dots and dashes.
        known: dotted options of the config, and a command's own without a dot; no leading dashes.
    """
    written = name.lstrip("-").lower().replace("-", "_")
    by_field: dict[str, list[str]] = {}
    for option in known:
        by_field.setdefault(option.rpartition(".")[2].lower(), []).append(option)
    for ending in _endings(written):
        if (ours := _OPTION_OF.get(ending, "")) in known:
            return [ours]
        if ending in by_field:
            return by_field[ending][:_MOST]
    theirs = {each: option for each, option in _OPTION_OF.items() if option in known}
    if close := difflib.get_close_matches(written, known, n=1, cutoff=0.75):
        return close
    if close := difflib.get_close_matches(written.rpartition(".")[2], [*by_field, *theirs], n=1, cutoff=0.85):
        return by_field.get(close[0], [])[:_MOST] or [theirs[close[0]]]
    return []


def of_section(name: str, sections: Collection[str], known: Collection[str]) -> list[str]:
    """The section (or `base`), or else the option, that an unknown top-level key of a config most likely means."""
    written = name.lower().replace("-", "_")
    if close := [section for section in (written, _SECTION_OF.get(written, "")) if section in sections]:
        return close[:1]
    return difflib.get_close_matches(written, sections, n=1, cutoff=0.75) or of_option(name, known)


def sentence(found: Collection[str], prefix: str = "") -> str:
    """`; did you mean x or y?`, or nothing without candidates."""
    return f"; did you mean {' or '.join(prefix + each for each in found)}?" if found else ""


def _endings(written: str) -> Iterator[str]:
    """`written` without its first parts, then its last part without its first words, down to two."""
    parts = written.split(".")
    for first in range(len(parts)):
        yield ".".join(parts[first:])
    words = parts[-1].split("_")
    for first in range(1, len(words) - 1):
        yield "_".join(words[first:])
