"""The one decorator of every kernel, and what LLVM has to be told that Python cannot say.

Without numba this module still imports; a kernel that is then called raises the ImportError that names the extra.
With NUMBA_DISABLE_JIT=1 the kernels run as plain Python, slowly.
"""

import functools
import hashlib
import inspect
import os
import pickle
import platform
from collections.abc import Callable
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

try:
    import numba
    from llvmlite import ir
    from numba import types
    from numba.core import caching
    from numba.core.compiler_lock import global_compiler_lock
    from numba.extending import intrinsic, overload
except ImportError:
    numba = None

COMPILED = numba is not None and not numba.config.DISABLE_JIT
"""Whether kernels are compiled: numba is there and not switched off."""

FAST_MATH = {"nsz", "arcp", "contract", "afn", "reassoc"}
"""No `nnan` and `ninf`: a row of -inf must stay one."""

_X86 = platform.machine().lower() in ("x86_64", "amd64")
_FLUSH_TO_ZERO = 0x8000

Function = TypeVar("Function", bound=Callable[..., Any])


class KernelsNotInstalled(ImportError):
    """numba is not installed."""


def _missing(function: Function) -> Function:
    @functools.wraps(function)
    def explain(*arguments: Any) -> Any:
        raise KernelsNotInstalled(
            "tcvae_kernels needs numba, which is not installed: pip install 'tcvae-ref[kernels]', "
            "or use tcvae_ref.estimators, which has the same functions in NumPy"
        )

    return explain  # type: ignore[return-value]


def jit(function: Function) -> Function:
    """Compile a kernel at its first call, without the GIL, and keep it on disk.

    No kernel makes an array, so none counts references: `_nrt`, without which every slice of a row costs two counts.
    """
    if numba is None:
        return _missing(function)
    dispatcher = numba.njit(error_model="numpy", fastmath=FAST_MATH, nogil=True, _nrt=False)(function)
    if COMPILED:
        with suppress(RuntimeError):  # no folder to keep it in: each process compiles for itself
            dispatcher._cache = _Cache(function)
    return dispatcher


if COMPILED:

    @intrinsic
    def vector_loop(context):
        """Give the function that calls this a body of its own, in the widest vectors, with arrays that do not overlap.

        LLVM keeps to 256 bits on processors that have 512 unless told otherwise, and without the promise that its
        arrays are apart it refuses to vectorise a loop over more than a few of them. The promise holds: every kernel
        gets buffers of its own.
        """

        def code(context, builder, signature, arguments):
            function = builder.function
            function.attributes.add("noinline")
            set.add(function.attributes, '"prefer-vector-width"="512"')  # llvmlite's own add knows no such pairs
            for argument in function.args[2:]:  # after the return value's and the exception's place
                if isinstance(argument.type, ir.PointerType):
                    argument.add_attribute("noalias")
            return context.get_dummy_value()

        return types.void(), code

    @intrinsic
    def larger(context, a, b):
        """The larger of two numbers that are not nan, in the one form that LLVM vectorises as a maximum."""

        def code(context, builder, signature, arguments):
            flags = ("nnan", "nsz")
            above = builder.fcmp_ordered(">", *arguments, flags=flags)
            return builder.select(above, *arguments, flags=flags)

        return a(a, a), code

    @intrinsic
    def multiply_add(context, a, b, c):
        """a b + c in one instruction where the processor has it, also where a b is wanted elsewhere."""

        def code(context, builder, signature, arguments):
            kind = arguments[0].type
            fused = builder.module.declare_intrinsic("llvm.fmuladd", [kind], ir.FunctionType(kind, [kind] * 3))
            return builder.call(fused, arguments)

        return a(a, a, a), code

    @intrinsic
    def flush_subnormals(context):
        """From here on this thread's results are 0 where they would be subnormal; returns the mode there was.

        On x86, where a subnormal result takes far longer than another; elsewhere nothing changes.
        """

        def code(context, builder, signature, arguments):
            if not _X86:
                return context.get_constant(types.int32, 0)
            place = builder.alloca(ir.IntType(32))
            _mode(builder, "st", place)
            before = builder.load(place)
            builder.store(builder.or_(before, ir.Constant(before.type, _FLUSH_TO_ZERO)), place)
            _mode(builder, "ld", place)
            return before

        return types.int32(), code

    @intrinsic
    def restore_subnormals(context, before):
        """Back to what `flush_subnormals` returned."""

        def code(context, builder, signature, arguments):
            if _X86:
                place = builder.alloca(ir.IntType(32))
                builder.store(arguments[0], place)
                _mode(builder, "ld", place)
            return context.get_dummy_value()

        return types.void(types.int32), code

    def _mode(builder: Any, which: str, place: Any) -> None:
        """Store ("st") or load ("ld") the register that says how SSE and AVX round."""
        address = ir.IntType(8).as_pointer()
        kind = ir.FunctionType(ir.VoidType(), [address])
        function = builder.module.declare_intrinsic(f"llvm.x86.sse.{which}mxcsr", (), kind)
        builder.call(function, [builder.bitcast(place, address)])

    def _bitcast(source: Any, target: Any, llvm: Any) -> Any:
        @intrinsic
        def bits(context, x):
            def code(context, builder, signature, arguments):
                return builder.bitcast(arguments[0], llvm)

            return target(source), code

        return bits

    bits64 = _bitcast(types.float64, types.int64, ir.IntType(64))
    float64 = _bitcast(types.int64, types.float64, ir.DoubleType())
    bits32 = _bitcast(types.float32, types.int32, ir.IntType(32))
    float32 = _bitcast(types.int32, types.float32, ir.FloatType())
    int32 = types.int32

    def by_type(**implementations: Callable[..., Any]) -> Callable[[Function], Function]:
        """Call, in compiled code, the implementation for the first argument's dtype; inlined, never reassociated."""

        def decorate(function: Function) -> Function:
            def choose(*arguments: Any) -> Any:
                return implementations[str(arguments[0])]

            choose.__signature__ = inspect.signature(function)  # type: ignore[attr-defined]
            options = {"error_model": "numpy", "fastmath": {"contract"}, "forceinline": True}
            overload(function, jit_options=options)(choose)
            return function

        return decorate

else:

    def vector_loop() -> None:
        """Nothing, when interpreted."""

    def larger(a: Any, b: Any) -> Any:
        """The larger of two numbers."""
        return max(a, b)

    def flush_subnormals() -> int:
        """Nothing, when interpreted."""
        return 0

    def restore_subnormals(before: int) -> None:
        """Nothing, when interpreted."""

    def multiply_add(a: Any, b: Any, c: Any) -> Any:
        """A product and a sum."""
        return a * b + c

    def bits64(x: Any) -> Any:
        """The bits of a float64 as an integer."""
        return np.float64(x).view(np.int64)

    def float64(n: Any) -> Any:
        """The float64 of these bits."""
        return np.int64(n).view(np.float64)

    def bits32(x: Any) -> Any:
        """The bits of a float32 as an integer."""
        return np.float32(x).view(np.int32)

    def float32(n: Any) -> Any:
        """The float32 of these bits."""
        return np.int32(n).view(np.float32)

    int32 = np.int32

    def by_type(**implementations: Callable[..., Any]) -> Callable[[Function], Function]:
        """Call the implementation for the first argument's dtype."""

        def decorate(function: Function) -> Function:
            @functools.wraps(function)
            def dispatch(*arguments: Any) -> Any:
                return implementations[np.asarray(arguments[0]).dtype.name](*arguments)

            return dispatch  # type: ignore[return-value]

        return decorate


# --- the cache on disk ---------------------------------------------------------------------------------------

if COMPILED:

    @functools.cache
    def _source_stamp() -> str:
        """One stamp for the whole package: a kernel is compiled again when any function it may call has changed."""
        digest = hashlib.sha256(np.__version__.encode())
        for path in sorted(Path(__file__).parent.glob("*.py")):
            digest.update(path.read_bytes())
        return digest.hexdigest()

    def _with_stamp(locator: Any) -> Any:
        class Stamped(locator):  # type: ignore[misc]
            def get_source_stamp(self) -> str:
                return _source_stamp()

        return Stamped

    class _Implementation(caching.CompileResultCacheImpl):
        _locator_classes = [_with_stamp(c) for c in caching.CompileResultCacheImpl._locator_classes]  # noqa: RUF012

    class _CheckedFile(caching.IndexDataCacheFile):
        """Numba's files, each sealed with its name and its sources: what is damaged or old must not run."""

        def _save_index(self, overloads: Any) -> None:
            self._save(self._index_path, overloads)

        def _load_index(self) -> Any:
            return self._load(self._index_path) or {}

        def _save_data(self, name: str, data: Any) -> None:
            self._save(self._data_path(name), data)

        def _load_data(self, name: str) -> Any:
            return self._load(self._data_path(name))

        def _seal(self, path: str, dumped: bytes) -> bytes:
            """SHA-256 of the content, of the file's name, and of the versions of Numba and of the sources."""
            of = (os.path.basename(path), self._version, self._source_stamp)
            return hashlib.sha256(repr(of).encode() + dumped).digest()

        def _save(self, path: str, content: Any) -> None:
            dumped = self._dump(content)
            with self._open_for_write(path) as file:
                file.write(self._seal(path, dumped) + dumped)

        def _load(self, path: str) -> Any:
            """What `_save` wrote; None where it is missing, cannot be read, is not whole or is of other sources."""
            try:
                content = Path(path).read_bytes()
            except OSError:
                return None
            size = hashlib.sha256().digest_size
            return pickle.loads(content[size:]) if self._seal(path, content[size:]) == content[:size] else None

    class _Cache(caching.FunctionCache):
        """Numba's cache, one process at a time: it numbers its files, and two writers can choose one number.

        A disk that is full or cannot be written makes no kernel fail; it is compiled in every process then.
        """

        _impl_class = _Implementation

        def __init__(self, function: Any):
            super().__init__(function)
            made = self._cache_file
            self._cache_file = _CheckedFile(self._cache_path, self._impl.filename_base, made._source_stamp)

        def load_overload(self, signature: Any, context: Any) -> Any:
            with self._alone():
                return super().load_overload(signature, context)

        def save_overload(self, signature: Any, data: Any) -> None:
            with self._alone(), suppress(OSError):
                super().save_overload(signature, data)

        @contextmanager
        def _alone(self) -> Any:
            try:
                import fcntl
            except ImportError:  # Windows: numba's own care
                yield
                return
            try:
                os.makedirs(self.cache_path, exist_ok=True)
                file = open(os.path.join(self.cache_path, "tcvae_kernels.lock"), "a")  # noqa: SIM115
            except OSError:  # nowhere to keep anything
                yield
                return
            with file:
                with suppress(OSError):  # a file system without locks
                    fcntl.flock(file, fcntl.LOCK_EX)
                try:
                    yield
                finally:
                    with suppress(OSError):  # at once: a child forked meanwhile has a copy of the open file
                        fcntl.flock(file, fcntl.LOCK_UN)

    if hasattr(os, "register_at_fork"):  # a child forked while another thread compiles would wait for it forever
        _compiling = global_compiler_lock._lock
        os.register_at_fork(
            before=_compiling.acquire, after_in_parent=_compiling.release, after_in_child=_compiling.release
        )
