"""The cluster that the tests of this tier share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import shared_ray
from shared_ray import SharedRay


@pytest.fixture(scope="session", autouse=True)
def cluster_of_all() -> Iterator[SharedRay]:
    """Cluster that every run here joins, in this process or a child's, unless it removes RAY_ADDRESS."""
    with shared_ray.started() as cluster, pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ADDRESS", cluster.address)
        yield cluster
