"""Telling a waiting person how far a long call is."""

import sys
import time
from types import TracebackType
from typing import Any

_EVERY = 10.0  # seconds between lines where no bar can be drawn


class Progress:
    """A bar on a terminal (with rich), a line now and then elsewhere; on standard error. Use with `with`."""

    def __init__(self, what: str):
        self._what = what
        self._start = time.monotonic()
        self._next_line = self._start + _EVERY
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
        now = time.monotonic()
        if self._bar is not None:
            if now >= self._next_draw or done == total:
                self._next_draw = now + 0.1
                self._bar.update(self._task, completed=done, total=total, text=text)
        elif now >= self._next_line:
            self._next_line = now + _EVERY
            left = (now - self._start) * (total - done) / max(done, 1)
            print(f"{self._what}: {done:,} of {total:,}, {left:.0f} s left  {text}", file=sys.stderr, flush=True)
