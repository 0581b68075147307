# SPDX-License-Identifier: Apache-2.0
"""The rule that attributes of foreign objects are set in `integration/upstream/seams/` only.

An object is ours where the source says so: `self` and `cls` of a method; a function or a class that the file
defines; a name bound by calling a class of ours, or annotated with one; and what `ALLOWED` names. A class is ours
when the file defines it or imports it from the package. Everything else is foreign, a name whose origin cannot be
seen included. The rooms of the core cannot import vLLM, but are handed its objects: there what is foreign is an
argument that is not annotated with a class of ours, and whatever is imported from elsewhere.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

PACKAGE = "vllm_ascend_ext"
ROOMS = ("integration/", "tools/")
SEAMS = "integration/upstream/seams/"
ALLOWED = {  # file → targets of ours that the source does not show as such, or of the process itself
    "integration/errors.py": {"sys.excepthook"},
    "integration/startup/activation.py": {"ours.handlers", "ours.propagate"},  # our own logger
    "integration/cpu_platform/streams.py": {
        "_current.stream",  # our own threading.local
        "self._outer.__dict__.setdefault",  # and this
    },
    "tools/forked_ranks.py": {"sys.stdout", "sys.stderr"},
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
READS = {"get", "items", "keys", "values", "copy"}  # of the dictionary of an object's attributes
NAMESPACES = {"__dict__", "__globals__"}
STAND_INS = "integration/cpu_platform/streams.py"  # names of torch; the table has no row for what `stand_in` sets


def foreign_attributes(path: str, source: str) -> Iterator[str]:
    """Finds every place where a file sets or deletes an attribute of an object that is not ours.

    path: file in the package.
    """
    if path.startswith(SEAMS):
        return
    tree = ast.parse(source)
    classes, imported = _our_classes(tree), _foreign_imports(tree)
    is_core = not path.startswith(ROOMS)
    for node, parent, scopes in _walk(tree, tree, (tree,)):
        for owner, text in _settings(node, parent):
            if text in ALLOWED.get(path, ()) or (owner is not None and _is_ours(owner, scopes, classes)):
                continue
            if not is_core or owner is None or _is_handed_in(owner, scopes, imported):
                yield f"{path}:{node.lineno}: sets {text} of a foreign object, which belongs in {SEAMS}change.py"
        if getattr(node, "attr", getattr(node, "id", "")) == "stand_in" and path != STAND_INS:
            yield f"{path}:{node.lineno}: sets a foreign attribute by stand_in, which has no row: use replace"


def _walk(
    node: ast.AST, parent: ast.AST, scopes: tuple[Scope, ...]
) -> Iterator[tuple[ast.expr, ast.AST, tuple[Scope, ...]]]:
    """(expression, what it stands in, scopes around it); an expression stands in its statement, too."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.expr):
            yield child, node, scopes
        inner = (*scopes, child) if isinstance(child, Scope) else scopes
        yield from _walk(child, node, inner)


def _settings(node: ast.expr, parent: ast.AST) -> Iterator[tuple[ast.expr | None, str]]:
    """(the object, or None where it cannot be seen; what is set of it) of one expression."""
    if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store | ast.Del):
        yield node.value, ast.unparse(node)
    elif isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store | ast.Del):
        if ast.unparse(node.value) == "sys.modules":
            yield None, ast.unparse(node)
    elif isinstance(node, ast.Call) and _is_setter(node.func) and node.args:
        yield node.args[0], ast.unparse(node)
    elif isinstance(node, ast.Call) and _is_partial(node):
        yield (node.args[1] if len(node.args) > 1 else None), ast.unparse(node)
    elif _is_setter(node) and not (isinstance(parent, ast.Call) and (parent.func is node or _is_partial(parent))):
        yield None, f"{ast.unparse(node)}, handed on,"
    elif (namespace := _namespace(node)) is not None and not _is_read(node, parent):
        yield namespace, ast.unparse(parent if isinstance(parent, ast.expr) else node)


def _is_setter(node: ast.expr) -> bool:
    name = node.id if isinstance(node, ast.Name) else getattr(node, "attr", "")
    return name in SETTERS and isinstance(getattr(node, "ctx", None), ast.Load)


def _is_partial(node: ast.Call) -> bool:
    name = getattr(node.func, "attr", getattr(node.func, "id", ""))
    return name in ("partial", "partialmethod") and bool(node.args) and _is_setter(node.args[0])


def _namespace(node: ast.expr) -> ast.expr | None:
    """The object of which this is the dictionary of attributes, or None."""
    if isinstance(node, ast.Attribute) and node.attr in NAMESPACES:
        return node.value
    is_vars = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "vars"
    return node.args[0] if is_vars and node.args else None  # type: ignore[attr-defined]


def _is_read(node: ast.expr, parent: ast.AST) -> bool:
    """Whether a dictionary of attributes is only looked at where it stands."""
    if isinstance(parent, ast.Subscript) and parent.value is node:
        return isinstance(parent.ctx, ast.Load)
    if isinstance(parent, ast.Attribute):
        return parent.attr in READS
    if isinstance(parent, ast.Call):
        return ast.unparse(parent.func) in ("dict", "len", "list", "set", "sorted")
    return isinstance(parent, ast.Compare | ast.For | ast.comprehension | ast.Dict)


def _foreign_imports(tree: ast.Module) -> set[str]:
    """Names that the file imports from elsewhere than the package."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            module = getattr(node, "module", None)
            for alias in node.names:
                if (module or alias.name).split(".")[0] != PACKAGE:
                    names.add(alias.asname or alias.name.split(".")[0])
    return names


def _is_handed_in(owner: ast.expr, scopes: tuple[Scope, ...], imported: set[str]) -> bool:
    """Whether the object comes from an argument or from an import from elsewhere."""
    root: ast.expr = owner
    while isinstance(root, ast.Attribute | ast.Subscript | ast.Call):
        root = root.func if isinstance(root, ast.Call) else root.value
    if not isinstance(root, ast.Name) or root.id in ("self", "cls"):
        return False
    for scope in reversed(scopes):
        if bindings := list(_bindings(root.id, scope)):
            return any(isinstance(binding, ast.arg) for binding in bindings)
    return root.id in imported


def _our_classes(tree: ast.Module) -> set[str]:
    names = {node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == PACKAGE:
            names |= {alias.asname or alias.name for alias in node.names if alias.name.lstrip("_")[:1].isupper()}
    return names


def _is_ours(owner: ast.expr, scopes: tuple[Scope, ...], classes: set[str]) -> bool:
    if isinstance(owner, ast.Name):
        if owner.id in ("self", "cls"):
            return _is_of_method(owner.id, scopes)
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


def _is_of_method(name: str, scopes: tuple[Scope, ...]) -> bool:
    """Whether `self` or `cls` is the first argument of a method, which an inner function may use, too."""
    for outer, scope in zip(reversed(scopes[:-1]), reversed(scopes[1:]), strict=True):
        if bindings := list(_bindings(name, scope)):
            first = scope.args.args[:1] if isinstance(scope, ast.FunctionDef | ast.AsyncFunctionDef) else []
            return isinstance(outer, ast.ClassDef) and bindings == first
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
    names = [node for node in ast.walk(target) if isinstance(node, ast.Name)] if target is not None else []
    return any(node.id == name and isinstance(node.ctx, ast.Store) for node in names)


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
