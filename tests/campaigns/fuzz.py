"""What does the command line do with whatever a user hands in? Valid inputs, mutated in their structure, at random.

    python tests/campaigns/fuzz.py --target npz --minutes 3 --seed 0
    python tests/campaigns/fuzz.py --target npz --seed 0 --case 1234     # one case again, with its output

Each case is made in a sandbox of its own (`fuzz_inputs.py`), with its inputs in `in`, and run in a fork of this
process, some hundreds a minute. Whatever the input is, these must hold:

    status      0, 1 or 2 (3 of check and replay); no traceback, no warning, no crash
    message     a failure says why: one line on standard error for wrong usage, not longer than a screen
    time        it ends by itself within the limit; what may take long (training) ends in order on SIGTERM
    files       nothing is written but in `out`, nothing in `in` changes, no temporary file is left; wrong usage writes
                nothing at all
    pickles     none is loaded: those planted make a file
    memory      less than a GB above what a process begins with: a header that declares more is refused by what it says

A violation is counted under what is seen of it (the exception and its place, or the invariant), and the sandbox of the
first of each is kept. `--target all` shares the minutes among all targets.
"""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # a fork has one thread

import argparse
import collections
import contextlib
import gc
import hashlib
import importlib
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path
from typing import NamedTuple

import fuzz_inputs
import matplotlib

from tcvae_ref import cli

SECONDS = 30.0
STOPPED_AFTER = 6.0
"""Seconds after which what may take long is asked to stop."""
MEMORY = 1 << 30
PATHS = os.pathsep.join(map(os.path.abspath, sys.path))
REAL = 50
"""One case in so many is run in a process that begins anew, not in a fork."""
WARM = (
    *("flint", "hypothesis", "matplotlib.font_manager", "PIL.Image", "sklearn.linear_model", "sklearn.ensemble"),
    *("matplotlib.backends.backend_agg", "tcvae_ref.oracle.checking", "tcvae_ref.oracle.vectors"),
    *("tcvae_ref.oracle.training_step", "tcvae_ref.oracle.weight_probe", "tcvae_ref.oracle.ghostwrite"),
    *("tcvae_ref.oracle.machine_report", "tcvae_ref.oracle.html_report", "tcvae_ref.oracle.report"),
    *("tcvae_ref.oracle.adapters.numpy_adapter", "tcvae_ref.oracle.adapters.autograd_adapter"),
)
LARGEST = 1 << 26
"""Bytes of a file that is digested and kept; longer ones are holes."""
LONGEST = 2500
"""Characters of a complaint."""
LOUD = re.compile(r"Traceback|Warning:|Exception ignored|Fatal Python|^Error in ", re.MULTILINE)


class Outcome(NamedTuple):
    """How a case ended."""

    status: int
    """Negative: the signal."""
    out: str
    err: str
    seconds: float
    stopped: bool
    memory: int
    """Peak, bytes above the beginning."""


# --- one case ----------------------------------------------------------------------------------------------


def child(box, argv, real):
    """Run a command line in this process, which is a fork, and end it; or as a person's shell would, if it is real."""
    os.setpgid(0, 0)
    for name, number in (("stdout", 1), ("stderr", 2)):
        os.dup2(os.open(box / f".{name}", os.O_WRONLY | os.O_CREAT, 0o600), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.stdout, sys.stderr = (open(n, "w", errors="backslashreplace", closefd=False) for n in (1, 2))  # noqa: SIM115
    os.environ |= {"HOME": str(box / "home"), "TMPDIR": str(box / "tmp"), "MARKER": str(box / "unpickled")}
    tempfile.tempdir = None
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + 4 * MEMORY,) * 2)
    resource.setrlimit(resource.RLIMIT_FSIZE, (MEMORY,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.chdir(box)
    if real:
        os.environ |= {"PYTHONPATH": PATHS, "MPLCONFIGDIR": matplotlib.get_cachedir()}
        os.execv(sys.executable, [sys.executable, "-P", "-m", "tcvae_ref", *argv])
    signal.signal(signal.SIGINT, signal.default_int_handler)
    warnings.resetwarnings()
    warnings.simplefilter("default")
    status = 70
    try:
        status = cli.main(argv)
    except SystemExit as leaving:
        status = leaving.code if isinstance(leaving.code, int) else 71
    except BaseException:
        with contextlib.suppress(BaseException):
            traceback.print_exc()
    finally:
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def peak(pid):
    """Highest resident memory of a process so far, bytes; 0 when it is gone."""
    with contextlib.suppress(OSError, IndexError):
        return 1024 * int(Path(f"/proc/{pid}/status").read_text().split("VmHWM:")[1].split()[0])
    return 0


def run(case, box, real):
    """Run a case in a fork, under watch."""
    start = time.monotonic()
    pid = os.fork()
    if pid == 0:
        child(box, case.argv, real)
    stopped, pause, killed = False, 0.002, False
    while True:
        done, status, used = os.wait4(pid, os.WNOHANG)
        if done:
            break
        seconds = time.monotonic() - start
        if case.long and seconds > STOPPED_AFTER * (3 if real else 1) and not stopped:
            os.kill(pid, signal.SIGTERM)
            stopped = True
        if seconds > SECONDS * (2 if real else 1):
            killed = True
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
        time.sleep(pause)
        pause = min(0.05, pause * 1.3)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)  # what it started
    code = os.waitstatus_to_exitcode(status)
    texts = [(box / f".{name}").read_text(errors="replace") for name in ("stdout", "stderr")]
    above = 1024 * used.ru_maxrss - peak(os.getpid())
    return Outcome(-99 if killed else code, *texts, time.monotonic() - start, stopped, above)


# --- invariants --------------------------------------------------------------------------------------------


def listing(box, *, content):
    """Every name below a folder and what is there, links not followed; with a digest of each file's bytes, or size."""
    found = {}
    for folder, folders, files in os.walk(os.fsencode(box)):
        for name in (*folders, *files):
            path = os.path.join(folder, name)
            state = os.lstat(path)
            what = [state.st_mode, os.readlink(path) if os.path.islink(path) else b""]
            if os.path.isfile(path) and not os.path.islink(path):
                digested = content and state.st_size < LARGEST
                what.append(hashlib.sha1(Path(os.fsdecode(path)).read_bytes()).digest() if digested else state.st_size)
            found[os.path.relpath(path, os.fsencode(box))] = tuple(what)
    return found


def violations(case, outcome, box, before, inputs):
    """Say what does not hold, each as a short signature."""
    err, complaint = outcome.err, err_lines(outcome.err)
    err = re.sub(rf"{re.escape(str(box))}/in/.*Warning: .*", "", err)  # a target's own
    if outcome.stopped:  # the signal may arrive while a callback of the garbage collector runs
        err = re.sub(r"Exception ignored in: <function gc_cum[^$]*?\nKeyboardInterrupt: \n", "", err)
    if LOUD.search(err):
        yield signature(err)
    if outcome.status == -99:
        yield "hangs"
    elif outcome.status not in (0, 1, 2, 3) and not LOUD.search(err):
        yield f"status {outcome.status}"
    if outcome.status == 3 and case.argv[0] not in ("check", "replay"):
        yield "status 3"
    if outcome.status == 2 and complaint[0].startswith("tcvae-ref:") and len(complaint) > 1 and not case.talks:
        yield f"more than a line: {shape_of(complaint[0])}"
    if outcome.status in (1, 2) and not (err.strip() or outcome.out.strip()):
        yield "fails without a word"
    if outcome.status == 2 and "tcvae-ref" not in err:
        yield "wrong usage without a complaint"
    if outcome.status == 1 and complaint[-1].startswith("tcvae-ref:") and re.search(r"\(None|None:", complaint[-1]):
        yield f"says None: {shape_of(complaint[-1])}"
    if any(len(line) > LONGEST for line in complaint):
        yield f"longer than a screen: {shape_of(max(complaint, key=len))}"
    if outcome.stopped and outcome.status == 0 and outcome.seconds > SECONDS:
        yield "does not stop"
    if outcome.memory > MEMORY:
        yield f"memory: {shape_of(complaint[-1])}"
    after = listing(box, content=False)
    changed = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    outside = [name for name in changed if not name.startswith((b"out/", b"tmp/tcvae-ref-hypothesis"))]
    outside = [name for name in outside if name not in (b".stdout", b".stderr", b"out")]
    outside = [name for name in outside if not named(name, case.argv)]
    if outside:
        yield f"writes outside: {re.sub(rb'[0-9a-f]{6,}', b'#', outside[0])!r}"
    now = listing(box / "in", content=True)
    if any(now.get(name) != inputs.get(name) for name in now.keys() | inputs if not named(b"in/" + name, case.argv)):
        yield "an input is changed"
    if left := [name for name in after if name.endswith(b".partial")]:
        yield f"left behind: {left[0]!r}"
    if (box / "unpickled").exists():
        yield "a pickle was loaded"
    made = [name for name in changed if name.startswith(b"out/") and not name.endswith(b".lock")]
    if outcome.status == 2 and made and not case.talks:
        yield f"wrong usage, and writes: {shape_of(complaint[0])}"


def named(name, argv):
    """Whether a command line names a file, or a folder it is in: it may then be meant to be written."""
    given = {os.path.normpath(os.fsencode(part.partition("=")[2] if part.startswith("--") else part)) for part in argv}
    given = {os.path.relpath(one) if one.startswith(b"/") else one for one in given if b"\0" not in one}
    return any(name == one or name.startswith((one + b"/", one + b".")) for one in given - {b".", b"in", b"out"})


def err_lines(text):
    """Lines of standard error; argparse's usage counts as none."""
    lines = [line for line in text.splitlines() if line.strip()]
    return [line for line in lines if not line.startswith(("usage:", " "))] or [""]


def shape_of(line):
    """What stays the same of a complaint when the input is another."""
    return re.sub(r"\d+", "#", re.sub(r"'[^']*'|\S*/\S*", "~", line[:2000]))[:110]


def signature(err):
    """The exception, or the warning, and the project's line that it came through."""
    places = re.findall(r"/(tcvae_ref/\S+\.py|kernels/\S+\.py)\", line (\d+)", err)
    lines = [line for line in err.splitlines() if line.strip()]
    last = lines[-1] if "Traceback" in err else next(line for line in lines if LOUD.search(line))
    where = ":".join(places[-1]) if places else "?"
    return f"{where}: {re.sub(r'0x[0-9a-f]+|[0-9]+', '#', last)[:150]}"


# --- the campaign ------------------------------------------------------------------------------------------


def sandbox(root, generator, rng):
    """Make the sandbox of a case; None for an input that cannot be made."""
    shutil.rmtree(root, ignore_errors=True)
    for name in ("in", "out", "home", "tmp"):
        (root / name).mkdir(parents=True)
    before = Path.cwd()
    os.chdir(root)
    try:
        return generator(rng, root)
    finally:
        os.chdir(before)


def one(target, seed, index, root):
    """Make and run a case; its outcome and what does not hold of it."""
    box = root / "box"
    try:
        case = sandbox(box, fuzz_inputs.TARGETS[target], random.Random(f"{target} {seed} {index}"))
    except Exception as error:  # no zip, TOML or picture can be that
        return None, f"not made ({type(error).__name__})", []
    before, inputs = listing(box, content=False), listing(box / "in", content=True)
    outcome = run(case, box, index % REAL == REAL - 1)
    return case, outcome, list(violations(case, outcome, box, before, inputs))


def keep(box, kept, case, outcome):
    """Keep the sandbox and what was seen."""
    shutil.rmtree(kept, ignore_errors=True)
    with contextlib.suppress(shutil.Error, OSError):
        shutil.copytree(box, kept, symlinks=True, ignore=lambda folder, names: [n for n in names if special(folder, n)])
    kept.mkdir(parents=True, exist_ok=True)
    text = f"{case.argv!r}\n{outcome.status}\n{outcome.err[-20000:]}"
    (kept / "case.txt").write_text(text, errors="backslashreplace")


def special(folder, name):
    """Whether copying this would wait or not end, or is too long for another folder."""
    path = os.path.join(folder, name)
    usual = os.path.islink(path) or os.path.isdir(path) or (os.path.isfile(path) and os.path.getsize(path) < LARGEST)
    return not usual or len(name) > 200


def campaign(target, minutes, seed, first, root, kept):
    """Run cases until the time is over."""
    end, shown = time.monotonic() + 60 * minutes, time.monotonic()
    statuses, seen, index = collections.Counter(), collections.Counter(), first
    while time.monotonic() < end:
        case, outcome, wrong = one(target, seed, index, root)
        statuses[outcome if case is None else outcome.status] += 1
        for what in wrong:
            seen[what] += 1
            if seen[what] == 1:
                folder = kept / f"{target}-{seed}-{index}"
                print(f"\n  case {index}: {what}\n    {case.argv!r}"[:600], flush=True)
                keep(root / "box", folder, case, outcome)
        index += 1
        if time.monotonic() - shown > 15:
            shown = time.monotonic()
            print(f"{target}: {index - first} cases, {dict(statuses)}, {len(seen)} kinds of violation", flush=True)
    for what, count in seen.most_common():
        print(f"  {count:>5} x {what}")
    shares = ", ".join(f"{status}: {count}" for status, count in statuses.most_common())
    print(f"{target}: {index - first} cases (seed {seed}, from {first}; by status {shares}), {len(seen)} kinds found")
    return index - first, len(seen)


def main():
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", choices=(*fuzz_inputs.TARGETS, "all"), default="all")
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="the case to begin with")
    parser.add_argument("--case", type=int, help="run this one alone, and show it")
    parser.add_argument("--keep", type=Path, default=Path(tempfile.gettempdir()) / "fuzz-kept")
    arguments = parser.parse_args()
    targets = list(fuzz_inputs.TARGETS) if arguments.target == "all" else [arguments.target]
    for name in WARM:  # what a command would import is imported once, here
        importlib.import_module(name)
    sys.modules["PIL.Image"].init()
    gc.collect()
    gc.freeze()  # a fork then copies less
    with tempfile.TemporaryDirectory(prefix="fuzz-") as root:
        fuzz_inputs.prepare(Path(root) / "seeds")
        if arguments.case is not None:
            case, outcome, wrong = one(targets[0], arguments.seed, arguments.case, Path(root))
            print(case, outcome.out, outcome.err, outcome._replace(out="", err=""), *wrong, sep="\n")
            if wrong:
                keep(
                    Path(root) / "box",
                    arguments.keep / f"{targets[0]}-{arguments.seed}-{arguments.case}",
                    case,
                    outcome,
                )
            return
        cases = found = 0
        for target in targets:
            minutes = arguments.minutes / len(targets)
            some, kinds = campaign(target, minutes, arguments.seed, arguments.first, Path(root), arguments.keep)
            cases, found = cases + some, found + kinds
    print(f"fuzz: {cases} cases, {found} kinds of violation found; seed {arguments.seed}, kept in {arguments.keep}")


if __name__ == "__main__":
    main()
