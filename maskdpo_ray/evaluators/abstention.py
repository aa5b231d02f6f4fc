"""Answers that say that they don't know."""

from __future__ import annotations

import re

_PHRASES = re.compile(
    r"""\b(?:i|we)\s+(?:do\s+not|don['’]?t|cannot|can['’]?t|could\s+not|couldn['’]?t|am\s+(?:not|unable)|was\s+unable)\s+
        (?:\w+\s+){0,2}?(?:know|sure|certain|aware|able|provide|answer|find|have|recall|familiar|to)\b
      | \b(?:i['’]m|i\s+am)\s+(?:not\s+(?:sure|certain|aware|able|familiar)|unable|sorry|afraid)\b
      | \bas\s+an\s+ai\b
      | \b(?:no|not\s+enough)\s+(?:\w+\s+)?(?:information|data)\s+(?:is\s+)?(?:available|about|on)\b
      | ^\s*(?:unknown|sorry|unsure)\b
      | 我不(?:知道|清楚|确定|了解) | (?:抱歉|对不起) | 无法(?:回答|提供|确定) | 不太(?:清楚|确定)
    """,
    re.IGNORECASE | re.VERBOSE,
)


def abstains(text: str) -> bool:
    """Whether an answer is empty, or its beginning says that it does not know."""
    return not text.strip() or _PHRASES.search(text[:200]) is not None
