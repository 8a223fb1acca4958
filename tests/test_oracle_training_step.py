"""What surrounds the penalty: right samplers, losses and warm-ups pass, planted mistakes in them get their names."""

import collections
import itertools
import json
import math
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from optional import torch
from right_losses import random_columns, subdiagonal, torch_mss_with_free_column
from wrong_losses import build
from wrong_steps import BETA, STEPS, pixels

from tcvae_ref import cli
from tcvae_ref.checks import InputError
from tcvae_ref.oracle import adapters, harder_batches, machine_report, records, sampler, step_loss, whole_loss
from tcvae_ref.oracle.diagnosis import RIGHT_IN_FLOAT32
from tcvae_ref.oracle.primitives import probe
from tcvae_ref.oracle.training_step import check_step, replay_step
from tcvae_ref.oracle.types import Verdict

jax.config.update("jax_enable_x64", True)


@pytest.mark.parametrize("framework", ["torch", "jax"])
@pytest.mark.parametrize("name", STEPS)
def test_steps_are_named_as_planted(name, framework):
    torch.manual_seed(0)
    part = name.partition(":")[0]
    report = check_step(**STEPS[name].make(framework), beta=BETA)
    found = [one.id for one in report.diagnosis]
    assert found[:1] == ([STEPS[name].diagnosis] if STEPS[name].diagnosis else []), report.diagnosis
    assert all("fits as well" in one.evidence for one in report.diagnosis[1:]), "of a penalty alone some look alike"
    judged = {result.check: result.verdict for result in report.results}
    if not found:
        assert set(judged.values()) == {Verdict.PASS}
    else:
        expected = Verdict.WRONG_GRADIENT if found[0] == "detached-sample" else Verdict.WRONG
        assert judged[part] == expected
        assert report.exit_status == 1
    assert machine_report.from_json(json.loads(json.dumps(machine_report.to_json(report)))) == report


def right_sampler(mu, log_var):
    return mu + torch.exp(0.5 * log_var) * torch.randn_like(mu)


def test_a_right_sampler_is_never_accused():
    """Of 40 seeds none; each makes 20 comparisons with averages."""
    for seed in range(40):
        torch.manual_seed(seed)
        report = check_step(sampler=right_sampler, seed=seed)
        assert report.verdict is Verdict.PASS, report.results


def drawn_by_numpy(mu, log_var):
    return torch.tensor(np.random.standard_normal(mu.shape)) * torch.exp(log_var) + mu  # noqa: NPY002


@pytest.mark.parametrize("function", [drawn_by_numpy, lambda mu, log_var: right_sampler(mu, 2 * log_var)])
def test_a_judgement_repeats_and_leaves_the_generators_as_they_were(function):
    before = torch.random.get_rng_state(), np.random.get_state()[1]  # noqa: NPY002
    said = [check_step(sampler=function, seed=seed).results[0].message for seed in (0, 0, 2)]
    assert said[0] == said[1]
    assert said[0] != said[2]
    assert torch.equal(before[0], torch.random.get_rng_state())
    assert (before[1] == np.random.get_state()[1]).all()  # noqa: NPY002


@pytest.mark.parametrize("width", ["log_var", "log_std", "std", "var"])
@pytest.mark.parametrize("wrong", [False, True])
def test_every_parameterisation(width, wrong):
    sigma = {
        "log_var": lambda w: torch.exp(w / 2),
        "log_std": torch.exp,
        "std": lambda w: w,
        "var": torch.sqrt,
    }[width]
    body = (
        (lambda mu, w: mu + sigma(w).detach() * torch.randn_like(mu))
        if wrong
        else (lambda mu, w: mu + sigma(w) * torch.randn_like(mu))
    )
    function = {
        "log_var": lambda mu, log_var: body(mu, log_var),
        "log_std": lambda mu, log_std: body(mu, log_std),
        "std": lambda mu, std: body(mu, std),
        "var": lambda mu, var: body(mu, var),
    }[width]
    torch.manual_seed(1)
    report = check_step(sampler=function, framework="torch")
    assert [one.id for one in report.diagnosis] == (["detached-sample"] if wrong else [])


@pytest.mark.parametrize("name", ["eps", "noise"])
def test_a_sampler_that_is_given_its_noise(name):
    functions = {
        "eps": lambda mu, log_var, eps: mu + torch.exp(0.5 * log_var) * eps,
        "noise": lambda mu, log_var, noise: mu + torch.exp(log_var) * noise,
    }
    report = check_step(sampler=functions[name], framework="torch")
    assert [one.id for one in report.diagnosis] == ([] if name == "eps" else ["log-var-as-log-std"])


def test_generators_of_other_frameworks():
    def with_generator(mu, log_var, rng):
        return mu + np.exp(0.5 * log_var) * rng.standard_normal(mu.shape)

    assert check_step(sampler=with_generator, framework="numpy").verdict is Verdict.PASS

    def with_torch(mu, log_var, generator):
        noise = torch.randn(mu.shape, generator=generator, dtype=mu.dtype)
        return mu + torch.exp(0.5 * log_var) * noise

    assert check_step(sampler=with_torch, framework="torch").verdict is Verdict.PASS


def test_the_weights_in_effect():
    loss = step_loss.understand(
        "loss", STEPS["loss: KL + beta TC"].make("torch")["loss"],
        *(adapters.by_name("torch"), "float64"),
        {"alpha": 1.0, "beta": BETA, "gamma": 1.0},
    )  # fmt: skip
    found = whole_loss.effective(loss, whole_loss.calls(loss, (5, 3, 40), 0, exact=False), "mws")
    np.testing.assert_allclose(
        [found.reconstruction, found.alpha, found.beta, found.gamma, found.closed_form, found.constant],
        [1, 1, BETA + 1, 1, 1, 0],
        atol=1e-8,
    )


def test_a_scale_is_named_with_what_beta_is_in_effect():
    report = check_step(**STEPS["loss: mean over pixels"].make("torch"), beta=BETA)
    assert "as a mean over samples and pixels" not in report.diagnosis[0].evidence
    assert f"beta is {BETA * step_loss.IMAGE_SHAPE[0]:.4g} in effect" in report.diagnosis[0].evidence
    right = pixels(lambda bce: bce.sum(1).mean())
    assert check_step(**right("torch"), beta=BETA).verdict is Verdict.PASS


def scalar_reconstruction(recon_loss, z, mu, log_var, dataset_size, beta):
    assert recon_loss.ndim == 0, "a batch mean"
    return recon_loss + STEPS["loss: right"].make("torch")["loss"](0 * z[:, 0], z, mu, log_var, dataset_size, beta)


def test_a_reconstruction_that_is_a_number():
    assert check_step(loss=scalar_reconstruction, framework="torch").verdict is Verdict.PASS


def test_weights_that_are_fixed_inside():
    inner = STEPS["loss: right"].make("torch")["loss"]

    def fixed(nll, z, mu, log_var, dataset_size):
        return inner(nll, z, mu, log_var, dataset_size, 4.0)

    assert check_step(loss=fixed, framework="torch", beta=4.0).verdict is Verdict.PASS
    wrong = check_step(loss=fixed, framework="torch", beta=6.0)
    assert wrong.verdict is Verdict.WRONG
    assert [one.id for one in wrong.diagnosis] == ["other-weights"]
    assert "the loss has beta = 4 in effect, and 6 is meant; say --beta 4" in wrong.results[0].message
    unsaid = check_step(loss=fixed, framework="torch")
    assert unsaid.verdict is Verdict.PASS
    assert "4 TC" in unsaid.results[0].message
    assert any("beta = 4 inside" in note for note in unsaid.notes)
    assert check_step(weights=lambda step: 4.0).verdict is Verdict.PASS


@pytest.mark.parametrize(("name", "found"), [
    ("loss: KL + beta TC", []),
    ("loss: KL twice", ["kl-counted-twice"]),
    ("loss: beta-VAE", ["beta-on-every-term"]),
    ("loss: TC subtracted", ["sign-flipped"]),
    ("loss: summed over the batch", ["sum-not-mean"]),
    ("loss: penalty times M", ["sum-not-mean"]),
    ("loss: a half", ["constant-factor"]),
    ("loss: no gamma", ["unknown"]),
])  # fmt: skip
def test_mistakes_around_a_beta_that_is_inside_and_unsaid(name, found):
    """KL + beta TC is the loss of another beta: only who says beta can be told."""
    inner = STEPS[name].make("torch")["loss"]

    def fixed(nll, z, mu, log_var, dataset_size):
        return inner(nll, z, mu, log_var, dataset_size, 4.0)

    assert [one.id for one in check_step(loss=fixed, framework="torch").diagnosis] == found


# --- weights as a function of the step -------------------------------------------------------------------------------


@pytest.mark.parametrize(("weights", "found"), [
    (lambda step: 6.0, []),
    (lambda step: min(6.0, 6.0 * step / 1000), []),
    (lambda step: {"beta": min(6.0, 1 + 5 * step / 1000)}, []),
    (lambda step: tuple(w * min(1.0, step / 1000) for w in (1.0, 6.0, 1.0)), []),
    (lambda step: (1.0, 6.0, min(1.0, step / 1000)), ["annealing-on-one-term"]),
    (lambda step: {"alpha": min(1.0, step / 1000)}, ["annealing-on-one-term"]),
    (lambda step: (min(1.0, step / 1000), 6.0, min(1.0, step / 1000)), ["annealing-on-one-term"]),
    (lambda step: (1.0, min(5.0, step / 1000), 1.0), ["other-weights"]),
])  # fmt: skip
def test_weights_of_the_step(weights, found):
    assert [one.id for one in check_step(weights=weights, beta=6.0).diagnosis] == found


def test_a_warm_up_that_was_meant():
    only_gamma = lambda step: (1.0, 6.0, min(1.0, step / 1000))  # noqa: E731
    assert check_step(weights=only_gamma, warm_up=["DWKL"]).verdict is Verdict.PASS
    only_beta = lambda step: (1.0, min(6.0, step / 100), 1.0)  # noqa: E731
    assert check_step(weights=only_beta, warm_up=["MI", "TC", "DWKL"]).verdict is Verdict.WRONG


# --- what cannot be judged -------------------------------------------------------------------------------------------


def test_faults_are_reported():
    def raises(mu, log_var):
        raise ValueError("no such width")

    report = check_step(sampler=raises, framework="torch", weights=lambda step: "six")
    assert [result.verdict for result in report.results] == [Verdict.ERROR] * 2
    assert "no such width" in report.results[0].message
    assert "'six'" in report.results[1].message
    short = check_step(sampler=lambda mu, log_var: mu[:, 0], framework="torch")
    assert "(2048,)" in short.results[0].message


@pytest.mark.parametrize(("options", "match"), [
    ({}, "nothing is handed over"),
    ({"sampler": lambda mu: mu, "framework": "torch"}, "a sampler takes mu and a width"),
    ({"sampler": lambda mu, log_var, colour: mu, "framework": "torch"}, "'colour' of the sampler is not understood"),
    ({"weights": lambda step: 1, "steps": (5, 1)}, "numbers that grow"),
    ({"weights": lambda step: 1, "steps": (0, math.nan)}, "steps=nan is not allowed"),
    ({"weights": "math:pi"}, "^math:pi: is a float, not callable"),
    ({"sampler": "math:hypot", "framework": "numpy"}, "^math:hypot: "),
    ({"weights": lambda step: 1, "warm_up": ["KL"]}, "warm_up"),
    ({"weights": lambda step: 1, "estimator": "qqq"}, "estimator"),
    ({"loss": lambda nll, z, mu: z, "framework": "torch"}, "the width"),
    ({"weights": lambda step: 1, "factory": "a:b"}, "factory is of the loss, and none is handed over"),
    ({"weights": lambda step: 1, "init": {"a": 1}}, "init is of the loss, and none is handed over"),
])  # fmt: skip
def test_refusals(options, match):
    with pytest.raises(InputError, match=match):
        check_step(**options)


def test_the_gradients_of_a_loss_count():
    """Right values, with gradients of TC that are half of what they should be."""
    right = STEPS["loss: right"].make("torch")["loss"]

    def halved(nll, z, mu, log_var, dataset_size, beta):
        value = right(nll, z, mu, log_var, dataset_size, beta)
        return 0.5 * value + 0.5 * value.detach()

    report = check_step(loss=halved, framework="torch")
    assert report.verdict is Verdict.WRONG


# --- harder batches --------------------------------------------------------------------------------------------------


def of_pairs(log_sum=torch.logsumexp, changed=lambda pairs: pairs, width=lambda log_var: log_var, beside=None):
    """A whole loss of MWS, with what is done to widths and pairwise log-densities."""

    def loss(nll, z, mu, log_var, dataset_size):
        lv = width(log_var)
        log_nm = math.log(len(z) * dataset_size)
        pairs = changed(-0.5 * ((z[:, None] - mu) ** 2 * torch.exp(-lv) + lv + math.log(2 * math.pi)))
        own = -0.5 * ((z - mu) ** 2 * torch.exp(-lv) + lv + math.log(2 * math.pi)).sum(1)
        log_qz, product = log_sum(pairs.sum(2) - log_nm, 1), log_sum(pairs - log_nm, 1).sum(1)
        log_pz = -0.5 * (z**2 + math.log(2 * math.pi)).sum(1)
        total = (nll + own - log_qz + 6.0 * (log_qz - product) + product - log_pz).mean()
        return total + beside(z) if beside else total

    return loss


def with_epsilon(epsilon):
    return lambda x, axis: torch.log(torch.exp(x).sum(axis) + epsilon)


def no_number_beyond_30(z):
    """0, with a gradient that is nan where any |z| is above 30."""
    return 0.0 * torch.where(z.abs() < 30.0, torch.sqrt(30.0 - z.abs()), 0.0).sum()


@pytest.mark.parametrize(("loss", "found", "on"), [
    (of_pairs(), [], ""),
    (of_pairs(width=lambda w: w.clamp(-10.0, 10.0)), [], ""),
    (of_pairs(with_epsilon(0.0)), ["exp-sum-log"], ""),
    (of_pairs(with_epsilon(1e-20)), ["log-epsilon"], ""),
    (of_pairs(width=lambda w: w.clamp(-5.0, 5.0)), ["unknown"], "narrow and wide posteriors"),
    (of_pairs(changed=lambda pairs: pairs.clamp(min=-50.0)), ["unknown"], "samples 12 sigma out"),
    (of_pairs(beside=no_number_beyond_30), ["unknown"], "posteriors far apart"),
], ids=["right", "a wide clamp", "exp-sum-log", "epsilon", "narrow clamp", "a clamp of pairs", "gradient"])  # fmt: skip
def test_what_shows_on_harder_batches_alone(loss, found, on):
    report = check_step(loss=loss, framework="torch", estimator="mws", beta=6.0)
    assert report.verdict is (Verdict.WRONG if found else Verdict.PASS)
    assert [one.id for one in report.diagnosis] == found
    assert not on or "right on ordinary batches, and not on these: " in report.diagnosis[0].evidence
    assert on in report.results[0].message


@pytest.mark.parametrize("estimator", ["mws", "mss", "symmetric-mss", "minibatch", "exact"])
@pytest.mark.parametrize("closed_form", [0.0, 0.3, 1.0])
def test_right_losses_are_not_accused_on_harder_batches(estimator, closed_form):
    """With weights that are no round numbers, too."""
    terms = build("torch", estimator=estimator)
    adapter = adapters.by_name("torch")

    def whole(nll, z, mu, log_var, dataset_size):
        t, k = terms(z, mu, log_var, dataset_size), closed_form
        kl = 0.5 * (mu**2 + log_var.exp() - 1 - log_var).sum(1).mean()
        return nll.mean() + (0.7 - k) * t["mi"] + (math.e - k) * t["tc"] + (1 - k) * t["dwkl"] + k * kl

    loss = step_loss.understand("loss", whole, adapter, "float64", {})
    for seed in range(4):
        called = whole_loss.calls(loss, whole_loss.SHAPES[0], seed, exact=estimator == "exact")
        found = whole_loss.effective(loss, called, estimator)
        assert harder_batches.off(loss, found, estimator, probe(adapter, "float64"), seed) == []


# --- the command -----------------------------------------------------------------------------------------------------

MODULE = """
import torch

def sample(mu, log_var):
    return mu + torch.exp(log_var) * torch.randn_like(mu)

def warm_up(step):
    return 1.0, 6.0, min(1.0, step / 5000)
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """The folder a command runs in, where it keeps its cases."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_command(place, capsys):
    path = place / "training_code.py"
    path.write_text(MODULE)
    arguments = ["check-step", "--sampler", f"{path}:sample", "--weights", f"{path}:warm_up"]
    assert cli.main([*arguments, "--json", "report.json"]) == 1
    printed = capsys.readouterr().out
    assert "log-var-as-log-std" in printed
    assert "DWKL 0 at 0" in printed
    content = json.loads(Path("report.json").read_text())
    assert [one["id"] for one in content["diagnosis"]] == ["log-var-as-log-std", "annealing-on-one-term"]
    assert cli.main([*arguments[:1], *arguments[3:], "--warm-up", "DWKL"]) == 0
    assert cli.main(["check-step"]) == 2
    assert "nothing is handed over" in capsys.readouterr().err


CLASS = """
import math
import torch

class Loss(torch.nn.Module):
    def __init__(self, beta):
        super().__init__()
        self.beta = beta

    def forward(self, out, img, code, a, b, N):
        pairs = -0.5 * ((code[:, None] - a) ** 2 * torch.exp(-2 * b) + 2 * b + math.log(2 * math.pi))
        log_nm = math.log(len(code) * N)
        log_qz = torch.logsumexp(pairs.sum(2), 1) - log_nm
        product = (torch.logsumexp(pairs, 1) - log_nm).sum(1)
        log_pz = (-0.5 * (code**2 + math.log(2 * math.pi))).sum(1)
        nll = torch.nn.functional.binary_cross_entropy_with_logits(out, img, reduction="sum") / len(img)
        mi = (torch.diagonal(pairs.sum(2)) - log_qz).mean()
        return nll + mi + self.beta * (log_qz - product).mean() + (product - log_pz).mean()

def make(half=2.0):
    return Loss(2 * half)
"""


def test_the_command_on_a_class_whose_names_say_nothing(place, capsys):
    path = place / "their_loss.py"
    path.write_text(CLASS)
    how = ["--args", "decoded=out,x=img,z=code,mu=a,log_std=b", "--factory", f"{path}:make", "--quiet"]
    assert cli.main(["check-step", "--loss", f"{path}:Loss", *how]) == 0
    assert capsys.readouterr().out == f"PASS  loss {path}:Loss\n"
    assert cli.main(["check-step", "--loss", f"{path}:Loss", *how, "--beta", "6"]) == 1
    assert cli.main(["check-step", "--loss", f"{path}:Loss", "--factory", f"{path}:make"]) == 2
    said = capsys.readouterr().err
    assert f"{path}:Loss: no parameter of (out, img, code, a, b, N) is known to be z" in said
    assert "and out, img, code, a, b have no default and no known meaning; name it in arguments" in said
    assert "like --args x=img,z=code,mu=NAME,log_var=NAME, and bind what is left" in said
    assert "left, like --bind out=VALUE --bind a=VALUE --bind b=VALUE, or name" in said
    assert said.endswith("what it is, like --args log_px=out (or nll, logits, decoded, batch_fraction, step)\n")
    assert "_tcvae_ref" not in said, "the name that was handed over"


def replayed(capsys, *arguments):
    """What replay says of the only case, in a word, and its status, where the target is not imported yet."""
    here = str(Path.cwd())
    for name in [name for name, module in sys.modules.items() if here in str(getattr(module, "__file__", ""))]:
        del sys.modules[name]
    (name,) = records.list_ids()
    status = cli.main(["replay", name, *arguments])
    return capsys.readouterr().out.split()[0], status


@pytest.mark.parametrize(
    ("options", "repair"),
    [
        (["--sampler", "training_code.py:sample"], ("torch.exp(log_var)", "torch.exp(log_var / 2)")),
        (["--weights", "training_code.py:warm_up", "--steps", "0,5000,9000"], ("min(1.0, step / 5000)", "1.0")),
    ],
)
def test_a_saved_part_is_judged_again(place, capsys, options, repair):
    Path("training_code.py").write_text(MODULE)
    assert cli.main(["check-step", *options]) == 1
    (name,) = records.list_ids()
    assert f"again: tcvae-ref replay {name}\n" in capsys.readouterr().out
    assert replayed(capsys) == ("FAILED", 1)
    Path("repaired.py").write_text(MODULE.replace(*repair))
    assert replayed(capsys, "--target", f"repaired.py:{options[1].partition(':')[2]}") == ("FIXED", 0)
    Path("training_code.py").write_text("def sample(mu, log_var):\n    return 1 / 0\n\nwarm_up = lambda step: 1 / 0\n")
    assert replayed(capsys) == ("ERROR", 1)
    assert cli.main(["replay"]) == 0
    listed = capsys.readouterr().out.splitlines()[1]
    assert listed.startswith(f"{name}  {records.load_any(name).check}  float64  {options[1]}  ")
    with pytest.raises(InputError, match="is a case of check-step"):
        records.load(name)


def test_a_saved_loss_is_called_as_it_was(place, capsys):
    code = CLASS.replace("return nll + mi", "return nll, nll + mi")
    Path("their_loss.py").write_text(code)
    how = ["--args", "decoded=out,x=img,z=code,mu=a,log_std=b", "--factory", "their_loss.py:make"]
    how += ["--init", "half=2.5", "--returns", "loss=1", "--beta", "6"]
    assert cli.main(["check-step", "--loss", "their_loss.py:Loss", *how, "--no-save"]) == 1
    assert not records.FOLDER.exists()
    assert cli.main(["check-step", "--loss", "their_loss.py:Loss", *how]) == 1
    capsys.readouterr()
    assert replayed(capsys) == ("FAILED", 1)
    Path("their_loss.py").write_text(code.replace("= beta", "= beta + 1"))
    assert replayed(capsys) == ("FIXED", 0)


def test_a_warm_up_inside_a_loss_is_judged_again(place, capsys):
    def whole(nll, z, mu, log_var, dataset_size, beta, step):
        t = build("torch", estimator="mws")(z, mu, log_var, dataset_size)
        return nll.mean() + t["mi"] + beta * t["tc"] + min(1.0, step / 1000) * t["dwkl"]

    report = check_step(loss=whole, beta=BETA, framework="torch", steps=(0, 500, 1000))
    assert [result.verdict for result in report.results] == [Verdict.PASS, Verdict.WRONG]
    ((_, name),) = records.save(report).items()
    kept = records.load_any(name)
    assert (kept.handed, kept.check) == ("loss", "warm-up")
    assert replay_step(kept, whole).verdict is Verdict.WRONG
    assert replay_step(kept, lambda nll, z, mu, log_var, dataset_size, beta, step: 1 / 0).verdict is Verdict.ERROR


def test_a_saved_part_that_was_changed_is_refused(place):
    Path("training_code.py").write_text(MODULE)
    cli.main(["check-step", "--sampler", "training_code.py:sample", "--cases", "kept"])
    (name,) = records.list_ids(Path("kept"))
    path = Path("kept") / f"{name}.json"
    content = json.loads(path.read_text())
    for change, match in [
        ({"seed": 1}, "its id does not fit"),
        ({"handed": "trainer"}, "not those of check-step"),
        ({"check": "values"}, "not those of check-step"),
        ({"options": {**content["options"], "sampler": "other.py:f"}}, "not those of check-step"),
        ({"options": {**content["options"], "steps": "0"}}, "its option steps"),
        ({"verdict": "PASS"}, "its checksum does not fit"),
    ]:
        path.write_text(json.dumps({**content, **change}))
        with pytest.raises(InputError, match=match):
            records.load_any(name, Path("kept"))


def test_the_report_as_a_page(place, capsys):
    Path("training_code.py").write_text(MODULE)
    command = ["check-step", "--sampler", "training_code.py:sample", "--cases", "kept here"]
    assert cli.main([*command, "--html", "report.html", "--json", "-"]) == 1
    json.loads(capsys.readouterr().out)
    page = Path("report.html").read_text()
    assert '<span class="FAIL">WRONG</span> sampler training_code.py:sample' in page
    assert "log_var is taken for log sigma (log-var-as-log-std)" in page
    assert "--cases &#x27;kept here&#x27;" in page
    for refused, match in [
        (["--html", "-"], "give the name of a file"),
        (["--html", "a", "--json", "./a"], "check-step: --json and --html both name a; give two names"),
        (["--html", "missing/a.html"], "missing"),
        (["--cases", "training_code.py"], "is not a folder"),
    ]:
        assert cli.main([*command, *refused]) == 2
        assert match in capsys.readouterr().err


def test_scales_are_those_of_the_sampler():
    assert {sampler.SCALES[0.0], sampler.SCALES[1.0]} == {"unit-noise", "log-var-as-log-std"}


# --- code as people write it -----------------------------------------------------------------------------------------


def right_penalty(z, mu, log_var, dataset_size, beta=6.0, estimator="mws"):
    t = build("torch", estimator=estimator)(z, mu, log_var, dataset_size)
    return t["mi"] + beta * t["tc"] + t["dwkl"]


F = torch.nn.functional
RECONSTRUCTIONS = {
    "BCE": lambda recon_x, x: F.binary_cross_entropy(recon_x, x, reduction="sum") / len(x),
    "BCE of logits": lambda recon_x, x: F.binary_cross_entropy_with_logits(recon_x, x, reduction="sum") / len(x),
    "MSE": lambda recon_x, x: F.mse_loss(recon_x, x, reduction="sum") / len(x),
    "half MSE": lambda recon_x, x: 0.5 * ((recon_x - x) ** 2).sum(1).mean(),
    "normal": lambda recon_x, x: -torch.distributions.Normal(recon_x, 1.0).log_prob(x).sum(-1).mean(),
    "L1": lambda recon_x, x: F.l1_loss(recon_x, x, reduction="sum") / len(x),
    "with an epsilon": lambda recon_x, x: -torch.log((2 * x - 1) * (recon_x - 0.5) + 0.5 + 1e-6).sum(1).mean(),
}  # fmt: skip


@pytest.mark.parametrize("name", RECONSTRUCTIONS)
def test_losses_of_images_are_not_accused(name):
    def loss(recon_x, x, z, mu, logvar, dataset_size):
        return RECONSTRUCTIONS[name](recon_x, x) + right_penalty(z, mu, logvar, dataset_size)

    def wrong(recon_x, x, z, mu, logvar, dataset_size):
        return RECONSTRUCTIONS[name](recon_x, x) + right_penalty(z, mu, logvar, dataset_size, beta=7.0)

    right = check_step(loss=loss, framework="torch")
    assert right.verdict is Verdict.PASS, right.results
    assert check_step(loss=wrong, framework="torch", beta=6.0).verdict is Verdict.WRONG


def test_the_size_of_the_data_set_inside():
    def loss(nll, z, mu, logvar):
        return nll.mean() + right_penalty(z, mu, logvar, 50_000)

    def stratified(nll, z, mu, logvar, N):
        return nll.mean() + right_penalty(z, mu, logvar, N, estimator="mss")

    report = check_step(loss=loss, framework="torch")
    assert report.verdict is Verdict.PASS
    assert any("log(N M) was not judged" in note for note in report.notes)
    assert check_step(loss=loss, framework="torch", dataset_size=50_000).verdict is Verdict.PASS
    assert check_step(loss=loss, framework="torch", dataset_size=40_000).verdict is Verdict.WRONG
    assert check_step(loss=stratified, framework="torch", bind={"N": 50_000}).verdict is Verdict.PASS
    unsaid = check_step(
        loss=lambda nll, z, mu, logvar: stratified(nll, z, mu, logvar, 50_000), framework="torch", beta=6.0
    )
    assert unsaid.verdict is Verdict.ERROR
    assert "--dataset-size" in unsaid.results[0].message


@pytest.mark.parametrize("N", [300, 60_000])
@pytest.mark.parametrize("name", ["MSE", "half MSE", "normal", "BCE"])
def test_a_constant_that_is_expected_chooses_no_likelihood(name, N):
    """Where N is not told, log N is left over, and may be what a likelihood of twice the weight has for a constant."""

    def loss(recon_x, x, z, mu, logvar):
        return RECONSTRUCTIONS[name](recon_x, x) + right_penalty(z, mu, logvar, N, beta=4.0)

    report = check_step(loss=loss, framework="torch")
    assert report.verdict is Verdict.PASS, [result.message for result in report.results]


def of_size(N, estimator="mws", mistake=""):
    terms = build("torch", *([mistake] if mistake else []), estimator=estimator)

    def loss(nll, z, mu, logvar):
        t = terms(z, mu, logvar, N)
        return nll.mean() + t["mi"] + 6.0 * t["tc"] + t["dwkl"]

    return loss


@pytest.mark.parametrize("estimator", ["mws", "mss"])
def test_the_size_that_is_said_is_that_of_the_diagnosis(estimator):
    right = check_step(loss=of_size(1000, estimator), framework="torch", dataset_size=1000, estimator=estimator)
    assert right.verdict is Verdict.PASS
    other = check_step(loss=of_size(1000, estimator), framework="torch", dataset_size=900, estimator=estimator)
    assert [one.id for one in other.diagnosis] == ["wrong-dataset-size"]
    assert "N = 1,000 in place of 900" in other.diagnosis[0].evidence
    beside = of_size(1000, estimator, "log-var-as-log-std")
    found = check_step(loss=beside, framework="torch", dataset_size=1000, estimator=estimator)
    assert [one.id for one in found.diagnosis] == ["log-var-as-log-std"]
    assert "N = 1000;" in found.diagnosis[0].evidence


@pytest.mark.parametrize("name", ["BCE of logits", "normal", "half MSE", "MSE"])
def test_a_mistake_in_the_penalty_leaves_the_likelihood_known(name):
    """What a loss makes of images shows in how it changes with them, whatever the penalty is."""
    terms = build("torch", "log-var-as-log-std")

    def loss(recon_x, x, z, mu, logvar, dataset_size, beta):
        t = terms(z, mu, logvar, dataset_size)
        return RECONSTRUCTIONS[name](recon_x, x) + t["mi"] + beta * t["tc"] + t["dwkl"]

    found = check_step(loss=loss, framework="torch")
    assert [one.id for one in found.diagnosis] == ["log-var-as-log-std"]
    likelihood = {"BCE of logits": "Bernoulli of logits", "MSE": "Gaussian of variance 1/2"}.get(name, "")
    likelihood = likelihood or "Gaussian of variance 1" + ", with log 2 pi" * (name == "normal")
    assert f"log p(x|z) is {likelihood}, by how the loss changes with its images" in found.notes


@pytest.mark.parametrize(
    ("name", "weight", "width"),
    [
        ("half MSE", 100.0, "a Gaussian of variance 0.01"),
        ("MSE", 2.0, "a Gaussian of variance 0.25"),
        ("MSE", 1.0, ""),
        ("BCE of logits", 2.0, ""),
    ],
)
def test_a_weight_that_is_another_width_is_said_to_be_one(name, weight, width):
    def loss(recon_x, x, z, mu, logvar, dataset_size, beta):
        t = build("torch")(z, mu, logvar, dataset_size)
        return weight * RECONSTRUCTIONS[name](recon_x, x) + t["mi"] + beta * t["tc"] + t["dwkl"]

    found = check_step(loss=loss, framework="torch")
    assert (found.verdict is Verdict.PASS) == (weight == 1.0)
    noted = [note.partition(" is right for ")[2] for note in found.notes if note.startswith("its weight")]
    assert noted == ([f"{width}, if that is meant"] if width else [])


def float32_inside(wrong):
    """A whole loss with the weights of MSS in float32, and what may be wrong besides."""

    def loss(recon_x, x, z, mu, logvar, dataset_size, beta):
        M, N = len(z), dataset_size
        i = torch.arange(M)
        W = torch.Tensor(M, M).fill_(1 / (M - 1))
        W[i, (i + 1) % M] = (N - M + 1) / (N * (M - 1))
        W[i, i] = (1.001 if wrong == "weights" else 1.0) / N
        pairs = -0.5 * ((z[:, None] - mu) ** 2 / logvar.exp() + logvar + math.log(2 * math.pi))
        log_w = W.log()
        log_qz = torch.logsumexp(pairs.sum(2) + log_w, 1).mean()
        marginals = torch.logsumexp(pairs + log_w[..., None], 1).sum(1).mean()
        own = -0.5 * ((z - mu) ** 2 / logvar.exp() + logvar + math.log(2 * math.pi)).sum(1).mean()
        prior = -0.5 * (z**2 + math.log(2 * math.pi) * (wrong != "constant")).sum(1).mean()
        tc = (beta + (wrong == "KL + beta TC")) * (log_qz - marginals)
        total = RECONSTRUCTIONS["BCE of logits"](recon_x, x) + (own - log_qz) + tc + (marginals - prior)
        return 0.5 * (total + total.detach()) if wrong == "gradients" else total

    return loss


@pytest.mark.parametrize("wrong", ["", "weights", "constant", "gradients", "KL + beta TC"])
def test_a_right_loss_with_weights_in_float32_is_told_so(wrong):
    """And one with a mistake that float32 could not hide is not."""
    found = check_step(loss=float32_inside(wrong), framework="torch", estimator="mss")
    assert found.verdict is Verdict.WRONG
    assert any(RIGHT_IN_FLOAT32 in one.evidence for one in found.diagnosis) == (wrong == "")
    named = {"KL + beta TC": "beta-for-beta-minus-one"}
    assert found.diagnosis[0].id == named.get(wrong, "unknown")


def test_a_mistake_as_small_as_the_digits_of_float32_has_its_name():
    def loss(nll, z, mu, logvar, dataset_size):
        return nll.mean() + right_penalty(z, mu, torch.log(logvar.exp() + 1e-7), dataset_size)

    found = check_step(loss=loss, framework="torch", beta=6.0)
    assert [one.id for one in found.diagnosis] == ["variance-epsilon"]


def with_column(column, reconstruction=1.0, closed_form=False):
    """A whole loss with MSS in which `column` names the free column."""
    terms = torch_mss_with_free_column(column)

    def loss(recon_x, x, z, mu, logvar, dataset_size):
        t = terms(z, mu, logvar, dataset_size)
        kl = (0.5 * (mu**2 + logvar.exp() - 1 - logvar)).sum(1).mean()
        penalty = kl + 5.0 * t["tc"] if closed_form else t["mi"] + 6.0 * t["tc"] + t["dwkl"]
        return reconstruction * RECONSTRUCTIONS["MSE"](recon_x, x) + penalty

    return loss


@pytest.mark.parametrize(
    ("column", "closed_form", "claimed"), [(subdiagonal, False, "auto"), (random_columns, True, "mss")]
)
def test_another_free_column_is_a_valid_alternative(column, closed_form, claimed):
    loss = with_column(column, closed_form=closed_form)
    found = check_step(loss=loss, framework="torch", estimator=claimed, beta=6.0)
    assert (found.verdict, found.exit_status, found.diagnosis) == (Verdict.INCONCLUSIVE, 3, ())
    assert "valid alternative: MSS with another choice of the free column" in found.notes
    assert found.estimator == "mss"


def test_another_free_column_does_not_hide_what_else_is_wrong():
    found = check_step(loss=with_column(subdiagonal, reconstruction=2.0), framework="torch", beta=6.0)
    assert (found.verdict, [one.id for one in found.diagnosis]) == (Verdict.WRONG, ["reconstruction-scaled"])


def test_a_loss_of_another_estimator_than_is_claimed_is_told_which():
    right = STEPS["loss: right MSS"].make("torch")["loss"]
    found = check_step(loss=right, framework="torch", estimator="mws", beta=6.0)
    assert found.verdict is Verdict.WRONG
    assert "computes mss, not mws as claimed: --estimator mss" in found.notes


def test_a_likelihood_that_is_not_known_is_said_to_be_so():
    def loss(recon_x, x, z, mu, logvar, dataset_size, beta):
        t = build("torch", "log-var-as-log-std")(z, mu, logvar, dataset_size)
        return RECONSTRUCTIONS["with an epsilon"](recon_x, x) + t["mi"] + beta * t["tc"] + t["dwkl"]

    found = check_step(loss=loss, framework="torch")
    assert [one.id for one in found.diagnosis] == ["unknown"]
    assert any("no log p(x|z) that is known here fits" in note for note in found.notes)
    assert "decoded" in found.mapping


def test_the_estimator_is_that_of_the_diagnosis():
    found = check_step(**STEPS["loss: columns"].make("torch"), beta=BETA)
    assert found.estimator == "mss"
    assert not any("takes it for" in note for note in found.notes)


Out = collections.namedtuple("Out", "parts loss")


@pytest.mark.parametrize(("returned", "returns", "which"), [
    (
        lambda r, p: {"recon_loss": r, "kl": p, "total_loss": r + p},
        None,
        " -> total_loss, of 3 parts; not judged: recon_loss, kl",
    ),
    (lambda r, p: (r + p, r, p), None, " -> the first of 3 parts; another is named by --returns loss=1"),
    (lambda r, p: Out(p, r + p), None, " -> loss, of 2 parts; not judged: parts"),
    (lambda r, p: [r + p], None, ""),
    (lambda r, p: {"elbo": r + p}, None, ""),
    (lambda r, p: (r, r + p), "loss=1", " -> part 1, as asked for"),
    (lambda r, p: (r, r + p), ("-", "loss"), " -> part 1, as asked for"),
    (lambda r, p: {"loss": r, "all": r + p}, {"loss": "all"}, " -> part all, as asked for"),
])  # fmt: skip
def test_losses_among_their_parts(returned, returns, which):
    def loss(nll, z, mu, logvar, dataset_size):
        return returned(nll.mean(), right_penalty(z, mu, logvar, dataset_size))

    found = check_step(loss=loss, framework="torch", returns=returns)
    assert found.verdict is Verdict.PASS
    assert found.mapping == f"loss(nll, z, mu, logvar=log_var, dataset_size=dataset_size){which}"


def test_a_loss_that_is_none_of_the_parts():
    unnamed = check_step(loss=lambda nll, z, mu, logvar, N: {"a": nll.mean(), "b": mu.sum()}, framework="torch")
    assert "a, b; which is minimised is not known" in unnamed.results[0].message
    assert "name it with --returns loss=NAME" in unnamed.results[0].message
    first = check_step(loss=lambda nll, z, mu, logvar, N: (nll + z[:, 0], mu.sum()), framework="torch")
    assert "the loss is (5,); a scalar is needed (the first of 2 parts; " in first.results[0].message
    absent = check_step(loss=lambda nll, z, mu, logvar, N: (nll, mu.sum()), framework="torch", returns="loss=2")
    assert "2, named as loss, is not among them" in absent.results[0].message
    with pytest.raises(InputError, match="returns='tc' is unknown; choose one of loss"):
        check_step(loss=lambda nll, z, mu, logvar, N: nll, framework="torch", returns="tc=1")


def of_axes(recon_x, x, mu, log_var, z, dataset_size):
    batch, _, _, _ = x.shape
    nll = torch.nn.functional.mse_loss(recon_x, x, reduction="none").sum((1, 2, 3)).sum() / batch
    return nll + right_penalty(z, mu, log_var, dataset_size)


def test_images_with_axes():
    found = check_step(loss=of_axes, framework="torch")
    assert found.verdict is Verdict.ERROR
    assert found.results[0].message.endswith("the images were of shape (M, 6); --image-shape 1,28,28 gives them axes")
    assert check_step(loss=of_axes, framework="torch", image_shape=(3, 16, 16)).verdict is Verdict.PASS

    def mean_over_pixels(logits, x, mu, log_var, z, dataset_size):
        nll = torch.nn.functional.binary_cross_entropy_with_logits(logits, x)
        return nll + right_penalty(z, mu, log_var, dataset_size)

    scaled = check_step(loss=mean_over_pixels, framework="torch", image_shape=(1, 2, 2))
    assert [one.id for one in scaled.diagnosis] == ["reconstruction-scaled"]
    assert "as a mean over 4 pixels is" in scaled.diagnosis[0].evidence


@pytest.mark.parametrize(("shape", "match"), [
    ((0, 3), "image_shape=0 is too small"),
    ((1.5,), "image_shape=1.5"),
    ((1, 2000, 2000), "has over 1,000,000 numbers"),
])  # fmt: skip
def test_refusals_of_shapes(shape, match):
    with pytest.raises(InputError, match=match):
        check_step(loss=of_axes, framework="torch", image_shape=shape)


AXES = """
import math
import torch

def loss(recon_x, x, mu, log_var, z):
    batch, channels, height, width = x.shape
    return torch.nn.functional.mse_loss(recon_x, x, reduction="sum") / batch
"""


def test_the_shape_of_images_is_kept(place, capsys):
    Path("their_loss.py").write_text(AXES)
    arguments = ["check-step", "--loss", "their_loss.py:loss", "--image-shape"]
    assert cli.main([*arguments, "1,2,3"]) == 1
    assert "there is no penalty in it" in capsys.readouterr().out
    assert replayed(capsys) == ("FAILED", 1)
    with pytest.raises(SystemExit):
        cli.main([*arguments, "28x28"])
    assert "'28x28' are not whole numbers; write 1,28,28" in capsys.readouterr().err


class Model(torch.nn.Module):
    """Called as the models of a library are, each of which takes other arguments."""

    def loss_function(self, *args, **kwargs):
        recons, images, _, mu, log_var, z = args
        nll = torch.nn.functional.mse_loss(recons, images, reduction="sum") / len(images)
        size = len(images) / kwargs["M_N"]
        return {"loss": nll + right_penalty(z, mu, log_var, size), "Reconstruction_Loss": nll.detach()}


BY_PLACE = {"decoded": "0", "x": "1", "mu": "3", "log_var": "4", "z": "5", "batch_fraction": "M_N"}


def test_arguments_by_their_place():
    model = Model()
    how = {"arguments": BY_PLACE, "bind": {"args2": None}, "framework": "torch"}
    found = check_step(loss=model.loss_function, **how)
    assert found.verdict is Verdict.PASS
    assert found.mapping.startswith("loss(decoded, x, None, mu, log_var, z, M_N=batch_fraction) -> ")
    assert not any("N is inside" in note for note in found.notes)
    swapped = {**BY_PLACE, "decoded": "5", "z": "0"}  # codes for images: of another shape
    assert check_step(loss=model.loss_function, **{**how, "arguments": swapped}).verdict is Verdict.ERROR


@pytest.mark.parametrize(("options", "match"), [
    ({}, "its signature names no parameters; say what each receives, .*--args decoded=0,x=1,mu=2"),
    ({"arguments": BY_PLACE}, "args2 has no default and no known meaning; bind a value, like --bind args2=VALUE"),
    ({"arguments": {**BY_PLACE, "z": "99"}}, "there is no parameter '99'"),
    ({"arguments": {**BY_PLACE, "M_N": "batch_fraction"}}, "arguments='M_N' is unknown; .* log_px, .*batch_fraction"),
    ({"arguments": {**BY_PLACE, "z": "4"}}, "args4 is given twice"),
])  # fmt: skip
def test_refusals_of_places(options, match):
    with pytest.raises(InputError, match=match):
        check_step(loss=Model().loss_function, framework="torch", **options)


def test_a_reconstruction_that_is_a_sum():
    def loss(recon_loss, z, mu, logvar, dataset_size):
        return float(recon_loss.ndim == 0) * recon_loss.reshape(()) / z.shape[0] + right_penalty(
            z, mu, logvar, dataset_size
        )

    report = check_step(loss=loss, framework="torch")
    assert report.verdict is Verdict.PASS
    assert any("sum over the batch, not the mean" in note for note in report.notes)


class Module(torch.nn.Module):
    def forward(self, mu, logvar):
        return mu + torch.exp(0.5 * logvar) * torch.randn_like(mu)


def uniform_unless_given(mu, logvar, eps=None):
    eps = torch.rand_like(mu) if eps is None else eps
    return mu + torch.exp(0.5 * logvar) * eps


def with_seed(mu, logvar, seed):
    return mu + torch.exp(0.5 * logvar) * torch.randn(
        mu.shape, generator=torch.Generator().manual_seed(seed), dtype=mu.dtype
    )


def tiled(mu, logvar):
    return mu + torch.exp(0.5 * logvar) * torch.randn_like(mu[:64]).repeat(len(mu) // 64, 1)


@pytest.mark.parametrize(("function", "found"), [
    (Module(), []),
    (lambda mu, logvar, training: right_sampler(mu, logvar) if training else mu, []),
    (lambda mu, logvar, training=False: right_sampler(mu, logvar) if training else mu, []),
    (with_seed, []),
    (uniform_unless_given, ["wrong-noise"]),
    (tiled, ["shared-noise"]),
])  # fmt: skip
def test_samplers_as_people_write_them(function, found):
    torch.manual_seed(0)
    assert [one.id for one in check_step(sampler=function, framework="torch").diagnosis] == found


@pytest.mark.parametrize("weights", [
    lambda step: float("nan"),
    lambda step: (1.0, float("inf") if step == 0 else 6.0, 1.0),
    lambda step: {"kl": 3.0, "tc": step},
    lambda step: {},
])  # fmt: skip
def test_weights_that_are_none(weights):
    assert check_step(weights=weights).verdict is Verdict.ERROR


def test_schedules_as_people_write_them():
    table = [k / 1000 for k in range(1000)]
    assert check_step(weights=lambda step: {"tc_weight": 6 * math.tanh(step / 20_000)}).verdict is Verdict.PASS
    assert check_step(weights=lambda step: 6.006 * table[min(step, 999)]).verdict is Verdict.PASS
    assert check_step(weights=lambda step: 6.0, warm_up=["TC"]).verdict is Verdict.WRONG


def test_what_is_not_a_number_is_a_fault():
    def at_first(nll, z, mu, logvar, dataset_size, step):
        return nll.mean() + right_penalty(z, mu, logvar, dataset_size) * (float("nan") if step < 50 else 1.0)

    def early(nll, z, mu, logvar, dataset_size, step):
        return nll.mean() + right_penalty(z, mu, logvar, dataset_size) * min(1.0, math.log(step))

    def always(nll, z, mu, logvar, dataset_size):
        return nll.mean() * float("nan")

    for loss in (at_first, early, always):
        assert check_step(loss=loss, framework="torch").verdict is Verdict.ERROR

    class Odd:
        def __float__(self):
            raise RuntimeError

        __repr__ = __float__

    for weights in (lambda step: Odd(), lambda step: sys.exit(0), lambda step: {"beta": Odd()}):
        assert check_step(weights=weights).verdict is Verdict.ERROR
    lost = check_step(sampler=lambda mu, log_var: mu * float("nan"), framework="torch")
    assert "12,288 nan or infinite" in lost.results[0].message
    with pytest.raises(InputError, match="seed"):
        check_step(sampler=right_sampler, seed=-1)


@pytest.mark.parametrize("changes", ["a counter", "noise", "dropout"])
def test_a_loss_that_is_no_function_of_its_arguments_is_not_called_wrong(changes):
    """Nor one with a slow warm-up inside, a millionth of the penalty a step."""
    calls = itertools.count(1)
    terms = build("torch", estimator="mss")

    def loss(recon_x, x, z, mu, logvar, dataset_size):
        if changes == "noise":
            z = right_sampler(mu, logvar)
        if changes == "dropout":
            mu = F.dropout(mu, 0.5)
        factor = next(calls) / 1e6 if changes == "a counter" else 1.0
        t = terms(z, mu, logvar, dataset_size)
        return RECONSTRUCTIONS["MSE"](recon_x, x) + factor * (t["mi"] + 6.0 * t["tc"] + t["dwkl"])

    report = check_step(loss=loss, framework="torch", beta=6.0)
    assert (report.verdict, report.exit_status, report.notes) == (Verdict.ERROR, 1, ())
    assert "is no function of its arguments: called twice with the same numbers, the loss" in report.results[0].message


def test_float32_is_exact_enough_to_see_another_weight():
    """PyTorch in float32 inside float64 arguments would do as well as JAX without x64."""
    jax.config.update("jax_enable_x64", False)
    try:
        terms = build("jax", estimator="mws")

        def loss(nll, z, mu, log_var, dataset_size, beta, r=1.0, a=1.0, extra=0.0):
            t = terms(z, mu, log_var, dataset_size)
            return r * nll.mean() + a * t["mi"] + (beta + extra) * t["tc"] + t["dwkl"]

        def verdict(beta, **wrong):
            def this(nll, z, mu, log_var, dataset_size, beta):
                return loss(nll, z, mu, log_var, dataset_size, beta, **wrong)

            return check_step(loss=this, framework="jax", beta=beta).verdict

        assert verdict(6.0) is verdict(100.0) is verdict(1000.0) is Verdict.PASS
        assert verdict(6.0, r=0.95) is verdict(6.0, a=1.05) is verdict(1000.0, r=0.0) is Verdict.WRONG
        assert verdict(100.0, extra=1.0) is verdict(1000.0, a=0.0) is Verdict.WRONG
    finally:
        jax.config.update("jax_enable_x64", True)


def test_a_loss_whose_length_is_nothing_is_judged():
    """As an empty container is, which is false where a truth is asked for."""

    class Empty:
        def __len__(self):
            return 0

        def __call__(self, z, mu, log_var, dataset_size):
            raise ValueError("was called")

    report = check_step(loss=Empty(), framework="torch")
    assert "was called" in report.results[0].message
