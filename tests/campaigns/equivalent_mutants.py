"""Mutants that no test can or should notice, each reviewed, with the reason.

A rule names a file, a line by its whole text, and the changes on that line ("*": all); and how many mutants that are.
If it matches another number of mutants, the campaign stops: the line has changed and has to be looked at again.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple


class Rule(NamedTuple):
    """Which mutants of one line, and why no test notices them."""

    path: str
    text: str
    changes: str  # "before -> after", several apart by "; ", or "*"
    count: int
    reason: str


RULES = [
    # --- reference
    Rule("tcvae_ref/estimators.py", "top[top == -numpy.inf] = 0.0", "0.0 -> 1.0", 1, "any finite number will do"),
    Rule(
        "tcvae_ref/likelihood.py", "return numpy.where(a > 0, numpy.ones_like(e), e) / (1.0 + e)", "> -> >=", 1,
        "at 0 both sides are 1",
    ),
    Rule("tcvae_ref/likelihood.py", "result = logit * (x - (logit > 0))", "> -> >=", 1, "at 0 the factor is 0"),
    Rule(
        "tcvae_ref/checks.py",
        'if len(set(dtypes.values())) > 1 or not set(dtypes.values()) <= {"float64", "float32"}:', "<= -> <", 1,
        "a set of one dtype is never the set of both",
    ),
    Rule(
        "tcvae_ref/checks.py", "near = difflib.get_close_matches(str(value), words, n=1, cutoff=0.4)", "1 -> 2", 1,
        "the first, the nearest, is used",
    ),
    Rule(
        "tcvae_ref/convolution.py", "if window.reach <= window.step:  # squares do not overlap", "<= -> <", 1,
        "adding to zeros is assigning, only slower",
    ),
    Rule(
        "tcvae_ref/convolution.py", "return k == stride or stride * stride * C < K", "*", 5,
        "either side of the product gives the same: which is faster",
    ),
    Rule("tcvae_ref/convolution.py", "k = kernel.shape[0]", "0 -> 1", 1, "kernels are square"),
    Rule(
        "tcvae_ref/convolution.py", "neighbours = patches(blocks, Window(taps, 1, 0)) if taps > 1 else blocks",
        "> -> >=", 1, "patches of one pixel are the pixels",
    ),
    Rule("tcvae_ref/convolution.py", "taps = kernel.shape[0] // stride", "0 -> 1", 1, "kernels are square"),
    Rule(
        "tcvae_ref/convolution.py",
        "blocks = overlay(squares, Window(taps, 1, 0), *coarse) if taps > 1 else squares", "> -> >=", 1,
        "overlaying single pixels gives them back",
    ),
    Rule("tcvae_ref/training/row_blocks.py", "means = numpy.zeros(2)", "2 -> 3", 1, "a third mean that nobody reads"),
    Rule(
        "tcvae_ref/training/row_blocks.py",
        "gradients = [[numpy.zeros_like(a) for a in (z, mu, log_var)] for _ in range(2)]", "2 -> 3", 1,
        "third gradients that nobody reads",
    ),
    Rule(
        "tcvae_ref/training/gradients.py", "flowing = {loss._node: (np.ones_like(loss._value), False)}",
        "False -> True", 1, "whether autograd may add to it in place: nothing is ever added to the loss's own",
    ),
    Rule(
        "tcvae_ref/training/batches.py", "cumulative /= cumulative[-1]", "/ -> *", 1,
        "weights add up to 1 but for rounding",
    ),
]  # fmt: skip


def reasons(mutants: Iterable[Any], paths: Iterable[str]) -> dict[str, str]:
    """The reason of each excluded mutant of these files, by its key."""
    paths, found, by_line = set(paths), {}, {}
    for m in mutants:
        by_line.setdefault((m.path, m.text), []).append(m)
    for rule in RULES:
        if rule.path in paths:
            changes = rule.changes.split("; ")
            matched = [
                m for m in by_line.get((rule.path, rule.text), ())
                if rule.changes == "*" or f"{m.before} -> {m.after}".strip() in changes
            ]  # fmt: skip
            if len(matched) != rule.count:
                raise SystemExit(f"equivalent_mutants: {rule} matches {len(matched)} mutants: review it")
            found.update({m.key: rule.reason for m in matched})
    return found
