"""The verdict on a run, in words and few figures: whether it worked, by how much, what got worse, what to ship."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from maskdpo_ray.report.remarks import in_focus
from maskdpo_ray.report.tables import number

Entry = dict[str, Any]
Outcome = Literal["better", "worse", "unclear", "none"]
_TILES = {
    "score": ("Factuality score", ".3f", 1),
    "recall": ("Recall of asked facts", ".3f", 1),
    "correct_facts": ("Correct facts per answer", ".2f", 1),
    "incorrect_facts": ("Incorrect facts per answer", ".2f", -1),
}
"""Metric -> (heading, format, the direction that is better)."""


@dataclass(frozen=True)
class Tile:
    """A figure before and after."""

    heading: str
    before: str
    after: str
    """Empty when there is one policy only."""
    change: str
    """Gain with its interval."""
    outcome: Outcome


@dataclass(frozen=True)
class Verdict:
    """Answer to "did it work?", as one reads it in a minute."""

    outcome: Outcome
    headline: str
    sentences: list[str]
    tiles: list[Tile]
    ship: str
    """Which policy to use, in words."""
    policy: str | None
    """Folder of that policy."""
    warnings: list[str]
    """Remarks on what a higher score hides, without those that the headline says."""


def verdict(summary: Entry) -> Verdict:
    """The verdict on a summary, as `summary.build` makes it: of the kept policy against the first one."""
    kept, versions = summary["kept"], summary["evaluations"].get("heldout") or []
    if not versions:
        return Verdict("none", "Nothing has been evaluated yet.", [], [], "There is no policy to ship yet.", None, [])
    first, last = versions[0], in_focus(versions, kept)
    if last is first:
        headline = f"Held-out score {number(first['metrics']['score']['mean'], absent='not defined')}, of one policy."
        alone = "The folder holds the evaluation of one policy: there is nothing to compare it with."
        return Verdict("none", headline, [alone], _tiles(first, None), *_shipped(None, "none"), summary["remarks"])
    tiles = [*_tiles(first, last), *_transfer_tile(summary, last["version"])]
    gain = last["gain"]["score"]
    outcome = _outcome(gain)
    headline = {
        "better": f"Answers became more factual: held-out score {_moved(gain)}",
        "worse": f"Answers became LESS factual: held-out score {_moved(gain)}",
        "unclear": f"No change beyond noise: held-out score {_moved(gain)}",
        "none": "No answer could be scored on one of the two sides",
    }[outcome]
    is_kept = kept is None or kept["version"] == last["version"]
    sentences = [*_interval(gain), *_facts(last), *_second_opinion(summary["remarks"])]
    if not is_kept:
        sentences.append(f"These figures are of policy {last['version']}, the last one: it isn't the one that is kept.")
    said = [remark for remark in summary["remarks"] if not (": the score " in remark or _after(remark) in sentences)]
    warnings = sorted(said, key=lambda remark: "stated less often:" not in remark)  # what hides best comes first
    return Verdict(outcome, f"{headline}.", sentences, tiles, *_shipped(kept, outcome), warnings)


def _outcome(change: Entry, better: int = 1) -> Outcome:
    if change["gain"] is None:
        return "none"
    if change["low"] is None or change["low"] <= 0 <= change["high"]:
        return "unclear"
    return "better" if change["gain"] * better > 0 else "worse"


def _moved(change: Entry) -> str:
    if change["gain"] is None:
        return ""
    return f"{change['before']:.3f} → {change['after']:.3f}"


def _tiles(first: Entry, last: Entry | None) -> list[Tile]:
    return [*_own_tiles(first, last), *_second_tile(first, last)]


def _own_tiles(first: Entry, last: Entry | None) -> list[Tile]:
    found = []
    for metric, (heading, form, better) in _TILES.items():
        if first["metrics"][metric]["mean"] is not None:
            found.append(_tile(heading, form, better, metric, first, last))
    return found


def _second_tile(first: Entry, last: Entry | None) -> list[Tile]:
    name = first.get("judged", {}).get("evaluator")
    if name is None:
        return []
    judged = None if last is None else last["judged"]
    return [_tile(f"Second evaluator ({name})", ".3f", 1, "score", first["judged"], judged)]


def _transfer_tile(summary: Entry, version: int) -> list[Tile]:
    versions = {each["version"]: each for each in summary["evaluations"].get("transfer", [])}
    if not {0, version} <= versions.keys():
        return []
    return [_tile("Transfer domain, score", ".3f", 1, "score", versions[0], versions[version])]


def _tile(heading: str, form: str, better: int, metric: str, first: Entry, last: Entry | None) -> Tile:
    before = number(first["metrics"][metric]["mean"], form, "-")
    if last is None:
        return Tile(heading, before, "", "", "none")
    change = last["gain"][metric]
    signed = form.replace(".", "+.", 1)
    by = number(change["gain"], signed)
    interval = "" if change["low"] is None else f" [{change['low']:{signed}}, {change['high']:{signed}}]"
    after = number(last["metrics"][metric]["mean"], form, "-")
    return Tile(heading, before, after, by + interval, _outcome(change, better))


def _interval(gain: Entry) -> list[str]:
    if gain["low"] is None:
        return []
    return [f"The gain is {gain['gain']:+.3f}, its 95% interval over topics {gain['low']:+.3f} to {gain['high']:+.3f}."]


def _facts(last: Entry) -> list[str]:
    right, wrong = last["gain"]["correct_facts"], last["gain"]["incorrect_facts"]
    if right["gain"] is None or wrong["gain"] is None:
        return []
    return [
        f"An answer states {right['after']:.2f} correct facts (before: {right['before']:.2f}) and {wrong['after']:.2f} "
        f"incorrect ones ({wrong['before']:.2f}): contradictory or unverifiable."
    ]


def _after(remark: str) -> str:
    """A remark without its split and policy, as a sentence."""
    text = remark.partition(": ")[2]
    return text[:1].upper() + text[1:] + "."


def _second_opinion(remarks: list[str]) -> list[str]:
    words = (
        " agrees: its score ",
        " DISAGREES: its score ",
        " alone sees a change: ",
        " sees no change beyond noise: ",
    )
    return [_after(each) for each in remarks if each.startswith("heldout,") and any(word in each for word in words)]


def _shipped(kept: Entry | None, outcome: Outcome) -> tuple[str, str | None]:
    """(which policy to use, its folder)."""
    if kept is None:
        return "There is no trained policy to ship yet.", None
    version, how = kept["version"], "the best on development topics" if kept["keep"] == "best" else "the last one"
    if version == 0:
        return "Ship nothing: no trained policy is better on development topics than the start.", None
    if outcome == "worse":
        return f"Don't ship policy {version}, {how}: on held-out topics it is worse than the start.", kept["policy"]
    doubt = "" if outcome == "better" else ", if at all: its gain on held-out topics isn't beyond noise"
    return f"Ship policy {version}, {how}{doubt}.", kept["policy"]
