"""Thinking blocks of answers: locating them, and removing them for annotators and evaluators.

A block is the reasoning that a policy writes before its answer, `<think>...</think>` in most models. It has no
sentences and weight 0, is not judged, and doesn't count in the answer's length. If the generation prompt opens the
block, the answer holds only its end; behind any other prompt a closing tag alone is text. An answer that never closes
its block counts as cut off.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from msgspec.structs import replace

from maskdpo_ray.config.schema import ModelConfig
from maskdpo_ray.errors import MaskError
from maskdpo_ray.models.token_spans import special_ids, token_spans
from maskdpo_ray.records import Annotation, Block, Rollout


class TagPair(NamedTuple):
    """The tags that open and close a thinking block."""

    open: str
    close: str


KNOWN = (
    *(TagPair(f"<{name}>", f"</{name}>") for name in ("think", "thinking", "thought", "reasoning", "seed:think")),
    TagPair("[THINK]", "[/THINK]"),
    TagPair("◁think▷", "◁/think▷"),
    TagPair("<|begin_of_thought|>", "<|end_of_thought|>"),
    TagPair("<|START_THINKING|>", "<|END_THINKING|>"),
    TagPair("<|channel|>analysis<|message|>", "<|channel|>final<|message|>"),
)
"""Tags of current models: DeepSeek-R1 and Qwen3, Seed-OSS, Magistral, Kimi, Command A, gpt-oss."""
Pair = tuple[str, str]
"""The tags that open and close a block."""
_CLOSING = re.compile(r"([<\[◁]\|?)/([\w.:-]*(?:think|thought|reason)[\w.:-]*)(\|?[>\]▷])", re.IGNORECASE)
_DESCRIBE = ("chat_template.jinja", "chat_template.json", "tokenizer_config.json", "added_tokens.json")
_ADDED = re.compile(r'"content":\s*"([^"\s]*(?:think|thought|reason)[^"\s]*)"', re.IGNORECASE)


@dataclass(frozen=True)
class Tags:
    """The tags of a policy's blocks; without any, all its output is the answer."""

    pairs: tuple[Pair, ...] = KNOWN

    def opened_by(self, prompt: str) -> bool:
        """Whether a prompt ends in an open block."""
        return prompt.rstrip().endswith(tuple(opening for opening, _ in self.pairs))

    def blocks(
        self, text: str, is_open: bool = False, hidden: Iterable[tuple[int, bool]] = (), may_be_open: bool = False
    ) -> tuple[list[tuple[int, int]], bool]:
        """((start, end) of each block in characters of `text`, trailing white space included; whether the last one
        never ends).

        A block opens at the start of the text or of a line; a tag elsewhere, or one on a later line that is never
        closed, is ordinary text, as is a closing tag behind a prompt that opens no block.

        Args:
            is_open: the prompt ends within a block.
            hidden: (offset, whether it opens) of tags that are special tokens, which the text leaves out.
            may_be_open: the generation prompt opens a block, which an answer that was not sampled may go on with: it
                does if its first tag is a closing one at the start or the end of a line.
        """
        found: list[tuple[int, int]] = []
        begun = 0 if is_open else None
        for start, end, opens in sorted([*((at, at, opens) for at, opens in hidden), *self._shown(text)]):
            if opens:
                since = text[found[-1][1] if found else 0 : start]
                if begun is None and (start == end or _is_blank(since.rpartition("\n")[2])):
                    begun = start
                continue
            if may_be_open and begun is None and not found and (start == end or _ends_line(text, start, end)):
                begun = 0
            if begun is not None:
                end += len(text[end:]) - len(text[end:].lstrip())
                found.append((begun, end))
                begun = None
        is_cut = begun is not None and (is_open or _is_blank(text[found[-1][1] if found else 0 : begun]))
        if begun is not None and is_cut and begun < len(text):
            found.append((begun, len(text)))
        return found, is_cut

    def _shown(self, text: str) -> Iterator[tuple[int, int, bool]]:
        for pair in self.pairs:
            for tag, opens in zip(pair, (True, False), strict=True):
                for match in re.finditer(re.escape(tag), text) if tag in text else ():
                    yield match.start(), match.end(), opens

    def closed_in(self, text: str) -> bool:
        """Whether a closing tag occurs in `text`."""
        return any(closing in text for _, closing in self.pairs)

    def noted(
        self, rollout: Rollout, is_open: bool = False, tokenizer: Any = None, may_be_open: bool = False
    ) -> Rollout:
        """The answer with its blocks; cut off if the last one never ends. One that has blocks already is unchanged.

        Args:
            is_open: its prompt ends within a block.
            tokenizer: tokenizer of its token ids, to count those of a block; None: the count is 0.
            may_be_open: as in `blocks`.
        """
        if rollout.blocks or not self.pairs:
            return rollout
        named = {} if tokenizer is None else self._hidden(rollout, tokenizer)
        if not (named or is_open or any(tag in rollout.text for pair in self.pairs for tag in pair)):
            return rollout
        ranges: Sequence[tuple[int, int]] = ()
        if tokenizer is not None and rollout.token_ids:
            stopped = rollout.finish_reason == "stop"
            with suppress(MaskError):  # its tokens can't be located, so it makes no pair (`not_located`)
                ranges = token_spans(tokenizer, rollout.token_ids, rollout.text, stopped=stopped)
        places = zip(rollout.token_ids, ranges, strict=False)
        hidden = [(start, named[token]) for token, (start, _) in places if token in named]
        spans, is_cut = self.blocks(rollout.text, is_open, hidden, may_be_open)
        blocks = tuple(block_of(span, ranges) for span in spans)
        return replace(rollout, blocks=blocks, finish_reason="length" if is_cut else rollout.finish_reason)

    def _hidden(self, rollout: Rollout, tokenizer: Any) -> dict[int, bool]:
        """Token id -> whether it opens a block, for tags that are special tokens and so not in the answer's text."""
        special = special_ids(tokenizer, rollout.token_ids)
        if not special or not hasattr(tokenizer, "convert_ids_to_tokens"):
            return {}
        names = {token: tokenizer.convert_ids_to_tokens(token) for token in special}
        opening, closing = ({pair[side] for pair in self.pairs} for side in (0, 1))
        if any(name in rollout.text for name in opening | closing):
            return {}
        return {token: name in opening for token, name in names.items() if name in opening | closing}


def tags(option: str | dict[str, str], model: ModelConfig) -> Tags:
    """Tags by `rollout.thinking`; for `auto` those in the model's files and the template file, and the known ones. A
    missing folder adds none.
    """
    if option == "keep":
        return Tags(())
    if isinstance(option, dict):
        return Tags(((option["open"], option["close"]),))
    folder = Path(model.model_name_or_path)
    files = [*([Path(model.chat_template)] if model.chat_template else []), *(folder / name for name in _DESCRIBE)]
    texts = [file.read_text(encoding="utf-8", errors="replace") for file in files if os.path.isfile(file)]
    if os.path.isfile(folder / "tokenizer.json"):
        written = (folder / "tokenizer.json").read_text(encoding="utf-8", errors="replace")
        texts.append("\n".join(_ADDED.findall(written)))
    named = "\n".join(texts)
    found = {
        (f"{before}{name}{behind}", f"{before}/{name}{behind}") for before, name, behind in _CLOSING.findall(named)
    }
    return Tags((*KNOWN, *sorted(pair for pair in found.difference(KNOWN) if pair[0] in named)))


@dataclass(frozen=True)
class WithoutBlocks:
    """An answer as judges see it: `rollout` is `whole` with the blocks left out of its text."""

    whole: Rollout
    rollout: Rollout

    @classmethod
    def of(cls, whole: Rollout) -> WithoutBlocks:
        """The judged answer; its token ids are still those of the whole answer."""
        text = "".join(whole.text[start:end] for start, end in _kept(whole))
        return cls(whole, replace(whole, text=text, blocks=()) if whole.blocks else whole)

    def restored(self, annotation: Annotation) -> Annotation:
        """Labels of `rollout` as labels of `whole`, without those of its blocks."""
        if self.rollout is self.whole:
            return outside(self.whole, annotation)
        places = [place for start, end in _kept(self.whole) for place in range(start, end)]
        sentences = tuple(
            replace(sentence, start=places[sentence.start], end=places[sentence.end - 1] + 1)
            for sentence in annotation.sentences
        )
        return replace(annotation, sentences=sentences)


def judged(rollouts: Sequence[Rollout], judge: object) -> list[WithoutBlocks]:
    """Answers for `judge`: without blocks, unless its attribute `judges_thinking` is true."""
    if getattr(judge, "judges_thinking", False):
        return [WithoutBlocks(rollout, rollout) for rollout in rollouts]
    return [WithoutBlocks.of(rollout) for rollout in rollouts]


def block_of(span: tuple[int, int], ranges: Sequence[tuple[int, int]]) -> Block:
    """The block of these characters; `ranges`: character ranges of the answer's token ids."""
    inside = [i for i, (start, end) in enumerate(ranges) if span[0] <= start and end <= span[1]]
    return Block(*span, inside[0] if inside else 0, len(inside))


def own_ids(rollout: Rollout) -> list[int]:
    """Token ids of an answer without its blocks."""
    ids = list(rollout.token_ids)
    for block in reversed(rollout.blocks):
        del ids[block.first : block.first + block.tokens]
    return ids


def outside(rollout: Rollout, annotation: Annotation) -> Annotation:
    """The labels outside of blocks; labels inside of one are discarded, whatever their source."""
    sentences = tuple(
        sentence
        for sentence in annotation.sentences
        if not any(block.start <= sentence.start and sentence.end <= block.end for block in rollout.blocks)
    )
    return replace(annotation, sentences=sentences) if rollout.blocks else annotation


def _kept(rollout: Rollout) -> list[tuple[int, int]]:
    starts = [0, *(block.end for block in rollout.blocks)]
    ends = [*(block.start for block in rollout.blocks), len(rollout.text)]
    return list(zip(starts, ends, strict=True))


def _is_blank(text: str) -> bool:
    return not text.strip()


def _ends_line(text: str, start: int, end: int) -> bool:
    return _is_blank(text[:start].rpartition("\n")[2]) or _is_blank(text[end:].partition("\n")[0])
