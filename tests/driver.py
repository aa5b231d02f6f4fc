"""The command line as a child process, and every process that it brings into being."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence, Set
from pathlib import Path

import psutil

REPOSITORY = Path(__file__).resolve().parents[1]
_PR_SET_CHILD_SUBREAPER = 36
# Longest that a whole run may take on a machine that does other things too.
RUN_TIMEOUT_S = 1200.0


def adopt_orphans() -> None:
    """From now on whoever loses its parent becomes a child of this process, so that nobody is overlooked.

    Names, process groups, sessions and environments don't serve: Ray's and vLLM's processes change them all.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def parents() -> dict[psutil.Process, int]:
    """Every living process and its parent's id.

    Not by psutil's `children`, which leaves out whom a step of the clock made look older than its parent.
    """
    table: dict[psutil.Process, int] = {}
    for process in psutil.process_iter():
        try:
            if process.status() != psutil.STATUS_ZOMBIE:
                table[process] = process.ppid()
        except psutil.NoSuchProcess:
            continue  # it ended while we looked
    return table


def families(roots: Iterable[psutil.Process]) -> set[psutil.Process]:
    """The `roots` and all living processes that came of them."""
    table = parents()
    pids = {process.pid for process in roots}
    while more := {process.pid for process, parent in table.items() if parent in pids} - pids:
        pids |= more
    return {process for process in table if process.pid in pids}


def descendants(beside: Set[psutil.Process] = frozenset()) -> set[psutil.Process]:
    """Living processes that came of this one, but for its children `beside` and all that came of those."""
    return families(child for child in psutil.Process().children() if child not in beside)


class Driver:
    """One `python -m maskdpo_ray.run`; a context manager that ends it and all that came of it."""

    def __init__(self, arguments: Sequence[str], log: Path, command: Sequence[str] = ()) -> None:
        """Start it in the repository; both outputs go to `log`.

        `command` is what the arguments are given to, by default this Python and `-m maskdpo_ray.run`.
        """
        self._before = frozenset(psutil.Process().children())
        self.log = log
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [*(command or (sys.executable, "-m", "maskdpo_ray.run")), *arguments],
                cwd=REPOSITORY,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def __enter__(self) -> Driver:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.left():
            process.kill()
        self.process.wait()

    @property
    def output(self) -> str:
        """Output so far."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    def left(self) -> list[psutil.Process]:
        """Living processes that came of it, itself included."""
        return list(descendants(self._before))

    def listening(self) -> set[tuple[str, str]]:
        """(process name, address) of every TCP socket that its processes listen on."""
        found = set()
        for process in self.left():
            try:
                for each in process.net_connections("tcp"):
                    if each.status == psutil.CONN_LISTEN:
                        found.add((process.name(), each.laddr.ip.removeprefix("::ffff:")))
            except psutil.NoSuchProcess:
                continue  # it ended while we looked
        return found

    def wait(self, timeout_s: float = RUN_TIMEOUT_S) -> int:
        """Exit code. Raises subprocess.TimeoutExpired."""
        return self.process.wait(timeout_s)

    def wait_for(self, happened: Callable[[], bool], timeout_s: float = RUN_TIMEOUT_S) -> None:
        """Return when `happened()` is true; fails when the process ends before."""
        end = time.monotonic() + timeout_s
        while not happened():
            code = self.process.poll()
            assert code is None, f"ended with {code} too early:\n{self.output}"
            assert time.monotonic() < end, f"nothing happened within {timeout_s} s:\n{self.output}"
            time.sleep(0.05)

    def stop(self, number: signal.Signals, timeout_s: float, all_at_once: bool = False) -> int:
        """Exit code after a signal. Raises subprocess.TimeoutExpired.

        SIGINT goes to its whole process group, as Ctrl-C in a terminal does, others to the driver alone or, as a job
        manager does, to all processes that came of it.
        """
        if number == signal.SIGINT:
            os.killpg(self.process.pid, number)
        elif all_at_once:
            for process in self.left():
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.send_signal(number)
        else:
            self.process.send_signal(number)
        return self.wait(timeout_s)


def family(driver: Driver, title: str) -> list[psutil.Process]:
    """Processes of the run whose title begins with `title`."""
    return titled(driver.left(), title)


def titled(processes: Iterable[psutil.Process], title: str) -> list[psutil.Process]:
    """Those whose title begins with `title`."""
    found = []
    for process in processes:
        try:
            if " ".join(process.cmdline()).startswith(title):
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found


def describe(processes: Sequence[psutil.Process]) -> list[str]:
    """Pids and command lines, for a test's message."""
    described = []
    for process in processes:
        try:
            described.append(f"{process.pid} {' '.join(process.cmdline())[:200]}")
        except psutil.NoSuchProcess:
            continue
    return described
