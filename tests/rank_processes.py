"""Groups of real training ranks in processes of their own.

They fork from a server that has imported torch, DeepSpeed and OpenRLHF once: a group starts in a second, not in twenty.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
import sys
from collections.abc import Callable
from typing import Any

import cloudpickle
import torch.multiprocessing


def run(main: Callable[..., None], world: int, *arguments: Any) -> None:
    """Call `main(rank, world, port, *arguments)` in `world` processes; raises when one of them fails."""
    os.environ["DS_ACCELERATOR"] = "cpu"  # read when DeepSpeed is imported, in the server
    multiprocessing.get_context("forkserver").set_forkserver_preload(["rank_imports"])
    # By value: pytest imports test modules under names that other processes don't know.
    cloudpickle.register_pickle_by_value(sys.modules[main.__module__])
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    torch.multiprocessing.start_processes(
        _rank,
        args=(cloudpickle.dumps(main), world, port, *arguments),
        nprocs=world,
        daemon=True,
        start_method="forkserver",
    )


def _rank(rank: int, main: bytes, world: int, port: int, *arguments: Any) -> None:
    cloudpickle.loads(main)(rank, world, port, *arguments)
