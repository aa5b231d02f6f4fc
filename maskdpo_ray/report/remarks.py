"""What the figures of a run say, in words: above all, whether a higher score comes from saying less."""

from __future__ import annotations

from typing import Any


def remarks(evaluations: dict[str, list[dict[str, Any]]]) -> list[str]:
    """Sentences about the last policy of each set of questions (entries as in summary.json)."""
    found = []
    for split, versions in evaluations.items():
        last = versions[-1]
        if last["gain"] is None:
            continue
        found += [f"{split}, after {last['version']}: {remark}" for remark in _about(versions[0], last)]
    return found


def _about(first: dict[str, Any], last: dict[str, Any]) -> list[str]:
    gain = last["gain"]
    score, sentences = gain["score"], gain["sentences"]
    found = []
    if score["gain"] is None:
        return ["no answer could be scored on one of the two sides"]
    direction = "rose" if score["gain"] > 0 else "fell" if score["gain"] < 0 else "did not change"
    found.append(f"the score {direction}: {_arrow(score, 3)}" + _noise(score))
    if score["gain"] > 0 and sentences["gain"] < 0:
        found.append(
            f"IT SAYS LESS while the score rose: sentences {_arrow(sentences)}{_noise(sentences)}, "
            f"correct facts {_arrow(gain['correct_facts'])}{_noise(gain['correct_facts'])}, "
            f"incorrect facts {_arrow(gain['incorrect_facts'])}{_noise(gain['incorrect_facts'])}"
        )
    elif _is_fall(gain["correct_facts"]):
        found.append(f"fewer correct facts: {_arrow(gain['correct_facts'])}")
    left_out = _left_out(first["kinds"], last["kinds"])
    if score["gain"] > 0 and left_out:
        found.append(f"stated less often: {left_out}")
    for metric, words in {
        "nothing_checkable": "more answers say nothing checkable",
        "cut_off": "more answers are cut off at the length limit",
        "unparsed": "more sentences could not be read by the annotator",
    }.items():
        if gain[metric]["low"] is not None and gain[metric]["low"] > 0:
            found.append(f"{words}: {_arrow(gain[metric], 3)} per answer")
    return found


def _is_fall(change: dict[str, Any]) -> bool:
    return change["high"] is not None and change["high"] < 0


def _left_out(before: dict[str, Any], after: dict[str, Any]) -> str:
    """The kinds of fact that one answer in twenty or more no longer states, the largest fall first."""

    def stated(kinds: dict[str, Any], kind: str) -> float:
        return kinds[kind]["correct"] + kinds[kind]["incorrect"] if kind in kinds else 0.0

    falls = sorted((stated(after, kind) - stated(before, kind), kind) for kind in before)
    return ", ".join(
        f"{kind} ({stated(before, kind):.2f} -> {stated(after, kind):.2f})" for fall, kind in falls if fall <= -0.05
    )


def _arrow(change: dict[str, Any], digits: int = 2) -> str:
    return f"{change['before']:.{digits}f} -> {change['after']:.{digits}f}"


def _noise(change: dict[str, Any]) -> str:
    low, high = change["low"], change["high"]
    return " (within noise: the 95% interval holds 0)" if low is not None and low <= 0 <= high else ""
