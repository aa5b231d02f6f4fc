"""How many actors had to be replaced, stage by stage."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from maskdpo_ray.stages.protocols import Annotators, Engines, Evaluators
from maskdpo_ray.store.tracking import Tracker


@contextmanager
def stage(
    tracker: Tracker, name: str, step: int, engines: Engines, annotators: Annotators, evaluators: Evaluators | None
) -> Iterator[None]:
    """Measure a stage, and log how many actors of each group had to be replaced in it, if any."""
    before = counts(engines, annotators, evaluators)
    try:
        with tracker.stage(name, step):
            yield
    finally:
        more = {group: count - before[group] for group, count in counts(engines, annotators, evaluators).items()}
        if any(more.values()):
            tracker.log({f"restarts/{group}": count for group, count in more.items()}, step)


def counts(engines: Engines, annotators: Annotators, evaluators: Evaluators | None) -> dict[str, int]:
    """How many actors of each group had to be replaced since the start."""
    groups = {"rollout": engines, "annotation": annotators, "evaluation": evaluators}
    return {name: group.restarts for name, group in groups.items() if group is not None}
