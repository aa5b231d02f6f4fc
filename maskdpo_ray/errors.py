"""Errors that a user can mend: shown as one line, without a traceback, with a non-zero exit."""

import sys
import sysconfig
import traceback
import unicodedata
from collections.abc import Callable
from pathlib import Path


def shown(value: object) -> str:
    """A value as an error line quotes it: its repr, cut where it gets long."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def one_line(error: object) -> str:
    """An error of a library's or of the user's code, for an error line of ours."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else f"{text[:297]}..."


def described(error: BaseException) -> str:
    """Describe in one line an error of code that isn't ours: class, text, and the file and line that raised it."""
    text = one_line(error)
    text = type(error).__name__ if text == type(error).__name__ else f"{type(error).__name__}: {text}"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith("<")]
    theirs = [frame for frame in frames if not frame.filename.startswith(_NOT_THE_USERS)]
    for frame in (theirs or frames)[-1:]:
        text += f" ({frame.filename}:{frame.lineno})"
    return text


_ROOT = Path(__file__).resolve().parent.parent
_NOT_THE_USERS = (
    *{f"{sysconfig.get_path(name)}/" for name in ("stdlib", "purelib", "platlib")},
    f"{sys.prefix}/lib/",
    f"{_ROOT}/maskdpo_ray/",
    f"{_ROOT}/actors/",
)
"""Starts of files whose lines say little about a mistake in the user's class."""


def fault_of(attempt: Callable[[], object]) -> str | None:
    """Error of code that we don't know, as one line; None when it raises none."""
    try:
        attempt()
    except UserError as error:
        return str(error)
    except (Exception, SystemExit) as error:
        return described(error)
    return None


def printable(text: str) -> str:
    """Text that a terminal only shows: what would steer it (escapes, line ends, marks that turn the writing) is spelled
    out, as in "\\x1b[2J". Model output, question ids and what an endpoint says can hold any of it.
    """
    steers = ("Cc", "Cf", "Cs", "Zl", "Zp")
    return "".join(
        character.encode("unicode_escape").decode() if unicodedata.category(character) in steers else character
        for character in text
    )


class UserError(Exception):
    """Bad input. The message is one line: where (file, line, field), what was expected, what came."""


def line(error: UserError) -> str:
    """An error as a terminal is to show it: one line, which steers nothing and has an end."""
    text = printable(" ".join(str(error).split()))
    return text if len(text) <= 1000 else f"{text[:997]}..."


class ConfigError(UserError):
    """A config value is missing, unknown, of the wrong type, or contradicts another."""


class OptionError(ConfigError):
    """An option of a class that is not told where its options stand: the line begins with the option's own name."""


class DataError(UserError):
    """A questions, annotations or pairs file does not hold what its format asks for."""


class RecordError(DataError):
    """One unusable record of a file. Readers drop it, count it under `reason` and continue."""

    def __init__(self, message: str, reason: str) -> None:
        """`reason`: a snake_case name, as in `records.DropReason`, shown in counts and summaries."""
        super().__init__(message)
        self.reason = reason


class ModelError(UserError):
    """A model folder can't be used: missing, no chat template, no EOS, wrong vocabulary."""


class ReplyError(UserError):
    """Reply about one question that is not what was asked for. Another try may succeed: a run asks again."""


class RolloutError(ReplyError):
    """An engine's answers are not those that it was asked for."""


class AnnotatorError(ReplyError):
    """An annotator's reply is not what its protocol asks for."""


class EvaluatorError(ReplyError):
    """An evaluator's reply is not what its protocol asks for."""


class RunFolderError(UserError):
    """The run folder belongs to another config or can't be written."""


class ClusterError(UserError):
    """Ray can't be reached, has no room, or an actor failed or did not answer in time."""


class ActorLost(ClusterError):
    """An actor's process is gone; or, raised inside the actor, its engine is, and it can't continue."""


class NotFiniteError(UserError):
    """Training has come to a loss or a gradient that is NaN or infinite."""


class MaskError(ValueError):
    """Token ids do not spell the text, or a span lies outside it. Never answered by unmasking."""


class ConfidenceError(MaskError):
    """A weight is to be multiplied by the annotator's confidence, and the label has none."""


def require(holds: bool, name: str, expected: str, got: object, error: type[ConfigError] = ConfigError) -> None:
    """Raise `error`, one line, unless `holds` is true of the option `name`."""
    if not holds:
        raise error(f"{name}: expected {expected}, got {shown(got)}")
