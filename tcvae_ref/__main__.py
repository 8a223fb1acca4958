"""What `tcvae-ref` and `python -m tcvae_ref` start."""

import io
import os
import sys


def main() -> int:
    """Run the command line; return its exit status.

    The streams come first: with NumPy 2.0 some of SciPy's modules cannot be imported where they are closed.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by whoever started us
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a name the terminal cannot show is no reason to stop
    from tcvae_ref import cli

    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
