"""Faults: writers that die or meet, disks that fail, folders without locks, bytes that change.

`campaigns/faults.py` does at length what is here for a moment.
"""

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from tcvae_ref import cli, files, studies_commands
from tcvae_ref.checks import InputError
from tcvae_ref.data import image_folder
from tcvae_ref.files import NpzReader, alone, atomic_write, check_sums, locked, write_json, write_sums
from tcvae_ref.progress import Progress
from tcvae_ref.studies import runner, table
from tcvae_ref.training import Run

TRAIN = ("--grid", "1,2,1,6,6", "--encoder", "8", "--decoder", "8", "--latent", "2", "--batch", "16", "--epochs", "3")
NUMPY = ("--kernels", "numpy")


def failing(number):
    def fail(*arguments):
        raise OSError(number, os.strerror(number), *[str(a) for a in arguments if isinstance(a, Path)])

    return fail


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faults") / "run"
    assert cli.main(["train", "--out", str(folder), *TRAIN, *NUMPY]) == 0
    return folder


class TestWriting:
    def test_two_threads_write_one_name(self, tmp_path):
        """Each writes a whole file; the last to finish stays."""
        path, barrier, errors = tmp_path / "a.json", threading.Barrier(4), []

        def write(k):
            try:
                barrier.wait()
                for _ in range(25):
                    write_json(path, {"by": [k] * 5000})
            except Exception as error:
                errors.append(error)

        writers = [threading.Thread(target=write, args=(k,)) for k in range(4)]
        for writer in writers:
            writer.start()
        while any(writer.is_alive() for writer in writers):
            if path.exists():
                assert len(set(json.loads(path.read_text())["by"])) == 1
        assert not errors
        assert os.listdir(tmp_path) == ["a.json"]

    def test_what_a_killed_writer_left_is_cleared_away_and_a_living_ones_is_not(self, tmp_path):
        (tmp_path / ".a.123-ab.partial").write_text("half")
        (tmp_path / ".ab.123-ab.partial").write_text("of another name")
        with atomic_write(tmp_path / "a") as first:
            first.write(b"first")
            with atomic_write(tmp_path / "a") as second:
                second.write(b"second")
            assert (tmp_path / "a").read_bytes() == b"second"
        assert (tmp_path / "a").read_bytes() == b"first"
        assert sorted(os.listdir(tmp_path)) == [".ab.123-ab.partial", "a"]

    @pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
    @pytest.mark.parametrize("call", ["fsync", "replace"])
    def test_a_disk_that_fails_is_named_by_the_file(self, tmp_path, monkeypatch, number, call):
        (tmp_path / "a").write_text("old")
        with monkeypatch.context() as patch:
            patch.setattr(os, call, failing(number))
            patch.setattr(Path, "unlink", failing(errno.EROFS))
            with pytest.raises(OSError, match=os.strerror(number)) as refused:
                write_json(tmp_path / "a", {"new": 1})
        assert (refused.value.errno, refused.value.filename) == (number, str(tmp_path / "a"))
        assert (tmp_path / "a").read_text() == "old"

    def test_a_full_disk_in_one_line(self, tmp_path, monkeypatch, capsys):
        monkeypatch.setattr(os, "fsync", failing(errno.ENOSPC))
        assert cli.main(["train", "--out", str(tmp_path / "run"), *TRAIN, *NUMPY]) == 1
        said = f"tcvae-ref: {tmp_path / 'run' / 'run.json'}: No space left on device; what was saved before is intact\n"
        assert capsys.readouterr().err.endswith(said)

    def test_a_log_on_a_full_disk_does_not_end_the_work(self, monkeypatch):
        with open("/dev/full", "w", buffering=1) as full, monkeypatch.context() as patch:
            patch.setattr(sys, "stderr", full)
            with Progress("working") as progress:
                progress._next_line = 0.0
                progress(1, 2)
                progress(2, 2)
            patch.undo()
            with pytest.raises(OSError, match="No space"):
                full.close()


class TestLocks:
    @pytest.fixture(params=[errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
    def _without_locks(self, request, monkeypatch):
        monkeypatch.setattr(fcntl, "flock", failing(request.param))

    @pytest.mark.usefixtures("_without_locks")
    def test_a_file_system_without_locks(self, tmp_path, capsys):
        """Work goes on, it is said, and nobody's files are taken for left behind."""
        (tmp_path / ".a.1-ab.partial").write_text("of a living writer, perhaps")
        with locked(tmp_path, ["a"]), alone(tmp_path / "b"), atomic_write(tmp_path / "a") as file:
            file.write(b"whole")
        assert (tmp_path / "a").read_bytes() == b"whole"
        assert (tmp_path / ".a.1-ab.partial").exists()
        assert "has no locks" in capsys.readouterr().err

    @pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
    @pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning")  # JAX's, where other tests have imported it
    @pytest.mark.parametrize("hold", [lambda folder: locked(folder, []), lambda folder: alone(folder / ".lock")])
    def test_a_child_forked_meanwhile_keeps_no_lock(self, tmp_path, hold):
        reading, writing = os.pipe()
        with hold(tmp_path):
            if (child := os.fork()) == 0:
                os.close(writing)
                os.read(reading, 1)  # until its parent closes the pipe
                os._exit(0)
        try:
            with locked(tmp_path, []):
                pass
        finally:
            os.close(writing)
            os.waitpid(child, 0)
            os.close(reading)


class TestChecksums:
    def test_any_digit_of_a_runs_settings(self, run):
        path = run / "run.json"
        whole = path.read_text()
        digits = [i for i, letter in enumerate(whole) if letter.isdigit()]
        try:
            for i in digits[:: max(1, len(digits) // 60)]:
                path.write_text(whole[:i] + str((int(whole[i]) + 1) % 10) + whole[i + 1 :])
                with pytest.raises(InputError, match=r"run\.json: (was changed|format)"):
                    Run.open(run)
            content = json.loads(whole)
            del content["checksum"]  # as version 0.5.0 wrote it
            path.write_text(json.dumps(content))
            before = Run.open(run)
        finally:
            path.write_text(whole)
        assert Run.open(run) == before

    def result(self, **changes):
        about = {"format": 1, "key": "k", "versions": {}, "computed_with": "NumPy", "status": "done", "reason": ""}
        return {**about, "parts": {"mig": {"mig": 0.25}}, "seconds": 1.5, **changes}

    def test_a_result_of_a_sweep(self, tmp_path):
        job, path = runner.Job("k", ("mig",), None), tmp_path / "runs" / "k" / "result.json"
        path.parent.mkdir(parents=True)
        write_json(path, files.sealed(self.result()))
        assert runner.result_of(tmp_path, job)["parts"] == {"mig": {"mig": 0.25}}
        path.write_text(path.read_text().replace("0.25", "0.35"))
        with pytest.raises(InputError, match=r"result\.json: was changed"):
            runner.result_of(tmp_path, job)
        write_json(path, self.result())  # as version 0.5.0 wrote it
        assert runner.result_of(tmp_path, job)["seconds"] == 1.5
        for name in ("status", "parts", "seconds"):
            write_json(path, self.result(**{name: None}))
            with pytest.raises(InputError, match=rf"result\.json: is damaged in {name}"):
                runner.result_of(tmp_path, job)

    def test_the_numbers_of_a_study(self, tmp_path):
        for name in studies_commands._NUMBERS[:2]:
            (tmp_path / name).write_text(f"{name} 1.0\n")
        check_sums(tmp_path, "again")  # of version 0.5.0: there are none
        write_sums(tmp_path, studies_commands._NUMBERS)
        check_sums(tmp_path, "again")
        subprocess.run(["sha256sum", "--check", "--quiet", files.SUMS], cwd=tmp_path, check=True)
        for name in (*studies_commands._NUMBERS[:2], files.SUMS):
            whole = (tmp_path / name).read_bytes()
            for i in range(0, len(whole), max(1, len(whole) // 40)):
                (tmp_path / name).write_bytes(whole[:i] + bytes([whole[i] ^ 1]) + whole[i + 1 :])
                with pytest.raises(InputError, match=files.SUMS):
                    check_sums(tmp_path, "again")
            (tmp_path / name).write_bytes(whole)
        (tmp_path / studies_commands._NUMBERS[1]).unlink()
        with pytest.raises(InputError, match=files.SUMS):
            check_sums(tmp_path, "again")

    @pytest.mark.parametrize("content", [b"a,b\n1\xff,2\n", b"a,b\n1\n", b"a,b\n1,2,3\n"])
    def test_tables_that_are_none(self, tmp_path, content):
        (tmp_path / "t.csv").write_bytes(content)
        with pytest.raises(InputError, match=r"t\.csv: .* make it again"):
            table.read(tmp_path / "t.csv")

    def test_a_cache_of_pictures_is_made_anew(self, tmp_path):
        image = pytest.importorskip("PIL.Image")
        pixels = np.random.default_rng(0).integers(0, 255, (3, 9, 9, 3), dtype=np.uint8)
        for k, one in enumerate(pixels):
            image.fromarray(one).save(tmp_path / f"{k}.png")
        made = image_folder.read_folder(tmp_path, 8, cache=tmp_path / "cache").images.rows.copy()
        (kept,) = (tmp_path / "cache").glob("*.npy")
        whole = kept.read_bytes()
        assert np.array_equal(np.load(kept), made)  # other readers see the array alone
        for i in (*range(0, len(whole), 29), len(whole) - 1):
            kept.write_bytes(whole[:i] + bytes([whole[i] ^ 4]) + whole[i + 1 :])
            assert np.array_equal(image_folder.read_folder(tmp_path, 8, cache=tmp_path / "cache").images.rows, made)
        np.save(kept, made)  # as version 0.5.0 wrote it: taken as it is
        stamp = kept.stat().st_mtime_ns
        image_folder.read_folder(tmp_path, 8, cache=tmp_path / "cache")
        assert kept.stat().st_mtime_ns == stamp

    @pytest.mark.parametrize("which", [0, 1])
    def test_a_name_in_an_archive(self, tmp_path, which):
        """It stands at an array's place and in the directory, without a checksum; what may be missing is not lost."""
        path = tmp_path / "a.npz"
        np.savez(path, mu=np.zeros(3), log_var=np.zeros(3))
        whole = path.read_bytes()
        at = [i for i in range(len(whole)) if whole.startswith(b"log_var.npy", i)]
        assert len(at) == 2
        path.write_bytes(whole[: at[which]] + b"m" + whole[at[which] + 1 :])
        with pytest.raises(InputError, match=r"a\.npz: not a complete npz"):
            NpzReader(path)


class TestCommands:
    def test_a_current_folder_that_is_gone(self, tmp_path, monkeypatch, capsys):
        (tmp_path / "gone").mkdir()
        monkeypatch.chdir(tmp_path / "gone")
        (tmp_path / "gone").rmdir()
        for arguments in (["train", "--out", "run", *TRAIN, *NUMPY], ["sweep", "trade-off", *NUMPY]):
            assert cli.main(arguments) == 2
            assert capsys.readouterr().err == "tcvae-ref: the current folder: No such file or directory\n"

    @pytest.mark.parametrize("shielded", [False, True])
    def test_a_terminal_that_is_closed(self, tmp_path, shielded):
        """SIGHUP saves and stops, as Ctrl-C does; under nohup it does nothing."""
        how = "SIG_IGN" if shielded else "SIG_DFL"
        start = f"import signal; signal.signal(signal.SIGHUP, signal.{how}); "
        start += "from tcvae_ref import cli; raise SystemExit(cli.main())"
        options = [*TRAIN[:-1], "100000", "--save-every", "0.1", *NUMPY]
        process = subprocess.Popen(
            [sys.executable, "-c", start, "train", "--out", tmp_path / "run", *options],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        deadline = time.monotonic() + 60
        while not (tmp_path / "run" / "checkpoint.npz").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGHUP)
        if shielded:
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(0.5)
            process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
        assert process.returncode == 1
        assert "interrupted at step" in out
        assert "Traceback" not in err

    def test_an_isolated_check_ends_with_its_parent(self, tmp_path):
        """A target that hangs does not go on for ever when its parent is killed without a word."""
        (tmp_path / "hangs.py").write_text(
            "import os, time\nopen('pid', 'w').write(str(os.getpid()))\ntime.sleep(600)\n"
        )
        parent = subprocess.Popen(
            [sys.executable, "-m", "tcvae_ref", "check", "hangs.py:loss", "--isolate"],
            cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        deadline = time.monotonic() + 60
        while not (tmp_path / "pid").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.1)
        child = int((tmp_path / "pid").read_text())
        parent.kill()
        parent.wait()
        while Path(f"/proc/{child}").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not Path(f"/proc/{child}").exists()
