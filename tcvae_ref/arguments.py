"""The parser of the command line, and of the benchmark, which is one by itself too; arguments of several commands."""

import argparse
import difflib
import re
from pathlib import Path
from typing import NoReturn

from tcvae_ref import checks


class Parser(argparse.ArgumentParser):
    """A parser whose errors keep to one line, whatever was given."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong, with the option that may be meant in place of an unknown one, and exit with status 2."""
        unknown = re.match(r"unrecognized arguments: (--[\w-]+)", message)
        near = difflib.get_close_matches(unknown[1], self._options(), n=1, cutoff=0.7) if unknown else []
        super().error(checks.one_line(message) + (f"; did you mean {near[0]}?" if near else ""))

    def _options(self) -> list[str]:
        """The long options of this parser and of all commands below it."""
        options = [name for action in self._actions for name in action.option_strings if name.startswith("--")]
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):
                options += [name for parser in action.choices.values() for name in Parser._options(parser)]
        return options


def path_argument(text: str) -> Path:
    """Read the name of a file or folder."""
    if not text.strip():
        raise argparse.ArgumentTypeError("is empty; give a name ('.' for this folder)")
    return Path(text)


def words_argument(text: str) -> list[str]:
    """Read words with commas between them."""
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not words:
        raise argparse.ArgumentTypeError(f"{text!r} names nothing")
    return words
