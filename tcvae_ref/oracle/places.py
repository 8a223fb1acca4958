"""Where the reports of a command go."""

import argparse
import itertools
import os
from pathlib import Path

from tcvae_ref.checks import InputError
from tcvae_ref.files import check_folder, check_writable
from tcvae_ref.oracle import records

STANDARD_OUTPUT = Path("-")
CASES_HELP = f"where failing cases are kept ({records.FOLDER})"


def path(text: str) -> Path:
    """A name on the command line, which is not empty."""
    if not text.strip():
        raise argparse.ArgumentTypeError("is empty; give a name")
    return Path(text)


def check_places(command: str, arguments: argparse.Namespace) -> None:
    """Refuse what could not be written, before the work."""
    given = {name: getattr(arguments, name, None) for name in ("json", "junit", "html")}
    places = {name: place for name, place in given.items() if place is not None}
    for name, place in places.items():
        if place == STANDARD_OUTPUT and name != "json":
            raise InputError(f"{command}: --{name} - is not possible; give the name of a file (--json - is)")
        if place != STANDARD_OUTPUT:
            check_writable(place)
    for one, other in itertools.combinations(places, 2):
        if os.path.realpath(places[one]) == os.path.realpath(places[other]):
            raise InputError(f"{command}: --{one} and --{other} both name {places[one]}; give two names")
    if not arguments.no_save:
        check_folder(arguments.cases)
