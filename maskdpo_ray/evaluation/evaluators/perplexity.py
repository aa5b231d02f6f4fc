"""Perplexity of answers under a second language model: it shows language that decays while facts are still right.

The perplexity is exp(nats / tokens) over all answers; `judged_metrics` adds them up.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from maskdpo_ray.annotation import replies
from maskdpo_ray.errors import ConfigError, DataError, ModelError, shown
from maskdpo_ray.evaluation.evaluators import protocol
from maskdpo_ray.evaluation.evaluators.protocol import Evaluator
from maskdpo_ray.models import folder
from maskdpo_ray.models.chat import Chat
from maskdpo_ray.records import Judgement, Question, Rollout, Surprisal

_FIELD = "eval.perplexity_model"
_EXPECTED = "a causal language model"
_TOKENS = 2048
"""Tokens of a forward pass, padding included: bounds the logits, [tokens, vocabulary]."""
Row = tuple[list[int], list[int]]
"""Token ids of a prompt and of an answer to it."""


class Perplexity:
    """Measures answers with a transformers model for causal language modelling, in float32."""

    def __init__(
        self,
        model: str,
        max_new_tokens: int,
        device: str = "cpu",
        template_options: Mapping[str, Any] | None = None,
        now: datetime | None = None,
    ) -> None:
        """Check the folder; only the model's config, tokenizer and weight shapes are loaded.

        Args:
            model: folder of the model, as transformers saves it; weights in safetensors, no code of its own.
            max_new_tokens: the policy's longest answer: `check` requires this much room after every prompt.
            device: "cpu" or "cuda".
            template_options: `model.chat_template_kwargs`, for this model's own template.
            now: see `Chat.now`; None: the current time.

        Raises ConfigError when there is no folder, ModelError when it holds no such model.
        """
        from transformers import AutoModelForCausalLM

        self._folder, self._max_new_tokens, self._device = Path(model), max_new_tokens, device
        whole = _config(model)
        config = whole.get_text_config()
        self._tokenizer = folder.read_tokenizer(self._folder)
        needed, rows = self._tokenizer.vocab_size, getattr(config, "vocab_size", None)
        if type(rows) is not int or rows < needed:
            fault = f"vocab_size: expected the tokenizer's {needed} or more, got {shown(rows)}"
            raise ModelError(f"{self._folder / 'config.json'}: {fault}")
        self._context = getattr(config, "max_position_embeddings", None) or 2**31  # some models have no limit
        if self._context <= max_new_tokens:
            expected = f"a context of more than rollout.max_new_tokens, {max_new_tokens} tokens"
            raise ConfigError(f"{_FIELD}: expected {expected}, got {self._context} in {model!r}")
        folder.check_weights(AutoModelForCausalLM, whole, self._folder, _EXPECTED)
        self._chat = Chat(self._tokenizer, template_options or {}, now=now or datetime.now())
        self._network: Any = None

    def check(self, question: Question) -> None:
        """Refuse a prompt that the model can't take, or that leaves no room for an answer. Raises DataError."""
        try:
            length = len(self._prompt(question))
        except DataError as error:
            raise DataError(f"{_FIELD}: {error}") from error
        room = self._context - self._max_new_tokens
        if not 1 <= length <= room:
            raise DataError(
                f"{_FIELD}: question {question.id!r}: expected a prompt of 1 to {room} tokens (context "
                f"{self._context}, less rollout.max_new_tokens {self._max_new_tokens}), got {length}"
            )

    def start(self) -> None:
        """Load the model. Raises ConfigError when there is no GPU for it, ModelError when it can't be loaded."""
        import torch
        from transformers import AutoModelForCausalLM

        if self._device == "cuda" and not torch.cuda.is_available():
            raise ConfigError(f"cluster.gpus_per_evaluator: expected a GPU for {_FIELD}, got none")
        network = folder.load_network(AutoModelForCausalLM, self._folder, _EXPECTED)
        self._network = network.to(self._device)
        self._turn = threading.Lock()  # tokenizers are not thread-safe, and memory holds one forward pass

    def rest(self) -> None:
        """Drop the model until `start` is called again."""
        self._network = None

    def measure(self, items: Sequence[tuple[Question, Rollout]]) -> list[Surprisal | None]:
        """Return one for each (question, answer), in order; None for an answer that the context has no room for.

        An empty answer has no tokens. The end-of-sequence token is no part of an answer.
        """
        if self._network is None:
            raise RuntimeError("start() comes before measure()")
        with self._turn:
            rows = [(self._prompt(question), self._ids(rollout.text)) for question, rollout in items]
            sizes = [len(prompt) + len(answer) for prompt, answer in rows]
            nats = {i: 0.0 for i, (_, answer) in enumerate(rows) if not answer}
            todo = [i for i in range(len(rows)) if i not in nats and sizes[i] <= self._context]
            todo.sort(key=lambda i: (-sizes[i], i))  # the like are padded least
            while todo:
                count = max(1, _TOKENS // sizes[todo[0]])
                batch, todo = todo[:count], todo[count:]
                nats.update(zip(batch, self._nats([rows[i] for i in batch]), strict=True))
        return [Surprisal(nats[i], len(answer)) if i in nats else None for i, (_, answer) in enumerate(rows)]

    def _prompt(self, question: Question) -> list[int]:
        """Render the prompt by the model's own chat template; without one, the messages' contents line by line."""
        if self._tokenizer.chat_template:
            return self._chat.prompt_ids(question)
        text = "".join(f"{message['content']}\n" for message in question.prompt)
        return list(self._tokenizer(text, verbose=False)["input_ids"])

    def _ids(self, answer: str) -> list[int]:
        return list(self._tokenizer(answer, add_special_tokens=False, verbose=False)["input_ids"])

    def _nats(self, rows: Sequence[Row]) -> list[float]:
        """Sum of -log p over the tokens of each answer, in one forward pass, padded on the right."""
        import torch
        from torch.nn.functional import cross_entropy

        width = max(len(prompt) + len(answer) for prompt, answer in rows)
        ids = torch.zeros(len(rows), width, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, (prompt, answer) in enumerate(rows):
            size = len(prompt) + len(answer)
            ids[row, :size], mask[row, :size] = torch.tensor(prompt + answer), 1
        ids, mask = ids.to(self._device), mask.to(self._device)
        with torch.inference_mode():
            logits = self._network(input_ids=ids, attention_mask=mask, use_cache=False).logits
            sums = []
            for row, (prompt, answer) in enumerate(rows):
                start, end = len(prompt), len(prompt) + len(answer)
                # The logits at a token are about the next one.
                losses = cross_entropy(logits[row, start - 1 : end - 1], ids[row, start:end], reduction="none")
                sums.append(float(losses.double().sum()))
        return sums


class WithPerplexity:
    """An evaluator, or none, whose judgements have a `surprisal`; without an evaluator they hold nothing else."""

    def __init__(self, evaluator: Evaluator | None, perplexity: Perplexity) -> None:
        """Nothing is started. Raises ConfigError when the evaluator's `num_gpus` is no number."""
        self._evaluator, self._perplexity = evaluator, perplexity
        self._starts_evaluator = True
        self.max_concurrency = getattr(evaluator, "max_concurrency", 1)
        self.num_gpus = 0 if evaluator is None else protocol.num_gpus(evaluator)

    def check(self, question: Question) -> None:
        """Refuse a question that the evaluator or the language model refuses. Raises UserError."""
        if self._evaluator is not None:
            protocol.check(self._evaluator, question)
        self._perplexity.check(question)

    def start(self) -> None:
        """Start both, after a rest what rested. Raises UserError, one line, when that fails."""
        if self._evaluator is not None and self._starts_evaluator:
            self._evaluator.start()
        self._perplexity.start()

    def rest(self) -> None:
        """Let both rest, of the evaluator one that has a method for it."""
        self._perplexity.rest()
        rest = getattr(self._evaluator, "rest", None)
        self._starts_evaluator = rest is not None
        if rest is not None:
            rest()

    def judge(self, items: Sequence[tuple[Question, Rollout]]) -> list[Judgement]:
        """See `Evaluator.judge`. Raises EvaluatorError when the evaluator's reply does not fit the answers."""
        if self._evaluator is None:
            judgements = [Judgement(rollout.question_id, rollout.sample, ()) for _, rollout in items]
        else:
            judgements = self._evaluator.judge(items)
            replies.refuse_judgement_faults(items, judgements)
        surprisals = self._perplexity.measure(items)
        return [replace(each, surprisal=surprisal) for each, surprisal in zip(judgements, surprisals, strict=True)]


def _config(model: str) -> Any:
    """Read the model's config. Raises ConfigError and ModelError."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    named = folder.describe_model(model, _FIELD).get("architectures")
    file = Path(model) / "config.json"
    known = set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values())
    if not isinstance(named, list) or known.isdisjoint(map(str, named)):
        expected = "expected a causal language model of transformers (a model's own code is not run)"
        raise ModelError(f"{file}: architectures: {expected}, got {shown(named)}")
    folder.refuse_no_weights(file.parent, _FIELD)
    return folder.load_config(file.parent)
