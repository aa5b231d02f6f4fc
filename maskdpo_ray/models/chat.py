"""A policy's chat: conversations rendered by its template as token ids, and the tokens that end a turn.

There is one `Chat` per run. Prompts for engines, training pairs, given answers and evaluation all go through it, so
they agree. An answer that was not sampled gets its ids from the template's finished conversation.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from maskdpo_ray.config.schema import Config
from maskdpo_ray.data.dropped import Reason
from maskdpo_ray.errors import DataError, MaskError, ModelError, RecordError, one_line
from maskdpo_ray.models import thinking
from maskdpo_ray.models.plain_text import PlainText, as_is, mapped
from maskdpo_ray.models.thinking import Tags
from maskdpo_ray.models.token_spans import added_tokens, token_spans
from maskdpo_ray.records import Block, Question, Rollout, Sentence
from maskdpo_ray.store import fingerprint

Messages = Sequence[Mapping[str, Any]]
_PROBE = ({"role": "user", "content": "A question?"}, {"role": "assistant", "content": "An answer."})
_FORMS = (None, "NFC", "NFKC")
"""Unicode forms that tokenizers normalize to; None: unchanged."""


@dataclass(frozen=True)
class Turn:
    """An answer as the template renders it."""

    token_ids: tuple[int, ...]
    """Token ids up to and including the end of turn."""
    text: str
    """Text of the ids without the end of turn."""
    blocks: tuple[Block, ...]
    shift: int
    """Offset from a place in the given answer to the same place in `text`."""
    form: str | None
    """Unicode form of `text`, if the tokenizer normalizes."""

    def spans(self, given: str, sentences: Sequence[Sentence]) -> tuple[Sentence, ...]:
        """Labelled spans of the given answer as spans of `text`, without those in blocks or in text left out."""
        found = []
        for sentence in sentences:
            start, end = (self._place(given, at) for at in (sentence.start, sentence.end))
            start, end = max(start, 0), min(end, len(self.text))
            for block in self.blocks:
                start = block.end if block.start <= start < block.end else start
                end = block.start if block.start < end <= block.end else end
            if self.text[start:end].strip() and start < end:
                found.append(replace(sentence, start=start, end=end))
        return tuple(found)

    def _place(self, given: str, at: int) -> int:
        if self.form is None:
            return at + self.shift
        before, behind = (unicodedata.normalize(self.form, part) for part in (given[:at], given[at:]))
        if before + behind != unicodedata.normalize(self.form, given):
            raise RecordError(
                f"expected a span that ends with a character, got one that ends at {at}", Reason.NOT_SPELLED
            )
        return len(before) + self.shift


@dataclass(frozen=True)
class Chat:
    """A tokenizer with its chat template and the config's settings of both."""

    tokenizer: Any
    options: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of the template: `model.chat_template_kwargs`."""
    listed: tuple[int, ...] = ()
    """`eos_token_id` of generation_config.json."""
    tags: Tags = field(default_factory=Tags)
    now: datetime = field(default_factory=datetime.now)
    """Date and time for templates that ask for it: that of the run's first start."""

    def prompt_ids(self, question: Question) -> list[int]:
        """Token ids of the question's prompt, generation prompt included.

        Raises ModelError when the tokenizer has no chat template, RecordError when the template refuses the prompt or
        the text of a special token in it can't be distinguished from the token.
        """
        try:
            return self._encoded(question.prompt, None)[1]
        except RecordError as error:
            raise RecordError(f"question {question.id!r}: {error}", error.reason) from error

    @cached_property
    def end_of_turn(self) -> int | None:
        """The token id that ends an answer: the first control token that the template writes after one; or, if a
        finished conversation has none, the first token of the user's next turn if generation stops at it; else EOS.
        """
        stops = {self.tokenizer.eos_token_id, *self.listed} - {None}
        controls = stops | added_tokens(self.tokenizer).keys()
        try:
            for token in self._ids(self._behind_answer(_PROBE)):
                if token in controls:
                    return token
            following = self._ids(self._behind_answer(_PROBE, _PROBE[:1]))
        except DataError:  # no finished conversations: pairs of text are impossible, but answers can be sampled
            return self.tokenizer.eos_token_id
        return following[0] if following and following[0] in stops else self.tokenizer.eos_token_id

    @cached_property
    def ends(self) -> tuple[int, ...]:
        """Token ids that end an answer: EOS, those of generation_config.json and the template's end of turn."""
        return tuple(sorted({self.tokenizer.eos_token_id, self.end_of_turn, *self.listed} - {None}))

    def noted(self, rollout: Rollout, prompt_ids: Sequence[int] = (), prompt: Messages = ()) -> Rollout:
        """An answer with its thinking blocks located; it counts as cut off if the last one never ends.

        Args:
            prompt_ids: token ids of the prompt that it was sampled for.
            prompt: messages of its question, if it was not sampled.
        """
        if rollout.blocks or not self.tags.pairs:
            return rollout
        is_open = self._opens(tuple(prompt_ids[-16:]))
        return self.tags.noted(rollout, is_open, self.tokenizer, bool(prompt) and self.opens_block(prompt))

    def opens_block(self, prompt: Messages) -> bool:
        """Whether the generation prompt behind these messages opens a thinking block.

        Raises ModelError when there is no template.
        """
        try:
            return self.tags.opened_by(self.rendered(prompt))
        except RecordError:  # no answer was ever sampled for it
            return False

    def _opens(self, prompt_end: tuple[int, ...]) -> bool:
        if not prompt_end:
            return False
        if prompt_end not in self._opening:
            self._opening[prompt_end] = self.tags.opened_by(self.tokenizer.decode(prompt_end))
        return self._opening[prompt_end]

    @cached_property
    def _opening(self) -> dict[tuple[int, ...], bool]:
        return {}

    def answer_ids(self, text: str, ended: bool) -> list[int]:
        """Token ids of an answer's text alone, special tokens in it as plain text, with the end of turn if `ended`.

        Raises RecordError as `turns` does.
        """
        ids = self._words.of_answer(text)
        return [*ids, *([self.end_of_turn] if ended and self.end_of_turn is not None else [])]

    def turns(self, prompt: Messages, texts: Sequence[str]) -> tuple[tuple[int, ...], list[Turn]]:
        """(token ids of the shared prompt, each answer's turn): together those of the template's finished
        conversation, up to the end of turn.

        The prompt is that of `prompt_ids` if the finished conversations start with it; else their part before the
        answers, as with templates whose generation prompt opens a thinking block that they leave out of finished
        turns.

        Raises RecordError, by its `dropped.Reason`; ModelError when the tokenizer has no chat template.
        """
        begun, prompt_ids = self._encoded(prompt, None)
        may_be_open = self.tags.opened_by(begun)
        finished = [self._finished(prompt, text, may_be_open) for text in texts]
        if all(each.ids[: len(prompt_ids)] == prompt_ids and each.text.startswith(begun) for each in finished):
            size = len(prompt_ids)
        else:
            size = min(each.first for each in finished)
            while len({tuple(each.ids[:size]) for each in finished}) > 1:
                size -= 1
        return tuple(finished[0].ids[:size]), [self._turn(each, size, may_be_open) for each in finished]

    def _finished(self, prompt: Messages, answer: str, may_be_open: bool) -> _Finished:
        """Render the finished conversation and locate the answer in it."""
        for form in _FORMS:
            given = [*prompt, {"role": "assistant", "content": answer}]
            if form is not None:
                given = [mapped(each, partial(unicodedata.normalize, form)) for each in given]
            text, ids = self._encoded(given[:-1], given[-1]["content"])
            try:
                ranges = token_spans(self.tokenizer, ids, text, special=set())  # as the text shows them all
            except MaskError as error:
                reason = error
                continue
            spans, is_cut = self.tags.blocks(given[-1]["content"], may_be_open=may_be_open)
            if is_cut:
                raise RecordError(
                    "expected an answer that ends its thinking block, got one that does not", Reason.TRUNCATED
                )
            return self._located(prompt, given[-1]["content"], spans, form, text, ids, ranges)
        raise RecordError(f"expected text that the tokenizer spells back, got: {reason}", Reason.NOT_SPELLED)

    def _located(
        self,
        prompt: Messages,
        answer: str,
        spans: Sequence[tuple[int, int]],
        form: str | None,
        text: str,
        ids: list[int],
        ranges: list[tuple[int, int]],
    ) -> _Finished:
        behind = self._behind_answer([*prompt, _PROBE[1]])
        body = text.removesuffix(behind).rstrip()
        # The answer unchanged; or without its first thinking block, which the template may reformat.
        for cut in (0, *(end for _, end in spans)):
            core = answer[cut:].strip()
            if core and text.endswith(behind) and body.endswith(core):
                break
        else:
            raise RecordError(
                "expected a chat template that writes the answer as it is, got one that changes it: "
                f"{body[-60:]!r} for {answer[-60:]!r}",
                Reason.TEMPLATE_CHANGES_ANSWER,
            )
        start, stop = len(body) - len(core), len(body)
        first = next(i for i, (_, end) in enumerate(ranges) if end > start)
        behind_it = [i for i, (at, _) in enumerate(ranges) if at >= stop]
        end = next((i for i in behind_it if ids[i] in self.ends), None)
        if end is None:  # the template writes none
            end = behind_it[0] if behind_it else len(ids)
            ids = [*ids[:end], *([] if self.end_of_turn is None else [self.end_of_turn])]
            last = ranges[end - 1][1]
        else:
            ids, last = ids[: end + 1], ranges[end][0]
        shift = start - (len(answer.rstrip()) - len(core))
        return _Finished(text[:last], ids, ranges, first, start, shift, form)

    def _turn(self, finished: _Finished, size: int, may_be_open: bool) -> Turn:
        """The turn after the first `size` ids."""
        at = finished.ranges[size][0]
        text, token_ids = finished.text[at:], tuple(finished.ids[size:])
        try:
            ranges = token_spans(self.tokenizer, token_ids, text, special={token_ids[-1]})
        except MaskError as error:
            raise RecordError(
                f"expected text that the tokenizer spells back, got: {error}", Reason.NOT_SPELLED
            ) from None
        lead = max(finished.start - at, 0)
        spans, _ = self.tags.blocks(text[lead:], is_open=finished.start < at, may_be_open=may_be_open)
        spans = [(lead + start, lead + end) for start, end in spans]
        if lead:
            spans = [(0, spans[0][1]), *spans[1:]] if spans and spans[0][0] == lead else [(0, lead), *spans]
        blocks = [thinking.block_of(span, ranges[:-1]) for span in spans]
        return Turn(token_ids, text, tuple(blocks), finished.shift - at, finished.form)

    def _behind_answer(self, conversation: Messages, following: Messages = ()) -> str:
        """Text that the template writes after the conversation's last answer, that of `_PROBE`."""
        text = self.rendered([*conversation, *following], is_finished=True)
        _, found, behind = text.rpartition(_PROBE[1]["content"])
        if not found:
            raise RecordError(
                "expected a chat template that writes the assistant's answer, got none of it",
                Reason.TEMPLATE_CHANGES_ANSWER,
            )
        return behind

    def rendered(self, conversation: Messages, is_finished: bool = False) -> str:
        """Render a conversation as text, with the generation prompt unless it is finished.

        Raises RecordError when the template refuses it, ModelError when there is no template.
        """
        tokenizer = self.tokenizer
        if not tokenizer.chat_template:
            name = tokenizer.name_or_path or type(tokenizer).__name__
            raise ModelError(f"{name}: expected a chat template, got none; use a model tuned for chat")
        try:
            text: str = tokenizer.apply_chat_template(
                [dict(message) for message in conversation],
                add_generation_prompt=not is_finished,
                tokenize=False,
                **{**self.options, "strftime_now": self.now.strftime},
            )
        except Exception as error:  # a template is a program, which can fail in any way
            reason = one_line(f"{type(error).__name__}: {error}")
            raise RecordError(
                f"expected messages that the model's chat template takes, got {reason}", Reason.NOT_RENDERED
            ) from error
        return text

    def _encoded(self, prompt: Messages, answer: str | None) -> tuple[str, list[int]]:
        """(text, token ids) of the prompt, with the generation prompt or as a conversation that `answer` finishes.

        The text of a special token in the messages is plain text to the policy: it can't end a turn.
        """
        turns = list(prompt) if answer is None else [*prompt, {"role": "assistant", "content": answer}]
        text = self.rendered(turns, answer is not None)
        marked = self._words.marked(turns, text, num_answers=0 if answer is None else 1)
        if marked is None:
            return text, self._ids(text)
        return text, self._words.ids(self.rendered(marked.conversation, answer is not None), text, marked)

    def _ids(self, text: str) -> list[int]:
        return as_is(self.tokenizer, text)

    @cached_property
    def _words(self) -> PlainText:
        return PlainText(self.tokenizer, self.ends, {tag for pair in self.tags.pairs for tag in pair})


@dataclass(frozen=True)
class _Finished:
    """A finished conversation."""

    text: str
    """Text up to the end of turn."""
    ids: list[int]
    """Token ids, end of turn included."""
    ranges: list[tuple[int, int]]
    first: int
    """Index of the id that holds the answer's first character."""
    start: int
    """Span in `text` of the answer as kept by the template."""
    shift: int
    """`Turn.shift` with respect to this text."""
    form: str | None
    """Unicode form of `text`."""


def of(config: Config, tokenizer: Any) -> Chat:
    """The chat of the config's policy; `tokenizer` comes from `folder.load`."""
    listed = _listed(Path(config.model.model_name_or_path) / "generation_config.json")
    tags = thinking.tags(config.rollout.thinking, config.model)
    return Chat(tokenizer, config.model.chat_template_kwargs or {}, listed, tags, clock(config))


def clock(config: Config) -> datetime:
    """Date and time for chat templates: when the config's run began, so that its prompts stay the same on resume;
    before it begins, now.
    """
    return fingerprint.rendered_at(Path(config.run.dir) / config.run.name) or datetime.now()


def _listed(file: Path) -> tuple[int, ...]:
    """`eos_token_id` of a generation_config.json that `folder.load` has validated."""
    if not file.is_file():
        return ()
    given = json.loads(file.read_bytes()).get("eos_token_id")
    return tuple(token for token in (given if isinstance(given, list) else [given]) if isinstance(token, int))
