"""`claims` with a judge: it cuts each sentence into its facts, and labels each as `anah` labels a sentence."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from maskdpo_ray.annotation.llm import turns
from maskdpo_ray.annotation.llm.anah import AnahAnnotator, Piece
from maskdpo_ray.annotation.llm.claims import Parts
from maskdpo_ray.annotation.llm.interviews import Claim, Verdict


class ClaimsByJudge(AnahAnnotator):
    """As AnahAnnotator, with the same options, fact by fact.

    Before the three turns there is one about each sentence, asked together for all of a call. A sentence whose parts
    can't be found in it is one `unparsed` span.
    """

    _name = "claims"
    _turn_names = turns.CLAIMS

    def start(self) -> None:
        """Start the judge. Raises UserError, one line, when that fails."""
        super().start()
        split = {language: each[turns.SPLIT] for language, each in self._turns.items()}
        self._parts = Parts(self.judge, split, self._limits.max_reference_tokens)

    def _pieces(self, answers: Sequence[Sequence[tuple[int, int, Claim]]]) -> Sequence[Sequence[Piece]]:
        """The parts of each answer's sentences. Raises AnnotatorError when the judge fails."""
        parts = self._parts.of([sentence for each in answers for _, _, sentence in each])

        def cut(start: int, end: int, sentence: Claim) -> Iterator[Piece]:
            found = parts[sentence]
            if isinstance(found, Verdict):
                yield start, end, found
                return
            for first, last in found:
                yield start + first, start + last, replace(sentence, sentence=sentence.sentence[first:last])

        return [[piece for sentence in each for piece in cut(*sentence)] for each in answers]
