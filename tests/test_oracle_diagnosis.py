"""The oracle names mistakes: those of wrong_losses.py, in PyTorch and JAX, alone and in pairs; and it never guesses.

    python tests/test_oracle_diagnosis.py [torch] [jax] [pairs] [variants] [unlisted]

prints the confusion table, with the evidence and the time for each.
"""

import functools
import math
import re
import sys
import time
from dataclasses import replace

import jax
import numpy as np
import pytest
from optional import torch
from right_losses import VARIANTS, random_columns, subdiagonal, torch_mss_with_free_column
from wrong_losses import MISTAKES, PAIRS, WRONG, TorchScaledGradient, build, estimator_of

from tcvae_ref.oracle import Verdict, adapters, check, report
from tcvae_ref.oracle.diagnosis import RIGHT_IN_FLOAT32, diagnose
from tcvae_ref.oracle.machine_report import from_json, to_json
from tcvae_ref.oracle.mistakes import listed, steps
from tcvae_ref.oracle.primitives import probe
from tcvae_ref.oracle.reference import reference
from tcvae_ref.oracle.subject import Subject
from tcvae_ref.oracle.target import load
from tcvae_ref.oracle.types import ESTIMATORS, PARAMETERISATIONS, QUANTITIES, Case, CheckResult

jax.config.update("jax_enable_x64", True)


# --- a loss, and what is said about it -------------------------------------------------------------------------------


@functools.cache
def warm(framework):
    adapter = adapters.by_name(framework)
    adapter.warm_up()
    return adapter, probe(adapter, "float64")


def case(M=4, D=2, N=7, seed=0):
    mu, log_var, eps = np.random.default_rng(seed).standard_normal((3, M, D))
    return Case(mu + np.exp(0.5 * log_var) * eps, mu, log_var, N)


def findings(loss, framework="torch", estimator="mws", variant="eager", results=(), **options):
    """What `diagnose` says about a loss in float64."""
    adapter, primitives = warm(framework)
    target = replace(load(loss, **options), stack=adapter.stack)
    weights = dict.fromkeys({"alpha", "gamma"} - set(target.takes_weights), 1.0)
    how = variant, "float64", estimator, target.parameterisation, primitives, weights
    subject = Subject(target.function, adapter, *how)
    plain = Subject(target.function, adapter, "eager", *how[1:])
    first = plain.receive(case()._replace(dataset_size=4 if estimator == "exact" else 7))
    return diagnose(subject, tuple(plain.observe(first).values), results)


def ids(found):
    return [one.id for one in found.diagnosis]


def only(loss, *quantities):
    """The loss, returning some of its quantities."""

    def fewer(z, mu, log_var, dataset_size):
        returned = loss(z, mu, log_var, dataset_size)
        return {name: returned[name] for name in quantities}

    return fewer


# --- the confusion table ---------------------------------------------------------------------------------------------

IN_JAX = [name for name, wrong in WRONG.items() if wrong.jax is not None][::3]


def about_torch(name):
    return findings(WRONG[name].torch, estimator=WRONG[name].estimator)


def about_jax(name):
    return findings(WRONG[name].jax, "jax", WRONG[name].estimator, "jit")


def about_pair(pair):
    return findings(build("torch", *pair), estimator=estimator_of(*pair))


def about_variant(variant):
    packed = {"packed": "params:mu,log_var"} if variant.spread == "packed" else {}
    claimed = "mss" if variant.estimator.startswith("mss-") else variant.estimator
    run = "jit" if variant.framework == "jax" else "eager"
    return findings(variant.function, variant.framework, claimed, run, **packed)


def expected_of_pair(pair):
    return {MISTAKES[name].diagnosis for name in pair}


def is_named(found, *expected):
    """All that is expected, and at most one rival."""
    named = ids(found)
    return set(expected) <= set(named) and len(named) <= max(2, len(expected))


@pytest.mark.parametrize("name", WRONG)
def test_a_mistake_is_named(name):
    found = about_torch(name)
    assert is_named(found, WRONG[name].diagnosis)
    assert all("\n" not in one.evidence for one in found.diagnosis)


@pytest.mark.parametrize("name", IN_JAX)
def test_a_mistake_is_named_in_jax(name):
    assert is_named(about_jax(name), WRONG[name].diagnosis)


def test_both_of_two_mistakes_are_named():
    """Four in five at least; the others are not given another's name."""
    named = {pair: set(ids(about_pair(pair))) for pair in PAIRS}
    both = [pair for pair in PAIRS if expected_of_pair(pair) <= named[pair]]
    assert len(both) >= 0.8 * len(PAIRS)
    assert all(named[pair] <= {"unknown", *expected_of_pair(pair)} for pair in PAIRS), named


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: f"{v.name} {v.framework}")
def test_a_right_variant_is_not_accused(variant):
    """Matrix products do lose digits: that is what they are told."""
    found = about_variant(variant)
    assert ids(found) == (["expanded-square"] if variant.name == "matrix products" else [])
    noted = "MSS with another choice of the free column"
    assert found.notes == ((f"valid alternative: {noted}",) if variant.estimator.startswith("mss-") else ())


# --- what is returned matters ----------------------------------------------------------------------------------------

NAMED_BY_TC = sorted({name for name, wrong in WRONG.items() if wrong.returns == "terms"} - {"dwkl-without-prior"})


@pytest.mark.parametrize("name", NAMED_BY_TC[::3])
def test_tc_alone_names_a_mistake_or_all_that_fit(name):
    wrong = WRONG[name]
    named = ids(findings(only(wrong.torch, "tc"), estimator=wrong.estimator))
    assert not named or (wrong.diagnosis in named and len(named) <= 3)


def test_rivals_say_what_would_tell_them_apart():
    found = findings(only(WRONG["missing-constant"].torch, "tc"))
    assert ids(found)[:2] == ["missing-constant", "marginal-constant-once"]
    assert "fits as well: return log_qz as well to tell them apart" in found.diagnosis[0].evidence


def test_only_the_marginals_are_seen_in_dwkl():
    found = findings(only(WRONG["constant-offset"].torch, "dwkl"))
    assert ids(found) == ["only-log-n", "constant-offset"]


@pytest.mark.parametrize("column", [subdiagonal, random_columns])
@pytest.mark.parametrize("returned", [("tc",), ("mi", "tc", "dwkl"), ("log_qz",), ("log_qz_marginals",)], ids="+".join)
def test_another_free_column_is_valid_whatever_is_returned(column, returned):
    found = findings(only(torch_mss_with_free_column(column), *returned), estimator="mss")
    assert not found.diagnosis
    assert found.notes == ("valid alternative: MSS with another choice of the free column",)


def test_symmetric_weights_are_a_valid_alternative():
    symmetric = next(v for v in VARIANTS if v.estimator == "symmetric-mss" and v.framework == "torch")
    found = findings(symmetric.function, estimator="mss")
    assert (found.diagnosis, found.notes) == (
        (),
        ("valid alternative: symmetric MSS, the average over the free column",),
    )


def test_the_closed_form_is_a_valid_alternative():
    def penalty(z, mu, log_var, dataset_size, beta):
        kl = 0.5 * (mu**2 + log_var.exp() - 1 - log_var).sum(1).mean()
        return kl + (beta - 1) * build("torch")(z, mu, log_var, dataset_size)["tc"]

    found = findings(penalty)
    assert not found.diagnosis
    assert found.notes[0].startswith("valid alternative: KL + (beta - 1) TC")


def test_evidence_says_what_becomes_of_training():
    constant, columns = (about_torch(name).diagnosis[0] for name in ("missing-constant", "mss-weights-in-columns"))
    assert "TC is off by -10.6 at M = 5, D = 3, N = 40; gradients right: training is unaffected" in constant.evidence
    assert "changes what is learned: the gradient of TC is off by an angle of" in columns.evidence
    assert columns.evidence.endswith("matches to 15 digits on 11 of 11 cases")


@pytest.mark.parametrize("N", [123_456, 5000])
def test_another_data_set_size_is_found(N):
    def weighted(z, mu, log_var, dataset_size):
        return build("torch", estimator="mss")(z, mu, log_var, N)

    def constant(z, mu, log_var, dataset_size):
        return build("torch")(z, mu, log_var, N)

    for loss, estimator in ((weighted, "mss"), (constant, "mws")):
        found = findings(loss, estimator=estimator)
        assert ids(found) == ["wrong-dataset-size"]
        assert f"N = {N:,} whatever dataset_size is" in found.diagnosis[0].evidence


def test_a_factor_and_an_offset_beside_another_mistake_are_found():
    def thirds(z, mu, log_var, dataset_size):
        terms = WRONG["transposed-pairs"].torch(z, mu, log_var, dataset_size)
        return {name: terms[name] / 3 for name in ("mi", "tc", "dwkl")}

    def other_size(z, mu, log_var, dataset_size):
        return WRONG["transposed-pairs"].torch(z, mu, log_var, 4321)

    assert set(ids(findings(thirds))) == {"transposed-pairs", "constant-factor"}
    assert set(ids(findings(other_size))) == {"transposed-pairs", "wrong-dataset-size"}


def test_without_gradients_values_do():
    def in_numpy(name):
        loss = WRONG[name].torch

        def call(z, mu, log_var, dataset_size):
            returned = loss(*map(torch.from_numpy, (z, mu, log_var)), dataset_size)
            return {key: value.numpy() for key, value in returned.items()}

        return call

    for name in ("only-log-n", "mss-weights-in-columns", "log-var-as-log-std"):
        found = findings(in_numpy(name), "numpy", WRONG[name].estimator)
        assert ids(found) == [WRONG[name].diagnosis]
        assert "training" not in found.diagnosis[0].evidence


def test_an_inaccurate_primitive_is_named_where_nothing_else_is_off():
    result = CheckResult("primitives", "float64", "eager", Verdict.PRIMITIVE, message="exp off by 1e+09 u at 3")
    assert ids(findings(build("torch"), results=(result,))) == ["primitive-inaccurate"]


# --- never a guess ---------------------------------------------------------------------------------------------------


class Unlisted:
    """Mistakes that nobody listed, as functions of the steps of a loss in PyTorch."""

    def base(self, z, mu, log_var, dataset_size):
        pairs = self.log_normal(z[:, None], self.means(mu), log_var)
        log_w = self.log_w(len(z), dataset_size)
        log_qz, marginals = torch.logsumexp(pairs.sum(2) + log_w, 1), torch.logsumexp(pairs + log_w[..., None], 1)
        log_qzx, log_pz = self.log_normal(z, mu, log_var).sum(1), self.log_prior(z).sum(1)
        product = self.product(marginals)
        terms = self.mean(log_qzx - log_qz), self.mean(log_qz - product), self.mean(product - log_pz)
        return dict(zip(("mi", "tc", "dwkl"), terms, strict=True)) | {"log_qz": log_qz, "log_qz_marginals": marginals}

    def log_w(self, M, N):
        return torch.full((M, M), -math.log(N * M), dtype=torch.float64)

    def means(self, mu):
        return mu

    def log_normal(self, x, mu, log_var):
        return -0.5 * ((x - mu) ** 2 * torch.exp(-log_var) + log_var + math.log(2 * math.pi))

    def log_prior(self, z):
        return -0.5 * (z**2 + math.log(2 * math.pi))

    def product(self, marginals):
        return marginals.sum(1)

    def mean(self, a):
        return a.mean()


class Tempered(Unlisted):
    def log_normal(self, x, mu, log_var):
        return 0.9 * super().log_normal(x, mu, log_var)


class RolledMeans(Unlisted):
    def means(self, mu):
        return mu.roll(1, 0)


class MeanVariance(Unlisted):
    def log_normal(self, x, mu, log_var):
        return super().log_normal(x, mu, log_var.mean(-1, keepdim=True) + 0 * log_var)


class Laplace(Unlisted):
    def log_normal(self, x, mu, log_var):
        return -(x - mu).abs() * torch.exp(-0.5 * log_var) - 0.5 * log_var - math.log(2)


class Softplus(Unlisted):
    def log_normal(self, x, mu, log_var):
        return super().log_normal(x, mu, torch.nn.functional.softplus(log_var).log())


class FirstDimensionLeftOut(Unlisted):
    def product(self, marginals):
        return marginals[:, 1:].sum(1)


class HeavyDiagonal(Unlisted):
    def log_w(self, M, N):
        return super().log_w(M, N) + math.log(2) * torch.eye(M, dtype=torch.float64)


class RandomWeights(Unlisted):
    def log_w(self, M, N):
        noise = torch.rand(M, M, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        return super().log_w(M, N) + noise


class Median(Unlisted):
    def mean(self, a):
        return a.median()


class Squashed(Unlisted):
    def mean(self, a):
        return torch.tanh(a.mean())


class WidePrior(Unlisted):
    def log_prior(self, z):
        return -0.5 * (z**2 / 2 + math.log(4 * math.pi))


class ScaledSampleGradient(Unlisted):
    def base(self, z, mu, log_var, dataset_size):
        return super().base(TorchScaledGradient.apply(z, 0.7), mu, log_var, dataset_size)


class Shifted(Unlisted):
    def means(self, mu):
        return mu + 0.1


class Lost(Unlisted):
    """MI that is always 0: no factor of the right one."""

    def base(self, z, mu, log_var, dataset_size):
        return {**super().base(z, mu, log_var, dataset_size), "mi": 0.0 * (z + mu + log_var).sum()}


class ColumnsAndSoftplus(Softplus):
    """One listed mistake with one that is not."""

    def log_w(self, M, N):
        m = M - 1
        W = torch.full((M, M), 1 / m, dtype=torch.float64)
        W.view(-1)[:: m + 1] = 1 / N
        W.view(-1)[1 :: m + 1] = (N - m) / (N * m)
        W[m - 1, 0] = (N - m) / (N * m)
        return W.log()


UNLISTED = [cls for cls in (*Unlisted.__subclasses__(), ColumnsAndSoftplus)]


def about_unlisted(cls, *quantities):
    def loss(z, mu, log_var, dataset_size):
        return cls().base(z, mu, log_var, dataset_size)

    estimator = "mss" if cls is ColumnsAndSoftplus else "mws"
    return findings(only(loss, *quantities) if quantities else loss, estimator=estimator)


@pytest.mark.parametrize("cls", UNLISTED)
def test_an_unlisted_mistake_has_no_name(cls):
    found = about_unlisted(cls)
    assert ids(found) == ["unknown"]
    assert found.diagnosis[0].evidence.startswith(("first wrong stage: ", "values right; gradient off in "))


@pytest.mark.parametrize("cls", UNLISTED[::3])
def test_nor_has_it_by_tc_alone(cls):
    assert ids(about_unlisted(cls, "tc")) in (["unknown"], [])


def test_nothing_wrong_has_no_name():
    found = findings(build("torch"))
    assert (found.diagnosis, found.notes) == ((), ())


# --- the library itself ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("parameterisation", PARAMETERISATIONS)
def test_the_steps_without_a_mistake_are_the_reference(estimator, parameterisation):
    one = case(N=4 if estimator == "exact" else 7)
    widths = {
        "log_var": one.spread,
        "log_std": one.spread / 2,
        "std": np.exp(one.spread / 2),
        "var": np.exp(one.spread),
    }
    one = one._replace(spread=widths[parameterisation], parameterisation=parameterisation)
    adapter, _ = warm("autograd")
    right = adapter.observe(
        reference(estimator, parameterisation, QUANTITIES), one.arrays, one.constants, "float64", "eager", QUANTITIES
    )
    values = steps.values(steps.Loss, estimator, one, QUANTITIES)
    slopes = steps.gradients(steps.Loss, estimator, one, QUANTITIES)
    for name in QUANTITIES:
        np.testing.assert_allclose(values[name], right.values[name], rtol=1e-12, atol=1e-12)
        for argument, slope in slopes[name].items():
            np.testing.assert_allclose(slope, right.gradients[name][argument], rtol=1e-11, atol=1e-12)


def test_mistakes_that_change_the_same_step_do_not_go_together():
    by_id = {mistake.id: mistake.steps for mistake in listed.MISTAKES}
    columns, size = by_id["mss-weights-in-columns"], by_id["wrong-dataset-size"]
    assert listed.together(columns, by_id["missing-constant"]) is None
    both = listed.together(columns, size)
    assert listed.changed(both) == {"log_weights", "size"}


# --- in a report -----------------------------------------------------------------------------------------------------


def test_a_report_names_the_mistake():
    wrong = WRONG["mss-weights-in-columns"]
    few = {"estimator": "mss", "dtypes": ("float64",), "checks": ("values", "gradients"), "max_examples": 5}
    found = check(wrong.torch, framework="torch", **few)
    assert [one.id for one in found.diagnosis] == ["mss-weights-in-columns"]
    text = report.text(found)
    assert found.diagnosis[0].title in text
    assert "down columns 0 and 1" in text
    assert from_json(to_json(found)).diagnosis == found.diagnosis
    assert check(wrong.torch, framework="torch", diagnose=False, **few).diagnosis == ()


def test_where_no_estimator_fits_the_others_are_tried():
    """Columns 0 and 1 are taken for MWS, in which batches of one are drawn: those have no stratified weights."""
    few = {"dtypes": ("float64",), "checks": ("values", "gradients"), "max_examples": 5}
    for names in (("mss-weights-in-columns",), ("mss-weights-in-columns", "log-var-as-log-std")):
        found = check(build("torch", *names), framework="torch", **few)
        assert tuple(one.id for one in found.diagnosis) == names
        assert any(note.startswith("the diagnosis takes it for mss, the checks for ") for note in found.notes)


@pytest.mark.parametrize("claimed", ["mss", "auto"])
def test_the_released_code_with_its_weights_in_float32(claimed):
    """As it is copied: `torch.Tensor(M, M)` whatever z is, filled down columns, and added before the sum over d."""

    def released(z, mu, logvar, dataset_size):
        M, N = len(z), dataset_size
        W = torch.Tensor(M, M).fill_(1 / (M - 1))
        W.view(-1)[::M] = 1 / N
        W.view(-1)[1::M] = (N - M + 1) / (N * (M - 1))
        W[M - 2, 0] = (N - M + 1) / (N * (M - 1))
        pairs = -0.5 * ((z[:, None] - mu) ** 2 / logvar.exp() + logvar + math.log(2 * math.pi)) + W.log()[..., None]
        return (torch.logsumexp(pairs.sum(2), 1) - torch.logsumexp(pairs, 1).sum(1)).mean()

    few = {"dtypes": ("float64",), "checks": ("values", "gradients"), "max_examples": 5}
    found = check(released, framework="torch", estimator=claimed, **few)
    assert {one.id for one in found.diagnosis} == {"mss-weights-in-columns", "weight-before-sum"}
    assert "part of it seems to be computed in float32" in found.notes


def test_a_report_notes_a_valid_alternative():
    few = {"estimator": "mss", "dtypes": ("float64",), "checks": ("values",), "max_examples": 5}
    found = check(torch_mss_with_free_column(subdiagonal), framework="torch", **few)
    assert (found.verdict, found.exit_status) == (Verdict.INCONCLUSIVE, 3)  # not judged by its own formula: not wrong
    assert not found.diagnosis
    assert "valid alternative: MSS with another choice of the free column" in found.notes
    (values,) = found.results
    assert (values.failed, values.counterexample) == (0, None)


def test_a_valid_alternative_is_not_taken_for_another_estimator_with_an_unknown_mistake():
    terms = only(torch_mss_with_free_column(subdiagonal), "log_qz", "log_qz_marginals")
    few = {"dtypes": ("float64",), "checks": ("values", "cyclic-shift"), "max_examples": 5}
    found = check(terms, framework="torch", **few)
    assert (found.verdict, found.exit_status, found.diagnosis) == (Verdict.PASS, 0, ())
    assert "valid alternative: MSS with another choice of the free column" in found.notes


def test_what_is_not_to_be_differentiated_is_not_accused_of_having_no_gradient():
    few = {"estimator": "mws", "dtypes": ("float64",), "checks": ("values",), "max_examples": 5}
    found = check(WRONG["no-gradient"].torch, framework="torch", gradients=False, **few)
    assert found.verdict is Verdict.PASS
    assert not found.diagnosis


# --- as a script -----------------------------------------------------------------------------------------------------

TABLE = {
    "torch": [(name, {wrong.diagnosis}, functools.partial(about_torch, name)) for name, wrong in WRONG.items()],
    "jax": [(name, {WRONG[name].diagnosis}, functools.partial(about_jax, name)) for name in IN_JAX],
    "pairs": [(" + ".join(pair), expected_of_pair(pair), functools.partial(about_pair, pair)) for pair in PAIRS],
    "variants": [(f"{v.name} ({v.framework})", set(), functools.partial(about_variant, v)) for v in VARIANTS],
    "unlisted": [(cls.__name__, {"unknown"}, functools.partial(about_unlisted, cls)) for cls in UNLISTED],
}


def main(kinds):
    for kind in kinds or TABLE:
        hits, slowest = 0, 0.0
        for name, expected, about in TABLE[kind]:
            started = time.monotonic()
            found = about()
            seconds = time.monotonic() - started
            hit = expected == set(ids(found)) or (bool(expected) and is_named(found, *expected))
            hits, slowest = hits + hit, max(slowest, seconds)
            said = ", ".join(ids(found)) or "-"
            print(f"{' ' if hit else '!'} {kind:8} {name:46} {said:50} {seconds:.1f} s", flush=True)
            for line in (*(one.evidence for one in found.diagnosis), *found.notes):
                print(f"      {line}")
        print(f"{kind}: {hits} of {len(TABLE[kind])} named, slowest {slowest:.1f} s")


if __name__ == "__main__":
    main(sys.argv[1:])


# --- in float32, and as a page ---------------------------------------------------------------------------------------


def test_constants_that_are_kept_in_float32():
    """The weights of column-wise MSS rounded to float32, in a float64 loss: too rough for nine digits."""
    wrong = WRONG["mss-weights-in-columns"].torch
    cells = dict(zip(wrong.__code__.co_freevars, wrong.__closure__, strict=True))
    model = cells["model"].cell_contents
    exact = model.log_weights

    def rounded(M, N):
        return np.asarray(exact(M, N), dtype=np.float32).astype(float)

    model.log_weights = rounded
    try:
        found = findings(wrong, estimator="mss")
    finally:
        model.log_weights = exact
    assert ids(found) == ["mss-weights-in-columns"]
    assert found.notes == ("part of it seems to be computed in float32",)


@pytest.mark.parametrize("claimed", ["mss", "auto"])
def test_what_is_right_but_for_float32_inside_is_told_so(claimed):
    def loss(z, mu, logvar, dataset_size):
        M, N = len(z), dataset_size
        i = torch.arange(M)
        W = torch.full((M, M), 1 / (M - 1), dtype=torch.float32)
        W[i, (i + 1) % M] = (N - M + 1) / (N * (M - 1))
        W[i, i] = 1 / N
        pairs = -0.5 * ((z[:, None] - mu) ** 2 / logvar.exp() + logvar + math.log(2 * math.pi))
        log_qz, product = torch.logsumexp(pairs.sum(2) + W.log(), 1), torch.logsumexp(pairs + W.log()[..., None], 1)
        return (log_qz - product.sum(1)).mean()

    few = {"dtypes": ("float64",), "checks": ("values",), "max_examples": 5}
    found = check(loss, framework="torch", estimator=claimed, **few)
    assert (found.verdict, found.estimator, len(found.diagnosis)) == (Verdict.WRONG, "mss", 1)
    assert found.diagnosis[0].evidence.startswith(RIGHT_IN_FLOAT32)


def test_a_page_has_the_report_and_a_picture_of_the_weights():
    from tcvae_ref.oracle import html_report, report
    from tcvae_ref.oracle.explain_commands import probed

    wrong = WRONG["mss-weights-in-columns"].torch
    checked = check(wrong, framework="torch", estimator="mss", max_examples=5, checks=["values"], dtypes=["float64"])
    page = html_report.page(checked, report.text(checked), probed(wrong, {"framework": "torch", "estimator": "mss"}))
    assert '<h1><span class="FAIL">WRONG</span>' in page
    assert "mss-weights-in-columns" in page
    assert "data:image/png;base64,iVBOR" in page
    assert "columns" in page.split("The weights it uses")[1]
    assert all(start == "data:" for start in re.findall(r'(?:src|href)="(.{5})', page)), "nothing is loaded"
    assert "<h2>" not in html_report.page(checked, report.text(checked))
