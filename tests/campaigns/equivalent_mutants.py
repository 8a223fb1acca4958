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


RULES: list[Rule] = []


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
