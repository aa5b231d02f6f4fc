"""TRL's and OpenRLHF's preference data: written as their own code reads it, read in every shape, tokenized once."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from maskdpo_ray.data.formats import WRITERS, trainers
from maskdpo_ray.data.formats.preference import Answer, Preference
from maskdpo_ray.data.rows import preferences as read
from maskdpo_ray.errors import DataError
from maskdpo_ray.models.chat import Chat
from maskdpo_ray.pairing.examples import make_example
from maskdpo_ray.pairing.masks import MASK_DPO
from maskdpo_ray.pairing.pair_files import to_pair
from maskdpo_ray.records import CONTRADICTORY, NO_HALLUCINATION, Sentence

SYSTEM = {"role": "system", "content": "Be brief."}
USER = {"role": "user", "content": "What is the capital of Rwanda?"}
GOOD = {"role": "assistant", "content": "It is Kigali. It lies at 3.5 km."}
BAD = {"role": "assistant", "content": "It is Butare. It is in Africa."}


def labelled(text: str, *labels: str) -> Answer:
    cut = text.index(" It") + 1
    return Answer(text, (Sentence(0, cut - 1, labels[0], 0.5), Sentence(cut, len(text), labels[1], None, "why", "x")))


PREFERENCE = Preference(
    "rwanda/1",
    "Rwanda",
    (SYSTEM, USER),
    labelled(GOOD["content"], NO_HALLUCINATION, CONTRADICTORY),
    labelled(BAD["content"], CONTRADICTORY, NO_HALLUCINATION),
)


@pytest.fixture(scope="module")
def tokenizer(bundled_model: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(bundled_model)


@pytest.mark.parametrize("to", WRITERS)
def test_what_is_written_is_read_back_with_its_labels(tmp_path: Path, to: str) -> None:
    file = tmp_path / "pairs.json"
    file.write_text(json.dumps([WRITERS[to](PREFERENCE)] * 2, indent=1))
    assert [preference for _, preference in read(file)] == [PREFERENCE] * 2


def test_labels_on_one_side_only_are_not_taken_for_none(tmp_path: Path) -> None:
    item = WRITERS["anah"](PREFERENCE)
    del item["chosen_item"]
    (tmp_path / "pairs.jsonl").write_text(json.dumps(item))
    with pytest.raises(DataError, match="pairs.jsonl:1: missing field 'chosen_item'"):
        list(read(tmp_path / "pairs.jsonl"))


CHATS: dict[str, dict[str, Any]] = {
    "TRL, conversational": {"prompt": [USER], "chosen": [GOOD], "rejected": [BAD]},
    "TRL, prompt within": {"chosen": [USER, GOOD], "rejected": [USER, BAD]},
    "TRL, standard": {"prompt": USER["content"], "chosen": GOOD["content"], "rejected": BAD["content"]},
    "prompt twice": {"prompt": USER["content"], "chosen": [USER, GOOD], "rejected": [USER, BAD]},
    "other columns": {"prompt": [USER], "chosen": [GOOD], "rejected": [BAD], "score_chosen": 8.5, "source": None},
}


@pytest.mark.parametrize("item", CHATS.values(), ids=CHATS.keys())
def test_every_shape_is_read_without_labels(item: dict[str, Any]) -> None:
    answers = (Answer(GOOD["content"]), Answer(BAD["content"]))
    assert trainers.read(item, "x:3") == Preference("x:3", "x:3", (USER,), *answers)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no prompt": ({"chosen": "a", "rejected": "b"}, "prompt: expected text or chat messages, got nothing"),
    "no answer": ({"prompt": "a", "chosen": "b"}, "rejected: expected an answer as text or chat messages, got nothing"),
    "empty answer": ({"prompt": "a", "chosen": " ", "rejected": "b"}, "chosen[0].content: expected text that is not"),
    "other prompts": ({"chosen": [USER, GOOD], "rejected": [SYSTEM, USER, BAD]}, "rejected: expected the messages of"),
    "other than prompt": ({"prompt": "a", "chosen": [USER, GOOD], "rejected": [BAD]}, "chosen: expected the messages"),
    "user last": ({"prompt": [USER], "chosen": [USER], "rejected": [BAD]}, "chosen: expected the assistant's message"),
    "prompt's end": ({"prompt": [GOOD], "chosen": [GOOD], "rejected": [BAD]}, "prompt: expected the user's message"),
    "role": ({"prompt": [{**USER, "role": "it"}], "chosen": "b", "rejected": "c"}, "prompt[0].role: expected one of"),
    "number": ({"prompt": 7, "chosen": "b", "rejected": "c"}, "prompt: expected chat messages, got 7"),
    "message": ({"prompt": [{"role": "user"}], "chosen": "b", "rejected": "c"}, "prompt[0]: expected an object with"),
    "id": ({**CHATS["TRL, standard"], "question_id": 7}, "question_id: expected text that is not empty, got 7"),
    "labels": ({**CHATS["TRL, standard"], "chosen_sentences": "x"}, "chosen_sentences: expected a list, got 'x'"),
}
SPAN = {"start": 0, "end": 5, "label": "no_fact"}
REFUSED |= {
    f"sentence, {name}": ({**CHATS["TRL, standard"], "chosen_sentences": sentences}, message)
    for name, (sentences, message) in {
        "field": ([{**SPAN, "end": "5"}], "chosen_sentences[0]: field 'end': expected int, got str '5'"),
        "overlap": (
            [SPAN, SPAN],
            f"chosen_sentences[1]: expected words within 5 to {len(GOOD['content'])}, got 0 to 5",
        ),
        "outside": ([{**SPAN, "end": 99}], "chosen_sentences[0]: expected words within 0 to 32, got 0 to 99"),
        "no words": ([{**SPAN, "start": 2, "end": 3}], "chosen_sentences[0]: expected words within"),
        "label": ([{**SPAN, "label": "ok"}], "chosen_sentences[0].label: expected one of no_fact"),
    }.items()
}


@pytest.mark.parametrize(("item", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_other_items_are_refused_by_field(item: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError) as caught:
        trainers.read(item, "x:3")
    assert str(caught.value).startswith(f"x:3: {message}")


def spelled(tokenizer: Any, pair: Any, side: str) -> str:
    text: str = tokenizer.decode(pair.prompt_token_ids + getattr(pair, side).rollout.token_ids)
    return text


def test_trl_makes_the_same_text_of_it(tokenizer: Any) -> None:
    from trl.data_utils import apply_chat_template

    theirs = apply_chat_template(trainers.to_trl(PREFERENCE), tokenizer)
    pair = to_pair(PREFERENCE, Chat(tokenizer), "x")
    for side in ("chosen", "rejected"):
        # The template ends a message with a newline that no engine samples.
        assert theirs["prompt"] + theirs[side] == spelled(tokenizer, pair, side) + "\n"


def test_openrlhf_makes_the_same_text_of_it(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its path: the package imports flash_attn, which has no CPU build."""
    stubs = {"openrlhf.datasets.utils": "exist_and_not_none", "openrlhf.utils.utils": "zero_pad_sequences"}
    for module, name in stubs.items():
        stub = ModuleType(module)
        setattr(stub, name, lambda data, key: key in data)
        monkeypatch.setitem(sys.modules, module, stub)
    package = importlib.util.find_spec("openrlhf")
    assert package is not None and package.submodule_search_locations is not None
    file = Path(package.submodule_search_locations[0]) / "datasets" / "reward_dataset.py"
    spec = importlib.util.spec_from_file_location("openrlhf_reward_dataset", file)
    assert spec is not None and spec.loader is not None
    theirs = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(theirs)

    item = trainers.to_openrlhf(PREFERENCE)
    prompt, *answers, _ = theirs.preprocess_data(item, apply_chat_template=tokenizer.apply_chat_template, is_dpo=True)
    pair = to_pair(PREFERENCE, Chat(tokenizer), "x")
    for side, answer in zip(("chosen", "rejected"), answers, strict=True):
        assert prompt + answer == spelled(tokenizer, pair, side) + "\n"


def test_masks_lie_on_the_sentences_and_the_score_is_theirs(tokenizer: Any) -> None:
    pair = to_pair(PREFERENCE, Chat(tokenizer), "x")
    example = make_example(pair, tokenizer, MASK_DPO, "chosen")

    def kept(token_ids: tuple[int, ...], weights: tuple[float, ...]) -> str:
        text: str = tokenizer.decode([token for token, weight in zip(token_ids, weights, strict=True) if weight])
        return text

    assert kept(example.responses[0].token_ids, example.responses[0].weights) == "It is Kigali.<|im_end|>"
    assert kept(example.responses[1].token_ids, example.responses[1].weights) == "It is Butare."
    assert (pair.chosen.score, pair.rejected.score, pair.policy_version) == (0.5, 0.5, 0)
    assert (pair.chosen.rollout.sample, pair.rejected.rollout.sample) == (0, 1)


def test_answers_without_labels_make_no_pair(tokenizer: Any) -> None:
    unlabelled = trainers.read(CHATS["TRL, standard"], "x:3")
    with pytest.raises(DataError, match="^x:3: chosen: expected labelled sentences, got none$"):
        to_pair(unlabelled, Chat(tokenizer), "x:3")
