"""Mask-DPO (ICLR 2025, arXiv 2503.02846) on Ray, vLLM and DeepSpeed.

The names in `__all__` are the public API, with examples in docs/api.md. Each is imported when it is first used, so that
`import maskdpo_ray` is light.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from maskdpo_ray.annotation.protocol import Annotator as Annotator
    from maskdpo_ray.annotation.sentences import split as split_sentences
    from maskdpo_ray.evaluation.evaluators.protocol import Evaluator as Evaluator
    from maskdpo_ray.pairing.masks import token_weights as token_weights
    from maskdpo_ray.records import TrainingExample as TrainingExample
    from maskdpo_ray.training.objectives.dpo import masked_dpo_loss as masked_dpo_loss

__version__ = "0.1.0"
__all__ = ["Annotator", "Evaluator", "TrainingExample", "masked_dpo_loss", "split_sentences", "token_weights"]
_DEFINED_IN = {
    "Annotator": "annotation.protocol:Annotator",
    "Evaluator": "evaluation.evaluators.protocol:Evaluator",
    "TrainingExample": "records:TrainingExample",
    "masked_dpo_loss": "training.objectives.dpo:masked_dpo_loss",
    "split_sentences": "annotation.sentences:split",
    "token_weights": "pairing.masks:token_weights",
}
"""Public name -> module of this package, and its name there; type checkers read the imports above instead."""


def __getattr__(name: str) -> Any:
    """Import a public name on first use (PEP 562)."""
    if name not in _DEFINED_IN:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, attribute = _DEFINED_IN[name].partition(":")
    value = globals()[name] = getattr(import_module(f"{__name__}.{module}"), attribute)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
