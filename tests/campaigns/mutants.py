"""Every small mistake that could stand in a source file: one operator, comparison, constant or index changed at a time.

A mutant is a change of a few bytes on one place, so line numbers stay. Annotations, strings and f-strings are left
alone: types and messages are no arithmetic. So are `strict=True` of zip, an assertion and no value, and the 1 of -1 in
`reshape`, where any negative number says the same.
"""

import ast
import hashlib
import re
from pathlib import Path
from typing import NamedTuple

OPERATORS = {
    ast.Add: ("+", "-"), ast.Sub: ("-", "+"), ast.Mult: ("*", "/"), ast.Div: ("/", "*"), ast.FloorDiv: ("//", "*"),
    ast.Mod: ("%", "*"), ast.Pow: ("**", "*"), ast.MatMult: ("@", "*"), ast.BitAnd: ("&", "|"), ast.BitOr: ("|", "&"),
    ast.BitXor: ("^", "|"), ast.LShift: ("<<", ">>"), ast.RShift: (">>", "<<"),
    ast.Lt: ("<", "<="), ast.LtE: ("<=", "<"), ast.Gt: (">", ">="), ast.GtE: (">=", ">"), ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="), ast.Is: ("is", "is not"), ast.IsNot: ("is not", "is"), ast.In: ("in", "not in"),
    ast.NotIn: ("not in", "in"), ast.And: ("and", "or"), ast.Or: ("or", "and"),
}  # fmt: skip
"""How each is written, and what is put in its place."""

TYPES = {"annotation", "returns", "format_spec", "type_comment"}
"""Fields of the syntax tree that hold no arithmetic."""


class Mutant(NamedTuple):
    """One change: source[start:stop] becomes `after`."""

    key: str  # stays the same while the line and the name of its function do
    path: str  # from the top of the project
    line: int
    text: str  # the line, stripped
    start: int  # bytes
    stop: int
    before: str
    after: str
    scope: str  # the function's qualified name, "" if the code runs at import
    names: tuple[str, ...]  # at import: what the statement binds

    def applied(self, source: bytes) -> bytes:
        """The mutated source."""
        assert source[self.start : self.stop].decode() == self.before, self
        return source[: self.start] + self.after.encode() + source[self.stop :]


def mutants(top: Path, path: str) -> list[Mutant]:
    """All mutants of one file, in the order of the text."""
    source = (top / path).read_bytes()
    found = _Finder(source).changes()
    lines, made, seen = source.decode().split("\n"), [], {}
    for start, stop, after, scope, names in sorted(set(found)):
        line = source.count(b"\n", 0, start) + 1
        column = start - (source.rfind(b"\n", 0, start) + 1)
        text, before = lines[line - 1], source[start:stop].decode()
        indent = len(text) - len(text.lstrip())
        identity = (path, scope, text.strip(), column - indent, before, after)
        seen[identity] = seen.get(identity, 0) + 1
        key = hashlib.sha1(repr((*identity, seen[identity])).encode()).hexdigest()[:16]
        made.append(Mutant(key, path, line, text.strip(), start, stop, before, after, scope, names))
    return made


class _Finder:
    def __init__(self, source: bytes) -> None:
        self.source = source
        self.starts = [0]
        for line in source.split(b"\n"):
            self.starts.append(self.starts[-1] + len(line) + 1)
        self.found: list[tuple[int, int, str, str, tuple[str, ...]]] = []
        self.scope: list[str] = []
        self.inside = False  # a function
        self.names: tuple[str, ...] = ()

    def changes(self) -> list[tuple[int, int, str, str, tuple[str, ...]]]:
        self.visit(ast.parse(self.source))
        return self.found

    def place(self, node: ast.AST, end: bool = False) -> int:
        line, column = (node.end_lineno, node.end_col_offset) if end else (node.lineno, node.col_offset)
        return self.starts[line - 1] + column

    def change(self, start: int, stop: int, after: str) -> None:
        scope = ".".join(self.scope) or "<lambda>" if self.inside else ""
        self.found.append((start, stop, after, scope, () if self.inside else self.names))

    def operator(self, left: ast.AST, right: ast.AST, kind: ast.AST, suffix: str = "") -> None:
        written, after = OPERATORS[type(kind)]
        begin, end = self.place(left, end=True), self.place(right)
        between = re.sub(rb"#[^\n]*", lambda m: b" " * len(m.group()), self.source[begin:end])
        at = between.index((written + suffix).encode())
        self.change(begin + at, begin + at + len(written), after)

    def visit(self, node: ast.AST) -> None:
        if isinstance(node, ast.JoinedStr):
            return
        getattr(self, f"on_{type(node).__name__}", self.children)(node)

    def children(self, node: ast.AST, but: tuple[str, ...] = ()) -> None:
        for field, value in ast.iter_fields(node):
            if field in TYPES or field in but:
                continue
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    if isinstance(node, ast.Module):
                        self.names = tuple(n.id for n in ast.walk(child) if isinstance(n, ast.Name))
                        self.names = (*self.names, getattr(child, "name", ""))
                    self.visit(child)

    def on_FunctionDef(self, node: ast.FunctionDef) -> None:
        self.children(node, but=("body",))  # decorators and defaults run where the function is defined
        self.within(node.name, node.body)

    def within(self, name: str, body: list[ast.AST]) -> None:
        outer = self.inside
        self.scope.append(name)
        self.inside = True
        for child in body:
            self.visit(child)
        self.inside = outer
        self.scope.pop()

    def on_Lambda(self, node: ast.Lambda) -> None:
        self.visit(node.args)
        self.within("<lambda>", [node.body])

    def on_ClassDef(self, node: ast.ClassDef) -> None:
        self.scope.append(node.name)
        self.children(node)
        self.scope.pop()

    def on_AnnAssign(self, node: ast.AnnAssign) -> None:
        if ast.unparse(node.annotation) != "TypeAlias":
            self.children(node)

    def on_BinOp(self, node: ast.BinOp) -> None:
        self.children(node)
        self.operator(node.left, node.right, node.op)

    def on_AugAssign(self, node: ast.AugAssign) -> None:
        self.children(node)
        self.operator(node.target, node.value, node.op, suffix="=")

    def on_BoolOp(self, node: ast.BoolOp) -> None:
        self.children(node)
        for left, right in zip(node.values, node.values[1:], strict=False):
            self.operator(left, right, node.op)

    def on_Compare(self, node: ast.Compare) -> None:
        self.children(node)
        operands = [node.left, *node.comparators]
        for left, right, kind in zip(operands, operands[1:], node.ops, strict=False):
            self.operator(left, right, kind)

    def on_UnaryOp(self, node: ast.UnaryOp) -> None:
        self.children(node)
        self.change(self.place(node), self.place(node) + (3 if isinstance(node.op, ast.Not) else 1), "")

    def on_keyword(self, node: ast.keyword) -> None:
        if node.arg in ("axis", "dim") and re.fullmatch(r"-?\d", text := ast.unparse(node.value)):
            self.change(self.place(node.value), self.place(node.value, end=True), "0" if text != "0" else "1")
        else:
            self.visit(node.value)

    def on_Call(self, node: ast.Call) -> None:
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if called == "zip":
            self.visit_all([node.func, *node.args])
        elif called == "reshape":
            sizes = [size for a in node.args for size in (a.elts if isinstance(a, ast.Tuple) else [a])]
            self.visit_all([node.func, *(size for size in sizes if ast.unparse(size) != "-1"), *node.keywords])
        else:
            self.children(node)

    def visit_all(self, nodes: list[ast.AST]) -> None:
        for node in nodes:
            self.visit(node)

    def on_Subscript(self, node: ast.Subscript) -> None:
        self.children(node)
        for index in node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]:
            if isinstance(index, ast.Name) and len(index.id) <= 2:
                self.change(self.place(index), self.place(index, end=True), f"{index.id} - 1")

    def on_Constant(self, node: ast.Constant) -> None:
        value = node.value
        if isinstance(value, bool):
            after = repr(not value)
        elif isinstance(value, int):
            after = repr(value + 1)
        elif isinstance(value, float):
            after = repr(2.0 * value if value else 1.0)
        else:
            return
        self.change(self.place(node), self.place(node, end=True), after)
