"""`tcvae-ref selftest`: a handful of cases pass; mistakes planted in the house are found, named and repeated."""

import json
import math

import numpy as np
import pytest
import tcvae_kernels
from tcvae_kernels import pairwise
from test_cli import run

import tcvae_ref
from tcvae_ref import InputError, cli, gaussian
from tcvae_ref.metrics.octaves import group_densities
from tcvae_ref.oracle import standardised, tolerance
from tcvae_ref.oracle.truth import truth
from tcvae_ref.oracle.types import ESTIMATORS, Enclosure, Primitives
from tcvae_ref.oracle.types import Case as Posed
from tcvae_ref.selftest import commands, densities, draws, estimators, mixtures, running
from tcvae_ref.selftest.types import Case, Comparison, Result


def names(result):
    return {finding.function for finding in result.findings}


def judged(seed, *numbers, compiled=None):
    result = Result(seed, 0)
    for number in numbers:
        running.judge(result, number, compiled)
    return result


def batches(estimator, count=4, dtype="float64"):
    """Moderate batches of one estimator."""
    found, number = [], 0
    while len(found) < count:
        batch = draws.batch(draws.generator(0, number))
        number += 1
        if (batch.estimator, batch.dtype, batch.hard) == (estimator, dtype, "") and 2 < len(batch.z) < 9:
            found.append(batch)
    return found


def compared(batch, module, case=None):
    result = Result(0, 0)
    for _, compare in estimators.judge(batch, [module], np.random.default_rng(0)):
        result.add(case or Case(0, batch.what, {}), compare())
    return result


class TestPasses:
    def test_a_handful_of_cases(self, capsys):
        assert cli.main(["selftest", "--seed", "3", "--cases", "25"]) == 0
        text = capsys.readouterr().out
        assert "seed 3" in text
        assert "25 cases" in text
        assert " 0 outside" in text
        assert text.endswith("PASS\n")
        for name in ("python", "numpy", "scipy", "autograd", "python-flint", "platform", "kernels for", "threads"):
            assert f"  {name}: " in text

    def test_a_case_is_drawn_from_its_seed_and_number_alone(self):
        for number in (0, 7):
            one, other = (draws.batch(draws.generator(5, number)) for _ in range(2))
            np.testing.assert_array_equal(one.z, other.z)
        later = running.run(5, 3, 2, compiled=None)
        assert later.cases == 2
        assert judged(5, 3, 4).tallies == later.tallies

    @pytest.mark.parametrize("topic", sorted({*running.TOPICS} - {"entropies"}))  # those take a second: below
    def test_every_topic(self, topic, monkeypatch):
        monkeypatch.setattr(running, "TOPICS", {topic: 1.0})
        result = judged(1, 0, 1, compiled=running.kernels())
        assert not result.findings
        assert result.total("certified") > 5

    def test_for_programs(self, capsys, tmp_path):
        assert cli.main(["selftest", "--seed", "3", "--cases", "3", "--kernels", "numpy", "--json", "-"]) == 0
        captured = capsys.readouterr()
        content = json.loads(captured.out)
        assert (content["seed"], content["cases"], content["findings"]) == (3, 3, [])
        assert content["left_out"] == "the kernels (--kernels numpy)"
        assert "seed 3" in captured.err


class TestCases:
    def test_hard_ones_are_among_them(self):
        drawn = [draws.batch(draws.generator(0, k)) for k in range(400)]
        hard = " ".join(batch.hard for batch in drawn)
        for word in ("extreme", "narrow", "huge", "tiny", "subnormal", "duplicates", "identical", "z = mu", "far out"):
            assert word in hard
        assert {batch.estimator for batch in drawn} == set(ESTIMATORS)
        assert {len(batch.z) for batch in drawn} >= set(range(1, 9))
        assert max(batch.dataset_size for batch in drawn) > 2**40
        assert max(np.abs(batch.log_var).max() for batch in drawn) > 600
        assert any(batch.dataset_size == len(batch.z) and batch.estimator == "mss" for batch in drawn)

    def test_inside_the_usual_range_the_bound_is_the_oracles(self):
        """The house's own form is one of the usual ones: its bound may be lower where underflow is at stake only."""
        for batch in batches("mss"):
            case = Posed(batch.z, batch.mu, batch.log_var, batch.dataset_size)
            own, usual = (f(case, "mss", "float64", Primitives(4.0, 4.0)) for f in (own_bound, usual_bound))
            for name, value in usual.values.items():
                np.testing.assert_allclose(own.values[name], value, rtol=1e-9)
            for name, gradient in usual.gradients.items():
                for argument, slope in gradient.items():
                    np.testing.assert_allclose(own.gradients[name][argument], slope, rtol=1e-9)

    def test_far_outside_it_there_still_is_one(self):
        rng = np.random.default_rng(0)
        for level in (-690.0, 690.0):
            log_var = level + rng.uniform(-1, 1, (3, 2))
            mu = np.zeros((3, 2))
            case = Posed(np.exp(0.5 * log_var) * rng.standard_normal((3, 2)), mu, log_var, 9)
            own, usual = (f(case, "mws", "float64", Primitives(4.0, 4.0)) for f in (own_bound, usual_bound))
            assert np.isinf(usual.values["log_qz"]).all()
            assert (own.values["log_qz"] < 1e-10).all()


def own_bound(*arguments):
    return standardised.allowances(*arguments)


def usual_bound(case, estimator, dtype, primitives):
    return tolerance.allowances(case, estimator, dtype, Primitives(primitives.exp / 2, primitives.log / 2))


class TestPlanted:
    def test_off_by_one_in_the_size_of_the_data_set(self, monkeypatch):
        monkeypatch.setattr(
            tcvae_ref, "log_qz_mws", lambda z, mu, v, N, right=tcvae_ref.log_qz_mws: right(z, mu, v, N + 1)
        )
        result = compared(batches("mws")[0], tcvae_ref)
        assert names(result) == {"tcvae_ref.log_qz_mws"}
        assert {f.argument for f in result.findings} == {""}
        assert result.exit_status == 1

    def test_weights_of_the_kernels(self, monkeypatch):
        monkeypatch.setattr(
            "tcvae_kernels.estimators.Weights", lambda a, b=1.0, c=1.0: pairwise.Weights(a, b, c * (1 + 1e-12))
        )
        assert "tcvae_kernels.log_qz_mss" in names(compared(batches("mss")[0], tcvae_kernels))

    def test_a_swapped_axis_shows_in_gradients_only(self, monkeypatch):
        right = pairwise.log_sums_and_gradient

        def swapped(*arguments):
            joint, marginals, gradient = right(*arguments)
            z, mu, log_var = gradient.joint
            return joint, marginals, gradient._replace(joint=(z, mu, log_var[::-1]))

        monkeypatch.setattr("tcvae_kernels.autograd_ops.log_sums_and_gradient", swapped)
        result = compared(batches("exact")[0], tcvae_kernels)
        assert {f.argument for f in result.findings} == {"log_var"}

    def test_a_wrong_digit_in_log_2_pi(self, monkeypatch):
        monkeypatch.setattr(gaussian, "LOG_2PI", math.log(2 * math.pi) * (1 + 1e-13))
        for name in ("log_density", "log_density_matrix", "gaussian_log_likelihood", "log_standard_normal"):
            arrays = densities.inputs(name, batches("mws")[1], np.random.default_rng(0))
            result = Result(0, 0)
            result.add(Case(0, "", {}), densities.judge(name, arrays, tcvae_ref))
            assert names(result) == {f"tcvae_ref.{name}"}

    def test_a_cancelling_form_of_the_kl(self, monkeypatch):
        """exp(log_var) - 1 in place of expm1 loses what a nearly standard posterior's KL is made of."""
        monkeypatch.setattr(gaussian.np, "expm1", lambda v: gaussian.np.exp(v) - 1.0)
        arrays = {"mu": np.full((2, 2), 1e-6), "log_var": np.full((2, 2), 1e-5)}
        result = Result(0, 0)
        result.add(Case(0, "", {}), densities.judge("kl_to_standard_normal", arrays, tcvae_ref)[:1])
        assert names(result) == {"tcvae_ref.kl_to_standard_normal"}

    def test_a_constant_of_the_exponential(self):
        x = densities.exponents(np.random.default_rng(0), "float64")
        for wrong, found in ((0.0, False), (1e-12, True)):
            r = x - np.log(2) * np.rint(x / np.log(2))
            result = Result(0, 0)
            comparisons = densities.judge_exp(x, "tcvae_kernels.exp", lambda x, e=wrong * r**4: np.exp(x) * (1 + e))
            result.add(Case(0, "", {}), comparisons)
            assert bool(result.findings) == found

    def test_an_entropy_that_understates_its_error(self):
        mu, log_var = np.array([[0.0, 1.0], [2.0, 1.0]]), np.array([[0.0, -1.0], [1.0, 2.0]])
        components = mixtures.Components(mu, log_var, np.array([[0], [1]]), np.array([1.0, 3.0]))

        def coarse(*arguments):
            return group_densities(*arguments) * (1 + 1e-9)

        for sums, found in ((group_densities, False), (coarse, True)):
            result = Result(0, 0)
            result.add(Case(0, "", {}), mixtures.judge_entropies(components, sums, "numpy"))
            assert bool(result.findings) == found

    def test_a_weight_of_a_mixture(self):
        batch = batches("mws")[0]
        log_w = np.linspace(-1, 1, len(batch.z))
        result = Result(0, 0)
        wrong = lambda x, mu, v, w: running.kernels().log_density(x, mu, v, w + 1e-12)  # noqa: E731
        result.add(Case(0, "", {}), mixtures.judge_log_density(batch, log_w, wrong))
        assert names(result) == {"tcvae_kernels.mixture.log_density"}

    def test_nan_and_exceptions_are_findings(self, monkeypatch):
        one = np.zeros(1)
        result = Result(0, 0)
        result.add(
            Case(0, "", {}), [Comparison("f", "value", "", one + np.nan, Enclosure(one, one, one), one + 1e-9, one + 1)]
        )
        assert result.findings[0].numbers == 1
        monkeypatch.setattr(running, "TOPICS", {"exp": 1.0})
        monkeypatch.setattr(running.np, "exp", lambda x: 1 / 0)
        result = judged(0, 0)
        assert result.findings[0].raised == "ZeroDivisionError: division by zero"
        assert result.exit_status == 1


def test_a_finding_is_named_shown_and_repeated(monkeypatch, capsys):
    monkeypatch.setattr(
        tcvae_ref, "log_standard_normal", lambda z, right=tcvae_ref.log_standard_normal: right(z) * (1 + 1e-4)
    )
    monkeypatch.setattr(densities, "FORMULAS", {"log_standard_normal": densities.FORMULAS["log_standard_normal"]})
    monkeypatch.setattr(running, "TOPICS", {"densities": 1.0})
    command = ["selftest", "--seed", "1", "--first", "2", "--cases", "1", "--kernels", "numpy"]
    assert cli.main(command) == 1
    text = capsys.readouterr().out
    assert "WRONG  tcvae_ref.log_standard_normal" in text
    assert "again: tcvae-ref selftest --seed 1 --first 2 --cases 1" in text
    assert "    z = np." in text
    assert cli.main([*command, "--json", "-"]) == 1
    finding = json.loads(capsys.readouterr().out)["findings"][0]
    assert finding["function"] == "tcvae_ref.log_standard_normal"
    inputs = finding["inputs"]["z"]
    again = np.array([float.fromhex(x) for x in inputs["entries"]]).reshape(inputs["shape"])
    exact = truth(Posed(again, again, np.zeros_like(again), 5), "mws").values["log_pz"].middle[finding["index"][0]]
    assert math.isclose(exact, finding["true"], rel_tol=1e-15)


def error_of(arguments, capsys):
    """The one line of complaint of a command that is refused."""
    assert run(*arguments) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("tcvae-ref: ")]
    return line


class TestUsage:
    @pytest.mark.parametrize(
        ("options", "complaint"),
        [
            (["--cases", "0"], "--cases=0 is too small"),
            (["--seed", "-1"], "--seed=-1 is too small"),
            (["--first", "-1"], "--first=-1 is too small"),
            (["--seconds", "0"], "--seconds=0 is not allowed"),
            (["--seconds", "nan"], "--seconds=nan is not allowed"),
            (["--kernels", "numpy", "--threads", "2"], "--threads is for kernels"),
            (["--json", "nowhere/report.json"], "nowhere"),
        ],
    )
    def test_mistakes(self, options, complaint, capsys):
        assert complaint in error_of(["selftest", *options], capsys)

    @pytest.mark.parametrize(
        ("module", "options", "extra"), [("flint", [], "oracle"), ("numba", ["--kernels", "numba"], "kernels")]
    )
    def test_an_extra_that_is_missing(self, module, options, extra, monkeypatch, capsys):
        find = commands.importlib.util.find_spec
        monkeypatch.setattr(
            commands.importlib.util, "find_spec", lambda name, *rest: None if name == module else find(name, *rest)
        )
        assert f"pip install 'tcvae-ref[{extra}]'" in error_of(["selftest", *options], capsys)

    def test_without_numba_the_reference_is_judged(self, monkeypatch, capsys):
        find = commands.importlib.util.find_spec
        monkeypatch.setattr(
            commands.importlib.util, "find_spec", lambda name, *rest: None if name == "numba" else find(name, *rest)
        )
        assert cli.main(["selftest", "--seed", "0", "--cases", "3"]) == 0
        text = capsys.readouterr().out
        assert "left out: the kernels: numba is not installed; pip install 'tcvae-ref[kernels]'" in text
        assert "numba: " in text


def test_an_exception_in_the_truth_is_a_finding(monkeypatch):
    def broken(number, rng, compiled):
        raise ArithmeticError("no enclosure")

    monkeypatch.setattr(running, "_POSED", dict.fromkeys(running._POSED, broken))
    result = running.run(0, 0, cases=3)
    assert result.cases == len(result.findings) == 3
    assert all("no enclosure" in finding.raised for finding in result.findings)


def test_a_limit_is_needed():
    with pytest.raises(InputError, match="neither cases nor seconds are given"):
        running.run(0, 0)
