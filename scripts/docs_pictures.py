#!/usr/bin/env python3
"""The pictures of docs/how-it-works.md: a pair's token weights, and the prefix tree of its question.

PYTHONPATH=. python scripts/docs_pictures.py writes docs/pictures/*.svg. Needs the bundled model's tokenizer.

Four answers of the quickstart's policy go the way that answers of a run go: labelled by `facts`, paired and weighed
under configs/recipes/mask_dpo.yaml, merged into one tree. What is drawn is what comes out. Colours are names that a
page may set; without a page they follow the reader's system.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import Any

from maskdpo_ray.annotation import protocol
from maskdpo_ray.config import cli
from maskdpo_ray.config.schema import Config
from maskdpo_ray.data import questions
from maskdpo_ray.models import chat, folder
from maskdpo_ray.pairing.examples import example_of, usable_pairs
from maskdpo_ray.records import CORRECT, Labelled, PreferencePair, Rollout, ScoredAnswer, TrainingExample
from maskdpo_ray.training import prefix_tree

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "docs" / "pictures"
QUESTION = "countries/chad"
ANSWERS = (
    "The capital of Chad is Bongo. Chad is in Africa. The official language of Chad is Arabic. One neighbour of Chad "
    "is Cameroon.",
    "The capital of Chad is Boutem. Chad is in Africa. The official language of Chad is French. One neighbour of Chad "
    "is Mali.",
    "The capital of Chad is Bama. Chad is in Africa. One neighbour of Chad is Sudan.",
    "The capital of Chad is Boutem. Chad is in Africa. The official language of Chad is French. One neighbour of Chad "
    "is Cameroon.",
)
"""Sampled in the quickstart's second iteration."""
CHAR, LINE, HIGH = 7.25, 26, 38
"""Width of a character, height of a line of tokens and of a row of the tree, pixels."""
LIGHT = (
    "--paper:#ffffff;--ink:#1f2328;--faint:#59636e;--line:#c8ced5;--good:#116329;--good-paper:#d2f4d9;--bad:#a40e26;"
    "--bad-paper:#ffdedb;--none-paper:#eef0f2;--shared-paper:#d5e8f7"
)
DARK = (
    "--paper:#1e2129;--ink:#e6edf3;--faint:#a3adb8;--line:#4a525c;--good:#7ee2a0;--good-paper:#12452a;--bad:#ffaaa3;"
    "--bad-paper:#642023;--none-paper:#2b3038;--shared-paper:#173d5c"
)

STYLE = (
    "text{font:12px ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace;white-space:pre}",
    ".words{font-family:system-ui,-apple-system,'Segoe UI',Roboto,'DejaVu Sans',sans-serif}",
    ".strong{font-weight:600}",
    ".ink{fill:var(--ink)}",
    ".faint{fill:var(--faint)}",
    "text.good{fill:var(--good)}",
    "text.bad{fill:var(--bad)}",
    "rect.good{fill:var(--good-paper);stroke:var(--good)}",
    "rect.bad{fill:var(--bad-paper);stroke:var(--bad)}",
    "rect.none{fill:var(--none-paper);stroke:var(--line);stroke-dasharray:3 2}",
    "rect.shared{fill:var(--shared-paper);stroke:var(--line)}",
    "rect.plain{fill:var(--none-paper);stroke:var(--line)}",
    ".paper{fill:var(--paper)}",
    ".edge{fill:none;stroke:var(--faint);stroke-width:1.5}",
    ".mark{stroke:var(--good);stroke-width:2.5}",
)
"""Rules of a picture's own, which don't reach the page that it becomes part of."""


Pairs = list[tuple[PreferencePair, TrainingExample]]


def paired(config: Config, tokenizer: Any) -> Pairs:
    """The answers' pairs, with their training examples, under a config."""
    question = next(each for each in questions.load(config.data.train) if each.id == QUESTION)
    talk = chat.of(config, tokenizer)
    rollouts = tuple(
        Rollout(question.id, sample, tuple(talk.answer_ids(text, True)), text, "stop", 1)
        for sample, text in enumerate(ANSWERS)
    )
    annotator = protocol.build(config.annotation.annotator, config.annotation.options)
    annotator.start()
    labels = tuple(annotator.annotate([(question, rollout) for rollout in rollouts]))
    item = Labelled(question, tuple(talk.prompt_ids(question)), rollouts, labels)
    pairs, _ = usable_pairs(item, config, tokenizer)
    return [(pair, example_of(pair, number, config, tokenizer)) for number, pair in enumerate(pairs)]


def masks(pairs: Pairs, tokenizer: Any) -> str:
    """A pair's two answers, token by token: what is raised, what is lowered, what has weight 0."""
    pair, example = pairs[0]
    parts, y = list[str](), 8
    for (role, answer), response in zip(pair.sides().items(), example.responses, strict=True):
        good = role == "chosen"
        y += 20
        parts.append(text(12, y, f"{role}: score {score(answer)}", "ink strong"))
        verb = "raised" if good else "lowered"
        parts.append(text(272, y, f"weight 1: {verb}; weight 0: read, not learned from", "faint"))
        y += 10
        for sentence, words in by_sentence(tokenizer, answer, response):
            right = sentence.label in CORRECT if sentence else None
            mark = {True: "✓", False: "✗", None: ""}[right]
            parts.append(text(12, y + 17, mark, "good strong" if right else "bad strong"))
            x = 34.0
            for word, weight in words:
                parts.append(token(x, y, word, ("good" if good else "bad") if weight else "none"))
                x += width(word) + 2
            note = sentence.label if sentence else "end of the answer"
            parts.append(text(max(x + 14, 470), y + 17, note, "faint"))
            y += LINE + 2
        y += 8
    return svg(parts, 660, y + 4)


def by_sentence(tokenizer: Any, answer: ScoredAnswer, response: Any) -> list[tuple[Any, list[tuple[str, float]]]]:
    """[(sentence or None, [(token's text, weight)])] of an answer; None: tokens behind the last sentence."""
    ids, rollout = response.token_ids, answer.rollout
    rows: list[tuple[Any, list[tuple[str, float]]]] = [(each, []) for each in answer.annotation.sentences]
    spans = chat.token_spans(tokenizer, ids, rollout.text)
    pieces = shown(tokenizer, ids)
    for (_, end), piece, weight in zip(spans, pieces, response.weights, strict=True):
        at = next((row for row in rows if row[0] is not None and end <= row[0].end and piece != "<|im_end|>"), None)
        if at is None:
            at = rows[-1] if rows[-1][0] is None else (rows.append((None, [])), rows[-1])[1]
        at[1].append((piece, weight))
    return rows


def tree(pairs: Pairs, tokenizer: Any) -> str:
    """The prefix tree of two pairs: every box is computed once."""
    given = without_answers_in_common(pairs)
    responses = [response for example in given for response in example.responses]
    built = prefix_tree.build(
        [example.prompt_token_ids for example in given for _ in example.responses],
        [response.token_ids for response in responses],
        [response.weights for response in responses],
    )
    num_prompt, parents = len(given[0].prompt_token_ids), parents_of(built)
    pieces, weighted = shown(tokenizer, built.token_ids.tolist()), set(built.nodes.tolist())
    shared = built.owners == prefix_tree.SHARED
    box, row_of, ends = 92.0, {num_prompt - 1: 0}, {num_prompt - 1: 104.0}
    parts = [f'<rect class="shared" x="12" y="40" width="{box:.0f}" height="{LINE - 4}" rx="4"/>']
    parts.append(text(20, 55, f"{num_prompt} tokens", "ink"))
    node, last_row = num_prompt, 0
    while node < len(pieces):
        parent, first = parents[node], node
        is_branch = parents.count(parent) > 1
        if parent != node - 1:
            last_row += 1
        row_of[node] = row = last_row if parent != node - 1 else row_of[parent]
        while (  # tokens that belong together are one box
            node + 1 < len(pieces)
            and parents[node + 1] == node
            and parents.count(node) == 1
            and shared[node + 1] == shared[first]
            and (node + 1 in weighted) == (first in weighted)
        ):
            node += 1
        words = "".join(pieces[first : node + 1])
        start = ends[parent] + (24 if is_branch or parent < num_prompt else 3)
        if is_branch or parent < num_prompt:
            parts.append(edge(ends[parent], row_of[parent], row))
        kind = "shared" if shared[first] else "plain"
        parts.append(token(start, 40 + row * HIGH, words, kind, first in weighted))
        row_of[node], ends[node] = row, start + width(words)
        node += 1
    each = sum(length for example in given for length in example.input_lengths(cut_tails=False))
    said = f"{len(responses)} answers to one question: {each} tokens one by one, {len(pieces)} as a tree"
    parts += [text(12, 24, "the prompt", "faint"), text(128, 24, said, "ink strong")]
    return svg(parts, int(max(ends.values())) + 14, 46 + (last_row + 1) * HIGH)


def edge(x: float, row: int, to: int) -> str:
    """A line from the end of a box to a box that continues it."""
    y = 40 + LINE / 2 - 2 + row * HIGH
    return f'<path class="edge" d="M{x:.1f} {y:.0f}h12v{(to - row) * HIGH}h12"/>'


def parents_of(built: prefix_tree.PrefixTree) -> list[int]:
    """The node before each node, -1 of the root: the tree is in preorder, so a path is a stack."""
    path, parents = list[int](), list[int]()
    for node, depth in enumerate(built.depths.tolist()):
        del path[depth:]
        parents.append(path[-1] if path else -1)
        path.append(node)
    return parents


def score(answer: ScoredAnswer) -> str:
    """An answer's score as a fraction of its sentences."""
    labels = [sentence.label in CORRECT for sentence in answer.annotation.sentences]
    return f"{sum(labels)} of {len(labels)} sentences right"


def shown(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """The text of each token; of characters that several tokens spell together the first has all."""
    pieces, done, start = list[str](), "", 0
    for end in range(1, len(ids) + 1):
        whole = tokenizer.decode(list(ids[start:end]))
        ends_amid = whole.endswith("�")
        pieces.append("" if ends_amid else whole[len(done) :])
        if not ends_amid:
            start, done = end, ""
    return [piece or "·" for piece in pieces]


def width(word: str) -> float:
    """Width of a token's box, pixels."""
    return len(word.strip()) * CHAR + 8.0


def token(x: float, y: float, word: str, kind: str, is_marked: bool = False) -> str:
    """A token as a box; weight 0 has a dashed edge, so that no colour is needed to tell."""
    size = width(word)
    box = f'<rect class="{kind}" x="{x:.1f}" y="{y}" width="{size:.1f}" height="{LINE - 4}" rx="4"/>'
    if is_marked:
        box += f'<path class="mark" d="M{x + 3:.1f} {y + LINE - 2}h{size - 6:.1f}"/>'
    inner = size - 8
    return (
        f'{box}<text class="{"faint" if kind == "none" else "ink"}" x="{x + 4:.1f}" y="{y + 15}" '
        f'textLength="{inner:.1f}">{escape(word.strip())}</text>'
    )


def text(x: float, y: float, words: str, kind: str) -> str:
    """A line of words."""
    return f'<text class="{kind} words" x="{x:.1f}" y="{y}">{escape(words)}</text>'


def svg(parts: Sequence[str], wide: int, high: int) -> str:
    """A whole picture. Its colours are variables: those of the page around it win over its own."""
    own = " ".join(f".picture-colours {rule}" for rule in STYLE)
    style = f".picture-colours{{{LIGHT}}} @media(prefers-color-scheme:dark){{.picture-colours{{{DARK}}}}} {own}"
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="picture-colours" viewBox="0 0 {wide} {high}" width="{wide}" '
        f'height="{high}">\n<style>{style}</style>\n<rect class="paper" width="{wide}" height="{high}" rx="8"/>\n'
        f"{body}\n</svg>\n"
    )


def without_answers_in_common(pairs: Pairs) -> list[TrainingExample]:
    """The first two pairs of four different answers."""
    for number, (first, one) in enumerate(pairs):
        for second, other in pairs[number + 1 :]:
            samples = [side.rollout.sample for pair in (first, second) for side in pair.sides().values()]
            if len(set(samples)) == len(samples):
                return [one, other]
    raise ValueError("expected two pairs of four answers")


def pictures() -> dict[str, str]:
    """Name of a file of docs/pictures -> its SVG."""
    config = cli.read(ROOT / "configs" / "recipes" / "mask_dpo.yaml")
    config = replace(
        config, model=replace(config.model, model_name_or_path=str(ROOT / config.model.model_name_or_path))
    )
    tokenizer = folder.load_tokenizer(config.model)
    all_pairs = replace(config, pairs=replace(config.pairs, strategy="all_pairs"))
    return {
        "masks.svg": masks(paired(config, tokenizer), tokenizer),
        "prefix-tree.svg": tree(paired(all_pairs, tokenizer), tokenizer),
    }


def main() -> None:
    """Write the pictures."""
    FOLDER.mkdir(exist_ok=True)
    for name, picture in pictures().items():
        (FOLDER / name).write_text(picture, encoding="utf-8")
        print(f"docs/pictures/{name}: {len(picture):,} bytes")


if __name__ == "__main__":
    main()
