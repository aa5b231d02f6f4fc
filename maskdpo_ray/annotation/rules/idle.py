"""Words that claim nothing: phrases to the reader, function words. Closed lists: any other word may carry a claim."""

from __future__ import annotations

import re
from collections.abc import Sequence

from maskdpo_ray.annotation.rules.mentions import Token

_BEFORE_A_MARK = (
    "sure|sure thing|certainly|of course|absolutely|definitely|indeed|great|(?:great|good|excellent) question|hello|hi|"
    "hey|thanks|thank you|okay|ok|yes|yeah|yep|no|nope|well|right|alright|all right|please|sorry|no problem|no wonder|"
    "welcome|you're welcome|you are welcome|as (?:you|we|everyone|everybody) (?:may |might |all |surely )?knows?|"
    "as (?:is )?(?:well )?known|if you (?:ask|asked) me|if i may|in my (?:humble )?opinion|in (?:fact|short|summary|"
    "addition|other words|conclusion|brief|general)|to (?:be honest|be clear|sum up|answer your question|add)|"
    "to my knowledge|to the best of my knowledge|as far as i know|by the way|additionally|also|furthermore|moreover|"
    "for (?:example|instance|your information|the record)|note|remember|importantly|honestly|frankly|interestingly|"
    "surprisingly|actually|basically|obviously|clearly|naturally|surely|finally|first|firstly|second|secondly|third|"
    "thirdly|next|then|lastly|here you go|here we go|let me see|let's see|overall|(?:a |the )?(?:fun |short |quick )?"
    "(?:fact|answer|note)(?: \\d+)?|here(?: is|'s|’s) (?:a|one|another) (?:\\w+ )?fact|"
    "here are (?:some|five|a few|the|my|\\d+|three|four|ten) (?:\\w+ )?facts|i know|i see|i agree|you see|you know|"
    "trust me|believe me|listen|look"
)
_BEFORE_A_CLAUSE = (
    "of course|sure|certainly|indeed|obviously|clearly|naturally|surely|actually|"
    "(?:please |just |also |do )*(?:note|remember|be aware|be advised|know|keep in mind|bear in mind|notice|recall)"
    "(?: that|,|:)|(?:i|we) (?:also )?(?:think|believe|know|guess|suppose|understand|am sure|'m sure|can (?:say|"
    "confirm|tell you|assure you)|would say|must say|may add|should add|want to (?:add|say|note)|am (?:certain|"
    "confident|happy to (?:say|tell you))|have to say)(?: that|,|:)?|i[’']m (?:sure|certain|confident)(?: that)?|"
    "let me (?:just )?(?:tell you|say|add|note|mention|explain|remind you)(?: that|,|:)?|(?:did|do|don[’']t) you know"
    "(?: that|,|:)?|you (?:may|might|should|must|probably|surely|will|need to|ought to)? ?(?:also )?know that|"
    "(?:it is|it[’']s|is it(?: not)?|isn[’']t it) (?:also )?(?:true|a fact|well[- ]known|known|clear|certain|obvious|"
    "worth noting|important to note|worth mentioning)(?: that|,|:)"
)
_OPENING = re.compile(
    # A dash has spaces: "No-one" and "well-known" are words.
    rf"[\s*_\"“'‘(]*(?:(?:{_BEFORE_A_MARK})(?:[\s*_]*(?:[,:;!.?…—]|$)|\s+[–-]\s)[\s*_,:;!.?…—]*"
    rf"|(?:{_BEFORE_A_CLAUSE})[\s*_,:]+)",
    re.IGNORECASE,
)
FUNCTION = frozenset(
    (
        "a an the this that these those of in on at to for by with as and is are am be being has have having do does "
        "its it their they them he she his her there here which who whom whose where what also too including such "
        "however currently current today respectively recognized recognised"
    ).split()
)
"""Words harmless anywhere beside checked claims. No quantity, time, negation, comparison, degree or modality."""
_READER = FUNCTION | frozenset(
    (
        "i im id ill ive we you your yours me my our us let lets please feel free know knows hope hopes help helps "
        "helped need needs want wants like would could can may will shall should if any anything something more "
        "further else other another question questions ask asking asked answer answers fact facts information info "
        "detail details list below above following some few about regarding concerning tell give provide share discuss "
        "explore learn welcome thank thanks glad happy sure certainly course hello hi hey luck enjoy reading okay ok "
        "yes unable sorry ai model language assistant assist find out understand think see heres thats how when why "
        "did summary overview just sample reach contact so far or and from"
    ).split()
)
"""Words that a sentence that only speaks to the reader may consist of."""
_ANCHORS = frozenset(
    "i im id ill ive we you your me my our us let lets please here heres below following facts".split()
)
"""Words of which such a sentence has at least one."""
_QUALIFYING = frozenset(
    "short brief quick interesting key main important basic fun general great good useful specific next".split()
)
_TO_THE_READER = frozenset(
    "fact facts question questions answer answers information info detail details list summary overview sample luck "
    "time topic day".split()
)
_REFUSED = frozenset("know sure help find answer hesitate see understand assist provide".split())
_NOT = frozenset("not dont cannot cant didnt".split())
_INTRODUCING = frozenset("about of on regarding concerning for with know".split())
_UNFINISHED = frozenset("other and or but while whereas although though located situated".split())
"""Words also allowed in a heading or in a sentence that breaks off."""
_ASKING = frozenset(
    "what which who whom whose where when why how is are does do did can could would should have has".split()
)
_BEFORE_A_CLAIM = frozenset("called named both".split())
COUNTS = {
    word: number
    for number, word in enumerate("one two three four five six seven eight nine ten eleven twelve".split(), start=1)
}
ONLY = frozenset("only sole".split())
AUXILIARIES = frozenset("is are does do has have can".split())


def opening(text: str) -> int:
    """Number of characters at the start of `text` that are phrases to the reader ("Sure, please note that ...")."""
    end = 0
    while match := _OPENING.match(text, end):
        end = match.end()
    return end


def asks_or_offers(words: Sequence[Token], named: set[int], plain: frozenset[str] | set[str]) -> str | None:
    """Kind of a sentence that only speaks to the reader; None: it may claim something.

    `named`: words of the topic's name and of phrases that announce a fact; `plain`: the table's harmless words.
    """
    spoken = [i for i, word in enumerate(words) if i not in named and word.key not in plain]
    if not all(_speaks_to_reader(words, i) for i in spoken):
        return None
    # "You see, Rwanda has ..." states; "... about Rwanda" does not.
    if any(not _introduced(words, i, named) for i in named):
        return "a question" if words[0].key in _ASKING and words[-1].gap.lstrip("*_ ").startswith("?") else None
    if any(words[i].key in _ANCHORS for i in spoken):
        return "speaks to the reader, claims nothing"
    return "a question" if words[0].key in _ASKING and words[-1].gap.lstrip("*_ ").startswith("?") else None


def _speaks_to_reader(words: Sequence[Token], i: int) -> bool:
    word, after = words[i].key, words[i + 1].key if i + 1 < len(words) else ""
    if word in _QUALIFYING:
        return after in _QUALIFYING | _TO_THE_READER
    if word in _NOT:
        return after in _REFUSED
    if word.isdecimal() or word in COUNTS:  # "Here are 11 facts"
        return after in _QUALIFYING | _TO_THE_READER
    return word in _READER | _TO_THE_READER


def _introduced(words: Sequence[Token], i: int, named: set[int]) -> bool:
    while i and (i in named or words[i].key in FUNCTION - _INTRODUCING):
        i -= 1
    return words[i].key in _INTRODUCING


def idle(words: Sequence[Token], i: int, taken: set[int]) -> bool:
    """Whether word `i` claims nothing; `taken`: offsets in the text of the words of claims."""
    word = words[i].key
    after = words[i + 1] if i + 1 < len(words) else None
    before = words[i - 1].key if i else ""
    if word in FUNCTION:
        return True
    if word in _BEFORE_A_CLAIM:
        return after is not None and after.start in taken
    if word == "serves":
        return after is not None and after.key == "as"
    if word in {"include", "includes"}:  # "its neighbours include", but not "borders and includes"
        return i > 0 and words[i - 1].start in taken
    if word == "belongs":  # "to group 11", but not "to Uganda"
        to = next((w for w in words[i + 1 :] if w.key not in {"to", "the"}), None)
        return to is not None and to.start in taken and to.text.islower()
    if word == "well":
        return before == "as" and after is not None and after.key == "as"
    if word == "one":
        is_choice = after is not None and (after.key == "of" or after.start in taken)
        return is_choice and before not in {"has", "have", "the", "only", "just", "with"}
    return False


def stops_short(words: Sequence[Token], named: set[int], plain: frozenset[str] | set[str]) -> bool:
    """Whether the sentence breaks off or is a heading before it claims anything; arguments as in `asks_or_offers`."""
    return all(
        i in named
        or word.key in FUNCTION | _UNFINISHED | plain
        or (word.key == "one" and (i + 1 == len(words) or words[i + 1].key == "of"))
        for i, word in enumerate(words)
    )
