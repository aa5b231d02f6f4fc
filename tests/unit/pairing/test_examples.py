"""Global batches, epochs and shards: every pair once an epoch, the same for the same seed."""

import os
import subprocess
import sys
from dataclasses import replace

import pytest
from fakes import CONFIG, EOS, RIGHT, WRONG, CharTokenizer, label
from hypothesis import given
from hypothesis import strategies as st

from maskdpo_ray.errors import ConfigError
from maskdpo_ray.pairing.examples import check, in_shares, make_example, teaches, usable_example, with_mismatched
from maskdpo_ray.pairing.masks import MASK_DPO
from maskdpo_ray.pairing.scoring import scored
from maskdpo_ray.records import (
    CHOSEN,
    CONTRADICTORY,
    CORRECT,
    LABELS,
    MISMATCHED,
    NO_HALLUCINATION,
    REJECTED,
    UNPARSED,
    Annotation,
    DropReason,
    PreferencePair,
    Response,
    Rollout,
    ScoredAnswer,
    Sentence,
    TrainingExample,
)
from maskdpo_ray.training.batches import chunks, epoch_batches, num_steps, shard
from maskdpo_ray.training.example_store import ExampleStore

sizes = st.integers(0, 60)
batch_sizes = st.integers(1, 17)
epoch_counts = st.integers(0, 4)
seeds = st.integers(-5, 2**40)


def by_epoch(num_examples, batch_size, epochs, seed):
    """The batches of each epoch."""
    batches = list(epoch_batches(num_examples, batch_size, epochs, seed))
    return list(chunks(batches, max(1, len(batches) // epochs)))


@given(sizes.filter(bool), batch_sizes, epoch_counts.filter(bool), seeds)
def test_every_pair_once_an_epoch_in_full_batches(num_examples, batch_size, epochs, seed):
    parts = by_epoch(num_examples, batch_size, epochs, seed)
    assert len(parts) == epochs
    for batches in parts:
        assert sorted(index for batch in batches for index in batch) == list(range(num_examples))
        assert all(len(batch) == batch_size for batch in batches[:-1])
        assert len(batches[-1]) == (num_examples % batch_size or min(batch_size, num_examples))


@given(sizes, batch_sizes, epoch_counts, seeds)
def test_num_steps_is_the_number_of_batches(num_examples, batch_size, epochs, seed):
    batches = list(epoch_batches(num_examples, batch_size, epochs, seed))
    assert num_steps(num_examples, batch_size, epochs) == len(batches)


@pytest.mark.parametrize("arguments, steps", [((111, 16, 3), 21), ((64, 64, 3), 3), ((65, 64, 3), 6), ((0, 8, 3), 0)])
def test_num_steps_by_hand(arguments, steps):
    assert num_steps(*arguments) == steps


@given(sizes, batch_sizes, epoch_counts, seeds)
def test_same_seed_same_order(num_examples, batch_size, epochs, seed):
    again = epoch_batches(num_examples, batch_size, epochs, seed)
    assert list(epoch_batches(num_examples, batch_size, epochs, seed)) == list(again)


@given(st.integers(1, 4), seeds)
def test_more_epochs_begin_with_the_same_order(epochs, seed):
    fewer = list(epoch_batches(20, 6, epochs, seed))
    assert list(epoch_batches(20, 6, epochs + 1, seed))[: len(fewer)] == fewer


def test_the_order_is_the_same_in_another_process():
    """Nothing that differs between processes (hash seeds) decides: a resumed run sees the same data order."""
    code = "from maskdpo_ray.training.batches import epoch_batches; print(list(epoch_batches(30, 7, 2, 11)))"
    for hash_seed in ("1", "2"):
        environment = os.environ | {"PYTHONHASHSEED": hash_seed}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip() == str(list(epoch_batches(30, 7, 2, 11)))


@given(seeds)
def test_epochs_and_seeds_differ_in_order(seed):
    # One batch of 30: two of 30! orders, equal by chance in no run.
    first, second = epoch_batches(30, 30, 2, seed)
    assert first != second
    assert next(epoch_batches(30, 30, 1, seed + 1)) != first


def test_the_order_is_shuffled():
    (order,) = epoch_batches(30, 30, 1, 0)
    assert order != list(range(30))


@given(st.lists(st.integers(), max_size=40), st.integers(1, 9))
def test_shards_partition_a_batch_evenly(batch, num_ranks):
    shares = [shard(batch, rank, num_ranks) for rank in range(num_ranks)]
    assert sorted(item for share in shares for item in share) == sorted(batch)
    lengths = [len(share) for share in shares]
    assert max(lengths) - min(lengths) <= 1
    assert lengths == sorted(lengths, reverse=True)


@given(st.lists(st.integers(), max_size=40), st.integers(1, 9))
def test_chunks_keep_order_and_size(items, size):
    parts = list(chunks(items, size))
    assert [item for part in parts for item in part] == items
    assert all(len(part) == size for part in parts[:-1])
    assert all(0 < len(part) <= size for part in parts)


@pytest.mark.parametrize(
    "chosen, rejected, expected",
    [
        ((0.0, 1.0), (1.0, 0.0), True),
        ((0.25,), (0.5,), True),
        ((0.0, 0.0), (1.0, 0.0), False),
        ((1.0, 1.0), (0.0, 0.0), False),
        ((0.0,), (0.0,), False),
        ((), (1.0,), False),
    ],
)
def test_a_pair_teaches_when_both_sides_hold_weight(chosen, rejected, expected):
    ids = tuple(range(len(chosen))), tuple(range(len(rejected)))
    assert teaches(TrainingExample.of_pair("q", (1, 2), *ids, chosen, rejected)) is expected


@pytest.mark.parametrize(
    ("rule", "chosen", "rejected"), [("last_sentence", 0, 0), ("keep", 1, 1), ("drop", 0, 0), ("chosen", 1, 0)]
)
def test_weights_of_a_pair(rule, chosen, rejected):
    """Right then wrong, and the other way round: each side learns from one sentence and, by rule, EOS."""

    def answer(sample, text):
        rollout = Rollout("q", sample, (*map(ord, text), EOS), text, "stop", 0)
        return scored(rollout, label(rollout))

    best, worst = answer(0, f"{RIGHT} {WRONG}"), answer(1, f"{WRONG} {RIGHT}")
    pair = PreferencePair("q", "t", (1, 2), best, worst, 0)
    example = make_example(pair, CharTokenizer(), MASK_DPO, rule)
    assert (example.responses[0].token_ids, example.responses[1].token_ids) == (
        best.rollout.token_ids,
        worst.rollout.token_ids,
    )
    assert example.responses[0].weights == (*[1] * len(RIGHT), *[0] * (len(WRONG) + 1), chosen)
    assert example.responses[1].weights == (*[1] * len(WRONG), *[0] * (len(RIGHT) + 1), rejected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pairs": {"score": "f1_at_k"}}, "pairs.score_options: f1_at_k: expected k, which has no default"),
        ({"pairs": {"strategy": "worst_best"}}, "pairs.strategy: expected one of "),
        ({"objective": {"name": "dpp"}}, "objective.name: expected one of "),
        (
            {"pairs": {"strategy": "unpaired"}},
            "pairs.strategy: expected a strategy that picks pairs, which objective.name dpo compares, got unpaired",
        ),
        (
            {"mask": {"unit": "sentence"}},
            "mask.unit: expected answer, as objective.name dpo compares two answers (kto, kto_pair and sft don't), "
            "got sentence",
        ),
        ({"mask": {"unit": "sentence"}, "objective": {"name": "kto"}}, None),
        ({"pairs": {"strategy": "unpaired"}, "objective": {"name": "kto"}}, None),
        ({"pairs": {"strategy": "unpaired"}, "objective": {"name": "sft"}}, None),
        ({"pairs": {"strategy": "unpaired"}, "sft": {"iterations": 2}}, None),
        ({"objective": {"name": "kto"}}, None),
    ],
)
def test_what_goes_together(options, message):
    changed = {name: replace(getattr(CONFIG, name), **values) for name, values in options.items()}
    config = replace(CONFIG, **changed)
    if message is None:
        return check(config)
    with pytest.raises(ConfigError) as error:
        check(config)
    assert str(error.value).startswith(message)


PIECES = ("One.", "Two is.", "And three,", "four!", "5 ")


def spelled(response):
    """Text of its tokens with weight."""
    return "".join(chr(token) for token, weight in zip(response.token_ids, response.weights, strict=True) if weight)


@given(st.lists(st.sampled_from(LABELS), min_size=1, max_size=5), st.booleans(), st.sampled_from(["keep", "chosen"]))
def test_sentences_as_responses(labels, is_chosen, eos):
    """Each correct sentence is chosen, each incorrect one rejected, with weight on its own tokens: on either side."""
    text, spans, ends = "", [], {CHOSEN: "\x00", REJECTED: "\x00" if eos == "keep" else ""}
    for piece, each in zip(PIECES, labels, strict=False):
        spans.append(Sentence(len(text), len(text + piece.rstrip()), each))
        text += f"{piece} "
    rollout = Rollout("q", 0, (*map(ord, text), EOS), text, "stop", 0)
    answer = ScoredAnswer(rollout, Annotation("q", 0, tuple(spans)), 0.5)
    pair = PreferencePair("q", "t", (1,), answer if is_chosen else None, None if is_chosen else answer, 0)
    example = make_example(pair, CharTokenizer(), MASK_DPO, eos, by_sentence=True)
    expected = []
    for number, span in enumerate(spans):
        if span.label != UNPARSED:
            role = CHOSEN if span.label in CORRECT else REJECTED
            trailing = ends[role] if number + 1 == len(spans) else ""
            after = text[span.end :] if number + 1 == len(spans) else ""
            expected.append((role, text[span.start : span.end] + after + trailing))
    assert [(response.role, spelled(response)) for response in example.responses] == expected
    assert all(response.token_ids == rollout.token_ids for response in example.responses)
    for number in range(len(rollout.token_ids)):
        assert sum(response.weights[number] > 0 for response in example.responses) <= 1
    only_chosen = make_example(pair, CharTokenizer(), MASK_DPO, eos, 0, (CHOSEN,), by_sentence=True)
    assert only_chosen.responses == tuple(each for each in example.responses if each.role == CHOSEN)


def test_a_label_without_confidence_drops_the_pair():
    def answer(sample, label, confidence):
        rollout = Rollout("q", sample, (*map(ord, f"It {sample}."), EOS), f"It {sample}.", "stop", 0)
        return scored(rollout, Annotation("q", sample, (Sentence(0, 5, label, confidence),)))

    config = replace(CONFIG, mask=replace(CONFIG.mask, confidence=True))
    for confidence, expected in ((0.25, 0.25), (None, DropReason.NO_CONFIDENCE), (0.0, DropReason.NOTHING_TO_LEARN)):
        pair = PreferencePair("q", "t", (1,), answer(0, NO_HALLUCINATION, 0.5), answer(1, CONTRADICTORY, confidence), 0)
        example = usable_example(pair, 0, config, CharTokenizer())
        if isinstance(expected, DropReason):
            assert example is expected
        else:
            assert [set(response.weights) for response in example.responses] == [{0.5}, {expected}]


counts_of = st.dictionaries(st.sampled_from("abcd"), st.integers(0, 50), min_size=1)
shares_of = st.dictionaries(st.sampled_from("abcd"), st.floats(0, 10).filter(lambda share: share == 0 or share > 0.01))


@given(counts_of, shares_of)
def test_examples_in_shares(counts, shares):
    """Never more than there are, in the named shares up to one example, and as many as these allow."""
    kept = in_shares(counts, shares)
    taking = [source for source in counts if counts[source] and shares.get(source)]
    assert kept.keys() == {source for source in counts if counts[source]}
    assert all(0 <= kept[source] <= counts[source] for source in kept)
    assert all(kept[source] == 0 for source in kept if source not in taking)
    if taking:
        assert any(kept[source] == counts[source] for source in taking)
        whole = min(counts[source] / shares[source] for source in taking)
        assert all(abs(kept[source] - whole * shares[source]) < 1 + 1e-6 for source in taking)


@pytest.mark.parametrize(
    "counts, shares, expected",
    [
        ({"questions": 8, "atoms": 3}, {"questions": 1, "atoms": 1}, {"questions": 3, "atoms": 3}),
        ({"questions": 9, "atoms": 3}, {"questions": 0.75, "atoms": 0.25}, {"questions": 9, "atoms": 3}),
        ({"questions": 9, "file": 5}, {"questions": 1}, {"questions": 9, "file": 0}),
        ({"questions": 4, "atoms": 0}, {"questions": 1, "atoms": 1}, {"questions": 4}),
    ],
)
def test_shares_by_hand(counts, shares, expected):
    assert in_shares(counts, shares) == expected


@given(st.lists(st.integers(1, 3), min_size=1, max_size=6))
def test_mismatched_responses_are_the_next_examples(tmp_path_factory, counts):
    """Each gets one beside its own; one example alone has no other question and gets its own."""
    given_examples = [
        TrainingExample(str(i), (i,), tuple(Response(CHOSEN, (i, place), (1.0, 0.5)) for place in range(count)))
        for i, count in enumerate(counts)
    ]
    found = list(with_mismatched(ExampleStore.write(tmp_path_factory.mktemp("store"), given_examples)))
    for example, plain, other in zip(found, given_examples, given_examples[1:] + given_examples[:1], strict=True):
        *own, last = example.responses
        assert (example.id, example.prompt_token_ids, tuple(own)) == (plain.id, plain.prompt_token_ids, plain.responses)
        assert last == Response(MISMATCHED, other.responses[0].token_ids, other.responses[0].weights)
