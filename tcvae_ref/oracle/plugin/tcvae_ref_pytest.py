"""The pytest plugin of tcvae-ref: a line that sums up what the oracle judged.

A module of its own, outside the package, so that starting pytest imports nothing but pytest: no NumPy, no framework,
and nothing before a coverage tool has started.
"""

import sys
from typing import Any

import pytest


def pytest_terminal_summary(terminalreporter: "pytest.TerminalReporter") -> None:
    """Say how many checks and cases there were, if the oracle was used at all."""
    suites: Any = sys.modules.get("tcvae_ref.oracle.suites")
    if suites is not None and suites.RESULTS:
        terminalreporter.write_sep("-", "tcvae-ref")
        terminalreporter.write_line(suites.summary_of_results())
