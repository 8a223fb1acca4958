"""The estimate of E[log q(z)] and its gradient, side by side with NumPy, PyTorch, JAX and KeOps.

python kernels/bench_pairwise.py [--sizes 256,2048] [--dims 10] [--dtypes float64] [--json FILE] [--plot FILE]

The same as `python -m tcvae_kernels.bench`, whose description says what is compared and how.
"""

import sys

from tcvae_kernels.bench import main

if __name__ == "__main__":
    sys.exit(main())
