"""What the command line sets for its own process before it imports somebody's code."""

import os
import tempfile


def prepare() -> None:
    """Let JAX compute in float64, which it has switched off, and hypothesis keep its notes where nobody sees them.

    What the user has set in the environment stays as it is.
    """
    os.environ.setdefault("JAX_ENABLE_X64", "1")
    os.environ.setdefault("HYPOTHESIS_STORAGE_DIRECTORY", os.path.join(tempfile.gettempdir(), "tcvae-ref-hypothesis"))
