"""Files of a checkpoint as DeepSpeed reads them: what it wrote, and no code of others."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch

from actors import patches


class Code:
    """Object whose unpickling makes a file."""

    def __init__(self, file: Path) -> None:
        self._file = str(file)

    def __reduce__(self) -> tuple:
        return (open, (self._file, "w"))


def test_what_deepspeed_writes_comes_back(tmp_path: Path) -> None:
    from deepspeed.runtime.fp16.loss_scaler import LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    engine = patches.build_checkpoint_engine()
    state = {
        "weights": torch.arange(3.0),
        "stage": ZeroStageEnum.weights,
        "slice": fragment_address(3, 0),
        "names": [1],
    }
    engine.save({**state, "scaler": LossScaler(1.0)}, str(tmp_path / "a.pt"))
    assert engine.written == [str(tmp_path / "a.pt")]
    loaded = engine.load(str(tmp_path / "a.pt"))
    assert torch.equal(loaded.pop("weights"), state.pop("weights")) and loaded.pop("scaler").cur_scale == 1.0
    assert loaded == state


def test_code_is_not_run(tmp_path: Path) -> None:
    torch.save({"weights": Code(tmp_path / "ran")}, tmp_path / "a.pt")
    with pytest.raises(pickle.UnpicklingError, match="Weights only load failed"):
        patches.build_checkpoint_engine().load(str(tmp_path / "a.pt"))
    assert not (tmp_path / "ran").exists()
