"""How many actors had to be replaced, stage by stage."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from maskdpo_ray.stages import Annotators, Engines, Evaluators
from maskdpo_ray.tracking import Tracker


@contextmanager
def stage(
    tracker: Tracker, name: str, step: int, engines: Engines, annotators: Annotators, evaluators: Evaluators | None
) -> Iterator[None]:
    """Measure a stage, and log how many actors of each group had to be replaced in it, if any."""
    groups = {"rollout": engines, "annotation": annotators, "evaluation": evaluators}
    before = {name: group.restarts for name, group in groups.items() if group is not None}
    try:
        with tracker.stage(name, step):
            yield
    finally:
        more = {name: groups[name].restarts - count for name, count in before.items()}
        if any(more.values()):
            tracker.log({f"restarts/{name}": count for name, count in more.items()}, step)
