"""A policy with real weights whose answers make every recipe's pairs: a chain of words that branches.

Its next token follows from the last one alone, as `scripted_model` has it. Asked anything, it says one sentence or more
about Rwanda, each right or wrong; asked whether a statement is true, True or False. `TruthAnnotator` labels them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

from maskdpo_ray.annotation import sentences
from maskdpo_ray.records import CONTRADICTORY, NO_FACT, NO_HALLUCINATION, Annotation, Question, Rollout, Sentence

TOPIC = "Rwanda"
RIGHT, WRONG = "big", "small"
PROBABILITY = 0.99
"""Probability that the next token is in the chain; the other tokens share the rest."""
_UNKNOWN, _END, _ASK, _JUDGE = "<unk>", "</s>", "<ask>", "<judge>"
_CHAIN = {
    _ASK: {TOPIC: 1.0},
    TOPIC: {" is": 1.0},
    f" {TOPIC}": {" is": 1.0},
    " is": {f" {RIGHT}": 0.5, f" {WRONG}": 0.5},
    f" {RIGHT}": {".": 1.0},
    f" {WRONG}": {".": 1.0},
    ".": {_END: 0.5, f" {TOPIC}": 0.5},
    _JUDGE: {"True": 0.5, "False": 0.5},
    "True": {_END: 1.0},
    "False": {_END: 1.0},
}
"""Token -> probability of each token behind it."""
_WORDS = [word for word in dict.fromkeys([*_CHAIN, *(w for after in _CHAIN.values() for w in after)]) if len(word) > 1]
_SIZE = 128
"""Width of states and of the vocabulary, as embeddings are one-hot; two heads of a size that vLLM takes on a CPU."""
_ASKED = f"{{{{ '{_JUDGE}' if 'true or false' in %s['content'] | lower else '{_ASK}' }}}}"
_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'assistant' %}"
    + _ASKED % "messages[loop.index0 - 1]"
    + "{{ message['content'] }}"
    + _END
    + "{% else %}{{ message['content'] }}\n{% endif %}{% endfor %}{% if add_generation_prompt %}"
    + _ASKED % "messages[-1]"
    + "{% endif %}"
)


class TruthAnnotator:
    """Annotator that knows Rwanda's size, and nothing else."""

    def check(self, question: Question) -> None:
        """Accept any question."""

    def start(self) -> None:
        """Do nothing."""

    def annotate(self, items: Sequence[tuple[Question, Rollout]]) -> list[Annotation]:
        """Return one annotation for each answer, in order."""
        return [self._labelled(question, rollout) for question, rollout in items]

    def _labelled(self, question: Question, rollout: Rollout) -> Annotation:
        spans = sentences.split(rollout.text, question.language)
        return Annotation(
            rollout.question_id,
            rollout.sample,
            tuple(Sentence(start, end, self._label(rollout.text[start:end]), confidence=0.75) for start, end in spans),
        )

    @staticmethod
    def _label(sentence: str) -> str:
        if WRONG in sentence:
            return CONTRADICTORY
        return NO_HALLUCINATION if RIGHT in sentence else NO_FACT


def write(folder: Path, context: int = 512, seed: int = 0) -> Path:
    """Make the model's folder: safetensors, tokenizer, chat template.

    `seed`: of the little noise on the weights, without which no gradient reaches attention and MLP.
    """
    import torch
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    characters = [chr(code) for code in (10, *range(32, 127))]
    special = [_UNKNOWN, _END, _ASK, _JUDGE]
    words = [word for word in _WORDS if word not in special]
    ids = {token: number for number, token in enumerate([*special, *words, *characters])}
    assert len(ids) <= _SIZE
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token=_UNKNOWN))
    whole = "|".join(sorted(words, key=len, reverse=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(rf"(?:{whole})\b|[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token=_UNKNOWN,
        eos_token=_END,
        additional_special_tokens=[_ASK, _JUDGE],
        chat_template=_TEMPLATE,
    )
    fast.save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=_SIZE,
        hidden_size=_SIZE,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=context,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=ids[_END],
        pad_token_id=ids[_END],
        initializer_range=1e-3,
        torch_dtype="float32",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    with torch.no_grad():
        model.model.embed_tokens.weight.copy_(torch.eye(_SIZE))
        # RMSNorm makes a one-hot vector sqrt(size) long, so a weight w gives the logit w sqrt(size).
        model.lm_head.weight.fill_(0.0)
        for last, following in _CHAIN.items():
            for token, share in following.items():
                odds = PROBABILITY * share / (1 - PROBABILITY) * (_SIZE - len(following))
                model.lm_head.weight[ids[token], ids[last]] = math.log(odds) / math.sqrt(_SIZE)
    model.save_pretrained(folder)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": ids[_END]}))
    return folder
