"""What is left when a run is killed, its disk fills, its folder goes away, or a byte of its files changes?

    python tests/campaigns/faults.py all --count 100 --seed 0

kill      SIGKILL, uniformly over the whole duration of train, evaluate (the decomposition in parts), sweep, check and
          replay, once to three times; no half file may have a final name, and the last run must end as a calm one does
signals   SIGTERM, SIGINT, SIGINT twice, SIGHUP, and SIGKILL of a process group or of a sweep's workers: besides, no
          process may be left, and no traceback once the command has begun
disk      every write, flush to disk and rename fails in turn (ENOSPC, EDQUOT, EIO); and, as root on Linux, disks of
          many sizes that fill up: one line about the file, nothing lost, and the run goes on once there is space
places    read-only folders, folders removed meanwhile, a file in a folder's place, a current folder that is gone
locks     two processes on a folder, locks of killed processes, file systems without locks
clock     clocks that jump by years at every look, and years that zip files cannot hold
flips     a bit changed in each file that is read back: it is refused in one line, or the very same is read

Problems are printed as they are found; the last line counts.
"""

import argparse
import contextlib
import csv
import errno
import fcntl
import functools
import hashlib
import io
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections import Counter
from pathlib import Path

import numpy as np

from tcvae_ref import cli, files
from tcvae_ref.checks import InputError
from tcvae_ref.files import NpzReader

SMALL = ["--grid", "1,2,1,6,6", "--encoder", "8", "--decoder", "8", "--latent", "2", "--batch", "16"]
NUMPY = ["--kernels", "numpy"]
LOSS = """
def tc_loss(z, mu, log_var, dataset_size):
    return (z * mu).sum() + 0 * log_var.sum() + dataset_size
"""
STUDY = """
[study]
title = "Faults"
claim = "None matters."
figure = "trade-off"
seeds = [0]
series = ["objective"]
[base]
data = { grid = [1, 2, 1, 6, 6] }
encoder = [8]
decoder = [8]
latent = 2
batch = 16
epochs = 20
estimator = "mss"
[grid]
objective = ["beta-vae", "beta-tcvae"]
"""
PATIENCE = 600  # seconds after which a command hangs, also on a busy machine


class Tally:
    """Cases, and what was wrong with some."""

    def __init__(self, name):
        self.name, self.cases, self.outcomes, self.problems = name, 0, Counter(), []
        self._started = self._said = time.monotonic()

    def case(self, outcome="right"):
        self.cases += 1
        self.outcomes[outcome] += 1
        if time.monotonic() > self._said + 10:
            self._said = time.monotonic()
            print(f"{self._said - self._started:5.0f} s  {self.name}: {self.cases} cases", file=sys.stderr, flush=True)

    def problem(self, what):
        self.problems.append(what)
        print(f"PROBLEM  {self.name}: {what}", flush=True)

    def require(self, condition, what):
        if not condition:
            self.problem(what)

    def line(self):
        said = ", ".join(f"{n} {name}" for name, n in self.outcomes.items())
        return f"{self.name}: {self.cases} cases ({said}), {len(self.problems)} problems"


# --- commands ----------------------------------------------------------------------------------------------


def command(*arguments):
    return [sys.executable, "-m", "tcvae_ref", *map(str, arguments)]


def started(arguments, folder, **options):
    """The command as a process of a session of its own, its output kept, its signals as a shell gives them."""
    reset = "import os, signal, sys\nfor number in (1, 2, 15): signal.signal(number, signal.SIG_DFL)\n"
    reset += "os.execv(sys.argv[1], sys.argv[1:])"
    return subprocess.Popen(
        [sys.executable, "-S", "-E", "-c", reset, *command(*arguments)],
        cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True, **options,
    )  # fmt: skip


def forked(arguments, before=lambda: None):
    """Status, output and errors of a command in a forked child, where `before` may put faults in its way."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        if (child := os.fork()) == 0:
            os.dup2(out.fileno(), 1)
            os.dup2(err.fileno(), 2)
            sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
            status = 99
            try:
                before()
                status = cli.main([str(a) for a in arguments])
            except SystemExit as end:
                status = end.code
            except BaseException:
                import traceback

                traceback.print_exc()
            finally:
                with contextlib.suppress(OSError):
                    sys.stdout.flush()
                    sys.stderr.flush()
                os._exit(status)
        deadline = time.monotonic() + PATIENCE
        while not (found := os.waitpid(child, os.WNOHANG))[0]:
            if time.monotonic() > deadline:
                os.kill(child, signal.SIGKILL)
            time.sleep(0.005)
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode())
        return os.waitstatus_to_exitcode(found[1]), *texts


def once(arguments, folder):
    done = subprocess.run(
        command(*arguments), cwd=folder, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    return done.returncode, done.stdout, done.stderr


class Scenario:
    """A command in a folder: what is there before, how it goes on, and what must be there in the end."""

    def __init__(self, first, again=None, results=("*",), status=0, prepare=lambda folder: None):
        self.first, self._again, self._results = first, again or (lambda folder: first), results
        self.status, self._prepare = status, prepare

    def folder(self, root, name):
        made = root / name
        shutil.rmtree(made, ignore_errors=True)
        made.mkdir()
        self._prepare(made)
        return made

    def again(self, folder):
        return self._again(folder)

    def digest(self, folder):
        """Of every result, by its name; without what tells how long it took."""
        found = {}
        for pattern in self._results:
            for path in sorted(folder.rglob(pattern)):
                if path.is_file() and not path.name.startswith(".") and path.name not in ("seconds.csv", files.SUMS):
                    content = path.read_bytes()
                    if path.name == "result.json":
                        content = json.loads(content)
                        content = json.dumps({k: v for k, v in content.items() if k not in ("seconds", "checksum")})
                        content = content.encode()
                    found[str(path.relative_to(folder))] = hashlib.sha256(content).hexdigest()[:12]
        return found


def trained(folder, epochs=20):
    status, _, err = forked(["train", "--out", folder / "run", *SMALL, "--epochs", epochs, *NUMPY])
    assert status == 0, err


def scenarios():
    """Commands by name, each of a second or a few."""

    def resumed(folder):
        return (
            ["train", "--resume", "run", "--save-every", "0", *NUMPY] if (folder / "run/run.json").exists() else train
        )

    train = ["train", "--out", "run", *SMALL, "--epochs", "60", "--save-every", "0", *NUMPY]
    evaluate = ["evaluate", "run", "--checkpoint", "sums.npz", *NUMPY]
    sweep = ["sweep", "s.toml", "--out", "store", "--jobs", "2", *NUMPY]
    check = ["check", "loss.py:tc_loss", "--framework", "numpy", "--max-examples", "3", "--estimator", "mss"]
    check += ["--no-gradients"]

    def loss(folder):
        (folder / "loss.py").write_text(LOSS)

    def study(folder):
        (folder / "s.toml").write_text(STUDY)

    def case(folder):
        loss(folder)
        once(check, folder)

    def replay(folder):
        return ["replay", min((folder / ".tcvae-ref/cases").glob("*.json")).stem]

    return {
        "train": Scenario(train, resumed, ("checkpoint.npz", "run.json", "history.csv")),
        "evaluate": Scenario(evaluate, results=("evaluation.json", "*.png"), prepare=trained),
        "sweep": Scenario(sweep, results=("*.csv", "result.json", "*.png", "*.toml", "checkpoint.npz"), prepare=study),
        "check": Scenario(check, results=(".tcvae-ref/cases/*.json",), status=1, prepare=loss),
        "replay": Scenario(None, replay, results=(".tcvae-ref/cases/*.json",), status=1, prepare=case),
    }


def halves(folder):
    """Files with a final name that are not whole."""
    wrong = []
    for path in folder.rglob("*"):
        if (
            not path.is_file()
            or path.name in (".lock", ".job", ".position")
            or path.suffix in (".partial", ".py", ".pyc")
        ):
            continue
        try:
            _read_whole(path)
        except Exception as error:
            wrong.append(f"{path.relative_to(folder)}: {error!r}")
    return wrong


def _read_whole(path):
    content = path.read_bytes()
    if path.suffix == ".npz":
        with NpzReader(path) as archive:
            for member in archive._zip.namelist():
                archive.array(member.removesuffix(".npy"))
    elif path.suffix == ".json":
        read = json.loads(content)
        files.check_seal(path, read, "")
    elif path.suffix == ".csv":
        rows = list(csv.reader(io.StringIO(content.decode())))
        assert content.endswith(b"\n"), "torn"
        assert len({len(row) for row in rows}) == 1, "torn rows"
    elif path.suffix == ".png":
        from PIL import Image

        Image.open(io.BytesIO(content)).load()
    elif path.suffix == ".toml":
        tomllib.loads(content.decode())
    elif path.suffix == ".html":
        assert content.rstrip().endswith(b"</html>"), "no end"
    elif path.suffix == ".parquet":
        import pyarrow.parquet

        pyarrow.parquet.read_table(path)
    elif path.name == files.SUMS:
        assert content.endswith(b"\n"), "torn"
    else:
        assert content, "empty"


def calm(scenario, root):
    """Seconds, results and traces of an undisturbed run."""
    folder = scenario.folder(root, "calm")
    arguments = scenario.first or scenario.again(folder)
    begin = time.monotonic()
    status, _, err = once(arguments, folder)
    assert status == scenario.status, (status, err)
    return time.monotonic() - begin, scenario.digest(folder)


def finished(tally, scenario, folder, expected, said):
    """Let a disturbed run go on to its end, and compare."""
    try:
        status, out, err = once(scenario.again(folder), folder)
    except subprocess.TimeoutExpired:
        return tally.problem(f"{said}: hangs when started again")
    tally.require(status == scenario.status, f"{said}: started again, status {status}: {out[-300:]} {err[-500:]}")
    found = scenario.digest(folder)
    different = [name for name in {*expected, *found} if expected.get(name) != found.get(name)]
    tally.require(not different, f"{said}: other results than undisturbed: {different}")
    left = [str(p.relative_to(folder)) for p in folder.rglob("*.partial")]
    tally.require(not left, f"{said}: left behind in the end: {left}")
    return None


SHARES = {"train": 0.35, "evaluate": 0.2, "sweep": 0.25, "check": 0.1, "replay": 0.1}
"""Of the moments of `kill`."""


def kill(tally, root, rng, count, of=tuple(SHARES)):
    made = scenarios()
    for name in of:
        scenario = made[name]
        seconds, expected = calm(scenario, root)
        for moment in range(max(1, round(SHARES[name] * count))):
            folder = scenario.folder(root, "killed")
            arguments = scenario.first or scenario.again(folder)
            for _ in range(rng.choice((1, 1, 2, 3))):
                after = rng.uniform(0.0, seconds)
                process = started(arguments, folder)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.communicate(timeout=after)
                process.kill()  # alone: its workers are left to notice
                process.communicate()
                said = f"{name} {moment}, killed after {after:.2f} of {seconds:.2f} s"
                wrong = halves(folder)
                tally.require(not wrong, f"{said}: half files {wrong}")
                tally.case(name)
                arguments = scenario.again(folder)
            finished(tally, scenario, folder, expected, said)


# --- signals -----------------------------------------------------------------------------------------------


def session(leader):
    """Processes of a session, by /proc."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = status.read_text().rpartition(")")[2].split()
            if int(fields[3]) == leader and fields[0] != "Z":
                found.append(int(status.parent.name))
    return found


def _send(process, what):
    if what == "workers":
        for pid in session(process.pid):
            with contextlib.suppress(OSError):
                if b"--process-name" in Path(f"/proc/{pid}/cmdline").read_bytes():  # not joblib's trackers
                    os.kill(pid, signal.SIGKILL)
    elif what == "group":
        os.killpg(process.pid, signal.SIGKILL)
    elif what == "ctrl-c":  # as a terminal sends it, to all
        os.killpg(process.pid, signal.SIGINT)
    else:
        for number in what:
            process.send_signal(number)
            time.sleep(0.02)


SIGNALS = {
    "SIGTERM": (signal.SIGTERM,),
    "SIGINT": (signal.SIGINT,),
    "SIGINT twice": (signal.SIGINT, signal.SIGINT),
    "SIGHUP": (signal.SIGHUP,),
    "Ctrl-C": "ctrl-c",
    "SIGKILL of the group": "group",
    "SIGKILL of the workers": "workers",
}


def signals(tally, root, rng, count):
    made = scenarios()
    turns = [(name, how) for how in SIGNALS for name in ("sweep", "train", "evaluate", "check")]
    turns = [turn for turn in turns if turn[1] != "SIGKILL of the workers" or turn[0] == "sweep"]
    calms = {}
    for turn in range(count):
        name, how = turns[turn % len(turns)]
        scenario = made[name]
        seconds, expected = calms[name] = calms.get(name) or calm(scenario, root)
        folder = scenario.folder(root, "signalled")
        after = rng.uniform(0.15, seconds)
        said = f"{name}, {how} after {after:.2f} of {seconds:.2f} s"
        process = started(scenario.first, folder)
        try:
            process.wait(after)
        except subprocess.TimeoutExpired:
            _send(process, SIGNALS[how])
        try:
            _, err = process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            tally.problem(f"{said}: hangs")
            os.killpg(process.pid, signal.SIGKILL)
            _, err = process.communicate()
        wrong = halves(folder)
        tally.require(not wrong, f"{said}: half files {wrong}")
        begun = "__main__.py" not in err or re.search(r'cli\.py", line \d+, in main\n', err)
        tally.require(not (begun and "Traceback" in err), f"{said}: traceback {err[-1500:]}")
        deadline = time.monotonic() + 30
        while (alive := session(process.pid)) and time.monotonic() < deadline:
            time.sleep(0.1)
        tally.require(not alive, f"{said}: processes left {alive}")
        tally.case(how)
        finished(tally, scenario, folder, expected, said)


# --- disks -------------------------------------------------------------------------------------------------


class Faulty:
    """Raises an error at the n-th call of some kind; used in a forked child, it needs no undoing."""

    def __init__(self, kind, number, at):
        self.kind, self.number, self.left = kind, number, at

    def hit(self, kind, *paths):
        if kind == self.kind:
            self.left -= 1
            if self.left <= 0:  # and all after it: the disk stays full
                raise OSError(self.number, os.strerror(self.number), *paths)

    def __call__(self):
        faulty, fsync, replace = self, os.fsync, os.replace

        class Raw(io.FileIO):
            def write(self, data):
                faulty.hit("write")
                return super().write(data)

        def opened(path, mode="r", *rest, **options):
            if "w" in mode or "x" in mode:
                faulty.hit("open", str(path))
                return io.BufferedWriter(Raw(path, mode.replace("b", "")))
            return open(path, mode, *rest, **options)

        files.open = opened
        os.fsync = lambda number: (faulty.hit("fsync"), fsync(number))[1]
        os.replace = lambda a, b: (faulty.hit("replace", str(a)), replace(a, b))[1]


def disk(tally, root, rng, count):
    """`count` bounds the number of faults of each kind in each command."""
    made = {name: scenario for name, scenario in scenarios().items() if name in ("train", "evaluate")}
    for name, scenario in made.items():
        _, expected = calm(scenario, root)
        for kind in ("open", "write", "fsync", "replace"):
            number, at, folder = rng.choice((errno.ENOSPC, errno.EDQUOT, errno.EIO)), 0, None
            for _ in range(max(2, count // 10)):
                at += 1 if at < 4 else rng.randrange(1, 6)
                folder = scenario.folder(root, "full")
                os.chdir(folder)
                status, _, err = forked(scenario.first, Faulty(kind, number, at))
                said = f"{name}: {kind} {at} fails with {errno.errorcode[number]}"
                if status == 0:
                    break  # there were fewer
                _refused(tally, folder, status, err, said)
                tally.case(f"{kind} failed")
            if folder is not None:
                finished(tally, scenario, folder, expected, f"{name} after failing {kind}s")
    if os.geteuid() == 0 and shutil.which("mount"):
        _small_disks(tally, root, rng, count)


def _refused(tally, folder, status, err, said):
    tally.require(status in (1, 2), f"{said}: status {status}: {err[-300:]}")
    last = err.strip().splitlines()[-1] if err.strip() else ""
    tally.require("Traceback" not in err and last.startswith("tcvae-ref: "), f"{said}: says {err[-800:]}")
    tally.require(": " in last.removeprefix("tcvae-ref: "), f"{said}: names no file: {last}")
    wrong = halves(folder)
    tally.require(not wrong, f"{said}: half files {wrong}")
    left = [p.name for p in folder.rglob("*.partial")]
    tally.require(not left, f"{said}: left behind {left}")


def _small_disks(tally, root, rng, count):
    """Real ones, of random sizes, that grow once they were full."""
    for name in ("train", "evaluate", "sweep", "check"):
        scenario, disks = scenarios()[name], root / "disk"
        _, expected = calm(scenario, root)
        held = sum(p.stat().st_size for p in (root / "calm").rglob("*") if p.is_file()) // 1024
        for _ in range(max(2, count // 20)):
            disks.mkdir(exist_ok=True)
            subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100m", "tmpfs", disks], check=True)
            try:
                folder = scenario.folder(disks, "full")
                used = sum(-(-p.stat().st_size // 4096) * 4 + 4 for p in folder.rglob("*"))
                size = used + rng.randrange(8, max(16, held))
                subprocess.run(["mount", "-o", f"remount,size={size}k", disks], check=True)
                status, _, err = once(scenario.first, folder)
                said = f"{name} on a disk of {size} kB"
                if status != scenario.status or "No space" in err:
                    _refused(tally, folder, status, err, said)
                    tally.case("disk full")
                subprocess.run(["mount", "-o", "remount,size=100m", disks], check=True)
                finished(tally, scenario, folder, expected, said)
            finally:
                os.chdir(root)
                subprocess.run(["umount", "-l", disks], check=True)


# --- places ------------------------------------------------------------------------------------------------


def places(tally, root, rng, count):
    del rng, count
    trained(root)
    run = root / "run"
    os.chdir(root)

    def refused(said, arguments, before=lambda: None, pattern=""):
        status, out, err = forked(arguments, before)
        tally.case()
        tally.require(status in (1, 2), f"{said}: status {status} {out[-200:]} {err[-300:]}")
        lines = [line for line in err.splitlines() if line.startswith("tcvae-ref: ")]
        tally.require("Traceback" not in err and len(lines) == 1, f"{said}: says {err[-800:]}")
        tally.require(re.search(pattern, err), f"{said}: says {err[-300:]}, not {pattern}")

    def nowhere():
        os.mkdir(root / "gone")
        os.chdir(root / "gone")
        os.rmdir(root / "gone")

    train = ["train", "--out", "new", *SMALL, "--epochs", "3", *NUMPY]
    commands = {
        "train": train,
        "evaluate": ["evaluate", "run"],
        "sweep": ["sweep", "trade-off", *NUMPY],
        "figures": ["figures", "run"],
        "check": ["check", "loss.py:tc_loss"],
        "replay": ["replay", "abc"],
        "render": ["data", "render", "--grid", "tiny", "--out", "tiny.npz"],
        "ghostwrite": ["ghostwrite", "loss.py:tc_loss"],
        "weights": ["weights", "loss.py:tc_loss", "--out", "w.png"],
    }
    for name, arguments in commands.items():
        refused(
            f"{name} where the current folder is gone",
            arguments,
            nowhere,
            "current folder|holds no run|no cases",
        )
    (root / "file").write_text("")
    for name in ("file", "file/below"):
        refused(f"--out {name}", [*train[:2], root / name, *train[3:]], pattern="not a folder")
        refused(f"sweep --out {name}", ["sweep", "trade-off", "--out", root / name, *NUMPY], pattern="not a folder")
        refused(f"figures --out {name}", ["figures", run, "--out", root / name], pattern="not a folder|Not a directory")
    refused("--json folder", ["evaluate", run, "--json", root, "--no-figures", *NUMPY], pattern="not a file")

    def removed(name, number):
        """Remove the run's folder at the n-th call of `os.fsync`."""

        def before():
            fsync, left = os.fsync, [number]

            def sync(file):
                left[0] -= 1
                if left[0] == 0:
                    shutil.rmtree(root / name)
                return fsync(file)

            os.fsync = sync

        return before

    for number in (1, 2, 3):
        shutil.rmtree(root / "new", ignore_errors=True)
        arguments = [*train, "--save-every", "0"]
        refused(f"train, its folder removed at write {number}", arguments, removed("new", number), "No such file")
    for number in (1, 2):
        shutil.copytree(run, root / "copy", dirs_exist_ok=True)
        refused(
            f"evaluate, its folder removed at write {number}",
            ["evaluate", "copy", *NUMPY],
            removed("copy", number),
            "No such",
        )
    if os.geteuid() == 0:
        _read_only(tally, root, run, refused, train)


def _read_only(tally, root, run, refused, train):
    """A bind mount that cannot be written; then a user to whom nothing belongs."""
    shutil.copytree(run, root / "ro" / "run")
    subprocess.run(["mount", "--bind", root / "ro", root / "ro"], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", root / "ro"], check=True)
        there = root / "ro" / "run"
        said = "Read-only file system"
        refused("train into a read-only folder", [*train[:2], root / "ro/new", *train[3:]], pattern=said)
        refused("train --resume in one", ["train", "--resume", there, "--epochs", "30", *NUMPY], pattern=said)
        refused("evaluate in one", ["evaluate", there, *NUMPY], pattern=said)
        refused("figures in one", ["figures", there], pattern=said)
        refused("sweep in one", ["sweep", "trade-off", "--out", root / "ro", *NUMPY], pattern=said)
        render = ["data", "render", "--grid", "tiny", "--out"]
        refused("render into one", [*render, root / "ro/x.npz"], pattern=said)
        for arguments in (
            ["evaluate", there, "--json", root / "e.json", "--no-figures", *NUMPY],
            ["figures", there, "--out", root / "drawn"],
        ):
            status, _, err = forked(arguments)
            tally.case()
            tally.require(status == 0, f"{arguments[0]} of a read-only run into another folder: {err[-300:]}")
    finally:
        subprocess.run(["umount", "-l", root / "ro"], check=True)

    def nobody():
        import tcvae_ref.data.dsprites  # noqa: F401  # what is imported later could not be read

        os.setresuid(65534, 65534, 65534)

    os.chmod(root, 0o755)
    refused("train as nobody", [*train[:2], root / "new2", *train[3:]], nobody, "Permission denied")
    refused("evaluate as nobody", ["evaluate", run, "--no-figures", *NUMPY], nobody, "Permission denied")
    refused(
        "train --resume as nobody", ["train", "--resume", run, "--epochs", "30", *NUMPY], nobody, "Permission denied"
    )


# --- locks -------------------------------------------------------------------------------------------------


def locks(tally, root, rng, count):
    del rng, count
    os.chdir(root)
    train = ["train", "--out", "long", *SMALL, "--epochs", "100000", "--save-every", "0.2", *NUMPY]

    def until(condition):
        deadline = time.monotonic() + PATIENCE
        while not condition() and time.monotonic() < deadline:
            time.sleep(0.05)

    def expect(said, arguments, status, pattern=""):
        found, out, err = once(arguments, root)
        tally.case()
        tally.require(found == status and "Traceback" not in err, f"{said}: status {found} {err[-500:]}")
        tally.require(re.search(pattern, out + err), f"{said}: says {err[-300:]}")

    busy = started(train, root)
    until((root / "long/checkpoint.npz").exists)
    resume = ["train", "--resume", "long", *NUMPY]
    try:
        expect("train --out of a run in training", train, 2, "another process is writing")
        expect("train --resume of one", resume, 2, "another process is writing")
        expect("evaluate of one", ["evaluate", "long", *NUMPY], 0, "stands at step")
        expect("figures of one", ["figures", "long"], 0)
    finally:
        busy.kill()
        busy.communicate()
    expect("after SIGKILL", ["evaluate", "long", "--no-figures", *NUMPY], 0)
    again = started(resume, root)
    until(lambda: "continuing" in again.stdout.readline())
    again.send_signal(signal.SIGINT)
    again.communicate(timeout=PATIENCE)
    tally.case()
    tally.require(again.returncode == 1, "resuming after SIGKILL")

    (root / "s.toml").write_text(STUDY.replace("epochs = 20", "epochs = 100000"))
    sweep = ["sweep", "s.toml", "--out", "store", "--jobs", "2", *NUMPY]
    busy = started(sweep, root)
    until(lambda: list((root / "store/runs").glob("*/checkpoint.npz")))
    try:
        expect("sweep of a study that is swept", sweep, 2, "another process is writing")
        run = min((root / "store/runs").glob("*/checkpoint.npz")).parent
        expect(
            "train --resume of a run in a sweep", ["train", "--resume", run, *NUMPY], 2, "another process|does not fit"
        )
    finally:
        os.kill(busy.pid, signal.SIGKILL)
        busy.communicate()
    until(lambda: not session(busy.pid))
    tally.case()
    tally.require(not session(busy.pid), "workers go on without their sweep")

    for number in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS):

        def without_locks(number=number):
            def flock(file, how):
                raise OSError(number, os.strerror(number))

            fcntl.flock = flock

        out = root / f"nfs{number}"
        for arguments in (
            ["train", "--out", out, *SMALL, "--epochs", "3", *NUMPY],
            ["train", "--resume", out, "--epochs", "5", *NUMPY],
            ["evaluate", out, "--no-figures", *NUMPY],
        ):
            status, _, err = forked(arguments, without_locks)
            tally.case()
            tally.require(status == 0, f"flock answers {errno.errorcode[number]}: {arguments[0]} says {err[-500:]}")
            tally.require(arguments[0] != "train" or "has no locks" in err, f"nothing said: {err}")


# --- clocks ------------------------------------------------------------------------------------------------


def clock(tally, root, rng, count):
    os.chdir(root)
    expected = None
    year = 31_557_600
    jumps = [0, *(rng.choice((-1, 1)) * rng.uniform(1, 60) * year for _ in range(max(3, count // 10)))]
    for case, jump in enumerate(jumps):

        def jumpy(jump=jump, case=case):
            now, perf, look = time.time, time.perf_counter, [0]

            def jumped(clock):
                look[0] += 1
                return clock() + (jump if look[0] % 2 else -jump)

            time.time, time.perf_counter = lambda: max(0.0, jumped(now)), lambda: jumped(perf)
            real = time.monotonic
            if case % 3 == 2:  # a machine that slept
                time.monotonic = lambda: real() + abs(jump) * (look[0] > 3)

        out = root / f"run{case}"
        for arguments in (
            ["train", "--out", out, *SMALL, "--epochs", "20", "--save-every", "0", *NUMPY],
            ["evaluate", out, "--no-figures", *NUMPY],
            ["data", "render", "--grid", "tiny", "--out", out / "tiny.npz"],
        ):
            status, text, err = forked(arguments, jumpy)
            tally.case()
            said = f"{arguments[0]} with jumps of {jump / year:.1f} years"
            tally.require(status == 0, f"{said}: {err[-500:]}")
            tally.require(not re.search(r"-\d+(\.\d+)? s\b", text + err), f"{said}: says {text} {err}")
        for path in out.rglob("*"):
            os.utime(path, (abs(jump), abs(jump)))
        found = {p.name: p.read_bytes() for p in out.iterdir() if p.suffix in (".npz", ".csv", ".json")}
        expected = expected or found
        tally.require(
            found == expected,
            f"jumps of {jump / year:.1f} years: other files {[k for k in found if found[k] != expected.get(k)]}",
        )
        status, _, err = forked(["train", "--resume", out, "--epochs", "22", *NUMPY])
        tally.require(status == 0, f"resumed after {jump / year:.1f} years: {err[-300:]}")


# --- bits --------------------------------------------------------------------------------------------------


def same(a, b):
    """Whether two things that were read are the same, arrays bit by bit."""
    if isinstance(a, np.ndarray):
        return isinstance(b, np.ndarray) and (a.dtype, a.shape) == (b.dtype, b.shape) and a.tobytes() == b.tobytes()
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(value, b[name]) for name, value in a.items())
    if hasattr(a, "__dict__"):
        return type(a) is type(b) and same(vars(a), vars(b))
    return type(a) is type(b) and (a == b or (a != a and b != b))


def readers(root):
    """Files that are read back: name, path, how they are read, and how many bytes at the ends to change bit by bit."""
    from PIL import Image

    from tcvae_ref import representations, studies_commands
    from tcvae_ref.data import image_folder, read_npz
    from tcvae_ref.metrics.checkpoint import Checkpoint
    from tcvae_ref.oracle import records
    from tcvae_ref.studies import table
    from tcvae_ref.training import Run

    trained(root)
    run = root / "run"
    yield "checkpoint.npz", run / "checkpoint.npz", lambda: Run.open(run).load(4096, 72), (40, 100)
    yield "run.json", run / "run.json", lambda: Run.open(run), (0, 0)

    os.chdir(root)
    forked(["evaluate", run, "--no-figures", "--checkpoint", root / "sums.npz", "--samples", "100", *NUMPY])
    kept = Checkpoint(root / "sums.npz", {})

    def sums():
        with NpzReader(kept.path) as archive:
            archive.require("state", "digests", "joint_maximum", "joint_sum", "marginals_maximum", "marginals_sum")
            names = ("state", "digests", "joint_maximum", "joint_sum", "marginals_maximum", "marginals_sum")
            return [archive.array(name) for name in names]

    yield "decomposition", kept.path, sums, (40, 100)
    forked(["data", "render", "--grid", "tiny", "--out", root / "tiny.npz"])
    yield "data.npz", root / "tiny.npz", lambda: read_npz(root / "tiny.npz"), (40, 100)
    rng = np.random.default_rng(0)
    arrays = {"mu": rng.standard_normal((20, 2)), "log_var": rng.standard_normal((20, 2))}
    np.savez(root / "model.npz", **arrays, factors=rng.integers(0, 2, (20, 2)), factor_names=["a", "b"])
    yield "model.npz", root / "model.npz", lambda: representations.read(root / "model.npz"), (40, 100)
    pictures = root / "pictures"
    pictures.mkdir()
    for k in range(6):
        Image.fromarray(rng.integers(0, 255, (20, 20, 3), dtype=np.uint8)).save(pictures / f"{k}.png")

    def cached():
        return np.array(image_folder.read_folder(pictures, 16, cache=root / "cache").images.rows)

    cached()
    yield "picture cache", next((root / "cache").glob("*.npy")), cached, (128, 60)
    (root / "loss.py").write_text(LOSS)
    forked(["check", "loss.py:tc_loss", "--framework", "numpy", "--max-examples", "3", "--no-gradients"])
    case = min((root / ".tcvae-ref/cases").glob("*.json"))
    yield "saved case", case, lambda: records.load(case.stem, case.parent), (0, 0)
    (root / "s.toml").write_text(STUDY)
    status, _, err = once(["sweep", "s.toml", "--out", "store", "--jobs", "2", *NUMPY], root)
    assert status == 0, err
    from tcvae_ref.studies import runner, study

    of = study.read(root / "s.toml")
    job = studies_commands._jobs(of, "numpy")[0]
    result = root / "store/runs" / job.key / "result.json"
    yield "result.json", result, lambda: runner.result_of(root / "store", job), (0, 0)
    folder = root / "store" / "s"

    def drawn():
        files.check_sums(folder, "")
        return table.read(folder / "results.csv"), study.read(folder / "study.toml")

    for name in ("results.csv", "study.toml", "command.txt", files.SUMS):
        yield name, folder / name, drawn, (0, 0)


def flips(tally, root, rng, count):
    """Ten times `count` random bits of each file, and every bit at the ends of archives."""
    for name, path, read, (first, last) in readers(root):
        whole = path.read_bytes()
        expected = read()
        everything = (
            [*range(8 * first), *range(8 * (len(whole) - last), 8 * len(whole))] if len(whole) > first + last else []
        )
        random_bits = [rng.randrange(8 * len(whole)) for _ in range(10 * count)]
        kept_time = path.stat()
        found = Counter()
        for bit in everything + random_bits:
            content = bytearray(whole)
            content[bit // 8] ^= 1 << bit % 8
            path.write_bytes(content)
            os.utime(path, ns=(kept_time.st_atime_ns, kept_time.st_mtime_ns))
            try:
                outcome = "harmless" if same(read(), expected) else "SILENT"
            except InputError as error:
                outcome = "refused"
                tally.require(path.name in str(error) or name in (files.SUMS,), f"{name}: {error} names no file")
            except Exception as error:
                outcome = "CRASHED"
                if found[outcome] < 3:
                    tally.problem(f"{name}, bit {bit}: {error!r}")
            if outcome == "SILENT" and found[outcome] < 3:
                tally.problem(
                    f"{name}, bit {bit}: taken for what was written: {whole[max(0, bit // 8 - 20) : bit // 8 + 20]!r}"
                )
            found[outcome] += 1
            tally.case(outcome)
        path.write_bytes(whole)
        print(f"  {name}: {len(whole):,} bytes, {sum(found.values())} flips: {dict(found)}", flush=True)


CAMPAIGNS = {f.__name__: f for f in (kill, signals, disk, places, locks, clock, flips)}


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+", choices=(*CAMPAIGNS, "all"))
    parser.add_argument("--count", type=int, default=100, help="moments, or as each campaign says (100)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--of", nargs="+", choices=SHARES, default=list(SHARES), help="commands to `kill` (all)")
    arguments = parser.parse_args(argv)
    campaigns = {**CAMPAIGNS, "kill": functools.partial(kill, of=arguments.of)}
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    tallies = []
    with contextlib.suppress(KeyboardInterrupt):  # what was done until then is counted
        for name in CAMPAIGNS if "all" in arguments.names else arguments.names:
            tallies.append(Tally(name))
            before = Path.cwd()
            with tempfile.TemporaryDirectory(prefix="faults-", ignore_cleanup_errors=True) as folder:
                try:
                    campaigns[name](tallies[-1], Path(folder).resolve(), random.Random(arguments.seed), arguments.count)
                finally:
                    os.chdir(before)
    print(f"seed {arguments.seed}; " + "; ".join(tally.line() for tally in tallies))
    return 1 if any(tally.problems for tally in tallies) else 0


if __name__ == "__main__":
    sys.exit(main())
