"""Time that tests may bound while others run beside them."""

from __future__ import annotations

import resource


def processor_seconds() -> float:
    """What ended children have used: on a machine without other work the time that they took."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
