"""PyTorch where it is installed. Where it is not, a test that takes anything of it is skipped, or a file that does."""

import pytest

try:
    import torch
except ModuleNotFoundError as error:
    if error.name != "torch":
        raise

    class Absent:
        """What stands for a module that is not installed."""

        def __getattr__(self, name):
            pytest.skip("PyTorch is not installed", allow_module_level=True)

    torch = Absent()

__all__ = ["torch"]
