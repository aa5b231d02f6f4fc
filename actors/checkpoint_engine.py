"""How DeepSpeed writes and reads the files of a checkpoint: noted when written, without foreign code when read."""

from __future__ import annotations

from typing import Any


def build() -> Any:
    """A DeepSpeed `CheckpointEngine`; `written` lists the paths that this process saved.

    DeepSpeed 0.19.6 reads with `torch.load(weights_only=False)`, and so runs any code that a file names. This one takes
    tensors, plain values and three classes of DeepSpeed's, and raises pickle.UnpicklingError for all else. Remove
    `load` when DeepSpeed does so.
    """
    import torch
    from deepspeed.runtime.checkpoint_engine import TorchCheckpointEngine
    from deepspeed.runtime.fp16.loss_scaler import LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    class Engine(TorchCheckpointEngine):
        def __init__(self) -> None:
            super().__init__()
            self.zipfile_serialization = True
            self.written: list[str] = []

        def save(self, state_dict: Any, path: str) -> None:
            super().save(state_dict, path)
            self.written.append(path)

        def load(self, path: str, map_location: Any = None) -> Any:
            with torch.serialization.safe_globals([LossScaler, ZeroStageEnum, fragment_address]):
                return torch.load(path, map_location=map_location, weights_only=True)

    return Engine()
