"""Settings of published models that check text against a document: what the option `preset` stands for.

Each is how its authors run the model: which output means what, how document and text are joined, how much it reads.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass

from maskdpo_ray.config import suggestions
from maskdpo_ray.errors import ConfigError, shown
from maskdpo_ray.records import CONTRADICTORY, NO_HALLUCINATION, UNVERIFIABLE

PAIR = ("{document}", "{text}")
"""Two texts, which the tokenizer joins as the model was trained to read them."""


@dataclass(frozen=True)
class Preset:
    """Defaults of the options of the same names."""

    labels: Mapping[str, str] | None = None
    input: str | tuple[str, ...] = PAIR
    max_length: int | None = None


_SUPPORTED = {"0": UNVERIFIABLE, "1": NO_HALLUCINATION}
"""Two outputs, of which the second is the probability that the document says so. Silence is not told from denial."""
_NLI = {"entailment": NO_HALLUCINATION, "neutral": UNVERIFIABLE, "contradiction": CONTRADICTORY}
# github.com/Liyan06/MiniCheck (Apache-2.0), inference.py: document and claim are one text with the EOS token between
# them; passages of 400 tokens, or of 500 words for T5, which is asked for "0" or "1".
_MINICHECK = Preset(_SUPPORTED, "{document}{eos}{text}", 512)
CLASSIFIERS = {
    "nli": Preset(_NLI),
    "minicheck-roberta-large": _MINICHECK,
    "minicheck-deberta-v3-large": _MINICHECK,
    "minicheck-flan-t5-large": Preset(_SUPPORTED, "predict: {document}{eos}{text}", 768),
    # huggingface.co/vectara/hallucination_evaluation_model (Apache-2.0). 1.0 has one output, the logit of support.
    "hhem-1.0-open": Preset(_SUPPORTED, PAIR, 512),
    # 2.1 is T5 with a label for every token, of which the first counts; docs/annotators.md says how to unwrap it.
    "hhem-2.1-open": Preset(
        _SUPPORTED,
        "<pad> Determine if the hypothesis is true given the premise?\n\nPremise: {document}\n\nHypothesis: {text}",
        2048,
    ),
    # github.com/yuh-zha/AlignScore (MIT), model.py: the three-way head; docs/annotators.md says how to convert it.
    "alignscore": Preset({"0": NO_HALLUCINATION, "1": UNVERIFIABLE, "2": CONTRADICTORY}, PAIR, 512),
}
SPANS = {
    # github.com/KRLabsOrg/LettuceDetect (MIT): the English prompt of RAGTruth, github.com/ParticleMedia/RAGTruth (MIT).
    "lettucedetect": Preset(
        {"1": UNVERIFIABLE},
        (
            "Briefly answer the following question:\n{question}\n"
            "Bear in mind that your response should be strictly based on the following 1 passages:\n"
            "passage 1: {document}\n"
            "In case the passages do not contain the necessary information to answer the question, please reply with: "
            '"Unable to answer based on given passages."\noutput:',
            "{text}",
        ),
        4096,
    )
}


def find(name: str | None, known: Mapping[str, Preset]) -> Preset:
    """The preset of that name; without one no labels and a pair. Raises ConfigError for an unknown name."""
    if name is None:
        return Preset()
    if not isinstance(name, str) or name not in known:
        hint = suggestions.sentence(difflib.get_close_matches(str(name), known, n=1))
        expected = f"expected one of {', '.join(known)}"
        raise ConfigError(f"annotation.options.preset: {expected}; got {shown(name)}{hint}")
    return known[name]
