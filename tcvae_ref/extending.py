"""All that a package of one's own adds to, in one place: `from tcvae_ref.extending import Recipe, Task`.

`EXTENDING.md` in this folder has an example of each kind, `extensions` finds what is installed. An adapter with
gradients of its own also takes `tcvae_ref.oracle.adapters.common`.
"""

from tcvae_ref.data import ByteImages, Factor, FactorDataset, FactorGrid, PackedImages
from tcvae_ref.estimators import log_qz_rows
from tcvae_ref.oracle.adapters.base import Adapter
from tcvae_ref.oracle.adapters.numpy_adapter import NumpyAdapter
from tcvae_ref.oracle.catalogue import Entry
from tcvae_ref.oracle.estimators import Estimator
from tcvae_ref.oracle.mistakes.listed import Mistake, NamedMistake
from tcvae_ref.oracle.mistakes.steps import Loss
from tcvae_ref.oracle.types import Observed, TargetFault, TensorFunction
from tcvae_ref.scores import Recipe, Task
from tcvae_ref.types import Array, ExpectedLogQz, ExpectedLogQzEstimator, ProgressHook

__all__ = [
    "Adapter",
    "Array",
    "ByteImages",
    "Entry",
    "Estimator",
    "ExpectedLogQz",
    "ExpectedLogQzEstimator",
    "Factor",
    "FactorDataset",
    "FactorGrid",
    "Loss",
    "Mistake",
    "NamedMistake",
    "NumpyAdapter",
    "Observed",
    "PackedImages",
    "ProgressHook",
    "Recipe",
    "TargetFault",
    "Task",
    "TensorFunction",
    "log_qz_rows",
]
