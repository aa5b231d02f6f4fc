#!/usr/bin/env python3
"""Compare `maskdpo_ray.annotation.sentences` with maintained splitters on texts whose sentences are marked by hand.

    PYTHONPATH=. python benchmarks/sentences.py

Prints F1 of exact spans for each kind of text, and characters per second. A span counts if both its ends match
the marked ones, outer white space ignored; a span with neither letter nor digit (a closing mark, `---`) is joined to
the one before it, for every splitter. Most splitters are made for prose and do not end a sentence at a new line, so
each is also run line by line.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from maskdpo_ray import records
from maskdpo_ray.annotation import sentences

MARKED = Path(__file__).parents[1] / "tests/fixtures/sentences.jsonl"
PEERS = ("pysbd", "sentencex", "blingfire", "spacy")
PARTS = {"open": "read while the rules were developed", "held_back": "written after the rules were finished"}
ROUNDS = 5

Span = tuple[int, int]
Splitter = Callable[[str, str], list[Span]]


def pysbd_splitter() -> Splitter:
    """pysbd's rules for each language, without its rewriting of the text."""
    import pysbd

    by_language = {each: pysbd.Segmenter(language=each, clean=False) for each in records.LANGUAGES}
    return lambda text, language: located(text, by_language[language].segment(text))


def sentencex_splitter() -> Splitter:
    """Wikimedia's sentencex."""
    import sentencex

    return lambda text, language: located(text, sentencex.segment(language, text))


def blingfire_splitter() -> Splitter:
    """blingfire's one model for all languages."""
    import blingfire

    return lambda text, language: list(blingfire.text_to_sentences_and_offsets(text)[1])


def spacy_splitter() -> Splitter:
    """spaCy's rule-based sentencizer over its tokens."""
    import spacy

    by_language = {each: spacy.blank(each) for each in records.LANGUAGES}
    for pipeline in by_language.values():
        pipeline.add_pipe("sentencizer")
    return lambda text, language: [(each.start_char, each.end_char) for each in by_language[language](text).sents]


def located(text: str, pieces: Iterable[str]) -> list[Span]:
    """Spans of the pieces in the text, in order; pieces that the splitter rewrote are left out."""
    spans, position = [], 0
    for piece in pieces:
        start = text.find(piece.strip(), position)
        if piece.strip() and start >= 0:
            position = start + len(piece.strip())
            spans.append((start, position))
    return spans


def by_line(splitter: Splitter) -> Splitter:
    """The same splitter, applied line by line."""

    def split(text: str, language: str) -> list[Span]:
        spans, position = [], 0
        for line in text.splitlines(keepends=True):
            if line.strip():
                spans += [(position + start, position + end) for start, end in splitter(line, language)]
            position += len(line)
        return spans

    return split


def comparable(text: str, spans: Iterable[Span]) -> set[Span]:
    """Spans without outer white space; wordless ones are joined to the one before."""
    found: list[Span] = []
    for start, end in spans:
        piece = text[start:end]
        start, end = start + len(piece) - len(piece.lstrip()), end - len(piece) + len(piece.rstrip())
        if start >= end:
            continue
        if found and not any(character.isalnum() for character in piece):
            found[-1] = (found[-1][0], end)
        else:
            found.append((start, end))
    return set(found)


def f1(rows: Iterable[dict], splitter: Splitter) -> float:
    """F1: 2 * matches / (spans found + spans marked) over all texts."""
    right = all_spans = 0
    for row in rows:
        text = row["text"]
        marked = comparable(text, located(text, row["sentences"]))
        found = comparable(text, splitter(text, row["language"]))
        right += len(marked & found)
        all_spans += len(marked) + len(found)
    return 2 * right / all_spans


def speed(rows: list[dict], splitter: Splitter) -> float:
    """Characters per second of processor time, the best of a few rounds."""
    times = []
    for _ in range(ROUNDS):
        start = time.process_time()
        for row in rows:
            splitter(row["text"], row["language"])
        times.append(time.process_time() - start)
    return sum(len(row["text"]) for row in rows) / min(times)


def main() -> None:
    """Print one table for each part of the marked texts, then the speeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--marked", type=Path, default=MARKED, help="JSONL of part, kind, language, text, sentences")
    options = parser.parse_args()
    rows = [json.loads(line) for line in options.marked.read_text(encoding="utf-8").splitlines()]
    splitters: dict[str, Splitter] = {"maskdpo_ray": sentences.split}
    missing = [name for name in PEERS if importlib.util.find_spec(name) is None]
    for name in PEERS:
        if name not in missing:
            splitters[name] = globals()[f"{name}_splitter"]()
            splitters[f"{name}, by line"] = by_line(splitters[name])
    if missing:
        print(f"not installed, so not measured: pip install {' '.join(missing)}", file=sys.stderr)

    for part, written in PARTS.items():
        of_part = [row for row in rows if row["part"] == part]
        kinds = {kind: [row for row in of_part if row["kind"] == kind] for kind in {row["kind"]: 0 for row in of_part}}
        counts = [f"{kind} ({sum(len(row['sentences']) for row in kinds[kind])})" for kind in kinds]
        print(f"\n{part}: {written}\n\n| F1 of exact spans | {' | '.join(counts)} | all |")
        print("|---|" + "--:|" * (len(kinds) + 1))
        for name, splitter in splitters.items():
            figures = [f1(of_kind, splitter) for of_kind in (*kinds.values(), of_part)]
            print(f"| {name} | " + " | ".join(f"{figure:.3f}" for figure in figures) + " |")
    print("\n| | million characters a second |\n|---|--:|")
    for name, splitter in splitters.items():
        if "by line" not in name:
            print(f"| {name} | {speed(rows, splitter) / 1e6:.2f} |")


if __name__ == "__main__":
    main()
