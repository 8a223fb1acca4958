"""Somebody's loss found, its arguments and results mapped, and the test file written for it."""

import ast
import asyncio
import collections
import dataclasses
import functools
import re
import subprocess
import sys
import textwrap
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tcvae_ref import InputError
from tcvae_ref.oracle import adapters
from tcvae_ref.oracle.adapters.numpy_adapter import NumpyAdapter
from tcvae_ref.oracle.aliases import ALIASES, PACKED_ALIASES, key
from tcvae_ref.oracle.foreign import looked_at
from tcvae_ref.oracle.ghostwrite import ghostwrite
from tcvae_ref.oracle.mapping import parse_bind, parse_pairs
from tcvae_ref.oracle.returns import RESULT_ALIASES, parse_returns
from tcvae_ref.oracle.target import load
from tcvae_ref.oracle.types import PARAMETERISATIONS, QUANTITIES, TargetFault
from tcvae_ref.types import LogQz

M, D, N = 5, 3, 50
CONSTANTS = {"dataset_size": N, "alpha": 1.0, "beta": 6.0, "gamma": 1.0}


def tensors(width="log_var"):
    rng = np.random.default_rng(0)
    return {name: rng.standard_normal((M, D)) for name in ("z", "mu", width)}


def outcome(target):
    """What a target returns for one case."""
    return target.function(tensors(target.parameterisation), CONSTANTS)


def received(signature, **options):
    """By the name of a parameter, the canonical argument that a function of this signature receives."""
    names = re.findall(r"\b([A-Za-z_]\w*)\b(?=\s*(?:[,)=]|$))", re.sub(r"=[^,]*", "", f"{signature})"))
    body = ", ".join(f"{name!r}: {name}" for name in names)
    space = {}
    exec(f"def fn({signature}):\n    seen.append({{{body}}})\n    return 1.0", space | {"seen": (seen := [])}, space)
    target = load(space["fn"], **options)
    given_tensors = tensors(target.parameterisation)
    target.function(given_tensors, CONSTANTS)
    known = {id(value): name for name, value in {**given_tensors, **CONSTANTS}.items() if name not in CONSTANTS}
    numbers = {value: name for name, value in CONSTANTS.items() if name in ("dataset_size", "beta")}
    return {
        name: known.get(id(value), numbers.get(value, value) if isinstance(value, int | float) else value)
        for name, value in seen[0].items()
    }


def loss(z, mu, log_var, dataset_size):
    return np.mean(z * mu + log_var) + dataset_size


class Loss:
    scale = 2.0

    def tc(self, z, mu, log_var):
        return self.scale * np.mean(z)

    @staticmethod
    def static(z, mu, log_var):
        return 3.0

    @classmethod
    def of_class(cls, z, mu, log_var):
        return cls.scale

    class Inner:
        def tc(self, z, mu, log_var):
            return 7.0


class Called:
    def __call__(self, z, mu, log_std):
        return 5.0


class Demanding:
    def __init__(self, scale):
        self.scale = scale

    def tc(self, z, mu, log_var):
        return self.scale


def make_demanding():
    return Demanding(4.0)


def make_broken():
    raise RuntimeError("no weights file")


def make_loss():
    return lambda z, mu, log_var, N: 9.0


NUMBER = 3
HERE = __name__


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write a module into a fresh working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))

    def written(text, name="losses.py"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
        return path

    yield written
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]


GOOD = """
    def tc_loss(z, mean, logvar, N):
        return z.mean()
"""


class TestFinding:
    def test_a_file(self, write):
        write(GOOD)
        target = load("losses.py:tc_loss")
        assert target.name == "losses.py:tc_loss"
        assert outcome(target)["tc"] == tensors()["z"].mean()

    def test_a_file_is_imported_once_and_stays_itself(self, write):
        path = write(GOOD)
        first, second = load("./losses.py:tc_loss"), load(f"{path}:tc_loss")
        assert first.callable is second.callable
        assert sys.modules[first.callable.__module__].tc_loss is first.callable

    def test_a_file_sees_its_folder(self, write):
        write("VALUE = 2.5", "deep/helper_of_losses.py")
        write("from helper_of_losses import VALUE\ndef f(z, mu, log_var): return VALUE", "deep/losses.py")
        assert outcome(load("deep/losses.py:f")) == {"tc": 2.5}

    def test_a_module_from_the_working_directory(self, write):
        write("", "pkg_of_losses/__init__.py")
        write(GOOD, "pkg_of_losses/mod.py")
        assert load("pkg_of_losses.mod:tc_loss").callable.__module__ == "pkg_of_losses.mod"

    def test_a_script_that_reads_the_command_line(self, write):
        write("import argparse\nargparse.ArgumentParser().parse_args()\ndef f(z, mu, log_var): return 1.0")
        before = list(sys.argv)
        assert outcome(load("losses.py:f")) == {"tc": 1.0}
        assert sys.argv == before

    def test_a_callable(self):
        target = load(loss)
        assert target.name == f"{HERE}:loss"
        assert target.mapping == "loss(z, mu, log_var, dataset_size) -> ..."

    def test_a_partial(self):
        target = load(functools.partial(loss, dataset_size=7))
        assert target.mapping == "loss(z, mu, log_var, dataset_size=dataset_size) -> ..."

    @pytest.mark.parametrize(
        ("text", "value"),
        [("Loss.static", 3.0), ("Loss.of_class", 2.0), ("Loss.Inner.tc", 7.0), ("Called", 5.0)],
    )
    def test_members_of_classes(self, text, value):
        assert outcome(load(f"{HERE}:{text}")) == {"tc": value}

    def test_a_method_on_an_instance_of_its_class(self):
        assert outcome(load(f"{HERE}:Loss.tc"))["tc"] == 2.0 * np.mean(tensors()["z"])

    @pytest.mark.parametrize("factory", [f"{HERE}:make_demanding", make_demanding])
    @pytest.mark.parametrize("target", [f"{HERE}:Demanding.tc", Demanding.tc])
    def test_a_method_on_an_instance_from_a_factory(self, target, factory):
        assert outcome(load(target, factory=factory)) == {"tc": 4.0}

    @pytest.mark.parametrize(
        ("target", "factory"),
        [(f"{HERE}:Demanding.tc", None), (f"{HERE}:Demanding.tc", Demanding), (Demanding.tc, f"{HERE}:Demanding")],
    )
    def test_a_method_on_an_instance_that_takes_arguments(self, target, factory):
        assert outcome(load(target, factory=factory, init={"scale": 5.0})) == {"tc": 5.0}

    def test_an_instance_of_a_subclass_or_in_a_wrapper(self):
        class Heir(Demanding):
            pass

        class Wrapper:
            def __init__(self, inside):
                self._orig_mod, self.tc = inside, inside.tc

        for make in (lambda: Heir(4.0), lambda: Wrapper(Demanding(4.0))):
            assert outcome(load(f"{HERE}:Demanding.tc", factory=make)) == {"tc": 4.0}

    def test_a_factory_of_another_files_class_is_refused(self, tmp_path):
        """It would be judged in the name of the target's."""
        for name, scale in (("one", 1.0), ("other", 2.0)):
            text = f"class L:\n    def __call__(self, z, mu, log_var):\n        return {scale}\n"
            (tmp_path / f"{name}.py").write_text(text)
        (tmp_path / "making.py").write_text(f"import sys\nsys.path.insert(0, {str(tmp_path)!r})\nfrom other import L\n")
        with pytest.raises(
            InputError, match=r"made a L of other.py, which is no L of one.py and would be judged in its"
        ):
            load(f"{tmp_path}/one.py:L", factory=f"{tmp_path}/making.py:L")
        assert outcome(load(f"{tmp_path}/other.py:L", factory=f"{tmp_path}/making.py:L")) == {"tc": 2.0}

    @pytest.mark.parametrize("target", [f"{HERE}:make_loss", make_loss])
    def test_a_target_that_makes_the_loss(self, target):
        assert outcome(load(target, factory=True)) == {"tc": 9.0}

    @pytest.mark.parametrize(
        ("text", "options", "complaint"),
        [
            (
                "losses",
                {},
                "losses: is not the name of a function; write package.module:function or path/file.py:function",
            ),
            ("losses:", {}, "losses:: is not the name of a function; write"),
            ("a b:f", {}, "a b:f: 'a b' is neither a module nor a file that ends in .py; write"),
            ("missing.py:f", {}, "missing.py:f: missing.py does not exist (working directory"),
            ("./folder.py:f", {}, "folder.py is not a file"),
            ("sub/file.txt:f", {}, "sub/file.txt does not end in .py"),
            (
                "no_such_module_x:f",
                {},
                "no_such_module_x:f: there is no module 'no_such_module_x'; install it, change to",
            ),
            ("json.nothing:f", {}, "there is no module 'json.nothing'; install it"),
            ("losses.py:tc_los", {}, "losses.py:tc_los: losses.py has no 'tc_los'; did you mean 'tc_loss'?"),
            ("losses.py:zzz", {}, "losses.py has no 'zzz'; it has tc_loss"),
            (f"{HERE}:Loss.td", {}, f"{HERE}:Loss has no 'td'; did you mean 'tc'?".replace(":Loss", ".Loss")),
            (f"{HERE}:NUMBER", {}, f"{HERE}:NUMBER: is a int, not callable; name a function or method"),
            (f"{HERE}:Demanding.tc", {}, "Demanding() raised TypeError: Demanding.__init__() missing 1 required"),
            (f"{HERE}:Demanding.tc", {}, "like --init scale=VALUE, or a factory that makes it: package.module:make"),
            (f"{HERE}:Demanding.tc", {"init": {"size": "a"}}, "Demanding(size='a') raised TypeError: "),
            (
                f"{HERE}:Demanding.tc",
                {"factory": make_demanding, "init": {"size": 1}},
                "it is called with size=1 and must make the instance",
            ),
            (f"{HERE}:loss", {"init": {"size": 1}}, "needs no instance, and init={'size': 1} is given; leave init out"),
            (
                f"{HERE}:Demanding.tc",
                {"factory": f"{HERE}:make_broken"},
                "make_broken' raised RuntimeError: no weights file; it is called without arguments and must make",
            ),
            (f"{HERE}:Demanding.tc", {"factory": f"{HERE}:NUMBER"}, ":NUMBER' is not callable; name a function"),
            (f"{HERE}:Demanding.tc", {"factory": dict}, "made a dict, which is no Demanding of test_oracle_target.py"),
            (f"{HERE}:Demanding.tc", {"factory": sys.exit}, "raised SystemExit; it is called without arguments"),
            (f"{HERE}:loss", {"factory": make_demanding}, "needs no instance, and factory="),
            (
                Demanding.tc,
                {},
                "Demanding.tc: is a method without its instance; give the method of an instance, or a factory",
            ),
        ],
    )
    def test_complaints(self, write, tmp_path, text, options, complaint):
        write(GOOD)
        write("", "sub/file.txt")
        (tmp_path / "folder.py").mkdir()
        with pytest.raises(InputError) as raised:
            load(text, **options)
        assert complaint in str(raised.value)
        assert "\n" not in str(raised.value)

    @given(
        text=st.one_of(
            st.text(),
            st.from_regex(r"[\w./~\x00-]{0,300}(\.py)?:[\w.]*", fullmatch=True),
            st.sampled_from(
                ["~nobody-here/a.py:f", "a\0.py:f", "x" * 5000 + ".py:f", "é.ü:ñ", "..:f", ".a:f", ":f", "/:f"]
            ),
        )
    )
    def test_no_text_is_more_than_a_complaint(self, text):
        with pytest.raises(InputError):
            load(text)

    @pytest.mark.parametrize(
        ("text", "complaint"),
        [
            ("x = 1\nx / 0", r"the import raised ZeroDivisionError: division by zero at .*losses\.py:2; make it imp"),
            ("def f(:", r"the import raised SyntaxError: .* at .*losses\.py:1; make it importable first"),
            ("import no_such_thing_y", r"ModuleNotFoundError: No module named 'no_such_thing_y' at .*losses\.py:1"),
            ("import json\n\njson.loads('{')", r"JSONDecodeError: .* at .*losses\.py:3"),
            ("from . import other", r"relative import.*losses\.py:1; write package\.module:function instead"),
            (
                "import pytest\npytest.skip(allow_module_level=True)",
                r"raised Skipped.*losses\.py:2; make it importable",
            ),
            (
                "class E(Exception):\n    __str__ = None\nraise E",
                r"raised E: <E without a text> at .*losses\.py:3",
            ),
            ("raise SyntaxError", r"the import raised SyntaxError: no message"),
            ("import sys\nsys.exit(3)", r"the import called sys\.exit\(3\) at .*losses\.py:2; put what runs as a scr"),
        ],
    )
    @pytest.mark.parametrize("form", ["losses.py:f", "losses:f"])
    def test_modules_that_cannot_be_imported(self, write, text, complaint, form):
        write(text)
        before = set(sys.modules)
        with pytest.raises(InputError, match=complaint) as raised:
            load(form)
        assert "\n" not in str(raised.value)
        assert not [name for name in set(sys.modules) - before if name.startswith("_tcvae_ref_target_losses")]


HOSTILE = """
class Raising:
    def __getattr__(self, name): raise RuntimeError(name)
    def __call__(self, z, mu, log_var, dataset_size): return 1.0
class Meta(type):
    def __getattribute__(cls, name): raise RuntimeError("a class")
class Made(metaclass=Meta):
    pass
class Kind:
    __class__ = property(lambda self: 1 / 0)
    def __call__(self, z, mu, log_var, dataset_size): return 1.0
def loop(z, mu, log_var, dataset_size): return 1.0
loop.__wrapped__ = loop
def signed(z, mu, log_var, dataset_size): return 1.0
signed.__signature__ = property(lambda self: 1 / 0)
class Module:
    @property
    def loss(self): raise ValueError("not\\nyet")
raising, made, kind, module = Raising(), Made(), Kind(), Module()
def __getattr__(name): raise KeyError(name)
"""


class TestHostileObjects:
    """What is found may raise whatever it is asked: a complaint that says so, or no harm."""

    @pytest.mark.parametrize("name", ["raising", "made", "Made", "kind", "loop", "signed", "module.loss", "nothing"])
    def test_one_is_no_more_than_a_complaint(self, write, name):
        write(HOSTILE)
        complaint = ""
        try:
            loaded = load(f"losses.py:{name}")
            adapters.chosen(loaded.name, [loaded.callable], None)
        except InputError as error:
            complaint = str(error)
        assert "\n" not in complaint
        assert name in complaint or not complaint

    def test_a_file_from_a_folder_that_is_gone(self, tmp_path, monkeypatch):
        (tmp_path / "gone").mkdir()
        monkeypatch.chdir(tmp_path / "gone")
        (tmp_path / "gone").rmdir()
        with pytest.raises(InputError, match=r"^loss\.py:f: the current folder is gone; "):
            load("loss.py:f")

    def test_a_file_whose_name_is_no_text(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        path = tmp_path / "\udcff.py"
        path.write_text("import numpy as np\ndef tc(z, mu, log_var, dataset_size): return np.float64(1.0)\n")
        written = ghostwrite("\udcff.py:tc", estimator="mws").encode()
        scope = {"__file__": str(tmp_path / "test_it.py"), "__name__": "written"}
        exec(compile(written, "test_it.py", "exec"), scope)
        assert scope["TARGET"] == f"{path}:tc"

    def test_what_they_raised_is_said(self, write):
        write(HOSTILE)
        with pytest.raises(InputError, match=r"loss: raised ValueError: not yet at .*losses\.py:18 when it was"):
            load("losses.py:module.loss")
        with pytest.raises(InputError, match=r"nothing: raised KeyError: 'nothing' at .*losses\.py:20"):
            load("losses.py:nothing")

    def test_a_mistake_of_our_own_is_none_of_theirs(self):
        with pytest.raises(TypeError), looked_at("a"):
            key(None)


SIGNATURES = [
    ("z, mu, log_var, dataset_size", {}, {"z": "z", "mu": "mu", "log_var": "log_var", "dataset_size": "dataset_size"}),
    ("z, mean, logvar, N", {}, {"z": "z", "mean": "mu", "logvar": "log_var", "N": "dataset_size"}),
    ("Z, z_mean, z_logVar", {}, {"Z": "z", "z_mean": "mu", "z_logVar": "log_var"}),
    ("samples, loc, log_sigma, n_data", {}, {"loc": "mu", "log_sigma": "log_std", "n_data": "dataset_size"}),
    ("z, mu, sigma", {}, {"sigma": "std"}),
    ("z, mu, sigma2", {}, {"sigma2": "var"}),
    ("z, mu, log_sigma2", {}, {"log_sigma2": "log_var"}),
    ("_z, mu_1, log_var1", {}, {"_z": "z", "mu_1": "mu", "log_var1": "log_var"}),
    ("z, z2=None, *, mu, log_var", {}, {"z": "z", "z2": None, "mu": "mu"}),
    ("z, mu, log_var, sample=False, scale=1.0", {}, {"sample": False, "scale": 1.0}),
    ("z, mu, /, log_var, *, N", {}, {"z": "z", "mu": "mu", "log_var": "log_var", "N": "dataset_size"}),
    ("eps=0, z=None, /, mu=None, log_var=None", {}, {"eps": 0, "z": "z", "mu": "mu", "log_var": "log_var"}),
    ("z, mu, log_var, eps=3, N=None", {}, {"eps": 3, "N": "dataset_size"}),
    ("z, mu, logvar", {"parameterisation": "log_std"}, {"logvar": "log_std"}),
    ("z, mu, s", {"arguments": {"std": "s"}}, {"z": "z", "mu": "mu", "s": "std"}),
    ("a, b, c, d", {}, {"a": "z", "b": "mu", "c": "log_var", "d": "dataset_size"}),
    ("a, b, c, d", {"parameterisation": "std"}, {"c": "std"}),
    ("a, b, c, d, beta=1.0", {}, {"a": "z", "d": "dataset_size", "beta": "beta"}),
    ("a, b, c, d, e", {"bind": {"e": "x"}}, {"a": "z", "d": "dataset_size", "e": "x"}),
    ("z, mu, log_var, num_samples", {"bind": {"num_samples": 1}}, {"num_samples": 1}),
    ("z, z2, mu, log_var", {"bind": {"z2": "other"}}, {"z": "z", "z2": "other"}),
    ("x, m, lv, n, beta", {"arguments": {"z": "x", "mu": "m", "log_var": "lv", "dataset_size": "n"}}, {"beta": "beta"}),
    ("z, mu, log_var, **rest", {"bind": {"flag": True}}, {"rest": {"flag": True}}),
    ("z, mu, log_var, *rest", {}, {"rest": ()}),
]


class TestArguments:
    @pytest.mark.parametrize(("signature", "options", "expected"), SIGNATURES)
    def test_mapping(self, signature, options, expected):
        names = received(signature, **options)
        assert {name: names[name] for name in expected} == expected

    def test_tables_are_unambiguous(self):
        tables = [*ALIASES.values(), PACKED_ALIASES]
        keys = [alias for names in tables for alias in {key(name) for name in names}]
        assert [name for name, count in collections.Counter(keys).items() if count > 1] == []
        assert set(ALIASES) == {"z", "mu", *PARAMETERISATIONS, "dataset_size", "alpha", "beta", "gamma"}

    @given(data=st.data())
    def test_any_aliases_in_any_order(self, data):
        width = data.draw(st.sampled_from(PARAMETERISATIONS))
        some = data.draw(st.sets(st.sampled_from(("dataset_size", "beta"))))
        chosen = {data.draw(st.sampled_from(ALIASES[name])): name for name in ("z", "mu", width, *sorted(some))}
        spelled = {data.draw(st.sampled_from((n, n.upper(), n.lower(), n.replace("_", "")))): n for n in chosen}
        kinds = data.draw(st.sampled_from(("{}", "*, {}", "{}, /")))
        order = data.draw(st.permutations(sorted(spelled)))
        names = received(kinds.format(", ".join(order)))
        assert names == {spelling: chosen[name] for spelling, name in spelled.items()}

    @pytest.mark.parametrize(
        ("options", "expected"),
        [
            ({"packed": "params:mu,log_std"}, ("log_std", ("mu", "log_std"), True)),
            ({"packed": " params : log_var , mu "}, ("log_var", ("log_var", "mu"), True)),
            ({"packed": "params:(mu,std)"}, ("std", ("mu", "std"), False)),
            ({"parameterisation": "log_std"}, ("log_std", ("mu", "log_std"), True)),
        ],
    )
    def test_packed(self, options, expected):
        width, order, stacked = expected
        seen = []
        target = load(lambda z, params, N: seen.append(params) or 1.0, **options)
        target.function(tensors(width), CONSTANTS)
        first, second = (tensors(width)[name] for name in order)
        got = np.stack(seen[0], -1) if not stacked else seen[0]
        assert isinstance(seen[0], tuple) != stacked
        np.testing.assert_array_equal(got, np.stack([first, second], -1))

    @pytest.mark.parametrize(
        ("function", "options", "echo"),
        [
            (loss, {"returns": "tc"}, "loss(z, mu, log_var, dataset_size) -> tc"),
            (lambda z, mean, logvar, N: 0, {}, "<lambda>(z, mean=mu, logvar=log_var, N=dataset_size) -> ..."),
            (lambda z, *, mu, s: 0, {"arguments": {"std": "s"}}, "<lambda>(z, mu=mu, s=std) -> ..."),
            (
                lambda zs, q_params, n, f: 0,
                {"packed": "q_params:mu,log_std", "bind": {"f": "a"}, "arguments": {"dataset_size": "n"}},
                "<lambda>(zs=z, q_params=stack(mu, log_std), n=dataset_size, f='a') -> ...",
            ),
            (
                lambda a, b, c, d: 0,
                {"returns": ("mi", "-", "tc")},
                "<lambda>(a=z, b=mu, c=log_var, d=dataset_size) -> mi, tc (by position: no name is known)",
            ),
            (
                lambda *args: 0,
                {},
                "<lambda>(z, mu, log_var, dataset_size) -> ... (by position: the signature has no names)",
            ),
            (
                lambda **kwargs: 0,
                {},
                "<lambda>(z=z, mu=mu, log_var=log_var, dataset_size=dataset_size) -> ...",
            ),
            (
                lambda z, mu, log_var: 0,
                {"weights": {"beta": 4}, "returns": "penalty"},
                "<lambda>(z, mu, log_var) -> penalty with alpha=1, beta=4, gamma=1 inside",
            ),
        ],
    )
    def test_echo(self, function, options, echo):
        assert load(function, **options).mapping.removeprefix("TestArguments.") == echo

    @pytest.mark.parametrize(
        ("function", "options", "complaint"),
        [
            (
                lambda z, mu, log_var, batch, epoch: 0,
                {},
                "batch, epoch have no default and no known meaning; bind a value, like --bind batch=VALUE "
                "--bind epoch=VALUE, or name what it is, like --args dataset_size=batch",
            ),
            (
                lambda latent_cod, mean, lv, n_dat, img, mode: 0,
                {},
                "is known to be z or the width (log_var, log_std, std, var), and latent_cod, lv, n_dat, img, mode have "
                "no default and no known meaning; name it in arguments, like --args z=latent_cod,dataset_size=n_dat,"
                "log_var=NAME, and bind what is left, like --bind lv=VALUE --bind img=VALUE --bind mode=VALUE",
            ),
            (
                lambda z, mu, stddv, sdev: 0,
                {},
                "the width (log_var, log_std, std, var), and stddv, sdev have no default and no known meaning; "
                "name it in arguments, like --args std=stddv, and bind what is left, like --bind sdev=VALUE",
            ),
            (lambda z, mu, log_var, N, epoch: 0, {}, "no known meaning; bind a value, like --bind epoch=VALUE"),
            (
                lambda recon_x, x, mu, log_var, z: 0,
                {},
                "recon_x and x are of a whole loss, with its reconstruction; this command judges the penalty alone. "
                "For the whole: tcvae-ref check-step --loss test_oracle_target:TestArguments.<lambda> --dataset-size N",
            ),
            (
                lambda x, mu, log_var: 0,
                {},
                "no parameter of (x, mu, log_var) is known to be z; name it in arguments, like --args z=x",
            ),
            (
                lambda z, a: 0,
                {},
                "is known to be mu or the width (log_var, log_std, std, var); name it in arguments, like --args mu=a",
            ),
            (
                lambda z, mu, N=1: 0,
                {},
                "known to be the width (log_var, log_std, std, var); name it in arguments, like --args log_var=NAME",
            ),
            (lambda: 0, {}, "takes no arguments; z, mu and a width are needed"),
            (
                lambda z, latents, mu, log_var: 0,
                {},
                "can each be the z; name one in arguments, like --args z=z, and bind the other, like --bind latents=",
            ),
            (
                lambda z, mu, std, logvar: 0,
                {},
                "std and logvar can each be the width; name one in arguments, like --args log_var=std",
            ),
            (lambda z, z_1, z_2, mu, logvar: 0, {}, "z_1, z_2 have no default"),
            (loss, {"arguments": {"zz": "z"}}, "arguments='zz' is unknown; choose one of z, mu, log_var"),
            (
                loss,
                {"arguments": {"z": "muu"}},
                "there is no parameter 'muu'; choose of (z, mu, log_var, dataset_size); did you mean 'mu'?",
            ),
            (loss, {"bind": {"xyzzy": 1}}, "there is no parameter 'xyzzy'; choose of (z, mu, log_var, dataset_size)"),
            (loss, {"bind": {"z": 1}, "arguments": {"z": "z"}}, "z is bound and is "),
            (loss, {"arguments": {"z": "mu", "mu": "mu"}}, "mu is given twice in arguments and packed; give it once"),
            (
                loss,
                {"arguments": {"std": "mu", "var": "z"}},
                "width is given twice in arguments and packed; give it once",
            ),
            (
                loss,
                {"arguments": {"log_var": "log_var"}, "parameterisation": "std"},
                "the width is log_var by name and parameterisation='std'; leave one out",
            ),
            (
                loss,
                {"parameterisation": "logstd"},
                "='logstd' is unknown; choose one of log_var, log_std, std, var; did you mean 'log_std'?",
            ),
            (
                loss,
                {"packed": "p:mu,(std)"},
                "'p:mu,(std)' is not understood; write NAME:mu,WIDTH for an array (M, D, 2) or NAME:(mu,WIDTH)",
            ),
            (loss, {"packed": "p:mu,z"}, "packed='p:mu,z' is not understood"),
            (
                lambda z, params: 0,
                {},
                "its name does not say which width; give packed, like --packed params:mu,log_var",
            ),
            (
                loss,
                {"weights": {"bta": 1}},
                "weights='bta' is unknown; choose one of alpha, beta, gamma; did you mean 'beta'?",
            ),
            (loss, {"weights": {"beta": "6"}}, "beta='6' is a str; a number is needed"),
            (
                lambda z, mu, log_var, beta: 0,
                {"weights": {"beta": 6}},
                "weights fixes beta, which is an argument of the target; leave it out or bind it",
            ),
            (
                loss,
                {"returns": "penalty"},
                "returns penalty and takes no beta; give the weights it has inside, like --weights beta=6",
            ),
            (
                loss,
                {"returns": "tc,dwk"},
                "'dwk' is unknown; choose one of log_qz, log_qz_marginals, mi, tc, dwkl, penalty, kl_penalty, -;",
            ),
            (loss, {"returns": {"t": "x"}}, "returns='t' is unknown"),
            (loss, {"returns": "tc,tc"}, "returns names tc twice; use '-' for a part that is not judged"),
            (loss, {"returns": "-,-"}, "names no quantity; choose of log_qz"),
            (loss, {"returns": "tc=a,mi"}, "'mi' is not a pair; write NAME=VALUE"),
        ],
    )
    def test_complaints(self, function, options, complaint):
        with pytest.raises(InputError) as raised:
            load(function, **options)
        assert complaint in str(raised.value)
        assert str(raised.value).startswith(f"{HERE}:")
        assert "\n" not in str(raised.value)

    def test_advice_offers_only_what_is_open(self):
        with pytest.raises(InputError, match=r"--bind epoch=VALUE$"):
            load(lambda z, mu, log_var, N, epoch: 0)

    def test_echo_is_one_line(self):
        echo = load(loss_with_option, bind={"option": np.zeros((9, 9))}).mapping
        assert echo == "loss_with_option(z, mu, log_var, option=<ndarray>) -> ..."

    def test_weights(self):
        target = load(lambda z, mu, log_var, alpha, beta, gamma: 0)
        assert (target.takes_weights, target.fixed_weights) == (("alpha", "beta", "gamma"), None)
        target = load(lambda z, mu, log_var, beta=1.0: 0)
        assert (target.takes_weights, target.fixed_weights) == (("beta",), {"alpha": 1.0, "gamma": 1.0})
        target = load(lambda z, mu, log_var, beta=1.0: 0, bind={"beta": 4.0})
        assert (target.takes_weights, target.fixed_weights) == ((), {"alpha": 1.0, "beta": 4.0, "gamma": 1.0})
        target = load(loss, weights={"alpha": 0, "beta": 3})
        assert target.fixed_weights == {"alpha": 0.0, "beta": 3.0, "gamma": 1.0}
        assert load(loss).fixed_weights is None

    def test_dataset_size(self):
        assert load(loss).takes_dataset_size
        assert not load(lambda z, mu, log_var: 0).takes_dataset_size

    @pytest.mark.parametrize(
        ("function", "arguments", "echo"),
        [
            (lambda a, b, c, d=1: 0, {"z": "1", "mu": "0", "std": "2"}, "a=mu, b=z, c=std"),
            (lambda *args: 0, {"z": "0", "mu": "1", "log_var": "2"}, "z, mu, log_var"),
            (lambda m, *rest: 0, {"z": "2", "mu": "m", "log_var": "1"}, "mu, log_var, z"),
            (lambda a=7, *rest: 0, {"z": "1", "mu": "2", "log_var": "3"}, "7, z, mu, log_var"),
            (lambda *args, **kwargs: 0, {"z": "0", "mu": "1", "log_var": "width"}, "z, mu, width=log_var"),
        ],
    )
    def test_arguments_by_their_place(self, function, arguments, echo):
        mapped = load(function, arguments=arguments).arguments
        assert str(mapped) == echo

    def test_arguments_go_by_position(self):
        """autograd does not differentiate keywords of a primitive."""
        target = load(lambda z, mu, log_var, eps=0, N=None: 0)
        assert len(target.arguments.positional) == 3
        assert [slot.parameter for slot in target.arguments.keyword] == ["N"]

    def test_option_texts(self):
        assert parse_bind(["a=1", "b = [1, 2]", "c=mean", "d='x=y'", "e="]) == {
            "a": 1, "b": [1, 2], "c": "mean", "d": "x=y", "e": "",
        }  # fmt: skip
        assert parse_pairs("args", " z = a,mu=b,") == {"z": "a", "mu": "b"}
        for text in ("=1", "a b=1", "a"):
            with pytest.raises(InputError, match=r"bind: .* is not NAME=VALUE; write the parameter's name"):
                parse_bind([text])
        with pytest.raises(InputError, match="bind: a is given twice; give it once"):
            parse_bind(["a=1", "a=2"])
        with pytest.raises(InputError, match="a is a number of 5002 digits"):
            parse_bind([f"a=0x{'f' * 5000}"])
        with pytest.raises(InputError, match="args: z is given twice; give it once"):
            parse_pairs("args", "z=a,z=b")


class Terms(NamedTuple):
    mutual_information: float
    tc: float
    other: str = ""


@dataclasses.dataclass
class Decomposition:
    index_code_mi: float
    dimension_wise_kl: float
    total_correlation: float | None = None


class Lazy:
    @property
    def tc(self):
        return 1.0

    @property
    def unrelated(self):
        raise AssertionError("must not be read")

    def mi(self):
        return 2.0


def returning(value, **options):
    def function(z, mu, log_var, dataset_size):
        return value() if callable(value) else value

    return load(function, **options)


QZ, MARGINALS = np.zeros(M), np.zeros((M, D))


class TestReturns:
    @pytest.mark.parametrize(
        ("value", "options", "expected"),
        [
            (2.0, {}, {"tc": 2.0}),
            (np.float64(2.0), {}, {"tc": 2.0}),
            (2.0, {"weights": {"beta": 6}}, {"penalty": 2.0}),
            (2.0, {"returns": "mi"}, {"mi": 2.0}),
            (QZ, {"returns": ("log_qz",)}, {"log_qz": QZ}),
            (MARGINALS, {"returns": ("log_qz_marginals",)}, {"log_qz_marginals": MARGINALS}),
            ({"MI": 1.0, "Total Correlation": 2.0, "dw-kl": 3.0, "x": "y"}, {}, {"mi": 1.0, "tc": 2.0, "dwkl": 3.0}),
            ({"tc": 1.0, "tc_loss": 6.0, "loss": 9.0, "mi": None}, {}, {"tc": 1.0}),
            ({"loss": 9.0}, {"weights": {"beta": 6}}, {"penalty": 9.0}),
            ({"a": 1.0, "b": 2.0, "mi": 3.0}, {"returns": {"tc": "a"}}, {"tc": 1.0}),
            ({"tc": 1.0, "mi": 3.0}, {"returns": "tc"}, {"tc": 1.0}),
            (collections.OrderedDict(logqz=QZ), {}, {"log_qz": QZ}),
            (LogQz(QZ, MARGINALS), {}, {"log_qz": QZ, "log_qz_marginals": MARGINALS}),
            ({"kl_penalty": 1.0}, {"weights": {"beta": 6}}, {"kl_penalty": 1.0}),
            (Terms(1.0, 2.0), {}, {"mi": 1.0, "tc": 2.0}),
            (Terms(1.0, 2.0), {"returns": "mi,tc,-"}, {"mi": 1.0, "tc": 2.0}),
            (Terms(1.0, 2.0), {"returns": "dwkl=tc"}, {"dwkl": 2.0}),
            (Decomposition(1.0, 2.0), {}, {"mi": 1.0, "dwkl": 2.0}),
            (Lazy(), {}, {"tc": 1.0}),
            ((1.0, 2.0, 3.0), {"returns": ("mi", "tc", "dwkl")}, {"mi": 1.0, "tc": 2.0, "dwkl": 3.0}),
            ([1.0, "x", 3.0], {"returns": "mi,-,dwkl"}, {"mi": 1.0, "dwkl": 3.0}),
            ((1.0, 2.0), {"returns": "tc=1"}, {"tc": 2.0}),
            ((1.0, 2.0), {"returns": {"tc": 0}}, {"tc": 1.0}),
        ],
    )
    def test_mapping(self, value, options, expected):
        got = outcome(returning(value, **options))
        assert got.keys() == expected.keys()
        assert all(got[name] is expected[name] or got[name] == expected[name] for name in expected)

    @pytest.mark.parametrize(
        ("value", "options", "complaint"),
        [
            (None, {}, "returned None; a mapping of mi, tc, dwkl or a scalar is needed: is a return missing?"),
            ("x", {}, "returned a str; a mapping of mi, tc, dwkl or a scalar is needed"),
            (True, {}, "returned a bool; a mapping"),
            ((1, 2, 3), {}, "returned a tuple of 3; name its parts with --returns=mi,tc,dwkl (use '-' to ignore one)"),
            ([1, 2, 3, 4], {}, "returned a list of 4; name its parts with --returns=mi,tc,dwkl,- (use"),
            (
                (1, 2, 3),
                {"returns": "mi,tc"},
                "returned a tuple of 3; --returns names 2 parts: name all 3, with '-' to ignore one",
            ),
            ((1, 2), {"returns": "tc=2"}, "returned 0, 1; 2, named as tc, is not among them"),
            (1.0, {"returns": "mi,tc"}, "returned a single result; --returns names 2 parts: name one"),
            ({"a": 1.0, "b": 1.0}, {}, "returned a, b; none is known: say which is which: --returns tc=NAME,mi=NAME"),
            ({"loss": 1.0}, {}, "or give the weights that make up the penalty: --weights beta=6"),
            ({}, {}, "returned nothing; none is known"),
            ({"a": 1.0}, {"returns": "tc"}, "returned a; tc is not among them: say which it is: --returns tc=NAME"),
            ({"a": 1.0}, {"returns": "tc=b"}, "returned a; b, named as tc, is not among them"),
            (
                {"tc_loss": 1.0, "tc_term": 1.0},
                {},
                "returned tc_loss and tc_term, each tc by name; say which: --returns tc=tc_loss",
            ),
            ({"tc": "x"}, {}, "returned tc as a str; a tensor or a number is needed"),
            (("x",), {"returns": "tc"}, "returned tc as a str; a tensor or a number is needed"),
            ({"log_qz": np.zeros(3)}, {}, "returned log_qz of shape (3,), (M,) = (5,) is needed"),
            ({"log_qz_marginals": QZ}, {}, "returned log_qz_marginals of shape (5,), (M, D) = (5, 3) is needed"),
            (
                {"log_qz": np.zeros(3), "tc": np.zeros(2)},
                {},
                "(5,) is needed; returned tc of shape (2,), a scalar is needed",
            ),
            (np.zeros(1), {}, "returned tc of shape (1,), a scalar of shape () is needed: take .squeeze() or .sum()"),
            (
                QZ,
                {},
                "a scalar is needed: an average over the batch is needed (if it is log_qz, say so: --returns log_qz)",
            ),
            (MARGINALS, {}, "(if it is log_qz_marginals, say so: --returns log_qz_marginals)"),
        ],
    )
    def test_faults(self, value, options, complaint):
        with pytest.raises(TargetFault) as raised:
            outcome(returning(value, **options))
        assert complaint in str(raised.value)
        assert "\n" not in str(raised.value)

    def test_what_is_not_finished_is_no_result(self):
        async def later(z, mu, log_var):
            await asyncio.sleep(0)

        def parts(z, mu, log_var):
            yield 1.0

        with pytest.raises(TargetFault, match="returned a coroutine; a result is needed: write def, not async def"):
            outcome(load(later))
        with pytest.raises(TargetFault, match="returned a generator; a result is needed: return, not yield"):
            outcome(load(parts))

    def test_quantities(self):
        assert load(loss).quantities is None
        assert load(loss, returns="mi,-,tc").quantities == ("mi", "tc")
        assert load(loss).mapping_to(["tc"]).endswith(" -> tc")

    def test_tables_are_unambiguous(self):
        meanings = collections.defaultdict(set)
        for quantity, names in RESULT_ALIASES.items():
            for name in names:
                meanings[name.replace("_", "")].add(quantity)
        assert set(RESULT_ALIASES) == set(QUANTITIES)
        assert [name for name, quantities in meanings.items() if len(quantities) > 1] == []

    def test_parsed_options_are_parsed_to_themselves(self):
        for text in ("mi,tc,-", "tc=a,mi=b"):
            once = parse_returns("x", text)
            assert parse_returns("x", once) == once


class TestFrameworks:
    """A target's function is traced, compiled and differentiated by the framework of its tensors."""

    @staticmethod
    def packed(z, params, N):
        return {"tc": ((z - params[..., 0]) * params[..., 1]).sum() / N}

    @staticmethod
    def expected():
        t = tensors("log_std")
        return ((t["z"] - t["mu"]) * t["log_std"]).sum() / N

    def target(self, framework):
        """As `Subject` has it."""
        return replace(load(self.packed, packed="params:mu,log_std"), stack=adapters.by_name(framework).stack)

    def test_numpy(self):
        np.testing.assert_allclose(self.target("numpy").function(tensors("log_std"), CONSTANTS)["tc"], self.expected())

    def test_autograd(self):
        from autograd import grad

        t = tensors("log_std")
        slope = grad(lambda w: self.target("autograd").function({**t, "log_std": w}, CONSTANTS)["tc"])(t["log_std"])
        np.testing.assert_allclose(slope, (t["z"] - t["mu"]) / N)

    @pytest.mark.parametrize("compiled", [False, True])
    def test_torch(self, compiled):
        torch = pytest.importorskip("torch")
        function = self.target("torch").function
        if compiled:
            function = torch.compile(function, backend="eager", fullgraph=True)
        t = {name: torch.tensor(value, requires_grad=True) for name, value in tensors("log_std").items()}
        result = function(t, CONSTANTS)["tc"]
        (slope,) = torch.autograd.grad(result, [t["log_std"]])
        np.testing.assert_allclose(result.item(), self.expected())
        np.testing.assert_allclose(slope.numpy(), (tensors("log_std")["z"] - tensors("log_std")["mu"]) / N)

    def test_a_torch_module_is_called_as_its_forward(self):
        torch = pytest.importorskip("torch")

        class Module(torch.nn.Module):
            def forward(self, latents, mean, logvar):
                return latents.mean() + 0 * (mean + logvar).sum()

        target = load(Module())
        assert target.mapping == "TestFrameworks.test_a_torch_module_is_called_as_its_forward.<locals>.Module(" + (
            "latents=z, mean=mu, logvar=log_var) -> ..."
        )
        t = {name: torch.tensor(value) for name, value in tensors().items()}
        assert target.function(t, CONSTANTS)["tc"] == t["z"].mean()

    @pytest.mark.parametrize("compiled", [False, True])
    def test_jax(self, compiled):
        jax = pytest.importorskip("jax")

        def function(t):
            return self.target("jax").function(t, CONSTANTS)["tc"]

        function = jax.jit(function) if compiled else function
        t = {name: jax.numpy.asarray(value, "float32") for name, value in tensors("log_std").items()}
        slope = jax.grad(function)(t)["log_std"]
        np.testing.assert_allclose(function(t), self.expected(), rtol=1e-5)
        np.testing.assert_allclose(
            slope, (tensors("log_std")["z"] - tensors("log_std")["mu"]) / N, rtol=1e-5, atol=1e-7
        )

    def test_a_framework_without_a_stack_is_named(self, monkeypatch):
        monkeypatch.setattr(NumpyAdapter, "module", "math")
        with pytest.raises(InputError, match="packed: the adapter of numpy has no stack, and math has none; write a"):
            NumpyAdapter().stack([np.ones(1), np.ones(1)])


STAND_IN = """
import sys, types
import pytest
from tcvae_ref.oracle.target import load
LOAD = ("factory", "init", "arguments", "parameterisation", "packed", "bind", "returns", "weights")
def parametrize_with_checks(targets, *, expected_failed_checks=None, **options):
    checks = [load(t, **{k: v for k, v in options.items() if k in LOAD}).function for t in targets]
    return pytest.mark.parametrize("check", [lambda: None for _ in checks])
module = types.ModuleType("tcvae_ref.oracle")
module.__path__ = __import__("tcvae_ref.oracle").oracle.__path__
module.parametrize_with_checks = parametrize_with_checks
sys.modules["tcvae_ref.oracle"] = module
"""
"""A conftest that puts a decorator of the same signature in place of the oracle's, which only loads."""


class TestGhostwrite:
    def run(self, folder, text, where="test_written.py"):
        """The exit status of pytest on a written file, from another working directory."""
        (folder / where).write_text(text)
        (folder / "conftest.py").write_text(STAND_IN)
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", where]
        return subprocess.run(command, cwd=folder, capture_output=True, text=True)

    def test_a_target_in_a_file(self, write, tmp_path):
        write(GOOD, "src/losses {1}.py")
        text = ghostwrite("src/losses {1}.py:tc_loss", folder="tests", estimator="mws", returns=("tc",))
        ast.parse(text)
        assert 'TARGET = f"{HERE}/../src/losses {{1}}.py:tc_loss"' in text
        assert '    [TARGET],\n    estimator="mws",\n    returns=("tc",),\n' in text
        assert "    tc_loss(z, mean=mu, logvar=log_var, N=dataset_size) -> tc\n" in text
        assert "def test_tc_loss(check):\n    check()\n" in text
        (tmp_path / "tests").mkdir()
        result = self.run(tmp_path / "tests", text)
        assert "1 passed" in result.stdout, result.stdout + result.stderr

    def test_a_target_in_a_module(self, write, tmp_path):
        write("", "pkg_written/__init__.py")
        write("class Loss:\n    def tc(self, a, b, s):\n        return 1.0", "pkg_written/mod.py")
        write("from pkg_written.mod import Loss\ndef make(): return Loss()", "making.py")
        text = ghostwrite(
            "pkg_written.mod:Loss.tc",
            factory="making.py:make",
            arguments={"z": "a", "mu": "b", "std": "s"},
            estimator="mws",
            bind={},
            expected_failed_checks={"tc-gradient": 'known "bug"'},
        )
        assert 'TARGET = "pkg_written.mod:Loss.tc"' in text
        assert '    arguments={"z": "a", "mu": "b", "std": "s"},\n' in text
        assert 'factory=f"{HERE}/making.py:make",' in text
        assert "bind" not in text
        assert r'expected_failed_checks={"tc-gradient": "known \"bug\""},' in text
        result = self.run(tmp_path, text)
        assert "1 passed" in result.stdout, result.stdout + result.stderr

    @pytest.mark.parametrize("value", [1, 2.5, None, "a'b\"c\\ü\n", [1, ("x",)], {"k": (1, 2)}, True])
    def test_bound_values_stay_themselves(self, value):
        def names(text):
            call = ast.parse(text).body[-1].decorator_list[0]
            return {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords}

        text = ghostwrite(loss_with_option, estimator="mss", bind={"option": value})
        assert names(text) == {"estimator": "mss", "bind": {"option": value}}

    def test_written_text_is_formatted(self, tmp_path):
        ruff = pytest.importorskip("ruff").__file__
        path = tmp_path / "test_written.py"
        path.write_text(ghostwrite(loss, estimator="mss"))
        assert ruff
        subprocess.run([sys.executable, "-m", "ruff", "format", "--isolated", "--check", str(path)], check=True)

    @pytest.mark.parametrize(
        ("target", "options", "complaint"),
        [
            (lambda z, mu, log_var: 0, {}, "is not found again by module and name; write it as a function of a module"),
            (loss, {"factory": make_demanding}, "needs no instance"),
            (
                f"{HERE}:Loss.tc",
                {"factory": Loss},
                "cannot be written into a file; give numbers, strings or collections",
            ),
            (f"{HERE}:Loss.tc", {"factory": Loss}, "of them, or package.module:make"),
            (loss, {}, "its values are those of no estimator; name the estimator that it claims to be"),
            (loss, {"seed": float("inf")}, "seed=inf cannot be written into a file"),
            ("nowhere.py:f", {}, "nowhere.py does not exist"),
        ],
    )
    def test_complaints(self, target, options, complaint):
        with pytest.raises(InputError) as raised:
            ghostwrite(target, **options)
        assert complaint in str(raised.value)


def loss_with_option(z, mu, log_var, option):
    return 1.0
