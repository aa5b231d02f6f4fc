"""The console script: `maskdpo COMMAND ...` is `python -m maskdpo_ray.COMMAND ...`.

maskdpo run --config configs/quickstart.yaml
"""

from __future__ import annotations

import ast
import difflib
import signal
import sys
from importlib import import_module
from pathlib import Path

COMMANDS = (
    "run annotate pairs train evaluate experiment analyze export report watch plan check_annotator check_objective "
    "build_questions anah_templates".split()
)
"""In the order of the loop; each is a module of this package with a `main(argv)`."""


def main() -> None:
    """Start the command that the process's first argument names; exits with code 2 when there is none of that name."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until `cli.start`: Ctrl-C amid imports is no traceback
    name, *rest = sys.argv[1:] or [""]
    if name in ("-h", "--help"):
        print(usage())
    elif name in COMMANDS:
        from maskdpo_ray.config import cli

        command = import_module(module_of(name))
        cli.start(command.main, rest, resumes=getattr(command, "RESUMES", True))
    else:
        close = difflib.get_close_matches(name.replace("-", "_"), COMMANDS, n=1)
        hint = f"; did you mean {close[0]}?" if close else f"; known: {', '.join(COMMANDS)}"
        print(f"error: expected a command, got {repr(name) if name else 'nothing'}{hint} (see --help)", file=sys.stderr)
        raise SystemExit(2)


def module_of(name: str) -> str:
    """Module of a command; of one that has the name of a room, that room's `__main__`."""
    return f"maskdpo_ray.{name}" + ".__main__" * (_source(name).name == "__main__.py")


def usage() -> str:
    """The commands, each with the first line of its docstring, which is read without importing it."""
    lines = ["usage: maskdpo COMMAND ...", "", "commands (maskdpo COMMAND --help says more):"]
    for name in COMMANDS:
        doc = ast.get_docstring(ast.parse(_source(name).read_text(encoding="utf-8")))
        summary = str(doc).partition("\n\n")[0]
        lines.append(f"  {name:<16} {' '.join(summary.split())}")
    return "\n".join(lines)


def _source(name: str) -> Path:
    """File of a command: a module, or the `__main__` of a room that has its name."""
    room = Path(__file__).parent / name / "__main__.py"
    return room if room.is_file() else Path(__file__).with_name(f"{name}.py")


if __name__ == "__main__":
    main()
