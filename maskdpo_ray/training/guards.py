"""Guards: checks that stop a training whose policy is computed or published wrongly, and their tolerances.

A tolerance is what two computations of the same model differ by, by dtype; measured figures stand at each.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from maskdpo_ray.config.schema import Config
from maskdpo_ray.errors import ModelError
from maskdpo_ray.records import CHOSEN, MISMATCHED, REJECTED, ResponseLogps, TrainingExample
from maskdpo_ray.terminal import note

LOGPS = {"fp32": 1e-3, "bf16": 0.3}
"""Mean error of a token's log-prob, nats. Measured: 6e-6 and 0.08 (30 layers, random tokens), 0.12 where expert
routing flips."""
CHECKED = {"fp32": 1e-4, "bf16": 0.3}
"""The same of a tree against rows, and of a padded row against the row alone, on random tokens."""
GRADIENT = {"fp32": 0.01, "bf16": 0.7}
"""Relative error of a gradient, in norm. Measured: 5e-6 and 0.13, with routers 0.29."""


def check_first_step(error: float, dtype: str, num_tokens: float) -> None:
    """Raise ModelError when log-probs of a batch are not those of the reference, which has the same weights.

    Args:
        error: nats by which log-probs differ from the reference's, summed over the `num_tokens` tokens with weight.
        dtype: the models' dtype, fp32 or bf16.
    """
    allowed = LOGPS[dtype] * (1 + 4 / math.sqrt(num_tokens))  # a mean of few scatters more
    if not error / num_tokens <= allowed:
        raise ModelError(
            f"the first step's log-probs: expected the reference's within {allowed:.2g} nats a token, as policy and "
            f"reference have the same weights, off by {error / num_tokens:.2g}: training computes another model"
        )


@dataclass(frozen=True)
class PublishedPolicy:
    """A published policy beside the trained one, by the log-probs of a few examples."""

    num_examples: int
    logp_error: float
    """Mean absolute error of a token's log-prob, nats."""
    margin: float
    """Sum over examples of M_w - M_l (Mask-DPO eq. 5) under the trained policy, nats."""
    lost: float
    """The part of it that the published policy does not have, nats."""
    noise: float
    """Norm of the errors of the margin's terms, one for each token."""

    @classmethod
    def compare(
        cls,
        examples: Sequence[TrainingExample],
        trained: Sequence[ResponseLogps],
        published: Sequence[ResponseLogps],
        reference: Sequence[ResponseLogps],
    ) -> PublishedPolicy:
        """Compare log-probs of `examples` under each policy."""
        responses = [response for example in examples for response in example.responses]
        count = sum(np.count_nonzero(response.weights) for response in responses)
        difference = sum(
            float(np.abs(one - other).sum(dtype=np.float64))
            for of_example in zip(trained, published, strict=True)
            for one, other in zip(*of_example, strict=True)
        )
        errors = _terms(examples, trained, published)
        margin = float(_terms(examples, trained, reference).sum())
        return cls(len(examples), difference / count, margin, float(errors.sum()), float(np.linalg.norm(errors)))

    def metrics(self) -> dict[str, float]:
        """published_logp_error, and published_margin: the share of the trained margin that was published, absent where
        that margin is smaller than its noise."""
        found = {"published_logp_error": self.logp_error}
        if abs(self.margin) > self.noise:
            found["published_margin"] = 1 - self.lost / self.margin
        return found

    def check(self, folder: str, config: Config) -> None:
        """Raise ModelError when log-probs differ by more than rounding explains, or most of the margin is lost.

        A training that moved log-probs by less than bfloat16 rounds may lose all that it learned within the first
        tolerance. But errors of rounding are independent, while what was learned adds up: five standard deviations of
        the sum of the former, and half of their squares, by which errors of logits lower a log-prob on average.

        Whole weights in float32 that engines round to bfloat16 do lose it: the folder is right, and a line is shown.
        """
        allowed = LOGPS["bf16" if config.sampled_dtype == "bfloat16" else "fp32"]
        if not self.logp_error <= allowed:
            raise ModelError(
                f"{folder}: expected log-probs of the policy that was trained, within {allowed:.2g} nats a token, "
                f"loaded back they differ by {self.logp_error:.2g}"
            )
        if abs(self.lost) <= max(5 * self.noise + self.noise**2 / 2, abs(self.margin) / 2):
            return
        line = f"{folder}: expected what training added to the margin of pairs ({self.margin:.3g} nats for "
        line += f"{self.num_examples}), loaded back it is {self.margin - self.lost:.3g}"
        if config.ds.param_dtype == "bf16" or config.engine_dtype == "float32" or config.lora.rank:
            raise ModelError(line)
        advice = "set vllm.dtype to float32, or ds.param_dtype to bf16"
        note(f"{line} in bfloat16, in which engines hold the weights: {advice}")


_SIGNS = {CHOSEN: 1, REJECTED: -1, MISMATCHED: 0}


def _terms(
    examples: Sequence[TrainingExample], logps: Sequence[ResponseLogps], others: Sequence[ResponseLogps]
) -> np.ndarray:
    """Terms of M_w - M_l (Mask-DPO eq. 5), one for each token of all examples: float64."""
    terms = [np.zeros(0)]
    for example, own, other in zip(examples, logps, others, strict=True):
        for response, one, another in zip(example.responses, own, other, strict=True):
            terms.append(_SIGNS[response.role] * np.asarray(response.weights) * (one.astype(np.float64) - another))
    return np.concatenate(terms)
