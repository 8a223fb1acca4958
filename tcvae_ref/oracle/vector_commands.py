"""The test vectors on the command line: vectors write, vectors verify."""

import argparse
import sys

from tcvae_ref.arguments import path_argument
from tcvae_ref.progress import Progress

EPILOG = "exit status: 0 done, all as certified; 1 a number is not as certified; 2 wrong usage, or a file is unreadable"


def add_vectors(parser: argparse.ArgumentParser) -> None:
    """Mount write and verify."""
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    writing = commands.add_parser("write", help="compute the vectors and write them", epilog=EPILOG)
    writing.set_defaults(run=_write)
    writing.add_argument("--out", type=path_argument, required=True, metavar="FOLDER", help="made if it is not there")
    verifying = commands.add_parser("verify", help="compute the vectors again and compare", epilog=EPILOG)
    verifying.set_defaults(run=_verify)
    verifying.add_argument(
        "folder", type=path_argument, nargs="?", metavar="FOLDER", help="of the files (the package's own)"
    )


def _write(arguments: argparse.Namespace) -> int:
    from tcvae_ref.oracle import vectors

    with Progress("computing vectors") as progress:
        paths = vectors.write(arguments.out, progress)
    print("\n".join(f"vectors: {path}" for path in paths))
    return 0


def _verify(arguments: argparse.Namespace) -> int:
    from tcvae_ref.oracle import vectors

    try:
        with Progress("verifying vectors") as progress:
            counted = vectors.verify(arguments.folder, progress)
    except vectors.Mismatch as mismatch:
        print(f"tcvae-ref: {mismatch}", file=sys.stderr)
        return 1
    print(f"{counted.cases} cases, {counted.numbers:,} numbers: all as certified")
    return 0
