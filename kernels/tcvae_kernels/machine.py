"""What a benchmark ran on, and what it measures with."""

import importlib.metadata
import os
import platform
import time
from collections.abc import Callable
from typing import Any


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def versions(*modules: str) -> dict[str, str]:
    """Versions of those modules that are installed."""
    found = {}
    for name in modules:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def describe(*modules: str) -> str:
    """One line: processor, cores, Python, and the versions of those modules that are installed."""
    try:
        with open("/proc/cpuinfo") as file:
            cpu = next(line.split(":")[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        cpu = platform.processor() or platform.machine()
    software = [f"Python {platform.python_version()}", *(f"{name} {v}" for name, v in versions(*modules).items())]
    return f"{cpu}, {os.cpu_count()} cores; " + ", ".join(software)


def memory(name: str) -> float | None:
    """Memory of this process in MB, where /proc tells it: VmRSS, now, or VmHWM, at its peak."""
    try:
        with open("/proc/self/status") as file:
            return next(int(line.split()[1]) * 1024 / 1e6 for line in file if line.startswith(name))
    except (OSError, StopIteration):
        return None


def seconds(function: Callable[..., Any], *arguments: Any) -> float:
    """How long a call takes."""
    start = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - start
