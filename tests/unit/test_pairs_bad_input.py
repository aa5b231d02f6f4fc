"""Bad pairs, and answers and labels that make none, case by case, as test_bad_input.py has bad configs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from bad_input import (
    ANNOTATIONS,
    AUTHORS,
    LABELS,
    ROLLOUTS,
    TRL,
    Case,
    Change,
    begun_run,
    changed,
    lines,
    refuses,
    write,
)

from maskdpo_ray import export, pairs, train

MAIN = {"pairs": pairs.main, "train": train.main, "export": export.main}


def moved(source: str, target: str) -> Change:
    """Put the first pair's `source` in place of its `target`, and the other way round unless they become the same."""

    def change(folder: Path) -> None:
        first, *others = [json.loads(line) for line in (folder / "pairs.jsonl").read_text().splitlines()]
        first |= {target: first[source], source: first[target if source == "rejected" else source]}
        (folder / "pairs.jsonl").write_text(lines(first, *others))

    return change


TO = "-o out.jsonl --config config.yaml"
BOTH = f"rollouts.jsonl annotations.jsonl {TO}"
PAIRS: dict[str, Case] = {
    "a span outside of the text": (
        changed("annotations.jsonl", "2.sentences.1.end", 99),
        BOTH,
        "annotations.jsonl:3: annotator: question 'b', answer 0, sentence 1: expected a span within 4 to 11, got "
        "5 to 99",
    ),
    "spans that overlap": (
        changed("annotations.jsonl", "2.sentences.1.start", 2),
        BOTH,
        "annotations.jsonl:3: annotator: question 'b', answer 0, sentence 1: expected a span within 4 to 11, got "
        "2 to 11",
    ),
    "unknown label": (
        changed("annotations.jsonl", "2.sentences.1.label", "ok"),
        BOTH,
        "annotations.jsonl:3: annotator: question 'b', answer 0, sentence 1: label: expected one of no_fact, "
        "no_hallucination, contradictory, unverifiable, unparsed; got 'ok'",
    ),
    "NaN confidence": (
        changed("annotations.jsonl", "2.sentences.1.confidence", float("nan")),
        BOTH,
        "annotations.jsonl:3: expected JSON, got: NaN, which JSON does not have",
    ),
    "labels of another answer": (
        changed("annotations.jsonl", "2.sample", 1),
        BOTH,
        "annotations.jsonl:3: annotator: question 'b', answer 0: expected its annotation, got that of question 'b', "
        "answer 1",
    ),
    "fewer labels than answers": (
        write("annotations.jsonl", lines(*ANNOTATIONS[:5])),
        BOTH,
        "annotations.jsonl: expected as many lines as rollouts.jsonl has, got the end of the file",
    ),
    "an id below 0": (
        changed("rollouts.jsonl", "0.token_ids.0", -1),
        BOTH,
        "rollouts.jsonl:1: token_ids: expected token ids of 0 or more, got -1",
    ),
    "one answer twice": (
        lambda folder: [changed(name, "1.sample", 0)(folder) for name in ("rollouts.jsonl", "annotations.jsonl")],
        BOTH,
        "rollouts.jsonl:1: sample: expected a number of its own for each answer to 'a', got [0, 0]",
    ),
    "ids that don't spell the text": (
        write("rollouts.jsonl", lines(*({**rollout, "token_ids": [5, 2]} for rollout in ROLLOUTS))),
        BOTH,
        "none of 3 questions gave a pair: 3 not_located; more ...",
    ),
    "all answers right": (
        write("annotations.jsonl", lines(*({**each, "sentences": LABELS[0][:1]} for each in ANNOTATIONS))),
        BOTH,
        "none of 3 questions gave a pair: 3 same_score; more ...",
    ),
    "there already": (
        write("out.jsonl", ""),
        BOTH,
        "out.jsonl: expected no such file yet, got one; --force replaces it",
    ),
}

OURS = "pairs.jsonl --config config.yaml"
THEIRS = "theirs.jsonl --config config.yaml"
TRAIN: dict[str, Case] = {
    "chosen equal to rejected": (
        moved("chosen", "rejected"),
        OURS,
        "pairs.jsonl:1: rejected: expected another answer than the chosen one, got the same text",
    ),
    "the worse one chosen": (
        moved("rejected", "chosen"),
        OURS,
        "pairs.jsonl:1: chosen: score: expected more than 1.0, the rejected answer's, got 0.5",
    ),
    "another score": (
        changed("pairs.jsonl", "0.chosen.score", 0.9),
        OURS,
        "pairs.jsonl:1: chosen: score: expected 1.0, which its labels give by pairs.score, got 0.9",
    ),
    "ids that don't spell the text": (
        lambda folder: [changed("pairs.jsonl", f"{i}.chosen.rollout.token_ids", [5, 2])(folder) for i in range(3)],
        OURS,
        "pairs.jsonl: expected pairs that something can be learned from, got none: {'not_located': 3}",
    ),
    "ids of a larger model": (
        changed("pairs.jsonl", "0.prompt_token_ids.0", 500),
        OURS,
        "pairs.jsonl:1: chosen: expected token ids below the model's vocab_size 99, got 500",
    ),
    "longer than the context": (
        changed("pairs.jsonl", "0.prompt_token_ids", [5] * 300),
        OURS,
        "pairs.jsonl:1: chosen: expected at most 256 tokens with the prompt (vllm.max_model_len, by default the "
        "model's context), got 312",
    ),
    "a pair twice": (
        lambda folder: (folder / "pairs.jsonl").write_text((folder / "pairs.jsonl").read_text() * 2),
        OURS,
        "pairs.jsonl:4: expected each pair once, got that of pairs.jsonl:1 again",
    ),
    "no labels": (
        write("theirs.jsonl", lines(TRL)),
        THEIRS,
        "theirs.jsonl:1: chosen: expected labelled sentences, got none; label them first, python -m "
        "maskdpo_ray.annotate theirs.jsonl -o labels.jsonl, and add --annotations labels.jsonl",
    ),
    "no answer": (
        write("theirs.jsonl", lines({**TRL, "rejected": ""})),
        THEIRS,
        "theirs.jsonl:1: rejected[0].content: expected text that is not empty, got ''",
    ),
    "a sentence of another answer": (
        write("theirs.jsonl", lines({**AUTHORS, "chosen_item": {"sents": ["Maybe."], "type": ["ok"]}})),
        THEIRS,
        "theirs.jsonl:1: chosen_item.sents[0]: expected a sentence of the answer after the one before it, got 'Maybe.'",
    ),
    "unknown type": (
        write("theirs.jsonl", lines({**AUTHORS, "chosen_item": {"sents": ["Yes."], "type": ["good"]}})),
        THEIRS,
        "theirs.jsonl:1: chosen_item.type[0]: expected one of no_fact, no_hallucination, contradictory, unverifiable, "
        "unparsed, hallucination, ok, nofact, got 'good'",
    ),
    "fewer types than sentences": (
        write("theirs.jsonl", lines({**AUTHORS, "chosen_item": {"sents": ["Yes."], "type": []}})),
        THEIRS,
        "theirs.jsonl:1: chosen_item: expected one type per sentence, got 0 for 1",
    ),
    "no such labels": (None, f"{OURS} --annotations no.jsonl", "--annotations: expected a file, got 'no.jsonl'"),
}

EXPORT: dict[str, Case] = {
    "no such run": (
        None,
        "no --to trl -o out.jsonl --questions questions.jsonl",
        "no: expected a run folder, or a file of its pairs, got no such file or folder",
    ),
    "no complete pairs": (
        begun_run,
        "run --to trl -o out.jsonl",
        "run: expected a run folder with all pairs of an iteration, found no iter_* that has them",
    ),
    "other questions": (
        write("questions.jsonl", lines({"id": "z", "prompt": "z"})),
        "pairs.jsonl --to trl -o out.jsonl --questions questions.jsonl",
        "pairs.jsonl:1: question_id: expected one of questions.jsonl, got 'a'",
    ),
    "unknown format": (
        None,
        "pairs.jsonl --to dpo -o out.jsonl",
        "--to: expected one of anah, trl, openrlhf, masked, got 'dpo' (see --help)",
    ),
}
CASES = {
    f"{command}: {name}": (command, case)
    for command, cases in {"pairs": PAIRS, "train": TRAIN, "export": EXPORT}.items()
    for name, case in cases.items()
}


@pytest.mark.parametrize("name", CASES)
def test_bad_input_is_one_line(labelled_folder: Path, capfd: pytest.CaptureFixture[str], name: str) -> None:
    """None is tolerated here; test_dropped.py covers the other cases of bad records."""
    command, case = CASES[name]
    strict = "--max_dropped" if command == "export" else "--data.max_dropped"
    refuses(lambda argv: MAIN[command]([*argv, strict, "0"]), case, labelled_folder, capfd)
