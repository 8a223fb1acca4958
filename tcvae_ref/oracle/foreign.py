"""Somebody else's objects in words: what they answer is theirs, and asking may itself raise."""

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tcvae_ref.checks import InputError

_LONGEST = 400
"""Characters of somebody else's message."""
_OURS = str(Path(__file__).parent.parent)


def said(write: Callable[[Any], str], value: Any) -> str:
    """`str` or `repr` of an object, in one line; where that raises, or gives no text, its type."""
    try:
        return " ".join(str.__str__(write(value)).split())
    except (Exception, SystemExit):
        return f"<{type(value).__name__} without a text>"


def attribute(value: Any, name: str, default: Any = None) -> Any:
    """An attribute of an object, the default where it has none or asking raises."""
    try:
        return getattr(value, name, default)
    except (Exception, SystemExit):
        return default


def in_words(error: BaseException) -> str:
    """An exception's type and message, a long one not whole."""
    text = said(str, error)
    text = text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ..."
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


@contextmanager
def looked_at(where: str) -> Iterator[None]:
    """Look at an object; what is raised beyond this package meanwhile, such as by its properties, is an InputError.

    Raises
    ------
    InputError
        In place of what was raised.
    """
    try:
        yield
    except InputError:
        raise
    except (Exception, SystemExit) as error:
        raised = traceback.extract_tb(error.__traceback__)[-1]
        if raised.filename.startswith(_OURS):
            raise
        raise InputError(
            f"{where}: raised {in_words(error)} at {raised.filename}:{raised.lineno} when it was looked at, before any "
            "call; give a function whose attributes can be read"
        ) from error
