"""The oracle tells whether a beta-TCVAE loss is right, in values and gradients, in its own framework.

    from tcvae_ref.oracle import check
    print(check("my_package.losses:tc_loss"))

`README.md` in this folder says what it does and what each verdict means, `TOLERANCE.md` derives the tolerance. Names
are imported when they are used: the extra `tcvae-ref[oracle]` brings what they need. Hypothesis strategies stand in
`cases`, the proven numbers in `truth`.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tcvae_ref.oracle.checking import CHECKS, check
    from tcvae_ref.oracle.suites import check_gradients, check_properties, check_values, parametrize_with_checks
    from tcvae_ref.oracle.training_step import check_step
    from tcvae_ref.oracle.types import Case, CheckResult, Report, Verdict

_HOMES = {
    "checking": ("CHECKS", "check"),
    "suites": ("check_gradients", "check_properties", "check_values", "parametrize_with_checks"),
    "training_step": ("check_step",),
    "types": ("Case", "CheckResult", "Report", "Verdict"),
}

__all__ = [
    "CHECKS",
    "Case",
    "CheckResult",
    "Report",
    "Verdict",
    "check",
    "check_gradients",
    "check_properties",
    "check_step",
    "check_values",
    "parametrize_with_checks",
]


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"{__name__}.{home}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
