"""What a benchmark ran on."""

import importlib.metadata
import os
import platform


def describe(*modules):
    """One line: processor, cores, Python, and the versions of some modules."""
    try:
        with open("/proc/cpuinfo") as file:
            cpu = next(line.split(":")[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        cpu = platform.processor() or platform.machine()
    versions = [f"{name} {importlib.metadata.version(name)}" for name in modules]
    return f"{cpu}, {os.cpu_count()} cores; Python {platform.python_version()}, " + ", ".join(versions)
