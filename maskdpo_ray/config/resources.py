"""Where Ray is: a cluster to join, or one that is started here."""

from __future__ import annotations

import os
import re
import socket

from maskdpo_ray.config.schema import ClusterConfig
from maskdpo_ray.errors import ClusterError, shown

_TIMEOUT_S = 10.0


_HOST_AND_PORT = re.compile(r"(?:\[([0-9A-Fa-f:.%]+)\]|([^\s:/\[\]]+)):([0-9]{1,5})")


_NOTES = {
    "ray://": "is Ray Client's, which is not supported: start the run on a node of the cluster",
    "http://": "is the dashboard's, for `ray job`",
    "https://": "is the dashboard's, for `ray job`",
}


def of(cluster: ClusterConfig) -> str | None:
    """The address of the cluster to join, `auto` or host:port; None when a local one is started.

    Raises ClusterError for an address of any other form.
    """
    name, address = _named(cluster)
    if address in (None, "local"):
        return None
    if address != "auto":
        _host_and_port(name, address)
    return address


def check(cluster: ClusterConfig) -> None:
    """Raise ClusterError when nobody answers there. Ray itself tries for minutes, and then ends the process."""
    address = of(cluster)
    if address is None or address == "auto":
        return
    try:
        socket.create_connection(_host_and_port(_named(cluster)[0], address), timeout=_TIMEOUT_S).close()
    except (OSError, UnicodeError) as error:  # the latter of what can be no host's name
        raise ClusterError(f"{nobody(cluster)}: {error}") from error


def nobody(cluster: ClusterConfig) -> str:
    """Start of an error line: there is no cluster at the given address."""
    name, address = _named(cluster)
    return f"{name}: no Ray cluster at {address!r}"


def _named(cluster: ClusterConfig) -> tuple[str, str | None]:
    """(source, address). As in Ray itself, RAY_ADDRESS replaces none and auto, and may be empty."""
    variable = os.environ.get("RAY_ADDRESS")
    if variable and cluster.address in (None, "auto"):
        return "RAY_ADDRESS", variable
    return "cluster.address", cluster.address


def _host_and_port(name: str, address: str) -> tuple[str, int]:
    """Raise ClusterError about `name` unless the address has a supported form."""
    found = _HOST_AND_PORT.fullmatch(address)
    if found is None or not 0 < int(found[3]) < 2**16:
        note = next((f", which {why}" for start, why in _NOTES.items() if address.startswith(start)), "")
        expected = "auto, local or host:port (the port of `ray start --head`, 6379 unless told)"
        raise ClusterError(f"{name}: expected {expected}, got {shown(address)}{note}")
    return found[1] or found[2], int(found[3])
