"""The batch means of log q(z) and sum_d log q(z_d), side by side: these kernels, NumPy, PyTorch, JAX and KeOps.

Weights are those of minibatch-weighted sampling, w = 1/(N M). Timed are the value, joint mean + marginals mean, and
the value with its gradient in z, mu and log_var. Every peer has all the machine's cores, its inputs in its own arrays,
and is compiled and compared with the others before it is timed; one that can be written with the dimensions first or
last runs in whichever form is quicker at that size. Peers take turns, with a pause between them, because one library's
spinning threads slow the next one down. "exponentials only" is the limit of the algorithm: the M * M * (D + 1)
exponentials and nothing else. Peak memory, above the inputs, is measured in a fresh process for each number.
"""

import argparse
import importlib
import importlib.util
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tcvae_kernels import threads
from tcvae_kernels.machine import cores, describe, versions
from tcvae_ref import checks
from tcvae_ref.arguments import Parser
from tcvae_ref.checks import InputError
from tcvae_ref.files import atomic_write, check_writable, write_json
from tcvae_ref.progress import Progress
from tcvae_ref.types import Array

N = 737_280  # data set size that enters the estimator
KINDS = ("value", "value and gradient")
TOLERANCE = {"float64": 1e-9, "float32": 2e-4}  # of the largest entry, against a judge that computes in float64
REFERENCE_UP_TO = 1 << 22  # M * M * D up to which the reference judges; beyond, the float64 kernels do
IDLE = 0.5  # load average above which a warning is given
LOG_2PI = math.log(2 * math.pi)
MODULES = ("numpy", "numba", "autograd", "torch", "jax", "jaxlib", "pykeops")
PALETTE = ("#0072b2", "#000000", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")

Call = Callable[[], Any]
"""Returns the value, or (value, (d/dz, d/dmu, d/dlog_var)), in arrays of its library, when they are there."""
Inputs = tuple[Array, Array, Array]


class Case(NamedTuple):
    """What is timed: one column of a peer's numbers."""

    dtype: str
    kind: str
    D: int
    M: int


class Peer(NamedTuple):
    """One way to compute it."""

    name: str
    needs: tuple[str, ...]
    """Modules that must be installed."""
    arrays: tuple[int, int]
    """How many M x M x D arrays it holds at once, for the value and with the gradient: an estimate that only decides
    what is not tried."""
    build: Callable[[bool, Inputs], Call]


# --- the peers -----------------------------------------------------------------------------------------------


def _by_autograd(module: str, gradient: bool, inputs: Inputs) -> Call:
    from autograd import value_and_grad

    expected_log_qz_mws = importlib.import_module(module).expected_log_qz_mws

    def objective(z: Array, mu: Array, log_var: Array) -> Any:
        return sum(expected_log_qz_mws(z, mu, log_var, N))

    function = value_and_grad(objective, argnum=(0, 1, 2)) if gradient else objective
    return lambda: function(*inputs)


def _exponentials(gradient: bool, inputs: Inputs) -> Call:
    from tcvae_kernels.pairwise import exponentials_only

    M, D = inputs[0].shape
    return lambda: exponentials_only(M, M, D, inputs[0].dtype.name)


def _objective(library: Any, logsumexp: Any, transpose: Any, dims_first: bool) -> Callable[..., Any]:
    """Write the objective in PyTorch's and JAX's common words, pairwise arrays (M, M, D) or (D, M, M)."""
    d, j = (0, 2) if dims_first else (2, 1)

    def objective(z: Any, mu: Any, log_var: Any) -> Any:
        M, D = z.shape
        if dims_first:
            z, mu, log_var = transpose(z)[:, :, None], transpose(mu)[:, None], transpose(log_var)[:, None]
        else:
            z, mu, log_var = z[:, None], mu[None], log_var[None]
        scale = math.sqrt(0.5) * library.exp(-0.5 * log_var)
        L = -0.5 * (log_var + LOG_2PI) - ((z - mu) * scale) ** 2
        total = logsumexp(L.sum(d), 1).sum() + logsumexp(L, j).sum()  # over samples i, and over dimensions d
        return total / M - (D + 1) * math.log(N * M)

    return objective


def _quickest(calls: list[Call]) -> Call:
    """Choose the quickest of some calls; the first time, they compile."""
    for call in calls:
        call()
    return min(calls, key=lambda call: min(_seconds(call) for _ in range(3)))


def _torch_call(objective: Callable[..., Any], gradient: bool, inputs: Inputs) -> Call:
    import torch

    torch.set_num_threads(cores())
    tensors = [torch.from_numpy(a).requires_grad_(gradient) for a in inputs]

    def call() -> Any:
        value = objective(*tensors)
        return (value.detach(), torch.autograd.grad(value, tensors)) if gradient else value

    return call


def _torch(compiled: bool, gradient: bool, inputs: Inputs) -> Call:
    import torch

    forms = [_objective(torch, torch.logsumexp, lambda a: a.T.contiguous(), first) for first in (False, True)]
    if compiled:
        torch.compiler.reset()  # a function compiled for eight shapes is otherwise run eagerly at the ninth
        forms = [torch.compile(form, fullgraph=True, dynamic=False) for form in forms]
    return _quickest([_torch_call(form, gradient, inputs) for form in forms])


def _jax(gradient: bool, inputs: Inputs) -> Call:
    jax = importlib.import_module("jax")  # whose own types leave some functions out
    if inputs[0].dtype == np.float64:
        jax.config.update("jax_enable_x64", True)
    arrays = [jax.device_put(a, jax.devices("cpu")[0]) for a in inputs]

    def call(dims_first: bool) -> Call:
        objective = _objective(jax.numpy, jax.scipy.special.logsumexp, jax.numpy.transpose, dims_first)
        function = jax.jit(jax.value_and_grad(objective, argnums=(0, 1, 2)) if gradient else objective)
        return lambda: jax.block_until_ready(function(*arrays))

    return _quickest([call(False), call(True)])


def _keops(gradient: bool, inputs: Inputs) -> Call:
    import pykeops
    from pykeops.torch import LazyTensor

    pykeops.set_verbose(False)

    def objective(z: Any, mu: Any, log_var: Any) -> Any:
        M, D = z.shape
        scale, constant = math.sqrt(0.5) * (-0.5 * log_var).exp(), -0.5 * (log_var + LOG_2PI)
        z_i, mu_j, scale_j = LazyTensor(z[:, None]), LazyTensor(mu[None]), LazyTensor(scale[None])
        of_all_d = LazyTensor(constant.sum(1)[None, :, None])
        joint = (of_all_d - (((z_i - mu_j) * scale_j) ** 2).sum(-1)).logsumexp(dim=1)
        z_i, mu_j, scale_j, of_d = (  # the dimensions d are a batch
            LazyTensor(a.T.contiguous()[:, :, None, None] if a is z else a.T.contiguous()[:, None, :, None])
            for a in (z, mu, scale, constant)
        )
        marginals = (of_d - ((z_i - mu_j) * scale_j) ** 2).logsumexp(dim=2)
        return (joint.sum() + marginals.sum()) / M - (D + 1) * math.log(N * M)

    return _torch_call(objective, gradient, inputs)


OURS, LIMIT = "kernels", "exponentials"
PEERS = {
    OURS: Peer("tcvae_kernels", ("numba",), (0, 0), partial(_by_autograd, "tcvae_kernels")),
    LIMIT: Peer("exponentials only", ("numba",), (0, 0), _exponentials),
    "numpy": Peer("NumPy reference", (), (5, 8), partial(_by_autograd, "tcvae_ref")),
    "eager": Peer("PyTorch eager", ("torch",), (3, 8), partial(_torch, False)),
    "compile": Peer("torch.compile", ("torch",), (1, 2), partial(_torch, True)),
    "jax": Peer("jax.jit", ("jax",), (2, 5), _jax),
    "keops": Peer("KeOps", ("torch", "pykeops"), (0, 0), _keops),
}


def _inputs(dtype: str, D: int, M: int) -> Inputs:
    """Draw posteriors like those of a trained model, some dimensions narrow and some unused, and one sample of each."""
    rng = np.random.default_rng(0)
    mu, log_var = rng.standard_normal((M, D)), rng.uniform(-4.0, 0.0, (M, D))
    z = mu + np.exp(0.5 * log_var) * rng.standard_normal((M, D))
    return z.astype(dtype), mu.astype(dtype), log_var.astype(dtype)


# --- comparing -----------------------------------------------------------------------------------------------


def _judge(inputs: Inputs) -> tuple[str, list[Any]]:
    """Value and gradients in float64: the reference's, or those of these kernels where its arrays would be large."""
    key = "numpy" if inputs[0].size * len(inputs[0]) <= REFERENCE_UP_TO else OURS
    z, mu, log_var = (a.astype(np.float64) for a in inputs)
    value, gradients = PEERS[key].build(True, (z, mu, log_var))()
    return PEERS[key].name, [value, *gradients]


def _difference(result: Any, judge: tuple[str, list[Any]], case: Case) -> str | None:
    """Say where a peer's numbers are not the judge's, and by how much."""
    found = [result[0], *result[1]] if case.kind == KINDS[1] else [result]
    for what, a, b in zip(("value", "d/dz", "d/dmu", "d/dlog_var"), found, judge[1], strict=False):
        given, right = np.atleast_1d(np.asarray(a, np.float64)), np.atleast_1d(b)
        if given.shape != right.shape:
            return f"its {what} has shape {given.shape}, {judge[0]}'s {right.shape}"
        error = np.abs(given - right)
        worst, scale = int(np.argmax(error)), float(np.max(np.abs(right)))
        if not error.flat[worst] <= TOLERANCE[case.dtype] * scale:  # nor if it is nan
            return (
                f"its {what} has {given.flat[worst]:.12g} where {judge[0]} has {right.flat[worst]:.12g}: "
                f"{error.flat[worst] / scale:.1e} of the largest entry, {TOLERANCE[case.dtype]:g} is allowed"
            )
    return None


# --- measuring -----------------------------------------------------------------------------------------------


def _seconds(call: Call) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def measure(calls: dict[str, Call], rounds: int, pause: float) -> dict[str, list[float]]:
    """Seconds of every call in every round, in turns."""
    seconds: dict[str, list[float]] = {key: [] for key in calls}
    for _ in range(rounds):
        for key, call in calls.items():
            time.sleep(pause)
            call()  # brings its own threads and caches back
            seconds[key].append(_seconds(call))
    return seconds


def peak_memory(peer: Peer, case: Case) -> int:
    """Bytes that one call adds at most; for a fresh process.

    A small problem goes before, which loads and compiles, and peers compiled for fixed shapes are so when they are
    built. The call is still the first of its size, so that what a peer keeps from call to call counts as its own.
    Where the system cannot reset a process' peak, compiling for fixed shapes counts too.
    """
    import resource

    def highest() -> int:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

    reset, status, gradient = Path("/proc/self/clear_refs"), Path("/proc/self/status"), case.kind == KINDS[1]
    peer.build(gradient, _inputs(case.dtype, case.D, 16))()
    inputs = _inputs(case.dtype, case.D, case.M)
    before = highest()
    call = peer.build(gradient, inputs)
    if not os.access(reset, os.W_OK):
        call()
        return highest() - before
    reset.write_text("5")
    before = 1024 * int(status.read_text().partition("VmRSS:")[2].split()[0])
    call()
    return max(1024 * int(status.read_text().partition("VmHWM:")[2].split()[0]) - before, 0)


def _peak_in_fresh_process(key: str, case: Case) -> int | str:
    """Run `peak_memory` in another process; the reason, if it fails."""
    command = [sys.executable, "-m", "tcvae_kernels.bench", "--memory-of", key, *map(str, case)]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "MALLOC_MMAP_THRESHOLD_": "65536",  # an array that is freed leaves the process, so that the next one is seen
    }
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        return f"failed: {(done.stderr.strip().splitlines() or [f'ended by signal {-done.returncode}'])[-1]}"
    return int(done.stdout.split()[-1])


class Bench:
    """A run: what is measured, and what has been."""

    def __init__(self, peers: list[str], cases: list[Case], arguments: argparse.Namespace):
        self.peers, self.cases, self.arguments = peers, cases, arguments
        self.results: list[dict[str, Any]] = []
        self.refused: set[str] = set()
        self._out: dict[tuple[str, Case], str] = {}  # why a peer is out for all sizes, which are written as M = 0

    def run(self) -> None:
        """Measure all times, then all memory; end early if these kernels are refused."""
        with Progress("timing") as progress:
            for (dtype, D, M), cases in groupby(self.cases, key=lambda case: (case.dtype, case.D, case.M)):
                inputs = _inputs(dtype, D, M)
                judge = cache(partial(_judge, inputs))
                for case in cases:
                    progress(self.cases.index(case), len(self.cases), _named(case))
                    self._time(case, inputs, judge)
                    if OURS in self.refused:
                        return
            progress(len(self.cases), len(self.cases))
        if not self.arguments.no_memory:
            self._memory([r for r in self.results if "left_out" not in r and r["peer"] != PEERS[LIMIT].name])

    def _time(self, case: Case, inputs: Inputs, judge: Callable[[], Any]) -> None:
        """Measure every peer at one size."""
        ready = {key: self._ready(key, case, inputs, judge) for key in self.peers}
        calls = {key: call for key, call in ready.items() if not isinstance(call, str)}
        seconds = measure(calls, self.arguments.rounds, self.arguments.pause)
        median = {key: statistics.median(times) for key, times in seconds.items()}
        for key, call in ready.items():
            record: dict[str, Any] = {"peer": PEERS[key].name, **case._asdict()}
            self.results.append(record)
            if isinstance(call, str):
                record["left_out"] = call
                continue
            ms = [1e3 * s for s in seconds[key]]
            record |= {"median_ms": statistics.median(ms), "min_ms": min(ms), "max_ms": max(ms), "ms": ms}
            for name, base in (("ratio_to_ours", OURS), ("ratio_to_limit", LIMIT)):
                record[name] = median[key] / median[base] if base in median else None
            if median[key] > self.arguments.max_seconds:
                self._out[key, case._replace(M=0)] = f"too slow ({_short(median[key])} s at M={case.M})"

    def _ready(self, key: str, case: Case, inputs: Inputs, judge: Callable[[], Any]) -> Call | str:
        """The compiled, compared and warm call of a peer, or why there is none."""
        peer, gradient, at_all_sizes = PEERS[key], case.kind == KINDS[1], case._replace(M=0)
        if (key, at_all_sizes) in self._out:
            return self._out[key, at_all_sizes]
        needed = peer.arrays[gradient] * case.M**2 * case.D * np.dtype(case.dtype).itemsize
        if needed > self.arguments.max_bytes:
            return f"would need {_short(needed / 1e9)} GB"
        try:
            call = peer.build(gradient, inputs)
            result = call()
        except Exception as error:  # whatever a compiler or an allocator may raise
            if key in (OURS, LIMIT):
                raise
            return f"failed: {type(error).__name__} {str(error).strip().partition(chr(10))[0]}"
        wrong = None if key == LIMIT else _difference(result, judge(), case)
        if wrong is None:
            return call
        self.refused.add(key)
        self._out[key, at_all_sizes] = f"refused: {wrong}"
        print(f"bench: {peer.name} is refused ({_named(case)}): {wrong}", file=sys.stderr)
        return self._out[key, at_all_sizes]

    def _memory(self, timed: list[dict[str, Any]]) -> None:
        keys = {peer.name: key for key, peer in PEERS.items()}
        with Progress("memory") as progress:
            for done, record in enumerate(timed):
                progress(done, len(timed), record["peer"])
                peak = _peak_in_fresh_process(keys[record["peer"]], _case(record))
                record["memory_left_out" if isinstance(peak, str) else "peak_bytes"] = peak
            progress(len(timed), len(timed))


# --- reporting -----------------------------------------------------------------------------------------------


def _case(record: dict[str, Any]) -> Case:
    return Case(*(record[field] for field in Case._fields))


def _named(case: Case) -> str:
    return f"{case.dtype}, {case.kind}, D={case.D}, M={case.M}"


def _short(x: float) -> str:
    """Three figures, no exponent."""
    return f"{x:,.{max(0, 2 - math.floor(math.log10(x)))}f}" if x > 0 else "0"


def _time_cell(r: dict[str, Any]) -> str:
    times = f"{_short(r['median_ms'])} ({_short(r['min_ms'])} to {_short(r['max_ms'])})"
    ratio = r["ratio_to_limit" if r["peer"] == PEERS[OURS].name else "ratio_to_ours"]
    return times if ratio is None else f"{times}, {_short(ratio)} x"


def _memory_cell(r: dict[str, Any]) -> str:
    return f"{r['peak_bytes'] / 1e6:,.1f}" if "peak_bytes" in r else str(r.get("memory_left_out", ""))


def _tables(results: list[dict[str, Any]]) -> Iterator[str]:
    """GitHub tables, one for each dtype, kind and quantity: a row for each size, a column for each peer."""
    title = f"median ms (min to max), ratio to {PEERS[OURS].name}; its own is to {PEERS[LIMIT].name}"
    quantities: list[tuple[str, Callable[[dict[str, Any]], str]]] = [(title, _time_cell)]
    if any("peak_bytes" in r for r in results):
        quantities.append(("peak MB above the inputs", _memory_cell))
    for title, cell in quantities:
        for dtype, kind in dict.fromkeys((r["dtype"], r["kind"]) for r in results):
            rows: dict[tuple[int, int], dict[str, str]] = {}
            for r in results:
                if (r["dtype"], r["kind"]) == (dtype, kind):
                    text = str(r["left_out"]) if "left_out" in r else cell(r)
                    rows.setdefault((r["D"], r["M"]), {})[r["peer"]] = text.partition(":")[0]
            names = list(next(iter(rows.values())))
            lines = [f"### {dtype}, {kind}: {title}", "", f"| D | M | {' | '.join(names)} |"]
            lines.append("|" + "--:|" * (2 + len(names)))
            lines += [f"| {D} | {M} | {' | '.join(row[n] for n in names)} |" for (D, M), row in rows.items()]
            yield "\n".join(lines)
    for r in results:  # the cell holds what stands before the colon
        reason = r.get("left_out") or r.get("memory_left_out", "")
        if ":" in reason:
            yield f"{r['peer']} ({_named(_case(r))}) {reason}"


def plot(results: list[dict[str, Any]], path: Path) -> None:
    """Draw times and memory against M at one D: a row for each dtype, a panel for each kind and one for memory."""
    from matplotlib.figure import Figure

    from tcvae_ref.figures import save

    dims = [r["D"] for r in results]
    shown = [r for r in results if r["D"] == (10 if 10 in dims else dims[0])]
    dtypes, sizes = dict.fromkeys(r["dtype"] for r in shown), sorted({r["M"] for r in shown})
    panels = [(kind, "median_ms", 1.0, "ms") for kind in KINDS]
    if any("peak_bytes" in r for r in shown):
        panels.append((KINDS[1], "peak_bytes", 1e-6, "peak MB above the inputs"))
    figure = Figure(figsize=(4.0 * len(panels), 0.4 + 3.6 * len(dtypes)), layout="constrained")
    axes = figure.subplots(len(dtypes), len(panels), squeeze=False)
    for row, dtype in zip(axes, dtypes, strict=True):
        for axis, (kind, field, unit, label) in zip(row, panels, strict=True):
            for peer, colour in zip(PEERS.values(), PALETTE, strict=True):
                wanted = [r for r in shown if (r["peer"], r["dtype"], r["kind"]) == (peer.name, dtype, kind)]
                points = [(r["M"], unit * r[field]) for r in wanted if r.get(field)]
                line = "--" if peer is PEERS[LIMIT] else "-"
                if points:
                    axis.loglog(*zip(*points, strict=True), line, marker="o", ms=3, color=colour, label=peer.name)
            axis.set_title(f"{kind}, {dtype}, D = {shown[0]['D']}", fontsize=9)
            axis.set_xlabel("batch size M", fontsize=8)
            axis.set_ylabel(label, fontsize=8)
            axis.set_xticks(sizes, [str(M) for M in sizes])
            axis.minorticks_off()
            axis.tick_params(labelsize=8)
            axis.grid(alpha=0.3)
    axes[0, 0].legend(fontsize=7)
    save(figure, path)


# --- the command line ------------------------------------------------------------------------------------------


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the benchmark's options to a parser."""
    parser.add_argument("--sizes", default="256,512,1024,2048,4096,8192,16384", help="batch sizes M (%(default)s)")
    parser.add_argument("--dims", default="2,10,64", help="latent dimensions D (%(default)s)")
    parser.add_argument("--dtypes", default="float64,float32", help="(%(default)s)")
    parser.add_argument("--peers", default=",".join(PEERS), help="what is timed (%(default)s); kernels always is")
    parser.add_argument("--rounds", type=int, default=9, help="times each peer is timed (%(default)s)")
    parser.add_argument("--pause", type=float, default=0.2, metavar="S", help="seconds between turns (%(default)s)")
    parser.add_argument("--threads", type=int, metavar="T", help="cores that may be used (all)")
    parser.add_argument("--max-bytes", type=float, default=6e9, metavar="B", help="that a peer may need (%(default)g)")
    parser.add_argument("--max-seconds", type=float, default=20.0, metavar="S", help="a slower one stops (%(default)g)")
    parser.add_argument("--no-memory", action="store_true", help="times only")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep every number")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="keep what is printed")
    parser.add_argument("--plot", type=Path, metavar="PNG", help="draw time and memory against M")
    parser.add_argument("--memory-of", nargs=1 + len(Case._fields), help=argparse.SUPPRESS)


def _listed(option: str, text: str, allowed: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(checks.option("bench", option, word, allowed) for word in text.split(",")))


def _numbers(option: str, text: str, least: int, most: int) -> list[int]:
    try:
        numbers = [int(word) for word in text.split(",")]
    except ValueError:
        raise InputError(f"bench: {option}={text!r} is not a list of whole numbers such as 256,2048") from None
    return sorted({checks.whole_number("bench", option, n, least, most) for n in numbers})


def _checked(arguments: argparse.Namespace) -> tuple[list[str], list[Case]]:
    """The peers and cases that are asked for; what cannot be done is refused now."""
    sizes, dims = _numbers("--sizes", arguments.sizes, 2, 1 << 20), _numbers("--dims", arguments.dims, 1, 4096)
    dtypes = _listed("--dtypes", arguments.dtypes, tuple(TOLERANCE))
    peers = [key for key in PEERS if key in (OURS, *_listed("--peers", arguments.peers, tuple(PEERS)))]
    checks.whole_number("bench", "--rounds", arguments.rounds, 1)
    if arguments.threads is not None:
        checks.whole_number("bench", "--threads", arguments.threads, 1, cores())
        if not hasattr(os, "sched_setaffinity"):
            raise InputError("bench: --threads needs a system that can bind a process to cores; leave it out")
    for name, least in (("pause", 0.0), ("max_bytes", 0.0), ("max_seconds", 0.0)):
        checks.real_number("bench", f"--{name.replace('_', '-')}", getattr(arguments, name), least)
    for path in (arguments.json, arguments.markdown, arguments.plot):
        if path is not None:
            check_writable(path)
    if arguments.plot is not None and not _installed("matplotlib"):
        raise InputError("bench: --plot needs matplotlib; pip install 'tcvae-ref[experiments]' brings it")
    if not _installed(*PEERS[OURS].needs):
        raise InputError("bench: numba is not installed; pip install 'tcvae-ref[kernels]' brings it")
    return peers, [Case(t, kind, D, M) for t in dtypes for D in dims for M in sizes for kind in KINDS]


def _installed(*modules: str) -> bool:
    return all(importlib.util.find_spec(module) is not None for module in modules)


@contextmanager
def _bound_to(count: int | None) -> Iterator[None]:
    """Keep this process, its threads and its children to some cores; every library follows."""
    if count is None:
        yield
        return
    before, threads_before = os.sched_getaffinity(0), threads.get_num_threads()
    os.sched_setaffinity(0, sorted(before)[:count])
    threads.set_num_threads(count)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
        threads.set_num_threads(threads_before)


def run(arguments: argparse.Namespace) -> int:
    """Measure, print the tables, and write the files; 1 if a peer was refused or the run interrupted."""
    if arguments.memory_of:
        key, dtype, kind, D, M = arguments.memory_of
        print(peak_memory(PEERS[key], Case(dtype, kind, int(D), int(M))))
        return 0
    asked, cases = _checked(arguments)
    bench = Bench([key for key in asked if _installed(*PEERS[key].needs)], cases, arguments)
    missing = [PEERS[key].name for key in asked if key not in bench.peers]
    load, interrupted = os.getloadavg()[0], False
    if load > IDLE:
        print(
            f"bench: the load average is {load:.1f}: other work slows the peers, some far more than others; "
            "measure on an idle machine",
            file=sys.stderr,
        )
    with _bound_to(arguments.threads):
        try:
            bench.run()
        except KeyboardInterrupt:
            print("bench: interrupted; what was measured so far follows", file=sys.stderr)
            interrupted = True
        used = cores()
    head = [
        f"{describe(*MODULES)}; {used} threads; load average {load:.1f} before",
        f"N = {N:,}, {arguments.rounds} rounds",
    ]
    head += [f"not installed: {', '.join(missing)}"] if missing else []
    text = "\n\n".join([*head, *_tables(bench.results)])
    print(text)
    options = {k: str(v) if isinstance(v, Path) else v for k, v in vars(arguments).items() if not callable(v)}
    report = {
        "machine": describe(),
        "versions": versions(*MODULES),
        "threads": used,
        "load": load,
        "N": N,
        "arguments": options,
    }
    if arguments.json is not None:
        write_json(arguments.json, {**report, "not_installed": missing, "results": bench.results})
    if arguments.markdown is not None:
        with atomic_write(arguments.markdown) as file:
            file.write(f"{text}\n".encode())
    if arguments.plot is not None and bench.results:
        plot(bench.results, arguments.plot)
    return int(interrupted or bool(bench.refused))


def arguments_parser() -> argparse.ArgumentParser:
    """The benchmark's arguments."""
    parser = Parser(prog="tcvae-ref bench", description=__doc__)
    add_arguments(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark by itself; return its exit status."""
    try:
        return run(arguments_parser().parse_args(argv))
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    except OSError as error:
        print(f"bench: {error.filename}: {error.strerror}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
