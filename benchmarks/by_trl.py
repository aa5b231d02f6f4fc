"""TRL's DPOTrainer on the token ids of our pairs, in our order; and the authors' masking rule on top of it."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks import measures
from benchmarks.workload import Outcome, Workload
from maskdpo_ray.records import CORRECT, INCORRECT, PreferencePair, ScoredAnswer


class InOurOrder:
    """A sampler: the indices of each epoch."""

    def __init__(self, epochs: Sequence[Sequence[int]]) -> None:
        self._epochs, self._epoch = epochs, 0

    def set_epoch(self, epoch: int) -> None:
        """The next pass is of this epoch."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[int]:
        return iter(self._epochs[self._epoch])

    def __len__(self) -> int:
        return len(self._epochs[0])


def authors_mask(answer: ScoredAnswer, side: str, tokenizer: Any) -> list[bool] | None:
    """Which tokens of an answer take part, by the rule of the authors' published code; None where it loses its way.

    Sentences are placed by the number of tokens that each has on its own, one after the other from the answer's
    start: what stands between them is not counted. A masked sentence that ends past the answer's end makes the
    published code drop both masks of the pair. Hallucinations are masked in the chosen answer, correct sentences in
    the rejected one.
    """
    masked_labels = INCORRECT if side == "chosen" else CORRECT
    num_tokens = len(answer.rollout.token_ids)
    mask, start = [True] * num_tokens, 0
    for sentence in answer.annotation.sentences:
        text = answer.rollout.text[sentence.start : sentence.end]
        end = start + len(tokenizer(text, add_special_tokens=False)["input_ids"])
        if sentence.label in masked_labels:
            if end > num_tokens:
                return None
            mask[start:end] = [False] * (end - start)
        start = end
    return mask


def rows(pairs: Sequence[PreferencePair], tokenizer: Any, authors: bool) -> list[dict[str, Any]]:
    """Token ids as TRL has them after its own preparation, and the mask of each side."""
    made = []
    for pair in pairs:
        masks = [None, None]
        if authors:
            masks = [authors_mask(pair.chosen, "chosen", tokenizer), authors_mask(pair.rejected, "rejected", tokenizer)]
            if None in masks:
                masks = [None, None]
        chosen, rejected = list(pair.chosen.rollout.token_ids), list(pair.rejected.rollout.token_ids)
        made.append(
            {
                "prompt_ids": list(pair.prompt_token_ids),
                "chosen_ids": chosen,
                "rejected_ids": rejected,
                "chosen_mask": [int(m) for m in masks[0] or [True] * len(chosen)],
                "rejected_mask": [int(m) for m in masks[1] or [True] * len(rejected)],
            }
        )
    return made


def train(workload: Workload, precompute: bool, authors: bool = False) -> Outcome:
    """DPOTrainer.train, and with `precompute` the reference log-probs before it.

    Options: `micro_batch_size` (pairs), `weights` ("bf16": all of the model and AdamW's state in bf16; "fp32": fp32
    weights under bf16 autocast, TRL's default), `gradient_checkpointing`.
    """
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import DPOConfig, DPOTrainer
    from trl.trainer.dpo_trainer import DataCollatorForPreference

    begin = time.perf_counter()
    torch.set_num_threads(workload.threads)
    options = workload.options
    micro_batch_size = options.get("micro_batch_size", 8)
    is_bf16 = workload.dtype == "bf16"
    dtype = torch.bfloat16 if is_bf16 and options.get("weights", "bf16") == "bf16" else torch.float32
    tokenizer = AutoTokenizer.from_pretrained(workload.model)
    data = Dataset.from_list(rows(workload.read(), tokenizer, authors))
    losses: list[float] = []
    seconds = {"precompute": 0.0}

    class Masked(DataCollatorForPreference):
        """Completion masks with holes."""

        def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
            batch = super().torch_call(examples)
            sides = [(e, "chosen_mask") for e in examples] + [(e, "rejected_mask") for e in examples]
            for row, (example, name) in enumerate(sides):
                begin = len(example["prompt_ids"])
                kept = torch.tensor(example[name])
                batch["completion_mask"][row, begin : begin + len(kept)] = kept
            return batch

    class Trainer(DPOTrainer):
        def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
            return dataset  # token ids already

        def _precompute_ref_logps(self, *arguments: Any) -> Any:
            start = time.perf_counter()
            result = super()._precompute_ref_logps(*arguments)
            seconds["precompute"] = time.perf_counter() - start
            return result

        def _get_train_sampler(self, *_: Any) -> Any:
            return InOurOrder(workload.order())

    class Losses(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            if "loss" in logs:
                losses.append(float(logs["loss"]))

    with tempfile.TemporaryDirectory() as folder:
        arguments = DPOConfig(
            output_dir=folder,
            use_cpu=True,
            bf16=is_bf16 and dtype == torch.float32,
            per_device_train_batch_size=micro_batch_size,
            gradient_accumulation_steps=workload.batch_size // micro_batch_size,
            num_train_epochs=workload.epochs,
            learning_rate=workload.lr,
            lr_scheduler_type=workload.lr_scheduler,
            warmup_steps=0,
            adam_beta1=workload.betas[0],
            adam_beta2=workload.betas[1],
            adam_epsilon=workload.eps,
            weight_decay=workload.weight_decay,
            max_grad_norm=workload.max_norm,
            beta=workload.beta,
            max_length=None,
            gradient_checkpointing=options.get("gradient_checkpointing", False),
            precompute_ref_log_probs=precompute,
            precompute_ref_batch_size=options.get("precompute_batch_size", micro_batch_size),
            logging_steps=1,
            logging_first_step=False,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            remove_unused_columns=False,
            dataloader_pin_memory=False,
            seed=workload.seed,
        )
        trainer = Trainer(
            model=AutoModelForCausalLM.from_pretrained(workload.model, dtype=dtype),
            args=arguments,
            train_dataset=data,
            processing_class=tokenizer,
            data_collator=Masked(pad_token_id=tokenizer.pad_token_id),
            callbacks=[Losses()],
        )
        loaded, cpu_begin = time.perf_counter(), time.process_time()
        trainer.train()
        end, cpu_end = time.perf_counter(), time.process_time()
    widths = [max(len(pair["chosen_ids"]), len(pair["rejected_ids"])) for pair in data]
    return Outcome(
        seconds=end - loaded + seconds["precompute"],
        reference_seconds=seconds["precompute"],
        loading_seconds=loaded - begin - seconds["precompute"],
        peak_rss=measures.peak_rss(),
        losses=losses,
        details={
            "weights": str(dtype),
            "micro_batch_size": micro_batch_size,
            "longest_answer": max(widths),
            "cpu_seconds": cpu_end - cpu_begin,
        },
    )


def plain_trainer(model: Any, reference: Any, examples: Sequence[Any], folder: str, given: Any) -> Any:
    """A DPOTrainer of models that lie in no folder, on training examples of ours, for `benchmarks/gpu_check.py`."""
    from datasets import Dataset
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast
    from trl import DPOConfig, DPOTrainer

    class Trainer(DPOTrainer):
        def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
            return dataset  # token ids already

    data = [
        {
            "prompt_ids": list(each.prompt_token_ids),
            "chosen_ids": list(each.responses[0].token_ids),
            "rejected_ids": list(each.responses[1].token_ids),
        }
        for each in examples
    ]
    words = {"<pad>": 0, "<unk>": 1, "</s>": 2}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="<unk>")), pad_token="<pad>", eos_token="</s>"
    )
    arguments = DPOConfig(
        output_dir=folder,
        use_cpu=given.device == "cpu",
        bf16=False,  # the weights are
        per_device_train_batch_size=given.micro_batch_size,
        learning_rate=given.lr,
        max_length=None,
        gradient_checkpointing=given.gradient_checkpointing,
        report_to="none",
        remove_unused_columns=False,
    )
    trainer = Trainer(
        model=model,
        ref_model=reference,
        args=arguments,
        train_dataset=Dataset.from_list(data),
        processing_class=tokenizer,
    )
    if given.gradient_checkpointing:  # Trainer.train would
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return trainer
