"""Running a study's jobs in parallel processes, each once, so that whatever is killed goes on where it was.

A store is a folder `runs` with a folder for each job, named by the job's key, and `photographs`, where all workers map
them from once they are cropped and resized. A job is done when its `result.json` is
there and holds what is asked; a training run beside it is a run like any other. Every worker takes one thread, and no
result depends on how many workers there are.
"""

import os
import platform
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from tcvae_ref import __version__, extensions
from tcvae_ref.checks import InputError
from tcvae_ref.data.factors import FactorDataset
from tcvae_ref.data.image_folder import without_warnings
from tcvae_ref.files import alone, check_seal, clear_away, locked, read_json, sealed, write_json
from tcvae_ref.studies.study import RunSpec
from tcvae_ref.training import Operations, Run, TrainingDiverged, TrainingState, initial_state, train
from tcvae_ref.training.run import FILES, Saver
from tcvae_ref.training.sources import PHOTOGRAPHS as PHOTOGRAPH_KINDS
from tcvae_ref.training.sources import load_source
from tcvae_ref.types import ProgressHook

RUNS, PHOTOGRAPHS, RESULT = "runs", "photographs", "result.json"
_LOCK = ".job"
_POSITION = ".position"
_WHOLE = 100  # a job, in progress reports
FORMAT = 1
PACKAGES = ("numpy", "scipy", "autograd", "scikit-learn", "numba")
"""Whose versions are recorded."""


class Job(NamedTuple):
    """One thing to compute, and what its result must hold."""

    key: str
    wanted: tuple[str, ...]
    """Names of its parts."""
    payload: Any
    """What the work is done from; it travels to another process."""


Work = Callable[[Job, Path, ProgressHook, Callable[[], bool]], dict[str, Any]]
"""work(job, folder, progress, stop): compute the parts that are wanted, by name; `stop` says whether nobody waits."""


class Failed(Exception):
    """A job cannot be done, and never will be: a result of the study."""


class Stopped(Exception):
    """The job was asked to stop; it goes on later."""


# --- a store -----------------------------------------------------------------------------------------------


def result_of(store: Path, job: Job) -> dict[str, Any] | None:
    """The result of a job, if it is there and holds all that is wanted; a failed one holds no more than the reason."""
    content = _read(store / RUNS / job.key / RESULT)
    if content is None:
        return None
    complete = content["status"] == "failed" or set(job.wanted) <= content["parts"].keys()
    return content if complete else None


_KINDS: dict[str, type | tuple[type, ...]] = {
    **{"key": str, "status": str, "reason": str, "computed_with": str},
    **{"parts": dict, "versions": dict, "seconds": (int, float)},
}
"""What a result holds."""


def _is_cell(name: str, value: Any) -> bool:
    """Whether a value can stand in a column of this name: a word in one of words, else a number, or nothing."""
    if name in ("metric", "dial", "reason", "estimator") or name.endswith("_left_out"):
        return isinstance(value, str | None)
    return value is None or isinstance(value, float) or (isinstance(value, int) and abs(value) < 2**63)


def _read(path: Path) -> dict[str, Any] | None:
    """A result as `do` wrote it, whatever was wanted then; None where there is none."""
    if not path.is_file():
        return None
    content = read_json(path)
    if content.get("format") != FORMAT:
        raise InputError(f"{path}: format {content.get('format')!r}; this version reads {FORMAT}: choose another --out")
    check_seal(path, content, "remove it, and tcvae-ref sweep computes it again")
    wrong = [name for name, kind in _KINDS.items() if not isinstance(content.get(name), kind)]
    if not wrong:
        rows = [row for part in content["parts"].values() for row in (part if isinstance(part, list) else [part])]
        if not all(isinstance(row, dict) and all(map(_is_cell, row, row.values())) for row in rows):
            wrong = ["parts"]
        if not all(isinstance(number, str) for number in content["versions"].values()):
            wrong = ["versions"]
    if wrong or content["status"] not in ("done", "failed"):
        raise InputError(f"{path}: is damaged in {', '.join(wrong) or 'status'}; remove it, and it is computed again")
    return content


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    found = {"tcvae_ref": __version__, "python": platform.python_version()}
    return found | {name.replace("-", "_"): said for name, said in extensions.versions(*PACKAGES, absent="").items()}


# --- one job, in a worker ----------------------------------------------------------------------------------


def do(job: Job, store: Path, work: Work, computed_with: str, parent: int | None) -> str:
    """Do a job, on one thread, and write its result; what is there already is kept.

    Parameters
    ----------
    job : Job
    store : Path
    work : function
    computed_with : str
        For the record: kernels or NumPy.
    parent : int or None
        A process without which there is nobody to work for: the work stops when it is gone.

    Returns
    -------
    str
        The status: done or failed.
    """
    from threadpoolctl import threadpool_limits

    folder = store / RUNS / job.key
    folder.mkdir(parents=True, exist_ok=True)
    with threadpool_limits(1), alone(folder / _LOCK):  # the worker of a sweep that was killed may be at it still
        clear_away(folder, RESULT)
        found = result_of(store, job)
        if found is None:
            found = _result(job, folder, work, computed_with, parent)
            write_json(folder / RESULT, sealed(found))
        (folder / _POSITION).unlink(missing_ok=True)
    return str(found["status"])


def _result(job: Job, folder: Path, work: Work, computed_with: str, parent: int | None) -> dict[str, Any]:
    start, due = time.monotonic(), 0.0

    def progress(done: int, total: int) -> None:
        nonlocal due
        if time.monotonic() >= due:
            due = time.monotonic() + 1.0
            with suppress(OSError):  # a full disk ends the work when there is something to save
                (folder / _POSITION).write_text(str(_WHOLE * done // total))

    path = folder / RESULT
    before = _read(path)  # of another study, which wanted less
    kept = before["parts"] if before is not None else {}
    try:
        missing = job._replace(wanted=tuple(name for name in job.wanted if name not in kept))
        parts = work(missing, folder, progress, lambda: parent is not None and os.getppid() != parent)
        outcome = {"status": "done", "reason": "", "parts": {**kept, **parts}}
    except Failed as error:
        if kept:  # what was measured once is not lost to what cannot be measured now
            raise InputError(f"{folder}: {error}; its earlier result is kept") from None
        outcome = {"status": "failed", "reason": str(error), "parts": {}}
    about: dict[str, Any] = {"versions": versions(), "computed_with": computed_with}
    seconds = time.monotonic() - start
    if before is not None:
        about["versions"] = {name: _both(before["versions"].get(name, ""), now) for name, now in versions().items()}
        about["computed_with"] = _both(before["computed_with"], computed_with)
        seconds += before["seconds"]
    return {"format": FORMAT, "key": job.key, **about, **outcome, "seconds": round(seconds, 2)}


def _both(before: str, now: str) -> str:
    """What some parts of a result were made with, and others."""
    return now if before == now else f"{before}; {now}"


def train_run(
    spec: RunSpec,
    folder: Path,
    operations: Operations,
    progress: ProgressHook,
    stop: Callable[[], bool],
) -> tuple[FactorDataset, TrainingState]:
    """Train a run to its end in `folder`, from where it stands; `tcvae-ref evaluate` then reads it.

    Returns
    -------
    data, state

    Raises
    ------
    Failed
        The settings do not fit the data, or training diverged.
    InputError
        What the folder holds is damaged, or another run, or the data changed.
    Stopped
        It was asked to.
    """
    photographs = folder.parents[1] / PHOTOGRAPHS if spec.source.kind in PHOTOGRAPH_KINDS else None
    with without_warnings():
        data = load_source(spec.source, cache=photographs)
    operations = operations.having(spec.settings.estimator)  # one that cannot be had is no failure of the run
    with locked(folder, FILES):
        with _failing():
            steps = spec.settings.steps(len(data))
        run = _run(spec, folder, data)
        state = run.load(data.images.pixels, len(data))
        save = Saver(run)
        if state.step < steps:
            done = (spec.settings, data, state, save, lambda done, total, terms: progress(done, total), stop)
            with _failing():
                state = train(*done, operations)
        save.now(state)
    if state.step < steps:
        raise Stopped
    return data, state


def _run(spec: RunSpec, folder: Path, data: FactorDataset) -> Run:
    if not (folder / FILES[0]).exists():
        with _failing():
            initial_state(spec.settings, data.images.pixels)
        return Run.create(folder, spec.settings, spec.source, data)
    run = Run.open(folder)
    if run.settings != spec.settings or run.source != spec.source:
        raise InputError(
            f"{folder}: is not the run of its name, it was changed by other means than tcvae-ref sweep; move it away"
        )
    run.check_data(data)
    return run


@contextmanager
def _failing() -> Iterator[None]:
    """Turn what a run's own settings lead to into the news that it failed."""
    try:
        yield
    except (TrainingDiverged, InputError) as error:
        raise Failed(str(error)) from None


# --- all jobs ----------------------------------------------------------------------------------------------


def sweep(
    jobs: Sequence[Job],
    store: Path,
    work: Work,
    computed_with: str,
    workers: int,
    cluster: str | None,
    progress: Callable[[int, int, str], None],
    retry: bool = False,
) -> dict[str, dict[str, Any]]:
    """Do all jobs that are not done.

    Parameters
    ----------
    jobs : sequence of Job
    store : Path
    work : function
        Of a module, so that another process finds it by its name.
    computed_with : str
    workers : int
        Processes here; without effect on a cluster.
    cluster : str or None
        dask://HOST:PORT of a Dask scheduler whose workers have one thread each and see `store` by the same path.
    progress : function
        Called as progress(done, total, text), in hundredths of a job.
    retry : bool
        Whether failed jobs are tried again.

    Returns
    -------
    dict
        Every job's result by its key, in the order of the jobs.

    Raises
    ------
    InputError
        joblib, scikit-learn or Dask is missing, the cluster is not there or its workers have several threads, or they
        do not see the store; a worker was killed; a run's folder is damaged.
    """
    if retry:
        for job in jobs:
            found = result_of(store, job)
            if found is not None and found["status"] == "failed":
                (store / RUNS / job.key / RESULT).unlink()
    pending = [job for job in jobs if result_of(store, job) is None]
    if pending:
        (store / RUNS).mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            parallel, parent = _parallel(stack, workers, cluster)
            tally = stack.enter_context(_Tally(jobs, pending, store, progress))
            import joblib

            calls = (joblib.delayed(do)(job, store, work, computed_with, parent) for job in pending)
            try:
                for status in parallel(calls):
                    tally.add(status)
            except BrokenProcessPool:
                raise InputError(
                    "sweep: a worker was killed, for want of memory perhaps; start it again with fewer --jobs, what is "
                    "done is kept"
                ) from None
    results = {job.key: result_of(store, job) for job in jobs}
    missing = [name for name, found in results.items() if found is None]
    if missing:
        raise InputError(
            f"sweep: {len(missing)} of {len(jobs)} results are not in {store}; the cluster's workers must see that "
            "folder by the same path"
        )
    return {name: found for name, found in results.items() if found is not None}


def _parallel(stack: ExitStack, workers: int, cluster: str | None) -> tuple[Any, int | None]:
    """Make joblib's Parallel in its context, and the process that its workers are children of."""
    try:
        import joblib
        import sklearn  # noqa: F401  # so that no worker finds it missing, and leaves its scores out for good
        import threadpoolctl  # noqa: F401
    except ImportError as error:
        raise InputError(f"sweep: {error.name} is not installed; pip install 'tcvae-ref[experiments]'") from None
    if cluster is None:
        stack.enter_context(joblib.parallel_config(backend="loky", inner_max_num_threads=1))
        return joblib.Parallel(workers, batch_size=1, return_as="generator_unordered"), (
            os.getpid() if workers > 1 else None
        )
    client = stack.enter_context(_client(cluster))
    stack.enter_context(joblib.parallel_config(backend="dask", client=client))
    return joblib.Parallel(batch_size=1, return_as="generator_unordered"), None


def _client(cluster: str) -> Any:
    if not cluster.startswith("dask://") or ":" not in cluster.removeprefix("dask://"):
        raise InputError(f"sweep: --on {cluster!r}; the form is dask://HOST:PORT, the address of a Dask scheduler")
    try:
        import distributed
    except ImportError:
        raise InputError("sweep: Dask is not installed; pip install 'tcvae-ref[cluster]'") from None
    try:
        client: Any = distributed.Client(cluster.replace("dask://", "tcp://"), timeout=10, set_as_default=False)
    except (OSError, TimeoutError, ValueError) as error:
        raise InputError(f"sweep: no Dask scheduler answers at {cluster} ({error})") from None
    threads = client.nthreads()
    if not threads or max(threads.values()) > 1:
        client.close()
        raise InputError(
            f"sweep: the cluster's {len(threads)} workers have {sorted(threads.values())} threads; each needs one: "
            "start them with dask worker --nthreads 1 --nworkers W"
        )
    return client


class _Tally:
    """Shows how far all jobs are, those at work included: they leave their position in their folders."""

    def __init__(self, jobs: Sequence[Job], pending: Sequence[Job], store: Path, progress: Callable[..., None]):
        self._jobs, self._pending, self._store, self._progress = jobs, pending, store, progress
        self._complete: set[str] = set()
        """Keys of those whose results were seen: they are not read again every second."""
        self._failed = self._finished = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "_Tally":
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._over.set()
        self._thread.join()

    def add(self, status: str) -> None:
        """Count a finished job."""
        self._finished += 1
        self._failed += status == "failed"

    def _watch(self) -> None:
        before = _WHOLE * (len(self._jobs) - len(self._pending))
        already = len(self._jobs) - len(self._pending)
        while not self._over.wait(1.0):
            text = f"{already + self._finished} of {len(self._jobs)} runs" + (
                f", {self._failed} failed" if self._failed else ""
            )
            self._progress(before + sum(map(self._position, self._pending)), _WHOLE * len(self._jobs), text)

    def _position(self, job: Job) -> int:
        folder = self._store / RUNS / job.key
        try:
            if job.key in self._complete or result_of(self._store, job) is not None:
                self._complete.add(job.key)
                return _WHOLE
            return min(int((folder / _POSITION).read_text()), _WHOLE)
        except (OSError, ValueError, InputError):  # what is wrong with a result is said by whoever needs it
            return 0
