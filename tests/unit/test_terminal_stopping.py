"""Ctrl-C and SIGTERM end a process once, in order, wherever they meet it."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

NOTE = "stopping: what is committed is kept; the same command resumes from there\n"
CODE = """
import os, signal, sys, time
from maskdpo_ray import terminal

class Finalizer:
    def __del__(self):
        os.kill(os.getpid(), {number})
        time.sleep(0.01)

def here():
    os.kill(os.getpid(), {number})

def in_a_finalizer():
    Finalizer()  # Python drops what is raised in it

with terminal.orderly_stop():
    try:
        {where}()
        for _ in range(1000):
            time.sleep(0.01)
    finally:
        os.kill(os.getpid(), {number})  # impatience
        time.sleep(0.05)
        print("cleared up")
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("where", ["here", "in_a_finalizer"])
def test_one_orderly_end(number: signal.Signals, where: str) -> None:
    code = CODE.format(number=int(number), where=where)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (128 + number, "cleared up\n", NOTE)
