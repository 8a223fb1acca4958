"""Do the kernels give the same bits, and an answer at all, whoever calls them from wherever?

    python tests/campaigns/concurrency.py --rounds 3 --seed 0

Each scenario runs in a process of its own, under a watchdog that prints every thread's stack and kills it: many threads
(also while the number of threads changes), an empty cache that threads and processes fill at once, forks before, after
and during a compilation, every way to start processes, joblib's three back ends, PyTorch's threads and data loaders,
Dask, settings of NUMBA_*, OMP_* and the allowed processors, atexit and the interpreter's end, interrupts in the middle
of kernels, errors and kernels in progress hooks, signal handlers, asyncio. The bits are compared with those of one
thread. Some ten minutes for three rounds; the last line counts.
"""

import argparse
import asyncio
import atexit
import concurrent.futures
import contextlib
import faulthandler
import functools
import hashlib
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

SEEDS = range(4)
PATIENCE = 600  # seconds after which a scenario hangs, also on a busy machine
MEASURED = (
    *("log_qz_exact", "log_qz_mws", "log_qz_mss", "log_qz_symmetric_mss", "log_qz_minibatch"),
    *("expected_log_qz_exact", "expected_log_qz_mws", "expected_log_qz_mss"),
    *("expected_log_qz_symmetric_mss", "expected_log_qz_minibatch"),
)


def everything(seed):
    """A digest of what every estimator, its gradients, the mixtures and training's functions give, in both dtypes."""
    import tcvae_kernels
    from autograd import grad
    from tcvae_kernels import elementwise, mixture

    digest = hashlib.sha256()
    for dtype in ("float64", "float32"):
        rng = np.random.default_rng((seed, 0))
        M, D, N = int(rng.integers(5, 150)), int(rng.integers(1, 6)), 1000
        z, mu, log_var = (rng.standard_normal((M, D)).astype(dtype) for _ in range(3))
        for name in MEASURED:
            of, size = getattr(tcvae_kernels, name), M if name.endswith("exact") else N
            found = list(of(z, mu, log_var, size))
            if name.startswith("expected"):
                found += grad(lambda *a, of=of, size=size: sum(of(*a, size)), (0, 1, 2))(z, mu, log_var)
            for array in found:
                digest.update(np.asarray(array).tobytes())
        digest.update(
            mixture.log_density(
                z[:, 0].astype("float64"), mu[:, 0].astype("float64"), log_var[:, 0].astype("float64"), np.zeros(M)
            ).tobytes()
        )
        x, logits = rng.random((M, 40)).astype(dtype), rng.standard_normal((M, 40)).astype(dtype)
        digest.update(np.asarray(elementwise.bernoulli_log_likelihood(x, logits)).tobytes())
        elementwise.activate_tanh(logits, x[0])
        digest.update(logits.tobytes())
    return digest.hexdigest()


def all_of_them(_=None):
    return [everything(seed) for seed in SEEDS]


# --- scenarios: each returns lists of digests, every one of which must be that of one thread ---------------------


def alone():
    import tcvae_kernels

    tcvae_kernels.set_num_threads(1)
    return [all_of_them()]


def once():
    return [all_of_them()]


def threads():
    """Callers at the same time, while the number of threads changes."""
    import tcvae_kernels

    over = threading.Event()

    def change():
        for k in range(10**9):
            if over.wait(0.002):
                return
            tcvae_kernels.set_num_threads(1 + k % 7)

    changing = threading.Thread(target=change)
    changing.start()
    try:
        with ThreadPoolExecutor(8) as callers:
            return list(callers.map(all_of_them, range(16)))
    finally:
        over.set()
        changing.join()
        alive = [t.name for t in threading.enumerate() if not t.name.startswith(("tcvae_kernels", "MainThread"))]
        assert not alive, alive


def no_threads_to_be_had():
    """The system refuses threads, now and then."""
    import tcvae_kernels

    tcvae_kernels.set_num_threads(6)
    start, calls = threading.Thread.start, [0]

    def refusing(self):
        calls[0] += 1
        if self.name.startswith("tcvae_kernels") and calls[0] % 2:
            raise RuntimeError("can't start new thread")
        start(self)

    threading.Thread.start = refusing
    callers = [threading.Thread(target=lambda: found.append(all_of_them())) for _ in range(3)]
    found = []
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    return found


def cold_threads():
    """Ten threads race to the first compilation; a callee of every kernel is compiled by several."""
    barrier = threading.Barrier(10)

    def call(_):
        barrier.wait()
        return everything(0)

    with ThreadPoolExecutor(10) as callers:
        found = list(callers.map(call, range(10)))
    return [[digest, *[everything(seed) for seed in SEEDS[1:]]] for digest in set(found)]


def cold_processes():
    """Four processes fill one empty cache at once."""
    started = [
        subprocess.Popen([sys.executable, __file__, "--child", "once"], stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    return [done.communicate()[0].split() for done in started]


def _forked(work):
    """What `work` gives in a forked child."""
    reading, writing = os.pipe()
    if (child := os.fork()) == 0:
        faulthandler.register(signal.SIGALRM, chain=True)  # where it stands; its own timer would need a thread
        signal.alarm(PATIENCE // 2)
        status = 1
        try:
            os.write(writing, " ".join(work()).encode())
            status = 0
        finally:
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading) as answer:
        found = answer.read().split()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status == 0, f"the child ended with {status}"
    return found


def fork_after_use():
    before = all_of_them()
    return [before, _forked(all_of_them), _forked(lambda: _forked(all_of_them)), all_of_them()]


def fork_in_the_midst():
    """Forks while other threads are within kernels."""
    over = threading.Event()

    def busy():
        while not over.is_set():
            all_of_them()

    callers = [threading.Thread(target=busy) for _ in range(3)]
    all_of_them()
    for caller in callers:
        caller.start()
    try:
        return [_forked(all_of_them) for _ in range(5)]
    finally:
        over.set()
        for caller in callers:
            caller.join()


def fork_during_compilation():
    """Forks while another thread compiles, and holds the compiler's lock and the cache's.

    Python's own locks of modules, held by a thread that imports, it does not give back in a forked child.
    """
    import autograd  # noqa: F401
    import numba
    from tcvae_kernels import elementwise, mixture  # noqa: F401

    numba.njit(lambda x: x + 1)(1)  # numba imports as it compiles
    found = []
    compiling = threading.Thread(target=lambda: found.append(all_of_them()))
    compiling.start()
    for _ in range(3):
        time.sleep(0.7)
        found.append(_forked(all_of_them))
    compiling.join()
    return found


def _pool(method):
    all_of_them()
    with multiprocessing.get_context(method).Pool(2) as pool:
        found = pool.map(all_of_them, range(4))
    with concurrent.futures.ProcessPoolExecutor(2, multiprocessing.get_context(method)) as pool:
        return found + list(pool.map(all_of_them, range(4)))


def joblib_loky():
    return _joblib("loky")


def joblib_threading():
    return _joblib("threading")


def joblib_multiprocessing():
    return _joblib("multiprocessing")


def _joblib(backend):
    import joblib

    all_of_them()
    inner = joblib.delayed(_nested)
    return [found for several in joblib.Parallel(2, backend=backend)(inner() for _ in range(3)) for found in several]


def _nested():
    """Threads within whatever this is called in."""
    with ThreadPoolExecutor(3) as callers:
        return list(callers.map(all_of_them, range(3)))


class _Batches:
    """A data set of PyTorch's kind whose items are digests, as numbers."""

    def __len__(self):
        return 8

    def __getitem__(self, k):
        return np.frombuffer(bytes.fromhex(everything(SEEDS[k % len(SEEDS)])), np.uint8)


def torch_loaders():
    import torch
    from torch.utils.data import DataLoader

    all_of_them()
    torch.ones(300, 300) @ torch.ones(300, 300)  # its own threads are there
    found = []
    for context in ("fork", "spawn", "forkserver"):
        loaded = DataLoader(_Batches(), batch_size=4, num_workers=2, multiprocessing_context=context)
        found += [[bytes(row.tolist()).hex() for row in batch.numpy()] for batch in loaded]
    return found


def torch_threads():
    """Kernels in a backward pass, which PyTorch runs on threads of its own."""
    import torch

    found = []

    class Ours(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            found.append(all_of_them())
            return gradient

    for _ in range(3):
        Ours.apply(torch.ones(3, requires_grad=True)).sum().backward()
    return found


def dask_workers():
    import distributed

    with (
        distributed.LocalCluster(2, threads_per_worker=2, dashboard_address=None) as cluster,
        distributed.Client(cluster) as client,
    ):
        return client.gather(client.map(all_of_them, range(6), pure=False))


def at_exit():
    """The last calls of a process: in an atexit handler, after the pools were shut down, also if they are the first."""
    script = """
import atexit, sys
sys.path.insert(0, {folder!r})
import concurrency
if {used}:
    concurrency.all_of_them()
atexit.register(lambda: print(*concurrency.all_of_them(), flush=True))
"""
    found = []
    for used in (True, False):
        text = script.format(folder=os.path.dirname(os.path.abspath(__file__)), used=used)
        done = subprocess.run([sys.executable, "-c", text], stdout=subprocess.PIPE, text=True, check=True)
        found.append(done.stdout.split())
    return found


def daemon_at_the_end():
    """The interpreter ends while a daemon thread is within kernels: it ends, and quietly."""
    script = """
import sys, threading, time
sys.path.insert(0, {folder!r})
import concurrency
def busy():
    while True:
        concurrency.everything(3)
concurrency.all_of_them()
threading.Thread(target=busy, daemon=True).start()
time.sleep(0.2)
"""
    text = script.format(folder=os.path.dirname(os.path.abspath(__file__)))
    for _ in range(5):
        done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
    return [all_of_them()]


def interrupts():
    """Ctrl-C at many moments within kernels: KeyboardInterrupt, soon, and right answers after."""
    import tcvae_kernels

    rng, caught = np.random.default_rng(0), 0
    big = [rng.standard_normal((1500, 5)) for _ in range(3)]
    tcvae_kernels.set_num_threads(3)
    found = [all_of_them()]
    tcvae_kernels.log_qz_mss(*big, 10**6)
    for turn in range(60):
        timer = threading.Timer(rng.uniform(0, 0.06), os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        begin = time.monotonic()
        try:
            while True:
                tcvae_kernels.expected_log_qz_mss(*big, 10**6)
                tcvae_kernels.log_qz_mss(*big, 10**6)
        except KeyboardInterrupt:
            caught += 1
        assert time.monotonic() - begin < 20, "an interrupt was long in coming"
        timer.join()
        if turn % 15 == 0:
            found.append(all_of_them())
    assert caught == 60
    _only_the_pool()
    return [*found, all_of_them()]


def _only_the_pool():
    others = [t.name for t in threading.enumerate() if t is not threading.main_thread()]
    assert all(name.startswith("tcvae_kernels") for name in others), others


class _Refused(Exception):
    pass


def hooks():
    """A progress hook that fails, one that calls kernels, and one that does both, on any number of threads."""
    import tcvae_kernels
    from tcvae_kernels import mixture, pairwise

    rng = np.random.default_rng(0)
    z, mu, log_var = (rng.standard_normal((600, 3)) for _ in range(3))
    found, calls = [], [
        lambda hook: pairwise.log_sums(z, mu, log_var, pairwise.Weights(0.0), hook),
        lambda hook: mixture.log_joint(z, mu, log_var, hook),
        lambda hook: mixture.log_density(z[:, 0], mu[:, 0], log_var[:, 0], np.zeros(600), progress=hook),
    ]  # fmt: skip

    def calling(done, total):
        if len(found) < 12:
            found.append(all_of_them())

    def failing(done, total):
        calling(done, total)
        raise _Refused

    for count in (1, 2, 5):
        tcvae_kernels.set_num_threads(count)
        for call in calls:
            found.clear()
            calm = [np.asarray(a).tobytes() for a in _arrays(call(None))]
            assert [np.asarray(a).tobytes() for a in _arrays(call(calling))] == calm
            assert found
            assert all(one == found[0] for one in found)
            with contextlib.suppress(_Refused):
                call(failing)
                raise AssertionError("a hook's error was lost")
            assert [np.asarray(a).tobytes() for a in _arrays(call(None))] == calm
    return [found[0], all_of_them()]


def _arrays(found):
    return found if isinstance(found, tuple) else [found]


def signal_handlers():
    """Handlers that call kernels, while kernels run."""
    found = []

    def handle(number, frame):
        found.append(all_of_them())

    signal.signal(signal.SIGALRM, handle)
    all_of_them()
    for _ in range(10):
        signal.setitimer(signal.ITIMER_REAL, 0.003)
        found.append(all_of_them())
    return found


def in_asyncio():
    async def main():
        loop = asyncio.get_running_loop()
        many = [asyncio.to_thread(all_of_them) for _ in range(6)]
        return [*await asyncio.gather(*many), await loop.run_in_executor(None, all_of_them), all_of_them()]

    return asyncio.run(main())


def compiling_ahead():
    """`make_ready` in several threads leaves the number of threads as it was."""
    import tcvae_kernels
    from tcvae_kernels import compiling

    tcvae_kernels.set_num_threads(5)
    with ThreadPoolExecutor(6) as callers:
        for _ in range(20):
            list(callers.map(lambda _: compiling.make_ready(compiling.EVALUATION, "float64"), range(6)))
    assert tcvae_kernels.get_num_threads() == 5, tcvae_kernels.get_num_threads()
    return [all_of_them()]


COLD = (cold_threads, cold_processes, fork_during_compilation)
"""Scenarios that begin with an empty cache."""
POOLS = {f"pool_{method}": functools.partial(_pool, method) for method in ("fork", "spawn", "forkserver")}
SCENARIOS = {
    f.__name__: f
    for f in (
        *(once, threads, no_threads_to_be_had, fork_after_use, fork_in_the_midst, joblib_loky, joblib_threading),
        *(joblib_multiprocessing, torch_loaders, torch_threads, dask_workers, at_exit, daemon_at_the_end, interrupts),
        *(hooks, signal_handlers, in_asyncio, compiling_ahead, *COLD),
    )
} | POOLS
ENVIRONMENTS = (
    {"NUMBA_NUM_THREADS": "1"},
    {"NUMBA_THREADING_LAYER": "omp"},
    {"NUMBA_THREADING_LAYER": "tbb"},
    {"NUMBA_THREADING_LAYER": "workqueue"},
    {"OMP_NUM_THREADS": "1"},
    {"OMP_NUM_THREADS": "7", "OPENBLAS_NUM_THREADS": "3", "MKL_NUM_THREADS": "5"},
    {"PYTHONDEVMODE": "1"},
)


def _child(name):
    faulthandler.dump_traceback_later(PATIENCE * 0.9, exit=True)
    found = {"alone": alone, **SCENARIOS}[name]()
    if name == "once":
        print(*found[0], flush=True)
        return
    for digests in found:
        print(" ".join(digests))
    atexit.register(sys.stdout.flush)


def _run(name, environment):
    """What a scenario's process prints, and how it ended."""
    with tempfile.TemporaryDirectory() as folder:
        empty = {"NUMBA_CACHE_DIR": folder} if name in {f.__name__ for f in COLD} else {}
        process = subprocess.Popen(
            [sys.executable, __file__, "--child", name],
            env={**os.environ, **environment, **empty, "PYTHONFAULTHANDLER": "1"},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip
        try:
            out, err = process.communicate(timeout=PATIENCE)
            return process.returncode, out, err
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            out, err = process.communicate()
            return "hangs", out, err


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0, help="of the order of scenarios")
    parser.add_argument("--only", nargs="*", choices=SCENARIOS, default=[*SCENARIOS])
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.child:
        _child(arguments.child)
        return 0
    status, out, err = _run("alone", {})
    assert status == 0, err
    expected, problems, results = out.strip(), 0, 0
    turns = [(name, {}) for name in arguments.only for _ in range(arguments.rounds)]
    if "once" in arguments.only:
        turns += [(name, environment) for environment in ENVIRONMENTS for name in ("once", "threads")]
    np.random.default_rng(arguments.seed).shuffle(turns)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    begin, done = time.monotonic(), 0
    with contextlib.suppress(KeyboardInterrupt):  # what was done until then is counted
        for name, environment in turns:
            status, out, err = _run(name, environment)
            lines = out.strip().splitlines()
            wrong = [line for line in lines if not set(line.split()) <= set(expected.split())]
            if status != 0 or wrong or not lines:
                problems += 1
                print(
                    f"PROBLEM  {name} {environment}: status {status}, {len(wrong)} other bits\n{err[-3000:]}",
                    flush=True,
                )
            results, done = results + len(lines), done + 1
            said = f"{time.monotonic() - begin:5.0f} s  {done} of {len(turns)}: {name} {environment or ''}"
            print(said, file=sys.stderr, flush=True)
    said = f"{done} processes, {results} results of {len(SEEDS)} batches, {problems} problems"
    print(f"seed {arguments.seed}; {said}")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
