"""Images per second of the dSprites renderer, on one thread, and the memory the packed images hold.

python kernels/bench_render.py [--grid full] [--rounds 5]

The renderer uses no threads of its own; the process is pinned to one core where the system allows it.
"""

import argparse
import os
import statistics
import time

from tcvae_kernels.machine import describe

from tcvae_ref.data import GRIDS, grid, render


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--grid", choices=GRIDS, default="full")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    chosen, rates = grid(arguments.grid), []
    for _ in range(arguments.rounds):
        start = time.perf_counter()
        data = render(chosen)
        rates.append(len(data) / (time.perf_counter() - start))
    held = data.images.nbytes + data.classes.nbytes
    print(describe("numpy"))
    print(f"{arguments.grid}: {len(data):,} images; median {statistics.median(rates):,.0f} images/s")
    print(f"slowest {min(rates):,.0f}, fastest {max(rates):,.0f}; {held / 1e6:.0f} MB with their classes")


if __name__ == "__main__":
    main()
