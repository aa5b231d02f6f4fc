"""Watch a run in the terminal, from its files alone: what it does, how far it is, how it learns, what fails.

python -m maskdpo_ray.watch runs/quickstart
"""

from __future__ import annotations

import io
import os
import select
import signal
import sys
import termios
import time
import tty
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from maskdpo_ray.config import cli
from maskdpo_ray.errors import RunFolderError, line
from maskdpo_ray.report.progress import Progress, ProgressReader
from maskdpo_ray.report.view import view

RESUMES = False
"""It changes nothing that a second call could resume from."""
_HELP = "q leaves; the run is not touched"


def main(argv: list[str]) -> None:
    """Show the run until q or Ctrl-C, or once. Raises UserError for what is no run folder."""
    given = _parser().parse_args(argv)
    reader = ProgressReader(given.run_folder)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # answers may hold what a terminal that is no UTF-8 can't show
    progress = reader.read()
    if not given.once and sys.stdin.isatty() and sys.stdout.isatty():
        progress = _live(reader, progress, given.interval)
    console = Console(highlight=False)
    console.print(view(progress, console.encoding))


def _parser() -> cli.Parser:
    parser = cli.Parser("watch", __doc__, "RUN_FOLDER [--interval SECONDS] [--once]")
    parser.add_argument(
        "run_folder", metavar="RUN_FOLDER", help="folder of a run that is there already; another machine may write it"
    )
    parser.add_argument(
        "--interval", metavar="SECONDS", type=cli.above_0, default=2.0, help="time between two looks [default: 2]"
    )
    parser.add_argument(
        "--once", action="store_true", help="print one view and end, which is what happens without a terminal too"
    )
    return parser


def _live(reader: ProgressReader, progress: Progress, interval: float) -> Progress:
    """Show the run on a screen of its own until somebody leaves; returns what was shown last."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # leaving is an ordinary end, without a word
    words = _HELP
    try:
        with _keys(), Live(screen=True, auto_refresh=False, vertical_overflow="crop") as live:
            while True:
                screen = Group(view(progress, live.console.encoding), Text(), Text(words, "dim"))
                live.update(screen, refresh=True)
                if _is_left(interval):
                    break
                try:
                    progress, words = reader.read(), _HELP
                except RunFolderError as error:  # a file system that is away for a while
                    words = line(error)
    except KeyboardInterrupt:
        pass
    return progress


@contextmanager
def _keys() -> Iterator[None]:
    """Inside, keys arrive one by one and are not shown; Ctrl-C stays a signal."""
    before = termios.tcgetattr(sys.stdin)
    tty.setcbreak(sys.stdin)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def _is_left(seconds: float) -> bool:
    """Wait for so long; True at once when somebody presses q or the terminal is closed."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        if select.select([sys.stdin], [], [], left)[0] and os.read(sys.stdin.fileno(), 1) in (b"q", b"Q", b""):
            return True
    return False


if __name__ == "__main__":
    cli.start(main, resumes=RESUMES)
