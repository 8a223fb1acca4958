"""The exact decomposition of all of dSprites, next to the paper's algorithm as PyTorch and NumPy users write it.

python kernels/bench_decomposition.py [--components 737280] [--samples 10000] [--slice 8] [--rounds 3] [--json FILE]

Ours: `tcvae_ref.metrics.decomposition_exact` on kernels, as `tcvae-ref evaluate` calls it, whole. The others evaluate
blocks of samples against all components, a (block, N, D) array of log-densities and its log-sum-exp, PyTorch as the
code released with the paper does, NumPy by the reference's `log_qz_exact`. They are timed on the first few samples
alone: their time for all of them is extrapolated, in proportion, and marked so. On these few the results are compared
before anything is timed. Each call runs in a process of its own, in turn, with all the machine's cores; compiling and
first calls are not timed. Memory is the process's at its peak, over that once it holds the inputs.
"""

import argparse
import contextlib
import json
import math
import os
import statistics
import subprocess
import sys
import time

import numpy as np
from tcvae_kernels.machine import cores, describe, memory

ON_KERNELS = 2**36  # block_bytes, as the command line gives them: no pairwise array is made
LOG_2PI = math.log(2.0 * math.pi)
PEERS = ("kernels", "PyTorch", "NumPy")


def inputs(N, S, D, dtype):
    """mu, log_var, index, eps; fewer samples are the first of more."""
    rng = np.random.default_rng(0)
    mu, log_var = rng.standard_normal((N, D)).astype(dtype), rng.uniform(-4, -1, (N, D)).astype(dtype)
    index = np.random.default_rng(1).integers(N, size=S)
    return mu, log_var, index, np.random.default_rng(2).standard_normal((S, D)).astype(dtype)


def on_kernels(mu, log_var, index, eps, block):
    import tcvae_kernels

    from tcvae_ref.metrics import decomposition_exact

    result = decomposition_exact(mu, log_var, index, eps, tcvae_kernels.log_qz_exact, ON_KERNELS)
    return [term.value for term in result[:3]]


def in_numpy(mu, log_var, index, eps, block):
    from tcvae_ref.metrics import decomposition_exact

    N, D = mu.shape
    result = decomposition_exact(mu, log_var, index, eps, block_bytes=block * N * D * mu.itemsize, chunk_size=N)
    return [term.value for term in result[:3]]


def in_pytorch(mu, log_var, index, eps, block):
    """The form of the code released with the paper, over blocks of samples."""
    import torch

    N = len(mu)
    mu, log_var, index, eps = (torch.from_numpy(a) for a in (mu, log_var, index, eps))
    log_sigma, terms = 0.5 * log_var, []

    def log_density(z, mu, log_sigma):
        t = (z - mu) * torch.exp(-log_sigma)
        return -0.5 * (t * t + 2 * log_sigma + LOG_2PI)

    with torch.no_grad():
        for n, noise in zip(index.split(block), eps.split(block), strict=True):
            z = mu[n] + torch.exp(log_sigma[n]) * noise
            L = log_density(z[:, None], mu[None], log_sigma[None])  # (block, N, D)
            joint = torch.logsumexp(L.sum(2), 1) - math.log(N)
            marginals = (torch.logsumexp(L, 1) - math.log(N)).sum(1)
            own, prior = log_density(z, mu[n], log_sigma[n]).sum(1), (-0.5 * (z * z + LOG_2PI)).sum(1)
            terms.append(torch.stack([own - joint, joint - marginals, marginals - prior], 1))
    return torch.cat(terms).mean(0).tolist()


FUNCTIONS = dict(zip(PEERS, (on_kernels, in_pytorch, in_numpy), strict=True))


def forget_peak():
    with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def run_here(peer, N, S, D, dtype, block):
    """One call, timed, in this process."""
    FUNCTIONS[peer](*inputs(20, 4, D, dtype), 2)  # compiled, or read from the cache
    given = inputs(N, S, D, dtype)
    forget_peak()
    before, start = memory("VmRSS"), time.perf_counter()
    values = FUNCTIONS[peer](*given, block)
    seconds = time.perf_counter() - start
    peak = None if before is None else memory("VmHWM") - before
    return {"seconds": seconds, "values": values, "memory": peak}


def run_apart(*case):
    command = [sys.executable, __file__, "--apart", json.dumps(case)]
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}  # memory that is freed leaves the process
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(f"{case[0]}: {done.stderr}")
    return json.loads(done.stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--components", type=int, default=737_280)
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--dims", type=int, default=10)
    parser.add_argument("--dtype", choices=("float64", "float32"), default="float64")
    parser.add_argument("--slice", type=int, default=8, help="samples the others are timed on")
    parser.add_argument("--block", type=int, default=2, help="samples they take at a time")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json")
    parser.add_argument("--apart", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.apart:
        print(json.dumps(run_here(*json.loads(arguments.apart))))
        return
    N, S, D, dtype, few = (getattr(arguments, k) for k in ("components", "samples", "dims", "dtype", "slice"))
    few = min(few, S)
    check = {peer: run_apart(peer, N, few, D, dtype, arguments.block)["values"] for peer in PEERS}
    for peer in PEERS[1:]:
        if not np.allclose(
            check[peer], check["kernels"], **dict.fromkeys(("rtol", "atol"), 1e-9 if dtype == "float64" else 1e-4)
        ):
            raise SystemExit(f"the results differ: {check}; nothing is timed")
    samples = dict(zip(PEERS, (S, few, few), strict=True))
    rounds = [
        {peer: run_apart(peer, N, samples[peer], D, dtype, arguments.block) for peer in PEERS}
        for _ in range(arguments.rounds)
    ]
    whole = {peer: statistics.median(r[peer]["seconds"] for r in rounds) * S / samples[peer] for peer in PEERS}
    peaks = {peer: [r[peer]["memory"] for r in rounds if r[peer]["memory"] is not None] for peer in PEERS}
    machine = describe("numpy", "numba", "torch") + f"; {cores()} cores used"
    print(machine)
    held = (2 * N + S) * D * np.dtype(dtype).itemsize / 1e6
    print(f"{S:,} samples against {N:,} components, {D} dimensions, {dtype}; inputs {held:,.0f} MB")
    terms = ", ".join(
        f"{name} {v:.4f}" for name, v in zip(("MI", "TC", "DWKL"), rounds[0]["kernels"]["values"], strict=True)
    )
    print(f"{terms} nats; on {few} samples all agree\n")
    print("| decomposition | seconds | timed on | memory over the inputs, MB | times ours |\n|---|---|---|---|---|")
    for peer in PEERS:
        timed = "all" if samples[peer] == S else f"{few} samples, extrapolated"
        peak = f"{max(peaks[peer]):,.0f}" if peaks[peer] else "?"
        print(f"| {peer} | {whole[peer]:,.1f} | {timed} | {peak} | {whole[peer] / whole['kernels']:,.1f} |")
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump({"machine": machine, "case": vars(arguments), "seconds": whole, "rounds": rounds}, file, indent=2)


if __name__ == "__main__":
    main()
