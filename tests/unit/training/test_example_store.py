"""Examples in one file: what comes back is what was added, in the order that was asked for."""

from __future__ import annotations

import os
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskdpo_ray.errors import RunFolderError
from maskdpo_ray.records import CHOSEN, MISMATCHED, REJECTED, Response, TrainingExample
from maskdpo_ray.training.example_store import ExampleStore, ExampleWriter

token_ids = st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=5).map(tuple)
responses = st.lists(st.tuples(st.integers(0, 200_000), st.floats(0, 1)), min_size=1, max_size=5)


@st.composite
def examples(draw: st.DrawFn) -> TrainingExample:
    """One to three responses in any roles."""
    name = draw(st.text(st.characters(codec="utf-8"), min_size=1, max_size=4))
    roles = draw(st.lists(st.sampled_from((CHOSEN, REJECTED, MISMATCHED)), min_size=1, max_size=3))
    sides = [Response(role, *zip(*draw(responses), strict=True)) for role in roles]
    return TrainingExample(name, draw(token_ids), tuple(sides))


@given(st.lists(examples(), max_size=8))
def test_round_trip(tmp_path_factory: pytest.TempPathFactory, given_examples: list[TrainingExample]) -> None:
    folder = tmp_path_factory.mktemp("store") / "new"
    store = ExampleStore.write(folder, given_examples)
    assert list(store) == store[:] == given_examples and len(store) == len(given_examples)
    assert list(ExampleStore(store.path)) == given_examples  # as a rank does
    assert [path.name for path in folder.iterdir()] == [store.path.name]
    sides = [[weight for response in each.responses for weight in response.weights] for each in given_examples]
    assert store.num_weighted == sum(weight > 0 for weights in sides for weight in weights)
    assert store.response_ends.tolist() == [sum(map(len, sides[: end + 1])) for end in range(len(sides))]
    tokens = [len(each.prompt_token_ids) + len(side) for each, side in zip(given_examples, sides, strict=True)]
    assert store.num_tokens.tolist() == tokens


@given(st.lists(examples(), max_size=8), st.data())
def test_chosen_ones_in_another_order(
    tmp_path_factory: pytest.TempPathFactory, given_examples: list[TrainingExample], data: st.DataObject
) -> None:
    writer = ExampleWriter(tmp_path_factory.mktemp("store"))
    for example in given_examples:
        writer.add(example)
    assert len(writer) == len(given_examples) and writer.ids == [example.id for example in given_examples]
    places = data.draw(st.permutations(range(len(given_examples))))[: data.draw(st.integers(0, len(given_examples)))]
    store, expected = writer.finish(places), [given_examples[place] for place in places]
    assert list(store) == list(ExampleStore(store.path)) == expected
    assert store.num_weighted == sum(w > 0 for each in expected for r in each.responses for w in r.weights)


def example(name: str, length: int = 1) -> TrainingExample:
    return TrainingExample.of_pair(name, (1,), (2,) * length, (3,) * length, (1.0,) * length, (0.5,) * length)


def test_an_unfinished_store_is_none(tmp_path: Path) -> None:
    """A stop while examples come in leaves what the next start replaces."""
    ExampleWriter(tmp_path).add(example("stopped"))
    assert [path.name for path in tmp_path.iterdir()] == [".examples.bin.tmp"]
    store = ExampleStore.write(tmp_path, [example("a"), example("b")])
    assert [each.id for each in store] == ["a", "b"]
    assert [path.name for path in tmp_path.iterdir()] == ["examples.bin"]


def test_a_store_that_is_replaced_stays_readable(tmp_path: Path) -> None:
    """The ranks of a process that was killed may still read it."""
    old = ExampleStore.write(tmp_path, [example("old")])
    ExampleStore.write(tmp_path, [example("new"), example("newer")])
    assert [each.id for each in old] == ["old"]


@pytest.mark.parametrize("index", [2, -3])
def test_an_index_that_is_none(tmp_path: Path, index: int) -> None:
    store = ExampleStore.write(tmp_path, [example("a"), example("b")])
    assert store[-1].id == "b"
    with pytest.raises(IndexError):
        store[index]


def test_memory_does_not_grow_with_the_tokens(tmp_path: Path) -> None:
    """20 MB of 1,000 examples: in memory are their ids and an index of 40 bytes each."""
    long = example("a", 1000)
    tracemalloc.start()
    store = ExampleStore.write(tmp_path, (long for _ in range(1000)))
    assert sum(1 for _ in store) == 1000
    assert tracemalloc.get_traced_memory()[1] < 1e6 < store.path.stat().st_size / 20
    tracemalloc.stop()


def test_a_folder_that_cant_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunFolderError, match=r"examples.bin: can't be written: File exists$"):
        ExampleWriter(tmp_path / "file")


def test_a_full_disk(tmp_path: Path) -> None:
    """/dev/full takes nothing: the first write that reaches the disk says so, or the end."""
    os.symlink("/dev/full", tmp_path / ".examples.bin.tmp")
    with pytest.raises(RunFolderError, match=r"examples.bin: can't be written: No space left on device$"):
        ExampleStore.write(tmp_path, [example("a")])
