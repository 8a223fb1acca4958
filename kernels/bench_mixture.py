"""Nanoseconds per exponential of a mixture of a million components in ten dimensions, next to exponentials alone.

python kernels/bench_mixture.py [--components 1000000] [--points 10000] [--rounds 3]

The joint and every marginal log-density at so many points: points x components x (dimensions + 1) exponentials. The
limit evaluates as many with the kernels' own exponential on the same threads and does nothing else; both are timed
alternately, in one run. The default is 500 points, which takes seconds; time grows in proportion to the points, but
for checking and arranging the components once per call, which the ratio includes and few points do not spread.
"""

import argparse
import statistics

import numpy as np
from tcvae_kernels.machine import describe, memory, seconds
from tcvae_kernels.mixture import log_joint
from tcvae_kernels.pairwise import exponentials_only
from tcvae_kernels.threads import get_num_threads


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--components", type=int, default=1_000_000)
    parser.add_argument("--points", type=int, default=500)
    parser.add_argument("--dims", type=int, default=10)
    parser.add_argument("--dtype", choices=("float64", "float32"), default="float64")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    N, P, D, dtype = arguments.components, arguments.points, arguments.dims, arguments.dtype
    rng = np.random.default_rng(0)
    mu, z = rng.standard_normal((N, D)).astype(dtype), rng.standard_normal((P, D)).astype(dtype)
    log_var = rng.uniform(-4, -1, (N, D)).astype(dtype)
    log_joint(z[:4], mu[:4], log_var[:4])  # compiled, or read from the cache
    exponentials_only(1, 512, D, dtype)
    before, ours, limit = memory("VmRSS"), [], []
    for _ in range(arguments.rounds):
        ours.append(seconds(log_joint, z, mu, log_var))
        limit.append(seconds(exponentials_only, P, N, D, dtype))
    ratio = statistics.median(a / b for a, b in zip(ours, limit, strict=True))
    each = 1e9 / (P * N * (D + 1))
    print(describe("numpy", "numba") + f"; {get_num_threads()} threads")
    print(f"{N:,} components, {P:,} points, {D} dimensions, {dtype}: median {statistics.median(ours):.2f} s")
    print(f"ns per exponential: {each * statistics.median(ours):.3f}, limit {each * statistics.median(limit):.3f}")
    print(f"ratio {ratio:.2f} (by round: {', '.join(f'{a / b:.2f}' for a, b in zip(ours, limit, strict=True))})")
    if before is not None:
        peak, inputs = memory("VmHWM"), (mu.nbytes + log_var.nbytes + z.nbytes) / 1e6
        print(
            f"peak memory {peak:,.0f} MB, {peak - before:,.0f} MB over that before the calls; inputs {inputs:,.0f} MB"
        )


if __name__ == "__main__":
    main()
