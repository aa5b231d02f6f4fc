"""Surprisals under tiny models of random weights: transformers' own loss, padding, prompts, bad folders."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from maskdpo_ray.errors import ConfigError, DataError, ModelError
from maskdpo_ray.evaluation.evaluators import perplexity
from maskdpo_ray.evaluation.evaluators.perplexity import Perplexity
from maskdpo_ray.records import Question, Rollout, Surprisal

CONTEXT = 96
TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    "<{{ m.role }}>{{ m.content }}\n{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)
ANSWERS = ("Kigali.", "It is Kigali, a city in Rwanda.", "", " x" * 20)


def build(folder: Path, chat: bool) -> Path:
    """A Llama with a chat template, or a GPT-2 without one whose prompts begin with a token of their own.

    A character is a token.
    """
    import torch
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    characters = [chr(code) for code in (10, *range(32, 127))]
    vocabulary = {token: number for number, token in enumerate(["[UNK]", "[BOS]", *characters])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    if not chat:
        tokenizer.post_processor = processors.TemplateProcessing(single="[BOS] $A", special_tokens=[("[BOS]", 1)])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", bos_token="[BOS]")
    fast.chat_template = TEMPLATE if chat else None
    fast.save_pretrained(folder)
    size, tokens = len(vocabulary), {"bos_token_id": 1, "eos_token_id": 1}
    llama = LlamaConfig(
        vocab_size=size,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=CONTEXT,
        initializer_range=0.4,
        **tokens,
    )
    gpt2 = GPT2Config(
        vocab_size=size, n_embd=32, n_layer=2, n_head=2, n_positions=CONTEXT, initializer_range=0.4, **tokens
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        network: Any = LlamaForCausalLM(llama) if chat else GPT2LMHeadModel(gpt2)
        network.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("chat"), chat=True)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("plain"), chat=False)


@pytest.fixture(scope="module", params=["chat", "plain"])
def folder(request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def model(folder: Path) -> Perplexity:
    return started(folder)


def started(folder: Path) -> Perplexity:
    model = Perplexity(str(folder), max_new_tokens=8)
    model.start()
    return model


def asked(content: str = "Capital of Rwanda?", *before: dict[str, str]) -> Question:
    return Question(content, "t", (*before, {"role": "user", "content": content}))


def items(*answers: str, question: Question | None = None) -> list[tuple[Question, Rollout]]:
    question = question or asked()
    return [(question, Rollout(question.id, k, (), text, "stop", 0)) for k, text in enumerate(answers)]


def ids(text: str) -> list[int]:
    """By hand: a character is a token."""
    return [2 if character == "\n" else ord(character) - 32 + 3 for character in text]


def prompt_ids(folder: Path, text: str) -> list[int]:
    return ids(f"<user>{text}\n<assistant>") if folder.name.startswith("chat") else [1, *ids(f"{text}\n")]


def own_loss(network: Any, folder: Path, prompt: str, answer: str) -> float:
    """Transformers' mean loss of one sequence, no padding, times its tokens."""
    import torch

    before, after = prompt_ids(folder, prompt), ids(answer)
    labels = torch.tensor([[-100] * len(before) + after])
    with torch.no_grad():
        return float(network(input_ids=torch.tensor([before + after]), labels=labels).loss) * len(after)


def close(surprisals: list[Surprisal | None]) -> list[Any]:
    return [s and (pytest.approx(s.nats, rel=1e-5), s.num_tokens) for s in surprisals]


def test_it_is_the_models_own_loss(folder: Path, model: Perplexity) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    network = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    batch = [*items(*ANSWERS), *(items("Kigali.", question=asked(other))[0] for other in ("Capital of Peru?", "?"))]
    found = model.measure(batch)
    for (question, rollout), surprisal in zip(batch, found, strict=True):
        assert surprisal is not None and surprisal.num_tokens == len(rollout.text)
        expected = own_loss(network, folder, question.id, rollout.text) if rollout.text else 0.0
        assert surprisal.nats == pytest.approx(expected, rel=1e-5)
    assert len({round(found[i].nats, 3) for i in (0, 4, 5)}) == 3, "it depends on the prompt"


def test_neither_batch_nor_company_nor_order_changes_it(model: Perplexity, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = [*items(*ANSWERS[:4]), *items("No.", question=asked("x" * 60))]
    alone = [model.measure([item])[0] for item in batch]
    for tokens in (1, 130, 10**6):
        monkeypatch.setattr(perplexity, "_TOKENS", tokens)
        together = model.measure(batch)
        assert close(together) == close(alone) and together == model.measure(batch)
        assert close(together[::-1]) == close(model.measure(batch[::-1]))


def test_forward_passes_are_bounded(chat: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(perplexity, "_TOKENS", 100)
    model, shapes = started(chat), []
    network = model._network
    monkeypatch.setattr(model, "_network", lambda **given: shapes.append(given["input_ids"].shape) or network(**given))
    model.measure(items("b" * 3, "a" * 50, "c" * 4))  # after 36 tokens of prompt
    assert [tuple(shape) for shape in shapes] == [(1, 86), (2, 40)]


def test_threads_take_turns(chat: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads as in an actor whose evaluator judges several questions at once."""
    model, running, most = started(chat), [], []
    network = model._network

    def watched(**given: Any) -> Any:
        running.append(1)
        most.append(len(running))
        try:
            return network(**given)
        finally:
            running.pop()

    monkeypatch.setattr(model, "_network", watched)
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda _: model.measure(items(*ANSWERS)), range(8)))
    assert max(most) == 1 and all(each == found[0] for each in found)


def test_earlier_messages_are_read(model: Perplexity) -> None:
    turns = ({"role": "user", "content": "Capital of Mali?"}, {"role": "assistant", "content": "Bamako."})
    alone, after = (
        model.measure(items("Kigali.", question=q))[0] for q in (asked(), asked("Capital of Rwanda?", *turns))
    )
    assert alone is not None and after is not None and abs(alone.nats - after.nats) > 0.01


def test_what_does_not_fit_is_not_measured(folder: Path, model: Perplexity) -> None:
    room = CONTEXT - len(prompt_ids(folder, asked().id))
    fits, too_long, empty = model.measure(items("x" * room, "x" * (room + 1), ""))
    assert fits is not None and fits.num_tokens == room
    assert (too_long, empty) == (None, Surprisal(0.0, 0))


def test_it_travels_to_an_actor_before_it_starts(folder: Path, model: Perplexity) -> None:
    sent = pickle.loads(pickle.dumps(Perplexity(str(folder), 8)))
    with pytest.raises(RuntimeError, match="start"):
        sent.measure(items("x"))
    sent.start()
    assert sent.measure(items(*ANSWERS)) == model.measure(items(*ANSWERS))


def test_prompts_are_checked_before_a_run(chat: Path, plain: Path) -> None:
    system = {"role": "system", "content": "Be brief."}
    Perplexity(str(plain), 8).check(asked("x", system))
    model = Perplexity(str(chat), 8)
    model.check(asked("x" * 70))  # 88 tokens with the template's
    for question, expected in (
        (
            asked("x" * 71),
            "question 'xx.*': expected a prompt of 1 to 88 tokens .context 96, less rollout.max_.*, got 89$",
        ),
        (asked("x", system), "question 'x': expected messages that the model's chat template takes, got .*no system"),
    ):
        with pytest.raises(DataError, match=f"^eval.perplexity_model: {expected}") as caught:
            model.check(question)
        assert "\n" not in str(caught.value)


def described(**fields: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        file = folder / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | fields))

    return change


def without_weights(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def truncated(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def headless(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    file = folder / "model.safetensors"
    save_file({name: t for name, t in load_file(file).items() if name != "lm_head.weight"}, file, {"format": "pt"})


def without_tokenizer(folder: Path) -> None:
    for file in folder.glob("tokenizer*"):
        file.unlink()


@pytest.mark.parametrize(
    ("damage", "kind", "expected"),
    [
        (shutil.rmtree, ConfigError, "eval.perplexity_model: expected the folder of a model, with config.json, got "),
        (
            described(architectures=["BertForSequenceClassification"]),
            ModelError,
            "config.json: architectures: expected a causal language model of transformers (a model's own code is not",
        ),
        (described(architectures=["MineForCausalLM"]), ModelError, "is not run), got ['MineForCausalLM']"),
        (described(architectures=None), ModelError, "is not run), got None"),
        (described(hidden_size="abc"), ModelError, "config.json: expected the config of a model, got: "),
        (described(vocab_size=97), ModelError, "config.json: vocab_size: expected the tokenizer's 98 or more, got 97"),
        (without_weights, ModelError, "eval.perplexity_model: expected safetensors in "),
        (truncated, ModelError, "model.safetensors: expected a whole safetensors file (no Git LFS pointer), got: "),
        (headless, ModelError, "copy: expected a weight for every parameter of config.json, got none for 1: lm_head"),
        (described(num_hidden_layers=3), ModelError, "parameter of config.json, got none for 9: model.layers.2."),
        (described(intermediate_size=63), ModelError, "expected the shape [32, 63] of config.json, got [32, 64]"),
        (without_tokenizer, ModelError, ": expected a tokenizer, got"),
    ],
)
def test_a_folder_that_holds_no_such_model_is_refused_at_once(
    chat: Path, tmp_path: Path, damage: Callable[[Path], Any], kind: type[Exception], expected: str
) -> None:
    folder = Path(shutil.copytree(chat, tmp_path / "copy"))
    damage(folder)
    with pytest.raises(kind) as caught:
        Perplexity(str(folder), 8)
    assert expected in str(caught.value) and "\n" not in str(caught.value)


def test_a_context_without_room_for_an_answer(chat: Path) -> None:
    Perplexity(str(chat), CONTEXT - 1)
    with pytest.raises(ConfigError) as caught:
        Perplexity(str(chat), CONTEXT)
    expected = f"a context of more than rollout.max_new_tokens, {CONTEXT} tokens, got {CONTEXT} in {str(chat)!r}"
    assert str(caught.value) == f"eval.perplexity_model: expected {expected}"


def test_a_missing_gpu_is_refused_at_the_start(chat: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    expected = "^cluster.gpus_per_evaluator: expected a GPU for eval.perplexity_model, got none$"
    with pytest.raises(ConfigError, match=expected):
        Perplexity(str(chat), 8, "cuda").start()
