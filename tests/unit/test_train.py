"""`maskdpo_ray.train` over a fake trainer: what it learns from, what it leaves in the run folder, what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from fakes import Events, FakeTrainer, Stopped

from actors import weights
from maskdpo_ray import train
from maskdpo_ray.annotation.replay import LabelledAnswer
from maskdpo_ray.data import questions
from maskdpo_ray.data.formats import WRITERS
from maskdpo_ray.data.formats.preference import Answer, Preference
from maskdpo_ray.errors import UserError
from maskdpo_ray.models.chat import Chat
from maskdpo_ray.models.folder import ModelFolder
from maskdpo_ray.pairing import examples
from maskdpo_ray.pairing.masks import MASK_DPO
from maskdpo_ray.pairing.pair_files import to_pair
from maskdpo_ray.records import (
    CHOSEN,
    CONTRADICTORY,
    NO_FACT,
    NO_HALLUCINATION,
    REJECTED,
    Policy,
    Question,
    Sentence,
    encode_line,
    to_json,
)
from maskdpo_ray.store import run_folder as own_folder

pytestmark = pytest.mark.usefixtures("once")
RIGHT, WRONG = NO_HALLUCINATION, CONTRADICTORY


def preference(number: int, rejected: tuple[str, str] = (RIGHT, WRONG)) -> Preference:
    """The chosen answer has two sentences that the mask keeps and one that it doesn't, the rejected one two labels."""

    def answer(text: str, *labels: str) -> Answer:
        ends = [end for end, character in enumerate(text, start=1) if character == "."]
        starts = [0, *(end + 1 for end in ends[:-1])]
        return Answer(text, tuple(map(Sentence, starts, ends, labels)))

    prompt = ({"role": "user", "content": f"What is {number}?"},)
    better = answer(f"Answer {number} is short. It has sentences. It ends.", RIGHT, WRONG, RIGHT)
    worse = answer(f"Answer {number} is long. It has two sentences.", *rejected)
    return Preference(f"q{number}", "t", prompt, better, worse)


PREFERENCES = [preference(number) for number in range(5)]


@pytest.fixture
def folder(tmp_path: Path, tiny_model: Path, once: ModelFolder) -> Path:
    """A config, and the same pairs in each format."""
    config = {
        "run": {"name": "run", "dir": str(tmp_path)},
        "model": {"model_name_or_path": str(tiny_model)},
        "train": {"batch_size": 2, "max_epochs": 2},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    write(tmp_path / "ours.jsonl", [to_pair(each, Chat(once.tokenizer), "here") for each in PREFERENCES])
    for name, to_json_of in WRITERS.items():
        write(tmp_path / f"{name}.jsonl", [to_json_of(each) for each in PREFERENCES])
    write(tmp_path / "bare.jsonl", [bare(each) for each in PREFERENCES])
    return tmp_path


def bare(each: Preference) -> dict[str, Any]:
    """Without labels and names."""
    return {"prompt": each.prompt[0]["content"], "chosen": each.chosen.text, "rejected": each.rejected.text}


def write(path: Path, values: Sequence[Any]) -> None:
    path.write_bytes(b"".join(map(encode_line, values)))


def prepare(folder: Path, *more: str, source: str = "ours.jsonl") -> train.Job:
    return train.prepare([str(folder / source), "--config", str(folder / "config.yaml"), *more])


def run(job: train.Job, tiny_model: Path, stop_at: int | None = None) -> tuple[Events, dict[str, Any]]:
    """Work of `python -m maskdpo_ray.train`, without Ray."""
    events = Events(stop_at)
    with own_folder.open_run(job.config) as (folder, tracker):
        if not train.is_finished(folder):
            initial = weights.publish(tiny_model, 0)
            job.begin(initial, folder)
            job.run(initial, FakeTrainer(job.config, events), folder, tracker)
        return events, job.summary(folder)


@pytest.mark.parametrize("source", ["ours", "anah", "trl", "openrlhf"])
def test_every_format_gives_the_same_examples(folder: Path, once: ModelFolder, source: str) -> None:
    job = prepare(folder, source=f"{source}.jsonl")
    assert [example.id for example in job.examples] == [f"q{i}#{i}" for i in range(5)]
    for example, each in zip(job.examples, PREFERENCES, strict=True):
        pair = to_pair(each, Chat(once.tokenizer), "here")
        expected = examples.make_example(pair, once.tokenizer, MASK_DPO, "last_sentence")
        assert (example.prompt_token_ids, example.responses) == (expected.prompt_token_ids, expected.responses)
        assert [response.role for response in example.responses] == [CHOSEN, REJECTED]
        assert 0 < sum(example.responses[0].weights) < len(example.responses[0].weights)


def test_balance_is_that_of_all_pairs(folder: Path, once: ModelFolder) -> None:
    """Rejected sentences of a kind weigh 0.5 * 4 / 5 where it weighs 4 in chosen answers and 5 in rejected ones."""

    def of_kind(answer: Answer, kind: str | None) -> Answer:
        return replace(answer, sentences=tuple(msgspec.structs.replace(each, kind=kind) for each in answer.sentences))

    pairs = [
        replace(each, chosen=of_kind(each.chosen, "size" if i < 2 else None), rejected=of_kind(each.rejected, "size"))
        for i, each in enumerate(preference(number, (NO_FACT, WRONG)) for number in range(5))
    ]
    write(folder / "kinds.jsonl", [to_pair(each, Chat(once.tokenizer), "here") for each in pairs])
    job = prepare(folder, "--mask.balance", "0.5", source="kinds.jsonl")
    assert job.read.balance == {"size": pytest.approx(0.5 * 4 / 5)}
    assert {weight for example in job.examples for weight in example.responses[0].weights} == {0.0, 1.0}
    assert {weight for example in job.examples for weight in example.responses[1].weights} == {0.0, 0.4}


def test_a_run_from_start_to_end(folder: Path, tiny_model: Path) -> None:
    before = set(folder.iterdir())
    job = prepare(folder)
    assert set(folder.iterdir()) == before
    for part in ("train on 5 of 5 pairs of ", "training ranks: 1", "in batches of 2: 6 steps"):
        assert part in job.describe()
    assert "engines" not in job.describe() and "annotation" not in job.describe()
    events, summary = run(job, tiny_model)
    assert [event[:2] for event in events if event[0] != "step"] == [("reference", 0), ("begin", 0), ("publish", 1)]
    steps = [batch for _, _, batch in events.of("step")]
    assert sorted(sum(steps, ())) == sorted([example.id for example in job.examples] * 2)
    policy = folder / "run/iter_000/policy"
    assert summary["policy"] == str(policy) and weights.publish(policy, 1).checksum
    assert (summary["pairs"]["pairs"], summary["steps"], summary["first"]["step"], summary["last"]["step"]) == (
        5,
        6,
        0,
        5,
    )
    assert summary["tokens"] == 2 * sum(sum(w > 0 for w in example.responses[0].weights) for example in job.examples)
    said = train.shown(summary)
    for part in ("learned from 5 of 5 pairs", f"loss: {summary['first']['loss']:.3f} at first", str(policy)):
        assert part in said
    again, same = run(prepare(folder), tiny_model)
    assert (again, same) == ([], summary)


@pytest.mark.parametrize("stop_at", [0, 1, 4, 8])
def test_goes_on_after_a_stop(folder: Path, tiny_model: Path, stop_at: int) -> None:
    """Before the reference, before training, within it and before publishing: it ends with the same policy."""
    with pytest.raises(Stopped):
        run(prepare(folder), tiny_model, stop_at)
    resumed, summary = run(prepare(folder), tiny_model)
    assert len(resumed.of("reference")) == (stop_at == 0) and len(resumed.of("step")) == 6
    stopped = weights.checksum(summary["policy"])
    run(prepare(folder, "--run.name", "whole"), tiny_model)
    assert weights.checksum(folder / "whole/iter_000/policy") == stopped


def test_several_pairs_of_one_question(folder: Path, tiny_model: Path) -> None:
    """Pairs as an export of several iterations has them: each keeps reference log-probs of its own."""
    lines = (folder / "ours.jsonl").read_text()
    (folder / "ours.jsonl").write_text(lines + lines.replace('"policy_version":0}\n', '"policy_version":1}\n'))
    job = prepare(folder)
    assert len({example.id for example in job.examples}) == 10
    _, summary = run(job, tiny_model)
    assert summary["pairs"]["pairs"] == 10


def test_drops_are_counted(folder: Path, once: ModelFolder) -> None:
    right_only = preference(7, (RIGHT, RIGHT))
    other_ids = to_json(to_pair(PREFERENCES[0], Chat(once.tokenizer), "here"))
    other_ids["chosen"]["rollout"]["token_ids"] = [5, 2]
    write(folder / "mixed.jsonl", [WRITERS["trl"](right_only), other_ids, WRITERS["anah"](PREFERENCES[1])])
    job = prepare(folder, source="mixed.jsonl")
    assert job.read.drops == {"nothing_to_learn": 1, "not_located": 1}
    assert [example.id for example in job.examples] == ["q1#2"]
    assert "train on 1 of 3 pairs" in job.describe() and "dropped: 1 nothing_to_learn, 1 not_located" in job.describe()
    assert job.read.mixture == {"chosen_with_incorrect": 1.0, "rejected_with_correct": 1.0}


def test_labels_from_a_file_of_annotations(folder: Path) -> None:
    """Labels as `annotate` wrote them, in another order, under the names that it gave the questions."""
    with_names = prepare(folder, source="trl.jsonl")
    labels = []
    for number, each in enumerate(PREFERENCES, start=1):
        for answer in (each.chosen, each.rejected):
            labels.append(LabelledAnswer(f"{folder}/bare.jsonl:{number}", answer.text, answer.sentences or ()))
    write(folder / "labels.jsonl", labels[::-1])
    job = prepare(folder, "--annotations", str(folder / "labels.jsonl"), source="bare.jsonl")
    assert [example.responses for example in job.examples] == [example.responses for example in with_names.examples]


def test_plain_dpo_needs_no_labels(folder: Path) -> None:
    job = prepare(folder, "--mask.policy", "vanilla", source="bare.jsonl")
    assert len(job.examples) == 5
    for example in job.examples:
        assert set(example.responses[0].weights) == set(example.responses[1].weights) == {1.0}


def changed(**fields: Any) -> Callable[[Path], None]:
    """Change of the first pair of ours."""

    def change(folder: Path) -> None:
        values = [json.loads(line) for line in (folder / "ours.jsonl").read_text().splitlines()]
        values[0].update(fields)
        write(folder / "ours.jsonl", values)

    return change


def of_a_loop(folder: Path) -> None:
    """Leave a run folder that the loop began with this config."""
    job = prepare(folder)
    with own_folder.open_run(job.config) as (run_folder, _):
        asked = [Question("q", "t", ({"role": "user", "content": "a"},))]
        run_folder.begin(Policy(0, "m", "c" * 64), {"train": asked, "heldout": asked})


def of_other_pairs(folder: Path) -> None:
    job = prepare(folder)
    with own_folder.open_run(job.config) as (run_folder, _):
        run_folder.begin(Policy(0, "m", "c" * 64), {"pairs": job.examples[::-1]})


def only_right(folder: Path) -> None:
    write(folder / "ours.jsonl", [WRITERS["trl"](preference(1, (RIGHT, RIGHT)))])


def same_texts(folder: Path) -> None:
    write(folder / "bare.jsonl", [{**bare(PREFERENCES[0]), "rejected": PREFERENCES[0].chosen.text}])


def in_a_run(folder: Path) -> None:
    (folder / "loop").mkdir()
    for name in ("config.yaml", "ledger.jsonl"):
        (folder / "loop" / name).touch()


def nothing(folder: Path) -> None:
    pass


SHORT = ("--rollout.max_new_tokens", "8")
REFUSED: dict[str, tuple[Callable[[Path], Any], str, list[str], str]] = {
    "no labels": (
        nothing,
        "bare.jsonl",
        [],
        "bare.jsonl:1: chosen: expected labelled sentences, got none; label them first, python -m maskdpo_ray.annotate",
    ),
    "other labels": (nothing, "bare.jsonl", ["--annotations", "{}/labels.jsonl"], "bare.jsonl:1: {}/labels.jsonl: "),
    "no such labels": (
        nothing,
        "bare.jsonl",
        ["--annotations", "{}/no"],
        "--annotations: expected a file, got '{}/no'",
    ),
    "too long": (
        nothing,
        "ours.jsonl",
        ["--vllm.max_model_len", "30", *SHORT],
        "ours.jsonl:1: chosen: expected at most 30 ",
    ),
    "no prompt": (changed(prompt_token_ids=[]), "ours.jsonl", [], "ours.jsonl:1: prompt_token_ids: expected at least"),
    "vocabulary": (
        changed(prompt_token_ids=[1, 49152]),
        "ours.jsonl",
        [],
        "ours.jsonl:1: chosen: expected token ids below the model's vocab_size 49152, got 49152",
    ),
    "a pair twice": (
        lambda folder: (folder / "ours.jsonl").write_text((folder / "ours.jsonl").read_text() * 2),
        "ours.jsonl",
        [],
        "ours.jsonl:6: expected each pair once, got that of {}/ours.jsonl:1 again",
    ),
    "no whole pair": (changed(question_id="p"), "ours.jsonl", [], "ours.jsonl:1: chosen: question_id: expected 'p', "),
    "in a run folder": (
        in_a_run,
        "ours.jsonl",
        ["--run.dir", "{}/loop", "--run.name", "offline"],
        "{}/loop/offline: expected a place outside of run folders, got one in that of {}/loop",
    ),
    "field": (changed(score=1), "ours.jsonl", [], "ours.jsonl:1: unknown field 'score' in the preference pair"),
    "nothing to learn": (only_right, "ours.jsonl", [], "got none: {'nothing_to_learn': 1}"),
    "the same twice": (same_texts, "bare.jsonl", ["--mask.policy", "vanilla"], "got none: {'identical_text': 1}"),
    "no such file": (nothing, "nowhere.jsonl", [], "nowhere.jsonl: expected a JSON file, got: No such file"),
    "a run of the loop": (of_a_loop, "ours.jsonl", [], "pairs: expected those that the run in {}/run began with, got"),
    "other pairs": (of_other_pairs, "ours.jsonl", [], "pairs: expected those that the run in {}/run began with, got"),
    "other config": (
        of_other_pairs,
        "ours.jsonl",
        ["--train.beta", "0.2"],
        "train.beta: expected 0.1, as the run in {}/run began with, got 0.2",
    ),
}


@pytest.mark.parametrize(("change", "source", "more", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_what_it_refuses(
    folder: Path, change: Callable[[Path], Any], source: str, more: list[str], message: str
) -> None:
    write(folder / "labels.jsonl", [LabelledAnswer("q0", "a", (Sentence(0, 1, RIGHT),))])
    change(folder)
    before = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    with pytest.raises(UserError) as caught:
        prepare(folder, "--data.max_dropped", "0", *(w.replace("{}", str(folder)) for w in more), source=source)
    assert message.replace("{}", str(folder)) in str(caught.value) and "\n" not in str(caught.value)
    assert {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()} == before


def test_the_loop_refuses_a_run_of_train(folder: Path, tiny_model: Path) -> None:
    job = prepare(folder)
    run(job, tiny_model)
    asked = {"train": questions.load("builtin:elements")}
    with pytest.raises(UserError, match="^data, train questions: expected those that the run in "):
        own_folder.check_run(job.config, asked)


def test_a_summary_without_metrics(folder: Path, tiny_model: Path) -> None:
    job = prepare(folder)
    run(job, tiny_model)
    (folder / "run/metrics.jsonl").write_text('{"time": 1.0, "step": 0, "timing/train_s": 1.0}\n')
    with pytest.raises(UserError, match="metrics.jsonl: expected the metrics of training steps, got none"):
        run(job, tiny_model)


def test_factaligns_answers_with_labelled_sentences(folder: Path, once: ModelFolder) -> None:
    sentences = ["Kigali is its capital.", "It lies in Asia."]
    row = {"prompt": "What is Rwanda?", "completion": " ".join(sentences), "sentence_label": [True, False]}
    rows = [row | {"completion_sentences": sentences, "label": label} for label in (True, False)]
    write(folder / "factalign.jsonl", rows)
    job = prepare(folder, "--objective.name", "kto", source="factalign.jsonl")
    learned = {}
    for example in job.examples:
        (response,) = example.responses
        kept = [token for token, weight in zip(response.token_ids, response.weights, strict=True) if weight]
        learned[response.role] = once.tokenizer.decode(kept, skip_special_tokens=True).strip()
    assert learned == {CHOSEN: sentences[0], REJECTED: sentences[1]}
    with pytest.raises(UserError, match="expected pairs that something can be learned from, got none: .'unpaired': 2."):
        prepare(folder, source="factalign.jsonl")
