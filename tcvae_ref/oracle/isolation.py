"""A check in a process of its own, so that a target that hangs, exits or crashes still gets a verdict.

The child gets its orders on standard input and answers on a pipe of its own, a JSON object a line; what the target
prints goes to standard error.
"""

import contextlib
import faulthandler
import importlib
import json
import os
import re
import selectors
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

from tcvae_ref.checks import InputError, real_number
from tcvae_ref.oracle import encoding, machine_report
from tcvae_ref.oracle.types import CheckResult, Report, Verdict

Hook: TypeAlias = Callable[[int, int, str], None]
"""Called as hook(done, total, text): the text says which check runs, as `name (dtype, variant)` or `name (dtype)`."""

CHECK = "tcvae_ref.oracle.checking:check"
"""What runs in the child."""

_TICK = 0.1  # seconds between looks at whether the child is still there
_ORPHANED = 1.0  # seconds between looks at whether the parent is still there
_START = "start"
"""In place of a check's name, before the first."""


class Died(Exception):
    """The child gave no report; the message says how it ended."""


def run_isolated(
    target: str,
    options: Mapping[str, Any],
    time_limit: float = 60.0,
    progress: Hook | None = None,
    entry: str = CHECK,
) -> Report:
    """Check a target in a process of its own.

    Parameters
    ----------
    target : str
        As on the command line.
    options : mapping
        Keyword arguments of the entry, as JSON can hold them.
    time_limit : float
        Seconds of silence, without progress, after which the child and all it started are killed.
    progress : function, optional
        Called as hook(done, total, text).
    entry : str
        `module:function`, called as function(target, progress=hook, **options), that returns a Report.

    Returns
    -------
    Report
        The child's; or one with a single ERROR that says what ran when it was killed or died.

    Raises
    ------
    InputError
        The child raised it: a target that cannot be loaded, an option that is not known.
    """
    time_limit = real_number("isolate", "time_limit", time_limit, 0.0, above=True)
    last = ""
    try:
        for message in _messages([sys.executable, "-P", "-m", __name__, entry], [target, dict(options)], time_limit):
            if "report" in message:
                return machine_report.from_json(message["report"])
            if "input_error" in message:
                raise InputError(message["input_error"])
            if "failure" in message:
                raise Died(message["failure"])
            done, total, last = message["progress"]
            if progress is not None:
                progress(done, total, last)
    except Died as death:
        return _fault(target, options, last, str(death))
    raise AssertionError("unreachable: the messages end with a report or an exception")


def _fault(target: str, options: Mapping[str, Any], last: str, message: str) -> Report:
    """A report with a single ERROR in the check that ran last."""
    named = re.fullmatch(r"(.+) \(([^,]+)(?:, ([^,]+))?\)", last)
    check, dtype, variant = named.groups(default="-") if named else (last or _START, "-", "-")
    where = f"while running {last}" if last else "before the first check ran"
    result = CheckResult(check, dtype, variant, Verdict.ERROR, message=f"{message} {where}")
    about = (str(options.get("framework") or "unknown framework"), str(options.get("estimator") or "auto"))
    seed = options.get("seed", 0)
    note = "the process did not live to report: results of the checks before are lost"
    return Report(target, *about, "", (result,), notes=(note,), seed=seed, options=encoding.plain(options))


# --- parent ------------------------------------------------------------------------------------------------


def _messages(command: list[str], job: Any, time_limit: float) -> Iterator[dict[str, Any]]:
    """The child's messages as they come; Died when it falls silent or ends without a report."""
    reading, writing = os.pipe()
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
    try:
        child = subprocess.Popen(
            [*command, str(writing)],
            stdin=subprocess.PIPE,
            stdout=2,
            pass_fds=(writing,),
            env=environment,
            start_new_session=True,
        )
    except BaseException:
        os.close(reading)
        raise
    finally:
        os.close(writing)
    try:
        _send(child, job)
        for line in _lines(child, reading, time_limit):
            yield json.loads(line)
    finally:
        os.close(reading)
        _end(child)


def _send(child: subprocess.Popen[bytes], job: Any) -> None:
    """Give the child its orders, all of them."""
    if child.stdin is None:
        raise Died("the process has no standard input")
    with contextlib.suppress(BrokenPipeError), child.stdin as orders:  # how it ended is found out on reading
        orders.write(json.dumps(job).encode())


def _lines(child: subprocess.Popen[bytes], reading: int, time_limit: float) -> Iterator[bytes]:
    """Whole lines from the pipe; Died at its end, or after `time_limit` seconds without one."""
    held, heard = b"", time.monotonic()
    with selectors.DefaultSelector() as selector:
        selector.register(reading, selectors.EVENT_READ)
        while True:
            ended = child.poll() is not None
            ready = selector.select(0 if ended else _TICK)
            block = os.read(reading, 1 << 16) if ready else b""
            if ended and not block:
                raise Died(_how_it_ended(child.returncode))
            if ready and not block:  # closed the pipe; it ends, or is killed for its silence
                selector.unregister(reading)
            *whole, held = (held + block).split(b"\n")
            heard = time.monotonic() if whole else heard
            yield from whole
            if time.monotonic() - heard > time_limit:
                raise Died(f"no answer within {time_limit:g} s")


def _how_it_ended(status: int) -> str:
    if status >= 0:
        return f"the process exited with status {status}"
    try:
        return f"the process was ended by {signal.Signals(-status).name}"
    except ValueError:
        return f"the process was ended by signal {-status}"


def _end(child: subprocess.Popen[bytes]) -> None:
    """Kill the child and what it started; it leads its own group."""
    with contextlib.suppress(ProcessLookupError, PermissionError):  # none is left (macOS: PermissionError)
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


# --- child -------------------------------------------------------------------------------------------------


def main() -> int:
    """The child: run what the orders say, and answer on the pipe."""
    faulthandler.enable()
    threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()
    entry, pipe = sys.argv[1], int(sys.argv[2])
    os.set_inheritable(pipe, False)
    target, options = json.load(sys.stdin)

    def say(**message: Any) -> None:
        content = memoryview(json.dumps(message, allow_nan=False).encode() + b"\n")
        while content:
            content = content[os.write(pipe, content) :]

    def hook(done: int, total: int, text: str = "") -> None:
        say(progress=[int(done), int(total), str(text)])

    try:
        module, name = entry.split(":")
        check = getattr(importlib.import_module(module), name)
        say(report=machine_report.to_json(check(target, progress=hook, **options)))
    except InputError as error:
        say(input_error=str(error))
    except Exception as error:
        traceback.print_exc()
        say(failure=f"the check itself raised {type(error).__name__}: {error}")
    return 0


def _end_with_parent(parent: int) -> None:
    """Kill this process and what it started when its parent is gone without a word: nobody waits for the answer."""
    while os.getppid() == parent:
        time.sleep(_ORPHANED)
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
