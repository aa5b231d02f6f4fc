"""A Ray cluster that we start ourselves is for this machine only."""

from __future__ import annotations

import os

from maskdpo_ray.config import resources
from maskdpo_ray.config.schema import ClusterConfig


def prefer(cluster: ClusterConfig) -> None:
    """Let a local cluster listen to 127.0.0.1 alone. Call it before anything imports Ray."""
    if resources.of(cluster) is None:
        # With clusters off, Ray keeps the 127.0.0.1 that cluster.py gives it, and a local one listens there only. With
        # clusters on it puts the machine's outward address in its place. It reads the variable when it is imported.
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
