"""Errors of classes that actors host, in a form that reaches the driver whatever they are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from maskdpo_ray import errors
from maskdpo_ray.errors import ReplyError, UserError, described


@contextmanager
def told() -> Iterator[None]:
    """Inside, what a hosted class raises becomes an error of ours, with the file and line that it is from.

    Raises UserErrors of ours as they are; those that the user derived from one as the one; and ReplyError for all else.
    An exception that can't be pickled, or unpickled, would be lost on its way to the driver; after `sys.exit` Ray ends
    the actor and says nothing.
    """
    try:
        yield
    except UserError as error:
        if _is_ours(type(error)):
            raise
        raise next(filter(_is_ours, type(error).__mro__))(str(error)) from None
    except (Exception, SystemExit, KeyboardInterrupt) as error:
        raise ReplyError(described(error)) from None


def _is_ours(kind: type) -> bool:
    return kind.__module__ == errors.__name__
