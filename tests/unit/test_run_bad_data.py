"""Bad questions and bad models, case by case, as test_bad_input.py has bad configs."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from bad_input import CONTEXT, QUESTIONS, Case, Change, edit, lines, refuses, remove, write
from safetensors.numpy import load_file, save_file

from maskdpo_ray import run

WEIGHTS = "model/model.safetensors"


def add_question(text: str) -> Change:
    return write("questions.jsonl", f"{lines(*QUESTIONS)}{text}\n")


def question(**fields: object) -> Change:
    return add_question(json.dumps({"id": "d", "topic": "D", "prompt": "What is d?", **fields}))


def held_out(**fields: object) -> Change:
    return write("held-out.jsonl", lines({"id": "e", "topic": "E", "prompt": "What is e?", **fields}))


def grown(folder: Path) -> None:
    """The tokenizer of a larger model."""
    file = folder / "model" / "tokenizer.json"
    tokenizer = json.loads(file.read_text())
    tokenizer["model"]["vocab"] |= {f"word{i}": 99 + i for i in range(4)}
    file.write_text(json.dumps(tokenizer))


def cut_off(folder: Path) -> None:
    os.truncate(folder / WEIGHTS, 1000)


def pickled(folder: Path) -> None:
    import torch

    torch.save({}, folder / "model" / "pytorch_model.bin")
    (folder / WEIGHTS).unlink()


def without_a_weight(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    del tensors["model.norm.weight"]
    save_file(tensors, folder / WEIGHTS, {"format": "pt"})


REMOTE = {"auto_map": {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Own"}, "model_type": "own"}

ASK = "--config config.yaml"
DATA: dict[str, Case] = {
    "no such questions": (
        remove("questions.jsonl"),
        ASK,
        "questions.jsonl: expected a JSON file, got: No such file ...",
    ),
    "no questions": (write("questions.jsonl", ""), ASK, "questions.jsonl: expected JSON objects, got none"),
    "no UTF-8": (
        write("questions.jsonl", b'{"prompt": "\xff"}'),
        ASK,
        "questions.jsonl:1: expected UTF-8, got byte 0xff",
    ),
    "no JSON": (
        add_question("{prompt: 1}"),
        ASK,
        "questions.jsonl:4: expected JSON, got: Expecting property name enclosed in double quotes at column 2 of the "
        "object",
    ),
    "cut off": (
        add_question('{"prompt": "What'),
        ASK,
        "questions.jsonl:4: expected a JSON object, got one whose brackets or quotes are not closed",
    ),
    "no prompt": (
        add_question('{"id": "d"}'),
        ASK,
        "questions.jsonl:4: prompt: expected a string or chat messages (in another column: data.columns), got nothing",
    ),
    "empty prompt": (
        question(prompt=" "),
        ASK,
        "questions.jsonl:4: prompt[0].content: expected text that is not empty, got ' '",
    ),
    "misspelled field": (
        question(langauge="en"),
        ASK,
        "questions.jsonl:4: langauge: expected one of the fields prompt, id, topic, document, facts, answer, language, "
        "wrong_answers, or one unlike them; did you mean language?",
    ),
    "the same id": (
        question(id="b"),
        ASK,
        "questions.jsonl:4: id: expected an id of its own, got 'b' again, first at questions.jsonl:2",
    ),
    "an id that clears the screen": (
        question(id="\x1b[2J"),
        ASK,
        "questions.jsonl:4: id: expected no control characters or line ends, got '\\x1b[2J'",
    ),
    "a prompt that clears the screen": (
        question(prompt=[{"role": "\x1b[2J", "content": "a"}]),
        ASK,
        "questions.jsonl:4: prompt[0].role: expected one of system, developer, user, assistant, tool, got '\\x1b[2J'",
    ),
    "the assistant last": (
        question(prompt=[{"role": "assistant", "content": "a"}]),
        ASK,
        "questions.jsonl:4: prompt[0].role: expected the user's message last, got 'assistant'",
    ),
    "a lone surrogate": (
        add_question('{"prompt": "\\ud800"}'),
        ASK,
        "questions.jsonl:4: expected Unicode text, got a lone '\\ud800'",
    ),
    "a prompt longer than the context": (
        question(id="a0", prompt="long " * CONTEXT),
        ASK,
        "question 'a0': expected a prompt of at most 240 tokens (context 256, less rollout.max_new_tokens 16), got "
        "1288",
    ),
    "a topic on both sides": (
        held_out(topic=" a"),
        f"{ASK} --data.eval held-out.jsonl",
        "topic 'A' stands in both training (question 'a') and evaluation (question 'e'): expected no topic on two "
        "sides",
    ),
    "a question on both sides": (
        held_out(prompt="what  is B?"),
        f"{ASK} --data.eval held-out.jsonl",
        "prompt stands in both training (question 'b') and evaluation (question 'e'): expected no prompt on two sides",
    ),
    "no topic left": (
        None,
        f"{ASK} --data.num_eval_topics 3",
        "--data.num_eval_topics: expected fewer than the 3 topics of data.train, got 3",
    ),
    "unknown domain": (
        None,
        f"{ASK} --data.train builtin:planets",
        "builtin:planets: expected one of builtin:countries, builtin:elements, builtin:countries-short, "
        "builtin:elements-short, builtin:countries-many, builtin:elements-many, or a file or data set",
    ),
    "no facts to check by": (None, f"{ASK} --annotation.annotator facts", "question '..."),
    "no document to check by": (None, f"{ASK} --eval.evaluator factscore", "question '..."),
}

MODELS: dict[str, Case] = {
    "no such folder": (
        None,
        f"{ASK} --model.model_name_or_path meta/llama",
        "--model.model_name_or_path: expected the folder of a model, or a model of the Hub, got 'meta/llama': there is "
        "no such folder, and of the Hub's model no whole copy is in the cache (HF_HUB_OFFLINE is set); where there is "
        "a network, download it beforehand: hf download meta/llama",
    ),
    "no chat template": (
        remove("model/chat_template.jinja"),
        ASK,
        "config.yaml:2: model.model_name_or_path: expected a chat template in 'model', found none",
    ),
    "a template that fails": (
        write("model/chat_template.jinja", "{{ raise_exception('\x1b[2J') }}"),
        ASK,
        "model: expected a chat template that takes a question, got TemplateError: \\x1b[2J",
    ),
    "a template that one question fails": (
        write("model/chat_template.jinja", "{% if 'b' in messages[0].content %}{{ raise_exception('no') }}{% endif %}"),
        ASK,
        "question 'b': expected messages that the model's chat template takes, got TemplateError: no",
    ),
    "no EOS": (
        edit("model/tokenizer_config.json", eos_token=None),
        ASK,
        "config.yaml:2: model.model_name_or_path: expected an EOS token in 'model', found none",
    ),
    "the tokenizer of another model": (
        grown,
        ASK,
        "model/config.json: vocab_size: expected the tokenizer's 103 or more, got 99",
    ),
    "weights cut off": (
        cut_off,
        ASK,
        "model/model.safetensors: expected a whole safetensors file (no Git LFS pointer), got: ...",
    ),
    "a weight that is not there": (
        without_a_weight,
        ASK,
        "model: expected a weight for every parameter of config.json, got none for 1: model.norm.weight",
    ),
    "weights of another model": (
        edit("model/config.json", intermediate_size=96),
        ASK,
        "model: model.layers.0.mlp.down_proj.weight: expected the shape [32, 96] of config.json, got [32, 64]",
    ),
    "pickled weights only": (
        pickled,
        ASK,
        "config.yaml:2: model.model_name_or_path: expected safetensors in 'model', found pickled weights; convert them "
        "and give 'model-safetensors': python -c 'from transformers ...",
    ),
    "weights beside the folder": (
        write("model/model.safetensors.index.json", '{"weight_map": {"a": "../a.safetensors"}}'),
        ASK,
        "model/model.safetensors.index.json: weight_map: expected {tensor: file in the folder}, got "
        "{'a': '../a.safetensors'}",
    ),
    "an adapter": (
        write("model/adapter_config.json", '{"base_model_name_or_path": "other"}'),
        ASK,
        "model/adapter_config.json: expected a whole model, got an adapter of 'other'; merge the two and give "
        "'model-merged': python -c 'from peft ...",
    ),
    "code of its own": (
        edit("model/config.json", **REMOTE),
        ASK,
        "config.yaml:2: model.model_name_or_path: expected a model that transformers knows in 'model', got: The "
        "repository model contains custom code which must be executed to correctly load the model. ...",
    ),
    "code of the hub's": (
        edit("model/config.json", attn_implementation="kernels-community/flash-attn"),
        ASK,
        "model/config.json: attn_implementation: expected one of eager, sdpa, got 'kernels-community/flash-attn'",
    ),
    "a million layers": (
        edit("model/config.json", num_hidden_layers=10**6),
        ASK,
        "model/config.json: num_hidden_layers: expected at most 1000, got 1000000",
    ),
    "quantized": (
        edit("model/config.json", quantization_config={"quant_method": "gptq"}),
        ASK,
        "model/config.json: quantization_config: expected none, training needs plain weights",
    ),
    "a context that it does not have": (
        None,
        f"{ASK} --vllm.max_model_len 4096",
        "--vllm.max_model_len: expected at most the model's 256, got 4096",
    ),
    "no second model": (
        None,
        f"{ASK} --eval.perplexity_model no",
        "--eval.perplexity_model: expected the folder of a model, with config.json, got 'no', and there is no such "
        "folder",
    ),
}

CASES = {
    f"{part}: {name}": case
    for part, cases in {"questions": DATA, "model": MODELS}.items()
    for name, case in cases.items()
}


@pytest.mark.parametrize("name", CASES)
def test_bad_input_is_one_line(good_folder: Path, capfd: pytest.CaptureFixture[str], name: str) -> None:
    """None is tolerated here; test_dropped.py covers the other cases of bad records."""
    refuses(lambda argv: run.main([*argv, "--data.max_dropped", "0"]), CASES[name], good_folder, capfd)
