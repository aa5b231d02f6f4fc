"""Remarks on the figures of a run, in words: above all on what a higher score hides."""

from __future__ import annotations

from typing import Any

from maskdpo_ray.evaluation.judged_metrics import perplexity

_WATCHED = {
    "recall": (-1, "FEWER OF THE FACTS THAT WERE ASKED FOR are stated correctly"),
    "correct_facts": (-1, "FEWER CORRECT FACTS"),
    "contradictory": (1, "more contradictory facts"),
    "incorrect_facts": (1, "more incorrect facts"),
    "sentences": (-1, "fewer sentences"),
    "nothing_checkable": (1, "more answers say nothing checkable"),
    "abstained": (1, "more answers abstain"),
    "distinct_2": (-1, "answers repeat themselves more (different pairs of tokens / pairs)"),
    "cut_off": (1, "more answers are cut off at the length limit"),
    "unparsed": (1, "more sentences could not be read by the annotator"),
}
"""Metric -> (the direction that is worth a remark, the remark)."""


def remarks(evaluations: dict[str, list[dict[str, Any]]], kept: dict[str, Any] | None = None) -> list[str]:
    """Remarks on each set of questions (entries as in summary.json), about the policy of `in_focus`."""
    found: list[str] = []
    for split, versions in evaluations.items():
        last = in_focus(versions, kept)
        about = [] if last["gain"] is None else _about(versions[0], last)
        found += [f"{split}, {last['name']}: {remark}" for remark in [*about, *_unread(last)]]
        found += [f"{split}, {each['name']}: {_left_out(each)}" for each in versions if each["left_out"]]
    return found


def in_focus(versions: list[dict[str, Any]], kept: dict[str, Any] | None) -> dict[str, Any]:
    """The policy that tables and remarks compare with the first: the kept one, or the last where that is the first."""
    version = 0 if kept is None else kept["version"]
    return next((entry for entry in versions[1:] if entry["version"] == version), versions[-1])


def _left_out(version: dict[str, Any]) -> str:
    """The topics on which a policy was not evaluated."""
    topics = list(version["left_out"])
    return (
        f"{len(topics)} topics are LEFT OUT of its figures and of gains over it or of it, "
        f"as a question of theirs failed, such as {topics[0]!r}: {version['left_out'][topics[0]]}"
    )


def _unread(last: dict[str, Any]) -> list[str]:
    """Shares of unparsed labels and of unparsed verdicts, each with an example."""
    found = []
    if last["unparsed_example"] is not None:
        share = _mean(last, "unparsed") / _mean(last, "sentences")
        found.append(f"{share:.1%} of the sentences are unparsed, such as {last['unparsed_example']}")
    judged = last.get("judged", {})
    if judged.get("unparsed_example") is not None:
        facts = ("correct_facts", "incorrect_facts", "irrelevant", "unparsed")
        share = _mean(judged, "unparsed") / sum(_mean(judged, name) for name in facts)
        who = f"the second evaluator, {judged['evaluator']},"
        found.append(f"{share:.1%} of the facts of {who} are unparsed, such as {judged['unparsed_example']}")
    return found


def _mean(of: dict[str, Any], metric: str) -> float:
    """Per answer."""
    return of["metrics"][metric]["mean"]


def _about(first: dict[str, Any], last: dict[str, Any]) -> list[str]:
    score = last["gain"]["score"]
    if score["gain"] is None:
        return ["no answer could be scored on one of the two sides"]
    direction = "rose" if score["gain"] > 0 else "fell" if score["gain"] < 0 else "did not change"
    noise = "" if _moved(score) else " (within noise: the 95% interval holds 0)"
    found = [f"the score {direction}: {_arrow(score)}{noise}"]
    for metric, (worth_a_remark, words) in _WATCHED.items():
        change = last["gain"][metric]
        if _moved(change) == worth_a_remark:
            found.append(f"{words}: {_arrow(change)}{' per answer' * (metric != 'recall')}")
    if rarer := _rarer(first["kinds"], last["kinds"]):
        found.append(f"stated less often: {rarer}")
    judged = last.get("judged", {})
    if judged.get("evaluator") is not None:
        found += _second_opinion(score, judged)
    if judged.get("perplexity_model") is not None:
        found += _language(judged)
    return found


def _second_opinion(score: dict[str, Any], judged: dict[str, Any]) -> list[str]:
    """Whether the second evaluator's score moved as the annotator's did, and still does with its length penalty."""
    who = f"the second evaluator, {judged['evaluator']},"
    change, penalized = judged["gain"]["score"], judged["gain"]["penalized_score"]
    if change["gain"] is None:
        return [f"{who} could score no answer on one of the two sides"]
    moved = _moved(change)
    verb = {moved: "agrees", -moved: "DISAGREES"}.get(_moved(score), "alone sees a change")
    direction = "rose" if moved > 0 else "fell"
    if moved:
        found = [f"{who} {verb}: its score {direction}: {_arrow(change)}"]
    else:
        found = [f"{who} sees no change beyond noise: {_arrow(change)}"]
    if _moved(penalized) < 0 <= moved:
        found.append(f"{who} says that ANSWERS STATE TOO LITTLE for it: with length penalty {_arrow(penalized)}")
    return found


def _language(judged: dict[str, Any]) -> list[str]:
    """Whether the answers became less probable to a second language model, and whether it could read as many."""
    model, change, unread = judged["perplexity_model"], judged["gain"]["nats_per_token"], judged["gain"]["unread"]
    found = []
    if change["gain"] is None:
        found.append(f"{model} could read no answer on one of the two sides")
    elif _moved(change) > 0:
        before, after = (perplexity(change[side]) for side in ("before", "after"))
        found.append(f"ANSWERS READ LESS LIKE LANGUAGE to {model}: perplexity {before:#.4g} -> {after:#.4g}")
    if _moved(unread) > 0:
        found.append(f"more answers are too long for {model}, whose perplexity leaves them out: {_arrow(unread)}")
    return found


def _moved(change: dict[str, Any]) -> int:
    """1 or -1 when the whole 95% interval is above or below 0, else 0; 0 too where there is none."""
    if change["low"] is None:
        return 0
    return (change["low"] > 0) - (change["high"] < 0)


def _rarer(before: dict[str, Any], after: dict[str, Any]) -> str:
    """Kinds of fact that at least one answer in twenty no longer states, the largest fall first."""

    def stated(kinds: dict[str, Any], kind: str) -> float:
        return kinds[kind]["correct"] + kinds[kind]["incorrect"] if kind in kinds else 0.0

    falls = sorted((stated(after, kind) - stated(before, kind), kind) for kind in before)
    return ", ".join(
        f"{kind} ({stated(before, kind):.2f} -> {stated(after, kind):.2f})" for fall, kind in falls if fall <= -0.05
    )


def _arrow(change: dict[str, Any]) -> str:
    return f"{change['before']:.3f} -> {change['after']:.3f}"
