"""A judge with real weights whose replies are known: its next token follows from the last one alone.

Embeddings are one-hot, attention and MLP add nothing, and the head is a table of what comes after what. The chat
template ends a prompt with a token of its own for each turn, in the last one by the length of the first message.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

PROBABILITY = 0.75
"""Probability of every token of a reply, its end among them."""
PASSAGE = "The passage"
CHAINS = {"<fact>": "Has a claim", "<reference>": PASSAGE, "<right>": "Consistent", "<wrong>": "Contradictory"}
"""End that the template gives a prompt -> the reply."""
_END, _UNKNOWN = "</s>", "<unk>"
_HEAD_SIZE = 64  # one that vLLM's CPU attention takes; also the size of everything else
_TEMPLATE = (
    "{% for message in messages %}{{ message['content'] }} {% endfor %}"
    "{% if messages | length == 1 %}<fact>{% elif messages | length == 3 %}<reference>"
    "{% elif messages[0]['content'] | length % 2 %}<wrong>{% else %}<right>{% endif %}"
)


def verdict(first_message: str) -> str:
    """Label that the judge gives a sentence in the end."""
    return CHAINS["<wrong>" if len(first_message) % 2 else "<right>"]


def reply(messages: list[dict[str, str]]) -> str:
    """Words of the judge, as its template has them: the number of messages tells the turn."""
    turn = {1: "<fact>", 3: "<reference>"}.get(len(messages))
    return CHAINS[turn] if turn else verdict(messages[0]["content"])


def write(folder: Path, context: int) -> Path:
    """Make the model's folder: safetensors, tokenizer, chat template."""
    import torch
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = [_UNKNOWN, _END, *CHAINS, *(word for reply in CHAINS.values() for word in reply.split())]
    assert len(words) == len(set(words)) <= _HEAD_SIZE
    ids = {word: number for number, word in enumerate(words)}
    tokenizer = Tokenizer(WordLevel(ids, unk_token=_UNKNOWN))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token=_UNKNOWN, eos_token=_END)
    fast.chat_template = _TEMPLATE
    fast.save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=_HEAD_SIZE,
        hidden_size=_HEAD_SIZE,
        intermediate_size=_HEAD_SIZE,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
        max_position_embeddings=context,
        tie_word_embeddings=False,
        rms_norm_eps=1e-12,
        bos_token_id=None,
        eos_token_id=ids[_END],
        pad_token_id=ids[_END],
        torch_dtype="float32",
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
        model.model.norm.weight.fill_(1.0)
        model.model.embed_tokens.weight.copy_(torch.eye(_HEAD_SIZE))
        # RMSNorm makes the one-hot vector sqrt(size) long; softmax over `size` tokens gives PROBABILITY to the next.
        logit = math.log(PROBABILITY / (1 - PROBABILITY) * (_HEAD_SIZE - 1))
        for start, reply in CHAINS.items():
            chain = [start, *reply.split(), _END]
            for last, following in zip(chain, chain[1:], strict=False):
                model.lm_head.weight[ids[following], ids[last]] = logit / math.sqrt(_HEAD_SIZE)
    model.save_pretrained(folder)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": ids[_END]}))
    return folder
