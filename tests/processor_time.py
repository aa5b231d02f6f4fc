"""Processor time, which tests can bound while other processes run."""

from __future__ import annotations

import resource


def processor_seconds() -> float:
    """Processor time of ended child processes, seconds."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
