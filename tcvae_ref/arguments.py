"""The parser of the command line, and of the benchmark, which is one by itself too."""

import argparse
from typing import NoReturn

from tcvae_ref import checks


class Parser(argparse.ArgumentParser):
    """A parser whose complaints keep to one line, whatever was given."""

    def error(self, message: str) -> NoReturn:
        """Complain, and exit with status 2."""
        super().error(checks.one_line(message))
