"""Where the reports of a command go."""

import argparse
import itertools
import json
import os
from pathlib import Path
from typing import Any

from tcvae_ref.checks import InputError
from tcvae_ref.files import atomic_write, check_folder, check_writable, write_json
from tcvae_ref.oracle import records

STANDARD_OUTPUT = Path("-")
PACKED_HELP = "a parameter that holds mu and the width in a last axis; 'NAME:(mu,W)' for a tuple of the two"
CASES_HELP = f"where failing cases are kept ({records.FOLDER})"


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


def put_json(place: Path | None, content: Any) -> None:
    """The report for programs: printed, written, or neither."""
    if place == STANDARD_OUTPUT:
        print(json.dumps(content, indent=2, allow_nan=False))
    elif place is not None:
        write_json(place, content)


def put_page(place: Path, page: str) -> None:
    """The report as a page."""
    with atomic_write(place) as file:
        file.write(page.encode(errors="xmlcharrefreplace"))  # a path may be no text
