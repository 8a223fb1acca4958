"""The mutual information gap by quadrature, next to the Monte-Carlo recipe of the paper.

python kernels/bench_metrics.py [--sizes 3 6 40 32 32] [--latents 10] [--rounds 3] [--slice 10]

Posteriors of a full grid of factors (dSprites' by default: N = 737,280), means standard normal, sigma log-uniform from
0.01 to 1 in every latent. The quadrature is run as a whole, with compiled kernels, and its memory is the peak of a
process of its own over that before the call.

The Monte-Carlo recipe draws 10,000 samples for every entropy and evaluates each against all components of its mixture:
for H(z_d) all N, for H(z_d | v_k) those of each value, together (1 + K) N 10,000 D densities for K factors. Only a
slice is timed, samples of the marginals against all components as the recipe does it (blocks of samples, log-density,
log-sum-exp over the components), in PyTorch, NumPy and `tcvae_kernels.mixture.log_density`; the whole is
EXTRAPOLATED from the time per density.
"""

import argparse
import math
import statistics
import subprocess
import sys
import time

import numpy as np
from tcvae_kernels.machine import describe, memory, seconds
from tcvae_kernels.mixture import group_densities, log_density
from tcvae_kernels.threads import get_num_threads

from tcvae_ref.metrics import mig_quadrature

SAMPLES = 10_000
LOG_2PI = math.log(2 * math.pi)


def inputs(sizes, D):
    """mu, log_var : (N, D) and classes : (N, K) of a full grid of factors."""
    rng = np.random.default_rng(0)
    classes = np.indices(sizes).reshape(len(sizes), -1).T
    shape = len(classes), D
    return rng.standard_normal(shape), 2 * rng.uniform(math.log(0.01), 0.0, shape), classes


def by_quadrature(mu, log_var, classes):
    return mig_quadrature(mu, log_var, classes, group_densities=group_densities)


def compile_kernels():
    by_quadrature(*inputs((2, 2), 2))  # compiled, or read from the cache


def print_memory(sizes, D):
    """Run in a process of its own: peak memory over that before the call, MB."""
    given = inputs(sizes, D)
    compile_kernels()
    before = memory("VmRSS")
    by_quadrature(*given)
    print("not known here" if before is None else f"{memory('VmHWM') - before:.0f} MB")


def numpy_slice(z, mu, log_var):
    """log q(z_sd) : (S, D)."""
    t = (z[:, None] - mu) * np.exp(-0.5 * log_var)
    log_densities = -0.5 * (t * t + log_var + LOG_2PI)
    top = log_densities.max(axis=1, keepdims=True)  # over components n
    return np.log(np.exp(log_densities - top).sum(axis=1)) + top[:, 0] - math.log(len(mu))


def kernel_slice(z, mu, log_var):
    log_weights = np.full(len(mu), -math.log(len(mu)), mu.dtype)
    return [log_density(z[:, d], mu[:, d], log_var[:, d], log_weights) for d in range(mu.shape[1])]


def torch_slice(z, mu, log_var):
    import torch

    log_densities = -0.5 * (((z[:, None] - mu) * torch.exp(-0.5 * log_var)) ** 2 + log_var + LOG_2PI)
    return torch.logsumexp(log_densities, dim=1) - math.log(len(mu))


def slices(z, mu, log_var):
    """[name, function, arguments] of every implementation that is installed."""
    found = [("NumPy", numpy_slice, (z, mu, log_var)), ("ours", kernel_slice, (z, mu, log_var))]
    try:
        import torch
    except ImportError:
        return found
    return [("PyTorch", torch_slice, tuple(torch.from_numpy(a) for a in (z, mu, log_var))), *found]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[3, 6, 40, 32, 32], help="of the factors")
    parser.add_argument("--latents", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--slice", type=int, default=10, help="samples of each latent that are timed")
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32", help="of the Monte-Carlo recipe")
    parser.add_argument("--memory-only", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    sizes, D = arguments.sizes, arguments.latents
    if arguments.memory_only:
        print_memory(sizes, D)
        return
    mu, log_var, classes = inputs(sizes, D)
    N, K = classes.shape
    compile_kernels()
    print(describe("numpy", "scipy", "numba", "torch") + f"; {get_num_threads()} threads")
    cpu = time.process_time()
    times = [seconds(by_quadrature, mu, log_var, classes) for _ in range(arguments.rounds)]
    cpu = (time.process_time() - cpu) / arguments.rounds
    ours, result = statistics.median(times), by_quadrature(mu, log_var, classes)
    by_round = ", ".join(f"{t:.2f}" for t in times)
    print(
        f"N = {N:,}, {D} latents, factors of {', '.join(map(str, sizes))} values: {sum(sizes)} groups and the marginal"
    )
    print(f"quadrature: median {ours:.2f} s ({by_round}), {cpu:.2f} s of CPU")
    error = result.error
    print(f"    MIG {result.score:.3e} within {error.score:.0e}, entropies within {error.entropies.max():.0e} nats")
    command = [sys.executable, __file__, "--memory-only", "--latents", str(D), "--sizes", *map(str, sizes)]
    peak = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    print(
        f"    peak memory over the inputs: {peak}; inputs {(mu.nbytes + log_var.nbytes + classes.nbytes) / 1e6:.0f} MB"
    )

    mu, log_var = mu.astype(arguments.dtype), log_var.astype(arguments.dtype)
    index, rng = np.random.default_rng(1).integers(N, size=arguments.slice), np.random.default_rng(2)
    z = (mu[index] + np.exp(0.5 * log_var[index]) * rng.standard_normal((arguments.slice, D))).astype(arguments.dtype)
    total, timed = (1 + K) * N * SAMPLES * D, N * arguments.slice * D
    print(f"Monte Carlo, {arguments.dtype}: {total:.2g} densities; timed {timed:.2g} of them, the rest EXTRAPOLATED:")
    for name, function, given in slices(z, mu, log_var):
        function(*(a[:1] for a in given))
        slice_seconds = statistics.median(seconds(function, *given) for _ in range(arguments.rounds))
        whole = slice_seconds * total / timed
        print(
            f"    {name:<8}slice {slice_seconds:6.2f} s, {1e9 * slice_seconds / timed:6.2f} ns per density; "
            f"whole about {whole:,.0f} s = {whole / 3600:.2f} h, {whole / ours:,.0f} times the quadrature"
        )


if __name__ == "__main__":
    main()
