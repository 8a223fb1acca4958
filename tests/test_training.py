"""Training: Adam against PyTorch, the gradient of the whole loss, and runs that are killed or tampered with."""

import dataclasses
import json
import os
import re
import resource
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from autograd import grad
from autograd.test_util import check_grads

from tcvae_ref import InputError
from tcvae_ref.cli import machinery
from tcvae_ref.data import grid, render
from tcvae_ref.files import locked
from tcvae_ref.networks import decode, encode
from tcvae_ref.training import PRESETS, Run, Settings, TrainingDiverged, adam_step, initial_adam_state, initial_state
from tcvae_ref.training import train as train_loop
from tcvae_ref.training.loop import epoch_order, loss_and_terms, networks, step_noise
from tcvae_ref.training.run import FILES, DataSource, Saver

GRID = (1, 2, 1, 6, 6)  # 72 images
SMALL = Settings(
    beta=6.0, encoder=(16,), decoder=(16,), latent=3, batch=16, epochs=5, seed=0
)  # 4 steps an epoch, 8 images left out
SMALL_ARGUMENTS = [
    "--beta",
    "6",
    "--seed",
    "0",
    "--grid",
    "1x2x1x6x6",
    "--encoder",
    "16",
    "--decoder",
    "16",
    "--latent",
    "3",
    "--batch",
    "16",
]


@pytest.fixture(scope="module")
def data():
    return render(grid(GRID))


def train(settings, data, state=None, steps=None, save=lambda state: None, seen=None):
    """Train for some steps from a copy of `state`."""
    state = initial_state(settings, data.images.pixels) if state is None else state
    first = state.step

    def progress(done, total, terms):
        nonlocal last
        last = done
        if seen is not None:
            seen.append((done, total, terms))

    last = first
    operations = machinery("auto", None).operations  # what the command line takes, too
    return train_loop(
        *(settings, data, state, save, progress, lambda: steps is not None and last - first >= steps), operations
    )


def assert_same(a, b):
    """Raise unless two states are equal bit by bit."""
    assert a.step == b.step
    for left, right in zip(
        [*a.parameters, *a.adam.first, *a.adam.second, a.epoch_sum, a.history],
        [*b.parameters, *b.adam.first, *b.adam.second, b.epoch_sum, b.history],
        strict=True,
    ):
        assert left.dtype == right.dtype
        np.testing.assert_array_equal(left, right)


class TestAdam:
    def test_against_torch(self):
        rng = np.random.default_rng(0)
        shapes = [(3, 40_000), (7,), ()]  # the first is larger than a block
        ours = [rng.standard_normal(s) for s in shapes]
        theirs = [torch.nn.Parameter(torch.tensor(p)) for p in ours]
        ours = [np.array(p) for p in ours]
        optimiser, state = torch.optim.Adam(theirs, lr=0.01, betas=(0.8, 0.95), eps=1e-6), initial_adam_state(ours)
        for step in range(1, 6):
            gradient = [np.array(rng.standard_normal(s)) for s in shapes]
            for p, g in zip(theirs, gradient, strict=True):
                p.grad = torch.tensor(g)
            optimiser.step()
            adam_step(ours, gradient, state, step, 0.01, 0.8, 0.95, 1e-6)
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(a, b.detach().numpy(), rtol=1e-12, atol=1e-14)

    def test_refusals(self):
        ones = np.ones((3, 4))
        state = initial_adam_state([ones])
        for p, g, step in ((ones.T, ones.T, 1), (ones, ones.reshape(4, 3), 1), (ones, ones, 0)):
            with pytest.raises(InputError, match="adam_step"):
                adam_step([p], [g], state, step, 0.1)

    def test_float32_stays_float32(self):
        p = [np.ones(5, np.float32)]
        state = initial_adam_state(p)
        adam_step(p, [np.ones(5, np.float32)], state, 1, 0.1)
        np.testing.assert_allclose(p[0], 0.9, rtol=1e-6)
        assert p[0].dtype == state.first[0].dtype == np.float32


class TestLoss:
    @pytest.mark.parametrize("objective", ["vae", "beta-vae", "beta-tcvae"])
    def test_gradient_of_every_parameter_by_finite_differences(self, objective, data):
        settings = dataclasses.replace(SMALL, objective=objective, encoder=(4,), decoder=(4,), estimator="mss")
        rng = np.random.default_rng(1)
        x = data.images.take(slice(20, 26), "float64")[:, 1800:1816]
        state = initial_state(settings, 16)
        parameters = [p.astype(np.float64) + 0.1 for p in state.parameters]
        eps = rng.standard_normal((6, 3))
        check_grads(lambda p: loss_and_terms(settings, p, x, eps, 72, 0)[0], modes=["rev"], order=1)(parameters)

    def test_float32_all_the_way(self, data):
        state = initial_state(SMALL, 4096)
        x, eps = data.images.take(slice(0, 16)), step_noise(0, 0, 16, 3)
        gradient = grad(lambda p: loss_and_terms(SMALL, p, x, eps, 72, 0)[0])(state.parameters)
        assert {str(g.dtype) for g in gradient} == {"float32"}

    def test_objectives_weight_the_recorded_terms(self, data):
        state = initial_state(SMALL, 4096)
        x, eps = data.images.take(slice(0, 16)), step_noise(0, 0, 16, 3)
        weights = {
            "vae": lambda t: t[0] - t[1],
            "beta-vae": lambda t: t[0] - 6 * t[1],
            "beta-tcvae": lambda t: t[0] - 0.5 * t[2] - 6 * t[3] - 2 * t[4],
        }
        for name, objective in weights.items():
            settings = dataclasses.replace(SMALL, objective=name, alpha=0.5, gamma=2.0)
            loss, terms = loss_and_terms(settings, state.parameters, x, eps, 72, 0)
            assert loss == pytest.approx(-objective(terms), rel=1e-6)

    def test_beta_warms_up_linearly(self):
        settings = dataclasses.replace(SMALL, beta_warm_up=10)
        assert [settings.beta_at(s) for s in (0, 5, 10, 99)] == [0.0, 3.0, 6.0, 6.0]
        assert SMALL.beta_at(0) == 6.0


class TestLoop:
    def test_an_epoch_visits_every_input_at_most_once(self):
        order = epoch_order(0, 3, 72)
        assert sorted(order) == list(range(72))
        assert list(order) == list(epoch_order(0, 3, 72))
        assert list(order) != list(epoch_order(0, 4, 72))
        assert list(order) != list(epoch_order(1, 3, 72))

    def test_history_is_the_mean_of_each_epoch(self, data):
        seen = []
        state = train(SMALL, data, seen=seen)
        assert [s[:2] for s in seen] == [(i + 1, 20) for i in range(20)]
        means = np.array([terms for *_, terms in seen]).reshape(5, 4, 5).mean(axis=1)
        np.testing.assert_allclose(state.history, means, rtol=1e-12)

    def test_it_learns(self, data):
        history = train(dataclasses.replace(SMALL, epochs=60), data).history
        assert history[-1, 0] > history[0, 0] / 5  # log p(x|z) starts near -4096 log 2

    def test_seeds(self, data):
        one, same, other = (train(dataclasses.replace(SMALL, seed=seed, epochs=1), data) for seed in (0, 0, 1))
        assert_same(one, same)
        assert np.max(np.abs(one.parameters[0] - other.parameters[0])) > 1e-3

    def test_divergence_is_said_and_the_saved_state_is_kept(self, data):
        settings = dataclasses.replace(SMALL, learning_rate=1e30)
        with pytest.raises(TrainingDiverged, match="lower the learning rate"):
            train(settings, data)

    def test_batch_larger_than_the_data(self, data):
        with pytest.raises(InputError, match="batch=100 exceeds the data set's 72"):
            train(dataclasses.replace(SMALL, batch=100), data)


class TestSettings:
    def test_presets(self):
        paper = PRESETS["paper"]
        assert (paper.encoder, paper.decoder, paper.latent) == ((1200, 1200), (1200, 1200, 1200), 10)
        assert (paper.batch, paper.epochs, paper.learning_rate, paper.beta) == (2048, 50, 1e-3, 6.0)
        assert PRESETS["hearts"] == Settings()

    def test_json_and_back(self):
        assert Settings.from_json(json.loads(json.dumps(SMALL.to_json()))) == SMALL

    @pytest.mark.parametrize(
        ("change", "match"),
        [
            ({"objective": "beta-tcva"}, "did you mean 'beta-tcvae'"),
            ({"estimator": "exact"}, "choose one of mws"),
            ({"beta": -1.0}, "at least 0"),
            ({"beta": float("nan")}, "finite"),
            ({"learning_rate": 0.0}, "above 0"),
            ({"latent": 0}, "at least 1"),
            ({"encoder": (5, 0)}, "encoder width"),
            ({"batch": 1, "estimator": "mss"}, "batch - 1"),
        ],
    )
    def test_refusals(self, change, match):
        with pytest.raises(InputError, match=match):
            dataclasses.replace(SMALL, **change)


class TestRun:
    def start(self, tmp_path, data, settings=SMALL):
        return Run.create(tmp_path / "run", settings, DataSource(GRID, None), data)

    def test_resuming_at_every_step_is_bit_identical(self, tmp_path, data):
        run = self.start(tmp_path, data)
        undisturbed = train(SMALL, data)
        state = run.load(4096, 72)
        for _ in range(20):
            state = train(SMALL, data, state, steps=1)
            run.save(state)
            state = Run.open(run.folder).load(4096, 72)
        assert_same(state, undisturbed)

    def test_history_for_other_programs(self, tmp_path, data):
        run = self.start(tmp_path, data)
        state = train(SMALL, data)
        run.save(state)
        table = np.genfromtxt(run.folder / "history.csv", delimiter=",", names=True)
        assert table.dtype.names[:2] == ("epoch", "reconstruction")
        np.testing.assert_array_equal(table["total_correlation"], state.history[:, 3])

    def test_a_folder_holds_one_run(self, tmp_path, data):
        self.start(tmp_path, data)
        with pytest.raises(InputError, match="already holds a run"):
            self.start(tmp_path, data)

    def test_another_architecture(self, tmp_path, data):
        run = self.start(tmp_path, data)
        run.save(train(SMALL, data, steps=1))
        for change, match in (
            ({"encoder": (8,)}, "another architecture"),
            ({"decoder": (16, 4)}, "another architecture"),
        ):
            with pytest.raises(InputError, match=match):
                run._replace(settings=dataclasses.replace(SMALL, **change)).load(4096, 72)

    def test_other_settings_of_the_same_architecture(self, tmp_path, data):
        run = self.start(tmp_path, data)
        run.save(train(SMALL, data, steps=1))
        with pytest.raises(InputError, match="made with other settings"):
            run._replace(settings=dataclasses.replace(SMALL, batch=8)).load(4096, 72)
        longer = run._replace(settings=dataclasses.replace(SMALL, epochs=9)).load(4096, 72)
        assert longer.step == 1

    @pytest.mark.parametrize(
        ("change", "match"),
        [
            ({"step": 21}, "too large"),
            ({"step": -1}, "too small"),
            ({"step": 7.0}, "whole number"),
            ({"step": float("inf")}, "whole number"),
            ({"format": 99}, "format 99"),
            ({"settings": {}}, "other settings"),
            ({"step": 8}, r"history is float64 \(1, 5\)"),
        ],
    )
    def test_positions_that_cannot_be(self, tmp_path, data, change, match):
        run = self.start(tmp_path, data)
        run.save(train(SMALL, data, steps=5))
        path = run.folder / "checkpoint.npz"
        with np.load(path) as file:
            arrays = dict(file)
        position = json.loads(arrays["position"].tobytes()) | change
        arrays["position"] = np.frombuffer(json.dumps(position).encode(), np.uint8)
        np.savez(path, **arrays)
        with pytest.raises(InputError, match=match):
            run.load(4096, 72)

    def test_nan_in_a_checkpoint(self, tmp_path, data):
        run = self.start(tmp_path, data)
        state = train(SMALL, data, steps=1)
        state.adam.second[3][:] = np.nan
        run.save(state)
        with pytest.raises(InputError, match="second_3 holds nan"):
            run.load(4096, 72)

    def test_one_writer_at_a_time(self, tmp_path, data):
        run = self.start(tmp_path, data)
        (run.folder / ".checkpoint.npz.1.partial").write_bytes(b"left by a killed process")
        with locked(run.folder, FILES):
            assert not list(run.folder.glob("*.partial"))
            with pytest.raises(InputError, match="another process is writing"), locked(run.folder, FILES):
                pass
        with locked(run.folder, FILES):
            pass

    def test_other_data(self, tmp_path, data):
        run = self.start(tmp_path, data)
        with pytest.raises(InputError, match="not the data set"):
            run.check_data(render(grid((1, 2, 1, 6, 5))))

    def test_damaged_files(self, tmp_path, data):
        run = self.start(tmp_path, data)
        run.save(train(SMALL, data, steps=1))
        checkpoint, settings = run.folder / "checkpoint.npz", run.folder / "run.json"
        whole = checkpoint.read_bytes()
        rng = np.random.default_rng(0)
        start, noticed, harmless = run.load(4096, 72), 0, 0
        headers = [m.start() + i for m in re.finditer(rb"PK(\x03\x04|\x01\x02|\x05\x06)", whole) for i in range(120)]
        places = rng.choice(headers, 300).tolist() + rng.integers(len(whole), size=100).tolist()
        for place in places:  # any single byte, of the archive's structure or of its numbers: noticed, or harmless
            if place >= len(whole):
                continue
            checkpoint.write_bytes(whole[:place] + bytes([whole[place] ^ (1 << rng.integers(8))]) + whole[place + 1 :])
            try:
                assert_same(run.load(4096, 72), start)
                harmless += 1
            except InputError as error:
                noticed += "checkpoint.npz" in str(error)
        assert noticed > max(150, harmless)
        for content in (b"", whole[:50], whole[: len(whole) // 2]):
            checkpoint.write_bytes(content)
            with pytest.raises(InputError, match=r"checkpoint\.npz"):
                run.load(4096, 72)
        text = settings.read_text()
        for content in (
            *("", "[]", "{}", '{"format": 1}', '{"format": 2}', "[" * 100_000, '{"format": ' + "9" * 5000 + "}"),
            text.replace("beta_", "bta_"),
            text.replace('"latent": 3', '"latent": 1000000000000000000000000000000'),
            text.replace('"alpha": 1.0', '"alpha": 1' + "0" * 400),
            text.replace('"file": null', '"file": 5'),
            re.sub(r'"grid": \[[^]]*\]', '"grid": null', text),
            re.sub(r'"grid": \[[^]]*\]', '"grid": 5', text),
        ):
            settings.write_text(content)
            with pytest.raises(InputError, match=r"run\.json"):
                Run.open(run.folder)

    def test_a_full_disk_leaves_the_last_checkpoint(self, tmp_path, data):
        """The kernel refuses the write half way: what was there before is there still, and nothing else."""
        run = self.start(tmp_path, data)
        state = train(SMALL, data, steps=1)
        run.save(state)
        before = sorted(p.name for p in run.folder.iterdir())
        kept = (run.folder / "checkpoint.npz").read_bytes()
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
        try:
            with pytest.raises(OSError, match="File too large"):
                run.save(train(SMALL, data, state, steps=1))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert sorted(p.name for p in run.folder.iterdir()) == before
        assert (run.folder / "checkpoint.npz").read_bytes() == kept

    def test_saving_is_rare_enough(self, tmp_path, data, monkeypatch):
        """A save of one second is followed by fifty without one: at most 2 % of the time."""
        now = [0.0]
        monkeypatch.setattr(time, "monotonic", lambda: now[0])
        saves = []

        class SlowRun:
            def save(self, state):
                saves.append(now[0])
                now[0] += 1.0

        saver = Saver(SlowRun(), 5.0)
        for step in range(2000):
            now[0] += 0.1
            saver(initial_state(SMALL, 16)._replace(step=step))
        assert saves[0] == pytest.approx(5.0, abs=0.2)
        assert np.all(np.diff(saves) > 50)


def command(*arguments):
    return [sys.executable, "-m", "tcvae_ref.cli", *map(str, arguments)]


class TestKilled:
    """Whole processes, killed at random moments."""

    EPOCHS = 1500

    def finished(self, folder):
        run = Run.open(folder)
        return run.load(4096, 72)

    def test_sigkill_at_twenty_random_moments(self, tmp_path):
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        options = [*SMALL_ARGUMENTS, "--epochs", self.EPOCHS, "--save-every", 0]
        subprocess.run(command("train", "--out", tmp_path / "calm", *options), check=True, **quiet)
        rng = np.random.default_rng(int.from_bytes(os.urandom(4), "little"))  # other moments in every run
        folder, kills, steps = tmp_path / "killed", 0, []
        first = command("train", "--out", folder, *options)
        again = command("train", "--resume", folder, "--save-every", 0)
        while kills < 20:
            process = subprocess.Popen(again if (folder / "run.json").exists() else first, **quiet)
            try:
                process.wait(timeout=0.3 + rng.exponential(0.4))
                assert process.returncode == 0
                break  # it finished before its time
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait()
                kills += 1
                if (folder / "checkpoint.npz").exists():
                    steps.append(self.finished(folder).step)
        assert kills == 20
        assert len(set(steps)) > 3  # the kills fell all over the run
        subprocess.run(again, check=True, **quiet)
        assert_same(self.finished(folder), self.finished(tmp_path / "calm"))

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_interrupt_saves_and_resumes(self, tmp_path, number):
        options = [*SMALL_ARGUMENTS, "--epochs", "200000"]
        process = subprocess.Popen(
            command("train", "--out", tmp_path / "run", *options),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdout.readline().startswith("dSprites, re-rendered: 72 images")
        time.sleep(1.0)
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
        assert process.returncode == 1
        assert "interrupted at step" in out
        assert "Traceback" not in err
        state = self.finished(tmp_path / "run")
        assert state.step > 0
        settings = dataclasses.replace(SMALL, epochs=200_000)
        assert_same(state, train(settings, render(grid(GRID)), steps=state.step))


def test_an_evaluation_needs_no_more_than_the_checkpoint(data):
    """The networks rebuilt from the flat list are those that were trained."""
    state = train(SMALL, data)
    encoder, decoder = networks(SMALL, state.parameters)
    mu, log_var = encode(encoder, data.images.take([0]))
    assert mu.shape == log_var.shape == (1, 3)
    assert decode(decoder, mu).shape == (1, 4096)
