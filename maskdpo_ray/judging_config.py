"""Config sections for annotation, pairs and evaluation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from maskdpo_ray.requirement import require, require_some

_EACH = 64
"""Default number of questions in flight per annotation or evaluation actor."""


@dataclass(frozen=True)
class AnnotationConfig:
    annotator: str = "facts"
    """Annotator that labels sentences: `facts` and `claims` (rules over fact tables), `anah` (a judge that reads
    documents), `classifier` (an NLI model), `replay` (a file of labels), or your own: `python:package.module:Class`."""
    options: dict[str, Any] | None = None
    """Keyword arguments of the annotator: {name: value}, the names as its class has them."""
    num_actors: int = 1
    """Annotation actors."""
    max_in_flight: int | None = None
    """Questions handed to all annotation actors together and not yet labelled; none: 64 for each."""
    max_unparsed: float = 0.2
    """Share of the sentences: with more of them `unparsed`, of at least 50 in the run folder, the run stops."""

    def __post_init__(self) -> None:
        require(0 <= self.max_unparsed <= 1, "annotation.max_unparsed", "0 to 1", self.max_unparsed)
        require(self.num_actors >= 1, "annotation.num_actors", "at least 1", self.num_actors)
        require_some(self.max_in_flight, "annotation.max_in_flight")

    @property
    def in_flight(self) -> int:
        """`max_in_flight`, or its default."""
        return self.max_in_flight or _EACH * self.num_actors


@dataclass(frozen=True)
class PairsConfig:
    strategy: Literal["best_worst"] = "best_worst"
    """How pairs are made of scored answers: `best_worst` (Mask-DPO section 2.2)."""
    min_facts: int = 1
    """Fewest `no_hallucination` sentences of a chosen answer; 0: even one that states nothing, whose score is 1."""
    next_best: bool = True
    """If the best answer has fewer: choose the best of those that have enough; false: drop the question."""
    ties: Literal["first", "most_facts"] = "first"
    """Tie-break between answers with the same score: `first`, the one sampled first, or `most_facts`, for chosen the
    one with most `no_hallucination` sentences, for rejected the one with most wrong ones, and the first of those."""
    cut_off: Literal["drop", "keep"] = "drop"
    """Whether answers that `rollout.max_new_tokens` cut off can be chosen or rejected: `keep` as any other."""

    def __post_init__(self) -> None:
        require(self.min_facts >= 0, "pairs.min_facts", "at least 0", self.min_facts)


@dataclass(frozen=True)
class EvalConfig:
    n_samples_per_prompt: int = 5
    """R: replications, one answer per question each (Mask-DPO section 3.1: five); one when evaluation is greedy."""
    temperature: float | None = None
    """Sampling temperature of evaluated answers, 0 for greedy ones; none: `rollout.temperature`."""
    top_k: int | None = None
    """The same for top-k, 1 for greedy answers (Mask-DPO table 1); none: `rollout.top_k`."""
    top_p: float | None = None
    """The same for top-p; none: `rollout.top_p`."""
    bootstrap_samples: int = 2000
    """Resamples of topics behind the 95% intervals."""
    evaluator: str | None = None
    """A second opinion on held-out answers, beside the annotator's: `factscore` (facts against documents),
    `short_answer` (against standard answers), or a class of your own: `python:package.module:Class`; none: no other."""
    options: dict[str, Any] | None = None
    """Keyword arguments of the evaluator: {name: value}, the names as its class has them."""
    perplexity_model: str | None = None
    """Hugging Face folder of a causal language model that measures the perplexity of held-out answers, with or without
    an evaluator; none: not measured."""
    num_actors: int = 1
    """Evaluation actors, when there is an evaluator or a perplexity model."""
    max_in_flight: int | None = None
    """Questions handed to all evaluation actors together and not yet judged; none: 64 for each."""
    max_unparsed: float = 0.2
    """Share of the evaluator's facts: with more of them `unparsed`, of at least 50 in the run folder, the run stops."""

    def __post_init__(self) -> None:
        require(0 <= self.max_unparsed <= 1, "eval.max_unparsed", "0 to 1", self.max_unparsed)
        for name in ("n_samples_per_prompt", "num_actors"):
            require(getattr(self, name) >= 1, f"eval.{name}", "at least 1", getattr(self, name))
        require_some(self.max_in_flight, "eval.max_in_flight")
        temperature, top_k, top_p = self.temperature, self.top_k, self.top_p
        require(temperature is None or temperature >= 0, "eval.temperature", "at least 0 (greedy)", temperature)
        require(top_k is None or top_k >= 1 or top_k == -1, "eval.top_k", "at least 1 or -1 (all)", top_k)
        require(top_p is None or 0 < top_p <= 1, "eval.top_p", "above 0, at most 1", top_p)
        samples, model = self.bootstrap_samples, self.perplexity_model
        require(100 <= samples <= 10**5, "eval.bootstrap_samples", "100 to 100000", samples)
        has_use = self.evaluator is not None or not self.options
        require(has_use, "eval.options", "none without eval.evaluator", self.options)
        require(model is None or bool(model.strip()), "eval.perplexity_model", "the folder of a model", model)

    @property
    def in_flight(self) -> int:
        """`max_in_flight`, or its default."""
        return self.max_in_flight or _EACH * self.num_actors

    @property
    def is_greedy(self) -> bool:
        """Whether evaluation decodes greedily, so that all answers to a question are the same."""
        return self.top_k == 1 or self.temperature == 0

    @property
    def replications(self) -> int:
        """Answers to each question: `n_samples_per_prompt`, or 1 if greedy."""
        return 1 if self.is_greedy else self.n_samples_per_prompt

    @property
    def is_judged(self) -> bool:
        """Whether evaluation actors judge held-out answers."""
        return self.evaluator is not None or self.perplexity_model is not None
