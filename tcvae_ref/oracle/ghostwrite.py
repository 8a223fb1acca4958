"""The text of a test file that holds somebody's loss to the oracle."""

import ast
import json
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tcvae_ref.checks import InputError
from tcvae_ref.files import real_path
from tcvae_ref.oracle.target import LOADING, Target, load

_FIND_OUT = ("estimator", "auto")

_TEXT = '''\
"""{subject} against the beta-TCVAE oracle: values, gradients and numerical stability.

Written by `tcvae-ref ghostwrite`, yours to edit. The signature as it was understood:

    {mapping}
"""

{imports}from tcvae_ref.oracle import parametrize_with_checks

{constants}
@parametrize_with_checks(
{arguments})
def test_{name}(check):
    check()
'''


def ghostwrite(
    target: str | Any,
    *,
    folder: str | Path | None = None,
    expected_failed_checks: Mapping[str, str] | None = None,
    **options: Any,
) -> str:
    """The text of a pytest file that runs all checks on a target.

    Parameters
    ----------
    target : str or callable
        As `load` takes it; a callable must be found again by its module and name.
    folder : path, optional
        Where the file will be; targets in files are looked up from there. The working directory by default.
    expected_failed_checks : mapping, optional
        Check -> reason.
    **options
        Of `load` and `check`; they are written into the file. An estimator that is not named is found, by calling the
        target, and written as well: a test that took any would pass a target that turns into another.

    Raises
    ------
    InputError
        The target cannot be loaded, its values are those of no estimator and none is named, or an option cannot be
        written as a literal.
    """
    text = target if isinstance(target, str) else _text_of(target)
    loaded = load(text, **{name: value for name, value in options.items() if name in LOADING})
    place = real_path(Path(folder or "."))
    given = {name: value for name, value in options.items() if _is_given(value) and (name, value) != _FIND_OUT}
    written = {name: _literal(text, name, value) for name, value in given.items()}
    if "estimator" not in given:
        found = {name: _literal(text, name, value) for name, value in _claims(text, given).items()}
        written = {**found, **written}
    if isinstance(options.get("factory"), str):
        written["factory"] = _target_source(options["factory"], place)
    if expected_failed_checks:
        written["expected_failed_checks"] = _literal(text, "expected_failed_checks", expected_failed_checks)
    return _filled(loaded, _target_source(text, place), written)


def _claims(text: str, options: Mapping[str, Any]) -> dict[str, Any]:
    from tcvae_ref.oracle.checking import claims  # with hypothesis, which writing alone does not need

    return claims(text, **options)


def _is_given(value: Any) -> bool:
    return value is not None and not (isinstance(value, Mapping) and not value)


def _filled(loaded: Target, source: str, written: Mapping[str, str]) -> str:
    function = loaded.name.rpartition(":")[2]
    in_file = any("HERE" in text for text in (source, written.get("factory", "")))
    lines = ["[TARGET]", *(f"{name}={value}" for name, value in written.items())]
    return _TEXT.format(
        subject=function,
        mapping=loaded.mapping.replace("\\", "\\\\").replace('"""', r"\"\"\""),
        imports="from pathlib import Path\n\n" if in_file else "",
        constants=("HERE = Path(__file__).parent\n" if in_file else "") + f"TARGET = {source}\n\n",
        arguments="".join(f"    {line},\n" for line in lines),
        name=re.sub(r"\W+", "_", function).strip("_").lower(),
    )


def _text_of(function: Any) -> str:
    """The text under which `load` finds a callable.

    Raises
    ------
    InputError
        Importing its module does not give it back.
    """
    module, name = getattr(function, "__module__", None), getattr(function, "__qualname__", None)
    found: Any = sys.modules.get(module or "")
    for part in (name or "").split("."):
        found = getattr(found, part, None)
    if found is None or found is not function or module == "__main__":
        raise InputError(
            f"ghostwrite: {function!r} is not found again by module and name; write it as a function of a module, "
            "and name it package.module:function or path/file.py:function"
        )
    return f"{module}:{name}"


def _target_source(text: str, place: Path) -> str:
    """A target's text as an expression of the test file: files from the file's folder, modules by name."""
    module, _, function = text.rpartition(":")
    if not module.endswith(".py"):
        return _source(text)
    relative = Path(os.path.relpath(real_path(Path(module).expanduser()), place)).as_posix()
    return f'f"{{HERE}}/{_source(f"{relative}:{function}")[1:-1].replace("{", "{{").replace("}", "}}")}"'


def _literal(where: str, name: str, value: Any) -> str:
    """A value as Python source.

    Raises
    ------
    InputError
        It is not made of numbers, strings, None and collections of them.
    """
    if isinstance(value, Mapping):
        value = dict(value)
    source = _source(value)
    try:
        same = bool(ast.literal_eval(source) == value)
    except (ValueError, SyntaxError, TypeError):
        same = False
    if not same:
        raise InputError(
            f"{where}: {name}={value!r} cannot be written into a file; give numbers, strings or collections of them"
            + (", or package.module:make" if name == "factory" else "")
        )
    return source


def _source(value: Any) -> str:
    """`repr`, with strings in double quotes; of a path that is no text, its odd bytes as escapes."""
    if isinstance(value, str):
        text = json.dumps(value, ensure_ascii=False)
        return "".join(c if not 0xD800 <= ord(c) < 0xE000 else f"\\u{ord(c):04x}" for c in text)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_source(key)}: {_source(part)}" for key, part in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_source, value)) + "]"
    if isinstance(value, tuple):
        return "(" + ", ".join(map(_source, value)) + ("," if len(value) == 1 else "") + ")"
    return repr(value)
