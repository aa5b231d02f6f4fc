"""Reference log-probs on disk: what comes back is what was kept, for the pairs asked for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskdpo_ray import reference
from maskdpo_ray.batching import TrainingExample
from maskdpo_ray.errors import RunFolderError
from maskdpo_ray.stages import ReferenceLogps

OWN = "5f"
"""The reference policy's checksum."""


def example(pair_id: str, chosen: int, rejected: int) -> TrainingExample:
    ids = (tuple(range(chosen)), tuple(range(rejected)))
    return TrainingExample(pair_id, (1,), *ids, (1.0,) * chosen, (1.0,) * rejected)


def values(examples: list[TrainingExample]) -> ReferenceLogps:
    generator = np.random.default_rng(0)
    return [
        tuple(-generator.random(len(ids), dtype=np.float32) for ids in (e.chosen_token_ids, e.rejected_token_ids))
        for e in examples
    ]


def equal(left: ReferenceLogps, right: ReferenceLogps) -> bool:
    return len(left) == len(right) and all(
        np.array_equal(a, b) and a.dtype == b.dtype
        for x, y in zip(left, right, strict=True)
        for a, b in zip(x, y, strict=True)
    )


lengths = st.tuples(st.integers(1, 5), st.integers(1, 5))
pair_ids = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=10)


@given(st.dictionaries(pair_ids, lengths, min_size=1, max_size=6), st.randoms(use_true_random=False))
def test_round_trip_in_any_order(tmp_path_factory: pytest.TempPathFactory, pairs: dict, random: object) -> None:
    file = tmp_path_factory.mktemp("logps") / "reference-logps.safetensors"
    examples = [example(name, *sizes) for name, sizes in pairs.items()]
    logps = values(examples)
    reference.save(file, examples, logps, OWN)
    order = list(range(len(examples)))
    random.shuffle(order)
    assert equal(reference.load(file, [examples[i] for i in order], OWN), [logps[i] for i in order])
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_slices_of_a_batch_are_kept_right(tmp_path: Path) -> None:
    """Rows of a padded batch are views with a stride; safetensors writes memory as it lies."""
    batch = np.arange(12, dtype=np.float32).reshape(3, 4).T
    examples = [example("a", 3, 2)]
    reference.save(tmp_path / "r", examples, [(batch[0], batch[1, :2])], OWN)
    assert equal(reference.load(tmp_path / "r", examples, OWN), [(np.float32([0, 4, 8]), np.float32([1, 5]))])


def test_saving_anew_replaces(tmp_path: Path) -> None:
    examples = [example("a", 2, 2)]
    for factor in (1, 2):
        logps = [(np.full(2, factor, np.float32), np.full(2, -factor, np.float32))]
        reference.save(tmp_path / "r", examples, logps, OWN)
    assert equal(reference.load(tmp_path / "r", examples, OWN), logps)


@pytest.mark.parametrize("asked", [example("b", 2, 3), example("a", 1, 3), example("a", 2, 4)])
def test_other_pairs_are_refused(tmp_path: Path, asked: TrainingExample) -> None:
    examples = [example("a", 2, 3)]
    reference.save(tmp_path / "r", examples, values(examples), OWN)
    with pytest.raises(RunFolderError, match=f"expected log-probs of pair '{asked.pair_id}' with lengths") as caught:
        reference.load(tmp_path / "r", [asked], OWN)
    assert "\n" not in str(caught.value)


def test_as_many_log_probs_as_pairs(tmp_path: Path) -> None:
    with pytest.raises(ValueError):
        reference.save(tmp_path / "r", [example("a", 1, 1)], [], OWN)


def test_another_policys_are_refused(tmp_path: Path) -> None:
    examples = [example("a", 2, 3)]
    reference.save(tmp_path / "r", examples, values(examples), OWN)
    with pytest.raises(RunFolderError, match="policy: expected log-probs of 'other', got those of '5f'"):
        reference.load(tmp_path / "r", examples, "other")


@pytest.mark.parametrize(
    "change",
    [
        {"prompt_token_ids": (2,)},
        {"chosen_token_ids": (0, 7)},
        {"rejected_token_ids": (0, 1, 3)},
        {"chosen_weights": (1.0, 0.0)},
    ],
)
def test_those_of_other_tokens_are_refused(tmp_path: Path, change: dict[str, tuple]) -> None:
    """Of the same pair id and lengths: they would train towards another model's text, and nobody would notice."""
    examples = [example("a", 2, 3)]
    reference.save(tmp_path / "r", examples, values(examples), OWN)
    with pytest.raises(RunFolderError, match="tokens: expected log-probs of"):
        reference.load(tmp_path / "r", [replace(examples[0], **change)], OWN)


def test_a_weights_size_does_not_matter(tmp_path: Path) -> None:
    examples = [example("a", 2, 3)]
    reference.save(tmp_path / "r", examples, values(examples), OWN)
    reference.load(tmp_path / "r", [replace(examples[0], chosen_weights=(0.5, 2.0))], OWN)
