"""Reference log-probs on disk: what comes back is what was kept, for the pairs asked for."""

from __future__ import annotations

import tracemalloc
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import save_file

from maskdpo_ray.errors import RunFolderError
from maskdpo_ray.records import CHOSEN, MISMATCHED, REJECTED, Response, ResponseLogps, TrainingExample
from maskdpo_ray.training import reference
from maskdpo_ray.training.batches import response_rows
from maskdpo_ray.training.example_store import ExampleStore
from maskdpo_ray.training.reference import ReferenceLogps

OWN = "5f"
"""The reference policy's checksum."""


def example(pair_id: str, chosen: int, rejected: int) -> TrainingExample:
    ids = (tuple(range(chosen)), tuple(range(rejected)))
    return TrainingExample.of_pair(pair_id, (1,), *ids, (1.0,) * chosen, (1.0,) * rejected)


def values(examples: list[TrainingExample]) -> list[ResponseLogps]:
    generator = np.random.default_rng(0)
    return [
        tuple(-generator.random(len(response.token_ids), dtype=np.float32) for response in each.responses)
        for each in examples
    ]


def of_roles(name: str, *roles: str) -> TrainingExample:
    """Responses of two tokens, and of one more each."""
    sizes = range(2, 2 + len(roles))
    responses = [Response(role, tuple(range(n)), (1.0,) * n) for role, n in zip(roles, sizes, strict=True)]
    return TrainingExample(name, (1,), tuple(responses))


def stored(file: Path, examples: Sequence[TrainingExample]) -> ExampleStore:
    """`examples` in a store of their own beside `file`."""
    return ExampleStore.write(file.with_name(f"examples-of-{len(list(file.parent.iterdir()))}"), examples)


def save(file: Path, examples: list[TrainingExample], logps: list[ResponseLogps] | None = None) -> ReferenceLogps:
    return reference.save(file, stored(file, examples), iter(values(examples) if logps is None else logps), OWN)


def load(file: Path, examples: list[TrainingExample], checksum: str = OWN) -> ReferenceLogps:
    return reference.load(file, stored(file, examples), checksum)


def equal(left: ReferenceLogps, right: list[ResponseLogps]) -> bool:
    return len(left) == len(right) and all(
        np.array_equal(a, b) and a.dtype == b.dtype
        for x, y in zip(left, right, strict=True)
        for a, b in zip(x, y, strict=True)
    )


lengths = st.tuples(st.integers(1, 5), st.integers(1, 5))
pair_ids = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=10)


@given(st.dictionaries(pair_ids, lengths, max_size=6))
def test_round_trip(tmp_path_factory: pytest.TempPathFactory, pairs: dict[str, tuple[int, int]]) -> None:
    file = tmp_path_factory.mktemp("logps") / "reference-logps.safetensors"
    examples = [example(name, *sizes) for name, sizes in pairs.items()]
    logps = values(examples)
    assert equal(save(file, examples, logps), logps)
    assert equal(load(file, examples), logps)
    assert equal(ReferenceLogps(file, stored(file, examples)), logps)
    assert [path.name for path in file.parent.iterdir() if path.is_file()] == [file.name]


def test_one_two_and_three_responses_beside_each_other(tmp_path: Path) -> None:
    examples = [
        of_roles("a", CHOSEN),
        of_roles("b", CHOSEN, REJECTED, MISMATCHED),
        of_roles("c", REJECTED, MISMATCHED),
        of_roles("d", REJECTED),
    ]
    logps = values(examples)
    save(tmp_path / "r", examples, logps)
    found = load(tmp_path / "r", examples)
    assert [len(each) for each in found] == [1, 3, 2, 1] and equal(found, logps)
    for each, of_each in ((1, (0, 2)), (3, ())):
        fewer = list(examples)
        kept = tuple(examples[each].responses[place] for place in of_each) or examples[0].responses * 2
        fewer[each] = replace(examples[each], responses=kept)
        with pytest.raises(RunFolderError, match="tokens: expected log-probs of"):
            load(tmp_path / "r", fewer)


def test_rows_of_a_batch_are_each_examples_in_turn() -> None:
    """The first responses of all, then the second: those of pairs stand as chosen and rejected ones always did."""
    examples = [of_roles("a", CHOSEN), of_roles("b", CHOSEN, REJECTED, MISMATCHED), of_roles("c", REJECTED, CHOSEN)]
    logps = values(examples)
    rows = [(0, 0), (1, 0), (2, 0), (1, 1), (2, 1), (1, 2)]
    assert response_rows([1, 3, 2]) == rows
    padded = reference.pad_logps(logps)
    assert padded.shape == (6, 4)
    for row, (one, place) in zip(padded.numpy(), rows, strict=True):
        size = len(logps[one][place])
        assert np.array_equal(row[:size], logps[one][place]) and not row[size:].any()
    back = reference.split_logps(padded.numpy(), examples)
    assert all(np.array_equal(a, b) for x, y in zip(back, logps, strict=True) for a, b in zip(x, y, strict=True))


def test_slices_of_a_batch_are_kept_right(tmp_path: Path) -> None:
    """Rows of a padded batch are views with a stride; safetensors writes memory as it lies."""
    batch = np.arange(12, dtype=np.float32).reshape(3, 4).T
    examples = [example("a", 3, 2)]
    save(tmp_path / "r", examples, [(batch[0], batch[1, :2])])
    assert equal(load(tmp_path / "r", examples), [(np.float32([0, 4, 8]), np.float32([1, 5]))])


def test_saving_anew_replaces(tmp_path: Path) -> None:
    examples = [example("a", 2, 2)]
    for factor in (1, 2):
        logps = [(np.full(2, factor, np.float32), np.full(2, -factor, np.float32))]
        save(tmp_path / "r", examples, logps)
    assert equal(load(tmp_path / "r", examples), logps)


@pytest.mark.parametrize("asked", [example("b", 2, 3), example("a", 1, 3), example("a", 2, 4)])
def test_other_pairs_are_refused(tmp_path: Path, asked: TrainingExample) -> None:
    examples = [example("a", 2, 3)]
    save(tmp_path / "r", examples)
    with pytest.raises(RunFolderError, match="tokens: expected log-probs of") as caught:
        load(tmp_path / "r", [asked])
    assert "\n" not in str(caught.value)


def test_pairs_in_another_order_are_refused(tmp_path: Path) -> None:
    """The array has no names: in another order it would be other pairs' log-probs."""
    examples = [example("a", 2, 2), example("b", 2, 2)]
    save(tmp_path / "r", examples)
    with pytest.raises(RunFolderError, match="tokens: expected log-probs of"):
        load(tmp_path / "r", examples[::-1])


@pytest.mark.parametrize("count", [0, 2])
def test_as_many_log_probs_as_pairs(tmp_path: Path, count: int) -> None:
    with pytest.raises(ValueError):
        save(tmp_path / "r", [example("a", 1, 1)], values([example("a", 1, 1)] * count))
    assert not list(tmp_path.glob("*r*"))


@pytest.mark.parametrize("sizes", [(1, 2), (2, 1), (3, 2), (2, 4)])
def test_log_probs_of_another_length(tmp_path: Path, sizes: tuple[int, int]) -> None:
    with pytest.raises(ValueError):
        save(tmp_path / "r", [example("a", 2, 2)], values([example("a", *sizes)]))


@pytest.mark.parametrize("flat", [np.zeros(4, np.float32), np.zeros(5, np.float64), np.zeros((5, 1), np.float32)])
def test_an_array_of_another_shape_is_refused(tmp_path: Path, flat: np.ndarray) -> None:
    examples = [example("a", 2, 3)]
    save(tmp_path / "r", examples)
    with safe_open(tmp_path / "r", "np") as file:
        metadata = file.metadata()
    save_file({"logps": flat}, tmp_path / "r", metadata)
    with pytest.raises(RunFolderError, match="expected 5 numbers in float32, got"):
        load(tmp_path / "r", examples)


def test_memory_does_not_grow_with_the_numbers(tmp_path: Path) -> None:
    """9.6 MB of 20,000 pairs go to the disk as they come, and are read pair by pair."""
    examples = stored(tmp_path / "r", [example("a", 60, 60)] * 20_000)
    one = values([example("a", 60, 60)])[0]
    tracemalloc.start()
    found = reference.save(tmp_path / "r", examples, (one for _ in examples), OWN)
    found = reference.load(tmp_path / "r", examples, OWN)
    assert np.array_equal(found[19_999], one)
    assert tracemalloc.get_traced_memory()[1] < 1e6 < found.path.stat().st_size / 9
    tracemalloc.stop()


def test_safetensors_writes_the_same(tmp_path: Path) -> None:
    """The file is laid out here, as safetensors takes whole arrays only."""
    examples = [example("a", 2, 3)]
    found = save(tmp_path / "r", examples)
    flat = np.concatenate(values(examples)[0])
    assert found.path.read_bytes() == safetensors.numpy.save({"logps": flat}, found.metadata)


def test_another_policys_are_refused(tmp_path: Path) -> None:
    examples = [example("a", 2, 3)]
    save(tmp_path / "r", examples)
    with pytest.raises(RunFolderError, match="policy: expected log-probs of 'other', got those of '5f'"):
        load(tmp_path / "r", examples, "other")


PAIR = ((1,), (0, 1), (0, 1, 2), (1.0, 1.0), (1.0, 1.0, 1.0))


@pytest.mark.parametrize("place, other", [(0, (2,)), (1, (0, 7)), (2, (0, 1, 3)), (3, (1.0, 0.0))])
def test_those_of_other_tokens_are_refused(tmp_path: Path, place: int, other: tuple) -> None:
    """Log-probs of the same pair id and lengths: they would train towards another model's text unnoticed."""
    examples = [example("a", 2, 3)]
    save(tmp_path / "r", examples)
    with pytest.raises(RunFolderError, match="tokens: expected log-probs of"):
        load(tmp_path / "r", [TrainingExample.of_pair("a", *PAIR[:place], other, *PAIR[place + 1 :])])


def test_a_weights_size_does_not_matter(tmp_path: Path) -> None:
    examples = [example("a", 2, 3)]
    save(tmp_path / "r", examples)
    load(tmp_path / "r", [TrainingExample.of_pair("a", *PAIR[:3], (0.5, 2.0), PAIR[4])])
