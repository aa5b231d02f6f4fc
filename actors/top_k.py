"""Top-k sampling of seeded requests on CPUs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    Forward = Callable[
        [torch.Tensor, dict[int, torch.Generator], torch.Tensor | None, torch.Tensor | None],
        tuple[torch.Tensor, torch.Tensor | None],
    ]


class TopKSampler:
    """Takes the place of `forward` in vLLM's `TopKTopPSampler`.

    vLLM 0.29 on CPU draws one exponential number per entry of the vocabulary for every seeded request and token,
    which takes longer than a small model's forward. Only k entries can be sampled, so k numbers give the same
    distribution. Remove when vLLM samples seeded requests as fast as others.
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
        noise = torch.ones(top.shape)
        if len(generators) < len(noise):
            noise.exponential_()
        for row, generator in generators.items():
            noise[row, : k[row]].exponential_(generator=generator)
        # argmax of p / Exp(1) is distributed as p (exponential race), as in vLLM's own.
        chosen = (top.softmax(dim=-1, dtype=torch.float32) / noise).argmax(dim=-1, keepdim=True)
        return tokens.gather(-1, chosen).view(-1), None
