"""Each analysis as a table with the paper's figures beside ours, and as a picture where the paper has one."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from maskdpo_ray.evaluation.analyses.affinity import Affinity
from maskdpo_ray.evaluation.analyses.answer_perplexity import AnswerPerplexity
from maskdpo_ray.evaluation.analyses.best_of import BestOf
from maskdpo_ray.evaluation.analyses.mutual_knn import MutualKnn
from maskdpo_ray.evaluation.analyses.token_shift import TokenShift
from maskdpo_ray.evaluation.analyses.topic_neighbours import TopicNeighbours
from maskdpo_ray.evaluation.intervals import Change
from maskdpo_ray.evaluation.judged_metrics import perplexity as nats_to_perplexity
from maskdpo_ray.records import Question, encode_line
from maskdpo_ray.report import plots
from maskdpo_ray.report.analyses.finding import Finding
from maskdpo_ray.report.tables import number

_BEST_OF = {"1": (47.79, 70.67), "16": (73.38, 89.80), "32": (76.30, 90.53), "64": (76.93, 92.81)} | {
    "128": (79.42, 93.47),
    "256": (80.98, 94.09),
}
"""Mask-DPO table 6: N -> score of Llama3.1-8B-Instruct before and after, in percent."""
_AFFINITY = {"chosen": "-1.97", "rejected": "+4.09"}
"""Mask-DPO appendix C.1."""


def affinity(found: Affinity) -> Finding:
    """Changes of the distances of entities from their topic (Mask-DPO, appendix C.1)."""
    rows, points = [], {}
    for kind, change in found.changes.items():
        for side, each in (("chosen", change.chosen), ("rejected", change.rejected)):
            rows.append([kind, side, *_change(each, ".4f"), _AFFINITY[side]])
            points[f"{side}, {kind}"] = (each.gain or 0.0, each.low, each.high)
        apart = _ends(change.apart_low, change.apart_high, "+.4f")
        rows.append([kind, "rejected less chosen", "", "", f"{change.apart:+.4f} {apart}", "+6.06"])
    text = (
        "Mean distance of entities from their topic in the policy's own embeddings, before training and by policy "
        f"{found.after} of {found.run}: {found.chosen_entities} names in the chosen and {found.rejected_entities} in "
        f"the rejected responses of {found.pairs} preference pairs ({found.topics} topics). Intervals: 95%, paired "
        f"bootstrap over topics ({found.bootstrap_samples} resamples)."
    )
    verdicts = [_affinity_verdict(kind, each.chosen, each.rejected) for kind, each in found.changes.items()]
    headings = ["vectors", "response", "before", "after", "change", "change in the paper"]
    title = "Affinity of topics and entities (Mask-DPO, appendix C.1)"
    plot = plots.intervals("Change of the distance from the topic", points, "change of the distance")
    return Finding("affinity", title, [text, " ".join(verdicts)], headings, rows, found, plot)


def _affinity_verdict(kind: str, chosen: Change, rejected: Change) -> str:
    signs = [(each.gain or 0.0) > 0 for each in (chosen, rejected)]
    agrees = {(False, True): "as in the paper", (True, False): "the opposite of the paper"}
    moved = " and ".join(
        f"entities of {side} responses {'moved away' if sign else 'came nearer'}"
        + ("" if _excludes_0(each) else " (the interval contains 0)")
        for side, sign, each in (("chosen", signs[0], chosen), ("rejected", signs[1], rejected))
    )
    return f"By {kind}, {moved}: {agrees.get((signs[0], signs[1]), 'not as in the paper')}."


def token_shift(found: TokenShift) -> Finding:
    """Shares of shifted tokens by domain and position (APEFT, figure 3)."""
    rows = [
        [
            name,
            each.log,
            str(each.answers),
            str(each.tokens),
            f"{each.first:.1%}",
            *(_share(each.levels[level].share, each.levels[level].low, each.levels[level].high) for level in _LEVELS),
        ]
        for name, each in found.splits.items()
    ]
    text = (
        f"Tokens in answers of policy {found.after} of {found.run} whose rank under the start is lower than under the "
        "policy: marginal by 1 or 2 places, shifted by more. Intervals: 95%, bootstrap over topics "
        f"({found.bootstrap_samples} resamples)."
    )
    shares = {name: each.levels["any"].share for name, each in found.splits.items()}
    said = "The paper has nearly three times as many in its own domain (Bio) as in the other one (FAVA)."
    if len(shares) == 2:
        inside, outside = shares.values()
        times = f"{inside / outside:.2f} times as many" if outside else "some, and none in the other"
        said += f" Here the domain that was trained on has {times}."
    panels = {
        f"{name}: {found.splits[name].tokens} tokens": {
            "marginal": [part.marginal for part in each.by_position],
            "shifted": [part.shifted for part in each.by_position],
        }
        for name, each in found.splits.items()
    }
    plot = plots.columns("Token shift", panels, "relative position in the sentence", "share of the tokens")
    headings = ["questions", "answers", "number", "tokens", "the policy's first", "marginal", "shifted", "any"]
    return Finding("token_shift", "Token shift (APEFT, figure 3)", [text, said], headings, rows, found, plot)


_LEVELS = ("marginal", "shifted", "any")


def mutual_knn(found: MutualKnn) -> Finding:
    """Alignment with another model before and after training (SMA, appendix E)."""
    rows = [
        [name, str(each.prompts), number(each.by_chance, ".3f"), *_change(each.alignment, ".3f")]
        for name, each in found.splits.items()
    ]
    text = (
        f"Share of a prompt's {found.k} nearest neighbours that the policy and {found.reference} agree on, before "
        f"training and by policy {found.after} of {found.run}. Intervals: 95%, paired bootstrap over topics "
        f"({found.bootstrap_samples} resamples), neighbours being what they are. The paper finds more agreement with a "
        "stronger model after DPO."
    )
    points = {
        name: (each.alignment.gain or 0.0, each.alignment.low, each.alignment.high)
        for name, each in found.splits.items()
    }
    plot = plots.intervals("Change of the alignment", points, f"change of the alignment with {found.reference}")
    headings = ["prompts", "number", "by chance", "before", "after", "change"]
    title = "Mutual nearest neighbours (SMA, figure 4 and appendix E)"
    return Finding(
        "mutual_knn",
        title,
        [text, _direction(next(iter(found.splits.values())).alignment)],
        headings,
        rows,
        found,
        plot,
    )


def _direction(alignment: Change) -> str:
    word = "more" if (alignment.gain or 0.0) > 0 else "no more"
    unsure = "" if _excludes_0(alignment) else "; the interval contains 0"
    return f"On the held-out prompts they agree {word} after training{unsure}."


def topic_neighbours(found: TopicNeighbours, train: Sequence[Question], held_out: Sequence[Question]) -> Finding:
    """The near and the far group by each embedding (Mask-DPO, tables 5 and 12), and files of them.

    Args:
        train: the questions that were divided.
        held_out: those that gave the centres.
    """
    rows, texts = [], {}
    for index, each in enumerate(found.halves):
        distances = [number(value, ".3f", "-") for value in (each.near_distance, each.far_distance)]
        agreement = [f"{value:.0%}" for value in found.agreement[index]]
        clusters = "-" if each.clusters is None else str(each.clusters)
        rows.append([each.embedding, str(len(each.near)), str(len(each.far)), clusters, *distances, *agreement])
        for group, items in (("near", each.near), ("far", each.far)):
            name = f"{found.by}s-{each.embedding}-{group}"
            if found.by == "topic":
                texts[f"{name}.txt"] = "".join(f"{item}\n" for item in items)
            else:
                own = set(items)
                texts[f"{name}.jsonl"] = _lines(question for question in train if question.id in own)
    what = f"{found.by}s"
    text = (
        f"Training {what} of {found.source}, divided by their Euclidean distance from the nearest of {found.held_out} "
        f"held-out ones, half of each cluster in either group. Columns with an embedding's name: share of the {what} "
        "that its division puts into the group of the same name; by chance a half."
    )
    use = "`topics-EMBEDDING-near.txt` and `-far.txt` have a topic a line: `data.topics` trains on them alone."
    if found.by != "topic":
        texts["questions-heldout.jsonl"] = _lines(held_out)
        use = (
            "`questions-EMBEDDING-near.jsonl` and `-far.jsonl` hold the groups' questions, for `data.train`, with "
            "`data.eval: questions-heldout.jsonl`."
        )
    headings = ["embedding", "near", "far", "clusters", "mean distance near", "far"]
    headings += [each.embedding for each in found.halves]
    title = f"Near and far {what} (Mask-DPO, table {5 if found.by == 'topic' else 12})"
    return Finding(f"{found.by}_neighbours", title, [text, use], headings, rows, found, texts=texts)


def _lines(questions: Iterable[Question]) -> str:
    return "".join(encode_line(question).decode() for question in questions)


def perplexity(found: AnswerPerplexity) -> Finding:
    """Perplexity of answers before and after training (Mask-DPO, appendix C.2)."""
    change = found.nats_per_token
    sides = [number(None if each is None else nats_to_perplexity(each), ".2f", "-") for each in _sides(change)]
    nats = [number(each, ".3f", "-") for each in _sides(change)]
    gain = f"{number(change.gain, '+.3f', '-')} {_ends(change.low, change.high, '+.3f')}"
    rows = [["perplexity", *sides, "", "44.20 → 34.91"], ["nats per token", *nats, gain, ""]]
    text = (
        f"Perplexity under {found.reference} of the answers ({found.log}) to {found.answers} questions, before "
        f"training and of policy {found.after} of {found.run}. Interval: 95%, paired bootstrap over {found.topics} "
        f"topics ({found.bootstrap_samples} resamples). The paper's is under GPT-2: lower after training, so "
        "the language is no worse."
    )
    headings = [f"under {found.reference}", "before", "after", "change", "paper"]
    return Finding("perplexity", "Perplexity of answers (Mask-DPO, appendix C.2)", [text], headings, rows, found)


def _sides(change: Change) -> tuple[float | None, float | None]:
    return change.before, change.after


def best_of(found: BestOf) -> Finding:
    """Best of N before and after training (Mask-DPO, table 6)."""
    rows = []
    for name, each in found.best.items():
        theirs = _BEST_OF.get(name)
        paper = "" if theirs is None else f"{theirs[0]:.2f} → {theirs[1]:.2f} ({theirs[1] - theirs[0]:+.2f})"
        rows.append([name, *_change(each, ".3f"), paper])
    text = (
        f"Expected best score of N of {found.samples} answers to each of {found.questions} held-out questions "
        f"({found.topics} topics), of the start and of policy {found.after} of {found.run}. Intervals: 95%, paired "
        f"bootstrap over topics ({found.bootstrap_samples} resamples)."
    )
    first, last = list(found.best.values())[0], list(found.best.values())[-1]
    said = (
        f"The gain is {_signed(first.gain)} with one answer and {_signed(last.gain)} with the best of {found.samples}. "
        "The paper's gain stays as N grows; it would vanish if training only made likely what was there before."
    )
    log = [math.log2(int(name)) for name in found.best]
    lines = [
        plots.Curve("before", log, [each.before for each in found.best.values()]),
        plots.Curve("after", log, [each.after for each in found.best.values()]),
    ]
    plot = plots.curves("Best of N", lines, "log2 of N", whole_x=True)
    headings = ["N", "before", "after", "gain", "paper, percent"]
    return Finding("best_of", "Best of N (Mask-DPO, table 6)", [text, said], headings, rows, found, plot)


def _signed(value: float | None) -> str:
    return number(value, "+.3f", "-")


def _change(change: Change, form: str) -> list[str]:
    gain = f"{number(change.gain, f'+{form}', '-')} {_ends(change.low, change.high, f'+{form}')}"
    return [number(change.before, form, "-"), number(change.after, form, "-"), gain]


def _share(share: float, low: float | None, high: float | None) -> str:
    return f"{share:.1%} {_ends(low, high, '.1%')}"


def _ends(low: float | None, high: float | None, form: str) -> str:
    return "" if low is None or high is None else f"[{low:{form}}, {high:{form}}]"


def _excludes_0(change: Change) -> bool:
    return change.low is not None and change.high is not None and (change.low > 0 or change.high < 0)
