"""Shared by the tables of bad input: a folder in which everything is good, and what a command says of a bad one."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from maskdpo_ray.config import cli
from maskdpo_ray.errors import UserError

Change = Callable[[Path], Any]
"""Change that makes a good folder bad."""
Case = tuple[Change | None, str, str]
"""(change, the command's arguments behind the good ones, the message); in both {} is the folder, and a message that
ends in ... goes on with a library's words."""

TEMPLATE = "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
CONTEXT = 256
QUESTIONS = [{"id": name, "topic": name.upper(), "prompt": f"What is {name}?"} for name in "abc"]
CONFIG = """\
run: {name: r, dir: runs}
model: {model_name_or_path: model}
data: {train: questions.jsonl, num_eval_topics: 1}
rollout: {max_new_tokens: 16}
annotation: {annotator: "python:fakes:Accepting"}
"""
TEXTS = ("Yes. It is.", "No. It is.")
LABELS = (
    [{"start": 0, "end": 4, "label": "no_hallucination"}, {"start": 5, "end": 11, "label": "no_hallucination"}],
    [{"start": 0, "end": 3, "label": "contradictory"}, {"start": 4, "end": 10, "label": "no_hallucination"}],
)
ROLLOUTS = [
    {
        "question_id": name,
        "sample": sample,
        "token_ids": [*(ord(character) - 28 for character in text), 2],
        "text": text,
        "finish_reason": "stop",
        "policy_version": 0,
    }
    for name in "abc"
    for sample, text in enumerate(TEXTS)
]
ANNOTATIONS = [
    {"question_id": name, "sample": sample, "sentences": labels}
    for name in "abc"
    for sample, labels in enumerate(LABELS)
]
TRL = {"prompt": "What is a?", "chosen": TEXTS[0], "rejected": TEXTS[1]}
AUTHORS = {
    "prompt": [{"role": "user", "content": "What is a?"}],
    "chosen": [{"role": "assistant", "content": TEXTS[0]}],
    "chosen_item": {"sents": ["Yes.", "It is."], "type": ["no_hallucination", "no_hallucination"]},
    "rejected": [{"role": "assistant", "content": TEXTS[1]}],
    "rejected_item": {"sents": ["No.", "It is."], "type": ["hallucination", "no_hallucination"]},
}
"""Answers to all questions, their labels, and pairs as TRL and the authors write them."""


def small_model(folder: Path) -> None:
    """A one-layer Llama with a tokenizer of characters: to check it, or to run it, takes no time to speak of.

    Its answers are random characters, and end after about fifty.
    """
    import torch
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    characters = [chr(code) for code in (10, *range(32, 127))]
    vocabulary = {token: number for number, token in enumerate(["<unk>", "<s>", "</s>", *characters])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>", chat_template=TEMPLATE
    )
    fast.save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=1,  # of size 32, the smallest that vLLM's CPU attention takes
        max_position_embeddings=CONTEXT,
        bos_token_id=1,
        eos_token_id=2,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlamaForCausalLM(config)
        with torch.no_grad():
            # The same large value in every state: what the head multiplies it with is a bias.
            model.model.embed_tokens.weight[:, 0] = 0.1
            model.lm_head.weight[:, 0] = 0
            model.lm_head.weight[:2, 0] = -10  # never <unk> or <s>
            model.lm_head.weight[2, 0] = 0.1
        model.save_pretrained(folder)


def lines(*values: Any) -> str:
    """JSON Lines."""
    return "".join(json.dumps(value) + "\n" for value in values)


def write(name: str, content: str | bytes) -> Change:
    """Put a file of this content in place of what is there."""

    def change(folder: Path) -> None:
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)

    return change


def edit(name: str, **fields: Any) -> Change:
    """Set fields of a JSON file."""

    def change(folder: Path) -> None:
        (folder / name).write_text(json.dumps({**json.loads((folder / name).read_text()), **fields}))

    return change


def changed(name: str, path: str, value: Any) -> Change:
    """Put a value at a dotted path into a file of JSON Lines, the line being its first part."""

    def change(folder: Path) -> None:
        values = [json.loads(line) for line in (folder / name).read_text().splitlines()]
        at: Any = values
        *names, last = [int(each) if each.isdigit() else each for each in path.split(".")]
        for each in names:
            at = at[each]
        at[last] = value
        (folder / name).write_text(lines(*values))

    return change


def begun_run(folder: Path) -> None:
    """Make the folder `run` look like that of a run."""
    (folder / "run").mkdir()
    for name in ("config.yaml", "ledger.jsonl"):
        (folder / "run" / name).touch()


def remove(name: str) -> Change:
    return lambda folder: (folder / name).unlink()


def contents(folder: Path) -> Mapping[Path, bytes | None]:
    """Every file with its bytes, and every folder."""
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def refusal(main: Callable[[list[str]], None], argv: list[str], capfd: pytest.CaptureFixture[str]) -> str:
    """The one line that a command ends with, as its entry point shows it: exit code 2, no traceback.

    Before it stand at most the command's own progress and plan.
    """
    with pytest.raises(SystemExit) as caught:
        try:
            main(argv)
        except UserError as error:
            cli.fail(error)
    said = capfd.readouterr().err
    assert caught.value.code == 2 and "Traceback" not in said and said.endswith("\n")
    *before, last = said.rstrip("\n").splitlines()
    assert all("it/s" in line or not line for line in before), said
    assert last.startswith("error: ") and last.isprintable()
    return last.removeprefix("error: ")


def words(arguments: str, folder: Path) -> list[str]:
    """A command line; a mapping at its end is one word."""
    start, brace, mapping = arguments.replace("{}", str(folder)).partition(" {")
    return [*start.split(), *[f"{{{mapping}"] * bool(brace)]


def refuses(
    main: Callable[[list[str]], None], case: Case, folder: Path, capfd: pytest.CaptureFixture[str], *more: str
) -> None:
    """Check that a command, `more` before the case's own arguments, says what the case says and writes nothing."""
    change, arguments, expected = case
    if change is not None:
        change(folder)
    before = contents(folder)
    message, expected = refusal(main, [*more, *words(arguments, folder)], capfd), expected.replace("{}", str(folder))
    if expected.endswith("..."):
        assert message.startswith(expected.removesuffix("...")), message
    else:
        assert message == expected, message
    assert contents(folder) == before
