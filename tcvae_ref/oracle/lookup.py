"""A callable found by what a user writes: package.module:function, path/file.py:function, or itself."""

import difflib
import functools
import hashlib
import importlib
import importlib.util
import inspect
import os
import sys
import sysconfig
import traceback
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

from tcvae_ref.checks import InputError
from tcvae_ref.oracle.foreign import attribute, in_words, looked_at, said
from tcvae_ref.oracle.inference import is_required

Factory: TypeAlias = str | Callable[[], Any] | bool | None
"""What makes an instance, called without arguments but for `init`; True: the target itself is, and gives the loss."""

_FORMS = "write package.module:function or path/file.py:function"


def shown_name(target: str | Callable[..., Any]) -> str:
    """How a target is called in what is printed: its text, or module:name."""
    if isinstance(target, str):
        return target.removeprefix("./")
    function = target.func if isinstance(target, functools.partial) else target
    name = getattr(function, "__qualname__", type(function).__qualname__)
    return f"{getattr(function, '__module__', None) or type(function).__module__}:{name}"


def find(target: str | Callable[..., Any], factory: Factory = None, init: Mapping[str, Any] | None = None) -> Any:
    """What a target's text names, or the callable itself, on an instance where one is needed.

    Parameters
    ----------
    target : str or callable
    factory : str, callable or True, optional
        Called without arguments, gives the instance; True: the target is called so, and gives the loss.
    init : mapping, optional
        Arguments of the class, or of the factory, by name; without it they are called without any.

    Raises
    ------
    InputError
        The module cannot be imported, the name is not in it, or there is no instance, or none is needed.
    """
    with looked_at(shown_name(target)):
        if not isinstance(target, str):
            return _on_instance(shown_name(target), None, target, "", factory, init)
        owner, found = _looked_up(target)
        return _on_instance(target, owner, found, target.rpartition(".")[2], factory, init)


def _looked_up(target: str) -> tuple[Any, Any]:
    """What a text names, and the module or class it is in."""
    module_name, _, path = target.rpartition(":")
    owner: Any = None
    found: Any = _module(target, module_name, path)
    names = path.split(".")
    for index, name in enumerate(names):
        owner, found = found, _attribute(target, module_name, names[:index], found, name)
    return owner, found


def _is_of_instances(cls: type, name: str) -> bool:
    """Whether an attribute of a class is a method, neither static nor of the class."""
    static = inspect.getattr_static(cls, name)
    return hasattr(type(static), "__get__") and not isinstance(static, staticmethod | classmethod)


def _on_instance(
    where: str, owner: Any, found: Any, name: str, factory: Factory, init: Mapping[str, Any] | None
) -> Any:
    """`found`, or the method or call of an instance where `found` is a class or belongs to one."""
    if factory is True:
        return _instance(where, object, found, init)
    if inspect.isclass(found):
        return _instance(where, found, factory, init)
    if inspect.isclass(owner) and _is_of_instances(owner, name):
        instance = _instance(where, owner, factory, init)
        if not hasattr(instance, name):
            raise InputError(
                f"{where}: factory {factory!r} made a {type(instance).__name__}, which has no {name!r}; "
                f"it must make a {owner.__qualname__}"
            )
        return getattr(instance, name)
    first = next(iter(inspect.signature(found).parameters), "") if inspect.isfunction(found) else ""
    if first == "self":
        if not factory:
            raise InputError(
                f"{where}: is a method without its instance; give the method of an instance, or a factory: a callable "
                "without arguments that makes the instance"
            )
        return types.MethodType(found, _instance(where, object, factory, init))
    if init:
        raise InputError(f"{where}: needs no instance, and init={dict(init)!r} is given; leave init out")
    if factory:
        raise InputError(f"{where}: needs no instance, and factory={factory!r} is given; leave the factory out")
    return found


def _instance(where: str, cls: type, factory: Factory, init: Mapping[str, Any] | None) -> Any:
    """An instance from the factory, or from the class, called with the arguments `init`."""
    make: Any = _looked_up(factory)[1] if isinstance(factory, str) else factory or cls
    if not callable(make):
        raise InputError(f"{where}: factory={factory!r} is not callable; name a function without parameters")
    try:
        made = make(**(init or {}))
    except (Exception, SystemExit) as error:
        given = ", ".join(f"{name}={said(repr, value)}" for name, value in (init or {}).items())
        what = f"{cls.__qualname__}({given})" if not factory else f"factory {factory!r}"
        raise InputError(f"{where}: {what} raised {_one_line(error)}; {_advice(make, factory, given)}") from error
    if factory and cls is not object and not _is_one_of(made, cls):
        raise InputError(
            f"{where}: factory {factory!r} made a {_described(type(made))}, which is no {_described(cls)} and would be "
            "judged in its name; let the factory make that, or name the other as the target"
        )
    return made


def _advice(make: Callable[..., Any], factory: Factory, given: str) -> str:
    """What to do where no instance was made."""
    if factory:
        return f"it is called {f'with {given}' if given else 'without arguments'} and must make the instance"
    try:
        needed = [p.name for p in inspect.signature(make).parameters.values() if is_required(p)]
    except (TypeError, ValueError):
        needed = []
    words = " ".join(f"--init {name}=VALUE" for name in needed or ["NAME"])
    return f"give its arguments, like {words}, or a factory that makes it: package.module:make or path/file.py:make"


def _is_one_of(made: Any, cls: type) -> bool:
    """Whether something is an instance of a class, imported under whatever name, or wraps one as compilers do."""
    inner = [made, *(getattr(made, name, None) for name in ("_orig_mod", "__wrapped__"))]
    bases = [base for one in inner for base in type(one).__mro__ if base.__qualname__ == cls.__qualname__]
    return any(_file(base) == _file(cls) for base in bases)


def _file(cls: type) -> Path | None:
    """Where a class is defined; None of one that is made by hand, built in or of a notebook."""
    try:
        return Path(inspect.getfile(cls)).resolve()
    except (OSError, TypeError):
        return None


def _described(cls: type) -> str:
    file = _file(cls)
    return f"{cls.__qualname__} of {file.name}" if file else cls.__qualname__


def _attribute(where: str, module_name: str, above: Sequence[str], owner: Any, name: str) -> Any:
    try:
        return getattr(owner, name)
    except AttributeError:
        pass
    names = [n for n in dir(owner) if not n.startswith("__")]
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    own = [n for n in names if _is_own(owner, n)]
    hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(own[:8]) or 'no functions'}"
    raise InputError(f"{where}: {'.'.join((module_name, *above))} has no {name!r}; {hint}") from None


def _is_own(owner: Any, name: str) -> bool:
    """Whether a callable of a module was written there, not imported."""
    value = attribute(owner, name)
    return callable(value) and attribute(value, "__module__") in (attribute(owner, "__name__", ""), None)


def _module(where: str, name: str, path: str) -> types.ModuleType:
    """The module of a target's text, imported."""
    if not name or not path or not all(part.isidentifier() for part in path.split(".")):
        raise InputError(f"{where}: is not the name of a function; {_FORMS}")
    if name.endswith(".py") or os.sep in name:
        return _file_module(where, Path(name))
    if not all(part.isidentifier() for part in name.split(".")):
        raise InputError(f"{where}: {name!r} is neither a module nor a file that ends in .py; {_FORMS}")
    return _package_module(where, name)


def _file_module(where: str, given: Path) -> types.ModuleType:
    """A file's module, under a private name that is the same each time, its folder on the path as for a script."""
    try:
        path = given.expanduser().resolve()
        is_file = path.is_file()
    except FileNotFoundError:
        raise InputError(f"{where}: the current folder is gone; change to one that is there") from None
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(f"{where}: {_one_line(error)}; {_FORMS}") from None
    if not is_file:
        what = "is not a file" if path.exists() else "does not exist"
        raise InputError(f"{where}: {given} {what} (working directory {Path.cwd()}); {_FORMS}")
    if path.suffix != ".py":
        raise InputError(f"{where}: {given} does not end in .py; {_FORMS}")
    name = f"_tcvae_ref_target_{path.stem}_{hashlib.sha256(os.fsencode(path)).hexdigest()[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise InputError(f"{where}: {given} cannot be imported; {_FORMS}")
    _onto_path(path.parent)
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        with _importing(where, str(path)):
            spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _package_module(where: str, name: str) -> types.ModuleType:
    """A module by its name, the working directory on the path as for `python -m`."""
    _onto_path(Path.cwd())
    importlib.invalidate_caches()
    try:
        with _importing(where, name):
            return importlib.import_module(name)
    except InputError as error:
        missing = error.__cause__.name if isinstance(error.__cause__, ModuleNotFoundError) else None
        if missing is None or not f"{name}.".startswith(f"{missing}."):
            raise
        raise InputError(
            f"{where}: there is no module {missing!r}; install it, change to the folder that holds it, "
            "or write path/file.py:function"
        ) from None


def _onto_path(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


@contextmanager
def _importing(where: str, program: str) -> Iterator[None]:
    """Import with a bare command line, as of `python program`; every failure is an InputError that says the line."""
    arguments, sys.argv = sys.argv, [program]
    try:
        yield
    except SystemExit as error:
        raise InputError(
            f"{where}: the import called sys.exit({error.code!r}){_place(error)}; "
            'put what runs as a script under if __name__ == "__main__":'
        ) from error
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # pytest's skip is no Exception, nor is what a file may define
        relative = "relative import" in said(str, error)
        advice = "write package.module:function instead" if relative else "make it importable first"
        raise InputError(f"{where}: the import raised {_one_line(error)}{_place(error)}; {advice}") from error
    finally:
        sys.argv = arguments


def _one_line(error: BaseException) -> str:
    if isinstance(error, SyntaxError):
        return f"{type(error).__name__}: {error.msg or 'no message'}"
    return in_words(error)


def _place(error: BaseException) -> str:
    """The line of the user's code that an exception came from, " at file:line", or nothing."""
    if isinstance(error, SyntaxError) and error.filename and error.lineno:
        return f" at {error.filename}:{error.lineno}"
    libraries = tuple(sysconfig.get_paths()[key] for key in ("stdlib", "purelib", "platlib"))
    trace = traceback.extract_tb(error.__traceback__)
    frames = [f for f in trace if f.filename != __file__ and not f.filename.startswith("<")]
    own = [f for f in frames if not f.filename.startswith(libraries)] or frames
    return f" at {own[-1].filename}:{own[-1].lineno}" if own else ""
