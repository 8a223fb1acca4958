"""Blocks of work on threads of our own: kernels run without the GIL.

Every block writes to places of its own. Where blocks are added up they are cut, and added, without regard to the
number of threads; elsewhere a row's result does not depend on its block. So results are the same bits for any number
of threads.
"""

import _thread
import contextlib
import contextvars
import ctypes
import os
import threading
from collections.abc import Callable, Iterator
from queue import SimpleQueue

from tcvae_ref import checks
from tcvae_ref.types import ProgressHook

# An interrupt, or a signal's handler that calls kernels itself, may come between any two of Python's instructions. It
# leaves no lock held and no block running: locks are held by `with`, the one that all calls share may be taken again by
# its holder, queues and starts of threads are single instructions (an executor's are not), and a call does not end
# before its helpers have.
_lock = threading.RLock()
_asked: "SimpleQueue[_Blocks]" = SimpleQueue()
_helpers = 0
"""Threads that serve what is asked."""
_helping: list[int] = []
"""Their numbers, as the system calls them."""
MOST_SENT = 16
"""With more processors helpers wake where the system lets them: each that is sent elsewhere costs two system calls."""


def _number_of_processor() -> Callable[[], int] | None:
    """What tells the processor that a thread is on, where threads can be sent to others."""
    try:
        return ctypes.CDLL(None).sched_getcpu if hasattr(os, "sched_setaffinity") else None
    except (AttributeError, OSError):
        return None


_processor = _number_of_processor()


def _available() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS, Windows
        return os.cpu_count() or 1


_threads = _available()
_here = threading.local()
"""What holds in one thread alone: `most`, the threads that its calls use at most."""


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


def _forget() -> None:
    """A forked child has none of its parent's threads."""
    global _lock, _asked, _helpers, _helping
    _lock, _asked, _helpers, _helping = threading.RLock(), SimpleQueue(), 0, []


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


@contextlib.contextmanager
def single() -> Iterator[None]:
    """Let this thread's calls use no other thread; those of other threads go on as they are."""
    before = getattr(_here, "most", None)
    _here.most = 1
    try:
        yield
    finally:
        _here.most = before


class _Blocks:
    """Blocks of one call, taken one by one by whoever has time.

    What is waited for are helpers at work, not helpers asked for: these may be held by other calls, or be the very one
    that calls, and find nothing to do once they come.
    """

    def __init__(self, work: Callable[[int], None], blocks: int):
        self._work = work
        self._left: Iterator[int] = iter(range(blocks))
        self._lock = threading.Lock()
        self._helping = 0
        self._helped: SimpleQueue[None] = SimpleQueue()
        self._errors: list[BaseException] = []
        self._context = contextvars.copy_context()
        self._ended = False
        self.allowed: set[int] = set()
        """The processors that helpers may use, where they have been sent elsewhere to wake."""

    def do(self) -> None:
        """Work on blocks until none is left; after an error the rest is not begun."""
        try:
            while (number := self._take()) is not None:
                self._work(number)
        finally:
            self._close()

    def _close(self) -> None:
        with self._lock:
            self._left = iter(())

    def _take(self) -> int | None:
        with self._lock:
            return next(self._left, None)

    def help(self) -> None:
        """`do`, on another thread than the caller's, which gets the error, under the caller's np.errstate."""
        with self._lock:
            if self._ended:
                return
            self._helping += 1
        try:
            self._context.copy().run(self.do)
        except BaseException as error:
            self._errors.append(error)
        with self._lock:
            self._helping -= 1
        self._helped.put(None)

    def wait(self) -> None:
        """Let nobody begin, wait for the helpers at work, also when interrupted, and raise their first error.

        A call that has ended holds nothing of its caller's, though it may be in the queue for long.
        """
        try:
            self._wait()
        except BaseException:
            self._wait()
            raise
        finally:
            self._work, self._context = _nothing, contextvars.Context()
        if self._errors:
            error = self._errors[0]
            self._errors.clear()  # no circle of an error, its frames and what they hold
            raise error

    def _wait(self) -> None:
        self._close()
        while self._at_work():
            self._helped.get()

    def _at_work(self) -> int:
        with self._lock:
            self._ended = not self._helping
            return self._helping


def _nothing(block: int) -> None:
    """The work of a call that has ended."""


def _send_elsewhere(helpers: list[int]) -> set[int]:
    """Let helpers wake on other processors than this thread's; those that this thread may use, if any were sent.

    Linux may wake a helper behind its caller, where it waits until that has used up its time, though another processor
    is idle: on two processors, after a pause of 0.2 s, 10 ms of work took 14 ms in the median.
    """
    if _processor is None:
        return set()
    allowed, here = os.sched_getaffinity(0), _processor()
    if not 1 < len(allowed) <= MOST_SENT:
        return set()
    for helper in helpers:
        with contextlib.suppress(OSError):  # forbidden
            os.sched_setaffinity(helper, allowed - {here})
    return allowed


def _ask(todo: _Blocks, helpers: int) -> None:
    """Let so many threads help, or as many as can be had: none are when Python ends."""
    global _helpers
    with _lock:
        with contextlib.suppress(RuntimeError):
            while _helpers < helpers:
                _thread.start_new_thread(_serve, (_asked,))
                _helpers += 1
        todo.allowed = _send_elsewhere(_helping)
        for _ in range(min(helpers, _helpers)):
            _asked.put(todo)


def _serve(asked: "SimpleQueue[_Blocks]") -> None:
    _helping.append(threading.get_native_id())
    while True:
        todo = asked.get()
        if todo.allowed:  # once awake, wherever its caller may
            with contextlib.suppress(OSError):
                os.sched_setaffinity(0, todo.allowed)
        todo.help()


def run(work: Callable[[int], None], blocks: int) -> None:
    """Call work(0), work(1), ... work(blocks - 1), on as many threads as are set; the caller's is one of them."""
    todo = _Blocks(work, blocks)
    helpers = min(getattr(_here, "most", None) or _threads, blocks) - 1
    try:
        try:
            if helpers > 0:
                _ask(todo, helpers)
            todo.do()
        finally:
            todo.wait()
    except BaseException:
        todo.wait()  # again: an interrupt may have come before the first
        raise


def in_order(progress: ProgressHook | None) -> ProgressHook:
    """A hook for work on threads: `progress` is called by one thread at a time, never with less than before."""
    lock, furthest = threading.Lock(), [0]

    def report(done: int, total: int) -> None:
        with lock:
            if progress is not None and done > furthest[0]:
                furthest[0] = done
                progress(done, total)

    return report
