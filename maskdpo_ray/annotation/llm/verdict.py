"""The `verdict` annotator: a judge says of each sentence, in one turn, whether the document bears it out.

That is how trained fact checkers are asked: Bespoke-MiniCheck, FaithLens, Lynx, VeriFastScore, each with a file of its
prompt in `templates/`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from maskdpo_ray.annotation.llm import turns
from maskdpo_ray.annotation.llm.anah import AnahAnnotator


class VerdictAnnotator(AnahAnnotator):
    """AnahAnnotator with one turn, whose file has to be named."""

    _name = "verdict"
    _turn_names = turns.ALONE

    def __init__(
        self,
        templates: str,
        judge: str = "vllm",
        judge_options: Mapping[str, Any] | None = None,
        max_reply_tokens: int = 2048,
        max_document_chars: int = 40000,
        max_concurrency: int = 16,
    ) -> None:
        """Nothing is started.

        Args:
            templates: YAML file with the turn `verdict` alone, or the name of one in `templates/`.
            judge, judge_options, max_document_chars, max_concurrency: as of `AnahAnnotator`.
            max_reply_tokens: longest reply, reasons and thinking included.

        Raises:
            ConfigError: one line, about any of these.
        """
        super().__init__(judge, judge_options, templates, max_reply_tokens, 1, max_document_chars, max_concurrency)
        # A reply with reasons has no probability of its verdict alone.
        is_bare = all(each[turns.VERDICT].pattern is None for each in self._turns.values())
        self.gives_confidence = self.gives_confidence and is_bare
