# SPDX-License-Identifier: Apache-2.0
"""The rule that attributes of foreign objects are set in `integration/upstream/seams/` only.

An object is ours where the source says so: `self` and `cls`; a function or a class that the file defines; a name
bound by calling a class of ours, or annotated with one; and what `ALLOWED` names. A class is ours when the file
defines it or imports it from the package. Everything else is foreign, a name whose origin cannot be seen included.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

from tests.architecture.tree import PACKAGE, PYTHON, FileRule, Rule

ROOMS = (f"{PACKAGE}/integration/", f"{PACKAGE}/tools/")
SEAMS = f"{PACKAGE}/integration/upstream/seams/"
ALLOWED = {  # file → targets of ours that the source does not show as such, or of the process itself
    f"{PACKAGE}/integration/errors.py": {"sys.excepthook"},
    f"{PACKAGE}/integration/startup/activation.py": {"ours.handlers", "ours.propagate"},  # our own logger
    f"{PACKAGE}/integration/cpu_platform/streams.py": {"_current.stream"},  # our own threading.local
    f"{PACKAGE}/tools/forked_ranks.py": {"sys.stdout", "sys.stderr"},
}
Scope = (
    ast.Module
    | ast.ClassDef
    | ast.FunctionDef
    | ast.AsyncFunctionDef
    | ast.Lambda
    | ast.ListComp
    | ast.SetComp
    | ast.DictComp
    | ast.GeneratorExp
)
SETTERS = {"setattr", "delattr", "__setattr__", "__delattr__"}


def foreign_attributes(path: str, source: str) -> Iterator[str]:
    """Finds every place where a file sets or deletes an attribute of an object that is not ours.

    path: file, from the checkout's root.
    """
    if not path.startswith(ROOMS) or path.startswith(SEAMS):
        return
    tree = ast.parse(source)
    classes = _our_classes(tree)
    for node, scopes in _walk(tree, (tree,)):
        for owner, text in _settings(node):
            if text not in ALLOWED.get(path, ()) and not _is_ours(owner, scopes, classes):
                yield f"{path}:{node.lineno}: sets {text} of a foreign object, which belongs in {SEAMS}change.py"


def _walk(node: ast.AST, scopes: tuple[Scope, ...]) -> Iterator[tuple[ast.expr, tuple[Scope, ...]]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.expr):
            yield child, scopes
        inner = (*scopes, child) if isinstance(child, Scope) else scopes
        yield from _walk(child, inner)


def _settings(node: ast.expr) -> Iterator[tuple[ast.expr, str]]:
    """(the object, what is set of it) of one expression."""
    text = ast.unparse(node)
    if isinstance(node, ast.Attribute | ast.Subscript):
        is_set = isinstance(node.ctx, ast.Store | ast.Del)
        if is_set and (isinstance(node, ast.Attribute) or _namespace(node.value)):
            yield node.value, text
    elif isinstance(node, ast.Call):
        function = node.func
        name = function.id if isinstance(function, ast.Name) else getattr(function, "attr", "")
        arguments = [ast.unparse(argument) for argument in node.args]
        if name in SETTERS and arguments:
            yield node.args[0], text
        elif name == "partial" and len(arguments) > 1 and arguments[0] in SETTERS:
            yield node.args[1], text
        elif name == "update" and isinstance(function, ast.Attribute) and _namespace(function.value):
            yield function.value, text


def _namespace(node: ast.expr) -> bool:
    """Whether this is the dictionary of an object's attributes."""
    if isinstance(node, ast.Attribute):
        return node.attr == "__dict__"
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "vars"


def _our_classes(tree: ast.Module) -> set[str]:
    names = {node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == PACKAGE:
            names |= {alias.asname or alias.name for alias in node.names if alias.name.lstrip("_")[:1].isupper()}
    return names


def _is_ours(owner: ast.expr, scopes: tuple[Scope, ...], classes: set[str]) -> bool:
    if isinstance(owner, ast.Name):
        if owner.id in ("self", "cls"):
            return True
        for scope in reversed(scopes):
            bindings = list(_bindings(owner.id, scope))
            if bindings:
                return all(_makes_ours(binding, classes) for binding in bindings)
        return False
    if isinstance(owner, ast.Attribute) and isinstance(owner.value, ast.Name) and owner.value.id == "self":
        body = next((scope for scope in scopes if isinstance(scope, ast.ClassDef)), None)
        bindings = list(_bindings_of_member(owner.attr, body)) if body is not None else []
        return bool(bindings) and all(_makes_ours(binding, classes) for binding in bindings)
    return False


def _bindings(name: str, scope: Scope) -> Iterator[ast.AST]:
    """What binds a name in a scope itself, nested scopes not included."""
    if isinstance(scope, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
        arguments = scope.args
        for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs):
            if argument.arg == name:
                yield argument
    for node in _own_nodes(scope):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            if node.name == name:
                yield node
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for target in targets:
                if isinstance(target, ast.Name) and target.id == name:
                    yield node
                elif isinstance(target, ast.Tuple | ast.List) and _has_name(target, name):
                    yield target  # taken apart: its origin cannot be seen
        elif isinstance(node, ast.For | ast.AsyncFor | ast.comprehension | ast.NamedExpr):
            if _has_name(node.target, name):
                yield node.target
        elif isinstance(node, ast.withitem) and _has_name(node.optional_vars, name):
            yield node


def _has_name(target: ast.expr | None, name: str) -> bool:
    return target is not None and any(isinstance(node, ast.Name) and node.id == name for node in ast.walk(target))


def _own_nodes(scope: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(scope):
        yield child
        if not isinstance(child, Scope):
            yield from _own_nodes(child)


def _bindings_of_member(name: str, body: ast.ClassDef) -> Iterator[ast.AST]:
    for node in ast.walk(body):
        if isinstance(node, ast.AnnAssign):
            of_class = node in body.body and ast.unparse(node.target) == name
            if of_class or ast.unparse(node.target) == f"self.{name}":
                yield node
        elif isinstance(node, ast.Assign) and f"self.{name}" in map(ast.unparse, node.targets):
            yield node


def _makes_ours(binding: ast.AST, classes: set[str]) -> bool:
    if isinstance(binding, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return True
    if isinstance(binding, ast.AnnAssign | ast.arg):
        return binding.annotation is not None and _names_ours(binding.annotation, classes)
    if isinstance(binding, ast.Assign):
        value = binding.value
        return isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id in classes
    return False


def _names_ours(annotation: ast.expr, classes: set[str]) -> bool:
    """Whether an annotation names a class of ours, None apart."""
    if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
        annotation = ast.parse(annotation.value, mode="eval").body
    names = {node.id for node in ast.walk(annotation) if isinstance(node, ast.Name)}
    return bool(names) and names <= classes and not any(isinstance(x, ast.Subscript) for x in ast.walk(annotation))


RULES: list[Rule] = [FileRule(foreign_attributes, PYTHON, (PACKAGE,))]
