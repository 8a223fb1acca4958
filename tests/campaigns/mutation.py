"""The campaign of mutation: one small mistake at a time is put into the code, and the tests have to notice.

    python tests/campaigns/mutation.py --room reference --minutes 4      # and again, until it says that all are judged
    python tests/campaigns/mutation.py --room reference --again 1        # survivors, once there are new tests
    python tests/campaigns/mutation.py --room reference --list           # what survived

How. The tests of a room are collected once, by a process that then forks for every mutant; the child exchanges the
code of the functions of one file for the mutated one's and runs the tests that reach the mutated line, quickest first,
until one fails. Which tests those are, a map says that is made once per test file (`coverage`, one context per test).
What runs at import cannot be exchanged: such mutants, and all with `--copies`, get a copy of the project with the
mutated file in it, from a process that has imported everything but the project. Hypothesis draws the same few
examples each time and does not shrink. The kernels run interpreted (NUMBA_DISABLE_JIT=1): what only differs compiled,
in `_jit.py`, is not mutated.

What no test can notice stands in `equivalent_mutants.py`, mutant by mutant, with the reason. Results go to
FOLDER/ROOM.jsonl, one line a mutant, and a stopped campaign goes on where it was, on another day if need be: the map,
FOLDER/map-ROOM, takes in new tests, and those again that reach a file that has changed. While there is a file
FOLDER/hold nothing new is begun, so that the machine can be had for something else. How long: about a second for
each mutant and core, and the map takes somewhat longer than the room's tests.
"""

import argparse
import collections
import contextlib
import gc
import hashlib
import importlib
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import types
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

TOP = Path(__file__).resolve().parents[2]
PATHS = ("", "kernels", "tcvae_ref/oracle/plugin", "tests")
QUIETLY = ("-p", "no:cacheprovider", "--no-header", "-W", "ignore::pytest.PytestAssertRewriteWarning")
MEMORY = 6 << 30  # bytes that a mutant may use
GRACE = 10.0  # CPU seconds on top of several times what the tests take
SLOWEST = 10.0  # CPU seconds; tests that take longer are left out
TRACED = 24  # tests whose lines are found out together
WHOLE = "whole"  # the name of a file that says so of the map beside it
HOLD = "hold"  # the name of a file in FOLDER that holds a campaign up


class Room(NamedTuple):
    """Files that are mutated and the test files that answer for them."""

    files: tuple[str, ...]
    tests: tuple[str, ...]
    environment: dict[str, str] = {}  # noqa: RUF012 -- read only
    words: str = ""
    """Tests with one of these in their name, as pytest's -k."""


ROOMS = {
    "reference": Room(
        (
            *(f"tcvae_ref/{name}.py" for name in (
                "gaussian", "estimators", "likelihood", "objectives", "decomposition", "priors", "checks",
                "discriminator", "networks", "convolution", "conv_networks", "types",
            )),
            *(f"tcvae_ref/training/{name}.py" for name in ("adam", "row_blocks", "gradients", "batches", "loop")),
        ),
        (
            "truth", "estimators", "twins", "reference", "priors", "convolution", "factor_vae", "training", "metrics",
            "decomposition", "elementwise", "scores", "cli", "checks",
        ),
    ),
    "kernels": Room(
        tuple(f"kernels/tcvae_kernels/{name}.py" for name in (
            "exp", "elementwise", "mixture", "pairwise", "estimators", "autograd_ops", "threads",
        )),
        ("kernels", "kernels_parts", "mixture", "elementwise"),
        {"NUMBA_DISABLE_JIT": "1"},
        "not a_forked_child and not without_numba",
    ),
    "metrics": Room(
        ("tcvae_ref/metrics/*.py",),
        (
            "entropy", "metrics", "decomposition", "mig_monte_carlo", "scores", "representations", "evaluation",
            "factor_vae", "mixture", "metrics_edges",
        ),
    ),
    "oracle": Room(("tcvae_ref/oracle/**/*.py",), ("oracle_*", "losses", "truth")),
}  # fmt: skip


def sources(room: Room) -> list[str]:
    """The files of a room, from the top of the project."""
    return [str(path.relative_to(TOP)) for pattern in room.files for path in sorted(TOP.glob(pattern))]


def test_files(room: Room) -> list[str]:
    """The test files of a room."""
    return [str(path.relative_to(TOP)) for name in room.tests for path in sorted(TOP.glob(f"tests/test_{name}.py"))]


# --- children ---------------------------------------------------------------------------------------------------------


class Child:
    """A forked process that calls work(tell) and whose word arrives through a pipe."""

    def __init__(self, work: Callable[[Callable[[str], None]], int], seconds: float) -> None:
        self.start, self.limit = time.monotonic(), 2.0 * seconds + 60.0  # on a machine with others' work
        self.pipe, told = os.pipe()
        self.folder = tempfile.mkdtemp(prefix="mutant-")
        self.pid = os.fork()
        if self.pid == 0:
            status = 70
            try:
                os.setsid()
                quiet = os.open(os.devnull, os.O_RDWR)
                for stream in (0, 1, 2) if not os.environ.get("MUTATION_TALKS") else (0,):
                    os.dup2(quiet, stream)
                os.environ["TMPDIR"] = tempfile.tempdir = self.folder
                used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
                resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
                resource.setrlimit(resource.RLIMIT_CPU, (int(seconds), int(seconds) + 5))
                status = work(lambda word: os.write(told, f"{word}\n".encode()))
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)
        os.close(told)

    def ended(self) -> tuple[str, str] | None:
        """None while it runs; then ("passed" | "failed" | "crashed" | "timed out", its last word)."""
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        late = not pid and time.monotonic() > self.start + self.limit
        if not pid and not late:
            return None
        self._kill()
        if late:
            os.waitpid(self.pid, 0)
        words = os.read(self.pipe, 1 << 16).decode().split("\n")
        os.close(self.pipe)
        shutil.rmtree(self.folder, ignore_errors=True)
        hows = {0: "passed", 1: "failed", -signal.SIGXCPU: "timed out", -signal.SIGKILL: "timed out"}
        how = "timed out" if late else hows.get(os.waitstatus_to_exitcode(status), "crashed")
        return how, words[-2] if len(words) > 1 else ""

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)  # its own group: itself and whatever its tests have started


def in_parallel(
    jobs: Iterable[tuple[Any, Callable[[], Child]]], processes: int, held: Path
) -> Iterator[tuple[Any, Child, tuple[str, str]]]:
    """Run at most so many children at a time; yield each job, its child and how it ended.

    While there is a file `held`, none is started.
    """
    running: list[tuple[Any, Child]] = []
    waiting = iter(jobs)
    more = True
    while running or more:
        while more and len(running) < processes and not held.exists():
            job = next(waiting, None)
            more = job is not None
            if job is not None:
                running.append((job[0], job[1]()))
        for pair in list(running):
            how = pair[1].ended()
            if how is not None:
                running.remove(pair)
                yield pair[0], pair[1], how
        time.sleep(0.004 if running else 1.0)


# --- the tests, collected once ----------------------------------------------------------------------------------------


class Results:
    """A pytest plugin: stops at the first test that fails, and says which it was."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self.tell, self.failed = tell, False

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed and not self.failed:
            self.failed = True
            self.tell(report.nodeid)


def few_examples(items: list[Any], count: int) -> None:
    """Let hypothesis draw the same few examples each time, keep none and shrink none."""
    from hypothesis import Phase, settings

    for item in items:
        test = getattr(item, "obj", None)
        chosen = getattr(test, "_hypothesis_internal_use_settings", None)
        if chosen is not None:
            test = getattr(test, "__func__", test)
            test._hypothesis_internal_use_settings = settings(
                chosen,
                max_examples=min(count, chosen.max_examples),
                derandomize=True,
                database=None,
                phases=(Phase.explicit, Phase.generate),
            )


def run_items(session: Any, items: list[Any], tell: Callable[[str], None], folder: str) -> int:
    """Run collected tests in this (forked) process until one fails: 1 if one did, else 0."""
    factory = session.config._tmp_path_factory
    factory._basetemp = Path(folder)
    results = Results(tell)
    session.config.pluginmanager.register(results)
    for item, following in zip(items, [*items[1:], None], strict=True):
        item.ihook.pytest_runtest_protocol(item=item, nextitem=following)
        if results.failed:
            return 1
    return 0


def collected(files: list[str], options: list[str], serve: Callable[[Any], None]) -> None:
    """Collect test files, then call serve(session) in place of running them."""
    import pytest

    class Server:
        @pytest.hookimpl(tryfirst=True)
        def pytest_runtestloop(self, session: Any) -> bool:
            serve(session)
            return True

    os.chdir(TOP)
    errors = pytest.main([*files, "-q", "-s", *QUIETLY, *options], plugins=[Server()])
    if errors:
        raise SystemExit(f"mutation: the tests could not be collected: exit status {errors}")


def import_everything_else() -> None:
    """What the tests import, but nothing of the project."""
    for name in (
        "numpy", "scipy.special", "scipy.stats", "scipy.integrate", "autograd", "autograd.numpy",
        "autograd.scipy.special", "hypothesis", "hypothesis.strategies", "flint", "ml_dtypes",
        "pytest", "coverage", "torch", "jax", "mpmath",
        "sklearn", "sklearn.ensemble", "sklearn.linear_model", "sklearn.svm", "joblib", "numba", "dask.array",
    ):  # fmt: skip
        try:
            __import__(name)
        except ImportError:
            print(f"  {name} is not installed: tests with it are skipped")


# --- the map: which tests reach which line ----------------------------------------------------------------------------


def trace(session: Any, items: list[Any], digests: dict[str, str], place: Path, tell: Callable[[str], None]) -> int:
    """Run some tests of one file and write down, for each, its lines, its seconds and whether it passes."""
    import coverage
    import pytest

    cover = coverage.Coverage(data_file=None, include=[str(TOP / path) for path in digests], config_file=False)
    seconds: dict[str, float] = {}
    bad: set[str] = set()

    def too_slow(*_: Any) -> None:
        raise TimeoutError("too slow for mutation")

    signal.signal(signal.SIGVTALRM, too_slow)

    class Contexts:
        @pytest.hookimpl(wrapper=True)
        def pytest_runtest_protocol(self, item: Any) -> Any:
            self.now = item.nodeid
            cover.switch_context(self.now)
            signal.setitimer(signal.ITIMER_VIRTUAL, SLOWEST)
            began = time.process_time()
            try:
                return (yield)
            finally:
                signal.setitimer(signal.ITIMER_VIRTUAL, 0)
                seconds[item.nodeid] = time.process_time() - began

        @pytest.hookimpl(wrapper=True)
        def pytest_fixture_setup(self, fixturedef: Any) -> Any:
            if fixturedef.scope == "function":
                return (yield)
            before, self.now = self.now, f"fixture {fixturedef.argname}"
            cover.switch_context(self.now)
            try:
                return (yield)
            finally:
                self.now = before
                cover.switch_context(before)

        def pytest_runtest_logreport(self, report: Any) -> None:
            if report.failed or report.skipped:
                bad.add(report.nodeid)

    session.config._tmp_path_factory._basetemp = Path(os.environ["TMPDIR"])
    session.config.pluginmanager.register(Contexts())
    cover.start()
    for item, following in zip(items, [*items[1:], None], strict=True):
        item.ihook.pytest_runtest_protocol(item=item, nextitem=following)
        tell(f"{item.nodeid}")
    cover.stop()
    lines: dict[str, dict[str, list[int]]] = {item.nodeid: {} for item in items}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that nothing was reached
        data = cover.get_data()
    for path in data.measured_files():
        name = str(Path(path).relative_to(TOP))
        for line, contexts in data.contexts_by_lineno(path).items():
            for context in contexts:
                if context.startswith("fixture "):
                    users = [i.nodeid for i in items if context.removeprefix("fixture ") in i.fixturenames]
                else:
                    users = [context] if context else []
                for user in users:
                    lines[user].setdefault(name, []).append(line)
    place.write_text(json.dumps([traced(t, seconds[t], t not in bad, lines[t], digests) for t in lines]))
    return 0


def traced(
    test: str, seconds: float, passes: bool, lines: dict[str, list[int]], digests: dict[str, str]
) -> dict[str, Any]:
    """A test's row of the map, with the sources that it depends on: those it reaches, or all if it did not pass."""
    sources = {path: digests[path] for path in (lines if passes else digests)}
    return {"test": test, "seconds": seconds, "passes": passes, "lines": lines, "sources": sources}


class Map:
    """Which tests reach a line, how long each takes, and how many lines of each file it reaches."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.seconds = {row["test"]: row["seconds"] for row in rows}
        self.lines = {row["test"]: {path: len(lines) for path, lines in row["lines"].items()} for row in rows}
        self.reach: dict[tuple[str, int], set[str]] = collections.defaultdict(set)
        for row in rows:
            if row["passes"]:
                for path, lines in row["lines"].items():
                    for line in lines:
                        self.reach[path, line].add(row["test"])

    def tests(self, mutant: Any, texts: dict[str, list[str]]) -> set[str]:
        """Tests that reach the mutant; at import, tests that reach a line with a name that the statement binds.

        What no test reaches may be a function that runs at import: then all tests that reach the file.
        """
        reached = self.reach.get((mutant.path, mutant.line), set())
        if mutant.scope and reached:
            return reached
        named = [
            place
            for path, lines in texts.items()
            for line, text in enumerate(lines, 1)
            if any(name and name in text for name in mutant.names)
            for place in [(path, line)]
        ]
        found = set().union(*(self.reach.get(place, set()) for place in named))
        return found or set().union(*(t for (path, _), t in self.reach.items() if path == mutant.path))


# --- mutants ----------------------------------------------------------------------------------------------------------


def import_all(paths: list[str]) -> None:
    """What tests would import later only: a function that is not there yet cannot get a mutant's code."""
    for path in paths:
        top = next(top for top in sorted(PATHS, key=len, reverse=True) if path.startswith(top))
        module = path.removeprefix(top).removesuffix(".py").removesuffix("__init__").strip("/").replace("/", ".")
        with contextlib.suppress(ImportError):  # an adapter of a framework that is not installed
            importlib.import_module(module)


def functions_of(paths: list[str]) -> dict[str, list[types.FunctionType]]:
    """All functions there are of each file."""
    found: dict[str, list[types.FunctionType]] = {str(TOP / path): [] for path in paths}
    for thing in gc.get_objects():
        if type(thing) is types.FunctionType and thing.__code__.co_filename in found:
            found[thing.__code__.co_filename].append(thing)
    return found


def codes(code: types.CodeType) -> Iterator[types.CodeType]:
    """A piece of code and all within."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from codes(constant)


def exchange(functions: list[types.FunctionType], filename: str, source: bytes) -> None:
    """Give functions of a file the code that it has in another source, line by line the same."""
    new: dict[tuple[str, int], list[types.CodeType]] = collections.defaultdict(list)
    for code in codes(compile(source, filename, "exec", dont_inherit=True)):
        new[code.co_qualname, code.co_firstlineno].append(code)
    for function in functions:
        old = function.__code__
        fitting = [c for c in new[old.co_qualname, old.co_firstlineno] if c.co_freevars == old.co_freevars]
        if len(fitting) == 1:
            function.__code__ = fitting[0]
        else:  # two lambdas on one line: the one that begins at the same place
            place = next(iter(old.co_positions()))
            for code in fitting:
                if (
                    list(code.co_positions())[1:2] == list(old.co_positions())[1:2]
                    or next(code.co_positions()) == place
                ):
                    function.__code__ = code


def copied(mutant: Any, folder: str) -> Path:
    """A copy of the project, of links to its files, with the mutant in it."""
    top = Path(folder) / "project"
    for part in ("tcvae_ref", "kernels", "tests"):
        shutil.copytree(
            TOP / part, top / part, copy_function=os.link, ignore=shutil.ignore_patterns("*.jsonl", "measured")
        )
    for name in ("pyproject.toml", "README.md"):
        os.link(TOP / name, top / name)
    source = (TOP / mutant.path).read_bytes()
    (top / mutant.path).unlink()
    (top / mutant.path).write_bytes(mutant.applied(source))
    return top


def run_copy(mutant: Any, tests: list[str], examples: int, tell: Callable[[str], None], folder: str) -> int:
    """Run tests on a copy of the project with the mutant in it: 1 if one fails, else 0."""
    import pytest

    top = copied(mutant, folder) if mutant is not None else TOP
    os.chdir(top)
    paths = [str(top / part) for part in PATHS]
    sys.path[:0] = paths
    os.environ["PYTHONPATH"] = os.pathsep.join(paths[:3])
    sys.dont_write_bytecode = True
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"

    class Few(Results):
        def pytest_collection_modifyitems(self, items: list[Any]) -> None:
            few_examples(items, examples)
            place = {test: n for n, test in enumerate(tests)}
            items.sort(key=lambda item: place.get(item.nodeid, 0))

    results = Few(tell)
    options = ["-x", "-q", "-s", *QUIETLY, f"--rootdir={top}", f"--basetemp={folder}/temporary"]
    status = pytest.main([*options, *tests], plugins=[results])
    if status not in (0, 1):  # the project cannot be imported, or the tests not collected
        tell("collection")
    return int(status != 0)


class Campaign:
    """One room's mutants, judged one after the other."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        from equivalent_mutants import reasons
        from mutants import mutants

        self.arguments, self.room = arguments, ROOMS[arguments.room]
        self.paths = sources(self.room)
        self.file = arguments.folder / f"{arguments.room}.jsonl"
        self.held = arguments.folder / HOLD
        every = [m for path in self.paths for m in mutants(TOP, path)]
        self.excluded = reasons(every, self.paths)
        if arguments.sample:
            order = {m.key: hashlib.sha1(f"{arguments.seed} {m.key}".encode()).digest() for m in every}
            every = sorted(every, key=lambda m: order[m.key])[: arguments.sample]  # the same ones after other changes
            every.sort(key=lambda m: (m.path, m.start))
        self.every = every
        self.texts = {path: (TOP / path).read_text().split("\n") for path in self.paths}
        self.kills: dict[tuple[str, str], int] = collections.Counter()
        self.judged: dict[str, dict[str, Any]] = {}
        if self.file.exists():
            for line in self.file.read_text().splitlines():
                row = json.loads(line)
                self.judged[row["key"]] = row
        self.began = time.monotonic()
        self.digests = {path: hashlib.sha1((TOP / path).read_bytes()).hexdigest()[:12] for path in self.paths}
        self.map_folder = arguments.folder / f"map-{arguments.room}"

    # what is left to do

    def left(self) -> list[Any]:
        wanted = [m for m in self.every if m.key not in self.excluded]
        if self.arguments.only:
            wanted = [m for m in wanted if self.arguments.only in f"{m.path}:{m.scope}"]
        if self.arguments.again:
            rows = {m.key: self.judged.get(m.key, {"status": "", "again": 0}) for m in wanted}
            open_ = [m for m in wanted if rows[m.key]["status"] in ("survived", "not covered")]
            return [m for m in open_ if rows[m.key]["again"] < self.arguments.again]
        return [m for m in wanted if m.key not in self.judged]

    def chosen(self, mutant: Any) -> list[str]:
        """The tests for a mutant, those first that killed its neighbours, take little and are about its file."""
        tests = self.map.tests(mutant, self.texts)

        def rank(test: str) -> float:
            lines = self.map.lines[test]
            about = lines.get(mutant.path, 0.1) / sum(lines.values())
            kills = self.kills[mutant.path, test] + 9 * self.kills[mutant.path + mutant.scope, test]
            return (self.map.seconds[test] + 0.02) / about / (1 + kills)

        order = sorted(tests, key=rank)
        total, taken = 0.0, []
        for test in order:
            if not taken or total + self.map.seconds[test] <= self.arguments.cap:
                taken.append(test)
                total += self.map.seconds[test]
        return taken

    def over(self) -> bool:
        return time.monotonic() - self.began > 60 * self.arguments.minutes

    # the map

    def make_map(self, session: Any) -> None:
        """A file for each group of tests that are not in the map yet, or not as they would be today."""
        self.map_folder.mkdir(parents=True, exist_ok=True)
        known = {row["test"] for row in self.rows()}
        items = collections.defaultdict(list)
        for item in session.items:
            if item.nodeid not in known:
                items[item.nodeid.split("::")[0]].append(item)
        groups = [own[k : k + TRACED] for own in items.values() for k in range(0, len(own), TRACED)]
        whole = self.map_folder / WHOLE
        whole.unlink(missing_ok=True)
        stamp = json.dumps(self.digests)

        def jobs() -> Iterator[Any]:
            for own in sorted(groups, key=len, reverse=True):
                if self.over():
                    return
                name = hashlib.sha1("\n".join([stamp, *(item.nodeid for item in own)]).encode()).hexdigest()[:12]
                place = self.map_folder / f"{name}.json"

                def start(own: Any = own, place: Path = place) -> Child:
                    return Child(lambda tell: trace(session, own, self.digests, place, tell), TRACED * SLOWEST)

                yield (own, place), start

        for (own, place), child, (how, word) in in_parallel(jobs(), self.arguments.processes, self.held):
            if how != "passed":  # left out
                place.write_text(json.dumps([traced(i.nodeid, 0.0, False, {}, self.digests) for i in own]))
                print(f"  map: left out: {how} after {word}: {len(own)} tests from {own[0].nodeid} on", flush=True)
            else:
                print(f"  map: {own[0].nodeid} and on in {time.monotonic() - child.start:.0f} s", flush=True)
        if not self.over():
            whole.write_text(stamp)

    def rows(self) -> list[dict[str, Any]]:
        """What the map says of each test, if the sources that the test depends on are as they were then."""
        every = [row for place in sorted(self.map_folder.glob("*.json")) for row in json.loads(place.read_text())]
        return [row for row in every if row["sources"].items() <= self.digests.items()]

    def read_map(self) -> bool:
        """Whether there is a map of all tests, made of these sources."""
        self.map = Map(self.rows())
        whole = self.map_folder / WHOLE
        return whole.exists() and whole.read_text() == json.dumps(self.digests)

    # judging

    def record(self, mutant: Any, status: str, word: str, seconds: float) -> None:
        row = {
            "key": mutant.key, "status": status, "by": word, "seconds": round(seconds, 2),
            "again": self.arguments.again, "path": mutant.path, "line": mutant.line, "scope": mutant.scope,
            "text": mutant.text,
            "before": mutant.before, "after": mutant.after,
        }  # fmt: skip
        self.judged[mutant.key] = row
        with self.file.open("a") as out:
            out.write(json.dumps(row) + "\n")
        if status == "killed" and "::" in word:
            self.kills[mutant.path, word] += 1
            self.kills[mutant.path + mutant.scope, word] += 1

    def judge(self, wanted: list[Any], start: Callable[[Any, list[str]], Child]) -> None:
        statuses = {"passed": "survived", "failed": "killed", "crashed": "crashed", "timed out": "timed out"}
        told = time.monotonic()

        def jobs() -> Iterator[Any]:
            for mutant in wanted:
                if self.over():
                    return
                tests = self.chosen(mutant)
                if tests:
                    yield mutant, lambda mutant=mutant, tests=tests: start(mutant, tests)
                else:
                    self.record(mutant, "not covered", "", 0.0)

        ended = in_parallel(jobs(), self.arguments.processes, self.held)
        for done, (mutant, child, (how, word)) in enumerate(ended, 1):
            self.record(mutant, statuses[how], word, time.monotonic() - child.start)
            if time.monotonic() > told + 20.0:
                told = time.monotonic()
                print(f"  {done} of {len(wanted)} in {told - self.began:.0f} s: {self.summary()}", flush=True)

    def limit(self, tests: list[str]) -> float:
        return GRACE + 5.0 * sum(self.map.seconds[t] for t in tests)

    def serve(self, session: Any) -> None:
        """With the tests collected: make the map of new ones; then all mutants whose code can be exchanged."""
        few_examples(session.items, self.arguments.examples)
        self.make_map(session)
        if not self.read_map():
            return
        items = {item.nodeid: item for item in session.items}
        self.map.seconds = {t: s for t, s in self.map.seconds.items() if t in items}
        import_all(self.paths)
        functions = functions_of(self.paths)
        gc.collect()
        gc.freeze()  # the children share what the parent holds

        def start(mutant: Any, tests: list[str]) -> Child:
            def work(tell: Callable[[str], None]) -> int:
                name = str(TOP / mutant.path)
                exchange(functions[name], name, mutant.applied((TOP / mutant.path).read_bytes()))
                return run_items(session, [items[t] for t in tests if t in items], tell, os.environ["TMPDIR"])

            return Child(work, self.limit(tests))

        self.judge([m for m in self.left() if m.scope and self.map.reach.get((m.path, m.line))], start)

    def copies(self) -> None:
        """From a process that has not imported the project: what runs at import only."""

        def start(mutant: Any, tests: list[str]) -> Child:
            def work(tell: Callable[[str], None]) -> int:
                return run_copy(mutant, tests, self.arguments.examples, tell, os.environ["TMPDIR"])

            return Child(work, 20.0 + self.limit(tests))

        if self.read_map():
            self.judge(self.left(), start)

    def summary(self) -> str:
        """One line of counts."""
        counts = collections.Counter(
            self.judged[m.key]["status"] for m in self.every if m.key in self.judged and m.key not in self.excluded
        )
        excluded = sum(m.key in self.excluded for m in self.every)
        judged = sum(counts.values())
        noticed = counts["killed"] + counts["crashed"] + counts["timed out"]
        return (
            f"{len(self.every)} mutants, {excluded} excluded, {judged} judged, {counts['killed']} killed, "
            f"{counts['crashed']} crashed, {counts['timed out']} timed out, {counts['survived']} survived, "
            f"{counts['not covered']} not covered: "
            f"{100 * noticed / max(judged, 1):.1f} % noticed"
        )

    def list_survivors(self) -> None:
        """The survivors, line by line."""
        for m in self.every:
            row = self.judged.get(m.key)
            if row and m.key not in self.excluded and row["status"] in ("survived", "not covered"):
                print(f"{m.path}:{m.line} {m.scope} [{row['status']}] {m.before!r} -> {m.after!r} | {m.text}")


def main() -> None:
    """Judge a room's mutants, as far as the minutes go."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--room", choices=sorted(ROOMS), required=True)
    parser.add_argument("--folder", type=Path, default=TOP / ".mutation", help="where results and the map are")
    parser.add_argument("--minutes", type=float, default=1e9, help="stop then; the next call goes on")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--cap", type=float, default=2.0, help="seconds of tests for one mutant")
    parser.add_argument("--examples", type=int, default=20, help="of a property-based test, at most")
    parser.add_argument("--sample", type=int, default=0, help="so many mutants, at random")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="part of `path:function`")
    parser.add_argument("--again", type=int, default=0, help="1, 2, ...: judge survivors again, for this time")
    parser.add_argument("--copies", action="store_true", help="a copy of the project for every mutant")
    parser.add_argument("--list", action="store_true", help="print the survivors and stop")
    arguments = parser.parse_args()
    arguments.folder = arguments.folder.resolve()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    os.environ.update(ROOMS[arguments.room].environment, CI="1", OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")
    os.environ["PYTHONPATH"] = os.pathsep.join(str(TOP / part) for part in PATHS[:3])
    campaign = Campaign(arguments)
    print(f"mutation: {arguments.room}, seed {arguments.seed}: {campaign.summary()}", flush=True)
    if arguments.list:
        campaign.list_survivors()
        return
    import_everything_else()
    if not arguments.copies:
        server = os.fork()
        if server == 0:
            try:
                sys.path[:0] = [str(TOP / part) for part in PATHS]
                collected(test_files(campaign.room), ["-k", campaign.room.words], campaign.serve)
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                os._exit(0)
        os.waitpid(server, 0)
        began, campaign = campaign.began, Campaign(arguments)
        campaign.began = began
    campaign.copies()
    print(f"mutation: {arguments.room}: {campaign.summary()}")


if __name__ == "__main__":
    main()
