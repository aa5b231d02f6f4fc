"""Example of a custom judge: it gives the last of the replies that a prompt offers in quotes."""

from __future__ import annotations

import re
from collections.abc import Sequence

from maskdpo_ray.annotation.llm.judge import Conversation, Reply


class EchoJudge:
    """Judge that reports conversations of more than `longest` characters as a fault.

    Set by `judge_options: {longest: 4000}`.
    """

    def __init__(self, longest: int = 40000) -> None:
        self._longest = longest

    def start(self) -> None:
        """Do nothing. A client or a model would be opened here, on the annotation actor's node."""

    def ask(self, conversations: Sequence[Conversation], max_tokens: int) -> list[Reply]:
        """Return one reply to each conversation, in order."""
        return [self._reply(conversation) for conversation in conversations]

    def _reply(self, conversation: Conversation) -> Reply:
        length = sum(len(message["content"]) for message in conversation)
        if length > self._longest:
            return Reply("", fault=f"{length} characters are too many")
        offered = re.findall('"([^"]+)"', conversation[-1]["content"])
        return Reply(offered[-1] if offered else "", logprob=0.0)  # certain: p = 1

    def close(self) -> None:
        """Do nothing. A client would be closed here."""
