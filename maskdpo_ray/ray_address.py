"""Where Ray is: a cluster to join, or one that is started here."""

from __future__ import annotations

import os
import re
import socket

from maskdpo_ray.config import ClusterConfig
from maskdpo_ray.errors import ClusterError

_TIMEOUT_S = 10.0


def of(cluster: ClusterConfig) -> str | None:
    """The address of the cluster to join; None when a local one is started."""
    address = cluster.address or os.environ.get("RAY_ADDRESS")
    return None if address == "local" else address


def check(cluster: ClusterConfig) -> None:
    """Raise ClusterError when nobody answers there. Ray itself tries for minutes, and then ends the process."""
    address = of(cluster)
    if address is None or address == "auto" or "://" in address:
        return
    host, _, port = address.rpartition(":")
    where = f"cluster.address: no Ray cluster at {address!r}"
    if not (host and re.fullmatch("[0-9]{1,5}", port) and 0 < int(port) < 2**16):
        raise ClusterError(f"{where}: expected auto or host:port")
    try:
        socket.create_connection((host, int(port)), timeout=_TIMEOUT_S).close()
    except (OSError, UnicodeError) as error:  # the latter of what can be no host's name
        raise ClusterError(f"{where}: {error}") from error
