"""Policies on their way: what a checksum tells apart, what packing keeps, what unpacking refuses."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors import weights
from maskdpo_ray.errors import ModelError
from maskdpo_ray.records import Policy


def folder(path: Path, **files: bytes) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (path / name.replace("__", ".")).write_bytes(content)
    return path


def test_checksum_is_sha256_over_names_and_bytes(tmp_path: Path) -> None:
    model = folder(tmp_path, b__safetensors=b"second", a__safetensors=b"first", config__json=b"{}")
    assert weights.checksum(model) == hashlib.sha256(b"a.safetensorsfirstb.safetensorssecond").hexdigest()


def test_checksum_of_files_longer_than_a_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "_BLOCK", 7)
    content = bytes(range(256))
    model = folder(tmp_path, model__safetensors=content)
    assert weights.checksum(model) == hashlib.sha256(b"model.safetensors" + content).hexdigest()


def test_checksum_tells_weights_apart_and_nothing_else(tmp_path: Path) -> None:
    first = folder(tmp_path / "1", model__safetensors=b"w", config__json=b"1")
    same = folder(tmp_path / "2", model__safetensors=b"w", config__json=b"2")
    other = folder(tmp_path / "3", model__safetensors=b"W", config__json=b"1")
    assert weights.checksum(first) == weights.checksum(same) != weights.checksum(other)


def test_folder_without_safetensors_is_refused(tmp_path: Path) -> None:
    folder(tmp_path, config__json=b"{}")
    for call in (weights.checksum, lambda path: weights.publish(path, 0)):
        with pytest.raises(ModelError, match=r"expected at least one \.safetensors file, found none") as caught:
            call(tmp_path)
        assert "\n" not in str(caught.value)


def test_published_policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = folder(tmp_path / "model", model__safetensors=b"w")
    monkeypatch.chdir(tmp_path)
    assert weights.publish("model", 3) == Policy(3, str(model), weights.checksum(model))


def test_is_here_compares_the_bytes(tmp_path: Path) -> None:
    policy = weights.publish(folder(tmp_path / "model", model__safetensors=b"w"), 1)
    assert weights.is_here(policy)
    assert not weights.is_here(Policy(1, str(tmp_path / "elsewhere"), policy.checksum))
    (tmp_path / "model" / "model.safetensors").write_bytes(b"x")
    assert not weights.is_here(policy)


def test_files_are_read_again_only_when_they_may_have_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = folder(tmp_path / "model", model__safetensors=b"w")
    policy, looks, read = weights.publish(model, 1), weights.Looks(), []
    checksum = weights.checksum
    monkeypatch.setattr(weights, "checksum", lambda path: read.append(path) or checksum(path))
    monkeypatch.setattr(weights, "_TICK_NS", 3600 * 10**9)
    assert looks.is_here(policy) and looks.is_here(policy) and len(read) == 2  # written a moment ago
    monkeypatch.setattr(weights, "_TICK_NS", 0)
    assert looks.is_here(policy) and looks.is_here(policy) and len(read) == 3
    other = Policy(2, policy.path, "0" * 64)
    assert not looks.is_here(other) and not looks.is_here(other) and len(read) == 5
    assert looks.is_here(policy) and len(read) == 6
    time.sleep(0.02)  # longer than the file system's clock takes for a step
    (model / "model.safetensors").write_bytes(b"x")
    assert not looks.is_here(policy) and len(read) == 7


names = st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1, max_size=12)


@given(st.dictionaries(names, st.binary(max_size=50), max_size=5))
def test_unpacking_gives_back_what_was_packed(
    tmp_path_factory: pytest.TempPathFactory, files: dict[str, bytes]
) -> None:
    base = tmp_path_factory.mktemp("packed")
    source = base / "source"
    source.mkdir()
    for name, content in files.items():
        (source / f"{name}.bin").write_bytes(content)
    (source / "subfolder").mkdir()
    packed = weights.pack(source)
    weights.unpack(packed, base / "new" / "target")
    assert packed == {f"{name}.bin": content for name, content in files.items()}
    assert weights.pack(base / "new" / "target") == packed


@pytest.mark.parametrize("name", ["../model.safetensors", "/tmp/model.safetensors", "a/b", "..", ".", ""])
def test_names_that_leave_the_folder_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="expected a plain file name"):
        weights.unpack({name: b"w"}, tmp_path / "target")
    assert [path.name for path in tmp_path.rglob("*")] == ["target"]
