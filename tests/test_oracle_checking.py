"""The runner from end to end: what is found out about a target, verdicts, exit statuses, replay, other test suites."""

import importlib.util
import itertools
import json
import math
import random
import subprocess
import sys
import textwrap

import pytest
import right_losses
from optional import torch

from tcvae_ref import cli
from tcvae_ref.checks import InputError
from tcvae_ref.oracle import CHECKS, Verdict, cases, check, check_gradients, check_properties, check_values
from tcvae_ref.oracle.properties import PROPERTIES
from tcvae_ref.oracle.types import ESTIMATORS

QUICK = {"max_examples": 12, "framework": "torch", "checks": ("values", "gradients"), "dtypes": ("float64",)}


def right(estimator="mws", framework="torch"):
    return right_losses.RIGHT[framework, "direct", estimator]


def tc(z, mu, log_var, dataset_size):
    return right()(z, mu, log_var, dataset_size)["tc"]


def verdicts(report):
    return {result.check: result.verdict for result in report.results}


class TestWhatATargetIs:
    @pytest.mark.parametrize("estimator", [e for e in ESTIMATORS if e != "exact"])
    @pytest.mark.parametrize("form", ["dict", "scalar"])
    def test_its_estimator_is_found(self, estimator, form):
        def loss(z, mu, log_var, dataset_size):
            terms = right(estimator)(z, mu, log_var, dataset_size)
            return terms if form == "dict" else terms["tc"]

        report = check(loss, **QUICK)
        assert (report.estimator, report.verdict) == (estimator, Verdict.PASS)
        assert any("found by its values" in note for note in report.notes)

    def test_exact_is_claimed(self):
        assert check(right("exact"), estimator="exact", **QUICK).verdict is Verdict.PASS

    def test_a_penalty_with_its_weights(self):
        def loss(z, mu, log_var, dataset_size, alpha, beta, gamma):
            t = right()(z, mu, log_var, dataset_size)
            return alpha * t["mi"] + beta * t["tc"] + gamma * t["dwkl"]

        assert check(loss, **QUICK).verdict is Verdict.PASS

    def test_a_penalty_with_the_weights_inside(self):
        def loss(z, mu, log_var, dataset_size):
            t = right()(z, mu, log_var, dataset_size)
            return 2 * t["mi"] + 6 * t["tc"] + t["dwkl"]

        assert check(loss, weights={"alpha": 2, "beta": 6}, **QUICK).verdict is Verdict.PASS
        assert check(loss, weights={"alpha": 2, "beta": 5}, **QUICK).verdict is Verdict.WRONG

    @pytest.mark.parametrize("factor", [1, 2])
    def test_the_closed_form_of_the_kl_is_recognised(self, factor):
        def loss(z, mu, log_var, dataset_size, beta):
            kl = 0.5 * (mu**2 + log_var.exp() - 1 - log_var).sum() / len(z)
            return factor * kl + (beta - 1) * tc(z, mu, log_var, dataset_size)

        report = check(loss, **QUICK)
        assert report.verdict is (Verdict.PASS if factor == 1 else Verdict.WRONG)
        notes = " ".join(report.notes)
        assert ("the scalar is KL" in notes) == (factor == 1)
        assert ("fits neither form" in notes) == (factor == 2)

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            ({}, ["loss, KLD; to say what one is, --returns tc=tc_loss,QUANTITY=KLD; --weights beta=6 says"]),
            ({"weights": {"beta": 6}}, ["KLD; to say what one is, --returns penalty=loss,tc=tc_loss,QUANTITY=KLD"]),
            ({"returns": "tc=tc_loss"}, []),
        ],
    )
    def test_parts_that_are_not_judged_are_named(self, options, said):
        def loss(z, mu, log_var, dataset_size):
            t = right()(z, mu, log_var, dataset_size)
            whole = t["mi"] + 6 * t["tc"] + t["dwkl"]
            return {"loss": whole, "KLD": t["dwkl"].detach(), "tc_loss": t["tc"], "epoch": "first"}

        report = check(loss, **options, **QUICK)
        assert report.verdict is Verdict.PASS
        found = [note for note in report.notes if note.startswith("returned, and not judged: ")]
        assert len(found) == len(said)
        assert all(words in note for words, note in zip(said, found, strict=True))

    def test_a_method_with_a_factory(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "models.py").write_text(
            textwrap.dedent("""
            import math, torch
            class Model:
                def __init__(self, N): self.N = N
                def tc(self, z, mean, logvar):
                    L = -0.5 * ((z[:, None] - mean) ** 2 / logvar.exp() + logvar + math.log(2 * math.pi))
                    w = math.log(self.N * len(z))
                    return (L.sum(2).logsumexp(1) - w - (L.logsumexp(1) - w).sum(1)).mean()
            class Own(Model):
                def tc(self, z, mean, logvar, N):
                    self.N = N
                    return super().tc(z, mean, logvar)
            def make(): return Own(3)
            """)
        )
        report = check("models.py:Own.tc", factory="models.py:make", **{**QUICK, "framework": None})
        assert (report.verdict, report.framework, report.estimator) == (Verdict.PASS, "torch", "mws")

    def test_the_nearest_estimator_is_the_one_whose_gradients_fit(self):
        def without_constant(z, mu, log_var, dataset_size):
            terms = right()(z, mu, log_var, dataset_size)
            shift = z.shape[1] * math.log(dataset_size * len(z))
            return {"mi": terms["mi"], "tc": terms["tc"] - shift, "dwkl": terms["dwkl"] + shift}

        report = check(without_constant, **QUICK)
        assert report.estimator == "mws"
        assert verdicts(report) == {"values": Verdict.WRONG, "gradients": Verdict.PASS}
        assert report.results[0].counterexample.stage == "log q(z_d)"

    def test_stratified_weights_without_the_dataset_size_are_remarked(self):
        def loss(z, mu, log_var):
            return tc(z, mu, log_var, 5)

        assert any("takes no dataset_size" in note for note in check(loss, estimator="mss", **QUICK).notes)


class TestABoundDatasetSize:
    """--bind N=1000: the loss is held to that N, and one with another N inside is told so."""

    @pytest.mark.parametrize("estimator", ["mws", "mss"])
    @pytest.mark.parametrize("inside", [1000, 60_000])
    def test_the_loss_is_held_to_it(self, estimator, inside):
        def loss(z, mu, log_var, N):
            return right(estimator)(z, mu, log_var, N + inside - 1000)

        if inside == 1000:
            report = check(loss, bind={"N": 1000}, **{**QUICK, "checks": None})
            assert (report.verdict, report.estimator) == (Verdict.PASS, estimator)
            assert not any("takes no dataset_size" in note for note in report.notes)
        else:
            report = check(loss, bind={"N": 1000}, estimator=estimator, **{**QUICK, "checks": ("values",)})
            (diagnosis,) = report.diagnosis
            assert diagnosis.id == "wrong-dataset-size"
            assert "N = 60,000 in place of 1,000" in diagnosis.evidence
            assert report.results[0].counterexample.case.dataset_size == 1000

    def test_a_batch_is_no_larger(self):
        seen = set()

        def loss(z, mu, log_var, N):
            seen.add(len(z))
            return right("mss")(z, mu, log_var, N)

        assert check(loss, bind={"N": 7}, estimator="mss", **QUICK).verdict is Verdict.PASS
        assert 2 < max(seen) <= 7

    def test_what_is_no_dataset_size_is_remarked(self):
        def loss(z, mu, log_var, num_samples):
            return right("minibatch")(z, mu, log_var, num_samples)

        report = check(loss, bind={"num_samples": 1}, **QUICK)
        assert (report.verdict, report.estimator) == (Verdict.PASS, "minibatch")
        assert "N is bound to 1, and not judged: it takes a whole number of at least 7" in report.notes


class TestFaults:
    """Everything a function may do that is not an answer has a verdict and a clear message."""

    def judged(self, loss, **options):
        report = check(loss, estimator="mws", **{**QUICK, **options})
        first = report.results[0]
        return first.verdict, first.message or first.counterexample.message

    def test_raises(self):
        def loss(z, mu, log_var, dataset_size):
            raise RuntimeError("no such layer")

        verdict, message = self.judged(loss)
        assert verdict is Verdict.ERROR
        assert "RuntimeError: no such layer" in message

    def test_raises_in_some_cases_only(self):
        def loss(z, mu, log_var, dataset_size):
            if len(z) == 1:
                raise ZeroDivisionError("M - 1")
            return tc(z, mu, log_var, dataset_size)

        report = check(loss, estimator="mws", **QUICK)
        assert verdicts(report)["values"] is Verdict.ERROR
        assert len(report.results[0].counterexample.case.z) == 1

    def test_wrong_shape(self):
        verdict, message = self.judged(lambda z, mu, log_var, dataset_size: {"log_qz": z[1:, 0]})
        assert verdict is Verdict.ERROR
        assert "log_qz" in message
        assert "(3,)" in message

    def test_nan(self):
        verdict, message = self.judged(lambda z, mu, log_var, dataset_size: (z * math.nan).sum())
        assert verdict is Verdict.NONFINITE
        assert "nan or infinity" in message

    def test_a_tuple(self):
        verdict, message = self.judged(lambda z, mu, log_var, dataset_size: (z.sum(), mu.sum()))
        assert verdict is Verdict.ERROR
        assert "--returns" in message

    def test_a_detached_tensor(self):
        report = check(lambda z, mu, log_var, dataset_size: tc(z, mu, log_var, dataset_size).detach(), **QUICK)
        assert verdicts(report) == {"values": Verdict.PASS, "gradients": Verdict.WRONG_GRADIENT}
        assert "detached" in report.results[1].message

    def test_a_python_float(self):
        report = check(lambda z, mu, log_var, dataset_size: float(tc(z, mu, log_var, dataset_size).detach()), **QUICK)
        assert verdicts(report) == {"values": Verdict.PASS, "gradients": Verdict.WRONG_GRADIENT}

    def test_none(self):
        verdict, message = self.judged(lambda z, mu, log_var, dataset_size: None)
        assert verdict is Verdict.ERROR
        assert "is a return missing?" in message

    def test_hangs(self, tmp_path, monkeypatch, capsys):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "slow.py").write_text(
            "import time, torch\ndef loss(z, mu, log_var, N):\n    time.sleep(600)\n    return z.sum()\n"
        )
        assert cli.main(["check", "slow.py:loss", "--framework", "torch", "--isolate", "--time-limit", "4"]) == 1
        assert "ERROR" in (said := capsys.readouterr().out)
        assert "no answer within 4 s" in said

    def test_a_gradient_that_is_not_asked_for(self):
        options = {**QUICK, "gradients": False}
        report = check(lambda z, mu, log_var, dataset_size: tc(z, mu, log_var, dataset_size).detach(), **options)
        assert report.verdict is Verdict.PASS
        assert dict(report.not_run)["gradients"] == "gradients are not asked for"


class TestOptions:
    def test_unknown_ones_suggest_the_nearest(self):
        for options, text in (
            ({"estimator": "msw"}, "did you mean 'mws'"),
            ({"checks": ("value",)}, "did you mean 'values'"),
            ({"dtypes": ("float46",)}, "did you mean 'float64'"),
            ({"variants": ("compile",)}, "did you mean 'compiled'"),
            ({"max_examples": 0}, "at least 1"),
        ):
            with pytest.raises(InputError, match=text):
                check(right(), **{**QUICK, **options})

    def test_a_framework_that_cannot_be_told(self):
        with pytest.raises(InputError, match="--framework"):
            check(eval("lambda z, mu, log_var, dataset_size: z.sum()", {}), estimator="mws")

    def test_every_check_runs_or_says_why_not(self):
        report = check(right("mss"), max_examples=8, framework="torch", dtypes=("float64",))
        ran = {result.check for result in report.results}
        assert ran | {name for name, _ in report.not_run} == set(CHECKS)
        assert {"primitives", "values", "gradients", "unbiased", "telescoping", "cyclic-shift"} <= ran
        assert set(PROPERTIES) <= set(CHECKS)

    def test_the_same_seed_the_same_cases(self):
        def drawn(seed):
            seen = []

            def loss(z, mu, log_var, dataset_size):
                seen.append(z.detach().numpy().tobytes())
                return tc(z, mu, log_var, dataset_size)

            check(loss, **QUICK, seed=seed)
            return seen

        first, again, other = drawn(1), drawn(1), drawn(2)
        assert first == again != other

    def test_low_precision(self):
        report = check(right(), max_examples=40, framework="torch", dtypes=("bfloat16",), checks=("values",))
        (values,) = report.results
        assert values.verdict is Verdict.PASS
        assert values.certified > 10
        assert values.inconclusive > 0
        assert values.cases == values.certified + values.inconclusive

    def test_nothing_certified_is_no_pass(self):
        """Gradients in bfloat16: the allowance says nothing."""
        report = check(right(), max_examples=10, framework="torch", dtypes=("bfloat16",), checks=("gradients",))
        assert (report.verdict, report.exit_status) == (Verdict.INCONCLUSIVE, 3)

    def test_a_loss_with_its_dataset_size_inside(self):
        """It is judged for its own N once that is said; until then it is told how."""

        class Loss:
            def __init__(self, n, factor=1.0):
                self.n, self.factor = n, factor

            def __call__(self, z, mu, logvar):
                return self.factor * right("mss")(z, mu, logvar, self.n)["tc"]

        few = {"framework": "torch", "dtypes": ("float64",), "checks": ("values", "gradients"), "max_examples": 5}
        unsaid = check(Loss(60_000), estimator="mss", **few)
        assert unsaid.verdict is Verdict.WRONG
        assert "it takes no dataset_size: if the N inside is meant, say so with --bind dataset_size=N" in unsaid.notes
        said = check(Loss(60_000), bind={"dataset_size": 60_000}, **few)
        assert (said.verdict, said.estimator) == (Verdict.PASS, "mss")
        assert "(dataset_size=60000 inside)" in said.mapping
        assert check(Loss(60_000), bind={"dataset_size": 50_000}, estimator="mss", **few).verdict is Verdict.WRONG
        assert check(Loss(60_000, 2.0), bind={"dataset_size": 60_000}, **few).verdict is Verdict.WRONG
        with pytest.raises(InputError, match="is told N, and dataset_size=9 is bound"):
            check(lambda z, mu, logvar, n_data: 0.0, bind={"dataset_size": 9}, **few)

    @pytest.mark.parametrize("changes", ["a counter", "noise"])
    def test_what_is_no_function_of_its_arguments_is_not_called_wrong(self, changes):
        calls = itertools.count(1)
        noise = random.Random(0)

        def annealed(z, mu, logvar, dataset_size):
            factor = next(calls) / 1e4 if changes == "a counter" else 1.0 + 0.1 * noise.random()
            return factor * tc(z, mu, logvar, dataset_size)

        report = check(annealed, framework="torch", dtypes=("float64",), max_examples=5)
        assert (report.verdict, report.exit_status) == (Verdict.ERROR, 1)
        assert "is no function of its arguments: called twice with the same numbers, tc is" in report.results[0].message

    def test_a_dataset_size_without_influence_is_noted_unless_that_is_claimed(self):
        def minibatch(z, mu, log_var, dataset_size):
            return right("minibatch")(z, mu, log_var, dataset_size)["tc"]

        few = {"framework": "torch", "dtypes": ("float64",), "checks": ("values",), "max_examples": 5}
        for function, claimed, noted in (
            (minibatch, "auto", True),
            (minibatch, "minibatch", False),
            (tc, "auto", False),
        ):
            report = check(function, estimator=claimed, **few)
            assert report.verdict is Verdict.PASS
            assert any(note.startswith("dataset_size has no influence") for note in report.notes) == noted

    def test_a_rougher_result_is_a_warning(self):
        """Off by 3e-15 of itself: more than rounding allows, too little to matter."""

        def rough(z, mu, log_var, dataset_size):
            return tc(z, mu, log_var, dataset_size) * (1 + 3e-15)

        report = check(rough, **{**QUICK, "max_examples": 100, "checks": ("values",)})
        assert report.verdict is Verdict.WARN
        assert "as far off as the reference" in report.results[0].message
        assert report.exit_status == 0


class TestVariants:
    def test_compiled_by_torch(self):
        report = check(right(), framework="torch", variants=("compiled",), dtypes=("float64",), max_examples=6)
        assert report.verdict is Verdict.PASS
        assert {result.variant for result in report.results} == {"compiled"}

    def test_a_mistake_of_the_compiled_variant_alone(self):
        def loss(z, mu, log_var, dataset_size):
            return tc(z, mu, log_var, dataset_size) + (1e-9 if torch.compiler.is_compiling() else 0.0)

        options = {**QUICK, "checks": ("values",), "max_examples": 6}
        report = check(loss, variants=("eager", "compiled"), **options)
        assert [(r.variant, r.verdict) for r in report.results] == [
            ("eager", Verdict.PASS),
            ("compiled", Verdict.WRONG),
        ]


@pytest.fixture
def losses(tmp_path, monkeypatch):
    """A folder with a file of losses, from which commands are run."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "losses.py").write_text(
        textwrap.dedent("""
        import math, torch
        CONSTANT = 0.0

        def good(z, mu, logvar, N):
            L = -0.5 * ((z[:, None] - mu) ** 2 / logvar.exp() + logvar + math.log(2 * math.pi))
            w = math.log(N * len(z))
            return (L.sum(2).logsumexp(1) - w - (L.logsumexp(1) - w).sum(1)).mean()

        def bad(z, mu, logvar, N):
            return good(z, mu, logvar, N) + 1e-6
        """)
    )
    return tmp_path


class TestCommands:
    def test_exit_statuses(self, losses):
        few = ["--max-examples", "10", "--dtype", "float64", "--checks", "values"]
        assert cli.main(["check", "losses.py:good", *few]) == 0
        assert cli.main(["check", "losses.py:bad", *few, "--no-save"]) == 1
        assert cli.main(["check", "losses.py:missing", *few]) == 2
        assert cli.main(["check", "elsewhere.py:good", *few]) == 2
        few = ["--max-examples", "10", "--dtype", "bfloat16", "--checks", "gradients"]
        assert cli.main(["check", "losses.py:good", *few]) == 3

    def test_nothing_is_left_behind_but_failing_cases(self, losses):
        before = {path.name for path in losses.iterdir()}
        command = [sys.executable, "-m", "tcvae_ref", "check", "losses.py:good", "--max-examples", "8", "--quiet"]
        assert subprocess.run(command, cwd=losses, capture_output=True, check=False).returncode == 0
        assert {path.name for path in losses.iterdir()} - before <= {"__pycache__"}

    def test_reports_for_programs(self, losses):
        options = ["--max-examples", "10", "--json", "r.json", "--junit", "r.xml", "--dtype", "float64"]
        assert cli.main(["check", "losses.py:bad", *options]) == 1
        content = json.loads((losses / "r.json").read_text())
        assert (content["schema_version"], content["verdict"]) == (1, "WRONG")
        assert content["diagnosis"][0]["id"] == "constant-offset"
        assert content["cases"][0]["check"] == "values"
        assert content["counts"]["checks"] == len(content["checks"])
        assert "<failure" in (losses / "r.xml").read_text()

    def test_replay(self, losses, capsys):
        few = ["--max-examples", "10", "--dtype", "float64", "--checks", "values"]
        assert cli.main(["check", "losses.py:bad", *few]) == 1
        (saved,) = (losses / ".tcvae-ref" / "cases").glob("*.json")
        assert cli.main(["replay", saved.stem]) == 1
        assert "FAILED" in capsys.readouterr().out
        assert cli.main(["replay", saved.stem[:4], "--target", "losses.py:good"]) == 0
        assert "FIXED" in capsys.readouterr().out
        assert cli.main(["replay", "ffff"]) == 2
        (saved.parent / "0123456789.json").write_text("{}")
        capsys.readouterr()
        assert cli.main(["replay"]) == 0
        head, *rows = capsys.readouterr().out.splitlines()
        assert head.split() == ["id", "check", "dtype", "target", "saved"]
        assert sorted(row.split()[:4] for row in rows) == sorted(
            [["0123456789", "damaged", "-", "-"], [saved.stem, "values", "float64", "losses.py:bad"]]
        )
        assert cli.main(["replay", "--target", "losses.py:good"]) == 2

    def test_replay_asks_for_no_other_dtype_than_the_case_has(self, losses, monkeypatch):
        """A float32 case of JAX is replayed where JAX has no float64."""
        monkeypatch.setenv("JAX_ENABLE_X64", "0")
        (losses / "in_jax.py").write_text(
            "import jax.numpy as jnp\ndef loss(z, mu, log_var, N):\n    return jnp.sum(z * mu) + N\n"
        )
        options = ["--dtype", "float32", "--max-examples", "4", "--checks", "values", "--variant", "jit", "--quiet"]
        command = [sys.executable, "-m", "tcvae_ref"]
        done = subprocess.run([*command, "check", "in_jax.py:loss", *options], check=False, capture_output=True)
        assert done.returncode == 1
        (saved,) = (losses / ".tcvae-ref" / "cases").glob("*.json")
        done = subprocess.run([*command, "replay", saved.stem], check=False, capture_output=True, text=True)
        assert (done.returncode, "FAILED" in done.stdout) == (1, True), done.stderr

    @pytest.mark.parametrize("switch", [None, "0"])
    def test_jax_has_float64_unless_the_user_switches_it_off(self, switch, monkeypatch):
        monkeypatch.delenv("JAX_ENABLE_X64", raising=False)
        if switch is not None:
            monkeypatch.setenv("JAX_ENABLE_X64", switch)
        command = [sys.executable, "-m", "tcvae_ref", "probe", "--framework", "jax"]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        assert ("float64" in done.stdout) == (switch is None), done.stderr

    def test_list_checks_and_probe(self, capsys):
        assert cli.main(["list-checks"]) == 0
        said = capsys.readouterr().out
        assert all(name in said for name in CHECKS)
        assert "blind" in said
        assert cli.main(["probe", "--framework", "torch"]) == 0
        assert "float64" in capsys.readouterr().out

    def test_a_ghostwritten_file_runs(self, losses):
        assert cli.main(["ghostwrite", "losses.py:good", "--out", "test_good.py"]) == 0
        assert '    estimator="mws",\n' in (losses / "test_good.py").read_text(), "what it is now it must stay"
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-k", "values or one", "test_good.py", "-p", "no:cacheprovider"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout
        assert "passed" in done.stdout


class TestOtherSuites:
    def test_plain_functions_raise_with_the_evidence(self):
        few = {"max_examples": 8, "framework": "torch", "dtypes": ("float64",)}
        for one in (check_values, check_gradients, check_properties):
            assert one(right(), **few).exit_status == 0
        with pytest.raises(AssertionError, match="Given:"):
            check_values(lambda z, mu, log_var, dataset_size: tc(z, mu, log_var, dataset_size) + 1e-6, **few)

    def run(self, folder, text, *options):
        (folder / "test_mine.py").write_text(textwrap.dedent(text))
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-rsx", *options, "test_mine.py"]
        return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)

    SUITE = """
        import losses
        from tcvae_ref.oracle import parametrize_with_checks

        @parametrize_with_checks([losses.good], estimator="mws", max_examples=8, dtypes=("float64",))
        def test_good(check):
            check()

        @parametrize_with_checks(
            ["losses.py:bad"], max_examples=8, dtypes=("float64",), checks=["values", "gradients"],
            expected_failed_checks={"values": "a constant is added"},
        )
        def test_bad(check):
            check()
        """

    def test_parametrised_checks_and_the_summary(self, losses):
        done = self.run(losses, self.SUITE)
        assert done.returncode == 0, done.stdout
        assert "1 xfailed" in done.stdout
        assert "test_mine.py" in done.stdout
        assert "unbiased: needs log_qz" in done.stdout or "unbiased" in done.stdout
        assert " checks, " in done.stdout
        assert " certified, " in done.stdout

    def test_an_expected_failure_that_passes_fails(self, losses):
        suite = self.SUITE.replace("losses.py:bad", "losses.py:good")
        done = self.run(losses, suite, "-k", "test_bad")
        assert done.returncode == 1
        assert "XPASS(strict)" in done.stdout

    def test_the_plugin_says_nothing_where_the_oracle_is_not_used(self, losses):
        done = self.run(losses, "def test_one():\n    pass\n")
        assert done.returncode == 0
        assert "certified" not in done.stdout

    @pytest.mark.skipif(importlib.util.find_spec("pytest_cov") is None, reason="pytest-cov is not installed")
    def test_the_coverage_of_a_users_own_project_is_measured(self, losses):
        done = self.run(losses, self.SUITE, "--cov=losses", "--cov-report=term-missing")
        assert done.returncode == 0, done.stdout
        (line,) = [line for line in done.stdout.splitlines() if line.startswith("losses.py")]
        assert "100%" in line


def test_progress_counts_the_cases_and_no_others():
    said = []
    few = {"framework": "torch", "dtypes": ("float64",), "max_examples": 10, "estimator": "mws"}
    report = check(right(), checks=("values", "cyclic-shift"), **few, progress=lambda *args: said.append(args))
    assert said[0][:2] == (0, 0)
    assert said[-1][0] == said[-1][1] == report.counts["cases"] > 11
    assert [done for done, *_ in said] == sorted(done for done, *_ in said)


def test_a_batch_that_has_one_order_is_not_drawn_for_its_order():
    few = {"framework": "torch", "dtypes": ("float64",), "max_examples": 10}
    report = check(right(), checks=("cyclic-shift", "permutation"), estimator="mws", **few)
    assert [(r.verdict, r.cases, r.inconclusive) for r in report.results] == [(Verdict.PASS, 1, 0)] * 2


def test_inputs_arrive_in_the_dtype_that_is_judged():
    seen = set()

    def loss(z, mu, log_var, dataset_size):
        seen.add((z.dtype, mu.dtype, log_var.dtype))
        return tc(z, mu, log_var, dataset_size)

    report = check(loss, **{**QUICK, "dtypes": ("float32",), "checks": ("values",)}, estimator="mws")
    assert report.verdict is Verdict.PASS
    assert (torch.float32,) * 3 in seen


@pytest.mark.parametrize("framework", ["torch", "numpy", "autograd"])
def test_a_target_that_writes_to_its_arguments_is_told_so(framework):
    def loss(z, mu, log_var, dataset_size):
        result = right(framework=framework)(z, mu, log_var, dataset_size)
        array = getattr(mu, "_value", mu)
        (array.data if framework == "torch" else array)[0] += 1.0
        return result

    report = check(loss, **{**QUICK, "framework": framework}, estimator="mws")
    assert report.verdict is Verdict.ERROR
    assert "writes to its argument mu" in report.results[0].message


def test_weights_that_are_ignored_or_swapped_are_noticed_where_shapes_are_few():
    def ignores(z, mu, log_var, dataset_size, alpha, beta, gamma):
        t = right()(z, mu, log_var, dataset_size)
        return t["mi"] + 6.0 * t["tc"] + t["dwkl"]

    def swaps(z, mu, log_var, dataset_size, alpha, beta, gamma):
        t = right()(z, mu, log_var, dataset_size)
        return gamma * t["mi"] + beta * t["tc"] + alpha * t["dwkl"]

    def falsy(z, mu, log_var, dataset_size, alpha, beta, gamma):
        t = right()(z, mu, log_var, dataset_size)
        return alpha * t["mi"] + (beta or 6.0) * t["tc"] + (gamma or 1.0) * t["dwkl"]

    options = {**QUICK, "max_examples": 60, "checks": ("values",), "estimator": "mws"}
    for loss in (ignores, swaps, falsy):
        assert check(loss, **options).verdict is Verdict.WRONG
    assert len({alpha == gamma for alpha, _, gamma in cases.WEIGHTS[:2]}) == 2, "two triples show a swap"
    assert check(swaps, **options, variants=("compiled",)).verdict is Verdict.WRONG


def test_a_counterexample_stays_the_mistake_it_was_found_for():
    """Two mistakes, the smaller of which shows in smaller cases: the report is about the one that was found."""

    def loss(z, mu, log_var, dataset_size):
        terms = right()(z, mu, log_var, dataset_size)
        if min(z.shape) >= 3:
            return {**terms, "mi": terms["mi"] + 1.0}
        return {**terms, "dwkl": terms["dwkl"] + (1e-4 if min(z.shape) == 2 else 0.0)}

    for seed in range(3):
        report = check(loss, **{**QUICK, "checks": ("values",)}, estimator="mws", seed=seed)
        elements = report.results[0].counterexample.elements
        rows, columns = report.results[0].counterexample.case.z.shape
        assert ("mi" in {e.quantity for e in elements}) == (min(rows, columns) >= 3)


def test_the_estimator_is_found_in_float64_even_if_that_is_not_judged():
    report = check(right("symmetric-mss"), **{**QUICK, "dtypes": ("bfloat16",), "checks": ("values",)})
    assert report.estimator == "symmetric-mss"


@pytest.mark.parametrize("estimator", ["mss", "symmetric-mss"])
def test_a_differentiable_maximum_of_what_is_not_yet_weighted(estimator):
    """The largest density is rarely the largest weighted one: its own derivative is rounding, and allowed for."""

    def loss(z, mu, log_var, dataset_size):
        N, M = dataset_size, len(z)
        W = right_losses.torch_weights(estimator, z, N)
        L = right_losses.torch_log_normal(z[:, None], mu, log_var)
        S = L.sum(2)
        top, top_d = S.amax(1, keepdim=True), L.amax(1, keepdim=True)
        log_qz = top[:, 0] + (W * (S - top).exp()).sum(1).log()
        log_qz_marginals = top_d[:, 0] + (W[..., None] * (L - top_d).exp()).sum(1).log()
        given_x = right_losses.torch_log_normal(z, mu, log_var).sum(1)
        assert len(mu) == M
        return right_losses.torch_terms(given_x, log_qz, log_qz_marginals, right_losses.torch_log_prior(z))

    for seed in range(3):
        options = {**QUICK, "dtypes": ("float64", "float32"), "max_examples": 100}
        report = check(loss, estimator=estimator, seed=seed, **options)
        assert report.exit_status == 0, report
