"""Telling a waiting person how far a long call is."""

import sys
import time
from contextlib import ExitStack
from types import TracebackType
from typing import Any

from tcvae_ref.types import ProgressHook

_KNOWN = 0.05  # of the whole: before it is done, nobody knows how long the rest takes
_EVERY = {True: 2.0, False: 10.0}  # seconds between lines: on a terminal that has no rich, in a log file


class Progress:
    """A bar on a terminal (with rich), a line now and then elsewhere; on standard error. Use with `with`."""

    def __init__(self, what: str):
        self._what = what
        self._deaf = False
        self._first: tuple[float, int] | None = None
        self._every = _EVERY[sys.stderr.isatty()]
        self._next_line = time.monotonic() + self._every
        self._next_draw = 0.0
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> "Progress":
        if sys.stderr.isatty():
            try:
                from rich.console import Console
                from rich.progress import (
                    BarColumn,
                    Progress,
                    TextColumn,
                    TimeElapsedColumn,
                    TimeRemainingColumn,
                )
            except ImportError:
                return self
            columns = [
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                TextColumn("{task.percentage:3.0f} %"),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[text]}"),
            ]
            self._bar = Progress(*columns, console=Console(stderr=True))
            self._bar.start()
            self._task = self._bar.add_task(self._what, total=None, text="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, done: int, total: int, text: str = "") -> None:
        """Say that `done` of `total` is finished."""
        if self._deaf:
            return
        try:
            self._show(done, total, text)
        except OSError:  # nobody reads any more, or the disk of a log is full; the work goes on
            self._deaf = True

    def _show(self, done: int, total: int, text: str) -> None:
        now = time.monotonic()
        if self._first is None:
            self._first = (now, done)
        if self._bar is not None:
            if now >= self._next_draw or done == total:
                self._next_draw = now + 0.1
                self._bar.update(self._task, completed=done, total=total, text=text)
        elif now >= self._next_line:
            self._next_line = now + self._every
            since, already = self._first
            left = (now - since) * (total - done) / max(done - already, 1)
            known = done > already and done >= _KNOWN * total
            counted = f"{done:,} of {total:,}" + (f", {left:.0f} s left" if known else "") + "  " if total else ""
            print(f"{self._what}: {counted}{text}", file=sys.stderr, flush=True)


class Stages:
    """A call of several stages, one bar at a time. Use with `with`."""

    def __init__(self) -> None:
        self._stack = ExitStack()

    def __enter__(self) -> "Stages":
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def next(self, what: str) -> ProgressHook:
        """End the stage before and start one."""
        self._stack.close()
        return self._stack.enter_context(Progress(what))
