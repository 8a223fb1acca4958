"""One profile for property-based tests, no extensions but a test's own, and PyTorch's functions settled first."""

import os
import sys

import pytest
from hypothesis import settings

from tcvae_ref import extensions

# No time limit on a noisy machine, the same cases in every automatic run.
settings.register_profile("default", deadline=None, print_blob=True)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "default")

FOUND, ENVIRONMENT = extensions._found, set(sys.path)


def _own(kind):
    """Entries of packages that a test installs: what is installed in this environment would change what is printed."""
    entries = FOUND(kind)
    return [entry for entry in entries if not (entry.dist and str(entry.dist.locate_file("")) in ENVIRONMENT)]


extensions._found = _own


def pytest_collection_finish():
    """Call each elementwise function of PyTorch once, on one number, so on one thread.

    The MKL in PyTorch's wheels chooses a function's kernel at its first call, and when two threads make that call
    together one of them may get a kernel of low accuracy, for its share of that one call: a square root off by
    3e-11 (https://github.com/pytorch/pytorch/issues/188792).
    """
    torch = sys.modules.get("torch")
    if torch is not None:
        for dtype in (torch.float32, torch.float64):
            for name in ("sqrt", "exp", "expm1", "log", "log1p", "tanh", "sin", "cos", "erf", "lgamma"):
                getattr(torch, name)(torch.ones(1, dtype=dtype))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport():
    """What a test printed may be no text, such as the name of a file; between processes of pytest-xdist it must be."""
    report = yield
    report.sections = [(title, text.encode(errors="backslashreplace").decode()) for title, text in report.sections]
    return report
