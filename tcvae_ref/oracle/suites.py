"""The oracle inside somebody's own test suite."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest

from tcvae_ref.checks import option
from tcvae_ref.oracle import checking
from tcvae_ref.oracle.lookup import shown_name
from tcvae_ref.oracle.properties import PROPERTIES
from tcvae_ref.oracle.report import summary, text
from tcvae_ref.oracle.types import FAILURES, CheckResult, Report

RESULTS: list[CheckResult] = []
"""Of every check that was run by the functions below; the pytest plugin sums them up at the end."""


def summary_of_results() -> str:
    """How many checks and cases there were, in one line."""
    return summary(Report("", "", "", "", tuple(RESULTS)))


def check_values(target: str | Callable[..., Any], **options: Any) -> Report:
    """Hold the values of a target to the truth; AssertionError with the evidence where they are off.

    Parameters
    ----------
    target : str or callable
    **options
        Of `tcvae_ref.oracle.check`.

    Returns
    -------
    Report

    Raises
    ------
    AssertionError
        The verdict is a failure; its message is the report.
    """
    return _passed(target, ("values",), options)


def check_gradients(target: str | Callable[..., Any], **options: Any) -> Report:
    """Hold the gradients of a target to the truth; see `check_values`."""
    return _passed(target, ("gradients",), options)


def check_properties(target: str | Callable[..., Any], **options: Any) -> Report:
    """Hold a target to every property that applies to it; see `check_values`."""
    return _passed(target, tuple(PROPERTIES), options)


def _passed(target: str | Callable[..., Any], names: Sequence[str], options: Mapping[str, Any]) -> Report:
    report = checking.check(target, **options, checks=names)
    RESULTS.extend(report.results)
    if report.verdict in FAILURES:
        raise AssertionError(text(report))
    return report


def parametrize_with_checks(
    targets: Sequence[str | Callable[..., Any]],
    *,
    expected_failed_checks: Mapping[str, str] | None = None,
    **options: Any,
) -> Callable[[Callable[..., None]], Any]:
    """A test for each target and check: decorate a function of one argument, `check`, that calls it.

        @parametrize_with_checks([my_loss], estimator="mws")
        def test_my_loss(check):
            check()

    A check that does not apply to a target is skipped with the reason, one that certifies nothing as well.

    Parameters
    ----------
    targets : sequence of str or callable
        As `check` takes them.
    expected_failed_checks : mapping of str to str, optional
        Check -> reason; these must fail (a strict xfail).
    **options
        Of `check`; `checks` restricts what is run.

    Returns
    -------
    decorator
        `pytest.mark.parametrize` of the argument `check`.
    """
    chosen = tuple(options.pop("checks", None) or checking.CHECKS)
    expected = dict(expected_failed_checks or {})
    for name in (*chosen, *expected):
        option("parametrize_with_checks", "checks", name, checking.CHECKS)
    parameters = [
        pytest.param(_Check(target, name, options), id=f"{shown_name(target)}-{name}", marks=_marks(expected, name))
        for target in targets
        for name in chosen
    ]
    return pytest.mark.parametrize("check", parameters)


def _marks(expected: Mapping[str, str], name: str) -> list[Any]:
    return [pytest.mark.xfail(reason=expected[name], raises=AssertionError, strict=True)] if name in expected else []


class _Check:
    """One check of one target, called without arguments."""

    def __init__(self, target: str | Callable[..., Any], name: str, options: Mapping[str, Any]):
        self.target, self.name, self.options = target, name, options

    def __call__(self) -> None:
        __tracebackhide__ = True
        report = _passed(self.target, (self.name,), self.options)
        if not report.results:
            pytest.skip("; ".join(f"{check}: {reason}" for check, reason in report.not_run))
        if report.exit_status == 3:
            pytest.skip("; ".join(result.message for result in report.results) or "nothing was certified")

    def __repr__(self) -> str:
        return f"{self.name} of {shown_name(self.target)}"
