"""An example of a judge of one's own: of the replies that a prompt offers in quotes it gives the last."""

from __future__ import annotations

import re
from collections.abc import Sequence

from maskdpo_ray.annotation.llm.judge import Conversation, Reply


class EchoJudge:
    """`judge_options: {longest: 4000}` makes longer conversations (characters) a fault."""

    def __init__(self, longest: int = 40000) -> None:
        self._longest = longest

    def start(self) -> None:
        """Nothing to load. A client or a model would be opened here, on the node that asks it."""

    def ask(self, conversations: Sequence[Conversation], max_tokens: int) -> list[Reply]:
        """One reply to each conversation, in order."""
        return [self._reply(conversation) for conversation in conversations]

    def _reply(self, conversation: Conversation) -> Reply:
        length = sum(len(message["content"]) for message in conversation)
        if length > self._longest:
            return Reply("", fault=f"{length} characters are too many")
        offered = re.findall('"([^"]+)"', conversation[-1]["content"])
        return Reply(offered[-1] if offered else "", logprob=0.0)  # 0: it would always say so

    def close(self) -> None:
        """Nothing to let go of."""
