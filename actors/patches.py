"""Changes to other libraries, each with the condition for its removal.

vLLM on CPUs: how its processes wait for each other, and top-k sampling of seeded requests. DeepSpeed: how the files of
a checkpoint are written (names recorded) and read (without code from them).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partialmethod
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    Forward = Callable[
        [torch.Tensor, dict[int, torch.Generator], torch.Tensor | None, torch.Tensor | None],
        tuple[torch.Tensor, torch.Tensor | None],
    ]


def wait_without_spinning() -> None:
    """Have a process of vLLM's sleep while it waits for another one.

    vLLM 0.29's engine core spins while the worker computes, up to a second at a time, and so takes a core from the
    worker: on two cores a sixth of the engine's CPU time. Remove when the time can be set.
    """
    from vllm.distributed.device_communicators import shm_broadcast

    condition: Any = shm_broadcast.SpinCondition
    condition.__init__ = partialmethod(condition.__init__, busy_loop_s=0)
    shm_broadcast.SHM_READER_RECHECK_INTERVAL_MS = 100  # of 5000: should a notification get lost


class TopKSampler:
    """Takes the place of `forward` in vLLM's `TopKTopPSampler`.

    vLLM 0.29 on CPU draws one exponential number per entry of the vocabulary for every seeded request and token,
    which takes longer than a small model's forward. Here a seeded request draws one key per token, from which the
    numbers of the k entries that can be sampled follow. Remove when vLLM samples seeded requests as fast as others.
    """

    def __init__(self, forward: Forward) -> None:
        """`forward` is vLLM's own, for requests without top-k or with top-p."""
        self._forward = forward

    def __call__(
        self,
        logits: torch.Tensor,
        generators: dict[int, torch.Generator],
        k: torch.Tensor | None,
        p: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Sample one token per row.

        A row with a generator depends on its own logits, k and generator only, not on the rows beside it.

        Args:
            logits: [rows, vocabulary], float, the temperature applied.
            generators: row -> its request's generator; rows without one use torch's own.
            k: [rows] int, or None for no limit.
            p: [rows] float, or None for no limit.

        Returns:
            Token ids [rows] int64, and None (no processed log-probs).
        """
        import torch

        if k is None or p is not None:
            return self._forward(logits, generators, k, p)
        top, tokens = logits.topk(int(k.max()), dim=-1)
        top.masked_fill_(torch.arange(top.shape[1]) >= k[:, None], -torch.inf)
        keys = torch.randint(_LOWEST, _HIGHEST, (len(logits), 1))
        for row, generator in generators.items():
            keys[row] = torch.randint(_LOWEST, _HIGHEST, (1,), generator=generator)
        # argmax of p / Exp(1) is distributed as p (exponential race), as in vLLM's own.
        chosen = (top.softmax(dim=-1, dtype=torch.float64) / _exponential(keys, tokens)).argmax(dim=-1, keepdim=True)
        return tokens.gather(-1, chosen).view(-1), None


_LOWEST, _HIGHEST = -(2**63), 2**63 - 1


def _exponential(keys: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Exp(1) numbers [rows, k] float64, a function of a row's key [rows, 1] and of each token id alone.

    Not of its rank: the same prompt in another batch has logits that differ in the last bits, and where these swap
    two ranks the answer must not change. SplitMix64 (Steele, Lea, Flood 2014) of key and token id.
    """

    def shifted(value: torch.Tensor, bits: int) -> torch.Tensor:
        return (value >> bits) & ((1 << (64 - bits)) - 1)  # torch's own shift copies the sign

    mixed = keys + (tokens + 1) * _signed(0x9E3779B97F4A7C15)
    mixed = (mixed ^ shifted(mixed, 30)) * _signed(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ shifted(mixed, 27)) * _signed(0x94D049BB133111EB)
    mixed = mixed ^ shifted(mixed, 31)
    uniform = (shifted(mixed, 11).double() + 0.5) * 2.0**-53
    return -uniform.log()


def _signed(value: int) -> int:
    """The int64 with the bits of an unsigned 64-bit number."""
    return value - 2**64


def build_checkpoint_engine() -> Any:
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
