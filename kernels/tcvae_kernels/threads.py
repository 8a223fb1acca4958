"""Blocks of work on threads of our own: kernels run without the GIL.

Every block writes to places of its own. Where blocks are added up they are cut, and added, without regard to the
number of threads; elsewhere a row's result does not depend on its block. So results are the same bits for any number
of threads.
"""

import contextlib
import contextvars
import functools
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from tcvae_ref import checks
from tcvae_ref.types import ProgressHook

_pool: ThreadPoolExecutor | None = None
_pool_size = 0
_lock = threading.Lock()


def _available() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS, Windows
        return os.cpu_count() or 1


_threads = _available()


def get_num_threads() -> int:
    """Threads that kernels use; at first, the processors this process may run on."""
    return _threads


def set_num_threads(threads: int) -> None:
    """Let kernels use so many threads, from the next call on.

    Parameters
    ----------
    threads : int
        1 to 1024. Results are the same bits for any number.

    Raises
    ------
    InputError, TypeError
        threads is not a whole number from 1 to 1024.
    """
    global _threads
    _threads = checks.whole_number("set_num_threads", "threads", threads, 1, 1024)


def _helpers(wanted: int) -> ThreadPoolExecutor:
    global _pool, _pool_size
    with _lock:
        if _pool is None or _pool_size < wanted:
            if _pool is not None:
                _pool.shutdown(wait=False)
            _pool, _pool_size = ThreadPoolExecutor(wanted, "tcvae_kernels"), wanted
        return _pool


def _forget() -> None:
    """A forked child has none of its parent's threads."""
    global _pool, _pool_size, _lock
    _pool, _pool_size, _lock = None, 0, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def run(work: Callable[[int], None], blocks: int) -> None:
    """Call work(0), work(1), ... work(blocks - 1), on as many threads as are set; the caller's is one of them."""
    numbers: Iterator[int] = iter(range(blocks))
    take = threading.Lock()

    def worker() -> None:
        while True:
            with take:
                number = next(numbers, None)
            if number is None:
                return
            work(number)

    helpers = min(_threads, blocks) - 1
    futures: list[Future[None]] = []
    if helpers > 0:
        pool = _helpers(helpers)
        with contextlib.suppress(RuntimeError):  # a larger pool took this one's place meanwhile
            for _ in range(helpers):
                own = contextvars.copy_context()  # the caller's np.errstate holds on every thread
                futures.append(pool.submit(functools.partial(own.run, worker)))  # those that started are waited for
    try:
        worker()
    finally:
        with take:
            for _ in numbers:  # after an error the rest is not begun
                pass
        for future in futures:
            future.result()


def in_order(progress: ProgressHook | None) -> ProgressHook:
    """A hook for work on threads: `progress` is called by one thread at a time, never with less than before."""
    lock, furthest = threading.Lock(), [0]

    def report(done: int, total: int) -> None:
        with lock:
            if progress is not None and done > furthest[0]:
                furthest[0] = done
                progress(done, total)

    return report
