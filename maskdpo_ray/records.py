"""Every record that crosses a process or lands on disk, and its JSON form.

One record a line (JSON Lines, UTF-8). Readers refuse unknown or missing fields, so that a file of
another schema is an error and not a guess.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from typing import Any, TypeVar

import msgspec
import numpy as np

from maskdpo_ray.errors import shown

SCHEMA_VERSION = 3
NO_FACT = "no_fact"
NO_HALLUCINATION = "no_hallucination"
CONTRADICTORY = "contradictory"
UNVERIFIABLE = "unverifiable"
UNPARSED = "unparsed"
# Mask-DPO appendix A: the first two of ANAH-v2's types count as hallucination-free, the last two
# as hallucination. `unparsed` is annotator output that could not be read: on neither side.
CORRECT = frozenset({NO_FACT, NO_HALLUCINATION})
INCORRECT = frozenset({CONTRADICTORY, UNVERIFIABLE})
LABELS = (NO_FACT, NO_HALLUCINATION, CONTRADICTORY, UNVERIFIABLE, UNPARSED)
# What an objective does with a response.
CHOSEN = "chosen"
REJECTED = "rejected"
MISMATCHED = "mismatched"
"""Another question's answer under this prompt, from which KTO estimates a KL divergence; it gets no gradient."""
# What a second evaluator says of a fact, FActScore's three; `unparsed` as above.
SUPPORTED = "supported"
UNSUPPORTED = "unsupported"
IRRELEVANT = "irrelevant"
VERDICTS = (SUPPORTED, UNSUPPORTED, IRRELEVANT, UNPARSED)


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of what lands on disk: immutable, compared by value, pickled as a call of its class."""


class Question(Record):
    """One question of one topic, and what its answers can be checked against.

    Example: `Question("rwanda/five", "Rwanda", ({"role": "user", "content": "Give five ..."},))`
    """

    id: str
    topic: str
    """Questions of one topic are never split between training and evaluation."""
    prompt: tuple[dict[str, Any], ...]
    """Chat messages, each {"role", "content"} and further keys for the chat template; the last one is the user's or a
    tool's."""
    document: str | None = None
    """Reference text for annotators that read."""
    facts: dict[str, Any] | None = None
    """Structured facts for annotators that look up."""
    answer: str | None = None
    """Standard answer, for short-answer evaluators."""
    language: str = "en"
    wrong_answers: tuple[str, ...] = ()
    """Wrong answers of the same kind as `answer` (SMA 3.1 has three)."""


class Block(Record):
    """A part of a reply's text outside the answer: a thinking block (with its tags and trailing white space), or the
    prefix that the chat template writes before every answer. No sentences, weight 0, not counted in the length.
    """

    start: int
    """First character, an offset into `Rollout.text`."""
    end: int
    """One past the last character."""
    first: int = 0
    """Index of its first token id."""
    tokens: int = 0
    """Number of token ids in it; 0 for an answer without token ids."""


class Rollout(Record):
    """One sampled answer."""

    question_id: str
    sample: int
    """0 .. K-1 within the question."""
    token_ids: tuple[int, ...]
    """Exactly as sampled, EOS included when the engine stopped at it."""
    text: str
    """Text that `token_ids` spell, special tokens left out."""
    finish_reason: str
    """`stop` or `length` (cut off at the limit)."""
    policy_version: int
    """0 is the initial policy, i + 1 the policy after iteration i."""
    blocks: tuple[Block, ...] = ()
    """Blocks in order, not overlapping."""
    role: str | None = None
    """The only role that it may have in a pair (`rollout.chosen_answers`); None: either."""


class Sentence(Record):
    """A labelled span of an answer. A sentence by default; a clause or a fact works the same."""

    start: int
    """First character, an offset into `Rollout.text`."""
    end: int
    """One past the last character."""
    label: str
    """One of `LABELS`."""
    confidence: float | None = None
    """0 to 1, or None when the annotator gives none."""
    evidence: str | None = None
    """Why: the fact or passage that decided."""
    kind: str | None = None
    """Kind of fact ("capital", "currency"), for reports; None when not known."""


class Annotation(Record):
    """The labels of one answer, sentences in order and not overlapping."""

    question_id: str
    sample: int
    sentences: tuple[Sentence, ...]


class JudgedFact(Record):
    """A fact of an answer, as a second evaluator reads it."""

    text: str
    """In the evaluator's words, which need not be the answer's."""
    verdict: str
    """One of `VERDICTS`."""
    evidence: str | None = None
    """The passage that decided."""


class Surprisal(Record):
    """Surprisal of an answer under a language model."""

    nats: float
    """Sum of -log p over the answer's tokens, each after the prompt and the tokens before it."""
    num_tokens: int
    """The model's own, which need not be the policy's."""


class Judgement(Record):
    """Judgement of one answer by a second evaluator, a perplexity model or both."""

    question_id: str
    sample: int
    facts: tuple[JudgedFact, ...]
    abstained: bool = False
    """The answer says that it does not know."""
    surprisal: Surprisal | None = None
    """None: not measured, as no model measures it or the answer is too long for that model."""


class ScoredAnswer(Record):
    """An answer with its labels and its factuality score (Mask-DPO section 2.2)."""

    rollout: Rollout
    annotation: Annotation
    score: float | None
    """Correct sentences / parsed sentences, 0 to 1; None when no sentence could be parsed."""


class PreferencePair(Record):
    """The unit that the policy learns from: two answers, or one alone that is good or bad (for KTO and SFT).

    Raises ValueError when there is none.
    """

    question_id: str
    topic: str
    prompt_token_ids: tuple[int, ...]
    """The rendered chat prompt, generation prompt included: what the answers are trained after."""
    chosen: ScoredAnswer | None
    rejected: ScoredAnswer | None
    policy_version: int

    def __post_init__(self) -> None:
        if self.chosen is None and self.rejected is None:
            raise ValueError(f"pair of question {self.question_id!r}: expected an answer, got none")

    def sides(self) -> dict[str, ScoredAnswer]:
        """The answers that there are, by role."""
        named = {CHOSEN: self.chosen, REJECTED: self.rejected}
        return {role: answer for role, answer in named.items() if answer is not None}


class CommittedPair(Record):
    """A preference pair beside the answers that it is of."""

    topic: str
    prompt_token_ids: tuple[int, ...]
    """`PreferencePair.prompt_token_ids`."""
    chosen: int | None
    """`Rollout.sample` of the chosen answer; None when the pair has none."""
    chosen_score: float | None
    """`ScoredAnswer.score`."""
    rejected: int | None
    rejected_score: float | None


class CommittedQuestion(Record):
    """A question with all that came of it: a line of a question log.

    Raises ValueError when rollouts, annotations, judgements and pairs are not of the same answers.
    """

    question_id: str
    rollouts: tuple[Rollout, ...] = ()
    annotations: tuple[Annotation, ...] = ()
    """One for each rollout, in the same order."""
    judgements: tuple[Judgement, ...] = ()
    """One for each rollout of a held-out question, where a second evaluator or a perplexity model judges."""
    pairs: tuple[CommittedPair, ...] = ()
    drops: tuple[str, ...] = ()
    """Why a training question gave no pair, or pairs of it were dropped, once for each; "failed", of held-out questions
    too, with an error."""
    error: str | None = None
    """Last error of a question that failed and has no answers, one line."""

    def __post_init__(self) -> None:
        answers = [(rollout.question_id, rollout.sample) for rollout in self.rollouts]
        if any(name != self.question_id for name, _ in answers):
            raise ValueError(f"question {self.question_id!r}: holds a rollout of another question")
        for part, of_part in (("annotations", self.annotations), ("judgements", self.judgements)):
            is_left_out = part == "judgements" and not of_part
            if not is_left_out and [(each.question_id, each.sample) for each in of_part] != answers:
                raise ValueError(f"question {self.question_id!r}: rollouts and {part} are not of the same answers")
        samples = [sample for _, sample in answers]
        for number, pair in enumerate(self.pairs):
            for sample in (pair.chosen, pair.rejected):
                if sample is not None and samples.count(sample) != 1:
                    raise ValueError(
                        f"question {self.question_id!r}: pairs[{number}]: expected one answer {sample}, got {samples}"
                    )

    @classmethod
    def of(
        cls,
        question_id: str,
        rollouts: Iterable[Rollout] = (),
        annotations: Iterable[Annotation] = (),
        pairs: Iterable[PreferencePair] = (),
        drops: Iterable[str] = (),
        judgements: Iterable[Judgement] = (),
        error: str | None = None,
    ) -> CommittedQuestion:
        """Join what came of a question; pairs and reasons of training questions only."""
        given = tuple(pairs)
        parts = tuple(rollouts), tuple(annotations), tuple(judgements)
        made = cls(question_id, *parts, tuple(map(_committed, given)), tuple(map(str, drops)), error)
        if made.preference_pairs() != list(given):
            raise ValueError(f"question {question_id!r}: holds pairs of another question, or of other answers")
        return made

    def preference_pairs(self) -> list[PreferencePair]:
        """The pairs with their answers and labels."""
        answers = {r.sample: (r, a) for r, a in zip(self.rollouts, self.annotations, strict=True)}

        def side(sample: int | None, score: float | None) -> ScoredAnswer | None:
            return None if sample is None else ScoredAnswer(*answers[sample], score)

        found = []
        for pair in self.pairs:
            chosen, rejected = side(pair.chosen, pair.chosen_score), side(pair.rejected, pair.rejected_score)
            version = next(answer.rollout.policy_version for answer in (chosen, rejected) if answer is not None)
            found.append(PreferencePair(self.question_id, pair.topic, pair.prompt_token_ids, chosen, rejected, version))
        return found


def _committed(pair: PreferencePair) -> CommittedPair:
    def side(answer: ScoredAnswer | None) -> tuple[int | None, float | None]:
        return (None, None) if answer is None else (answer.rollout.sample, answer.score)

    return CommittedPair(pair.topic, pair.prompt_token_ids, *side(pair.chosen), *side(pair.rejected))


class Policy(Record):
    """A published policy: what engines load and rollouts are stamped with."""

    version: int
    """0 is the initial policy, i + 1 the policy after iteration i."""
    path: str
    """A Hugging Face folder: safetensors, config, tokenizer."""
    checksum: str
    """sha256 of its safetensors (`actors.weights.checksum`)."""


LANGUAGES = ("en", "zh")


@dataclass(frozen=True, slots=True)
class Response:
    """A response as token ids, with one weight each (Mask-DPO eq. 5's I(a_i), or a fraction)."""

    role: str
    """CHOSEN, REJECTED or MISMATCHED."""
    token_ids: tuple[int, ...]
    weights: tuple[float, ...]

    def num_inputs(self, cut_tail: bool) -> int | None:
        """Number of its tokens that a model has to read; None when none has weight and nothing needs to be read.

        With `cut_tail`, all before the last one that has weight: what comes after has no target behind it.
        """
        if not cut_tail:
            return len(self.token_ids)
        return next((place for place in reversed(range(len(self.weights))) if self.weights[place]), None)


@dataclass(frozen=True, slots=True)
class TrainingExample:
    """A prompt with n weighted responses: two for a pair, one for SFT or an unpaired answer, or one a sentence."""

    id: str
    """`question_id#number` of its pair; of other sources than the policy's answers, with the source before it."""
    prompt_token_ids: tuple[int, ...]
    responses: tuple[Response, ...]

    @classmethod
    def of_pair(
        cls,
        name: str,
        prompt_token_ids: tuple[int, ...],
        chosen_token_ids: tuple[int, ...],
        rejected_token_ids: tuple[int, ...],
        chosen_weights: tuple[float, ...],
        rejected_weights: tuple[float, ...],
    ) -> TrainingExample:
        """The example of a chosen and a rejected response."""
        chosen = Response(CHOSEN, chosen_token_ids, chosen_weights)
        return cls(name, prompt_token_ids, (chosen, Response(REJECTED, rejected_token_ids, rejected_weights)))

    def input_lengths(self, cut_tails: bool) -> list[int]:
        """Tokens that a model has to read for each response, prompt included; 0 for one without weight."""
        read = [response.num_inputs(cut_tails) for response in self.responses]
        return [0 if used is None else len(self.prompt_token_ids) + used for used in read]

    @property
    def num_response_tokens(self) -> int:
        """Tokens of all responses."""
        return sum(len(response.token_ids) for response in self.responses)


ResponseLogps = tuple[np.ndarray, ...]
"""Log-probs of one example's responses, in order: [response length] float32 each, 0 where the weight is 0."""
EVALUATE = "evaluate-"
"""Prefix of the `purpose` of evaluated answers."""


@dataclass(frozen=True)
class Sampling:
    """How answers are sampled (Mask-DPO appendix A: top-k 40, temperature 0.8)."""

    n: int
    """Answers to each question."""
    temperature: float
    """0: greedy."""
    top_k: int
    """-1: all tokens."""
    top_p: float
    max_tokens: int
    ends: tuple[int, ...] = ()
    """Token ids that end an answer in addition to the tokenizer's EOS: see `Chat.ends`."""


@dataclass(frozen=True)
class Failed:
    """A question that a group of actors abandoned; the groups after it pass it on."""

    question: Question
    error: str
    """One line: which actor failed at last, and why."""


@dataclass(frozen=True)
class Answered:
    """A question with its K answers."""

    question: Question
    prompt_token_ids: tuple[int, ...]
    rollouts: tuple[Rollout, ...]


@dataclass(frozen=True)
class Labelled:
    """A question with its answers and their labels, in the same order."""

    question: Question
    prompt_token_ids: tuple[int, ...]
    rollouts: tuple[Rollout, ...]
    annotations: tuple[Annotation, ...]
    judgements: tuple[Judgement, ...] = ()
    """Judgements of held-out answers, where a second evaluator or a perplexity model judges."""


class DropReason(StrEnum):
    """Why a question gives no pair, or a pair is dropped.

    The values are the names in question logs, metrics and summaries.
    """

    TOO_FEW_ANSWERS = "too_few_answers"
    """Fewer than two answers were sampled; none, for a strategy that picks single answers (also in the next two)."""
    TRUNCATED = "truncated"
    """Fewer than two answers ended before the length limit; of an atomic question, no right one, or no wrong one."""
    UNPARSED = "unparsed"
    """Fewer than two of these have a sentence that the annotator's output could be read for."""
    IDENTICAL_TEXT = "identical_text"
    SAME_SCORE = "same_score"
    TOO_FEW_FACTS = "too_few_facts"
    """The chosen answer states fewer correct facts than `pairs.min_facts`; where `best_worst` takes the next best, so
    do all answers better than the worst."""
    CHOSEN_WITHOUT_CORRECT = "chosen_without_correct"
    REJECTED_WITHOUT_INCORRECT = "rejected_without_incorrect"
    LEAVES_OUT_KIND = "leaves_out_kind"
    """The rejected answer states a kind of fact that the chosen one doesn't (`pairs.require_kinds`)."""
    GAP = "gap"
    """The scores of chosen and rejected answer differ by too little or too much: `pairs.min_gap`, `pairs.max_gap`."""
    NONE_CORRECT = "none_correct"
    """No answer is correct, for `correct_incorrect`."""
    NONE_INCORRECT = "none_incorrect"
    """Some answer is correct, and none is incorrect, for `correct_incorrect`."""
    NOTHING_PICKED = "nothing_picked"
    """The strategy picks nothing, and doesn't say why."""
    KNOWN = "known"
    """All replies to an atomic question are right (APEFT 5.1)."""
    UNKNOWN = "unknown"
    """All replies to an atomic question are wrong."""
    UNPAIRED = "unpaired"
    """The objective compares two answers, and the pair has one."""
    NO_CONFIDENCE = "no_confidence"
    """A label with weight has no confidence, by which `mask.confidence` multiplies it."""
    NOTHING_TO_LEARN = "nothing_to_learn"
    """The mask policy leaves a side without a weighted token; known only once tokens are weighed."""
    NOT_LOCATED = "not_located"
    """An answer's ids don't spell its text, or a sentence lies outside it; known as late."""
    FAILED = "failed"
    """The actors that were to answer or label it failed, again and again: it has no answers."""


class PairsSummary(Record):
    """Counts of an iteration's questions and pairs: pairs-summary.json."""

    questions: int
    """Questions, or records of a pairs file, that were read."""
    pairs: int
    """Pairs that training learns from."""
    drops: dict[str, int]
    """Reason -> questions without a pair, and dropped pairs; of a pairs file, records that were dropped."""
    mixture: dict[str, float]
    """Shares from `pairing.scoring.mixture`."""
    failed_example: str | None = None
    """The error of a question that failed, if one did."""
    logged: int = 0
    """Pairs of the training questions in their log; `pairs` may have fewer, and others."""
    labels: dict[str, int] = {}
    """Label -> sentences of the answers; of short answers, a sentence is an answer."""
    sources: dict[str, int] = {}
    """Source -> its examples among `pairs`, where there are others than the training questions."""
    atoms: dict[str, int] = {}
    """Atomic questions by what the policy knows: `known`, `potentially_known`, `unknown`, `unparsed`."""
    balance: dict[str, float] = {}
    """Kind of fact -> what multiplied the weights of its sentences in rejected answers (`mask.balance`)."""
    examples: dict[str, str] = {}
    """Reason -> the error of the first record of a pairs file that was dropped for it."""


Decoded = TypeVar("Decoded")


def _plain(value: Any) -> str | float:
    """numpy's strings and numbers, say, which msgspec does not take for what they are."""
    for kind in (str, float):
        if isinstance(value, kind):
            return kind(value)
    raise TypeError(f"expected JSON values or records, got {type(value).__name__}")


_ENCODER = msgspec.json.Encoder(enc_hook=_plain)
_STRICT_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def encode_record(record: Any) -> bytes:
    """A record of finite numbers as one UTF-8 line, newline included: `encode_line` ten times as fast, for answers.

    Numbers that aren't finite become null; readers of files and replies refuse them before.
    """
    return _ENCODER.encode(record) + b"\n"


def encode_line(value: Any) -> bytes:
    """JSON values and records as one UTF-8 line, newline included. NaN raises ValueError."""
    return _STRICT_ENCODER.encode(to_json(value)).encode() + b"\n"


def to_json(record: Any) -> Any:
    """A record as plain JSON values."""
    return msgspec.to_builtins(record, enc_hook=_plain)


class NotJSON(ValueError):
    """The text is no JSON, whatever record it was to hold."""


@cache
def _decoder(kind: Any) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(kind)


def decode(kind: type[Decoded], data: bytes) -> Decoded:
    """A record of `kind` from JSON. Raises NotJSON; ValueError as `from_json` does."""
    try:
        found: Decoded = _decoder(kind).decode(data)  # type: ignore[arg-type]
        return found
    except (ValueError, RecursionError):  # in msgspec's words, which don't tell the value
        try:
            value = msgspec.json.decode(data)
        except (ValueError, RecursionError) as error:
            raise NotJSON(f"expected JSON, got: {error}") from None
        return from_json(kind, value)


def from_json(kind: type[Decoded], value: Any) -> Decoded:
    """A record of `kind` from parsed JSON. Raises ValueError naming the field, what was expected and what came."""
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise ValueError(_in_words(kind, value, str(error))) from None


_TYPES = re.compile("Expected `(.+)`, got `.+`")
_FIELD = re.compile("Object (missing required|contains unknown) field `(.+)`")
_STEP = re.compile(r"\.(\w+)|\[(\d+)\]|(.)")
_WORDS = {"object": "an object", "array": "a list"}


def _in_words(kind: type, value: Any, said: str) -> str:
    """An error of msgspec's with the value that it is about."""
    said, _, path = said.partition(" - at `$")
    path = path.removesuffix("`")
    where = f"field {path.removeprefix('.')!r}: " if path else ""
    if found := _FIELD.fullmatch(said):
        of_whole = "" if path else f" in {_name(kind)}"
        if found[1] == "missing required":
            return f"{where}missing field {found[2]!r}{of_whole}"
        fields: tuple[str, ...] = getattr(kind, "__struct_fields__", ())
        known = "" if path else f"; known: {', '.join(fields)}"
        return f"{where}unknown field {shown(found[2])}{of_whole}{known}"
    if not (found := _TYPES.fullmatch(said)):
        return f"{where}{said}"
    if found[1] == "object" and not path:
        return f"expected an object with the fields of {_name(kind)}, got {_short(value)}"
    expected = " or ".join(_WORDS.get(each, each) for each in found[1].split(" | "))
    for name, index, other in _STEP.findall(path):
        if other:  # msgspec doesn't tell the key of a dict's value
            return f"{where}expected {expected}, got {said.split('`')[-2]}"
        value = value[name or int(index)]
    return f"{where}expected {expected}, got {_short(value)}"


def _name(kind: type) -> str:
    """`PreferencePair` as "the preference pair"."""
    return "the " + re.sub("(?<=[a-z])(?=[A-Z])", " ", kind.__name__).lower()


def _short(value: Any) -> str:
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:57] + '...'}"


_SURROGATE = re.compile("[\ud800-\udfff]")


def is_text(value: object) -> bool:
    """Whether `value` is text that a file can hold: lone surrogates, which JSON's escapes can spell, are no UTF-8."""
    return isinstance(value, str) and (value.isascii() or _SURROGATE.search(value) is None)
